//! Every cell of the TCP state tables that packets can reach.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use steadfast_dataplane::{Direction, State};
use steadfast_guest::ipvs::{Entry, Flow, Scenario, Server, Step};
use steadfast_packet::TcpFlags;

/// SYN, FIN with ACK, ACK, RST, and combinations that show which flag is looked at first.
pub(crate) const FLAGS: [u8; 9] = [0x02, 0x11, 0x10, 0x04, 0x12, 0x01, 0x14, 0x06, 0x00];

/// Inbound in a finished connection it is an exception.
const SYN_RST: u8 = 0x06;

/// Connections of one scenario, so that none of them expires before it ends.
const PATHS_MAX: usize = 24;

/// Direction (0 in, 1 out, 2 in only), the state before, and the flags.
pub(crate) type Cell = (u8, String, u8);

const DIRECTIONS: [Direction; 3] = [Direction::Input, Direction::Output, Direction::InputOnly];

/// The cell that a step is in; none for what opens a connection, or is none of TCP.
pub(crate) fn cell(scenario: &Scenario, step: &Step, before: Option<&Entry>) -> Option<Cell> {
    let before = before.filter(|_| !scenario.udp)?;
    let (direction, flags) = match *step {
        Step::Send { flags, .. } => (if scenario.dr { 2 } else { 0 }, flags),
        Step::Reply { flags, .. } => (1, flags),
        _ => return None,
    };
    Some((direction, before.state.clone(), flags))
}

/// All cells that packets can reach.
pub(crate) fn reachable() -> BTreeSet<Cell> {
    let cells = |dr| paths(dr).into_keys();
    cells(false).chain(cells(true)).collect()
}

/// One connection for every cell: the way to its state, and the cell's packet.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let of = |dr| {
        let paths: Vec<_> = paths(dr).into_values().collect();
        paths.chunks(PATHS_MAX).map(|chunk| scenario(dr, chunk)).collect::<Vec<_>>()
    };
    [of(false), of(true)].concat()
}

fn scenario(dr: bool, paths: &[Vec<(u8, u8)>]) -> Scenario {
    let mut flows = Vec::new();
    let mut steps = Vec::new();
    for (flow, path) in paths.iter().enumerate() {
        flows.push(Flow { addr: [10, 0, 0, 1].into(), port: 20_000 + flow as u16 });
        steps.extend(path.iter().map(|(direction, flags)| match direction {
            1 => Step::Reply { flow, flags: *flags },
            _ => Step::Send { flow, flags: *flags },
        }));
    }
    Scenario {
        name: format!("state table, {}", if dr { "dr" } else { "nat" }),
        scheduler: "rr".to_owned(),
        flags: Vec::new(),
        udp: false,
        dr,
        servers: vec![Server { number: 1, weight: 1 }, Server { number: 2, weight: 1 }],
        flows,
        steps,
    }
}

/// The shortest way through every cell, from the SYN on.
fn paths(dr: bool) -> BTreeMap<Cell, Vec<(u8, u8)>> {
    let directions: &[u8] = if dr { &[2] } else { &[0, 1] };
    let mut paths = BTreeMap::new();
    let mut found = BTreeSet::new();
    let mut queue = VecDeque::from([(State::SynRecv, vec![(directions[0], 0x02)])]);
    while let Some((state, path)) = queue.pop_front() {
        if !found.insert(state) {
            continue;
        }
        for direction in directions {
            for flags in FLAGS {
                if *direction != 1 && flags == SYN_RST && state.is_reusable() {
                    continue;
                }
                let mut path = path.clone();
                path.push((*direction, flags));
                let next = state.next(DIRECTIONS[usize::from(*direction)], TcpFlags(flags));
                paths.insert((*direction, state.name().to_owned(), flags), path.clone());
                queue.push_back((next, path));
            }
        }
    }
    paths
}
