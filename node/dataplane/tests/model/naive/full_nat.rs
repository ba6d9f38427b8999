//! Full-NAT: which local address and port a connection gets is the crate's own choice.

use std::net::IpAddr;

use super::{Conn, Fate, Mode, Naive};
use crate::packet::Pkt;

impl Naive {
    /// Source address and port of what the crate made of the packet at hand.
    pub(super) fn seen_local(&self, ipv6: bool) -> (IpAddr, u16) {
        let octets = |at: usize, len: usize| self.seen.get(at..at + len);
        let addr = match ipv6 {
            true => octets(22, 16).and_then(|of| <[u8; 16]>::try_from(of).ok()).map(IpAddr::from),
            false => octets(26, 4).and_then(|of| <[u8; 4]>::try_from(of).ok()).map(IpAddr::from),
        };
        let port = octets(self.behind_headers(ipv6), 2);
        let port = port.map_or(0, |of| u16::from_be_bytes([of[0], of[1]]));
        (addr.unwrap_or_else(|| IpAddr::from([0; 4])), port)
    }

    /// Where what is carried starts in what the crate made of the packet at hand.
    fn behind_headers(&self, ipv6: bool) -> usize {
        let octet = |at: usize| self.seen.get(at).copied().map_or(0, usize::from);
        if !ipv6 {
            return 14 + (octet(14) & 0xf) * 4;
        }
        let (mut next, mut at) = (octet(20), 54);
        // Options, a route, or which part it is.
        while matches!(next, 0 | 43 | 44 | 60) && at < self.seen.len() {
            let len = if next == 44 { 8 } else { octet(at + 1) * 8 + 8 };
            (next, at) = (octet(at), at + len);
        }
        at
    }

    /// It has to be one of this node's, and no other connection's with that server but one's that has
    /// finished, where hardly any is free. Gives the place of the connection.
    pub(super) fn take_local(&mut self, at: usize, local: (IpAddr, u16)) -> usize {
        let conn = &self.conns[at];
        assert!(self.locals.contains(&local.0), "{local:?} is no local address");
        assert!(self.local_ports.contains(&local.1), "{local:?} is of another node");
        let ipv6 = conn.client.is_ipv6();
        let held =
            self.conns.iter().position(|held| held.local == Some(local) && is_same(held, conn));
        self.tally.chosen += 1;
        self.conns[at].local = Some(local);
        let Some(held) = held else { return at };
        assert!(self.conns[held].is_over(), "{local:?} is taken");
        let conn = &self.conns[at];
        let taken = self.conns.iter().filter(|held| is_same(held, conn)).count();
        assert!(self.is_crowded(taken, ipv6), "{local:?} had to give way, and {taken} are taken");
        self.tally.gave_way[usize::from(ipv6)] += 1;
        let gone = self.conns.remove(held);
        self.leave(&gone);
        at - usize::from(held < at)
    }

    /// Local addresses and ports of this node.
    pub(crate) fn pairs(&self, ipv6: bool) -> usize {
        let addrs = self.locals.iter().filter(|addr| addr.is_ipv6() == ipv6).count();
        addrs * self.local_ports.len()
    }

    /// The crate looks at some of them only, but at enough to find one of many that are free.
    fn is_crowded(&self, taken: usize, ipv6: bool) -> bool {
        taken * 10 > self.pairs(ipv6) * 6
    }

    /// The fate of a packet that asks for a connection to which no local port can be given; whether one
    /// is looked for in vain is the crate's own choice, unless all are taken or many are not.
    pub(super) fn refuse_exhausted(&mut self, pkt: &Pkt, conn: &Conn) -> Option<Fate> {
        if conn.mode != Mode::FullNat {
            return None;
        }
        let ipv6 = conn.client.is_ipv6();
        let live = |held: &&Conn| is_same(held, conn) && !held.is_over();
        let taken = self.conns.iter().filter(live).count();
        if !std::mem::take(&mut self.seen_exhausted) {
            assert!(taken < self.pairs(ipv6), "a local port too many");
            return None;
        }
        assert!(self.is_crowded(taken, ipv6), "exhausted, with {taken} taken");
        self.tally.exhausted[usize::from(ipv6)] += 1;
        Some(match self.reject(pkt) {
            Fate::Dropped(_) => Fate::Dropped("local_ports_exhausted"),
            told => told,
        })
    }
}

/// Goes to the same server.
fn is_same(held: &Conn, conn: &Conn) -> bool {
    held.mode == Mode::FullNat
        && held.port == conn.port
        && (held.proto, held.addr) == (conn.proto, conn.addr)
}
