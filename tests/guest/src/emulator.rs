//! The program that is the machine: qemu, the installed one or else one of the cache.
//!
//! It is not among the packages that `make setup` installs: a machine may have disk tools of a
//! newer qemu, which Debian's emulator cannot be installed beside, and nothing is removed from a
//! machine for a test.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cache::{Cache, update_lists},
    tool,
};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// What dpkg knows to be installed.
const STATUS: &str = "/var/lib/dpkg/status";
/// Folders of libraries in an unpacked package.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
/// Folders of firmware in an unpacked package.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];

/// An emulator that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Emulator {
    /// Where its packages are unpacked; `None`: it is installed.
    unpacked: Option<PathBuf>,
}

impl Emulator {
    /// The installed emulator; if there is none, that of the cache, which is filled if need be.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) fn prepare(cache: &Cache) -> Result<Self> {
        if tool::path_of(PROGRAM).is_some() {
            return Ok(Self { unpacked: None });
        }
        let place = cache.folder().join(PACKAGE);
        if place.exists() {
            return Ok(Self { unpacked: Some(place) });
        }
        let packages = match missing_packages(cache.folder()) {
            Ok(packages) => packages,
            // A machine that was never updated has no lists at all.
            Err(error) if !update_lists()? => return Err(error),
            Err(_) => missing_packages(cache.folder())?,
        };
        let unpacked = cache.fetch(&packages, PACKAGE, |root| {
            let emulator = Self { unpacked: Some(root.to_owned()) };
            let mut version = emulator.command(&[]);
            let said = version.arg("--version").output().context("cannot start setpriv")?;
            if !said.status.success() {
                bail!("{version:?}: {}", String::from_utf8_lossy(&said.stderr).trim());
            }
            Ok(())
        })?;
        Ok(Self { unpacked: Some(unpacked) })
    }

    /// The emulator, to be started by `setpriv` with these options.
    pub(crate) fn command(&self, setpriv: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(setpriv);
        let Some(root) = &self.unpacked else {
            command.arg(PROGRAM);
            return command;
        };
        let folders = LIBRARIES.map(|folder| root.join(folder).into_os_string());
        command.env("LD_LIBRARY_PATH", folders.join(&OsString::from(":")));
        command.env("QEMU_MODULE_DIR", root.join(LIBRARIES[0]).join("qemu"));
        command.arg(root.join("usr/bin").join(PROGRAM));
        for folder in FIRMWARE {
            command.arg("-L").arg(root.join(folder));
        }
        command
    }
}

/// The emulator's package and those that it needs and this machine lacks.
fn missing_packages(folder: &Path) -> Result<Vec<String>> {
    let status = fs::read_to_string(STATUS).with_context(|| format!("cannot read {STATUS}"))?;
    // As if no part of qemu were there: what is may be of another version, and be in the way.
    let without = folder.join(format!("status-{}", std::process::id()));
    fs::write(&without, without_qemu(&status))?;
    let state = format!("Dir::State::status={}", without.display());
    let listed = tool::run(
        "apt-get",
        &[
            "--print-uris",
            "-qq",
            "--yes",
            "--no-install-recommends",
            "-o",
            &state,
            "install",
            PACKAGE,
        ],
        None,
    );
    let _ = fs::remove_file(&without);
    let packages: Vec<_> = listed?.lines().filter_map(package_of).collect();
    if packages.is_empty() {
        bail!("apt knows no {PACKAGE}");
    }
    Ok(packages)
}

/// What dpkg knows, without qemu's packages.
fn without_qemu(status: &str) -> String {
    let others =
        status.split("\n\n").filter(|paragraph| !paragraph.trim().starts_with("Package: qemu-"));
    others.collect::<Vec<_>>().join("\n\n")
}

/// The package in a line of `apt-get --print-uris`: `'URI' FILE SIZE HASH`, where the file's name
/// is package, version and architecture.
fn package_of(line: &str) -> Option<String> {
    let file = line.strip_prefix('\'')?.split(' ').nth(1)?;
    Some(file.split_once('_')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_of_qemu_are_taken_to_be_absent() {
        let status = "Package: a\nStatus: x\n\nPackage: qemu-utils\nStatus: x\n\nPackage: z\n";
        assert_eq!(without_qemu(status), "Package: a\nStatus: x\n\nPackage: z\n");
    }

    #[test]
    fn packages_are_read_from_what_apt_would_fetch() {
        let line = "'http://archive.test/pool/s/seabios/seabios_1.16.2-1_all.deb' \
                    seabios_1.16.2-1_all.deb 162656 MD5Sum:0";
        assert_eq!(package_of(line).as_deref(), Some("seabios"));
        assert_eq!(package_of("Reading package lists..."), None);
    }
}
