//! One test per rule of ownership, on a virtual network.

use crate::common::*;
use steadfast_model::*;
use steadfast_ownership::*;

#[test]
fn the_first_grant_is_announced_by_one_node() {
    let net = Net::running(3);
    assert_eq!(net.holders(G), vec![node(1)]);
    assert_eq!(net.state(2, G), GroupState::Following);
}

#[test]
fn a_complete_candidate_claims_as_soon_as_the_holder_is_silent() {
    let mut net = Net::running(3);
    let before = net.epoch(2, G);
    let killed = net.now;
    net.kill(1);
    assert!(net.run_until(500 * MS, |net| !net.holders(G).is_empty()));
    let took = net.now.since(killed);
    assert_eq!(net.holders(G), vec![node(2)]);
    assert!((75 * MS..130 * MS).contains(&took), "{took} us");
    let epoch = net.epoch(2, G);
    assert_eq!((epoch.grant_index, epoch.claim), (before.grant_index, before.claim + 1));
}

#[test]
fn a_node_heard_on_one_path_is_not_silent() {
    let mut net = Net::running(3);
    for other in [2, 3] {
        net.cut(1, other, Path::Segment(SEG));
    }
    let since = net.now;
    net.run(60 * MS);
    assert_eq!(net.holders(G), vec![node(1)], "the control connection still carries its beacons");
    let other = |a: &Action| !matches!(a, Action::SendGratuitousArp { .. });
    assert!(!net.actions_of(2, since).iter().any(|(_, a)| other(a)));
}

#[test]
fn a_minority_of_voters_elects_nobody() {
    let mut net = Net::running(3);
    net.kill(1);
    net.kill(3);
    net.run(2_000 * MS);
    assert_eq!(net.holders(G), vec![]);
    assert_eq!(net.state(2, G), GroupState::Suspect);
}

#[test]
fn a_holder_without_contact_keeps_announcing_and_yields_when_healed() {
    let mut net = Net::running(3);
    net.isolate(1);
    net.run(1_000 * MS);
    assert_eq!(net.holders(G), vec![node(1), node(2)], "cut off, both serve their side");
    net.cuts.clear();
    let healed = net.now;
    assert!(net.run_until(100 * MS, |net| net.holders(G) == vec![node(2)]));
    net.run(500 * MS);
    assert_eq!(net.state(1, G), GroupState::Following);
    let stops = net.actions_of(1, healed);
    let deposed = |a: &Action| {
        matches!(
            a,
            Action::StopAnnouncing {
                why: StopReason::HigherEpoch(_) | StopReason::NotConfirmed,
                ..
            }
        )
    };
    assert!(stops.iter().any(|(at, a)| deposed(a) && at.since(healed) < 60 * MS), "{stops:?}");
}

#[test]
fn a_lower_epoch_is_answered_with_gratuitous_arp() {
    let mut net = Net::running(3);
    net.isolate(1);
    net.run(1_500 * MS);
    // Only its own frames get through again, so that it does not yield first.
    net.cuts.retain(|(from, _, _)| *from != node(1));
    let healed = net.now;
    net.run(100 * MS);
    let actions = net.actions_of(2, healed);
    assert!(actions.iter().any(|(_, a)| matches!(a, Action::TellStale { node: NodeId(1), .. })));
    assert!(actions.iter().any(|(_, a)| matches!(a, Action::SendGratuitousArp { .. })));
}

#[test]
fn gratuitous_arp_goes_out_at_0_20_100_300_700_ms_and_every_minute() {
    let mut net = Net::running(3);
    let killed = net.now;
    net.kill(1);
    net.run(61_500 * MS);
    let arps: Vec<Time> = net
        .actions_of(2, killed)
        .into_iter()
        .filter(|(_, action)| matches!(action, Action::SendGratuitousArp { group: G }))
        .map(|(at, _)| at)
        .collect();
    let offsets: Vec<u64> = arps.iter().map(|at| at.since(arps[0])).collect();
    assert_eq!(offsets, [0, 20, 100, 300, 700, 60_700].map(|ms| ms * MS));
}

#[test]
fn complete_candidates_go_before_stale_and_empty_ones() {
    let mut net = Net::running(3);
    net.complete.remove(&(node(2), node(1)));
    net.run(1_000 * MS);
    net.kill(1);
    assert!(net.run_until(500 * MS, |net| !net.holders(G).is_empty()));
    assert_eq!(net.holders(G), vec![node(3)], "node 2 ranks first, but its copy is stale");
}

#[test]
fn a_stale_candidate_claims_200_ms_later() {
    let mut net = Net::running(3);
    net.complete.clear();
    net.run(1_000 * MS);
    let killed = net.now;
    net.kill(1);
    assert!(net.run_until(1_000 * MS, |net| !net.holders(G).is_empty()));
    let took = net.now.since(killed);
    assert!((275 * MS..340 * MS).contains(&took), "{took} us");
}

#[test]
fn an_empty_candidate_claims_a_second_later() {
    let mut net = Net::running(3);
    net.complete.clear();
    net.kill(2);
    net.kill(3);
    net.restart(2);
    net.restart(3);
    net.run(1_000 * MS);
    let killed = net.now;
    net.kill(1);
    assert!(net.run_until(3_000 * MS, |net| !net.holders(G).is_empty()));
    let took = net.now.since(killed);
    assert!((1_075 * MS..1_140 * MS).contains(&took), "{took} us");
}

#[test]
fn a_dead_better_candidate_is_not_waited_for_and_a_live_one_is() {
    let mut net = Net::running(3);
    net.kill(2);
    net.run(200 * MS);
    let killed = net.now;
    net.kill(1);
    // Node 3 alone is no majority of three: node 2 comes back only to consent.
    net.committed.members[1].cordoned = true;
    net.restart(2);
    assert!(net.run_until(1_000 * MS, |net| !net.holders(G).is_empty()));
    assert_eq!(net.holders(G), vec![node(3)]);
    assert!(net.now.since(killed) < 300 * MS);
}

#[test]
fn a_cordoned_node_consents_but_does_not_claim() {
    let mut net = Net::running(3);
    net.committed.members[1].cordoned = true;
    net.committed.applied_index += 1;
    net.apply_everywhere();
    net.run(50 * MS);
    net.kill(1);
    assert!(net.run_until(500 * MS, |net| !net.holders(G).is_empty()));
    assert_eq!(net.holders(G), vec![node(3)]);
    assert!(net.core(2).counters().consents > 0);
    assert_eq!(net.core(2).counters().claims, 0);
}

#[test]
fn a_learner_claims_by_the_consent_of_voters_only() {
    let mut net = Net::new(4, Settings::default());
    net.committed.voters.pop();
    net.committed.groups = vec![group(G, &[1, 4])];
    for n in 1..=4 {
        net.boot(node(n), 1);
    }
    net.lead(1);
    net.run(500 * MS);
    assert_eq!(net.holders(G), vec![node(1)]);
    net.kill(1);
    assert!(net.run_until(500 * MS, |net| net.holders(G) == vec![node(4)]));
    net.kill(2);
    net.kill(3);
    net.kill(4);
    net.restart(4);
    net.run(1_000 * MS);
    assert_eq!(net.holders(G), vec![], "a learner's own word is no vote");
}

#[test]
fn a_restarted_voter_abstains_for_one_silence_time() {
    let mut net = Net::running(3);
    net.kill(3);
    net.run(300 * MS);
    net.restart(3);
    net.kill(1);
    let killed = net.now;
    assert!(net.core(3).status(killed).abstains);
    assert!(net.run_until(1_000 * MS, |net| !net.holders(G).is_empty()));
    let refusals = net.core(3).counters().refusals;
    assert!(net.now.since(killed) >= 100 * MS, "{refusals}");
    assert!(!net.core(3).status(killed + 200 * MS).abstains);
}

#[test]
fn a_claim_is_ratified_by_the_leader() {
    let mut net = Net::running(3);
    net.kill(1);
    net.run(300 * MS);
    let claimed = net.epoch(2, G);
    assert_eq!(claimed.claim, 1, "no leader, and nobody had to wait for one");
    net.lead(3);
    net.run(300 * MS);
    let ratified = net.epoch(2, G);
    assert!(ratified > claimed && ratified.claim == 0 && ratified.node == node(2));
    assert_eq!(net.holders(G), vec![node(2)]);
    let proposals = net.actions_of(3, Time(0));
    assert_eq!(
        proposals.iter().filter(|(_, a)| matches!(a, Action::ProposeGrant { .. })).count(),
        1
    );
}

#[test]
fn nothing_else_is_granted_while_a_claim_waits_for_ratification() {
    let mut net = Net::running(3);
    net.kill(1);
    net.run(200 * MS);
    let now = net.now;
    net.core(3).handle_leader(now, true);
    assert_eq!(net.core(3).handle_move(now, G, Some(node(3))), Err(MoveError::Busy));
}

#[test]
fn a_new_run_of_the_holder_is_its_resignation() {
    let mut net = Net::running(3);
    net.kill(1);
    let restarted = net.now;
    net.restart(1);
    assert!(net.run_until(500 * MS, |net| !net.holders(G).is_empty()));
    assert_eq!(net.holders(G), vec![node(2)]);
    assert!(net.now.since(restarted) < 80 * MS, "nobody waits for its silence");
    net.run(500 * MS);
    assert_eq!(net.state(1, G), GroupState::Following);
}

#[test]
fn a_grant_for_an_earlier_run_is_not_announced() {
    let mut net = Net::running(1);
    assert_eq!(net.holders(G), vec![node(1)]);
    net.kill(1);
    net.restart(1);
    let restarted = net.now;
    net.run(50 * MS);
    let announced = net.actions_of(1, restarted);
    let under_old =
        |a: &Action| matches!(a, Action::StartAnnouncing { epoch, .. } if epoch.claim == 0);
    assert!(!announced.iter().any(|(_, a)| under_old(a)), "{announced:?}");
}

#[test]
fn a_planned_move_hands_over_without_two_announcers() {
    let mut net = Net::running(3);
    net.lagging = Some(node(1));
    let now = net.now;
    assert_eq!(net.core(1).handle_move(now, G, Some(node(3))), Ok(node(3)));
    let mut nobody = 0;
    for _ in 0..1_000 {
        net.run(100);
        let holders = net.holders(G);
        assert!(holders.len() <= 1, "{holders:?}");
        nobody += usize::from(holders.is_empty());
    }
    assert_eq!(net.holders(G), vec![node(3)]);
    assert!(nobody <= 20, "nobody answered ARP for {} us", nobody * 100);
    assert!(net.actions_of(1, now).iter().any(|(_, a)| {
        matches!(a, Action::RoleChanged { role: Role::Other { node: NodeId(3) }, .. })
    }));
}

#[test]
fn a_planned_move_waits_for_a_complete_copy() {
    let mut net = Net::running(3);
    net.complete.remove(&(node(3), node(1)));
    net.run(1_000 * MS);
    let now = net.now;
    let refused = net.core(1).handle_move(now, G, Some(node(3)));
    assert_eq!(refused, Err(MoveError::NotComplete(node(3))));
    assert_eq!(net.core(2).handle_move(now, G, Some(node(3))), Err(MoveError::NotLeader));
}

#[test]
fn a_forced_move_asks_for_no_copy_and_for_all_else() {
    let mut net = Net::running(3);
    net.complete.remove(&(node(3), node(1)));
    net.run(1_000 * MS);
    let now = net.now;
    assert_eq!(net.core(2).handle_forced_move(now, G, node(3)), Err(MoveError::NotLeader));
    let already = net.core(1).handle_forced_move(now, G, node(1));
    assert_eq!(already, Err(MoveError::AlreadyThere(node(1))));
    assert_eq!(net.core(1).handle_forced_move(now, G, node(3)), Ok(node(3)));
    net.run(300 * MS);
    assert_eq!(net.holders(G), vec![node(3)]);
    net.kill(2);
    net.run(300 * MS);
    let now = net.now;
    let silent = net.core(1).handle_forced_move(now, G, node(2));
    assert_eq!(silent, Err(MoveError::Silent(node(2))));
}

#[test]
fn a_stop_moves_every_group_away_first() {
    let mut net = Net::running(3);
    let now = net.now;
    net.core(1).handle_shutdown(now);
    assert!(net.run_until(500 * MS, |net| net.holders(G) == vec![node(2)]));
    assert!(net.core(1).holds_nothing());
    assert_eq!(net.epoch(2, G).claim, 0, "by a grant, not by a claim");
    assert_eq!(net.core(1).counters().resignations, 0);
}

#[test]
fn a_stop_that_cannot_move_asks_and_resigns_at_the_bound() {
    let mut net = Net::running(3);
    net.lead(2);
    net.leader = None;
    net.run(50 * MS);
    let now = net.now;
    net.core(1).handle_shutdown(now);
    net.run(2_900 * MS);
    assert_eq!(net.holders(G), vec![node(1)]);
    assert!(net.actions_of(1, now).iter().any(|(_, a)| matches!(a, Action::RequestMove { .. })));
    net.run(200 * MS);
    assert_eq!(net.holders(G), vec![node(2)]);
    assert_eq!(net.core(1).counters().resignations, 1);
}

#[test]
fn first_grants_spread_over_the_live_nodes() {
    let mut net = Net::new(3, Settings::default());
    net.committed.groups = (1..=9).map(|g| group(GroupId(g), &[1, 2, 3])).collect();
    for n in 1..=3 {
        net.boot(node(n), 1);
    }
    net.lead(2);
    net.run(2_000 * MS);
    for n in 1..=3 {
        let held = (1..=9).filter(|g| net.holders(GroupId(*g)) == vec![node(n)]).count();
        assert_eq!(held, 3, "node {n}");
    }
}

#[test]
fn a_dead_node_loses_all_its_groups_in_one_batch() {
    let mut net = Net::new(3, Settings::default());
    net.committed.groups = (1..=100).map(|g| group(GroupId(g), &[1, 2, 3])).collect();
    for n in 1..=3 {
        net.boot(node(n), 1);
    }
    net.lead(1);
    net.run(5_000 * MS);
    net.log_frames = true;
    let killed = net.now;
    net.kill(1);
    let all = |net: &Net| (1..=100).all(|g| net.holders(GroupId(g)).len() == 1);
    let done = net.run_until(400 * MS, all);
    let missing: Vec<_> = (1..=100)
        .map(GroupId)
        .filter(|g| net.holders(*g).len() != 1)
        .map(|g| (g, net.state(2, g), net.state(3, g), net.epoch(2, g), net.epoch(3, g)))
        .collect();
    assert!(done, "{missing:?}");
    assert!(net.now.since(killed) < 200 * MS, "{} us", net.now.since(killed));
    let requests = net.frames.iter().filter(|(_, frame)| {
        frame.path == Path::Segment(SEG) && matches!(frame.body, Message::ClaimRequest(_))
    });
    assert!(requests.count() <= 8, "34 groups are two messages for each of two claimants");
}

#[test]
fn the_leader_grants_when_nobody_claimed() {
    let mut net = Net::running(3);
    net.lead(3);
    net.committed.groups[0].candidates = vec![node(1), node(3)];
    net.committed.members[2].cordoned = true;
    net.committed.applied_index += 1;
    net.apply_everywhere();
    net.run(100 * MS);
    net.kill(1);
    net.run(5_000 * MS);
    assert_eq!(net.holders(G), vec![], "the only other candidate is cordoned");
    net.committed.groups[0].candidates = vec![node(1), node(2)];
    net.committed.applied_index += 1;
    net.apply_everywhere();
    assert!(net.run_until(3_000 * MS, |net| net.holders(G) == vec![node(2)]));
}

#[test]
fn a_whole_cluster_that_lost_power_comes_back() {
    let mut net = Net::running(3);
    for n in 1..=3 {
        net.kill(n);
    }
    net.complete.clear();
    net.run(5_000 * MS);
    for n in 1..=3 {
        net.restart(n);
    }
    assert!(net.run_until(3_000 * MS, |net| net.holders(G).len() == 1));
}

#[test]
fn a_dead_leader_that_holds_nothing_changes_nothing() {
    let mut net = Net::running(3);
    net.lead(3);
    net.run(100 * MS);
    let before = net.epoch(1, G);
    let since = net.now;
    net.kill(3);
    net.run(1_000 * MS);
    assert_eq!((net.holders(G), net.epoch(1, G)), (vec![node(1)], before));
    let other = |a: &Action| !matches!(a, Action::SendGratuitousArp { .. });
    assert!(!net.actions_of(1, since).iter().any(|(_, a)| other(a)));
}

#[test]
fn losing_both_others_changes_nothing_for_long() {
    let mut net = Net::running(3);
    net.kill(2);
    net.kill(3);
    let killed = net.now;
    net.run(2_000 * MS);
    assert_eq!(net.holders(G), vec![node(1)]);
    let roles = net.actions_of(1, killed);
    assert!(!roles.iter().any(|(_, a)| matches!(a, Action::RoleChanged { .. })), "{roles:?}");
}

#[test]
fn a_claim_number_is_promised_to_one_node_only() {
    let mut net = Net::new(4, Settings::default());
    net.committed.voters.pop();
    net.committed.members[1].cordoned = true;
    for n in 1..=4 {
        net.boot(node(n), 1);
    }
    net.lead(3);
    net.run(500 * MS);
    let held = net.epoch(2, G);
    let (holder, others) = (held.node, [1, 3, 4].map(node));
    for n in others {
        net.kill(n.0);
    }
    net.run(200 * MS);
    let askers: Vec<_> = others.into_iter().filter(|n| *n != holder).collect();
    let now = net.now;
    for (asker, consents) in [(askers[0], 1), (askers[1], 1), (askers[0], 2)] {
        let claim = Epoch { claim: 1, node: asker, ..held };
        let body = Message::ClaimRequest(ClaimRequest { holder, claims: vec![(G, claim)] });
        let boot = BootId((u64::from(asker.0) << 32) + 1);
        let sequence = 1_000 + consents + u64::from(asker == askers[0]);
        let frame = Frame { from: asker, boot, sequence, path: Path::Peer, to: None, body };
        net.core(2).handle_message(now, Path::Peer, frame);
        assert_eq!(net.core(2).counters().consents, consents, "asked by {asker}");
        let answer = std::iter::from_fn(|| net.core(2).poll_action())
            .find_map(|action| match action {
                Action::SendPeer { frame: Frame { body: Message::ClaimAnswer(a), .. }, .. } => {
                    Some(a)
                }
                _ => None,
            })
            .unwrap();
        if asker == askers[1] {
            let promised = Epoch { claim: 1, node: askers[0], ..held };
            assert_eq!(answer.refusals, [(G, Refusal::Promised(promised))]);
        }
    }
    assert_eq!(net.core(2).counters().refusals, 1);
    let above = Epoch { claim: 1, node: askers[0], ..held };
    assert_eq!(net.epoch(2, G), above, "the promise is reported in every beacon");
}

#[test]
fn the_holder_tells_a_sender_that_still_uses_another_node_after_ten_seconds() {
    let mut net = Net::running(3);
    net.grant(G, 2);
    assert!(net.run_until(500 * MS, |net| net.holders(G) == vec![node(2)]));
    let moved = net.now;
    let mac = [2, 0, 0, 0, 0, 9];
    let client = StaleSender { group: G, segment: SEG, mac, vip: Some([198, 18, 0, 100].into()) };
    // A group that nobody knows, and one that the sender of the report holds itself.
    let unknown = StaleSender { group: GroupId(77), ..client };
    let told = |net: &Net, n| {
        let mut actions = net.actions_of(n, moved).into_iter();
        actions.find_map(|(at, a)| match a {
            Action::AnnounceTo { sender } => Some((at, sender)),
            _ => None,
        })
    };
    while net.now.since(moved) < 15_000 * MS {
        let now = net.now;
        for n in [1, 2, 3] {
            net.core(n).handle_stale_senders(now, &[client, unknown].into());
        }
        net.run(1_000 * MS);
    }
    let (at, sender) = told(&net, 2).expect("the holder announces to it");
    assert_eq!(sender, client);
    let after = at.since(moved);
    assert!((9_900 * MS..11_500 * MS).contains(&after), "{after} us after the move");
    assert_eq!((told(&net, 1), told(&net, 3)), (None, None), "nobody else does");
}

/// A beacon has room for a few segments only: those of earlier configurations must not fill it.
#[test]
fn a_segment_that_is_gone_is_spoken_of_no_more() {
    let mut net = Net::running(3);
    for number in 0..PATHS_MAX as u16 {
        let earlier = SegmentId(number + 100);
        for n in [1, 2, 3] {
            let now = net.now;
            net.core(n).handle_link(now, earlier, true);
        }
        net.run(200 * MS);
        for n in [1, 2, 3] {
            let now = net.now;
            net.core(n).handle_segment_gone(now, earlier);
        }
    }
    net.run(200 * MS);
    let now = net.now;
    for peer in net.core(1).status(now).peers {
        let paths: Vec<_> = peer.paths.iter().map(|(path, _)| *path).collect();
        assert_eq!(paths, [Path::Peer, Path::Segment(SEG)], "{}", peer.node);
    }
    net.log_frames = true;
    net.run(100 * MS);
    let on = |frame: &Frame| matches!(frame.path, Path::Segment(segment) if segment != SEG);
    assert!(!net.frames.iter().any(|(_, frame)| on(frame)), "still sent there");
    assert_eq!(net.holders(G), vec![node(1)]);
}
