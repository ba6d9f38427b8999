//! Services of several ports: ranges, all ports, and match groups, as a table of packets.

use crate::lab::*;
use steadfast_dataplane::{
    ConfigSpec, Forwarding, GroupSpec, Listen, Ports, Protocol, Reason, ServiceSpec, Unserved,
};

const VIP: &str = "198.18.0.100";

fn listen(protocol: Protocol, vip: &str, first: u16, last: u16) -> Listen {
    Listen { protocol, vip: vip.parse().unwrap(), ports: Ports { first, last } }
}

/// DR: port 80 alone, 80 to 89 and all ports; NAT: 100 to 109 UDP, and a match group of two VIPs.
fn spec() -> ConfigSpec {
    let base = config_spec(1);
    let dr = |id: u32, server_id: u32, host: &str, listen: Vec<Listen>| ServiceSpec {
        listen,
        forwarding: Forwarding::Dr,
        ..service(id, Protocol::Tcp, 1, vec![server(server_id, host, 0)])
    };
    let tcp = |first, last| vec![listen(Protocol::Tcp, VIP, first, last)];
    let nat = |id: u32, server_id, listen| ServiceSpec {
        listen,
        ..service(id, Protocol::Udp, 1, vec![server(server_id, "198.18.1.21", 0)])
    };
    ConfigSpec {
        groups: vec![GroupSpec {
            vips: vec![VIP.parse().unwrap(), "198.18.0.101".parse().unwrap()],
            unserved: Unserved::Drop,
            ..base.groups[0].clone()
        }],
        services: vec![
            dr(1, 11, "198.18.0.21", tcp(80, 89)),
            dr(2, 12, "198.18.0.22", tcp(80, 80)),
            dr(3, 13, "198.18.0.23", tcp(0, u16::MAX)),
            nat(4, 14, vec![listen(Protocol::Udp, VIP, 100, 109)]),
            nat(
                5,
                15,
                vec![
                    listen(Protocol::Udp, VIP, 53, 53),
                    listen(Protocol::Tcp, "198.18.0.101", 443, 443),
                    listen(Protocol::Tcp, "198.18.0.101", 8000, 8999),
                ],
            ),
        ],
        ..base
    }
}

const DR_3: [u8; 6] = [2, 0, 0, 0, 1, 23];

fn lab() -> Lab {
    let lab = Lab::with(spec(), 1000);
    let mut hops = next_hops(2);
    hops.neighbours.push((0, "198.18.0.23".parse().unwrap(), DR_3));
    lab.shared.set_next_hops(steadfast_dataplane::NextHops::new(hops));
    lab
}

#[test]
fn the_most_specific_service_gets_the_packet() {
    let mut lab = lab();
    let client = "198.18.0.2:4000";
    let cases = [
        ("its own port, though a range and all ports have it too", 80, DR_2),
        ("in the range", 81, DR_1),
        ("the last of the range", 89, DR_1),
        ("left to all ports: behind the range", 90, DR_3),
        ("left to all ports: before the range", 79, DR_3),
        ("the first port there is", 1, DR_3),
        ("the last port there is", 65_535, DR_3),
    ];
    for (description, port, mac) in cases {
        let vip = format!("{VIP}:{port}");
        let to = Outcome::Sent(0, tcp((FRONT, mac), client, &vip, 63, SYN));
        assert_eq!(lab.handle(0, &from_client(4000, port, SYN)), to, "{description}");
    }
    assert_eq!(lab.shared.table.len(), cases.len(), "a connection for each port");
    let other = udp((CLIENT, FRONT), client, "198.18.0.100:80", 64);
    assert_eq!(lab.handle(0, &other), dropped(Reason::Unserved), "all ports of TCP only");
}

#[test]
fn a_server_without_a_port_keeps_that_of_the_packet_there_and_back() {
    let mut lab = lab();
    let client = "198.18.0.2:4000";
    let (vip, real) = ("198.18.0.100:105", "198.18.1.21:105");
    let (vip2, real2) = ("198.18.0.101:8080", "198.18.1.21:8080");
    let from_back = (NAT_1, BACK);
    run(
        &mut lab,
        &[
            (
                "a port of the range",
                0,
                udp((CLIENT, FRONT), client, vip, 64),
                Outcome::Sent(1, udp((BACK, NAT_1), client, real, 63)),
            ),
            (
                "its answer",
                1,
                udp(from_back, real, client, 64),
                Outcome::Sent(0, udp((FRONT, CLIENT), vip, client, 63)),
            ),
            (
                "a match group: another VIP, protocol and range",
                0,
                tcp((CLIENT, FRONT), client, vip2, 64, SYN),
                Outcome::Sent(1, tcp((BACK, NAT_1), client, real2, 63, SYN)),
            ),
            (
                "its answer",
                1,
                tcp(from_back, real2, client, 64, SYN_ACK),
                Outcome::Sent(0, tcp((FRONT, CLIENT), vip2, client, 63, SYN_ACK)),
            ),
            (
                "from a port of the range, but of no connection",
                1,
                udp(from_back, "198.18.1.21:106", client, 64),
                dropped(Reason::UnknownReturn),
            ),
            (
                "from a port that the server has nothing to do with",
                1,
                udp(from_back, "198.18.1.21:110", client, 64),
                dropped(Reason::NotOurs),
            ),
            (
                "another protocol on the second VIP",
                0,
                udp((CLIENT, FRONT), client, vip2, 64),
                dropped(Reason::Unserved),
            ),
        ],
    );
    let config = lab.shared.config.load();
    assert_eq!(config.server(15.into()).unwrap().0.totals().conns, 1, "one service, one pool");
}

/// A record says which server, not which port: that follows from the VIP's.
#[test]
fn a_copy_of_a_connection_to_a_range_knows_its_port() {
    let lab = lab();
    let key = key(Protocol::Udp, "198.18.0.2:4000", "198.18.0.100:107");
    let mut replica = replica(4000, 1, steadfast_dataplane::State::Udp);
    replica.record.key = key;
    replica.record.server = 14.into();
    replica.record.service = 4.into();
    let config = lab.shared.config.load();
    let _ = lab.shared.table.apply_replica(&replica, &config, START);
    let target = lab.shared.table.find(&key).unwrap().target().unwrap();
    assert_eq!((target.addr.to_string().as_str(), target.port), ("198.18.1.21", 107));
}

/// A service whose servers answer from one of the ports of another one's range takes that port, not
/// the range.
#[test]
fn answers_from_a_range_are_known_around_the_ports_of_other_services() {
    let mut spec = spec();
    let own = ServiceSpec {
        listen: vec![listen(Protocol::Tcp, VIP, 3000, 3000)],
        ..service(6, Protocol::Tcp, 3000, vec![server(16, "198.18.1.21", 8500)])
    };
    spec.services.insert(0, own);
    let mut lab = Lab::with(spec, 1000);
    for port in [8000, 8499, 8500, 8501, 8999] {
        let real = format!("198.18.1.21:{port}");
        let answer = tcp((NAT_1, BACK), &real, "198.18.0.2:4000", 64, ACK);
        assert_eq!(lab.handle(1, &answer), dropped(Reason::UnknownReturn), "{port}");
    }
    for port in [7999, 9000] {
        let real = format!("198.18.1.21:{port}");
        let answer = tcp((NAT_1, BACK), &real, "198.18.0.2:4000", 64, ACK);
        assert_eq!(lab.handle(1, &answer), dropped(Reason::NotOurs), "{port}");
    }
}
