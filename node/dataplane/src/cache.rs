//! A worker's private cache of hot flows.
//!
//! Guarantees: fixed size; what it returns was found under the configuration generation asked for
//! and is open to packets. Two flows of one place push each other out, which costs a look-up, no more.

use std::{net::IpAddr, sync::Arc};

use crate::{Connection, FlowCounters, Hop, Protocol, Timeouts};

/// Places; a power of two.
const PLACES: usize = 8192;

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

/// All that forwarding one more packet of a flow needs.
#[derive(Debug)]
pub(crate) struct Hot {
    pub(crate) tuple: Tuple,
    pub(crate) way: Way,
    pub(crate) connection: Arc<Connection>,
    pub(crate) config_generation: u64,
    pub(crate) timeouts: Timeouts,
    pub(crate) counters: Option<Arc<FlowCounters>>,
    /// The next hop, and the generation of the next hops it was found in.
    pub(crate) hop: Option<(u64, Hop)>,
}

#[derive(Debug)]
pub(crate) struct Cache {
    places: Box<[Option<Hot>]>,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self { places: (0..PLACES).map(|_| None).collect() }
    }

    /// The flow of `tuple`, if it is as good as looked up now.
    pub(crate) fn find(&mut self, tuple: &Tuple, config_generation: u64) -> Option<&mut Hot> {
        self.places[tuple.place()].as_mut().filter(|hot| {
            hot.tuple == *tuple
                && hot.config_generation == config_generation
                && hot.connection.is_open()
        })
    }

    pub(crate) fn insert(&mut self, hot: Hot) -> &mut Hot {
        let place = hot.tuple.place();
        self.places[place].insert(hot)
    }
}

impl Tuple {
    /// The same number for all packets of a flow, on every node: what spreads flows must not change
    /// when another node takes over.
    pub(crate) fn flow_hash(&self) -> u32 {
        let mixed = self.mix();
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (mixed >> 32) as u32
    }

    /// A cheap mix: whoever makes tuples collide only makes this node look them up.
    fn place(&self) -> usize {
        (self.mix() >> 48) as usize % PLACES
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

fn fold(addr: IpAddr) -> u64 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits().into(),
        IpAddr::V6(addr) => (addr.to_bits() >> 64) as u64 ^ addr.to_bits() as u64,
    }
}
