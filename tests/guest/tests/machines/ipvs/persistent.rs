//! The end of templates. That of one which controls connections is an exception.

use steadfast_guest::ipvs::{
    Flow, Method, Persistence, Protocol, Scenario, Server, Step, VIP_PORT,
};

/// The type of the chunk that opens an association (RFC 9260 section 3.2). One that nobody answers
/// is forgotten after 4 s, sooner than anything else.
const INIT: u8 = 1;
const FORGOTTEN_S: u32 = 4;

/// Two connections of one client, between which the first one and its template end.
pub(super) fn scenarios() -> Vec<Scenario> {
    let timeout_s = FORGOTTEN_S + 1;
    let scenario = Scenario {
        name: "the end of a template".to_owned(),
        scheduler: "rr".to_owned(),
        flags: Vec::new(),
        protocol: Protocol::Sctp,
        v6: false,
        method: Method::Nat,
        marked: false,
        one_packet: false,
        counted: false,
        persistence: Some(Persistence { timeout_s, prefix_len: 32, expire_quiescent: false }),
        // Another server is next.
        servers: vec![Server::new(1, 1), Server::new(2, 1)],
        flows: [1, 2]
            .map(|port| Flow { addr: [10, 0, 0, 1].into(), port, vip_port: VIP_PORT })
            .to_vec(),
        steps: vec![
            Step::Send { flow: 0, flags: INIT },
            Step::Wait { seconds: timeout_s + 2 },
            Step::Send { flow: 1, flags: INIT },
        ],
    };
    vec![scenario]
}
