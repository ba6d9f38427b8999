//! Without a majority: who announces, when, and how it ends.

use crate::common::*;
use steadfast_model::BootId;
use steadfast_ownership::*;

/// Nodes 1, 2 of three are dead, for long enough that node 3 is alone.
fn alone() -> Net {
    let mut net = Net::running(3);
    net.kill(1);
    net.kill(2);
    assert!(net.run_until(10_000 * MS, |net| net.answering(G) == vec![node(3)]));
    net
}

#[test]
fn two_of_three_dead_the_third_announces_after_three_seconds_below_the_epoch() {
    let mut net = Net::running(3);
    let epoch = net.epoch(3, G);
    net.kill(1);
    net.kill(2);
    let killed = net.now;
    assert!(net.run_until(10_000 * MS, |net| !net.answering(G).is_empty()));
    let took = net.now.since(killed);
    assert!((3_000 * MS..3_500 * MS).contains(&took), "{took} us");
    assert_eq!(net.answering(G), vec![node(3)]);
    assert_eq!(net.state(3, G), GroupState::Shadow);
    net.run(10_000 * MS);
    assert_eq!((net.answering(G), net.epoch(3, G)), (vec![node(3)], epoch), "it raises nothing");
    let arps = net.actions_of(3, killed);
    assert!(arps.iter().any(|(_, a)| matches!(a, Action::SendGratuitousArp { group: G })));
    assert_eq!(net.core(3).counters().claims, 0);
}

#[test]
fn nobody_announces_alone_where_the_group_says_never_or_is_strict() {
    for (policy, alone) in [
        (Policy::Available, Alone::Never),
        (Policy::Strict, Alone::Never),
        (Policy::Strict, Alone::Claim),
    ] {
        let mut net = Net::running(3);
        net.committed.groups[0].policy = policy;
        net.committed.groups[0].alone = alone;
        net.committed.applied_index += 1;
        net.apply_everywhere();
        net.run(500 * MS);
        net.kill(1);
        net.kill(2);
        net.run(200 * MS);
        let since = net.now;
        net.run(20_000 * MS);
        assert_eq!(net.answering(G), vec![], "{policy:?} {alone:?}");
        let probes = |(_, a): &(Time, Action)| matches!(a, Action::ProbeAddresses { .. });
        assert!(!net.actions_of(3, since).iter().any(probes));
    }
}

#[test]
fn who_answers_for_the_addresses_is_left_alone_and_asked_again() {
    let mut net = Net::running(3);
    // Nodes 2 and 3 die for node 1 and each other, but node 1 is seen on the wire.
    net.kill(2);
    net.isolate(3);
    net.probes_cross_cuts = true;
    let since = net.now;
    net.run(20_000 * MS);
    assert_eq!(net.answering(G), vec![node(1)]);
    let probes = |(_, a): &(Time, Action)| matches!(a, Action::ProbeAddresses { .. });
    let asked = net.actions_of(3, since).into_iter().filter(probes).count();
    assert!((5..=7).contains(&asked), "every three seconds: {asked}");
    net.kill(1);
    assert!(net.run_until(5_000 * MS, |net| net.answering(G) == vec![node(3)]));
}

#[test]
fn a_probe_without_a_report_leads_to_nothing_but_another_one() {
    let mut net = Net::running(3);
    net.probes_are_lost = true;
    net.kill(1);
    net.kill(2);
    let since = net.now;
    net.run(20_000 * MS);
    assert_eq!(net.answering(G), vec![]);
    let probes = |(_, a): &(Time, Action)| matches!(a, Action::ProbeAddresses { .. });
    assert!(net.actions_of(3, since).into_iter().filter(probes).count() >= 4);
    let now = net.now;
    // A late answer to nobody's question.
    net.core(3).handle_probed(now, steadfast_model::GroupId(77), false);
}

#[test]
fn a_shadow_yields_to_its_holder_at_the_first_beacon() {
    let mut net = Net::running(3);
    net.kill(2);
    net.isolate(3);
    assert!(net.run_until(10_000 * MS, |net| net.answering(G) == vec![node(1), node(3)]));
    net.run(1_000 * MS);
    net.cuts.clear();
    let healed = net.now;
    assert!(net.run_until(500 * MS, |net| net.answering(G) == vec![node(1)]));
    assert!(net.now.since(healed) <= 27 * MS, "{} us", net.now.since(healed));
    let stop = Action::StopAnnouncing { group: G, why: StopReason::ShadowEnded };
    assert!(net.actions_of(3, healed).iter().any(|(_, action)| *action == stop));
    net.run(1_000 * MS);
    assert_eq!((net.answering(G), net.state(3, G)), (vec![node(1)], GroupState::Following));
}

#[test]
fn a_holder_that_hears_a_shadow_wins_back_who_believed_it() {
    let mut net = Net::running(3);
    net.isolate(3);
    assert!(net.run_until(10_000 * MS, |net| net.answering(G) == vec![node(1), node(3)]));
    net.run(1_000 * MS);
    // It speaks, but stays deaf.
    net.cuts.retain(|(from, _, _)| *from != node(3));
    let since = net.now;
    net.run(100 * MS);
    let said = net.actions_of(1, since);
    assert!(said.iter().any(|(_, a)| matches!(a, Action::SendGratuitousArp { group: G })));
    assert!(
        said.iter().any(|(_, a)| matches!(a, Action::TellStale { node: n, .. } if *n == node(3)))
    );
}

#[test]
fn between_two_shadows_the_better_rank_goes_on() {
    // Five voters: 1 holds, 4 and 5 die with it; 2 and 3 do not hear each other.
    let mut net = Net::new(5, Settings::default());
    net.lead(1);
    net.run(1_000 * MS);
    assert_eq!(net.answering(G), vec![node(1)]);
    for dead in [1, 4, 5] {
        net.kill(dead);
    }
    net.isolate(2);
    net.isolate(3);
    assert!(net.run_until(10_000 * MS, |net| net.answering(G) == vec![node(2), node(3)]));
    net.cuts.clear();
    assert!(net.run_until(100 * MS, |net| net.answering(G) == vec![node(2)]));
    for _ in 0..2_000 {
        net.run(5 * MS);
        assert_eq!(net.answering(G), vec![node(2)]);
    }
    // Two that hear each other from the start do not even begin both.
    net.kill(2);
    assert!(net.run_until(5_000 * MS, |net| net.answering(G) == vec![node(3)]));
    net.restart(2);
    net.run(10_000 * MS);
    assert_eq!(net.answering(G), vec![node(3)], "who came back finds a shadow");
}

#[test]
fn with_a_majority_back_a_shadow_becomes_a_holder_without_a_gap() {
    let mut net = alone();
    let epoch = net.epoch(3, G);
    net.run(1_000 * MS);
    net.restart(2);
    let back = net.now;
    let mut held = false;
    while net.now.since(back) < 3_000 * MS {
        net.run(MS / 5);
        assert_eq!(net.answering(G), vec![node(3)], "{} us on", net.now.since(back));
        held |= net.state(3, G) == GroupState::Holding;
    }
    assert!(held && net.epoch(3, G) > epoch && net.epoch(3, G).node == node(3));
    net.restart(1);
    net.lead(1);
    net.run(2_000 * MS);
    assert_eq!((net.answering(G), net.epoch(3, G).claim), (vec![node(3)], 0), "ratified");
}

#[test]
fn a_shadow_claims_before_those_who_waited_beside_it() {
    for skew in 0..20 {
        let mut net = Net::new(5, Settings::default());
        net.lead(1);
        net.run(1_000 * MS);
        for dead in [1, 2, 5] {
            net.kill(dead);
        }
        // Node 4 has as good a copy, but waits, for it hears node 3.
        assert!(net.run_until(10_000 * MS, |net| net.answering(G) == vec![node(3)]));
        net.run(1_000 * MS + skew * MS);
        net.restart(2);
        let back = net.now;
        for _ in 0..4_000 {
            net.run(MS / 2);
            assert_eq!(net.answering(G), vec![node(3)], "{skew}: {} us on", net.now.since(back));
        }
        assert_eq!(net.state(3, G), GroupState::Holding);
        assert_eq!(net.core(4).counters().claims, 0);
    }
}

/// A node that does not hear the holder, but a majority that does.
#[test]
fn who_hears_a_majority_does_not_even_probe() {
    let mut net = Net::running(3);
    net.deafen(1, 3);
    let since = net.now;
    net.run(20_000 * MS);
    assert_eq!(net.answering(G), vec![node(1)]);
    let probes = |(_, a): &(Time, Action)| matches!(a, Action::ProbeAddresses { .. });
    assert!(!net.actions_of(3, since).iter().any(probes));
}

#[test]
fn a_shadow_that_cannot_serve_or_was_paused_falls_silent() {
    let mut net = alone();
    let now = net.now;
    net.core(3).handle_link(now, SEG, false);
    net.run(MS);
    assert_eq!(net.answering(G), vec![]);
    let mut net = alone();
    net.pause(3, true);
    net.run(500 * MS);
    assert_eq!(net.answering(G), vec![]);
    net.pause(3, false);
    net.run(1_000 * MS);
    assert_eq!(net.answering(G), vec![], "somebody else may have begun: it looks again");
    assert!(net.run_until(5_000 * MS, |net| net.answering(G) == vec![node(3)]));
}

#[test]
fn what_is_no_beacon_does_not_make_a_lone_holder_sure() {
    let mut net = Net::running(3);
    net.isolate(1);
    net.run(500 * MS);
    let (now, boot) = (net.now, BootId((3 << 32) + 1));
    assert!(!net.core(1).hears_majority(now));
    // The first that gets through after the cut: it says nothing of what was granted meanwhile.
    let body = Message::ClaimRequest(ClaimRequest { holder: node(2), claims: Vec::new() });
    let frame = Frame { from: node(3), boot, sequence: 1 << 20, path: Path::Peer, to: None, body };
    let rejected = net.core(1).counters().rejected.clone();
    net.core(1).handle_message(now, Path::Peer, frame);
    assert!(!net.core(1).hears_majority(now), "a beacon has to come first");
    assert_eq!(net.core(1).counters().rejected, rejected, "it was believed");
}
