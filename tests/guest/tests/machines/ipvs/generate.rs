//! Random scenarios: what the same seed and number give is always the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use steadfast_guest::ipvs::{
    Flow, Method, Persistence, Protocol, Scenario, Server, Step, VIP_PORT, VIP_PORTS,
};

use super::table::{common, events};

/// Connections and steps of a scenario: few enough that it ends before they expire in a slow guest.
const FLOWS: usize = 60;
const STEPS: usize = 110;
/// Of SCTP, whose first states are short.
const SCTP_STEPS: usize = 60;

/// Networks of clients of a persistent service: few, so that they come again.
const NETWORKS: u64 = 9;

/// Servers at once, and over a whole scenario.
const SERVERS_MAX: usize = 6;
const NUMBERS_MAX: u8 = 200;

/// Weights, most often small ones, so that servers are full and even.
const WEIGHTS: [u16; 10] = [1, 1, 2, 2, 3, 4, 6, 8, 10, 100];

/// A scheduler with its flags.
pub(super) type Kind = (&'static str, Vec<&'static str>);

/// How packets go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    protocol: Protocol,
    v6: bool,
    method: Method,
    persistence: Option<Persistence>,
    marked: bool,
    one_packet: bool,
    /// Servers have thresholds.
    bounded: bool,
    counted: bool,
}

/// What is played: every scheduler over both families, TCP and UDP, NAT and DR; and beside that,
/// SCTP and persistence, to which schedulers are alike.
pub(super) fn all() -> Vec<(Kind, Way)> {
    use Protocol::{Sctp, Tcp, Udp};
    let way = |protocol, v6, dr| Way::new(protocol, v6, if dr { Method::Dr } else { Method::Nat });
    let mut all = Vec::new();
    for (index, kind) in kinds().into_iter().enumerate() {
        let even = index % 2 == 0;
        for way in [way(Tcp, !even, false), way(Tcp, even, true), way(Udp, even, false)] {
            all.push((kind.clone(), way));
        }
    }
    let sctp = [("sh", vec!["sh-port"]), ("mh", vec!["mh-port"]), ("wlc", vec![]), ("rr", vec![])];
    for (index, kind) in sctp.into_iter().enumerate() {
        all.push((kind, way(Sctp, index % 2 == 0, index == 3)));
    }
    let persistent = [
        ("rr", way(Tcp, false, false), 32, false),
        ("wlc", way(Tcp, true, true), 64, false),
        ("lc", way(Udp, false, true), 24, true),
        ("rr", way(Udp, true, false), 128, true),
        ("wrr", way(Sctp, false, false), 16, false),
        ("rr", way(Tcp, true, false), 48, true),
    ];
    for (scheduler, way, prefix_len, expire_quiescent) in persistent {
        let persistence = Persistence { timeout_s: 300, prefix_len, expire_quiescent };
        all.push(((scheduler, vec![]), Way { persistence: Some(persistence), ..way }));
    }
    all.extend(seldom());
    all
}

/// What schedulers have little to do with: tunnels, marks, datagrams on their own, thresholds.
fn seldom() -> Vec<(Kind, Way)> {
    use Protocol::{Tcp, Udp};
    let counted = |way| Way { counted: true, ..way };
    let marked = |way| Way { marked: true, ..way };
    let bounded = |way| Way { bounded: true, ..way };
    let alone = |method, v6| Way { one_packet: true, ..Way::new(Udp, v6, method) };
    let by_mark = Persistence { timeout_s: 300, prefix_len: 24, expire_quiescent: false };
    let by_mark = Way { persistence: Some(by_mark), ..Way::new(Tcp, false, Method::Nat) };
    let ways = [
        ("wrr", counted(Way::new(Tcp, false, Method::IpIp))),
        ("rr", counted(Way::new(Udp, true, Method::IpIp))),
        ("wlc", counted(marked(Way::new(Tcp, false, Method::Nat)))),
        ("rr", marked(Way::new(Udp, true, Method::Dr))),
        ("rr", marked(by_mark)),
        ("wrr", counted(alone(Method::Dr, false))),
        ("rr", alone(Method::Nat, true)),
        ("rr", counted(bounded(Way::new(Tcp, false, Method::Nat)))),
        ("wlc", counted(bounded(Way::new(Tcp, true, Method::Dr)))),
        ("mh", bounded(Way::new(Udp, false, Method::Nat))),
    ];
    ways.map(|(scheduler, way)| ((scheduler, vec![]), way)).into()
}

/// All schedulers of IPVS but `twos`, whose choices are random.
fn kinds() -> Vec<Kind> {
    let plain = ["rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf", "lblc", "lblcr", "dh"];
    let mut kinds: Vec<Kind> = plain.map(|name| (name, Vec::new())).into();
    for (name, port, fallback) in
        [("sh", "sh-port", "sh-fallback"), ("mh", "mh-port", "mh-fallback")]
    {
        for flags in [vec![], vec![port], vec![fallback], vec![port, fallback]] {
            kinds.push((name, flags));
        }
    }
    kinds
}

/// A random scenario.
pub(super) fn random((scheduler, flags): &Kind, way: Way, mut dice: Dice) -> Scenario {
    let mut present: Vec<Server> = Vec::new();
    for number in 1..=2 + dice.below(4) as u8 {
        present.push(dice.server(way, number));
    }
    let servers = present.clone();
    let flows: Vec<_> = (0..FLOWS)
        .map(|index| Flow {
            addr: dice.client(way),
            port: 1024 + dice.below(50_000) as u16 + index as u16,
            vip_port: if way.marked { VIP_PORTS[dice.below(2) as usize] } else { VIP_PORT },
        })
        .collect();
    let (mut steps, mut opened, mut next_number) = (Vec::new(), 0, servers.len() as u8 + 1);
    let count = if way.protocol == Protocol::Sctp { SCTP_STEPS } else { STEPS };
    let events = events(way.protocol);
    for _ in 0..count {
        let step = match dice.below(100) {
            0..50 if opened < FLOWS => {
                opened += 1;
                Step::Send { flow: opened - 1, flags: events[0] }
            }
            0..84 if opened > 0 => {
                let flow = dice.below(opened as u64) as usize;
                let flags = events[dice.below(events.len() as u64) as usize];
                let flags = if dice.below(3) == 0 { common(way.protocol) } else { flags };
                if way.method != Method::Nat || dice.below(2) == 0 {
                    Step::Send { flow, flags }
                } else {
                    Step::Reply { flow, flags }
                }
            }
            84..94 if !present.is_empty() => {
                let index = dice.below(present.len() as u64) as usize;
                let weight = if dice.below(3) == 0 { 0 } else { dice.weight() };
                present[index].weight = weight;
                if way.bounded && dice.below(2) == 0 {
                    let other = dice.server(way, present[index].number);
                    present[index] = Server { weight, ..other };
                }
                Step::Weigh(present[index])
            }
            94..97 if present.len() < SERVERS_MAX && next_number < NUMBERS_MAX => {
                let drained = dice.below(5) == 0;
                let mut server = dice.server(way, next_number);
                if drained {
                    server.weight = 0;
                }
                next_number += 1;
                present.push(server);
                Step::Add(server)
            }
            97..100 if present.len() > 1 => {
                let index = dice.below(present.len() as u64) as usize;
                Step::Remove { number: present.remove(index).number }
            }
            _ => continue,
        };
        steps.push(step);
    }
    let flags: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    Scenario {
        name: format!("{scheduler} {} {}", flags.join(","), way.label()),
        scheduler: (*scheduler).to_owned(),
        flags,
        protocol: way.protocol,
        v6: way.v6,
        method: way.method,
        marked: way.marked,
        one_packet: way.one_packet,
        counted: way.counted,
        persistence: way.persistence,
        servers,
        flows,
        steps,
    }
}

impl Way {
    fn new(protocol: Protocol, v6: bool, method: Method) -> Self {
        let (marked, one_packet, bounded, counted) = (false, false, false, false);
        Self { protocol, v6, method, persistence: None, marked, one_packet, bounded, counted }
    }

    fn label(&self) -> String {
        let family = if self.v6 { 6 } else { 4 };
        let mut label = format!("{:?} {family} {:?}", self.protocol, self.method).to_lowercase();
        for (is, word) in [
            (self.persistence.is_some(), " persistent"),
            (self.marked, " marked"),
            (self.one_packet, " one-packet"),
            (self.bounded, " bounded"),
        ] {
            if is {
                label.push_str(word);
            }
        }
        label
    }
}

/// A source of choices: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut dice = Self(seed);
        let base = dice.next();
        Self(base ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A client's address: anything, or one of few networks where that matters.
    fn client(&mut self, way: Way) -> IpAddr {
        let network = way.persistence.map(|_| 1 + self.below(NETWORKS));
        if way.v6 {
            let prefix = 0x2001_0db8_000c_u128 << 80;
            // Few hosts of few networks, apart in the last bits of both.
            let low = match network {
                Some(network) => {
                    let host = self.below(3);
                    // Two of three are apart there alone.
                    u128::from(network % 4) << 64
                        | u128::from(host / 2) << 40
                        | u128::from(host + 1)
                }
                None => u128::from(self.next() & 0xffff) << 64 | u128::from(self.next()),
            };
            return Ipv6Addr::from_bits(prefix | low).into();
        }
        let low = match network {
            Some(network) => (network % 3) << 16 | (network / 3) << 8 | (1 + self.below(3)),
            None => self.below(1 << 24) | 1,
        };
        Ipv4Addr::from_bits(0x0a00_0000 | low as u32).into()
    }

    /// Bounded ones are full before the scenario ends, and may be free again.
    fn server(&mut self, way: Way, number: u8) -> Server {
        let server = Server::new(number, self.weight());
        if !way.bounded {
            return server;
        }
        let upper = 4 + self.below(12) as u32;
        // None, or up to the upper one.
        let lower = self.below(u64::from(upper) + 1) as u32;
        Server { upper, lower, ..server }
    }

    fn weight(&mut self) -> u16 {
        WEIGHTS[self.below(WEIGHTS.len() as u64) as usize]
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
