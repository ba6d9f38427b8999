//! Every cell of the state tables of TCP and SCTP that packets can reach.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use steadfast_dataplane::{Direction, State};
use steadfast_guest::ipvs::{
    Entry, Flow, Method, Protocol, Scenario, Server, Step, THEN_ABORT, VIP_PORT,
};
use steadfast_packet::{Chunk, TcpFlags};

/// SYN, FIN with ACK, ACK, RST, and combinations that show which flag is looked at first.
const FLAGS: [u8; 9] = [0x02, 0x11, 0x10, 0x04, 0x12, 0x01, 0x14, 0x06, 0x00];

/// INIT, INIT ACK, COOKIE ECHO, COOKIE ACK, DATA, SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE, ERROR,
/// ABORT, HEARTBEAT, and an ABORT after a COOKIE ECHO, a COOKIE ACK and DATA.
const CHUNKS: [u8; 14] =
    [1, 2, 10, 11, 0, 7, 8, 14, 9, 6, 4, 10 | THEN_ABORT, 11 | THEN_ABORT, THEN_ABORT];

/// Inbound in a finished connection it is an exception.
const SYN_RST: u8 = 0x06;

/// Packets of one scenario, so that none of its connections expires before it ends: those of SCTP
/// do so first.
const TCP_STEPS_MAX: usize = 90;
const SCTP_STEPS_MAX: usize = 45;

/// Protocol, direction, the state before, and what came.
pub(super) type Cell = (Protocol, Side, String, u8);

/// Where a packet goes: of a connection whose server answers this way, or not.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Side {
    In,
    Out,
    InOnly,
}

/// What packets of a protocol can be; the first opens a connection.
pub(super) fn events(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::Tcp | Protocol::Udp => &FLAGS,
        Protocol::Sctp => &CHUNKS,
    }
}

/// What most packets are: an ACK, or data.
pub(super) fn common(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp | Protocol::Udp => 0x10,
        Protocol::Sctp => 0,
    }
}

/// The cell that a step is in; none for what opens a connection, or has no table.
pub(super) fn cell(scenario: &Scenario, step: &Step, before: Option<&Entry>) -> Option<Cell> {
    let before = before.filter(|_| scenario.protocol != Protocol::Udp)?;
    let (side, event) = match *step {
        Step::Send { flags, .. } => {
            (if scenario.method == Method::Nat { Side::In } else { Side::InOnly }, flags)
        }
        Step::Reply { flags, .. } => (Side::Out, flags),
        _ => return None,
    };
    Some((scenario.protocol, side, before.state.clone(), event))
}

/// All cells that packets can reach.
pub(super) fn reachable() -> BTreeSet<Cell> {
    let tables = TABLES.into_iter().map(|(protocol, dr)| Table::new(protocol, dr));
    tables.flat_map(|table| table.cells()).collect()
}

/// Connections that come through every cell. The families share the code of the tables, here as in
/// the kernel: each is played by one of them.
pub(super) fn scenarios() -> Vec<Scenario> {
    let of = |(protocol, dr)| Table::new(protocol, dr).scenarios();
    TABLES.into_iter().flat_map(of).collect()
}

/// The tables: protocol, and whether replies go another way.
const TABLES: [(Protocol, bool); 4] = [
    (Protocol::Tcp, false),
    (Protocol::Tcp, true),
    (Protocol::Sctp, false),
    (Protocol::Sctp, true),
];

/// What packets of one protocol, forwarded one way, make of connections.
struct Table {
    protocol: Protocol,
    dr: bool,
    /// The state that each packet in each state leads to.
    cells: BTreeMap<(State, Side, u8), State>,
    /// The state that opening leads to.
    first: State,
}

impl Table {
    fn new(protocol: Protocol, dr: bool) -> Self {
        let sides: &[Side] = if dr { &[Side::InOnly] } else { &[Side::In, Side::Out] };
        let opening = events(protocol)[0];
        let first = next(protocol, State::None, sides[0], opening);
        let mut cells = BTreeMap::new();
        let (mut found, mut queue) = (BTreeSet::from([first]), VecDeque::from([first]));
        while let Some(state) = queue.pop_front() {
            for (side, event) in product(sides, events(protocol)) {
                let inbound = side != Side::Out;
                let after = match (protocol, event) {
                    (Protocol::Tcp, SYN_RST) if inbound && state.is_reusable() => continue,
                    // Another connection in the place of this one.
                    (_, event) if inbound && event == opening && state.is_reusable() => first,
                    _ => next(protocol, state, side, event),
                };
                cells.insert((state, side, event), after);
                if found.insert(after) {
                    queue.push_back(after);
                }
            }
        }
        Self { protocol, dr, cells, first }
    }

    fn cells(&self) -> Vec<Cell> {
        let cell = |(state, side, event): &(State, Side, u8)| {
            (self.protocol, *side, state.name().to_owned(), *event)
        };
        self.cells.keys().map(cell).collect()
    }

    /// Walks that come through every cell: a packet of a cell that was not met yet where there is
    /// one, else the shortest way to one, else another connection.
    fn scenarios(&self) -> Vec<Scenario> {
        let steps_max = match self.protocol {
            Protocol::Sctp => SCTP_STEPS_MAX,
            Protocol::Tcp | Protocol::Udp => TCP_STEPS_MAX,
        };
        let mut left: BTreeSet<_> = self.cells.keys().copied().collect();
        let mut scenarios = Vec::new();
        while !left.is_empty() {
            let (mut flows, mut steps) = (0, Vec::new());
            while !left.is_empty() && steps.len() < steps_max {
                let opening = events(self.protocol)[0];
                steps.push(Step::Send { flow: flows, flags: opening });
                let mut state = self.first;
                while let Some(way) = self.way(state, &left) {
                    for (side, flags) in way {
                        left.remove(&(state, side, flags));
                        state = self.cells[&(state, side, flags)];
                        steps.push(match side {
                            Side::Out => Step::Reply { flow: flows, flags },
                            Side::In | Side::InOnly => Step::Send { flow: flows, flags },
                        });
                    }
                    if steps.len() >= steps_max {
                        break;
                    }
                }
                flows += 1;
            }
            scenarios.push(self.scenario(flows, steps, scenarios.len()));
        }
        scenarios
    }

    /// The shortest way from a state to a cell that is left, and through it.
    fn way(&self, from: State, left: &BTreeSet<(State, Side, u8)>) -> Option<Vec<(Side, u8)>> {
        let (mut found, mut queue) = (BTreeSet::from([from]), VecDeque::from([(from, Vec::new())]));
        while let Some((state, way)) = queue.pop_front() {
            let of_state = self.cells.iter().filter(|((of, ..), _)| *of == state);
            for ((_, side, event), after) in of_state {
                let with = || [way.as_slice(), &[(*side, *event)]].concat();
                if left.contains(&(state, *side, *event)) {
                    return Some(with());
                }
                if found.insert(*after) {
                    queue.push_back((*after, with()));
                }
            }
        }
        None
    }

    fn scenario(&self, flows: usize, steps: Vec<Step>, number: usize) -> Scenario {
        let v6 = number % 2 == 1;
        let addr =
            if v6 { [0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 1].into() } else { [10, 0, 0, 1].into() };
        let way = if self.dr { "dr" } else { "nat" };
        Scenario {
            name: format!("state table, {:?} {way} {number}", self.protocol),
            scheduler: "rr".to_owned(),
            flags: Vec::new(),
            protocol: self.protocol,
            v6,
            method: if self.dr { Method::Dr } else { Method::Nat },
            marked: false,
            one_packet: false,
            counted: false,
            servers: vec![Server::new(1, 1), Server::new(2, 1)],
            persistence: None,
            flows: (0..flows)
                .map(|flow| Flow { addr, port: 20_000 + flow as u16, vip_port: VIP_PORT })
                .collect(),
            steps,
        }
    }
}

fn next(protocol: Protocol, state: State, side: Side, event: u8) -> State {
    let direction = match side {
        Side::In => Direction::Input,
        Side::Out => Direction::Output,
        Side::InOnly => Direction::InputOnly,
    };
    match protocol {
        Protocol::Tcp | Protocol::Udp => state.next(direction, TcpFlags(event)),
        Protocol::Sctp => state.next_sctp(direction, speaker(event)),
    }
}

/// The chunk that speaks for a packet.
//= Linux net/netfilter/ipvs/ip_vs_proto_sctp.c, set_sctp_state(): the first, but for an ABORT
//= behind a cookie
fn speaker(event: u8) -> Chunk {
    match event {
        event if event & THEN_ABORT == 0 => Chunk(event),
        event if matches!(event & !THEN_ABORT, 10 | 11) => Chunk::ABORT,
        event => Chunk(event & !THEN_ABORT),
    }
}

fn product<'a>(sides: &'a [Side], events: &'a [u8]) -> impl Iterator<Item = (Side, u8)> + 'a {
    sides.iter().flat_map(|side| events.iter().map(|event| (*side, *event)))
}
