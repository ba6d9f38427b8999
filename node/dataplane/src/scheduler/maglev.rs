//! Maglev hashing as in IPVS (`mh`), over servers in canonical order.
//!
//! Guarantees: the same servers and weights give the same table on every node, whatever the order
//! they were configured in; health and drain are not part of the table. Whether
//! ports are part of the key, and whether a server that is not available is replaced by probing, are
//! the options `mh-port` and `mh-fallback` of IPVS.

use std::{hash::Hasher, net::IpAddr};

use siphasher::sip::SipHasher13;

use super::{fold, gcd};
use crate::{HashOptions, ServerSpec};

/// Slots: the default of IPVS (`CONFIG_IP_VS_MH_TAB_INDEX=12`), a prime.
pub(crate) const SLOTS: u32 = 4093;

//= Linux net/netfilter/ipvs/ip_vs_mh.c: keys of the two hashes
const FIRST_KEY: u64 = 2_654_435_761;
const SECOND_KEY: u64 = 2_654_446_892;

/// Bits of a weight that count; more would not fit the slots.
const WEIGHT_BITS: u32 = 6;

/// No server.
const EMPTY: u16 = u16::MAX;

/// A hash table of servers.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Maglev {
    slots: Vec<u16>,
    /// What it was built from.
    servers: Vec<(IpAddr, u16, u16)>,
}

impl Maglev {
    /// Builds the table; `servers` are in canonical order.
    pub(crate) fn new(servers: &[ServerSpec]) -> Self {
        let servers: Vec<_> = servers.iter().map(source).take(usize::from(EMPTY)).collect();
        let unit = servers.iter().fold(0, |unit, (.., weight)| gcd(unit, u32::from(*weight)));
        let unit = unit.max(1);
        let top = servers.iter().map(|(.., weight)| u32::from(*weight)).max().unwrap_or(0);
        //= ip_vs_mh.c, ip_vs_mh_shift_weight(): fls(max weight / gcd) - bits, at least 0
        let shift = (u32::BITS - (top / unit).leading_zeros()).saturating_sub(WEIGHT_BITS);
        let mut walks: Vec<_> = servers
            .iter()
            .enumerate()
            .filter(|(_, (.., weight))| *weight > 0)
            .map(|(index, (addr, port, weight))| Walk {
                server: index as u16,
                slot: hash(*addr, *port, 0, [FIRST_KEY; 2]) % SLOTS,
                skip: hash(*addr, *port, 0, [SECOND_KEY; 2]) % (SLOTS - 1) + 1,
                turns: ((u32::from(*weight) / unit) >> shift).max(1),
            })
            .collect();
        let slots = fill(&mut walks);
        Self { slots, servers }
    }

    /// It was built from exactly these servers.
    pub(crate) fn is_of(&self, servers: &[ServerSpec]) -> bool {
        self.servers.iter().copied().eq(servers.iter().map(source))
    }

    /// The slot of a client, of how many.
    pub(crate) fn slot(
        &self,
        (client, client_port): (IpAddr, u16),
        options: HashOptions,
    ) -> (u32, u32) {
        let client_port = if options.port { client_port } else { 0 };
        //= ip_vs_mh.c, ip_vs_mh_get_fallback()
        (hash(client, client_port, 0, [FIRST_KEY; 2]) % SLOTS, SLOTS)
    }

    /// The server for a client among those that `available` accepts.
    pub(crate) fn pick(
        &self,
        (client, client_port): (IpAddr, u16),
        options: HashOptions,
        available: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let (first, _) = self.slot((client, client_port), options);
        let client_port = if options.port { client_port } else { 0 };
        let at = |slot: u32| {
            let server = self.slots[slot as usize];
            (server != EMPTY).then_some(usize::from(server))
        };
        let choice = at(first)?;
        if available(choice) {
            return Some(choice);
        }
        if !options.fallback {
            return None;
        }
        let probed = (0..SLOTS).find_map(|step| {
            let offset = (step + first) % SLOTS;
            at(hash(client, client_port, offset, [FIRST_KEY; 2]) % SLOTS)
                .filter(|server| available(*server))
        });
        // Probing visits slots at random and may miss a server with few of them.
        probed.or_else(|| self.slots.iter().map(|s| usize::from(*s)).find(|s| available(*s)))
    }
}

/// One server's permutation of the slots.
struct Walk {
    server: u16,
    slot: u32,
    skip: u32,
    turns: u32,
}

//= ip_vs_mh.c, ip_vs_mh_populate(): each server in turn takes as many slots as it has turns
fn fill(walks: &mut [Walk]) -> Vec<u16> {
    let mut slots = vec![EMPTY; SLOTS as usize];
    let mut free = if walks.is_empty() { 0 } else { SLOTS };
    while free > 0 {
        for walk in &mut *walks {
            for _ in 0..walk.turns.min(free) {
                while slots[walk.slot as usize] != EMPTY {
                    walk.slot = (walk.slot + walk.skip) % SLOTS;
                }
                slots[walk.slot as usize] = walk.server;
                free -= 1;
            }
        }
    }
    slots
}

//= ip_vs_mh.c, ip_vs_mh_hashkey(): hsiphash_1u32(offset + port + folded address), which on a
//= 64-bit kernel is SipHash-1-3 of the four bytes, cut to 32 bits
fn hash(addr: IpAddr, port: u16, offset: u32, key: [u64; 2]) -> u32 {
    let value = offset.wrapping_add(u32::from(port)).wrapping_add(fold(addr));
    let mut hasher = SipHasher13::new_with_keys(key[0], key[1]);
    hasher.write(&value.to_le_bytes());
    hasher.finish() as u32
}

fn source(server: &ServerSpec) -> (IpAddr, u16, u16) {
    (server.addr, server.port, server.table_weight())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServerId;

    const CLIENTS: usize = 4000;
    const OURS: HashOptions = HashOptions { port: true, fallback: true };

    fn servers(weights: &[u16]) -> Vec<ServerSpec> {
        let server = |(index, weight): (usize, &u16)| ServerSpec {
            id: ServerId(index as u32 + 1),
            addr: IpAddr::from([198, 18, 1, index as u8 + 1]),
            port: 80,
            weight: *weight,
            ..ServerSpec::default()
        };
        weights.iter().enumerate().map(server).collect()
    }

    fn clients() -> impl Iterator<Item = (IpAddr, u16)> {
        (0..CLIENTS as u32).map(|client| {
            let client = client.wrapping_mul(0x9e37_79b9);
            (IpAddr::from((client | 0x0a00_0000).to_be_bytes()), client as u16)
        })
    }

    fn picks(table: &Maglev, available: impl Fn(usize) -> bool) -> Vec<Option<usize>> {
        clients().map(|(addr, port)| table.pick((addr, port), OURS, &available)).collect()
    }

    fn slots_of(table: &Maglev, server: u16) -> usize {
        table.slots.iter().filter(|slot| **slot == server).count()
    }

    #[test]
    fn hash_is_siphash_1_3_of_the_folded_tuple() {
        //= Linux lib/siphash_kunit.c, test_vectors_hsiphash[4] of 64-bit kernels: octets 0 to 3
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(hash(IpAddr::from([3, 2, 1, 0]), 0, 0, key), 0x88d3_8328);
        // The sum is what is hashed, so equal sums collide; as in IPVS.
        let at = |addr: [u8; 4], port| hash(IpAddr::from(addr), port, 0, [FIRST_KEY; 2]);
        assert_eq!(at([10, 0, 0, 1], 80), at([10, 0, 0, 2], 79));
        assert_ne!(at([10, 0, 0, 1], 80), at([10, 0, 0, 1], 81));
        let folded = IpAddr::from([0x0a00, 0, 0, 0, 0, 0, 0, 1u16]);
        assert_eq!(
            hash(folded, 0, 0, [FIRST_KEY; 2]),
            at([10, 0, 0, 1], 0),
            "IPv6 words are folded"
        );
    }

    #[test]
    fn slots_follow_weights() {
        let equal = Maglev::new(&servers(&[7; 4]));
        for server in 0..4 {
            let slots = slots_of(&equal, server);
            assert!((1023..=1024).contains(&slots), "server {server}: {slots}");
        }
        let uneven = Maglev::new(&servers(&[10, 20, 30, 0]));
        let [a, b, c, none] = [0, 1, 2, 3].map(|server| slots_of(&uneven, server));
        assert_eq!(a + b + c, SLOTS as usize);
        assert_eq!(none, 0, "weight 0 has no place");
        assert!(a.abs_diff(682) <= 3 && b.abs_diff(1364) <= 3, "{a} {b} {c}");
        let empty = Maglev::new(&servers(&[0]));
        assert_eq!(empty.pick((IpAddr::from([10, 0, 0, 1]), 1), OURS, |_| true), None);
    }

    #[test]
    fn clients_spread_evenly() {
        let table = Maglev::new(&servers(&[10; 4]));
        let picks = picks(&table, |_| true);
        for server in 0..4 {
            let share = picks.iter().filter(|pick| **pick == Some(server)).count();
            assert!((850..1150).contains(&share), "server {server}: {share} of {CLIENTS}");
        }
    }

    #[test]
    fn a_drained_server_moves_nobody_else() {
        let table = Maglev::new(&servers(&[10; 4]));
        let (before, after) = (picks(&table, |_| true), picks(&table, |server| server != 1));
        let mut heirs = [0; 4];
        for (before, after) in before.iter().zip(&after) {
            if *before == Some(1) {
                heirs[after.unwrap()] += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert_eq!(heirs[1], 0);
        assert!([0, 2, 3].iter().all(|heir| heirs[*heir] > 200), "shared out: {heirs:?}");
        // Even the last server with few slots is found.
        let table = Maglev::new(&servers(&[60, 60, 60, 1]));
        assert!(picks(&table, |server| server == 3).iter().all(|pick| *pick == Some(3)));
        assert!(picks(&table, |_| false).iter().all(Option::is_none));
    }

    #[test]
    fn a_removed_server_moves_few_others() {
        let all = servers(&[10; 5]);
        let before = picks(&Maglev::new(&all), |_| true);
        let after = picks(&Maglev::new(&all[..4]), |_| true);
        let stay = |pair: &(&Option<usize>, &Option<usize>)| *pair.0 != Some(4) && pair.0 != pair.1;
        let moved = before.iter().zip(&after).filter(stay).count();
        assert!(moved < CLIENTS / 10, "{moved} of {CLIENTS} moved without need");
    }
}
