//! Ways of forwarding, one a row, and the addresses each has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::host::family::Family;

/// Where the servers of a row are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Servers {
    /// In the front, with the VIP; they answer the client themselves.
    Front,
    /// In the front, with addresses whose only way out is a gateway of the group.
    FrontByGateway,
    /// At the back, where everything goes to a gateway of the group.
    Back,
}

/// One way of forwarding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mode {
    /// The word in names of cells.
    pub name: &'static str,
    /// `forwarding` of its services.
    pub forwarding: &'static str,
    /// `tunnel` of its services.
    pub tunnel: Option<&'static str>,
    /// Where the servers are.
    pub servers: Servers,
    /// The servers' addresses are of the other family than the VIP.
    pub other_family: bool,
}

/// Every way of forwarding that is tried.
pub const MODES: [Mode; 8] = [
    Mode {
        name: "nat",
        forwarding: "nat",
        tunnel: None,
        servers: Servers::Back,
        other_family: false,
    },
    Mode {
        name: "nat-one-arm",
        forwarding: "nat",
        tunnel: None,
        servers: Servers::FrontByGateway,
        other_family: false,
    },
    Mode {
        name: "dr",
        forwarding: "dr",
        tunnel: None,
        servers: Servers::Front,
        other_family: false,
    },
    tunnel("ipip", "{type: ipip}", false),
    tunnel("gue", "{type: gue}", false),
    tunnel("gre", "{type: gre, checksum: true}", false),
    tunnel("ipip-other", "{type: ipip}", true),
    Mode {
        name: "full-nat",
        forwarding: "full_nat",
        tunnel: None,
        servers: Servers::Back,
        other_family: false,
    },
];

const fn tunnel(name: &'static str, tunnel: &'static str, other_family: bool) -> Mode {
    Mode { name, forwarding: "tun", tunnel: Some(tunnel), servers: Servers::Front, other_family }
}

/// The first VIP's last number; the others follow.
const FIRST_VIP: u8 = 101;

impl Mode {
    /// The VIP of this row.
    #[must_use]
    pub fn vip(&self, family: Family) -> IpAddr {
        let row = MODES.iter().position(|mode| mode == self).unwrap_or_default();
        let last = FIRST_VIP + u8::try_from(row).unwrap_or_default();
        address(family, Net::Front, last)
    }

    /// Address of server `n` for a VIP of this family.
    #[must_use]
    pub fn server(&self, family: Family, n: u8) -> IpAddr {
        let family = match (self.other_family, family) {
            (false, family) => family,
            (true, Family::V4) => Family::V6,
            (true, Family::V6) => Family::V4,
        };
        match self.servers {
            Servers::Front => address(family, Net::Front, 10 + n),
            Servers::FrontByGateway => address(family, Net::Front, 20 + n),
            Servers::Back => address(family, Net::Back, 10 + n),
        }
    }

    /// The servers have the VIP and answer the client themselves.
    #[must_use]
    pub fn servers_have_the_vip(&self) -> bool {
        self.servers == Servers::Front
    }
}

/// A network of the lab.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Net {
    /// Clients, VIPs and servers.
    Front,
    /// Servers behind the nodes.
    Back,
}

/// The gateway of the group in a network.
#[must_use]
pub fn gateway(family: Family, net: Net) -> IpAddr {
    address(family, net, 254)
}

/// From where servers see the connections of full-NAT.
#[must_use]
pub fn local(family: Family) -> IpAddr {
    address(family, Net::Back, 200)
}

/// 198.18.NET.LAST, or 2001:db8:18:NET::LAST with the same digits.
#[must_use]
pub fn address(family: Family, net: Net, last: u8) -> IpAddr {
    let net = u8::from(net == Net::Back);
    match family {
        Family::V4 => Ipv4Addr::new(198, 18, net, last).into(),
        Family::V6 => {
            let [hundreds, tens, ones] = [last / 100, last / 10 % 10, last % 10].map(u16::from);
            let digits = hundreds << 8 | tens << 4 | ones;
            Ipv6Addr::new(0x2001, 0xdb8, 0x18, net.into(), 0, 0, 0, digits).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::names::{NODES, SERVERS};

    #[test]
    fn no_address_is_used_twice_and_those_of_the_lab_are_kept() {
        for family in [Family::V4, Family::V6] {
            let mut all = vec![family.vip(), family.client(), family.gateway()];
            all.extend([gateway(family, Net::Front), local(family)]);
            all.extend(NODES.map(|n| address(family, Net::Front, n)));
            all.extend(NODES.map(|n| address(family, Net::Back, n)));
            all.extend(MODES.map(|mode| mode.vip(family)));
            for servers in [Servers::Front, Servers::FrontByGateway, Servers::Back] {
                let mode = MODES.into_iter().find(|m| m.servers == servers && !m.other_family);
                all.extend(SERVERS.map(|n| mode.unwrap().server(family, n)));
            }
            let count = all.len();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), count, "{all:?}");
        }
        assert_eq!(gateway(Family::V6, Net::Back), Family::V6.gateway());
        assert_eq!(address(Family::V6, Net::Front, 200), Family::V6.client());
    }
}
