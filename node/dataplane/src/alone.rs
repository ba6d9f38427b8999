//! Packets that no connection stands for: by the hash above a limit, or scheduled one by one.

use steadfast_packet::Packet;

use crate::{
    Actions, Sent, SyncHook, Verdict,
    cache::Way,
    config::Service,
    forward::Path,
    frame::Frame,
    worker::{Core, View},
};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Sends a packet on its way, and counts it for the server if it went.
    pub(crate) fn pass_alone(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        path: &Path<'_>,
        (service, server): (&Service, usize),
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let towards = if path.way == Way::In { path.target.addr } else { path.key.client };
        let hop = match self.next_hop(towards, view, actions) {
            Ok(hop) => hop,
            Err(reason) => match self.newcomer(path.way, towards, view) {
                Some(hop) => hop,
                None => return Verdict::Drop(reason),
            },
        };
        if let Err(verdict) = self.put_on_way(frame, packet, path, &hop, view, actions) {
            return verdict;
        }
        if let Some(counters) = service.counters(server) {
            match path.way {
                Way::In => counters.count_in(self.index, packet.len()),
                Way::Out => counters.count_out(self.index, packet.len()),
            }
        }
        let sent = if path.way == Way::In { Sent::Forwarded } else { Sent::Returned };
        self.transmit(sent, hop.port, frame.start(), frame.len())
    }
}
