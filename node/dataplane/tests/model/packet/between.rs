//! What stands between an IP header and what it carries, and frames that are none.

use super::Pkt;

/// Options of IPv4, or headers of IPv6.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Between {
    #[default]
    Nothing,
    /// A multiple of four octets.
    Options(Vec<u8>),
    /// Each by its number, and what is in it behind its length: six octets and eights more.
    Extensions(Vec<(u8, Vec<u8>)>),
}

/// How a frame is spoilt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Flaw {
    /// The checksum of an IPv4 header.
    Checksum(u16),
    Version(u8),
    /// Of another type.
    Type(u16),
    /// It ends here.
    Cut(u16),
}

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const DESTINATION: u8 = 60;

/// Headers that are followed.
const EXTENSIONS_MAX: usize = 8;

impl Between {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Options(options) => options.len(),
            Self::Extensions(all) => all.iter().map(|(_, inside)| 2 + inside.len()).sum(),
        }
    }

    /// The number of the first header, if there is one, and all of them, before one of `protocol`.
    pub(super) fn chain(&self, protocol: u8) -> (u8, Vec<u8>) {
        let Self::Extensions(all) = self else { return (protocol, Vec::new()) };
        let first = all.first().map_or(protocol, |(number, _)| *number);
        let next = all.iter().skip(1).map(|(number, _)| *number).chain([protocol]);
        let headers = all.iter().zip(next).map(|((_, inside), next)| {
            let units = (inside.len() + 2) / 8 - 1;
            [&[next, units as u8], &inside[..]].concat()
        });
        (first, headers.flatten().collect())
    }

    pub(super) fn options(&self) -> &[u8] {
        if let Self::Options(options) = self { options } else { &[] }
    }

    /// Why nobody may send this on (README, "Limits").
    fn refused(&self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Options(options) => match tell_apart(options) {
                Some(all) => {
                    all.iter().any(|kind| matches!(kind, 131 | 137)).then_some("ip_options")
                }
                None => Some("ip_options"),
            },
            Self::Extensions(all) => {
                let is_bad = |(place, (number, inside)): (usize, &(u8, Vec<u8>))| match *number {
                    HOP_BY_HOP => place > 0,
                    // Segments that are left.
                    ROUTING => inside[1] > 0,
                    _ => false,
                };
                let many = all.len() >= EXTENSIONS_MAX;
                (many || all.iter().enumerate().any(is_bad)).then_some("extension")
            }
        }
    }

    /// What pieces but the first have: options that are not to be copied make room for nothing
    /// (RFC 791 section 3.1).
    pub(crate) fn of_later(&self) -> Self {
        let Self::Options(options) = self else { return self.clone() };
        let (mut later, mut at) = (options.clone(), 0);
        while let Some(kind) = options.get(at).copied().filter(|kind| *kind != 0) {
            let len = if kind == 1 { 1 } else { usize::from(options[at + 1]) };
            if kind & 0x80 == 0 {
                later[at..at + len].fill(1);
            }
            at += len;
        }
        Self::Options(later)
    }
}

/// The kinds of IPv4 options; none if they cannot be told apart.
fn tell_apart(options: &[u8]) -> Option<Vec<u8>> {
    let (mut kinds, mut at) = (Vec::new(), 0);
    while let Some(kind) = options.get(at).copied().filter(|kind| *kind != 0) {
        // Behind a source route nobody looks.
        kinds.push(kind);
        if matches!(kind, 131 | 137) {
            break;
        }
        let len = if kind == 1 { 1 } else { usize::from(*options.get(at + 1)?) };
        at += len;
        if len == 0 || kind != 1 && len < 2 || at > options.len() {
            return None;
        }
    }
    Some(kinds)
}

impl Pkt {
    /// Why this is no packet that can go anywhere, whoever it is for.
    pub(crate) fn unreadable(&self) -> Option<&'static str> {
        match self.flaw {
            Some(Flaw::Checksum(_)) => Some("header_checksum"),
            Some(Flaw::Version(_) | Flaw::Cut(_)) => Some("malformed"),
            Some(Flaw::Type(_)) | None => self.between.refused(),
        }
    }

    pub(super) fn spoil(&self, frame: &mut Vec<u8>) {
        match self.flaw {
            None => {}
            Some(Flaw::Checksum(by)) => {
                frame[24] ^= (by >> 8) as u8;
                frame[25] ^= by as u8;
            }
            Some(Flaw::Version(version)) => frame[14] = version << 4 | frame[14] & 0xf,
            Some(Flaw::Type(number)) => frame[12..14].copy_from_slice(&number.to_be_bytes()),
            Some(Flaw::Cut(at)) => frame.truncate(at.into()),
        }
    }
}
