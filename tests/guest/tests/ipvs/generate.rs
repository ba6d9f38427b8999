//! Random scenarios: what the same seed and number give is always the same.

use steadfast_guest::ipvs::{Flow, Scenario, Server, Step};

use crate::table::FLAGS;

/// Connections and steps of a scenario: few enough that it ends before they expire in a slow guest.
const FLOWS: usize = 60;
const STEPS: usize = 110;

/// Servers at once, and over a whole scenario.
const SERVERS_MAX: usize = 6;
const NUMBERS_MAX: u8 = 200;

/// Weights, most often small ones, so that servers are full and even.
const WEIGHTS: [u16; 10] = [1, 1, 2, 2, 3, 4, 6, 8, 10, 100];

/// A scheduler with its flags.
pub(crate) type Kind = (&'static str, Vec<&'static str>);

/// How packets go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    NatTcp,
    DrTcp,
    NatUdp,
}

pub(crate) const WAYS: [Way; 3] = [Way::NatTcp, Way::DrTcp, Way::NatUdp];

/// All schedulers of IPVS but `twos`, whose choices are random.
pub(crate) fn kinds() -> Vec<Kind> {
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
pub(crate) fn random((scheduler, flags): &Kind, way: Way, mut dice: Dice) -> Scenario {
    let mut present: Vec<Server> = Vec::new();
    for number in 1..=2 + dice.below(4) as u8 {
        present.push(Server { number, weight: dice.weight() });
    }
    let servers = present.clone();
    let flows: Vec<_> = (0..FLOWS)
        .map(|index| Flow {
            addr: (0x0a00_0000 | dice.below(1 << 24) as u32 | 1).into(),
            port: 1024 + dice.below(50_000) as u16 + index as u16,
        })
        .collect();
    let (mut steps, mut opened, mut next_number) = (Vec::new(), 0, servers.len() as u8 + 1);
    for _ in 0..STEPS {
        let step = match dice.below(100) {
            0..50 if opened < FLOWS => {
                opened += 1;
                Step::Send { flow: opened - 1, flags: 0x02 }
            }
            0..84 if opened > 0 => {
                let flow = dice.below(opened as u64) as usize;
                let flags = FLAGS[dice.below(FLAGS.len() as u64) as usize];
                // An ACK is what most packets are.
                let flags = if dice.below(3) == 0 { 0x10 } else { flags };
                match way {
                    Way::DrTcp => Step::Send { flow, flags },
                    Way::NatTcp | Way::NatUdp if dice.below(2) == 0 => Step::Send { flow, flags },
                    Way::NatTcp | Way::NatUdp => Step::Reply { flow, flags },
                }
            }
            84..94 if !present.is_empty() => {
                let index = dice.below(present.len() as u64) as usize;
                let weight = if dice.below(3) == 0 { 0 } else { dice.weight() };
                present[index].weight = weight;
                Step::Weigh(present[index])
            }
            94..97 if present.len() < SERVERS_MAX && next_number < NUMBERS_MAX => {
                let weight = if dice.below(5) == 0 { 0 } else { dice.weight() };
                let server = Server { number: next_number, weight };
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
        name: format!("{scheduler} {} {way:?}", flags.join(",")),
        scheduler: (*scheduler).to_owned(),
        flags,
        udp: matches!(way, Way::NatUdp),
        dr: matches!(way, Way::DrTcp),
        servers,
        flows,
        steps,
    }
}

/// A source of choices: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let mut dice = Self(seed);
        let base = dice.next();
        Self(base ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
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
