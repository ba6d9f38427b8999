//! Routing by QUIC connection ID (draft-ietf-quic-load-balancers-21): servers write which one they are
//! into the IDs that they give out, so that a client keeps its server when its address changes.
//!
//! Guarantees: what cannot be decoded, whatever a client sends, names no server; no state. A client
//! invents the ID of its first packets: by chance such a one may name a server, which is then as
//! good as any other.

use std::fmt;

use aes::{
    Aes128,
    cipher::{BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _},
};
use steadfast_packet::{Packet, Transport, destination_cid};

use crate::{ServerId, ServerSpec, fast::Map};

/// Configurations at a time: the first three bits of an ID say which, and all ones say none.
pub const QUIC_CONFIGS_MAX: usize = 7;

/// Octets of a UDP header.
const UDP_LEN: usize = 8;

/// Octets of server ID and nonce together, at least and at most.
const BLOCK_LEN_MIN: usize = 5;
const BLOCK_LEN_MAX: usize = 19;

/// Octets of a server ID at most: the nonce has four or more.
pub const QUIC_SERVER_ID_LEN_MAX: usize = BLOCK_LEN_MAX - NONCE_LEN_MIN;

/// Octets of a nonce at least.
pub const NONCE_LEN_MIN: usize = 4;

/// How servers make their connection IDs.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct QuicConfig {
    /// The config rotation bits, 0 to 6.
    pub id: u8,
    /// Octets of a server ID, at least 1.
    pub server_id_len: u8,
    /// Octets of a nonce, at least [`NONCE_LEN_MIN`]; with the server ID at most 19.
    pub nonce_len: u8,
    /// The key; without one everybody can read which server an ID names.
    pub key: Option<[u8; 16]>,
}

/// The ID of a server, as it stands in connection IDs.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct QuicServerId {
    bytes: [u8; QUIC_SERVER_ID_LEN_MAX],
    len: u8,
}

/// Routing by connection ID, as a service has it; empty: off.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct QuicSpec {
    /// At most one of each id.
    pub configs: Vec<QuicConfig>,
    /// Which server has which ID; a server may have several.
    pub servers: Vec<(QuicServerId, ServerId)>,
}

/// Tells servers by connection IDs.
#[derive(Clone, Debug)]
pub(crate) struct QuicRouter {
    codecs: [Option<Codec>; QUIC_CONFIGS_MAX],
    servers: Map<QuicServerId, usize>,
}

#[derive(Clone)]
struct Codec {
    server_id_len: usize,
    len: usize,
    cipher: Option<Aes128>,
}

/// What a connection ID says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Routed {
    /// The server at this index gave it out, and is up.
    To(usize),
    /// Nobody here did: to be routed by addresses and ports.
    Unroutable,
}

impl QuicConfig {
    /// Within the limits of the draft (sections 3.1 and 5.3).
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let (server_id, nonce) = (usize::from(self.server_id_len), usize::from(self.nonce_len));
        usize::from(self.id) < QUIC_CONFIGS_MAX
            && server_id >= 1
            && nonce >= NONCE_LEN_MIN
            && server_id + nonce <= BLOCK_LEN_MAX
    }
}

/// The key is a secret.
impl fmt::Debug for QuicConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicConfig")
            .field("id", &self.id)
            .field("server_id_len", &self.server_id_len)
            .field("nonce_len", &self.nonce_len)
            .field("has_key", &self.key.is_some())
            .finish()
    }
}

impl QuicServerId {
    /// From 1 to [`QUIC_SERVER_ID_LEN_MAX`] octets.
    #[must_use]
    pub fn new(octets: &[u8]) -> Option<Self> {
        let mut bytes = [0; QUIC_SERVER_ID_LEN_MAX];
        bytes.get_mut(..octets.len())?.copy_from_slice(octets);
        (!octets.is_empty()).then_some(Self { bytes, len: octets.len() as u8 })
    }

    /// Its octets.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl QuicRouter {
    /// None for a service that has no configuration for it.
    pub(crate) fn compile(spec: &QuicSpec, servers: &[ServerSpec]) -> Option<Self> {
        let mut codecs = [const { None }; QUIC_CONFIGS_MAX];
        for config in spec.configs.iter().filter(|config| config.is_valid()) {
            codecs[usize::from(config.id)] = Some(Codec::new(config));
        }
        codecs.iter().any(Option::is_some).then(|| {
            // A server that drains keeps the connections it has; one that is down has lost them.
            let index = |id: ServerId| servers.iter().position(|s| s.id == id && s.up);
            let ids = spec.servers.iter().filter_map(|(id, server)| Some((*id, index(*server)?)));
            Self { codecs, servers: ids.collect() }
        })
    }

    /// Which server a packet is for, of those in the configuration.
    pub(crate) fn route(&self, frame: &[u8], packet: &Packet) -> Routed {
        if !matches!(packet.transport, Transport::Udp { .. }) {
            return Routed::Unroutable;
        }
        let payload = frame.get(packet.l4 + UDP_LEN..packet.end).unwrap_or_default();
        self.route_payload(payload)
    }

    fn route_payload(&self, payload: &[u8]) -> Routed {
        let Some(cid) = destination_cid(payload) else { return Routed::Unroutable };
        self.server_of(cid.bytes).map_or(Routed::Unroutable, Routed::To)
    }

    fn server_of(&self, cid: &[u8]) -> Option<usize> {
        let (first, rest) = cid.split_first()?;
        let codec = self.codecs.get(usize::from(first >> 5))?.as_ref()?;
        self.servers.get(&codec.server_id(rest)?).copied()
    }
}

impl Codec {
    fn new(config: &QuicConfig) -> Self {
        let server_id_len = usize::from(config.server_id_len);
        Self {
            server_id_len,
            len: server_id_len + usize::from(config.nonce_len),
            cipher: config.key.map(|key| Aes128::new(&key.into())),
        }
    }

    /// The server ID in what follows the first octet of a connection ID.
    fn server_id(&self, cid: &[u8]) -> Option<QuicServerId> {
        let block = cid.get(..self.len)?;
        let Some(cipher) = &self.cipher else {
            return QuicServerId::new(&block[..self.server_id_len]);
        };
        if let Ok(block) = <[u8; 16]>::try_from(block) {
            let mut block = block.into();
            cipher.decrypt_block(&mut block);
            return QuicServerId::new(&block[..self.server_id_len]);
        }
        let halves = Halves::split(block).decrypt(cipher, self.server_id_len);
        QuicServerId::new(halves.join().get(..self.server_id_len)?)
    }
}

/// Two halves of a block that is no AES block; an odd octet in the middle belongs half to each.
//= draft-ietf-quic-load-balancers-21 section 5.4.2
#[derive(Clone, Copy)]
struct Halves {
    left: [u8; HALF_MAX],
    right: [u8; HALF_MAX],
    len: usize,
}

const HALF_MAX: usize = BLOCK_LEN_MAX.div_ceil(2);

impl Halves {
    fn split(block: &[u8]) -> Self {
        debug_assert!((BLOCK_LEN_MIN..=BLOCK_LEN_MAX).contains(&block.len()));
        let (mut left, mut right) = ([0; HALF_MAX], [0; HALF_MAX]);
        let half = block.len().div_ceil(2);
        left[..half].copy_from_slice(&block[..half]);
        right[..half].copy_from_slice(&block[block.len() - half..]);
        let mut halves = Self { left, right, len: block.len() };
        halves.clear_left();
        halves.clear_right();
        halves
    }

    /// Left is whole after three passes; the right half is needed by a server ID that reaches it.
    fn decrypt(mut self, cipher: &Aes128, server_id_len: usize) -> Self {
        self.change_left(cipher, 4);
        self.change_right(cipher, 3);
        self.change_left(cipher, 2);
        if server_id_len > self.len / 2 {
            self.change_right(cipher, 1);
        }
        self
    }

    fn change_left(&mut self, cipher: &Aes128, pass: u8) {
        let mask = self.mask(cipher, pass, &self.right);
        self.left.iter_mut().zip(mask).for_each(|(octet, mask)| *octet ^= mask);
        self.clear_left();
    }

    fn change_right(&mut self, cipher: &Aes128, pass: u8) {
        let mask = self.mask(cipher, pass, &self.left);
        self.right.iter_mut().zip(mask).for_each(|(octet, mask)| *octet ^= mask);
        self.clear_right();
    }

    /// The other half, zeroes, the length of both, the pass; encrypted, and as long as a half.
    fn mask(&self, cipher: &Aes128, pass: u8, half: &[u8; HALF_MAX]) -> [u8; HALF_MAX] {
        let mut block = [0; 16];
        block[..HALF_MAX].copy_from_slice(half);
        (block[14], block[15]) = (self.len as u8, pass);
        let mut block = block.into();
        cipher.encrypt_block(&mut block);
        let mut mask = [0; HALF_MAX];
        let len = self.half_len();
        mask[..len].copy_from_slice(&block[..len]);
        mask
    }

    fn join(&self) -> [u8; BLOCK_LEN_MAX] {
        let (half, mut block) = (self.half_len(), [0; BLOCK_LEN_MAX]);
        block[..half].copy_from_slice(&self.left[..half]);
        let from = self.len - half;
        for (octet, right) in block[from..self.len].iter_mut().zip(self.right) {
            *octet |= right;
        }
        block
    }

    fn half_len(&self) -> usize {
        self.len.div_ceil(2)
    }

    fn clear_left(&mut self) {
        if self.len % 2 == 1 {
            self.left[self.half_len() - 1] &= 0xf0;
        }
    }

    fn clear_right(&mut self) {
        if self.len % 2 == 1 {
            self.right[0] &= 0x0f;
        }
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec")
            .field("server_id_len", &self.server_id_len)
            .field("len", &self.len)
            .field("has_key", &self.cipher.is_some())
            .finish()
    }
}

#[cfg(test)]
#[path = "quic_test.rs"]
mod tests;
