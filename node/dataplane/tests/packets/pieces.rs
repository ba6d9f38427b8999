//! IPv4 packets without DF that do not fit their way: they leave in pieces, through tunnels too.

use std::net::SocketAddr;

use crate::both::{cut::*, ends::*, next_hops, *};
use crate::lab::*;
use steadfast_dataplane::{
    ClientAddress, ConfigSpec, Forwarding, NextHops, Protocol, Reason, Sent, ServiceSpec, Tagged,
    Tunnel, UdpChecksum,
};
use steadfast_packet::{PIECES_MAX, internet_checksum};

const NET: Net = NETS[0];
const ID: u32 = 0x1234;
const TUNNEL_PORT: u16 = 90;
/// A way of 1400 octets takes so many in each piece but the last.
const WAY: u32 = 1400;
const EACH: usize = 1376;

/// DR, NAT, and one tunnel to the NAT server.
fn lab_of(tunnel: Tunnel, mtu: u32) -> Lab {
    let mut config: ConfigSpec = crate::both::spec(1);
    let servers = vec![server(70, NET.nat, TUNNEL_PORT)];
    let forwarding = Forwarding::Tunnel(tunnel);
    let service = service(70, Protocol::Udp, TUNNEL_PORT, servers);
    config.services.push(ServiceSpec { forwarding, ..service });
    let lab = Lab::with(config, 1000);
    let mut hops = next_hops();
    hops.ports.iter_mut().for_each(|port| port.mtu = mtu);
    hops.ports[1].addrs = vec!["198.18.1.11".parse().unwrap()];
    lab.shared.set_next_hops(NextHops::new(hops));
    lab
}

fn lab(mtu: u32) -> Lab {
    lab_of(Tunnel::IpIp, mtu)
}

/// A datagram of `len` octets with its header, which routers may fragment.
fn datagram((src, dst): (SocketAddr, SocketAddr), ttl: u8, len: usize, id: u32) -> Vec<u8> {
    let payload: Vec<u8> = (0..len - 28).map(|n| (n * 7 + n / 256) as u8).collect();
    loose(packet(Protocol::Udp, (src, dst), ttl, &payload), id)
}

/// The packet without DF.
fn loose(mut packet: Vec<u8>, id: u32) -> Vec<u8> {
    packet[4..8].copy_from_slice(&[(id >> 8) as u8, id as u8, 0, 0]);
    packet[10..12].fill(0);
    let checksum = internet_checksum(0, &packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&checksum);
    packet
}

fn in_to(port: u16, len: usize) -> Vec<u8> {
    let between = (at(NET.client, CLIENT_PORT), at(NET.vip, port));
    framed((CLIENT, FRONT), &datagram(between, 64, len, ID))
}

/// All that left, in order.
#[track_caller]
fn left(lab: &mut Lab, port: u16, frame: &[u8]) -> Vec<(u16, Vec<u8>)> {
    match lab.handle(port, frame) {
        Outcome::Sent(port, first) => [vec![(port, first)], std::mem::take(&mut lab.also)].concat(),
        other => panic!("{other:?}"),
    }
}

fn by(port: u16, frames: Vec<Vec<u8>>) -> Vec<(u16, Vec<u8>)> {
    frames.into_iter().map(|frame| (port, frame)).collect()
}

#[test]
fn what_may_be_fragmented_leaves_in_pieces_translated() {
    let (client, vip) = (at(NET.client, CLIENT_PORT), |port| at(NET.vip, port));
    let real = at(NET.nat, REAL_PORT);
    for id in [ID, 0] {
        let mut lab = lab(WAY);
        let to_server = datagram((client, vip(DR_PORT)), 63, 1500, id);
        let to_nat = datagram((client, real), 63, 1500, id);
        let back = datagram((vip(NAT_PORT), client), 63, 1500, id);
        let frame = |macs, ends| framed(macs, &datagram(ends, 64, 1500, id));
        // What comes in on which port; by which it leaves, between whom.
        let table = [
            ("DR", 0, frame((CLIENT, FRONT), (client, vip(DR_PORT))), 0, (FRONT, DR_1), to_server),
            ("NAT", 0, frame((CLIENT, FRONT), (client, vip(NAT_PORT))), 1, (BACK, NAT_1), to_nat),
            ("its answer", 1, frame((NAT_1, BACK), (real, client)), 0, (FRONT, CLIENT), back),
        ];
        for (description, port, frame, to, macs, whole) in table {
            let mut expected = cut_into(macs, &whole, id, EACH);
            assert_eq!(expected.len(), 2);
            // A short frame is filled up.
            expected.iter_mut().for_each(|frame| frame.resize(frame.len().max(60), 0));
            assert_eq!(left(&mut lab, port, &frame), by(to, expected), "{description}");
        }
        let counters = lab.worker.counters();
        assert_eq!((counters.fragmented(), counters.sent(Sent::Forwarded)), (3, 2));
        let config = lab.shared.config.load();
        let bytes: u64 = config.services().map(|service| service.totals().in_bytes).sum();
        assert_eq!(bytes, 3000, "a packet is counted once, as it came");
    }
}

/// The server puts it together, behind the end of the tunnel: each outer packet is whole.
#[test]
fn through_a_tunnel_each_piece_has_its_own_outer_header() {
    let gue = Tunnel::Gue { port: 6080, checksum: UdpChecksum::On };
    for (tunnel, overhead) in [(Tunnel::IpIp, 20), (gue, 32), (Tunnel::Gre { checksum: true }, 28)]
    {
        let mut lab = lab_of(tunnel, 1500);
        let each = (1500 - overhead - 20) / 8 * 8;
        let between = (at(NET.client, CLIENT_PORT), at(NET.vip, TUNNEL_PORT));
        let whole = datagram(between, 63, 3200, ID);
        let expected = cut_into((BACK, NAT_1), &whole, ID, each);
        let all = left(&mut lab, 0, &in_to(TUNNEL_PORT, 3200));
        assert_eq!((all.len(), expected.len()), (3, 3), "{tunnel:?}");
        let mut ids = Vec::new();
        for ((port, frame), inner) in all.iter().zip(&expected) {
            assert_eq!((*port, &frame[..14]), (1, &inner[..14]), "{tunnel:?}");
            assert!(frame.len() - 14 <= 1500);
            assert_eq!(frame[14 + overhead..], inner[14..], "{tunnel:?}");
            let outer = &frame[14..34];
            assert_eq!(internet_checksum(0, outer), 0);
            assert_eq!(outer[6..8], [0, 0], "whole, and it may be fragmented again");
            assert_eq!(outer[12..20], [198, 18, 1, 11, 198, 18, 1, 21]);
            ids.push(u16::from_be_bytes([outer[4], outer[5]]));
        }
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}: each is another packet");
    }
}

#[test]
fn pieces_are_cut_further() {
    let between = |port| (at(NET.client, CLIENT_PORT), at(NET.vip, port));
    let arrive = cut_into((CLIENT, FRONT), &datagram(between(DR_PORT), 64, 3020, ID), ID, 1480);
    let whole = datagram(between(DR_PORT), 63, 3020, ID);
    let (header, payload) = whole.split_at(20);
    // Of 1480, 1480 and 40 octets: 776 and 704 of each of the first.
    let spans = [(0, 776), (776, 1480), (1480, 2256), (2256, 2960), (2960, 3000)];
    let part = |(from, to): (usize, usize)| {
        let piece = &payload[from..to];
        fragment((FRONT, DR_1), header, piece, (ID, from, to < 3000))
    };
    let expected = by(0, spans.map(part).to_vec());
    let mut in_order = lab(800);
    let all: Vec<_> = arrive.iter().flat_map(|frame| left(&mut in_order, 0, frame)).collect();
    assert_eq!(all, expected);
    assert_eq!(in_order.worker.counters().fragmented(), 2);
    // Also those of a part that waited for the first one leave in order.
    let mut late = lab(800);
    for early in &arrive[1..] {
        assert_eq!(late.handle(0, early), dropped(Reason::FragmentEarly));
    }
    assert_eq!(left(&mut late, 0, &arrive[0]), filled(expected));
    assert_eq!(late.worker.counters().fragmented(), 2);
}

/// Frames that leave beside another one are filled up.
fn filled(mut frames: Vec<(u16, Vec<u8>)>) -> Vec<(u16, Vec<u8>)> {
    frames.iter_mut().for_each(|(_, frame)| frame.resize(frame.len().max(60), 0));
    frames
}

#[test]
fn who_leaves_by_a_vlan_has_its_tag_on_every_piece() {
    let mut lab = lab(WAY);
    let mut hops = next_hops();
    hops.ports.iter_mut().for_each(|port| port.mtu = WAY);
    hops.ports[1].tagged = Some(Tagged { trunk: 0, vlan: 100 });
    lab.shared.set_next_hops(NextHops::new(hops));
    let all = left(&mut lab, 0, &in_to(NAT_PORT, 1500));
    assert_eq!(all.len(), 2);
    for (port, frame) in all {
        assert_eq!((port, &frame[12..18]), (0, &[0x81, 0, 0, 100, 8, 0][..]));
    }
}

/// What the client says of itself does not pass in a later piece either.
#[test]
fn an_option_of_the_client_is_erased_before_the_packet_is_cut() {
    let mut lab = node_of(told(Forwarding::FullNat, ClientAddress::Toa));
    let (ends, _) = Ends::open(&mut lab, NET, PORT, &Segment::new(SYN, 1, 0, b""));
    let mut hops = next_hops();
    hops.ports.iter_mut().for_each(|port| port.mtu = 68);
    hops.generation += 1;
    lab.shared.set_next_hops(NextHops::new(hops));
    // Padding up to 40 octets, the last eight of them the option.
    let options = [&[1; 32][..], &[254, 8, 0x10, 0, 9, 9, 9, 9]].concat();
    let segment = Segment::new(ACK, 2, 1, &[b'x'; 40]).with_options(&options);
    let packet = loose(segment.packet((ends.client, ends.vip), 64), ID);
    let all = left(&mut lab, 0, &framed((CLIENT, FRONT), &packet));
    assert!(all.len() > 2, "the option is in the second piece");
    let together: Vec<u8> = all.iter().flat_map(|(_, frame)| frame[34..].to_vec()).collect();
    assert!(!together.windows(4).any(|four| four == [9; 4]), "{together:?}");
}

#[test]
fn what_cannot_leave_in_pieces_is_told_or_dropped_and_counted() {
    let most = PIECES_MAX * 48 + 20;
    let table = [
        ("as many pieces as may be", 68, most, None),
        ("one more", 68, most + 9, Some(Reason::TooBig)),
        ("a way below the least MTU of IPv4", 67, 100, Some(Reason::TooBig)),
    ];
    for (description, mtu, len, expected) in table {
        let mut lab = lab(mtu);
        match (lab.handle(0, &in_to(DR_PORT, len)), expected) {
            (Outcome::Sent(..), None) => assert_eq!(lab.also.len() + 1, PIECES_MAX),
            (outcome, reason) => {
                assert_eq!(Some(outcome), reason.map(dropped), "{description}");
                assert!(lab.also.is_empty(), "{description}: all or none");
                assert_eq!(lab.worker.counters().fragmented(), 0);
            }
        }
    }
    // Parts with DF: the first is told, the others are not (RFC 1122 section 3.2.2).
    let mut lab = lab(WAY);
    let between = (at(NET.client, CLIENT_PORT), at(NET.vip, DR_PORT));
    let parts = cut_into((CLIENT, FRONT), &datagram(between, 64, 2980, ID), ID, 1480);
    let firm = |frame: &[u8]| {
        let mut packet = frame[14..].to_vec();
        packet[6] |= 0x40;
        packet[10..12].fill(0);
        let checksum = internet_checksum(0, &packet[..20]).to_be_bytes();
        packet[10..12].copy_from_slice(&checksum);
        framed((CLIENT, FRONT), &packet)
    };
    assert!(matches!(lab.handle(0, &firm(&parts[0])), Outcome::Sent(0, _)));
    assert_eq!(lab.worker.counters().too_big(), 1);
    assert_eq!(lab.handle(0, &firm(&parts[1])), dropped(Reason::TooBig));
    assert_eq!(lab.worker.counters().too_big(), 1);
}
