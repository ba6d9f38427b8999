//! SCTP headers (RFC 9260 section 3).

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::{
        little_endian,
        network_endian::{U16, U32},
    },
};

use crate::{ParseError, Transport, header::view};

/// The common header of SCTP (RFC 9260 section 3.1).
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Sctp {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Verification tag: that of the receiver.
    pub tag: U32,
    /// CRC32c of the packet, with zeroes in its own place (RFC 9260 appendix A).
    pub checksum: little_endian::U32,
}

/// The header of a chunk (RFC 9260 section 3.2).
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ChunkHeader {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// With this header, without the padding to a multiple of four octets.
    pub(crate) len: U16,
}

/// The type of a chunk.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Chunk(pub u8);

const _: () = assert!(size_of::<Sctp>() == 12 && size_of::<ChunkHeader>() == 4);

impl Chunk {
    /// DATA.
    pub const DATA: Self = Self(0);
    /// INIT.
    pub const INIT: Self = Self(1);
    /// INIT ACK.
    pub const INIT_ACK: Self = Self(2);
    /// ABORT.
    pub const ABORT: Self = Self(6);
    /// SHUTDOWN.
    pub const SHUTDOWN: Self = Self(7);
    /// SHUTDOWN ACK.
    pub const SHUTDOWN_ACK: Self = Self(8);
    /// ERROR.
    pub const ERROR: Self = Self(9);
    /// COOKIE ECHO.
    pub const COOKIE_ECHO: Self = Self(10);
    /// COOKIE ACK.
    pub const COOKIE_ACK: Self = Self(11);
    /// SHUTDOWN COMPLETE.
    pub const SHUTDOWN_COMPLETE: Self = Self(14);
}

/// The chunk headers of a packet whose SCTP header starts `payload`, each with where it starts. The
/// walk ends at the first that is not whole; every step takes four octets, so it ends.
pub(crate) fn chunks(payload: &[u8]) -> impl Iterator<Item = (usize, &ChunkHeader)> {
    let mut at = size_of::<Sctp>();
    std::iter::from_fn(move || {
        let start = at;
        let chunk = view::<ChunkHeader>(payload, start)?;
        let len = usize::from(chunk.len.get());
        if len < size_of::<ChunkHeader>() {
            return None;
        }
        at = start + len.next_multiple_of(4);
        Some((start, chunk))
    })
}

pub(crate) fn parse_sctp(payload: &[u8]) -> Result<Transport, ParseError> {
    let sctp = view::<Sctp>(payload, 0).ok_or(ParseError::Truncated("SCTP"))?;
    let first = view::<ChunkHeader>(payload, size_of::<Sctp>())
        .ok_or(ParseError::Truncated("SCTP chunk"))?;
    if usize::from(first.len.get()) < size_of::<ChunkHeader>() {
        return Err(ParseError::Length("SCTP chunk"));
    }
    //= Linux ip_vs_proto_sctp.c, set_sctp_state(): the first chunk counts; but one that may be
    //= bundled with an ABORT gives way to the ABORT behind it
    let mut chunk = Chunk(first.kind);
    if matches!(chunk, Chunk::COOKIE_ECHO | Chunk::COOKIE_ACK)
        && chunks(payload).nth(1).is_some_and(|(_, second)| Chunk(second.kind) == Chunk::ABORT)
    {
        chunk = Chunk::ABORT;
    }
    let (src_port, dst_port) = (sctp.src_port.get(), sctp.dst_port.get());
    Ok(Transport::Sctp { src_port, dst_port, chunk })
}
