//! The order in a set of `lblcr`, which matters where its servers are equal.

use steadfast_guest::ipvs::{Flow, Method, Protocol, Scenario, Server, Step, VIP_PORT};

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;

/// Two servers of weight 1: the third connection finds the first server with more than its weight
/// and the second one idle, so that it joins the set. From then on one of two equals is chosen
/// again and again.
pub(super) fn scenarios() -> Vec<Scenario> {
    const FLOWS: usize = 9;
    let open = |flow| {
        let reply = Step::Reply { flow, flags: SYN_ACK };
        [Step::Send { flow, flags: SYN }, reply, Step::Send { flow, flags: ACK }]
    };
    let flow = |flow| Flow { addr: [10, 0, 0, 1].into(), port: 1000 + flow, vip_port: VIP_PORT };
    vec![Scenario {
        name: "the newest of a set".to_owned(),
        scheduler: "lblcr".to_owned(),
        flags: Vec::new(),
        protocol: Protocol::Tcp,
        v6: false,
        method: Method::Nat,
        marked: false,
        one_packet: false,
        counted: true,
        persistence: None,
        servers: vec![Server::new(1, 1), Server::new(2, 1)],
        flows: (0..FLOWS as u16).map(flow).collect(),
        steps: (0..FLOWS).flat_map(open).collect(),
    }]
}
