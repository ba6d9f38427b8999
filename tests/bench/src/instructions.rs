//! Instructions per packet, counted by an emulator: the same in every run, whatever else the machine
//! does, and on machines whose processor shows no counters to programs.

use std::process::Command;

use anyhow::{Context, bail, ensure};
use steadfast_dataplane::{Forwarding, SchedulerKind};

use crate::{
    draw::{Draw, Drawer},
    world::{ACK, RING, Shape, Way, World},
};

/// Flows whose connections fit in the processor's caches, and flows whose do not.
const FLOWS: [u64; 2] = [1_000, 100_000];
const FLOWS_QUICK: [u64; 1] = [1_000];
/// What is counted is the difference between so many packets and twice as many.
const PACKETS: usize = 16 * RING;

/// Prints the table.
pub(crate) fn print(quick: bool) -> anyhow::Result<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("\nInstructions per packet are not counted: valgrind is not installed.");
        return Ok(());
    }
    println!(
        "\nInstructions per packet of established connections drawn uniformly, counted by \
         valgrind's cachegrind: from receiving to the verdict, with preparation, timers' marks and \
         counters.\n"
    );
    println!("| connections | DR | NAT in | NAT out |\n|---|---|---|---|");
    for flows in if quick { &FLOWS_QUICK[..] } else { &FLOWS } {
        let count = |mode, way| per_packet(mode, way, *flows);
        let (dr, inbound, out) = (count("dr", "in")?, count("nat", "in")?, count("nat", "out")?);
        println!("| {flows} | {dr:.0} | {inbound:.0} | {out:.0} |");
    }
    Ok(())
}

fn per_packet(mode: &str, way: &str, flows: u64) -> anyhow::Result<f64> {
    let count = |what, packets| counted(mode, way, flows, packets, what);
    let grown = |what| Ok::<_, anyhow::Error>(count(what, 2 * PACKETS)? - count(what, PACKETS)?);
    Ok((grown("handle")? - grown("write")?) as f64 / PACKETS as f64)
}

fn counted(mode: &str, way: &str, flows: u64, packets: usize, what: &str) -> anyhow::Result<i64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
    command.arg(std::env::current_exe()?);
    command.args(["--replay", mode, way, &flows.to_string(), &packets.to_string(), what]);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {text}");
    let line = text.lines().find_map(|line| line.split_once("I   refs:")).map(|(_, count)| count);
    let count = line.with_context(|| format!("no count in what valgrind printed: {text}"))?;
    Ok(count.replace(',', "").trim().parse()?)
}

/// Writes packets into the ring, and handles them if that is what is counted.
pub(crate) fn replay(
    forwarding: Forwarding,
    way: Way,
    flows: u64,
    packets: usize,
    handle: bool,
) -> anyhow::Result<()> {
    let (services, servers, scheduler) = (10, 10, SchedulerKind::default());
    let connections_max = flows as usize;
    let mut world =
        World::new(Shape { forwarding, services, servers, scheduler, connections_max })?;
    world.fill(0, flows)?;
    world.age(flows);
    world.set_peers()?;
    let mut drawer = Drawer::new(Draw::Uniform, flows, 11);
    for _ in 0..packets.div_ceil(RING) {
        for place in 0..RING {
            let flow = drawer.next();
            world.put(place, flow, way, ACK);
        }
        if handle && world.turn(way, RING) != RING {
            bail!("not all packets went out");
        }
    }
    Ok(())
}
