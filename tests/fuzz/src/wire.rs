//! A second reader of frames, which shares no code with `steadfast-packet`: it finds the checksums
//! of a frame, to set them right before a frame is handed in and to look at them when it comes out.
//!
//! It is no judge of what is malformed: where it cannot find its way there are no checksums.

const VLAN: [u8; 2] = [0x81, 0x00];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// Extension headers that are followed.
const EXTENSIONS_MAX: usize = 8;

/// An IP packet in a frame.
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    /// Where its header starts.
    pub l3: usize,
    /// Where its payload starts, behind options and extension headers.
    pub l4: usize,
    /// Where it ends.
    pub end: usize,
    /// What its payload is.
    pub protocol: u8,
    /// IPv6.
    pub is_v6: bool,
    /// Part of a packet: its payload has no checksum of its own.
    pub is_fragment: bool,
}

/// The IP packet in a frame.
#[must_use]
pub fn ip_of(frame: &[u8]) -> Option<Ip> {
    let at = if frame.get(12..14)? == VLAN { 16 } else { 12 };
    let kind = [*frame.get(at)?, *frame.get(at + 1)?];
    match kind {
        IPV4 => v4(frame, at + 2),
        IPV6 => v6(frame, at + 2),
        _ => None,
    }
}

/// Sets the checksums of a frame right.
pub fn repair(frame: &mut [u8]) {
    let Some(ip) = ip_of(frame) else { return };
    if !ip.is_v6 {
        let options = ip.l3 + usize::from(frame[ip.l3] & 15) * 4;
        frame[ip.l3 + 10..ip.l3 + 12].fill(0);
        let sum = !ones_sum(&frame[ip.l3..options], 0);
        frame[ip.l3 + 10..ip.l3 + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let Some((at, len)) = place(frame, &ip) else { return };
    frame[at..at + len].fill(0);
    let sum = expected(frame, &ip);
    let bytes = sum.to_be_bytes();
    frame[at..at + len].copy_from_slice(&bytes[bytes.len() - len..]);
}

/// The transport checksum of a frame is right; none when there is none to look at.
#[must_use]
pub fn is_right(frame: &[u8]) -> Option<bool> {
    let ip = ip_of(frame)?;
    let (at, len) = place(frame, &ip)?;
    let found = frame[at..at + len].to_vec();
    if ip.protocol == 17 && found == [0, 0] {
        return Some(!ip.is_v6);
    }
    let mut zeroed = frame.to_vec();
    zeroed[at..at + len].fill(0);
    let bytes = expected(&zeroed, &ip).to_be_bytes();
    let wanted = &bytes[bytes.len() - len..];
    // Both zeroes of ones' complement are one number.
    Some(found == wanted || len == 2 && [&found[..], wanted].iter().all(|sum| is_zero(sum)))
}

fn is_zero(sum: &[u8]) -> bool {
    sum == [0, 0] || sum == [0xff, 0xff]
}

fn v4(frame: &[u8], l3: usize) -> Option<Ip> {
    let header = frame.get(l3..l3 + 20)?;
    let l4 = l3 + usize::from(header[0] & 15) * 4;
    let end = l3 + usize::from(u16::from_be_bytes([header[2], header[3]]));
    let is_fragment = header[6] & 0x3f != 0 || header[7] != 0;
    let good = header[0] >> 4 == 4 && l4 >= l3 + 20 && l4 <= end && end <= frame.len();
    good.then_some(Ip { l3, l4, end, protocol: header[9], is_v6: false, is_fragment })
}

fn v6(frame: &[u8], l3: usize) -> Option<Ip> {
    let header = frame.get(l3..l3 + 40)?;
    let end = l3 + 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || end > frame.len() {
        return None;
    }
    let (mut next, mut l4, mut is_fragment) = (header[6], l3 + 40, false);
    for _ in 0..EXTENSIONS_MAX {
        let [following, len, ..] = *frame.get(l4..end)? else { return None };
        let len = match next {
            0 | 60 => 8 + usize::from(len) * 8,
            44 => {
                is_fragment = true;
                8
            }
            _ => break,
        };
        (next, l4) = (following, l4 + len);
    }
    (l4 <= end).then_some(Ip { l3, l4, end, protocol: next, is_v6: true, is_fragment })
}

/// Where the transport checksum is, and how long.
fn place(frame: &[u8], ip: &Ip) -> Option<(usize, usize)> {
    let (offset, len) = match (ip.protocol, ip.is_v6) {
        (6, _) => (16, 2),
        (17, _) => (6, 2),
        (132, _) => (8, 4),
        (1, false) | (58, true) => (2, 2),
        // GRE with a checksum.
        (47, _) if frame.get(ip.l4)? & 0x80 != 0 => (4, 2),
        _ => return None,
    };
    let at = ip.l4 + offset;
    (!ip.is_fragment && at + len <= ip.end).then_some((at, len))
}

/// The transport checksum of a frame that has zeroes in its place.
fn expected(frame: &[u8], ip: &Ip) -> u32 {
    let payload = &frame[ip.l4..ip.end];
    let pseudo = || {
        let addresses = if ip.is_v6 { ip.l3 + 8..ip.l3 + 40 } else { ip.l3 + 12..ip.l3 + 20 };
        let rest = u32::from(ip.protocol) + payload.len() as u32;
        u32::from(ones_sum(&frame[addresses], rest))
    };
    match ip.protocol {
        132 => crc32c(payload).swap_bytes(),
        1 | 47 => u32::from(!ones_sum(payload, 0)),
        17 => match !ones_sum(payload, pseudo()) {
            0 => 0xffff,
            sum => u32::from(sum),
        },
        _ => u32::from(!ones_sum(payload, pseudo())),
    }
}

/// RFC 1071, the plain way.
fn ones_sum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum = words.sum::<u32>() + start;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// RFC 9260 appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}
