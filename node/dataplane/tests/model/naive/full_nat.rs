//! Full-NAT: which local address and port a connection gets is the crate's own choice.

use std::net::IpAddr;

use super::Naive;

impl Naive {
    /// Source address and port of what the crate made of the packet at hand.
    pub(super) fn seen_local(&self, ipv6: bool) -> (IpAddr, u16) {
        let octets = |at: usize, len: usize| self.seen.get(at..at + len);
        let addr = match ipv6 {
            true => octets(22, 16).and_then(|of| <[u8; 16]>::try_from(of).ok()).map(IpAddr::from),
            false => octets(26, 4).and_then(|of| <[u8; 4]>::try_from(of).ok()).map(IpAddr::from),
        };
        // A part has a header that says so.
        let at = match (ipv6, self.seen.get(20)) {
            (true, Some(44)) => 62,
            (true, _) => 54,
            (false, _) => 34,
        };
        let port = octets(at, 2);
        let port = port.map_or(0, |of| u16::from_be_bytes([of[0], of[1]]));
        (addr.unwrap_or_else(|| IpAddr::from([0; 4])), port)
    }

    /// It has to be one of this node's, and no other connection's with that server.
    pub(super) fn take_local(&mut self, at: usize, local: (IpAddr, u16)) {
        let conn = &self.conns[at];
        assert!(self.locals.contains(&local.0), "{local:?} is no local address");
        assert!(self.local_ports.contains(&local.1), "{local:?} is of another node");
        let is_same = |held: &super::Conn| {
            held.port == conn.port
                && held.local == Some(local)
                && (held.proto, held.addr) == (conn.proto, conn.addr)
        };
        assert!(!self.conns.iter().any(is_same), "{local:?} is taken");
        self.chosen += 1;
        self.conns[at].local = Some(local);
    }
}
