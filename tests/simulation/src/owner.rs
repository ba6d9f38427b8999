//! Drives the ownership core as the daemon's ownership thread does: take everything in, judge,
//! act, announce, publish.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use steadfast_dataplane as dp;
use steadfast_model::{BootId, Command, Epoch, GroupId, NodeId};
use steadfast_ownership::{
    Action, Completeness, Frame, Message, Path, PeerStatus, Role, SegmentId, StaleSender, Time,
};
use steadfast_packet::gratuitous_arp;
use steadfast_replication::{self as repl, adapter::origin_of};

use crate::{
    clock::{Ns, US},
    cluster::{GATEWAY, place, vip},
    ether::mac,
    machine::{RoleNow, Told},
    net::Plane,
    queue::{Device, Event},
    world::World,
};

/// As in the daemon.
const COPIES_EVERY_US: u64 = 20_000;
/// As in the daemon.
const STALE_EVERY_US: u64 = 1_000_000;
/// As in the daemon: a worker that has not turned for so many silences is stuck.
const WORKER_SILENCES: u64 = 2;
/// As in the daemon: announcements of one turn.
const FRAMES_PER_TURN: usize = 64;
/// Frames that wait for the loop of a node.
const INBOX_MAX: usize = 1024;

/// The port that a segment is on.
#[must_use]
pub(crate) fn port_of(segment: SegmentId) -> u16 {
    segment.0.saturating_sub(1)
}

/// The segment of a port.
#[must_use]
pub(crate) fn segment_of(port: u16) -> SegmentId {
    SegmentId(port + 1)
}

impl World {
    /// A frame of ownership has arrived.
    pub(crate) fn owner_frame(&mut self, to: NodeId, path: Path, frame: Rc<Frame>, sent: Ns) {
        let Some(run) = self.machine(to).run.as_mut() else { return };
        if run.inbox.len() < INBOX_MAX {
            run.inbox.push((path, frame, sent));
        }
        self.wake_owner(to);
    }

    /// Tells the ownership thread something.
    pub(crate) fn tell(&mut self, node: NodeId, told: Told) {
        let Some(run) = self.machine(node).run.as_mut() else { return };
        run.told.push(told);
        self.wake_owner(node);
    }

    /// The loop turns soon.
    fn wake_owner(&mut self, node: NodeId) {
        let at = self.now + self.rng.between(20 * US, 200 * US);
        self.owner_at(node, at);
    }

    fn owner_at(&mut self, node: NodeId, at: Ns) {
        let Some(run) = self.machine(node).run.as_mut() else { return };
        if at < run.owner_at {
            run.owner_at = at;
            let boot = run.boot;
            self.queue.put(at, Event::OwnerTurn(node, boot));
        }
    }

    /// One turn of the loop.
    pub(crate) fn owner_turn(&mut self, node: NodeId, boot: BootId) {
        let now = self.now;
        let (settings_silence, settings_wake) = (self.settings.silence(), self.settings.wake());
        let machine = self.machine(node);
        let local = machine.time(now);
        let Some(run) = machine.run_of(boot).filter(|run| run.owner_at <= now) else { return };
        run.owner_at = Ns::MAX;
        let (told, inbox) = (std::mem::take(&mut run.told), std::mem::take(&mut run.inbox));
        for told in told {
            self.obey(node, local, told);
        }
        let heard = self.drain(node, local, inbox);
        self.judge_copies(node, local);
        self.report_stale_senders(node, local);
        if let Some(run) = self.machine(node).run.as_mut() {
            // Workers turn at least every 10 ms unless they are stuck.
            let silence = settings_silence * WORKER_SILENCES;
            let stuck =
                run.stuck_since.is_some_and(|since| now.saturating_sub(since) / 1_000 > silence);
            run.core.handle_worker_progress(local, !stuck);
            run.core.handle_tick(local);
        }
        self.act(node, local);
        self.announce(node);
        self.publish(node, local, &heard);
        let machine = self.machine(node);
        let Some(run) = machine.run.as_ref() else { return };
        let wake = local + settings_wake;
        let next = run.core.next_deadline().min(wake);
        let more = !run.announcements.is_empty();
        let mut at = machine.clock.at(next.0 * 1_000).max(now + 10 * US);
        if more {
            at = at.min(now + 1_000 * US);
        }
        let at = at + self.rng.between(5 * US, 60 * US);
        self.owner_at(node, at);
    }

    fn obey(&mut self, node: NodeId, local: Time, told: Told) {
        let Some(run) = self.machine(node).run.as_mut() else { return };
        match told {
            Told::Committed(committed) => {
                let kept: BTreeSet<GroupId> = committed.groups.iter().map(|g| g.id).collect();
                run.core.handle_committed(local, *committed);
                for group in run.roles.keys().filter(|group| !kept.contains(group)) {
                    run.shared.groups.remove(dp::GroupId(group.0));
                }
                run.roles.retain(|group, _| kept.contains(group));
                run.roles_changed += 1;
                run.last_other.retain(|group, _| kept.contains(group));
                run.holding.retain(|group, _| kept.contains(group));
                self.wake_senders(node);
            }
            Told::Leader(leader) => run.core.handle_leader(local, leader),
            Told::Link(segment, up) => run.core.handle_link(local, segment, up),
            Told::Move(group, target) => {
                let moved = run.core.handle_move(local, group, target);
                match moved {
                    Ok(to) => {
                        self.figures.moves += 1;
                        self.note(format_args!("node {node} moves group {group} to {to}"));
                    }
                    Err(why) => {
                        self.note(format_args!("node {node} does not move group {group}: {why}"));
                    }
                }
            }
            Told::ProposalFailed(group) => run.core.handle_proposal_failed(local, group),
            Told::Shutdown => run.core.handle_shutdown(local),
        }
    }

    /// Feeds what has arrived; says the highest epoch that was believed, by group.
    fn drain(
        &mut self,
        node: NodeId,
        local: Time,
        inbox: Vec<(Path, Rc<Frame>, Ns)>,
    ) -> BTreeMap<GroupId, Epoch> {
        let (mut heard, mut news) = (BTreeMap::new(), Vec::new());
        for (path, frame, sent) in &inbox {
            self.trace.detail(self.now, || {
                let Frame { from, sequence, body, .. } = &**frame;
                format!("node {node} hears {from}.{sequence} of {sent} on {path:?}: {body:?}")
            });
        }
        let Some(run) = self.machine(node).run.as_mut() else { return heard };
        for (path, frame, _) in inbox {
            let frame = Rc::unwrap_or_clone(frame);
            // What is heard matters to who announces.
            let (from, groups) = match &frame.body {
                Message::Beacon(_) if run.announcing.is_empty() => (Some(frame.from), Vec::new()),
                Message::Beacon(beacon) => (Some(frame.from), beacon.groups.clone()),
                _ => (None, Vec::new()),
            };
            let accepted = |core: &steadfast_ownership::Ownership| {
                core.counters().beacons_received.get(&path).copied()
            };
            let before = accepted(&run.core);
            run.core.handle_message(local, path, frame);
            if accepted(&run.core) == before {
                continue;
            }
            for report in groups {
                let known = heard.entry(report.group).or_insert(report.epoch);
                *known = (*known).max(report.epoch);
            }
            if let (Path::Segment(segment), Some(from)) = (path, from)
                && run.macs.insert((from, port_of(segment)))
            {
                news.push(from);
            }
        }
        for of in news {
            self.relay_anew(node, of);
        }
        heard
    }

    /// How good this node's copy of each peer's connections is: as good as the worst group's.
    fn judge_copies(&mut self, node: NodeId, local: Time) {
        let Some(run) = self.machine(node).run.as_mut() else { return };
        if local.0 < run.copies_judged_us + COPIES_EVERY_US {
            return;
        }
        run.copies_judged_us = local.0;
        let status = run.core.status(local);
        let boots: BTreeMap<NodeId, BootId> =
            status.peers.iter().filter_map(|p| Some((p.node, p.boot?))).collect();
        let age = |p: &PeerStatus| p.paths.iter().map(|(_, age)| *age).min();
        let ages: BTreeMap<NodeId, u64> =
            status.peers.iter().filter_map(|p| Some((p.node, age(p)?))).collect();
        let mut worst: BTreeMap<NodeId, Completeness> = BTreeMap::new();
        for group in &status.groups {
            let Role::Other { node } = group.role else { continue };
            let Some(boot) = boots.get(&node) else { continue };
            run.last_other.insert(group.group, (node, *boot));
            let heard_us = local.0.saturating_sub(ages.get(&node).copied().unwrap_or(0));
            let copy = run.copies.completeness(group.group, node, *boot, heard_us * 1_000);
            let copy = match copy {
                repl::Completeness::Complete { .. } => Completeness::Complete,
                repl::Completeness::Stale => Completeness::Stale,
                repl::Completeness::Empty => Completeness::Empty,
            };
            let entry = worst.entry(node).or_insert(copy);
            *entry = (*entry).max(copy);
        }
        for (holder, copy) in worst {
            let Some(boot) = boots.get(&holder) else { continue };
            run.core.handle_completeness(local, holder, *boot, copy);
        }
    }

    fn report_stale_senders(&mut self, node: NodeId, local: Time) {
        let Some(run) = self.machine(node).run.as_mut() else { return };
        if local.0 < run.stale_reported_us + STALE_EVERY_US {
            return;
        }
        run.stale_reported_us = local.0;
        let seen = run.shared.stale_senders.take();
        if seen.is_empty() {
            return;
        }
        let known = |seen: dp::StaleSender| StaleSender {
            group: GroupId(seen.group.0),
            segment: segment_of(seen.port),
            mac: seen.mac,
            vip: seen.vip,
        };
        run.core.handle_stale_senders(local, &seen.into_iter().map(known).collect());
    }

    fn act(&mut self, node: NodeId, local: Time) {
        while let Some(action) =
            self.machine(node).run.as_mut().and_then(|run| run.core.poll_action())
        {
            self.carry_out(node, local, action);
        }
    }

    fn carry_out(&mut self, node: NodeId, local: Time, action: Action) {
        match action {
            Action::SendSegment { segment, frame } => {
                let frame = Rc::new(frame);
                for to in self.members.clone() {
                    if to != node {
                        let plane = Plane::Segment(port_of(segment));
                        self.send_owner(node, to, plane, Path::Segment(segment), &frame);
                    }
                }
            }
            Action::SendPeer { node: to, frame } => {
                self.send_owner(node, to, Plane::Control, Path::Peer, &Rc::new(frame));
            }
            Action::StartAnnouncing { group, epoch } => {
                self.note(format_args!("node {node} announces group {group} under {epoch}"));
                if let Some(run) = self.machine(node).run.as_mut() {
                    run.announcing.insert(group);
                }
                self.check_announcer(node, group, epoch);
            }
            Action::StopAnnouncing { group, why } => {
                self.note(format_args!("node {node} announces group {group} no more: {why:?}"));
                let Some(run) = self.machine(node).run.as_mut() else { return };
                run.announcing.remove(&group);
                run.announcements.retain(|(g, ..)| *g != group);
                run.shared.groups.group(dp::GroupId(group.0)).set_announce_until_ns(0);
            }
            Action::SendGratuitousArp { group } => self.queue_announcements(node, group),
            Action::AnnounceTo { sender } => self.announce_to(node, sender),
            Action::RoleChanged { group, role, epoch } => {
                self.role_changed(node, local, group, role, epoch);
            }
            Action::ProposeGrant { group, expected, holder, boot, candidates, why } => {
                self.note(format_args!("node {node} proposes {holder} for group {group}: {why:?}"));
                let grant = Command::Grant { group, expected, holder, boot, candidates };
                self.propose(node, Some(group), grant);
            }
            Action::RequestMove { groups } => {
                for group in groups {
                    self.ask_move(node, group);
                }
            }
            // As in the daemon: nobody looks yet who answers, so no node becomes a shadow.
            Action::TellStale { .. } | Action::ProbeAddresses { .. } => {}
        }
    }

    fn send_owner(
        &mut self,
        from: NodeId,
        to: NodeId,
        plane: Plane,
        path: Path,
        frame: &Rc<Frame>,
    ) {
        if self.net.is_cut(from, to, plane) {
            return;
        }
        let sent = self.now;
        for delay in self.net.carry(&mut self.rng, plane).into_iter().flatten() {
            let frame = Rc::clone(frame);
            self.queue.put(sent + delay, Event::Owner { to, path, frame, sent });
        }
    }

    fn queue_announcements(&mut self, node: NodeId, group: GroupId) {
        let Some(run) = self.machine(node).run.as_mut() else { return };
        if run.announcements.iter().any(|(g, ..)| *g == group) {
            return;
        }
        let index = place(group);
        run.announcements.push_back((group, 0, vip(index)));
        if index == 1 {
            run.announcements.push_back((group, 1, GATEWAY));
        }
    }

    fn announce_to(&mut self, node: NodeId, sender: StaleSender) {
        let port = port_of(sender.segment);
        let index = place(sender.group);
        let address = if port == 0 { vip(index) } else { GATEWAY };
        let mut frame = gratuitous_arp(mac(Device::Node(node, port)), address).to_vec();
        frame[..6].copy_from_slice(&sender.mac);
        self.figures.announced_to += 1;
        self.send_ether(Device::Node(node, port), &frame);
    }

    /// Sends what one turn may send.
    fn announce(&mut self, node: NodeId) {
        for _ in 0..FRAMES_PER_TURN {
            let next = self.machine(node).run.as_mut().and_then(|r| r.announcements.pop_front());
            let Some((_, port, address)) = next else { return };
            let frame = gratuitous_arp(mac(Device::Node(node, port)), address);
            self.send_ether(Device::Node(node, port), &frame);
        }
    }

    fn role_changed(
        &mut self,
        node: NodeId,
        local: Time,
        group: GroupId,
        role: Role,
        epoch: Epoch,
    ) {
        let silence = self.settings.silence();
        let machine = self.machine(node);
        let Some(run) = machine.run.as_mut() else { return };
        run.copies.handle_epoch(group, epoch);
        let silent_since_ns = local.0.saturating_sub(silence) * 1_000;
        let now_ns = local.0 * 1_000;
        let published = match role {
            Role::Holder => {
                let copy_complete = run.last_other.get(&group).is_none_or(|(other, boot)| {
                    run.copies.completeness(group, *other, *boot, silent_since_ns).is_complete()
                });
                if run.last_other.contains_key(&group) && !run.holding.contains_key(&group) {
                    let until_ns = now_ns.saturating_add(dp::ADOPT_AFTER_TAKE_OVER_NS);
                    run.shared.groups.group(dp::GroupId(group.0)).set_adopt_until_ns(until_ns);
                }
                let (since_ns, copy_complete) =
                    *run.holding.entry(group).or_insert((now_ns, copy_complete));
                dp::Role::Holder { epoch: origin_of(epoch), since_ns, copy_complete }
            }
            Role::Other { node } => {
                run.holding.remove(&group);
                dp::Role::Other { relay: macs_of(run, node) }
            }
            Role::NoHolder => {
                run.holding.remove(&group);
                dp::Role::NoHolder { since_ns: now_ns }
            }
        };
        let state = run.shared.groups.group(dp::GroupId(group.0));
        state.set_role(published);
        if !matches!(role, Role::Holder) {
            state.set_announce_until_ns(0);
        }
        let before = match run.roles.get(&group).copied() {
            Some(old) if old.role == role || old.role == Role::NoHolder => old.before,
            Some(old) => Some((old.role, old.epoch)),
            None => None,
        };
        run.roles.insert(group, RoleNow { role, epoch, before });
        run.roles_changed += 1;
        let complete = run.holding.get(&group).is_some_and(|(_, complete)| *complete);
        self.note(format_args!(
            "node {node} is {role:?} of group {group} under {epoch}, copy complete: {complete}"
        ));
        self.check_epoch(node, group, epoch);
        if role == Role::Holder {
            self.note_take_over(node, group);
        }
        self.wake_senders(node);
    }

    /// A node's MAC address was learned: relaying to it is possible now.
    fn relay_anew(&mut self, node: NodeId, of: NodeId) {
        let Some(run) = self.machine(node).run.as_mut() else { return };
        let concerned = run.roles.iter().filter(|(_, now)| now.role == (Role::Other { node: of }));
        let groups: Vec<GroupId> = concerned.map(|(group, _)| *group).collect();
        for group in groups {
            let relay = macs_of(run, of);
            run.shared.groups.group(dp::GroupId(group.0)).set_role(dp::Role::Other { relay });
        }
    }

    /// Until when workers may answer ARP.
    fn publish(&mut self, node: NodeId, local: Time, heard: &BTreeMap<GroupId, Epoch>) {
        let Some(run) = self.machines[node.0 as usize - 1].run.as_ref() else { return };
        let news = run.state.groups.keys().filter_map(|group| {
            let until = run.core.announce_valid_until(*group, local);
            // Who did not announce and does not now has nothing to tell its workers.
            let silent = until.is_none() && !self.checks.overlaps.announces(*group, node);
            (!silent).then_some((*group, until))
        });
        let news: Vec<(GroupId, Option<Time>)> = news.collect();
        for (group, until) in news {
            let Some(run) = self.machine(node).run.as_mut() else { return };
            let id = dp::GroupId(group.0);
            if let Some(state) = run.shared.groups.get(id) {
                state.set_announce_until_ns(until.map_or(0, |t| t.0 * 1_000));
            }
            self.check_announcing(node, group, until.is_some(), heard.get(&group).copied());
        }
    }
}

/// A node's MAC address by port, where a beacon has told it.
fn macs_of(run: &crate::machine::Run, of: NodeId) -> Vec<Option<[u8; 6]>> {
    let known = |port| run.macs.contains(&(of, port)).then(|| mac(Device::Node(of, port)));
    vec![known(0), known(1)]
}
