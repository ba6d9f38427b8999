//! Instructions per packet, counted by an emulator: the same in every run, whatever else the machine
//! does, and on machines whose processor shows no counters to programs.

use std::{
    hint::black_box,
    io::{BufRead, BufReader, Read, Write, stdin, stdout},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use steadfast_dataplane::SchedulerKind;

use crate::{
    draw::{Draw, Drawer},
    mode::Mode,
    world::{ACK, RING, SYN, Shape, Way, World},
};

/// Connections in the table. Counting begins when they are there: opening ten million of them takes
/// the emulator minutes while it counts nothing, and would take it hours if it counted.
const FLOWS: [u64; 4] = [1_000, 100_000, 1_000_000, 10_000_000];
const FLOWS_QUICK: [u64; 1] = [1_000];
/// Turns of the ring that are counted.
const TURNS: usize = 16;
/// What [`replay`] prints when the table is full.
const READY: &str = "ready\n";
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
        let modes = if quick { &[Mode::Dr][..] } else { &Mode::ALL };
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
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--instr-atstart=no"]);
    command.arg(format!("--toggle-collect={COUNTED}"));
    command.arg(std::env::current_exe()?);
    let way = if way == Way::Out { "out" } else { "in" };
    command.args(["--replay", mode.name(), way, &flows.to_string(), what]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start valgrind")?;
    let begun = begin_counting(&mut child);
    // Without input it does not wait any more, whatever became of the emulator.
    drop(child.stdin.take());
    let mut text = String::new();
    // What valgrind prints is a few lines, which wait in the pipe.
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut text)?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "{command:?}: {status}: {text}");
    begun.with_context(|| format!("{command:?}: {text}"))?;
    let line = text.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count);
    let count = line.with_context(|| format!("no count in what valgrind printed: {text}"))?;
    let count: f64 = count.trim().parse()?;
    ensure!(count > 0.0, "valgrind found no function {COUNTED}");
    Ok(count / (TURNS * RING) as f64)
}

/// Waits until the connections are there, has the emulator count from then on, and lets [`replay`]
/// go on.
fn begin_counting(child: &mut Child) -> anyhow::Result<()> {
    let stdout = child.stdout.take().context("no output of the emulator")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line == READY, "the emulated program ended before its packets: {line:?}");
    let mut control = Command::new("callgrind_control");
    let output = control.args(["-i", "on", &child.id().to_string()]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && text.contains("OK"), "{control:?}: {text}");
    Ok(())
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
    print!("{READY}");
    stdout().flush()?;
    stdin().lock().read_line(&mut String::new())?;
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
