//! Packets cut into fragments.

use steadfast_packet::internet_checksum;

use super::framed;
use crate::lab::Mac;

/// Octets in each part but the last.
pub const PART: usize = 32;
/// A whole packet as an IP packet, cut into frames of [`PART`] octets of payload.
pub fn cut(macs: (Mac, Mac), packet: &[u8], id: u32) -> Vec<Vec<u8>> {
    cut_into(macs, packet, id, PART)
}

pub fn cut_into(macs: (Mac, Mac), packet: &[u8], id: u32, part: usize) -> Vec<Vec<u8>> {
    let v4 = packet[0] >> 4 == 4;
    let (header, payload) = packet.split_at(if v4 { 20 } else { 40 });
    let count = payload.len().div_ceil(part);
    let piece =
        |(n, piece): (usize, &[u8])| fragment(macs, header, piece, (id, n * part, n + 1 < count));
    payload.chunks(part).enumerate().map(piece).collect()
}

/// One part of a packet with this IP header, as a frame.
pub fn fragment(
    macs: (Mac, Mac),
    header: &[u8],
    piece: &[u8],
    (id, offset, more): (u32, usize, bool),
) -> Vec<u8> {
    let mut part = header.to_vec();
    if header[0] >> 4 == 4 {
        let len = (20 + piece.len()) as u16;
        let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
        part[2..4].copy_from_slice(&len.to_be_bytes());
        part[4..6].copy_from_slice(&(id as u16).to_be_bytes());
        part[6..8].copy_from_slice(&field.to_be_bytes());
        part[10..12].fill(0);
        let checksum = internet_checksum(0, &part).to_be_bytes();
        part[10..12].copy_from_slice(&checksum);
    } else {
        let len = (8 + piece.len()) as u16;
        let field = offset as u16 | u16::from(more);
        part[4..6].copy_from_slice(&len.to_be_bytes());
        let protocol = std::mem::replace(&mut part[6], 44);
        part.extend([protocol, 0]);
        part.extend(field.to_be_bytes());
        part.extend(id.to_be_bytes());
    }
    part.extend(piece);
    framed(macs, &part)
}
