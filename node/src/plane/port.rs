//! A data interface: what is steered there, which queues have a socket, which segments are on it.
//!
//! A VLAN is a port of its own, on which segments are; what is bound and steered is the interface that
//! carries it, which is another port.
//!
//! Everything but the segments is as it was when the interface was attached. An interface that is
//! not so any more gets a new port, see [`super::attach`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use af_xdp::{Announcer, Mode, Socket, Steering, SteeringError};
use steadfast_ownership::SegmentId;

use super::tables::Tables;
use crate::kernel::Interface;

/// A data interface of this node.
#[derive(Debug)]
pub(crate) struct PortInfo {
    /// Its number on all workers, below `PORTS_MAX`, or from there on for a VLAN; given anew when the
    /// port is gone.
    pub(crate) number: u16,
    /// What carries it, if it is a VLAN, and the VLAN's number.
    trunk: Option<(Arc<Self>, u16)>,
    /// Kernel index.
    pub(crate) interface: u32,
    pub(crate) name: String,
    pub(crate) mac: [u8; 6],
    /// Receive queues.
    pub(crate) queues: u32,
    segments: Mutex<BTreeSet<SegmentId>>,
    /// `None` once the port is closed: the program stays, its lock is let go.
    steering: Mutex<Option<Steering>>,
    /// A handle of its own, so that the ownership thread never waits for `steering`.
    announcer: Mutex<Option<Announcer>>,
    tables: Mutex<Tables>,
    sockets: Mutex<BTreeMap<u32, Result<PortMode, String>>>,
    /// Queues that have or had a socket.
    bound: Mutex<BTreeSet<u32>>,
    /// VLANs whose frames are ours.
    vlans: Mutex<BTreeSet<u16>>,
}

/// How a queue's socket is bound.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PortMode {
    pub(crate) mode: Mode,
    /// Why not zero-copy; empty if it is.
    pub(crate) fallback: String,
}

impl PortInfo {
    /// # Errors
    /// When the steering program's table cannot be opened a second time.
    pub(super) fn new(
        number: u16,
        facts: &af_xdp::Interface,
        steering: Steering,
        tables: Tables,
        vlans: BTreeSet<u16>,
    ) -> Result<Self, SteeringError> {
        let announcer = steering.announcer()?;
        Ok(Self {
            number,
            trunk: None,
            interface: facts.index,
            name: facts.name.clone(),
            mac: facts.mac,
            queues: facts.rx_queues,
            segments: Mutex::default(),
            steering: Mutex::new(Some(steering)),
            announcer: Mutex::new(Some(announcer)),
            tables: Mutex::new(tables),
            sockets: Mutex::default(),
            bound: Mutex::default(),
            vlans: Mutex::new(vlans),
        })
    }

    /// VLAN `id` of `trunk`, which the kernel has as `interface`.
    pub(super) fn vlan(number: u16, interface: &Interface, trunk: &Arc<Self>, id: u16) -> Self {
        Self {
            number,
            trunk: Some((Arc::clone(trunk), id)),
            interface: interface.index,
            name: interface.name.clone(),
            mac: trunk.mac,
            queues: trunk.queues,
            segments: Mutex::default(),
            steering: Mutex::default(),
            announcer: Mutex::default(),
            tables: Mutex::default(),
            sockets: Mutex::default(),
            bound: Mutex::default(),
            vlans: Mutex::default(),
        }
    }

    /// The port that carries this one and the VLAN's number, if it is a VLAN.
    pub(crate) fn trunk(&self) -> Option<(&Arc<Self>, u16)> {
        self.trunk.as_ref().map(|(trunk, id)| (trunk, *id))
    }

    /// The segments that are on it now.
    pub(crate) fn segments(&self) -> BTreeSet<SegmentId> {
        lock(&self.segments).clone()
    }

    /// Says whether that is news.
    pub(super) fn set_segments(&self, segments: BTreeSet<SegmentId>) -> bool {
        let mut known = lock(&self.segments);
        let news = *known != segments;
        *known = segments;
        news
    }

    /// Until when ARP for addresses of ours may reach the workers.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn announce_until(&self, until_ns: u64) -> Result<(), SteeringError> {
        // The time is the same for all ports: it is not the others' that this one overwrites.
        if let Some((trunk, _)) = &self.trunk {
            return trunk.announce_until(until_ns);
        }
        lock(&self.announcer).as_mut().map_or(Ok(()), |a| a.set_announce_until(until_ns))
    }

    /// Tells the steering program what is ours, if that has changed; system calls in proportion to
    /// the tables.
    ///
    /// # Errors
    /// What the kernel says; then it is tried again.
    pub(super) fn set_tables(&self, wanted: &Tables) -> Result<(), SteeringError> {
        let mut known = lock(&self.tables);
        if *known == *wanted {
            return Ok(());
        }
        if let Some(steering) = lock(&self.steering).as_mut() {
            wanted.write(steering)?;
        }
        *known = wanted.clone();
        Ok(())
    }

    /// Has frames of these VLANs looked at, and of no others.
    ///
    /// # Errors
    /// What the kernel says; then it is tried again.
    pub(super) fn set_vlans(&self, wanted: BTreeSet<u16>) -> Result<(), SteeringError> {
        let mut known = lock(&self.vlans);
        if *known == wanted {
            return Ok(());
        }
        if let Some(steering) = lock(&self.steering).as_mut() {
            steering.set_vlans(wanted.iter().copied())?;
        }
        *known = wanted;
        Ok(())
    }

    /// Puts the program onto the interface.
    ///
    /// # Errors
    /// See [`SteeringError`].
    pub(super) fn attach(&self) -> Result<(), SteeringError> {
        match lock(&self.steering).as_mut() {
            Some(steering) => steering.attach().map(drop),
            None => Ok(()),
        }
    }

    /// Has packets of a queue handed to the socket; false on a closed port.
    ///
    /// # Errors
    /// See [`SteeringError`].
    pub(super) fn insert_socket(&self, queue: u32, socket: &Socket) -> Result<bool, SteeringError> {
        match lock(&self.steering).as_mut() {
            Some(steering) => steering.insert_socket(queue, socket).map(|()| true),
            None => Ok(false),
        }
    }

    /// Ends it: mute, and its lock free for a successor. The program stays on the interface, so
    /// that nobody answers for the VIPs. With a VLAN nothing ends but the VLAN.
    pub(super) fn close(&self) {
        if self.trunk.is_some() {
            return;
        }
        // An interface that is gone has no tables to write to.
        let _ = self.announce_until(0);
        lock(&self.announcer).take();
        lock(&self.steering).take();
        lock(&self.sockets).clear();
    }

    pub(super) fn note_socket(&self, queue: u32, mode: PortMode) {
        lock(&self.bound).insert(queue);
        lock(&self.sockets).insert(queue, Ok(mode));
    }

    pub(super) fn note_failure(&self, queue: u32, why: &str) {
        lock(&self.sockets).insert(queue, Err(why.to_owned()));
    }

    /// What became of each queue's socket.
    pub(crate) fn sockets(&self) -> BTreeMap<u32, Result<PortMode, String>> {
        match &self.trunk {
            Some((trunk, _)) => trunk.sockets(),
            None => lock(&self.sockets).clone(),
        }
    }

    /// Every queue has a socket: what is steered here is served.
    pub(crate) fn is_served(&self) -> bool {
        if let Some((trunk, _)) = &self.trunk {
            return trunk.is_served();
        }
        let sockets = lock(&self.sockets);
        (0..self.queues).all(|queue| matches!(sockets.get(&queue), Some(Ok(_))))
    }

    /// Whether a queue has or had a socket.
    pub(super) fn was_bound(&self, queue: u32) -> bool {
        lock(&self.bound).contains(&queue)
    }

    /// The first queue that could not be served, and why.
    pub(super) fn failure(&self) -> Option<(u32, String)> {
        let sockets = lock(&self.sockets);
        sockets.iter().find_map(|(queue, socket)| Some((*queue, socket.as_ref().err()?.clone())))
    }
}

/// A panic elsewhere must not end forwarding: what these locks guard is valid between statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
