//! Attaching interfaces, noticing that they are not what they were, and giving them up.
//!
//! Guarantees: a port has the same number on every worker; a worker is told of a port only when a
//! number and memory are there, and told again when it came to nothing. An interface that cannot be
//! attached is tried again, at first after [`PAUSE_MIN`], later every [`PAUSE_MAX`], and at once
//! when the kernel reports a change of it. While a port is missing or incomplete its segments are
//! down.
//!
//! Everything here blocks; one call at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use af_xdp::{InterfaceError, Steering, steering::QUEUES_MAX};
use anyhow::{Context, bail, ensure};
use steadfast_model::ClusterState;
use steadfast_ownership::SegmentId;
use tracing::{info, warn};

use super::{
    DataPlane,
    port::{PortInfo, lock},
    segments::Segments,
    solicited::{Solicited, solicited_node},
    tables::Tables,
    troubles::Area,
    vlan,
    worker::{
        BIND_WITHIN, Command, PORTS_MAX, SOCKETS_MAX, WorkerHandle, WorkerStatus, packet_memory,
    },
};
use crate::kernel::{Interface, KernelView};

/// After a failure an interface is tried again after so long, then after twice as long,
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// but at least this often.
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// Packet memory is made anew at most this often: it costs all interfaces some milliseconds, and an
/// interface that fails again and again must not do that to the others.
const RENEW_AT_MOST_EVERY: Duration = Duration::from_secs(600);

/// A worker and what it was given.
pub(super) struct Hand {
    pub(super) worker: WorkerHandle,
    /// Ports that it was told of and that have its queue.
    ports: Vec<u16>,
    /// Sockets closed since its memory was made, each with the frames the kernel had.
    lost: usize,
}

/// An interface that could not be attached.
struct Failed {
    /// What the kernel said of it then.
    interface: Interface,
    again_at: Instant,
    pause: Duration,
    why: String,
}

/// What is kept between calls; its lock is held for as long as a call takes.
#[derive(Default)]
pub(super) struct Attaching {
    /// By kernel index.
    failed: BTreeMap<u32, Failed>,
    renewed_at: Option<Instant>,
    solicited: Solicited,
    /// An operator has taken the programs off: nothing is attached until the daemon starts again.
    taken_off: bool,
}

impl DataPlane {
    /// Gives up ports whose interface has changed, and attaches the interfaces of segments that
    /// have no port.
    pub(crate) fn attach(&self, state: &ClusterState, view: &KernelView) {
        let mut attaching = lock(&self.attaching);
        let mut troubles = BTreeMap::new();
        if attaching.taken_off {
            let why = "taken off by `clusterctl detach`: this node can hold nothing until clusterd \
                is restarted";
            troubles.insert("steering programs".to_owned(), why.to_owned());
            attaching.solicited.set(&BTreeSet::new());
            return self.troubles.replace(Area::Interfaces, troubles);
        }
        let segments = Segments::of(state, view);
        for (name, prefix) in &segments.missing {
            let why = format!("no interface has an address in {prefix}: add one");
            troubles.insert(format!("segment {name}"), why);
        }
        for (name, prefix, interface) in &segments.partial {
            let why = format!(
                "interface {interface} has no address in {prefix}: add one, or addresses there may \
                 be out of reach for this node"
            );
            troubles.insert(format!("segment {name}, prefix {prefix}"), why);
        }
        for (address, interface) in &segments.stray {
            let why = format!(
                "interface {interface} of this node has it, so the kernel answers for it too: ip \
                 addr del {address} dev {interface}, or choose another address for the group"
            );
            troubles.insert(format!("group address {address}"), why);
        }
        let refused = attaching.solicited.set(&solicited_groups(state, &segments));
        for (index, (count, error)) in refused {
            let name = view.interfaces.get(&index).map_or("?", |interface| &interface.name);
            let why = format!(
                "{count} groups on which neighbour solicitations come cannot be joined: {error}: \
                 behind a switch that snoops MLD nobody finds their addresses; see whether IPv6 \
                 is switched on there, and net.core.optmem_max"
            );
            troubles.insert(format!("interface {name}, multicast"), why);
        }
        for port in self.ports().iter() {
            let why = match port.trunk() {
                Some((trunk, _)) => self.vlan_changed(port, trunk),
                None => changed(port),
            };
            if let Some(why) = why {
                warn!("{}: {why}: attached anew", port.name);
                self.give_up(port);
            }
        }
        let wires = vlan::wires(&segments, view);
        attaching.failed.retain(|index, _| wires.contains_key(index));
        for (index, vlans) in &wires {
            let Some(interface) = view.interfaces.get(index) else { continue };
            if let Some(port) = self.ports().iter().find(|port| port.interface == *index) {
                if let Err(error) = port.set_vlans(vlans.clone()) {
                    let why = format!("{:#}", anyhow::Error::from(error));
                    troubles.insert(format!("interface {}", interface.name), why);
                }
                continue;
            }
            let before = attaching.failed.remove(index).filter(|f| f.interface == *interface);
            if let Some(failed) = before.as_ref().filter(|f| Instant::now() < f.again_at) {
                troubles.insert(format!("interface {}", interface.name), failed.why.clone());
                attaching.failed.extend(before.map(|failed| (*index, failed)));
                continue;
            }
            if let Err(error) = self.attach_one((interface, vlans), state, view, &mut attaching) {
                let why = format!("{error:#} (tried again every few seconds)");
                troubles.insert(format!("interface {}", interface.name), why.clone());
                let pause = before.map_or(PAUSE_MIN, |failed| (failed.pause * 2).min(PAUSE_MAX));
                let again_at = Instant::now() + pause;
                let failed = Failed { interface: interface.clone(), again_at, pause, why };
                attaching.failed.insert(*index, failed);
            }
        }
        self.attach_vlans(&segments, view, &mut troubles);
        self.troubles.replace(Area::Interfaces, troubles);
    }

    /// Takes the steering programs off all interfaces of this instance, those of earlier runs
    /// included, and keeps them off: packets for VIPs would find nobody, so all segments are down
    /// here. Says which interfaces that were.
    ///
    /// # Errors
    /// The first interface where it failed.
    pub(crate) fn take_off(&self) -> anyhow::Result<Vec<String>> {
        let mut attaching = lock(&self.attaching);
        attaching.taken_off = true;
        for port in self.ports().iter() {
            self.give_up(port);
        }
        Self::detach(&self.pins)
    }

    fn attach_one(
        &self,
        (interface, vlans): (&Interface, &BTreeSet<u16>),
        state: &ClusterState,
        view: &KernelView,
        attaching: &mut Attaching,
    ) -> anyhow::Result<()> {
        let name = &interface.name;
        let facts = af_xdp::Interface::by_name(name)?;
        ensure!(facts.index == interface.index, "{name} is being made anew");
        ensure!(
            facts.rx_queues <= QUEUES_MAX,
            "{name} has {} queues, {QUEUES_MAX} at most can be served: ethtool -L {name} combined \
             {QUEUES_MAX}",
            facts.rx_queues
        );
        let mut steering = Steering::open(&self.pins.bpffs, &self.pins.instance, name)?;
        // What is pinned from an earlier run must not let ARP through for it.
        steering.set_announce_until(0)?;
        let tables = Tables::of(state, view);
        tables.write(&mut steering)?;
        steering.set_vlans(vlans.iter().copied())?;
        // A program of ours that is there keeps dropping until the sockets are in, and is replaced
        // then. Where there is none, it goes first: one of somebody else shows before any socket is
        // bound, and until there are sockets it drops as well.
        let ours = steering.is_attached()?;
        if !ours {
            let how = steering.attach()?;
            info!(interface = name, ?how, "steering program attached");
        }
        self.make_room(facts.rx_queues, attaching)?;
        let number = self.free_number()?;
        self.crew_for(facts.rx_queues)?;
        let port = Arc::new(PortInfo::new(number, &facts, steering, tables, vlans.clone())?);
        let bound = self.bind(&port).and_then(|()| match ours {
            true => port.attach().map_err(anyhow::Error::from),
            false => Ok(()),
        });
        if let Err(error) = bound {
            self.give_up(&port);
            return Err(error);
        }
        info!(interface = name, number, queues = port.queues, "interface attached");
        self.publish(|ports| ports.push(Arc::clone(&port)));
        Ok(())
    }

    /// Makes room for the sockets of one more port in the memory of the workers that it needs.
    fn make_room(&self, queues: u32, attaching: &mut Attaching) -> anyhow::Result<()> {
        let used_up = |hand: &Hand| hand.lost > 0 && hand.ports.len() + hand.lost >= SOCKETS_MAX;
        if !lock(&self.crew).iter().take(queues as usize).any(used_up) {
            return Ok(());
        }
        let lately = attaching.renewed_at.is_some_and(|at| at.elapsed() < RENEW_AT_MOST_EVERY);
        ensure!(!lately, "packet memory is used up by earlier attempts: it is made anew later");
        warn!("packet memory is used up and made anew: all interfaces are attached again");
        attaching.renewed_at = Some(Instant::now());
        for port in self.ports().iter() {
            self.give_up(port);
        }
        Ok(())
    }

    /// A number for the port to come.
    fn free_number(&self) -> anyhow::Result<u16> {
        let ports = self.ports();
        let free = (0..PORTS_MAX as u16).find(|n| ports.iter().all(|port| port.number != *n));
        free.with_context(|| format!("one interface more than the {PORTS_MAX} that are possible"))
    }

    /// Sees to it that there is a worker with packet memory for each queue.
    fn crew_for(&self, queues: u32) -> anyhow::Result<()> {
        let mut crew = lock(&self.crew);
        while crew.len() < queues as usize {
            let queue = crew.len() as u32;
            let (shared, stop) = (Arc::clone(&self.shared), Arc::clone(&self.stop));
            let (hook, prober) = (self.hook.clone(), self.prober.clone());
            let worker = WorkerHandle::start(queue, shared, hook, prober, stop)
                .with_context(|| format!("cannot start the worker of queue {queue}"))?;
            let beacon = Duration::from_nanos(self.beacon_ns.load(Ordering::Relaxed));
            // A worker that has ended shows in what it was to bind.
            let _ = worker.commands.send(Command::Beacon(beacon));
            crew.push(Hand { worker, ports: Vec::new(), lost: 0 });
            let statuses = crew.iter().map(|hand| Arc::clone(&hand.worker.status));
            self.statuses.store(Arc::new(statuses.collect::<Vec<Arc<WorkerStatus>>>()));
        }
        for hand in crew.iter_mut().take(queues as usize).filter(|hand| hand.ports.is_empty()) {
            let memory = packet_memory().context("no packet memory")?;
            let _ = hand.worker.commands.send(Command::Memory(Box::new(memory)));
        }
        Ok(())
    }

    /// Has the workers bind its sockets and waits for them.
    fn bind(&self, port: &Arc<PortInfo>) -> anyhow::Result<()> {
        for hand in lock(&self.crew).iter_mut().take(port.queues as usize) {
            hand.ports.push(port.number);
            if hand.worker.commands.send(Command::AddPort(Arc::clone(port))).is_err() {
                bail!("worker {} has ended: restart this daemon", hand.worker.status.queue);
            }
        }
        let until = Instant::now() + BIND_WITHIN * 2;
        let stopped = || self.stop.load(Ordering::Acquire) || Instant::now() >= until;
        while port.sockets().len() < port.queues as usize && !stopped() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some((queue, why)) = port.failure() {
            bail!("queue {queue}: {why}");
        }
        ensure!(port.is_served(), "the workers have not bound its sockets in time");
        Ok(())
    }

    /// Takes a port out of everything; its number is free then.
    pub(super) fn give_up(&self, port: &Arc<PortInfo>) {
        self.publish(|ports| ports.retain(|known| !Arc::ptr_eq(known, port)));
        port.close();
        for hand in lock(&self.crew).iter_mut() {
            if let Some(at) = hand.ports.iter().position(|number| *number == port.number) {
                hand.ports.swap_remove(at);
                hand.lost += usize::from(port.was_bound(hand.worker.status.queue));
                if hand.ports.is_empty() {
                    // With its last port a worker drops its memory.
                    hand.lost = 0;
                }
                let _ = hand.worker.commands.send(Command::RemovePort(port.number));
            }
        }
    }
}

/// The groups to join: of every IPv6 address of a group, on the interface of its segment.
fn solicited_groups(state: &ClusterState, segments: &Segments) -> BTreeSet<(u32, Ipv6Addr)> {
    let numbers: BTreeMap<&str, u16> =
        state.segments.iter().map(|(number, s)| (s.name.as_str(), *number)).collect();
    let interface_of = |address| {
        let segment = state.config.document.segment_of(address)?;
        let number = SegmentId(*numbers.get(segment.name.as_str())?);
        segments.on.iter().find(|(_, on)| on.contains(&number)).map(|(index, _)| *index)
    };
    let of_groups = state.groups.values().flat_map(|g| g.spec.all_addresses());
    of_groups
        .filter_map(|address| Some((interface_of(*address)?, solicited_node(*address)?)))
        .collect()
}

/// Why a port is not what it was, if it is not.
fn changed(port: &PortInfo) -> Option<String> {
    if let Some((queue, why)) = port.failure() {
        return Some(format!("queue {queue}: {why}"));
    }
    match af_xdp::Interface::by_index(port.interface) {
        Ok(now) => differs((port.mac, port.queues), (now.mac, now.rx_queues)),
        Err(InterfaceError::NoSuchIndex { .. }) => Some("the interface is gone".to_owned()),
        // It went while it was asked, or the kernel would not say: asked again soon.
        Err(_) => None,
    }
}

/// MAC address and queues, as attached and as they are.
fn differs(then: ([u8; 6], u32), now: ([u8; 6], u32)) -> Option<String> {
    let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    if then.0 != now.0 {
        return Some(format!("its MAC address is {} now, it was {}", text(now.0), text(then.0)));
    }
    (then.1 != now.1).then(|| format!("it has {} queues now, it had {}", now.1, then.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_not_what_it_was_is_told_by_what_changed() {
        let mac = [2, 0, 0, 0, 0, 1];
        assert_eq!(differs((mac, 2), (mac, 2)), None);
        let said = differs((mac, 2), ([2, 0, 0, 0, 0, 9], 2)).unwrap();
        assert!(said.contains("02:00:00:00:00:09"), "{said}");
        let said = differs((mac, 2), (mac, 4)).unwrap();
        assert!(said.contains("4 queues now, it had 2"), "{said}");
    }
}
