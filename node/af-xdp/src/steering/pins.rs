//! Where link and tables are pinned: `<bpffs>/<instance>/<interface>/`.
//!
//! Guarantees: the folder is on a bpffs, made with mode 0700 together with what is missing above
//! it, and locked by one process at a time; a lock ends with its process.

use std::{
    ffi::CString,
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::SteeringError;
use crate::sys;

/// The name of the pinned link.
pub(super) const LINK: &str = "link";

/// How long to wait for a predecessor that is just ending.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(200);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The folder of one interface's pins, locked.
#[derive(Debug)]
pub(super) struct Pins {
    dir: PathBuf,
    lock: File,
}

impl Pins {
    /// Makes and locks the folder.
    pub(super) fn open(
        bpffs: &Path,
        instance: &str,
        interface: &str,
    ) -> Result<Self, SteeringError> {
        let dir = pin_dir(bpffs, instance, interface)?;
        // Before anything is made: a folder on another file system would hide the mistake.
        check_bpffs(bpffs)?;
        let failed = |source| SteeringError::Pins { path: dir.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        let lock = File::open(&dir).map_err(failed)?;
        let deadline = Instant::now() + LOCK_WAIT_MAX;
        loop {
            match flock(&lock, libc::LOCK_EX | libc::LOCK_NB) {
                Ok(()) => return Ok(Self { dir, lock }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if Instant::now() >= deadline {
                        return Err(SteeringError::InUse { path: dir });
                    }
                    thread::sleep(LOCK_PAUSE);
                }
                Err(source) => return Err(failed(source)),
            }
        }
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The link's pin.
    pub(super) fn link(&self) -> PathBuf {
        self.dir.join(LINK)
    }

    /// A table's pin.
    pub(super) fn table(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // Closing alone would leave the lock with a child that is between fork and exec.
        let _ = flock(&self.lock, libc::LOCK_UN);
    }
}

/// The folder of an interface's pins. bpffs takes no dots in names: a VLAN interface's dot
/// becomes a colon, which interface names cannot have.
pub(super) fn pin_dir(
    bpffs: &Path,
    instance: &str,
    interface: &str,
) -> Result<PathBuf, SteeringError> {
    Ok(instance_dir(bpffs, instance)?.join(interface.replace('.', ":")))
}

/// The interfaces that [`pin_dir`] has a folder for.
pub(super) fn interfaces(bpffs: &Path, instance: &str) -> Result<Vec<String>, SteeringError> {
    let dir = instance_dir(bpffs, instance)?;
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().replace(':', "."))
    };
    let names = match fs::read_dir(&dir) {
        Ok(entries) => entries.map(name).collect::<io::Result<Vec<_>>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let mut names = names.map_err(|source| SteeringError::Pins { path: dir, source })?;
    names.sort_unstable();
    Ok(names)
}

/// The folder of all pins of an instance.
fn instance_dir(bpffs: &Path, instance: &str) -> Result<PathBuf, SteeringError> {
    let plain = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if !plain(instance) {
        return Err(SteeringError::InstanceName { name: instance.to_owned() });
    }
    Ok(bpffs.join(instance))
}

/// Removes pins and folder; missing ones are fine.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(dir)
}

fn flock(file: &File, operation: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    sys::check(unsafe { libc::flock(file.as_raw_fd(), operation) })
}

/// Whether `path`, or where it does not exist yet the nearest folder above it, is on a bpffs.
fn check_bpffs(path: &Path) -> Result<(), SteeringError> {
    let refused = |source| SteeringError::NoBpffs { path: path.to_owned(), source };
    for folder in path.ancestors() {
        match file_system(folder) {
            Ok(BPFFS_KIND) => return Ok(()),
            Ok(_) => return Err(refused(None)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(refused(Some(error))),
        }
    }
    Err(refused(None))
}

/// The kernel's number for the kind of the file system that a path lies on.
fn file_system(path: &Path) -> io::Result<u64> {
    let c_path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `statfs` is integers; all-zero is a valid value of it.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a live C string and `facts` a writable structure of the right type.
    sys::check(unsafe { libc::statfs(c_path.as_ptr(), &mut facts) })?;
    Ok(facts.f_type as u64 & KIND_BITS)
}

/// The numbers have 32 bits; in a signed field they may be extended.
const KIND_BITS: u64 = 0xffff_ffff;
const BPFFS_KIND: u64 = libc::BPF_FS_MAGIC as u64 & KIND_BITS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_folders_inside_the_file_system() {
        let dir = |instance, interface| pin_dir(Path::new("/b"), instance, interface);
        assert_eq!(dir("steadfast", "eth0").unwrap(), Path::new("/b/steadfast/eth0"));
        assert_eq!(dir("steadfast", "eth0.7").unwrap(), Path::new("/b/steadfast/eth0:7"));
        for instance in ["", "..", "a/b", "a.b"] {
            assert!(matches!(dir(instance, "eth0"), Err(SteeringError::InstanceName { .. })));
        }
    }

    #[test]
    fn another_file_system_is_refused_with_the_command_that_helps() {
        // Nothing is made there, and a path under another file system counts as its folder.
        for (path, command) in [
            ("/proc", "mount -t bpf bpf /proc)"),
            ("/proc/no/such", "mkdir -p /proc/no/such && mount -t bpf bpf /proc/no/such)"),
        ] {
            let error = Pins::open(Path::new(path), "steadfast", "eth0").unwrap_err().to_string();
            assert!(error.contains(command), "{error}");
        }
    }

    #[test]
    fn below_the_usual_place_that_place_is_mounted() {
        let path = Path::new("/sys/fs/bpf/steadfast").to_owned();
        let error = SteeringError::NoBpffs { path, source: None }.to_string();
        assert!(error.contains("(mount -t bpf bpf /sys/fs/bpf)"), "{error}");
    }
}
