//! Why a socket cannot be bound, with what helps.

use std::io;

use super::Mode;
use crate::interface;

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// AF_XDP sockets are not allowed to this process.
    #[error("no right to open AF_XDP sockets: give the process CAP_NET_RAW and CAP_NET_ADMIN")]
    NotPermitted {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no AF_XDP.
    #[error("this kernel has no AF_XDP sockets: CONFIG_XDP_SOCKETS is needed, Linux 6.1 or later")]
    NotSupported {
        /// What the kernel said.
        source: io::Error,
    },
    /// Too little memory may be locked.
    #[error(
        "cannot lock {bytes} bytes of packet memory: give the process CAP_IPC_LOCK or raise \
         its memlock limit (systemd: LimitMEMLOCK=infinity)"
    )]
    Memlock {
        /// The size of the UMEM.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface cannot be looked at.
    #[error(transparent)]
    Interface(#[from] interface::InterfaceError),
    /// The interface has fewer queues.
    #[error(
        "{interface} has no queue {queue}: it has {queues} (ethtool -l {interface} shows, \
         ethtool -L changes them)"
    )]
    NoQueue {
        /// The interface's name.
        interface: String,
        /// The queue asked for.
        queue: u32,
        /// How many it has.
        queues: u32,
    },
    /// The interface's MTU is above what native XDP takes in one piece.
    #[error("the MTU of {interface} is {mtu}: native XDP takes {max} at most, lower the MTU")]
    Mtu {
        /// The interface's name.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// The largest possible.
        max: u32,
    },
    /// A full-sized packet would not fit into a frame.
    #[error(
        "the MTU of {interface} is {mtu}: frames of {frame_size} bytes take packets of {room} \
         at most, use 4096-byte frames or lower the MTU"
    )]
    FrameTooSmall {
        /// The interface's name.
        interface: String,
        /// Its MTU.
        mtu: u32,
        /// The frame size of the UMEM.
        frame_size: u32,
        /// What fits.
        room: u32,
    },
    /// Somebody else has the queue.
    #[error(
        "queue {queue} of {interface} is still in use after {waited_ms} ms: another process has \
         an AF_XDP socket on it (ss --xdp -a shows)"
    )]
    Busy {
        /// The interface's name.
        interface: String,
        /// The queue asked for.
        queue: u32,
        /// How long we tried.
        waited_ms: u128,
    },
    /// Zero-copy was demanded and cannot be had.
    #[error("{interface} cannot do zero-copy on queue {queue}: choose auto or copy")]
    NoZeroCopy {
        /// The interface's name.
        interface: String,
        /// The queue asked for.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The UMEM is bound in one mode and the interface, or the caller, wants another.
    #[error(
        "{interface} queue {queue} cannot share a UMEM that is in {mode} mode: use copy for all \
         interfaces of the worker, or a second UMEM"
    )]
    ModeMismatch {
        /// The interface's name.
        interface: String,
        /// The queue asked for.
        queue: u32,
        /// The mode of the UMEM's first socket.
        mode: Mode,
        /// What the kernel said.
        source: io::Error,
    },
    /// Any other step that failed.
    #[error("cannot bind to queue {queue} of {interface}: {step} failed")]
    Step {
        /// The interface's name.
        interface: String,
        /// The queue asked for.
        queue: u32,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}
