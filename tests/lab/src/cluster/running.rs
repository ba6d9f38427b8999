//! A running cluster with its real servers: started, configured, watched, broken and healed.

use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::Signal;
use tokio::time::sleep;

use super::{
    api::Status,
    ctl::{Ctl, CtlError},
    plan::Plan,
    ready::{Ready, Wanted, readiness},
};
use crate::host::{
    exec,
    names::{Host, Mode, NODES, Network, PORT, SERVERS},
    planes::{self, CONTROL_PORT, Drops, REPLICATION_PORT},
    process::{Launch, Process},
    state::Ledger,
    topology::Topology,
};

/// How long a daemon may take until its socket answers.
const SOCKET_WITHIN: Duration = Duration::from_secs(10);

/// A cluster with a majority elects a leader by then.
const LEADER_WITHIN: Duration = Duration::from_secs(5);

/// How long a cluster may take until it is ready.
pub const READY_WITHIN: Duration = Duration::from_secs(30);

/// Name of the group in the examples.
pub const GROUP: &str = "web";

/// Name of the TCP service in the examples.
pub const SERVICE: &str = "echo-tcp";

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    topology: Topology,
    ledger: Ledger,
    nodes: Vec<NodeHandle>,
    servers: Vec<(u8, Process)>,
    /// Members that [`Cluster::heal`] has to uncordon.
    cordoned: Vec<u64>,
    /// Whether the switch drops packets.
    lossy: bool,
}

#[derive(Debug)]
struct NodeHandle {
    n: u8,
    process: Option<Process>,
    unplugged: bool,
    /// Its daemon is the one in [`Plan::old_dir`].
    old: bool,
}

impl Cluster {
    /// Builds the network and starts the real servers and the daemons; forms the cluster and
    /// configures it. `say` gets a line for each step.
    ///
    /// # Errors
    /// Whatever does not work, with where to look.
    pub async fn start(plan: Plan, say: &mut dyn FnMut(&str)) -> Result<Self> {
        for name in ["clusterd", "clusterctl", "lab-server", "lab-client"] {
            let path = plan.program(name);
            if !path.exists() {
                bail!("{} is missing: build it with `make build`", path.display());
            }
        }
        let mut cluster = Self::prepare(plan)?;
        say("network: three nodes, three real servers, a client, each in a namespace of its own");
        cluster.topology.build()?;
        cluster.start_servers()?;
        say("starting three daemons");
        for n in NODES {
            cluster.start_node(n).await?;
        }
        say("clusterctl init, join, join");
        cluster.form().await?;
        say(&format!("clusterctl apply -f {}", cluster.plan.example()));
        let document = cluster.plan.document()?;
        fs::write(cluster.plan.document_path(), document)?;
        cluster.ctl(1).apply(&cluster.plan.document_path()).await?;
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    fn prepare(plan: Plan) -> Result<Self> {
        let mut ledger = Ledger::open(&plan.tag)?;
        let work = plan.work_dir();
        ledger.update(|s| s.paths.push(work.clone()))?;
        for dir in [work, plan.log_dir()] {
            crate::host::state::remove(&dir)?;
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        ensure_bpf(&mut ledger)?;
        let bpf = plan.tag.bpf_dir();
        fs::create_dir_all(&bpf).with_context(|| format!("cannot make {}", bpf.display()))?;
        let topology = Topology {
            tag: plan.tag.clone(),
            mode: plan.mode,
            queues: plan.queues.max(1),
            family: plan.family,
        };
        let old = plan.old_dir.is_some();
        let nodes = NODES.map(|n| NodeHandle { n, process: None, unplugged: false, old }).into();
        Ok(Self {
            plan,
            topology,
            ledger,
            nodes,
            servers: Vec::new(),
            cordoned: Vec::new(),
            lossy: false,
        })
    }

    /// What was planned.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The network.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// What is written down for the removal.
    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// `clusterctl` on node `n`.
    #[must_use]
    pub fn ctl(&self, n: u8) -> Ctl {
        Ctl { program: self.plan.program("clusterctl"), socket: self.plan.tag.socket(n) }
    }

    /// `clusterctl` on a node whose daemon runs.
    ///
    /// # Errors
    /// When there is none.
    pub fn any_ctl(&self) -> Result<Ctl> {
        self.running().first().map(|&n| self.ctl(n)).ok_or_else(|| anyhow!("no daemon runs"))
    }

    /// Nodes whose daemon was started and not ended by us.
    #[must_use]
    pub fn running(&self) -> Vec<u8> {
        self.nodes.iter().filter(|h| h.process.is_some()).map(|h| h.n).collect()
    }

    /// What every running node says; those that do not answer are left out.
    pub async fn statuses(&self) -> Vec<(u8, Status)> {
        let mut calls = tokio::task::JoinSet::new();
        for n in self.running() {
            let ctl = self.ctl(n);
            calls.spawn(async move { (n, ctl.status().await) });
        }
        let mut statuses = Vec::new();
        while let Some(Ok((n, status))) = calls.join_next().await {
            statuses.extend(status.ok().map(|s| (n, s)));
        }
        statuses.sort_by_key(|(n, _)| *n);
        statuses
    }

    /// Writes what each node says of itself beside its log, for whoever looks for a fault.
    async fn keep_statuses(&self) {
        for n in self.running() {
            let said = match self.ctl(n).status_text().await {
                Ok(text) => text,
                Err(error) => error.to_string(),
            };
            let path = self.plan.log_dir().join(format!("n{n}.status.json"));
            // The failure that led here is told in any case.
            let _ = std::fs::write(path, said);
        }
    }

    /// Which node has this committed id.
    ///
    /// # Errors
    /// When none of those that answer has.
    pub async fn node_of(&self, id: u64) -> Result<u8> {
        let is = |s: &Status| s.serving_node.as_ref().is_some_and(|r| r.id == id);
        let statuses = self.statuses().await;
        let found = statuses.iter().find(|(_, s)| is(s)).map(|&(n, _)| n);
        found.ok_or_else(|| anyhow!("no node answers that has the id {id}"))
    }

    /// The committed id of node `n`.
    ///
    /// # Errors
    /// When it does not answer or is no member.
    pub async fn id_of(&self, n: u8) -> Result<u64> {
        let status = self.ctl(n).status().await?;
        status.serving_node.map(|r| r.id).ok_or_else(|| anyhow!("n{n} has no id"))
    }

    /// Trusts nodes again that are held down: what one run does to them must not change the next.
    ///
    /// # Errors
    /// When nobody answers, or the command is refused.
    pub async fn trust_nodes(&self) -> Result<()> {
        let views = self.statuses().await;
        let nodes = views.first().map(|(_, view)| view.nodes.clone()).unwrap_or_default();
        for node in nodes.iter().filter(|node| node.held_down) {
            self.any_ctl()?.node("uncordon", node.id).await?;
        }
        Ok(())
    }

    /// Waits until everything is up, agreed and complete, twice in a row.
    ///
    /// # Errors
    /// What is still missing after [`READY_WITHIN`], or a daemon that ended.
    pub async fn wait_ready(&mut self) -> Result<Ready> {
        let wanted = Wanted { nodes: NODES.len(), replication: self.plan.replication };
        let deadline = Instant::now() + READY_WITHIN;
        let mut last = Err(String::new());
        loop {
            self.check_processes()?;
            let views: Vec<Status> = self.statuses().await.into_iter().map(|(_, s)| s).collect();
            let now = readiness(&views, wanted);
            if let (Ok(now), Ok(last)) = (&now, &last)
                && now == last
            {
                return Ok(now.clone());
            }
            if Instant::now() > deadline {
                let what = now.err().unwrap_or_else(|| "it keeps changing".to_owned());
                self.keep_statuses().await;
                bail!(
                    "the cluster is not ready after {} s: {what}; logs in {}",
                    READY_WITHIN.as_secs(),
                    self.plan.log_dir().display()
                );
            }
            last = now;
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Starts the daemon of node `n` with whatever data it has.
    ///
    /// # Errors
    /// When it ends or its socket does not answer.
    pub async fn start_node(&mut self, n: u8) -> Result<()> {
        let config = self.write_config(n)?;
        let log = self.plan.log(Host::Node(n));
        let launch = Launch {
            what: &format!("clusterd n{n}"),
            namespace: &self.plan.tag.namespace_path(Host::Node(n)),
            program: &self.daemon(n)?,
            args: vec!["--config".into(), config.into()],
            log: &log,
            talks: false,
        };
        let socket = self.plan.tag.socket(n);
        // A socket left by a killed daemon must not be taken for the new one.
        crate::host::state::remove(&socket)?;
        let mut process = Process::start(&launch, &mut self.ledger)?;
        let deadline = Instant::now() + SOCKET_WITHIN;
        while tokio::net::UnixStream::connect(&socket).await.is_err() {
            if let Some(status) = process.ended()? {
                bail!("clusterd n{n} ended, {status}:\n{}", tail(&log));
            }
            if Instant::now() > deadline {
                process.kill().await?;
                bail!("clusterd n{n} does not open {}:\n{}", socket.display(), tail(&log));
            }
            sleep(Duration::from_millis(10)).await;
        }
        self.handle(n)?.process = Some(process);
        Ok(())
    }

    /// The program that node `n` runs from its next start on: the other version, or this one.
    ///
    /// # Errors
    /// When there is no other version.
    pub fn set_old(&mut self, n: u8, old: bool) -> Result<()> {
        if old && self.plan.old_dir.is_none() {
            bail!("there is no clusterd of another version: give its folder");
        }
        self.handle(n)?.old = old;
        Ok(())
    }

    fn daemon(&mut self, n: u8) -> Result<PathBuf> {
        let old = self.handle(n)?.old;
        let other = self.plan.old_dir.as_ref().filter(|_| old);
        Ok(other.map_or_else(|| self.plan.program("clusterd"), |dir| dir.join("clusterd")))
    }

    /// Sends a signal to the daemon of node `n`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&mut self, n: u8, signal: Signal) -> Result<()> {
        self.process(n)?.signal(signal)
    }

    /// Waits for the end of the daemon of node `n`, which it was told to; it then counts as dead.
    ///
    /// # Errors
    /// When it is still there after `limit`.
    pub async fn reap(&mut self, n: u8, limit: Duration) -> Result<std::process::ExitStatus> {
        let status = self.process(n)?.wait(limit).await?;
        self.handle(n)?.process = None;
        Ok(status)
    }

    /// Takes node `n` off all bridges; [`Cluster::heal`] puts it back.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn unplug(&mut self, n: u8) -> Result<()> {
        self.handle(n)?.unplugged = true;
        self.topology.set_node_ports(n, false)
    }

    /// Puts node `n` back on all bridges.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn plug(&mut self, n: u8) -> Result<()> {
        self.handle(n)?.unplugged = false;
        self.topology.set_node_ports(n, true)
    }

    /// Has the switch drop this until [`Cluster::pass_all`] or [`Cluster::heal`].
    ///
    /// # Errors
    /// What nftables said.
    pub fn drop_packets(&mut self, drops: Drops) -> Result<()> {
        self.lossy = true;
        planes::set(&self.plan.tag, Some(drops))
    }

    /// Has the switch drop nothing more; how many frames it dropped.
    ///
    /// # Errors
    /// What nftables said.
    pub fn pass_all(&mut self) -> Result<u64> {
        let dropped = planes::dropped(&self.plan.tag)?;
        planes::set(&self.plan.tag, None)?;
        self.lossy = false;
        Ok(dropped)
    }

    /// Removes all data of node `n`, whose daemon must be dead.
    ///
    /// # Errors
    /// When it runs, or the folder cannot be removed.
    pub fn wipe(&mut self, n: u8) -> Result<()> {
        if self.handle(n)?.process.is_some() {
            bail!("n{n} runs: it cannot be wiped");
        }
        Ok(crate::host::state::remove(&self.plan.data_dir(n))?)
    }

    /// Starts real server `n`, which does not run.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_server(&mut self, n: u8) -> Result<()> {
        let process = start_server(&self.plan, n, &mut self.ledger)?;
        self.servers.push((n, process));
        self.servers.sort_by_key(|(n, _)| *n);
        Ok(())
    }

    /// Kills real server `n`; it then counts as gone.
    ///
    /// # Errors
    /// When it does not run, or does not go.
    pub async fn kill_server(&mut self, n: u8) -> Result<()> {
        let at = self.servers.iter().position(|(of, _)| *of == n);
        let at = at.ok_or_else(|| anyhow!("lab-server s{n} does not run"))?;
        let (_, mut process) = self.servers.remove(at);
        process.kill().await
    }

    /// Starts the client of this lab.
    ///
    /// # Errors
    /// When it does not start.
    pub fn client(&mut self) -> Result<crate::demo::client_link::ClientLink> {
        crate::demo::client_link::ClientLink::start(&self.plan, &mut self.ledger)
    }

    /// The local file of node `n`.
    #[must_use]
    pub fn config_path(&self, n: u8) -> PathBuf {
        self.plan.tag.run_dir().join(format!("n{n}.yaml"))
    }

    /// Makes the running, wiped node `n` a member and a voter again; its new id.
    ///
    /// # Errors
    /// What `clusterctl` said.
    pub async fn join(&self, n: u8, through: u8) -> Result<u64> {
        let token = self.token(through).await?;
        self.ctl(n).join(&token).await?;
        self.id_of(n).await
    }

    /// A join token. A write fails within a second while no leader is elected, as it must; who asks
    /// again, as any operator would, gets it from the next one.
    async fn token(&self, through: u8) -> Result<String> {
        let deadline = Instant::now() + LEADER_WITHIN;
        loop {
            match self.ctl(through).create_token().await {
                Err(CtlError::Refused { message, .. })
                    if message.contains("no quorum") && Instant::now() < deadline => {}
                answer => return Ok(answer?),
            }
        }
    }

    /// Makes a member a voter unless it is one.
    ///
    /// # Errors
    /// What `clusterctl` said.
    pub async fn ensure_voter(&self, id: u64) -> Result<()> {
        let ctl = self.any_ctl()?;
        let status = ctl.status().await?;
        if status.nodes.iter().any(|n| n.id == id && n.role.is("voter", 1)) {
            return Ok(());
        }
        Ok(ctl.node("promote", id).await?)
    }

    /// Cordons a member until [`Cluster::heal`].
    ///
    /// # Errors
    /// What `clusterctl` said.
    pub async fn cordon(&mut self, id: u64) -> Result<()> {
        self.cordoned.push(id);
        Ok(self.any_ctl()?.node("cordon", id).await?)
    }

    /// Puts every node back on the bridges, starts every daemon that is dead and ends cordons;
    /// does not wait until the cluster is ready.
    ///
    /// # Errors
    /// When a daemon does not start, or a cordon does not end.
    pub async fn heal(&mut self) -> Result<()> {
        if self.lossy {
            self.pass_all()?;
        }
        for n in NODES {
            if self.handle(n)?.unplugged {
                self.plug(n)?;
            }
            if self.handle(n)?.process.is_none() {
                self.start_node(n).await?;
            }
        }
        let deadline = Instant::now() + READY_WITHIN;
        while let Some(&id) = self.cordoned.last() {
            match self.any_ctl()?.node("uncordon", id).await {
                Ok(()) => drop(self.cordoned.pop()),
                // There may be no leader yet.
                Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(200)).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Process numbers of all that runs, with what it is.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, i32)> {
        let nodes = self.nodes.iter().filter_map(|h| h.process.as_ref());
        let named = nodes.zip(self.running()).map(|(p, n)| (format!("clusterd n{n}"), p.pid()));
        let servers = self.servers.iter();
        named.chain(servers.map(|(n, p)| (format!("lab-server s{n}"), p.pid()))).collect()
    }

    /// Fails if a process ended that nobody told to.
    ///
    /// # Errors
    /// Which one, with the end of its log.
    pub fn check_processes(&mut self) -> Result<()> {
        for handle in &mut self.nodes {
            if let Some(process) = &mut handle.process
                && let Some(status) = process.ended()?
            {
                let n = handle.n;
                handle.process = None;
                bail!(
                    "clusterd n{n} ended by itself, {status}:\n{}",
                    tail(&self.plan.log(Host::Node(n)))
                );
            }
        }
        for (n, process) in &mut self.servers {
            if let Some(status) = process.ended()? {
                bail!(
                    "lab-server s{n} ended, {status}:\n{}",
                    tail(&self.plan.log(Host::Server(*n)))
                );
            }
        }
        Ok(())
    }

    async fn form(&mut self) -> Result<()> {
        let first = NODES[0];
        self.ctl(first).init("demo").await?;
        for n in NODES.into_iter().skip(1) {
            let id = self.join(n, first).await.with_context(|| format!("n{n} cannot join"))?;
            self.ensure_voter(id).await?;
        }
        Ok(())
    }

    fn start_servers(&mut self) -> Result<()> {
        for n in SERVERS {
            self.start_server(n)?;
        }
        Ok(())
    }

    /// The local file of a node: instance, folders, addresses, and nothing else.
    fn write_config(&self, n: u8) -> Result<PathBuf> {
        let (tag, data) = (&self.plan.tag, self.plan.data_dir(n));
        fs::create_dir_all(&data)?;
        let address = Network::Mgmt.node_address(n);
        let text = format!(
            "instance: n{n}\n\
             data_dir: {}\n\
             listen:\n  \
               api: \"{address}:7440\"\n  \
               control: \"{address}:{CONTROL_PORT}\"\n  \
               replication: \"{address}:{REPLICATION_PORT}\"\n\
             socket: {}\n\
             bpffs: {}\n",
            data.display(),
            tag.socket(n).display(),
            tag.bpf_dir().display(),
        );
        let path = self.config_path(n);
        fs::write(&path, text)?;
        Ok(path)
    }

    fn handle(&mut self, n: u8) -> Result<&mut NodeHandle> {
        self.nodes.iter_mut().find(|h| h.n == n).ok_or_else(|| anyhow!("there is no n{n}"))
    }

    fn process(&mut self, n: u8) -> Result<&mut Process> {
        self.handle(n)?.process.as_mut().ok_or_else(|| anyhow!("clusterd n{n} does not run"))
    }
}

/// Starts real server `n`. With DR and TUN it listens on the VIP too: UDP answers must come from
/// it.
///
/// # Errors
/// When it cannot be started.
pub fn start_server(plan: &Plan, n: u8, ledger: &mut Ledger) -> Result<Process> {
    let mut args: Vec<OsString> = vec!["--name".into(), format!("s{n}").into()];
    let listen = |a: IpAddr| ["--listen".into(), SocketAddr::from((a, PORT)).to_string().into()];
    for family in plan.family.all() {
        args.extend(listen(family.server(plan.mode, n)));
        if plan.mode.servers_have_the_vip() {
            args.extend(listen(family.vip()));
        }
    }
    if plan.mode == Mode::Tun {
        args.push("--decapsulate".into());
    }
    let launch = Launch {
        what: &format!("lab-server s{n}"),
        namespace: &plan.tag.namespace_path(Host::Server(n)),
        program: &plan.program("lab-server"),
        args,
        log: &plan.log(Host::Server(n)),
        talks: false,
    };
    Process::start(&launch, ledger)
}

fn ensure_bpf(ledger: &mut Ledger) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mounted = mounts.lines().any(|l| l.split(' ').nth(1) == Some("/sys/fs/bpf"));
    if !mounted {
        exec::run("mount", ["-t", "bpf", "bpf", "/sys/fs/bpf"])
            .context("cannot mount the BPF file system")?;
        ledger.update(|s| s.mounted_bpf = true)?;
    }
    Ok(())
}

/// The last lines of a log.
#[must_use]
pub fn tail(path: &Path) -> String {
    const LINES: usize = 12;
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LINES);
    format!("{}\n(from {})", lines[from..].join("\n"), path.display())
}
