//! A disk for tests that can be told to fail.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use redb::StorageBackend;
use redb::backends::InMemoryBackend;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    Nothing,
    /// The next sync fails, those after it do not: so the kernel reports lost pages.
    NextSync,
    /// There is room for as many more writes, and then none.
    Full(u32),
    /// Syncs wait until this ends.
    Stall,
}

/// Memory that fails on demand. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failing {
    memory: Arc<InMemoryBackend>,
    fault: Arc<(Mutex<Fault>, Condvar)>,
    syncs: Arc<AtomicU64>,
}

impl Failing {
    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.0.lock().unwrap() = fault;
        self.fault.1.notify_all();
    }

    /// Whether the fault has happened, or happens.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(*self.fault.0.lock().unwrap(), Fault::Nothing | Fault::Full(0))
    }

    /// Syncs so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    fn take_room(&self) -> io::Result<()> {
        match &mut *self.fault.0.lock().unwrap() {
            Fault::Full(0) => Err(io::ErrorKind::StorageFull.into()),
            Fault::Full(writes) => {
                *writes -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.take_room()?;
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (fault, changed) = &*self.fault;
        let fault = fault.lock().unwrap();
        let mut fault = changed.wait_while(fault, |fault| *fault == Fault::Stall).unwrap();
        if *fault == Fault::NextSync {
            *fault = Fault::Nothing;
            return Err(io::Error::other("the disk is gone"));
        }
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.memory.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.take_room()?;
        self.memory.write(offset, data)
    }
}
