//! SCTP packets.

use super::{Row, checksum::crc32c};

/// All rows of its state tables.
pub(super) const ROWS: [Row; 10] = [
    Row::Data,
    Row::Init,
    Row::InitAck,
    Row::CookieEcho,
    Row::CookieAck,
    Row::Shutdown,
    Row::ShutdownAck,
    Row::ShutdownComplete,
    Row::Error,
    Row::Abort,
];

/// RFC 9260 section 3.2: numbers of the chunks with a row of their own.
const KINDS: [(u8, Row); 9] = [
    (1, Row::Init),
    (2, Row::InitAck),
    (6, Row::Abort),
    (7, Row::Shutdown),
    (8, Row::ShutdownAck),
    (9, Row::Error),
    (10, Row::CookieEcho),
    (11, Row::CookieAck),
    (14, Row::ShutdownComplete),
];

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Sctp {
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    pub(crate) tag: u32,
    pub(crate) chunks: Vec<Chunk>,
    /// What its checksum is wrong by.
    pub(crate) wrong: u32,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Chunk {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) value: Vec<u8>,
}

impl Chunk {
    /// Unknown ones count as DATA.
    pub(crate) fn row(&self) -> Row {
        let known = KINDS.iter().find(|(kind, _)| *kind == self.kind);
        known.map_or(Row::Data, |(_, row)| *row)
    }

    /// The number of a row's chunk.
    pub(crate) fn kind(row: Row) -> u8 {
        KINDS.iter().find(|(_, of)| *of == row).map_or(0, |(kind, _)| *kind)
    }
}

impl Sctp {
    /// The first chunk speaks for the packet; behind a cookie an ABORT does, if its header is among
    /// the first `len` octets.
    pub(super) fn row(&self, len: usize) -> Row {
        let row = self.chunks[0].row();
        let bundles = matches!(row, Row::CookieEcho | Row::CookieAck);
        let second = 12 + (4 + self.chunks[0].value.len()).next_multiple_of(4);
        match self.chunks.get(1).map(Chunk::row) {
            Some(Row::Abort) if bundles && second + 4 <= len => Row::Abort,
            _ => row,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat();
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        for Chunk { kind, flags, value } in &self.chunks {
            bytes.extend([*kind, *flags]);
            bytes.extend((value.len() as u16 + 4).to_be_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let sum = crc32c(&bytes) ^ self.wrong;
        bytes[8..12].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Has the checksum of another packet, right or wrong.
    pub(crate) fn keep_checksum(&mut self, of: &Self) {
        let sum = |sctp: &Self| {
            let bytes = sctp.bytes();
            u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]])
        };
        self.wrong ^= sum(self) ^ sum(of);
    }

    /// What a host without the association answers (RFC 9260 section 8.4): nothing to what is broken
    /// or ends one, SHUTDOWN COMPLETE to the last step of a shutdown, ABORT to all else. An INIT gets
    /// it with the tag that it offers.
    pub(crate) fn refusal(&self) -> Option<Self> {
        let has_abort = self.chunks.iter().any(|chunk| chunk.row() == Row::Abort);
        if self.wrong != 0 || has_abort {
            return None;
        }
        let first = &self.chunks[0];
        let word = |len: usize| first.value.get(..len).map(<[u8]>::to_vec);
        let (row, flags, tag) = match first.row() {
            Row::Init => {
                let offered = u32::from_be_bytes(word(4)?.try_into().unwrap());
                if self.tag != 0 || offered == 0 || first.value.len() < 16 {
                    return None;
                }
                (Row::Abort, 0, offered)
            }
            Row::ShutdownAck => (Row::ShutdownComplete, 1, self.tag),
            Row::ShutdownComplete | Row::CookieAck => return None,
            // A stale cookie.
            Row::Error if word(2).is_some_and(|cause| cause == [0, 3]) => return None,
            _ => (Row::Abort, 1, self.tag),
        };
        let chunks = vec![Chunk { kind: Chunk::kind(row), flags, value: Vec::new() }];
        Some(Self { sport: self.dport, dport: self.sport, tag, chunks, wrong: 0 })
    }
}
