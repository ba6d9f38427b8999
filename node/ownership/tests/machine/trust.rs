//! Forged, replayed and misdirected frames change nothing and are counted.

use crate::common::*;
use steadfast_model::*;
use steadfast_ownership::*;

#[test]
fn replayed_frames_change_nothing_and_are_counted() {
    let mut net = Net::running(3);
    net.log_frames = true;
    net.run(500 * MS);
    let heard: Vec<Frame> = net
        .frames
        .drain(..)
        .map(|(_, frame)| frame)
        .filter(|f| f.from == node(1) && f.path == Path::Segment(SEG))
        .collect();
    net.kill(1);
    // Replayed without end, a dead holder must not look alive.
    for frame in heard.iter().cycle().take(2_000) {
        let now = net.now;
        net.core(2).handle_message(now, frame.path, frame.clone());
        net.core(2).handle_message(now, Path::Peer, frame.clone());
        net.run(MS / 10);
    }
    assert_eq!(net.holders(G), vec![node(2)]);
    let rejected = &net.core(2).counters().rejected;
    assert!(rejected[&RejectReason::Replayed] >= 1_900, "{rejected:?}");
    assert!(rejected[&RejectReason::Path] >= 1_900, "{rejected:?}");
}

#[test]
fn frames_of_an_earlier_run_change_nothing() {
    let mut net = Net::running(3);
    net.log_frames = true;
    net.run(200 * MS);
    let old: Vec<Frame> = net
        .frames
        .drain(..)
        .map(|(_, frame)| frame)
        .filter(|f| f.from == node(3) && f.to.is_none())
        .collect();
    net.kill(3);
    net.restart(3);
    net.run(300 * MS);
    let before = net.nodes[&node(1)].core.clone();
    let now = net.now;
    net.core(1).handle_tick(now);
    let settled = net.nodes[&node(1)].core.clone();
    for frame in &old {
        net.core(1).handle_message(now, frame.path, frame.clone());
    }
    assert_eq!(net.nodes[&node(1)].core, settled);
    assert_eq!(
        net.core(1).counters().rejected[&RejectReason::OldBoot] as usize,
        before.counters().rejected.get(&RejectReason::OldBoot).map_or(0, |n| *n as usize)
            + old.len(),
    );
    // A node that has restarted itself does not know that run: it must prove that it is fresh.
    net.restart(2);
    net.run(100 * MS);
    net.kill(3);
    let now = net.now;
    let frame = old.last().unwrap().clone();
    net.core(2).handle_message(now, frame.path, frame);
    assert!(net.core(2).counters().rejected[&RejectReason::Unproven] > 0);
    net.run(500 * MS);
    assert_eq!(net.holders(G), vec![node(1)]);
}

/// Nodes that have all restarted know no earlier runs. One recorded frame of the holder's, replayed
/// to each of the others at whatever moment, must not make them seem deaf to the present run.
#[test]
fn a_frame_of_a_run_that_nobody_remembers_does_not_depose_the_holder() {
    let mut net = Net::running(3);
    net.log_frames = true;
    net.run(100 * MS);
    let recorded: Vec<Frame> = net.frames.drain(..).map(|(_, frame)| frame).collect();
    net.log_frames = false;
    for n in [1, 2, 3] {
        net.kill(n);
    }
    net.run(500 * MS);
    for n in [1, 2, 3] {
        net.restart(n);
    }
    net.lead(1);
    // All have lost what they had: any of them may hold now.
    assert!(net.run_until(5_000 * MS, |net| net.holders(G).len() == 1));
    net.run(2_000 * MS);
    let holder = net.holders(G)[0];
    let of_holder = |frame: &&Frame| frame.from == holder && frame.path == Path::Segment(SEG);
    let old = recorded.iter().find(of_holder).unwrap().clone();
    let victims: Vec<u32> = [1, 2, 3].into_iter().filter(|n| node(*n) != holder).collect();
    let since = net.now;
    for step in 0..40 {
        for &victim in &victims {
            let now = net.now;
            net.core(victim).handle_message(now, old.path, old.clone());
            // So that each meets the other's beacons at every phase.
            net.run(5 * MS + step * MS);
        }
        net.run(300 * MS);
    }
    for n in victims {
        assert!(net.core(n).counters().rejected[&RejectReason::Unproven] >= 40);
    }
    let stops = net.actions_of(holder.0, since);
    let stopped = |(_, a): &(Time, Action)| matches!(a, Action::StopAnnouncing { .. });
    assert!(!stops.iter().any(stopped), "{stops:?}");
    assert_eq!(net.holders(G), vec![holder]);
}

#[test]
fn strangers_and_own_frames_are_refused() {
    let mut net = Net::running(3);
    let now = net.now;
    let frame = |from, to| Frame {
        from,
        boot: BootId(1),
        sequence: 1 << 30,
        path: Path::Peer,
        to,
        body: Message::Resign(Resign::default()),
    };
    net.core(2).handle_message(now, Path::Peer, frame(node(9), None));
    net.core(2).handle_message(now, Path::Peer, frame(node(2), None));
    net.core(2).handle_message(now, Path::Peer, frame(node(1), Some(node(3))));
    net.core(2).handle_rejected(RejectReason::Forged);
    let rejected = &net.core(2).counters().rejected;
    for reason in
        [RejectReason::NotMember, RejectReason::Own, RejectReason::NotForMe, RejectReason::Forged]
    {
        assert!(rejected[&reason] >= 1, "{reason:?}");
    }
}
