//! What a suite did, a row a case. What failed comes last, with its reasons and seed: the end of a
//! log is what people see first, and sometimes all they have.

use std::fmt::Write as _;

use super::{
    report::{Origin, Report},
    story::{BROKEN_TOLD, print},
};

/// Rows of a suite.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    line: String,
    /// Why it is not good, a line each.
    why: Vec<String>,
    good: bool,
}

impl Table {
    /// Adds what became of a case. `line` is without "ok" or "FAILED"; if it is not `good`, `why`
    /// says why not.
    pub fn add(&mut self, line: &str, good: bool, why: &[String]) {
        self.rows.push(Row { line: line.trim_end().to_owned(), why: why.to_vec(), good });
    }

    /// Whether there is a row, and all are good.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|r| r.good)
    }

    /// Prints it.
    pub fn tell(&self, origin: &Origin) {
        print(&self.text(origin));
    }

    fn text(&self, origin: &Origin) -> String {
        let failed: Vec<&Row> = self.rows.iter().filter(|r| !r.good).collect();
        // Writing to a String cannot fail.
        let mut out = format!("\n{origin}\n");
        for row in &self.rows {
            let _ = writeln!(out, "{}  {}", row.line, if row.good { "ok" } else { "FAILED" });
        }
        if !failed.is_empty() {
            let _ = writeln!(out, "\nWhat failed (suite with seed {}):", origin.seed);
        }
        for row in &failed {
            let _ = writeln!(out, "{}", row.line);
            for why in &row.why {
                let _ = writeln!(out, "    {why}");
            }
        }
        let _ =
            writeln!(out, "\n{} passed, {} failed", self.rows.len() - failed.len(), failed.len());
        out
    }
}

/// Why a series is not as it must be: what broke, what was not seen, what made a run void.
#[must_use]
pub fn reasons(report: &Report) -> Vec<String> {
    let mut why = Vec::new();
    for run in &report.runs {
        let number = run.number;
        why.push(format!("run {number}: {}, {} of {} broken", run.done, run.broken, run.sessions));
        for s in run.broken_sessions.iter().take(BROKEN_TOLD) {
            let (id, kind, after) = (s.id, s.why.name(), s.after_fault_ms);
            why.push(format!("session {id}, {kind}, {after:.0} ms after the fault: {}", s.detail));
        }
        why.extend(run.void.iter().map(|reason| format!("void: {reason}")));
        let unseen = run.checks.iter().filter(|check| !check.passed);
        why.extend(unseen.map(|check| format!("not so: {}: {}", check.what, check.seen)));
        why.push(format!("the machine kept threads waiting for {} ms at most", run.pause_ms));
        if let Some(ms) = run.outage_ms {
            why.push(format!("the VIP was silent for {ms} ms, {} probes lost", run.probe_lost));
        }
    }
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_comes_last_with_its_reasons() {
        let mut table = Table::default();
        assert!(!table.is_good(), "nothing was run");
        table.add("dr-none   1 run\n", true, &[]);
        assert!(table.is_good());
        table.add("dr-kill   1 run\n", false, &["3 of 300 broken".to_owned()]);
        table.add("nat-kill  1 run\n", true, &[]);
        assert!(!table.is_good());
        let [commit, kernel, machine] = ["abc", "6.1", "2 processors"].map(str::to_owned);
        assert_eq!(
            table.text(&Origin { seed: 7, commit, kernel, machine }),
            "\nseed 7, commit abc, Linux 6.1, 2 processors\ndr-none   1 run  ok\ndr-kill   1 run  FAILED\nnat-kill  1 run  ok\n\
             \nWhat failed (suite with seed 7):\ndr-kill   1 run\n    3 of 300 broken\n\
             \n2 passed, 1 failed\n"
        );
    }
}
