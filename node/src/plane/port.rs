//! A data interface: what is steered there and which queues have a socket.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use af_xdp::{Mode, Steering};
use steadfast_ownership::SegmentId;

/// A data interface of this node.
#[derive(Debug)]
pub(crate) struct PortInfo {
    /// Kernel index.
    pub(crate) interface: u32,
    pub(crate) name: String,
    pub(crate) mac: [u8; 6],
    /// The segment it is on.
    pub(crate) segment: SegmentId,
    /// Receive queues.
    pub(crate) queues: u32,
    steering: Mutex<Steering>,
    sockets: Mutex<BTreeMap<u32, Result<PortMode, String>>>,
}

/// How a queue's socket is bound.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PortMode {
    pub(crate) mode: Mode,
    /// Why not zero-copy; empty if it is.
    pub(crate) fallback: String,
}

impl PortInfo {
    pub(crate) fn new(facts: &af_xdp::Interface, segment: SegmentId, steering: Steering) -> Self {
        Self {
            interface: facts.index,
            name: facts.name.clone(),
            mac: facts.mac,
            segment,
            queues: facts.rx_queues,
            steering: Mutex::new(steering),
            sockets: Mutex::default(),
        }
    }

    /// The steering program; short critical sections only.
    pub(crate) fn steering(&self) -> MutexGuard<'_, Steering> {
        self.steering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note_socket(&self, queue: u32, mode: PortMode) {
        self.lock().insert(queue, Ok(mode));
    }

    pub(crate) fn note_failure(&self, queue: u32, why: &str) {
        self.lock().insert(queue, Err(why.to_owned()));
    }

    /// What became of each queue's socket.
    pub(crate) fn sockets(&self) -> BTreeMap<u32, Result<PortMode, String>> {
        self.lock().clone()
    }

    /// Every queue has a socket: what is steered here is served.
    pub(crate) fn is_served(&self) -> bool {
        let sockets = self.lock();
        (0..self.queues).all(|queue| matches!(sockets.get(&queue), Some(Ok(_))))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Result<PortMode, String>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
