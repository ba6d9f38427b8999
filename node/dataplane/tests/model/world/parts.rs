//! Packets that come in parts, in any order, and parts that do not fit together.

use std::collections::VecDeque;

use super::{World, steer::rare};
use crate::{
    coverage::{Coverage, HITS_AIMED_AT, ways_of_parts},
    naive::{Parted, set},
    packet::{Body, Chunk, Part, Pkt},
};

/// Packets of which parts are to come, at once.
const FLIGHTS_MAX: usize = 6;

/// Parts of a packet.
const PARTS_MAX: usize = 40;

impl World {
    /// The next part of some packet.
    pub(super) fn part(&mut self, coverage: &Coverage) -> Option<Pkt> {
        if let Some(part) = self.storm.pop_front() {
            return Some(part);
        }
        if self.flights.len() < FLIGHTS_MAX && self.random.below(50) == 0 {
            let flight = self.flight(coverage);
            self.flights.push(flight);
        }
        let hits = |parted| self.naive.fragments.parted.get(&parted).copied().unwrap_or(0);
        let lacks = [Parted::PushedOut, Parted::EarlyPushedOut].map(hits);
        if lacks.iter().any(|hits| *hits < HITS_AIMED_AT) && self.random.below(2000) == 0 {
            self.storm = self.storm(coverage);
        }
        if self.flights.is_empty() || !self.random.percent(24) {
            return None;
        }
        // Mostly one after the other.
        let last = self.flights.len() - 1;
        let at = if self.random.percent(70) { last } else { self.random.below(last + 1) };
        let part = self.flights[at].pop_front();
        if self.flights[at].is_empty() {
            self.flights.swap_remove(at);
        }
        part
    }

    /// Parts of more packets than have room, all at once.
    fn storm(&mut self, coverage: &Coverage) -> VecDeque<Pkt> {
        let (count, len, most, first_comes) = match self.random.below(3) {
            0 => (3, 150, 2, false),
            1 => (2, 24_000, 700, false),
            _ => (12, 100, 2, true),
        };
        let (mut before, mut behind) = (VecDeque::new(), VecDeque::new());
        for _ in 0..count {
            let Some(mut whole) = self.whole(coverage, len) else { continue };
            self.gather(&mut whole);
            let mut parts: VecDeque<Pkt> = self.cut(&whole, most).into();
            let first = parts.pop_front();
            if first_comes {
                parts.truncate(1);
                before.extend(first);
                behind.extend(parts);
            } else {
                before.extend(parts);
                behind.extend(first);
            }
        }
        before.extend(behind);
        before
    }

    /// A packet in parts, in the order in which they come.
    fn flight(&mut self, coverage: &Coverage) -> VecDeque<Pkt> {
        let (len, most) = match self.random.below(40) {
            0 => (24_000, 700),
            1..4 => (1500 + self.random.below(3000), 190),
            4..9 => (200 + self.random.below(100), 2),
            _ => (40 + self.random.below(400), 20),
        };
        let Some(mut whole) = self.whole(coverage, len) else { return VecDeque::new() };
        if self.random.percent(70) {
            self.gather(&mut whole);
        }
        let mut parts = self.cut(&whole, most);
        self.disturb(&mut parts);
        let times = if self.random.percent(10) { 2 } else { 1 };
        (0..times).flat_map(|_| parts.clone()).collect()
    }

    /// A packet with `len` octets of data.
    fn whole(&mut self, coverage: &Coverage, len: usize) -> Option<Pkt> {
        let rare = if self.random.percent(30) { self.rarely_in_parts() } else { None };
        let mut whole = match self.random.below(20) {
            _ if rare.is_some() => rare?,
            0 => self.odd(),
            1..5 => self.opening(coverage),
            _ if self.naive.conns.is_empty() => self.opening(coverage),
            _ => self.of_a_connection(coverage),
        };
        let filler: Vec<u8> = (0..len).map(|at| at as u8 ^ 0x5a).collect();
        match &mut whole.body {
            Body::Tcp { data, .. } | Body::Udp { data, .. } => *data = filler,
            Body::Sctp(sctp) => sctp.chunks.push(Chunk { kind: 0, flags: 0, value: filler }),
            Body::Icmp { rest, .. } => rest.extend(filler),
            Body::Error { .. } | Body::Inside { .. } => return None,
        }
        whole.id = self.random.next() as u16;
        Some(whole)
    }

    /// A packet of a connection whose like came in parts too seldom so far.
    fn rarely_in_parts(&mut self) -> Option<Pkt> {
        let followed = &self.naive.fragments.followed;
        let (conn, inbound) = rare(&mut self.random, &self.naive.conns, followed, ways_of_parts())?;
        let (conn, row) = (conn.clone(), self.row(conn.proto));
        Some(self.of(&conn, inbound, row))
    }

    /// Gives a packet an identification with which its parts fall into one set with others.
    fn gather(&mut self, whole: &mut Pkt) {
        while set(whole) != 0 {
            whole.id = whole.id.wrapping_add(1);
        }
    }

    /// Parts of up to `most` times eight octets, in order.
    fn cut(&mut self, whole: &Pkt, most: usize) -> Vec<Pkt> {
        let header = if whole.src.is_ipv6() { 40 } else { 20 };
        let len = whole.len() - header;
        let (mut parts, mut offset) = (Vec::new(), 0);
        while offset < len {
            let mut units = 1 + self.random.below(most);
            // What is said of the packet stands in the first, nearly always.
            if offset == 0 && !self.random.percent(3) {
                units = units.max(8);
            }
            let rest = len - offset;
            let is_last = units * 8 >= rest || parts.len() + 1 == PARTS_MAX;
            let len = if is_last { rest } else { units * 8 };
            let part = Part { offset, len, more: !is_last };
            parts.push(Pkt { part: Some(part), ..whole.clone() });
            offset += len;
        }
        parts
    }

    /// The order in which parts come, and what is wrong with them.
    fn disturb(&mut self, parts: &mut Vec<Pkt>) {
        let count = parts.len();
        match self.random.below(10) {
            // The first comes last, or somewhere else.
            0 | 1 => parts.rotate_left(1),
            2 => {
                let to = self.random.below(count);
                parts[..=to].rotate_left(1);
            }
            // Every other one first.
            3 => {
                let mut all: Vec<(usize, Pkt)> = parts.drain(..).enumerate().collect();
                all.sort_by_key(|(at, _)| at % 2);
                parts.extend(all.into_iter().map(|(_, part)| part));
            }
            4 | 5 => {
                for at in (1..count).rev() {
                    let other = self.random.below(at + 1);
                    parts.swap(at, other);
                }
            }
            _ => {}
        }
        let at = self.random.below(count);
        let mut pkt = parts[at].clone();
        let Some(part) = &mut pkt.part else { return };
        match self.random.below(20) {
            0 | 1 => {}
            2 if count > 2 => return drop(parts.remove(at)),
            _ if part.offset == 0 => return,
            3 => part.offset += 8,
            4 => part.offset -= 8,
            5 => part.len += 8,
            6 => part.more ^= true,
            7 => part.len = 0,
            8 => part.len += 3,
            9 => part.offset = 65_528,
            10 => part.offset = 8 * (1 + self.random.below(4)),
            _ => return,
        }
        // In its place, or beside it.
        if self.random.percent(50) {
            parts[at] = pkt;
        } else {
            parts.insert(at, pkt);
        }
    }
}
