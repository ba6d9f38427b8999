//! The network: a switch namespace with up to three bridges, and a veth pair to each host.
//!
//! ```text
//!              c1 .200
//!               |
//!   front 198.18.0.0/24  (VIP .100) --- s1 .11  s2 .12  s3 .13   (DR)
//!      |        |        |
//!     n1 .1    n2 .2    n3 .3
//!      |        |        |
//!   back  198.18.1.0/24  (gateway .254) s1 .11  s2 .12  s3 .13   (NAT only)
//!   mgmt  198.18.2.0/24
//! ```
//!
//! With [`Family::V6`] hosts have addresses of both families: the same picture with
//! 2001:db8:18:0::/64 in front and 2001:db8:18:1::/64 at the back. The bridges then snoop MLD and
//! ask for memberships themselves, as switches do: a solicitation comes to nobody who has not
//! joined its group. Without it no host speaks IPv6 at all.
//!
//! Checksums are computed by the senders (`tx off`): a veth leaves them to the hardware that is
//! not there, and a packet that AF_XDP takes off a veth would carry a wrong one.
//!
//! Two queues: only the links of the *nodes* get a second queue. The kernel picks the queue of a
//! veth from the flow hash only as long as no receive queue is recorded in the packet
//! (`skb_tx_hash` in net/core/dev.c), and a sender with several queues records one: measured here,
//! with two queues on the client's link every packet arrives on queue 0. The hash of a TCP packet
//! is drawn at random for each connection and each direction, so half of all NAT connections have
//! their two directions on different queues, and a retransmission after a time-out may change the
//! queue.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context as _, Result};

use super::{
    exec,
    family::Family,
    names::{Host, Mode, NODES, Network, SERVERS, Tag},
};

/// What to build.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Whose names to use.
    pub tag: Tag,
    /// Where the real servers are.
    pub mode: Mode,
    /// Queues of the nodes' data links, 1 or 2.
    pub queues: u32,
    /// IPv4 alone or both.
    pub family: Family,
}

/// A veth pair between a bridge and a host.
#[derive(Clone, Debug, PartialEq)]
struct Link {
    host: Host,
    network: Network,
    addresses: Vec<String>,
    queues: u32,
}

impl Topology {
    /// Builds it. What exists already is an error: sweep first.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn build(&self) -> Result<()> {
        let mut lines = String::new();
        for host in Host::all() {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "netns add {}", self.tag.namespace(host));
        }
        exec::ip_batch(None, &lines).context("cannot make the namespaces")?;
        for host in Host::all() {
            let path = self.tag.namespace_path(host);
            exec::shell_in(&path, &self.kernel_settings(host))
                .with_context(|| format!("kernel settings of {host}"))?;
        }
        let switch = self.tag.namespace(Host::Switch);
        exec::ip_batch(Some(&switch), &self.switch_lines()).context("cannot make the links")?;
        self.switch_off_offloads()?;
        for host in Host::all() {
            let lines = self.host_lines(host);
            exec::ip_batch(Some(&self.tag.namespace(host)), &lines)
                .with_context(|| format!("cannot set up {host}"))?;
        }
        Ok(())
    }

    /// Takes a node off every bridge by taking the bridge's ports down, or puts it back. The
    /// management port goes first: what the node notices of it nobody hears.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_node_ports(&self, node: u8, up: bool) -> Result<()> {
        let mut lines = String::new();
        for port in self.node_ports(node) {
            let _ = writeln!(lines, "link set {port} {}", if up { "up" } else { "down" });
        }
        exec::ip_batch(Some(&self.tag.namespace(Host::Switch)), &lines)
    }

    /// Makes the bridges drop every frame from and to a node, or stop doing so. The node's links
    /// stay up: it learns of its isolation only by hearing nobody.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_node_isolated(&self, node: u8, isolated: bool) -> Result<()> {
        // Values of enum in linux/if_bridge.h: BR_STATE_DISABLED and BR_STATE_FORWARDING.
        let state = if isolated { "0" } else { "3" };
        let switch = self.tag.namespace(Host::Switch);
        for port in self.node_ports(node) {
            exec::run("bridge", ["-n", &switch, "link", "set", "dev", &port, "state", state])?;
        }
        Ok(())
    }

    fn node_ports(&self, node: u8) -> Vec<String> {
        let networks = self.mode.node_networks().iter().rev();
        networks.map(|&n| Host::Node(node).port(n)).collect()
    }

    fn links(&self) -> Vec<Link> {
        let mut links = Vec::new();
        let mut add = |host, network, address: &dyn Fn(Family) -> IpAddr, queues| {
            // The daemons talk to each other over IPv4.
            let families = if network == Network::Mgmt { &[Family::V4] } else { self.family.all() };
            let address = |family: &Family| {
                // Nobody else has it: no packet is to wait for the proof.
                let nodad = if *family == Family::V6 { " nodad" } else { "" };
                format!("{}/{}{nodad}", address(*family), family.prefix_len())
            };
            let addresses = families.iter().map(address).collect();
            links.push(Link { host, network, addresses, queues });
        };
        for n in NODES {
            for &network in self.mode.node_networks() {
                let queues = if network == Network::Mgmt { 1 } else { self.queues };
                add(Host::Node(n), network, &|family| family.node(network, n), queues);
            }
        }
        for n in SERVERS {
            let network = self.mode.server_network();
            add(Host::Server(n), network, &|family| family.server(self.mode, n), 1);
        }
        add(Host::Client, Network::Front, &Family::client, 1);
        links
    }

    fn switch_lines(&self) -> String {
        let mut lines = String::new();
        for &network in self.mode.node_networks() {
            let bridge = network.name();
            let _ = writeln!(
                lines,
                "link add {bridge} type bridge stp_state 0 forward_delay 0{}",
                match self.family {
                    Family::V4 => "",
                    // The shortest time in which answers are awaited, in hundredths of a second:
                    // until it is over, everything is flooded.
                    Family::V6 => {
                        " mcast_snooping 1 mcast_querier 1 mcast_query_response_interval 100"
                    }
                }
            );
            let _ = writeln!(lines, "link set {bridge} up");
        }
        for Link { host, network, queues, .. } in self.links() {
            let (port, bridge) = (host.port(network), network.name());
            let queues = format!("numrxqueues {queues} numtxqueues {queues}");
            let namespace = self.tag.namespace(host);
            let _ = writeln!(
                lines,
                "link add {port} {queues} type veth peer name {bridge} netns {namespace} {queues}"
            );
            let _ = writeln!(lines, "link set {port} master {bridge} up");
        }
        lines
    }

    fn switch_off_offloads(&self) -> Result<()> {
        let mut script = String::new();
        for Link { host, network, .. } in self.links() {
            let _ = writeln!(script, "ethtool -K {} tx off >/dev/null", host.port(network));
            let path = self.tag.namespace_path(host);
            exec::shell_in(&path, &format!("ethtool -K {} tx off >/dev/null", network.name()))?;
        }
        exec::shell_in(&self.tag.namespace_path(Host::Switch), &script).map(drop)
    }

    fn host_lines(&self, host: Host) -> String {
        let mut lines = "link set lo up\n".to_owned();
        for link in self.links().into_iter().filter(|l| l.host == host) {
            let name = link.network.name();
            for address in link.addresses {
                let _ = writeln!(lines, "addr add {address} dev {name}");
            }
            let _ = writeln!(lines, "link set {name} up");
        }
        for family in self.family.all() {
            let (vip, gateway) = (family.vip(), family.gateway());
            match (host, self.mode) {
                (Host::Server(_), Mode::Dr | Mode::Tun) => {
                    let _ = writeln!(lines, "addr add {vip}/{} dev lo", family.host_len());
                }
                (Host::Server(_), Mode::Nat) => {
                    let _ = writeln!(lines, "route add default via {gateway}");
                }
                // With full-NAT a server has no route beyond its network.
                _ => {}
            }
        }
        lines
    }

    /// Settings of the kernel, made before there is a link.
    fn kernel_settings(&self, host: Host) -> String {
        let mut settings =
            vec![("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "0")];
        // No router solicitations and duplicate detection between the frames that count.
        settings.extend(match self.family {
            Family::V4 => {
                [("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")]
                    .as_slice()
            }
            Family::V6 => &[
                ("ipv6/conf/all/accept_dad", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/default/dad_transmits", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv6/conf/default/router_solicitations", "0"),
            ],
        });
        if self.mode.servers_have_the_vip() && matches!(host, Host::Server(_)) {
            // A real server has the VIP and must not say so: only the holder answers ARP for it.
            settings.extend([
                ("ipv4/conf/all/arp_ignore", "1"),
                ("ipv4/conf/default/arp_ignore", "1"),
                ("ipv4/conf/all/arp_announce", "2"),
                ("ipv4/conf/default/arp_announce", "2"),
            ]);
        }
        let mut script = String::new();
        for (name, value) in settings {
            // A kernel without IPv6 needs no silencing.
            let _ = writeln!(
                script,
                "f=/proc/sys/net/{name}; if [ -e $f ]; then echo {value} > $f; fi"
            );
        }
        script
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(mode: Mode, queues: u32) -> Topology {
        Topology { tag: "t".parse().unwrap(), mode, queues, family: Family::V4 }
    }

    #[test]
    fn with_ipv6_hosts_have_both_families() {
        let topology = |mode| Topology { family: Family::V6, ..topology(mode, 1) };
        let dr = topology(Mode::Dr).host_lines(Host::Server(1));
        for line in [
            "addr add 198.18.0.11/24 dev front",
            "addr add 2001:db8:18::11/64 nodad dev front",
            "addr add 198.18.0.100/32 dev lo",
            "addr add 2001:db8:18::100/128 dev lo",
        ] {
            assert!(dr.lines().any(|l| l == line), "{line} in {dr}");
        }
        let nat = topology(Mode::Nat).host_lines(Host::Server(1));
        assert!(nat.contains("route add default via 2001:db8:18:1::254\n"), "{nat}");
        assert!(nat.contains("route add default via 198.18.1.254\n"), "{nat}");
        let node = topology(Mode::Nat).host_lines(Host::Node(1));
        assert_eq!(node.matches("2001:db8").count(), 2, "{node}");
    }

    #[test]
    fn servers_are_behind_the_nodes_only_with_nat() {
        let of = |mode| topology(mode, 1).switch_lines();
        assert!(of(Mode::Dr).contains("link set s1-front master front up"));
        assert!(!of(Mode::Dr).contains("back"));
        assert!(of(Mode::Nat).contains("link set s1-back master back up"));
        assert!(of(Mode::Nat).contains("link set n1-back master back up"));
        assert!(!of(Mode::Nat).contains("s1-front"));
    }

    #[test]
    fn only_data_links_of_nodes_get_a_second_queue() {
        for link in topology(Mode::Nat, 2).links() {
            let two = matches!(link.host, Host::Node(_)) && link.network != Network::Mgmt;
            assert_eq!(link.queues, if two { 2 } else { 1 }, "{link:?}");
        }
    }

    #[test]
    fn the_management_port_of_a_node_goes_first() {
        let ports = topology(Mode::Nat, 1).node_ports(2);
        assert_eq!(ports, ["n2-mgmt", "n2-back", "n2-front"]);
    }
}
