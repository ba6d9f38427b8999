//! IPv4 packets that do not fit their way and may be fragmented: they leave in pieces.
//!
//! The packet is cut as it would leave, addresses and ports rewritten; what goes through a tunnel is
//! cut before, and each piece has its own outer header: so the server puts it together, not the end
//! of the tunnel, and outer packets fit the way. Identifications stay what the sender gave, 0 too:
//! without DF it promises that they tell its packets apart (RFC 6864 section 4.3).
//!
//! Guarantees: [`steadfast_packet::PIECES_MAX`] pieces at most, else the packet is dropped and
//! counted; all of them leave or none, in order.

use std::net::IpAddr;

use steadfast_packet::{OUTER_LEN_MAX, Packet, Pieces, Tunnel, encapsulate, set_macs};

use crate::{
    Actions, Hop, Reason, SyncHook,
    frame::Frame,
    worker::{Core, View},
};

/// Through which tunnel, to which server, with which hash of the flow.
pub(crate) type Through = (Tunnel, IpAddr, u32);

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Makes of the frame the first piece of the packet that it carries, and queues the others.
    #[cold]
    pub(crate) fn send_in_pieces(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        (hop, room): (&Hop, usize),
        through: Option<Through>,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Result<(), Reason> {
        let pieces = Pieces::new(packet, room).ok_or(Reason::TooBig)?;
        let headroom = if through.is_some() { OUTER_LEN_MAX } else { 0 };
        let size = headroom + pieces.frame_len_max();
        if !actions.outbox.has_room(pieces.count(), size) {
            return Err(Reason::TooBig);
        }
        let of_first = through.map(|through| self.outer(through, hop)).transpose()?;
        for number in 1..pieces.count() {
            let outer = through.map(|through| self.outer(through, hop)).transpose()?;
            actions.outbox.put(view.hops, size, |buffer| {
                let piece = pieces.write(number, frame.received(), &mut buffer[headroom..]).ok()?;
                let (start, len) = match outer {
                    Some(outer) => {
                        let made = encapsulate(buffer, headroom, &piece, &outer).ok()?;
                        (made.start, made.len)
                    }
                    None => (headroom, piece.end),
                };
                set_macs(&mut buffer[start..], hop.src_mac, hop.dst_mac);
                Some((hop.port, start, len))
            });
        }
        let first = frame.keep_first(&pieces).map_err(|_| Reason::NoSpace)?;
        if let Some(outer) = of_first {
            frame.encapsulate(&first, &outer).map_err(|_| Reason::NoSpace)?;
        }
        self.counters.count_fragmented();
        Ok(())
    }
}
