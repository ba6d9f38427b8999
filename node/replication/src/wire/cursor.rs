//! Reading and writing numbers. No read goes past the end of the frame.

use super::WireError;

/// Bytes of the longest 64-bit varint.
const VARINT_BYTES_MAX: u32 = 10;

/// Appends a LEB128 varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Maps a difference to a small number whatever its sign.
pub(super) fn zigzag(difference: i64) -> u64 {
    ((difference << 1) ^ (difference >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub(super) fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// The unread rest of a frame.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(frame: &'a [u8]) -> Self {
        Self { rest: frame, length: frame.len() }
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        let [byte] = self.array(what)?;
        Ok(byte)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated { what })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn varint(&mut self, what: &'static str) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for place in 0..VARINT_BYTES_MAX {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if place == VARINT_BYTES_MAX - 1 && bits > 1 {
                return Err(WireError::Varint { what });
            }
            value |= bits << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Varint { what })
    }

    pub(super) fn varint_u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        let got = self.varint(what)?;
        u32::try_from(got).map_err(|_| WireError::Range { what, got })
    }

    pub(super) fn count(&mut self, what: &'static str, max: usize) -> Result<usize, WireError> {
        let got = self.varint(what)?;
        usize::try_from(got).ok().filter(|n| *n <= max).ok_or(WireError::Range { what, got })
    }

    /// Leaves the rest unread.
    pub(super) fn skip_rest(&mut self) {
        self.rest = &[];
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.length - self.rest.len()
    }
}
