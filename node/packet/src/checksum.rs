//! The internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::IpAddr;

/// The checksum of `bytes`, starting from the one's complement sum `start`.
#[must_use]
pub fn internet_checksum(start: u32, bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    //= RFC 1071 section 2(C): words of more than 16 bits are folded in the end
    let sum = words.iter().fold(0, |sum: u64, word| sum + u64::from(u32::from_be_bytes(*word)));
    let last = match *rest {
        [a] => u32::from_be_bytes([a, 0, 0, 0]),
        [a, b] => u32::from_be_bytes([a, b, 0, 0]),
        [a, b, c] => u32::from_be_bytes([a, b, c, 0]),
        _ => 0,
    };
    !fold(sum + u64::from(last) + u64::from(start))
}

/// Whether the checksum in `header` is right; most have no options, and those are summed at once.
//= RFC 1071 section 2(B): the sum does not depend on the order of octets, as long as it is one
#[inline]
pub(crate) fn is_right(header: &[u8]) -> bool {
    match header.try_into() {
        Ok(plain) => is_right_plain(plain),
        Err(_) => internet_checksum(0, header) == 0,
    }
}

/// As [`is_right`], for a header without options.
#[inline(always)]
pub(crate) fn is_right_plain(header: &[u8; 20]) -> bool {
    let word = |at: usize| {
        u64::from(u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
    };
    fold(word(0) + word(4) + word(8) + word(12) + word(16)) == 0xffff
}

/// A checksum while words under it change: folded once, when all have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum(u64);

//= RFC 1624 section 3: HC' = ~(~HC + ~m + m')
impl Sum {
    /// That of a header before.
    pub(crate) fn of(checksum: u16) -> Self {
        Self(u64::from(!checksum))
    }

    /// A 16-bit word changed.
    pub(crate) fn replace16(&mut self, old: u16, new: u16) {
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// A 32-bit word, at an even offset, changed.
    pub(crate) fn replace32(&mut self, old: u32, new: u32) {
        // The two halves of a word add up to what the fold makes of the whole.
        self.0 += u64::from(!old) + u64::from(new);
    }

    /// That of the header afterwards.
    pub(crate) fn checksum(self) -> u16 {
        !fold(self.0)
    }
}

/// `checksum` after one 16-bit word under it changed.
#[must_use]
pub fn update16(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = Sum::of(checksum);
    sum.replace16(old, new);
    sum.checksum()
}

/// `checksum` after a 32-bit word under it, at an even offset, changed.
#[must_use]
pub fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    let mut sum = Sum::of(checksum);
    sum.replace32(old, new);
    sum.checksum()
}

/// `checksum` after bytes under it, at an even offset and of an even length, changed.
#[must_use]
pub fn update_bytes(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let add = |start: u64, bytes: &[u8], flip: u16| {
        bytes
            .chunks_exact(2)
            .fold(start, |sum, pair| sum + u64::from(u16::from_be_bytes([pair[0], pair[1]]) ^ flip))
    };
    let sum = add(u64::from(!checksum), old, 0xffff);
    !fold(add(sum, new, 0))
}

/// The sum over the pseudo header of TCP, UDP and ICMPv6 (RFC 9293 section 3.1, RFC 8200 section
/// 8.1), to start [`internet_checksum`] with. `len` is that of the transport header and its data.
#[must_use]
pub fn pseudo_sum(src: IpAddr, dst: IpAddr, protocol: u8, len: u32) -> u32 {
    let words = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => {
            let bits = addr.to_bits();
            (bits >> 16) + (bits & 0xffff)
        }
        IpAddr::V6(addr) => addr.segments().into_iter().map(u32::from).sum(),
    };
    words(src) + words(dst) + u32::from(protocol) + (len >> 16) + (len & 0xffff)
}

/// The one's complement sum of the four quarters.
#[inline]
fn fold(sum: u64) -> u16 {
    // What is left has 33, 32, 17 and 16 bits.
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(internet_checksum(0, &bytes), !0xddf2);
        assert_eq!(internet_checksum(0, &bytes[..7]), !fold(0x1 + 0xf203 + 0xf4f5 + 0xf600));
    }

    #[test]
    fn a_header_is_right_with_its_checksum_alone() {
        for len in [20, 24, 60] {
            let mut header: Vec<u8> = (1..=len).collect();
            header[10..12].fill(0);
            let checksum = internet_checksum(0, &header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            assert!(is_right(&header), "{len}");
            for at in 0..header.len() {
                header[at] ^= 0x10;
                assert!(!is_right(&header), "{at} of {len}");
                header[at] ^= 0x10;
            }
        }
    }

    #[test]
    fn updates_agree() {
        let (old, new) = (0xc612_0064_u32, 0x0a00_0001_u32);
        let by_bytes = update_bytes(0x1234, &old.to_be_bytes(), &new.to_be_bytes());
        assert_eq!(by_bytes, update32(0x1234, old, new));
    }

    #[test]
    fn update_of_rfc_1624() {
        //= RFC 1624 section 4, the example that eqn. 2 gets wrong
        assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }
}
