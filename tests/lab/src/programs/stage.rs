//! The cluster with what the programs need: servers in the front too, every program on every
//! server, and the configuration.
//!
//! It begins as the lab's cluster with NAT and both families. A server's answers leave by where
//! their source address is: those of the back by the group's gateway there, those of the second
//! addresses in the front by the group's gateway there, all others directly.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    client::Client,
    document::{DNS, FTP, SMTP, WEB, document},
    mode::{MODES, Net, Servers, address, gateway},
    server::{Files, programs},
};
use crate::{
    cluster::{Cluster, Plan, running::tail},
    host::{
        exec,
        family::Family,
        inside::inside,
        names::{Host, NODES, Network, PORT, SERVERS},
        process::{Launch, Process},
    },
};

/// Programs this needs, with the Debian package each is in.
const TOOLS: [(&str, &str); 8] = [
    ("nginx", "nginx"),
    ("curl", "curl"),
    ("wrk", "wrk"),
    ("dnsmasq", "dnsmasq-base"),
    ("dig", "bind9-dnsutils"),
    ("chasquid", "chasquid"),
    ("iperf3", "iperf3"),
    ("vsftpd", "vsftpd"),
];

/// How long a program may take until it listens.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// Both families.
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What is there for the clients.
#[derive(Debug)]
pub struct Stage {
    /// Where clients run.
    pub client: Client,
    /// What is served, and what servers wrote down.
    pub files: Files,
    /// Programs of the servers, ended with the lab.
    running: Vec<(u8, Process)>,
}

/// The cluster to begin with.
#[must_use]
pub fn plan(plan: &Plan) -> Plan {
    Plan {
        mode: crate::host::names::Mode::Nat,
        family: Family::V6,
        replication: true,
        queues: 1,
        ..plan.clone()
    }
}

impl Stage {
    /// Adds it all to a cluster of [`plan`] and waits until every server is up.
    ///
    /// # Errors
    /// What is missing, or does not start.
    pub async fn build(cluster: &mut Cluster, seed: u64) -> Result<Self> {
        exec::check_tools(&TOOLS)?;
        extend_network(cluster)?;
        let files = Files { dir: cluster.plan().work_dir().join("programs") };
        files.write_shared(seed)?;
        let namespace = cluster.plan().tag.namespace_path(Host::Client);
        let mut stage = Self { client: Client { namespace }, files, running: Vec::new() };
        for n in SERVERS {
            stage.start_programs(cluster, n)?;
        }
        stage.wait_listening(cluster).await?;
        let path = cluster.plan().tag.run_dir().join("programs.yaml");
        fs::write(&path, document())?;
        cluster.ctl(NODES[0]).apply(&path).await.context("the document of the programs")?;
        cluster.wait_ready().await?;
        Ok(stage)
    }

    fn start_programs(&mut self, cluster: &mut Cluster, n: u8) -> Result<()> {
        let plan = cluster.plan().clone();
        let mut all = programs(&self.files, n)?;
        all.push(super::server::Started {
            what: "the end of the tunnels",
            program: plan.program("lab-server"),
            args: tunnel_args(n),
        });
        for started in all {
            let what = format!("{} s{n}", started.what);
            let launch = Launch {
                what: &what,
                namespace: &plan.tag.namespace_path(Host::Server(n)),
                program: &started.program,
                args: started.args,
                log: &log(&plan, n),
                talks: false,
            };
            self.running.push((n, Process::start(&launch, cluster.ledger())?));
        }
        Ok(())
    }

    async fn wait_listening(&mut self, cluster: &Cluster) -> Result<()> {
        let deadline = Instant::now() + LISTENS_WITHIN;
        for n in SERVERS {
            let namespace = cluster.plan().tag.namespace_path(Host::Server(n));
            // A connection that says nothing would keep `iperf3` from its next client.
            for port in [WEB, DNS, SMTP, FTP] {
                while !listens(&namespace, port)? {
                    self.check(cluster.plan())?;
                    if Instant::now() > deadline {
                        bail!("nobody listens on port {port} of s{n}");
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        Ok(())
    }

    /// Fails if a server's program ended.
    ///
    /// # Errors
    /// Which one, with the end of its log.
    pub fn check(&mut self, plan: &Plan) -> Result<()> {
        for (n, process) in &mut self.running {
            if let Some(status) = process.ended()? {
                bail!("{} ended, {status}:\n{}", process.what(), tail(&log(plan, *n)));
            }
        }
        Ok(())
    }
}

fn log(plan: &Plan, n: u8) -> std::path::PathBuf {
    plan.log_dir().join(format!("s{n}.programs.log"))
}

/// It serves every tunnelled VIP; what it echoes there nobody asks for.
fn tunnel_args(n: u8) -> Vec<std::ffi::OsString> {
    let mut args = vec!["--name".into(), format!("s{n}").into(), "--decapsulate".into()];
    for mode in MODES.iter().filter(|mode| mode.tunnel.is_some()) {
        for family in FAMILIES {
            let listen = SocketAddr::from((mode.vip(family), PORT));
            args.extend(["--listen".into(), listen.to_string().into()]);
        }
    }
    args
}

fn listens(namespace: &Path, port: u16) -> Result<bool> {
    inside(namespace, || {
        FAMILIES.iter().all(|family| {
            let loopback = match family {
                Family::V4 => SocketAddr::from(([127, 0, 0, 1], port)),
                Family::V6 => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)),
            };
            std::net::TcpStream::connect(loopback).is_ok()
        })
    })
}

fn extend_network(cluster: &Cluster) -> Result<()> {
    let tag = &cluster.plan().tag;
    let front = Network::Front;
    for n in SERVERS {
        let host = Host::Server(n);
        let path = tag.namespace_path(host);
        // A real server has the VIP and must not say so: only the holder answers ARP for it.
        let quiet = ["arp_ignore 1", "arp_announce 2"].map(|setting| {
            let (name, value) = setting.split_once(' ').unwrap_or_default();
            format!(
                "for f in all default; do echo {value} > /proc/sys/net/ipv4/conf/$f/{name}; done\n"
            )
        });
        exec::shell_in(&path, &quiet.concat())?;
        let port = host.port(front);
        let lines = format!(
            "link add {port} type veth peer name front netns {}\nlink set {port} master front up\n",
            tag.namespace(host)
        );
        exec::ip_batch(Some(&tag.namespace(Host::Switch)), &lines)?;
        let no_offload = |link: &str| format!("ethtool -K {link} tx off >/dev/null");
        exec::shell_in(&tag.namespace_path(Host::Switch), &no_offload(&port))?;
        exec::shell_in(&path, &no_offload("front"))?;
        exec::ip_batch(Some(&tag.namespace(host)), &server_lines(n))
            .with_context(|| format!("cannot set up {host}"))?;
        exec::shell_in(&path, &server_rules(n))?;
    }
    Ok(())
}

/// Which table is for which source. A batch of `ip` would take all of them for IPv4.
fn server_rules(n: u8) -> String {
    let mut lines = String::new();
    for family in FAMILIES {
        let option = if family == Family::V6 { "-6" } else { "-4" };
        for (servers, table) in
            [(Servers::FrontByGateway, BY_FRONT_GATEWAY), (Servers::Back, BY_BACK_GATEWAY)]
        {
            if let Some(server) = own_address(servers, family, n) {
                let from = format!("{server}/{}", family.host_len());
                let _ = writeln!(lines, "ip {option} rule add from {from} lookup {table}");
            }
        }
    }
    lines
}

/// The address of server `n` that is of its own family.
fn own_address(servers: Servers, family: Family, n: u8) -> Option<IpAddr> {
    let mode = MODES.iter().find(|m| m.servers == servers && !m.other_family)?;
    Some(mode.server(family, n))
}

/// Tables of routes by source.
const BY_BACK_GATEWAY: u32 = 100;
const BY_FRONT_GATEWAY: u32 = 101;

fn server_lines(n: u8) -> String {
    let mut lines = "link set front up\n".to_owned();
    for family in FAMILIES {
        let nodad = if family == Family::V6 { " nodad" } else { "" };
        let (net, host) = (family.prefix_len(), family.host_len());
        let direct = address(family, Net::Front, 10 + n);
        let _ = writeln!(lines, "addr add {direct}/{net}{nodad} dev front");
        for mode in MODES.iter().filter(|mode| mode.servers_have_the_vip()) {
            let _ = writeln!(lines, "addr add {}/{host} dev lo", mode.vip(family));
        }
        if let Some(second) = own_address(Servers::FrontByGateway, family, n) {
            let table = BY_FRONT_GATEWAY;
            let via = gateway(family, Net::Front);
            let _ = writeln!(lines, "addr add {second}/{host}{nodad} dev front");
            for node in NODES.map(|node| address(family, Net::Front, node)) {
                let _ = writeln!(lines, "route add {node}/{host} dev front table {table}");
            }
            let _ = writeln!(lines, "route add default via {via} dev front table {table}");
        }
        if own_address(Servers::Back, family, n).is_some() {
            let table = BY_BACK_GATEWAY;
            let via = gateway(family, Net::Back);
            for node in NODES.map(|node| address(family, Net::Back, node)) {
                let _ = writeln!(lines, "route add {node}/{host} dev back table {table}");
            }
            let _ = writeln!(lines, "route add default via {via} dev back table {table}");
        }
    }
    lines
}
