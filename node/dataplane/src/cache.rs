//! Tuples of packets, and a worker's private cache of what its packets need to know of servers.
//!
//! Guarantees: bounded; what it returns was found under the configuration generation asked for. Two
//! servers of one place push each other out, which costs a look-up, no more.

use std::{net::IpAddr, sync::Arc};

use steadfast_packet::{Packet, Quoted, parse_error};

use crate::{
    ClientAddress, Config, FlowCounters, FlowKey, Hop, Protocol, ReplyKey, ServerId, Service,
    quic::Routed,
};

/// Places for servers, at least and at most; powers of two. Between them there is one for each server.
const PLACES_MIN: usize = 1 << 10;
const PLACES_MAX: usize = 1 << 17;

/// A packet's own 5-tuple, in whichever direction it goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tuple {
    pub(crate) protocol: Protocol,
    pub(crate) src: IpAddr,
    pub(crate) src_port: u16,
    pub(crate) dst: IpAddr,
    pub(crate) dst_port: u16,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// Client to server.
    In,
    /// Server to client.
    Out,
}

impl Tuple {
    /// The same number for all packets of a flow, on every node: what spreads flows must not change
    /// when another node takes over.
    pub(crate) fn flow_hash(&self) -> u32 {
        let mixed = self.mix();
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (mixed >> 32) as u32
    }

    /// That of a packet that shows its ports.
    pub(crate) fn of_packet(packet: &Packet) -> Option<Self> {
        let (protocol, src_port, dst_port) = packet.tuple()?;
        Some(Self { protocol, src: packet.src, src_port, dst: packet.dst, dst_port })
    }

    /// That of a packet which goes the way of this ICMP error: against the one that it quotes.
    pub(crate) fn of_error(frame: &[u8], packet: &Packet) -> Option<Self> {
        let Quoted { protocol, src, src_port, dst, dst_port, .. } =
            parse_error(frame, packet).ok()??.quoted;
        Some(Self { protocol, src: dst, src_port: dst_port, dst: src, dst_port: src_port })
    }

    /// That of a packet from the client of this connection.
    pub(crate) fn of(key: &FlowKey) -> Self {
        Self {
            protocol: key.protocol,
            src: key.client,
            src_port: key.client_port,
            dst: key.vip,
            dst_port: key.vip_port,
        }
    }

    /// The key of its connection, if it comes from a client.
    pub(crate) fn key(&self) -> FlowKey {
        FlowKey {
            protocol: self.protocol,
            client: self.src,
            client_port: self.src_port,
            vip: self.dst,
            vip_port: self.dst_port,
        }
    }

    /// The key of its connection, if it comes from a server.
    pub(crate) fn reply_key(&self) -> ReplyKey {
        ReplyKey {
            protocol: self.protocol,
            server: self.src,
            server_port: self.src_port,
            client: self.dst,
            client_port: self.dst_port,
        }
    }

    fn mix(&self) -> u64 {
        let addrs = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits())
            }
            (src, dst) => fold(src) ^ fold(dst).rotate_left(32),
        };
        let ports = u64::from(self.src_port) << 16 | u64::from(self.dst_port);
        (addrs ^ ports.rotate_left(20) ^ self.protocol as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// All that forwarding one more packet to or from a server needs, but for the connection.
#[derive(Debug)]
pub(crate) struct HotServer {
    server: ServerId,
    config_generation: u64,
    pub(crate) service: Arc<Service>,
    /// Its place in the service.
    index: usize,
    counters: Option<Arc<FlowCounters>>,
    is_quic: bool,
    /// Its packets may go the short way: nothing in them is looked into.
    pub(crate) is_plain: bool,
    /// Where FTP servers say things that are to be translated.
    pub(crate) control_port: Option<u16>,
    /// How it hears who its clients are.
    pub(crate) client_address: ClientAddress,
    /// The next hops to the server and to a client, each with its address and the generation of the
    /// next hops it was found in.
    hops: [Option<(u64, IpAddr, Hop)>; 2],
}

impl HotServer {
    /// The server of this id, if `config` has it.
    pub(crate) fn of(server: ServerId, config: &Config) -> Option<Self> {
        let (service, index) = config.server(server)?;
        let is_quic = service.quic().is_some();
        let control_port = service.spec.ftp.and_then(|_| service.spec.single_port());
        Some(Self {
            server,
            config_generation: config.generation(),
            service: Arc::clone(service),
            index,
            counters: service.counters(index).cloned(),
            is_quic,
            is_plain: !is_quic && control_port.is_none(),
            control_port,
            client_address: service.spec.client_address,
            hops: [None; 2],
        })
    }

    /// The next hop to `addr`, if it was noted under this generation of the next hops.
    pub(crate) fn hop(&self, way: Way, addr: IpAddr, generation: u64) -> Option<&Hop> {
        let (noted_in, noted, hop) = self.hops[way as usize].as_ref()?;
        (*noted_in == generation && *noted == addr).then_some(hop)
    }

    pub(crate) fn note_hop(&mut self, way: Way, addr: IpAddr, generation: u64, hop: Hop) {
        self.hops[way as usize] = Some((generation, addr, hop));
    }

    /// Counts a packet for the server.
    pub(crate) fn count(&self, way: Way, worker: usize, bytes: usize) {
        if let Some(counters) = &self.counters {
            match way {
                Way::In => counters.count_in(worker, bytes),
                Way::Out => counters.count_out(worker, bytes),
            }
        }
    }

    /// The packet names another server of the service: a QUIC client has come to the address and
    /// port of another one that was there before.
    pub(crate) fn is_for_another(&self, frame: &[u8], packet: &Packet) -> bool {
        if !self.is_quic {
            return false;
        }
        let routed = self.service.quic().map(|quic| quic.route(frame, packet));
        routed.is_some_and(|to| to != Routed::Unroutable && to != Routed::To(self.index))
    }
}

#[derive(Debug)]
pub(crate) struct Servers {
    places: Vec<Option<HotServer>>,
    /// The configuration that there are places for.
    generation: u64,
}

impl Servers {
    pub(crate) fn new() -> Self {
        Self { places: (0..PLACES_MIN).map(|_| None).collect(), generation: 0 }
    }

    /// The server of this id, as long as `config` has it.
    #[inline(always)]
    pub(crate) fn find(&mut self, server: ServerId, config: &Config) -> Option<&mut HotServer> {
        let config_generation = config.generation();
        if self.generation != config_generation {
            self.grow(config);
        }
        let at = server.0 as usize & (self.places.len() - 1);
        let place = self.places.get_mut(at)?;
        let known = place
            .as_ref()
            .is_some_and(|hot| hot.server == server && hot.config_generation == config_generation);
        if !known {
            *place = Some(HotServer::of(server, config)?);
        }
        place.as_mut()
    }

    #[cold]
    fn grow(&mut self, config: &Config) {
        self.generation = config.generation();
        let wanted = config.servers_len().next_power_of_two().clamp(PLACES_MIN, PLACES_MAX);
        if wanted > self.places.len() {
            self.places.resize_with(wanted, || None);
        }
    }
}

fn fold(addr: IpAddr) -> u64 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits().into(),
        IpAddr::V6(addr) => (addr.to_bits() >> 64) as u64 ^ addr.to_bits() as u64,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{ConfigSpec, GroupId, GroupSpec, Listen, ServerSpec, ServiceId, ServiceSpec};

    /// A service with `count` servers, whose ids begin at `first`.
    fn config(generation: u64, first: u32, count: u32) -> Config {
        let vip = IpAddr::from([198, 18, 0, 100]);
        let server = |number: u32| ServerSpec {
            id: ServerId(first + number),
            addr: Ipv4Addr::from_bits(0xc613_0000 + number).into(),
            port: 80,
            ..ServerSpec::default()
        };
        let service = ServiceSpec {
            id: ServiceId(1),
            group: GroupId(1),
            listen: vec![Listen::new(Protocol::Tcp, vip, 80)],
            servers: (0..count).map(server).collect(),
            ..ServiceSpec::default()
        };
        let group = GroupSpec { id: GroupId(1), vips: vec![vip], ..GroupSpec::default() };
        let (groups, services) = (vec![group], vec![service]);
        let spec = ConfigSpec { generation, groups, services, workers: 1, ..ConfigSpec::default() };
        Config::compile(spec, None).unwrap()
    }

    #[test]
    fn each_server_has_a_place_and_none_is_known_longer_than_it_is_there() {
        let mut servers = Servers::new();
        for (generation, first, count) in [(1, 7, 3), (2, 5, 3000), (3, 5000, 2)] {
            let config = config(generation, first, count);
            for id in first..first + count {
                let found = servers.find(ServerId(id), &config).unwrap();
                assert_eq!((found.server, found.config_generation), (ServerId(id), generation));
            }
            for id in [first - 1, first + count, u32::MAX] {
                assert!(servers.find(ServerId(id), &config).is_none(), "{id}");
            }
            let kept = servers.places.iter().flatten();
            assert_eq!(
                kept.filter(|hot| hot.config_generation == generation).count(),
                count as usize
            );
        }
        assert_eq!(servers.places.len(), 4096);
    }
}
