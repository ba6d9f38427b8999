//! Later fragments that overtake their first one: they wait for it, a short time, in bounded memory.

use std::sync::{Arc, Barrier};

use crate::both::{cut::*, next_hops, *};
use crate::lab::*;
use steadfast_dataplane::{
    Actions, EARLY_BYTES_MAX, EARLY_BYTES_OF_PACKET_MAX, EARLY_MAX, EARLY_OF_PACKET_MAX,
    EARLY_TIMEOUT_NS, FRAGMENTED_MAX, NextHops, NoHook, Protocol, Reason, Role, Sent, Tagged,
    Verdict, Worker,
};

/// Sets of the table of fragments.
const SETS: usize = FRAGMENTED_MAX / 8;

/// A datagram of `len` octets of payload to the VIP, in parts of `part`, and how they reach the server.
fn datagram(net: Net, port: u16, (len, part): (usize, usize), id: u32) -> [Vec<Vec<u8>>; 2] {
    let data: Vec<u8> = (0..len).map(|n| (n * 7 + n / 256) as u8).collect();
    let (client, vip) = (at(net.client, CLIENT_PORT), at(net.vip, port));
    let (macs, real) = match port {
        DR_PORT => ((FRONT, DR_1), vip),
        _ => ((BACK, NAT_1), at(net.nat, REAL_PORT)),
    };
    let given = packet(Protocol::Udp, (client, vip), 64, &data);
    let sent = packet(Protocol::Udp, (client, real), 63, &data);
    [cut_into((CLIENT, FRONT), &given, id, part), cut_into(macs, &sent, id, part)]
}

/// The frame as it leaves, filled up.
fn filled(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A node whose interfaces take jumbo frames.
fn jumbo() -> Lab {
    let lab = crate::both::lab();
    let mut hops = next_hops();
    hops.ports.iter_mut().for_each(|port| port.mtu = 9500);
    lab.shared.set_next_hops(NextHops::new(hops));
    lab
}

#[track_caller]
fn counted(lab: &Lab, early: u64, released: u64) {
    let counters = lab.worker.counters();
    assert_eq!((counters.dropped(Reason::FragmentEarly), counters.released()), (early, released));
}

#[test]
fn what_overtook_the_first_leaves_after_it() {
    for net in NETS {
        for port in [DR_PORT, NAT_PORT] {
            let case = format!("{} {port}", net.name);
            let mut lab = crate::both::lab();
            let [given, sent] = datagram(net, port, (150, 32), 7);
            let out = if port == DR_PORT { 0 } else { 1 };
            assert_eq!(given.len(), 5);
            for n in [4, 1, 2] {
                assert_eq!(lab.handle(0, &given[n]), dropped(Reason::FragmentEarly), "{case}");
            }
            counted(&lab, 3, 0);
            lab.now += EARLY_TIMEOUT_NS - 1;
            assert_eq!(lab.handle(0, &given[0]), Outcome::Sent(out, sent[0].clone()), "{case}");
            let after = [4, 1, 2].map(|n| (out, filled(sent[n].clone())));
            assert_eq!(lab.also, after, "{case}: as they came");
            assert_eq!(lab.handle(0, &given[3]), Outcome::Sent(out, sent[3].clone()), "{case}");
            assert_eq!(lab.also, [], "{case}: once");
            counted(&lab, 3, 3);
            let counters = lab.worker.counters();
            assert_eq!((counters.received(), counters.sent(Sent::Forwarded)), (5, 5), "{case}");
            let config = lab.shared.config.load();
            let packets: u64 = config.services().map(|service| service.totals().in_pkts).sum();
            assert_eq!(packets, 5, "{case}");
        }
    }
}

/// Also what waits is let through but once, and over nothing.
#[test]
fn what_waits_twice_or_overlaps_passes_once() {
    for net in NETS {
        let mut lab = crate::both::lab();
        let [given, sent] = datagram(net, DR_PORT, (150, 32), 7);
        let [other, _] = datagram(net, DR_PORT, (150, 48), 7);
        for frame in [&given[1], &given[1], &other[1], &given[2]] {
            assert_eq!(lab.handle(0, frame), dropped(Reason::FragmentEarly), "{}", net.name);
        }
        assert!(matches!(lab.handle(0, &given[0]), Outcome::Sent(..)));
        let after = [1, 2].map(|n| (0, filled(sent[n].clone())));
        assert_eq!(lab.also, after, "{}", net.name);
        counted(&lab, 4, 2);
        assert_eq!(lab.worker.counters().dropped(Reason::FragmentOverlap), 2);
    }
}

#[test]
fn nothing_waits_longer_than_it_may() {
    for (net, swept) in NETS.into_iter().flat_map(|net| [(net, false), (net, true)]) {
        let mut lab = crate::both::lab();
        let [given, _] = datagram(net, DR_PORT, (150, 32), 7);
        assert_eq!(lab.handle(0, &given[1]), dropped(Reason::FragmentEarly));
        lab.now += EARLY_TIMEOUT_NS;
        if swept {
            lab.shared.advance(lab.now, 1000, &NoHook);
            // Not only out of time, but gone: a clock that went back would find it.
            lab.now -= 1;
        }
        assert!(matches!(lab.handle(0, &given[0]), Outcome::Sent(..)));
        assert_eq!(lab.also, [], "{}, swept {swept}", net.name);
        counted(&lab, 1, 0);
    }
}

/// Frames that are for nobody here, or for another node, wait for nothing.
#[test]
fn only_what_is_for_a_group_of_this_node_waits() {
    for net in NETS {
        let mut lab = crate::both::lab();
        let cut_of =
            |macs, src, dst| cut(macs, &packet(Protocol::Udp, (src, dst), 64, &[7; 90]), 3);
        let (client, real) = (at(net.client, CLIENT_PORT), at(net.nat, REAL_PORT));
        let elsewhere = cut_of((CLIENT, FRONT), client, at(net.router, 1));
        assert_eq!(lab.handle(0, &elsewhere[1]), dropped(Reason::FragmentUnknown), "{}", net.name);
        let [given, _] = datagram(net, NAT_PORT, (150, 32), 7);
        lab.set_role(Role::Other { relay: vec![Some(PEER), Some(PEER)] });
        let back = cut_of((NAT_1, BACK), real, client);
        for (port, frame) in [(0, &given[1]), (1, &back[1])] {
            assert!(matches!(lab.handle(port, frame), Outcome::Sent(..)), "{}: relayed", net.name);
        }
        lab.set_role(holder());
        assert!(matches!(lab.handle(0, &given[0]), Outcome::Sent(..)));
        assert_eq!(lab.also, [], "{}: it left already", net.name);
        assert!(matches!(lab.handle(1, &back[0]), Outcome::Sent(0, _)));
        assert_eq!(lab.also, [], "{}: so did this", net.name);
        counted(&lab, 0, 0);
    }
}

#[test]
fn answers_that_overtake_wait_too() {
    for net in NETS {
        let mut lab = crate::both::lab();
        let (client, real, vip) =
            (at(net.client, CLIENT_PORT), at(net.nat, REAL_PORT), at(net.vip, NAT_PORT));
        let open = framed((CLIENT, FRONT), &packet(Protocol::Udp, (client, vip), 64, b"open"));
        assert!(matches!(lab.handle(0, &open), Outcome::Sent(..)));
        let of =
            |macs, src, ttl| cut(macs, &packet(Protocol::Udp, (src, client), ttl, &[7; 90]), 9);
        let (given, sent) = (of((NAT_1, BACK), real, 64), of((FRONT, CLIENT), vip, 63));
        assert_eq!(lab.handle(1, &given[1]), dropped(Reason::FragmentEarly));
        assert_eq!(lab.handle(1, &given[0]), Outcome::Sent(0, sent[0].clone()), "{}", net.name);
        assert_eq!(lab.also, [(0, filled(sent[1].clone()))], "{}", net.name);
    }
}

#[test]
fn of_one_packet_so_many_wait_and_so_much() {
    let frames = EARLY_OF_PACKET_MAX;
    // A jumbo frame with its room is longer than this, but not by half.
    let bytes = EARLY_BYTES_OF_PACKET_MAX / 9000;
    for net in NETS {
        for (len, part, waits) in [(9000, 800, frames), (44_992, 9000, bytes)] {
            let mut lab = jumbo();
            let [given, _] = datagram(net, DR_PORT, (len, part), 7);
            let wait = given[1..].iter().filter(|part| match lab.handle(0, part) {
                Outcome::Dropped(Reason::FragmentEarly) => true,
                Outcome::Dropped(Reason::FragmentUnknown) => false,
                other => panic!("{other:?}"),
            });
            assert_eq!(wait.count(), waits, "{}: parts of {part}", net.name);
            counted(&lab, waits as u64, 0);
        }
    }
}

/// A flood of parts without a first one takes no more than it may, and keeps nobody out: the newest
/// has its place.
#[test]
fn a_flood_of_later_fragments_is_bounded() {
    for net in NETS {
        for (part, of_set) in [(32, EARLY_MAX), (8000, EARLY_BYTES_MAX / 8000)] {
            let mut lab = jumbo();
            let flood = 40 * SETS as u32;
            for id in 0..flood {
                let [given, _] = datagram(net, DR_PORT, (2 * part - 8, part), id);
                assert_eq!(lab.handle(0, &given[1]), dropped(Reason::FragmentEarly));
            }
            let [mine, sent] = datagram(net, DR_PORT, (150, 32), flood);
            assert_eq!(lab.handle(0, &mine[1]), dropped(Reason::FragmentEarly));
            assert!(matches!(lab.handle(0, &mine[0]), Outcome::Sent(..)));
            assert_eq!(lab.also, [(0, filled(sent[1].clone()))], "{}: the newest", net.name);
            let early = lab.worker.counters().dropped(Reason::FragmentEarly);
            assert_eq!(early, u64::from(flood) + 1, "nobody else's were looked at");
            for id in flood - SETS as u32 / 4..flood {
                let [given, _] = datagram(net, DR_PORT, (2 * part - 8, part), id);
                assert!(matches!(lab.handle(0, &given[0]), Outcome::Sent(..)));
                assert!(!lab.also.is_empty(), "{}: {id} came last, older ones give way", net.name);
            }
            for id in 0..flood - SETS as u32 / 4 {
                let [given, _] = datagram(net, DR_PORT, (2 * part - 8, part), id);
                assert!(matches!(lab.handle(0, &given[0]), Outcome::Sent(..)));
            }
            let waited = lab.worker.counters().released() as usize;
            assert!(waited <= SETS * of_set, "{}: {waited} of {part}", net.name);
            assert!(waited >= SETS * of_set / 2, "{}: only {waited} of {part}", net.name);
        }
    }
}

#[test]
fn the_bounds_of_a_set_hold_what_a_packet_may_have() {
    const { assert!(EARLY_BYTES_OF_PACKET_MAX <= EARLY_BYTES_MAX) };
    const { assert!(EARLY_OF_PACKET_MAX <= EARLY_MAX) };
    const { assert!(SETS * EARLY_BYTES_MAX <= 16 << 20) };
}

/// By a VLAN, what is released has its tag.
#[test]
fn what_is_released_leaves_by_the_vlan_of_its_port() {
    let net = NETS[0];
    let mut lab = crate::both::lab();
    let mut hops = next_hops();
    hops.ports[1].tagged = Some(Tagged { trunk: 0, vlan: 100 });
    lab.shared.set_next_hops(NextHops::new(hops));
    let [given, sent] = datagram(net, NAT_PORT, (150, 32), 7);
    assert_eq!(lab.handle(0, &given[1]), dropped(Reason::FragmentEarly));
    assert!(matches!(lab.handle(0, &given[0]), Outcome::Sent(0, _)));
    let tagged = [&sent[1][..12], &[0x81, 0, 0, 100], &sent[1][12..]].concat();
    assert_eq!(lab.also, [(0, filled(tagged))]);
}

/// One worker has the first, another the second, at the same time: whoever is faster, both leave.
#[test]
fn no_order_of_two_workers_loses_a_part() {
    let lab = crate::both::lab();
    let rounds = 20_000;
    let parts = (0..rounds).map(|id| datagram(NETS[0], DR_PORT, (60, 40), id)[0].clone());
    let parts: Arc<Vec<Vec<Vec<u8>>>> = Arc::new(parts.collect());
    let barrier = Arc::new(Barrier::new(2));
    let now = lab.now;
    let threads = [0, 1].map(|which| {
        let mut worker = Worker::new(which, Arc::clone(&lab.shared), NoHook);
        let (parts, barrier) = (Arc::clone(&parts), Arc::clone(&barrier));
        std::thread::spawn(move || {
            let (mut left, mut actions) = (0, Actions::new());
            for parts in parts.iter() {
                let mut buffer = vec![0; 2048];
                let frame = &parts[which];
                buffer[256..256 + frame.len()].copy_from_slice(frame);
                barrier.wait();
                let verdict =
                    worker.handle_frame(now, 0, &mut buffer, (256, frame.len()), &mut actions);
                left += usize::from(matches!(verdict, Verdict::Transmit { .. }));
                actions.send_frames(|_, _| left += 1);
            }
            left
        })
    });
    let left: usize = threads.map(|thread| thread.join().unwrap()).iter().sum();
    assert_eq!(left, 2 * rounds as usize);
}
