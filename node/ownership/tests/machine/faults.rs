//! Pauses and resignations, one test per rule, on a virtual network.

use crate::common::*;
use steadfast_model::*;
use steadfast_ownership::*;

#[test]
fn a_paused_successor_does_not_steal() {
    let mut net = Net::running(3);
    let before = net.epoch(1, G);
    net.pause(2, true);
    net.pause(3, true);
    net.run(1_000 * MS);
    // Their sockets lost everything: the frames of the pause do not help them.
    net.pause(2, false);
    net.pause(3, false);
    net.run(500 * MS);
    assert_eq!(net.holders(G), vec![node(1)]);
    assert_eq!(net.epoch(2, G), before);
    assert!(net.core(2).counters().gaps > 0);
}

#[test]
fn a_gap_restarts_every_silence_timer_before_anything_is_judged() {
    let mut net = Net::running(3);
    let now = net.now + 1_000 * MS;
    let asker = BootId((3 << 32) + 1);
    let mut claim = net.epoch(1, G);
    claim.claim += 1;
    claim.node = node(3);
    let body = Message::ClaimRequest(ClaimRequest { holder: node(1), claims: vec![(G, claim)] });
    let frame =
        Frame { from: node(3), boot: asker, sequence: 1 << 20, path: Path::Peer, to: None, body };
    net.core(2).handle_message(now, Path::Peer, frame);
    assert_eq!(net.core(2).counters().consents, 0, "the holder may be waiting in the socket");
    assert_eq!(net.core(2).counters().refusals, 1);
}

#[test]
fn a_paused_holder_wakes_mute_and_finds_its_successor() {
    let mut net = Net::running(3);
    net.pause(1, true);
    net.run(2_000 * MS);
    assert_eq!(net.holders(G), vec![node(2)]);
    let woken = net.now;
    net.pause(1, false);
    for _ in 0..400 {
        net.run(MS / 2);
        assert_eq!(net.holders(G), vec![node(2)], "at {} us", net.now.since(woken));
    }
    let said = net.actions_of(1, woken);
    let speaks =
        |a: &Action| matches!(a, Action::SendGratuitousArp { .. } | Action::StartAnnouncing { .. });
    assert!(!said.iter().any(|(_, action)| speaks(action)), "{said:?}");
}

#[test]
fn a_short_pause_mutes_the_holder_for_two_beacons() {
    let mut net = Net::running(3);
    net.pause(1, true);
    net.run(80 * MS);
    net.pause(1, false);
    let woken = net.now;
    assert!(net.run_until(500 * MS, |net| net.holders(G) == vec![node(1)]));
    let mute = net.now.since(woken);
    assert!((50 * MS..100 * MS).contains(&mute), "{mute} us");
}

#[test]
fn workers_stop_answering_when_the_loop_is_stuck() {
    let net = Net::running(3);
    let until = net.nodes[&node(1)].core.announce_valid_until(G, net.now).unwrap();
    assert!(until.since(net.now) <= 75 * MS);
    let core = &net.nodes[&node(1)].core;
    assert_eq!(core.announce_valid_until(G, net.now + 76 * MS), None);
}

#[test]
fn a_segment_down_is_an_instant_resignation() {
    let mut net = Net::running(3);
    let now = net.now;
    net.core(1).handle_link(now, SEG, false);
    assert!(net.run_until(100 * MS, |net| net.holders(G) == vec![node(2)]));
    assert!(net.now.since(now) < 10 * MS, "{} us", net.now.since(now));
    assert_eq!(net.core(1).counters().resignations, 1);
}

#[test]
fn a_candidate_without_a_segment_is_passed_over() {
    let mut net = Net::running(3);
    let now = net.now;
    net.core(2).handle_link(now, SEG, false);
    net.run(100 * MS);
    net.kill(1);
    assert!(net.run_until(500 * MS, |net| !net.holders(G).is_empty()));
    assert_eq!(net.holders(G), vec![node(3)]);
}

#[test]
fn a_stuck_worker_resigns_and_silences_the_segment() {
    let mut net = Net::running(3);
    net.log_frames = true;
    let now = net.now;
    net.core(1).handle_worker_progress(now, false);
    assert!(net.run_until(40 * MS, |net| net.holders(G) == vec![node(2)]));
    let beats = net.frames.iter().any(|(at, frame)| {
        frame.from == node(1)
            && *at >= now
            && frame.path != Path::Peer
            && matches!(frame.body, Message::Beacon(_))
    });
    assert!(!beats, "a node that beats must also serve");
}

#[test]
fn a_holder_deaf_on_a_segment_where_the_others_hear_each_other_resigns() {
    let mut net = Net::running(3);
    for other in [2, 3] {
        net.cut(other, 1, Path::Segment(SEG));
    }
    let now = net.now;
    assert!(net.run_until(500 * MS, |net| net.holders(G) == vec![node(2)]));
    assert!(net.now.since(now) < 200 * MS);
    let why = StopReason::CutOff(SEG);
    assert!(
        net.actions_of(1, now).iter().any(|(_, a)| *a == Action::StopAnnouncing { group: G, why })
    );
}

#[test]
fn a_holder_unheard_on_a_segment_where_it_hears_the_others_resigns() {
    let mut net = Net::running(3);
    for other in [2, 3] {
        net.cut(1, other, Path::Segment(SEG));
    }
    assert!(net.run_until(500 * MS, |net| net.holders(G) == vec![node(2)]));
}

#[test]
fn a_new_run_that_knows_no_grant_yet_is_a_resignation_too() {
    let mut net = Net::running(3);
    net.kill(1);
    let committed = net.committed.clone();
    net.committed.groups.clear();
    let restarted = net.now;
    net.restart(1);
    net.committed = committed;
    assert!(net.run_until(60 * MS, |net| net.holders(G) == vec![node(2)]));
    assert!(net.now.since(restarted) < 60 * MS, "its beacons go on, so only the run tells");
}

#[test]
fn a_holder_that_its_voters_do_not_hear_goes_mute_before_its_successor_announces() {
    let mut net = Net::running(3);
    for other in [2, 3] {
        net.cut(1, other, Path::Peer);
        net.cut(1, other, Path::Segment(SEG));
    }
    let cut = net.now;
    for _ in 0..2_000 {
        net.run(MS / 10);
        assert!(net.holders(G).len() <= 1);
    }
    assert_eq!(net.holders(G), vec![node(2)]);
    let why = StopReason::NotConfirmed;
    let stops = net.actions_of(1, cut);
    assert!(stops.iter().any(|(_, a)| *a == Action::StopAnnouncing { group: G, why }), "{stops:?}");
}
