//! A network namespace with IPVS in it, and the two links into it.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use af_xdp::{ETHERTYPE_ALL, PacketSocket};
use anyhow::{Context as _, Result, bail};
use rustix::{
    fd::AsFd as _,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use steadfast_packet::Mac;

use super::{
    Counts, Method, Persistence, Protocol, Scenario, Server, Step,
    frames::{
        BACK_MAC, BYSTANDER, CLIENT_GATEWAY, CLIENT_GATEWAY_V6, CLIENT_MAC, FRONT_MAC, MARK,
        VIP_PORT, VIP_PORTS, server_addr, server_mac, server_port, vip,
    },
    listing,
};

/// Numbers the namespaces of this process, so that no name comes twice.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A director; it goes with this.
#[derive(Debug)]
pub(super) struct Director {
    number: u32,
    /// The clients' end of the front link.
    pub(super) front: PacketSocket,
    /// The servers' end of the back link.
    pub(super) back: PacketSocket,
}

impl Director {
    /// Makes the namespace and its links; the calling thread stays where it is.
    pub(super) fn make(scenario: &Scenario) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = name_of(number);
        let mac = |mac: Mac| mac.map(|octet| format!("{octet:02x}")).join(":");
        pipe(
            "ip",
            &["-batch", "-"],
            &format!(
                "netns add {name}
link add c{number} address {} type veth peer name front address {} netns {name}
link add s{number} type veth peer name back address {} netns {name}
link set c{number} up
link set s{number} up
",
                mac(CLIENT_MAC),
                mac(FRONT_MAC),
                mac(BACK_MAC)
            ),
        )?;
        let neighbour = |v6, n| {
            let (addr, mac) = (server_addr(v6, n), mac(server_mac(n)));
            format!("neigh add {addr} lladdr {mac} dev back nud permanent\n")
        };
        let mut more = neighbour(false, BYSTANDER);
        more.extend(servers(scenario).map(|number| neighbour(scenario.v6, number)));
        if scenario.v6 {
            more.push_str(&format!(
                "addr add 2001:db8:12::1/64 dev front nodad
addr add {}/128 dev lo nodad
addr add 2001:db8:13::fe/64 dev back nodad
neigh add {CLIENT_GATEWAY_V6} lladdr {} dev front nud permanent
route add 2001:db8:c::/48 via {CLIENT_GATEWAY_V6}
",
                vip(true),
                mac(CLIENT_MAC)
            ));
        }
        pipe(
            "ip",
            &["-n", &name, "-batch", "-"],
            &format!(
                "link set lo up
link set front up
link set back up
addr add 198.18.0.1/24 dev front
addr add {}/32 dev lo
addr add 198.18.1.254/24 dev back
neigh add {CLIENT_GATEWAY} lladdr {} dev front nud permanent
route add 10.0.0.0/8 via {CLIENT_GATEWAY}
{more}",
                vip(false),
                mac(CLIENT_MAC)
            ),
        )?;
        let front = listen(&format!("c{number}"))?;
        let back = listen(&format!("s{number}"))?;
        Ok(Self { number, front, back })
    }

    /// Takes the calling thread inside, and the service into the kernel.
    pub(super) fn enter(&self, scenario: &Scenario) -> Result<()> {
        self.go_inside()?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot forward")?;
        if scenario.v6 {
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").context("cannot forward")?;
        }
        let mut options = String::new();
        if !scenario.flags.is_empty() {
            options = format!(" -b {}", scenario.flags.join(","));
        }
        if let Some(Persistence { timeout_s, prefix_len, expire_quiescent }) = scenario.persistence
        {
            let mask = if scenario.v6 { prefix_len.to_string() } else { netmask(prefix_len) };
            options.push_str(&format!(" -p {timeout_s} -M {mask}"));
            let path = "/proc/sys/net/ipv4/vs/expire_quiescent_template";
            fs::write(path, u8::from(expire_quiescent).to_string()).context(path)?;
        }
        if scenario.one_packet {
            options.push_str(" -o");
        }
        if scenario.marked {
            let ports = VIP_PORTS.map(|port| port.to_string()).join(", ");
            let rule = format!("th dport {{ {ports} }} meta mark set {MARK}");
            let table = format!(
                "table inet marks {{
chain marks {{
type filter hook prerouting priority mangle;
{rule};
}}
}}
"
            );
            pipe("nft", &["-f", "-"], &table)?;
        }
        let mut lines = format!("-A {} -s {}{options}\n", service(scenario), scenario.scheduler);
        for server in &scenario.servers {
            lines.push_str(&add(scenario, *server));
        }
        ipvsadm(&lines)
    }

    fn go_inside(&self) -> Result<()> {
        let path = format!("/run/netns/{}", name_of(self.number));
        let file = fs::File::open(&path).with_context(|| format!("cannot open {path}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {path}"))
    }

    /// What each server counted until two seconds ago.
    pub(super) fn server_counts(&self) -> Result<Vec<(u8, Counts)>> {
        let ask =
            ["netns", "exec", &name_of(self.number), "ipvsadm", "-L", "-n", "--stats", "--exact"];
        Ok(listing::server_counts(&crate::run("ip", &ask, None)?))
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        // The links go with the namespace. The guest ends soon, and everything with it.
        let _ = crate::run("ip", &["netns", "del", &name_of(self.number)], None);
    }
}

/// The line that adds a server.
pub(super) fn add(scenario: &Scenario, server: Server) -> String {
    let way = match scenario.method {
        Method::Nat => "-m",
        Method::Dr => "-g",
        Method::IpIp => "-i",
    };
    let Server { number, weight, upper, lower } = server;
    let (service, place) = (service(scenario), place(scenario, number));
    format!("-a {service} -r {place} {way} -w {weight} -x {upper} -y {lower}\n")
}

/// The line that gives it another weight.
pub(super) fn weigh(scenario: &Scenario, server: Server) -> String {
    add(scenario, server).replacen("-a", "-e", 1)
}

/// The line that removes it.
pub(super) fn remove(scenario: &Scenario, number: u8) -> String {
    format!("-d {} -r {}\n", service(scenario), place(scenario, number))
}

/// Gives the kernel lines of configuration.
pub(super) fn ipvsadm(lines: &str) -> Result<()> {
    pipe("ipvsadm", &["-R"], lines)
}

/// The numbers of all servers that a scenario ever has.
fn servers(scenario: &Scenario) -> impl Iterator<Item = u8> {
    let added = |step: &Step| match step {
        Step::Add(server) => Some(server.number),
        _ => None,
    };
    let first = scenario.servers.iter().map(|server| server.number);
    first.chain(scenario.steps.iter().filter_map(added))
}

fn service(scenario: &Scenario) -> String {
    if scenario.marked {
        return format!("-f {MARK}{}", if scenario.v6 { " -6" } else { "" });
    }
    let option = match scenario.protocol {
        Protocol::Tcp => "-t",
        Protocol::Udp => "-u",
        Protocol::Sctp => "--sctp-service",
    };
    format!("{option} {}", SocketAddr::new(vip(scenario.v6), VIP_PORT))
}

fn netmask(prefix_len: u8) -> String {
    let zeros = 32 - u32::from(prefix_len.min(32));
    Ipv4Addr::from(u32::MAX.checked_shl(zeros).unwrap_or(0)).to_string()
}

fn place(scenario: &Scenario, number: u8) -> String {
    // Of a service by mark, the port is that of each packet.
    let port = if scenario.marked { 0 } else { server_port(scenario, VIP_PORT) };
    SocketAddr::new(server_addr(scenario.v6, number), port).to_string()
}

fn name_of(number: u32) -> String {
    format!("guest-{number}")
}

fn listen(interface: &str) -> Result<PacketSocket> {
    let path = format!("/sys/class/net/{interface}/ifindex");
    let index = fs::read_to_string(&path).with_context(|| format!("no {interface}"))?;
    let socket = PacketSocket::bind(index.trim().parse()?, ETHERTYPE_ALL)?;
    Ok(socket)
}

fn pipe(program: &str, args: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that ends early says why below.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // ipvsadm -R goes on after a line that failed, and says so only here.
    if !output.status.success() || !said.trim().is_empty() {
        bail!("{program} {args:?}: {}: {}; it read:\n{input}", output.status, said.trim());
    }
    Ok(())
}
