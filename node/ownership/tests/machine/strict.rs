//! Strict groups: never two announcers, also for what workers were told before a pause.

use crate::common::*;
use steadfast_ownership::*;

/// Runs for `span` and looks every 200 us.
fn watch(net: &mut Net, span: u64, mut look: impl FnMut(&Net)) {
    let end = net.now + span;
    while net.now < end {
        net.run(MS / 5);
        look(net);
    }
}

fn never_two(net: &Net) {
    for group in &net.committed.groups {
        let answering = net.answering(group.id);
        assert!(answering.len() <= 1, "{}: {answering:?} at {:?}", group.id, net.now);
    }
}

#[test]
fn a_strict_holder_without_a_majority_falls_silent_and_comes_back() {
    let mut net = Net::strict(1);
    net.kill(2);
    net.kill(3);
    let alone = net.now;
    assert!(net.run_until(500 * MS, |net| net.answering(G).is_empty()));
    assert!(net.now.since(alone) < 100 * MS, "{} us", net.now.since(alone));
    let why = StopReason::NotConfirmed;
    let stop = Action::StopAnnouncing { group: G, why };
    net.run(MS);
    assert!(net.actions_of(1, alone).iter().any(|(_, action)| *action == stop));
    watch(&mut net, 5_000 * MS, |net| assert_eq!(net.answering(G), vec![]));
    assert_eq!(net.state(1, G), GroupState::Muted, "it holds on, and forwards");
    net.restart(2);
    let back = net.now;
    assert!(net.run_until(1_000 * MS, |net| net.answering(G) == vec![node(1)]));
    assert!(net.now.since(back) >= 100 * MS, "a voter that abstains confirms nobody");
}

#[test]
fn a_strict_holder_that_is_cut_off_is_silent_before_its_successor_speaks() {
    for skew in 0..30 {
        let mut net = Net::strict(1);
        net.run(skew * MS);
        net.isolate(1);
        watch(&mut net, 500 * MS, never_two);
        assert_eq!(net.answering(G), vec![node(2)], "{skew}");
        net.cuts.clear();
        watch(&mut net, 500 * MS, never_two);
        assert_eq!(net.answering(G), vec![node(2)], "{skew}");
    }
}

/// The loop stops right after it told the workers; what they were told must end by itself.
#[test]
fn what_workers_were_told_before_a_pause_ends_before_a_successor_speaks() {
    for skew in 0..30 {
        let mut net = Net::strict(1);
        net.run(skew * MS);
        // It hears the others, but they do not hear it: the confirmation is old when it pauses.
        net.deafen(1, 2);
        net.deafen(1, 3);
        watch(&mut net, (skew % 7) * 10 * MS, never_two);
        net.pause(1, true);
        watch(&mut net, 500 * MS, never_two);
        assert_eq!(net.answering(G), vec![node(2)], "{skew}");
        net.cuts.clear();
        net.pause(1, false);
        watch(&mut net, 500 * MS, never_two);
    }
}

#[test]
fn the_margin_is_kept_from_what_was_confirmed() {
    let mut net = Net::strict(1);
    let settings = Settings::default();
    assert!(settings.strict_margin >= settings.silence() / 1_000, "500 ppm fast, 500 ppm slow");
    net.isolate(1);
    let mut closest = u64::MAX;
    watch(&mut net, 150 * MS, |net| {
        let node = &net.nodes[&node(1)];
        let Some(until) = node.published.get(&G) else { return };
        // With its own vote, the longer of the two others' is a majority's.
        let peers = node.core.status(net.now).peers;
        let confirmed = net.now + peers.iter().map(|peer| peer.confirmed_for).max().unwrap();
        assert!(*until + settings.strict_margin <= confirmed, "{until:?} of {confirmed:?}");
        closest = closest.min(confirmed.since(*until));
    });
    assert_eq!(closest, settings.strict_margin, "the confirmation was what ended it");
}

/// More groups than one beacon carries: a voter that has promised them to another node must not
/// confirm their former holder by a beacon that does not say so.
#[test]
fn a_voter_that_could_not_tell_all_confirms_nothing() {
    for skew in 0..12 {
        let mut net = Net::strict(3 * GROUPS_PER_BEACON as u32);
        // Nobody grants: the former holder must hear it from the voter.
        net.leader = None;
        net.isolate(1);
        // Long enough that no change is repeated any more.
        watch(&mut net, 400 * MS + 2 * skew * MS, never_two);
        assert_eq!(net.answering(G), vec![node(2)]);
        // Now the voter is on the former holder's side.
        net.cuts.retain(|(from, to, _)| ![*from, *to].contains(&node(1)));
        net.isolate(2);
        watch(&mut net, 400 * MS, never_two);
    }
}

/// A claim that a voter has not heard of: that one confirms its holder for other groups only.
#[test]
fn a_voter_that_knows_of_no_claim_does_not_confirm_it() {
    for skew in 0..4 {
        let mut net = Net::strict(10 * GROUPS_PER_BEACON as u32);
        net.run(skew * MS);
        for other in [1, 2] {
            net.deafen(other, 3);
        }
        net.leader = None;
        let now = net.now;
        net.core(1).handle_worker_progress(now, false);
        // Node 2 claims with the consent of node 1, which has resigned.
        assert!(net.run_until(300 * MS, |net| net.answering(G) == vec![node(2)]), "{skew}");
        net.run(300 * MS);
        net.kill(1);
        net.run(110 * MS);
        assert_eq!(net.answering(G), vec![], "{skew}");
        net.cuts.clear();
        let mut announced = 0;
        watch(&mut net, 500 * MS, |net| {
            let epoch = |n, id| net.nodes[&node(n)].core.epoch(id).unwrap();
            for group in &net.committed.groups {
                if net.answering(group.id) == vec![node(2)] {
                    announced += 1;
                    assert!(epoch(3, group.id) >= epoch(2, group.id), "{skew}: {}", group.id);
                }
            }
        });
        assert!(announced > 0, "node 3 confirms once it knows");
    }
}

/// A grant that others speak of may name an earlier run: a strict holder waits for its own copy.
#[test]
fn a_strict_holder_is_mute_under_a_grant_that_it_has_not_applied() {
    let mut net = Net::strict(1);
    net.kill(1);
    assert!(net.run_until(500 * MS, |net| net.answering(G) == vec![node(2)]));
    net.lead(3);
    net.lagging = Some(node(2));
    let mut seen = false;
    watch(&mut net, 500 * MS, |net| {
        let granted = net.epoch(2, G).claim == 0;
        seen |= granted && net.state(2, G) == GroupState::Muted;
    });
    assert!(seen, "the leader's beacon was faster than the log");
    assert_eq!(net.answering(G), vec![node(2)]);
    assert_eq!(net.epoch(2, G).claim, 0);
}

#[test]
fn settings_without_room_for_drift_are_refused() {
    let with = |strict_margin| Settings { strict_margin, ..Settings::default() }.validate();
    assert_eq!(with(100), Ok(()));
    assert!(matches!(with(99), Err(SettingsError::Margin { least: 100, .. })));
    assert!(matches!(with(50 * MS), Err(SettingsError::Margin { .. })));
    assert_eq!(Settings::noisy_host().validate(), Ok(()));
}
