//! Packages of Debian, unpacked for the user who runs the tests, beside what the machine has
//! installed.
//!
//! Guarantees: what is in the cache is whole (it is renamed into its place), and one process at a
//! time fills it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::tool;

/// The cache, locked: other processes wait until this is dropped.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    _lock: File,
}

impl Cache {
    /// # Errors
    /// When there is no place for it.
    pub(crate) fn open() -> Result<Self> {
        let folder = folder()?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let lock = File::create(folder.join("lock")).context("cannot make the cache's lock")?;
        lock.lock().context("cannot lock the cache")?;
        Ok(Self { folder, _lock: lock })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fetches packages and unpacks them into one folder of the cache, once `finish` is content with
    /// what is in it.
    ///
    /// # Errors
    /// When a package cannot be had, or `finish` refuses.
    pub(crate) fn fetch(
        &self,
        packages: &[String],
        name: &str,
        finish: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let partial = self.folder.join(format!("partial-{}", std::process::id()));
        let made = self.fetch_into(packages, name, &partial, finish);
        let _ = fs::remove_dir_all(&partial);
        made.with_context(|| {
            format!("cannot get {} (is there a network? `apt-get update`?)", packages.join(" "))
        })
    }

    fn fetch_into(
        &self,
        packages: &[String],
        name: &str,
        partial: &Path,
        finish: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        fs::create_dir_all(partial)?;
        let mut arguments = vec!["download".to_owned(), "-qq".to_owned()];
        arguments.extend_from_slice(packages);
        let download = || tool::run("apt-get", &arguments, Some(partial));
        if let Err(error) = download() {
            // Lists that are older than the archive name files that are gone.
            if !update_lists()? {
                return Err(error);
            }
            download()?;
        }
        let unpacked = partial.join("unpacked");
        let mut found = 0;
        for entry in fs::read_dir(partial)? {
            let deb = entry?.path();
            if deb.extension().is_some_and(|extension| extension == "deb") {
                tool::run("dpkg", &["-x".as_ref(), deb.as_os_str(), unpacked.as_os_str()], None)?;
                found += 1;
            }
        }
        if found != packages.len() {
            bail!("apt-get fetched {found} of {} packages", packages.len());
        }
        finish(&unpacked)?;
        let place = self.folder.join(name);
        fs::rename(&unpacked, &place).context("cannot put it into the cache")?;
        Ok(place)
    }
}

/// Renews apt's lists; `false` if this user may not.
///
/// # Errors
/// When apt cannot.
pub(crate) fn update_lists() -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    tool::run("apt-get", &["update", "-qq"], None)?;
    Ok(true)
}

fn folder() -> Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => bail!("neither XDG_CACHE_HOME nor HOME is set: where may a guest's kernel be kept?"),
    };
    Ok(base.join("steadfast/guest"))
}
