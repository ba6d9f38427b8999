//! Frames of a peer's replication stream: each as it is, and applied to a real table.
//!
//! An input is a list of frames, each behind its length in two octets. What is in them is taken for
//! the content of a batch, or of a digest if the highest bit of the length says so, behind its type and
//! its sequence number, which are put in front: otherwise only the first one would ever be read.

use std::sync::Arc;

use steadfast_dataplane::{Shared, TableOptions};
use steadfast_model::{BootId, NodeId};
use steadfast_replication::{
    Copies, DirtySet, Local, Receiver,
    wire::{BATCH_BYTES_MAX, Hello, Message, VERSION},
};

const CLUSTER: u64 = 7;
const PEER: NodeId = NodeId(2);
/// The type octet of a batch; a sequence number of one octet follows.
pub const BATCH: u8 = 2;
/// That of a digest; the number of the batch before it follows.
pub const DIGEST: u8 = 4;
/// In the length of a frame: it is a digest.
pub const IS_DIGEST: u16 = 0x8000;
const FRAMES_MAX: u8 = 127;
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

    let hello = Hello::new(CLUSTER, PEER, BootId(5), 0);
    let options = TableOptions {
        connections_max: CONNECTIONS_MAX,
        half_open_max: HALF_OPEN_MAX,
        seed: [1, 2],
    };
    let shared = Shared::new(options);
    let receiver = Receiver::new(local, PEER, &hello.encode(), copies, dirty);
    let mut receiver = receiver.expect("a good hello");
    let mut rest = input;
    let mut seq = 0;
    for _ in 0..FRAMES_MAX {
        let [high, low, after @ ..] = rest else { return };
        let len = u16::from_be_bytes([*high, *low]);
        let (body, after) = after.split_at(usize::from(len & !IS_DIGEST).min(after.len()));
        rest = after;
        let is_digest = len & IS_DIGEST != 0;
        seq += u8::from(!is_digest);
        let frame = [&[if is_digest { DIGEST } else { BATCH }, seq], body].concat();
        decode(&frame);
        match receiver.handle_frame(1000 * u64::from(seq), &shared, &frame) {
            Ok(reply) => assert!(
                is_digest && reply.ack.is_empty()
                    || matches!(Message::decode(&reply.ack), Ok(Message::Ack(_))),
                "an acknowledgement that cannot be read"
            ),
            Err(_) => return,
        }
        assert!(shared.table.len() <= CONNECTIONS_MAX + HALF_OPEN_MAX, "more than there may be");
    }
}

fn decode(frame: &[u8]) {
    match Message::decode(frame) {
        // One of a newer version may say more.
        Ok(Message::Hello(hello)) if hello.version > VERSION => {}
        Ok(Message::Hello(hello)) => assert_eq!(hello.encode(), frame, "a hello has two spellings"),
        Ok(Message::Ask(ask)) => {
            assert_eq!(Message::decode(&ask.encode()), Ok(Message::Ask(ask)), "another meaning");
        }
        Ok(Message::Digest(digest)) => {
            let again = Message::decode(&digest.encode());
            assert_eq!(again, Ok(Message::Digest(digest)), "another meaning");
        }
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
