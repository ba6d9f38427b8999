//! The promises and what shows each.

use super::{
    aim::Aim,
    book,
    work::{Demo, Place, Work},
};
use crate::{
    cluster::changes::Changes,
    demo::{fault::Fault, run::Leads},
    host::{
        family::Family,
        names::Mode,
        planes::{Plane, Way},
    },
};

/// A promise.
#[derive(Clone, Debug, PartialEq)]
pub struct Promise {
    /// Its name.
    pub id: &'static str,
    /// What is promised.
    pub says: &'static str,
    /// The commands that show it.
    pub shown_by: Vec<Work>,
    /// What of it nothing shows yet.
    pub open: Option<&'static str>,
}

impl Promise {
    /// Whether all of it was shown, by what is noted.
    #[must_use]
    pub fn is_shown(&self, place: &Place) -> bool {
        let passed = |work: &Work| book::noted(place, &work.name()).is_some_and(|s| s.passed);
        self.open.is_none() && !self.shown_by.is_empty() && self.shown_by.iter().all(passed)
    }
}

const OUTAGE: [Aim; 3] = [Aim::OutageMedian(150), Aim::OutageP99(400), Aim::StallMax(1500)];

fn tests(package: &'static str, target: &'static [&'static str], filter: &'static str) -> Work {
    Work::Tests { package, target, filter }
}

fn on_a_cluster(filter: &'static str) -> Work {
    tests("steadfast-lab", &["--test", "clusters"], filter)
}

/// All of them.
#[must_use]
pub fn promises() -> Vec<Promise> {
    let demo = |demo: Demo| Work::Demo(demo);
    let promise = |id, says, shown_by| Promise { id, says, shown_by, open: None };
    let missing = |id, says, shown_by, open| Promise { id, says, shown_by, open: Some(open) };
    let outages: Vec<Work> = [Fault::Kill, Fault::Power, Fault::Pause(2000)]
        .into_iter()
        .flat_map(|fault| [Leads::Holder, Leads::Other].map(|leads| (fault, leads)))
        .map(|(fault, leads)| demo(Demo::of(fault, 20).led_by(leads).aiming(&OUTAGE)))
        .collect();
    let mut kills: Vec<Work> = vec![outages[0].clone(), outages[1].clone()];
    for mode in [Mode::Nat, Mode::FullNat, Mode::Tun] {
        kills.push(demo(Demo::of(Fault::Kill, 5).by(mode)));
    }
    for mode in Mode::ALL {
        kills.push(demo(Demo { family: Family::V6, ..Demo::of(Fault::Kill, 5).by(mode) }));
    }
    // What is not copied yet, the hash finds again.
    for (scheduler, sync) in
        [("mh", None), ("wlc", None), ("mh", Some((3, 50))), ("mh", Some((1, 50)))]
    {
        let scheduler = Some(scheduler.to_owned());
        let changes = Changes { scheduler, sync, ..Changes::default() };
        kills.push(demo(Demo::of(Fault::Kill, 5).with(changes)));
    }
    let planned = [Aim::LostInRun(5), Aim::OutageMax(20), Aim::StallMax(250)];
    let ways = [Way::Both, Way::In, Way::Out];
    let planes = [Plane::Control, Plane::Replication, Plane::Segment];
    let mut cuts = vec![demo(Demo::of(Fault::Cut, 4))];
    for plane in planes {
        cuts.extend(ways.map(|way| demo(Demo::of(Fault::Plane(plane, way), 2))));
    }
    let pauses = [200, 500, 2000, 10_000].map(|ms| demo(Demo::of(Fault::Pause(ms), 5)));
    vec![
        promise(
            "P1",
            "When the node that holds a VIP dies, the VIP is back at once, whoever leads.",
            outages.clone(),
        ),
        promise("P2", "No session older than a second breaks when its node dies.", kills),
        promise("P3", "No session stalls for longer than two repetitions take.", outages),
        promise(
            "P4",
            "Sessions that say nothing survive, and have their whole timeout after a take-over.",
            vec![demo(
                Demo::of(Fault::Idle, 3)
                    .with(Changes { tcp_timeout: Some(30), ..Changes::default() }),
            )],
        ),
        promise(
            "P5",
            "A planned move, a stop and a restart of all nodes lose nothing.",
            vec![
                demo(Demo::of(Fault::Move, 10).aiming(&planned)),
                demo(Demo::of(Fault::Move, 10).by(Mode::Nat).aiming(&planned)),
                demo(Demo::of(Fault::Stop, 10).aiming(&planned)),
                demo(Demo::of(Fault::Rolling, 3).aiming(&[Aim::LostInRun(15), Aim::StallMax(250)])),
            ],
        ),
        promise(
            "P6",
            "Traffic does not notice the loss of the leader.",
            vec![demo(Demo::of(Fault::Leader, 20).aiming(&[Aim::LostInRun(0)]))],
        ),
        missing(
            "P7",
            "Traffic does not notice the loss of the majority; a write fails and says why.",
            vec![demo(Demo::of(Fault::Quorum, 5).aiming(&[Aim::LostInRun(0)]))],
            "ten minutes of it",
        ),
        missing(
            "P8",
            "The last node claims, or does not, as its policy says.",
            Vec::new(),
            "a running cluster",
        ),
        missing(
            "P9",
            "No cut makes two nodes hold a VIP for longer than the design says.",
            cuts,
            "captures of the segment; cuts of other nodes than the holder",
        ),
        promise("P10", "A holder that was paused does no harm when it goes on.", pauses.to_vec()),
        promise(
            "P11",
            "A flapping node does not make its groups flap.",
            vec![
                demo(Demo::of(Fault::CrashLoop, 2)),
                tests("steadfast-ownership", &["--test", "machine"], "hold_down"),
                tests("clusterd", &["--test", "membership"], "held_down"),
            ],
        ),
        promise(
            "P12",
            "Busy processors and floods move nothing.",
            vec![demo(Demo::of(Fault::Hogs, 3))],
        ),
        missing(
            "P13",
            "Copies follow within milliseconds at thousands of new connections a second.",
            Vec::new(),
            "measurements of the lag",
        ),
        missing(
            "P14",
            "A node that joins has everything soon, and takes over only then.",
            vec![demo(Demo::of(Fault::Return, 5))],
            "a join with 100,000 connections",
        ),
        promise(
            "P15",
            "Replication that loses packets loses no connection.",
            [1, 5, 20].map(|percent| demo(Demo::of(Fault::Loss(percent), 5))).to_vec(),
        ),
        missing(
            "P16",
            "What was acknowledged is kept, and reads agree.",
            vec![tests("steadfast-consensus", &["--test", "cluster"], "")],
            "a history checked for linearizability under faults",
        ),
        promise(
            "P17",
            "A damaged disk stops the Raft role and nothing else.",
            vec![
                tests("steadfast-consensus", &["--lib"], "store"),
                tests("steadfast-consensus", &["--lib"], "disk_faults"),
                on_a_cluster("a_full_disk_stops_the_raft_role_of_its_node_and_no_session"),
            ],
        ),
        promise(
            "P20",
            "A flood of SYNs harms no session, not even while a node dies.",
            vec![
                demo(Demo::of(Fault::Flood, 5)),
                demo(Demo::of(Fault::Flood, 5).by(Mode::Nat)),
                on_a_cluster("a_flood_keeps_nobody_out"),
            ],
        ),
        promise(
            "P24",
            "Forged, replayed and old beacons and records change nothing.",
            vec![
                on_a_cluster("a_client_an_operator_and_an_attacker_see"),
                tests("steadfast-ownership", &["--test", "machine"], "trust"),
                tests("steadfast-peer", &["--test", "peers"], ""),
                tests("steadfast-replication", &["--lib"], "wire"),
            ],
        ),
        missing("P25", "Certificates and the CA are changed under load.", Vec::new(), "rotation"),
        promise(
            "P31",
            "This version and the one before work together.",
            vec![Work::Make(&["demo-upgrade", "OLD=e08a7da", "RUNS=2"])],
        ),
        promise(
            "P33",
            "Ten simulated hours of faults violate no invariant.",
            vec![tests("steadfast-simulation", &[], ""), Work::Make(&["mutants"])],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_name_stands_for_one_command() {
        let mut works: HashMap<String, Work> = HashMap::new();
        let mut ids = Vec::new();
        for promise in promises() {
            assert!(!promise.shown_by.is_empty() || promise.open.is_some(), "{}", promise.id);
            ids.push(promise.id);
            for work in promise.shown_by {
                let first = works.entry(work.name()).or_insert_with(|| work.clone());
                assert_eq!(*first, work);
            }
        }
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
