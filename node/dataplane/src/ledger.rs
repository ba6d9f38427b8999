//! The ledger of a connection table: slots, the order in which connections may be pushed out,
//! their timers, and how many each server has.
//!
//! Guarantees: all memory is reserved at start, every operation is constant-time (walks and timers
//! are bounded by their caller). It is behind one lock, taken when a connection comes, goes or
//! changes its state, never for a packet that changes nothing.

use std::{collections::HashMap, sync::Arc};

use crate::{
    Class, Connection, ServerId, ServerLoad, connection::NO_SLOT, lists::Lists, wheel::TimingWheel,
};

/// Empty slots looked at per connection asked for, in one walk step.
const WALK_STRIDE: usize = 16;

#[derive(Debug)]
pub(crate) struct Ledger {
    slots: Vec<Option<Arc<Connection>>>,
    free: Vec<u32>,
    /// Slots from here on were never used.
    high: u32,
    classes: Lists,
    class_of: Vec<Class>,
    wheel: TimingWheel,
    /// What each server carries; those that carry nothing and are in no configuration are dropped
    /// by [`Self::retain_loads`].
    loads: HashMap<ServerId, Arc<ServerLoad>>,
    /// How the connection in each slot is counted.
    active: Vec<bool>,
}

impl Ledger {
    pub(crate) fn new(slots: u32) -> Self {
        Self {
            slots: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            high: 0,
            classes: Lists::new(slots, 3),
            class_of: vec![Class::HalfOpen; slots as usize],
            wheel: TimingWheel::new(slots),
            loads: HashMap::new(),
            active: vec![false; slots as usize],
        }
    }

    /// What a server carries.
    pub(crate) fn load(&mut self, server: ServerId) -> Arc<ServerLoad> {
        Arc::clone(self.loads.entry(server).or_default())
    }

    /// Forgets servers that carry nothing and that `keep` does not want.
    pub(crate) fn retain_loads(&mut self, keep: impl Fn(ServerId) -> bool) {
        self.loads.retain(|id, load| load.active() + load.inactive() > 0 || keep(*id));
    }

    /// Takes a slot for a connection that is about to come; give it to [`Self::fill`] or
    /// [`Self::release`].
    pub(crate) fn reserve(&mut self) -> Option<u32> {
        let slot = self.free.pop()?;
        self.high = self.high.max(slot + 1);
        Some(slot)
    }

    pub(crate) fn release(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// Puts a connection into its reserved slot and sets its timer.
    pub(crate) fn fill(&mut self, slot: u32, connection: &Arc<Connection>, deadline_ns: u64) {
        connection.set_slot(slot);
        let class = connection.class();
        self.class_of[slot as usize] = class;
        self.classes.push_back(class as u32, slot);
        self.wheel.schedule(slot, deadline_ns);
        let active = connection.state().is_active();
        self.active[slot as usize] = active;
        self.load(connection.server()).add(active);
        self.slots[slot as usize] = Some(Arc::clone(connection));
    }

    /// Removes a connection; its slot is free again.
    pub(crate) fn remove(&mut self, connection: &Arc<Connection>) {
        if let Some(slot) = self.vacate(connection) {
            self.free.push(slot);
        }
    }

    /// Puts `new` into the slot of `old`.
    pub(crate) fn swap(&mut self, old: &Arc<Connection>, new: &Arc<Connection>, deadline_ns: u64) {
        if let Some(slot) = self.vacate(old) {
            self.fill(slot, new, deadline_ns);
        }
    }

    /// Brings order and timer up to date after a change of state.
    ///
    /// The class is read here, under the lock: of two threads that changed the state the last one
    /// in sees what both left.
    pub(crate) fn update(&mut self, connection: &Arc<Connection>, deadline_ns: u64) {
        let Some(slot) = self.slot_of(connection) else { return };
        let class = connection.class();
        if self.class_of[slot as usize] != class {
            self.class_of[slot as usize] = class;
            self.classes.push_back(class as u32, slot);
        }
        let active = connection.state().is_active();
        let was = std::mem::replace(&mut self.active[slot as usize], active);
        if was != active {
            self.load(connection.server()).move_to(active);
        }
        self.wheel.schedule(slot, deadline_ns);
    }

    /// Sets the timer of a connection.
    pub(crate) fn arm(&mut self, connection: &Arc<Connection>, deadline_ns: u64) {
        if let Some(slot) = self.slot_of(connection) {
            self.wheel.schedule(slot, deadline_ns);
        }
    }

    /// Takes out connections whose timers are due; they have none until armed again.
    pub(crate) fn due(
        &mut self,
        now_ns: u64,
        budget: usize,
        due: &mut Vec<Arc<Connection>>,
    ) -> bool {
        let mut fired = Vec::new();
        let more = self.wheel.advance(now_ns, budget, &mut fired);
        due.extend(fired.into_iter().filter_map(|slot| self.slots[slot as usize].clone()));
        more
    }

    /// The connection that is longest in `class`.
    pub(crate) fn oldest(&self, class: Class) -> Option<Arc<Connection>> {
        let slot = self.classes.front(class as u32)?;
        self.slots[slot as usize].clone()
    }

    /// Up to `max` connections from slot `from` on, and where to go on.
    pub(crate) fn walk(&self, from: u32, max: usize) -> (Vec<Arc<Connection>>, Option<u32>) {
        let mut found = Vec::new();
        let scan_end = (from as usize).saturating_add(max.max(1).saturating_mul(WALK_STRIDE));
        let end = scan_end.min(self.high as usize);
        for slot in from as usize..end {
            if let Some(connection) = &self.slots[slot] {
                found.push(Arc::clone(connection));
                if found.len() >= max {
                    let next = slot as u32 + 1;
                    return (found, (next < self.high).then_some(next));
                }
            }
        }
        (found, (end < self.high as usize).then_some(end as u32))
    }

    fn vacate(&mut self, connection: &Arc<Connection>) -> Option<u32> {
        let slot = self.slot_of(connection)?;
        self.slots[slot as usize] = None;
        let active = self.active[slot as usize];
        self.load(connection.server()).take(active);
        self.classes.unlink(slot);
        self.wheel.cancel(slot);
        connection.set_slot(NO_SLOT);
        Some(slot)
    }

    fn slot_of(&self, connection: &Arc<Connection>) -> Option<u32> {
        let slot = connection.slot();
        let held = self.slots.get(slot as usize)?.as_ref()?;
        Arc::ptr_eq(held, connection).then_some(slot)
    }
}
