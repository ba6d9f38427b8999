//! Drives replication as the daemon's tasks do: a stream for each peer and shard, opened again when
//! it breaks.
//!
//! Streams deliver in order and lose nothing while they are up. While the plane is cut their frames
//! wait; a stream that gets nothing through for [`IDLE`] breaks.

use std::{collections::BTreeMap, collections::VecDeque, rc::Rc};

use steadfast_model::{BootId, GroupId, NodeId};
use steadfast_ownership::Role;
use steadfast_replication::{
    BATCH_INTERVAL_NS, GroupRole, Receiver, SHARDS, Sender, check_hello, wire,
};

use crate::{
    clock::{MS, Ns, SECOND, US},
    machine::{Part, RoleNow, SenderTask},
    net::Plane,
    queue::{Event, StreamKey},
    world::World,
};

/// Before a broken stream is opened again; as in the daemon.
const REOPEN_AFTER: Ns = 50 * MS;
/// Between tries to open a stream that the peer does not answer.
const RETRY_AFTER: Ns = 200 * MS;
/// A connection that hears nothing for so long is closed.
const IDLE: Ns = 2 * SECOND;
/// What a stream carries a second.
const BYTES_PER_S: u64 = 20_000_000;
/// What a narrow one does, and what it takes at once: some records.
const NARROW_BYTES_PER_S: u64 = 1_000;
/// As above.
const NARROW_ROOM: usize = 500;
/// A stream that is behind by so much takes nothing more.
const BEHIND_MAX: Ns = 50 * MS;
/// Frames that wait in a cut stream: what flow control lets out.
const HELD_MAX: usize = 64;

/// A stream between two runs.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Tells it from others of the same key.
    pub number: u64,
    /// The receiver's run.
    pub to_boot: BootId,
    /// When the last frame gets there.
    free_at: Ns,
    /// When the last acknowledgement gets back.
    ack_free_at: Ns,
    held: VecDeque<Rc<[u8]>>,
    held_acks: VecDeque<Rc<[u8]>>,
    /// Since when nothing gets through.
    cut_since: Option<Ns>,
}

/// What this node is to a group towards `peer`; as in the daemon.
fn role_towards(peer: NodeId, now: &RoleNow) -> GroupRole {
    match (now.role, now.before) {
        (Role::Holder, _) => GroupRole::Send { epoch: now.epoch },
        (Role::Other { node }, Some((before, epoch)))
            if node == peer && before != (Role::Other { node }) =>
        {
            GroupRole::Donate { epoch, everything: before != Role::Holder }
        }
        _ => GroupRole::Idle,
    }
}

impl World {
    /// Makes the senders of a run and has them open their streams.
    pub(crate) fn start_senders(&mut self, node: NodeId) {
        let (now, members) = (self.now, self.members.clone());
        let Some(run) = self.machine(node).run.as_mut() else { return };
        let (local, boot) = (run.local(node), run.boot);
        let mut opens = Vec::new();
        for peer in members.into_iter().filter(|peer| *peer != node) {
            let Some(slot) = run.dirty.slot(peer) else { continue };
            for shard in 0..SHARDS {
                let sender = Sender::new(local, slot, shard, std::sync::Arc::clone(&run.dirty));
                let task =
                    SenderTask { sender, known: BTreeMap::new(), known_changed: 0, at: Ns::MAX };
                run.senders.insert((peer, shard), task);
                opens.push((node, peer, shard));
            }
        }
        for key in opens {
            self.queue.put(now + MS, Event::Open(key, boot));
        }
    }

    /// A sender opens its stream.
    pub(crate) fn open_stream(&mut self, key: StreamKey, boot: BootId) {
        let (from, to, shard) = key;
        let now = self.now;
        if self.machine(from).run_of(boot).is_none() || self.streams.contains_key(&key) {
            return;
        }
        let cut = self.net.is_cut(from, to, Plane::Replication)
            || self.net.is_cut(to, from, Plane::Replication)
            || self.net.is_refused(from, to);
        let peer = self.machine(to);
        let answers = peer.run.is_some() && !peer.is_stopped(Part::Rest);
        if cut || !answers {
            self.queue.put(now + RETRY_AFTER, Event::Open(key, boot));
            return;
        }
        let (local, peer_local) = (self.machine(from).local(now), to);
        let Some(task) = self.sender(from, to, shard) else { return };
        let hello = task.sender.hello();
        let Some(run) = self.machine(peer_local).run.as_mut() else { return };
        let (copies, dirty) = (run.copies.clone(), run.dirty.clone());
        let receiver = Receiver::new(run.local(to), from, &hello, copies, dirty);
        let to_boot = run.boot;
        let receiver = match receiver {
            Ok(receiver) => receiver,
            Err(error) => return self.fail("streams", &format!("hello refused: {error}")),
        };
        self.stream_number += 1;
        let number = self.stream_number;
        let answer = receiver.hello();
        let Some(run) = self.machine(to).run.as_mut() else { return };
        run.receivers.insert((from, shard), (number, receiver));
        let Some(run) = self.machine(from).run.as_mut() else { return };
        let hello = match check_hello(run.local(from), to, &answer) {
            Ok(hello) => hello,
            Err(error) => return self.fail("streams", &format!("answer refused: {error}")),
        };
        self.take_roles(from, to, shard);
        if let Some(task) = self.sender(from, to, shard) {
            task.sender.handle_stream_up(local, &hello);
        }
        let stream = Stream {
            number,
            to_boot,
            free_at: now,
            ack_free_at: now,
            held: VecDeque::new(),
            held_acks: VecDeque::new(),
            cut_since: None,
        };
        self.streams.insert(key, stream);
        self.trace.event(now, format_args!("stream {from}>{to}.{shard} is up"));
        self.sender_at(from, to, shard, now + 100 * US);
    }

    fn sender(&mut self, from: NodeId, to: NodeId, shard: u8) -> Option<&mut SenderTask> {
        self.machine(from).run.as_mut()?.senders.get_mut(&(to, shard))
    }

    /// A sender looks around at `at`.
    pub(crate) fn sender_at(&mut self, node: NodeId, peer: NodeId, shard: u8, at: Ns) {
        let Some(run) = self.machine(node).run.as_mut() else { return };
        let boot = run.boot;
        let Some(task) = run.senders.get_mut(&(peer, shard)) else { return };
        if at < task.at {
            task.at = at;
            self.queue.put(at, Event::Sender(node, boot, peer, shard));
        }
    }

    /// Roles have changed.
    pub(crate) fn wake_senders(&mut self, node: NodeId) {
        let Some(run) = self.machine(node).run.as_ref() else { return };
        let all: Vec<_> = run.senders.keys().copied().collect();
        let at = self.now + 30 * US;
        for (peer, shard) in all {
            self.sender_at(node, peer, shard, at);
        }
    }

    fn take_roles(&mut self, node: NodeId, peer: NodeId, shard: u8) {
        let now = self.now;
        let machine = self.machine(node);
        let local = machine.local(now);
        let Some(run) = machine.run.as_mut() else { return };
        let Some(task) = run.senders.get_mut(&(peer, shard)) else { return };
        if std::mem::replace(&mut task.known_changed, run.roles_changed) == run.roles_changed {
            return;
        }
        let roles: Vec<(GroupId, GroupRole)> =
            run.roles.iter().map(|(group, now)| (*group, role_towards(peer, now))).collect();
        for (group, role) in roles {
            if task.known.insert(group, role) != Some(role) {
                task.sender.handle_role(local, group, role);
            }
        }
        let gone: Vec<GroupId> =
            task.known.keys().filter(|group| !run.roles.contains_key(group)).copied().collect();
        for group in gone {
            task.known.remove(&group);
            task.sender.handle_role(local, group, GroupRole::Idle);
        }
    }

    /// A sender's turn.
    pub(crate) fn sender_turn(&mut self, node: NodeId, boot: BootId, peer: NodeId, shard: u8) {
        let now = self.now;
        let Some(run) = self.machine(node).run_of(boot) else { return };
        let Some(task) = run.senders.get_mut(&(peer, shard)).filter(|task| task.at <= now) else {
            return;
        };
        task.at = Ns::MAX;
        self.take_roles(node, peer, shard);
        let key = (node, peer, shard);
        let narrow = self.net.is_narrow(peer);
        loop {
            let Some(stream) = self.streams.get(&key) else { return };
            let full = stream.held.len() >= HELD_MAX || stream.free_at > now + BEHIND_MAX;
            if full {
                self.sender_at(node, peer, shard, now + 5 * MS);
                return;
            }
            let machine = self.machine(node);
            let local = machine.local(now);
            let Some(run) = machine.run.as_mut() else { return };
            let Some(task) = run.senders.get_mut(&(peer, shard)) else { return };
            let room = if narrow { NARROW_ROOM } else { wire::BATCH_BYTES_MAX };
            let Some(frame) = task.sender.poll_transmit(local, &*run.shared, room) else { break };
            self.write(key, Rc::from(frame));
        }
        let machine = self.machine(node);
        let local = machine.local(now);
        let Some(run) = machine.run.as_ref() else { return };
        let Some(task) = run.senders.get(&(peer, shard)) else { return };
        if let Some(at) = task.sender.next_deadline() {
            let at = machine.clock.at(at.max(local + BATCH_INTERVAL_NS / 4));
            self.sender_at(node, peer, shard, at);
        }
    }

    fn write(&mut self, key: StreamKey, frame: Rc<[u8]>) {
        let (from, to, _) = key;
        self.figures.batches += 1;
        self.figures.copied_bytes += frame.len() as u64;
        let cut = self.net.is_cut(from, to, Plane::Replication);
        let now = self.now;
        let takes = self.net.carry_surely(&mut self.rng, from, to);
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if cut || !stream.held.is_empty() {
            stream.held.push_back(frame);
            self.stalled(key);
            return;
        }
        let rate = if self.net.is_narrow(to) { NARROW_BYTES_PER_S } else { BYTES_PER_S };
        let wire = frame.len() as u64 * SECOND / rate;
        stream.free_at = (now + takes).max(stream.free_at) + wire;
        let (at, number) = (stream.free_at, stream.number);
        self.queue.put(at, Event::Copy(key, number, frame));
    }

    /// Nothing gets through: the stream breaks in a while unless it does again.
    fn stalled(&mut self, key: StreamKey) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if stream.cut_since.is_none() {
            stream.cut_since = Some(now);
            let number = stream.number;
            self.queue.put(now + IDLE, Event::Broken(key, number));
        }
    }

    /// Cuts of the plane have changed: what was held goes on, in order.
    pub(crate) fn release_streams(&mut self) {
        let keys: Vec<_> = self.streams.keys().copied().collect();
        for key in keys {
            let (from, to, _) = key;
            let forth = !self.net.is_cut(from, to, Plane::Replication);
            let back = !self.net.is_cut(to, from, Plane::Replication);
            let Some(stream) = self.streams.get_mut(&key) else { continue };
            if stream.cut_since.is_none() || !forth || !back {
                continue;
            }
            stream.cut_since = None;
            let (held, acks) =
                (std::mem::take(&mut stream.held), std::mem::take(&mut stream.held_acks));
            for frame in held {
                self.write(key, frame);
            }
            for ack in acks {
                self.acknowledge(key, ack);
            }
        }
    }

    /// The connection that carries the streams from one node to another is lost at once.
    pub(crate) fn break_streams(&mut self, from: NodeId, to: NodeId) {
        let lost = |key: &&StreamKey| (key.0, key.1) == (from, to);
        let keys: Vec<_> = self.streams.keys().filter(lost).copied().collect();
        let now = self.now;
        for key in keys {
            let Some(stream) = self.streams.get_mut(&key) else { continue };
            stream.cut_since = Some(now.saturating_sub(IDLE));
            let number = stream.number;
            self.broken(key, number);
        }
    }

    /// The end of a stream is noticed.
    pub(crate) fn broken(&mut self, key: StreamKey, number: u64) {
        let (now, (from, to, shard)) = (self.now, key);
        let Some(stream) = self.streams.get(&key).filter(|s| s.number == number) else { return };
        let to_boot = stream.to_boot;
        let lives = self.machine(to).run_of(to_boot).is_some();
        let stalled = self.streams.get(&key).and_then(|stream| stream.cut_since);
        match stalled {
            // It went on, or was cut anew.
            None if lives => return,
            Some(since) if lives && now < since + IDLE => {
                self.queue.put(since + IDLE, Event::Broken(key, number));
                return;
            }
            _ => {}
        }
        self.streams.remove(&key);
        self.figures.breaks += 1;
        self.trace.event(now, format_args!("stream {from}>{to}.{shard} breaks"));
        if let Some(run) = self.machine(to).run_of(to_boot)
            && run.receivers.get(&(from, shard)).is_some_and(|(n, _)| *n == number)
        {
            run.receivers.remove(&(from, shard));
        }
        let machine = self.machine(from);
        let local = machine.local(now);
        let Some(run) = machine.run.as_mut() else { return };
        let boot = run.boot;
        if let Some(task) = run.senders.get_mut(&(to, shard)) {
            task.sender.handle_stream_down(local);
            self.queue.put(now + REOPEN_AFTER, Event::Open(key, boot));
        }
    }

    /// A batch has arrived.
    pub(crate) fn copy_frame(&mut self, key: StreamKey, number: u64, frame: &Rc<[u8]>) {
        let (now, (from, to, shard)) = (self.now, key);
        let machine = self.machine(to);
        let local = machine.local(now);
        let Some(run) = machine.run.as_mut() else { return };
        let Some((_, receiver)) =
            run.receivers.get_mut(&(from, shard)).filter(|(n, _)| *n == number)
        else {
            return;
        };
        match receiver.handle_frame(local, &*run.shared, frame) {
            Ok(reply) if reply.ack.is_empty() => {}
            Ok(reply) => self.acknowledge(key, Rc::from(reply.ack)),
            Err(error) => self.fail("streams", &format!("{from}>{to}.{shard}: {error}")),
        }
        self.trace.mix(now, u64::from(from.0) << 8 | u64::from(to.0), frame.len() as u64);
        self.wake_marked(to);
    }

    fn acknowledge(&mut self, key: StreamKey, ack: Rc<[u8]>) {
        let (from, to, _) = key;
        let cut = self.net.is_cut(to, from, Plane::Replication);
        let now = self.now;
        let takes = self.net.carry_surely(&mut self.rng, to, from);
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if cut || !stream.held_acks.is_empty() {
            stream.held_acks.push_back(ack);
            self.stalled(key);
            return;
        }
        stream.ack_free_at = (now + takes).max(stream.ack_free_at + 1);
        let (at, number) = (stream.ack_free_at, stream.number);
        self.queue.put(at, Event::Ack(key, number, ack));
    }

    /// An acknowledgement has arrived.
    pub(crate) fn ack_frame(&mut self, key: StreamKey, number: u64, frame: &Rc<[u8]>) {
        let (now, (from, to, shard)) = (self.now, key);
        if self.streams.get(&key).is_none_or(|stream| stream.number != number) {
            return;
        }
        let machine = self.machine(from);
        let local = machine.local(now);
        let Some(run) = machine.run.as_mut() else { return };
        let Some(task) = run.senders.get_mut(&(to, shard)) else { return };
        if let Err(error) = task.sender.handle_ack(local, frame) {
            self.fail("streams", &format!("{from}>{to}.{shard}: {error}"));
        }
        let Some(run) = self.machine(from).run.as_mut() else { return };
        let boot = run.boot;
        if let Some(task) = run.senders.get_mut(&(to, shard)) {
            task.at = now;
        }
        self.sender_turn(from, boot, to, shard);
    }

    /// A run has ended: its own streams are gone, those to it break once that is noticed.
    pub(crate) fn end_streams(&mut self, node: NodeId, at_once: bool) {
        let keys: Vec<_> = self.streams.keys().copied().collect();
        for key in keys {
            let (from, to, shard) = key;
            if from == node {
                self.streams.remove(&key);
                if let Some(run) = self.machine(to).run.as_mut() {
                    run.receivers.remove(&(from, shard));
                }
            } else if to == node {
                let after = if at_once { MS } else { self.rng.between(MS, IDLE) };
                let number = self.streams.get(&key).map_or(0, |stream| stream.number);
                self.queue.put(self.now + after, Event::Broken(key, number));
            }
        }
    }
}
