//! Instructions per packet, counted by an emulator: the same in every run, whatever else the machine
//! does, and on machines whose processor shows no counters to programs.

use std::{hint::black_box, process::Command};

use anyhow::{Context, bail, ensure};
use steadfast_dataplane::SchedulerKind;

use crate::{
    draw::{Draw, Drawer},
    mode::Mode,
    world::{ACK, RING, SYN, Shape, Way, World},
};

/// Connections in the table, and with how many of them only DR and NAT over IPv4 are counted. More
/// would take the emulator hours; what a packet does depends on how full the table is, not on how large.
const FLOWS: [u64; 3] = [1_000, 100_000, 1_000_000];
const FLOWS_QUICK: [u64; 1] = [1_000];
const FLOWS_OF_ALL: u64 = 100_000;
/// Turns of the ring that are counted.
const TURNS: usize = 16;
/// Nothing but what this calls is counted.
const COUNTED: &str = "steadfast_bench::instructions::counted";

/// Prints the table.
pub(crate) fn print(quick: bool) -> anyhow::Result<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("\nInstructions per packet are not counted: valgrind is not installed.");
        return Ok(());
    }
    println!(
        "\nInstructions per packet, flows drawn uniformly, counted by valgrind's callgrind: from \
         receiving to the verdict, with preparation, timers' marks and counters. `new`: a SYN that \
         opens a connection.\n"
    );
    println!("| connections | mode | established | new |\n|---|---|---|---|");
    for flows in if quick { &FLOWS_QUICK[..] } else { &FLOWS } {
        let modes = match (quick, *flows <= FLOWS_OF_ALL) {
            (true, _) => &[Mode::Dr][..],
            (false, true) => &Mode::ALL,
            (false, false) => &[Mode::Dr, Mode::Nat],
        };
        for mode in modes.iter().copied() {
            for way in mode.ways() {
                let established = per_packet(mode, *way, *flows, "established")?;
                let new = match way {
                    Way::In => format!("{:.0}", per_packet(mode, *way, *flows, "new")?),
                    Way::Out => "-".to_owned(),
                };
                println!("| {flows} | {} | {established:.0} | {new} |", mode.title(*way));
            }
        }
    }
    Ok(())
}

fn per_packet(mode: Mode, way: Way, flows: u64, what: &str) -> anyhow::Result<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    command.arg(format!("--toggle-collect={COUNTED}"));
    command.arg(std::env::current_exe()?);
    let way = if way == Way::Out { "out" } else { "in" };
    command.args(["--replay", mode.name(), way, &flows.to_string(), what]);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {text}");
    let line = text.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count);
    let count = line.with_context(|| format!("no count in what valgrind printed: {text}"))?;
    let count: f64 = count.trim().parse()?;
    ensure!(count > 0.0, "valgrind found no function {COUNTED}");
    Ok(count / (TURNS * RING) as f64)
}

/// Handles packets, under an emulator that counts what [`counted`] does.
pub(crate) fn replay(mode: Mode, way: Way, flows: u64, new: bool) -> anyhow::Result<()> {
    let (services, servers, scheduler) = (10, 10, SchedulerKind::default());
    let connections_max = flows as usize + TURNS * RING;
    let mut world = World::new(Shape { mode, services, servers, scheduler, connections_max })?;
    world.fill(0, flows)?;
    world.age(flows);
    world.set_peers()?;
    let mut drawer = Drawer::new(Draw::Uniform, flows, 11);
    let mut next = flows;
    // The first turn shows the table replies, and is not counted.
    for turn in 0..=TURNS {
        for place in 0..RING {
            let flow = if new { next } else { drawer.next() };
            next += 1;
            world.put(place, flow, way, if new { SYN } else { ACK });
        }
        let sent = if turn == 0 && !new { world.turn(way, RING) } else { counted(&mut world, way) };
        if sent != RING {
            bail!("{sent} of {RING} packets went out");
        }
        if new && turn + 1 == TURNS {
            break;
        }
    }
    Ok(())
}

/// By its name the emulator finds what to count.
#[inline(never)]
fn counted(world: &mut World, way: Way) -> usize {
    black_box(world.turn(way, RING))
}
