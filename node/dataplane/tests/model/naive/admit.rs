//! Packets of no known connection.

use std::net::IpAddr;

use super::{
    Conn, Fate, Group, Mode, Naive, PEERS, Role, Way,
    forward::{quotation, take_token},
};
use crate::packet::{ACK, Between, Body, FIN, Part, Pkt, Proto, RST, SYN};

impl Naive {
    pub(super) fn unknown(&mut self, pkt: &Pkt, proto: Proto, old: Option<usize>) -> Fate {
        let group = self.group(pkt.dst);
        let role = self.role(group);
        match role {
            Role::Nobody => return Fate::Dropped("no_holder"),
            Role::Other => {
                if let Some(at) = old
                    && pkt.opens()
                {
                    self.conns[at].superseded = true;
                }
                return self.relay(pkt);
            }
            Role::Holder { .. } => {}
        }
        let is_client = match pkt.src {
            IpAddr::V4(addr) => !matches!(addr.octets()[0], 0 | 127 | 224..),
            IpAddr::V6(addr) => {
                let text = addr.to_string();
                !(text == "::" || text == "::1" || text.starts_with("ff") || text.contains('.'))
            }
        };
        if !is_client {
            return Fate::Dropped("malformed");
        }
        let opens = pkt.opens();
        if !opens && !role.is_settled(self.now) {
            return Fate::Dropped("held_back");
        }
        let Some(service) = self.listener(pkt, proto) else {
            return match group {
                Group::First => self.reject(pkt),
                Group::Quiet => Fate::Dropped("unserved"),
            };
        };
        if !opens {
            // Its client is told, or would have been: nobody needs it any more.
            if let Some(at) = old
                && !self.is_known(&self.conns[at])
            {
                let gone = self.conns.remove(at);
                self.leave(&gone);
            }
            if old.is_none() && self.services[service].hashing > self.now {
                return self.adopt(pkt, proto, service);
            }
            return self.reject(pkt);
        }
        self.note_newcomer(pkt, service);
        if let Some(excess) = self.excess(service, pkt) {
            if let Some(at) = old {
                let gone = self.conns.remove(at);
                self.leave(&gone);
            }
            return self.above(pkt, service, excess);
        }
        match self.choose(service, pkt) {
            Some((server, _)) if self.services[service].once => {
                self.send_once(pkt, service, server)
            }
            Some((server, controlled)) => {
                let fate = self.open(pkt, proto, (service, server), old, (false, controlled));
                if controlled && !self.opened {
                    let of = &self.services[service];
                    self.release(of.id, pkt.src, of.servers[server].id);
                }
                fate
            }
            None => {
                if let Some(at) = old {
                    let gone = self.conns.remove(at);
                    self.leave(&gone);
                }
                self.reject(pkt)
            }
        }
    }

    /// Who is on the link and unknown there is believed where it sends from.
    fn note_newcomer(&mut self, pkt: &Pkt, service: usize) {
        let is_answered = matches!(self.services[service].mode, Mode::Nat | Mode::FullNat);
        if is_answered
            && !pkt.is_from_peer()
            && matches!(self.way(pkt.src), Way::Silent(port) if port == pkt.port)
        {
            self.newcomers.insert(pkt.src, (pkt.src_mac, self.now));
        }
    }

    pub(super) fn open(
        &mut self,
        pkt: &Pkt,
        proto: Proto,
        (of, server): (usize, usize),
        old: Option<usize>,
        (adopted, controlled): (bool, bool),
    ) -> Fate {
        self.opened = false;
        let service = of;
        let (cport, vport) = pkt.ports();
        let service = &self.services[service];
        let server = service.servers[server];
        let conn = Conn {
            proto,
            client: pkt.src,
            cport,
            vip: pkt.dst,
            vport,
            gone: service.gone,
            serial: self.entries,
            server: server.id,
            addr: server.addr,
            port: server.port_for(vport),
            mode: service.mode,
            tunnel: service.tunnel,
            local: None,
            state: if proto == Proto::Udp { "UDP" } else { "NONE" },
            seen: self.now,
            superseded: false,
            packets: 0,
            replies: 0,
            assured: false,
            adopted,
            service: service.id,
            controlled,
            is_counted: service.limits.per_source > 0,
            entered: self.entries,
        };
        self.entries += 1;
        if let Some(fate) = self.refuse_exhausted(pkt, &conn) {
            return fate;
        }
        // Two connections of one client port with one server's port could not be told apart.
        let twin = self.conns.iter().enumerate().position(|(at, held)| {
            held.cport == conn.cport
                && Some(at) != old
                && held.mode == Mode::Nat
                && conn.mode == Mode::Nat
                && held.proto == conn.proto
                && (held.addr, held.port) == (conn.addr, conn.port)
                && held.client == conn.client
        });
        if let Some(twin) = twin
            && !self.conns[twin].is_over()
        {
            return Fate::Dropped("reply_taken");
        }
        let gone: Vec<usize> = [old, twin].into_iter().flatten().collect();
        let mut left = Vec::new();
        if !gone.is_empty() {
            let all = std::mem::take(&mut self.conns);
            for (at, conn) in all.into_iter().enumerate() {
                if gone.contains(&at) { left.push(conn) } else { self.conns.push(conn) }
            }
        }
        left.iter().for_each(|conn| self.leave(conn));
        if old.is_none() && self.is_full() {
            return Fate::Dropped("table_full");
        }
        if old.is_none() && !self.make_room(of) {
            return self.by_hash(pkt, of);
        }
        let server = conn.server;
        self.conns.push(conn);
        self.judge(server);
        self.opened = true;
        self.forward(pkt, self.conns.len() - 1, true)
    }

    pub(super) fn relay(&self, pkt: &Pkt) -> Fate {
        if pkt.is_from_peer() {
            return Fate::Dropped("relay_loop");
        }
        // The holder's address is not known on every interface.
        let port = usize::from(pkt.port);
        let Some(peer) = PEERS[port] else { return Fate::Dropped("no_holder") };
        let mut sent = pkt.clone();
        (sent.src_mac, sent.dst_mac) = (self.own[port], peer);
        Fate::Sent(sent)
    }

    pub(super) fn reject(&mut self, pkt: &Pkt) -> Fate {
        if pkt.resets() {
            return Fate::Dropped("unknown_reset");
        }
        if !take_token(&mut self.paid, self.now) {
            return Fate::Dropped("rate_limited");
        }
        let body = match &pkt.body {
            Body::Tcp { sport, dport, seq, ack, flags, options, data, .. } => {
                let has_ack = flags & ACK != 0;
                let ends = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
                let here = |part: Part| part.len - 20 - options.len();
                let len = pkt.fragment().map_or(data.len(), here) as u32 + ends;
                Body::Tcp {
                    sport: *dport,
                    dport: *sport,
                    seq: if has_ack { *ack } else { 0 },
                    ack: if has_ack { 0 } else { seq.wrapping_add(len) },
                    flags: if has_ack { RST } else { RST | ACK },
                    window: 0,
                    options: Vec::new(),
                    data: Vec::new(),
                }
            }
            // Whether a part is what was sent nobody can tell.
            Body::Sctp(_) if pkt.fragment().is_some() => return Fate::Dropped("unknown_reset"),
            Body::Sctp(sctp) => match sctp.refusal() {
                Some(refusal) => Body::Sctp(refusal),
                None => return Fate::Dropped("unknown_reset"),
            },
            _ => {
                let mut rest = vec![0; 4];
                rest.extend(quotation(pkt));
                let (kind, code) = if pkt.src.is_ipv6() { (1, 4) } else { (3, 3) };
                Body::Icmp { kind, code, rest }
            }
        };
        self.answer(pkt, body, None)
    }

    /// `like`: what the answer has of its question beside the addresses.
    pub(super) fn answer(&self, pkt: &Pkt, body: Body, like: Option<&Pkt>) -> Fate {
        let (port, mac) = match self.way(pkt.src) {
            Way::Known(port, mac) => (port, mac),
            // Nobody to answer to but who sent it, unless that is another node.
            _ if pkt.is_from_peer() => {
                return Fate::Dropped("next_hop_unresolved");
            }
            _ => (pkt.port, pkt.src_mac),
        };
        let between = Between::Nothing;
        let plain = Pkt { tos: 0, df: true, id: 0, label: 0, part: None, between, ..pkt.clone() };
        let src_mac = self.own[usize::from(port)];
        let (src, dst, dst_mac) = (pkt.dst, pkt.src, mac);
        let like = like.cloned().unwrap_or(plain);
        Fate::Sent(Pkt { port, src_mac, dst_mac, src, dst, ttl: 64, body, ..like })
    }
}
