//! P21: a full table, and tuples chosen to collide. Established connections are to notice nothing.
//!
//! `cargo test -p steadfast-dataplane --test packets attack -- --nocapture`
//! prints the table of the run.

use std::{collections::BTreeMap, hash::Hasher as _, net::Ipv4Addr};

use crate::lab::*;
use siphasher::sip::SipHasher13;
use steadfast_dataplane::{FlowKey, PROBE_MAX, Protocol, Reason, State};

const CONNECTIONS: usize = 12_000;
/// Of those, closing ones: they may be pushed out.
const CLOSING: usize = 1_200;
const HALF_OPEN: usize = 2_048;
/// Tuples of an attack.
const TUPLES: usize = 100_000;
/// Lines of the index that chosen tuples aim at.
const AIM: u64 = 64;
/// How the table of the lab is keyed.
const KEY: [u64; 2] = [1, 2];
/// The key of who has none: the best guess of an attacker.
const NO_KEY: [u64; 2] = [0, 0];

/// A client, by its number; port and address both differ from the next one's.
fn client(number: u32) -> (Ipv4Addr, u16) {
    let addr = Ipv4Addr::from_bits(0x0a00_0000 | number.wrapping_mul(0x9e37_79b1) >> 8);
    (addr, 1024 + (number % 60_000) as u16)
}

fn flow_of(number: u32) -> FlowKey {
    let (addr, port) = client(number);
    key(Protocol::Tcp, &format!("{addr}:{port}"), "198.18.0.100:80")
}

fn frame(number: u32, flags: u8) -> Vec<u8> {
    let (addr, port) = client(number);
    tcp((CLIENT, FRONT), &format!("{addr}:{port}"), "198.18.0.100:80", 64, flags)
}

/// The two lines of the index that a tuple falls into under a key, as the code says to whoever
/// reads it.
fn lines_of(number: u32, key: [u64; 2]) -> (u64, u64) {
    let lines = ((CONNECTIONS + HALF_OPEN) as f64 / 6.0) as u64 + 2;
    let (addr, port) = client(number);
    let mut hasher = SipHasher13::new_with_keys(key[0], key[1]);
    let vip = u64::from(Ipv4Addr::new(198, 18, 0, 100).to_bits());
    hasher.write_u64(u64::from(addr.to_bits()) << 32 | vip);
    hasher.write_u64((Protocol::Tcp as u64) << 32 | u64::from(port) << 16 | 80);
    let hash = hasher.finish();
    let first = ((hash >> 32) * lines) >> 32;
    let mirror = ((hash & 0xffff_ffff) * lines) >> 32;
    (first, (mirror + lines - first) % lines)
}

/// The first `count` numbers from there on that `wanted` accepts.
fn chosen(count: usize, from: u32, wanted: impl Fn(u32) -> bool) -> Vec<u32> {
    (from..).filter(|number| wanted(*number)).take(count).collect()
}

/// What an attack sends for each tuple, and for how long.
struct Attack {
    name: &'static str,
    tuples: Vec<u32>,
    flags: &'static [u8],
}

/// A node with a full table: established connections by number, with their servers.
fn full() -> (Lab, Vec<(u32, Mac)>) {
    let mut lab = Lab::bounded(config_spec(1), CONNECTIONS, HALF_OPEN);
    let mut established = Vec::new();
    for number in 0..CONNECTIONS as u32 {
        lab.now += SECOND / 10_000;
        let Outcome::Sent(_, sent) = lab.handle(0, &frame(number, SYN)) else { panic!() };
        assert!(matches!(lab.handle(0, &frame(number, ACK)), Outcome::Sent(..)));
        if (number as usize) < CLOSING {
            assert!(matches!(lab.handle(0, &frame(number, FIN_ACK)), Outcome::Sent(..)));
        } else {
            established.push((number, sent[..6].try_into().unwrap()));
        }
        lab.log.take();
    }
    assert_eq!((lab.shared.table.len(), lab.shared.table.half_open()), (CONNECTIONS, 0));
    (lab, established)
}

/// Entries read and connections looked into for the established connections: mean and most.
fn steps(lab: &Lab, established: &[(u32, Mac)]) -> (f64, usize, usize) {
    let steps = established.iter().map(|(number, _)| lab.shared.table.steps(&flow_of(*number)));
    let steps: Vec<_> = steps.collect();
    let sum: usize = steps.iter().map(|(read, _)| read).sum();
    let most = |of: fn(&(usize, usize)) -> usize| steps.iter().map(of).max().unwrap();
    (sum as f64 / steps.len() as f64, most(|s| s.0), most(|s| s.1))
}

#[test]
fn a_full_table_and_chosen_collisions_disturb_no_established_connection() {
    let aimed = |key| move |number| lines_of(number, key).0 < AIM;
    let both = |number| {
        let (first, other) = lines_of(number, KEY);
        first < AIM && other < AIM
    };
    let from = 1 << 20;
    let attacks = [
        Attack { name: "nothing", tuples: Vec::new(), flags: &[] },
        Attack { name: "random SYNs", tuples: chosen(TUPLES, from, |_| true), flags: &[SYN] },
        Attack {
            name: "SYNs that collide without the key",
            tuples: chosen(TUPLES, from, aimed(NO_KEY)),
            flags: &[SYN],
        },
        Attack {
            name: "SYNs that collide under the key",
            tuples: chosen(TUPLES / 2, from, aimed(KEY)),
            flags: &[SYN],
        },
        Attack {
            name: "both lines, under the key, with ACKs",
            tuples: chosen(2_000, from, both),
            flags: &[SYN, ACK],
        },
        Attack {
            name: "random SYNs with ACKs",
            tuples: chosen(TUPLES / 5, from, |_| true),
            flags: &[SYN, ACK],
        },
        Attack { name: "random ACKs", tuples: chosen(TUPLES, from, |_| true), flags: &[ACK] },
    ];
    println!(
        "{:<38}{:>8}{:>9}{:>9}{:>9}{:>9}{:>7}{:>7}{:>6}{:>6}",
        "attack", "packets", "sent", "full", "answered", "evicted", "moved", "read", "most", "keys"
    );
    let mut baseline = None;
    for attack in attacks {
        let (mut lab, established) = full();
        let mut fates: BTreeMap<String, usize> = BTreeMap::new();
        let mut evicted = 0;
        for (count, number) in attack.tuples.iter().enumerate() {
            // Twenty thousand a second.
            lab.now += SECOND / 20_000;
            for flags in attack.flags {
                let fate = match lab.handle(0, &frame(*number, *flags)) {
                    Outcome::Sent(_, sent) if sent[..6] == CLIENT => "answered".to_owned(),
                    Outcome::Sent(..) => "sent".to_owned(),
                    Outcome::Dropped(reason) => reason.name().to_owned(),
                };
                *fates.entry(fate).or_default() += 1;
            }
            let log = lab.log.take();
            evicted += log.iter().filter(|line| line.contains("Evicted")).count();
            assert!(lab.shared.table.half_open() <= HALF_OPEN, "after {count}");
            assert!(lab.shared.table.len() <= CONNECTIONS + HALF_OPEN, "after {count}");
        }
        let (mean, read, looked) = steps(&lab, &established);
        let mut moved = 0;
        for (number, server) in &established {
            let found = lab.shared.table.find(&flow_of(*number));
            assert_eq!(found.unwrap().state(), State::Established, "{}", attack.name);
            match lab.handle(0, &frame(*number, ACK)) {
                Outcome::Sent(_, sent) if sent[..6] == *server => {}
                _ => moved += 1,
            }
        }
        let of = |fate: &str| fates.get(fate).copied().unwrap_or(0);
        let answered = of("answered") + of(Reason::RateLimited.name());
        let full = of(Reason::TableFull.name());
        let packets = attack.tuples.len() * attack.flags.len();
        println!(
            "{:<38}{packets:>8}{:>9}{full:>9}{answered:>9}{evicted:>9}{moved:>7}{mean:>7.2}{read:>6}\
             {looked:>6}",
            attack.name,
            of("sent"),
        );
        assert_eq!(of("sent") + full + answered, packets, "{}: {fates:?}", attack.name);
        assert_eq!(moved, 0, "{}", attack.name);
        assert!(read <= PROBE_MAX, "{}: {read}", attack.name);
        let (mean_alone, looked_alone) = *baseline.get_or_insert((mean, looked));
        // Who does not know the key cannot make look-ups longer; who does, not beyond the bound.
        assert!(mean <= 2.0 * mean_alone, "{}: {mean} for {mean_alone}", attack.name);
        assert!(looked <= looked_alone + 1, "{}: {looked} for {looked_alone}", attack.name);
    }
}

/// A hash without a secret would have put all of them into one line in 63.
#[test]
fn tuples_that_collide_without_the_key_do_not_with_it() {
    let lines = (CONNECTIONS + HALF_OPEN) / 6 + 2;
    let tuples = chosen(20_000, 1 << 20, |number| lines_of(number, NO_KEY).0 < AIM);
    let hit = tuples.iter().filter(|number| lines_of(**number, KEY).0 < AIM).count();
    let expected = tuples.len() * AIM as usize / lines;
    assert!(hit < 2 * expected && hit > expected / 2, "{hit} of {}: {expected}", tuples.len());
    // And this is how the table is keyed: a look-up under the key reads the line that is told here.
    let mut lab = Lab::bounded(config_spec(1), CONNECTIONS, HALF_OPEN);
    let same = chosen(9, 1 << 20, |number| lines_of(number, KEY).0 == 7);
    for number in &same {
        lab.handle(0, &frame(*number, SYN));
    }
    let reads = same.iter().map(|number| lab.shared.table.steps(&flow_of(*number)).0);
    // Eight fill the line, so the ninth is in its other one.
    assert_eq!(reads.filter(|read| *read > 8).count(), 1);
}
