//! The credentials file: one JSON object with the fields of `AdminCredentials`.
//!
//! Guarantees: a file this module writes is never readable by others, not even for a moment, and
//! is either complete or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use steadfast_proto::v1::AdminCredentials;

use crate::failure::{Exit, Failure};

/// Owner only: the file holds a private key.
const MODE: u32 = 0o600;
/// A credentials file is some 4 KiB; a wrong path may name anything.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a credentials file. The second value is a warning for the user, if any.
pub(crate) fn read(path: &Path) -> Result<(AdminCredentials, Option<String>), Failure> {
    let shown = path.display();
    let cannot = |error: io::Error| {
        Failure::new(Exit::Usage, format!("cannot read credentials {shown}: {error}"))
            .fix("give the file that `clusterctl init` wrote with --credentials")
    };
    let file = File::open(path).map_err(cannot)?;
    let mode = file.metadata().map_err(cannot)?.mode();
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(cannot)?;

    let credentials: AdminCredentials = serde_json::from_str(&text).map_err(|error| {
        Failure::new(Exit::Usage, format!("{shown} is not a credentials file: {error}"))
            .fix("give the file that `clusterctl init` wrote with --credentials")
    })?;
    let fields = [
        ("ca_pem", &credentials.ca_pem),
        ("cert_pem", &credentials.cert_pem),
        ("key_pem", &credentials.key_pem),
    ];
    if let Some((name, _)) = fields.into_iter().find(|(_, value)| value.is_empty()) {
        return Err(Failure::new(Exit::Usage, format!("{shown} has no {name}"))
            .fix("give the file that `clusterctl init` wrote with --credentials"));
    }
    let warning = (mode & 0o077 != 0).then(|| {
        format!("warning: {shown} can be read by others and holds a private key: chmod 600 {shown}")
    });
    Ok((credentials, warning))
}

/// A place for credentials, made sure of before the cluster is created: the private key exists
/// once, in the reply, and must not be lost to a full disk or a missing folder.
#[derive(Debug)]
pub(crate) struct Reservation {
    path: PathBuf,
    temporary: PathBuf,
    /// Folders that were made for it, innermost first.
    made: Vec<PathBuf>,
    file: File,
}

impl Reservation {
    /// Makes the folder and an empty temporary file beside `path`.
    pub(crate) fn new(path: &Path, force: bool) -> Result<Self, Failure> {
        let shown = path.display();
        if !force && path.exists() {
            return Err(Failure::new(Exit::Refused, format!("credentials {shown} exist already"))
                .fix(
                    "they may be the only key to another cluster: give another file with \
                      --credentials, or --force to replace them",
                ));
        }
        let cannot = |error: io::Error| {
            Failure::new(Exit::Refused, format!("cannot write credentials {shown}: {error}"))
                .fix("give a file in a folder you can write to with --credentials")
        };
        let mut made = Vec::new();
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            let missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
            made = folder.ancestors().take_while(missing).map(Path::to_owned).collect();
            fs::create_dir_all(folder).map_err(cannot)?;
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&temporary)
            .map_err(cannot)?;
        Ok(Self { path: path.to_owned(), temporary, made, file })
    }

    /// Writes the credentials and gives the file its name.
    pub(crate) fn fill(mut self, credentials: &AdminCredentials) -> Result<PathBuf, Failure> {
        self.write(credentials).map_err(|error| {
            let shown = self.path.display();
            Failure::new(
                Exit::Refused,
                format!("the cluster was created, but writing credentials {shown} failed: {error}"),
            )
            .fix("the node's Unix socket still gives full access: clusterctl --socket PATH")
        })?;
        Ok(self.path.clone())
    }

    fn write(&mut self, credentials: &AdminCredentials) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.file, credentials)?;
        self.file.write_all(b"\n")?;
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.path)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // After `fill` the name is gone and this does nothing.
        let _ = fs::remove_file(&self.temporary);
        // A folder with the credentials, or anything else, in it stays.
        for folder in &self.made {
            let _ = fs::remove_dir(folder);
        }
    }
}
