//! The segment size that TCP handshakes announce.

use crate::packet::{Body, Pkt, SYN};

/// Up to which size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Clamp {
    Off,
    Auto,
    At(u16),
}

/// Lowers what is announced, if it is more than fits `room`.
pub(super) fn clamp(pkt: &mut Pkt, clamp: Clamp, room: usize) -> bool {
    let headers = if pkt.src.is_ipv6() { 60 } else { 40 };
    let most = match clamp {
        Clamp::Off => return false,
        Clamp::At(most) => most,
        Clamp::Auto => (room - headers).min(65_535) as u16,
    };
    let Body::Tcp { flags, options, .. } = &mut pkt.body else { return false };
    if *flags & SYN == 0 {
        return false;
    }
    let mut at = 0;
    while let Some(kind) = options.get(at).copied() {
        let len = match (kind, options.get(at + 1)) {
            (0, _) => return false,
            (1, _) => 1,
            (_, Some(len)) if *len >= 2 => usize::from(*len),
            _ => return false,
        };
        if at + len > options.len() {
            return false;
        }
        if kind == 2 {
            if len != 4 || u16::from_be_bytes([options[at + 2], options[at + 3]]) <= most {
                return false;
            }
            options[at + 2..at + 4].copy_from_slice(&most.to_be_bytes());
            return true;
        }
        at += len;
    }
    false
}
