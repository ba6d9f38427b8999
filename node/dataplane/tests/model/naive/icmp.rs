//! Echo, and errors about packets of known connections.

use super::{Conn, Fate, Mode, Naive, Role, Tunnel, Way};
use crate::packet::{Body, Pkt};

/// Which errors were passed on: of IPv6, of a mode and a protocol, to a server.
pub(crate) type Passed = (bool, Mode, crate::packet::Proto, bool);

impl Naive {
    pub(super) fn icmp(&mut self, pkt: &Pkt) -> Fate {
        if let Body::Error { kind, quoted, cut, .. } = &pkt.body
            && (if pkt.src.is_ipv6() { *kind < 128 } else { matches!(kind, 3 | 4 | 11 | 12) })
        {
            return self.error(pkt, quoted, *cut);
        }
        if !self.vips.contains(&pkt.dst) && !self.locals.contains(&pkt.dst) {
            return Fate::Dropped("not_ours");
        }
        let (request, reply) = if pkt.src.is_ipv6() { (128, 129) } else { (8, 0) };
        let rest = match &pkt.body {
            Body::Icmp { kind, code, rest } if (*kind, *code) == (request, 0) => rest.clone(),
            _ => return Fate::Dropped("protocol"),
        };
        match self.role(self.group(pkt.dst)) {
            Role::Nobody => Fate::Dropped("no_holder"),
            Role::Other => self.relay(pkt),
            Role::Holder { .. } => {
                let body = Body::Icmp { kind: reply, code: 0, rest };
                self.answer(pkt, body, Some(pkt))
            }
        }
    }

    /// An error goes to who sent the packet that it is about, each header in its terms.
    fn error(&mut self, pkt: &Pkt, quoted: &Pkt, cut: usize) -> Fate {
        // The ports are the first four octets behind the header.
        let header = if pkt.src.is_ipv6() { 40 } else { 20 };
        let Some(proto) = quoted.proto().filter(|_| cut >= header + 4) else {
            return Fate::Dropped("icmp_quote");
        };
        let (sport, dport) = quoted.ports();
        let inbound = self.vips.contains(&pkt.dst);
        let group = match inbound {
            true => Some(self.group(pkt.dst)),
            false => self.group_of_answer(proto, pkt.dst, (quoted.dst, dport)),
        };
        let Some(group) = group else { return Fate::Dropped("not_ours") };
        if quoted.src != pkt.dst {
            return Fate::Dropped("icmp_quote");
        }
        let is_of = |conn: &&Conn| {
            let client = (conn.client, conn.cport);
            let ends = match inbound {
                true => ((conn.vip, conn.vport), client),
                false => (conn.local.unwrap_or(client), (conn.addr, conn.port)),
            };
            let answers = inbound || conn.mode.returns();
            answers && conn.proto == proto && ends == ((quoted.src, sport), (quoted.dst, dport))
        };
        let found =
            self.conns.iter().find(is_of).filter(|conn| self.is_known(conn) && !conn.superseded);
        match (found.cloned(), self.role(group)) {
            (Some(conn), _) => self.pass_on(pkt, quoted, &conn, inbound),
            (None, Role::Other) => self.relay(pkt),
            (None, _) => Fate::Dropped("icmp_unknown"),
        }
    }

    fn pass_on(&mut self, pkt: &Pkt, quoted: &Pkt, conn: &Conn, inbound: bool) -> Fate {
        let towards = if inbound { conn.addr } else { conn.client };
        let (port, mac) = match self.way(towards) {
            Way::Known(port, mac) => (port, mac),
            Way::Silent(_) => return Fate::Dropped("next_hop_unresolved"),
            Way::NoRoute => return Fate::Dropped("no_route"),
        };
        if pkt.ttl <= 1 {
            return Fate::Dropped("ttl_exceeded");
        }
        let into: Option<Tunnel> = (conn.mode == Mode::Tunnel && inbound).then_some(conn.tunnel);
        let overhead = into.map_or(0, |tunnel| tunnel.overhead(conn.addr));
        if pkt.packet().len() > self.mtu(port, towards) - overhead {
            return Fate::Dropped("too_big");
        }
        let mut sent = pkt.clone();
        (sent.port, sent.src_mac, sent.dst_mac) = (port, self.own[usize::from(port)], mac);
        sent.ttl -= 1;
        if conn.mode.returns() {
            let mut inner = quoted.clone();
            let (sport, dport) = quoted.ports();
            if inbound {
                (sent.dst, inner.src) = (conn.addr, conn.addr);
                inner.set_ports(conn.port, dport);
                // All that a full-NAT server knows of anybody.
                if let Some((local, port)) = conn.local {
                    (sent.src, inner.dst) = (local, local);
                    inner.set_ports(conn.port, port);
                }
            } else if conn.mode == Mode::FullNat {
                (sent.src, sent.dst) = (conn.vip, conn.client);
                (inner.src, inner.dst) = (conn.client, conn.vip);
                inner.set_ports(conn.cport, conn.vport);
            } else {
                (sent.src, inner.dst) = (conn.vip, conn.vip);
                inner.set_ports(sport, conn.vport);
            }
            if !inbound && self.told_after(conn).is_some() {
                self.lower_told(&mut sent.body, pkt.src.is_ipv6());
            }
            // That of SCTP is over what is not quoted, and stays.
            if let (Body::Sctp(new), Body::Sctp(old)) = (&mut inner.body, &quoted.body) {
                new.keep_checksum(old);
            }
            // Half a checksum can be put right by nobody, and stays.
            let header = if pkt.src.is_ipv6() { 40 } else { 20 };
            let half = match inner.body {
                Body::Tcp { .. } => header + 17,
                Body::Udp { .. } => header + 7,
                _ => 0,
            };
            if let Body::Error { quoted, cut, last, .. } = &mut sent.body {
                *last = (*cut == half).then(|| quoted.packet()[half - 1]);
                **quoted = inner;
            }
        }
        let flow = ((conn.client, conn.cport), (conn.vip, conn.vport));
        if let Some(tunnel) = into {
            match self.encapsulate(&sent, tunnel, conn.addr, flow) {
                Some(outer) => sent = outer,
                None => return Fate::Dropped("no_source"),
            }
        }
        let passed = (pkt.src.is_ipv6(), conn.mode, conn.proto, inbound);
        *self.tally.errors.entry(passed).or_default() += 1;
        self.passed = true;
        Fate::Sent(sent)
    }
}
