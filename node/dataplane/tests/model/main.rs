//! The data plane against a slow, naive model of it that shares no code: the same packets and events
//! to both, and each packet's fate, byte for byte, and the whole table must agree.
//!
//! `STEADFAST_SEED=n` replays a run; `STEADFAST_PACKETS=n` makes it longer or shorter.
#![allow(clippy::unwrap_used)]

mod coverage;
#[path = "../lab/mod.rs"]
mod lab;
mod naive;
mod packet;
mod plane;
mod world;

use coverage::Coverage;
use naive::{Fate, Naive, VLAN_PORT};
use packet::Body;
use plane::{HALF_OPEN_MAX, Plane, line, template_line};
use world::{Size, World};

/// What the crate makes of a packet.
type Sent = Result<(u16, Vec<u8>), &'static str>;

const PACKETS: u64 = 1_000_000;

/// One more for so many of these goes to a table that is full.
const SMALL_PART: u64 = 12;

/// Each so many packets one is rehearsed before it is handled: that must tell what will happen, and
/// change nothing that the model would notice.
const REHEARSED_EVERY: u64 = 397;

#[test]
fn agrees_with_a_naive_model() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("STEADFAST_SEED").unwrap_or(20_261_123);
    let packets = number("STEADFAST_PACKETS").unwrap_or(PACKETS);
    println!(
        "replay: STEADFAST_SEED={seed} STEADFAST_PACKETS={packets} cargo test -p steadfast-dataplane --test model"
    );
    let mut coverage = Coverage::new();
    // A table that is always full, and then one that never is.
    let full = run(seed, Size::Small, packets / SMALL_PART, &mut coverage);
    let world = run(seed, Size::Large, packets, &mut coverage);
    coverage.print(&world, &full);
    if packets >= PACKETS {
        coverage.check(&world, &full);
    }
}

/// Sends packets to both; gives the model as it is afterwards.
fn run(seed: u64, size: Size, packets: u64, coverage: &mut Coverage) -> Naive {
    let (mut world, mut plane) = (World::new(seed, size), Plane::new(size.connections_max()));
    world.naive.half_open_max = HALF_OPEN_MAX;
    world.naive.connections_max = size.connections_max();
    plane.set_hops(&world.naive);
    for count in 0..packets {
        if world.happen(coverage) {
            world.naive.expire();
            plane.expire(world.naive.now);
        }
        if std::mem::take(&mut world.is_reconfigured) {
            plane.configure(&world.naive);
        }
        if std::mem::take(&mut world.is_new_role) {
            plane.set_roles(world.naive.roles);
        }
        let is_rushing = world.is_rushing();
        let pkt = world.packet(coverage);
        let now = world.naive.now;
        let frame = pkt.frame();
        // Who asks names the interface or the VLAN, and what came without a tag.
        let asked = Naive::untag(&pkt).ok().filter(|pkt| pkt.tags.is_empty());
        let asked = asked.filter(|_| count % REHEARSED_EVERY == 0);
        let rehearsed = asked.map(|pkt| plane.rehearse(now, pkt.port, &pkt.frame()));
        let found = plane.packet(now, pkt.port, &frame);
        // What is the crate's own choice the model takes from there.
        world.naive.seen = found.as_ref().map_or(Vec::new(), |(_, frame)| frame.clone());
        world.naive.seen_rest = plane.rest.iter().map(|(_, frame)| frame.clone()).collect();
        world.naive.seen_exhausted = plane.is_exhausted;
        let expected = world.naive.packet(&pkt);
        assert!(
            !world.naive.seen_exhausted,
            "packet {count}, {size:?}, seed {seed}: no local port for {pkt:?}"
        );
        // How far limits are used up, which parts are under way and which ports are taken is not
        // rehearsed.
        let is_told = found != Err("rate_limited") && pkt.fragment().is_none() && !is_rushing;
        if let Some(rehearsed) = rehearsed.filter(|_| is_told) {
            let (told, done) =
                (numberless(rehearsed, &expected), numberless(found.clone(), &expected));
            assert_eq!(told, done, "rehearsal of packet {count}, seed {seed}: {pkt:?}");
            coverage.rehearsed += 1;
        }
        let fate = match &expected {
            Fate::Sent(pkt) => Ok((pkt.port, pad(pkt.frame(), &found))),
            Fate::Dropped(reason) => Err(*reason),
        };
        assert_eq!(
            found, fate,
            "packet {count}, {size:?}, role {:?}, at {now}, seed {seed}: {pkt:?}\nexpected {expected:?}",
            world.naive.roles
        );
        let rest = world.naive.rest.iter().zip(&plane.rest);
        let rest: Vec<_> =
            rest.map(|(pkt, found)| (pkt.port, pad(pkt.frame(), &Ok(found.clone())))).collect();
        assert_eq!(plane.rest.len(), world.naive.rest.len(), "pieces of packet {count}: {pkt:?}");
        assert_eq!(plane.rest, rest, "pieces of packet {count}, seed {seed}: {pkt:?}");
        coverage.note(&world.naive, &pkt, &expected);
        if count % 2000 == 0 || is_rushing && !world.is_rushing() {
            compare_tables(&plane, &world.naive, count, seed);
        }
    }
    compare_tables(&plane, &world.naive, packets, seed);
    let config = plane.shared.config.load_full();
    let adopted: u64 = config.services().map(|service| service.excess().adopted).sum();
    assert_eq!(adopted, world.naive.tally.adopted, "connections that went by the hash before");
    world.naive
}

/// Without the identification of an outer packet: each has another one, rehearsed ones too.
fn numberless(mut sent: Sent, expected: &Fate) -> Sent {
    if let (Ok((_, frame)), Fate::Sent(pkt)) = (&mut sent, expected)
        && matches!(pkt.body, Body::Inside { .. })
        && !pkt.src.is_ipv6()
    {
        frame[18..20].fill(0);
        frame[24..26].fill(0);
    }
    sent
}

/// Frames shorter than the shortest one may be padded with zeroes; a tag may count to that.
fn pad(mut frame: Vec<u8>, found: &Result<(u16, Vec<u8>), &str>) -> Vec<u8> {
    if let Ok((port, found)) = found
        && (found.len() == 60 || found.len() == 56 && *port == VLAN_PORT)
        && frame.len() < found.len()
    {
        frame.resize(found.len(), 0);
    }
    frame
}

fn compare_tables(plane: &Plane, naive: &Naive, count: u64, seed: u64) {
    let mut expected: Vec<String> = naive
        .conns
        .iter()
        .map(|c| line(c.proto.name(), (c.client, c.cport), (c.vip, c.vport), c.server, c.state))
        .collect();
    expected.sort();
    let found = plane.connections();
    let differs = expected.iter().zip(&found).find(|(expected, found)| expected != found);
    assert_eq!(differs, None, "tables after packet {count}, seed {seed}");
    let templates = naive.templates.iter();
    let mut templates: Vec<String> =
        templates.map(|t| template_line(t.service, t.network, t.server)).collect();
    templates.sort();
    assert_eq!(plane.templates(), templates, "templates after packet {count}, seed {seed}");
    assert_eq!(expected.len(), found.len(), "connections after packet {count}, seed {seed}");
}
