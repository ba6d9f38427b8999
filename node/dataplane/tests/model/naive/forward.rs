//! Packets of known connections, on their way.

use super::{Cell, Fate, Mode, Naive, Way, step};
use crate::packet::Pkt;

impl Naive {
    pub(super) fn forward(&mut self, pkt: &Pkt, at: usize, inbound: bool) -> Fate {
        let conn = &self.conns[at];
        let towards = if inbound { conn.addr } else { conn.client };
        let (port, mac) = match self.way(towards) {
            Way::Known(port, mac) => (port, mac),
            Way::Silent => return Fate::Dropped("next_hop_unresolved"),
            Way::NoRoute => return Fate::Dropped("no_route"),
        };
        if pkt.ttl <= 1 {
            return Fate::Dropped("ttl_exceeded");
        }
        let mut sent = pkt.clone();
        (sent.port, sent.src_mac, sent.dst_mac) = (port, self.own[usize::from(port)], mac);
        sent.ttl -= 1;
        let (sport, dport) = pkt.ports();
        if conn.mode == Mode::Nat && inbound {
            sent.dst = conn.addr;
            sent.set_ports(sport, conn.port);
        } else if conn.mode == Mode::Nat {
            sent.src = conn.vip;
            sent.set_ports(conn.vport, dport);
        }
        let row = pkt.row();
        self.met = Some(Cell {
            ipv6: pkt.src.is_ipv6(),
            mode: conn.mode,
            proto: conn.proto,
            inbound,
            state: conn.state,
            row,
        });
        let now = self.now;
        let conn = &mut self.conns[at];
        let was = conn.worth();
        conn.seen = now;
        conn.state = step(conn.proto, conn.state, conn.mode, inbound, row);
        conn.packets += u64::from(inbound);
        conn.assured |= conn.packets > 1 || !inbound;
        if conn.worth() != was {
            conn.entered = self.entries;
            self.entries += 1;
        }
        Fate::Sent(sent)
    }
}
