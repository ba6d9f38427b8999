//! Maps whose keys come from the configuration or the kernel, never from clients.
//!
//! Guarantees: a look-up is bounded by what the configuration holds, whatever a client asks for: it
//! cannot add keys, so it cannot make them collide. Not for tables that packets fill.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    net::IpAddr,
};

/// A map with a cheap hash.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Folded>>;

/// A map by address, which does not ask of an IPv4 address more than its 32 bits.
#[derive(Clone, Debug)]
pub(crate) struct ByAddr<V> {
    v4: Map<u32, V>,
    v6: Map<u128, V>,
}

impl<V> ByAddr<V> {
    pub(crate) fn get(&self, addr: IpAddr) -> Option<&V> {
        match addr {
            IpAddr::V4(addr) => self.v4.get(&addr.to_bits()),
            IpAddr::V6(addr) => self.v6.get(&addr.to_bits()),
        }
    }

    /// What was there before.
    pub(crate) fn insert(&mut self, addr: IpAddr, value: V) -> Option<V> {
        match addr {
            IpAddr::V4(addr) => self.v4.insert(addr.to_bits(), value),
            IpAddr::V6(addr) => self.v6.insert(addr.to_bits(), value),
        }
    }
}

impl<V> Default for ByAddr<V> {
    fn default() -> Self {
        Self { v4: Map::default(), v6: Map::default() }
    }
}

/// Multiplies and folds word by word.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Folded(u64);

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u128(&mut self, number: u128) {
        self.write_u64((number >> 64) as u64);
        self.write_u64(number as u64);
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0 ^ number ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
