use std::sync::Arc;

use steadfast_dataplane::{
    Carried, Config, ConfigSpec, Deltas, FlowKey, GroupId as Group, GroupSpec, Grown, Listen,
    LongerReply, NewConnection, Origin, Protocol, Provenance, ServerId, ServerSpec, ServiceId,
    ServiceSpec, TableOptions, Timeouts, Unserved,
};
use steadfast_model::NodeId;

use super::*;
use crate::{Authority, FLAG_UNASSURED, Key, Record, SHARDS, Table as _};

const SECOND: u64 = 1_000_000_000;

/// A UDP service whose servers no hash could find again.
fn shared() -> Arc<Shared> {
    let vip = [198, 18, 0, 100].into();
    let (id, addr) = (ServerId(7), [198, 18, 0, 21].into());
    let server = ServerSpec { id, addr, port: 53, ..ServerSpec::default() };
    let spec = ConfigSpec {
        generation: 1,
        groups: vec![GroupSpec {
            id: Group(1),
            vips: vec![vip],
            gateways: vec![],
            locals: vec![],
            unserved: Unserved::Drop,
        }],
        services: vec![ServiceSpec {
            id: ServiceId(1),
            group: Group(1),
            listen: vec![Listen::new(Protocol::Udp, vip, 53)],
            servers: vec![server],
            ..ServiceSpec::default()
        }],
        now_ns: 0,
        workers: 1,
        port_slot: None,
        servers_given: Default::default(),
    };
    let shared =
        Shared::new(TableOptions { connections_max: 8_192, half_open_max: 8_192, seed: [1, 2] });
    shared.set_config(Config::compile(spec, None).unwrap());
    Arc::new(shared)
}

fn flow(shared: &Shared, port: u16) -> Connection {
    let key = FlowKey {
        protocol: Protocol::Udp,
        client: [198, 18, 0, 2].into(),
        client_port: port,
        vip: [198, 18, 0, 100].into(),
        vip_port: 53,
    };
    let record = steadfast_dataplane::Record {
        key,
        server: ServerId(7),
        target: shared.config.load().target(ServerId(7), 53),
        local: None,
        service: ServiceId(1),
        group: Group(1),
        incarnation: 1,
        origin: Origin::default(),
    };
    let connection = NewConnection::new(record, State::Udp, Provenance::Local, SECOND);
    shared.table.insert(connection, &Timeouts::default(), &mut Vec::new()).unwrap()
}

/// Tells of a packet that went out.
fn carried(
    shared: &Shared,
    connection: &Connection,
    (old, new): (State, State),
    (in_pkts, now_ns): (u64, u64),
    tell: impl FnOnce(&Carried<'_>),
) {
    let config = shared.config.load();
    let (service, _) = config.server(connection.server()).unwrap();
    tell(&Carried { connection, old, new, in_pkts, now_ns, service, config: &config });
}

/// A datagram of a flow went out.
fn forwarded(shared: &Shared, hook: &ReplicationHook, flow: &Connection, in_pkts: u64, now: u64) {
    carried(shared, flow, (State::Udp, State::Udp), (in_pkts, now), |c| hook.forwarded(c));
}

#[test]
fn first_datagrams_are_copied_within_the_budget_of_their_service() {
    let (shared, dirty) = (shared(), Arc::new(DirtySet::new()));
    let hook = ReplicationHook::new(Arc::clone(&shared), Arc::clone(&dirty));
    let slot = dirty.slot(NodeId(2)).unwrap();
    for shard in 0..SHARDS {
        dirty.set_feed(shard, slot, GroupId(1), crate::dirty::Feed::Deltas);
    }
    let waiting = |dirty: &DirtySet| {
        let mut taken = Vec::new();
        for shard in 0..SHARDS {
            dirty.take(shard, slot, 10_000, &mut taken);
        }
        taken.len()
    };
    let first_of = |ports: std::ops::Range<u16>, now| {
        for port in ports {
            forwarded(&shared, &hook, &flow(&shared, port), 1, now);
        }
    };
    first_of(1_000..5_000, 100 * SECOND);
    assert_eq!(waiting(&dirty), 2_000, "so many at once");
    first_of(5_000..6_000, 101 * SECOND);
    assert_eq!(waiting(&dirty), 200, "so many in a second");
    // A flow that goes on is copied by its packets, whatever others do.
    let flow = flow(&shared, 6_000);
    forwarded(&shared, &hook, &flow, 3, 101 * SECOND);
    assert_eq!(waiting(&dirty), 1);
}

/// A node whose service is persistent, as a client's template lets it be seen.
fn persistent() -> Arc<Shared> {
    let shared = shared();
    let current = shared.config.load_full();
    let service = &current.service(ServiceId(1)).unwrap().spec;
    let persistence = steadfast_dataplane::Persistence {
        timeout_ns: 300 * SECOND,
        prefix_v4: 32,
        prefix_v6: 128,
        expire_quiescent_template: false,
    };
    let spec = ConfigSpec {
        generation: 2,
        groups: vec![GroupSpec {
            id: Group(1),
            vips: vec![[198, 18, 0, 100].into()],
            ..GroupSpec::default()
        }],
        services: vec![ServiceSpec { persistence: Some(persistence), ..service.clone() }],
        workers: 1,
        ..ConfigSpec::default()
    };
    shared.set_config(Config::compile(spec, Some(&current)).unwrap());
    shared
}

/// From one node's table over the wire into another's, and away again.
#[test]
fn a_template_travels_and_leaves_with_its_origin() {
    use steadfast_dataplane::{TemplateKey, TemplateRecord, TemplateReplica};

    let (here, there) = (persistent(), persistent());
    let dirty = Arc::new(DirtySet::new());
    let hook = ReplicationHook::new(Arc::clone(&here), Arc::clone(&dirty));
    let slot = dirty.slot(NodeId(2)).unwrap();
    for shard in 0..SHARDS {
        dirty.set_feed(shard, slot, GroupId(1), crate::dirty::Feed::Deltas);
    }
    let take = || {
        let mut taken = Vec::new();
        for shard in 0..SHARDS {
            dirty.take(shard, slot, 10, &mut taken);
        }
        taken
    };
    for client in ["198.18.0.2", "2001:db8::2"] {
        let key = TemplateKey { service: ServiceId(1), client: client.parse().unwrap() };
        let record = TemplateRecord {
            key,
            server: ServerId(7),
            group: Group(1),
            incarnation: 5,
            origin: Origin::default(),
            assured: true,
        };
        let _ = here
            .table
            .templates
            .apply(&TemplateReplica { record, donated: false, snapshot: 0 }, SECOND);
        let template = here.table.templates.find(&key).unwrap();
        hook.template(&template, SECOND);
        let taken = take();
        assert_eq!(taken.len(), 1, "at once");
        let sent = here.get(&taken[0].0, slot).unwrap();

        let mut writer = crate::wire::BatchWriter::new(crate::wire::BATCH_BYTES_MAX);
        let header = crate::wire::GroupHeader {
            group: GroupId(1),
            epoch: steadfast_model::Epoch::default(),
            donated: false,
        };
        writer.record(header, &sent);
        let frame = writer.finish(1, 0, 0);
        let crate::wire::Message::Batch(batch) = crate::wire::Message::decode(&frame).unwrap()
        else {
            panic!("no batch");
        };
        let crate::wire::Item::Record { record: read, .. } = batch.items[0] else {
            panic!("no record");
        };
        assert_eq!(read, sent);

        let epoch = steadfast_model::Epoch::default();
        let authority = Authority { epoch, donated: false, generation: 1, now_ns: SECOND };
        assert_eq!(there.apply(&read, &authority), crate::Applied::Inserted);
        assert_eq!(there.table.templates.find(&key).unwrap().record, record);
        let mut walked = 0;
        for shard in 0..SHARDS {
            let mut cursor = Some(crate::Cursor::default());
            while let Some(at) = cursor {
                cursor = there.walk(shard, at, 100_000, &mut |found, _| {
                    walked += usize::from(*found == read.key);
                });
            }
        }
        assert_eq!(walked, 1, "a snapshot has it, in one shard");

        // The holder forgets it: whoever was sent it hears of that, and nobody else.
        hook.template_removed(&here.table.templates.find(&key).unwrap());
        let (gone, pending) = take().pop().unwrap();
        assert_eq!((gone, pending.deleted), (read.key, Some(5)));
        assert_eq!(there.delete(&gone, 5, &authority), crate::Deleted::Removed);
        assert!(there.table.templates.is_empty());
        assert_eq!(there.apply(&read, &authority), crate::Applied::Inserted);
        let later = Authority { generation: 2, ..authority };
        let swept: usize = (0..SHARDS).map(|shard| there.sweep(GroupId(1), shard, &later)).sum();
        assert_eq!(swept, 1);
    }
}

#[test]
fn the_copy_of_a_single_datagram_says_so() {
    let (shared, dirty) = (shared(), DirtySet::new());
    let slot = dirty.slot(NodeId(2)).unwrap();
    let flow = flow(&shared, 1_000);
    let flags = || shared.get(&key_of(&flow.key()), slot).unwrap().flags;
    assert_eq!(flags(), FLAG_UNASSURED);
    let record = shared.get(&key_of(&flow.key()), slot).unwrap();
    let successor = self::shared();
    let epoch = steadfast_model::Epoch::default();
    let authority = Authority { epoch, donated: false, generation: 1, now_ns: SECOND };
    let copied = |record| {
        successor.apply(&record, &authority);
        successor.table.find(&flow.key()).unwrap().is_assured()
    };
    assert!(!copied(record), "the copy is worth no more than the original");
    assert!(copied(Record { flags: 0, ..record }), "and no less, once the sender has seen more");
}

/// The numbers of IPVS fit the half octet that the wire has for a state, SCTP's as well as TCP's.
#[test]
fn an_sctp_association_is_copied_in_its_state() {
    let (shared, dirty) = (shared(), DirtySet::new());
    let slot = dirty.slot(NodeId(2)).unwrap();
    let successor = self::shared();
    let epoch = steadfast_model::Epoch::default();
    let authority = Authority { epoch, donated: false, generation: 1, now_ns: SECOND };
    let mut of_udp = flow(&shared, 1_000).record();
    of_udp.key.protocol = Protocol::Sctp;
    let timeouts = Timeouts::default();
    let association = NewConnection::new(of_udp, State::None, Provenance::Local, SECOND);
    let association = shared.table.insert(association, &timeouts, &mut Vec::new()).unwrap();
    let mut copied = Vec::new();
    for state in State::ALL.into_iter().filter(|state| state.is_of(Protocol::Sctp)) {
        association.set_state(state);
        let Some(record) = shared.get(&key_of(&association.key()), slot) else { continue };
        assert!(record.state < crate::record::STATE_MAX);
        successor.apply(&record, &authority);
        let copy = successor.table.find(&association.key()).unwrap();
        assert_eq!(copy.state(), state);
        copied.push(record.state);
    }
    assert_eq!(copied, [8, 9, 10, 11, 12, 13], "what is half-open is not copied");
    let key = key_of(&association.key());
    let record = shared.get(&key, slot).unwrap();
    for unfit in [14, 15] {
        let record = Record { state: unfit, ..record };
        assert_eq!(successor.apply(&record, &authority), crate::Applied::Unfit);
    }
    let of_tcp = Record { key: Key { protocol: 6, ..key }, state: 13, ..record };
    assert_eq!(successor.apply(&of_tcp, &authority), crate::Applied::Unfit);
}

/// Whatever a service says of copying: nobody could find its numbers again.
#[test]
fn a_connection_with_deltas_is_copied_when_it_is_established() {
    let (shared, dirty) = (shared(), Arc::new(DirtySet::new()));
    let mut spec = shared.config.load().service(ServiceId(1)).unwrap().spec.clone();
    spec.sync.on_established = false;
    spec.listen[0].protocol = Protocol::Tcp;
    spec.scheduler = steadfast_dataplane::SchedulerKind::Mh(steadfast_dataplane::HashOptions {
        port: true,
        fallback: true,
    });
    let group = GroupSpec { id: Group(1), vips: vec![spec.listen[0].vip], ..GroupSpec::default() };
    let spec = ConfigSpec {
        generation: 2,
        groups: vec![group],
        services: vec![spec],
        workers: 1,
        ..ConfigSpec::default()
    };
    shared.set_config(Config::compile(spec, None).unwrap());
    let hook = ReplicationHook::new(Arc::clone(&shared), Arc::clone(&dirty));
    let slot = dirty.slot(NodeId(2)).unwrap();
    for shard in 0..SHARDS {
        dirty.set_feed(shard, slot, GroupId(1), crate::dirty::Feed::Deltas);
    }
    let take = || {
        let mut taken = Vec::new();
        (0..SHARDS).for_each(|shard| dirty.take(shard, slot, 10, &mut taken));
        taken.pop().map(|(key, _)| key)
    };
    let deltas = Deltas { to_client: 5, windows_to_server: -3, ..Deltas::default() };
    let deltas = Deltas { header_at: Some(7), ..deltas };
    let successor = self::shared();
    let authority = Authority {
        epoch: steadfast_model::Epoch::default(),
        donated: false,
        generation: 1,
        now_ns: SECOND,
    };
    for (port, has_deltas) in [(1_000, false), (1_001, true)] {
        let mut record = flow(&shared, port).record();
        record.key.protocol = Protocol::Tcp;
        let new = NewConnection::new(record, State::Established, Provenance::Local, SECOND);
        let connection = shared.table.insert(new, &Timeouts::default(), &mut Vec::new()).unwrap();
        if has_deltas {
            shared.table.set_deltas(&connection, &deltas);
        }
        let wanted = has_deltas.then(|| key_of(&connection.key()));
        let up = (State::SynRecv, State::Established);
        carried(&shared, &connection, up, (1, SECOND), |c| hook.forwarded(c));
        assert_eq!(take(), wanted, "by a packet of the client");
        carried(&shared, &connection, up, (1, SECOND), |c| hook.replied(c));
        assert_eq!(take(), wanted, "by one of the server");
        let record = shared.get(&key_of(&connection.key()), slot).unwrap();
        assert_eq!(record.deltas, has_deltas.then_some(deltas));
        assert_eq!(successor.apply(&record, &authority), crate::Applied::Inserted);
        let copy = successor.table.find(&connection.key()).unwrap();
        assert_eq!(copy.deltas(), has_deltas.then_some(deltas));
        if has_deltas {
            // The server has the header now: peers must not look for it.
            let heard = Deltas { header_at: None, ..deltas };
            shared.table.set_deltas(&connection, &heard);
            hook.renumbered(&connection);
            assert_eq!(take(), wanted);
            let record = shared.get(&key_of(&connection.key()), slot).unwrap();
            assert_eq!(successor.apply(&record, &authority), crate::Applied::Updated);
            assert_eq!(copy.deltas(), Some(heard));
            // A reply got longer, then another.
            for (at, to_client) in [(100, 8), (200, 11)] {
                let address = Grown { at, len: 8, by: 3 };
                let longer = Some(LongerReply { address, is_heard: false });
                let deltas = Deltas { to_client, longer, ..heard };
                shared.table.set_deltas(&connection, &deltas);
                hook.renumbered(&connection);
                assert_eq!(take(), wanted);
                let record = shared.get(&key_of(&connection.key()), slot).unwrap();
                assert_eq!(successor.apply(&record, &authority), crate::Applied::Updated);
                assert_eq!(copy.deltas(), Some(deltas));
            }
        }
    }
}
