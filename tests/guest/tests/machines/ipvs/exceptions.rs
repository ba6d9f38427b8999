//! Where we do not what IPVS does, on purpose.
//!
//! Random scenarios are kept away from these; a scenario of its own shows each, so that one that is
//! no difference any more is noticed.

use steadfast_guest::ipvs::{
    Flow, Method, Persistence, Protocol, Scenario, Server, Step, VIP_PORT,
};

use super::ours::Ours;

/// A difference that we want.
pub(super) struct Exception {
    pub(super) name: &'static str,
    /// Why ours is better.
    pub(super) reason: &'static str,
    /// The next step would show it.
    meets: fn(&Ours<'_>, &Step) -> bool,
    /// Makes steps of which the last shows it, for a service with round robin and two servers.
    shows: fn(&mut Scenario),
}

/// All of them.
pub(super) const ALL: [Exception; 7] = [
    Exception {
        name: "SYN with RST for a finished connection",
        reason: "no TCP sends it; IPVS takes it for a SYN, forgets the connection, and then opens \
                 none because of the RST; we take it for the RST that it is",
        meets: |ours, step| {
            matches!(step, Step::Send { flow, flags }
                if ours.is_tcp() && flags & (SYN | RST) == SYN | RST && ours.is_reusable(*flow))
        },
        shows: |scenario| scenario.steps = vec![OPEN, RESET, send(0, SYN | RST)],
    },
    Exception {
        name: "a reply of a server that was removed",
        reason: "IPVS goes on passing them on; no packet comes from or goes to a server that we \
                 were told to forget",
        meets: |ours, step| matches!(step, Step::Reply { flow, .. } if ours.is_orphan(*flow)),
        shows: |scenario| {
            scenario.steps = vec![OPEN, REMOVE_FIRST, Step::Reply { flow: 0, flags: SYN | ACK }];
        },
    },
    Exception {
        name: "a weight that is set to what it is",
        reason: "with wrr, IPVS begins its round anew with every command; a document that is \
                 applied again changes nothing with us",
        meets: |ours, step| matches!(step, Step::Weigh(server) if ours.is_wrr_with(*server)),
        shows: |scenario| {
            scenario.scheduler = "wrr".to_owned();
            scenario.steps = vec![OPEN, Step::Weigh(FIRST), send(1, SYN)];
        },
    },
    Exception {
        name: "a SYN for a finished connection of a persistent client that lost its server",
        reason: "IPVS never lets a connection that a template led give way to a new one: clients \
                 that use a port again wait for its time-out; we open one to another server",
        meets: |ours, step| matches!(step, Step::Send { flow, .. } if ours.is_reusable(*flow) && ours.is_moved(*flow)),
        shows: |scenario| {
            scenario.persistence = Some(PERSISTENCE);
            scenario.steps = vec![OPEN, RESET, REMOVE_FIRST, OPEN];
        },
    },
    Exception {
        name: "a second datagram of a persistent client",
        reason: "IPVS takes a client for real when it is answered, which with DR it never sees, so \
                 that such templates always go first; we do when it sends again, too",
        meets: |ours, step| matches!(step, Step::Send { flow, .. } if ours.is_udp() && ours.is_unproven(*flow)),
        shows: |scenario| {
            scenario.protocol = Protocol::Udp;
            scenario.persistence = Some(PERSISTENCE);
            scenario.steps = vec![OPEN, OPEN];
        },
    },
    Exception {
        name: "nobody is there for a persistent client whose server may not serve it",
        reason: "IPVS forgets where the client belongs; we send it there again if its server comes \
                 back before another can take it",
        meets: |ours, step| matches!(step, Step::Send { flow, .. } if !ours.has_available() && ours.is_led_astray(*flow)),
        shows: |scenario| {
            scenario.persistence = Some(Persistence { expire_quiescent: true, ..PERSISTENCE });
            let drain = |server| Step::Weigh(Server { weight: 0, ..server });
            scenario.steps = vec![OPEN, drain(FIRST), drain(SECOND), send(1, SYN)];
        },
    },
    Exception {
        name: "a new connection by a template past its time",
        reason: "one that was kept for its connections gets 60 s from IPVS ever after; with us its \
                 service's time-out counts again",
        // No random scenario lasts that long.
        meets: |_, _| false,
        shows: |scenario| {
            scenario.persistence = Some(Persistence { timeout_s: 1, ..PERSISTENCE });
            scenario.steps = vec![OPEN, Step::Wait { seconds: 4 }, send(1, SYN)];
        },
    },
];

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const OPEN: Step = Step::Send { flow: 0, flags: SYN };
const RESET: Step = Step::Reply { flow: 0, flags: RST };
/// The server that was added last is the first.
const FIRST: Server = Server { number: 2, weight: 1, upper: 0, lower: 0 };
const SECOND: Server = Server { number: 1, weight: 1, upper: 0, lower: 0 };
const REMOVE_FIRST: Step = Step::Remove { number: FIRST.number };
const PERSISTENCE: Persistence =
    Persistence { timeout_s: 300, prefix_len: 32, expire_quiescent: false };

fn send(flow: usize, flags: u8) -> Step {
    Step::Send { flow, flags }
}

/// The scenario without the steps that would show a difference we want.
pub(super) fn without(mut scenario: Scenario) -> Scenario {
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
pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |exception: &Exception| {
        let mut scenario = Scenario {
            name: exception.name.to_owned(),
            scheduler: "rr".to_owned(),
            flags: Vec::new(),
            protocol: Protocol::Tcp,
            v6: false,
            method: Method::Nat,
            marked: false,
            one_packet: false,
            counted: false,
            persistence: None,
            servers: vec![SECOND, FIRST],
            flows: [1, 2]
                .map(|port| Flow { addr: [10, 0, 0, 1].into(), port, vip_port: VIP_PORT })
                .to_vec(),
            steps: Vec::new(),
        };
        (exception.shows)(&mut scenario);
        scenario
    };
    ALL.iter().map(scenario).collect()
}
