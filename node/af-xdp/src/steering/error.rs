//! Why steering fails, with the command that helps.

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

use crate::{InterfaceError, MTU_MAX};

/// Why steering failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SteeringError {
    /// The interface cannot be looked at.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// An instance name that is no folder name.
    #[error("the instance name {name:?} is not possible: letters, digits, - and _ only")]
    InstanceName {
        /// What was asked for.
        name: String,
    },
    /// There is no BPF file system.
    #[error(
        "{path} is not on a BPF file system: mount one ({}), without it nothing keeps VIPs silent \
         after a crash",
        mount_command(path)
    )]
    NoBpffs {
        /// Where it was expected.
        path: PathBuf,
        /// What the kernel said.
        source: Option<io::Error>,
    },
    /// The folder of the pins cannot be made or changed.
    #[error("cannot use {path} for pins: root or CAP_BPF and write permission are needed")]
    Pins {
        /// The folder or file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process steers this interface under the same instance name.
    #[error(
        "{path} is in use: another process of this instance is running, stop it or choose \
         another instance name"
    )]
    InUse {
        /// The folder of the pins.
        path: PathBuf,
    },
    /// The pinned link belongs to another interface.
    #[error(
        "{path} is the link of the interface with index {ifindex}, which is not {interface}: an \
         interface was renamed; remove the pin (clusterctl detach, or rm) and start again"
    )]
    LinkElsewhere {
        /// The link's pin.
        path: PathBuf,
        /// The interface it is attached to.
        ifindex: u32,
        /// The interface it should be attached to.
        interface: String,
    },
    /// The interface has an XDP program of somebody else.
    #[error(
        "{interface} already has an XDP program that is not ours: remove it (ip link set dev \
         {interface} xdp off; bpftool net shows its owner) and attach again"
    )]
    ForeignProgram {
        /// The interface's name.
        interface: String,
        /// What the kernel said.
        source: ProgramError,
    },
    /// The interface's MTU, or for a veth its peer's, is too large for native XDP.
    #[error(
        "{interface} refuses the program: its MTU is {mtu}, and native XDP takes {MTU_MAX} at \
         most (for a veth the peer's MTU counts too)"
    )]
    Mtu {
        /// The interface's name.
        interface: String,
        /// Its MTU.
        mtu: u32,
    },
    /// The driver has no native XDP.
    #[error("the driver of {interface} has no native XDP")]
    NoNativeXdp {
        /// The interface's name.
        interface: String,
        /// What the kernel said.
        source: ProgramError,
    },
    /// The program could not be loaded.
    #[error(
        "cannot load the steering program: root or CAP_BPF and CAP_NET_ADMIN are needed, and \
         Linux 6.1 or later"
    )]
    Load(#[source] Box<EbpfError>),
    /// The program could not be attached.
    #[error("cannot attach the steering program to {interface}")]
    Attach {
        /// The interface's name.
        interface: String,
        /// What the kernel said.
        source: ProgramError,
    },
    /// The pinned link could not be opened or made.
    #[error("cannot use the link pinned at {path}")]
    Link {
        /// The link's pin.
        path: PathBuf,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A table is too small for what it should hold.
    #[error("table {table} holds {max} entries, {asked} are needed: split the groups over nodes")]
    TableFull {
        /// The table's name.
        table: &'static str,
        /// How many it holds.
        max: u32,
        /// How many are needed.
        asked: usize,
    },
    /// A table could not be read or written.
    #[error("cannot use table {table}")]
    Table {
        /// The table's name.
        table: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// A socket of another interface or queue.
    #[error(
        "a socket of interface index {socket_ifindex} queue {socket_queue} cannot serve \
         interface index {ifindex} queue {queue}"
    )]
    WrongSocket {
        /// The interface steered.
        ifindex: u32,
        /// The queue asked for.
        queue: u32,
        /// The socket's interface.
        socket_ifindex: u32,
        /// The socket's queue.
        socket_queue: u32,
    },
}

/// What makes `path` lie on a BPF file system.
fn mount_command(path: &Path) -> String {
    let usual = Path::new(super::BPFFS);
    let place = if path.starts_with(usual) { usual } else { path };
    // The kernel makes the usual place by itself.
    let make = if place == usual || place.is_dir() {
        String::new()
    } else {
        format!("mkdir -p {} && ", place.display())
    };
    format!("{make}mount -t bpf bpf {}", place.display())
}

pub(super) fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

pub(super) fn missing(table: &'static str) -> SteeringError {
    let source = MapError::InvalidName { name: table.to_owned() };
    SteeringError::Table { table, source }
}

pub(super) fn link_error(
    path: &Path,
    error: impl std::error::Error + Send + Sync + 'static,
) -> SteeringError {
    SteeringError::Link { path: path.to_owned(), source: Box::new(error) }
}
