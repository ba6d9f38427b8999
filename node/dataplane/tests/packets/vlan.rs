//! VLANs: a port whose frames have a tag behaves as one whose frames have none.

use std::net::SocketAddr;

use crate::both::{
    self, CLIENT_PORT, NETS, Net, REAL_PORT, at, cut::cut, error::Error, framed, packet,
};
use crate::full_nat::{ONE_ARM_PORT, PORT, SLOT, connection, full_nat};
use crate::lab::{
    self, ACK, BACK, BROADCAST, CLIENT, DR_1, FRONT, Lab, NAT_1, Outcome, PEER, SECOND, START, SYN,
    SYN_ACK, arp_request, dropped, from_client, next_hops, run, server, service, tcp, udp,
};
use crate::syn_proxy::{self, Client, MS, OFFER, emitted};
use steadfast_dataplane::{
    Actions, ConfigSpec, Forwarding, NextHops, NextHopsSpec, PortSpec, Protocol, Reason, Role,
    ServiceSpec, Tagged, Tunnel, UdpChecksum, Verdict, WAITS_MS,
};

/// The interface that carries both, and the VLAN of each port of the plain lab.
const TRUNK: u16 = 2;
const VLANS: [u16; 2] = [100, 4001];

/// The hops of the lab, with what tunnels need.
fn plain_hops() -> NextHopsSpec {
    let mut hops = next_hops(2);
    hops.ports[1].addrs = vec!["198.18.1.11".parse().unwrap()];
    hops.ports.iter_mut().for_each(|port| port.mtu = 1500);
    hops
}

/// The same, its ports as VLANs of a third interface.
fn tagged(mut hops: NextHopsSpec) -> NextHopsSpec {
    for (port, vlan) in hops.ports.iter_mut().zip(VLANS) {
        port.tagged = Some(Tagged { trunk: TRUNK, vlan });
    }
    hops.ports.push(PortSpec { mac: FRONT, ..PortSpec::default() });
    hops
}

fn tag(vlan: u16, frame: &[u8]) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    [&frame[..12], &[0x81, 0, high, low], &frame[12..]].concat()
}

/// A tunnel beside what the lab has.
fn spec() -> ConfigSpec {
    let mut spec = lab::config_spec(1);
    for (id, port, tunnel) in [
        (7, 90, Tunnel::IpIp),
        (8, 91, Tunnel::Gue { port: 6080, checksum: UdpChecksum::On }),
        (9, 92, Tunnel::Gre { checksum: true }),
    ] {
        let servers = vec![server(60 + id, "198.18.1.21", port)];
        let forwarding = Forwarding::Tunnel(tunnel);
        let service = service(id, Protocol::Tcp, port, servers);
        spec.services.push(ServiceSpec { forwarding, ..service });
    }
    spec
}

/// An echo request from the client.
fn ping(dst: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(CLIENT, FRONT)
        .ipv4([198, 18, 0, 2], dst, 64)
        .icmpv4_echo_request(7, 1)
        .write(&mut frame, b"ping")
        .unwrap();
    frame
}

fn large(port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let mut header = etherparse::TcpHeader::new(4100, port, 2000, 512);
    header.ack = true;
    let mut ip = etherparse::Ipv4Header::new(
        20 + 1460,
        64,
        etherparse::IpNumber::TCP,
        [198, 18, 0, 2],
        [198, 18, 0, 100],
    )
    .unwrap();
    ip.dont_fragment = true;
    etherparse::PacketBuilder::ethernet2(CLIENT, FRONT)
        .ip(etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
        .tcp_header(header)
        .write(&mut frame, &[0; 1460])
        .unwrap();
    frame
}

/// What both labs get: description, port of the plain lab, frame.
fn frames() -> Vec<(&'static str, u16, Vec<u8>)> {
    let from_server = |port: u16, flags| {
        tcp((NAT_1, BACK), "198.18.1.21:80", &format!("198.18.0.2:{port}"), 64, flags)
    };
    let macs = (CLIENT, FRONT);
    vec![
        ("ARP for a VIP", 0, arp_request([198, 18, 0, 100], BROADCAST)),
        ("ARP for a gateway address", 1, arp_request([198, 18, 1, 1], BACK)),
        ("ping to a VIP", 0, ping([198, 18, 0, 100])),
        ("SYN by DR", 0, from_client(4000, 80, SYN)),
        ("SYN by NAT, from one VLAN to the other", 0, from_client(4001, 8080, SYN)),
        ("its answer, the other way", 1, from_server(4001, SYN_ACK)),
        ("the rest of the handshake", 0, from_client(4001, 8080, ACK)),
        ("UDP by NAT", 0, udp(macs, "198.18.0.2:4002", "198.18.0.100:53", 64)),
        ("SYN into IPIP", 0, from_client(4100, 90, SYN)),
        ("SYN into GUE", 0, from_client(4100, 91, SYN)),
        ("SYN into GRE", 0, from_client(4100, 92, SYN)),
        ("too large for the tunnel", 0, large(91)),
        ("no service there", 0, from_client(4003, 9999, SYN)),
        ("in mid-connection, known to nobody", 0, from_client(4004, 80, ACK)),
        ("another MAC", 0, tcp((CLIENT, PEER), "198.18.0.2:1", "198.18.0.100:80", 64, SYN)),
        ("a reply of no connection", 1, from_server(4999, ACK)),
        ("cut short", 0, from_client(4000, 80, SYN)[..40].to_vec()),
    ]
}

fn labs() -> (Lab, Lab) {
    labs_of(&spec(), &plain_hops())
}

fn labs_of(spec: &ConfigSpec, hops: &NextHopsSpec) -> (Lab, Lab) {
    let plain = Lab::with(spec.clone(), 1000);
    plain.shared.set_next_hops(NextHops::new(hops.clone()));
    let with_tags = Lab::with(spec.clone(), 1000);
    with_tags.shared.set_next_hops(NextHops::new(tagged(hops.clone())));
    (plain, with_tags)
}

/// The same frames with and without tags: the same comes out, with the tag of where it goes.
#[track_caller]
fn same(plain: &mut Lab, with_tags: &mut Lab, frames: &[(&str, u16, Vec<u8>)]) -> (usize, usize) {
    let (mut sent, mut crossed) = (0, 0);
    for (description, port, frame) in frames {
        let vlan = VLANS[usize::from(*port)];
        let expected = match plain.handle(*port, frame) {
            Outcome::Sent(to, bytes) => {
                sent += 1;
                crossed += usize::from(to != *port);
                Outcome::Sent(TRUNK, tag(VLANS[usize::from(to)], &bytes))
            }
            dropped => dropped,
        };
        // Whatever priority it comes with.
        for priority in [0, 0xe000] {
            if priority == 0 || matches!(expected, Outcome::Dropped(_)) {
                let found = with_tags.handle(TRUNK, &tag(vlan | priority, frame));
                assert_eq!(found, expected, "{description}, priority {priority:#x}");
            }
        }
    }
    (sent, crossed)
}

#[test]
fn what_is_tagged_is_treated_as_what_is_not() {
    let (mut plain, mut with_tags) = labs();
    let (sent, crossed) = same(&mut plain, &mut with_tags, &frames());
    assert!(sent >= 13 && crossed >= 6, "{sent} sent, {crossed} from one VLAN to the other");
}

/// Full-NAT in both families, beside DR, NAT and a tunnel.
fn spec_of_both() -> ConfigSpec {
    let mut spec = full_nat(1, Some(SLOT));
    for (id, net) in (7..).zip(NETS) {
        let servers = vec![server(60 + id, net.nat, 90)];
        let mut service = service(id, Protocol::Udp, 90, servers);
        service.forwarding = Forwarding::Tunnel(Tunnel::IpIp);
        service.listen[0].vip = net.vip.parse().unwrap();
        spec.services.push(service);
    }
    spec
}

fn hops_of_both() -> NextHopsSpec {
    let mut hops = both::next_hops();
    hops.ports.iter_mut().for_each(|port| port.mtu = 1500);
    hops.ports[1].addrs = ["198.18.1.11", "2001:db8:1::11"].map(|a| a.parse().unwrap()).to_vec();
    hops
}

/// What a client of one family sends: description and frame.
fn of_client(net: Net) -> Vec<(&'static str, u16, Vec<u8>)> {
    let to = |protocol, port, len: usize| {
        packet(protocol, (at(net.client, CLIENT_PORT), at(net.vip, port)), 64, &vec![7; len])
    };
    let frame = |protocol, port, len| framed((CLIENT, FRONT), &to(protocol, port, len));
    // It fits 1500 octets alone, but not with another header.
    let too_large = if net.name == "IPv4" { 1460 } else { 1440 };
    let mut all = vec![
        ("SYN by DR", 0, frame(Protocol::Tcp, both::DR_PORT, 9)),
        ("SYN by NAT, from one VLAN to the other", 0, frame(Protocol::Tcp, both::NAT_PORT, 9)),
        ("UDP by NAT", 0, frame(Protocol::Udp, both::NAT_PORT, 9)),
        ("into IPIP", 0, frame(Protocol::Udp, 90, 9)),
        ("too large for the tunnel", 0, frame(Protocol::Udp, 90, too_large)),
        ("no service there", 0, frame(Protocol::Udp, 9999, 9)),
        ("full-NAT, TCP", 0, frame(Protocol::Tcp, PORT, 9)),
        ("full-NAT, UDP", 0, frame(Protocol::Udp, PORT, 9)),
        ("full-NAT, SCTP", 0, frame(Protocol::Sctp, PORT, 9)),
        ("full-NAT within one VLAN", 0, frame(Protocol::Tcp, ONE_ARM_PORT, 9)),
    ];
    for part in cut((CLIENT, FRONT), &to(Protocol::Udp, PORT, 100), 7) {
        all.push(("full-NAT, a fragment", 0, part));
    }
    all
}

/// What its servers say to that.
fn of_server(net: Net, lab: &Lab) -> Vec<(&'static str, u16, Vec<u8>)> {
    let local = |protocol, port| -> SocketAddr {
        let local = connection(lab, net, protocol, (CLIENT_PORT, port)).local().unwrap();
        (local.addr, local.port).into()
    };
    let (client, real) = (at(net.client, CLIENT_PORT), at(net.nat, REAL_PORT));
    let macs = (NAT_1, BACK);
    let about = (Protocol::Udp, local(Protocol::Udp, PORT), real);
    let kind = if net.name == "IPv4" { [3, 3] } else { [1, 4] };
    let dst = about.1.ip();
    let error = Error { src: real.ip(), dst, ttl: 60, kind, about, quoted: 20 };
    let mut all = vec![
        ("an answer by NAT", 1, framed(macs, &packet(Protocol::Udp, (real, client), 64, b"yes"))),
        ("an error about full-NAT", 1, error.frame(macs)),
    ];
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let ends = (real, local(protocol, PORT));
        all.push(("an answer by full-NAT", 1, framed(macs, &packet(protocol, ends, 64, b"yes"))));
    }
    let ends = (at(net.dr, REAL_PORT), local(Protocol::Tcp, ONE_ARM_PORT));
    let answer = framed((DR_1, FRONT), &packet(Protocol::Tcp, ends, 64, b"yes"));
    all.push(("an answer by full-NAT within one VLAN", 0, answer));
    let ends = (real, local(Protocol::Udp, PORT));
    for part in cut(macs, &packet(Protocol::Udp, ends, 64, &[7; 100]), 8) {
        all.push(("an answer by full-NAT, a fragment", 1, part));
    }
    all
}

#[test]
fn both_families_and_full_nat_are_treated_the_same_with_tags() {
    for net in NETS {
        let (mut plain, mut with_tags) = labs_of(&spec_of_both(), &hops_of_both());
        let asked = of_client(net);
        let (sent, crossed) = same(&mut plain, &mut with_tags, &asked);
        assert_eq!(sent, asked.len(), "{}", net.name);
        // By NAT, into the tunnel, by full-NAT but within the VLAN, and the fragments.
        assert_eq!(crossed, 3 + 3 + (asked.len() - 10), "{}", net.name);
        let answers = of_server(net, &plain);
        assert_eq!(of_server(net, &with_tags), answers, "{}: the same local ports", net.name);
        let (sent, crossed) = same(&mut plain, &mut with_tags, &answers);
        assert_eq!((sent, crossed), (answers.len(), answers.len() - 1), "{}", net.name);
    }
}

/// `clusterctl trace` names the VLAN, and shows what the port that it is sends.
#[test]
fn what_is_told_of_a_packet_names_the_vlan_that_it_leaves_by() {
    let (plain, with_tags) = labs();
    for port in [8080, 91] {
        let syn = from_client(4000, port, SYN);
        let told = |lab: &Lab| lab.shared.rehearse(lab.now, 0, &syn);
        let (plain, with_tags) = (told(&plain), told(&with_tags));
        assert!(matches!(plain.verdict, Verdict::Transmit { port: 1, .. }), "{plain:?}");
        assert_eq!(with_tags.verdict, plain.verdict);
        assert_eq!(with_tags.frame, plain.frame);
    }
}

#[test]
fn who_does_not_hold_relays_in_the_vlan_that_the_frame_came_in() {
    let (mut plain, mut with_tags) = labs();
    for lab in [&plain, &with_tags] {
        lab.set_role(Role::Other { relay: vec![Some(PEER), None] });
    }
    let frames = [("SYN", 0, from_client(4000, 80, SYN))];
    assert_eq!(same(&mut plain, &mut with_tags, &frames), (1, 0));
    let expected = tcp((FRONT, PEER), "198.18.0.2:4000", "198.18.0.100:80", 64, SYN);
    let found = with_tags.handle(TRUNK, &tag(VLANS[0], &frames[0].2));
    assert_eq!(found, Outcome::Sent(TRUNK, tag(VLANS[0], &expected)));
}

#[test]
fn what_is_tagged_for_nobody_here_is_dropped_and_counted() {
    let syn = from_client(4000, 80, SYN);
    let (_, mut lab) = labs();
    run(
        &mut lab,
        &[
            ("another VLAN", TRUNK, tag(101, &syn), dropped(Reason::Vlan)),
            ("the VLAN of another interface", 0, tag(VLANS[0], &syn), dropped(Reason::Vlan)),
            ("two tags", TRUNK, tag(VLANS[0], &tag(7, &syn)), dropped(Reason::EtherType)),
            ("cut in the tag", TRUNK, tag(100, &syn)[..17].to_vec(), dropped(Reason::Malformed)),
        ],
    );
    assert_eq!(lab.worker.counters().dropped(Reason::Vlan), 2);
}

/// Clients untagged, servers in a VLAN of the same interface; a tag of number 0 is none.
#[test]
fn one_segment_may_be_untagged_on_the_interface_of_another_ones_vlan() {
    let mut lab = Lab::with(spec(), 1000);
    let mut hops = next_hops(2);
    hops.ports[1].tagged = Some(Tagged { trunk: 0, vlan: 200 });
    lab.shared.set_next_hops(NextHops::new(hops));
    let to_server = tcp((BACK, NAT_1), "198.18.0.2:4001", "198.18.1.21:80", 63, SYN);
    let answer = tcp((NAT_1, BACK), "198.18.1.21:80", "198.18.0.2:4001", 64, SYN_ACK);
    let to_client = tcp((FRONT, CLIENT), "198.18.0.100:8080", "198.18.0.2:4001", 63, SYN_ACK);
    let syn = from_client(4001, 8080, SYN);
    run(
        &mut lab,
        &[
            ("untagged in, tagged out", 0, syn.clone(), Outcome::Sent(0, tag(200, &to_server))),
            ("priority only", 0, tag(0xe000, &syn), Outcome::Sent(0, tag(200, &to_server))),
            ("tagged in, untagged out", 0, tag(200, &answer), Outcome::Sent(0, to_client)),
        ],
    );
}

/// Segments that no frame at hand becomes.
#[test]
fn who_is_asked_and_told_by_this_node_itself_is_so_in_its_vlan() {
    let forwarding = Forwarding::Nat;
    for net in NETS {
        let (mut plain, mut with_tags) = (syn_proxy::node(forwarding), syn_proxy::node(forwarding));
        with_tags.shared.set_next_hops(NextHops::new(tagged(hops_of_both())));
        plain.shared.set_next_hops(NextHops::new(hops_of_both()));
        let expected = |plain: &Lab| -> Vec<_> {
            let tagged = |(to, bytes): (u16, Vec<u8>)| (TRUNK, tag(VLANS[usize::from(to)], &bytes));
            emitted(plain).into_iter().map(tagged).collect()
        };
        let mut client = Client::new(net, CLIENT_PORT, OFFER);
        client.ask(&mut plain);
        same(&mut plain, &mut with_tags, &[("the cookie comes back", 0, client.ack())]);
        for lab in [&mut plain, &mut with_tags] {
            syn_proxy::advance(lab, WAITS_MS[0] * MS);
        }
        assert_eq!(emitted(&plain).len(), 1, "{}: the server is asked again", net.name);
        assert_eq!(emitted(&with_tags), expected(&plain), "{}: again", net.name);
        let answer = client.syn_ack(&plain);
        same(&mut plain, &mut with_tags, &[("the server answers", 1, answer)]);
        assert_eq!(emitted(&plain).len(), 1, "{}: it is told", net.name);
        assert_eq!(emitted(&with_tags), expected(&plain), "{}: told", net.name);
    }
}

#[test]
fn without_room_for_the_tag_nothing_is_sent() {
    let mut lab = Lab::with(spec(), 1000);
    let mut hops = next_hops(2);
    hops.ports[1].tagged = Some(Tagged { trunk: 0, vlan: 200 });
    lab.shared.set_next_hops(NextHops::new(hops));
    let mut buffer = from_client(4001, 8080, SYN);
    let whole = (0, buffer.len());
    let found = lab.worker.handle_frame(START + SECOND, 0, &mut buffer, whole, &mut Actions::new());
    assert_eq!(found, Verdict::Drop(Reason::NoSpace));
}
