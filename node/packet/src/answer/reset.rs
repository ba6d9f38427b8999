//! The TCP reset that says: no such connection.

use zerocopy::IntoBytes;

use super::{NoSpace, l4_of_answer, pad, put_ip, swap_macs};
use crate::{
    Packet, Protocol, Tcp, TcpFlags,
    checksum::{internet_checksum, pseudo_sum},
    header::view,
};

/// Turns a TCP segment into the reset that answers it. Returns the frame's length.
///
/// A reset is never to be answered; the caller sees to it.
pub fn tcp_reset(buffer: &mut [u8], packet: &Packet) -> Result<usize, NoSpace> {
    const LEN: usize = size_of::<Tcp>();
    const PROTOCOL: u8 = Protocol::Tcp as u8;
    let received = buffer.get(..packet.end).ok_or(NoSpace)?;
    let tcp = *view::<Tcp>(received, packet.l4).ok_or(NoSpace)?;
    let flags = TcpFlags(tcp.flags);
    let data = packet.end.saturating_sub(packet.l4 + usize::from(tcp.offset >> 4) * 4);
    //= RFC 9293 section 3.10.7.1: <SEQ=SEG.ACK><CTL=RST> if the segment has an ACK, otherwise
    //= <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>
    let (seq, ack, reset) = if flags.ack() {
        (tcp.ack.get(), 0, TcpFlags::RST)
    } else {
        let len = data as u32 + u32::from(flags.syn()) + u32::from(flags.fin());
        (0, tcp.seq.get().wrapping_add(len), TcpFlags::RST | TcpFlags::ACK)
    };
    let mut reply = Tcp {
        src_port: tcp.dst_port,
        dst_port: tcp.src_port,
        seq: seq.into(),
        ack: ack.into(),
        offset: (LEN as u8 / 4) << 4,
        flags: reset,
        window: 0.into(),
        checksum: 0.into(),
        urgent: 0.into(),
    };
    let sum = pseudo_sum(packet.dst, packet.src, PROTOCOL, LEN as u32);
    reply.checksum.set(internet_checksum(sum, reply.as_bytes()));
    let l4 = l4_of_answer(packet);
    let end = l4 + LEN;
    buffer.get_mut(l4..end).ok_or(NoSpace)?.copy_from_slice(reply.as_bytes());
    put_ip(buffer, packet, packet.dst, PROTOCOL, end)?;
    swap_macs(buffer)?;
    Ok(pad(buffer, end))
}
