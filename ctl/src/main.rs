//! The Steadfast command line.
//!
//! Guarantees: data goes to stdout and nothing else does, messages go to stderr; with `-o json`
//! stdout is exactly one JSON document or empty; the exit code is one of [`failure::Exit`]; a
//! reader that closes the pipe early ends the program quietly.
//!
//! Does not: keep state, retry a change, or decide anything about the cluster; the daemon does.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cli;
mod client;
mod commands;
mod credentials;
mod drops;
mod duration;
mod failure;
mod flow;
mod locate;
mod rebalance;
mod refusal;
mod render;
mod target;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::commands::Report;
use crate::failure::{Exit, Failure};
use crate::render::Paint;
use crate::target::Environment;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let environment = Environment::from_process();
    let paint = Paint::new(environment.colour && io::stdout().is_terminal());

    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(Exit::Refused, format!("cannot start a runtime: {error}"));
            return complain(&failure, &environment);
        }
    };
    match runtime.block_on(commands::run(cli, &environment, paint)) {
        Ok(report) => deliver(&report, &environment),
        Err(failure) => complain(&failure, &environment),
    }
}

/// Notes first, so that on a terminal the data ends up next to the prompt.
fn deliver(report: &Report, environment: &Environment) -> ExitCode {
    let mut stderr = io::stderr().lock();
    for note in &report.notes {
        // Nowhere is left to report a stderr that cannot be written to.
        let _ = writeln!(stderr, "{note}");
    }
    let mut stdout = io::stdout().lock();
    match stdout.write_all(report.data.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let failure = Failure::new(Exit::Refused, format!("cannot write to stdout: {error}"));
            complain(&failure, environment)
        }
    }
}

fn complain(failure: &Failure, environment: &Environment) -> ExitCode {
    let paint = Paint::new(environment.colour && io::stderr().is_terminal());
    let _ = io::stderr().lock().write_all(failure.render(paint).as_bytes());
    ExitCode::from(failure.exit as u8)
}
