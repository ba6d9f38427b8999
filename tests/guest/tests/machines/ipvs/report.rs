//! Step by step, what the kernel and we have done.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_guest::ipvs::{Counts, Entry, Method, Played, Scenario, Seen, Step};

use super::{
    ours::{Done, Ours},
    table,
};

/// Scenarios whose servers' counters are compared; a guest that is slow leaves some half played.
const COUNTED_MIN: usize = 5;

/// Differences that are printed before the rest is only counted.
const SHOWN_MAX: usize = 12;

/// What was compared.
#[derive(Default)]
pub(super) struct Report {
    /// By scheduler, and by way.
    rows: BTreeMap<String, Row>,
    cells: BTreeMap<table::Cell, usize>,
    /// What templates did with new connections.
    led: BTreeMap<&'static str, usize>,
    /// Scenarios at whose end the servers' counters were compared.
    counted: usize,
    pub(super) differences: Vec<String>,
}

#[derive(Debug, Default)]
struct Row {
    scenarios: usize,
    steps: usize,
    choices: usize,
    none: usize,
    cut: usize,
    took_ms: u64,
}

impl Report {
    /// Puts the scenario's steps through our data plane, beside what the kernel did; the step of
    /// the first difference. What comes after one would differ, too.
    pub(super) fn compare(&mut self, scenario: &Scenario, played: &Played) -> Option<usize> {
        let mut row = Row { scenarios: 1, took_ms: played.took_ms, ..Row::default() };
        row.cut = scenario.steps.len() + 1 - played.seen.len();
        let found = self.steps(scenario, played, &mut row);
        for label in [scheduler(scenario), way(scenario)] {
            self.rows.entry(label).or_default().add(&row);
        }
        found
    }

    fn steps(&mut self, scenario: &Scenario, played: &Played, row: &mut Row) -> Option<usize> {
        let mut ours = Ours::new(scenario);
        let mut states: BTreeMap<usize, Entry> = BTreeMap::new();
        let mut apart = Counts::default();
        for (index, (step, theirs)) in scenario.steps.iter().zip(&played.seen[1..]).enumerate() {
            row.steps += 1;
            let before = step.flow().and_then(|flow| states.get(&flow).cloned());
            let template = ours.template_of(step);
            let done = ours.step(step);
            if let (true, Some(before), Some(after)) = (done.created, template, &done.seen.template)
            {
                *self
                    .led
                    .entry(led(&before, after, ours.has_drained(after.server)))
                    .or_default() += 1;
            }
            let sends = matches!(step, Step::Send { .. });
            row.choices += usize::from(sends && done.created);
            row.none += usize::from(sends && done.seen.sent.is_none());
            if let Some(cell) = table::cell(scenario, step, before.as_ref()) {
                *self.cells.entry(cell).or_default() += 1;
            }
            if let (Some(flow), Some(entry)) = (step.flow(), &done.seen.connection) {
                states.insert(flow, entry.clone());
            }
            if before.is_some() && sends {
                count_apart(&mut apart, scenario, &done, theirs);
            }
            let mut counts = done.seen.counts;
            counts.conns -= apart.conns;
            counts.out_pkts += apart.out_pkts;
            counts.out_bytes += apart.out_bytes;
            if !same(&done, theirs) || counts != theirs.counts {
                self.differences.push(format!(
                    "{} step {index} {step:?}, before {before:?}\n  kernel {theirs:?}\n  ours   {:?}",
                    scenario.name, done.seen
                ));
                return Some(index);
            }
        }
        let whole = played.seen.len() > scenario.steps.len();
        if scenario.counted && whole && apart == Counts::default() {
            self.counted += 1;
            let found = ours.server_counts();
            if found != played.servers {
                let theirs = &played.servers;
                self.differences.push(format!(
                    "{} servers counted\n  kernel {theirs:?}\n  ours   {found:?}",
                    scenario.name
                ));
            }
        }
        None
    }

    /// Fails when too little was compared to mean something.
    pub(super) fn assert_enough(&self, choices_min: usize, led_min: usize) {
        for what in LED {
            let times = self.led.get(what).copied().unwrap_or(0);
            assert!(times >= led_min, "templates led {what} {times} times only");
        }
        for (label, row) in &self.rows {
            // That nobody is free is what a threshold chooses.
            let refused = if label.starts_with("bounded") { row.none } else { 0 };
            let choices = row.choices + refused;
            assert!(choices >= choices_min, "{label}: {choices} choices only");
        }
        assert!(self.counted >= COUNTED_MIN, "counters of {} scenarios' servers", self.counted);
        for cell in table::reachable() {
            assert!(self.cells.contains_key(&cell), "never came to {cell:?}");
        }
    }

    /// For every state that packets of a side came to, how often each packet did, in the order of
    /// [`table::events`]; a dash for what cannot be.
    fn print_cells(&self) {
        let reachable = table::reachable();
        let met = reachable.iter().filter(|cell| self.cells.contains_key(cell)).count();
        println!("cells of the state tables: {met} of {}", reachable.len());
        let rows: BTreeSet<_> =
            reachable.iter().map(|(p, side, state, _)| (p, side, state)).collect();
        for (protocol, side, state) in rows {
            let hits = |event: &u8| {
                let cell = (*protocol, *side, state.clone(), *event);
                let hits = self.cells.get(&cell).copied().unwrap_or(0);
                if reachable.contains(&cell) { format!("{hits:4}") } else { "   -".to_owned() }
            };
            let hits: String = table::events(*protocol).iter().map(hits).collect();
            println!("{protocol:?} {side:6?} {state:11} {hits}");
        }
    }

    pub(super) fn print(&self) {
        println!("scheduler, or way         runs  steps choices none  cut   ms");
        for (label, row) in &self.rows {
            let Row { scenarios, steps, choices, none, cut, took_ms } = row;
            println!("{label:25} {scenarios:4} {steps:6} {choices:7} {none:4} {cut:4} {took_ms:5}");
        }
        println!("servers' counters compared in {} scenarios", self.counted);
        println!("templates led new connections: {:?}", self.led);
        self.print_cells();
        for difference in self.differences.iter().take(SHOWN_MAX) {
            println!("{difference}");
        }
    }
}

/// Where a template leads a new connection.
const LED: [&str; 3] = ["to its server", "to its server, of weight 0", "to another server"];

fn led(before: &Entry, after: &Entry, drained: bool) -> &'static str {
    match before.server == after.server {
        true if drained => LED[1],
        true => LED[0],
        false => LED[2],
    }
}

impl Row {
    fn add(&mut self, other: &Self) {
        self.scenarios += other.scenarios;
        self.steps += other.steps;
        self.choices += other.choices;
        self.none += other.none;
        self.cut += other.cut;
        self.took_ms += other.took_ms;
    }
}

fn scheduler(scenario: &Scenario) -> String {
    let words = std::iter::once(&scenario.scheduler).chain(&scenario.flags);
    words.map(String::as_str).collect::<Vec<_>>().join(" ")
}

fn way(scenario: &Scenario) -> String {
    let family = if scenario.v6 { "IPv6" } else { "IPv4" };
    let mut label = format!("{:?} over {family}", scenario.protocol);
    for (is, word) in [
        (scenario.persistence.is_some(), "persistent"),
        (scenario.method == Method::IpIp, "IPIP"),
        (scenario.marked, "marked"),
        (scenario.one_packet, "one-packet"),
        (scenario.servers.iter().any(|server| server.upper > 0), "bounded"),
    ] {
        if is {
            label = format!("{word} {label}");
        }
    }
    label
}

/// Where the kernel counts otherwise for a SYN of a finished connection, and we want that. A connection
/// that a template led it takes up again, so that it counts no new one. When nobody takes the new one,
/// its own error to the client passes the old one, and is counted as the server's.
fn count_apart(apart: &mut Counts, scenario: &Scenario, done: &Done, theirs: &Seen) {
    let (ours, theirs) = (done.seen.counts, theirs.counts);
    if scenario.persistence.is_some()
        && done.created
        && theirs.conns + apart.conns + 1 == ours.conns
    {
        apart.conns += 1;
    }
    if done.seen.connection.is_none() && theirs.out_pkts == ours.out_pkts + apart.out_pkts + 1 {
        apart.out_pkts += 1;
        apart.out_bytes = theirs.out_bytes.saturating_sub(ours.out_bytes);
    }
}

/// Seconds from a packet to the listing: the kernel rounds down, and the guest may be slow.
const LATE_MAX_S: u64 = 6;

/// Equal but for the time that passed since the packet.
fn same(done: &Done, theirs: &Seen) -> bool {
    let ours = &done.seen;
    // A packet that is not passed on does not set the timer.
    let fresh = theirs.sent.is_some();
    let in_time = |ours: u64, theirs| (ours.saturating_sub(LATE_MAX_S)..=ours).contains(&theirs);
    let entries = match (&ours.connection, &theirs.connection) {
        (Some(ours), Some(theirs)) => {
            (ours.server, &ours.state) == (theirs.server, &theirs.state)
                && (!fresh || in_time(ours.expires_s, theirs.expires_s))
        }
        (None, None) => true,
        _ => false,
    };
    // A template's timer is set with every connection that it leads.
    let templates = match (&ours.template, &theirs.template) {
        (Some(ours), Some(theirs)) => {
            (ours.server, &ours.state) == (theirs.server, &theirs.state)
                && (!done.created || in_time(ours.expires_s, theirs.expires_s))
        }
        (None, None) => true,
        _ => false,
    };
    let packets = (ours.sent, &ours.packet) == (theirs.sent, &theirs.packet);
    entries
        && templates
        && packets
        && ours.loads == theirs.loads
        && ours.templates == theirs.templates
}
