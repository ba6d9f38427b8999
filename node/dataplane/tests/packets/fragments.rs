//! Packets in parts: the first fragment decides, the others follow; a table for both families.

use std::net::SocketAddr;

use crate::both::{cut::*, *};
use crate::lab::*;
use steadfast_dataplane::{
    ConfigSpec, EARLY_TIMEOUT_NS, FRAGMENT_TIMEOUT_NS, FRAGMENTED_MAX, Protocol, Reason, Role, Sent,
};

const DATA: &[u8] = b"a datagram of a hundred octets, which does not fit the path and therefore \
                      comes in parts, four of them";

/// The fragments of a packet to the VIP.
fn to_vip(net: Net, protocol: Protocol, port: u16, id: u32) -> Vec<Vec<u8>> {
    cut(
        (CLIENT, FRONT),
        &packet(protocol, (at(net.client, CLIENT_PORT), at(net.vip, port)), 64, DATA),
        id,
    )
}

/// How they arrive at the server, built as such.
fn at_server(net: Net, protocol: Protocol, port: u16, id: u32) -> Vec<Outcome> {
    let client = at(net.client, CLIENT_PORT);
    let (macs, real, out) = match port {
        DR_PORT => ((FRONT, DR_1), at(net.vip, port), 0),
        _ => ((BACK, NAT_1), at(net.nat, REAL_PORT), 1),
    };
    let parts = cut(macs, &packet(protocol, (client, real), 63, DATA), id);
    parts.into_iter().map(|frame| Outcome::Sent(out, frame)).collect()
}

fn opened(net: Net, protocol: Protocol, port: u16) -> Lab {
    let mut lab = lab();
    let between = (at(net.client, CLIENT_PORT), at(net.vip, port));
    let whole = framed((CLIENT, FRONT), &packet(protocol, between, 64, b"open"));
    assert!(matches!(lab.handle(0, &whole), Outcome::Sent(..)));
    lab
}

#[test]
fn the_others_follow_the_first() {
    for net in NETS {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for port in [DR_PORT, NAT_PORT] {
                let case = format!("{} {protocol} {port}", net.name);
                let mut lab = lab();
                let (received, sent) =
                    (to_vip(net, protocol, port, 7), at_server(net, protocol, port, 7));
                assert!(received.len() >= 4, "{case}");
                for order in [[0, 1, 2, 3], [0, 3, 1, 2], [0, 2, 3, 1], [0, 3, 2, 1]] {
                    for n in order {
                        assert_eq!(lab.handle(0, &received[n]), sent[n], "{case}: {order:?}");
                    }
                }
                let counters = lab.worker.counters();
                assert_eq!(counters.sent(Sent::Forwarded), 16, "{case}");
                let config = lab.shared.config.load();
                let totals: Vec<_> = config.services().map(|s| s.totals()).collect();
                let bytes: usize = received.iter().map(|frame| frame.len() - 14).sum();
                assert_eq!(totals.iter().map(|t| t.in_pkts).sum::<u64>(), 16, "{case}");
                let counted = totals.iter().map(|t| t.in_bytes).sum::<u64>();
                assert_eq!(counted, 4 * bytes as u64, "{case}");
                let moves = lab.log.take();
                let moved = moves.iter().filter(|line| line.starts_with("forwarded")).count();
                assert_eq!(moved, 4, "a packet is noted once: {moves:?}");
            }
        }
    }
}

/// IPv4 counts identifications by protocol too (RFC 791 section 3.2), IPv6 does not.
#[test]
fn packets_of_two_protocols_may_have_one_identification() {
    let net = NETS[0];
    let mut lab = lab();
    let of = |protocol| (to_vip(net, protocol, NAT_PORT, 7), at_server(net, protocol, NAT_PORT, 7));
    let (tcp, udp) = (of(Protocol::Tcp), of(Protocol::Udp));
    for n in 0..4 {
        for (received, sent) in [&tcp, &udp] {
            assert_eq!(lab.handle(0, &received[n]), sent[n], "{n}");
        }
    }
}

#[test]
fn answers_in_parts_come_back_as_the_vips() {
    for net in NETS {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut lab = opened(net, protocol, NAT_PORT);
            let client = at(net.client, CLIENT_PORT);
            let of = |macs, src: SocketAddr, ttl| {
                cut(macs, &packet(protocol, (src, client), ttl, DATA), 9)
            };
            let received = of((NAT_1, BACK), at(net.nat, REAL_PORT), 64);
            let sent = of((FRONT, CLIENT), at(net.vip, NAT_PORT), 63);
            for (received, sent) in received.iter().zip(sent) {
                let outcome = lab.handle(1, received);
                assert_eq!(outcome, Outcome::Sent(0, sent), "{} {protocol}", net.name);
            }
            assert_eq!(lab.worker.counters().sent(Sent::Returned), received.len() as u64);
        }
    }
}

#[test]
fn what_follows_nothing_goes_nowhere() {
    for net in NETS {
        let mut lab = lab();
        let udp = |port, id| to_vip(net, Protocol::Udp, port, id);
        let unknown = || dropped(Reason::FragmentUnknown);
        // A copy waits: see `early`.
        let early = || dropped(Reason::FragmentEarly);
        let (a, b) = (udp(NAT_PORT, 1), udp(NAT_PORT, 2));
        let sent = |id: u32, n: usize| at_server(net, Protocol::Udp, NAT_PORT, id)[n].clone();
        let stray = cut(
            (NAT_1, BACK),
            &packet(Protocol::Udp, (at(net.nat, REAL_PORT), at(net.client, 4444)), 64, DATA),
            1,
        );
        let elsewhere = cut(
            (CLIENT, FRONT),
            &packet(Protocol::Udp, (at(net.client, 1), at(net.router, 1)), 64, DATA),
            1,
        );
        run(
            &mut lab,
            &[
                ("of another packet", 0, b[1].clone(), early()),
                ("the first", 0, a[0].clone(), sent(1, 0)),
                ("of another packet", 0, b[1].clone(), early()),
                ("after it", 0, a[1].clone(), sent(1, 1)),
                ("again", 0, a[1].clone(), dropped(Reason::FragmentOverlap)),
                ("the first again", 0, a[0].clone(), dropped(Reason::FragmentOverlap)),
                ("the last", 0, a[3].clone(), sent(1, 3)),
                ("what was missing", 0, a[2].clone(), sent(1, 2)),
                ("after all have passed", 0, b[2].clone(), early()),
                ("the identification comes again", 0, a[0].clone(), sent(1, 0)),
                ("from a server, of nothing", 1, stray[1].clone(), early()),
                (
                    "first from a server, of nothing",
                    1,
                    stray[0].clone(),
                    dropped(Reason::UnknownReturn),
                ),
                ("still of nothing", 1, stray[1].clone(), early()),
                ("for somebody else", 0, elsewhere[0].clone(), dropped(Reason::NotOurs)),
                ("its second", 0, elsewhere[1].clone(), unknown()),
            ],
        );
    }
}

#[test]
fn fragments_that_write_over_others_or_hide_headers_are_refused() {
    for net in NETS {
        let between = (at(net.client, CLIENT_PORT), at(net.vip, NAT_PORT));
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut lab = lab();
            let whole = packet(protocol, between, 64, DATA);
            let (header, payload) = whole.split_at(if net.name == "IPv4" { 20 } else { 40 });
            let part = |offset: usize, end: usize, more| {
                fragment((CLIENT, FRONT), header, &payload[offset..end], (5, offset, more))
            };
            let sent = |outcome| matches!(outcome, Outcome::Sent(..));
            let overlap = || dropped(Reason::FragmentOverlap);
            assert_eq!(
                lab.handle(0, &part(0, if protocol == Protocol::Tcp { 16 } else { 4 }, true)),
                dropped(if protocol == Protocol::Tcp {
                    Reason::Malformed
                } else {
                    Reason::Fragment
                }),
                "RFC 1858: a first fragment without its whole header"
            );
            assert!(sent(lab.handle(0, &part(0, 32, true))));
            if protocol == Protocol::Tcp {
                let hidden = lab.handle(0, &part(8, 32, true));
                assert_eq!(hidden, dropped(Reason::Fragment), "RFC 3128: over the header");
            }
            assert_eq!(lab.handle(0, &part(24, 48, true)), overlap(), "RFC 5722: over data");
            assert_eq!(lab.handle(0, &part(24, 32, false)), overlap(), "an end that is none");
            assert!(sent(lab.handle(0, &part(32, 64, true))), "{} goes on", net.name);
        }
    }
}

#[test]
fn a_node_that_does_not_hold_the_group_relays_all_fragments() {
    for net in NETS {
        let mut lab = opened(net, Protocol::Udp, NAT_PORT);
        lab.set_role(Role::Other { relay: vec![Some(PEER), Some(PEER)] });
        let received = to_vip(net, Protocol::Udp, NAT_PORT, 3);
        let from = |macs| {
            let between = (at(net.client, CLIENT_PORT), at(net.vip, NAT_PORT));
            cut(macs, &packet(Protocol::Udp, between, 64, DATA), 3)
        };
        let (relayed, from_peer) = (from((FRONT, PEER)), from((PEER, FRONT)));
        for n in [2, 0, 1, 3] {
            let outcome = lab.handle(0, &received[n]);
            assert_eq!(outcome, Outcome::Sent(0, relayed[n].clone()), "{} {n}", net.name);
            assert_eq!(lab.handle(0, &from_peer[n]), dropped(Reason::RelayLoop), "{}", net.name);
        }
        // Returns of a connection known here go their way; of an unknown one, to the holder.
        let back = |macs, src, port, ttl| {
            cut(macs, &packet(Protocol::Udp, (src, at(net.client, port)), ttl, DATA), 4)
        };
        let known = back((NAT_1, BACK), at(net.nat, REAL_PORT), CLIENT_PORT, 64);
        let returned = back((FRONT, CLIENT), at(net.vip, NAT_PORT), CLIENT_PORT, 63);
        for (frame, sent) in known.iter().zip(returned) {
            assert_eq!(lab.handle(1, frame), Outcome::Sent(0, sent), "{}", net.name);
        }
        let unknown = back((NAT_1, BACK), at(net.nat, REAL_PORT), 4444, 64);
        let relayed = back((BACK, PEER), at(net.nat, REAL_PORT), 4444, 64);
        for (frame, sent) in unknown.iter().zip(relayed) {
            assert_eq!(lab.handle(1, frame), Outcome::Sent(1, sent), "{}", net.name);
        }
    }
}

#[test]
fn fragments_wait_for_each_other_five_seconds() {
    for net in NETS {
        let mut lab = lab();
        let (received, sent) =
            (to_vip(net, Protocol::Udp, DR_PORT, 7), at_server(net, Protocol::Udp, DR_PORT, 7));
        assert_eq!(lab.handle(0, &received[0]), sent[0]);
        lab.now += FRAGMENT_TIMEOUT_NS - 1;
        assert_eq!(lab.handle(0, &received[1]), sent[1], "in time");
        lab.now += FRAGMENT_TIMEOUT_NS - 1;
        assert_eq!(lab.handle(0, &received[2]), sent[2], "in time after the second");
        lab.now += FRAGMENT_TIMEOUT_NS;
        assert_eq!(lab.handle(0, &received[3]), dropped(Reason::FragmentEarly), "too late");
        lab.now += EARLY_TIMEOUT_NS;
        assert_eq!(lab.handle(0, &received[0]), sent[0], "the identification is free again");
    }
}

#[test]
fn no_fragment_goes_to_a_removed_server() {
    for net in NETS {
        let mut lab = lab();
        let received = to_vip(net, Protocol::Udp, DR_PORT, 7);
        assert!(matches!(lab.handle(0, &received[0]), Outcome::Sent(..)));
        let mut without: ConfigSpec = spec(2);
        without.services.iter_mut().for_each(|service| service.servers.clear());
        lab.set_config(without);
        assert_eq!(lab.handle(0, &received[1]), dropped(Reason::ServerRemoved), "{}", net.name);
    }
}

/// A flood of first fragments takes no more than the table, and disturbs nobody who sends whole
/// packets; fragments of others get through again as soon as the flood is over.
#[test]
fn a_flood_of_first_fragments_is_bounded() {
    for net in NETS {
        let mut lab = opened(net, Protocol::Udp, NAT_PORT);
        for id in 0..(FRAGMENTED_MAX as u32 * 2) {
            lab.handle(0, &to_vip(net, Protocol::Udp, DR_PORT, id)[0]);
        }
        let waiting = (0..FRAGMENTED_MAX as u32 * 2)
            .filter(|id| {
                let second = &to_vip(net, Protocol::Udp, DR_PORT, *id)[1];
                matches!(lab.handle(0, second), Outcome::Sent(..))
            })
            .count();
        assert!(waiting <= FRAGMENTED_MAX, "{waiting} of {FRAGMENTED_MAX}");
        assert!(waiting >= FRAGMENTED_MAX / 2, "only {waiting} of {FRAGMENTED_MAX} fitted");
        let between = (at(net.client, CLIENT_PORT), at(net.vip, NAT_PORT));
        let whole = framed((CLIENT, FRONT), &packet(Protocol::Udp, between, 64, b"whole"));
        assert!(matches!(lab.handle(0, &whole), Outcome::Sent(1, _)), "whole packets pass");
        let id = FRAGMENTED_MAX as u32 * 3;
        let (received, sent) =
            (to_vip(net, Protocol::Udp, NAT_PORT, id), at_server(net, Protocol::Udp, NAT_PORT, id));
        for (received, sent) in received.iter().zip(sent) {
            assert_eq!(lab.handle(0, received), sent, "{}: the newest has its place", net.name);
        }
    }
}
