//! The numbers of a TCP segment on its way between two sides that count differently.
//!
//! Guarantees: all or nothing, a segment whose options cannot be told apart stays as it was; right
//! checksums stay right and wrong ones stay wrong; the opposite shift gives back what was there,
//! but for windows, which lose what does not fit.

use zerocopy::byteorder::network_endian::U32;

use crate::{
    Packet, Tcp, TcpFlags, Transport,
    checksum::update_bytes,
    header::{view, view_mut},
    options::{BadOptions, SACK, TIMESTAMPS, header_end, options},
};

/// What is added to the numbers of a segment, modulo 2^32.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SeqShift {
    /// To the sequence number.
    pub seq: u32,
    /// To the acknowledgement number and the edges of selective acknowledgements.
    pub ack: u32,
    /// To the sender's timestamp.
    pub ts_val: u32,
    /// To the timestamp that it echoes.
    pub ts_ecr: u32,
    /// Octets of the acknowledged stream before whose end less is added: the sender of this segment
    /// got more in their place.
    pub grown: Option<Grown>,
    /// The power of two that the window is multiplied by: the sides know different scales.
    pub window: i8,
}

/// Octets of a stream that its receiver gets more octets for. What comes behind them is counted in
/// the whole shift already.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Grown {
    /// The number of the first, as its sender counts.
    pub at: u32,
    /// How many they are.
    pub len: u8,
    /// How many more their receiver gets.
    pub by: u8,
}

impl Grown {
    /// The number behind them, as their sender counts.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.at.wrapping_add(self.len.into())
    }

    /// The sender's number for one of the receiver's, given that less the whole shift. What lies
    /// within is all or nothing: nothing, but for the start of a block.
    #[must_use]
    pub fn back(&self, number: u32, starts_block: bool) -> u32 {
        let before = number.wrapping_add(self.by.into());
        if number.wrapping_sub(self.end()).cast_signed() >= 0 {
            number
        } else if before.wrapping_sub(self.at).cast_signed() <= 0 {
            before
        } else if starts_block {
            self.end()
        } else {
            self.at
        }
    }
}

impl SeqShift {
    fn acknowledged(&self, number: u32, starts_block: bool) -> u32 {
        let number = number.wrapping_add(self.ack);
        self.grown.map_or(number, |grown| grown.back(number, starts_block))
    }
}

/// The longest TCP header.
const HEADER_MAX: usize = 60;
/// Octets of a timestamp, of an edge, of a block of two edges.
const TIMESTAMP: usize = 4;
const EDGE: usize = 4;
const BLOCK: usize = 2 * EDGE;

/// Shifts the numbers of a TCP segment; anything else stays as it is.
///
/// # Errors
/// When its options are malformed, or it is not in `frame`; nothing is changed then.
pub fn shift_numbers(
    frame: &mut [u8],
    packet: &Packet,
    shift: &SeqShift,
) -> Result<(), BadOptions> {
    let Transport::Tcp { flags, .. } = packet.transport else { return Ok(()) };
    let end = header_end(frame, packet).ok_or(BadOptions)?;
    let found = frame.get(packet.l4..end).ok_or(BadOptions)?;
    // What is changed is a copy: an option may lie at any offset, the checksum counts words.
    let (mut old, mut new) = ([0; HEADER_MAX], [0; HEADER_MAX]);
    let len = found.len();
    old.get_mut(..len).ok_or(BadOptions)?.copy_from_slice(found);
    new[..len].copy_from_slice(found);
    let (old, new) = (&old[..len], &mut new[..len]);
    for option in options(frame, packet).ok_or(BadOptions)? {
        let option = option?;
        let value = new
            .get_mut(option.value.start - packet.l4..option.value.end - packet.l4)
            .ok_or(BadOptions)?;
        match option.kind {
            SACK => shift_blocks(value, shift)?,
            TIMESTAMPS => shift_timestamps(value, flags, shift)?,
            _ => {}
        }
    }
    let tcp = view_mut::<Tcp>(new, 0).ok_or(BadOptions)?;
    tcp.seq.set(tcp.seq.get().wrapping_add(shift.seq));
    //= RFC 9293 section 3.1: the acknowledgement number means nothing without ACK
    if flags.ack() {
        tcp.ack.set(shift.acknowledged(tcp.ack.get(), false));
    }
    //= RFC 7323 section 2.2: the window of a segment with SYN is never scaled
    if !flags.syn() {
        tcp.window.set(rescaled(tcp.window.get(), shift.window));
    }
    let checksum = tcp.checksum.get();
    let checksum = update_bytes(checksum, old, new);
    let tcp = view_mut::<Tcp>(new, 0).ok_or(BadOptions)?;
    tcp.checksum.set(checksum);
    frame[packet.l4..end].copy_from_slice(new);
    Ok(())
}

/// The TCP header without options, as it is in the frame.
pub fn tcp_header<'a>(frame: &'a [u8], packet: &Packet) -> Option<&'a Tcp> {
    matches!(packet.transport, Transport::Tcp { .. }).then(|| view::<Tcp>(frame, packet.l4))?
}

//= RFC 2018 section 3: pairs of edges, each a sequence number
fn shift_blocks(value: &mut [u8], shift: &SeqShift) -> Result<(), BadOptions> {
    if value.is_empty() || !value.len().is_multiple_of(BLOCK) {
        return Err(BadOptions);
    }
    for at in (0..value.len()).step_by(EDGE) {
        if let Some(edge) = view_mut::<U32>(value, at) {
            edge.set(shift.acknowledged(edge.get(), at.is_multiple_of(BLOCK)));
        }
    }
    Ok(())
}

fn shift_timestamps(value: &mut [u8], flags: TcpFlags, shift: &SeqShift) -> Result<(), BadOptions> {
    if value.len() != 2 * TIMESTAMP {
        return Err(BadOptions);
    }
    add(value, 0, shift.ts_val);
    //= RFC 7323 section 3.2: the echo is valid only if ACK is set
    if flags.ack() {
        add(value, TIMESTAMP, shift.ts_ecr);
    }
    Ok(())
}

fn add(value: &mut [u8], at: usize, by: u32) {
    if let Some(number) = view_mut::<U32>(value, at) {
        number.set(number.get().wrapping_add(by));
    }
}

/// A window counted in other units: never more than was offered, and no more than a field can say.
fn rescaled(window: u16, by: i8) -> u16 {
    let by_abs = u32::from(by.unsigned_abs());
    let window = u64::from(window);
    let window = if by >= 0 {
        window.checked_shl(by_abs).unwrap_or(u64::MAX)
    } else {
        window.checked_shr(by_abs).unwrap_or(0)
    };
    u16::try_from(window).unwrap_or(u16::MAX)
}
