//! Next hops: the kernel's routes and neighbours, compiled for the workers.
//!
//! Guarantees: longest prefix first, as the kernel's main table; a look-up never blocks. Not here:
//! policy routing, metrics (the driver passes the best route of a prefix), probing neighbours.

use std::{collections::HashSet, net::IpAddr};

use steadfast_packet::Mac;

use crate::fast::Map;

/// Input of [`NextHops::new`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NextHopsSpec {
    /// Raised with every change: caches of workers check it on every packet.
    pub generation: u64,
    /// The data interfaces, by index.
    pub ports: Vec<PortSpec>,
    /// Routes, in any order.
    pub routes: Vec<Route>,
    /// Resolved neighbours.
    pub neighbours: Vec<(IpAddr, Mac)>,
}

/// A data interface.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PortSpec {
    /// Its MAC address.
    pub mac: Mac,
    /// Addresses of this node on it.
    pub addrs: Vec<IpAddr>,
    /// MAC addresses of the cluster's other nodes on its segment: their frames are never relayed.
    pub cluster_macs: Vec<Mac>,
}

/// A route of the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Route {
    /// Network address.
    pub prefix: IpAddr,
    /// Prefix length.
    pub prefix_len: u8,
    /// Index of the data interface; absent when it leaves through another interface.
    pub port: Option<u16>,
    /// Gateway; absent when the prefix is on the link.
    pub gateway: Option<IpAddr>,
}

/// Frames to a next hop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hop {
    /// Index of the interface to send from.
    pub port: u16,
    /// Its own MAC address.
    pub src_mac: Mac,
    /// The neighbour's MAC address.
    pub dst_mac: Mac,
}

/// Outcome of a look-up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Resolved {
    /// Send there.
    Hop(Hop),
    /// The neighbour's MAC address is not known: let the kernel probe it.
    Unresolved {
        /// The interface it is on.
        port: u16,
        /// Whom to probe.
        probe: IpAddr,
    },
    /// No route, or one through an interface that is not ours.
    NoRoute,
}

/// Routes and neighbours at one moment.
#[derive(Debug, Default)]
pub struct NextHops {
    generation: u64,
    ports: Vec<Port>,
    /// Prefix lengths in use, longest first, each with its networks.
    v4: Vec<(u8, Map<u32, Leg>)>,
    v6: Vec<(u8, Map<u128, Leg>)>,
    neighbours: Map<IpAddr, Mac>,
}

#[derive(Debug)]
struct Port {
    mac: Mac,
    addrs: Vec<IpAddr>,
    cluster_macs: HashSet<Mac>,
}

#[derive(Clone, Copy, Debug)]
struct Leg {
    port: Option<u16>,
    gateway: Option<IpAddr>,
}

impl NextHops {
    /// Compiles a snapshot. Of two routes for one prefix the first counts.
    #[must_use]
    pub fn new(spec: NextHopsSpec) -> Self {
        let ports = spec
            .ports
            .into_iter()
            .map(|port| Port {
                mac: port.mac,
                addrs: port.addrs,
                cluster_macs: port.cluster_macs.into_iter().collect(),
            })
            .collect();
        let mut v4: Map<u8, Map<u32, Leg>> = Map::default();
        let mut v6: Map<u8, Map<u128, Leg>> = Map::default();
        for route in spec.routes {
            let leg = Leg { port: route.port, gateway: route.gateway };
            match route.prefix {
                IpAddr::V4(prefix) => {
                    let len = route.prefix_len.min(32);
                    let network = prefix.to_bits() & mask4(len);
                    v4.entry(len).or_default().entry(network).or_insert(leg);
                }
                IpAddr::V6(prefix) => {
                    let len = route.prefix_len.min(128);
                    let network = prefix.to_bits() & mask6(len);
                    v6.entry(len).or_default().entry(network).or_insert(leg);
                }
            }
        }
        let mut v4: Vec<_> = v4.into_iter().collect();
        let mut v6: Vec<_> = v6.into_iter().collect();
        v4.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        v6.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        let neighbours = spec.neighbours.into_iter().collect();
        Self { generation: spec.generation, ports, v4, v6, neighbours }
    }

    /// How to reach `addr`.
    #[must_use]
    pub fn resolve(&self, addr: IpAddr) -> Resolved {
        let Some(Leg { port: Some(port), gateway }) = self.leg(addr) else {
            return Resolved::NoRoute;
        };
        let Some(own) = self.ports.get(usize::from(port)) else { return Resolved::NoRoute };
        let neighbour = gateway.unwrap_or(addr);
        match self.neighbours.get(&neighbour) {
            Some(mac) => Resolved::Hop(Hop { port, src_mac: own.mac, dst_mac: *mac }),
            None => Resolved::Unresolved { port, probe: neighbour },
        }
    }

    /// The MAC address of an interface.
    #[must_use]
    pub fn port_mac(&self, port: u16) -> Option<Mac> {
        self.ports.get(usize::from(port)).map(|port| port.mac)
    }

    /// `mac` is another node of the cluster, on this interface.
    #[must_use]
    pub fn is_cluster_mac(&self, port: u16, mac: Mac) -> bool {
        self.ports.get(usize::from(port)).is_some_and(|port| port.cluster_macs.contains(&mac))
    }

    /// `addr` is an address of this node.
    #[must_use]
    pub fn is_own_addr(&self, addr: IpAddr) -> bool {
        self.ports.iter().any(|port| port.addrs.contains(&addr))
    }

    /// The generation of this snapshot.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn leg(&self, addr: IpAddr) -> Option<Leg> {
        match addr {
            IpAddr::V4(addr) => {
                let bits = addr.to_bits();
                self.v4.iter().find_map(|(len, nets)| nets.get(&(bits & mask4(*len))).copied())
            }
            IpAddr::V6(addr) => {
                let bits = addr.to_bits();
                self.v6.iter().find_map(|(len, nets)| nets.get(&(bits & mask6(*len))).copied())
            }
        }
    }
}

fn mask4(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

fn mask6(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn route(prefix: &str, prefix_len: u8, port: Option<u16>, gateway: Option<&str>) -> Route {
        Route { prefix: ip(prefix), prefix_len, port, gateway: gateway.map(ip) }
    }

    #[test]
    fn the_longest_prefix_wins_and_gateways_are_resolved() {
        let hops = NextHops::new(NextHopsSpec {
            generation: 1,
            ports: vec![
                PortSpec { mac: A, addrs: vec![ip("198.18.0.11")], cluster_macs: vec![B] },
                PortSpec { mac: B, ..PortSpec::default() },
            ],
            routes: vec![
                route("0.0.0.0", 0, Some(0), Some("198.18.0.1")),
                route("198.18.0.0", 24, Some(0), None),
                route("198.18.1.0", 24, Some(1), None),
                route("198.18.1.128", 25, None, None),
                route("2001:db8::", 32, Some(1), None),
            ],
            neighbours: vec![
                (ip("198.18.0.1"), [9; 6]),
                (ip("198.18.1.5"), [5; 6]),
                (ip("2001:db8::5"), [6; 6]),
            ],
        });
        let via = |port, src_mac, dst_mac| Resolved::Hop(Hop { port, src_mac, dst_mac });
        assert_eq!(hops.resolve(ip("203.0.113.9")), via(0, A, [9; 6]), "default route");
        assert_eq!(hops.resolve(ip("198.18.1.5")), via(1, B, [5; 6]), "on the link");
        assert_eq!(hops.resolve(ip("2001:db8::5")), via(1, B, [6; 6]), "IPv6");
        let probe = ip("198.18.0.77");
        assert_eq!(hops.resolve(probe), Resolved::Unresolved { port: 0, probe });
        assert_eq!(hops.resolve(ip("198.18.1.200")), Resolved::NoRoute, "leaves elsewhere");
        assert_eq!(hops.resolve(ip("2001:db9::")), Resolved::NoRoute);
        assert!(hops.is_cluster_mac(0, B) && !hops.is_cluster_mac(1, B));
        assert!(hops.is_own_addr(ip("198.18.0.11")));
        assert_eq!((hops.port_mac(1), hops.port_mac(2)), (Some(B), None));
    }
}
