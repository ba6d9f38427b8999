//! Power cuts: what is opened afterwards is what was acknowledged, or what was in flight.

use std::ops::Bound;

use openraft::{CommittedLeaderId, EntryPayload};

use super::*;
use crate::error::OpenError;
use crate::options::Identity;
use crate::raft_types::{Entry, LogId, SnapshotMeta, Vote};
use crate::store::Disk;

pub(super) const IDENTITY: Identity = Identity { cluster: 7, node: 1 };

/// All that a store says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Said {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    snapshot: Option<(SnapshotMeta, Vec<u8>)>,
    entries: Vec<Entry>,
}

pub(super) fn said(disk: &Disk) -> Said {
    Said {
        vote: disk.vote(),
        committed: disk.committed(),
        purged: disk.purged(),
        last: disk.last(),
        snapshot: disk.snapshot_data().unwrap(),
        entries: disk.entries(Bound::Unbounded, Bound::Unbounded, usize::MAX).unwrap(),
    }
}

pub(super) fn open(images: [Vec<u8>; 2]) -> Result<Disk, OpenError> {
    let files = Files::new(images);
    Disk::reopen_backends(files.store, files.guard, IDENTITY)
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

/// Runs a real store through `steps` operations of every kind. What it says after each, beside how
/// many operations of the disk there were when it was acknowledged.
pub(super) fn run(files: &Files, steps: usize, random: &mut Random) -> (Disk, Vec<(usize, Said)>) {
    let mut disk = Disk::on_backends(files.store.clone(), files.guard.clone(), IDENTITY);
    let mut acknowledged = vec![(files.len(), said(&disk))];
    let mut term = 1;
    disk.save_vote(Vote::new_committed(term, 1)).unwrap();
    acknowledged.push((files.len(), said(&disk)));
    for _ in 0..steps {
        step(&mut disk, &mut term, random);
        acknowledged.push((files.len(), said(&disk)));
        if random.below(12) == 0 {
            drop(disk);
            disk =
                Disk::reopen_backends(files.store.clone(), files.guard.clone(), IDENTITY).unwrap();
        }
    }
    (disk, acknowledged)
}

fn step(disk: &mut Disk, term: &mut u64, random: &mut Random) {
    let next = disk.last().map_or(0, |id| id.index + 1);
    let committed = disk.committed().map_or(0, |id| id.index);
    match random.below(10) {
        0 => {
            *term += 1;
            disk.save_vote(Vote::new_committed(*term, 1)).unwrap();
        }
        1 if next > committed + 1 => {
            let since = committed + 1 + random.below((next - committed - 1) as usize) as u64;
            disk.truncate(since).unwrap();
        }
        2 | 3 if next > 0 => disk.save_committed(disk.last()).unwrap(),
        4 if committed > 0 => {
            let meta = SnapshotMeta {
                last_log_id: disk.committed(),
                snapshot_id: format!("snapshot-{committed}"),
                ..SnapshotMeta::default()
            };
            let data = vec![random.draw() as u8; random.below(40_000)];
            disk.save_snapshot(&meta, &data).unwrap();
        }
        5 => {
            if let Some(upto) = disk.snapshot_meta().and_then(|meta| meta.last_log_id) {
                disk.purge(upto).unwrap();
            }
        }
        _ => {
            let count = 1 + random.below(4) as u64;
            let entries: Vec<Entry> = (next..next + count)
                .map(|index| {
                    let text = format!("{:x}", random.draw()).repeat(1 + random.below(80));
                    let payload = EntryPayload::Normal(serde_json::json!({ "value": text }));
                    Entry { log_id: log_id(*term, index), payload }
                })
                .collect();
            disk.append(&entries).unwrap();
        }
    }
}

/// Cuts the power at each sync of a run, `cases` times and twice more, and looks at what is left.
fn cut_everywhere(seed: u64, steps: usize, cases: usize) {
    let mut random = Random(seed);
    let files = Files::new(Default::default());
    let (disk, acknowledged) = run(&files, steps, &mut random);
    drop(disk);
    let (mut opened, mut ahead, mut torn) = (0, 0, Torn::default());
    for at in files.syncs().into_iter().chain([files.len()]) {
        // Before the store was there nothing was promised.
        let Some(now) = acknowledged.iter().rposition(|(done, _)| *done <= at) else {
            continue;
        };
        let promised = &acknowledged[now].1;
        let in_flight = acknowledged.get(now + 1).map_or(promised, |(_, said)| said);
        for case in 0..cases + 2 {
            let keep = [Keep::All, Keep::Nothing].get(case).copied().unwrap_or(Keep::Some);
            let images = files.cut(at, keep, [0, 0], &mut random, &mut torn);
            let what = format!(
                "seed {seed}, power cut before operation {at}, case {case} ({keep:?}); again: \
                 DISK_SEED={seed} cargo test -p steadfast-consensus power"
            );
            let disk = open(images).unwrap_or_else(|e| panic!("{what}: refused: {e}"));
            let found = said(&disk);
            if found != *promised {
                assert_eq!(found, *in_flight, "{what}: neither acknowledged nor in flight");
                ahead += 1;
            }
            opened += 1;
        }
    }
    println!(
        "seed {seed}: {} operations of the disk, {opened} power cuts, {ahead} found the commit in \
         flight, {} writes dropped and {} torn",
        files.len(),
        torn.dropped,
        torn.torn
    );
    assert!(ahead > 0 && ahead < opened && torn.dropped > 0 && torn.torn > 0, "nothing was cut");
}

#[test]
fn a_power_cut_leaves_what_was_acknowledged_or_what_was_in_flight() {
    let (seed, cases) = chosen(1, 4);
    cut_everywhere(seed, 40, cases);
}

#[test]
#[ignore = "a minute: in `make test-full`"]
fn many_power_cuts_leave_what_was_acknowledged_or_what_was_in_flight() {
    let (seed, cases) = chosen(100, 40);
    for seed in seed..seed + 5 {
        cut_everywhere(seed, 120, cases);
    }
}

/// A disk that says that it has written and has not: what one of the two files lost is found.
#[test]
fn acknowledged_writes_that_one_file_lost_are_found() {
    let (seed, _) = chosen(2, 0);
    let mut random = Random(seed);
    let files = Files::new(Default::default());
    let (disk, acknowledged) = run(&files, 20, &mut random);
    let mut found = 0;
    for (number, (done, promised)) in acknowledged.iter().enumerate().skip(3) {
        for lost in 1..=4 {
            for lies in [[lost, 0], [0, lost]] {
                let torn = &mut Torn::default();
                let images = files.cut(*done, Keep::Nothing, lies, &mut random, torn);
                let what = format!("seed {seed}, step {number}, syncs that were none: {lies:?}");
                match open(images) {
                    Err(OpenError::Damaged { .. }) => found += 1,
                    Err(other) => panic!("{what}: refused for another reason: {other}"),
                    // The guard alone lost something, which looks like a commit in flight, or
                    // what was lost is a repair or the closing of the file.
                    Ok(disk) => assert_eq!(said(&disk), *promised, "{what}"),
                }
            }
        }
    }
    drop(disk);
    println!("seed {seed}: {found} losses found");
    assert!(found > 60, "only {found} losses were found");
}

/// What nobody can know: both files as they were one commit ago.
#[test]
fn what_both_files_lost_is_an_older_state_and_nobody_can_tell() {
    let mut random = Random(3);
    let files = Files::new(Default::default());
    let (disk, acknowledged) = run(&files, 6, &mut random);
    let (done, before) = &acknowledged[3];
    let images = files.cut(*done, Keep::Nothing, [0, 0], &mut random, &mut Torn::default());
    assert_ne!(said(&disk), *before);
    assert_eq!(said(&open(images).unwrap()), *before);
}
