//! What one node's checks see, as a message to the others.
//!
//! Layout (integers big-endian): version (1 byte), boot id (8), sequence number (8), number of
//! targets (4); then per target flags (1: bit 0 IPv6, bit 1 down, others zero), address (4 or 16)
//! and port (2), in strictly ascending order. A target this node has no opinion on is left out.
//! Who sent it is known from the connection, not from the message.

use std::{collections::BTreeMap, net::IpAddr};

use steadfast_model::{BootId, document::CheckKind};

use crate::{Opinion, TARGETS_MAX, Target};

/// The longest valid message.
pub const VIEW_BYTES_MAX: usize = HEADER_BYTES + TARGETS_MAX * (1 + 16 + 2);

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 8 + 8 + 4;
const FLAG_V6: u8 = 1;
const FLAG_DOWN: u8 = 2;

/// What one node's checks see: up or down for each target it has an opinion on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct View {
    /// The run of the sender's daemon.
    pub boot: BootId,
    /// Ascends within a run. Messages may overtake each other.
    pub sequence: u64,
    /// Up (true) or down.
    pub up: BTreeMap<Target, bool>,
}

/// Not a view.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ViewError {
    /// Ends too early or goes on after its end.
    #[error("a health view of {0} bytes has the wrong length")]
    Length(usize),
    /// From another version of the daemon.
    #[error("a health view of version {0}; this daemon reads version {VERSION}: upgrade it")]
    Version(u8),
    /// More targets than a cluster can have.
    #[error("a health view of {0} targets; the bound is {TARGETS_MAX}")]
    TooMany(u32),
    /// Flags that no daemon of this version sets.
    #[error("a health view with unknown flags {0:#04x}")]
    Flags(u8),
    /// Not in ascending order, or a target twice.
    #[error("a health view with targets out of order")]
    Order,
}

impl View {
    /// The view of this node's checks.
    pub fn of<'a>(
        boot: BootId,
        sequence: u64,
        opinions: impl IntoIterator<Item = (Target, &'a Opinion)>,
    ) -> Self {
        let known = |(target, opinion): (Target, &Opinion)| match opinion {
            Opinion::Unknown => None,
            Opinion::Up => Some((target, true)),
            Opinion::Down { .. } => Some((target, false)),
        };
        let up = opinions.into_iter().filter_map(known).take(TARGETS_MAX).collect();
        Self { boot, sequence, up }
    }

    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + 7 * self.up.len());
        out.push(VERSION);
        out.extend(self.boot.0.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        let count = self.up.len().min(TARGETS_MAX);
        out.extend((count as u32).to_be_bytes());
        for (target, up) in self.up.iter().take(count) {
            // Another kind of check will be another flag.
            let CheckKind::Tcp = target.kind;
            let down = if *up { 0 } else { FLAG_DOWN };
            match target.addr {
                IpAddr::V4(ip) => {
                    out.push(down);
                    out.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(down | FLAG_V6);
                    out.extend(ip.octets());
                }
            }
            out.extend(target.port.to_be_bytes());
        }
        out
    }

    /// Reads a message. There is one spelling of every view.
    pub fn decode(bytes: &[u8]) -> Result<Self, ViewError> {
        let mut input = Input { rest: bytes, length: bytes.len() };
        let [version] = input.take()?;
        if version != VERSION {
            return Err(ViewError::Version(version));
        }
        let boot = BootId(u64::from_be_bytes(input.take()?));
        let sequence = u64::from_be_bytes(input.take()?);
        let count = u32::from_be_bytes(input.take()?);
        if count as usize > TARGETS_MAX {
            return Err(ViewError::TooMany(count));
        }
        let mut up = BTreeMap::new();
        for _ in 0..count {
            let [flags] = input.take()?;
            if flags & !(FLAG_V6 | FLAG_DOWN) != 0 {
                return Err(ViewError::Flags(flags));
            }
            let addr = if flags & FLAG_V6 == 0 {
                IpAddr::from(input.take::<4>()?)
            } else {
                IpAddr::from(input.take::<16>()?)
            };
            let port = u16::from_be_bytes(input.take()?);
            let target = Target { addr, port, kind: CheckKind::Tcp };
            if up.last_key_value().is_some_and(|(last, _)| *last >= target) {
                return Err(ViewError::Order);
            }
            up.insert(target, flags & FLAG_DOWN == 0);
        }
        if !input.rest.is_empty() {
            return Err(ViewError::Length(bytes.len()));
        }
        Ok(Self { boot, sequence, up })
    }
}

struct Input<'a> {
    rest: &'a [u8],
    length: usize,
}

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ViewError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(ViewError::Length(self.length))?;
        self.rest = rest;
        Ok(*head)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view() -> impl Strategy<Value = View> {
        let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
        let v6 = any::<[u8; 16]>().prop_map(IpAddr::from);
        let target = (prop_oneof![v4, v6], any::<u16>()).prop_map(|(addr, port)| Target {
            addr,
            port,
            kind: CheckKind::Tcp,
        });
        let up = proptest::collection::btree_map(target, any::<bool>(), 0..40);
        (any::<u64>(), any::<u64>(), up).prop_map(|(boot, sequence, up)| View {
            boot: BootId(boot),
            sequence,
            up,
        })
    }

    // A failing case is printed with its seed and kept in `proptest-regressions/`, where every
    // later run starts with it.
    proptest! {
        #[test]
        fn message_and_back(view in view()) {
            prop_assert_eq!(View::decode(&view.encode()), Ok(view));
        }

        #[test]
        fn damaged_messages_are_refused_or_mean_what_they_say(
            view in view(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = view.encode();
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(read) = View::decode(&bytes) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }

        #[test]
        fn garbage_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = View::decode(&bytes);
        }
    }

    #[test]
    fn errors_and_bounds() {
        let empty = View { boot: BootId(1), sequence: 2, up: BTreeMap::new() }.encode();
        assert_eq!(empty.len(), HEADER_BYTES);
        assert_eq!(View::decode(&[]), Err(ViewError::Length(0)));
        assert_eq!(View::decode(&[2]), Err(ViewError::Version(2)));
        let mut many = empty.clone();
        many[17..21].copy_from_slice(&(TARGETS_MAX as u32 + 1).to_be_bytes());
        assert_eq!(View::decode(&many), Err(ViewError::TooMany(TARGETS_MAX as u32 + 1)));
        let with = |entries: &[[u8; 7]]| {
            let mut bytes = empty.clone();
            bytes[20] = entries.len() as u8;
            bytes.extend(entries.concat());
            View::decode(&bytes)
        };
        let (a, b) = ([0, 192, 0, 2, 1, 0, 80], [2, 192, 0, 2, 2, 0, 80]);
        assert_eq!(with(&[a, b]).unwrap().up.values().copied().collect::<Vec<_>>(), [true, false]);
        assert_eq!(with(&[b, a]), Err(ViewError::Order));
        assert_eq!(with(&[a, a]), Err(ViewError::Order));
        assert_eq!(with(&[[4, 192, 0, 2, 1, 0, 80]]), Err(ViewError::Flags(4)));
        let full = (0..TARGETS_MAX as u32).map(|n| {
            let addr = IpAddr::from(u128::from(n).to_be_bytes());
            (Target { addr, port: 80, kind: CheckKind::Tcp }, true)
        });
        let full = View { boot: BootId(1), sequence: 1, up: full.collect() };
        assert_eq!(full.encode().len(), VIEW_BYTES_MAX);
        assert_eq!(View::decode(&full.encode()), Ok(full));
    }
}
