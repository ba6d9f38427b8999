//! Has the kernel resolve neighbours the data plane needs.
//!
//! Packets that the data plane forwards never pass the kernel, so nothing there would ask for
//! these neighbours or keep them fresh. Bounded: an address is asked for once per
//! [`AGAIN_AFTER`], and at most [`PROBES_MAX`] addresses are remembered.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use rtnetlink::{
    Handle,
    packet_route::neighbour::{NeighbourFlags, NeighbourState},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::debug;

use super::view::{KernelView, NeighbourKey};

/// The same address is asked for at most this often.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Addresses remembered for that rule.
const PROBES_MAX: usize = 4_096;

/// Requests that may wait; more are dropped, and the packet that needs one asks again.
const QUEUE_MAX: usize = 1_024;

/// Handle with which workers ask; never blocks.
#[derive(Clone, Debug)]
pub(crate) struct Prober(mpsc::Sender<Wanted>);

/// What is to be resolved.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// The next hop towards an address.
    Towards(IpAddr),
    /// A neighbour on an interface.
    Neighbour(NeighbourKey),
}

impl Prober {
    /// Starts the task that talks to the kernel.
    pub(crate) fn start(handle: Handle, view: watch::Receiver<KernelView>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(handle, view, receiver));
        Self(sender)
    }

    /// Asks for the next hop towards `address`.
    pub(crate) fn probe(&self, address: IpAddr) {
        self.want(Wanted::Towards(address));
    }

    /// Asks for a neighbour on the interface with this index.
    pub(crate) fn probe_neighbour(&self, interface: u32, address: IpAddr) {
        self.want(Wanted::Neighbour((interface, address)));
    }

    fn want(&self, wanted: Wanted) {
        // A full queue means that the kernel is busy resolving: the next packet asks again.
        let _ = self.0.try_send(wanted);
    }
}

async fn run(
    handle: Handle,
    view: watch::Receiver<KernelView>,
    mut requests: mpsc::Receiver<Wanted>,
) {
    let mut asked: HashMap<NeighbourKey, Instant> = HashMap::new();
    while let Some(wanted) = requests.recv().await {
        let now = Instant::now();
        let key = match wanted {
            Wanted::Neighbour(key) => key,
            Wanted::Towards(address) => match view.borrow().route(address) {
                Some(key) => key,
                None => {
                    debug!(%address, "no route: cannot resolve");
                    continue;
                }
            },
        };
        if asked.get(&key).is_some_and(|at| now < *at + AGAIN_AFTER) {
            continue;
        }
        if asked.len() >= PROBES_MAX {
            asked.retain(|_, at| now < *at + AGAIN_AFTER);
            if asked.len() >= PROBES_MAX {
                continue;
            }
        }
        asked.insert(key, now);
        let (interface, hop) = key;
        // NTF_USE makes the kernel treat the entry as just used: it resolves one that is missing
        // and confirms one that is stale (net/core/neighbour.c, neigh_event_send).
        let request = handle
            .neighbours()
            .add(interface, hop)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        if let Err(error) = request.execute().await {
            debug!(%hop, interface, "the kernel would not resolve: {error}");
        }
    }
}
