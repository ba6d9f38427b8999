//! The store on a real disk: what it refuses, and what it finds damaged.

use std::ops::Bound;

use openraft::{CommittedLeaderId, EntryPayload};
use redb::ReadableTable;

use super::*;
use crate::error::OpenError;
use crate::options::{Identity, OnMissing};
use crate::store::failing::{Failing, Fault};
use crate::store::open::{file_in, guard_in};
use crate::test_folder::Folder;

const IDENTITY_1: Identity = Identity { cluster: 7, node: 1 };

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

fn entry(index: u64) -> Entry {
    let payload = match index {
        0 => EntryPayload::Blank,
        _ => EntryPayload::Normal(serde_json::json!({ "value": format!("entry {index}") })),
    };
    Entry { log_id: log_id(u64::from(index > 0), index), payload }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(log_id(1, index)),
        snapshot_id: format!("snapshot-{index}"),
        ..SnapshotMeta::default()
    }
}

/// A store with a vote, entries 0 to 9 and a committed index.
fn filled(folder: &Folder) -> Disk {
    let mut disk = Disk::open(folder.path(), IDENTITY_1, OnMissing::Create).unwrap();
    disk.save_vote(Vote::new_committed(1, 1)).unwrap();
    disk.append(&(0..10).map(entry).collect::<Vec<_>>()).unwrap();
    disk.save_committed(Some(log_id(1, 8))).unwrap();
    disk
}

fn reopen(folder: &Folder) -> std::result::Result<Disk, OpenError> {
    Disk::open(folder.path(), IDENTITY_1, OnMissing::Refuse)
}

#[track_caller]
fn assert_damaged(folder: &Folder, expected: &str) {
    match reopen(folder) {
        Err(OpenError::Damaged { what, .. }) => {
            assert!(what.contains(expected), "{what:?} does not name {expected:?}");
        }
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("a damaged store was opened"),
    }
}

#[test]
fn everything_is_there_after_a_restart() {
    let folder = Folder::new();
    let mut disk = filled(&folder);
    disk.save_snapshot(&meta(5), b"state at 5").unwrap();
    disk.purge(log_id(1, 3)).unwrap();
    let instance = disk.instance();
    drop(disk);

    let disk = reopen(&folder).unwrap();
    assert_eq!(disk.instance(), instance);
    assert_eq!(disk.vote(), Some(Vote::new_committed(1, 1)));
    assert_eq!(disk.committed(), Some(log_id(1, 8)));
    assert_eq!(disk.purged(), Some(log_id(1, 3)));
    assert_eq!(disk.last(), Some(log_id(1, 9)));
    let (meta_found, data) = disk.snapshot_data().unwrap().unwrap();
    assert_eq!((meta_found, data.as_slice()), (meta(5), b"state at 5".as_slice()));
    let entries = disk.entries(Bound::Unbounded, Bound::Unbounded, usize::MAX).unwrap();
    assert_eq!(entries, (4..10).map(entry).collect::<Vec<_>>());
}

#[test]
fn a_store_is_created_only_on_request_and_only_once() {
    let folder = Folder::new();
    assert!(!crate::Store::exists(folder.path()));
    assert!(matches!(reopen(&folder), Err(OpenError::Missing { .. })));
    assert!(!crate::Store::exists(folder.path()), "a refused open created something");

    let disk = Disk::open(folder.path(), IDENTITY_1, OnMissing::Create).unwrap();
    assert!(crate::Store::exists(folder.path()));
    assert!(matches!(reopen(&folder), Err(OpenError::InUse { .. })));
    drop(disk);
    let again = Disk::open(folder.path(), IDENTITY_1, OnMissing::Create);
    assert!(matches!(again, Err(OpenError::Exists { .. })));
    reopen(&folder).unwrap();
}

#[test]
fn a_store_of_another_node_or_cluster_is_refused() {
    let folder = Folder::new();
    drop(filled(&folder));
    for identity in [Identity { cluster: 7, node: 2 }, Identity { cluster: 8, node: 1 }] {
        let refused = Disk::open(folder.path(), identity, OnMissing::Refuse);
        assert!(matches!(refused, Err(OpenError::OtherIdentity { found_node: 1, .. })));
    }
    reopen(&folder).unwrap();
}

#[test]
fn a_vote_never_goes_back() {
    let folder = Folder::new();
    let mut disk = filled(&folder);
    disk.save_vote(Vote::new(5, 2)).unwrap();
    for older in [Vote::new(4, 3), Vote::new_committed(4, 3), Vote::new(5, 1)] {
        assert!(disk.save_vote(older).is_err(), "{older}");
    }
    disk.save_vote(Vote::new(5, 2)).unwrap();
    disk.save_vote(Vote::new_committed(5, 2)).unwrap();
    assert!(disk.save_vote(Vote::new(5, 2)).is_err(), "a won vote became a mere promise");
    drop(disk);
    assert_eq!(reopen(&folder).unwrap().vote(), Some(Vote::new_committed(5, 2)));
}

#[test]
fn committed_entries_are_not_truncated_and_the_log_gets_no_hole() {
    let folder = Folder::new();
    let mut disk = filled(&folder);
    assert!(disk.truncate(8).is_err());
    disk.truncate(9).unwrap();
    assert_eq!(disk.last(), Some(log_id(1, 8)));
    assert!(disk.append(&[entry(10)]).is_err());
    disk.append(&[entry(9), entry(10)]).unwrap();
    // An older committed index and an older snapshot change nothing.
    disk.save_committed(Some(log_id(1, 2))).unwrap();
    disk.save_snapshot(&meta(5), b"five").unwrap();
    disk.save_snapshot(&meta(4), b"four").unwrap();
    drop(disk);
    let disk = reopen(&folder).unwrap();
    assert_eq!(disk.committed(), Some(log_id(1, 8)));
    assert_eq!(disk.snapshot_data().unwrap().unwrap().1, b"five");
}

/// Changes one record through redb, whose own page checksums are then right.
fn tamper(folder: &Folder, change: impl FnOnce(&WriteTransaction)) {
    let database = Database::open(file_in(folder.path())).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

fn flip_entry(folder: &Folder, index: u64, byte: usize) {
    tamper(folder, |transaction| {
        let mut table = transaction.open_table(LOG).unwrap();
        let mut record = table.get(index).unwrap().unwrap().value().to_vec();
        record[byte] ^= 1;
        table.insert(index, record.as_slice()).unwrap();
    });
}

fn flip_meta(folder: &Folder, key: &str) {
    tamper(folder, |transaction| {
        let mut table = transaction.open_table(META).unwrap();
        let mut record = table.get(key).unwrap().unwrap().value().to_vec();
        *record.last_mut().unwrap() ^= 1;
        table.insert(key, record.as_slice()).unwrap();
    });
}

#[test]
fn one_flipped_bit_in_an_entry_is_found() {
    let folder = Folder::new();
    drop(filled(&folder));
    // In the text of the value: without the checksum it would be another valid command.
    let record = record::encode(&6_u64.to_be_bytes(), &entry(6)).unwrap();
    let text = record.windows(7).position(|w| w == b"entry 6").unwrap();
    flip_entry(&folder, 6, text + 6);
    assert_damaged(&folder, "log entry 6: its checksum");
}

#[test]
fn one_flipped_bit_in_any_other_record_is_found() {
    for key in [IDENTITY, VOTE, COMMITTED, PURGED, SNAPSHOT_META, SNAPSHOT_DATA, COMMITS] {
        let folder = Folder::new();
        let mut disk = filled(&folder);
        disk.save_snapshot(&meta(5), b"state").unwrap();
        disk.purge(log_id(1, 3)).unwrap();
        drop(disk);
        flip_meta(&folder, key);
        assert_damaged(&folder, key);
    }
}

#[test]
fn a_hole_a_missing_end_and_a_forgotten_vote_are_found() {
    let remove_entry = |folder: &Folder, index: u64| {
        tamper(folder, |t| {
            t.open_table(LOG).unwrap().remove(index).unwrap();
        });
    };
    let folder = Folder::new();
    drop(filled(&folder));
    remove_entry(&folder, 4);
    assert_damaged(&folder, "entry 5 where entry 4 should be");

    // Entry 9 is not committed: its absence alone is what an interrupted append leaves.
    let folder = Folder::new();
    drop(filled(&folder));
    remove_entry(&folder, 9);
    drop(reopen(&folder).unwrap());
    remove_entry(&folder, 8);
    assert_damaged(&folder, "recorded as committed");

    let folder = Folder::new();
    drop(filled(&folder));
    tamper(&folder, |t| {
        t.open_table(META).unwrap().remove(VOTE).unwrap();
    });
    assert_damaged(&folder, "the vote is older");

    let folder = Folder::new();
    let mut disk = filled(&folder);
    disk.save_snapshot(&meta(5), b"state").unwrap();
    disk.purge(log_id(1, 3)).unwrap();
    drop(disk);
    tamper(&folder, |t| {
        t.open_table(META).unwrap().remove(SNAPSHOT_META).unwrap();
    });
    assert_damaged(&folder, "beyond the snapshot");
}

#[test]
fn bytes_changed_behind_redb_are_found() {
    let folder = Folder::new();
    drop(filled(&folder));
    let path = file_in(folder.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let mut places = Vec::new();
    for place in 0..bytes.len() - 7 {
        if &bytes[place..place + 7] == b"entry 6" {
            places.push(place);
        }
    }
    assert!(!places.is_empty());
    for place in places {
        bytes[place + 6] = b'7';
    }
    std::fs::write(&path, bytes).unwrap();
    assert_damaged(&folder, "");
}

#[test]
fn a_file_cut_short_or_emptied_is_refused() {
    for length in [0, 100, 4096, 10_000] {
        let folder = Folder::new();
        drop(filled(&folder));
        let file = std::fs::OpenOptions::new().write(true).open(file_in(folder.path())).unwrap();
        file.set_len(length).unwrap();
        drop(file);
        match reopen(&folder) {
            Err(OpenError::Damaged { .. }) => {}
            Err(other) => panic!("cut to {length}: {other}"),
            Ok(_) => panic!("cut to {length}: opened"),
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let backend = Failing::default();
    let mut disk =
        Disk::on_backends(backend.clone(), redb::backends::InMemoryBackend::new(), IDENTITY_1);
    disk.append(&[entry(0)]).unwrap();

    backend.set(Fault::NextSync);
    let error = disk.append(&[entry(1)]).unwrap_err();
    assert!(error.0.contains("append to the log"), "{error}");
    assert_eq!(disk.last().unwrap().index, 0, "an entry that is not on disk counts");

    // The kernel reports a failed sync once; the next one "succeeds" without the lost pages.
    assert!(backend.has_failed());
    let syncs = backend.syncs();
    let error = disk.save_vote(Vote::new(3, 1)).unwrap_err();
    assert!(error.0.contains("after an earlier failure"), "{error}");
    assert_eq!((disk.vote(), backend.syncs()), (None, syncs));
}

#[test]
fn a_store_without_its_guard_or_with_another_one_is_refused() {
    let folder = Folder::new();
    drop(filled(&folder));
    let kept = std::fs::read(guard_in(folder.path())).unwrap();
    std::fs::remove_file(guard_in(folder.path())).unwrap();
    assert_damaged(&folder, "raft.guard, is missing");

    let other = Folder::new();
    drop(filled(&other));
    std::fs::copy(guard_in(other.path()), guard_in(folder.path())).unwrap();
    assert_damaged(&folder, "belongs to another store");

    std::fs::write(guard_in(folder.path()), &kept).unwrap();
    drop(reopen(&folder).unwrap());
}

/// What a restored copy of the one file is, too.
#[test]
fn an_older_store_beside_its_guard_is_refused_each_time() {
    let folder = Folder::new();
    let mut disk = filled(&folder);
    disk.save_vote(Vote::new(5, 2)).unwrap();
    drop(disk);
    let older = std::fs::read(file_in(folder.path())).unwrap();
    let mut disk = reopen(&folder).unwrap();
    disk.save_vote(Vote::new(6, 3)).unwrap();
    drop(disk);
    std::fs::write(file_in(folder.path()), older).unwrap();
    for _ in 0..3 {
        assert_damaged(&folder, "it fell back to an older state");
    }
}

#[test]
fn a_store_of_a_version_without_guards_gets_one_once() {
    let folder = Folder::new();
    drop(filled(&folder));
    let forget = || {
        tamper(&folder, |t| {
            t.open_table(META).unwrap().remove(COMMITS).unwrap();
        });
    };
    forget();
    std::fs::remove_file(guard_in(folder.path())).unwrap();
    let disk = reopen(&folder).unwrap();
    assert_eq!((disk.commits, disk.last().map(|id| id.index)), (1, Some(9)));
    drop(disk);
    drop(reopen(&folder).unwrap());
    // Once guarded, a store that knows of no guard has fallen back.
    forget();
    assert_damaged(&folder, "it fell back to an older state");
}

/// Not a test: prints what a commit costs on the disk of the temporary folder, beside redb's own
/// two-phase commit of the same vote. `DISK_CASES` commits of each, in turns.
#[test]
#[ignore = "a measurement: cargo test -p steadfast-consensus --lib cost_of_a_commit -- --ignored --nocapture"]
fn cost_of_a_commit() {
    let (folder, other) = (Folder::new(), Folder::new());
    let mut disk = Disk::open(folder.path(), IDENTITY_1, OnMissing::Create).unwrap();
    let database = Database::create(file_in(other.path())).unwrap();
    let mut spent = [std::time::Duration::ZERO; 2];
    let cases = std::env::var("DISK_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(300);
    for term in 1..=cases {
        let vote = Vote::new(term, 1);
        let started = std::time::Instant::now();
        disk.save_vote(vote).unwrap();
        spent[0] += started.elapsed();
        let started = std::time::Instant::now();
        let mut transaction = database.begin_write().unwrap();
        transaction.set_two_phase_commit(true);
        put(&transaction, VOTE, &vote).unwrap();
        transaction.commit().unwrap();
        spent[1] += started.elapsed();
    }
    let mean = spent.map(|spent| spent.as_micros() / u128::from(cases));
    println!("{cases} votes: {} us with the guard, {} us by two-phase commit", mean[0], mean[1]);
}
