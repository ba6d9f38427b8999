//! `lab`: the demonstration, and a cluster to play with.

#![forbid(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Parser, Subcommand};
use steadfast_lab::{
    cluster::{Cluster, Plan, changes::Changes},
    demo::{
        fault::Fault,
        report::Verdict,
        run::Leads,
        series::{Series, origin, run_series, write_failed},
        story::{self, Console},
        suite::{Extent, Suite, run_programs, run_suite},
    },
    host::{
        exec,
        family::Family,
        names::{Host, Mode, NODES, PORT, Tag},
        state::Lock,
        sweep,
    },
    promises::{self, work::Place},
};
use tokio::signal::unix::{SignalKind, signal};

/// What a shell reports of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// A Steadfast cluster on this machine: three nodes, three real servers, a client, each in a
/// network namespace of its own.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Opens sessions, injects a fault, reports. Exit code 0: none broke; 1: one broke; 2: it
    /// shows nothing.
    Demo(DemoArgs),
    /// Starts a cluster and leaves it running.
    Up(UpArgs),
    /// Removes what `up`, or an aborted run, left.
    Down {
        /// Which lab.
        #[arg(long, default_value = "lab")]
        tag: Tag,
    },
    /// Every fault in DR and NAT, and one run that must fail. Exit code 0 if all came out as they
    /// must.
    Suite(SuiteArgs),
    /// Runs what shows the promises and writes the report; goes on where it stopped. Exit code 0 if
    /// every promise was shown.
    Report(ReportArgs),
    /// The part of the suite with real programs: nginx, curl, wrk, dnsmasq, dig, chasquid, iperf3.
    Programs(ProgramsArgs),
}

#[derive(Args, Debug)]
struct Common {
    /// Folder of the programs; default: that of this one.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Folder of the example configurations.
    #[arg(long, default_value = "deploy/examples")]
    examples: PathBuf,
    /// Folder for the report, logs and data.
    #[arg(long, default_value = "target/demo")]
    out: PathBuf,
}

#[derive(Args, Debug)]
struct DemoArgs {
    /// What happens.
    #[arg(long, value_enum, default_value = "kill")]
    fault: Fault,
    /// How packets reach the servers.
    #[arg(long, value_enum, default_value = "dr")]
    mode: Mode,
    /// Runs on the same cluster.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// TCP sessions of each run: two in three talk, one is silent.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    sessions: u32,
    /// Repeats the times and choices of an earlier demonstration; default: a new one.
    #[arg(long)]
    seed: Option<u64>,
    /// Whether connections are copied to the other nodes.
    #[arg(long, default_value = "on", value_parser = ["on", "off"])]
    replication: String,
    /// Queues, and so workers, of the nodes' data links.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    queues: u32,
    /// Family of the sessions; with 6 hosts and configuration have both.
    #[arg(long, value_enum, default_value = "4")]
    family: Family,
    /// Who leads the cluster when the fault comes.
    #[arg(long, value_enum, default_value = "any")]
    leads: Leads,
    /// Folder of a `clusterd` of another version, for the fault `upgrade`.
    #[arg(long)]
    old_dir: Option<PathBuf>,
    /// Name of the lab; two with different names run side by side.
    #[arg(long, default_value = "demo")]
    tag: Tag,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct UpArgs {
    /// How packets reach the servers.
    #[arg(long, value_enum, default_value = "dr")]
    mode: Mode,
    /// Whether connections are copied to the other nodes.
    #[arg(long, default_value = "on", value_parser = ["on", "off"])]
    replication: String,
    /// Queues, and so workers, of the nodes' data links.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    queues: u32,
    /// Family of the session below; with 6 hosts and configuration have both.
    #[arg(long, value_enum, default_value = "4")]
    family: Family,
    /// Name of the lab.
    #[arg(long, default_value = "lab")]
    tag: Tag,
    #[command(flatten)]
    changes: Changes,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct SuiteArgs {
    /// The number of runs that the README's figures come from; what was done at this commit is
    /// not done again.
    #[arg(long)]
    full: bool,
    /// TCP sessions of each run.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    sessions: u32,
    /// Repeats the times and choices of an earlier suite; default: a new one.
    #[arg(long)]
    seed: Option<u64>,
    /// Name of the lab.
    #[arg(long, default_value = "suite")]
    tag: Tag,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct ProgramsArgs {
    /// Only cells whose name (`nat-v4-kill`) contains this.
    #[arg(long, default_value = "")]
    only: String,
    #[command(flatten)]
    suite: SuiteArgs,
}

#[derive(Args, Debug)]
struct ReportArgs {
    /// Only these: P1,P5.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// TCP sessions of each run.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    sessions: u32,
    /// The seed of all runs.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Folder of the results.
    #[arg(long, default_value = "target/report")]
    results: PathBuf,
    /// The report.
    #[arg(long, default_value = "docs/report.md")]
    page: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln_lossy(&format!("lab: {error:#}"));
            ExitCode::from(Verdict::Void.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<u8> {
    exec::check_rights_and_tools()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match cli.command {
        Command::Demo(args) => {
            let (tag, plan, series) = demo_of(&args)?;
            runtime.block_on(guarded(&tag, After::Remove, demo(plan, series)))
        }
        Command::Up(args) => {
            refuse_if_up(&args.tag)?;
            let plan = plan_of(&args.common, &args.tag, args.mode, &args.replication, args.queues)?;
            let plan = Plan { family: args.family, changes: args.changes.clone(), ..plan };
            runtime.block_on(guarded(&args.tag, After::KeepIfGood, up(plan)))
        }
        Command::Down { tag } => {
            let _lock = Lock::take(&tag)?;
            let namespaces = sweep::sweep(&tag)?;
            story::print(&format!("removed the lab `{tag}`: {namespaces} namespaces\n"));
            Ok(0)
        }
        Command::Suite(args) => {
            let suite = suite_of(&args)?;
            runtime.block_on(guarded(&args.tag, After::Remove, async move {
                let good = run_suite(&suite, &mut Console::default()).await?;
                Ok(u8::from(!good))
            }))
        }
        Command::Report(args) => {
            let place = Place {
                lab: std::env::current_exe()?,
                results: absolute(&args.results)?,
                sessions: args.sessions,
                origin: origin(args.seed),
            };
            let good = promises::run::report(&place, &args.only, &args.page)?;
            Ok(u8::from(!good))
        }
        Command::Programs(ProgramsArgs { only, suite: args }) => {
            let suite = suite_of(&args)?;
            runtime.block_on(guarded(&args.tag, After::Remove, async move {
                let good = run_programs(&suite, &only, &mut Console::default()).await?;
                Ok(u8::from(!good))
            }))
        }
    }
}

/// What happens to the lab in the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum After {
    Remove,
    KeepIfGood,
}

/// Removes a lab when dropped: at the end, after an error, a signal or a panic.
struct Broom<'a> {
    tag: &'a Tag,
    armed: bool,
}

impl Broom<'_> {
    fn sweep(&mut self) -> Result<()> {
        self.armed = false;
        sweep::sweep(self.tag).map(drop).with_context(|| {
            format!("the lab is not wholly removed; try `lab down --tag {}`", self.tag)
        })
    }
}

impl Drop for Broom<'_> {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.sweep()
        {
            eprintln_lossy(&format!("lab: {error:#}"));
        }
    }
}

/// Does `work` on a tag that is clean before and, unless it is to be kept, after.
async fn guarded(tag: &Tag, after: After, work: impl Future<Output = Result<u8>>) -> Result<u8> {
    // First of all: from here on a signal ends the work, not the removal.
    let signals = signals()?;
    let _lock = Lock::take(tag)?;
    let left = sweep::sweep(tag).context("cannot remove what an earlier run left")?;
    if left > 0 {
        story::print(&format!("removed {left} namespaces that an earlier run left\n"));
    }
    let mut broom = Broom { tag, armed: true };
    let result = tokio::select! {
        result = work => result,
        name = signals => {
            eprintln_lossy(&format!("lab: {name}: removing everything"));
            Ok(INTERRUPTED)
        }
    };
    if after == After::KeepIfGood && matches!(result, Ok(0)) {
        broom.armed = false;
        return result;
    }
    let swept = broom.sweep();
    let code = result?;
    swept.map(|()| code)
}

/// Completes with the name of the first signal that asks for an end.
fn signals() -> Result<impl Future<Output = &'static str>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "interrupted",
            _ = terminate.recv() => "terminated",
            _ = hangup.recv() => "the terminal is gone",
        }
    })
}

async fn demo(plan: Plan, series: Series) -> Result<u8> {
    let mut console = Console::default();
    console.say(&format!("seed {} (SEED={0} repeats it)", series.seed));
    let started = Cluster::start(plan.clone(), &mut |text| console.say(text)).await;
    let report = match started {
        Ok(mut cluster) => run_series(&mut cluster, &series, &mut console).await?,
        Err(error) => {
            write_failed(&series, &plan, &error)?;
            return Err(error);
        }
    };
    story::print(&story::of_series(&report, &series.report.display().to_string()));
    Ok(report.verdict().exit_code())
}

async fn up(plan: Plan) -> Result<u8> {
    let mut console = Console::default();
    let mut cluster = Cluster::start(plan, &mut |text| console.say(text)).await?;
    cluster.check_processes()?;
    story::print(&commands(&cluster));
    Ok(0)
}

/// Somebody may be at work with it: only `lab down` removes a lab that was left running.
fn refuse_if_up(tag: &Tag) -> Result<()> {
    if sweep::namespaces(tag).is_empty() {
        return Ok(());
    }
    bail!("the lab `{tag}` is up already; remove it first: make lab-down, or lab down --tag {tag}")
}

/// What one can do with a running lab.
fn commands(cluster: &Cluster) -> String {
    let plan = cluster.plan();
    let ctl = plan.program("clusterctl");
    let on = |n: u8| format!("{} --socket {}", ctl.display(), plan.tag.socket(n).display());
    let in_net = |host| format!("nsenter --net={}", plan.tag.namespace_path(host).display());
    let mut text = format!(
        "\nThe cluster `{tag}` is up ({mode}). Commands, all as root:\n\n\
         # what it looks like\n{status} status\n\n\
         # a session through the VIP: type a line, get it back with the server's name\n\
         {client} bash -c 'exec 3<>/dev/tcp/{vip}/{PORT}; while read -r l; do echo \"$l\" >&3; \
         read -r a <&3; echo \"$a\"; done'\n\n\
         # services and connections, and where a packet would go\n\
         {status} get services\n{status} conn list\n\
         {status} trace 'tcp {from} > {to}'\n\n\
         # move the VIP\n\
         {status} vip move web --to n2\n\n\
         # change this document, then\n\
         {status} apply -f {document}\n\n\
         # watch the holder change, from the client's side\n\
         {client} ip monitor neigh\n\n\
         # break something\n",
        tag = plan.tag,
        vip = plan.family.vip(),
        from = std::net::SocketAddr::new(plan.family.client(), 40_000),
        to = plan.family.target(),
        mode = plan.mode.name(),
        status = on(NODES[0]),
        client = in_net(Host::Client),
        document = plan.document_path().display(),
    );
    for (what, pid) in cluster.processes() {
        text.push_str(&format!("kill -9 {pid:<8} # {what}\n"));
    }
    text.push_str("\n# and start it again (it stays in the foreground)\n");
    for n in NODES {
        let (net, clusterd) = (in_net(Host::Node(n)), plan.program("clusterd"));
        let config = cluster.config_path(n);
        text.push_str(&format!("{net} {} --config {}\n", clusterd.display(), config.display()));
    }
    text.push_str(&format!("\nLogs: {}\nRemove it: make lab-down\n", plan.log_dir().display()));
    text
}

fn demo_of(args: &DemoArgs) -> Result<(Tag, Plan, Series)> {
    let plan = plan_of(&args.common, &args.tag, args.mode, &args.replication, args.queues)?;
    let old_dir = args.old_dir.as_deref().map(absolute).transpose()?;
    let plan = Plan { family: args.family, changes: args.changes.clone(), old_dir, ..plan };
    let series = Series {
        fault: args.fault,
        runs: args.runs,
        sessions: args.sessions,
        seed: args.seed.unwrap_or_else(new_seed),
        leads: args.leads,
        report: plan.out_dir.join("report.json"),
    };
    Ok((args.tag.clone(), plan, series))
}

fn suite_of(args: &SuiteArgs) -> Result<Suite> {
    let extent = if args.full { Extent::Full } else { Extent::Quick };
    let plan = plan_of(&args.common, &args.tag, Mode::Dr, "on", 1)?;
    let reports = plan.out_dir.join(if args.full { "full" } else { "suite" });
    let seed = args.seed.unwrap_or_else(new_seed);
    Ok(Suite { extent, plan, sessions: args.sessions, seed, reports })
}

fn plan_of(common: &Common, tag: &Tag, mode: Mode, replication: &str, queues: u32) -> Result<Plan> {
    let bin_dir = match &common.bin_dir {
        Some(dir) => absolute(dir)?,
        None => {
            let exe = std::env::current_exe()?;
            exe.parent().ok_or_else(|| anyhow!("this program has no folder"))?.to_owned()
        }
    };
    Ok(Plan {
        tag: tag.clone(),
        mode,
        replication: replication == "on",
        queues,
        family: Family::V4,
        changes: Changes::default(),
        old_dir: None,
        bin_dir,
        examples_dir: absolute(&common.examples)?,
        out_dir: absolute(&common.out)?,
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| path.display().to_string())
}

/// Short enough to be typed.
fn new_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::process::id()) % 1_000_000
}

fn eprintln_lossy(text: &str) {
    use std::io::Write as _;
    // A terminal that is gone must not stop the removal.
    let _ = writeln!(std::io::stderr(), "{text}");
}
