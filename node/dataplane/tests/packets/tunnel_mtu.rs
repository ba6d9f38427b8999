//! Routers that cannot pass on the packets of a tunnel: clients hear what its way takes.

use std::net::IpAddr;

use crate::both::{NETS, Net, at, framed, packet};
use crate::lab::*;
use steadfast_dataplane::{
    Forwarding, NextHops, NextHopsSpec, NoHook, PortSpec, Protocol, Route, ServiceSpec,
    TUNNEL_MTU_TIMEOUT_NS, TUNNEL_MTUS_MAX, TunnelErrors,
};
use steadfast_packet::{
    Tunnel, TunnelError, UdpChecksum, internet_checksum, tunnel_error_v4, tunnel_error_v6,
};

const GUE: Tunnel = Tunnel::Gue { port: 6080, checksum: UdpChecksum::ByFamily };
const ROUTER: Mac = [2, 0, 0, 0, 1, 1];
const PORT: u16 = 80;

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Server, and our own address on the way there.
fn ends(six: bool) -> (&'static str, &'static str) {
    if six { ("2001:db8:9::21", "2001:db8::11") } else { ("203.0.113.21", "198.18.0.11") }
}

/// A UDP service over IPv4, whose `servers` are behind a tunnel and a router.
fn lab(tunnel: Tunnel, servers: Vec<String>) -> Lab {
    let mut config = crate::both::spec(1);
    let servers = (500..).zip(servers).map(|(id, addr)| server(id, &addr, PORT)).collect();
    let forwarding = Forwarding::Tunnel(tunnel);
    config.services.clear();
    config.services.push(ServiceSpec { forwarding, ..service(1, Protocol::Udp, PORT, servers) });
    let lab = Lab::with(config, 1000);
    let route = |prefix, prefix_len, gateway: Option<&str>| Route {
        prefix: addr(prefix),
        prefix_len,
        port: Some(0),
        gateway: gateway.map(addr),
        src: None,
        mtu: None,
    };
    lab.shared.set_next_hops(NextHops::new(NextHopsSpec {
        generation: 2,
        ports: vec![PortSpec {
            mac: FRONT,
            mtu: 1500,
            addrs: [false, true].map(|six| addr(ends(six).1)).to_vec(),
            ..PortSpec::default()
        }],
        routes: vec![
            route("198.18.0.0", 24, None),
            route("0.0.0.0", 0, Some("198.18.0.1")),
            route("::", 0, Some("2001:db8::1")),
        ],
        neighbours: vec![
            (0, addr("198.18.0.1"), ROUTER),
            (0, addr("2001:db8::1"), ROUTER),
            (0, addr(NETS[0].client), CLIENT),
        ],
    }));
    lab
}

/// A packet of the client that may not be fragmented, of `len` octets.
fn given(net: Net, len: usize) -> Vec<u8> {
    let between = (at(net.client, 4000), at(net.vip, PORT));
    framed((CLIENT, FRONT), &packet(Protocol::Udp, between, 64, &vec![7; len - 28]))
}

/// What becomes of it: into the tunnel, or told the largest that fits.
fn told(lab: &mut Lab, len: usize) -> Option<u16> {
    match lab.handle(0, &given(NETS[0], len)) {
        Outcome::Sent(0, frame) if frame[..6] == ROUTER => None,
        Outcome::Sent(0, frame) if frame[34..36] == [3, 4] => {
            Some(u16::from_be_bytes([frame[40], frame[41]]))
        }
        other => panic!("{other:?}"),
    }
}

/// The error of a router about a packet, of which it quotes so much, as a raw socket gives it.
fn error(quoted: &[u8], (kind, code): (u8, u8), mtu: u16, quotes: usize) -> Option<TunnelError> {
    let quoted = &quoted[..quotes.min(quoted.len())];
    let [high, low] = mtu.to_be_bytes();
    let mut message = [&[kind, code, 0, 0, 0, 0, high, low], quoted].concat();
    if quoted[0] >> 4 == 6 {
        return tunnel_error_v6(&message);
    }
    let checksum = internet_checksum(0, &message).to_be_bytes();
    message[2..4].copy_from_slice(&checksum);
    let header = [&[0x45; 12][..], &[203, 0, 113, 1, 198, 18, 0, 11]].concat();
    tunnel_error_v4(&[header, message].concat())
}

/// An outer packet as it leaves.
fn outer(lab: &mut Lab) -> Vec<u8> {
    match lab.handle(0, &given(NETS[0], 1000)) {
        Outcome::Sent(0, frame) => frame[14..].to_vec(),
        other => panic!("{other:?}"),
    }
}

fn too_big(six: bool) -> (u8, u8) {
    if six { (2, 0) } else { (3, 4) }
}

#[test]
fn a_client_hears_what_the_way_of_the_tunnel_takes() {
    let gre = Tunnel::Gre { checksum: true };
    for (tunnel, shim) in [(Tunnel::IpIp, 0), (GUE, 12), (gre, 8)] {
        for six in [false, true] {
            let overhead = if six { 40 } else { 20 } + shim;
            let what = format!("{tunnel:?}, IPv6 {six}");
            let mut lab = lab(tunnel, vec![ends(six).0.to_owned()]);
            let whole = 1500 - usize::from(overhead);
            assert_eq!(told(&mut lab, whole), None, "{what}: it fits the interface");
            // No router quotes less (RFC 792, RFC 4443).
            let quoted = outer(&mut lab);
            let heard = error(&quoted, too_big(six), 1400, if six { 48 } else { 28 }).unwrap();
            lab.shared.hear_error(lab.now, &heard);
            assert_eq!(told(&mut lab, whole), Some(1400 - overhead), "{what}");
            assert_eq!(told(&mut lab, 1400 - usize::from(overhead)), None, "{what}: that fits");
            let known = lab.shared.tunnel_mtus.known(lab.now);
            assert_eq!(known, [(addr(ends(six).0), 1400, TUNNEL_MTU_TIMEOUT_NS)]);
            lab.now += TUNNEL_MTU_TIMEOUT_NS - 1;
            lab.shared.advance(lab.now, 1000, &NoHook);
            assert!(told(&mut lab, whole).is_some(), "{what}: believed for ten minutes");
            lab.now += 1;
            assert_eq!(told(&mut lab, whole), None, "{what}: forgotten");
        }
    }
}

#[test]
fn errors_about_what_no_tunnel_sent_change_nothing() {
    let mut lab = lab(GUE, vec![ends(false).0.to_owned()]);
    let good = error(&outer(&mut lab), (3, 4), 1000, 28).unwrap();
    let other = |dst_port, protocol| TunnelError { dst_port, protocol, ..good };
    let table = [
        ("from another host", TunnelError { src: addr("198.18.0.12"), ..good }),
        ("to no server", TunnelError { dst: addr("203.0.113.22"), ..good }),
        ("another port", other(Some(53), 17)),
        ("another protocol", other(None, 4)),
    ];
    for (description, error) in table {
        lab.shared.hear_error(lab.now, &error);
        assert_eq!(told(&mut lab, 1468), None, "{description}");
    }
    lab.shared.hear_error(lab.now, &TunnelError { mtu: None, ..good });
    assert_eq!(told(&mut lab, 1468), None, "unreachable");
    lab.shared.hear_error(lab.now, &good);
    assert_eq!(told(&mut lab, 1468), Some(968));
    let expected = TunnelErrors { too_big: 1, other: 1, foreign: 4 };
    assert_eq!(lab.shared.tunnel_mtus.errors(), expected);
}

#[test]
fn an_mtu_is_lowered_only_and_not_below_what_a_network_takes() {
    for (six, least) in [(false, 552), (true, 1280)] {
        let mut lab = lab(Tunnel::IpIp, vec![ends(six).0.to_owned()]);
        let quoted = outer(&mut lab);
        for (says, expected) in [(1400, 1400), (1450, 1400), (1300, 1300), (68, least)] {
            let heard = error(&quoted, too_big(six), says, 100).unwrap();
            lab.shared.hear_error(lab.now, &heard);
            let known = lab.shared.tunnel_mtus.known(lab.now);
            assert_eq!(known[0].1, expected, "{says}, IPv6 {six}");
        }
    }
    // A router that does not say: the next MTU below that links had (RFC 1191 section 7).
    let mut lab = lab(Tunnel::IpIp, vec![ends(false).0.to_owned()]);
    let quoted = outer(&mut lab);
    assert_eq!(error(&quoted, (3, 4), 0, 28).unwrap().mtu, Some(1006), "of 1020 octets");
}

#[test]
fn what_cannot_be_read_is_no_error_about_a_tunnel() {
    let mut lab = lab(GUE, vec![ends(false).0.to_owned()]);
    let quoted = outer(&mut lab);
    assert!(error(&quoted, (3, 4), 1400, 28).is_some());
    assert_eq!(error(&quoted, (3, 4), 1400, 19), None, "cut off in the quoted header");
    assert_eq!(error(&quoted, (8, 0), 1400, 28), None, "an echo");
    assert_eq!(tunnel_error_v4(&[0x45; 24]), None);
    assert_eq!(tunnel_error_v4(&[]), None);
    assert_eq!(tunnel_error_v6(&[2, 0, 0]), None);
    let message = [&[0x45; 20][..], &[3, 4, 0, 0, 0, 0, 5, 0], &quoted[..28]].concat();
    assert_eq!(tunnel_error_v4(&message), None, "a wrong checksum");
}

#[test]
fn what_is_learnt_is_bounded() {
    let servers = (0..TUNNEL_MTUS_MAX + 50).map(|n| format!("203.0.{}.{}", n / 250, n % 250 + 1));
    let servers: Vec<_> = servers.collect();
    let mut lab = lab(Tunnel::IpIp, servers.clone());
    let good = error(&outer(&mut lab), (3, 4), 1400, 28).unwrap();
    for server in &servers {
        // Not so many in a short time: each copies the table.
        lab.now += SECOND / 100;
        lab.shared.hear_error(lab.now, &TunnelError { dst: addr(server), ..good });
    }
    assert_eq!(lab.shared.tunnel_mtus.known(lab.now).len(), TUNNEL_MTUS_MAX);
    for n in 0..300 {
        let mtu = Some(1300 - n);
        lab.shared.hear_error(lab.now, &TunnelError { dst: addr(&servers[0]), mtu, ..good });
    }
    let known = lab.shared.tunnel_mtus.known(lab.now);
    let found = known.iter().find(|(server, ..)| *server == addr(&servers[0])).unwrap().1;
    assert!((1199..=1203).contains(&found), "a hundred changes at once: {found}");
}
