//! Which connection a packet belongs to.

use std::sync::Arc;

use steadfast_packet::Packet;

use crate::{
    AddressKind, Connection, FlowKey, GroupId, Protocol, Reason, ReplyKey, ServerId, SyncHook,
    Verdict,
    cache::{Hot, Tuple, Way},
    forward::opens,
    frame::Frame,
    policies::{Fate, Part, Standing},
    worker::{Core, View},
};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Finds or makes the connection of a packet.
    pub(crate) fn look_up(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        tuple: Tuple,
        view: View<'_>,
    ) -> Result<Hot, Verdict> {
        let Tuple { protocol, src, src_port, dst, dst_port } = tuple;
        let pool = || view.config.pool_group(protocol, src, src_port);
        let (way, connection) = match view.config.address(dst).map(|found| found.kind) {
            Some(AddressKind::Vip) => {
                let key = FlowKey {
                    protocol,
                    client: src,
                    client_port: src_port,
                    vip: dst,
                    vip_port: dst_port,
                };
                (Way::In, self.find_inbound(frame, packet, key, view)?)
            }
            Some(AddressKind::Gateway) => return Err(Verdict::Drop(Reason::NotOurs)),
            None => {
                let group = pool().ok_or(Verdict::Drop(Reason::NotOurs))?;
                (Way::Out, self.find_return(frame, &tuple, group, view)?)
            }
        };
        Ok(hot(tuple, way, connection, view))
    }

    fn find_inbound(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        key: FlowKey,
        view: View<'_>,
    ) -> Result<Arc<Connection>, Verdict> {
        let Some(found) = self.shared.table.find(&key) else {
            return self.admit(frame, packet, key, None, view);
        };
        if found.target().is_none() {
            return match self.shared.table.bind_one(&found, view.config) {
                Some(bound) => Ok(bound),
                None => Err(Verdict::Drop(Reason::Unbound)),
            };
        }
        let part = match key.protocol {
            Protocol::Udp => Part::Datagram,
            _ if opens(packet) => Part::Opening,
            _ => Part::Middle,
        };
        let service = view.config.service(found.service());
        let policies = service.map(|service| service.spec.policies).unwrap_or_default();
        let finished = found.state().is_reusable();
        match policies.fate(part, finished, standing(found.server(), view)) {
            _ if found.is_superseded() => self.admit(frame, packet, key, Some(found), view),
            Fate::Follow => Ok(found),
            Fate::Replace => self.admit(frame, packet, key, Some(found), view),
            Fate::Drop => Err(Verdict::Drop(Reason::ServerRemoved)),
        }
    }

    fn find_return(
        &mut self,
        frame: &mut Frame<'_>,
        tuple: &Tuple,
        group: GroupId,
        view: View<'_>,
    ) -> Result<Arc<Connection>, Verdict> {
        let key = ReplyKey {
            protocol: tuple.protocol,
            server: tuple.src,
            server_port: tuple.src_port,
            client: tuple.dst,
            client_port: tuple.dst_port,
        };
        let Some(found) = self.shared.table.find_reply(&key) else {
            return Err(self.refuse_return(frame, group, view));
        };
        if view.config.server(found.server()).is_none() {
            return Err(Verdict::Drop(Reason::ServerRemoved));
        }
        Ok(found)
    }
}

fn standing(server: ServerId, view: View<'_>) -> Standing {
    let found = view.config.server(server);
    match found.and_then(|(service, index)| service.spec.servers.get(index)) {
        None => Standing::Gone,
        Some(server) if server.weight == 0 || server.drained => Standing::Drained,
        Some(_) => Standing::Serving,
    }
}

/// What forwarding packets of a connection needs.
pub(crate) fn hot(tuple: Tuple, way: Way, connection: Arc<Connection>, view: View<'_>) -> Hot {
    let server = view.config.server(connection.server());
    Hot {
        tuple,
        way,
        config_generation: view.config.generation(),
        timeouts: view.config.timeouts(connection.service()),
        counters: server.and_then(|(service, index)| service.counters(index).cloned()),
        hop: None,
        connection,
    }
}
