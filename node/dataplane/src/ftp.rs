//! FTP through NAT: data connections go to the server of their client's control connection.
//!
//! Which server that is the template says that led the control connection there, and templates are
//! copied to the other nodes: nothing is noted of commands and replies, so that there is nothing to
//! lose with a node. To a data port comes a client with a template; from a server comes a data
//! connection (PORT, EPRT) to a client with a template of that server. Both are connections like
//! any others from then on. What becomes of a 227 reply: see `replies`.
//!
//! Not here: control connections under TLS whose clients send PASV; with EPSV they work.

use steadfast_packet::{Packet, Transport};

use crate::{
    Connection, FlowKey, Protocol, Reason, Role, Service, SyncHook, TemplateKey, Verdict,
    admit::Opening,
    cache::Tuple,
    frame::Frame,
    worker::{Core, View},
};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Whether a packet of no connection may open one to the service: to a data port only while
    /// its client has a server there.
    pub(crate) fn may_come(&self, service: &Service, key: &FlowKey) -> bool {
        let spec = &service.spec;
        if !spec.is_data_port(key.vip_port) {
            return true;
        }
        let Some(persistence) = spec.persistence else { return false };
        let key = TemplateKey { service: spec.id, client: persistence.network(key.client) };
        self.shared.table.templates.find(&key).is_some()
    }

    /// The data connection that a server opens to its client, if this is one.
    pub(crate) fn open_from_server(
        &mut self,
        frame: &Frame<'_>,
        packet: &Packet,
        tuple: &Tuple,
        view: View<'_>,
    ) -> Option<Result<Connection, Verdict>> {
        let Transport::Tcp { flags, .. } = packet.transport else { return None };
        if !flags.syn() || flags.ack() || flags.rst() {
            return None;
        }
        let (service, index) = view.config.ftp(tuple.src)?;
        let spec = &service.spec;
        let server = spec.servers.get(index)?;
        let vip_port = spec.data_vip_port(server, tuple.src_port)?;
        let role = self.shared.groups.role(spec.group);
        let Role::Holder { epoch, .. } = &*role else { return None };
        let templates = &self.shared.table.templates;
        if !templates.hold(spec.id, tuple.dst, server.id) {
            return None;
        }
        let key = FlowKey {
            protocol: Protocol::Tcp,
            client: tuple.dst,
            client_port: tuple.dst_port,
            vip: spec.listen.first()?.vip,
            vip_port,
        };
        let (server_id, epoch) = (server.id, *epoch);
        let new = Opening {
            key,
            server: index,
            epoch,
            adopted: false,
            controlled: true,
            deltas: None,
            handshake: None,
        };
        let opened = self.open(frame.now_ns, service, &new, None);
        if !opened.as_ref().is_ok_and(|(_, is_new)| *is_new) {
            self.shared.table.templates.release(spec.id, tuple.dst, server_id);
        }
        Some(match opened {
            // Another server's, to the same port of the client at the same time.
            Ok((connection, _)) if connection.server() != server_id => {
                Err(Verdict::Drop(Reason::ReplyTaken))
            }
            Ok((connection, _)) => Ok(connection),
            Err(reason) => Err(Verdict::Drop(reason)),
        })
    }
}
