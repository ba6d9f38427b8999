//! The data plane's table, as replication sees it.
//!
//! Guarantees: what is copied is a conversation (never half-open), and its state is at least as new
//! as the mark that led to it. The merge rules are those of the data plane's table.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{Ordering, fence},
};

use steadfast_dataplane::{
    Applied as TableApplied, Class, Connection, Cursor, FlowKey, Local, Origin, Protocol, Replica,
    Shared, State, Sweep, Template, TemplateKey, TemplateRecord, TemplateReplica,
};
use steadfast_model::{Epoch, GroupId, ServerId, ServiceId};

use crate::{
    Applied, Authority, Deleted, FLAG_UNASSURED, Key, Life, PROTOCOL_SCTP, PROTOCOL_TCP,
    PROTOCOL_TEMPLATE, PROTOCOL_UDP, Record, Slot, Table, shard_of,
};

/// Connections looked at per lock of the table when it is swept.
const SWEEP_BATCH: usize = 256;

/// Times a look-up is repeated because the connection was replaced meanwhile.
const FIND_TRIES_MAX: usize = 4;

impl Table for Shared {
    fn get(&self, key: &Key, slot: Slot) -> Option<Record> {
        if let Some(key) = template_of(key) {
            return Some(record_of_template(&self.table.templates.send(&key, slot.bit())?));
        }
        let flow = flow_of(key)?;
        for _ in 0..FIND_TRIES_MAX {
            let connection = self.table.find(&flow)?;
            connection.note_sent_to(slot.bit());
            // Pairs with the fence of whoever removes it: either that one sees the bit, or we see
            // that the connection is dead.
            fence(Ordering::SeqCst);
            let (state, is_proven) = (connection.state(), !connection.is_unproven());
            let record = record_of(*key, &connection, state);
            if !connection.is_dead() {
                let is_apt = is_proven && state.class() != Class::HalfOpen;
                if !is_apt {
                    // Never sent, then: a conversation does not become half-open again.
                    connection.forget_sent_to(slot.bit());
                }
                return is_apt.then_some(record);
            }
        }
        None
    }

    fn walk(
        &self,
        shard: u8,
        cursor: Cursor,
        limit: usize,
        visit: &mut dyn FnMut(&Key, GroupId),
    ) -> Option<Cursor> {
        let (templates, found, next) = self.table.walk_all(cursor, limit);
        let config = self.config.load();
        let is_left_out = |connection: &Connection| {
            let service = config.service(connection.service());
            service.is_some_and(|service| service.spec.sync.persist_mode)
        };
        for template in templates {
            let key = key_of_template(&template.record.key);
            if shard_of(&key) == shard {
                visit(&key, GroupId(template.record.group.0));
            }
        }
        for connection in found {
            let key = key_of(&connection.key());
            let is_apt = connection.state().class() != Class::HalfOpen && !connection.is_unproven();
            // Only what a template leads can be left out, and that is one bit of it.
            let is_led = connection.is_controlled();
            if shard_of(&key) == shard && is_apt && !(is_led && is_left_out(&connection)) {
                visit(&key, GroupId(connection.group().0));
            }
        }
        next
    }

    fn walk_lives(
        &self,
        shard: u8,
        cursor: Cursor,
        limit: usize,
        visit: &mut dyn FnMut(&Life),
    ) -> Option<Cursor> {
        let (templates, found, next) = self.table.walk_all(cursor, limit);
        for template in templates {
            let key = key_of_template(&template.record.key);
            if shard_of(&key) == shard {
                visit(&Life {
                    key,
                    group: GroupId(template.record.group.0),
                    server: ServerId(template.record.server.0),
                    incarnation: template.record.incarnation,
                    sent_to: template.sent_to,
                    snapshot: template.confirmed_by(),
                });
            }
        }
        for connection in found {
            let record = connection.record();
            let key = key_of(&record.key);
            let is_apt = connection.state().class() != Class::HalfOpen && !connection.is_unproven();
            if shard_of(&key) != shard || !is_apt {
                continue;
            }
            let life = Life {
                key,
                group: GroupId(record.group.0),
                server: ServerId(record.server.0),
                incarnation: record.incarnation,
                sent_to: connection.sent_to(),
                snapshot: connection.confirmed_by(),
            };
            // What was read of a slot that changed hands meanwhile is nobody's.
            if !connection.is_dead() {
                visit(&life);
            }
        }
        next
    }

    fn entries(&self) -> usize {
        self.table.len() + self.table.templates.len()
    }

    fn apply(&self, record: &Record, authority: &Authority) -> Applied {
        if let Some(key) = template_of(&record.key) {
            return self.apply_template(key, record, authority);
        }
        let Some(key) = flow_of(&record.key) else { return Applied::Unfit };
        let Some(state) = State::of_number(key.protocol, record.state) else {
            return Applied::Unfit;
        };
        let config = self.config.load();
        let service = steadfast_dataplane::ServiceId(record.service.0);
        let replica = Replica {
            record: steadfast_dataplane::Record {
                key,
                server: record.server.0.into(),
                target: None,
                local: record.local.map(|local| Local { addr: local.ip(), port: local.port() }),
                service,
                group: record.group.0.into(),
                incarnation: record.incarnation,
                origin: origin_of(authority.epoch),
            },
            state,
            //= Linux ip_vs_sync.c, ip_vs_proc_conn(): in_pkts starts at sync_threshold
            in_pkts: config.service(service).map_or(0, |s| u64::from(s.spec.sync.threshold)),
            assured: record.flags & FLAG_UNASSURED == 0,
            donated: authority.donated,
            snapshot: authority.generation,
            deltas: record.deltas,
        };
        match self.table.apply_replica(&replica, &config, authority.now_ns) {
            TableApplied::Inserted => {
                self.note_synced(&key, state);
                Applied::Inserted
            }
            TableApplied::Replaced => {
                self.note_synced(&key, state);
                Applied::Replaced
            }
            TableApplied::Updated => Applied::Updated,
            TableApplied::Kept => Applied::Kept,
            TableApplied::Full => Applied::Full,
        }
    }

    fn delete(&self, key: &Key, incarnation: u64, authority: &Authority) -> Deleted {
        if let Some(key) = template_of(key) {
            let epoch = origin_of(authority.epoch);
            return match self.table.templates.delete(&key, incarnation, epoch) {
                Some(_) => Deleted::Removed,
                None => Deleted::Kept,
            };
        }
        let Some(flow) = flow_of(key) else { return Deleted::Kept };
        match self.table.delete_replica(&flow, incarnation, origin_of(authority.epoch)) {
            Some(_) => Deleted::Removed,
            None => Deleted::Kept,
        }
    }

    fn sweep(&self, group: GroupId, shard: u8, authority: &Authority) -> usize {
        let sweep = Sweep {
            group: group.0.into(),
            snapshot: authority.generation,
            epoch: origin_of(authority.epoch),
        };
        let of_shard = |flow: &FlowKey| shard_of(&key_of(flow)) == shard;
        let mut cursor = Some(Cursor::default());
        let mut removed = 0;
        while let Some(at) = cursor {
            let (gone, next) = self.table.sweep(&sweep, &of_shard, at, SWEEP_BATCH);
            removed += gone;
            cursor = next;
        }
        let of_shard = |key: &TemplateKey| shard_of(&key_of_template(key)) == shard;
        let mut from = Some(0);
        while let Some(at) = from {
            let (gone, next) = self.table.templates.sweep(&sweep, &of_shard, at, SWEEP_BATCH);
            removed += gone;
            from = next;
        }
        removed
    }
}

/// What the peer already knows need not be sent back to it when this node takes over.
trait NoteSynced {
    fn apply_template(&self, key: TemplateKey, record: &Record, authority: &Authority) -> Applied;
    fn note_synced(&self, key: &FlowKey, state: State);
}

impl NoteSynced for Shared {
    fn apply_template(&self, key: TemplateKey, record: &Record, authority: &Authority) -> Applied {
        let replica = TemplateReplica {
            record: TemplateRecord {
                key,
                server: record.server.0.into(),
                group: record.group.0.into(),
                incarnation: record.incarnation,
                origin: origin_of(authority.epoch),
                assured: record.flags & FLAG_UNASSURED == 0,
            },
            donated: authority.donated,
            snapshot: authority.generation,
        };
        match self.table.templates.apply(&replica, authority.now_ns) {
            TableApplied::Inserted => Applied::Inserted,
            TableApplied::Replaced => Applied::Replaced,
            TableApplied::Updated => Applied::Updated,
            TableApplied::Kept => Applied::Kept,
            TableApplied::Full => Applied::Full,
        }
    }

    //= Linux ip_vs_sync.c, ip_vs_proc_conn(): old_state is the state of the message
    fn note_synced(&self, key: &FlowKey, state: State) {
        if let Some(connection) = self.table.find(key) {
            connection.set_synced_state(state);
        }
    }
}

/// The data plane's key; `None` for a protocol it does not balance.
#[must_use]
pub fn flow_of(key: &Key) -> Option<FlowKey> {
    let protocol = match key.protocol {
        PROTOCOL_TCP => Protocol::Tcp,
        PROTOCOL_UDP => Protocol::Udp,
        PROTOCOL_SCTP => Protocol::Sctp,
        _ => return None,
    };
    let Key { client, client_port, vip, vip_port, .. } = *key;
    Some(FlowKey { protocol, client, client_port, vip, vip_port })
}

/// The key on the wire.
#[must_use]
pub fn key_of(flow: &FlowKey) -> Key {
    let FlowKey { protocol, client, client_port, vip, vip_port } = *flow;
    let protocol = match protocol {
        Protocol::Tcp => PROTOCOL_TCP,
        Protocol::Udp => PROTOCOL_UDP,
        Protocol::Sctp => PROTOCOL_SCTP,
    };
    Key { protocol, client, client_port, vip, vip_port }
}

/// The data plane's key of a template; `None` for a connection.
#[must_use]
pub fn template_of(key: &Key) -> Option<TemplateKey> {
    let IpAddr::V4(service) = key.vip else { return None };
    let service = steadfast_dataplane::ServiceId(service.to_bits());
    (key.protocol == PROTOCOL_TEMPLATE).then_some(TemplateKey { service, client: key.client })
}

/// The key of a template on the wire.
#[must_use]
pub fn key_of_template(template: &TemplateKey) -> Key {
    let TemplateKey { service, client } = *template;
    let vip = IpAddr::V4(service.0.into());
    Key { protocol: PROTOCOL_TEMPLATE, client, client_port: 0, vip, vip_port: 0 }
}

fn record_of_template(template: &Template) -> Record {
    let record = &template.record;
    Record {
        local: None,
        deltas: None,
        key: key_of_template(&record.key),
        group: GroupId(record.group.0),
        service: ServiceId(record.key.service.0),
        server: ServerId(record.server.0),
        incarnation: record.incarnation,
        state: State::None as u8,
        flags: if record.assured { 0 } else { FLAG_UNASSURED },
    }
}

/// The data plane's form of an epoch.
#[must_use]
pub fn origin_of(epoch: Epoch) -> Origin {
    let Epoch { generation, grant_index, claim, node } = epoch;
    Origin { generation, grant_index, claim, node: node.0 }
}

fn record_of(key: Key, connection: &Connection, state: State) -> Record {
    Record {
        key,
        group: GroupId(connection.group().0),
        service: ServiceId(connection.service().0),
        server: ServerId(connection.server().0),
        incarnation: connection.incarnation(),
        state: state.number(),
        local: connection.local().map(|local| SocketAddr::new(local.addr, local.port)),
        deltas: connection.deltas(),
        flags: if connection.is_assured() || state != State::Udp { 0 } else { FLAG_UNASSURED },
    }
}
