//! Packets in and out of network interfaces without the kernel's network stack, and the XDP
//! program that decides which packets those are. All unsafe code of the project is here, but for
//! mapping memory, in `steadfast-pages`.
//!
//! Guarantees:
//! - Safe code cannot reach packet memory the kernel may write, nor the same frame twice
//!   ([`Frame`], [`Umem`]).
//! - A packet for a VIP reaches a socket or nobody, also after `kill -9` ([`Steering`]).
//! - A frame received on one interface leaves through another without a copy of ours: the
//!   sockets of a worker share one [`Umem`].
//! - Errors say what is missing (capability, memlock, queue, MTU, mode) and what to do.
//!
//! Does not: parse packets, know services or connections, watch interfaces for changes.
//!
//! A worker's round, for its sockets (one per interface, same queue):
//!
//! ```no_run
//! # use std::{os::fd::AsFd, time::Duration};
//! # use af_xdp::{Frame, Socket, Umem, poll};
//! # fn round(umem: &mut Umem, sockets: &mut [Socket]) -> std::io::Result<()> {
//! let mut frames: Vec<Frame> = Vec::new();
//! poll(sockets.iter().map(|socket| socket.as_fd()), Duration::from_millis(10))?;
//! for number in 0..sockets.len() {
//!     sockets[number].receive(&mut frames);
//!     for mut frame in frames.drain(..) {
//!         let _packet: &mut [u8] = umem.bytes_mut(&mut frame);
//!         let out = (number + 1) % sockets.len();
//!         if let Err(frame) = sockets[out].send(frame) {
//!             umem.free(frame); // the ring is full: dropped, as a NIC would
//!         }
//!     }
//! }
//! for socket in sockets {
//!     socket.flush()?;
//!     socket.complete(umem);
//!     socket.refill(umem);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | file | what |
//! |---|---|
//! | `abi` | structures and constants of the kernel |
//! | `sys`, `bpf` | system calls: sockets, bpf(2) |
//! | `cursor`, `ring` | ring arithmetic (pure), rings in shared memory |
//! | `umem` | packet memory, frames, their pool |
//! | `socket` | an AF_XDP socket: bind, receive, send, complete, refill |
//! | `packet` | AF_PACKET socket for beacons and announcements |
//! | `interface` | MAC, MTU, queues of an interface |
//! | `steering` | loader of the steering program; `pins`, `tables`, `error` below it |
//! | `bpf/` | the steering program in C, its compiled object, `build.sh` |
//! | `tests/` | packet table, network namespaces, kill -9; all need root and fail without |
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod abi;
mod bpf;
mod cursor;
mod interface;
mod packet;
mod ring;
mod socket;
pub mod steering;
mod sys;
mod umem;

pub use abi::{MTU_MAX, PACKET_HEADROOM};
pub use interface::{Interface, InterfaceError};
pub use packet::{ETHERTYPE_ALL, PacketSocket, Received};
pub use socket::{BIND_BUSY_MAX, BindError, BindMode, Mode, RECEIVE_BURST_MAX, Socket, Statistics};
pub use steering::{
    AddressRole, Announcer, Attached, Counters, NatSource, Steering, SteeringError,
};
pub use sys::{POLL_FDS_MAX, boottime_ns, poll};
pub use umem::{Frame, OutOfFrame, RING_SIZE_MAX, UMEM_BYTES_MAX, Umem, UmemConfig, UmemError};

/// Sockets and memory move to a worker's thread; steering stays with the control side.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Umem>();
    is_send::<Frame>();
    is_send::<Socket>();
    is_send::<Steering>();
    is_send::<Announcer>();
    is_send::<PacketSocket>();
};
