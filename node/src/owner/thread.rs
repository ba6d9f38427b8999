//! The loop of the ownership thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::select_all;
use steadfast_model::{BootId, Command as Commit, Epoch, GroupId, NodeId};
use steadfast_ownership::{
    Action, Committed, Completeness, Frame, Ownership, Path, PeerStatus, RejectReason, Role, Seal,
    SegmentId, StaleSender, Time,
};
use steadfast_peer::{Endpoint, Incoming, Links, LinksConfig};
use steadfast_replication as repl;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
};
use tracing::{debug, error, info, warn};

use super::{
    Command, News, OwnerConfig, Request, announce::Announcer, publish::Publisher, segment::Wire,
};
use crate::{clock, plane::PortInfo, priority};

/// Yields before input counts as drained: QUIC packets that wait in the kernel become datagrams
/// while the endpoint's tasks run.
const DRAIN_YIELDS: usize = 4;

/// Datagrams handled in one turn.
const DATAGRAMS_PER_TURN: usize = 1_024;

/// Actions carried out in one turn; the core produces no more than this per input by far.
const ACTIONS_PER_TURN: usize = 100_000;

/// A worker whose loop has not turned for so many silence times is stuck. More than one, since a
/// busy machine stops a thread that long, and a resignation costs what it is meant to save.
const WORKER_SILENCES: u64 = 2;

/// How often the copies are judged.
const COPIES_EVERY_US: u64 = 20_000;

/// How often stale senders are reported.
const STALE_EVERY_US: u64 = 1_000_000;

/// Runs the thread until the daemon ends.
pub(crate) fn run(
    config: OwnerConfig,
    commands: mpsc::Receiver<Command>,
    started: oneshot::Sender<anyhow::Result<Links>>,
    handler_runtime: Handle,
    gap_max_us: Arc<AtomicU64>,
    news: watch::Sender<News>,
) {
    priority::raise(priority::OWNERSHIP);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // The daemon has given up when nobody listens.
            let _ = started.send(Err(error.into()));
            return;
        }
    };
    runtime.block_on(async move {
        let opened = Endpoint::bind(config.endpoint.clone()).map_err(anyhow::Error::from);
        let endpoint = match opened {
            Ok(endpoint) => endpoint,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let links_config = LinksConfig { handler: config.handler.clone(), handler_runtime };
        let (links, incoming) = Links::start(endpoint, links_config);
        let now = now();
        let core = match Ownership::new(config.node, config.boot, config.settings.clone(), now) {
            Ok(core) => core,
            Err(error) => {
                let _ = started.send(Err(error.into()));
                return;
            }
        };
        if started.send(Ok(links.clone())).is_err() {
            return;
        }
        let publisher = Publisher::new(
            Arc::clone(&config.plane),
            Arc::clone(&config.copies),
            Arc::clone(&config.roles),
        );
        let mut thread = Thread {
            core,
            links,
            incoming,
            commands,
            seal: None,
            wires: Vec::new(),
            announcer: Announcer::default(),
            publisher,
            committed: Committed::default(),
            copies_judged_us: 0,
            stale_reported_us: 0,
            more_to_send: false,
            gap_max_us,
            news,
            config,
        };
        thread.run().await;
    });
}

/// Where a frame came in.
enum Source {
    /// On the control connection, whose certificate names the node.
    Peer(NodeId),
    /// On a wire, by its place among them, from a MAC address.
    Wire(usize, [u8; 6]),
}

fn now() -> Time {
    Time(clock::now_ns() / 1_000)
}

struct Thread {
    config: OwnerConfig,
    core: Ownership,
    links: Links,
    incoming: Incoming,
    commands: mpsc::Receiver<Command>,
    seal: Option<Seal>,
    wires: Vec<Wire>,
    announcer: Announcer,
    publisher: Publisher,
    committed: Committed,
    copies_judged_us: u64,
    stale_reported_us: u64,
    more_to_send: bool,
    gap_max_us: Arc<AtomicU64>,
    news: watch::Sender<News>,
}

impl Thread {
    async fn run(&mut self) {
        let mut before = now();
        loop {
            if !self.wait().await {
                return;
            }
            self.drain().await;
            let now = now();
            let slept = now.0.saturating_sub(before.0);
            let gap = slept.saturating_sub(self.config.settings.wake());
            self.gap_max_us.fetch_max(gap, Ordering::Relaxed);
            before = now;
            self.judge_workers(now);
            self.judge_copies(now);
            self.report_stale_senders(now);
            self.core.handle_tick(now);
            self.act(now);
            self.more_to_send = self.announcer.send(&self.wires);
            self.publish(now);
        }
    }

    /// Waits for input or a deadline; false when the daemon ends.
    async fn wait(&mut self) -> bool {
        let deadline = self.core.next_deadline().0;
        let us = deadline.saturating_sub(now().0).min(self.config.settings.wake());
        let us = if self.more_to_send { us.min(1_000) } else { us };
        let wires: Vec<_> = self.wires.iter().map(|w| Box::pin(w.readable())).collect();
        let any_wire = async move {
            if wires.is_empty() {
                std::future::pending::<()>().await;
            } else {
                select_all(wires).await;
            }
        };
        let (mut command, mut datagram) = (None, None);
        tokio::select! {
            biased;
            got = self.commands.recv() => match got {
                Some(got) => command = Some(got),
                None => return false,
            },
            got = self.incoming.datagrams.recv() => datagram = got,
            () = any_wire => {}
            () = tokio::time::sleep(Duration::from_micros(us)) => {}
        }
        if let Some(command) = command {
            self.obey(command);
        }
        if let Some(datagram) = datagram {
            self.heard(Source::Peer(datagram.from), &datagram.bytes);
        }
        true
    }

    /// Takes in everything that waits, before any deadline is judged.
    async fn drain(&mut self) {
        for _ in 0..DRAIN_YIELDS {
            tokio::task::yield_now().await;
        }
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
        }
        for _ in 0..DATAGRAMS_PER_TURN {
            let Ok(datagram) = self.incoming.datagrams.try_recv() else { break };
            self.heard(Source::Peer(datagram.from), &datagram.bytes);
        }
        let mut frames = Vec::new();
        for (number, wire) in self.wires.iter().enumerate() {
            wire.drain(|mac, payload| frames.push((Source::Wire(number, mac), payload.to_vec())));
        }
        for (from, payload) in frames {
            self.heard(from, &payload);
        }
        while let Ok(event) = self.incoming.events.try_recv() {
            match event {
                steadfast_peer::PeerEvent::Connected { peer } => info!(%peer, "control up"),
                steadfast_peer::PeerEvent::Disconnected { peer, why } => {
                    info!(%peer, why, "control down");
                }
                steadfast_peer::PeerEvent::Refused { addr, why } => warn!(%addr, why, "refused"),
            }
        }
    }

    fn heard(&mut self, from: Source, bytes: &[u8]) {
        self.learn_key();
        let Some(seal) = &self.seal else { return };
        let frame = match seal.decode(bytes) {
            Ok(frame) => frame,
            Err(reason) => return self.core.handle_rejected(reason),
        };
        let (path, mac) = match from {
            // On the control connection the certificate says who it is.
            Source::Peer(certified) if certified != frame.from => {
                return self.core.handle_rejected(RejectReason::Forged);
            }
            Source::Peer(_) => (Path::Peer, None),
            Source::Wire(number, mac) => {
                let Some(path) = self.wires.get(number).and_then(|w| w.path(frame.path)) else {
                    return;
                };
                (path, Some(mac))
            }
        };
        let from = frame.from;
        let accepted = |core: &Ownership| core.counters().beacons_received.get(&path).copied();
        let before = accepted(&self.core);
        self.core.handle_message(now(), path, frame);
        // Only a beacon that the core believed tells a MAC address: a replayed one would draw
        // relayed packets to whoever replays it.
        if let (Path::Segment(segment), Some(mac)) = (path, mac)
            && accepted(&self.core) != before
            && self.config.plane.learn_mac(from, segment, mac)
        {
            self.publisher.macs_changed(from);
            self.config.macs_changed.notify_one();
        }
    }

    fn learn_key(&mut self) {
        if self.seal.is_none() || self.config.key.has_changed().unwrap_or(false) {
            let key = self.config.key.borrow_and_update().clone();
            let mut cluster = [0; 16];
            cluster[8..].copy_from_slice(&self.config.cluster.to_be_bytes());
            self.seal = key.map(|key| Seal::new(cluster, &key));
        }
    }

    fn obey(&mut self, command: Command) {
        let now = now();
        match command {
            Command::Committed(committed) => {
                let groups: BTreeSet<_> = committed.groups.iter().map(|g| g.id).collect();
                self.core.handle_committed(now, Committed::clone(&committed));
                self.publisher.retain(|group| groups.contains(&group));
                self.publisher.set_sync_groups(self.config.node, &committed.groups, now.0 * 1_000);
                self.committed = *committed;
            }
            Command::Document(addresses, replicated) => {
                self.announcer.set_addresses(addresses);
                self.publisher.set_replicated(replicated);
            }
            Command::Leader(leader) => self.core.handle_leader(now, leader),
            Command::Link(segment, up) => self.core.handle_link(now, segment, up),
            Command::SegmentGone(segment) => self.core.handle_segment_gone(now, segment),
            Command::Ports(ports) => self.set_ports(ports),
            Command::Move(group, target, force, reply) => {
                let planned = match target.filter(|_| force) {
                    Some(target) => self.core.handle_forced_move(now, group, target),
                    None => self.core.handle_move(now, group, target),
                };
                // Nobody waits any more when this fails.
                let _ = reply.send(planned);
            }
            Command::ProposalFailed(group) => self.core.handle_proposal_failed(now, group),
            Command::Shutdown => self.core.handle_shutdown(now),
            Command::Status(reply) => {
                let _ = reply.send(self.core.status(now));
            }
            Command::Placement(reply) => {
                let _ = reply.send(self.core.rebalance_input(now));
            }
        }
    }

    /// A wire stays open as long as its port is the same; which segments are on it may change.
    fn set_ports(&mut self, ports: Vec<(Arc<PortInfo>, BTreeSet<SegmentId>)>) {
        let mut before = std::mem::take(&mut self.wires);
        for (port, segments) in ports {
            let kept = before.iter().position(|wire| Arc::ptr_eq(&wire.port, &port));
            let wire = match kept {
                Some(at) => Ok(before.swap_remove(at)),
                None => Wire::open(Arc::clone(&port)),
            };
            match wire {
                Ok(mut wire) => {
                    wire.segments = segments;
                    self.wires.push(wire);
                }
                Err(error) => error!(interface = port.name, "no beacons here: {error}"),
            }
        }
        self.publisher.ports_changed();
    }

    fn wire_of(&self, segment: SegmentId) -> Option<&Wire> {
        self.wires.iter().find(|wire| wire.segments.contains(&segment))
    }

    /// A node that beats must also serve: every worker's loop has turned lately.
    fn judge_workers(&mut self, now: Time) {
        let stuck = self.config.settings.silence().saturating_mul(WORKER_SILENCES);
        let since = now.0.saturating_sub(stuck);
        let turned = self.config.plane.workers_turned_since(since * 1_000);
        self.core.handle_worker_progress(now, turned);
    }

    /// How good this node's copy of each peer's connections is: as good as the worst group's.
    fn judge_copies(&mut self, now: Time) {
        if now.0 < self.copies_judged_us + COPIES_EVERY_US {
            return;
        }
        self.copies_judged_us = now.0;
        let status = self.core.status(now);
        let silent = status.peers.iter().filter(|p| p.silent).map(|p| p.node).collect();
        self.news.send_if_modified(|news| {
            let changed = news.silent != silent;
            news.silent = silent;
            changed
        });
        let boots: BTreeMap<NodeId, BootId> =
            status.peers.iter().filter_map(|p| Some((p.node, p.boot?))).collect();
        let age = |p: &PeerStatus| p.paths.iter().map(|(_, age)| *age).min();
        let ages: BTreeMap<NodeId, u64> =
            status.peers.iter().filter_map(|p| Some((p.node, age(p)?))).collect();
        let mut worst: BTreeMap<NodeId, Completeness> = BTreeMap::new();
        for group in &status.groups {
            let Role::Other { node } = group.role else { continue };
            let Some(boot) = boots.get(&node) else { continue };
            self.publisher.note_holder(group.group, node, *boot);
            if !self.config.roles.keeps_copies(group.group, self.config.node) {
                continue;
            }
            // As it was when the holder was last heard: a silence that is longer than what counts
            // as fresh must not make every copy stale before anybody claims.
            let heard_us = now.0.saturating_sub(ages.get(&node).copied().unwrap_or(0));
            let copy = self.config.copies.completeness(group.group, node, *boot, heard_us * 1_000);
            let copy = match copy {
                repl::Completeness::Complete { .. } => Completeness::Complete,
                repl::Completeness::Stale => Completeness::Stale,
                repl::Completeness::Empty => Completeness::Empty,
            };
            let entry = worst.entry(node).or_insert(copy);
            *entry = (*entry).max(copy);
        }
        for (node, copy) in worst {
            let Some(boot) = boots.get(&node) else { continue };
            self.core.handle_completeness(now, node, *boot, copy);
        }
    }

    /// Who sent to this node what the holder of a group should get.
    fn report_stale_senders(&mut self, now: Time) {
        if now.0 < self.stale_reported_us + STALE_EVERY_US {
            return;
        }
        self.stale_reported_us = now.0;
        let ports = self.config.plane.ports();
        let known = |seen: steadfast_dataplane::StaleSender| {
            let steadfast_dataplane::StaleSender { group, port, mac, vip } = seen;
            let group = GroupId(group.0);
            let port = ports.iter().find(|p| p.number == port)?;
            let segment = self.announcer.segment_of(group, vip, &port.segments())?;
            Some(StaleSender { group, segment, mac, vip })
        };
        let seen = self.config.plane.shared.stale_senders.take();
        if !seen.is_empty() {
            let seen = seen.into_iter().filter_map(known).collect();
            self.core.handle_stale_senders(now, &seen);
        }
    }

    fn act(&mut self, now: Time) {
        for _ in 0..ACTIONS_PER_TURN {
            let Some(action) = self.core.poll_action() else { return };
            self.carry_out(now, action);
        }
    }

    fn carry_out(&mut self, now: Time, action: Action) {
        match action {
            Action::SendSegment { segment, frame } => self.send_segment(segment, &frame),
            Action::SendPeer { node, frame } => self.send_peer(node, &frame),
            Action::StartAnnouncing { group, epoch } => {
                info!(%group, %epoch, "announcing");
            }
            Action::StopAnnouncing { group, why } => {
                info!(%group, ?why, "announcing no more");
                self.announcer.cancel(group);
                let id = steadfast_dataplane::GroupId(group.0);
                self.config.plane.shared.groups.group(id).set_announce_until_ns(0);
            }
            Action::SendGratuitousArp { group } => self.announcer.queue(group),
            Action::AnnounceTo { sender } => self.announcer.queue_to(sender),
            Action::RoleChanged { group, role, epoch } => {
                self.role_changed(now, group, role, epoch);
            }
            Action::ProposeGrant { group, expected, holder, boot, candidates, why } => {
                info!(%group, %holder, ?why, "proposing a grant");
                let commit = Commit::Grant { group, expected, holder, boot, candidates };
                self.request(Request::Grant(commit), Some(group), now);
            }
            Action::ProbeAddresses { group } => {
                // Nobody looks who answers yet; without a report no node announces alone.
                debug!(%group, "no majority: whether somebody answers is not known");
            }
            Action::RequestMove { groups } => self.request(Request::MoveAway(groups), None, now),
            Action::TellStale { node, group, epoch } => {
                warn!(%node, %group, %epoch, "a node announces under a lower epoch");
            }
        }
    }

    fn role_changed(&mut self, now: Time, group: GroupId, role: Role, epoch: Epoch) {
        self.config.copies.handle_epoch(group, epoch);
        let silent_since =
            now.0.saturating_sub(self.config.settings.silence()).saturating_mul(1_000);
        self.publisher.role_changed(group, role, epoch, now.0 * 1_000, silent_since);
    }

    fn request(&mut self, request: Request, group: Option<GroupId>, now: Time) {
        if self.config.requests.try_send(request).is_err()
            && let Some(group) = group
        {
            debug!(%group, "too many requests wait: proposed again later");
            self.core.handle_proposal_failed(now, group);
        }
    }

    fn send_segment(&mut self, id: SegmentId, frame: &Frame) {
        self.learn_key();
        let (Some(seal), Some(wire)) = (&self.seal, self.wire_of(id)) else { return };
        if let Err(error) = wire.broadcast(&seal.encode(frame)) {
            debug!(segment = id.0, "beacon not sent: {error}");
        }
    }

    fn send_peer(&mut self, node: NodeId, frame: &Frame) {
        self.learn_key();
        let Some(seal) = &self.seal else { return };
        if let Err(error) = self.links.send_datagram(node, seal.encode(frame)) {
            debug!(%node, "not sent: {error}");
        }
    }

    /// Until when workers may answer ARP, and steering programs let it through.
    fn publish(&mut self, now: Time) {
        let mut latest = 0;
        for group in &self.committed.groups {
            let until = self.core.announce_valid_until(group.id, now).map_or(0, |t| t.0 * 1_000);
            let id = steadfast_dataplane::GroupId(group.id.0);
            if let Some(state) = self.config.plane.shared.groups.get(id) {
                state.set_announce_until_ns(until);
            }
            latest = latest.max(until);
        }
        for wire in &self.wires {
            if let Err(error) = wire.port.announce_until(latest) {
                error!(interface = wire.port.name, "ARP cannot be let through: {error}");
            }
        }
        let nothing = self.core.holds_nothing();
        self.news.send_if_modified(|news| {
            std::mem::replace(&mut news.holds_nothing, nothing) != nothing
        });
    }
}
