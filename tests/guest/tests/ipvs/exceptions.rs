//! Where we do not what IPVS does, on purpose.
//!
//! Random scenarios are kept away from these; a scenario of its own shows each, so that one that is
//! no difference any more is noticed.

use steadfast_guest::ipvs::{Flow, Scenario, Server, Step};

use crate::ours::Ours;

/// A difference that we want.
pub(crate) struct Exception {
    pub(crate) name: &'static str,
    /// Why ours is better.
    pub(crate) reason: &'static str,
    /// The next step would show it.
    meets: fn(&Ours<'_>, &Step) -> bool,
    /// Steps of which the last shows it; there is one server.
    shows: fn() -> Vec<Step>,
}

/// All of them.
pub(crate) const ALL: [Exception; 2] = [
    Exception {
        name: "SYN with RST for a finished connection",
        reason: "no TCP sends it; IPVS takes it for a SYN, forgets the connection, and then opens \
                 none because of the RST; we take it for the RST that it is",
        meets: |ours, step| {
            matches!(step, Step::Send { flow, flags }
                if flags & (SYN | RST) == SYN | RST && ours.is_reusable(*flow))
        },
        shows: || {
            let flow = 0;
            vec![OPEN, Step::Reply { flow, flags: RST }, Step::Send { flow, flags: SYN | RST }]
        },
    },
    Exception {
        name: "a reply of a server that was removed",
        reason: "IPVS goes on passing them on; no packet comes from or goes to a server that we \
                 were told to forget",
        meets: |ours, step| matches!(step, Step::Reply { flow, .. } if ours.is_orphan(*flow)),
        shows: || vec![OPEN, Step::Remove { number: 1 }, Step::Reply { flow: 0, flags: SYN | ACK }],
    },
];

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const OPEN: Step = Step::Send { flow: 0, flags: SYN };
const ONE: Server = Server { number: 1, weight: 1 };

/// The scenario without the steps that would show a difference we want.
pub(crate) fn without(mut scenario: Scenario) -> Scenario {
    let whole = scenario.clone();
    let mut ours = Ours::new(&whole);
    scenario.steps.retain(|step| {
        let fits = !ALL.iter().any(|exception| (exception.meets)(&ours, step));
        if fits {
            ours.step(step);
        }
        fits
    });
    scenario
}

/// A scenario for each, whose last step shows it.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let scenario = |exception: &Exception| Scenario {
        name: exception.name.to_owned(),
        scheduler: "rr".to_owned(),
        flags: Vec::new(),
        udp: false,
        dr: false,
        servers: vec![ONE],
        flows: vec![Flow { addr: [10, 0, 0, 1].into(), port: 4711 }],
        steps: (exception.shows)(),
    };
    ALL.iter().map(scenario).collect()
}
