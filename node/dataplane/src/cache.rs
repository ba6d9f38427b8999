//! A worker's private cache of hot flows.
//!
//! Guarantees: fixed size; what it returns was found under the configuration generation asked for
//! and is open to packets. Two flows of one place push each other out, which costs a look-up, no more.

use std::{net::Ipv4Addr, sync::Arc};

use crate::{Connection, FlowCounters, Hop, Protocol, Timeouts};

/// Places; a power of two.
const PLACES: usize = 8192;

/// A packet's own 5-tuple, in whichever direction it goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tuple {
    pub(crate) protocol: Protocol,
    pub(crate) src: Ipv4Addr,
    pub(crate) src_port: u16,
    pub(crate) dst: Ipv4Addr,
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
    pub(crate) connection: Connection,
    pub(crate) config_generation: u64,
    pub(crate) timeouts: Timeouts,
    pub(crate) counters: Option<Arc<FlowCounters>>,
    /// The next hop, and the generation of the next hops it was found in.
    pub(crate) hop: Option<(u64, Hop)>,
}

#[derive(Debug)]
pub(crate) struct Cache {
    places: Box<[Option<Hot>]>,
    pub(crate) hits: u64,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self { places: (0..PLACES).map(|_| None).collect(), hits: 0 }
    }

    /// The flow of `tuple`, if it is as good as looked up now.
    pub(crate) fn find(&mut self, tuple: &Tuple, config_generation: u64) -> Option<&mut Hot> {
        let hot = self.places[tuple.place()].as_mut().filter(|hot| {
            hot.tuple == *tuple
                && hot.config_generation == config_generation
                && hot.connection.is_open()
        })?;
        self.hits += 1;
        Some(hot)
    }

    pub(crate) fn insert(&mut self, hot: Hot) -> &mut Hot {
        let place = hot.tuple.place();
        self.places[place].insert(hot)
    }
}

impl Tuple {
    /// A cheap mix: whoever makes tuples collide only makes this node look them up.
    fn place(&self) -> usize {
        let addrs = u64::from(self.src.to_bits()) << 32 | u64::from(self.dst.to_bits());
        let ports = u64::from(self.src_port) << 16 | u64::from(self.dst_port);
        let mixed = (addrs ^ ports.rotate_left(20) ^ self.protocol as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 48) as usize % PLACES
    }
}
