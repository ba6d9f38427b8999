//! The kernel's own IPVS and our data plane, given the same configuration and packets.
//!
//! A guest with a kernel of Debian plays every scenario; the same steps go through a worker here.
//! After every step both must have the same connection, server, state and time-out, have sent the
//! same packet the same way, hold the same templates, and count the same connections for every server,
//! and the same packets and bytes for the service; in some scenarios, at the end, for every server, too.
//!
//! `SEED=n` repeats a run, `ROUNDS=n` makes it longer, `ONLY=text,text` takes the scenarios alone
//! whose names have one of those in them, `KEPT=1` compares the last run again without a guest.

mod exceptions;
mod generate;
mod locality;
mod ours;
mod persistent;
mod report;
mod settings;
mod table;

use std::{
    fs::File,
    io::{BufReader, BufWriter},
    path::Path,
    time::Duration,
};

use generate::Dice;
use report::Report;
use steadfast_guest::{
    Clock, Guest, Image, Job,
    ipvs::{Played, Scenario},
};

/// Seed of a run that is not told another: the same for everybody.
const SEED: u64 = 6_12;

/// Random scenarios for each scheduler and way of forwarding.
const ROUNDS: u64 = 1;

/// For machines that are busy.
const TIME_LIMIT: Duration = Duration::from_secs(1800);

/// New connections without which a scheduler, or a way, has not been tested.
const CHOICES_MIN: usize = 30;

/// Connections led by templates to where others went, to a server of weight 0 too, and away from one.
const LED_MIN: usize = 10;

#[test]
fn the_kernel_and_we_do_the_same() {
    let seed = number("SEED").unwrap_or(SEED);
    let rounds = number("ROUNDS").unwrap_or(ROUNDS);
    println!("SEED={seed} ROUNDS={rounds} make guest-test repeats this run");
    let only = std::env::var("ONLY").unwrap_or_default();
    let exceptions = exceptions::scenarios();
    let mut script = script(seed, rounds);
    script.retain(|scenario| only.split(',').any(|text| scenario.name.contains(text)));
    let script = [exceptions.clone(), script].concat();
    let (script, played) = kept().unwrap_or_else(|| {
        let played = play(&script);
        keep(&script, &played);
        (script, played)
    });
    assert_eq!(played.len(), script.len(), "scenarios that were played");
    for ((exception, scenario), played) in exceptions::ALL.iter().zip(&exceptions).zip(&played) {
        let found = Report::default().compare(scenario, played);
        assert_eq!(found, Some(scenario.steps.len() - 1), "where they differ: {}", exception.name);
        println!("on purpose: {}: {}", exception.name, exception.reason);
    }
    let mut report = Report::default();
    for (scenario, played) in script.iter().zip(&played).skip(exceptions.len()) {
        report.compare(scenario, played);
    }
    report.print();
    assert!(report.differences.is_empty(), "{} differences; SEED={seed}", report.differences.len());
    if only.is_empty() {
        report.assert_enough(CHOICES_MIN, LED_MIN);
    }
}

/// Where the last run is kept.
const KEPT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/ipvs-played.json");

fn keep(script: &[Scenario], played: &[Played]) {
    serde_json::to_writer(BufWriter::new(File::create(KEPT).unwrap()), &(script, played)).unwrap();
}

/// The last run, if that is what is wanted.
fn kept() -> Option<(Vec<Scenario>, Vec<Played>)> {
    number("KEPT").filter(|kept| *kept == 1)?;
    println!("no guest: what the kernel did in the last run is compared again");
    Some(serde_json::from_reader(BufReader::new(File::open(KEPT).unwrap())).unwrap())
}

/// What is played: the state tables, the ends of templates, a set that grows, and random scenarios for every
/// scheduler and way.
fn script(seed: u64, rounds: u64) -> Vec<Scenario> {
    let mut script = [table::scenarios(), persistent::scenarios(), locality::scenarios()].concat();
    for round in 0..rounds {
        for (index, (kind, way)) in generate::all().iter().enumerate() {
            let dice = Dice::new(seed, round << 16 | index as u64);
            script.push(exceptions::without(generate::random(kind, *way, dice)));
        }
    }
    script
}

/// Has the guest play the script.
fn play(script: &[Scenario]) -> Vec<Played> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("ipvs-script-{}.json", std::process::id()));
    serde_json::to_writer(BufWriter::new(File::create(&file).unwrap()), script).unwrap();
    let image = Image::prepare().unwrap();
    println!("kernel {}", image.release());
    // One processor: the order in which the kernel handles packets is the order they came in.
    // And instructions for a clock: connections do not expire because this machine is busy.
    let guest = Guest {
        image,
        cpus: 1,
        clock: Clock::Instructions,
        memory_mib: 1024,
        time_limit: TIME_LIMIT,
    };
    let job = Job {
        program: env!("CARGO_BIN_EXE_ipvs-oracle").into(),
        args: vec![file.to_string_lossy().into_owned()],
        env: vec![("RUST_BACKTRACE".to_owned(), "1".to_owned())],
    };
    let (mut played, mut said) = (Vec::new(), String::new());
    let ended = guest.run(&job, |line| match serde_json::from_str::<Played>(line) {
        Ok(one) => played.push(one),
        Err(_) => said = format!("{said}{line}\n"),
    });
    let _ = std::fs::remove_file(&file);
    let ended = ended.unwrap();
    println!("the guest was there for {:.0} s", ended.took.as_secs_f64());
    assert_eq!(ended.code, 0, "in the guest:\n{said}");
    // Those whose servers' counters are asked for come last.
    played.sort_by_key(|one| one.scenario);
    played
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
