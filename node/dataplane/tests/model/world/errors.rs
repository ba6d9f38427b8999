//! ICMP errors at random.

use super::{World, addr, kinds::TOLD};
use crate::{
    naive::{Conn, Mode},
    packet::{Body, Pkt},
};

impl World {
    /// An error about a packet of a connection, or one that is nearly so.
    pub(super) fn error(&mut self, conn: &Conn) -> Pkt {
        let ipv6 = conn.client.is_ipv6();
        let inbound = !(conn.mode.returns() && self.random.percent(50));
        let row = self.row(conn.proto);
        let router = addr(ipv6, u8::from(!inbound), 250);
        // What it is about went the other way.
        let (client, vip) = ((conn.client, conn.cport), (conn.vip, conn.vport));
        let known = conn.local.unwrap_or(client);
        let (from, to) = if inbound { (vip, client) } else { (known, (conn.addr, conn.port)) };
        let mut quoted = self.pkt(conn.proto, (from.0, to.0), (from.1, to.1), row);
        let mut pkt = self.pkt(conn.proto, (router, from.0), (0, 0), row);
        if self.random.percent(30) {
            pkt.src = to.0;
        }
        match self.random.below(30) {
            // Under full-NAT that may be another service's server, to which nobody here knows the way.
            0 if conn.mode != Mode::FullNat => quoted.set_ports(from.1, to.1 ^ 1),
            1 => quoted.src = addr(ipv6, 0, 99),
            2 => pkt.dst = addr(ipv6, 0, 99),
            _ => {}
        }
        if !inbound {
            // It comes the way that the server's packets come.
            pkt.port = self.port_towards(conn.addr);
            pkt.dst_mac = self.naive.own[usize::from(pkt.port)];
        }
        let kinds = if ipv6 { [1, 2, 3, 4, 1, 130] } else { [3, 3, 4, 11, 12, 5] };
        let mut kind = self.random.of(&kinds);
        let header = if ipv6 { 40 } else { 20 };
        let behind = match self.random.below(5) {
            0 => self.random.below(24),
            1 => 8,
            2 => 20,
            _ => 8 + self.random.below(500),
        };
        let cut = quoted.packet().len().min(header + behind);
        let (mut code, word) =
            (self.random.below(5) as u8, (self.random.next() as u32).to_be_bytes());
        // Rare: one that tells a client whose packets grow how much goes through.
        let grows = !inbound && matches!(conn.service % 200, TOLD..160);
        if grows && self.random.percent(90) {
            (kind, code) = if ipv6 { (2, 0) } else { (3, 4) };
        }
        pkt.body = Body::Error { kind, code, word, quoted: Box::new(quoted), cut, last: None };
        pkt
    }
}
