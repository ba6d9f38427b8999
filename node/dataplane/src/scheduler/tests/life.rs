//! Servers that are full, drained, or have just come up.

use super::*;
use crate::scheduler::warmup::warmth;

const SECOND: u64 = 1_000_000_000;

const ALL: [SchedulerKind; 14] = [
    SchedulerKind::Rr,
    SchedulerKind::Wrr,
    SchedulerKind::Lc,
    SchedulerKind::Wlc,
    SchedulerKind::Sed,
    SchedulerKind::Nq,
    SchedulerKind::Fo,
    SchedulerKind::Ovf,
    SchedulerKind::Twos,
    SchedulerKind::Lblc,
    SchedulerKind::Lblcr,
    SchedulerKind::Dh,
    SchedulerKind::Sh(OURS),
    SchedulerKind::Mh(OURS),
];

#[test]
fn a_server_is_full_at_the_upper_threshold_and_free_below_the_lower() {
    // (upper, lower, connections at which it is full, connections at which it is free again)
    let cases =
        [(8, 0, 8, 5), (8, 3, 8, 2), (8, 8, 8, 7), (1, 0, 1, 0), (2, 0, 2, 1), (5, 0, 5, 3)];
    for (upper, lower, full, free) in cases {
        let load = ServerLoad::default();
        load.set_thresholds(upper, lower);
        for total in 1..=upper + 2 {
            load.add(total % 2 == 0);
            assert_eq!(load.is_overloaded(), total >= full, "{upper} {lower}: {total} coming");
        }
        for total in (0..upper + 2).rev() {
            load.take((total + 1) % 2 == 0);
            assert_eq!(load.is_overloaded(), total > free, "{upper} {lower}: {total} going");
        }
    }
}

#[test]
fn a_change_of_state_frees_nobody() {
    let load = ServerLoad::default();
    load.set_thresholds(2, 2);
    load.add(true);
    load.add(true);
    load.move_to(false);
    assert!(load.is_overloaded(), "as many connections as before");
    assert_eq!((load.active(), load.inactive()), (1, 1));
}

#[test]
fn thresholds_that_change_count_at_once() {
    let load = ServerLoad::default();
    (0..10).for_each(|_| load.add(true));
    assert!(!load.is_overloaded(), "no threshold, no bound");
    load.set_thresholds(10, 0);
    assert!(load.is_overloaded());
    load.set_thresholds(20, 0);
    assert!(!load.is_overloaded());
    load.set_thresholds(10, 0);
    load.set_thresholds(0, 0);
    assert!(!load.is_overloaded(), "switched off");
}

#[test]
fn no_scheduler_gives_a_connection_to_a_server_that_takes_none() {
    type Change = fn(&mut ServerSpec, &ServerLoad);
    let changes: [(&str, Change); 4] = [
        ("down", |server, _| server.up = false),
        ("drained", |server, _| server.drained = true),
        ("of weight 0", |server, _| server.weight = 0),
        ("full", |_, load| load.set_thresholds(1, 0)),
    ];
    for kind in ALL {
        for (name, change) in changes {
            let mut all = servers(&[4; 3]);
            let loads = loads(&[(1, 0); 3]);
            let before = compile(kind, &all);
            let mut given = 0;
            for client in 0..300 {
                given += usize::from(before.pick(&all, &loads, &asked(client)) == Some(1));
            }
            change(&mut all[1], &loads[1]);
            let after = Scheduler::compile(kind, &all, Some((&before, &all)));
            for client in 0..300 {
                let pick = after.pick(&all, &loads, &asked(client));
                assert_ne!(pick, Some(1), "{kind:?}: {name}");
            }
            all[0].up = false;
            all[2].up = false;
            let none = after.pick(&all, &loads, &asked(given as u32));
            assert_eq!(none, None, "{kind:?}: {name}, and the others down");
        }
    }
}

#[test]
fn a_weight_that_goes_to_0_moves_only_the_clients_of_that_server() {
    for kind in [SchedulerKind::Sh(OURS), SchedulerKind::Mh(OURS)] {
        for drain in [false, true] {
            let mut all = servers(&[10, 20, 30, 10]);
            let before = compile(kind, &all);
            let picks = |scheduler: &Scheduler, all: &[ServerSpec]| -> Vec<_> {
                (0..4_000).map(|c| scheduler.pick(all, &[], &asked(c)).unwrap()).collect()
            };
            let old = picks(&before, &all);
            if drain {
                all[1].drained = true;
            } else {
                (all[1].weight, all[1].last_weight) = (0, 20);
            }
            let after = picks(&Scheduler::compile(kind, &all, Some((&before, &all))), &all);
            let moved = old.iter().zip(&after).filter(|(old, new)| **old != 1 && old != new);
            assert_eq!(moved.count(), 0, "{kind:?} drain {drain}");
            assert!(old.contains(&1) && !after.contains(&1), "{kind:?} drain {drain}");
        }
    }
}

// ---- Slow start ----

#[test]
fn a_weight_counts_a_tenth_at_first_and_then_ever_more() {
    // (how long it is up in seconds of 60, what counts in thousandths)
    let ramp = [(0, 100), (1, 115), (6, 190), (30, 550), (59, 985), (60, 1000), (9_999, 1000)];
    for (up_s, expected) in ramp {
        assert_eq!(warmth(60 * SECOND, up_s * SECOND), expected, "{up_s} s");
    }
    assert_eq!(warmth(0, 0), 1000, "off");
    assert_eq!(warmth(u64::MAX, u64::MAX - 1), 999, "no overflow");
}

/// Shares of two servers of weights 3 and 1 of which the second came up `up_s` ago, of 60 s.
fn shares(kind: SchedulerKind, up_s: u64, clients: u32) -> [u32; 2] {
    let mut all = servers(&[3, 1]);
    all[1].up_since_ns = 100 * SECOND;
    let scheduler = compile(kind, &all).with_slow_start(60 * SECOND);
    let loads = loads(&[(0, 0); 2]);
    let now_ns = (100 + up_s) * SECOND;
    let mut counts = [0; 2];
    for client in 0..clients {
        let pick = scheduler.pick(&all, &loads, &Asked { now_ns, ..asked(client) }).unwrap();
        loads[pick].add(true);
        counts[pick] += 1;
    }
    counts
}

#[test]
fn a_server_that_came_up_gets_its_share_of_its_share() {
    for kind in [SchedulerKind::Wrr, SchedulerKind::Wlc, SchedulerKind::Sed, SchedulerKind::Nq] {
        // 3 to 0.1: of 3100 connections 100; 3 to 0.55; 3 to 1.
        for (up_s, clients, expected) in [(0, 3_100, 100), (30, 3_550, 550), (60, 4_000, 1_000)] {
            let [_, share] = shares(kind, up_s, clients);
            assert!(share.abs_diff(expected) <= 2, "{kind:?} after {up_s} s: {share}");
        }
    }
    let [_, share] = shares(SchedulerKind::Twos, 0, 4_000);
    assert!(share < 400, "twos: {share}");
    assert!(shares(SchedulerKind::Twos, 60, 4_000)[1] > 600);
}

#[test]
fn servers_that_all_came_up_serve_at_once() {
    let mut all = servers(&[1; 40]);
    all.iter_mut().for_each(|server| server.up_since_ns = 100 * SECOND);
    for kind in [SchedulerKind::Wrr, SchedulerKind::Wlc] {
        let scheduler = compile(kind, &all).with_slow_start(60 * SECOND);
        for client in 0..200 {
            let asked = Asked { now_ns: 100 * SECOND, ..asked(client) };
            assert!(scheduler.pick(&all, &[], &asked).is_some(), "{kind:?}");
        }
    }
}
