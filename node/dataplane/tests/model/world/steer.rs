//! Packets that lead to what was met least: what is rare at random is not left to chance.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{Random, World};
use crate::{
    coverage::{Coverage, HITS_AIMED_AT, Way},
    naive::{self, Cell, Conn, Mode, Server, State, VLAN_PORT, reopens, step},
    packet::{Pkt, Proto, Row},
};

/// Cells of those met least that one is taken from.
const AIMS: usize = 48;

/// How many are tried.
const TRIES: usize = 6;

/// First packets on the way from one state to another, once looked for.
pub(super) type Ways = HashMap<(Proto, Mode, State, State), Option<(bool, Row)>>;

impl World {
    /// A packet for one of the cells met least, or one that brings a connection nearer to it.
    pub(super) fn steered(&mut self, coverage: &Coverage) -> Option<Pkt> {
        let aims = &coverage.wanted[..coverage.wanted.len().min(AIMS)];
        if aims.is_empty() {
            return None;
        }
        // Best one that a connection is right before.
        for _ in 0..TRIES {
            let aim = self.random.of(aims);
            let from = self.random.below(self.naive.conns.len() + 1);
            let is_there = |conn: &&Conn| {
                aim.is_of(conn) && conn.state == aim.state && self.goes_on(conn, aim)
            };
            let (left, right) = self.naive.conns.split_at(from);
            if let Some(conn) = right.iter().chain(left).find(is_there) {
                let conn = conn.clone();
                return Some(self.of(&conn, aim.inbound, aim.row));
            }
        }
        let aim = self.random.of(aims);
        // Only what was never forwarded is in the first state.
        if aim.state == "NONE" {
            let mut pkt = self.opening_of(aim)?;
            pkt.ttl = 1;
            return Some(pkt);
        }
        let is_fit = |conn: &&Conn| aim.is_of(conn) && self.goes_on(conn, aim);
        let fit: Vec<&Conn> = self.naive.conns.iter().filter(is_fit).collect();
        if fit.is_empty() || self.random.percent(10) {
            return self.opening_of(aim);
        }
        let conn = self.random.of(&fit).clone();
        let way = (conn.proto, conn.mode, conn.state, aim.state);
        let (inbound, row) = (*self.ways.entry(way).or_insert_with(|| towards(&conn, aim.state)))?;
        Some(self.of(&conn, inbound, row))
    }

    /// Packets find the next hop.
    fn goes_on(&self, conn: &Conn, aim: Cell) -> bool {
        let towards = if aim.inbound { conn.addr } else { conn.client };
        // No tunnel starts in the VLAN.
        let is_tunnel = aim.inbound && conn.mode == Mode::Tunnel;
        match self.naive.way(towards) {
            naive::Way::Known(port, _) => !is_tunnel || port != VLAN_PORT,
            _ => false,
        }
    }

    fn opening_of(&mut self, aim: Cell) -> Option<Pkt> {
        let services = self.naive.services.iter().enumerate();
        let fit = services.filter(|(_, service)| {
            (service.is_ipv6(), service.mode) == (aim.ipv6, aim.mode)
                && service.listens.iter().any(|listen| listen.proto == aim.proto)
                && !service.once
                && service.servers.iter().any(Server::takes)
        });
        let fit: Vec<usize> = fit.map(|(at, _)| at).collect();
        if fit.is_empty() {
            return None;
        }
        let at = self.random.of(&fit);
        Some(self.opening_at(at, Some(aim.proto)))
    }
}

impl Cell {
    fn is_of(&self, conn: &Conn) -> bool {
        (conn.client.is_ipv6(), conn.mode, conn.proto) == (self.ipv6, self.mode, self.proto)
    }
}

/// A connection of those whose way was met too seldom so far, and that way.
pub(super) fn rare<'a>(
    random: &mut Random,
    conns: &'a [Conn],
    met: &BTreeMap<Way, u64>,
    ways: impl Iterator<Item = Way>,
) -> Option<(&'a Conn, bool)> {
    let hits = |way: &Way| met.get(way).copied().unwrap_or(0);
    let ways: Vec<Way> = ways.filter(|way| hits(way) < HITS_AIMED_AT).collect();
    let (ipv6, mode, proto, inbound) = *ways.get(random.below(ways.len().max(1)))?;
    // Of full-NAT somebody has to have seen the local address.
    let is_so = |conn: &&Conn| {
        (conn.client.is_ipv6(), conn.mode, conn.proto) == (ipv6, mode, proto)
            && (mode != Mode::FullNat || conn.local.is_some())
    };
    let conns: Vec<&Conn> = conns.iter().filter(is_so).collect();
    Some((*conns.get(random.below(conns.len().max(1)))?, inbound))
}

/// The first packet on the shortest way of a connection to a state.
fn towards(conn: &Conn, aim: State) -> Option<(bool, Row)> {
    let mut known = vec![conn.state];
    let mut ways = VecDeque::from([(conn.state, None)]);
    while let Some((state, first)) = ways.pop_front() {
        for (inbound, row) in steps(conn.proto, conn.mode) {
            if reopens(state, inbound, row) {
                continue;
            }
            let next = step(conn.proto, state, conn.mode, inbound, row);
            let first = first.or(Some((inbound, row)));
            if next == aim {
                return first;
            }
            if !known.contains(&next) {
                known.push(next);
                ways.push_back((next, first));
            }
        }
    }
    None
}

/// All that can happen to a connection.
pub(crate) fn steps(proto: Proto, mode: Mode) -> Vec<(bool, Row)> {
    let ways = if mode.returns() { &[true, false][..] } else { &[true] };
    let rows = proto.rows().iter();
    rows.flat_map(|row| ways.iter().map(move |inbound| (*inbound, *row))).collect()
}
