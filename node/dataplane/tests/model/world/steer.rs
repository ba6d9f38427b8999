//! Packets that lead to what was met least: what is rare at random is not left to chance.

use std::collections::VecDeque;

use super::World;
use crate::{
    coverage::Coverage,
    naive::{Cell, Conn, Mode, State, reopens, step},
    packet::{Pkt, Proto, Row},
};

/// Cells of those met least that one is taken from.
const AIMS: usize = 48;

impl World {
    /// A packet for one of the cells met least, or one that brings a connection nearer to it.
    pub(super) fn steered(&mut self, coverage: &Coverage) -> Option<Pkt> {
        let aims = &coverage.wanted[..coverage.wanted.len().min(AIMS)];
        if aims.is_empty() {
            return None;
        }
        let aim = self.random.of(aims);
        let is_fit = |conn: &Conn| {
            (conn.client.is_ipv6(), conn.mode, conn.proto) == (aim.ipv6, aim.mode, aim.proto)
        };
        let conns = &self.naive.conns;
        let fit: Vec<usize> = (0..conns.len()).filter(|at| is_fit(&conns[*at])).collect();
        let there: Vec<usize> =
            fit.iter().copied().filter(|at| conns[*at].state == aim.state).collect();
        if !there.is_empty() {
            let conn = conns[self.random.of(&there)].clone();
            return Some(self.of(&conn, aim.inbound, aim.row));
        }
        // Only what was never forwarded is in the first state.
        if aim.state == "NONE" {
            let mut pkt = self.opening_of(aim)?;
            pkt.ttl = 1;
            return Some(pkt);
        }
        if fit.is_empty() || self.random.percent(30) {
            return self.opening_of(aim);
        }
        let conn = conns[self.random.of(&fit)].clone();
        let (inbound, row) = towards(&conn, aim.state)?;
        Some(self.of(&conn, inbound, row))
    }

    fn opening_of(&mut self, aim: Cell) -> Option<Pkt> {
        let services = self.naive.services.iter().enumerate();
        let fit = services.filter(|(_, service)| {
            (service.vip.is_ipv6(), service.mode, service.proto) == (aim.ipv6, aim.mode, aim.proto)
        });
        let fit: Vec<usize> = fit.map(|(at, _)| at).collect();
        if fit.is_empty() {
            return None;
        }
        let at = self.random.of(&fit);
        Some(self.opening_at(at))
    }
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
            let next = step(state, conn.mode, inbound, row);
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
