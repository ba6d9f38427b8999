//! What would become of a frame: found out by handling it, on a copy of what it can change.
//!
//! Guarantees: nothing changes that packets, schedulers, peers or whoever reads counters can see;
//! what is told is what [`Worker::handle_frame`] does with the same frame at the same time, for that
//! is what runs. Not copied: how far rate limits of answers are used up, fragments under way, and which
//! connections would be pushed out of a full table. A copy costs what the configuration is large: this
//! is for people, not for packets.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use steadfast_packet::{
    ANSWER_LEN_MAX, Content, OUTER_LEN_MAX, TAG_LEN, Untagged, parse, untag, vlan_of,
};

use crate::{
    Action, Actions, AddressKind, Carried, Connection, ConnectionTable, Gone, NewConnection,
    Record, Removal, Sent, Shared, State, SyncHook, TableOptions, Tagged, Target, TemplateKey,
    Verdict, Worker, cache::Tuple,
};

/// Room for the connections of the copy: the one met, one that stands in its way, the new one.
const COPIED_MAX: usize = 8;

/// Room in front of the frame.
const HEADROOM: usize = OUTER_LEN_MAX + TAG_LEN;

/// Times a frame is handled anew because the connection it opens met another one.
const RUNS_MAX: usize = 3;

/// What would become of a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Rehearsal {
    /// What the worker says; of a frame in a VLAN, with the port that is the VLAN.
    pub verdict: Verdict,
    /// What kind of frame would be sent.
    pub sent: Option<Sent>,
    /// The frame as it would be sent, but for the tag of a VLAN; empty when it is dropped.
    pub frame: Vec<u8>,
    /// The connection that the packet belongs to, or that an ICMP error is about, if one is known.
    pub met: Option<Met>,
    /// The connection that it would open.
    pub opened: Option<Record>,
    /// Whether its server hears from it who the client is; none where that is not wanted.
    pub told: Option<bool>,
    /// The server to which, or from which, it goes by the hash, being above a limit.
    pub hashed: Option<Target>,
    /// The connections that would end, and why.
    pub removed: Vec<(Record, Removal)>,
    /// The neighbour that the kernel would be asked for, and the interface.
    pub probe: Option<(u16, IpAddr)>,
}

/// A known connection and its state before and after.
#[derive(Clone, Debug, PartialEq)]
pub struct Met {
    /// The handle, into the table of the node.
    pub connection: Connection,
    /// Its state after the packet; as before when the packet does not get so far.
    pub next: State,
}

/// Writes down what happens to connections.
#[derive(Debug, Default)]
struct Notes {
    created: Mutex<Vec<Record>>,
    removed: Mutex<Vec<(Record, Removal)>>,
    hashed: Mutex<Option<Target>>,
    /// What would have been opened, had there been room.
    wanted: Mutex<Option<Record>>,
}

impl Notes {
    fn take(&self) -> (Option<Record>, Vec<(Record, Removal)>) {
        let created = self.created.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        (created, std::mem::take(&mut *removed))
    }
}

impl SyncHook for Notes {
    fn forwarded(&self, _: &Carried<'_>) {}

    fn created(&self, connection: &Connection, _: u64) {
        self.created.lock().unwrap_or_else(PoisonError::into_inner).push(connection.record());
    }

    fn no_room(&self, record: &Record) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(*record);
    }

    fn hashed(&self, target: &Target) {
        *self.hashed.lock().unwrap_or_else(PoisonError::into_inner) = Some(*target);
    }

    fn removed(&self, gone: &Gone, removal: Removal, _: u64) {
        let gone = (gone.record(), removal);
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).push(gone);
    }
}

impl Shared {
    /// What would become of `frame`, if it came in on interface `port` at `now_ns`.
    #[must_use]
    pub fn rehearse(&self, now_ns: u64, port: u16, frame: &[u8]) -> Rehearsal {
        let tuple = parse(frame).ok().and_then(|parsed| match parsed.content {
            Content::Ip(packet) => {
                Tuple::of_packet(&packet).or_else(|| Tuple::of_error(frame, &packet))
            }
            _ => None,
        });
        let met = tuple.and_then(|tuple| self.connection_of(tuple));
        let hosts = tuple.map_or(Vec::new(), |tuple| vec![tuple.src, tuple.dst]);
        let mut known: Vec<Connection> = met.iter().cloned().collect();
        let (mut rehearsal, mut wanted) =
            self.run(now_ns, (port, frame), met.as_ref(), &known, &hosts);
        for _ in 1..RUNS_MAX {
            // The server may have a connection from this client already, through another VIP. That is
            // found out before there is no room.
            let reply = wanted.and_then(|record| record.reply_key());
            let in_the_way = reply.and_then(|reply| self.table.find_reply(&reply));
            match in_the_way.filter(|other| !known.contains(other)) {
                Some(other) => known.push(other),
                None => break,
            }
            (rehearsal, wanted) = self.run(now_ns, (port, frame), met.as_ref(), &known, &hosts);
        }
        rehearsal
    }

    /// The connection of a packet of this tuple, in whichever direction.
    fn connection_of(&self, tuple: Tuple) -> Option<Connection> {
        match self.config.load().address(tuple.dst).map(|address| address.kind) {
            Some(AddressKind::Vip) => self.table.find(&tuple.key()),
            _ => self.table.find_reply(&tuple.reply_key()),
        }
    }

    fn run(
        &self,
        now_ns: u64,
        (port, frame): (u16, &[u8]),
        met: Option<&Connection>,
        known: &[Connection],
        hosts: &[IpAddr],
    ) -> (Rehearsal, Option<Record>) {
        let copy = self.copy(known, hosts);
        copy.count_source(self, frame);
        let mut met = met.map(|met| Met { connection: met.clone(), next: met.state() });
        let (copy, notes) = (Arc::new(copy), Arc::new(Notes::default()));
        let mut worker = Worker::new(0, Arc::clone(&copy), Arc::clone(&notes));
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(frame);
        buffer.resize(HEADROOM + frame.len().max(ANSWER_LEN_MAX), 0);
        let mut actions = Actions::new();
        let span = (HEADROOM, frame.len());
        let verdict = worker.handle_frame(now_ns, port, &mut buffer, span, &mut actions);
        let verdict = self.by_vlan(verdict, &mut buffer);
        let frame = match verdict {
            Verdict::Transmit { start, len, .. } => {
                buffer.get(start..start + len).unwrap_or_default().to_vec()
            }
            Verdict::Drop(_) => Vec::new(),
        };
        let counters = worker.counters();
        let kinds = [Sent::Forwarded, Sent::Returned, Sent::Relayed, Sent::Answered];
        let sent = kinds.into_iter().find(|kind| counters.sent(*kind) > 0);
        if let Some(met) = &mut met
            && let Some(after) = copy.table.find(&met.connection.key())
            && after.incarnation() == met.connection.incarnation()
        {
            met.next = after.state();
        }
        let probe = actions.drain().find_map(|action| match action {
            Action::Probe { port, addr } => Some((port, addr)),
            Action::Send { .. } => None,
        });
        let (opened, removed) = notes.take();
        let hashed = notes.hashed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let told = match (counters.told(), counters.untold()) {
            (0, 0) => None,
            (told, _) => Some(told > 0),
        };
        let wanted = notes.wanted.lock().unwrap_or_else(PoisonError::into_inner).take().or(opened);
        (Rehearsal { verdict, sent, frame, met, opened, told, hashed, removed, probe }, wanted)
    }

    /// What leaves by a VLAN is told as what that port sends, without the tag.
    fn by_vlan(&self, verdict: Verdict, buffer: &mut [u8]) -> Verdict {
        let Verdict::Transmit { port: trunk, start, len } = verdict else { return verdict };
        let vlan = buffer.get(start..start + len).and_then(vlan_of).unwrap_or(0);
        match self.next_hops.load().port_of(Tagged { trunk, vlan }) {
            Some(port) => match untag(buffer, start, len) {
                Some(Untagged { start, len, .. }) => Verdict::Transmit { port, start, len },
                None => verdict,
            },
            None => verdict,
        }
    }

    /// A copy that knows only these connections, and which servers these hosts keep.
    fn copy(&self, known: &[Connection], hosts: &[IpAddr]) -> Self {
        let options =
            TableOptions { connections_max: COPIED_MAX, half_open_max: COPIED_MAX, seed: [0; 2] };
        let mut copy = Self::new(options);
        copy.groups = self.groups.share();
        copy.next_hops.store(self.next_hops.load_full());
        copy.tunnel_mtus.copy_in(&self.tunnel_mtus);
        copy.newcomers.copy_in(&self.newcomers);
        copy.cookie_keys.store(self.cookie_keys.load_full());
        let config = self.config.load().copy();
        for connection in known {
            copy_into(&copy.table, connection, &config);
        }
        copy.table.bound_as(&self.table);
        copy.table.templates.configure(&config);
        for service in config.services() {
            let Some(persistence) = service.spec.persistence else { continue };
            let keys = hosts.iter().map(|host| TemplateKey {
                service: service.spec.id,
                client: persistence.network(*host),
            });
            keys.filter_map(|key| self.table.templates.find(&key))
                .for_each(|template| copy.table.templates.copy_in(template));
        }
        // Not `set_config`: it would show the schedulers the loads of the copy's table.
        copy.config.store(Arc::new(config));
        copy
    }
}

impl Shared {
    /// Counts what the source of a frame has with its service, as `other` does.
    fn count_source(&self, other: &Self, frame: &[u8]) {
        let Ok(Content::Ip(packet)) = parse(frame).map(|parsed| parsed.content) else { return };
        let Some(tuple) = Tuple::of_packet(&packet) else { return };
        let config = self.config.load();
        if let Some(service) = config.listener(tuple.protocol, tuple.dst, tuple.dst_port) {
            self.table.count_as(&other.table, service.spec.id, tuple.src);
        }
    }
}

fn copy_into(table: &ConnectionTable, connection: &Connection, config: &crate::Config) {
    let (record, state) = (connection.record(), connection.state());
    let new = NewConnection {
        in_pkts: connection.in_pkts(),
        assured: connection.is_assured(),
        adopted: connection.is_adopted(),
        snapshot: u64::from(connection.snapshot()),
        deltas: connection.deltas(),
        handshake: connection.handshake(),
        ..NewConnection::new(record, state, connection.provenance(), connection.last_seen_ns())
    };
    let (is_superseded, out_pkts) = (connection.is_superseded(), connection.out_pkts());
    // What was read of one that has gone may be another's.
    if connection.is_dead() {
        return;
    }
    // There is room, and two connections of one table do not have the same keys.
    if let Ok(inserted) = table.insert(new, &config.timeouts(record.service), &mut Vec::new()) {
        inserted.set_out_pkts(out_pkts);
        if is_superseded {
            inserted.supersede();
        }
    }
}
