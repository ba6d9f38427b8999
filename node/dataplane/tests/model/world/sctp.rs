//! SCTP packets at random.

use super::World;
use crate::packet::{Chunk, Row, Sctp};

impl World {
    /// A packet that a row stands for, not always a good one.
    pub(super) fn sctp(&mut self, (sport, dport): (u16, u16), row: Row, data: Vec<u8>) -> Sctp {
        let chunk = |row: Row, value: Vec<u8>| Chunk { kind: Chunk::kind(row), flags: 0, value };
        let mut first = chunk(row, data);
        match row {
            // SACK, HEARTBEAT, ECNE, or what nobody knows.
            Row::Data => first.kind = self.random.of(&[0, 0, 3, 4, 5, 12, 64, 192]),
            // Mostly as it should be.
            Row::Init if self.random.percent(90) => {
                first.value.resize(16 + first.value.len(), 0x11);
                first.value[0] |= 1;
            }
            Row::Error if self.random.percent(60) => {
                let cause = self.random.of(&[1, 3]);
                first.value = [&[0, cause], &first.value[..]].concat();
            }
            _ => {}
        }
        let mut chunks = vec![first];
        if row == Row::Abort && self.random.percent(30) {
            let cookie = self.random.of(&[Row::CookieEcho, Row::CookieAck]);
            chunks.insert(0, chunk(cookie, vec![7; 9]));
        } else if self.random.percent(30) {
            chunks.push(chunk(Row::Data, vec![1; 14]));
            if self.random.percent(20) {
                chunks.push(chunk(Row::Abort, Vec::new()));
            }
        }
        let tag = if row == Row::Init && self.random.percent(95) { 0 } else { self.random.next() };
        let wrong = if self.random.percent(3) { self.random.next() as u32 } else { 0 };
        Sctp { sport, dport, tag: tag as u32, chunks, wrong }
    }
}
