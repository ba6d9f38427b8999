//! What every version of QUIC shows of a packet (RFC 8999).

/// The destination connection ID of a QUIC packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DestinationCid<'a> {
    /// Its octets. In a packet with a short header, which does not say how long it is, all that
    /// follows.
    pub bytes: &'a [u8],
    /// The packet has a long header: the client may have invented the ID.
    pub is_long: bool,
}

/// Where a UDP payload, taken for QUIC, is addressed to; none when it is cut short.
//= RFC 8999 section 5.1 (long headers: version, then length and ID) and 5.2 (short headers)
#[must_use]
pub fn destination_cid(payload: &[u8]) -> Option<DestinationCid<'_>> {
    let (first, rest) = payload.split_first()?;
    if first & 0x80 == 0 {
        return Some(DestinationCid { bytes: rest, is_long: false });
    }
    let (_version, rest) = rest.split_at_checked(4)?;
    let (len, rest) = rest.split_first()?;
    Some(DestinationCid { bytes: rest.get(..usize::from(*len))?, is_long: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_is_found_in_both_headers() {
        //= RFC 9001 appendix A.2: a client's Initial with an ID of eight octets
        let initial =
            [0xc3, 0, 0, 0, 1, 8, 0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08, 0, 0, 0x44, 0x9e];
        let found = destination_cid(&initial).unwrap();
        assert_eq!((found.bytes, found.is_long), (&initial[6..14], true));
        let short = [0x40, 1, 2, 3];
        let found = destination_cid(&short).unwrap();
        assert_eq!((found.bytes, found.is_long), (&short[1..], false));
        // A version nobody knows, and an ID longer than version 1 allows.
        let mut long = vec![0x80, 9, 9, 9, 9, 200];
        long.extend([7; 250]);
        assert_eq!(destination_cid(&long).unwrap().bytes, &[7; 200]);
        for cut in 0..initial.len() {
            let found = destination_cid(&initial[..cut]);
            assert_eq!(found.is_some(), cut >= 14, "{cut} octets");
        }
    }
}
