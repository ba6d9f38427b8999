//! The ledger of a connection table: slots, the order in which connections may be pushed out,
//! their timers, and how many each server has.
//!
//! Guarantees: all memory is reserved at start, every operation is constant-time (walks and timers
//! are bounded by their caller). It is behind one lock, taken when a connection comes, goes or
//! changes its state, never for a packet that changes nothing.

use std::{collections::HashMap, sync::Arc};

use crate::{Class, ServerId, ServerLoad, lists::Lists, room::HalfOpen, wheel::TimingWheel};

#[derive(Debug)]
pub(crate) struct Ledger {
    free: Vec<u32>,
    /// Slots from here on were never used.
    high: u32,
    slots: u32,
    classes: Lists,
    /// Connections in each class.
    lens: [usize; 3],
    /// The bound of those that are half-open.
    pub(crate) half_open: HalfOpen,
    /// How the connection in each slot is counted: its class, and [`ACTIVE`].
    counted: Vec<u8>,
    wheel: TimingWheel,
    /// What each server carries; those that carry nothing and are in no configuration are dropped
    /// by [`Self::retain_loads`].
    loads: HashMap<ServerId, Arc<ServerLoad>>,
}

/// Counted as active, beside the class.
const ACTIVE: u8 = 4;

/// What the ledger has to know about a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) class: Class,
    pub(crate) active: bool,
    pub(crate) server: ServerId,
    pub(crate) deadline_ns: u64,
}

impl Entry {
    fn counted(&self) -> u8 {
        self.class as u8 | if self.active { ACTIVE } else { 0 }
    }
}

impl Ledger {
    pub(crate) fn new(slots: u32, half_open_max: usize) -> Self {
        Self {
            lens: [0; 3],
            half_open: HalfOpen::new(half_open_max),
            free: Vec::with_capacity(slots as usize),
            high: 0,
            slots,
            classes: Lists::new(slots, 3),
            counted: vec![0; slots as usize],
            wheel: TimingWheel::new(slots),
            loads: HashMap::new(),
        }
    }

    /// What a server carries.
    pub(crate) fn load(&mut self, server: ServerId) -> Arc<ServerLoad> {
        Arc::clone(self.load_of(server))
    }

    /// Forgets servers that carry nothing and that `keep` does not want.
    pub(crate) fn retain_loads(&mut self, keep: impl Fn(ServerId) -> bool) {
        self.loads.retain(|id, load| load.active() + load.inactive() > 0 || keep(*id));
    }

    /// Takes a slot for a connection that is about to come; give it to [`Self::fill`] or
    /// [`Self::release`].
    pub(crate) fn reserve(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = self.high;
        (slot < self.slots).then(|| {
            self.high += 1;
            slot
        })
    }

    pub(crate) fn release(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// Slots from here on are empty.
    pub(crate) fn high(&self) -> u32 {
        self.high
    }

    /// A connection has come into its reserved slot.
    pub(crate) fn fill(&mut self, slot: u32, entry: &Entry) {
        self.counted[slot as usize] = entry.counted();
        self.classes.push_back(entry.class as u32, slot);
        self.lens[entry.class as usize] += 1;
        self.wheel.schedule(slot, entry.deadline_ns);
        self.load_of(entry.server).add(entry.active);
    }

    /// The connection of `server` has left its slot, which is not free yet.
    pub(crate) fn vacate(&mut self, slot: u32, server: ServerId) {
        let active = self.counted[slot as usize] & ACTIVE != 0;
        self.lens[self.class(slot) as usize] -= 1;
        self.load_of(server).take(active);
        self.classes.unlink(slot);
        self.wheel.cancel(slot);
    }

    /// Brings order, counts and timer up to date after a change of state.
    pub(crate) fn update(&mut self, slot: u32, entry: &Entry) {
        self.note_class(slot, entry.class);
        let (was, is) = (self.counted[slot as usize], entry.counted());
        self.counted[slot as usize] = is;
        if was & ACTIVE != is & ACTIVE {
            self.load_of(entry.server).move_to(entry.active);
        }
        self.wheel.schedule(slot, entry.deadline_ns);
    }

    /// Moves a slot to the end of another class; nothing if it is in that one.
    pub(crate) fn note_class(&mut self, slot: u32, class: Class) {
        let was = self.class(slot);
        if was == class {
            return;
        }
        self.lens[was as usize] -= 1;
        self.lens[class as usize] += 1;
        let counted = &mut self.counted[slot as usize];
        *counted = *counted & ACTIVE | class as u8;
        self.classes.push_back(class as u32, slot);
    }

    /// The class that the connection in a slot is counted in.
    pub(crate) fn class(&self, slot: u32) -> Class {
        const CLASSES: [Class; 3] = [Class::HalfOpen, Class::Closing, Class::Established];
        let class = self.counted[slot as usize] & !ACTIVE;
        CLASSES.into_iter().find(|found| *found as u8 == class).unwrap_or(Class::Established)
    }

    /// Connections in `class`.
    pub(crate) fn len(&self, class: Class) -> usize {
        self.lens[class as usize]
    }

    /// Connections that are not half-open.
    pub(crate) fn connections(&self) -> usize {
        self.len(Class::Closing) + self.len(Class::Established)
    }

    /// Sets the timer of a slot.
    pub(crate) fn arm(&mut self, slot: u32, deadline_ns: u64) {
        self.wheel.schedule(slot, deadline_ns);
    }

    /// Takes out slots whose timers are due; they have none until armed again.
    pub(crate) fn due(&mut self, now_ns: u64, budget: usize, due: &mut Vec<u32>) -> bool {
        self.wheel.advance(now_ns, budget, due)
    }

    /// The slot that is longest in `class`.
    pub(crate) fn oldest(&self, class: Class) -> Option<u32> {
        self.classes.front(class as u32)
    }

    fn load_of(&mut self, server: ServerId) -> &mut Arc<ServerLoad> {
        self.loads.entry(server).or_default()
    }
}
