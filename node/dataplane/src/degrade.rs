//! Connections that are above a limit: they go by the hash, without a place in the table.
//!
//! Each packet is sent where hashing leads its client ([`Service::by_hash`]); under NAT replies find
//! back because their server answers for one service only. From the first such packet of a service
//! on, for the time-out of a SYN, packets in the middle of unknown connections are taken for such:
//! there is no telling, and a reset would end them. As soon as the limits have room, one gets its
//! place in the table (it is *adopted*), half-open until a second packet or a reply proves it.
//!
//! What a connection lacks while it goes by the hash: it is not copied to peers and not counted by
//! the thresholds of its server; it moves when a server comes, goes or changes its weight or health;
//! it is lost when it is silent for longer than the time-out of a SYN after the limit was last
//! exceeded. Its fragments and ICMP errors about it are dropped. Nor does it go where a QUIC connection
//! ID says. There is none of this for services with persistence, full-NAT or
//! PROXY headers, nor under NAT for
//! servers that two services share, or whose service has several addresses or ports: what is above a
//! limit is dropped there.
//!
//! Guarantees: no memory and no lock for such a packet, beside trying for a place.

use std::time::Duration;

use steadfast_packet::Packet;

use crate::{
    Actions, Asked, ClientAddress, Excess, FlowKey, Forwarding, Over, Reason, Service, State,
    SyncHook, Target, Verdict,
    cache::{Tuple, Way},
    forward::Path,
    frame::Frame,
    worker::{Core, View},
};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// The limit of its service that one more connection of this client would exceed.
    pub(crate) fn excess(&self, service: &Service, key: &FlowKey, now_ns: u64) -> Option<Excess> {
        let limits = &service.spec.limits;
        let of_source = || self.shared.table.of_source(service.spec.id, key.client);
        if limits.per_source > 0 && of_source() >= limits.per_source {
            return Some(Excess::PerSource);
        }
        (!service.defence.take_new(now_ns)).then_some(Excess::NewPerS)
    }

    /// What becomes of a packet that would open a connection above a limit.
    pub(crate) fn open_above(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        above: &Above<'_>,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let Above { service, excess, .. } = *above;
        let defence = &service.defence;
        let is_limit = excess != Excess::HalfOpen;
        if is_limit && service.spec.limits.over == Over::Refuse {
            defence.count_refused(self.index, excess);
            return self.reject(frame, packet, view);
        }
        let verdict = self.send_by_hash(frame, packet, above, view, actions);
        if verdict == Verdict::Drop(Reason::OverLimit) {
            defence.count_refused(self.index, excess);
        } else {
            defence.count_hashed(self.index, excess);
        }
        verdict
    }

    /// Sends a packet of a connection that is not in the table where the hash says.
    pub(crate) fn send_by_hash(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        above: &Above<'_>,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let Above { service, key, .. } = *above;
        let Some(server) = service.by_hash(&asked(key, frame.now_ns)) else {
            return self.reject(frame, packet, view);
        };
        let Some(target) = target(service, server, &key, view) else {
            return Verdict::Drop(Reason::OverLimit);
        };
        service.defence.hash_for(frame.now_ns, hashing_time(service));
        let way = Way::In;
        let path = Path {
            way,
            target,
            key,
            local: None,
            deltas: None,
            service: service.spec.id,
            told: None,
        };
        self.send_alone(frame, packet, &path, (service, server), view, actions)
    }

    /// Sends a server's packet to the client of a connection that is not in the table; none if the
    /// hash does not lead that client to this server.
    pub(crate) fn return_by_hash(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        tuple: &Tuple,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Option<Verdict> {
        let Tuple { protocol, src, src_port, dst, dst_port } = *tuple;
        let service = view.config.answering(protocol, src, src_port)?;
        if !service.defence.is_hashing(frame.now_ns) {
            return None;
        }
        let spec = &service.spec;
        let listen = spec.listen.first()?;
        let key = FlowKey {
            protocol,
            client: dst,
            client_port: dst_port,
            vip: listen.vip,
            vip_port: listen.ports.first,
        };
        let server = service.by_hash(&asked(key, frame.now_ns))?;
        let target = target(service, server, &key, view)?;
        if (target.addr, target.port) != (src, src_port) {
            return None;
        }
        let path = Path {
            way: Way::Out,
            target,
            key,
            local: None,
            deltas: None,
            service: spec.id,
            told: None,
        };
        Some(self.send_alone(frame, packet, &path, (service, server), view, actions))
    }

    /// Sends a packet on its way that no connection stands for.
    fn send_alone(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        path: &Path<'_>,
        of: (&Service, usize),
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        // Its other parts would find nothing to follow.
        if packet.fragment.is_some() {
            return Verdict::Drop(Reason::OverLimit);
        }
        self.hook.hashed(&path.target);
        self.pass_alone(frame, packet, path, of, view, actions)
    }
}

/// A connection that is above a limit.
#[derive(Clone, Copy)]
pub(crate) struct Above<'a> {
    pub(crate) service: &'a Service,
    pub(crate) key: FlowKey,
    pub(crate) excess: Excess,
}

/// Who asks for a server.
pub(crate) fn asked(key: FlowKey, now_ns: u64) -> Asked {
    let FlowKey { client, client_port, vip, .. } = key;
    Asked { client, client_port, vip, now_ns }
}

/// For how long after a packet that went by the hash others may: as long as a SYN is remembered.
pub(crate) fn hashing_time(service: &Service) -> Duration {
    Duration::from_nanos(service.spec.timeouts.of_ns(State::SynRecv))
}

/// How packets reach the server at this index, if its replies find back without a connection.
fn target(service: &Service, index: usize, key: &FlowKey, view: View<'_>) -> Option<Target> {
    let spec = &service.spec;
    let server = spec.servers.get(index)?;
    // Without a local port of its own it has nowhere to come from, and without a place in the table
    // nobody knows where its header goes; and a template may have led the client elsewhere.
    let has_header = spec.client_address == ClientAddress::ProxyV2;
    if spec.forwarding == Forwarding::FullNat || has_header || spec.persistence.is_some() {
        return None;
    }
    let (addr, port) = (server.addr, server.port_for(key.vip_port));
    if spec.forwarding == Forwarding::Nat {
        let answering = view.config.answering(key.protocol, addr, port)?;
        if answering.spec.id != spec.id {
            return None;
        }
    }
    Some(Target { addr, port, forwarding: spec.forwarding })
}
