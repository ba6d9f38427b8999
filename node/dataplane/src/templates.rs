//! The templates of a node: persistence.
//!
//! A table of its own, not a class of connections: its keys are others, a flood of clients takes no
//! room from connections nor the other way round, and a connection needs no bytes for it. It is
//! behind one lock, taken when a connection of a persistent service comes, goes or becomes a
//! conversation, never for other packets. The lock is the last one: nothing is locked under it.
//!
//! Guarantees: memory is reserved at start and taken as templates come; a look-up reads a bounded
//! number of places; when the table is full the oldest unassured template gives way, and when all
//! are assured a client gets a server without one. A copy does not end while another node holds its group.
//!
//! Merge rules: the holder's word replaces what is of a lower epoch, or of the same epoch and an
//! older incarnation; a donor's only what is unassured, by what is assured or of a higher epoch.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use siphasher::sip::SipHasher13;

use crate::{
    Applied, Config, Connection, GroupId, Groups, Origin, Persistence, Provenance, Role, ServerId,
    ServiceId, Sweep, Template, TemplateKey, TemplateRecord, TemplateReplica, index::Index,
    lists::Lists, wheel::TimingWheel,
};

/// A template that is over but controls connections is looked at again after this.
//= Linux ip_vs_conn.c, ip_vs_conn_expire(): expire_later
const CONTROLLING_NS: u64 = 60_000_000_000;

const UNASSURED: u32 = 0;
const ASSURED: u32 = 1;

/// All templates.
#[derive(Debug)]
pub struct Templates {
    inner: Mutex<Inner>,
    max: usize,
}

#[derive(Debug)]
struct Inner {
    max: usize,
    index: Index,
    seed: [u64; 2],
    /// As many as were ever used at the same time.
    slots: Vec<Option<Template>>,
    free: Vec<u32>,
    /// By when they were used last, the unassured apart.
    order: Lists,
    wheel: TimingWheel,
    /// What the services of the configuration want.
    services: BTreeMap<ServiceId, Persistence>,
}

/// What asking for a client's server led to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Persisted {
    /// The server.
    pub(crate) server: ServerId,
    /// The connection was counted with the template, which wants to hear of its end.
    pub(crate) controlled: bool,
    /// A template that is new, has another server now, or is assured now: peers should know.
    pub(crate) news: Option<Template>,
    /// What had to go for it.
    pub(crate) evicted: Option<Template>,
}

/// Who asks for a client's server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) key: TemplateKey,
    pub(crate) group: GroupId,
    pub(crate) epoch: Origin,
    pub(crate) persistence: Persistence,
    /// There will be a connection; otherwise a second request makes the template assured.
    pub(crate) connects: bool,
    pub(crate) now_ns: u64,
}

impl Templates {
    /// An empty table.
    pub(crate) fn new(max: u32, seed: [u64; 2]) -> Self {
        let inner = Inner {
            max: max as usize,
            index: Index::new(max),
            seed,
            slots: Vec::with_capacity(max as usize),
            free: Vec::with_capacity(max as usize),
            order: Lists::new(max, 2),
            wheel: TimingWheel::new(max),
            services: BTreeMap::new(),
        };
        Self { inner: Mutex::new(inner), max: max as usize }
    }

    /// The most there can be.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let inner = self.lock();
        inner.slots.len() - inner.free.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The template of a key.
    #[must_use]
    pub fn find(&self, key: &TemplateKey) -> Option<Template> {
        self.lock().get(key).map(|(_, template)| *template)
    }

    /// The template of a key, which the peer of the bits `peers` is about to be sent.
    pub fn send(&self, key: &TemplateKey, peers: u32) -> Option<Template> {
        let mut inner = self.lock();
        let slot = inner.place(key)?;
        let template = inner.slots[slot as usize].as_mut()?;
        template.sent_to |= peers;
        Some(*template)
    }

    /// Takes a template over as another table has it.
    pub(crate) fn copy_in(&self, template: Template) {
        self.lock().insert(template, template.until_ns);
    }

    /// Up to `max` places from `from` on: the templates there, and where to go on.
    #[must_use]
    pub fn walk(&self, from: u32, max: usize) -> (Vec<Template>, Option<u32>) {
        let inner = self.lock();
        let from = (from as usize).min(inner.slots.len());
        let end = from.saturating_add(max.max(1)).min(inner.slots.len());
        let found = inner.slots[from..end].iter().flatten().copied().collect();
        (found, (end < inner.slots.len()).then_some(end as u32))
    }

    /// Takes over what the services of a configuration want.
    pub(crate) fn configure(&self, config: &Config) {
        let services = config.services();
        let wanted = services.filter_map(|s| Some((s.spec.id, s.spec.persistence?))).collect();
        self.lock().services = wanted;
    }

    /// The server for a new connection of a client: that of its template while `may_stay` says so,
    /// else the one that `choose` gives, which the template names from now on.
    pub(crate) fn persist(
        &self,
        client: &Client,
        may_stay: impl FnOnce(ServerId) -> bool,
        choose: impl FnOnce() -> Option<ServerId>,
    ) -> Option<Persisted> {
        let mut inner = self.lock();
        let until_ns = client.now_ns.saturating_add(client.persistence.timeout_ns);
        let known = inner.get(&client.key).map(|(slot, template)| (slot, *template));
        let Some((slot, mut template)) = known else {
            let server = choose()?;
            let record = TemplateRecord {
                key: client.key,
                server,
                group: client.group,
                incarnation: client.now_ns,
                origin: client.epoch,
                assured: false,
            };
            let template = Template {
                record,
                until_ns,
                controls: u32::from(client.connects),
                provenance: Provenance::Local,
                sent_to: 0,
                snapshot: 0,
            };
            let evicted = inner.make_room();
            let inserted = inner.insert(template, until_ns);
            let news = inserted.then_some(template);
            let controlled = inserted && client.connects;
            return Some(Persisted { server, controlled, news, evicted });
        };
        let mut is_news = false;
        if !may_stay(template.record.server) {
            let old = template.record;
            template.record = TemplateRecord {
                server: choose()?,
                incarnation: client.now_ns.max(old.incarnation.saturating_add(1)),
                origin: client.epoch,
                assured: false,
                ..old
            };
            template.controls = 0;
            template.provenance = Provenance::Local;
            is_news = true;
        } else if !client.connects && !template.record.assured {
            template.record.assured = true;
            is_news = true;
        }
        template.controls += u32::from(client.connects);
        template.until_ns = template.until_ns.max(until_ns);
        let until_ns = template.until_ns;
        inner.put(slot, template, until_ns);
        let news = is_news.then_some(template);
        let server = template.record.server;
        Some(Persisted { server, controlled: client.connects, news, evicted: None })
    }

    /// Counts a copied connection with its template; false when it has none.
    pub(crate) fn hold(&self, service: ServiceId, client: IpAddr, server: ServerId) -> bool {
        let mut inner = self.lock();
        let Some(slot) = inner.slot_of(service, client, server) else { return false };
        inner.slots[slot as usize].as_mut().map(|template| template.controls += 1).is_some()
    }

    /// A connection that was counted with its template is gone.
    pub(crate) fn release(&self, service: ServiceId, client: IpAddr, server: ServerId) {
        let mut inner = self.lock();
        let Some(slot) = inner.slot_of(service, client, server) else { return };
        if let Some(template) = inner.slots[slot as usize].as_mut() {
            template.controls = template.controls.saturating_sub(1);
        }
    }

    /// A connection is a conversation: so its template is. The template, if that is news.
    pub(crate) fn assure(&self, connection: &Connection) -> Option<Template> {
        let mut inner = self.lock();
        let client = connection.key().client;
        let slot = inner.slot_of(connection.service(), client, connection.server())?;
        let mut template = inner.slots[slot as usize].filter(|found| !found.record.assured)?;
        template.record.assured = true;
        let until_ns = template.until_ns;
        inner.put(slot, template, until_ns);
        Some(template)
    }

    /// Ends what is due at `now_ns`, looking at no more than `budget` timers. True when there is
    /// more to do.
    pub(crate) fn advance(
        &self,
        now_ns: u64,
        budget: usize,
        groups: &Groups,
        on_expired: &mut dyn FnMut(&Template),
    ) -> bool {
        let mut fired = Vec::new();
        let mut gone = Vec::new();
        let mut inner = self.lock();
        let more = inner.wheel.advance(now_ns, budget, &mut fired);
        for slot in fired {
            let Some(mut template) = inner.slots[slot as usize] else { continue };
            let wants = inner.services.get(&template.record.key.service).copied();
            let timeout_ns = wants.map_or(0, |persistence| persistence.timeout_ns);
            let role = groups.role(template.record.group);
            let left_ns = groups.left_ns(template.record.group);
            let until_ns = match (template.provenance, &*role) {
                (Provenance::Local, _) => template.until_ns,
                (_, Role::Holder { since_ns, .. } | Role::NoHolder { since_ns }) => {
                    template.until_ns.max(since_ns.saturating_add(timeout_ns))
                }
                // Nobody tells of it any more.
                (_, Role::Other { .. }) if left_ns.is_some() => {
                    template.until_ns.max(left_ns.unwrap_or(0).saturating_add(timeout_ns))
                }
                // A holder looks after it; look again when it could be ours.
                (_, Role::Other { .. }) => now_ns.saturating_add(timeout_ns.max(CONTROLLING_NS)),
            };
            if until_ns > now_ns {
                inner.wheel.schedule(slot, until_ns);
            } else if template.controls > 0 && wants.is_some() {
                template.until_ns = now_ns.saturating_add(CONTROLLING_NS);
                inner.slots[slot as usize] = Some(template);
                inner.wheel.schedule(slot, template.until_ns);
            } else {
                gone.extend(inner.remove(slot));
            }
        }
        drop(inner);
        gone.iter().for_each(on_expired);
        more
    }

    /// Applies a peer's template by the merge rules of this module.
    pub fn apply(&self, replica: &TemplateReplica, now_ns: u64) -> Applied {
        let mut inner = self.lock();
        let new = replica.record;
        let wants = inner.services.get(&new.key.service);
        // Of a service that is not known here yet: it is looked at again soon.
        let until_ns = now_ns.saturating_add(wants.map_or(CONTROLLING_NS, |p| p.timeout_ns));
        let provenance = if replica.donated { Provenance::Donated } else { Provenance::Replica };
        let copy = Template {
            record: new,
            until_ns,
            controls: 0,
            provenance,
            sent_to: 0,
            snapshot: replica.snapshot,
        };
        let Some((slot, mut here)) = inner.get(&new.key).map(|(slot, here)| (slot, *here)) else {
            return if inner.insert(copy, until_ns) { Applied::Inserted } else { Applied::Full };
        };
        let old = here.record;
        here.snapshot = here.snapshot.max(replica.snapshot);
        let same = (new.incarnation, new.server) == (old.incarnation, old.server);
        let wins = if replica.donated {
            !old.assured && (new.assured || new.origin > old.origin)
        } else {
            same || (new.origin, new.incarnation) > (old.origin, old.incarnation)
        };
        if !wins {
            inner.slots[slot as usize] = Some(here);
            return Applied::Kept;
        }
        if same {
            here.record.assured |= new.assured;
            here.until_ns = here.until_ns.max(until_ns);
            if !replica.donated {
                here.provenance = Provenance::Replica;
                here.record.origin = here.record.origin.max(new.origin);
            }
            inner.put(slot, here, here.until_ns);
            return Applied::Updated;
        }
        inner.put(slot, Template { sent_to: here.sent_to, ..copy }, until_ns);
        Applied::Replaced
    }

    /// Applies the holder's delete of `incarnation` and older ones of that key, unless what is here
    /// is of a higher epoch than `epoch`, the sender's.
    pub fn delete(&self, key: &TemplateKey, incarnation: u64, epoch: Origin) -> Option<Template> {
        let mut inner = self.lock();
        let (slot, here) = inner.get(key)?;
        let dead = here.record.incarnation <= incarnation && here.record.origin <= epoch;
        if dead { inner.remove(slot) } else { None }
    }

    /// Removes copies that a finished snapshot did not confirm, of the keys of `of_shard`, in up to
    /// `max` places. Returns how many went and where to go on.
    pub fn sweep(
        &self,
        sweep: &Sweep,
        of_shard: &dyn Fn(&TemplateKey) -> bool,
        from: u32,
        max: usize,
    ) -> (usize, Option<u32>) {
        let (found, next) = self.walk(from, max);
        let mut inner = self.lock();
        let mut removed = 0;
        for template in found {
            let key = template.record.key;
            let Some((slot, here)) = inner.get(&key) else { continue };
            let stale = here.record.group == sweep.group
                && here.provenance == Provenance::Replica
                && here.snapshot < sweep.snapshot
                && here.record.origin <= sweep.epoch;
            if stale && of_shard(&key) {
                inner.remove(slot);
                removed += 1;
            }
        }
        (removed, next)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in there panics half-way; a poisoned lock would only repeat another's panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn get(&self, key: &TemplateKey) -> Option<(u32, &Template)> {
        let slot = self.place(key)?;
        Some((slot, self.slots[slot as usize].as_ref()?))
    }

    fn place(&self, key: &TemplateKey) -> Option<u32> {
        let held = |slot: u32| self.slots.get(slot as usize)?.as_ref();
        let check = |slot: u32| (held(slot)?.record.key == *key).then_some(slot);
        // Writers have the same lock: none is at work.
        self.index.find(self.hash(key), check).ok()?
    }

    /// Under the secret key of the connections: clients choose their addresses.
    fn hash(&self, key: &TemplateKey) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed[0], self.seed[1]);
        key.hash(&mut hasher);
        hasher.finish()
    }

    /// The place of the template that led a connection to its server.
    fn slot_of(&self, service: ServiceId, client: IpAddr, server: ServerId) -> Option<u32> {
        let client = self.services.get(&service)?.network(client);
        let (slot, template) = self.get(&TemplateKey { service, client })?;
        (template.record.server == server).then_some(slot)
    }

    /// Brings a template up to date, with its timer and its place in the order.
    fn put(&mut self, slot: u32, template: Template, until_ns: u64) {
        self.order.push_back(if template.record.assured { ASSURED } else { UNASSURED }, slot);
        self.wheel.schedule(slot, until_ns);
        self.slots[slot as usize] = Some(template);
    }

    /// False when there is no room.
    fn insert(&mut self, template: Template, until_ns: u64) -> bool {
        let Some(slot) = self.free.pop().or_else(|| self.grow()) else { return false };
        if !self.index.insert(self.hash(&template.record.key), slot) {
            self.free.push(slot);
            return false;
        }
        self.put(slot, template, until_ns);
        true
    }

    /// One more slot, if there is room for one.
    fn grow(&mut self) -> Option<u32> {
        (self.slots.len() < self.max).then(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        })
    }

    fn remove(&mut self, slot: u32) -> Option<Template> {
        let template = self.slots[slot as usize].take()?;
        self.index.remove(self.hash(&template.record.key), slot);
        self.order.unlink(slot);
        self.wheel.cancel(slot);
        self.free.push(slot);
        Some(template)
    }

    /// Pushes the oldest unassured template out when the table is full.
    fn make_room(&mut self) -> Option<Template> {
        if !self.free.is_empty() || self.slots.len() < self.max {
            return None;
        }
        self.remove(self.order.front(UNASSURED)?)
    }
}
