//! Names and addresses of everything in a lab.
//!
//! Every namespace is called `sfl-TAG-HOST`; links live only inside those namespaces, so two labs
//! with different tags, and the machine itself, never meet. Addresses are from 198.18.0.0/15
//! (RFC 2544: benchmarks).

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Nodes of the cluster.
pub const NODES: [u8; 3] = [1, 2, 3];

/// Real servers.
pub const SERVERS: [u8; 3] = [1, 2, 3];

/// The VIP.
pub const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 100);

/// The port of both services: echo, RFC 862.
pub const PORT: u16 = 7;

/// The address the real servers use as their gateway with NAT.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 254);

/// The addresses from which the nodes talk to the real servers with full-NAT.
pub const LOCALS: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 1, 200), Ipv4Addr::new(198, 18, 1, 201)];

/// The client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 200);

/// How packets reach the real servers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Direct routing: servers in the VIP's prefix, answering the client themselves.
    Dr,
    /// Network address translation: servers in a prefix of their own.
    Nat,
    /// Full network address translation: servers in a prefix of their own, without a route to
    /// anywhere else.
    #[value(name = "fullnat")]
    FullNat,
    /// Tunnels: servers as with direct routing, which packets reach inside others.
    Tun,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Dr, Self::Nat, Self::FullNat, Self::Tun];

    /// The word in commands and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dr => "dr",
            Self::Nat => "nat",
            Self::FullNat => "fullnat",
            Self::Tun => "tun",
        }
    }

    /// Real servers have the VIP and answer the client themselves.
    #[must_use]
    pub fn servers_have_the_vip(self) -> bool {
        matches!(self, Self::Dr | Self::Tun)
    }

    /// Address of real server `n`.
    #[must_use]
    pub fn server_address(self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, u8::from(!self.servers_have_the_vip()), 10 + n)
    }

    /// The networks a node has in this mode.
    #[must_use]
    pub fn node_networks(self) -> &'static [Network] {
        match self {
            Self::Dr | Self::Tun => &[Network::Front, Network::Mgmt],
            Self::Nat | Self::FullNat => &[Network::Front, Network::Back, Network::Mgmt],
        }
    }

    /// The network of the real servers.
    #[must_use]
    pub fn server_network(self) -> Network {
        match self {
            Self::Dr | Self::Tun => Network::Front,
            Self::Nat | Self::FullNat => Network::Back,
        }
    }
}

/// A bridge, and the link of the same name in each host on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Network {
    /// Clients and VIPs.
    Front,
    /// Real servers with NAT and full-NAT.
    Back,
    /// The daemons among themselves.
    Mgmt,
}

impl Network {
    /// Name of the bridge and of the links.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Front => "front",
            Self::Back => "back",
            Self::Mgmt => "mgmt",
        }
    }

    /// Address of node `n`.
    #[must_use]
    pub fn node_address(self, n: u8) -> Ipv4Addr {
        let third = match self {
            Self::Front => 0,
            Self::Back => 1,
            Self::Mgmt => 2,
        };
        Ipv4Addr::new(198, 18, third, n)
    }
}

/// One namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Host {
    /// The bridges.
    Switch,
    /// A node of the cluster.
    Node(u8),
    /// A real server.
    Server(u8),
    /// The client.
    Client,
}

impl Host {
    /// Every host.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Switch];
        all.extend(NODES.map(Self::Node));
        all.extend(SERVERS.map(Self::Server));
        all.push(Self::Client);
        all
    }

    /// The bridge port that leads to this host.
    #[must_use]
    pub fn port(self, network: Network) -> String {
        format!("{self}-{}", network.name())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch => f.write_str("sw"),
            Self::Node(n) => write!(f, "n{n}"),
            Self::Server(n) => write!(f, "s{n}"),
            Self::Client => f.write_str("c1"),
        }
    }
}

/// The name of one lab; several may run side by side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tag(String);

impl FromStr for Tag {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let fits = (1..=12).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if fits {
            Ok(Self(s.to_owned()))
        } else {
            Err(format!("`{s}` is no tag: use 1 to 12 lower-case letters and digits"))
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Tag {
    /// What every namespace of this lab begins with.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("sfl-{}-", self.0)
    }

    /// Name of a host's namespace.
    #[must_use]
    pub fn namespace(&self, host: Host) -> String {
        format!("{}{host}", self.prefix())
    }

    /// Where `ip netns` keeps a host's namespace.
    #[must_use]
    pub fn namespace_path(&self, host: Host) -> PathBuf {
        Path::new("/run/netns").join(self.namespace(host))
    }

    /// Folder of the lab's own state: what there is to remove, sockets, local files of the nodes.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run/steadfast-lab").join(&self.0)
    }

    /// Held by the `lab` that works on this tag.
    #[must_use]
    pub fn lock_path(&self) -> PathBuf {
        Path::new("/run/steadfast-lab").join(format!("{}.lock", self.0))
    }

    /// Folder of the nodes' pins.
    #[must_use]
    pub fn bpf_dir(&self) -> PathBuf {
        Path::new(BPF_ROOT).join(format!("sfl-{}", self.0))
    }

    /// Unix socket of a node.
    #[must_use]
    pub fn socket(&self, node: u8) -> PathBuf {
        self.run_dir().join(format!("n{node}.sock"))
    }
}

/// Folder under which the product pins its programs.
pub const BPF_ROOT: &str = "/sys/fs/bpf/steadfast";

/// The service of the client.
#[must_use]
pub fn vip_target() -> SocketAddr {
    (VIP, PORT).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_short_and_plain() {
        for good in ["demo", "lab", "t1", "abcdefghijkl"] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", "abcdefghijklm", "a-b", "A", "a/b", "..", "a b"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_carry_the_prefix_and_no_address_is_used_twice() {
        let tag: Tag = "demo".parse().unwrap();
        assert_eq!(tag.namespace(Host::Node(2)), "sfl-demo-n2");
        for mode in Mode::ALL {
            let mut all = vec![VIP, GATEWAY, CLIENT];
            all.extend(LOCALS);
            all.extend(SERVERS.map(|n| mode.server_address(n)));
            for network in [Network::Front, Network::Back, Network::Mgmt] {
                all.extend(NODES.map(|n| network.node_address(n)));
            }
            let count = all.len();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), count);
            assert!(all.iter().all(|a| a.octets()[..2] == [198, 18]));
        }
    }
}
