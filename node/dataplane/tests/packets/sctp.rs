//! SCTP associations through one node: whole packets in, verdicts and packets out.

use std::net::{IpAddr, SocketAddr};

use crate::lab::*;
use etherparse::{IpNumber, PacketBuilder};
use steadfast_dataplane::{
    ConfigSpec, Connection, Direction, FlowKey, Forwarding, Listen, NextHops, Policies, Protocol,
    Reason, Route, ServiceSpec, State, Timeouts,
};
use steadfast_packet::{Chunk, Content, Packet, Transport, crc32c, internet_checksum, parse};

const CHUNKS: [Chunk; 10] = [
    Chunk::DATA,
    Chunk::INIT,
    Chunk::INIT_ACK,
    Chunk::COOKIE_ECHO,
    Chunk::COOKIE_ACK,
    Chunk::SHUTDOWN,
    Chunk::SHUTDOWN_ACK,
    Chunk::SHUTDOWN_COMPLETE,
    Chunk::ERROR,
    Chunk::ABORT,
];
const TAG: u32 = 0x0a0b_0c0d;

/// The ends of a family.
struct Ends {
    client: &'static str,
    dr_vip: &'static str,
    nat_vip: &'static str,
    nat_server: &'static str,
}

const FAMILIES: [Ends; 2] = [
    Ends {
        client: "198.18.0.2:4000",
        dr_vip: "198.18.0.100:36412",
        nat_vip: "198.18.0.100:2905",
        nat_server: "198.18.1.21:2906",
    },
    Ends {
        client: "[2001:db8::2]:4000",
        dr_vip: "[2001:db8::100]:36412",
        nat_vip: "[2001:db8::100]:2905",
        nat_server: "[2001:db8:1::21]:2906",
    },
];

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn node(sloppy: bool) -> Lab {
    node_with(sloppy, &Timeouts::default())
}

/// DR on 36412 and NAT with another port on 2905, for both families.
fn node_with(sloppy: bool, timeouts: &Timeouts) -> Lab {
    let service = |id: u32, vip: &str, server_at: &str, forwarding| {
        let (vip, to) = (at(vip), at(server_at));
        let server = server(id, &to.ip().to_string(), to.port());
        let spec = service(id, Protocol::Sctp, vip.port(), vec![server]);
        let policies = Policies { sloppy_sctp: sloppy, ..Policies::default() };
        let listen = vec![Listen::new(Protocol::Sctp, vip.ip(), vip.port())];
        ServiceSpec { listen, forwarding, policies, timeouts: *timeouts, ..spec }
    };
    let mut spec = ConfigSpec { services: Vec::new(), ..config_spec(1) };
    spec.groups[0].vips.push("2001:db8::100".parse().unwrap());
    let [four, six] = FAMILIES;
    spec.services = vec![
        service(1, four.dr_vip, "198.18.0.21:36412", Forwarding::Dr),
        service(2, four.nat_vip, four.nat_server, Forwarding::Nat),
        service(3, six.dr_vip, "[2001:db8::21]:36412", Forwarding::Dr),
        service(4, six.nat_vip, six.nat_server, Forwarding::Nat),
    ];
    let lab = Lab::with(spec, 1000);
    let mut hops = next_hops(2);
    for (prefix, port) in [("2001:db8::", 0), ("2001:db8:1::", 1)] {
        let prefix = prefix.parse().unwrap();
        hops.routes.push(Route {
            prefix,
            prefix_len: 64,
            port: Some(port),
            gateway: None,
            src: None,
            mtu: None,
        });
    }
    for (port, addr, mac) in
        [(0, "2001:db8::2", CLIENT), (0, "2001:db8::21", DR_1), (1, "2001:db8:1::21", NAT_1)]
    {
        hops.neighbours.push((port, addr.parse().unwrap(), mac));
    }
    lab.shared.set_next_hops(NextHops::new(hops));
    lab
}

/// A packet of one chunk, or of one behind a cookie, with a right checksum.
fn frame(src: SocketAddr, dst: SocketAddr, chunks: &[Chunk]) -> Vec<u8> {
    let mut sctp = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    let tag = if chunks[0] == Chunk::INIT { 0 } else { TAG };
    sctp.extend_from_slice(&u32::to_be_bytes(tag));
    sctp.extend_from_slice(&[0; 4]);
    for chunk in chunks {
        sctp.extend_from_slice(&[chunk.0, 0, 0, 22]);
        sctp.extend_from_slice(&TAG.to_be_bytes());
        sctp.extend_from_slice(&[7; 16]);
    }
    let crc = crc32c(&sctp).to_le_bytes();
    sctp[8..12].copy_from_slice(&crc);
    let builder = PacketBuilder::ethernet2(CLIENT, if is_back(src.ip()) { BACK } else { FRONT });
    let mut frame = Vec::new();
    let written = match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            builder.ipv4(src.octets(), dst.octets(), 64).write(&mut frame, IpNumber(132), &sctp)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            builder.ipv6(src.octets(), dst.octets(), 64).write(&mut frame, IpNumber(132), &sctp)
        }
        _ => unreachable!("two families"),
    };
    written.unwrap();
    frame
}

fn is_back(addr: IpAddr) -> bool {
    let text = addr.to_string();
    text.starts_with("198.18.1.") || text.starts_with("2001:db8:1:")
}

/// Sends a packet; what comes out, read, with its checksum looked at.
fn send(lab: &mut Lab, src: SocketAddr, dst: SocketAddr, chunks: &[Chunk]) -> Packet {
    let port = u16::from(is_back(src.ip()));
    match lab.handle(port, &frame(src, dst, chunks)) {
        Outcome::Sent(_, frame) => read(&frame),
        other => panic!("{src} > {dst} {chunks:?}: {other:?}"),
    }
}

fn read(frame: &[u8]) -> Packet {
    let Content::Ip(packet) = parse(frame).unwrap().content else { panic!("not IP") };
    let mut sctp = frame[packet.l4..packet.end].to_vec();
    let found: [u8; 4] = sctp[8..12].try_into().unwrap();
    sctp[8..12].fill(0);
    assert_eq!(found, crc32c(&sctp).to_le_bytes(), "checksum");
    packet
}

fn ends(packet: &Packet) -> (SocketAddr, SocketAddr) {
    let (_, src_port, dst_port) = packet.tuple().unwrap();
    ((packet.src, src_port).into(), (packet.dst, dst_port).into())
}

fn connection(lab: &Lab, client: SocketAddr, vip: SocketAddr) -> Connection {
    let key = FlowKey {
        protocol: Protocol::Sctp,
        client: client.ip(),
        client_port: client.port(),
        vip: vip.ip(),
        vip_port: vip.port(),
    };
    lab.shared.table.find(&key).unwrap()
}

#[test]
fn every_cell_of_the_tables_is_reached_by_its_packet() {
    let states = || (0..14).map(|number| State::of_number(Protocol::Sctp, number).unwrap());
    let mut cells = 0;
    for family in FAMILIES {
        for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
            let vip =
                if direction == Direction::InputOnly { family.dr_vip } else { family.nat_vip };
            let (client, vip, nat_server) = (at(family.client), at(vip), at(family.nat_server));
            let mut lab = node(false);
            send(&mut lab, client, vip, &[Chunk::INIT]);
            for old in states() {
                for chunk in CHUNKS {
                    let before = connection(&lab, client, vip);
                    before.set_state(old);
                    let incarnation = before.incarnation();
                    match direction {
                        Direction::Output => send(&mut lab, nat_server, client, &[chunk]),
                        _ => send(&mut lab, client, vip, &[chunk]),
                    };
                    let inbound = direction != Direction::Output;
                    let reopens = inbound && chunk == Chunk::INIT && old == State::SctpClosed;
                    let from = if reopens { State::None } else { old };
                    let after = connection(&lab, client, vip);
                    assert_eq!(after.incarnation() != incarnation, reopens);
                    let expected = from.next_sctp(direction, chunk);
                    assert_eq!(after.state(), expected, "{direction:?} {old} {chunk:?}");
                    cells += 1;
                }
            }
        }
    }
    assert_eq!(cells, 2 * 3 * 14 * 10);
}

/// Each state another one, so that no state's can stand for another's.
#[test]
fn each_state_has_the_time_out_that_its_service_says() {
    let number = |n: u8| State::of_number(Protocol::Sctp, n).unwrap();
    let states = || (0..14).map(|n| (number(n), 30 + 7 * u32::from(n)));
    let timeouts = states().fold(Timeouts::default(), |all, (state, s)| all.with(state, s));
    for family in FAMILIES {
        let (client, vip) = (at(family.client), at(family.nat_vip));
        for (state, seconds) in states() {
            let mut lab = node_with(false, &timeouts);
            send(&mut lab, client, vip, &[Chunk::INIT]);
            let association = connection(&lab, client, vip);
            association.set_state(state);
            assert!(lab.shared.table.changed(&association, &timeouts).is_none());
            // Timers are looked at within a second.
            for (after_s, is_over) in [(seconds - 1, false), (seconds + 1, true)] {
                lab.now = START + u64::from(after_s) * SECOND;
                while lab.shared.advance(lab.now, 100_000, &lab.log).more {}
                assert_eq!(association.is_dead(), is_over, "{state} after {after_s} s");
            }
        }
    }
}

#[test]
fn an_association_through_nat_opens_talks_and_closes() {
    for family in FAMILIES {
        let mut lab = node(false);
        let (client, vip, server) = (at(family.client), at(family.nat_vip), at(family.nat_server));
        let steps: [(bool, &[Chunk], &str); 9] = [
            (true, &[Chunk::INIT], "INIT1"),
            (false, &[Chunk::INIT_ACK], "C-SENT"),
            (true, &[Chunk::COOKIE_ECHO, Chunk::DATA], "C-REPLIED"),
            (false, &[Chunk::COOKIE_ACK], "ESTABLISHED"),
            (true, &[Chunk::DATA], "ESTABLISHED"),
            (false, &[Chunk(3)], "ESTABLISHED"),
            (true, &[Chunk::SHUTDOWN], "S-RECEIVED"),
            (false, &[Chunk::SHUTDOWN_ACK], "S-ACK-SENT"),
            (true, &[Chunk::SHUTDOWN_COMPLETE], "CLOSED"),
        ];
        for (inbound, chunks, expected) in steps {
            let (src, dst, sent) = if inbound {
                (client, vip, (client, server))
            } else {
                (server, client, (vip, client))
            };
            let packet = send(&mut lab, src, dst, chunks);
            assert_eq!(ends(&packet), sent, "{expected}");
            assert_eq!(packet.ttl, 63);
            assert_eq!(connection(&lab, client, vip).state().name(), expected);
        }
    }
}

#[test]
fn a_wrong_checksum_goes_on_as_wrong_as_it_came() {
    let mut lab = node(false);
    let (client, vip) = (at(FAMILIES[0].client), at(FAMILIES[0].nat_vip));
    let mut broken = frame(client, vip, &[Chunk::INIT]);
    let last = broken.len() - 1;
    broken[last] ^= 0x20;
    let Outcome::Sent(_, sent) = lab.handle(0, &broken) else { panic!("dropped") };
    assert!(std::panic::catch_unwind(|| read(&sent)).is_err(), "the server must refuse it");
    let mut mended = sent.clone();
    mended[last] ^= 0x20;
    read(&mended);
}

#[test]
fn only_an_init_opens_and_others_are_refused() {
    let unserved = at("198.18.0.100:9");
    for family in FAMILIES {
        let (client, vip) = (at(family.client), at(family.dr_vip));
        let mut lab = node(false);
        for chunk in CHUNKS {
            if chunk == Chunk::INIT {
                continue;
            }
            let outcome = lab.handle(0, &frame(client, vip, &[chunk]));
            let answer = match chunk {
                Chunk::SHUTDOWN_ACK => Some((Chunk::SHUTDOWN_COMPLETE, 1)),
                Chunk::ABORT | Chunk::COOKIE_ACK | Chunk::SHUTDOWN_COMPLETE => None,
                _ => Some((Chunk::ABORT, 1)),
            };
            match (outcome, answer) {
                (Outcome::Sent(0, sent), Some(expected)) => {
                    let packet = read(&sent);
                    assert_eq!(ends(&packet), (vip, client));
                    assert_eq!((Chunk(sent[packet.l4 + 12]), sent[packet.l4 + 13]), expected);
                    assert_eq!(sent[packet.l4 + 4..packet.l4 + 8], TAG.to_be_bytes());
                }
                (Outcome::Dropped(Reason::UnknownReset), None) => {}
                other => panic!("{chunk:?}: {other:?}"),
            }
            assert!(lab.shared.table.is_empty());
        }
        let packet = send(&mut lab, client, vip, &[Chunk::INIT]);
        assert_eq!(ends(&packet), (client, vip), "DR changes no address");
        let Transport::Sctp { chunk, .. } = packet.transport else { panic!("not SCTP") };
        assert_eq!((chunk, lab.shared.table.len()), (Chunk::INIT, 1));
    }
    let mut lab = node(false);
    let refused = send(&mut lab, at(FAMILIES[0].client), unserved, &[Chunk::INIT]);
    assert_eq!(ends(&refused), (unserved, at(FAMILIES[0].client)));
    assert!(matches!(refused.transport, Transport::Sctp { chunk: Chunk::ABORT, .. }));
}

#[test]
fn a_sloppy_service_takes_any_packet_but_an_abort() {
    for family in FAMILIES {
        for chunk in CHUNKS {
            let (client, vip) = (at(family.client), at(family.dr_vip));
            let mut lab = node(true);
            lab.handle(0, &frame(client, vip, &[chunk]));
            assert_eq!(lab.shared.table.len(), usize::from(chunk != Chunk::ABORT), "{chunk:?}");
        }
    }
}

#[test]
fn an_unknown_packet_waits_for_the_copy_after_a_take_over() {
    for sloppy in [false, true] {
        let mut lab = node(sloppy);
        lab.set_role(steadfast_dataplane::Role::Holder {
            epoch: epoch(0),
            since_ns: lab.now,
            copy_complete: false,
        });
        let (client, vip) = (at(FAMILIES[0].client), at(FAMILIES[0].dr_vip));
        let outcome = lab.handle(0, &frame(client, vip, &[Chunk::DATA]));
        assert_eq!(outcome, dropped(Reason::HeldBack));
    }
}

#[test]
fn a_fragment_passes_unless_its_checksum_would_change() {
    let family = &FAMILIES[0];
    for (vip, passes) in [(family.dr_vip, true), (family.nat_vip, false)] {
        let mut lab = node(false);
        let mut first = frame(at(family.client), at(vip), &[Chunk::INIT]);
        // Four octets more, so that it may be the first fragment of a longer packet.
        first.extend_from_slice(&[0; 4]);
        first[17] += 4;
        first[20..22].copy_from_slice(&[0x20, 0]);
        first[24..26].fill(0);
        let checksum = internet_checksum(0, &first[14..34]);
        first[24..26].copy_from_slice(&checksum.to_be_bytes());
        let outcome = lab.handle(0, &first);
        match outcome {
            Outcome::Sent(_, sent) => assert_eq!((passes, &sent[34..]), (true, &first[34..])),
            dropped => assert_eq!((passes, dropped), (false, Outcome::Dropped(Reason::Fragment))),
        }
    }
}
