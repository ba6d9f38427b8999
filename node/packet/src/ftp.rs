//! FTP through address translation: what a server says where it waits for a data connection
//! (RFC 959, the 227 reply).
//!
//! Guarantees: a reply keeps its length where it can, so that sequence numbers stay what they are,
//! whoever forwards the next segment and whichever is sent again; only free text makes room. The same
//! segment always becomes the same. A reply that cannot be rewritten so is left as it is, and told.
//!
//! The others need no change: 229 (RFC 2428) has no address, and PORT and EPRT have the client's,
//! which is not translated.

use std::{net::Ipv4Addr, ops::Range};

use crate::{
    Packet, Tcp, Transport, checksum::update_bytes, header::view_mut, options::header_end,
};

/// Lines of a segment that are looked at.
const LINES_MAX: usize = 16;
/// Octets of a line up to the end of the address; servers say no more than 50.
const LINE_MAX: usize = 128;
/// An address of four numbers.
const NUMBERS: usize = 4;
const CODE: &[u8] = b"227 ";

/// What a segment of a server turned out to have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PassiveReply {
    /// No 227 reply with that address.
    None,
    /// One, which has the other address now.
    Rewritten,
    /// One that is cut off or has no address: left as it is.
    Unfit,
    /// One without text that could make room: left as it is, and so is all behind it.
    Tight {
        /// Where its line begins in the frame.
        line: usize,
        /// Where its address is in the frame.
        address: Range<usize>,
    },
}

/// Where the payload of a TCP segment begins in its frame.
#[must_use]
pub fn tcp_payload(frame: &[u8], packet: &Packet) -> Option<usize> {
    matches!(packet.transport, Transport::Tcp { .. }).then(|| header_end(frame, packet))?
}

/// The address as replies have it.
#[must_use]
pub fn passive_text(addr: Ipv4Addr) -> String {
    addr.to_string().replace('.', ",")
}

/// Writes `vip` in the place of `server` into the 227 replies of a segment. Lines begin at the offset
/// `from` in the frame; a reply whose address is at `known` is left alone.
pub fn rewrite_passive_reply(
    frame: &mut [u8],
    packet: &Packet,
    (from, known): (usize, Option<usize>),
    server: Ipv4Addr,
    vip: Ipv4Addr,
) -> PassiveReply {
    let Transport::Tcp { .. } = packet.transport else { return PassiveReply::None };
    let mut at = from;
    let mut done = PassiveReply::None;
    for _ in 0..LINES_MAX {
        let Some(rest) = frame.get(at..packet.end).filter(|rest| !rest.is_empty()) else { break };
        let end = rest.iter().position(|octet| *octet == b'\n');
        let line = &rest[..end.unwrap_or(rest.len())];
        if line.starts_with(CODE) {
            let found = match (address(line), end) {
                (Some((first, _, _)), _) if known == Some(at + first) => PassiveReply::None,
                (Some((_, _, found)), _) if found != server => PassiveReply::None,
                (Some((first, last, _)), Some(_)) => {
                    replace(frame, packet, (at, at + first, at + last), vip)
                }
                _ => PassiveReply::Unfit,
            };
            match found {
                PassiveReply::None => {}
                PassiveReply::Tight { .. } => return found,
                PassiveReply::Rewritten | PassiveReply::Unfit => done = found,
            }
        }
        let Some(end) = end else { break };
        at += end + 1;
    }
    done
}

/// The address in a 227 reply: where its text begins and ends, and what it is.
//= RFC 1123 section 4.1.2.6: the text around it varies; the first digit begins the address
fn address(line: &[u8]) -> Option<(usize, usize, Ipv4Addr)> {
    let line = &line[..line.len().min(LINE_MAX)];
    let free = &line[CODE.len()..];
    let first = CODE.len() + free.iter().position(u8::is_ascii_digit)?;
    let mut numbers = [0; NUMBERS + 2];
    let mut at = first;
    let mut last = first;
    for (i, place) in numbers.iter_mut().enumerate() {
        let digits = line[at..].iter().take_while(|octet| octet.is_ascii_digit()).count();
        *place = std::str::from_utf8(line.get(at..at + digits)?).ok()?.parse::<u8>().ok()?;
        at += digits;
        if i + 1 == NUMBERS {
            last = at;
        }
        if i + 1 < NUMBERS + 2 {
            if line.get(at) != Some(&b',') {
                return None;
            }
            at += 1;
        }
    }
    let [a, b, c, d, ..] = numbers;
    Some((first, last, Ipv4Addr::new(a, b, c, d)))
}

/// Puts `vip` where the address is; the text before it gets longer or shorter in exchange.
fn replace(
    frame: &mut [u8],
    packet: &Packet,
    (line, first, last): (usize, usize, usize),
    vip: Ipv4Addr,
) -> PassiveReply {
    let text = passive_text(vip);
    // The sign before the first digit belongs to it.
    let signed = first > line + CODE.len() && !frame[first - 1].is_ascii_alphanumeric();
    let sign = if signed && frame[first - 1] != b' ' { &frame[first - 1..first] } else { &[] };
    let free = &frame[line + CODE.len()..first - sign.len()];
    let room = last - (line + CODE.len());
    let Some(keep) = room.checked_sub(text.len() + sign.len()) else {
        return PassiveReply::Tight { line, address: first..last };
    };
    let mut new = Vec::with_capacity(room);
    new.extend(free.iter().take(keep));
    if keep < free.len() {
        // No half words.
        let word = new.iter().rposition(|octet| *octet == b' ').map_or(0, |space| space + 1);
        if free.get(keep) != Some(&b' ') {
            new.truncate(word);
        }
    }
    new.resize(keep, b' ');
    new.extend_from_slice(sign);
    new.extend_from_slice(text.as_bytes());
    write(frame, packet, line + CODE.len(), &new)
}

/// Overwrites part of a segment. The checksum counts words from the start of the header.
fn write(frame: &mut [u8], packet: &Packet, at: usize, new: &[u8]) -> PassiveReply {
    let from = packet.l4 + ((at - packet.l4) & !1);
    let words = |frame: &[u8]| {
        let mut octets = [0; LINE_MAX + 2];
        let end = (from + octets.len()).min(packet.end);
        octets[..end - from].copy_from_slice(&frame[from..end]);
        octets
    };
    let old = words(frame);
    frame[at..at + new.len()].copy_from_slice(new);
    let new = words(frame);
    let Some(tcp) = view_mut::<Tcp>(frame, packet.l4) else { return PassiveReply::None };
    tcp.checksum.set(update_bytes(tcp.checksum.get(), &old, &new));
    PassiveReply::Rewritten
}
