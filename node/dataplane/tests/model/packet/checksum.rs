//! Checksums, each computed in full and slowly.

/// RFC 1071 the slow way: 32-bit sum of big-endian words, carries folded at the end.
pub(crate) fn ones_complement(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum = 0u32;
    for word in bytes.chunks(2) {
        sum += (u32::from(word[0]) << 8) | u32::from(*word.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// CRC32c (RFC 9260 appendix A), octet by octet.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| OCTETS[(crc as u8 ^ byte) as usize] ^ crc >> 8;
    !bytes.iter().fold(u32::MAX, step)
}

const OCTETS: [u32; 256] = octets();

/// What each octet does, bit by bit.
const fn octets() -> [u32; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 * 8 {
        let crc = if at % 8 == 0 { at as u32 / 8 } else { table[at / 8] };
        table[at / 8] = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        at += 1;
    }
    table
}
