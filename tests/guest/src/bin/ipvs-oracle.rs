//! Plays scenarios to the kernel's IPVS and tells what it did, a line of JSON for each. To be run
//! in a guest with one processor: see `steadfast_guest::ipvs`.

use std::{
    fs::File,
    io::BufReader,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use steadfast_guest::ipvs::{Played, Scenario, play};

/// What servers count is in the kernel's lists after two seconds at the latest, once it has found
/// out how long that takes.
//= Linux net/netfilter/ipvs/ip_vs_est.c, ip_vs_estimation_kthread(), ip_vs_est_calc_phase()
const COUNTED_AFTER: Duration = Duration::from_secs(6);

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
    let mut counted = Vec::new();
    for (index, scenario) in scenarios.iter().enumerate() {
        let began = Instant::now();
        let game = play(scenario).with_context(|| format!("scenario {}", scenario.name))?;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if scenario.counted {
            counted.push((index, game, took_ms));
        } else {
            tell(&game.tell(index, took_ms, false)?)?;
        }
    }
    if !counted.is_empty() {
        thread::sleep(COUNTED_AFTER);
    }
    for (index, game, took_ms) in counted {
        tell(&game.tell(index, took_ms, true)?)?;
    }
    Ok(())
}

fn tell(played: &Played) -> Result<()> {
    println!("{}", serde_json::to_string(played)?);
    Ok(())
}
