//! What a guest boots: a kernel package of Debian, unpacked, in a cache that is the user's.
//!
//! Guarantees: what is in the cache is whole (it is renamed into its place), and nothing is fetched
//! when something is there.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::tool;

/// The kernel series whose rules the tests name.
pub const SERIES: &str = "6.12";

/// Programs that making and running a guest takes, with the Debian package each is in.
const TOOLS: [(&str, &str); 8] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
    ("setpriv", "util-linux"),
    ("apt-get", "apt"),
    ("dpkg", "dpkg"),
];

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub struct Image {
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
        let cache = cache_folder()?;
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        // One at a time: the others wait for what the first one fetches.
        let lock = File::create(cache.join("lock")).context("cannot make the cache's lock")?;
        lock.lock().context("cannot lock the cache")?;
        if let Some(image) = Self::newest_in(&cache)? {
            return Ok(image);
        }
        let package = newest_package()?;
        fetch(&package, &cache).with_context(|| {
            format!("cannot get the package {package} (is there a network? `apt-get update`?)")
        })?;
        Self::newest_in(&cache)?.ok_or_else(|| anyhow!("{package} holds no kernel"))
    }

    /// The kernel's release, such as `6.12.100+deb12-amd64`.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.folder.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The folder with the kernel's modules.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }

    fn newest_in(cache: &Path) -> Result<Option<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(cache)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(release) = name.strip_prefix("linux-image-") {
                found.push(release.to_owned());
            }
        }
        let newest = found.into_iter().max_by_key(|release| version_of(release));
        Ok(newest
            .map(|release| Self { folder: cache.join(format!("linux-image-{release}")), release }))
    }
}

fn cache_folder() -> Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => bail!("neither XDG_CACHE_HOME nor HOME is set: where may the kernel be kept?"),
    };
    Ok(base.join("steadfast/guest"))
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
    if listed.trim().is_empty() && rustix::process::geteuid().is_root() {
        // A machine that was never updated has no lists at all.
        tool::run("apt-get", &["update", "-qq"], None)?;
        listed = search()?;
    }
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    names.max_by_key(|name| version_of(name)).map(str::to_owned).ok_or_else(|| {
        anyhow!(
            "apt knows no kernel {SERIES} for amd64 (linux-image-{SERIES}.*): `apt-get update`?"
        )
    })
}

/// Fetches and unpacks a kernel package into the cache.
fn fetch(package: &str, cache: &Path) -> Result<()> {
    let partial = cache.join(format!("partial-{}", std::process::id()));
    let made = fetch_into(package, &partial, cache);
    let _ = fs::remove_dir_all(&partial);
    made
}

fn fetch_into(package: &str, partial: &Path, cache: &Path) -> Result<()> {
    fs::create_dir_all(partial)?;
    let download = || tool::run("apt-get", &["download", "-qq", package], Some(partial));
    if let Err(error) = download() {
        // Lists that are older than the archive name files that are gone.
        if !rustix::process::geteuid().is_root() {
            return Err(error);
        }
        tool::run("apt-get", &["update", "-qq"], None)?;
        download()?;
    }
    let is_deb = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    let deb = fs::read_dir(partial)?.filter_map(Result::ok).map(|e| e.path()).find(is_deb);
    let deb = deb.ok_or_else(|| anyhow!("apt-get fetched no package"))?;
    let unpacked = partial.join("unpacked");
    tool::run("dpkg", &["-x".as_ref(), deb.as_os_str(), unpacked.as_os_str()], None)?;
    let release = package.strip_prefix("linux-image-").unwrap_or(package);
    let image = Image { folder: unpacked.clone(), release: release.to_owned() };
    for path in [image.kernel(), image.modules()] {
        if !path.exists() {
            bail!("{package} has no {}", path.display());
        }
    }
    // modprobe in the guest wants to know who needs whom.
    tool::run("depmod", &["-b".as_ref(), unpacked.as_os_str(), release.as_ref()], None)?;
    fs::rename(&unpacked, cache.join(package)).context("cannot put it into the cache")
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
