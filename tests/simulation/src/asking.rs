//! Asks the peers for connections that packets speak of and nobody here knows, as the daemon's asker
//! does: questions are gathered for a moment, go to every peer that is heard, and stay open unless all
//! of them answer in time.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::atomic::Ordering,
};

use steadfast_dataplane::Wanted;
use steadfast_model::{BootId, GroupId, NodeId};
use steadfast_replication::{
    Key,
    adapter::key_of,
    answer, take_answer,
    wire::{ASK_KEYS_MAX, Ask},
};

use crate::{
    clock::{MS, Ns},
    machine::Part,
    net::Plane,
    queue::Event,
    world::World,
};

/// As in the daemon.
const ANSWER_WITHIN: Ns = 150 * MS;
/// As in the daemon.
const GATHER: Ns = MS;

/// A question that is under way.
#[derive(Debug)]
pub(crate) struct Question {
    ask: Ask,
    wanted: Vec<Wanted>,
    /// Peers that have not answered.
    open: BTreeSet<NodeId>,
    known: BTreeSet<Key>,
}

impl World {
    /// The worker may have asked for something.
    pub(crate) fn wake_asker(&mut self, node: NodeId) {
        let at = self.now + GATHER;
        let Some(run) = self.machine(node).run.as_mut() else { return };
        let boot = run.boot;
        if run.wants.swap(false, Ordering::Relaxed) {
            self.queue.put(at, Event::Gather(node, boot));
        }
    }

    /// Questions have been gathered: they go to all peers that are heard.
    pub(crate) fn gather(&mut self, node: NodeId, boot: BootId) {
        let now = self.now;
        let machine = self.machine(node);
        let time = machine.time(now);
        let Some(run) = machine.run_of(boot) else { return };
        let mut groups: BTreeMap<u32, Vec<Wanted>> = BTreeMap::new();
        for wanted in run.shared.unknown.take() {
            groups.entry(wanted.group.0).or_default().push(wanted);
        }
        if groups.is_empty() {
            return;
        }
        let status = run.core.status(time);
        let heard = status.peers.iter().filter(|peer| !peer.silent);
        let peers: BTreeSet<NodeId> = heard.map(|peer| peer.node).collect();
        for wanted in groups.values().flat_map(|wanted| wanted.chunks(ASK_KEYS_MAX)) {
            self.put_question(node, boot, wanted.to_vec(), peers.clone());
        }
    }

    fn put_question(
        &mut self,
        node: NodeId,
        boot: BootId,
        wanted: Vec<Wanted>,
        open: BTreeSet<NodeId>,
    ) {
        let Some(first) = wanted.first() else { return };
        let keys = wanted.iter().map(|wanted| key_of(&wanted.key)).collect();
        let ask = Ask { group: GroupId(first.group.0), keys };
        let frame: Rc<[u8]> = Rc::from(ask.encode());
        self.serial += 1;
        let (number, now) = (self.serial, self.now);
        self.figures.asked += wanted.len() as u64;
        for to in open.iter().copied() {
            if !self.net.is_cut(node, to, Plane::Replication) {
                let at = now + self.net.carry_surely(&mut self.rng, node, to);
                let frame = Rc::clone(&frame);
                self.queue.put(at, Event::Asked { from: node, boot, to, number, frame });
            }
        }
        let question = Question { ask, wanted, open, known: BTreeSet::new() };
        let Some(run) = self.machine(node).run_of(boot) else { return };
        run.questions.insert(number, question);
        self.queue.put(now + ANSWER_WITHIN, Event::Unanswered(node, boot, number));
        self.judge_question(node, number);
    }

    /// A peer is asked.
    pub(crate) fn asked(
        &mut self,
        (from, boot): (NodeId, BootId),
        to: NodeId,
        number: u64,
        frame: &[u8],
    ) {
        let Some(run) = self.machine(to).run.as_ref() else { return };
        let Some(slot) = run.dirty.slot(from) else { return };
        // As before the asker held the group, or as it is known by.
        let epoch = |group: GroupId| {
            let now = run.roles.get(&group)?;
            Some(now.before.map_or(now.epoch, |(_, epoch)| epoch))
        };
        let answered = answer(frame, &*run.shared, slot, epoch);
        let frame: Rc<[u8]> = match answered {
            Ok(frame) => Rc::from(frame),
            Err(error) => return self.fail("asking", &format!("{from} asks {to}: {error}")),
        };
        if !self.net.is_cut(to, from, Plane::Replication) {
            let at = self.now + self.net.carry_surely(&mut self.rng, to, from);
            self.queue.put(at, Event::Answered { by: to, to: from, boot, number, frame });
        }
    }

    /// A peer has answered.
    pub(crate) fn take_answered(
        &mut self,
        by: NodeId,
        (to, boot): (NodeId, BootId),
        number: u64,
        frame: &[u8],
    ) {
        let now = self.now;
        let machine = self.machine(to);
        let local = machine.local(now);
        let Some(run) = machine.run_of(boot) else { return };
        let Some(question) = run.questions.get_mut(&number) else { return };
        match take_answer(frame, &question.ask, &*run.shared, &run.dirty, local) {
            Ok(keys) => {
                question.open.remove(&by);
                question.known.extend(keys);
            }
            Err(error) => return self.fail("asking", &format!("{by} answers {to}: {error}")),
        }
        self.judge_question(to, number);
        self.wake_marked(to);
    }

    /// Once all have answered it is known what nobody knows.
    fn judge_question(&mut self, node: NodeId, number: u64) {
        let now = self.now;
        let machine = self.machine(node);
        let local = machine.local(now);
        let Some(run) = machine.run.as_mut() else { return };
        if run.questions.get(&number).is_none_or(|question| !question.open.is_empty()) {
            return;
        }
        let Some(question) = run.questions.remove(&number) else { return };
        let unknown =
            question.wanted.iter().filter(|wanted| !question.known.contains(&key_of(&wanted.key)));
        let mut nobody = 0;
        for wanted in unknown {
            run.shared.unknown.nobody_knows(local, wanted);
            nobody += 1;
        }
        self.figures.found += question.known.len() as u64;
        self.figures.known_to_nobody += nobody;
    }

    /// Not all peers have answered in time: the question stays open, the next packet asks again.
    pub(crate) fn unanswered(&mut self, node: NodeId, boot: BootId, number: u64) {
        let Some(run) = self.machine(node).run_of(boot) else { return };
        if let Some(question) = run.questions.remove(&number) {
            self.figures.found += question.known.len() as u64;
        }
    }

    /// Whether an event of asking is for a part that stands still.
    pub(crate) fn asking_part(event: &Event) -> Option<(NodeId, Part)> {
        match event {
            Event::Gather(node, _) | Event::Unanswered(node, ..) => Some((*node, Part::Rest)),
            Event::Asked { to, .. } | Event::Answered { to, .. } => Some((*to, Part::Rest)),
            _ => None,
        }
    }
}
