//! Flipped bits and torn tails of the files themselves.

use std::ops::Bound;

use super::tests::{Said, open, run, said};
use super::*;
use crate::error::OpenError;
use crate::store::record;

/// A store after some work, closed or killed, what it said, and which bytes its last commits wrote.
struct Left {
    images: [Vec<u8>; 2],
    said: Said,
    recent: Vec<usize>,
}

fn left(seed: u64, closed: bool) -> Left {
    let files = Files::new(Default::default());
    let (disk, acknowledged) = run(&files, 30, &mut Random(seed));
    let since = acknowledged[acknowledged.len() - 3].0;
    let said = said(&disk);
    let killed = files.images();
    drop(disk);
    let images = if closed { files.images() } else { killed };
    let mut recent: Vec<usize> = files.written_since(since).into_iter().flatten().collect();
    recent.retain(|byte| *byte < images[0].len());
    recent.sort_unstable();
    recent.dedup();
    Left { images, said, recent }
}

/// Flips one bit of each of `places` and opens the files. How many were refused.
fn flip(
    left: &Left,
    file: usize,
    places: impl Iterator<Item = (usize, u8)>,
    what: &str,
) -> [u64; 2] {
    let mut counts = [0; 2];
    for (byte, bit) in places {
        let mut images = left.images.clone();
        images[file][byte] ^= 1 << bit;
        match open(images) {
            Err(OpenError::Damaged { .. } | OpenError::Format { .. }) => counts[0] += 1,
            Err(other) => panic!("{what}: file {file}, byte {byte}, bit {bit}: {other}"),
            Ok(disk) => {
                assert_eq!(said(&disk), left.said, "{what}: file {file}, byte {byte}, bit {bit}");
                counts[1] += 1;
            }
        }
    }
    assert!(counts[0] > 0, "{what}: no flipped bit was found");
    println!(
        "{what}: file {file}: {} refused, {} gave all that was acknowledged",
        counts[0], counts[1]
    );
    counts
}

/// redb's header with both of its commits.
const HEADER: usize = 320;

#[test]
fn a_flipped_bit_is_found_or_changes_nothing() {
    let (seed, _) = chosen(4, 0);
    for closed in [true, false] {
        let left = left(seed, closed);
        let what = format!("seed {seed}, closed {closed}");
        let mut random = Random(seed);
        // The byte that says which commit counts, the rest of the header, what the last commits
        // wrote, and the rest.
        flip(&left, 0, (8..11).flat_map(|byte| (0..8).map(move |bit| (byte, bit))), &what);
        let bits = |byte: usize, random: &mut Random| (byte, random.below(8) as u8);
        flip(&left, 0, (0..HEADER).map(|byte| bits(byte, &mut random)), &what);
        let recent = left.recent.iter().filter(|byte| **byte >= HEADER).step_by(101);
        flip(&left, 0, recent.map(|byte| bits(*byte, &mut random)), &what);
        let all = (HEADER..left.images[0].len()).step_by(1024 + 64);
        flip(&left, 0, all.map(|byte| bits(byte, &mut random)), &what);
        let slots = (0..20).chain(4096..4116).flat_map(|byte| (0..8).map(move |bit| (byte, bit)));
        flip(&left, 1, slots, &what);
    }
}

#[test]
#[ignore = "minutes: in `make test-full`"]
fn every_flipped_bit_is_found_or_changes_nothing() {
    let (seed, _) = chosen(4, 0);
    for closed in [true, false] {
        let left = left(seed, closed);
        let what = format!("seed {seed}, closed {closed}");
        let mut random = Random(seed);
        let header = (0..HEADER).flat_map(|byte| (0..8).map(move |bit| (byte, bit)));
        flip(&left, 0, header, &what);
        let mut bits = |byte: usize| (byte, random.below(8) as u8);
        let recent = left.recent.iter().filter(|byte| **byte >= HEADER);
        flip(&left, 0, recent.map(|byte| bits(*byte)), &what);
        flip(&left, 0, (HEADER..left.images[0].len()).step_by(64).map(bits), &what);
    }
}

fn places_of(image: &[u8], bytes: &[u8]) -> Vec<usize> {
    image.windows(bytes.len()).enumerate().filter(|(_, w)| *w == bytes).map(|(at, _)| at).collect()
}

/// A store that was killed after two commits of one entry each, with their records.
fn with_two_last_records() -> (Left, [Vec<u8>; 2]) {
    let files = Files::new(Default::default());
    let (mut disk, _) = run(&files, 10, &mut Random(5));
    let records = [1, 2].map(|_| {
        let mut entries = disk.entries(Bound::Unbounded, Bound::Unbounded, usize::MAX).unwrap();
        let mut entry = entries.pop().unwrap();
        entry.log_id.index += 1;
        disk.append(std::slice::from_ref(&entry)).unwrap();
        record::encode(&entry.log_id.index.to_be_bytes(), &entry).unwrap()
    });
    (Left { images: files.images(), said: said(&disk), recent: Vec::new() }, records)
}

/// The rest of a record never reached the disk, from any byte on.
#[test]
fn a_torn_record_is_found_wherever_it_is_torn() {
    let (left, records) = with_two_last_records();
    for record in &records {
        let (mut found, mut same) = (0, 0);
        for place in places_of(&left.images[0], record) {
            for cut in 0..record.len() {
                let mut images = left.images.clone();
                images[0][place + cut..place + record.len()].fill(0);
                match open(images) {
                    Err(OpenError::Damaged { .. }) => found += 1,
                    Err(other) => panic!("torn at byte {cut}: {other}"),
                    // A copy that counts no more.
                    Ok(disk) => {
                        assert_eq!(said(&disk), left.said, "torn at byte {cut}");
                        same += 1;
                    }
                }
            }
        }
        assert!(found >= record.len(), "{found} of {} torn records were found", found + same);
        println!(
            "{} bytes: {found} tears found, {same} in copies that count no more",
            record.len()
        );
    }
}

/// The file ends where it did not, or a slot of the guard does.
#[test]
fn files_that_end_early_are_refused() {
    let (left, _) = with_two_last_records();
    let [store, guard] = &left.images;
    for length in
        (store.len() - 8192..store.len()).step_by(61).chain((0..store.len()).step_by(4096))
    {
        let images = [store[..length].to_vec(), guard.clone()];
        let refused = matches!(open(images), Err(OpenError::Damaged { .. }));
        assert!(refused, "cut to {length} of {}", store.len());
    }
    for length in (0..20).chain(4096..4116) {
        match open([store.clone(), guard[..length].to_vec()]) {
            Err(OpenError::Damaged { .. }) => {}
            Err(other) => panic!("guard cut to {length}: {other}"),
            // The newest slot is in the first half.
            Ok(disk) => assert_eq!(said(&disk), left.said),
        }
    }
}
