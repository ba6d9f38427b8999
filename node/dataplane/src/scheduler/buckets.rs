//! Hashing into buckets as IPVS does it: by destination (`dh`) and by source (`sh`).
//!
//! Guarantees: the same servers in the same order give the same table on every node. A drained
//! server keeps its buckets, so that nobody else moves; one that never had a weight has one bucket,
//! as in IPVS.

use std::net::IpAddr;

use super::{HashOptions, Pool, fold};
use crate::ServerSpec;

/// Bits of a bucket's number (`CONFIG_IP_VS_DH_TAB_BITS`, `CONFIG_IP_VS_SH_TAB_BITS`).
const BITS: u32 = 8;
const BUCKETS: usize = 1 << BITS;

/// Linux include/linux/hash.h, `GOLDEN_RATIO_32`.
const GOLDEN_RATIO: u32 = 0x61C8_8647;

/// A table of servers by bucket.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Buckets(Vec<u16>);

impl Buckets {
    /// For `dh`: each server in turn, whatever its weight.
    //= Linux net/netfilter/ipvs/ip_vs_dh.c, ip_vs_dh_reassign()
    pub(super) fn by_turns(servers: &[ServerSpec]) -> Self {
        Self((0..BUCKETS).filter_map(|bucket| index(bucket, servers.len())).collect())
    }

    /// For `sh`: as many buckets in a row as a server weighs.
    //= Linux net/netfilter/ipvs/ip_vs_sh.c, ip_vs_sh_reassign()
    pub(super) fn by_weight(servers: &[ServerSpec]) -> Self {
        let runs = |(server, spec): (usize, &ServerSpec)| {
            std::iter::repeat_n(server as u16, usize::from(spec.table_weight().max(1)))
        };
        Self(servers.iter().enumerate().cycle().flat_map(runs).take(BUCKETS).collect())
    }

    /// By the destination alone; no server when the one of the bucket is not available.
    pub(super) fn pick_destination(&self, vip: IpAddr, pool: &Pool<'_>) -> Option<usize> {
        self.first_choice(vip).filter(|server| pool.is_available(*server))
    }

    /// What [`Self::pick_destination`] gives when every server is available.
    pub(super) fn first_choice(&self, vip: IpAddr) -> Option<usize> {
        self.at(hash(fold(vip)))
    }

    /// The bucket of a destination, of how many.
    pub(super) fn destination_bucket(&self, vip: IpAddr) -> (u32, u32) {
        (hash(fold(vip)) as u32, BUCKETS as u32)
    }

    /// The bucket of a client, of how many.
    pub(super) fn source_bucket(
        &self,
        (client, client_port): (IpAddr, u16),
        options: HashOptions,
    ) -> (u32, u32) {
        let port = if options.port { u32::from(client_port) } else { 0 };
        (hash(port.wrapping_add(fold(client))) as u32, BUCKETS as u32)
    }

    /// By the source.
    pub(super) fn pick_source(
        &self,
        (client, client_port): (IpAddr, u16),
        options: HashOptions,
        available: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let hash = self.source_bucket((client, client_port), options).0 as usize;
        let at = |offset: usize| self.at(offset.wrapping_add(hash) % BUCKETS);
        if !options.fallback {
            return at(0).filter(|server| available(*server));
        }
        //= ip_vs_sh.c, ip_vs_sh_get_fallback(): it walks on from the bucket that is its own hash
        let first = at(0)?;
        if available(first) {
            return Some(first);
        }
        (0..BUCKETS).find_map(|step| at((step + hash) % BUCKETS).filter(|s| available(*s)))
    }

    fn at(&self, bucket: usize) -> Option<usize> {
        self.0.get(bucket).copied().map(usize::from)
    }
}

fn index(bucket: usize, servers: usize) -> Option<u16> {
    (servers > 0).then(|| (bucket % servers) as u16)
}

//= Linux include/linux/hash.h, hash_32()
fn hash(value: u32) -> usize {
    (value.wrapping_mul(GOLDEN_RATIO) >> (u32::BITS - BITS)) as usize
}
