//! Packets on their way.

use std::net::IpAddr;

use super::{
    Cell, Clamp, Fate, Mode, Naive, SECOND, Tunnel, Way, excess::Worth, mss::clamp,
    pieces::ROOM_MIN, step, tunnel::Flow,
};
use crate::packet::{Body, Pkt};

/// The way of a packet, whoever says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) inbound: bool,
    pub(super) mode: Mode,
    pub(super) tunnel: Tunnel,
    pub(super) clamp: Clamp,
    /// Client and VIP with their ports.
    pub(super) flow: Flow,
    pub(super) server: (IpAddr, u16),
    pub(super) local: Option<(IpAddr, u16)>,
    /// Its server is told its client; so many replies there were.
    pub(super) told_after: Option<u64>,
}

impl Naive {
    pub(super) fn forward(&mut self, pkt: &Pkt, mut at: usize, inbound: bool) -> Fate {
        if let Err(reason) = self.lead(pkt, at, inbound) {
            return Fate::Dropped(reason);
        }
        let path = self.path(at, inbound);
        let sent = match self.on_way(pkt, &path) {
            Ok(sent) => sent,
            Err(fate) => return *fate,
        };
        if self.conns[at].mode == Mode::FullNat && self.conns[at].local.is_none() {
            let local = self.seen_local(sent.src.is_ipv6());
            at = self.take_local(at, local);
        }
        let conn = &self.conns[at];
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
        conn.replies += u64::from(!inbound);
        conn.assured |= conn.packets > 1 || !inbound;
        let is = conn.worth();
        if is != was {
            conn.entered = self.entries;
            self.entries += 1;
        }
        if was == Worth::Little && is != was {
            self.joined(at);
        }
        Fate::Sent(sent)
    }

    /// The way of a connection's packets.
    pub(super) fn path(&self, at: usize, inbound: bool) -> Path {
        let conn = &self.conns[at];
        let of = self.services.iter().find(|service| service.id == conn.service);
        Path {
            inbound,
            mode: conn.mode,
            tunnel: conn.tunnel,
            clamp: of.map_or(Clamp::Off, |service| service.clamp),
            flow: ((conn.client, conn.cport), (conn.vip, conn.vport)),
            server: (conn.addr, conn.port),
            local: conn.local,
            told_after: self.told_after(conn),
        }
    }

    /// What of a packet goes to its next hop.
    pub(super) fn on_way(&mut self, pkt: &Pkt, path: &Path) -> Result<Pkt, Box<Fate>> {
        let ((client, vip), server) = ((path.flow.0, path.flow.1), path.server);
        let towards = if path.inbound { server.0 } else { client.0 };
        let (port, mac) = match self.way(towards) {
            Way::Known(port, mac) => (port, mac),
            Way::Silent(port) => match self.newcomers.get(&towards) {
                Some((mac, since)) if !path.inbound && self.now < since + 3 * SECOND => {
                    (port, *mac)
                }
                _ => return Err(Box::new(Fate::Dropped("next_hop_unresolved"))),
            },
            Way::NoRoute => return Err(Box::new(Fate::Dropped("no_route"))),
        };
        if pkt.ttl <= 1 {
            return Err(Box::new(self.tell_expired(pkt, path)));
        }
        let mut sent = pkt.clone();
        (sent.port, sent.src_mac, sent.dst_mac) = (port, self.own[usize::from(port)], mac);
        sent.ttl -= 1;
        let into_tunnel = path.mode == Mode::Tunnel && path.inbound;
        let overhead = if into_tunnel { path.tunnel.overhead(server.0) } else { 0 };
        let room = self.mtu(port, towards) - overhead;
        let is_cut = pkt.len() > room && !pkt.src.is_ipv6() && !pkt.df && room >= ROOM_MIN;
        if pkt.len() > room && !is_cut {
            let quoted = Pkt { ttl: pkt.ttl - 1, ..pkt.clone() };
            // A full-NAT server knows the local address alone.
            let is_server = path.mode == Mode::FullNat && !path.inbound;
            let teller = if is_server { pkt.dst } else { vip.0 };
            return Err(Box::new(self.tell_too_big(&quoted, teller, room)));
        }
        let fits = room.min(usize::from(self.port_mtus[usize::from(pkt.port)]));
        let clamped = !pkt.is_later() && clamp(&mut sent, path.clamp, fits);
        self.tally.clamped += u64::from(clamped);
        match (path.mode, path.inbound) {
            (Mode::Nat, true) => {
                sent.dst = server.0;
                sent.set_ports(client.1, server.1);
            }
            (Mode::Nat, false) => {
                sent.src = vip.0;
                sent.set_ports(vip.1, client.1);
            }
            (Mode::FullNat, true) => {
                let local = path.local.unwrap_or_else(|| self.seen_local(server.0.is_ipv6()));
                (sent.src, sent.dst) = (local.0, server.0);
                sent.set_ports(local.1, server.1);
            }
            (Mode::FullNat, false) => {
                (sent.src, sent.dst) = (vip.0, client.0);
                sent.set_ports(vip.1, client.1);
            }
            (Mode::Dr | Mode::Tunnel, _) => {}
        }
        let way = (self.mtu(port, towards), usize::from(self.port_mtus[usize::from(pkt.port)]));
        self.tell(&mut sent, path, way);
        let mut pieces = vec![sent];
        if is_cut {
            let cut = super::pieces::pieces(&pieces[0], room);
            pieces = cut.ok_or_else(|| Box::new(Fate::Dropped("too_big")))?;
            *self.tally.cut.entry((path.mode, path.inbound)).or_default() += 1;
        }
        // Each has a tunnel of its own around it.
        if into_tunnel {
            let outer = |piece| self.encapsulate(&piece, path.tunnel, server.0, path.flow);
            let all: Option<Vec<Pkt>> = pieces.into_iter().map(outer).collect();
            pieces = all.ok_or_else(|| Box::new(Fate::Dropped("no_source")))?;
        }
        self.rest = pieces.split_off(1);
        Ok(pieces.remove(0))
    }

    /// The largest packet on the way to a neighbour.
    pub(super) fn mtu(&self, port: u16, towards: IpAddr) -> usize {
        let of_route = self.mtus.iter().find(|(addr, _)| *addr == towards);
        let of_port = self.port_mtus[usize::from(port)];
        usize::from(of_route.map_or(of_port, |(_, mtu)| of_port.min(*mtu)))
    }

    /// The sender hears that its packet came no further, from the node itself if that has an
    /// address where the answer leaves.
    fn tell_expired(&mut self, pkt: &Pkt, path: &Path) -> Fate {
        // In IPv4 nobody is told about a part but the first (RFC 1122 section 3.2.2).
        if pkt.is_later() && !pkt.src.is_ipv6() {
            return Fate::Dropped("ttl_exceeded");
        }
        if !take_token(&mut self.paid, self.now) {
            return Fate::Dropped("rate_limited");
        }
        let v6 = pkt.src.is_ipv6();
        let is_server = path.mode == Mode::FullNat && !path.inbound;
        let known = if is_server { pkt.dst } else { path.flow.1.0 };
        let teller = match self.way(pkt.src) {
            Way::Known(1, _) => self.tunnel_ends[usize::from(v6)],
            _ => known,
        };
        let mut rest = vec![0; 4];
        rest.extend(quotation(pkt));
        let told = Pkt { dst: teller, ..pkt.clone() };
        self.answer(&told, Body::Icmp { kind: if v6 { 3 } else { 11 }, code: 0, rest }, None)
    }

    /// The sender hears how much goes through, if anybody has to send so little.
    fn tell_too_big(&mut self, pkt: &Pkt, teller: IpAddr, room: usize) -> Fate {
        let v6 = pkt.src.is_ipv6();
        if room < if v6 { 1280 } else { ROOM_MIN } || (pkt.is_later() && !v6) {
            return Fate::Dropped("too_big");
        }
        if !take_token(&mut self.told_paid, self.now) {
            return Fate::Dropped("rate_limited");
        }
        let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
        let mut rest = (room as u32).to_be_bytes().to_vec();
        rest.extend(quotation(pkt));
        let told = Pkt { dst: teller, ..pkt.clone() };
        self.answer(&told, Body::Icmp { kind, code, rest }, None)
    }
}

/// As much of a packet as an error about it has room for (RFC 1812 section 4.3.2.3, RFC 4443
/// section 2.4).
pub(super) fn quotation(pkt: &Pkt) -> Vec<u8> {
    let mut packet = pkt.packet();
    packet.truncate(if pkt.src.is_ipv6() { 1280 - 48 } else { 576 - 28 });
    packet
}

/// A thousand answers a second, a hundred at once.
pub(super) fn take_token(paid: &mut u64, now: u64) -> bool {
    take(paid, now, 1000, 100)
}

/// One of so many a second, and so many at once; `paid` is the time up to which they are used up.
pub(super) fn take(paid: &mut u64, now: u64, rate: u64, burst: u64) -> bool {
    let cost = SECOND / rate;
    let from = (*paid).max(now.saturating_sub(cost * burst));
    if from + cost > now {
        return false;
    }
    *paid = from + cost;
    true
}
