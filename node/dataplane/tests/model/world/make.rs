//! One packet, with all that is left to chance in it.

use std::net::IpAddr;

use super::World;
use crate::{
    naive::{Port, Way},
    packet::{ACK, Between, Body, FIN, Pkt, Proto, RST, Row, SYN},
};

impl World {
    pub(super) fn row(&mut self, proto: Proto) -> Row {
        match (proto, self.random.below(100)) {
            (Proto::Udp, _) => Row::Nothing,
            (Proto::Sctp, 0..30) => Row::Data,
            (Proto::Sctp, _) => self.random.of(proto.rows()),
            (_, 0..47) => Row::Ack,
            (_, 47..62) => Row::Syn,
            (_, 62..76) => Row::Fin,
            (_, 76..88) => Row::Rst,
            _ => Row::Nothing,
        }
    }

    /// Where a neighbour's packets come in; those of whoever is none come in front.
    pub(super) fn port_towards(&self, addr: IpAddr) -> Port {
        match self.naive.way(addr) {
            Way::Known(port, _) | Way::Silent(port) => port,
            Way::NoRoute => 0,
        }
    }

    fn flags(&mut self, row: Row) -> u8 {
        let with_ack = self.random.percent(34);
        match row {
            Row::Syn => SYN | if with_ack { ACK } else { 0 },
            Row::Fin => FIN | if with_ack { 0 } else { ACK },
            Row::Ack => ACK,
            Row::Rst => RST | if with_ack { ACK } else { 0 },
            _ => 0,
        }
    }

    /// TCP options: those of a handshake, in some order, or others.
    fn options(&mut self, row: Row) -> Vec<u8> {
        if row != Row::Syn && self.random.percent(90) {
            return Vec::new();
        }
        let mut options = Vec::new();
        for _ in 0..self.random.below(5) {
            let size = self.random.of(&[100, 536, 1160, 1220, 1300, 1440, 1460, 8960, 65_535]);
            let [high, low] = u16::to_be_bytes(size);
            match self.random.below(13) {
                0..5 => options.extend([2, 4, high, low]),
                5 => options.extend([4, 2]),
                6 => options.extend([3, 3, 7]),
                7..9 => options.push(1),
                9 => options.push(0),
                // What only this node may say.
                10 => options.extend([254, 8, 1, 2, 3, 4, 5, 6]),
                // Broken ones.
                11 => options.extend([2, 3, high]),
                _ => options.extend([5, 1]),
            }
        }
        let padding = self.random.of(&[0, 1]);
        options.resize(options.len().next_multiple_of(4), padding);
        options
    }

    pub(super) fn pkt(
        &mut self,
        proto: Proto,
        (src, dst): (IpAddr, IpAddr),
        (sport, dport): (u16, u16),
        row: Row,
    ) -> Pkt {
        let flags = self.flags(row);
        // Now and then one that may be too big for its way.
        let is_big = self.random.below(25) == 0;
        let len = if is_big { 1150 + self.random.below(420) } else { self.random.below(48) };
        let data: Vec<u8> = (0..len).map(|_| self.random.next() as u8).collect();
        let body = match proto {
            Proto::Tcp => Body::Tcp {
                sport,
                dport,
                seq: self.random.next() as u32,
                ack: self.random.next() as u32,
                flags,
                window: self.random.next() as u16,
                options: self.options(row),
                data,
            },
            Proto::Udp => Body::Udp { sport, dport, data },
            Proto::Sctp => Body::Sctp(self.sctp((sport, dport), row, data)),
        };
        let port = self.port_towards(src);
        Pkt {
            port,
            tags: Vec::new(),
            src_mac: [2, 0, 0, 0, 3, 99],
            dst_mac: self.naive.own[usize::from(port)],
            src,
            dst,
            ttl: 2 + self.random.below(200) as u8,
            tos: self.random.next() as u8,
            df: self.random.percent(if is_big { 40 } else { 70 }),
            id: if self.random.percent(50) { self.random.next() as u16 } else { 0 },
            label: self.random.next() as u32 & 0xf_ffff,
            part: None,
            between: Between::Nothing,
            flaw: None,
            body,
        }
    }
}
