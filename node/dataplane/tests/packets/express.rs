//! The short way does what the long way does.

use proptest::{prelude::*, test_runner::Config as Cases};
use steadfast_dataplane::{Connection, Role, ServerId, ServerSpec};

use crate::lab::*;

const FLOWS: u16 = 6;

/// One thing that happens to both nodes.
#[derive(Clone, Debug)]
enum Step {
    /// A frame of one of a few flows: service, way, flags, time to live, and what is done to it; and
    /// how far from it the flow is that was prepared in its place.
    Frame {
        flow: u16,
        kind: u8,
        out: bool,
        flags: u8,
        ttl: u8,
        spoil: Option<(usize, u8)>,
        off: u16,
    },
    /// Time goes by, in ms.
    Wait(u64),
    /// The first server of each service comes or goes.
    Server(bool),
    /// Next hops are known or not.
    Hops(bool),
    /// Another node holds the group, or this one does.
    Held(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        2 => Just(SYN), 2 => Just(SYN_ACK), 12 => Just(ACK), 4 => Just(0x18_u8),
        1 => Just(FIN_ACK), 1 => Just(RST), 1 => Just(0), 1 => any::<u8>(),
    ];
    let spoil = proptest::option::weighted(0.1, (0..60_usize, 0..8_u8));
    let ttl = prop_oneof![9 => Just(64_u8), 1 => 0..3_u8];
    let off = prop_oneof![6 => Just(0), 1 => 0..FLOWS];
    let frame = (0..FLOWS, 0..3_u8, any::<bool>(), flags, ttl, spoil, off);
    prop_oneof![
        60 => frame.prop_map(|(flow, kind, out, flags, ttl, spoil, off)| {
            Step::Frame { flow, kind, out, flags, ttl, spoil, off }
        }),
        4 => (0..2000_u64).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Server),
        1 => any::<bool>().prop_map(Step::Hops),
        1 => any::<bool>().prop_map(Step::Held),
    ]
}

fn frame(flow: u16, kind: u8, out: bool, flags: u8, ttl: u8) -> (u16, Vec<u8>) {
    let client = format!("198.18.0.2:{}", 4000 + flow);
    let (vip_port, server) =
        [(80, "198.18.0.21:80"), (8080, "198.18.1.21:80"), (53, "198.18.1.21:5353")]
            [usize::from(kind)];
    let vip = format!("198.18.0.100:{vip_port}");
    let (macs, src, dst, port) = match out {
        true => ((NAT_1, BACK), server, &client[..], 1),
        false => ((CLIENT, FRONT), &client[..], &vip[..], 0),
    };
    let frame = match kind {
        2 => udp(macs, src, dst, ttl),
        _ => tcp(macs, src, dst, ttl, flags),
    };
    (port, frame)
}

/// All that a packet changes in a connection.
fn facts(connection: &Connection) -> String {
    let (workers, counts) = (connection.workers(), (connection.in_pkts(), connection.out_pkts()));
    let flags = (connection.is_assured(), connection.is_superseded(), connection.last_seen_ns());
    format!("{connection:?} {counts:?} {workers:?} {flags:?}")
}

impl Step {
    fn take(&self, lab: &mut Lab, prepares: bool) -> Option<Outcome> {
        match *self {
            Self::Frame { flow, kind, out, flags, ttl, spoil, off } => {
                if prepares {
                    let (_, other) = frame((flow + off) % FLOWS, kind, out, flags, ttl);
                    lab.worker.prepare(std::iter::once(&other[..]));
                }
                let (port, mut frame) = frame(flow, kind, out, flags, ttl);
                if let Some((at, bit)) = spoil.filter(|(at, _)| *at < frame.len()) {
                    frame[at] ^= 1 << bit;
                }
                return Some(lab.handle(port, &frame));
            }
            Self::Wait(ms) => lab.now += ms * 1_000_000,
            Self::Server(up) => {
                let mut spec = config_spec(lab.shared.config.load().generation() + 1);
                for service in &mut spec.services {
                    let first = &mut service.servers[0];
                    *first = ServerSpec { up, ..*first };
                    service.servers.retain(|server| up || server.id != ServerId(12));
                }
                lab.set_config(spec);
            }
            Self::Hops(known) => {
                let mut spec = next_hops(lab.shared.next_hops.load().generation() + 1);
                if !known {
                    spec.neighbours.truncate(2);
                }
                lab.shared.set_next_hops(steadfast_dataplane::NextHops::new(spec));
            }
            Self::Held(held) => {
                let relay = vec![Some(PEER), None];
                lab.set_role(if held { holder() } else { Role::Other { relay } });
            }
        }
        None
    }
}

proptest! {
    #![proptest_config(Cases { cases: 300, ..Cases::default() })]

    #[test]
    fn the_short_way_leaves_all_as_the_long_way_does(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut short = Lab { prepares: false, ..Lab::new() };
        let mut long = Lab { prepares: false, ..Lab::new() };
        for (at, step) in steps.iter().enumerate() {
            let outcome = step.take(&mut short, true);
            prop_assert_eq!(outcome, step.take(&mut long, false), "step {}, {:?}", at, step);
            prop_assert_eq!(short.log.take(), long.log.take(), "step {}, {:?}", at, step);
            let list = |lab: &Lab| {
                let (found, _) = lab.shared.table.walk(Default::default(), 1000);
                found.iter().map(facts).collect::<Vec<_>>()
            };
            prop_assert_eq!(list(&short), list(&long), "step {}, {:?}", at, step);
            let stale = |lab: &Lab| lab.shared.stale_senders.take();
            prop_assert_eq!(stale(&short), stale(&long), "step {}, {:?}", at, step);
            let counts = |lab: &Lab| {
                let config = lab.shared.config.load();
                let spec = config_spec(1);
                let totals = spec.services.iter().map(|spec| {
                    let service = config.service(spec.id).unwrap();
                    (0..2).map(|of| service.counters(of).map(|c| c.totals())).collect::<Vec<_>>()
                });
                (totals.collect::<Vec<_>>(), format!("{:?}", lab.worker.counters()))
            };
            prop_assert_eq!(counts(&short), counts(&long), "step {}, {:?}", at, step);
        }
    }
}
