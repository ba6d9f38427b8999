mod life;

use std::{net::IpAddr, sync::Arc};

use super::{Kind, ServerLoad};
use crate::{Asked, HashOptions, Scheduler, SchedulerKind, ServerId, ServerSpec};

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

fn compile(kind: SchedulerKind, servers: &[ServerSpec]) -> Scheduler {
    Scheduler::compile(kind, servers, None)
}

/// The last octets of the servers picked.
fn picks(scheduler: &Scheduler, servers: &[ServerSpec], count: usize) -> String {
    let pick = |_| scheduler.pick(servers, &[], &asked(1));
    let name =
        |pick: Option<usize>| pick.map_or_else(|| "-".to_owned(), |i| servers[i].id.to_string());
    (0..count).map(pick).map(name).collect()
}

#[test]
fn rr_takes_turns_and_ignores_weights() {
    let mut all = servers(&[1, 5, 0, 1]);
    let rr = compile(SchedulerKind::Rr, &all);
    assert_eq!(picks(&rr, &all, 6), "124124");
    all[1].up = false;
    assert_eq!(picks(&rr, &all, 4), "1414");
    all[1].up = true;
    all[0].drained = true;
    assert_eq!(picks(&rr, &all, 3), "242");
    assert_eq!(picks(&compile(SchedulerKind::Rr, &[]), &[], 2), "--");
}

#[test]
fn rr_goes_on_where_it_was_when_servers_come_and_go() {
    let all = servers(&[1, 1, 1, 1]);
    let rr = compile(SchedulerKind::Rr, &all);
    assert_eq!(picks(&rr, &all, 2), "12");
    let fewer: Vec<_> = all.iter().copied().filter(|server| server.id.0 != 2).collect();
    let next = Scheduler::compile(SchedulerKind::Rr, &fewer, Some((&rr, &all)));
    assert_eq!(picks(&next, &fewer, 3), "341");
    let back = Scheduler::compile(SchedulerKind::Rr, &all, Some((&next, &fewer)));
    assert_eq!(picks(&back, &all, 2), "23");
    // Health is no change: the position is the same object.
    let mut down = all.clone();
    down[3].up = false;
    let same = Scheduler::compile(SchedulerKind::Rr, &down, Some((&back, &all)));
    assert_eq!(picks(&same, &down, 2), "12");
    assert_eq!(picks(&back, &all, 1), "3", "shared with the older configuration");
}

#[test]
fn wrr_interleaves_by_weight() {
    //= ip_vs_wrr.c: rounds of falling weight, in list order; a fresh list starts at the top
    for (weights, expected) in [
        (&[1, 2, 3][..], "323123323123"),
        (&[3, 2, 1], "112123"),
        (&[2, 4, 2], "2123"),
        (&[10, 10], "1212"),
        (&[5, 0, 0], "1111"),
        (&[0, 0], "----"),
        (&[65535, 1], "1111"),
    ] {
        let all = servers(weights);
        let wrr = compile(SchedulerKind::Wrr, &all);
        assert_eq!(picks(&wrr, &all, expected.len()), expected, "{weights:?}");
    }
}

#[test]
fn wrr_skips_who_is_down() {
    let mut all = servers(&[1, 2, 65535]);
    all[2].up = false;
    let wrr = compile(SchedulerKind::Wrr, &all);
    assert_eq!(picks(&wrr, &all, 6), "212212");
    all[0].up = false;
    all[1].up = false;
    assert_eq!(picks(&wrr, &all, 2), "--");
}

#[test]
fn wrr_shares_follow_weights_over_a_change() {
    let old = servers(&[1, 1, 4]);
    let wrr = compile(SchedulerKind::Wrr, &old);
    picks(&wrr, &old, 4);
    let new = servers(&[2, 6, 4]);
    let wrr = Scheduler::compile(SchedulerKind::Wrr, &new, Some((&wrr, &old)));
    picks(&wrr, &new, 6); // the rest of a round
    let round = picks(&wrr, &new, 12);
    let share = |server| round.chars().filter(|pick| *pick == server).count();
    assert_eq!([share('1'), share('2'), share('3')], [2, 6, 4], "{round}");
}

#[test]
fn mh_keeps_its_table_when_only_health_changes() {
    let all = servers(&[1, 1, 1]);
    let mh = compile(SchedulerKind::Mh(OURS), &all);
    let mut down = all.clone();
    down[0].up = false;
    let next = Scheduler::compile(SchedulerKind::Mh(OURS), &down, Some((&mh, &all)));
    let (Kind::Mh(old, _), Kind::Mh(new, _)) = (&mh.kind, &next.kind) else { panic!("not mh") };
    assert!(Arc::ptr_eq(old, new));
    let asked = asked(1);
    let first = next.first_choice(asked.client, asked.client_port, asked.vip);
    assert_eq!(first, mh.pick(&all, &[], &asked));
}

// ---- By load ----

fn asked(client: u32) -> Asked {
    let client = (0x0a00_0000 | client.wrapping_mul(0x9e37_79b9)).to_be_bytes();
    let client_port = u16::from_be_bytes([client[3], client[1]]);
    Asked { client: client.into(), client_port, vip: [198, 18, 0, 100].into(), now_ns: 0 }
}

/// Loads as (active, inactive).
fn loads(all: &[(u32, u32)]) -> Vec<Arc<ServerLoad>> {
    let load = |(active, inactive): &(u32, u32)| {
        let load = ServerLoad::default();
        (0..*active).for_each(|_| load.add(true));
        (0..*inactive).for_each(|_| load.add(false));
        Arc::new(load)
    };
    all.iter().map(load).collect()
}

/// Weights, loads and the server chosen, by its number from 1; 0: none.
type Case = (&'static [u16], &'static [(u32, u32)], usize);

#[test]
fn servers_are_compared_by_what_they_carry() {
    use SchedulerKind::{Fo, Lc, Nq, Ovf, Sed, Wlc};
    let cases: &[(SchedulerKind, &[Case])] = &[
        (
            Lc,
            &[
                (&[1, 1, 1], &[(2, 0), (1, 0), (1, 1)], 2),
                (&[1, 1], &[(1, 0), (0, 200)], 2),
                (&[1, 1], &[(1, 0), (0, 300)], 1),
                (&[1, 9], &[(1, 0), (1, 0)], 1),
                (&[0, 9], &[(0, 0), (9, 9)], 2),
                (&[0, 0], &[(0, 0), (0, 0)], 0),
            ],
        ),
        (
            Wlc,
            &[
                (&[1, 3], &[(1, 0), (2, 0)], 2),
                (&[1, 3], &[(1, 0), (3, 0)], 1),
                (&[1, 3], &[(1, 0), (4, 0)], 1),
                (&[65535, 65535], &[(70_000, 0), (69_999, 0)], 2),
                (&[2, 0, 1], &[(9, 0), (0, 0), (5, 0)], 1),
            ],
        ),
        (
            Sed,
            &[
                (&[1, 3], &[(0, 0), (1, 0)], 2),
                (&[1, 3], &[(0, 0), (2, 0)], 1),
                (&[1, 3], &[(0, 9), (3, 0)], 1),
                (&[1, 1], &[(0, 99), (0, 0)], 1),
            ],
        ),
        (
            Nq,
            &[
                (&[1, 9], &[(0, 0), (0, 0)], 1),
                (&[1, 9], &[(1, 0), (0, 7)], 2),
                (&[1, 9], &[(1, 0), (1, 0)], 2),
                (&[0, 9], &[(0, 0), (5, 0)], 2),
            ],
        ),
        (Fo, &[(&[1, 3, 3], &[(0, 0), (99, 0), (0, 0)], 2), (&[0, 0], &[(0, 0), (0, 0)], 0)]),
        (
            Ovf,
            &[
                (&[3, 2, 1], &[(3, 0), (0, 0), (0, 0)], 1),
                (&[3, 2, 1], &[(4, 0), (0, 0), (0, 0)], 2),
                (&[3, 2, 1], &[(4, 0), (3, 0), (0, 5)], 3),
                (&[3, 2, 1], &[(4, 0), (3, 0), (2, 0)], 0),
            ],
        ),
    ];
    for (kind, cases) in cases {
        for (weights, carried, expected) in *cases {
            let all = servers(weights);
            let pick = compile(*kind, &all).pick(&all, &loads(carried), &asked(1));
            assert_eq!(pick.map_or(0, |i| i + 1), *expected, "{kind:?} {weights:?} {carried:?}");
        }
    }
    for (kind, _) in cases {
        let mut all = servers(&[5, 1]);
        all[0].up = false;
        let pick = compile(*kind, &all).pick(&all, &loads(&[(0, 0), (1, 0)]), &asked(1));
        assert_eq!(pick, Some(1), "{kind:?} takes who is up");
    }
}

#[test]
fn two_choices_spread_by_weight_and_prefer_who_carries_less() {
    let all = servers(&[10, 30, 0, 60]);
    let twos = compile(SchedulerKind::Twos, &all);
    let share = |carried: &[(u32, u32)]| {
        let loads = loads(carried);
        let mut counts = [0; 4];
        for client in 0..10_000 {
            counts[twos.pick(&all, &loads, &asked(client)).unwrap()] += 1;
        }
        counts
    };
    // Equal overhead for the weight: the first of two different ones is kept.
    let even = share(&[(1, 0), (3, 0), (0, 0), (6, 0)]);
    assert_eq!(even[2], 0, "weight 0 gets nothing");
    assert!((1_700..2_100).contains(&even[0]), "1 - 0.9^2 of all: {even:?}");
    assert!((3_300..3_900).contains(&even[3]), "0.6^2 of all: {even:?}");
    let uneven = share(&[(1, 0), (3, 0), (0, 0), (60, 0)]);
    assert!((3_300..3_900).contains(&uneven[3]), "only when drawn twice: {uneven:?}");
    assert_eq!(compile(SchedulerKind::Twos, &[]).pick(&[], &[], &asked(1)), None);
}

// ---- By destination ----

#[test]
fn a_destination_stays_with_its_server_until_that_has_too_much_to_do() {
    let all = servers(&[2, 2, 2]);
    for kind in [SchedulerKind::Lblc, SchedulerKind::Lblcr] {
        let local = compile(kind, &all);
        let pick = |carried: &[(u32, u32)], last: u8, now_ns| {
            let vip = IpAddr::from([198, 18, 0, last]);
            local.pick(&all, &loads(carried), &Asked { vip, now_ns, ..asked(1) }).map(|i| i + 1)
        };
        assert_eq!(pick(&[(1, 0), (0, 0), (1, 0)], 1, 0), Some(2), "the least loaded");
        assert_eq!(pick(&[(0, 0), (2, 0), (0, 0)], 1, 0), Some(2), "and then always");
        assert_eq!(pick(&[(0, 0), (2, 0), (1, 0)], 2, 0), Some(1), "another destination");
        // More active connections than its weight, while another has less than half of its own.
        assert_eq!(pick(&[(1, 0), (3, 0), (2, 0)], 1, 0), Some(2), "nobody is idle enough");
        assert_eq!(pick(&[(1, 0), (3, 0), (0, 0)], 1, 0), Some(3), "now one is");
        assert_eq!(pick(&[(0, 0), (1, 0), (1, 0)], 1, 0), Some(3), "of equals the newest");
        let kept = if kind == SchedulerKind::Lblc { 3 } else { 2 };
        let day = 24 * 3600 * 1_000_000_000;
        assert_eq!(
            pick(&[(0, 0), (1, 0), (2, 0)], 1, 1),
            Some(kept),
            "one server, or a set of two"
        );
        // The set did not change for a day: the member that carries most goes.
        assert_eq!(pick(&[(0, 0), (1, 0), (2, 0)], 1, day), Some(kept));
        let then = pick(&[(0, 0), (2, 0), (1, 0)], 1, day + 2);
        assert_eq!(then, Some(3), "{kind:?}");
        let later = pick(&[(0, 0), (0, 0), (1, 0)], 1, day + 3);
        assert_eq!(later, Some(3), "{kind:?}: the other has left the set");
        assert_eq!(pick(&[(0, 0), (1, 0), (1, 0)], 1, 3 * day), Some(1), "forgotten after a day");
    }
}

#[test]
fn a_destination_whose_server_is_gone_gets_another() {
    let mut all = servers(&[1, 1]);
    for kind in [SchedulerKind::Lblc, SchedulerKind::Lblcr] {
        let local = compile(kind, &all);
        assert_eq!(local.pick(&all, &[], &asked(1)), Some(0));
        all[0].up = false;
        let next = Scheduler::compile(kind, &all, Some((&local, &all)));
        assert_eq!(next.pick(&all, &[], &asked(1)), Some(1));
        all[0].up = true;
        let kept = if kind == SchedulerKind::Lblc { Some(1) } else { Some(0) };
        assert_eq!(next.pick(&all, &loads(&[(0, 0), (1, 0)]), &asked(1)), kept, "{kind:?}");
        assert_eq!(next.pick(&all, &[], &asked(1)), Some(1), "{kind:?}: of equals the newest");
        let fewer = &all[1..];
        let next = Scheduler::compile(kind, fewer, Some((&next, &all)));
        assert_eq!(next.pick(fewer, &[], &asked(1)), Some(0), "{kind:?}");
    }
}

#[test]
fn dh_goes_by_the_destination_alone_and_ignores_weights() {
    //= hash_32(0xc6120064, 8): 198.18.0.100 times 0x61c88647, the upper 8 bits
    let bucket = (0xc612_0064_u32.wrapping_mul(0x61c8_8647) >> 24) as usize;
    let mut all = servers(&[1, 50, 1]);
    let dh = compile(SchedulerKind::Dh, &all);
    for client in 0..100 {
        assert_eq!(dh.pick(&all, &[], &asked(client)), Some(bucket % 3));
    }
    all[bucket % 3].up = false;
    assert_eq!(dh.pick(&all, &[], &asked(1)), None, "no fallback, as in IPVS");
    assert_eq!(compile(SchedulerKind::Dh, &[]).pick(&[], &[], &asked(1)), None);
}

// ---- By source ----

#[test]
fn sh_fills_its_buckets_by_weight_and_hashes_as_the_kernel_does() {
    let all = servers(&[3, 1, 0]);
    let sh = |port| SchedulerKind::Sh(HashOptions { port, fallback: false });
    // Buckets: 1 1 1 2 3 1 1 1 2 3 ...; weight 0 keeps one and is refused.
    let of_bucket = |bucket: usize| [0, 0, 0, 1, 2][bucket % 5];
    for client in 0..500 {
        let asked = asked(client);
        let IpAddr::V4(addr) = asked.client else { unreachable!() };
        for port in [false, true] {
            let key = addr.to_bits().wrapping_add(if port { asked.client_port.into() } else { 0 });
            let bucket = (key.wrapping_mul(0x61c8_8647) >> 24) as usize;
            let expected = Some(of_bucket(bucket)).filter(|server| *server != 2);
            assert_eq!(compile(sh(port), &all).pick(&all, &[], &asked), expected);
        }
    }
}

#[test]
fn sh_falls_back_from_the_bucket_that_is_its_own_hash() {
    let mut all = servers(&[1; 7]);
    all[2].up = false;
    all[3].drained = true;
    let kind = SchedulerKind::Sh(HashOptions { port: false, fallback: true });
    let sh = compile(kind, &all);
    let mut moved = 0;
    for client in 0..500 {
        let asked = asked(client);
        let IpAddr::V4(addr) = asked.client else { unreachable!() };
        let hash = (addr.to_bits().wrapping_mul(0x61c8_8647) >> 24) as usize;
        let at = |bucket: usize| (bucket % 256) % 7;
        let available = |server: &usize| *server != 2 && *server != 3;
        //= ip_vs_sh.c, ip_vs_sh_get_fallback(): offsets from the hash on, each added to the hash
        let expected = Some(at(hash))
            .filter(available)
            .or_else(|| (0..256).map(|step| at((step + hash) % 256 + hash)).find(available));
        assert_eq!(sh.pick(&all, &[], &asked), expected);
        moved += usize::from(at(hash) != expected.unwrap());
    }
    assert!(moved > 80, "{moved}");
}

#[test]
fn hashing_without_fallback_refuses_the_share_of_who_is_away() {
    for kind in [SchedulerKind::Sh, SchedulerKind::Mh] {
        let mut all = servers(&[10; 4]);
        let without = kind(HashOptions { port: true, fallback: false });
        let before: Vec<_> =
            (0..4000).map(|c| compile(without, &all).pick(&all, &[], &asked(c))).collect();
        all[1].drained = true;
        let scheduler = compile(without, &all);
        for (client, before) in (0..).zip(before) {
            let after = scheduler.pick(&all, &[], &asked(client));
            assert_eq!(after, before.filter(|server| *server != 1));
        }
    }
}

#[test]
fn ports_count_only_where_they_are_asked_for() {
    let all = servers(&[10; 4]);
    for kind in [SchedulerKind::Sh, SchedulerKind::Mh] {
        for port in [false, true] {
            let scheduler = compile(kind(HashOptions { port, fallback: true }), &all);
            let of = |client_port| {
                scheduler.pick(&all, &[], &Asked { client_port, ..asked(7) }).unwrap()
            };
            let different = (1..200).filter(|port| of(*port) != of(1)).count();
            assert_eq!(different > 0, port, "{port}: {different}");
        }
    }
}
