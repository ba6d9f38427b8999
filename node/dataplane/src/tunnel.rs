//! Packets to servers behind a tunnel.

use std::net::IpAddr;

use steadfast_packet::{Outer, Packet, Tunnel};

use crate::{Hop, Reason, SyncHook, frame::Frame, worker::Core};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Puts the packet into another one to `server`, from this node's address on the way there.
    pub(crate) fn encapsulate(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        tunnel: Tunnel,
        server: IpAddr,
        hop: &Hop,
        flow_hash: u32,
    ) -> Result<(), Reason> {
        let src = hop.src_addr.ok_or(Reason::NoSource)?;
        self.outer_id = self.outer_id.wrapping_add(1);
        let outer = Outer { tunnel, src, dst: server, flow_hash, id: self.outer_id };
        frame.encapsulate(packet, &outer).map_err(|_| Reason::NoSpace)
    }
}
