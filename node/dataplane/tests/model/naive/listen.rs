//! Where services listen: one address, port and protocol, or several of each as one service (a match
//! group, in place of a firewall mark of ipvs.md 1.8).

use std::net::IpAddr;

use super::{Mode, Naive, Server, Service};
use crate::packet::{Pkt, Proto};

/// Ports of an address, first and last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Listen {
    pub(crate) proto: Proto,
    pub(crate) vip: IpAddr,
    pub(crate) first: u16,
    pub(crate) last: u16,
}

/// How wide what a service listens on is, and so which of two gets a packet.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Width {
    Port,
    Range,
    Any,
}

impl Listen {
    pub(crate) fn one(proto: Proto, vip: IpAddr, port: u16) -> Self {
        Self { proto, vip, first: port, last: port }
    }

    fn covers(&self, proto: Proto, vip: IpAddr, port: u16) -> bool {
        (self.proto, self.vip) == (proto, vip) && (self.first..=self.last).contains(&port)
    }

    fn width(&self) -> Width {
        match (self.first, self.last) {
            (0, u16::MAX) => Width::Any,
            (first, last) if first == last => Width::Port,
            _ => Width::Range,
        }
    }
}

impl Server {
    /// Its port for packets to `vport`.
    pub(super) fn port_for(&self, vport: u16) -> u16 {
        if self.port == 0 { vport } else { self.port }
    }
}

impl Service {
    pub(crate) fn is_ipv6(&self) -> bool {
        self.listens[0].vip.is_ipv6()
    }

    /// Its port, if it has but one, on whatever addresses.
    pub(crate) fn port(&self) -> Option<u16> {
        let port = self.listens[0].first;
        let is_it = |listen: &Listen| (listen.first, listen.last) == (port, port);
        self.listens.iter().all(is_it).then_some(port)
    }

    /// What a connection of it comes to, if all do.
    pub(super) fn alone(&self) -> Option<(Proto, IpAddr, u16)> {
        match self.listens[..] {
            [Listen { proto, vip, first, last }] if first == last => Some((proto, vip, first)),
            _ => None,
        }
    }

    /// What comes from there may be a NAT server's answer.
    pub(super) fn answers(&self, proto: Proto, addr: IpAddr, port: u16) -> bool {
        let says = |server: &Server| match server.port {
            0 => {
                let mut listens = self.listens.iter().filter(|listen| listen.proto == proto);
                listens.any(|listen| (listen.first..=listen.last).contains(&port))
            }
            own => own == port && self.listens.iter().any(|listen| listen.proto == proto),
        };
        self.mode == Mode::Nat && self.servers.iter().any(|s| s.addr == addr && says(s))
    }
}

impl Naive {
    /// The service that gets a packet: the one of the fewest ports around it.
    pub(super) fn listener(&mut self, pkt: &Pkt, proto: Proto) -> Option<usize> {
        let (_, vport) = pkt.ports();
        let all = self.services.iter().enumerate();
        let listens = all.flat_map(|(at, of)| of.listens.iter().map(move |listen| (at, listen)));
        let covering = listens.filter(|(_, listen)| listen.covers(proto, pkt.dst, vport));
        let mut found: Vec<(Width, usize)> =
            covering.map(|(at, listen)| (listen.width(), at)).collect();
        found.sort();
        if let [(width, _), (other, _), ..] = found[..] {
            *self.tally.narrowed.entry((pkt.dst.is_ipv6(), width, other)).or_default() += 1;
        }
        found.first().map(|(_, at)| *at)
    }
}
