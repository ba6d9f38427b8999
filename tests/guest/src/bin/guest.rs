//! Runs a program of this machine in an emulated one.

use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;
use steadfast_guest::{Clock, Guest, Image, Job};

/// Runs a program of this machine under a kernel of Debian, in an emulated machine.
#[derive(Debug, Parser)]
struct Options {
    /// Ends the machine after this many seconds.
    #[arg(long, default_value_t = 600)]
    time_limit_s: u64,
    /// An instruction is a nanosecond of the guest, which then does not notice how busy this
    /// machine is; one processor.
    #[arg(long)]
    count_instructions: bool,
    /// Processors.
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Memory in MiB.
    #[arg(long, default_value_t = 2048)]
    memory_mib: u32,
    /// NAME=VALUE for the program's environment; more than one may be given.
    #[arg(long = "env", value_parser = assignment)]
    env: Vec<(String, String)>,
    /// Only fetches the kernel and the emulator, if they are not there.
    #[arg(long)]
    prepare: bool,
    /// The program.
    #[arg(required_unless_present = "prepare")]
    program: Option<PathBuf>,
    /// Its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let image = Image::prepare()?;
    eprintln!("kernel {}", image.release());
    let Some(program) = options.program else { return Ok(ExitCode::SUCCESS) };
    let guest = Guest {
        image,
        cpus: if options.count_instructions { 1 } else { options.cpus },
        clock: if options.count_instructions { Clock::Instructions } else { Clock::Real },
        memory_mib: options.memory_mib,
        time_limit: Duration::from_secs(options.time_limit_s),
    };
    let job = Job { program, args: options.args, env: options.env };
    let mut stdout = std::io::stdout().lock();
    let mut written = Ok(());
    let ended = guest.run(&job, |line| {
        if written.is_ok() {
            written = writeln!(stdout, "{line}");
        }
    })?;
    written.context("cannot write what the program said")?;
    eprintln!("the guest was there for {:.1} s", ended.took.as_secs_f64());
    Ok(ExitCode::from(u8::try_from(ended.code).unwrap_or(u8::MAX)))
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("want NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
