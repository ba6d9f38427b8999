//! Fragments: the first is a packet like any other, the others follow it.

use std::net::IpAddr;

use steadfast_packet::{Fragment, Packet};

use crate::{
    Actions, AddressKind, Connection, Forwarding, GroupId, Protocol, Reason, Role, SyncHook,
    Verdict,
    cache::{HotServer, Way},
    forward::Hot,
    frame::Frame,
    worker::{Core, View},
};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// What becomes of a fragment; none for a first one that is to be looked up by its ports.
    ///
    /// Of a group that another node holds all fragments to a VIP or local address go there, also those of
    /// connections known here: the others have nothing to follow, in whatever order they come.
    pub(crate) fn handle_fragment(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        fragment: &Fragment,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Option<Verdict> {
        let address = view.config.address(packet.dst);
        let own = address.filter(|address| address.kind != AddressKind::Gateway);
        if let Some(own) = own
            && let Some(verdict) = self.relay_fragment(frame, own.group, Some(packet.dst), view)
        {
            return Some(verdict);
        }
        if packet.tuple().is_some() {
            return None;
        }
        if fragment.offset == 0 {
            return Some(Verdict::Drop(Reason::Fragment));
        }
        let pool = || view.config.pool_group_of(packet.src).filter(|_| own.is_none());
        // Only where the first one would come too.
        let may_wait = own.is_some() || pool().is_some_and(|group| !self.is_held_elsewhere(group));
        match self.shared.fragments.follow(frame, packet, fragment, may_wait) {
            Ok((connection, way)) => {
                Some(self.follow_first(frame, packet, (connection, way), view, actions))
            }
            Err(reason) => {
                // A server that has not heard who answers for its gateway now sends them here.
                let relayed =
                    pool().and_then(|group| self.relay_fragment(frame, group, None, view));
                Some(relayed.unwrap_or(Verdict::Drop(reason)))
            }
        }
    }

    /// Sends a packet with ports on its way; the first fragment of one shows the others theirs.
    pub(crate) fn carry(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        hot: Hot<'_>,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        if let Some(fragment) = &packet.fragment {
            if needs_the_whole(packet, &hot) {
                return Verdict::Drop(Reason::Fragment);
            }
            let (now_ns, fragments) = (frame.now_ns, &self.shared.fragments);
            match fragments.open(now_ns, packet, fragment, hot.connection, hot.way) {
                Ok(early) => self.released = early,
                Err(reason) => return Verdict::Drop(reason),
            }
        }
        self.forward(frame, packet, hot, view, actions)
    }

    /// Hands a fragment to the holder of the group, if that is another node.
    fn relay_fragment(
        &mut self,
        frame: &mut Frame<'_>,
        group: GroupId,
        vip: Option<IpAddr>,
        view: View<'_>,
    ) -> Option<Verdict> {
        match &*self.shared.groups.role(group) {
            Role::Other { relay } => Some(self.relay(frame, relay, group, vip, view)),
            Role::Holder { .. } | Role::NoHolder { .. } => None,
        }
    }

    fn is_held_elsewhere(&self, group: GroupId) -> bool {
        matches!(&*self.shared.groups.role(group), Role::Other { .. })
    }

    fn follow_first(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        (connection, way): (Connection, Way),
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        // It has no ports, and never gets into the cache.
        match HotServer::of(connection.server(), view.config) {
            Some(mut server) if connection.is_open() => {
                let hot = Hot { way, connection: &connection, server: &mut server };
                self.forward(frame, packet, hot, view, actions)
            }
            _ => Verdict::Drop(Reason::ServerRemoved),
        }
    }
}

/// A first fragment of SCTP that gets another port: the checksum is over the whole packet, whose
/// length no fragment but the last tells.
fn needs_the_whole(packet: &Packet, hot: &Hot<'_>) -> bool {
    let Some((Protocol::Sctp, src_port, dst_port)) = packet.tuple() else { return false };
    let Some(target) = hot.connection.target() else { return false };
    let changes = match hot.way {
        Way::In => dst_port != target.port,
        Way::Out => src_port != hot.connection.key().vip_port,
    };
    match target.forwarding {
        Forwarding::Nat => changes,
        // A local port is never the client's but by chance.
        Forwarding::FullNat => true,
        Forwarding::Dr | Forwarding::Tunnel(_) => false,
    }
}
