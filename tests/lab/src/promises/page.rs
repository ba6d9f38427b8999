//! The report for people: `docs/report.md`.

use std::fmt::Write as _;

use super::{
    book,
    list::Promise,
    work::{Place, Work},
};

/// The page, of what is noted so far.
#[must_use]
pub fn of(place: &Place, promises: &[Promise]) -> String {
    let mut out = String::from(
        "# What is promised, and what shows it\n\n\
         Written by `make report` (`ONLY=P1,P5` for some; it goes on where it stopped). A promise is \
         shown when each of its commands came out as it must: no session broke, no byte was wrong, no \
         invariant was violated. Times are aims, met or missed. Times are in ms; p99 is given from 100 \
         runs on. Each row names the seed, the commit, the kernel and the machine it was measured on.\n",
    );
    // Writing to a String cannot fail.
    for promise in promises {
        let mark = if promise.is_shown(place) { "shown" } else { "not shown" };
        let _ = writeln!(out, "\n## {}: {mark}\n\n{}\n", promise.id, promise.says);
        for work in &promise.shown_by {
            row(&mut out, place, work);
        }
        if let Some(open) = promise.open {
            let _ = writeln!(out, "- Not shown: {open}");
        }
    }
    out
}

fn row(out: &mut String, place: &Place, work: &Work) {
    let Some(shown) = book::noted(place, &work.name()) else {
        let _ = writeln!(out, "- `{}`: not run", work.told(place));
        return;
    };
    let mark = if shown.passed { "ok" } else { "FAILED" };
    let _ = writeln!(out, "- `{}`: **{mark}**, {} ({})", shown.command, shown.told, shown.origin);
    let Work::Demo(demo) = work else { return };
    let Ok(report) = work.report(place) else { return };
    for aim in &demo.aims {
        let _ = writeln!(out, "  - aim: {}", aim.judge(&report));
    }
}
