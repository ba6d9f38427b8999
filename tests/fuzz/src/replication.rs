//! Frames of a peer's replication stream: each as it is, and applied to a real table.
//!
//! An input is a list of frames, each behind its length in two octets. What is in them is taken for
//! the content of a batch, behind its type and its sequence number, which are put in front:
//! otherwise only the first one would ever be read.

use std::sync::Arc;

use steadfast_dataplane::{Shared, TableOptions};
use steadfast_model::{BootId, NodeId};
use steadfast_replication::{
    Copies, DirtySet, Local, Receiver,
    wire::{BATCH_BYTES_MAX, Hello, Message},
};

const CLUSTER: u64 = 7;
const PEER: NodeId = NodeId(2);
/// The type octet of a batch; a sequence number of one octet follows.
pub const BATCH: u8 = 2;
const BATCHES_MAX: u8 = 127;
const CONNECTIONS_MAX: usize = 16;
const HALF_OPEN_MAX: usize = 8;

/// Runs one input.
///
/// # Panics
/// When something is wrong.
pub fn run(input: &[u8]) {
    let local = Local { cluster: CLUSTER, node: NodeId(1), boot: BootId(1) };
    let (copies, dirty) = (Arc::new(Copies::new()), Arc::new(DirtySet::new()));
    let _ = Receiver::new(local, PEER, input, Arc::clone(&copies), Arc::clone(&dirty));
    decode(input);

    let hello = Hello { cluster: CLUSTER, node: PEER, boot: BootId(5), shard: 0 };
    let options = TableOptions {
        connections_max: CONNECTIONS_MAX,
        half_open_max: HALF_OPEN_MAX,
        seed: [1, 2],
    };
    let shared = Shared::new(options);
    let receiver = Receiver::new(local, PEER, &hello.encode(), copies, dirty);
    let mut receiver = receiver.expect("a good hello");
    let mut rest = input;
    for seq in 1..=BATCHES_MAX {
        let [high, low, after @ ..] = rest else { return };
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (body, after) = after.split_at(len);
        rest = after;
        let frame = [&[BATCH, seq], body].concat();
        decode(&frame);
        match receiver.handle_frame(1000 * u64::from(seq), &shared, &frame) {
            Ok(reply) => assert!(
                matches!(Message::decode(&reply.ack), Ok(Message::Ack(_))),
                "an acknowledgement that cannot be read"
            ),
            Err(_) => return,
        }
        assert!(shared.table.len() <= CONNECTIONS_MAX + HALF_OPEN_MAX, "more than there may be");
    }
}

fn decode(frame: &[u8]) {
    match Message::decode(frame) {
        Ok(Message::Hello(hello)) => assert_eq!(hello.encode(), frame, "a hello has two spellings"),
        Ok(Message::Ack(ack)) => {
            assert_eq!(Message::decode(&ack.encode()), Ok(Message::Ack(ack)), "another meaning");
        }
        Ok(Message::Batch(batch)) => {
            assert!(frame.len() <= BATCH_BYTES_MAX, "a batch beyond its bound");
            let headers = batch.groups.len();
            let in_range =
                |item: &steadfast_replication::wire::Item| usize::from(item.header()) < headers;
            assert!(batch.items.iter().all(in_range), "an item points nowhere");
        }
        Err(error) => {
            let _ = error.to_string();
        }
    }
}
