//! Servers of full-NAT that are told who their clients are by a TCP option (README,
//! `client_address: toa`).

use super::{Conn, Mode, Naive, forward::Path};
use crate::packet::{Body, Pkt, RST, SYN};

const KIND: u8 = 254;

/// Replies after which the server has surely read it.
const REPLIES: u64 = 8;

/// What became of it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Toa {
    Told,
    /// There was no room.
    Untold,
    /// The server has read it.
    Read,
    /// A client said it of itself.
    Erased,
    /// The server announced less.
    Announced,
    /// The client was told a smaller MTU.
    Lowered,
}

fn len(ipv6: bool) -> usize {
    if ipv6 { 20 } else { 8 }
}

/// Options with where they start, until one that cannot be told apart.
fn tell_apart(options: &[u8]) -> (Vec<(usize, usize)>, bool) {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(kind) = options.get(at).copied().filter(|kind| *kind != 0) {
        if kind == 1 {
            at += 1;
            continue;
        }
        match options.get(at + 1).copied().map(usize::from) {
            Some(len) if len >= 2 && at + len <= options.len() => {
                found.push((at, len));
                at += len;
            }
            _ => return (found, false),
        }
    }
    (found, true)
}

fn erase(options: &mut [u8]) -> bool {
    let (found, _) = tell_apart(options);
    let of_kind: Vec<(usize, usize)> =
        found.into_iter().filter(|(at, _)| options[*at] == KIND).collect();
    of_kind.iter().for_each(|(at, len)| options[*at..at + len].fill(1));
    !of_kind.is_empty()
}

/// Announces what `new` makes of the segment size, if that is less.
fn announce(options: &mut [u8], new: impl Fn(u16) -> u16) -> bool {
    let (found, _) = tell_apart(options);
    let Some((at, 4)) = found.into_iter().find(|(at, _)| options[*at] == 2) else { return false };
    let old = u16::from_be_bytes([options[at + 2], options[at + 3]]);
    let new = new(old);
    if new < old {
        options[at + 2..at + 4].copy_from_slice(&new.to_be_bytes());
    }
    new < old
}

impl Naive {
    /// How many replies a connection has seen whose server is told its client.
    pub(super) fn told_after(&self, conn: &Conn) -> Option<u64> {
        let service = self.services.iter().find(|service| service.id == conn.service)?;
        (service.toa && conn.mode == Mode::FullNat).then_some(conn.replies)
    }

    /// The option in a packet of the client, and room for it in those of the server; `mtu` is of the
    /// way, and `fits` of where the packet came in.
    pub(super) fn tell(&mut self, sent: &mut Pkt, path: &Path, (mtu, fits): (usize, usize)) {
        let Some(replies) = path.told_after else { return };
        let ipv6 = sent.src.is_ipv6();
        let (len, is_later, is_whole) = (len(ipv6), sent.is_later(), sent.fragment().is_none());
        let is_too_long = sent.len() + len > mtu;
        let Body::Tcp { flags, options, .. } = &mut sent.body else { return };
        if is_later {
            return;
        }
        if !path.inbound {
            let least = if ipv6 { 1220 } else { 536 };
            let most = (fits - len - if ipv6 { 60 } else { 40 }).min(65_535) as u16;
            if *flags & SYN != 0 {
                let less = announce(options, |size| size.saturating_sub(len as u16).max(least));
                let clamped = announce(options, |_| most.max(least));
                if less || clamped {
                    self.note_toa(ipv6, Toa::Announced);
                }
            }
            return;
        }
        let erased = erase(options);
        let resets = *flags & RST != 0;
        let has_room = 20 + options.len() + len <= 60 && is_whole && !is_too_long;
        if erased {
            self.note_toa(ipv6, Toa::Erased);
        }
        if resets {
            return;
        }
        if replies >= REPLIES {
            return self.note_toa(ipv6, Toa::Read);
        }
        self.note_toa(ipv6, if has_room { Toa::Told } else { Toa::Untold });
        if !has_room {
            return;
        }
        let (client, port) = path.flow.0;
        let mut option = vec![KIND, len as u8];
        option.extend(port.to_be_bytes());
        match client {
            std::net::IpAddr::V4(addr) => option.extend(addr.octets()),
            std::net::IpAddr::V6(addr) => option.extend(addr.octets()),
        }
        if let Body::Tcp { options, .. } = &mut sent.body {
            options.splice(0..0, option);
        }
        if let Some(part) = &mut sent.part {
            part.len += len;
        }
    }

    /// A client whose packets grow on their way hears of an MTU that leaves room.
    pub(super) fn lower_told(&mut self, body: &mut Body, ipv6: bool) {
        let Body::Error { kind, code, word, .. } = body else { return };
        let (tells, old, least) = match ipv6 {
            true => (*kind == 2, u32::from_be_bytes(*word), 1280),
            false => ((*kind, *code) == (3, 4), u32::from_be_bytes([0, 0, word[2], word[3]]), 68),
        };
        let new = old.saturating_sub(len(ipv6) as u32).max(least);
        if !tells || old == 0 || new >= old {
            return;
        }
        let bytes = new.to_be_bytes();
        if ipv6 {
            *word = bytes
        } else {
            word[2..].copy_from_slice(&bytes[2..])
        }
        self.note_toa(ipv6, Toa::Lowered);
    }

    fn note_toa(&mut self, ipv6: bool, toa: Toa) {
        *self.tally.toa.entry((ipv6, toa)).or_default() += 1;
    }
}
