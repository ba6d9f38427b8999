//! One consistent picture of the kernel's interfaces, addresses, routes and neighbours.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use steadfast_model::document::Prefix;

/// Neighbours kept; a segment with more is served, but the newest are not known.
pub(crate) const NEIGHBOURS_MAX: usize = 65_536;

/// An interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: [u8; 6],
    /// Administratively up and with carrier.
    pub(crate) up: bool,
    /// The largest IP packet it takes; 0: not told.
    pub(crate) mtu: u32,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// It is a VLAN of another interface.
    pub(crate) vlan: Option<Vlan>,
}

/// What makes an interface a VLAN.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Vlan {
    /// Index of the interface that carries it.
    pub(crate) parent: u32,
    /// Its number.
    pub(crate) id: u16,
    /// Its tags are those of IEEE 802.1Q, not of 802.1ad.
    pub(crate) is_8021q: bool,
}

/// A unicast route of the main table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Route {
    pub(crate) prefix: Prefix,
    pub(crate) interface: u32,
    /// `None`: the destination is on the link.
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) metric: u32,
    /// The address to send from, where the route names one.
    pub(crate) source: Option<IpAddr>,
    /// The largest IP packet, where the route says so.
    pub(crate) mtu: Option<u32>,
}

/// A neighbour: the interface it is on, and its address.
pub(crate) type NeighbourKey = (u32, IpAddr);

/// The picture.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct KernelView {
    pub(crate) interfaces: BTreeMap<u32, Interface>,
    pub(crate) routes: Vec<Route>,
    /// MAC addresses of usable neighbours by (interface, address).
    pub(crate) neighbours: HashMap<NeighbourKey, [u8; 6]>,
}

impl KernelView {
    /// The interface that has an address of its own in `prefix`.
    pub(crate) fn interface_in(
        &self,
        prefix: Prefix,
        except: &BTreeSet<IpAddr>,
    ) -> Option<&Interface> {
        let own = |address: &IpAddr| prefix.contains(*address) && !except.contains(address);
        self.interfaces.values().find(|i| i.addresses.iter().any(own))
    }

    /// The interface that leads to `address`, and the neighbour to ask for there.
    pub(crate) fn route(&self, address: IpAddr) -> Option<(u32, IpAddr)> {
        self.routes
            .iter()
            .filter(|r| r.prefix.contains(address))
            .max_by_key(|r| (r.prefix.length(), u32::MAX - r.metric))
            .map(|r| (r.interface, r.gateway.unwrap_or(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, interface: u32, gateway: Option<&str>, metric: u32) -> Route {
        Route {
            prefix: prefix.parse().unwrap(),
            interface,
            gateway: gateway.map(|g| g.parse().unwrap()),
            metric,
            source: None,
            mtu: None,
        }
    }

    #[test]
    fn the_longest_prefix_wins_then_the_lowest_metric() {
        let view = KernelView {
            routes: vec![
                route("0.0.0.0/0", 1, Some("198.18.0.254"), 0),
                route("198.18.0.0/24", 2, None, 100),
                route("198.18.0.0/24", 3, None, 50),
            ],
            ..KernelView::default()
        };
        let at = |a: &str| view.route(a.parse().unwrap());
        assert_eq!(at("198.18.0.9"), Some((3, "198.18.0.9".parse().unwrap())));
        assert_eq!(at("203.0.113.1"), Some((1, "198.18.0.254".parse().unwrap())));
        assert_eq!(at("2001:db8::1"), None);
    }
}
