//! Step by step, what the kernel and we have done.

use std::collections::BTreeMap;

use steadfast_guest::ipvs::{Entry, Played, Scenario, Seen, Step};

use crate::{ours::Ours, table};

/// Differences that are printed before the rest is only counted.
const SHOWN_MAX: usize = 12;

/// What was compared.
#[derive(Default)]
pub(crate) struct Report {
    rows: BTreeMap<String, Row>,
    cells: BTreeMap<table::Cell, usize>,
    pub(crate) differences: Vec<String>,
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
    pub(crate) fn compare(&mut self, scenario: &Scenario, played: &Played) -> Option<usize> {
        let row = self.rows.entry(label(scenario)).or_default();
        row.scenarios += 1;
        row.took_ms += played.took_ms;
        row.cut += scenario.steps.len() + 1 - played.seen.len();
        let mut ours = Ours::new(scenario);
        let mut states: BTreeMap<usize, Entry> = BTreeMap::new();
        for (index, (step, theirs)) in scenario.steps.iter().zip(&played.seen[1..]).enumerate() {
            row.steps += 1;
            let before = step.flow().and_then(|flow| states.get(&flow).cloned());
            let done = ours.step(step);
            let sends = matches!(step, Step::Send { .. });
            row.choices += usize::from(sends && done.created);
            row.none += usize::from(sends && done.seen.connection.is_none());
            if let Some(cell) = table::cell(scenario, step, before.as_ref()) {
                *self.cells.entry(cell).or_default() += 1;
            }
            if let (Some(flow), Some(entry)) = (step.flow(), &done.seen.connection) {
                states.insert(flow, entry.clone());
            }
            if !same(&done.seen, theirs) {
                self.differences.push(format!(
                    "{} step {index} {step:?}, before {before:?}\n  kernel {theirs:?}\n  ours   {:?}",
                    scenario.name, done.seen
                ));
                return Some(index);
            }
        }
        None
    }

    /// Fails when too little was compared to mean something.
    pub(crate) fn assert_enough(&self, choices_min: usize) {
        for (label, row) in &self.rows {
            assert!(row.choices >= choices_min, "{label}: {} choices only", row.choices);
        }
        for cell in table::reachable() {
            assert!(self.cells.contains_key(&cell), "never came to {cell:?}");
        }
    }

    pub(crate) fn print(&self) {
        println!("scheduler                 runs  steps choices none  cut   ms");
        for (label, row) in &self.rows {
            let Row { scenarios, steps, choices, none, cut, took_ms } = row;
            println!("{label:25} {scenarios:4} {steps:6} {choices:7} {none:4} {cut:4} {took_ms:5}");
        }
        println!("cells of the state tables: {} of {}", self.cells.len(), table::reachable().len());
        for difference in self.differences.iter().take(SHOWN_MAX) {
            println!("{difference}");
        }
    }
}

fn label(scenario: &Scenario) -> String {
    let words = std::iter::once(&scenario.scheduler).chain(&scenario.flags);
    words.map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// Seconds from a packet to the listing: the kernel rounds down, and the guest may be slow.
const LATE_MAX_S: u64 = 6;

/// Equal but for the time that passed since the packet.
fn same(ours: &Seen, theirs: &Seen) -> bool {
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
    entries && ours.sent == theirs.sent && ours.loads == theirs.loads
}
