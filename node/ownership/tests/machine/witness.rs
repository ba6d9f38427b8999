//! Small clusters: two nodes and a witness, and one node.

use crate::common::*;
use steadfast_ownership::*;

/// Nodes 1 and 2, and the witness 3, which is on no segment. The group names all three.
fn with_witness(policy: Policy) -> Net {
    let mut net = Net::new(3, Settings::default());
    net.committed.members[2].witness = true;
    net.committed.groups[0].policy = policy;
    // Only the flag keeps the witness from holding it.
    net.committed.groups[0].segments.clear();
    net.committed.groups[0].candidates.rotate_right(1);
    assert_eq!(net.committed.groups[0].candidates[0], node(3), "ranked first, were it a node");
    for n in [1, 2, 3] {
        net.boot(node(n), 1);
    }
    let now = net.now;
    net.core(3).handle_segment_gone(now, SEG);
    for other in [1, 2] {
        net.cut(3, other, Path::Segment(SEG));
        net.cut(other, 3, Path::Segment(SEG));
    }
    net.lead(3);
    assert!(net.run_until(2_000 * MS, |net| net.answering(G) == vec![node(1)]));
    net.run(200 * MS);
    net
}

#[test]
fn with_the_consent_of_a_witness_the_other_node_takes_over() {
    for policy in [Policy::Available, Policy::Strict] {
        let mut net = with_witness(policy);
        let killed = net.now;
        net.kill(1);
        assert!(net.run_until(500 * MS, |net| net.answering(G) == vec![node(2)]));
        let took = net.now.since(killed);
        assert!((75 * MS..120 * MS).contains(&took), "nobody waits for its rank: {took} us");
        net.restart(1);
        net.run(3_000 * MS);
        assert_eq!(net.answering(G), vec![node(2)], "moving back is planned");
    }
}

#[test]
fn a_witness_holds_nothing_whoever_else_is_there() {
    let mut net = with_witness(Policy::Available);
    let now = net.now;
    let refused = net.core(3).handle_move(now, G, Some(node(3)));
    assert_eq!(refused, Err(MoveError::NotCandidate(node(3))));
    net.kill(1);
    net.run(500 * MS);
    net.kill(2);
    net.run(20_000 * MS);
    assert_eq!(net.answering(G), vec![]);
    assert_eq!(net.core(3).counters().claims, 0);
    net.restart(1);
    let long = Settings::default().regrant_after + 3_000 * MS;
    assert!(net.run_until(long, |net| net.answering(G) == vec![node(1)]));
}

#[test]
fn a_dead_witness_changes_nothing_until_a_node_dies_too() {
    let mut net = with_witness(Policy::Available);
    net.kill(3);
    net.lead(1);
    let since = net.now;
    net.run(5_000 * MS);
    assert_eq!(net.answering(G), vec![node(1)]);
    let stops = |(_, a): &(Time, Action)| matches!(a, Action::StopAnnouncing { .. });
    assert!(!net.actions_of(1, since).iter().any(stops));
    net.kill(1);
    net.run(2_900 * MS);
    assert_eq!(net.answering(G), vec![], "one of three is no majority");
    assert!(net.run_until(1_000 * MS, |net| net.answering(G) == vec![node(2)]), "alone: claim");
}

#[test]
fn a_claim_of_a_witness_is_refused() {
    let mut net = with_witness(Policy::Available);
    net.committed.members[1].cordoned = true;
    net.committed.applied_index += 1;
    net.apply_everywhere();
    net.run(100 * MS);
    net.kill(1);
    net.run(200 * MS);
    assert_eq!(net.state(2, G), GroupState::Suspect);
    let claim = steadfast_model::Epoch { node: node(3), claim: 7, ..net.epoch(2, G) };
    let body = Message::ClaimRequest(ClaimRequest { holder: node(1), claims: vec![(G, claim)] });
    let boot = steadfast_model::BootId((3 << 32) + 1);
    let (from, sequence, path) = (node(3), 1 << 20, Path::Peer);
    let frame = Frame { from, boot, sequence, path, to: None, body };
    let (now, before) = (net.now, net.core(2).counters().refusals);
    net.core(2).handle_message(now, Path::Peer, frame);
    assert_eq!(net.core(2).counters().refusals, before + 1);
}

#[test]
fn one_node_holds_whatever_it_can_and_comes_back_alone() {
    for policy in [Policy::Available, Policy::Strict] {
        let mut net = Net::new(1, Settings::default());
        net.committed.groups[0].policy = policy;
        net.boot(node(1), 1);
        net.lead(1);
        assert!(net.run_until(500 * MS, |net| net.answering(G) == vec![node(1)]));
        let steady = net.now;
        net.run(10_000 * MS);
        let stops = |(_, a): &(Time, Action)| matches!(a, Action::StopAnnouncing { .. });
        assert!(!net.actions_of(1, steady).iter().any(stops));
        net.kill(1);
        net.run(1_000 * MS);
        net.restart(1);
        net.lead(1);
        assert!(net.run_until(2_000 * MS, |net| net.answering(G) == vec![node(1)]));
        assert_eq!(net.state(1, G), GroupState::Holding, "by a right of this run");
    }
}
