//! What closes a stream. What is applied: `tests/simulation`.

use steadfast_dataplane::{Shared, TableOptions};
use steadfast_model::{Epoch, ServerId, ServiceId};

use super::*;
use crate::{Completeness, PROTOCOL_TCP, SHARDS, wire::BatchWriter};

const LOCAL: Local = Local { cluster: 1, node: NodeId(1), boot: BootId(11) };
const PEER: Local = Local { cluster: 1, node: NodeId(2), boot: BootId(22) };
const EPOCH: Epoch = Epoch { generation: 1, grant_index: 2, claim: 3, node: PEER.node };
const HEADER: GroupHeader = GroupHeader { group: GroupId(1), epoch: EPOCH, donated: false };

fn hello(from: Local, shard: u8) -> Vec<u8> {
    Hello::new(from.cluster, from.node, from.boot, shard).encode()
}

fn receiver(shard: u8) -> Receiver {
    Receiver::new(LOCAL, PEER.node, &hello(PEER, shard), Arc::default(), Arc::default()).unwrap()
}

fn table() -> Shared {
    Shared::new(TableOptions { connections_max: 16, half_open_max: 16, seed: [1, 2] })
}

fn record(shard: u8, protocol: u8) -> Record {
    let key = |client_port| Key {
        protocol,
        client: [198, 18, 0, 1].into(),
        client_port,
        vip: [198, 18, 0, 100].into(),
        vip_port: 80,
    };
    let key = (1..).map(key).find(|key| shard_of(key) == shard).unwrap();
    Record {
        key,
        group: HEADER.group,
        service: ServiceId(1),
        server: ServerId(4711),
        incarnation: 5,
        state: 1,
        flags: 0,
        local: None,
        deltas: None,
    }
}

fn batch(seq: u64, write: impl FnOnce(&mut BatchWriter)) -> Vec<u8> {
    let mut writer = BatchWriter::new(1 << 14);
    write(&mut writer);
    writer.finish(seq, 1, 0)
}

#[test]
fn a_stream_of_somebody_else_is_refused_with_a_reason() {
    let case = |frame: &[u8]| {
        Receiver::new(LOCAL, PEER.node, frame, Arc::default(), Arc::default())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        case(&hello(Local { cluster: 7, ..PEER }, 0)),
        "node 2 belongs to cluster 0000000000000007, this node to 0000000000000001"
    );
    assert_eq!(
        case(&hello(Local { node: NodeId(3), ..PEER }, 0)),
        "the peer is node 2 by its certificate and calls itself 3"
    );
    assert_eq!(
        case(&batch(1, |_| ())),
        "node 2 sent a frame that does not belong here, a hello was due"
    );
    assert_eq!(case(&[1]), "unreadable frame from node 2: frame ends within version");
}

#[test]
fn a_batch_out_of_order_closes_the_stream() {
    let (mut receiver, table) = (receiver(0), table());
    receiver.handle_frame(1, &table, &batch(1, |_| ())).unwrap();
    for seq in [1, 3] {
        let error = receiver.handle_frame(1, &table, &batch(seq, |_| ())).unwrap_err();
        assert_eq!(error, ReceiveError::Sequence { node: PEER.node, got: seq, want: 2 });
    }
}

#[test]
fn a_damaged_batch_changes_nothing() {
    let (mut receiver, table) = (receiver(0), table());
    let mut frame = batch(1, |w| w.record(HEADER, &record(0, PROTOCOL_TCP)));
    frame.push(0x07);
    assert!(matches!(
        receiver.handle_frame(1, &table, &frame),
        Err(ReceiveError::Wire { node: NodeId(2), .. })
    ));
    assert!(table.table.is_empty());
}

#[test]
fn a_record_of_an_unknown_server_is_kept_unbound() {
    let (mut receiver, table) = (receiver(0), table());
    let known = record(0, PROTOCOL_TCP);
    receiver.handle_frame(1, &table, &batch(1, |w| w.record(HEADER, &known))).unwrap();
    assert_eq!((table.table.len(), table.table.unbound()), (1, 1));
    let key = crate::adapter::flow_of(&known.key).unwrap();
    assert_eq!(table.table.find(&key).unwrap().server().0, 4711);
}

#[test]
fn what_does_not_fit_the_stream_or_the_table_is_counted_and_left_out() {
    let (mut receiver, table) = (receiver(0), table());
    let other = GroupHeader { epoch: Epoch { node: NodeId(9), ..EPOCH }, ..HEADER };
    let mine = GroupHeader { epoch: Epoch { node: LOCAL.node, ..EPOCH }, ..HEADER };
    let frame = batch(1, |w| {
        w.record(HEADER, &record(1, PROTOCOL_TCP));
        w.record(HEADER, &record(0, 99));
        w.record(HEADER, &Record { state: 15, ..record(0, PROTOCOL_TCP) });
        w.record(other, &record(0, PROTOCOL_TCP));
        w.record(mine, &record(0, PROTOCOL_TCP));
    });
    let reply = receiver.handle_frame(1, &table, &frame).unwrap();
    let metrics = receiver.metrics();
    assert_eq!(
        (metrics.rejected_shard, metrics.rejected_unfit, metrics.rejected_holder, metrics.applied),
        (1, 2, 2, 0)
    );
    assert!(table.table.is_empty());
    let Ok(Message::Ack(ack)) = Message::decode(&reply.ack) else { panic!("{reply:?}") };
    assert_eq!(ack, Ack { seq: 1, resync: vec![], fenced: vec![HEADER.group] });
}

#[test]
fn a_lower_epoch_is_fenced_and_a_higher_one_is_believed() {
    let copies = Arc::new(Copies::new());
    copies.handle_epoch(HEADER.group, Epoch { claim: 4, ..EPOCH });
    let mut receiver =
        Receiver::new(LOCAL, PEER.node, &hello(PEER, 0), Arc::clone(&copies), Arc::default())
            .unwrap();
    let table = table();
    receiver
        .handle_frame(1, &table, &batch(1, |w| w.record(HEADER, &record(0, PROTOCOL_TCP))))
        .unwrap();
    assert_eq!((receiver.metrics().rejected_epoch, table.table.len()), (1, 0));
    let header = GroupHeader { epoch: Epoch { claim: 5, ..EPOCH }, ..HEADER };
    receiver
        .handle_frame(1, &table, &batch(2, |w| w.record(header, &record(0, PROTOCOL_TCP))))
        .unwrap();
    assert_eq!((receiver.metrics().applied, table.table.len()), (1, 1));
    let donated = GroupHeader { donated: true, ..HEADER };
    let second =
        Record { key: Key { vip_port: 81, ..record(0, PROTOCOL_TCP).key }, ..record(0, 6) };
    let shard = shard_of(&second.key);
    let mut receiver =
        Receiver::new(LOCAL, PEER.node, &hello(PEER, shard), copies, Arc::default()).unwrap();
    receiver.handle_frame(1, &table, &batch(1, |w| w.record(donated, &second))).unwrap();
    assert_eq!((receiver.metrics().donated, table.table.len()), (1, 2));
}

#[test]
fn the_end_of_another_snapshot_completes_nothing() {
    let copies = Arc::new(Copies::new());
    let table = table();
    let complete = |begin: u64, end: u64| {
        for shard in 0..SHARDS {
            let hello = hello(PEER, shard);
            let mut receiver =
                Receiver::new(LOCAL, PEER.node, &hello, Arc::clone(&copies), Arc::default())
                    .unwrap();
            let frame = batch(1, |w| {
                w.begin(HEADER, begin);
                w.end(HEADER, end);
            });
            receiver.handle_frame(1000, &table, &frame).unwrap();
        }
        copies.completeness(HEADER.group, PEER.node, PEER.boot, 1000)
    };
    assert_eq!(complete(1, 2), Completeness::Empty);
    assert!(complete(3, 3).is_complete());
}
