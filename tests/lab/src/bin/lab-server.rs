//! A real server of the lab: `lab-server --name s1 --listen 198.18.0.11:7`.

#![forbid(unsafe_code)]

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;

/// Echoes lines (TCP) and datagrams (UDP) with its name in front.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The name in every answer.
    #[arg(long)]
    name: String,
    /// Address and port, TCP and UDP; may be given several times.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    /// Takes packets to these addresses out of IPIP, GRE and GUE.
    #[arg(long)]
    decapsulate: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.decapsulate {
        let addresses: Vec<_> = args.listen.iter().map(SocketAddr::ip).collect();
        steadfast_lab::load::decapsulate::start(&addresses).context("cannot end tunnels")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(steadfast_lab::load::server::serve(args.name, &args.listen))
        .with_context(|| format!("cannot serve on {:?}", args.listen))
}
