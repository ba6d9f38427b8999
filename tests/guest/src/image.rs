//! What a guest boots: a kernel package of Debian, unpacked; and the emulator that boots it.
//!
//! Guarantees: nothing is fetched when something is there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow, bail};

use crate::{
    cache::{Cache, update_lists},
    emulator::Emulator,
    tool,
};

/// The kernel series whose rules the tests name.
pub const SERIES: &str = "6.12";

const PREFIX: &str = "linux-image-";

/// Programs that making and running a guest takes, with the Debian package each is in.
const TOOLS: [(&str, &str); 7] = [
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
    ("setpriv", "util-linux"),
    ("apt-get", "apt"),
    ("dpkg", "dpkg"),
];

/// An unpacked kernel package, and an emulator.
#[derive(Clone, Debug)]
pub struct Image {
    emulator: Emulator,
    folder: PathBuf,
    release: String,
}

impl Image {
    /// The newest kernel in the cache; if there is none, the newest that apt knows is fetched.
    ///
    /// # Errors
    /// What is missing and how to get it.
    pub fn prepare() -> Result<Self> {
        for (program, package) in TOOLS {
            if tool::path_of(program).is_none() {
                bail!("`{program}` is missing: run `make setup`, or `apt-get install {package}`");
            }
        }
        // One at a time: the others wait for what the first one fetches.
        let cache = Cache::open()?;
        let emulator = Emulator::prepare(&cache)?;
        let (release, folder) = match newest_in(cache.folder())? {
            Some(found) => found,
            None => fetch(&cache)?,
        };
        Ok(Self { emulator, folder, release })
    }

    /// The kernel's release, such as `6.12.100+deb12-amd64`.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        kernel_in(&self.folder, &self.release)
    }

    /// The folder with the kernel's modules.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        modules_in(&self.folder, &self.release)
    }

    pub(crate) fn emulator(&self) -> &Emulator {
        &self.emulator
    }
}

/// The newest kernel that is there: its release and its folder.
fn newest_in(cache: &Path) -> Result<Option<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(release) = name.strip_prefix(PREFIX) {
            found.push((release.to_owned(), entry.path()));
        }
    }
    Ok(found.into_iter().max_by_key(|(release, _)| version_of(release)))
}

/// Fetches the newest kernel that apt knows.
fn fetch(cache: &Cache) -> Result<(String, PathBuf)> {
    let package = newest_package()?;
    let release = package.strip_prefix(PREFIX).unwrap_or(&package).to_owned();
    let place = cache.fetch(std::slice::from_ref(&package), &package, |root| {
        for path in [kernel_in(root, &release), modules_in(root, &release)] {
            if !path.exists() {
                bail!("{package} has no {}", path.display());
            }
        }
        // modprobe in the guest wants to know who needs whom.
        tool::run("depmod", &["-b".as_ref(), root.as_os_str(), release.as_ref()], None)?;
        Ok(())
    })?;
    Ok((release, place))
}

fn kernel_in(root: &Path, release: &str) -> PathBuf {
    root.join(format!("boot/vmlinuz-{release}"))
}

fn modules_in(root: &Path, release: &str) -> PathBuf {
    root.join("lib/modules").join(release)
}

/// The numbers in a release, for comparison.
fn version_of(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The newest signed kernel of the series in apt's lists.
fn newest_package() -> Result<String> {
    let pattern = format!(r"^linux-image-{}\.[0-9]+\+deb[0-9]+-amd64$", SERIES.replace('.', r"\."));
    let search = || tool::run("apt-cache", &["search", "--names-only", &pattern], None);
    let mut listed = search()?;
    // A machine that was never updated has no lists at all.
    if listed.trim().is_empty() && update_lists()? {
        listed = search()?;
    }
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    names.max_by_key(|name| version_of(name)).map(str::to_owned).ok_or_else(|| {
        anyhow!(
            "apt knows no kernel {SERIES} for amd64 (linux-image-{SERIES}.*): `apt-get update`?"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        let newer = |a: &str, b: &str| version_of(a) > version_of(b);
        assert!(newer("6.12.100+deb12-amd64", "6.12.99+deb12-amd64"));
        assert!(newer("6.12.9+deb13-amd64", "6.12.9+deb12-amd64"));
    }
}
