//! One-packet scheduling: every datagram of a service gets a server of its own, and no connection.
//!
//! Guarantees: nothing is kept of a datagram but what it counts, and the template of its client
//! where the service is persistent. What a NAT server answers gets the address and port of the
//! service back by the configuration alone; IPVS, which has no connection to find, lets it go as it
//! is. Not here: datagrams in fragments, whose other parts could only go to another server; they
//! are dropped and counted.

use steadfast_packet::Packet;

use crate::{
    Actions, FlowKey, Forwarding, Protocol, Reason, Role, Service, SyncHook, Target, Verdict,
    cache::{Tuple, Way},
    forward::Path,
    frame::Frame,
    worker::{Core, View},
};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Sends a datagram to the server at index `server`.
    pub(crate) fn send_once(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        key: FlowKey,
        (service, server): (&Service, usize),
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let Some(chosen) = service.spec.servers.get(server) else {
            return Verdict::Drop(Reason::TableFull);
        };
        let (addr, port) = (chosen.addr, chosen.port_for(key.vip_port));
        let target = Target { addr, port, forwarding: service.spec.forwarding };
        if let Some(counters) = service.counters(server) {
            counters.count_conn(self.index);
        }
        self.pass_once(frame, packet, (Way::In, key, target), (service, server), view, actions)
    }

    /// Sends what a NAT server of such a service says to its client; none when it is no such server.
    pub(crate) fn return_once(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        tuple: &Tuple,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Option<Verdict> {
        let Tuple { protocol, src, src_port, dst, dst_port } = *tuple;
        let (service, server, vip, vip_port) =
            (protocol == Protocol::Udp).then(|| view.config.once(src, src_port))??;
        if !matches!(&*self.shared.groups.role(service.spec.group), Role::Holder { .. }) {
            return None;
        }
        let key = FlowKey { protocol, client: dst, client_port: dst_port, vip, vip_port };
        let target = Target { addr: src, port: src_port, forwarding: Forwarding::Nat };
        let way = (Way::Out, key, target);
        Some(self.pass_once(frame, packet, way, (service, server), view, actions))
    }

    fn pass_once(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        (way, key, target): (Way, FlowKey, Target),
        (service, server): (&Service, usize),
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        if packet.fragment.is_some() {
            return Verdict::Drop(Reason::Fragment);
        }
        let service_id = service.spec.id;
        let (local, deltas, told) = (None, None, None);
        let path = Path { way, target, key, local, deltas, service: service_id, told };
        self.pass_alone(frame, packet, &path, (service, server), view, actions)
    }
}
