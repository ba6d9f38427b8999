//! When a run counts.
//!
//! A run is *void*, never a pass, unless it is shown that the fault hit what it was meant to hit
//! and that the traffic took the way it was meant to take. This is the only judge of that, and it
//! sees nothing but [`Evidence`].

use std::time::Duration;

use super::fault::{Fault, Group};
use crate::cluster::api::{Epoch, NodeRef};

/// Probes that may get lost before the fault: datagrams on a busy machine. More, and the set-up
/// itself does not work.
const PROBES_LOST_BEFORE_MAX: u64 = 20;

/// A machine that kept threads of the highest priority waiting so long may have moved a group, or
/// kept it from moving.
pub const PAUSE_SPOILS: Duration = Duration::from_millis(50);

/// What was seen of one run.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The fault.
    pub fault: Fault,
    /// Sessions asked for.
    pub sessions: u64,
    /// Sessions that came up.
    pub established: u64,
    /// Sessions that were broken before the fault came.
    pub broken_before: u64,
    /// Talkers that had no echo before the fault came.
    pub mute_before: u64,
    /// Datagrams of the probe that were lost before the fault came.
    pub probe_lost_before: u64,
    /// How the group changed hands before the fault came, if it did.
    pub moved_before: Option<String>,
    /// The node that the fault hit; absent when it hits none.
    pub victim: Option<NodeRef>,
    /// The node that held the group and announced it, just before the fault.
    pub holder_before: NodeRef,
    /// Its epoch.
    pub epoch_before: Epoch,
    /// Sessions that were up then, and how many of them the holder had in its connection list.
    pub listed: Vec<Listed>,
    /// Packets the holder had forwarded between the start of the run and the fault.
    pub holder_forwarded: u64,
    /// The node that held the group and announced it, at the end.
    pub holder_after: Option<NodeRef>,
    /// Its epoch.
    pub epoch_after: Epoch,
    /// Packets that node forwarded after the fault.
    pub successor_forwarded: u64,
    /// Whether the old holder runs, and neither announces nor believes to hold the group.
    pub victim_yielded: bool,
    /// What the fault was to show besides, and whether it did.
    pub checks: Vec<Check>,
    /// The longest pause of the machine.
    pub pause: Duration,
}

/// How many of the sessions that were up a holder had in its connection list, with the right
/// real server.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The holder.
    pub holder: String,
    /// Sessions up.
    pub sessions: u64,
    /// Those it had.
    pub listed: u64,
}

/// Something that a fault must show.
#[derive(Clone, Debug, serde::Deserialize, PartialEq, serde::Serialize)]
pub struct Check {
    /// What.
    pub what: String,
    /// Whether it did.
    pub passed: bool,
    /// What was measured.
    pub seen: String,
}

/// Why the run is void; empty if it counts.
#[must_use]
pub fn void_reasons(e: &Evidence) -> Vec<String> {
    let mut void = Vec::new();
    let mut unless = |holds: bool, reason: String| {
        if !holds {
            void.push(reason);
        }
    };
    unless(
        e.established == e.sessions,
        format!("{} of {} sessions came up", e.established, e.sessions),
    );
    unless(e.sessions > 0, "no session was asked for".to_owned());
    unless(e.broken_before == 0, format!("{} sessions broke before the fault", e.broken_before));
    unless(e.mute_before == 0, format!("{} talkers had no echo before the fault", e.mute_before));
    unless(
        e.probe_lost_before <= PROBES_LOST_BEFORE_MAX,
        format!("{} probes were lost before the fault", e.probe_lost_before),
    );
    if let Some(moved) = &e.moved_before {
        unless(false, moved.clone());
    }
    unless(!e.listed.is_empty(), "no connection list was read".to_owned());
    for Listed { holder, sessions, listed } in &e.listed {
        unless(
            listed == sessions,
            format!("{holder} had {listed} of {sessions} sessions in its connection list"),
        );
    }
    unless(
        e.holder_forwarded >= e.established.max(1),
        format!(
            "{} forwarded only {} packets before the fault",
            e.holder_before.name, e.holder_forwarded
        ),
    );
    for reason in way_of_the_group(e) {
        unless(false, reason);
    }
    for check in e.checks.iter().filter(|c| !c.passed) {
        unless(false, format!("{}: {}", check.what, check.seen));
    }
    void
}

/// Whether the machine can have spoilt the run: it was seen to stand still, or did before the fault
/// came what only pauses and lost datagrams explain.
#[must_use]
pub fn is_spoilt(e: &Evidence) -> bool {
    let before = e.moved_before.is_some() || e.probe_lost_before > PROBES_LOST_BEFORE_MAX;
    before || e.pause >= PAUSE_SPOILS
}

fn way_of_the_group(e: &Evidence) -> Vec<String> {
    let before = &e.holder_before;
    let victim_held = e.victim.as_ref().is_some_and(|v| v.id == before.id);
    let Some(after) = &e.holder_after else {
        return vec!["nobody held the group in the end".to_owned()];
    };
    let mut void = Vec::new();
    if e.successor_forwarded < e.established.max(1) {
        void.push(format!(
            "{} forwarded only {} packets after the fault",
            after.name, e.successor_forwarded
        ));
    }
    match (e.fault.hits_the_holder(), victim_held) {
        (true, false) => void.push("the fault did not hit the holder".to_owned()),
        (false, true) => void.push("the fault hit the holder".to_owned()),
        _ => {}
    }
    let group = e.fault.group();
    if group == Group::Stays {
        if after.id != before.id || e.epoch_after != e.epoch_before {
            void.push(format!(
                "the group moved from {} ({}) to {} ({}) and was not to",
                before.name, e.epoch_before, after.name, e.epoch_after
            ));
        }
        return void;
    }
    // A node that was wiped and joined anew has the same name and another id.
    if group == Group::Moves && after.id == before.id {
        void.push(format!("{} held the group before and after", before.name));
    }
    if e.epoch_after <= e.epoch_before {
        void.push(format!("epoch {} is not above {}", e.epoch_after, e.epoch_before));
    }
    if e.fault.victim_must_yield() && !e.victim_yielded {
        void.push(format!("{} did not yield", before.name));
    }
    void
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::fault::FAULTS;

    fn node(id: u64) -> NodeRef {
        NodeRef { id, name: format!("n{id}") }
    }

    fn epoch(grant_index: u64, claim: u64, node: u64) -> Epoch {
        Epoch { generation: 1, grant_index, claim, node }
    }

    fn moved(fault: Fault) -> Evidence {
        Evidence {
            fault,
            sessions: 300,
            established: 300,
            broken_before: 0,
            moved_before: None,
            mute_before: 0,
            probe_lost_before: 0,
            victim: Some(node(1)),
            holder_before: node(1),
            epoch_before: epoch(5, 0, 1),
            listed: vec![Listed { holder: "n1".to_owned(), sessions: 300, listed: 300 }],
            holder_forwarded: 6000,
            holder_after: Some(node(2)),
            epoch_after: epoch(5, 1, 2),
            successor_forwarded: 9000,
            victim_yielded: true,
            checks: Vec::new(),
            pause: Duration::ZERO,
        }
    }

    fn stayed(fault: Fault) -> Evidence {
        Evidence {
            victim: Some(node(2)),
            holder_after: Some(node(1)),
            epoch_after: epoch(5, 0, 1),
            ..moved(fault)
        }
    }

    /// What a run with this fault is to look like.
    fn good(fault: Fault) -> Evidence {
        let run = if fault.group() == Group::Stays { stayed(fault) } else { moved(fault) };
        let victim = if fault.hits_the_holder() { node(1) } else { node(2) };
        Evidence { victim: Some(victim), ..run }
    }

    #[test]
    fn runs_that_show_what_they_should_count() {
        for fault in FAULTS {
            assert_eq!(void_reasons(&good(fault)), [""; 0], "{fault:?}");
        }
        let none = Evidence { victim: None, ..stayed(Fault::None) };
        assert_eq!(void_reasons(&none), [""; 0]);
    }

    type Spoil = fn(&mut Evidence);

    /// What makes any run void.
    const ALWAYS: [(Spoil, &str); 13] = [
        (|e| e.moved_before = Some("moved early".to_owned()), "moved early"),
        (|e| e.established = 299, "299 of 300 sessions came up"),
        (|e| (e.sessions, e.established) = (0, 0), "no session"),
        (|e| e.broken_before = 1, "1 sessions broke before"),
        (|e| e.mute_before = 2, "2 talkers had no echo"),
        (|e| e.probe_lost_before = 21, "21 probes were lost before"),
        (|e| e.listed[0].listed = 299, "299 of 300 sessions in its connection list"),
        (|e| e.listed.clear(), "no connection list"),
        (|e| e.holder_forwarded = 299, "n1 forwarded only 299 packets before"),
        (|e| e.holder_forwarded = 0, "n1 forwarded only 0"),
        (|e| e.successor_forwarded = 10, "forwarded only 10 packets after"),
        (|e| e.holder_after = None, "nobody held"),
        (
            |e| {
                e.checks.push(Check {
                    what: "it refuses".to_owned(),
                    passed: false,
                    seen: "it did not".to_owned(),
                });
            },
            "it refuses: it did not",
        ),
    ];

    /// What makes a run void whose fault is to hit the holder.
    const WHEN_HIT: [(Spoil, &str); 2] = [
        (|e| e.victim = None, "did not hit the holder"),
        (|e| e.victim = Some(node(3)), "did not hit the holder"),
    ];

    /// And whose is not.
    const WHEN_NOT_HIT: [(Spoil, &str); 1] =
        [(|e| e.victim = Some(node(1)), "the fault hit the holder")];

    /// What makes a run void whose fault moves the group, wherever to.
    const WHEN_MOVING: [(Spoil, &str); 3] = [
        (|e| e.epoch_after = epoch(5, 0, 1), "epoch 1.5.0@1 is not above 1.5.0@1"),
        (|e| e.epoch_after = epoch(4, 9, 2), "epoch 1.4.9@2 is not above"),
        (|e| e.epoch_after = epoch(5, 0, 0), "is not above"),
    ];

    /// And to another node.
    const WHEN_AWAY: [(Spoil, &str); 1] =
        [(|e| e.holder_after = Some(node(1)), "n1 held the group before and after")];

    /// What makes a run void whose fault must not move it.
    const WHEN_STAYING: [(Spoil, &str); 3] = [
        (|e| e.holder_after = Some(node(2)), "the group moved from n1"),
        (|e| e.epoch_after = epoch(5, 1, 1), "the group moved from n1"),
        (|e| e.epoch_after = epoch(6, 0, 1), "the group moved from n1"),
    ];

    fn expect(base: &Evidence, cases: &[(Spoil, &str)]) {
        for (spoil, reason) in cases {
            let mut evidence = base.clone();
            spoil(&mut evidence);
            let void = void_reasons(&evidence);
            assert!(
                void.iter().any(|v| v.contains(reason)),
                "{:?}: {void:?} does not say `{reason}`",
                base.fault
            );
        }
    }

    #[test]
    fn only_pauses_and_what_came_before_the_fault_spoil_a_run() {
        let mut evidence = moved(Fault::Kill);
        assert!(!is_spoilt(&evidence));
        for (spoil, reason) in ALWAYS.iter().chain(&WHEN_HIT).chain(&WHEN_MOVING) {
            let mut evidence = evidence.clone();
            spoil(&mut evidence);
            let before =
                reason.contains("probes were lost before") || reason.contains("moved early");
            assert_eq!(is_spoilt(&evidence), before, "{reason}");
        }
        evidence.pause = PAUSE_SPOILS - Duration::from_millis(1);
        assert!(!is_spoilt(&evidence));
        evidence.pause = PAUSE_SPOILS;
        assert!(is_spoilt(&evidence) && void_reasons(&evidence).is_empty());
        evidence = Evidence { moved_before: Some("x".to_owned()), ..moved(Fault::Kill) };
        assert!(is_spoilt(&evidence));
    }

    #[test]
    fn each_missing_proof_makes_a_run_void() {
        for fault in FAULTS {
            let good = good(fault);
            expect(&good, &ALWAYS);
            expect(&good, if fault.hits_the_holder() { &WHEN_HIT[..] } else { &WHEN_NOT_HIT });
            match fault.group() {
                Group::Moves => {
                    expect(&good, &WHEN_MOVING);
                    expect(&good, &WHEN_AWAY);
                }
                Group::Wanders => expect(&good, &WHEN_MOVING),
                Group::Stays => expect(&good, &WHEN_STAYING),
            }
        }
    }

    #[test]
    fn after_a_restart_of_all_anybody_may_hold_the_group() {
        let back = Evidence { holder_after: Some(node(1)), ..good(Fault::Rolling) };
        assert_eq!(void_reasons(&back), [""; 0]);
    }

    #[test]
    fn a_victim_that_lives_must_have_yielded() {
        for fault in FAULTS {
            let evidence = Evidence { victim_yielded: false, ..good(fault) };
            assert_eq!(void_reasons(&evidence).is_empty(), !fault.victim_must_yield(), "{fault:?}");
        }
    }
}
