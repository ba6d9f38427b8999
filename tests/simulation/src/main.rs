//! `steadfast-simulation`: runs seeds and prints what was seen.

use std::{fs::File, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Context;
use clap::Parser;
use steadfast_simulation::{
    CI_SEEDS, FAULTS_PER_HOUR, Figures, Options, SESSIONS, World,
    clock::{MS, SECOND},
};

/// A whole cluster in virtual time, under faults drawn from a seed
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Simulated hours for each seed
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// The seeds that CI runs
    #[arg(long)]
    ci: bool,
    /// How many seeds, one after the other; 0: until stopped
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Faults in a simulated hour
    #[arg(long, default_value_t = FAULTS_PER_HOUR)]
    faults: u64,
    /// Sessions at a time
    #[arg(long, default_value_t = SESSIONS)]
    sessions: u32,
    /// Writes the trace to this file
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Puts a known bug in, by its name
    #[cfg(feature = "known-bugs")]
    #[arg(long)]
    bug: Option<String>,
}

/// Puts the known bug in that is asked for.
#[cfg(feature = "known-bugs")]
fn put_in(arguments: &Arguments) -> anyhow::Result<()> {
    use steadfast_known_bugs::{Bug, switch};
    if let Some(name) = &arguments.bug {
        let found = Bug::ALL.iter().find(|bug| format!("{bug:?}") == *name);
        switch(Some(
            *found.with_context(|| format!("there is no bug {name}: see tests/known-bugs"))?,
        ));
    }
    Ok(())
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    #[cfg(feature = "known-bugs")]
    put_in(&arguments)?;
    let mut all = Figures::default();
    let begun = Instant::now();
    let many = (arguments.seed..).take(match arguments.seeds {
        0 => usize::MAX,
        seeds => usize::try_from(seeds)?,
    });
    let seeds: Box<dyn Iterator<Item = u64>> =
        if arguments.ci { Box::new(CI_SEEDS.into_iter()) } else { Box::new(many) };
    for seed in seeds {
        let trace = match &arguments.trace {
            Some(path) => Some(File::create(path).with_context(|| format!("{}", path.display()))?),
            None => None,
        };
        let span = (arguments.hours * 3_600.0) as u64 * SECOND;
        let (faults_per_hour, sessions) = (arguments.faults, arguments.sessions);
        let started = Instant::now();
        let world = World::new(Options { seed, span, faults_per_hour, sessions, trace });
        let outcome = world.run();
        let wall = started.elapsed();
        let ratio = span as f64 / 1e9 / wall.as_secs_f64().max(1e-9);
        println!(
            "seed {seed}: {} nodes, {} s simulated in {:.1} s ({ratio:.0} times real time), trace \
             {:016x} of {} lines",
            outcome.nodes,
            span / SECOND,
            wall.as_secs_f64(),
            outcome.hash,
            outcome.lines
        );
        println!("{}", outcome.figures);
        if let Some(failure) = &outcome.failure {
            println!("last lines of the trace:");
            for line in &outcome.last {
                println!("{line}");
            }
            println!("VIOLATED {}: {} at {} ms", failure.invariant, failure.what, failure.at / MS);
            println!(
                "replay: cargo run -p steadfast-simulation -- --seed {seed} --hours {} --faults {} \
                 --sessions {}",
                arguments.hours, arguments.faults, arguments.sessions
            );
            return Ok(ExitCode::FAILURE);
        }
        all.add(&outcome.figures);
    }
    if arguments.ci || arguments.seeds != 1 {
        println!("all seeds, {:.0} s:\n{all}", begun.elapsed().as_secs_f64());
    }
    Ok(ExitCode::SUCCESS)
}
