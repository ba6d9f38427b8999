//! Drives the data plane as the daemon's workers and its timer do, and carries Ethernet frames.

use std::{rc::Rc, sync::atomic::Ordering};

use steadfast_dataplane::{Action, Verdict};
use steadfast_model::{BootId, GroupId, NodeId};
use steadfast_packet::ANSWER_LEN_MAX;

use crate::{
    clock::{MS, Ns, US},
    ether::{BROADCAST, Read, device, read},
    machine::CLIENTS,
    net::Plane,
    queue::{Device, Event},
    world::World,
};

/// Bytes in front of a frame, as in packet memory.
const HEADROOM: usize = 256;
/// As in the daemon.
const EXPIRE_EVERY: Ns = 50 * MS;
/// As in the daemon.
const EXPIRE_BUDGET: usize = 10_000;
/// As in the daemon.
const EXPIRE_ROUNDS: usize = 20;
/// As in the daemon: the longest wait for packets.
const POLL_MAX: Ns = 10 * MS;

impl World {
    /// Sends a frame from a device to whom its destination names.
    pub(crate) fn send_ether(&mut self, from: Device, frame: &[u8]) {
        let Some(dst) = frame.get(..6) else { return };
        let frame: Rc<[u8]> = Rc::from(frame);
        let port = match from {
            Device::Node(_, port) => port,
            Device::Client(_) => 0,
            // A server has one interface on each segment.
            Device::Server(_) => u16::from(self.is_nat_source(&frame)),
        };
        let all: [u8; 6] = BROADCAST;
        if *dst == all {
            for to in self.on_segment(port) {
                if to != from {
                    self.deliver(from, to, port, Rc::clone(&frame));
                }
            }
            return;
        }
        let mut to = [0; 6];
        to.copy_from_slice(dst);
        if let Some(to) = device(to) {
            self.deliver(from, to, port, frame);
        }
    }

    fn is_nat_source(&self, frame: &[u8]) -> bool {
        // 198.18.1.x as the sender's protocol address of ARP, or as the source of IPv4.
        let at = if frame.get(12..14) == Some(&[0x08, 0x06]) { 30 } else { 28 };
        frame.get(at) == Some(&1)
    }

    fn on_segment(&self, port: u16) -> Vec<Device> {
        let nodes = self.members.iter().map(|node| Device::Node(*node, port));
        let clients = (0..CLIENTS).filter(|_| port == 0).map(Device::Client);
        let servers = (0..crate::cluster::SERVERS).map(Device::Server);
        nodes.chain(clients).chain(servers).collect()
    }

    fn deliver(&mut self, from: Device, to: Device, port: u16, frame: Rc<[u8]>) {
        let cut = match (from, to) {
            (Device::Node(a, _), Device::Node(b, _)) => self.net.is_cut(a, b, Plane::Segment(port)),
            (Device::Node(a, _), _) | (_, Device::Node(a, _)) => self.net.is_down(a, port),
            _ => false,
        };
        if cut {
            return;
        }
        let now = self.now;
        for delay in self.net.carry(&mut self.rng, Plane::Segment(port)).into_iter().flatten() {
            self.queue.put(now + delay, Event::Ether(to, Rc::clone(&frame)));
        }
    }

    /// A frame has arrived at a node's port: a turn of its worker.
    pub(crate) fn worker_frame(&mut self, node: NodeId, port: u16, frame: &[u8]) {
        let now = self.now;
        let machine = self.machine(node);
        let local = machine.local(now);
        let Some(run) = machine.run.as_mut() else { return };
        if run.stuck_since.is_some() {
            return;
        }
        run.frame_at = now;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.resize(HEADROOM, 0);
        buffer.extend_from_slice(frame);
        buffer.resize(HEADROOM + frame.len().max(ANSWER_LEN_MAX), 0);
        let machine = self.machine(node);
        let Some(run) = machine.run.as_mut() else { return };
        run.worker.prepare(std::iter::once(frame));
        let at = (HEADROOM, frame.len());
        let verdict = run.worker.handle_frame(local, port, &mut buffer, at, &mut run.actions);
        let mut out: Vec<(u16, Vec<u8>)> = Vec::new();
        if let Verdict::Transmit { port, start, len } = verdict {
            out.push((port, buffer[start..start + len].to_vec()));
        }
        if run.actions.has_frames() {
            run.actions.send_frames(|port, bytes| out.push((port, bytes.to_vec())));
        }
        run.worker.advance(local, &mut run.actions);
        for action in run.actions.drain() {
            // Neighbours are all resolved: nobody is probed.
            if let Action::Send { port, frame } = action {
                out.push((port, frame.bytes().to_vec()));
            }
        }
        let dropped = match verdict {
            Verdict::Drop(reason) => reason as u64 + 1,
            Verdict::Transmit { .. } => 0,
        };
        self.buffer = buffer;
        self.trace.mix(now, u64::from(node.0) << 8 | u64::from(port), dropped);
        self.trace.detail(now, || {
            format!("node {node} port {port}: {:?} -> {verdict:?}", crate::ether::read(frame))
        });
        self.figures.frames += 1;
        if let Verdict::Drop(reason) = verdict {
            *self.figures.drops.entry(reason.name()).or_default() += 1;
        }
        if !out.is_empty() {
            self.note_carrier(node, port, frame);
        }
        for (port, bytes) in out {
            self.send_ether(Device::Node(node, port), &bytes);
        }
        self.take_created(node);
        self.wake_marked(node);
        self.wake_asker(node);
    }

    /// Who does not hold a group carries what it knows, and tells nobody of it: its clients have
    /// the wrong MAC address, until they are told. Nor does either of two sides know what the other
    /// carries.
    fn note_carrier(&mut self, node: NodeId, port: u16, frame: &[u8]) {
        let group = frame.get(30..34).and_then(|dst| match dst {
            [198, 18, 0, octet] => octet.checked_sub(101).map(u32::from),
            _ => None,
        });
        let Some(group) = group.filter(|_| port == 0) else { return };
        let Some(run) = self.machine(node).run.as_ref() else { return };
        let role = run.roles.get(&GroupId(group + 1)).map(|now| now.role);
        let alone = role == Some(steadfast_ownership::Role::Holder)
            && !self.checks.overlaps.is_dual(GroupId(group + 1));
        if !alone && let Read::Segment(segment) = read(frame) {
            self.checks.carried_by_another(&segment);
        }
    }

    /// The worker stood still until now: questions that queued up meanwhile are not answered.
    pub(crate) fn worker_woke(&mut self, node: NodeId, gap: Ns) {
        let beacon = self.settings.beacon * 1_000;
        let now = self.now;
        let machine = self.machine(node);
        let local = machine.local(now);
        let Some(run) = machine.run.as_mut() else { return };
        if gap.saturating_sub(POLL_MAX) >= beacon * 3 {
            run.worker.discard_questions_until(local + beacon * 2);
        }
    }

    /// The timer of connections.
    pub(crate) fn expire(&mut self, node: NodeId, boot: BootId) {
        let now = self.now;
        let machine = self.machine(node);
        let local = machine.local(now);
        let Some(run) = machine.run_of(boot) else { return };
        for _ in 0..EXPIRE_ROUNDS {
            if !run.shared.advance(local, EXPIRE_BUDGET, &run.hook).more {
                break;
            }
        }
        self.queue.put(now + EXPIRE_EVERY, Event::Expire(node, boot));
        self.wake_marked(node);
    }

    /// What was created at a node: nothing else may ever turn up in a copy.
    fn take_created(&mut self, node: NodeId) {
        let Some(run) = self.machine(node).run.as_mut() else { return };
        let created = match run.created.lock() {
            Ok(mut created) if !created.is_empty() => std::mem::take(&mut *created),
            _ => return,
        };
        for (key, server, incarnation) in created {
            self.figures.created += 1;
            self.checks.created(key, server, incarnation);
        }
    }

    /// Keys were marked: the senders of their shards look around.
    pub(crate) fn wake_marked(&mut self, node: NodeId) {
        let Some(run) = self.machine(node).run.as_mut() else { return };
        let marked = run.marked.swap(0, Ordering::Relaxed);
        if marked == 0 {
            return;
        }
        let due: Vec<_> =
            run.senders.keys().filter(|(_, shard)| marked & (1 << shard) != 0).copied().collect();
        let at = self.now + 20 * US;
        for (peer, shard) in due {
            self.sender_at(node, peer, shard, at);
        }
    }
}
