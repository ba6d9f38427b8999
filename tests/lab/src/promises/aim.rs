//! Aims: figures that are printed as met or missed, and fail nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::demo::report::Report;

/// A figure and the most it is to be; milliseconds where it is a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Aim {
    /// Median of the VIP's outages.
    OutageMedian(u32),
    /// Their 99th percentile, which there is from 100 runs on.
    OutageP99(u32),
    /// The longest outage.
    OutageMax(u32),
    /// The longest stall of a session.
    StallMax(u32),
    /// Datagrams of the probe that a run loses.
    LostInRun(u64),
}

/// What became of one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Judged {
    /// The aim.
    pub aim: String,
    /// What was measured; absent when there is no such figure.
    pub seen: Option<String>,
    /// Whether it was met.
    pub met: bool,
}

impl Aim {
    /// Compares it with what a series measured.
    #[must_use]
    pub fn judge(self, report: &Report) -> Judged {
        let time = |value: Option<f64>, most: u32| {
            (value.map(|ms| format!("{ms:.0} ms")), value.is_some_and(|ms| ms <= f64::from(most)))
        };
        let (seen, met) = match self {
            Self::OutageMedian(most) => time(report.outage_ms.p50, most),
            Self::OutageP99(most) => time(report.outage_ms.p99, most),
            Self::OutageMax(most) => time(report.outage_ms.max, most),
            Self::StallMax(most) => time(report.stall_ms.max, most),
            Self::LostInRun(most) => {
                let worst = report.runs.iter().map(|run| run.probe_lost).max();
                (worst.map(|lost| lost.to_string()), worst.is_some_and(|lost| lost <= most))
            }
        };
        Judged { aim: self.to_string(), seen, met }
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutageMedian(most) => write!(f, "median outage {most} ms"),
            Self::OutageP99(most) => write!(f, "p99 of outages {most} ms"),
            Self::OutageMax(most) => write!(f, "longest outage {most} ms"),
            Self::StallMax(most) => write!(f, "longest stall {most} ms"),
            Self::LostInRun(most) => write!(f, "{most} probes lost in a run"),
        }
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { aim, seen, met } = self;
        match seen {
            Some(seen) => write!(f, "{aim}: {seen}, {}", if *met { "met" } else { "missed" }),
            None => write!(f, "{aim}: too few runs for this figure"),
        }
    }
}
