//! A disk for tests that remembers every write, and says what a power cut leaves of them.

use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

const SECTOR: usize = 512;

/// What was asked of a file.
#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

impl Op {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => put(image, *offset, data),
            Self::Length(length) => image.resize(usize::try_from(*length).unwrap(), 0),
            Self::Sync => {}
        }
    }
}

/// Writes as far as the file reaches: what lies behind a length that was lost is lost.
fn put(image: &mut [u8], offset: u64, data: &[u8]) {
    let start = usize::try_from(offset).unwrap().min(image.len());
    let end = (start + data.len()).min(image.len());
    image[start..end].copy_from_slice(&data[..end - start]);
}

/// Everything that two files were asked, in order.
#[derive(Debug, Default)]
struct Journal {
    ops: Vec<(usize, Op)>,
}

/// One of the two files of a store, in memory.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    file: usize,
    image: Arc<Mutex<Vec<u8>>>,
    journal: Arc<Mutex<Journal>>,
}

/// The files of a store: redb's and the guard's.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) store: Recorder,
    pub(super) guard: Recorder,
    /// What was in them when the recording began.
    before: [Vec<u8>; 2],
}

/// What to keep of the writes that no sync has confirmed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep {
    All,
    Nothing,
    /// Each by the toss of a coin; of those that are kept some are torn.
    Some,
}

/// What a case did, so that a test can tell that its cases happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Torn {
    pub(super) dropped: usize,
    pub(super) torn: usize,
}

impl Files {
    pub(super) fn new(before: [Vec<u8>; 2]) -> Self {
        let journal = Arc::new(Mutex::new(Journal::default()));
        let recorder = |file: usize| Recorder {
            file,
            image: Arc::new(Mutex::new(before[file].clone())),
            journal: journal.clone(),
        };
        Self { store: recorder(0), guard: recorder(1), before: before.clone() }
    }

    /// What is in the files now.
    pub(super) fn images(&self) -> [Vec<u8>; 2] {
        [self.store.image(), self.guard.image()]
    }

    /// Operations so far.
    pub(super) fn len(&self) -> usize {
        self.store.journal.lock().unwrap().ops.len()
    }

    /// The positions of all syncs.
    pub(super) fn syncs(&self) -> Vec<usize> {
        let journal = self.store.journal.lock().unwrap();
        let is_sync =
            |(place, (_, op)): (usize, &(usize, Op))| matches!(op, Op::Sync).then_some(place);
        journal.ops.iter().enumerate().filter_map(is_sync).collect()
    }

    /// Bytes of the store's file that were written since operation `since`.
    pub(super) fn written_since(&self, since: usize) -> Vec<std::ops::Range<usize>> {
        let journal = self.store.journal.lock().unwrap();
        let range = |(file, op): &(usize, Op)| match op {
            Op::Write(offset, data) if *file == 0 => {
                let start = usize::try_from(*offset).unwrap();
                Some(start..start + data.len())
            }
            _ => None,
        };
        journal.ops[since..].iter().filter_map(range).collect()
    }

    /// What is left if the power goes before operation `at`: all that was synced until then, and
    /// `keep` of the rest. `lies` syncs of each file before it were none: 0 on an honest disk.
    pub(super) fn cut(
        &self,
        at: usize,
        keep: Keep,
        lies: [usize; 2],
        random: &mut Random,
        torn: &mut Torn,
    ) -> [Vec<u8>; 2] {
        let journal = self.store.journal.lock().unwrap();
        let ops = &journal.ops[..at];
        let mut images = self.before.clone();
        for (file, image) in images.iter_mut().enumerate() {
            let mine = |(place, (of, op)): (usize, &(usize, Op))| {
                (*of == file && matches!(op, Op::Sync)).then_some(place)
            };
            let syncs: Vec<usize> = ops.iter().enumerate().filter_map(mine).collect();
            let honest = syncs.len().saturating_sub(lies[file]);
            let synced = if honest == 0 { 0 } else { syncs[honest - 1] };
            for (place, (of, op)) in ops.iter().enumerate() {
                if *of != file {
                    continue;
                }
                if place < synced {
                    op.apply(image);
                } else {
                    unconfirmed(op, image, keep, random, torn);
                }
            }
        }
        images
    }
}

fn unconfirmed(op: &Op, image: &mut Vec<u8>, keep: Keep, random: &mut Random, torn: &mut Torn) {
    match keep {
        Keep::All => op.apply(image),
        Keep::Nothing => torn.dropped += 1,
        Keep::Some => match (random.below(4), op) {
            (0, _) => torn.dropped += 1,
            (1, Op::Write(offset, data)) => {
                // Any of its sectors.
                torn.torn += 1;
                for (number, sector) in data.chunks(SECTOR).enumerate() {
                    if random.below(2) == 0 {
                        put(image, offset + (number * SECTOR) as u64, sector);
                    }
                }
            }
            (2, Op::Write(offset, data)) => {
                // Up to any byte.
                torn.torn += 1;
                put(image, *offset, &data[..random.below(data.len() + 1)]);
            }
            _ => op.apply(image),
        },
    }
}

impl Recorder {
    fn image(&self) -> Vec<u8> {
        self.image.lock().unwrap().clone()
    }

    fn record(&self, op: Op) {
        op.apply(&mut self.image.lock().unwrap());
        self.journal.lock().unwrap().ops.push((self.file, op));
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.image.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let bytes = image.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.record(Op::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.record(Op::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        if end > self.len()? {
            self.record(Op::Length(end));
        }
        self.record(Op::Write(offset, data.to_vec()));
        Ok(())
    }
}

/// Numbers from a seed (splitmix64).
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.draw() % bound as u64).unwrap()
    }
}

/// The seed of a test, and how many cases of it: `DISK_SEED`, `DISK_CASES`.
pub(super) fn chosen(seed: u64, cases: usize) -> (u64, usize) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("DISK_SEED").unwrap_or(seed);
    let cases = number("DISK_CASES").map_or(cases, |cases| usize::try_from(cases).unwrap());
    (seed, cases)
}

#[path = "flip_test.rs"]
mod flips;
#[path = "power_test.rs"]
mod tests;
