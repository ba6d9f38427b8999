//! Runs the rows and prints what a person reads.

use std::process::Command;

use anyhow::{Context, ensure};

use crate::{Args, copies, forward, instructions, mode::Mode};

/// Connections that are copied; the lanes of the dirty set hold as many changes.
const COPIES: u64 = 200_000;
const COPIES_QUICK: u64 = 5_000;
const SIZES: [u64; 3] = [1_000, 1_000_000, 10_000_000];
const SIZES_QUICK: [u64; 2] = [1_000, 20_000];
const SERVICES: [u64; 4] = [10, 100, 1_000, 10_000];
const SERVICES_QUICK: [u64; 2] = [10, 100];
const SERVERS: [u64; 4] = [10, 100, 1_000, 4_096];
const SERVERS_QUICK: [u64; 2] = [10, 100];

/// Prints everything.
pub(crate) fn print(args: &Args) -> anyhow::Result<()> {
    let wanted = |part| args.part.as_deref().is_none_or(|only| only == part);
    println!("# The pure packet path\n");
    println!("- command: `{}`", std::env::args().collect::<Vec<_>>().join(" "));
    println!("- commit: {}", output("git", &["describe", "--always", "--dirty"]));
    println!("- kernel: {}", output("uname", &["-sr"]));
    println!("- processor: {}", processor());
    if args.quick {
        println!("- quick: the sizes are too small for the figures to mean anything");
    }
    println!(
        "\nOne core. Packets are 64 bytes long (IPv6: 84), in a ring of 2048 frames of 4 KiB; times are \
         nanoseconds per packet, the median of turns of the ring. There is no cache of flows: each packet is \
         looked up. \
         Baselines of the same run: `parse` reads headers and checksum, `find` looks a key up in \
         the table. `grown` is the growth of resident memory per connection, in \
         steps of huge pages of 2 MiB; `sized` what the process had per place before the first connection."
    );
    let sizes = if args.quick { &SIZES_QUICK[..] } else { &SIZES };
    let sizes = if args.sizes.is_empty() { sizes } else { &args.sizes };
    if wanted("size") {
        part(args, "size", "connections", &Mode::ALL, sizes)?;
    }
    if wanted("services") {
        let numbers = if args.quick { &SERVICES_QUICK[..] } else { &SERVICES };
        part(args, "services", "services of 10 servers, wrr", &[Mode::Dr], numbers)?;
    }
    if wanted("servers") {
        let numbers = if args.quick { &SERVERS_QUICK[..] } else { &SERVERS };
        part(args, "servers", "servers of 1 service", &[Mode::Dr], numbers)?;
    }
    if wanted("instructions") {
        instructions::print(args.quick)?;
    }
    if wanted("forward") {
        forward::print(args.quick)?;
    }
    if wanted("copies") {
        let records = if args.quick { COPIES_QUICK } else { COPIES };
        copies::print(records, |mode, records| measure(args, "copies", mode, records))?;
    }
    Ok(())
}

fn part(
    args: &Args,
    part: &str,
    title: &str,
    modes: &[Mode],
    numbers: &[u64],
) -> anyhow::Result<()> {
    println!(
        "\n| {title} | mode | uniform | / parse | / find | zipf 1.0 | new | \
         open and close per s | parse | find | grown B | sized B |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for number in numbers {
        for mode in modes {
            let fields = measure(args, part, *mode, *number)?;
            let [grown, sized, parse, find, established @ .., new, cycle] = fields.as_slice()
            else {
                continue;
            };
            for (way, figures) in mode.ways().iter().zip(established.chunks(2)) {
                let [uniform, zipf] = figures else { continue };
                let name = mode.title(*way);
                let (to_parse, to_find) = (uniform / parse, uniform / find);
                println!(
                    "| {number} | {name} | {uniform:.0} ns | {to_parse:.1} | {to_find:.1} | \
                     {zipf:.0} ns | {new:.0} ns | {cycle:.0} | \
                     {parse:.0} ns | {find:.0} ns | {grown:.0} | {sized:.0} |"
                );
            }
        }
    }
    Ok(())
}

fn measure(args: &Args, part: &str, mode: Mode, number: u64) -> anyhow::Result<Vec<f64>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--row", part, mode.name(), &number.to_string()]);
    if args.quick {
        command.arg("--quick");
    }
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{part} {} {number}: {error}", mode.name());
    String::from_utf8(output.stdout)?
        .split_whitespace()
        .map(|field| field.parse().with_context(|| format!("not a figure: {field}")))
        .collect()
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map_or_else(|_| "?".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": "))
        .map_or_else(|| "?".to_owned(), |(_, name)| name.to_owned())
}
