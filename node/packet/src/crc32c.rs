//! CRC32c, the checksum of SCTP (RFC 9260 appendix A), and its incremental update.
//!
//! Guarantees: an update costs the same work for a long packet as for a short one, never looks at
//! the payload, and keeps an error an error: the CRC is linear, so the difference that a change
//! makes does not depend on what else is there.
//!
//! Values here are reflected, as RFC 9260 transmits them: the field is the value in little endian.

/// x^32 + x^28 + x^27 + ... (Castagnoli), reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Powers of two of zero octets that an update can step over: any length of a packet.
const SHIFTS: usize = 16;

/// A linear map of 32 bits: the image of each nibble value in each of the eight places.
type Map = [[u32; 16]; 8];

/// What one octet does to the remainder.
const OCTETS: [u32; 256] = octets();

/// `STEPS[k]` steps over 2^k zero octets.
const STEPS: [Map; SHIFTS] = steps();

/// The CRC32c of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_of([bytes])
}

/// The CRC32c of parts that follow each other.
#[must_use]
pub(crate) fn crc32c_of<const N: usize>(parts: [&[u8]; N]) -> u32 {
    !parts.iter().fold(!0, |crc, part| part.iter().fold(crc, |crc, octet| push(crc, *octet)))
}

/// `crc` after the two octets `old`, that `behind` octets follow, became `new`.
#[must_use]
pub fn update_crc32c(crc: u32, old: u16, new: u16, behind: usize) -> u32 {
    let [high, low] = (old ^ new).to_be_bytes();
    let mut difference = push(push(0, high), low);
    for (bit, step) in STEPS.iter().enumerate() {
        if behind >> bit & 1 == 1 {
            difference = apply(step, difference);
        }
    }
    crc ^ difference
}

const fn push(crc: u32, octet: u8) -> u32 {
    OCTETS[((crc ^ octet as u32) & 0xff) as usize] ^ (crc >> 8)
}

const fn apply(map: &Map, value: u32) -> u32 {
    let (mut result, mut place) = (0, 0);
    while place < 8 {
        result ^= map[place][(value >> (4 * place) & 0xf) as usize];
        place += 1;
    }
    result
}

const fn octets() -> [u32; 256] {
    let mut table = [0; 256];
    let mut octet = 0;
    while octet < 256 {
        let (mut crc, mut bit) = (octet as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[octet] = crc;
        octet += 1;
    }
    table
}

const fn steps() -> [Map; SHIFTS] {
    let mut steps = [[[0; 16]; 8]; SHIFTS];
    let mut k = 0;
    while k < SHIFTS {
        let mut place = 0;
        while place < 8 {
            let mut nibble = 0;
            while nibble < 16 {
                let value = (nibble as u32) << (4 * place);
                steps[k][place][nibble] = match k {
                    0 => push(value, 0),
                    _ => apply(&steps[k - 1], apply(&steps[k - 1], value)),
                };
                nibble += 1;
            }
            place += 1;
        }
        k += 1;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bit at a time, straight from the definition; shares nothing with the tables.
    fn bitwise(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for octet in bytes {
            for bit in 0..8 {
                let feedback = (crc ^ u32::from(octet >> bit)) & 1;
                crc = (crc >> 1) ^ (feedback * POLYNOMIAL);
            }
        }
        !crc
    }

    #[test]
    fn vectors_of_rfc_3720() {
        //= RFC 3720 appendix B.4, which gives the octets in the order they are sent
        let up: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (0..32).rev().collect();
        for (bytes, sent) in [
            (&[0; 32][..], [0xaa, 0x36, 0x91, 0x8a]),
            (&[0xff; 32], [0x43, 0xab, 0xa8, 0x62]),
            (&up, [0x4e, 0x79, 0xdd, 0x46]),
            (&down, [0x5c, 0xdb, 0x3f, 0x11]),
        ] {
            assert_eq!(crc32c(bytes).to_le_bytes(), sent);
        }
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn updates_are_what_a_new_computation_gives_at_every_length() {
        for len in (2..300).chain([1_500, 9_000, 65_535]) {
            let mut bytes: Vec<u8> = (0..len).map(|i| (i * 31 + len) as u8).collect();
            assert_eq!(crc32c(&bytes), bitwise(&bytes), "{len}");
            for at in [0, (len - 2) / 2, len - 2] {
                let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
                let new = old.wrapping_mul(7).wrapping_add(1);
                let before = crc32c(&bytes);
                bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
                let updated = update_crc32c(before, old, new, len - at - 2);
                assert_eq!(updated, bitwise(&bytes), "{len} at {at}");
                let wrong = update_crc32c(before ^ 0x40, old, new, len - at - 2);
                assert_eq!(wrong ^ updated, 0x40, "an error stays the same error");
            }
        }
    }
}
