//! One-packet scheduling, as a table of packets.

use crate::lab::*;
use steadfast_dataplane::{
    ConfigSpec, Forwarding, Listen, Persistence, Ports, Protocol, Reason, Role, ServiceSpec,
};

const VIP: &str = "198.18.0.100";

/// DR on 53 with two servers; NAT from 5300 to 53 of one, and a range of ports that stay.
fn spec() -> ConfigSpec {
    let vip = VIP.parse().unwrap();
    let dr = vec![server(11, "198.18.0.21", 53), server(12, "198.18.0.22", 53)];
    let dr = ServiceSpec {
        forwarding: Forwarding::Dr,
        one_packet: true,
        ..service(1, Protocol::Udp, 53, dr)
    };
    let nat = |id: u32, port, server_port| ServiceSpec {
        one_packet: true,
        ..service(id, Protocol::Udp, port, vec![server(10 * id, "198.18.1.21", server_port)])
    };
    let ports = Ports { first: 7000, last: 7009 };
    let range = ServiceSpec {
        listen: vec![Listen { protocol: Protocol::Udp, vip, ports }],
        ..nat(3, 7000, 0)
    };
    ConfigSpec { services: vec![dr, nat(2, 5300, 53), range], ..config_spec(1) }
}

#[test]
fn every_datagram_gets_the_next_server_and_nothing_is_kept() {
    let mut lab = Lab::with(spec(), 1000);
    let (client, vip) = ("198.18.0.2:4000", "198.18.0.100:53");
    let to = |mac| Outcome::Sent(0, udp((FRONT, mac), client, vip, 63));
    let datagram = || udp((CLIENT, FRONT), client, vip, 64);
    run(
        &mut lab,
        &[
            ("the first", 0, datagram(), to(DR_1)),
            ("the second of the same ports", 0, datagram(), to(DR_2)),
            ("the third", 0, datagram(), to(DR_1)),
        ],
    );
    assert!(lab.shared.table.is_empty() && lab.log.take().is_empty());
    let config = lab.shared.config.load();
    let totals = config.services().find(|s| s.spec.id.0 == 1).unwrap().totals();
    assert_eq!((totals.conns, totals.in_pkts, totals.out_pkts), (3, 3, 0), "each counts as one");
}

#[test]
fn what_nat_servers_answer_comes_from_the_vip() {
    let mut lab = Lab::with(spec(), 1000);
    let client = "198.18.0.2:4000";
    let inside = |real: &str| udp((BACK, NAT_1), client, real, 63);
    let back = |vip: &str| Outcome::Sent(0, udp((FRONT, CLIENT), vip, client, 63));
    let answer = |real: &str| udp((NAT_1, BACK), real, client, 64);
    let cases = [
        (
            "a query",
            0,
            udp((CLIENT, FRONT), client, "198.18.0.100:5300", 64),
            Outcome::Sent(1, inside("198.18.1.21:53")),
        ),
        ("its answer", 1, answer("198.18.1.21:53"), back("198.18.0.100:5300")),
        ("another answer to it", 1, answer("198.18.1.21:53"), back("198.18.0.100:5300")),
        (
            "to a range",
            0,
            udp((CLIENT, FRONT), client, "198.18.0.100:7004", 64),
            Outcome::Sent(1, inside("198.18.1.21:7004")),
        ),
        ("its answer", 1, answer("198.18.1.21:7004"), back("198.18.0.100:7004")),
        ("of no service", 1, answer("198.18.1.21:54"), dropped(Reason::NotOurs)),
        (
            "the same port of TCP",
            1,
            tcp((NAT_1, BACK), "198.18.1.21:53", client, 64, SYN_ACK),
            dropped(Reason::NotOurs),
        ),
    ];
    run(&mut lab, &cases);
    assert!(lab.shared.table.is_empty());
    let config = lab.shared.config.load();
    let totals = config.services().find(|s| s.spec.id.0 == 2).unwrap().totals();
    assert_eq!((totals.in_pkts, totals.out_pkts), (1, 2));
}

#[test]
fn only_the_holder_schedules_and_translates() {
    let mut lab = Lab::with(spec(), 1000);
    let client = "198.18.0.2:4000";
    let query = udp((CLIENT, FRONT), client, "198.18.0.100:5300", 64);
    let answer = udp((NAT_1, BACK), "198.18.1.21:53", client, 64);
    lab.set_role(Role::Other { relay: vec![Some(PEER), Some(PEER)] });
    let relayed = |port, mac, dst, frame: &[u8]| {
        let mut frame = frame.to_vec();
        frame[..6].copy_from_slice(dst);
        frame[6..12].copy_from_slice(mac);
        Outcome::Sent(port, frame)
    };
    run(
        &mut lab,
        &[
            ("to the holder", 0, query.clone(), relayed(0, &FRONT, &PEER, &query)),
            ("the answer too", 1, answer.clone(), relayed(1, &BACK, &PEER, &answer)),
        ],
    );
    lab.set_role(Role::NoHolder { since_ns: START });
    assert_eq!(lab.handle(0, &query), dropped(Reason::NoHolder));
    assert_eq!(lab.handle(1, &answer), dropped(Reason::UnknownReturn));
}

#[test]
fn a_persistent_one_keeps_the_server_of_a_client() {
    let mut spec = spec();
    spec.services[0].persistence = Some(Persistence {
        timeout_ns: 300 * SECOND,
        prefix_v4: 32,
        prefix_v6: 128,
        expire_quiescent_template: false,
    });
    let mut lab = Lab::with(spec, 1000);
    let mut to =
        |client: &str| match lab.handle(0, &udp((CLIENT, FRONT), client, "198.18.0.100:53", 64)) {
            Outcome::Sent(0, frame) => frame[5],
            other => panic!("{other:?}"),
        };
    let servers = ["198.18.0.2:1", "198.18.0.2:2", "198.18.0.3:1", "198.18.0.2:3"].map(&mut to);
    assert_eq!(servers, [DR_1[5], DR_1[5], DR_2[5], DR_1[5]]);
    let templates = &lab.shared.table.templates;
    let assured = |client: &str| {
        let client = client.parse().unwrap();
        let key = steadfast_dataplane::TemplateKey { service: 1.into(), client };
        let template = templates.find(&key).unwrap();
        (template.record.assured, template.controls)
    };
    assert_eq!(assured("198.18.0.2"), (true, 0), "a second datagram came");
    assert_eq!(assured("198.18.0.3"), (false, 0), "one datagram may be forged");
}

/// The other parts could only go to another server.
#[test]
fn a_first_fragment_is_dropped() {
    let mut lab = Lab::with(spec(), 1000);
    let mut frame = udp((CLIENT, FRONT), "198.18.0.2:4000", "198.18.0.100:53", 64);
    let sum = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
    let flags = sum(&frame[20..]);
    // More fragments follow.
    let checksum = steadfast_packet::update16(sum(&frame[24..]), flags, flags | 0x2000);
    frame[20..22].copy_from_slice(&(flags | 0x2000).to_be_bytes());
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    // Its length is a multiple of eight octets (RFC 791 section 3.2).
    assert_eq!(lab.handle(0, &frame), dropped(Reason::Fragment));
}
