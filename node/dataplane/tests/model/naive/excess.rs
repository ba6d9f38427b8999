//! The bound of half-open connections, and what goes by the hash above it.

use std::net::IpAddr;

use super::{
    Conn, Fate, Flow, Mode, Naive, SECOND, Sched, Service, forward::Path, schedulers::maglev,
    state::is_half_open,
};
use crate::packet::{Pkt, Proto};

/// What a connection is worth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Worth {
    Little,
    Less,
    All,
}

impl Conn {
    pub(super) fn worth(&self) -> Worth {
        if !self.assured && (self.adopted || self.proto == Proto::Udp) {
            return Worth::Little;
        }
        match self.state {
            state if is_half_open(state) => Worth::Little,
            "ESTABLISHED" | "UDP" => Worth::All,
            _ => Worth::Less,
        }
    }
}

impl Service {
    /// The way of a packet without a connection.
    pub(super) fn path(&self, inbound: bool, flow: Flow, server: (IpAddr, u16)) -> Path {
        let Self { mode, tunnel, clamp, .. } = *self;
        Path { inbound, mode, tunnel, clamp, flow, server, local: None, told_after: None }
    }
}

impl Naive {
    /// The oldest half-open connection goes when there are too many, as many in a second as there
    /// may be, an eighth of that at once. False when it may not go yet.
    pub(super) fn make_room(&mut self, service: usize) -> bool {
        let half_open = (0..self.conns.len()).filter(|at| self.conns[*at].worth() == Worth::Little);
        let half_open: Vec<usize> = half_open.collect();
        if half_open.len() < self.half_open_max {
            self.squeeze(service);
            return true;
        }
        let cost = SECOND / self.half_open_max as u64;
        let saved = cost * (self.half_open_max as u64 / 8).max(1);
        let from = self.half_open_paid.max(self.now - saved);
        if from + cost > self.now {
            return false;
        }
        self.half_open_paid = from + cost;
        let oldest = half_open.into_iter().min_by_key(|at| self.conns[*at].entered).unwrap();
        let gone = self.conns.remove(oldest);
        self.leave(&gone);
        self.expect(service, &gone);
        self.squeeze(service);
        true
    }

    /// A handshake that went, but whose server the hash would find again.
    pub(super) fn expect(&mut self, service: usize, gone: &Conn) {
        let of = &mut self.services[service];
        // A template may have led it elsewhere than the hash does.
        if of.persist.is_some() || of.mode == Mode::FullNat {
            return;
        }
        let first = match of.sched {
            Sched::Mh { port, .. } => {
                maglev(&of.servers, gone.client, gone.cport, port, false, &|_| true)
            }
            Sched::Sh { port, .. } => of.bucket(gone.client, gone.cport, port),
            Sched::Dh => of.destination(gone.vip),
            _ => None,
        };
        let same = first.is_some_and(|at| of.servers[at].id == gone.server);
        if same && is_half_open(gone.state) {
            of.hashing = of.hashing.max(self.now + 60 * SECOND);
        }
    }

    /// A packet in the middle of a connection that may have gone by the hash.
    pub(super) fn adopt(&mut self, pkt: &Pkt, proto: Proto, service: usize) -> Fate {
        let (cport, _) = pkt.ports();
        if pkt.resets() || self.excess(service, pkt).is_some() {
            return self.by_hash(pkt, service);
        }
        match self.hashed(service, pkt, (pkt.src, cport, pkt.dst)) {
            Some(server) => {
                let fate = self.open(pkt, proto, (service, server), None, (true, false));
                self.tally.adopted += u64::from(self.opened);
                fate
            }
            None => self.by_hash(pkt, service),
        }
    }

    /// A packet that goes by the hash.
    pub(super) fn by_hash(&mut self, pkt: &Pkt, service: usize) -> Fate {
        let (cport, vport) = pkt.ports();
        let Some(server) = self.hashed(service, pkt, (pkt.src, cport, pkt.dst)) else {
            return self.reject(pkt);
        };
        let of = &self.services[service];
        // A template may have led the client elsewhere.
        if of.persist.is_some() || of.mode == Mode::FullNat {
            return Fate::Dropped("over_limit");
        }
        let (server, mode) = (of.servers[server], of.mode);
        let port = server.port_for(vport);
        let proto = pkt.proto().unwrap();
        if mode == Mode::Nat && self.answering(proto, server.addr, port) != Some(service) {
            return Fate::Dropped("over_limit");
        }
        let of = &mut self.services[service];
        of.hashing = of.hashing.max(self.now + 60 * SECOND);
        // Its other parts would find nothing to follow.
        if pkt.fragment().is_some() {
            return Fate::Dropped("over_limit");
        }
        let flow = ((pkt.src, cport), (pkt.dst, vport));
        let path = of.path(true, flow, (server.addr, port));
        self.on_way(pkt, &path).map_or_else(|fate| *fate, Fate::Sent)
    }

    /// A server's packet for a connection that may have gone by the hash.
    pub(super) fn hashed_return(&mut self, pkt: &Pkt, proto: Proto) -> Option<Fate> {
        let (sport, dport) = pkt.ports();
        let service = self.answering(proto, pkt.src, sport)?;
        let of = &self.services[service];
        let (_, vip, vport) = of.alone()?;
        if of.hashing <= self.now {
            return None;
        }
        let server = self.hashed(service, pkt, (pkt.dst, dport, vip))?;
        let server = self.services[service].servers[server];
        if (server.addr, server.port_for(vport)) != (pkt.src, sport) {
            return None;
        }
        if pkt.fragment().is_some() {
            return Some(Fate::Dropped("over_limit"));
        }
        let of = &self.services[service];
        let path = of.path(false, ((pkt.dst, dport), (vip, vport)), (pkt.src, sport));
        Some(self.on_way(pkt, &path).map_or_else(|fate| *fate, Fate::Sent))
    }

    /// The only NAT service with this server; of one of several addresses or ports an answer does
    /// not say which.
    fn answering(&self, proto: Proto, addr: IpAddr, port: u16) -> Option<usize> {
        let of = (0..self.services.len()).filter(|at| {
            let service = &self.services[*at];
            service.alone().is_some() && service.answers(proto, addr, port)
        });
        let of: Vec<usize> = of.collect();
        (of.len() == 1).then(|| of[0])
    }

    /// The server that hashing alone gives a client.
    fn hashed(
        &mut self,
        service: usize,
        pkt: &Pkt,
        (client, cport, vip): (IpAddr, u16, IpAddr),
    ) -> Option<usize> {
        match self.services[service].sched {
            Sched::Dh | Sched::Sh { .. } | Sched::Mh { .. } => {
                let (_, vport) = pkt.ports();
                let mut asking = pkt.clone();
                (asking.src, asking.dst) = (client, vip);
                asking.set_ports(cport, vport);
                self.schedule(service, &asking)
            }
            _ => {
                let pool = self.pool(service, false);
                maglev(&pool.servers, client, cport, true, true, &|at| pool.takes(at))
            }
        }
    }
}
