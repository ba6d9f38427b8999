//! Packets to servers behind a tunnel.

use steadfast_packet::{Outer, Packet};

use crate::{Hop, Reason, SyncHook, frame::Frame, pieces::Through, worker::Core};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Puts the packet into another one to the server.
    pub(crate) fn encapsulate(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        through: Through,
        hop: &Hop,
    ) -> Result<(), Reason> {
        let outer = self.outer(through, hop)?;
        frame.encapsulate(packet, &outer).map_err(|_| Reason::NoSpace)
    }

    /// The outer packet, from this node's address on the way to the server.
    pub(crate) fn outer(
        &mut self,
        (tunnel, server, flow_hash): Through,
        hop: &Hop,
    ) -> Result<Outer, Reason> {
        let src = hop.src_addr.ok_or(Reason::NoSource)?;
        self.outer_id = self.outer_id.wrapping_add(1);
        Ok(Outer { tunnel, src, dst: server, flow_hash, id: self.outer_id })
    }
}
