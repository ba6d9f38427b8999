//! What a node does with packets depending on its role in their VIP group.

use crate::lab::*;
use steadfast_dataplane::{
    GroupId, Protocol, Reason, Record, Replica, Role, ServerId, StaleSender, State,
};

fn arp_answer(target: [u8; 4], own: [u8; 6]) -> Outcome {
    let mut frame = arp_request(target, CLIENT);
    frame[6..12].copy_from_slice(&own);
    frame[21] = 2;
    frame[22..28].copy_from_slice(&own);
    frame[28..32].copy_from_slice(&target);
    frame[32..38].copy_from_slice(&CLIENT);
    frame[38..42].copy_from_slice(&[198, 18, 0, 2]);
    Outcome::Sent(if own == FRONT { 0 } else { 1 }, frame)
}

#[test]
fn arp_is_answered_by_the_holder_in_time() {
    let (vip, gateway, node) = ([198, 18, 0, 100], [198, 18, 1, 1], [198, 18, 0, 11]);
    let ignored = || dropped(Reason::ArpIgnored);
    let mut lab = Lab::new();
    run(
        &mut lab,
        &[
            ("VIP", 0, arp_request(vip, BROADCAST), arp_answer(vip, FRONT)),
            ("VIP, unicast probe", 0, arp_request(vip, FRONT), arp_answer(vip, FRONT)),
            ("gateway", 1, arp_request(gateway, BROADCAST), arp_answer(gateway, BACK)),
            ("an address of the node", 0, arp_request(node, BROADCAST), ignored()),
            ("to another MAC", 0, arp_request(vip, PEER), ignored()),
            (
                "a reply",
                0,
                {
                    let Outcome::Sent(_, frame) = arp_answer(vip, FRONT) else { unreachable!() };
                    frame
                },
                ignored(),
            ),
        ],
    );
    lab.worker.discard_questions_until(lab.now + 10);
    let (frame, answer) = (arp_request(vip, BROADCAST), arp_answer(vip, FRONT));
    assert_eq!(lab.handle(0, &frame), dropped(Reason::ArpStale), "waited during a pause");
    lab.now += 10;
    assert_eq!(lab.handle(0, &frame), answer, "the pause is over");
    lab.now = START + SECOND;
    assert_eq!(lab.handle(0, &frame), ignored(), "announce_until has passed");
    lab.now = START + 10;
    lab.set_role(Role::NoHolder { since_ns: 0 });
    assert_eq!(lab.handle(0, &frame), ignored(), "nobody holds");
    lab.set_role(Role::Other { relay: vec![Some(PEER)] });
    assert_eq!(lab.handle(0, &frame), ignored(), "another holds");
}

#[test]
fn echo_is_answered_by_the_holder() {
    let (client, vip) = ([198, 18, 0, 2], [198, 18, 0, 100]);
    let request = echo((CLIENT, FRONT), client, vip, false);
    let answer = echo((FRONT, CLIENT), vip, client, true);
    let mut lab = Lab::new();
    assert_eq!(lab.handle(0, &request), Outcome::Sent(0, answer));
    lab.set_role(Role::NoHolder { since_ns: 0 });
    assert_eq!(lab.handle(0, &request), dropped(Reason::NoHolder));
    lab.set_role(Role::Other { relay: vec![Some(PEER)] });
    let relayed = Outcome::Sent(0, echo((FRONT, PEER), client, vip, false));
    assert_eq!(lab.handle(0, &request), relayed, "a stale neighbour entry still gets its answer");
}

#[test]
fn only_the_holder_opens_connections() {
    let mut lab = Lab::new();
    let relayed = |mac, flags| {
        let (src, dst) = ("198.18.0.2:4000", "198.18.0.100:80");
        Outcome::Sent(0, tcp((FRONT, mac), src, dst, 64, flags))
    };
    lab.set_role(Role::Other { relay: vec![Some(PEER), None] });
    let datagram = udp((CLIENT, FRONT), "198.18.0.2:1", "198.18.0.100:53", 64);
    let datagram_on = udp((FRONT, PEER), "198.18.0.2:1", "198.18.0.100:53", 64);
    let from_peer = tcp((PEER, FRONT), "198.18.0.2:4000", "198.18.0.100:80", 64, SYN);
    let on_back = tcp((NAT_1, BACK), "198.18.1.9:4000", "198.18.0.100:80", 64, SYN);
    run(
        &mut lab,
        &[
            ("SYN, unchanged", 0, from_client(4000, 80, SYN), relayed(PEER, SYN)),
            ("ACK of nothing known", 0, from_client(4000, 80, ACK), relayed(PEER, ACK)),
            ("datagram", 0, datagram, Outcome::Sent(0, datagram_on)),
            ("from a node of the cluster", 0, from_peer, dropped(Reason::RelayLoop)),
            ("holder's MAC not known there", 1, on_back, dropped(Reason::NoHolder)),
        ],
    );
    lab.set_role(Role::NoHolder { since_ns: 0 });
    assert_eq!(lab.handle(0, &from_client(4000, 80, SYN)), dropped(Reason::NoHolder));
    assert!(lab.shared.table.is_empty() && lab.log.take().is_empty());
}

#[test]
fn known_connections_are_forwarded_whatever_the_role() {
    let mut lab = Lab::new();
    lab.handle(0, &from_client(4000, 80, SYN));
    let (src, dst) = ("198.18.0.2:4000", "198.18.0.100:80");
    let expected = Outcome::Sent(0, tcp((FRONT, DR_1), src, dst, 63, ACK));
    for role in [Role::NoHolder { since_ns: 0 }, Role::Other { relay: vec![Some(PEER)] }] {
        lab.set_role(role);
        assert_eq!(lab.handle(0, &from_client(4000, 80, ACK)), expected);
        let relayed = tcp((PEER, FRONT), src, dst, 64, ACK);
        assert_eq!(lab.handle(0, &relayed), expected, "also when a peer relayed it");
    }
}

#[test]
fn unknown_packets_are_held_back_before_they_are_reset() {
    let mut lab = Lab::new();
    let ack = from_client(4000, 80, ACK);
    let held = || dropped(Reason::HeldBack);
    let role = |since_ns, copy_complete| Role::Holder { epoch: epoch(1), since_ns, copy_complete };
    lab.set_role(role(START - 60 * SECOND, false));
    assert_eq!(lab.handle(0, &ack), held(), "the copy is incomplete, however long");
    lab.set_role(role(START - 3 * SECOND + 1, true));
    assert_eq!(lab.handle(0, &ack), held(), "less than 3 s since take-over");
    assert_eq!(lab.handle(0, &from_client(4000, 9, ACK)), held(), "no service yet is no reason");
    lab.now += 1;
    assert_eq!(lab.handle(0, &ack), reset(4000, 80), "3 s have passed");
    assert_eq!(
        lab.handle(0, &from_client(4000, 80, RST)),
        dropped(Reason::UnknownReset),
        "a reset is not answered"
    );
    assert!(lab.shared.table.is_empty());
}

#[test]
fn returns_of_unknown_connections_are_relayed_held_back_or_dropped() {
    let mut lab = Lab::new();
    let (real, client) = ("198.18.1.21:80", "198.18.0.2:4000");
    let reply = tcp((NAT_1, BACK), real, client, 64, ACK);
    assert_eq!(lab.handle(1, &reply), dropped(Reason::UnknownReturn));
    let (epoch, since_ns) = (epoch(1), START - SECOND);
    lab.set_role(Role::Holder { epoch, since_ns, copy_complete: true });
    assert_eq!(lab.handle(1, &reply), dropped(Reason::HeldBack), "1 s after a take-over");
    lab.set_role(Role::NoHolder { since_ns: 0 });
    assert_eq!(lab.handle(1, &reply), dropped(Reason::UnknownReturn));
    lab.set_role(Role::Other { relay: vec![None, Some(PEER)] });
    let relayed = tcp((BACK, PEER), real, client, 64, ACK);
    assert_eq!(lab.handle(1, &reply), Outcome::Sent(1, relayed), "stale entry for the gateway");
}

#[test]
fn who_sends_to_a_node_that_does_not_hold_the_group_is_noted() {
    const LATER: u64 = 1_000_000;
    let mut lab = Lab::new();
    let vip = Some([198, 18, 0, 100].into());
    let seen = |lab: &Lab| lab.shared.stale_senders.take().into_iter().collect::<Vec<_>>();
    let sender = |port, mac, vip| StaleSender { group: GroupId(1), port, mac, vip };
    lab.handle(0, &from_client(4000, 80, SYN));
    assert_eq!(seen(&lab), [], "the holder is the right one to send to");
    lab.set_role(Role::Other { relay: vec![Some(PEER), Some(PEER)] });
    lab.now += LATER;
    lab.handle(0, &from_client(4000, 80, ACK));
    assert_eq!(seen(&lab), [sender(0, CLIENT, vip)], "of a connection known here");
    lab.handle(0, &from_client(4001, 80, SYN));
    assert_eq!(seen(&lab), [], "not every frame is looked at");
    lab.now += LATER;
    lab.handle(0, &from_client(4001, 80, SYN));
    assert_eq!(seen(&lab), [sender(0, CLIENT, vip)], "of a relayed packet");
    lab.now += LATER;
    lab.handle(0, &tcp((PEER, FRONT), "198.18.0.2:4000", "198.18.0.100:80", 64, ACK));
    assert_eq!(seen(&lab), [], "a relaying node knows what it does");
    lab.now += LATER;
    lab.handle(1, &tcp((NAT_1, BACK), "198.18.1.21:80", "198.18.0.2:4000", 64, ACK));
    assert_eq!(seen(&lab), [sender(1, NAT_1, None)], "a server uses the old gateway");
}

/// The port of a finished connection is used again, and the client sends to a node that does not
/// hold the group: only the holder knows the server of the new connection.
#[test]
fn a_finished_connection_gives_way_to_the_one_that_the_holder_opens() {
    let mut lab = Lab::new();
    for flags in [SYN, ACK, RST] {
        lab.handle(0, &from_client(4000, 80, flags));
    }
    let known = |lab: &Lab| lab.find(Protocol::Tcp, "198.18.0.2:4000", "198.18.0.100:80");
    assert_eq!(known(&lab).unwrap().state(), State::Close);
    lab.set_role(Role::Other { relay: vec![Some(PEER)] });
    let relayed = |flags| {
        let (src, dst) = ("198.18.0.2:4000", "198.18.0.100:80");
        Outcome::Sent(0, tcp((FRONT, PEER), src, dst, 64, flags))
    };
    for flags in [SYN, ACK] {
        assert_eq!(lab.handle(0, &from_client(4000, 80, flags)), relayed(flags));
    }
    let finished = known(&lab).unwrap();
    let copy = |record| Replica { record, ..replica(4000, 1, State::Established) };
    let config = lab.shared.config.load_full();
    lab.shared.table.apply_replica(&copy(finished.record()), &config, lab.now);
    assert_eq!(
        lab.handle(0, &from_client(4000, 80, ACK)),
        relayed(ACK),
        "late news of the old one"
    );
    let incarnation = finished.incarnation() + 1;
    let server = ServerId(23 - finished.server().0);
    let opened = Record { incarnation, server, ..finished.record() };
    lab.shared.table.apply_replica(&copy(opened), &config, lab.now);
    let forwarded =
        Outcome::Sent(0, tcp((FRONT, DR_2), "198.18.0.2:4000", "198.18.0.100:80", 63, ACK));
    assert_eq!(lab.handle(0, &from_client(4000, 80, ACK)), forwarded, "the copy of the new one");
}
