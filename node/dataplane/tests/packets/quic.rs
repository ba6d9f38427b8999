//! QUIC clients keep their server when their address changes: frames in, frames out.

use std::net::{Ipv6Addr, SocketAddrV4};

use crate::lab::*;
use etherparse::PacketBuilder;
use steadfast_dataplane::{
    ConfigSpec, Forwarding, NextHops, Protocol, QuicConfig, QuicServerId, QuicSpec, Reason,
    Removal, Role, Route, ServerId, ServerSpec, ServiceSpec,
};

/// One octet of server ID, four of nonce, no key: configuration 2.
const CONFIG: QuicConfig = QuicConfig { id: 2, server_id_len: 1, nonce_len: 4, key: None };

fn spec(generation: u64, forwarding: Forwarding) -> ConfigSpec {
    let servers = vec![server(31, "198.18.1.21", 5353), server(32, "198.18.1.22", 5353)];
    let (a, b) = (QuicServerId::new(&[0xa1]).unwrap(), QuicServerId::new(&[0xb2]).unwrap());
    let quic =
        QuicSpec { configs: vec![CONFIG], servers: vec![(a, ServerId(31)), (b, ServerId(32))] };
    let service = service(3, Protocol::Udp, 5353, servers);
    let service = ServiceSpec { quic, forwarding, ..service };
    ConfigSpec { services: vec![service], ..config_spec(generation) }
}

fn lab(forwarding: Forwarding) -> Lab {
    let lab = Lab::with(spec(1, forwarding), 1000);
    let mut hops = next_hops(2);
    hops.neighbours.push((1, "198.18.1.22".parse().unwrap(), NAT_2));
    lab.shared.set_next_hops(NextHops::new(hops));
    lab
}

const NAT_2: Mac = [2, 0, 0, 0, 2, 22];

/// A packet with a short header to a connection of the server with this ID.
fn short(client: &str, id: u8) -> Vec<u8> {
    quic(client, &[0x43, 0x45, id, 1, 2, 3, 4, 9, 9, 9])
}

/// A client's first packet: it made the connection ID up.
fn initial(client: &str, cid: [u8; 8]) -> Vec<u8> {
    quic(client, &[&[0xc3, 0, 0, 0, 1, 8][..], &cid, &[0, 0, 0]].concat())
}

fn quic(client: &str, payload: &[u8]) -> Vec<u8> {
    let src: SocketAddrV4 = client.parse().unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT, FRONT)
        .ipv4(src.ip().octets(), [198, 18, 0, 100], 64)
        .udp(src.port(), 5353)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// The MAC address that a frame goes to.
fn sent_to(lab: &mut Lab, frame: &[u8]) -> Mac {
    match lab.handle(0, frame) {
        Outcome::Sent(1, frame) => frame[..6].try_into().unwrap(),
        other => panic!("{other:?}"),
    }
}

const NOBODYS: [u8; 8] = [0xe7; 8];

#[test]
fn a_client_that_changes_its_address_stays_with_its_server() {
    for forwarding in [Forwarding::Nat, Forwarding::Dr] {
        let mut lab = lab(forwarding);
        // The scheduler takes turns, so that who comes new goes to the other server.
        assert_eq!(sent_to(&mut lab, &initial("198.18.0.2:4000", NOBODYS)), NAT_1);
        assert_eq!(sent_to(&mut lab, &initial("198.18.0.2:4001", NOBODYS)), NAT_2);
        assert_eq!(sent_to(&mut lab, &short("198.18.0.2:4000", 0xa1)), NAT_1);
        for port in 5000..5010 {
            for (id, mac) in [(0xa1, NAT_1), (0xb2, NAT_2)] {
                let client = format!("198.18.0.{}:{port}", id % 8 + 2);
                assert_eq!(sent_to(&mut lab, &short(&client, id)), mac, "{client}");
            }
        }
        // What names nobody goes by turns.
        let macs = [6000, 6001].map(|p| sent_to(&mut lab, &short(&format!("198.18.0.2:{p}"), 7)));
        assert_ne!(macs[0], macs[1]);
    }
}

/// The same service by DR over IPv6.
fn lab6() -> Lab {
    let mut spec = spec(1, Forwarding::Dr);
    spec.groups[0].vips.push("2001:db8::100".parse().unwrap());
    let service = &mut spec.services[0];
    service.listen.iter_mut().for_each(|listen| listen.vip = "2001:db8::100".parse().unwrap());
    for (server, addr) in service.servers.iter_mut().zip(["2001:db8::21", "2001:db8::22"]) {
        server.addr = addr.parse().unwrap();
    }
    let lab = Lab::with(spec, 1000);
    let mut hops = next_hops(2);
    let prefix = "2001:db8::".parse().unwrap();
    let link = Route { prefix, prefix_len: 64, port: Some(1), gateway: None, src: None, mtu: None };
    hops.routes.push(link);
    for (addr, mac) in [("2001:db8::21", NAT_1), ("2001:db8::22", NAT_2)] {
        hops.neighbours.push((1, addr.parse().unwrap(), mac));
    }
    lab.shared.set_next_hops(NextHops::new(hops));
    lab
}

#[test]
fn a_client_of_ipv6_that_changes_its_address_stays_with_its_server() {
    let mut lab = lab6();
    for last in 2..12_u16 {
        // Not by turns, as the scheduler would.
        for (number, (id, mac)) in (1..).zip([(0xb2, NAT_2), (0xb2, NAT_2), (0xa1, NAT_1)]) {
            let mut frame = Vec::new();
            let client = Ipv6Addr::new(0x2001, 0xdb8, last, 0, 0, 0, 0, number);
            PacketBuilder::ethernet2(CLIENT, FRONT)
                .ipv6(client.octets(), "2001:db8::100".parse::<Ipv6Addr>().unwrap().octets(), 64)
                .udp(4000, 5353)
                .write(&mut frame, &[0x43, 0x45, id, 1, 2, 3, 4, 9, 9, 9])
                .unwrap();
            assert_eq!(sent_to(&mut lab, &frame), mac, "{client}");
        }
    }
}

#[test]
fn who_comes_to_a_place_that_another_had_is_told_apart() {
    let mut lab = lab(Forwarding::Nat);
    let client = "198.18.0.2:4000";
    assert_eq!(sent_to(&mut lab, &initial(client, NOBODYS)), NAT_1);
    assert_eq!(sent_to(&mut lab, &short(client, 0xa1)), NAT_1);
    lab.log.take();
    let before = lab.find(Protocol::Udp, client, "198.18.0.100:5353").unwrap();
    let incarnation = before.incarnation();
    // A NAT has given its port to somebody else, who talks to the other server.
    assert_eq!(sent_to(&mut lab, &short(client, 0xb2)), NAT_2);
    let now = lab.find(Protocol::Udp, client, "198.18.0.100:5353").unwrap();
    assert!(now.incarnation() > incarnation && now.server() == ServerId(32));
    let log = lab.log.take();
    assert!(log.contains(&format!("removed 4000 {:?}", Removal::Reused)), "{log:?}");
    // A second connection from there begins with an ID that names nobody: the same server, which
    // tells them apart.
    assert_eq!(sent_to(&mut lab, &initial(client, NOBODYS)), NAT_2);
    assert_eq!(lab.shared.table.len(), 1);
}

#[test]
fn a_server_that_is_down_is_named_in_vain() {
    let mut lab = lab(Forwarding::Nat);
    let change = |lab: &Lab, generation, change: fn(&mut ServerSpec)| {
        let mut spec = spec(generation, Forwarding::Nat);
        spec.services[0].servers.iter_mut().filter(|s| s.id == ServerId(32)).for_each(change);
        lab.set_config(spec);
    };
    change(&lab, 2, |server| server.weight = 0);
    assert_eq!(sent_to(&mut lab, &short("198.18.0.2:1", 0xb2)), NAT_2, "it drains");
    change(&lab, 3, |server| server.up = false);
    let client = "198.18.0.2:2";
    assert_eq!(sent_to(&mut lab, &short(client, 0xb2)), NAT_1);
    let first = lab.find(Protocol::Udp, client, "198.18.0.100:5353").unwrap().incarnation();
    assert_eq!(sent_to(&mut lab, &short(client, 0xb2)), NAT_1);
    let again = lab.find(Protocol::Udp, client, "198.18.0.100:5353").unwrap().incarnation();
    assert_eq!(first, again, "not a new connection with each packet");
}

#[test]
fn only_the_holder_moves_a_client() {
    let mut lab = lab(Forwarding::Nat);
    let client = "198.18.0.2:4000";
    assert_eq!(sent_to(&mut lab, &short(client, 0xa1)), NAT_1);
    lab.set_role(Role::Other { relay: vec![Some(PEER), None] });
    let Outcome::Sent(0, frame) = lab.handle(0, &short(client, 0xb2)) else { panic!() };
    assert_eq!(frame[..6], PEER, "the holder decides");
    lab.set_role(Role::NoHolder { since_ns: 0 });
    assert_eq!(lab.handle(0, &short(client, 0xb2)), dropped(Reason::NoHolder));
}
