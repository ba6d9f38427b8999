//! The Steadfast daemon: wires the parts together.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod api;
mod asking;
mod clock;
mod daemon;
mod health;
mod hold_down;
mod identity;
mod join;
mod kernel;
mod listeners;
mod local_file;
mod member;
mod owner;
mod plane;
mod priority;
mod propose;
mod replicate;
mod replicated;
mod steward;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::local_file::LocalFile;

/// The Steadfast daemon: forwards packets for virtual IPs, and takes part in deciding who
/// announces them.
///
/// A new daemon belongs to no cluster: `clusterctl init` makes one, `clusterctl join TOKEN` joins
/// one. SIGTERM moves what it holds to other nodes and ends it; a second SIGTERM ends it at once.
/// SIGKILL leaves the steering program attached, so that packets for the virtual IPs are dropped
/// and never answered by the kernel; `clusterctl detach` removes it.
///
/// Example: clusterd --config /etc/steadfast/clusterd.yaml
#[derive(Debug, Parser)]
#[command(version, about, long_about, verbatim_doc_comment)]
struct Arguments {
    /// The local file: instance, data_dir, listen, socket, bpffs.
    #[arg(long, default_value = "/etc/steadfast/clusterd.yaml")]
    config: PathBuf,
    /// What to log, such as `info` or `clusterd=debug,info`.
    #[arg(long, default_value = LOG_DEFAULT, env = "STEADFAST_LOG")]
    log: String,
    /// Log one JSON object a line.
    #[arg(long)]
    log_json: bool,
}

/// openraft reports each heartbeat that fails, dozens of lines in a second while one node is down.
/// That a node went and came back is told once, by `control down` and `control up`; an error of
/// this node's own store ends the role, which is told elsewhere.
const LOG_DEFAULT: &str = "info,openraft=warn,openraft::replication=off,\
                           openraft::engine::handler::replication_handler=error";

/// Exit code for a command line or local file that cannot be used (sysexits.h, EX_CONFIG).
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    // The data folder holds keys, and the log holds the key of the authority.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let arguments = Arguments::parse();
    let filter = match EnvFilter::try_new(&arguments.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("clusterd: --log {}: {error}", arguments.log);
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if arguments.log_json {
        log.json().init();
    } else {
        log.with_ansi(false).init();
    }
    let local = match LocalFile::read(&arguments.config) {
        Ok(local) => local,
        Err(error) => {
            eprintln!("clusterd: {error:#}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("clusterd: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(daemon::run(local)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
