//! More connections to one full-NAT server than this node has local ports.

use std::collections::VecDeque;

use super::{STEP, World, addr, build::server};
use crate::{
    coverage::HITS_MIN,
    naive::{Mode, Role, SECOND},
    packet::{Body, Pkt, Proto, Row},
};

/// The service that it is about, by its number.
const SERVICE: u32 = 154;

/// Longer than any connection lasts.
const QUIET: u64 = 1000 * SECOND;

/// Connections that are asked for above all, and those that have finished before more are.
const ABOVE: usize = 150;
const FINISHED: usize = 200;

/// Packets between two of them.
const EVERY: usize = 50_000;

const _: () = assert!(QUIET.is_multiple_of(STEP));

impl World {
    /// A rush goes on: time stands still, and nothing else happens.
    pub(crate) fn is_rushing(&self) -> bool {
        !self.rush.is_empty()
    }

    /// Now and then one begins; true when it does, or when it is over.
    pub(super) fn begins_rush(&mut self) -> bool {
        if std::mem::take(&mut self.was_rush) {
            self.naive.now += QUIET;
            return true;
        }
        let lacks = [false, true].map(|ipv6| {
            let met = [self.naive.tally.exhausted, self.naive.tally.gave_way]
                .map(|of| of[usize::from(ipv6)]);
            met.iter().any(|hits| *hits < HITS_MIN)
        });
        let wanted = self.is_large && lacks.contains(&true) && self.random.below(EVERY) == 0;
        if wanted && self.burst == 0 && self.storm.is_empty() {
            let ipv6 = if lacks == [true; 2] { self.random.percent(50) } else { lacks[1] };
            self.begin_rush(ipv6);
            return true;
        }
        false
    }

    /// Everybody leaves, one server remains, and all want to go there.
    fn begin_rush(&mut self, ipv6: bool) {
        self.naive.now += QUIET;
        self.naive.roles[0] = Role::Holder { since: self.naive.now - 10 * SECOND, complete: true };
        (self.is_new_role, self.is_reconfigured, self.was_rush) = (true, true, true);
        let id = SERVICE + if ipv6 { 200 } else { 0 };
        self.next_server += 1;
        let number = self.next_server;
        let service = self.naive.services.iter_mut().find(|service| service.id == id).unwrap();
        let port = service.port().unwrap();
        service.servers = vec![server(ipv6, Mode::FullNat, id, 0, number, 1, port)];
        let all = self.naive.pairs(ipv6);
        let asked = all + all / 8;
        let mut rush = VecDeque::new();
        for number in 0..asked {
            rush.push_back(self.rushing(ipv6, port, number, Row::Syn));
            rush.push_back(self.rushing(ipv6, port, number, Row::Ack));
        }
        let above = asked..asked + ABOVE;
        rush.extend(above.map(|number| self.rushing(ipv6, port, number, Row::Syn)));
        rush.extend((0..FINISHED).map(|number| self.rushing(ipv6, port, number, Row::Rst)));
        let late = asked + ABOVE..asked + ABOVE + FINISHED;
        for number in late {
            rush.push_back(self.rushing(ipv6, port, number, Row::Syn));
            rush.push_back(self.rushing(ipv6, port, number, Row::Ack));
        }
        self.rush = rush;
    }

    /// A packet of connection `number`; a short one, which nothing stops.
    fn rushing(&mut self, ipv6: bool, port: u16, number: usize, row: Row) -> Pkt {
        let (client, vip) = (addr(ipv6, 0, 202 + (number % 20) as u8), addr(ipv6, 0, 100));
        let ports = (2000 + (number / 20) as u16, port);
        let mut pkt = self.pkt(Proto::Tcp, (client, vip), ports, row);
        if let Body::Tcp { data, .. } = &mut pkt.body {
            data.truncate(40);
        }
        pkt
    }
}
