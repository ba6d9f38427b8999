//! The SCTP answers that say: no such association.

use zerocopy::{
    IntoBytes,
    byteorder::network_endian::{U16, U32},
};

use super::{NoSpace, l4_of_answer, pad, put_ip, swap_macs};
use crate::{
    Chunk, Packet, Protocol, Sctp,
    crc32c::crc32c_of,
    header::view,
    sctp::{ChunkHeader, chunks},
};

/// The tag in the answer is the one that came in, not the receiver's own (RFC 9260 section 3.3.7).
const TAG_REFLECTED: u8 = 1;
/// Cause of an ERROR: the cookie came too late (RFC 9260 section 3.3.10.3).
const STALE_COOKIE: u16 = 3;
/// An INIT without parameters (RFC 9260 section 3.3.2).
const INIT_LEN: u16 = 20;

/// Turns an SCTP packet of no association into the ABORT, or SHUTDOWN COMPLETE, that answers it.
/// Returns the frame's length; `None`, and nothing changed, if it is to be discarded in silence: for
/// its checksum, or for what it says.
//= RFC 9260 section 8.4, which leaves to its sections 5.1 and 8.5.1 what an INIT for a port
//= without a listener gets
pub fn sctp_abort(buffer: &mut [u8], packet: &Packet) -> Result<Option<usize>, NoSpace> {
    const LEN: usize = size_of::<Sctp>() + size_of::<ChunkHeader>();
    let payload = buffer.get(packet.l4..packet.end).ok_or(NoSpace)?;
    let received = *view::<Sctp>(payload, 0).ok_or(NoSpace)?;
    let Some((kind, flags, tag)) = answer(payload, &received) else { return Ok(None) };
    let mut reply =
        Sctp { src_port: received.dst_port, dst_port: received.src_port, tag, checksum: 0.into() };
    let chunk = ChunkHeader { kind: kind.0, flags, len: (size_of::<ChunkHeader>() as u16).into() };
    reply.checksum.set(crc32c_of([reply.as_bytes(), chunk.as_bytes()]));
    let l4 = l4_of_answer(packet);
    let end = l4 + LEN;
    let place = buffer.get_mut(l4..end).ok_or(NoSpace)?;
    let (header, rest) = place.split_at_mut(size_of::<Sctp>());
    header.copy_from_slice(reply.as_bytes());
    rest.copy_from_slice(chunk.as_bytes());
    put_ip(buffer, packet, packet.dst, Protocol::Sctp as u8, end)?;
    swap_macs(buffer)?;
    Ok(Some(pad(buffer, end)))
}

/// Type, flags and verification tag of the answer, if there is to be one.
fn answer(payload: &[u8], received: &Sctp) -> Option<(Chunk, u8, U32)> {
    let is_intact = {
        let zeroed = Sctp { checksum: 0.into(), ..*received };
        let rest = payload.get(size_of::<Sctp>()..)?;
        crc32c_of([zeroed.as_bytes(), rest]) == received.checksum.get()
    };
    if !is_intact || chunks(payload).any(|(_, chunk)| Chunk(chunk.kind) == Chunk::ABORT) {
        return None;
    }
    let (at, first) = chunks(payload).next()?;
    match Chunk(first.kind) {
        Chunk::INIT => {
            //= RFC 9260 section 8.5.1 (A): an INIT has the tag 0; its answer has the one it offers
            let offered = *view::<U32>(payload, at + size_of::<ChunkHeader>())?;
            let is_good = received.tag == 0 && offered != 0 && first.len >= INIT_LEN;
            is_good.then_some((Chunk::ABORT, 0, offered))
        }
        Chunk::SHUTDOWN_ACK => Some((Chunk::SHUTDOWN_COMPLETE, TAG_REFLECTED, received.tag)),
        Chunk::SHUTDOWN_COMPLETE | Chunk::COOKIE_ACK => None,
        Chunk::ERROR if is_stale_cookie(payload, at, first) => None,
        _ => Some((Chunk::ABORT, TAG_REFLECTED, received.tag)),
    }
}

/// An ERROR says that the cookie came too late; what follows the chunk is not its cause.
fn is_stale_cookie(payload: &[u8], at: usize, error: &ChunkHeader) -> bool {
    const CAUSE: usize = size_of::<ChunkHeader>();
    let has_cause = usize::from(error.len.get()) >= CAUSE + size_of::<U16>();
    has_cause && view::<U16>(payload, at + CAUSE).is_some_and(|cause| *cause == STALE_COOKIE)
}
