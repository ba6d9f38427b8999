//! Measures the pure packet path, and copies of connections, and prints tables: `make bench`.
//!
//! Every row is measured by a process of its own, so that no row inherits the memory or the caches
//! of another. Ratios are to what the same process measured.
#![forbid(unsafe_code)]

mod cable;
mod copies;
mod draw;
mod forward;
mod instructions;
mod measure;
mod mode;
mod report;
mod world;

use anyhow::bail;
use clap::Parser;
use steadfast_dataplane::SchedulerKind;

use crate::{
    draw::Draw,
    mode::Mode,
    world::{Shape, Way, World},
};

/// Measures the pure packet path and prints a Markdown table.
#[derive(Debug, Parser)]
struct Args {
    /// Small sizes: shows that it runs, says nothing.
    #[arg(long)]
    quick: bool,
    /// One part only.
    #[arg(long, value_parser = ["size", "services", "servers", "instructions", "forward", "copies"])]
    part: Option<String>,
    /// Sizes, in connections.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<u64>,
    /// Measures one row: PART MODE N; for the program itself.
    #[arg(long, num_args = 3, hide = true)]
    row: Vec<String>,
    /// Handles packets for who counts instructions: MODE WAY FLOWS established|new; for the program
    /// itself.
    #[arg(long, num_args = 4, hide = true)]
    replay: Vec<String>,
}

/// Packets of a measurement.
const PACKETS: usize = 4_000_000;
const PACKETS_QUICK: usize = 20_000;
/// Connections opened on top of those that are there.
const NEW: u64 = 50_000;
const NEW_QUICK: u64 = 2_000;
/// Connections against which the growth with services and servers is measured.
const GROWTH_FLOWS: u64 = 1_000_000;
const GROWTH_FLOWS_QUICK: u64 = 20_000;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match (args.row.as_slice(), args.replay.as_slice()) {
        ([part, mode, number], _) => row(part, mode, number.parse()?, args.quick),
        (_, [mode, way, flows, what]) => {
            let way = if way == "out" { Way::Out } else { Way::In };
            instructions::replay(Mode::of(mode)?, way, flows.parse()?, what == "new")
        }
        _ => report::print(&args),
    }
}

/// Measures one row and prints its fields, tab-separated.
fn row(part: &str, mode: &str, number: u64, quick: bool) -> anyhow::Result<()> {
    let mode = Mode::of(mode)?;
    if part == "copies" {
        return copies::row(mode, number);
    }
    let packets = if quick { PACKETS_QUICK } else { PACKETS };
    let new = if quick { NEW_QUICK } else { NEW };
    let growth = if quick { GROWTH_FLOWS_QUICK } else { GROWTH_FLOWS };
    let (flows, services, servers, scheduler) = match part {
        "size" => (number, 10, 10, SchedulerKind::default()),
        "services" => (growth, number as u32, 10, SchedulerKind::Wrr),
        "servers" => (growth, 1, number as u32, SchedulerKind::default()),
        _ => bail!("unknown part {part}"),
    };
    let connections_max = (flows + 2 * new) as usize;
    let mut world = World::new(Shape { mode, services, servers, scheduler, connections_max })?;
    let before = measure::resident()?;
    world.fill(0, flows)?;
    let grown = measure::resident()? - before;
    world.age(flows);
    let mut fields = vec![format!("{:.0}", grown as f64 / flows as f64)];
    fields.push(format!("{:.0}", before as f64 / connections_max as f64));
    fields.push(format!("{:.1}", world.parsing(flows, packets / 4)));
    fields.push(format!("{:.1}", world.finding(flows, packets / 4)));
    for way in mode.ways() {
        for draw in [Draw::Uniform, Draw::Zipf] {
            fields.push(format!("{:.1}", world.established(draw, *way, flows, packets)?));
        }
    }
    fields.push(format!("{:.0}", world.opening(flows, new)?));
    let cycle = world.cycle(flows + new, new)?;
    fields.push(format!("{:.0}", 1e9 / cycle));
    println!("{}", fields.join("\t"));
    Ok(())
}
