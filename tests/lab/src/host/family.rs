//! The addresses of a lab's hosts in either family. IPv6 ones are from 2001:db8::/32 (RFC 3849:
//! documentation), with the decimal numbers of IPv4 written as hexadecimal ones.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::names::{CLIENT, GATEWAY, LOCALS, Mode, Network, PORT, VIP};

/// The family of the sessions. With IPv6 the network and the configuration have both.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
pub enum Family {
    /// IPv4 alone.
    #[default]
    #[value(name = "4")]
    #[serde(rename = "4")]
    V4,
    /// IPv6, beside IPv4.
    #[value(name = "6")]
    #[serde(rename = "6")]
    V6,
}

impl Family {
    /// Ends the name of a report.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::V4 => "",
            Self::V6 => "-v6",
        }
    }

    /// Name of the TCP service in the examples.
    #[must_use]
    pub fn service(self) -> &'static str {
        match self {
            Self::V4 => crate::cluster::running::SERVICE,
            Self::V6 => "echo-tcp-v6",
        }
    }

    /// The VIP.
    #[must_use]
    pub fn vip(self) -> IpAddr {
        match self {
            Self::V4 => VIP.into(),
            Self::V6 => on(Network::Front, 0x100),
        }
    }

    /// The service of the client.
    #[must_use]
    pub fn target(self) -> SocketAddr {
        (self.vip(), PORT).into()
    }

    /// The address the real servers use as their gateway with NAT.
    #[must_use]
    pub fn gateway(self) -> IpAddr {
        match self {
            Self::V4 => GATEWAY.into(),
            Self::V6 => on(Network::Back, 0x254),
        }
    }

    /// The addresses from which the nodes talk to the real servers with full-NAT.
    #[must_use]
    pub fn locals(self) -> [IpAddr; 2] {
        match self {
            Self::V4 => LOCALS.map(IpAddr::from),
            Self::V6 => [0x200, 0x201].map(|host| on(Network::Back, host)),
        }
    }

    /// The client.
    #[must_use]
    pub fn client(self) -> IpAddr {
        match self {
            Self::V4 => CLIENT.into(),
            Self::V6 => on(Network::Front, 0x200),
        }
    }

    /// Address of real server `n`.
    #[must_use]
    pub fn server(self, mode: Mode, n: u8) -> IpAddr {
        match self {
            Self::V4 => mode.server_address(n).into(),
            Self::V6 => on(mode.server_network(), 0x10 + u16::from(n)),
        }
    }

    /// Address of node `n`. The daemons talk to each other over IPv4.
    #[must_use]
    pub fn node(self, network: Network, n: u8) -> IpAddr {
        match self {
            Self::V4 => network.node_address(n).into(),
            Self::V6 => on(network, n.into()),
        }
    }

    /// The families that hosts have addresses of.
    #[must_use]
    pub fn all(self) -> &'static [Self] {
        match self {
            Self::V4 => &[Self::V4],
            Self::V6 => &[Self::V4, Self::V6],
        }
    }

    /// Length of the prefixes of the networks.
    #[must_use]
    pub fn prefix_len(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    /// Length of the prefix of one address.
    #[must_use]
    pub fn host_len(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// 2001:db8:18:NETWORK::host.
fn on(network: Network, host: u16) -> IpAddr {
    let [_, _, network, _] = network.node_address(0).octets();
    Ipv6Addr::new(0x2001, 0xdb8, 0x18, network.into(), 0, 0, 0, host).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::names::{NODES, SERVERS};

    #[test]
    fn no_address_is_used_twice() {
        for mode in [Mode::Dr, Mode::Nat, Mode::FullNat] {
            let family = Family::V6;
            let mut all = vec![family.vip(), family.gateway(), family.client()];
            all.extend(family.locals());
            all.extend(SERVERS.map(|n| family.server(mode, n)));
            for network in [Network::Front, Network::Back] {
                all.extend(NODES.map(|n| family.node(network, n)));
            }
            let count = all.len();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), count);
            assert!(all.iter().all(|a| a.to_string().starts_with("2001:db8:18:")));
        }
        assert_eq!(Family::V6.target().to_string(), "[2001:db8:18::100]:7");
        assert_eq!(Family::V6.server(Mode::Nat, 1).to_string(), "2001:db8:18:1::11");
    }
}
