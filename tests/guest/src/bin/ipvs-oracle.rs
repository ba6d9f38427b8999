//! Plays scenarios to the kernel's IPVS and tells what it did, a line of JSON for each. To be run
//! in a guest with one processor: see `steadfast_guest::ipvs`.

use std::{fs::File, io::BufReader, time::Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use steadfast_guest::ipvs::{Played, Scenario, play};

/// Plays scenarios to the kernel's IPVS.
#[derive(Debug, Parser)]
struct Options {
    /// A file with a JSON array of scenarios.
    script: std::path::PathBuf,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let file = File::open(&options.script)
        .with_context(|| format!("cannot open {}", options.script.display()))?;
    let scenarios: Vec<Scenario> = serde_json::from_reader(BufReader::new(file))?;
    // A small table: it is listed after every step.
    steadfast_guest::run("modprobe", &["ip_vs", "conn_tab_bits=8"], None)?;
    for (index, scenario) in scenarios.iter().enumerate() {
        let began = Instant::now();
        let seen = play(scenario).with_context(|| format!("scenario {}", scenario.name))?;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        println!("{}", serde_json::to_string(&Played { scenario: index, seen, took_ms })?);
    }
    Ok(())
}
