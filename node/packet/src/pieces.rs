//! An IPv4 packet in pieces that fit a way (RFC 791 section 3.2).
//!
//! Guarantees: put together again, the pieces are the packet; identification, addresses, TTL and DSCP
//! are the same in all; what is a piece already is cut further, and its last piece says that more
//! follow if it did. A header is as long in all pieces: options that only the first may have are
//! padding in the others, as the kernel does it. Not here: whether it may be cut
//! ([`Packet::may_be_fragmented`]), and sending.

use crate::{
    Fragment, Ipv4, NoSpace, Packet, Transport,
    checksum::internet_checksum,
    header::view_mut,
    ipv4::{MORE, OFFSET},
};

/// A packet is cut into no more pieces than this: 1500 octets for any way of 114 and more.
pub const PIECES_MAX: usize = 16;

/// All pieces but the last carry a multiple of this.
const UNIT: usize = 8;

/// Bits of an option's first octet: it stands in every piece.
const COPIED: u8 = 0x80;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;

/// How a packet is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pieces {
    packet: Packet,
    /// Octets of payload in each piece but the last, the most in that one, and in all together.
    each: usize,
    most: usize,
    payload: usize,
}

impl Pieces {
    /// The pieces of `packet`, of IPv4, none longer than `room` octets with its header; `None` when
    /// there would be more than [`PIECES_MAX`].
    #[must_use]
    pub fn new(packet: &Packet, room: usize) -> Option<Self> {
        if packet.is_ipv6() {
            return None;
        }
        let header = packet.l4.checked_sub(packet.l3)?;
        let payload = packet.end.checked_sub(packet.l4)?;
        let most = room.checked_sub(header)?;
        let each = most / UNIT * UNIT;
        let pieces = Self { packet: *packet, each, most, payload };
        (each > 0 && pieces.count() <= PIECES_MAX).then_some(pieces)
    }

    /// How many there are, one at least.
    //= Linux net/ipv4/ip_output.c, ip_frag_next(): what is left goes whole as soon as it fits
    #[must_use]
    pub fn count(&self) -> usize {
        1 + self.payload.saturating_sub(self.most).div_ceil(self.each)
    }

    /// Length of the longest frame.
    #[must_use]
    pub fn frame_len_max(&self) -> usize {
        self.packet.l4 + self.most.min(self.payload)
    }

    /// Writes piece `number` of the packet in `frame` to the start of `to`, with the link header that
    /// the packet has; says what it is.
    ///
    /// # Errors
    /// When it does not fit, or there is no such piece.
    pub fn write(&self, number: usize, frame: &[u8], to: &mut [u8]) -> Result<Packet, NoSpace> {
        let Packet { l3, l4, .. } = self.packet;
        if number >= self.count() {
            return Err(NoSpace);
        }
        let (from, len) = self.span(number);
        let headers = frame.get(..l4).ok_or(NoSpace)?;
        let payload = frame.get(l4 + from..l4 + from + len).ok_or(NoSpace)?;
        let to = to.get_mut(..l4 + len).ok_or(NoSpace)?;
        to[..l4].copy_from_slice(headers);
        to[l4..].copy_from_slice(payload);
        if from > 0 {
            blank_options(to.get_mut(l3 + size_of::<Ipv4>()..l4).ok_or(NoSpace)?);
        }
        self.finish(to, from, len)
    }

    /// Makes of the frame that the packet is in its first piece; says what it is.
    ///
    /// # Errors
    /// When the packet is not in the frame.
    pub fn keep_first(&self, frame: &mut [u8]) -> Result<Packet, NoSpace> {
        let (from, len) = self.span(0);
        self.finish(frame, from, len)
    }

    /// Where a piece starts in the payload, and how long it is.
    fn span(&self, number: usize) -> (usize, usize) {
        let from = number * self.each;
        let is_last = number + 1 == self.count();
        (from, if is_last { self.payload.saturating_sub(from) } else { self.each })
    }

    /// Says in the header which piece it is.
    //= RFC 791 section 3.2: flags, offset and length are set, the checksum is computed anew
    fn finish(&self, frame: &mut [u8], from: usize, len: usize) -> Result<Packet, NoSpace> {
        let Packet { l3, l4, transport, .. } = self.packet;
        let is_last = from + len == self.payload;
        let ip = view_mut::<Ipv4>(frame, l3).ok_or(NoSpace)?;
        let field = ip.fragment.get();
        let offset = usize::from(field & OFFSET) + from / UNIT;
        let offset = u16::try_from(offset).ok().filter(|o| *o <= OFFSET).ok_or(NoSpace)?;
        let more = if is_last { field & MORE } else { MORE };
        ip.fragment.set(field & !(MORE | OFFSET) | more | offset);
        ip.total_len.set(u16::try_from(l4 - l3 + len).map_err(|_| NoSpace)?);
        ip.checksum.set(0);
        let (id, protocol) = (ip.id.get(), ip.protocol);
        let checksum = internet_checksum(0, frame.get(l3..l4).ok_or(NoSpace)?);
        view_mut::<Ipv4>(frame, l3).ok_or(NoSpace)?.checksum.set(checksum);
        let fragment = Fragment {
            id: id.into(),
            protocol,
            offset: u32::from(offset) * UNIT as u32,
            len: len as u32,
            more: more != 0,
        };
        let fragment = (offset > 0 || fragment.more).then_some(fragment);
        let transport = if offset == 0 { transport } else { Transport::Fragment };
        Ok(Packet { end: l4 + len, fragment, transport, ..self.packet })
    }
}

/// Options that are not copied become padding; the rest of what cannot be told apart stays.
//= RFC 791 section 3.1: the copied flag; Linux net/ipv4/ip_options.c, ip_options_fragment()
fn blank_options(mut options: &mut [u8]) {
    while let Some(kind) = options.first().copied() {
        let len = match (kind, options.get(1)) {
            (END_OF_OPTIONS, _) => return,
            (NO_OPERATION, _) => 1,
            (_, Some(len)) => usize::from(*len),
            (_, None) => return,
        };
        if len == 0 || kind != NO_OPERATION && len < 2 || len > options.len() {
            return;
        }
        let (option, rest) = options.split_at_mut(len);
        if kind & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        options = rest;
    }
}
