//! Bringing near what the frames of a burst will need, before they are handled one by one.
//!
//! Guarantees: only reads; what is noted of a frame is where to look, not what is there, and nothing
//! is found there that has not the packet's own key. A frame that is left out, or is another by the
//! time it is handled, costs time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use steadfast_packet::vlan_of;

use crate::{
    Address, AddressKind, Config, ConnectionTable, Protocol,
    cache::{Tuple, Way},
    index::Mirror,
};

/// Frames that are prepared at once; more are handled without.
const PREPARE_MAX: usize = 64;

/// Where to look for the connection of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trail {
    pub(crate) way: Way,
    pub(crate) hash: u64,
    /// The slot that is most likely that of the connection.
    pub(crate) slot: Option<u32>,
}

/// What was prepared, by the place of the frame in its burst.
#[derive(Debug)]
pub(crate) struct Prepared {
    trails: [Option<Trail>; PREPARE_MAX],
    count: usize,
    /// The next frame.
    at: usize,
}

impl Prepared {
    pub(crate) fn new() -> Self {
        Self { trails: [None; PREPARE_MAX], count: 0, at: 0 }
    }

    /// Looks at the frames of a burst.
    pub(crate) fn prepare<'a>(
        &mut self,
        frames: impl Iterator<Item = &'a [u8]>,
        config: &Config,
        table: &ConnectionTable,
    ) {
        (self.count, self.at) = (0, 0);
        for (place, frame) in self.trails.iter_mut().zip(frames) {
            *place = Trail::of_plain(frame, config, table)
                .or_else(|| Trail::of(&peek(frame)?, config, table));
            if let Some(trail) = place {
                table.fetch_index(*trail, Mirror::First);
            }
            self.count += 1;
        }
        let trails = &mut self.trails[..self.count];
        for trail in trails.iter_mut().flatten() {
            trail.slot = table.guess(*trail, Mirror::First);
            match trail.slot {
                Some(slot) => table.fetch_slot(slot),
                None => table.fetch_index(*trail, Mirror::Other),
            }
        }
        for trail in trails.iter_mut().flatten().filter(|trail| trail.slot.is_none()) {
            trail.slot = table.guess(*trail, Mirror::Other);
            if let Some(slot) = trail.slot {
                table.fetch_slot(slot);
            }
        }
    }

    /// What was noted of the next frame.
    pub(crate) fn next(&mut self) -> Option<Trail> {
        let noted = self.trails[..self.count].get(self.at).copied().flatten();
        self.at = self.at.saturating_add(1);
        noted
    }
}

impl Trail {
    /// As [`Trail::of`], of a frame that looks as most do: TCP or UDP over IPv4 without options,
    /// without a tag.
    //
    // Addresses and ports lie in the packet as they are hashed, whichever way it goes.
    #[inline]
    fn of_plain(frame: &[u8], config: &Config, table: &ConnectionTable) -> Option<Self> {
        let header: &[u8; 38] = frame.first_chunk()?;
        let [.., a, b, c, d] = *header.first_chunk::<34>()?;
        if [header[12], header[13], header[14]] != [0x08, 0x00, 0x45] {
            return None;
        }
        let protocol = protocol(header[23])?;
        let way = way(config, Ipv4Addr::new(a, b, c, d).into())?;
        let addrs = u64::from_be_bytes(*header[26..].first_chunk()?);
        let ports = u32::from_be_bytes(*header[34..].first_chunk()?);
        Some(Self { way, hash: table.hash_v4(protocol, addrs, ports), slot: None })
    }

    /// Where the connection of a packet with this tuple would be; none: there can be none.
    pub(crate) fn of(tuple: &Tuple, config: &Config, table: &ConnectionTable) -> Option<Self> {
        let way = way(config, tuple.dst)?;
        let hash = match way {
            Way::In => table.hash(&tuple.key()),
            Way::Out => table.hash_reply(&tuple.reply_key()),
        };
        Some(Self { way, hash, slot: None })
    }
}

/// Which way a packet to `dst` goes.
fn way(config: &Config, dst: IpAddr) -> Option<Way> {
    match config.address(dst) {
        Some(Address { kind: AddressKind::Vip, .. }) => Some(Way::In),
        Some(Address { kind: AddressKind::Gateway, .. }) => None,
        Some(Address { kind: AddressKind::Local, .. }) | None => Some(Way::Out),
    }
}

/// The tuple of a frame that looks like TCP or UDP, over IPv4 without options or IPv6 without
/// extension headers, unchecked.
fn peek(frame: &[u8]) -> Option<Tuple> {
    // Behind a tag everything but the addresses comes four octets later.
    let frame = if vlan_of(frame).is_some() { frame.get(4..)? } else { frame };
    let header: &[u8; 38] = frame.first_chunk()?;
    match [header[12], header[13], header[14]] {
        [0x08, 0x00, 0x45] => {
            let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
            let addr = |at: usize| {
                Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3])
            };
            let (src, dst) = (addr(26).into(), addr(30).into());
            let (protocol, src_port, dst_port) = (protocol(header[23])?, word(34), word(36));
            Some(Tuple { protocol, src, src_port, dst, dst_port })
        }
        [0x86, 0xdd, 0x60..0x70] => {
            let header: &[u8; 58] = frame.first_chunk()?;
            let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
            let addr = |at: usize| header[at..].first_chunk().map(|addr| Ipv6Addr::from(*addr));
            let (src, dst) = (addr(22)?.into(), addr(38)?.into());
            let (protocol, src_port, dst_port) = (protocol(header[20])?, word(54), word(56));
            Some(Tuple { protocol, src, src_port, dst, dst_port })
        }
        _ => None,
    }
}

fn protocol(number: u8) -> Option<Protocol> {
    match number {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConfigSpec, GroupId, GroupSpec, TableOptions};

    /// A TCP segment or UDP datagram, as far as its ports.
    fn frame(protocol: u8, addrs: [[u8; 4]; 2], ports: [u16; 2]) -> Vec<u8> {
        let mut frame = vec![0; 38];
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        frame[23] = protocol;
        frame[26..34].copy_from_slice(addrs.as_flattened());
        frame[34..36].copy_from_slice(&ports[0].to_be_bytes());
        frame[36..38].copy_from_slice(&ports[1].to_be_bytes());
        frame
    }

    #[test]
    fn plain_frames_are_looked_for_where_the_table_has_them() {
        const VIP: [u8; 4] = [198, 18, 0, 100];
        const OTHER: [u8; 4] = [203, 0, 113, 9];
        let group = GroupSpec { id: GroupId(1), vips: vec![VIP.into()], ..GroupSpec::default() };
        let spec = ConfigSpec { generation: 1, groups: vec![group], ..ConfigSpec::default() };
        let config = Config::compile(spec, None).unwrap();
        let table = ConnectionTable::new(TableOptions {
            connections_max: 4,
            half_open_max: 4,
            seed: [7, 9],
        });
        for protocol in [6, 17] {
            for (addrs, way) in [([OTHER, VIP], Way::In), ([VIP, OTHER], Way::Out)] {
                let frame = frame(protocol, addrs, [4711, 80]);
                let plain = Trail::of_plain(&frame, &config, &table).unwrap();
                let trail = Trail::of(&peek(&frame).unwrap(), &config, &table).unwrap();
                assert_eq!((plain.way, plain.hash), (way, trail.hash), "{protocol} {addrs:?}");
            }
        }
        for (at, octet) in [(12, 0x81), (13, 0x06), (14, 0x46), (23, 1)] {
            let mut frame = frame(6, [OTHER, VIP], [4711, 80]);
            frame[at] = octet;
            assert!(Trail::of_plain(&frame, &config, &table).is_none(), "octet {at}");
        }
    }
}
