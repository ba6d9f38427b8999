//! The packets that come, at random.

use std::net::IpAddr;

use super::{
    BACK, World, addr, far, ip,
    kinds::{QUIET, SOURCELESS, TOLD},
    steer::rare,
};
use crate::{
    coverage::{Coverage, HITS_AIMED_AT, ONCE_MET, WARMED_AIMED_AT, lacks_days, ways},
    naive::{Conn, Listen, Mode, Sched, Service, Toa},
    packet::{Body, Pkt, Proto, Row},
};

impl World {
    /// The next packet.
    pub(crate) fn packet(&mut self, coverage: &Coverage) -> Pkt {
        if let Some(pkt) = self.rush.pop_front() {
            return pkt;
        }
        let often = if coverage.lacks("rate_limited") { 2500 } else { 5000 };
        if self.random.below(often) == 0 {
            self.burst = 130;
        }
        self.burst = self.burst.saturating_sub(1);
        let kind = self.random.below(100);
        let part = if self.burst > 0 { None } else { self.part(coverage) };
        let mut pkt = match kind {
            _ if self.burst > 0 => self.unserved(),
            _ if part.is_some() => part.unwrap(),
            _ if self.crowd.left > 0 => {
                self.crowd.left -= 1;
                self.opening_at(self.crowd.service, None)
            }
            0..50 if !coverage.wanted.is_empty() => match self.steered(coverage) {
                Some(pkt) => pkt,
                None => self.opening(coverage),
            },
            50..55 if !self.naive.conns.is_empty() => {
                let at = self.random.below(self.naive.conns.len());
                let found =
                    rare(&mut self.random, &self.naive.conns, &self.naive.tally.errors, ways());
                let conn = found.map_or(&self.naive.conns[at], |(conn, _)| conn).clone();
                match conn.mode {
                    // Nobody saw its local address.
                    Mode::FullNat if conn.local.is_none() => self.of_a_connection(coverage),
                    _ => self.error(&conn),
                }
            }
            0..84 if !self.naive.conns.is_empty() => self.of_a_connection(coverage),
            0..95 => self.opening(coverage),
            _ => self.odd(),
        };
        if self.random.percent(2) {
            pkt.ttl = 1;
        }
        self.over_the_wire(pkt)
    }

    pub(super) fn of_a_connection(&mut self, coverage: &Coverage) -> Pkt {
        // Twice as many of those that came last: they are in more states.
        let conns = &self.naive.conns;
        let recent = conns.len().min(40);
        let lacks = coverage.lacks("server_removed") && self.random.percent(5);
        let from = self.random.below(conns.len());
        let mut left = (from..conns.len()).chain(0..from);
        let is_left = |at: &usize| !self.naive.is_known(&conns[*at]);
        let left = if lacks { left.find(is_left) } else { None };
        let read = [false, true].map(|v6| self.naive.tally.toa.get(&(v6, Toa::Read)).copied());
        let lacks_read = read.iter().any(|hits| hits.unwrap_or(0) < HITS_AIMED_AT);
        let is_told = |at: &usize| matches!(conns[*at].service % 200, TOLD..160);
        let told = if lacks_read && self.random.percent(6) {
            (0..conns.len()).rev().find(is_told)
        } else {
            None
        };
        let at = if let Some(at) = left.or(told) {
            at
        } else if self.random.percent(50) {
            conns.len() - 1 - self.random.below(recent)
        } else {
            self.random.below(conns.len())
        };
        let conn = self.naive.conns[at].clone();
        let row = self.row(conn.proto);
        let inbound = !(conn.mode.returns() && self.random.percent(34));
        self.of(&conn, inbound, row)
    }

    /// A packet of a connection.
    pub(super) fn of(&mut self, conn: &Conn, inbound: bool, row: Row) -> Pkt {
        let is_unheard = conn.mode == Mode::FullNat && conn.local.is_none();
        if inbound || is_unheard {
            let ports = (conn.cport, conn.vport);
            return self.pkt(conn.proto, (conn.client, conn.vip), ports, row);
        }
        // Of full-NAT the server knows the local address.
        let (client, cport) = conn.local.unwrap_or((conn.client, conn.cport));
        let hosts = (conn.addr, client);
        self.pkt(conn.proto, hosts, (conn.port, cport), row)
    }

    fn unserved(&mut self) -> Pkt {
        let ipv6 = self.random.percent(50);
        let ports = (1 + self.random.below(9) as u16, 9);
        let proto = self.random.of(&[Proto::Tcp, Proto::Udp, Proto::Sctp]);
        let hosts = (addr(ipv6, 0, 210), addr(ipv6, 0, 100));
        self.pkt(proto, hosts, ports, proto.opening())
    }

    pub(super) fn opening(&mut self, coverage: &Coverage) -> Pkt {
        let mut at = self.random.below(self.naive.services.len());
        if coverage.lacks("reply_taken")
            && self.random.percent(20)
            && let Some(rival) = self.rival()
        {
            return rival;
        }
        if self.random.percent(34) {
            at = self.random.of(&self.shared);
        } else if self.random.percent(17) {
            at = self.random.of(&self.persistent);
        } else if self.random.percent(20) {
            at = self.random.of(&self.bounded);
        }
        if self.random.percent(10) {
            at = self.random.of(&self.locals);
        }
        if self.random.percent(15) {
            at = self.random.of(&self.groups);
        }
        if self.random.percent(15) {
            at = self.random.of(&self.limited);
        }
        if lacks_days(&self.naive) && self.random.percent(30) {
            // Sets that grow come before those that shrink.
            let sets = self.random.percent(70);
            at = self.bounded_that(|service| match service.sched {
                Sched::Lblc => !sets,
                Sched::Lblcr => true,
                _ => false,
            });
        } else if self.naive.tally.turns_passed < HITS_AIMED_AT && self.random.percent(12) {
            at = self.bounded_that(|service| service.sched == Sched::Wrr);
        } else if self.naive.tally.warmed < WARMED_AIMED_AT && self.random.percent(12) {
            at = self.bounded_that(|service| service.slow_start);
        }
        let once = self.naive.tally.once.values();
        if self.naive.tally.once.len() < ONCE_MET
            || once.min().is_none_or(|hits| *hits < HITS_AIMED_AT)
        {
            let services = self.naive.services.iter().enumerate();
            let once: Vec<usize> = services.filter(|(_, of)| of.once).map(|(at, _)| at).collect();
            if self.random.percent(8) {
                at = self.random.of(&once);
            }
        }
        if coverage.lacks("no_source") && self.random.percent(6) {
            let of = |number| number % 200 == SOURCELESS;
            let services = self.naive.services.iter().enumerate();
            let fit: Vec<usize> = services.filter(|(_, s)| of(s.id)).map(|(at, _)| at).collect();
            at = self.random.of(&fit);
        }
        self.opening_at(at, None)
    }

    /// A service with thresholds or slow start.
    pub(super) fn bounded_that(&mut self, is_so: impl Fn(&Service) -> bool) -> usize {
        let all = self.bounded.iter().copied();
        let found: Vec<usize> = all.filter(|at| is_so(&self.naive.services[*at])).collect();
        self.random.of(&found)
    }

    /// A client's port, used again for another service on the same servers.
    fn rival(&mut self) -> Option<Pkt> {
        let services = &self.naive.services;
        let others = |conn: &Conn| {
            self.shared.iter().map(|at| &services[*at]).find(|other| {
                conn.service != other.id && conn.service / 2 == other.id / 2 && !conn.is_over()
            })
        };
        let conns = self.naive.conns.iter();
        let found: Vec<_> = conns.filter_map(|conn| Some((conn, others(conn)?.port()?))).collect();
        let (conn, port) = if found.is_empty() { None } else { Some(self.random.of(&found)) }?;
        let (proto, hosts, cport) = (conn.proto, (conn.client, conn.vip), conn.cport);
        Some(self.pkt(proto, hosts, (cport, port), proto.opening()))
    }

    /// A packet that asks for a new connection of a service, of one protocol or of any.
    pub(super) fn opening_at(&mut self, at: usize, wanted: Option<Proto>) -> Pkt {
        let (proto, vip, port) = self.listening(at, wanted);
        let service = &self.naive.services[at];
        let answers = service.once && service.mode == Mode::Nat && !service.servers.is_empty();
        if answers && self.random.percent(40) {
            // Nobody knows whether it was asked.
            let servers = &self.naive.services[at].servers;
            let from = servers[self.random.below(servers.len())];
            let client = addr(vip.is_ipv6(), 0, 200 + self.random.below(24) as u8);
            let port = if from.port == 0 { port } else { from.port };
            let ports = (port, 30_000 + self.random.below(60) as u16);
            return self.pkt(proto, (from.addr, client), ports, Row::Nothing);
        }
        let service = &self.naive.services[at];
        let (clients, cports) = if service.is_on_shared() { (6, 12) } else { (24, 60) };
        let is_limited = service.is_limited();
        let is_far = is_limited && self.random.percent(40);
        let host = match self.crowd.left {
            0 if is_far => self.random.below(8),
            0 => self.random.below(clients),
            // Some that answers reach.
            _ => 2 + self.random.below(3),
        };
        let host = 200 + host as u8;
        let client = if is_far { far(vip.is_ipv6(), host) } else { addr(vip.is_ipv6(), 0, host) };
        let cport = 30_000 + self.random.below(cports) as u16;
        let row = if self.random.percent(85) { proto.opening() } else { self.row(proto) };
        let mut pkt = self.pkt(proto, (client, vip), (cport, port), row);
        if self.random.percent(15) {
            pkt.ttl = 1;
        }
        pkt
    }

    /// Somewhere that a service listens; of many ports mostly a few, so that they are met again.
    fn listening(&mut self, at: usize, wanted: Option<Proto>) -> (Proto, IpAddr, u16) {
        let listens = self.naive.services[at].listens.iter();
        let fit = listens.filter(|listen| wanted.is_none_or(|proto| proto == listen.proto));
        let fit: Vec<Listen> = fit.copied().collect();
        let Listen { proto, vip, first, last } = self.random.of(&fit);
        let port = match self.random.below(4) {
            0 => first,
            1 => last,
            2 => first + self.random.below(usize::from(last - first) + 1) as u16,
            // Other services listen there, on one VIP or the other.
            _ => self.random.of(&[443, 1005, 2000, 3105, 8021, 8023]).clamp(first, last),
        };
        (proto, vip, port)
    }

    /// For nobody, from nobody, or not to be balanced.
    pub(super) fn odd(&mut self) -> Pkt {
        let ipv6 = self.random.percent(50);
        let (vip, client) = (addr(ipv6, 0, 100), addr(ipv6, 0, 210));
        let proto = self.random.of(&[Proto::Tcp, Proto::Udp, Proto::Sctp]);
        let row = self.row(proto);
        match self.random.below(8) {
            0 => {
                let quiet = addr(ipv6, 0, QUIET);
                let vip = if self.random.percent(60) { quiet } else { vip };
                self.pkt(proto, (client, vip), (1, 9), row)
            }
            1 => self.pkt(proto, (client, addr(ipv6, 0, 101)), (1, 1000), row),
            2 => {
                let mut pkt = self.pkt(proto, (client, vip), (1, 1000), row);
                pkt.dst_mac = [2, 9, 9, 9, 9, 9];
                pkt
            }
            3 => {
                let odd = if ipv6 {
                    self.random.of(&["ff02::1", "::1", "::", "::ffff:198.18.0.1"])
                } else {
                    self.random.of(&["224.0.0.1", "127.0.0.1", "0.0.0.1", "255.255.255.255"])
                };
                self.pkt(Proto::Tcp, (ip(odd), vip), (1, 1000), Row::Syn)
            }
            4 => {
                // From a server of a NAT pool that never was asked.
                let number = self.random.below(15) as u16;
                let service = 20 + number + if ipv6 { 200 } else { 0 };
                let net = self.random.of(&[0, 1, 1, 1, 4]);
                let server = addr(ipv6, net, 20 + self.random.below(4) as u8);
                let proto = if number % 3 == 2 { Proto::Udp } else { Proto::Tcp };
                let ports = (8000 + service, 5);
                let row = self.row(proto);
                self.pkt(proto, (server, client), ports, row)
            }
            5 => {
                let mut pkt = self.pkt(proto, (addr(ipv6, 1, 30), client), (80, 5), row);
                (pkt.port, pkt.dst_mac) = (1, BACK);
                pkt
            }
            _ => {
                let request = if ipv6 { 128 } else { 8 };
                let kind = if self.random.percent(80) { request } else { request + 5 };
                let mut pkt = self.pkt(proto, (client, vip), (0, 0), row);
                let rest = (0..4 + self.random.below(60)).map(|_| self.random.next() as u8);
                pkt.body = Body::Icmp { kind, code: 0, rest: rest.collect() };
                pkt
            }
        }
    }
}
