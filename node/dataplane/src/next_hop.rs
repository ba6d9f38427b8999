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
    /// The data interfaces, by index: what frames come from and go to, with or without a tag.
    pub ports: Vec<PortSpec>,
    /// Routes, in any order.
    pub routes: Vec<Route>,
    /// Resolved neighbours, each with the data interface it is on: a link-local address means
    /// another neighbour on each of them.
    pub neighbours: Vec<(u16, IpAddr, Mac)>,
}

/// A data interface.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PortSpec {
    /// Its MAC address.
    pub mac: Mac,
    /// Addresses of this node on it, in the kernel's order.
    pub addrs: Vec<IpAddr>,
    /// The largest IP packet it takes; 0: not known, and not looked at.
    pub mtu: u32,
    /// MAC addresses of the cluster's other nodes on its segment: their frames are never relayed.
    pub cluster_macs: Vec<Mac>,
    /// It is a VLAN of another interface.
    pub tagged: Option<Tagged>,
    /// The kernel's index of it; nothing here looks at it.
    pub kernel_index: u32,
}

/// A VLAN of an interface: a port of its own, whose frames come and go on the other, with a tag.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Tagged {
    /// Index of the interface that carries it.
    pub trunk: u16,
    /// The VLAN's number, 1 to 4094.
    pub vlan: u16,
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
    /// The address to send from, where the route names one (`src` of `ip route`).
    pub src: Option<IpAddr>,
    /// The largest IP packet, where the route says so (`mtu` of `ip route`).
    pub mtu: Option<u32>,
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
    /// The largest IP packet that goes there.
    pub mtu: u16,
    /// The address of this node that packets of its own go there from, of the family of the
    /// address that was looked up; absent when there is none.
    pub src_addr: Option<IpAddr>,
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
    neighbours: Map<(u16, IpAddr), Mac>,
    /// Ports that are VLANs.
    tagged: Map<Tagged, u16>,
}

#[derive(Debug)]
struct Port {
    tagged: Option<Tagged>,
    kernel_index: u32,
    mac: Mac,
    addrs: Vec<IpAddr>,
    mtu: u16,
    cluster_macs: HashSet<Mac>,
}

#[derive(Clone, Copy, Debug)]
struct Leg {
    port: Option<u16>,
    gateway: Option<IpAddr>,
    src: Option<IpAddr>,
    mtu: u16,
}

impl NextHops {
    /// Compiles a snapshot. Of two routes for one prefix the first counts.
    #[must_use]
    pub fn new(spec: NextHopsSpec) -> Self {
        let tagged = spec.ports.iter().zip(0..);
        let tagged = tagged.filter_map(|(port, number)| Some((port.tagged?, number))).collect();
        let ports = spec
            .ports
            .into_iter()
            .map(|port| Port {
                tagged: port.tagged,
                kernel_index: port.kernel_index,
                mac: port.mac,
                addrs: port.addrs,
                mtu: mtu_of(port.mtu),
                cluster_macs: port.cluster_macs.into_iter().collect(),
            })
            .collect();
        let mut v4: Map<u8, Map<u32, Leg>> = Map::default();
        let mut v6: Map<u8, Map<u128, Leg>> = Map::default();
        for route in spec.routes {
            let Route { port, gateway, src, mtu, .. } = route;
            let leg = Leg { port, gateway, src, mtu: mtu_of(mtu.unwrap_or(0)) };
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
        let neighbours = spec.neighbours.into_iter().map(|(port, addr, mac)| ((port, addr), mac));
        let neighbours = neighbours.collect();
        Self { generation: spec.generation, ports, v4, v6, neighbours, tagged }
    }

    /// How to reach `addr`. A link-local address of IPv6 is on a link that it does not name, so
    /// there is no route to it; a gateway can have one.
    #[must_use]
    pub fn resolve(&self, addr: IpAddr) -> Resolved {
        //= RFC 4291 section 2.5.6: routers must not forward packets with link-local addresses
        if matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local()) {
            return Resolved::NoRoute;
        }
        let Some(leg) = self.leg(addr) else { return Resolved::NoRoute };
        let Some(port) = leg.port else { return Resolved::NoRoute };
        let neighbour = leg.gateway.unwrap_or(addr);
        match (self.neighbours.get(&(port, neighbour)), self.ports.get(usize::from(port))) {
            (Some(mac), Some(own)) => Resolved::Hop(own.hop(addr, (port, leg), *mac)),
            (None, Some(_)) => Resolved::Unresolved { port, probe: neighbour },
            (_, None) => Resolved::NoRoute,
        }
    }

    /// The interface on whose link `addr` is, if no gateway is between and the kernel does not know
    /// its MAC address.
    pub(crate) fn unknown_on_link(&self, addr: IpAddr) -> Option<u16> {
        match self.resolve(addr) {
            Resolved::Unresolved { port, probe } if probe == addr => Some(port),
            _ => None,
        }
    }

    /// How to reach `addr`, on the link of one of our interfaces, if it has this MAC address.
    pub(crate) fn hop_if(&self, addr: IpAddr, mac: Mac) -> Option<Hop> {
        let leg = self.leg(addr)?;
        let port = leg.port?;
        Some(self.ports.get(usize::from(port))?.hop(addr, (port, leg), mac))
    }

    /// The port that frames of this VLAN come in on; `None` when no segment is there.
    #[must_use]
    pub fn port_of(&self, tagged: Tagged) -> Option<u16> {
        self.tagged.get(&tagged).copied()
    }

    /// The VLAN that a port is, if it is one.
    #[must_use]
    pub fn tagged(&self, port: u16) -> Option<Tagged> {
        self.ports.get(usize::from(port)).and_then(|port| port.tagged)
    }

    /// The kernel's index of a port.
    #[must_use]
    pub fn kernel_index(&self, port: u16) -> Option<u32> {
        self.ports.get(usize::from(port)).map(|port| port.kernel_index)
    }

    /// The MAC address of an interface.
    #[must_use]
    pub fn port_mac(&self, port: u16) -> Option<Mac> {
        self.ports.get(usize::from(port)).map(|port| port.mac)
    }

    /// The largest IP packet an interface takes.
    #[must_use]
    pub fn port_mtu(&self, port: u16) -> u16 {
        self.ports.get(usize::from(port)).map_or(u16::MAX, |port| port.mtu)
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

impl Port {
    /// To `addr`, by a neighbour with this MAC address.
    fn hop(&self, addr: IpAddr, (port, leg): (u16, Leg), mac: Mac) -> Hop {
        let neighbour = leg.gateway.unwrap_or(addr);
        Hop {
            port,
            src_mac: self.mac,
            dst_mac: mac,
            mtu: self.mtu.min(leg.mtu),
            src_addr: leg.src.or_else(|| self.source_for(addr, neighbour)),
        }
    }

    /// The address to send to `addr` from, through `neighbour`: the kernel's choice as far as
    /// addresses alone tell.
    //= RFC 6724 section 5, rules 2 and 8: the right scope, then the longest matching prefix
    //= Linux net/ipv4/devinet.c, inet_select_addr(): one in the subnet of the neighbour
    fn source_for(&self, addr: IpAddr, neighbour: IpAddr) -> Option<IpAddr> {
        let like = if neighbour.is_ipv4() == addr.is_ipv4() { neighbour } else { addr };
        let like = if is_link_local(like) { addr } else { like };
        self.addrs
            .iter()
            .filter(|own| own.is_ipv4() == addr.is_ipv4())
            .filter(|own| is_link_local(**own) == is_link_local(addr))
            .rev()
            .max_by_key(|own| common_prefix(**own, like))
            .copied()
    }
}

/// fe80::/10: no source for what goes over a router. IPv4 link-local addresses are no exception
/// to its routing.
fn is_link_local(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}

/// Leading bits that two addresses of one family have in common.
fn common_prefix(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    }
}

/// No IP packet is longer than 16 bits say, jumbograms aside.
fn mtu_of(mtu: u32) -> u16 {
    if mtu == 0 { u16::MAX } else { u16::try_from(mtu).unwrap_or(u16::MAX) }
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
        let gateway = gateway.map(ip);
        Route { prefix: ip(prefix), prefix_len, port, gateway, src: None, mtu: None }
    }

    #[test]
    fn the_longest_prefix_wins_and_gateways_are_resolved() {
        let hops = NextHops::new(NextHopsSpec {
            generation: 1,
            ports: vec![
                PortSpec {
                    mac: A,
                    addrs: vec![ip("198.18.0.11")],
                    mtu: 1500,
                    cluster_macs: vec![B],
                    ..PortSpec::default()
                },
                PortSpec { mac: B, ..PortSpec::default() },
            ],
            routes: vec![
                route("0.0.0.0", 0, Some(0), Some("198.18.0.1")),
                route("198.18.0.0", 24, Some(0), None),
                route("198.18.1.0", 24, Some(1), None),
                route("198.18.1.128", 25, None, None),
                route("2001:db8::", 32, Some(1), None),
                route("2001:db8:a::", 48, Some(0), Some("fe80::1")),
                route("2001:db8:b::", 48, Some(1), Some("fe80::1")),
                route("fe80::", 64, Some(0), None),
            ],
            neighbours: vec![
                (0, ip("198.18.0.1"), [9; 6]),
                (1, ip("198.18.1.5"), [5; 6]),
                (1, ip("2001:db8::5"), [6; 6]),
                (0, ip("fe80::1"), [7; 6]),
                (1, ip("fe80::1"), [8; 6]),
            ],
        });
        let src = ip("198.18.0.11");
        let via = |port, src_mac, dst_mac| {
            let (mtu, src_addr) = if port == 0 { (1500, Some(src)) } else { (u16::MAX, None) };
            Resolved::Hop(Hop { port, src_mac, dst_mac, mtu, src_addr })
        };
        assert_eq!(hops.resolve(ip("203.0.113.9")), via(0, A, [9; 6]), "default route");
        assert_eq!(hops.resolve(ip("198.18.1.5")), via(1, B, [5; 6]), "on the link");
        assert_eq!(hops.resolve(ip("2001:db8::5")), via(1, B, [6; 6]), "IPv6");
        let no_address_of_ipv6 =
            Resolved::Hop(Hop { port: 0, src_mac: A, dst_mac: [7; 6], mtu: 1500, src_addr: None });
        assert_eq!(hops.resolve(ip("2001:db8:a::9")), no_address_of_ipv6, "gateway on its link");
        assert_eq!(hops.resolve(ip("2001:db8:b::9")), via(1, B, [8; 6]), "the other's namesake");
        assert_eq!(hops.resolve(ip("fe80::1")), Resolved::NoRoute, "on which link?");
        let probe = ip("198.18.0.77");
        assert_eq!(hops.resolve(probe), Resolved::Unresolved { port: 0, probe });
        assert_eq!(hops.resolve(ip("198.18.1.200")), Resolved::NoRoute, "leaves elsewhere");
        assert_eq!(hops.resolve(ip("2001:db9::")), Resolved::NoRoute);
        assert!(hops.is_cluster_mac(0, B) && !hops.is_cluster_mac(1, B));
        assert!(hops.is_own_addr(ip("198.18.0.11")));
        assert_eq!((hops.port_mac(1), hops.port_mac(2)), (Some(B), None));
    }

    #[test]
    fn a_vlan_is_a_port_that_is_found_by_its_trunk_and_number() {
        let tagged = |trunk, vlan| Some(Tagged { trunk, vlan });
        let port = |tagged, kernel_index| PortSpec { tagged, kernel_index, ..PortSpec::default() };
        let hops = NextHops::new(NextHopsSpec {
            ports: vec![port(None, 7), port(tagged(0, 100), 8), port(tagged(0, 200), 9)],
            ..NextHopsSpec::default()
        });
        let found = |trunk, vlan| hops.port_of(Tagged { trunk, vlan });
        assert_eq!((found(0, 100), found(0, 200)), (Some(1), Some(2)));
        assert_eq!((found(0, 0), found(0, 300), found(1, 100)), (None, None, None));
        assert_eq!((hops.tagged(0), hops.tagged(2)), (None, tagged(0, 200)));
        assert_eq!((hops.tagged(3), hops.kernel_index(1)), (None, Some(8)));
    }

    #[test]
    fn a_packet_of_our_own_goes_from_the_address_that_the_kernel_would_take() {
        let addrs =
            ["fe80::1", "203.0.113.7", "198.18.0.11", "2001:db8:9::7", "2001:db8::11", "10.0.0.1"];
        let with = |routes: Vec<Route>| {
            NextHops::new(NextHopsSpec {
                ports: vec![PortSpec {
                    mac: A,
                    addrs: addrs.map(ip).to_vec(),
                    mtu: 1500,
                    ..PortSpec::default()
                }],
                routes,
                neighbours: ["198.18.0.1", "198.18.0.7", "fe80::9", "2001:db8::7", "10.9.9.9"]
                    .map(|addr| (0, ip(addr), B))
                    .to_vec(),
                ..NextHopsSpec::default()
            })
        };
        let to = |routes: &[Route], addr: &str| match with(routes.to_vec()).resolve(ip(addr)) {
            Resolved::Hop(hop) => (hop.src_addr.unwrap().to_string(), hop.mtu),
            other => panic!("{addr}: {other:?}"),
        };
        let plain = [
            route("0.0.0.0", 0, Some(0), Some("198.18.0.1")),
            route("198.18.0.0", 24, Some(0), None),
            route("10.9.0.0", 16, Some(0), None),
            route("::", 0, Some(0), Some("fe80::9")),
            route("2001:db8::", 64, Some(0), None),
            route("fe80::", 64, Some(0), None),
        ];
        let cases = [
            ("on the link", "198.18.0.7", "198.18.0.11"),
            ("in the subnet of the gateway", "192.0.2.9", "198.18.0.11"),
            ("the longest prefix in common", "10.9.9.9", "10.0.0.1"),
            ("IPv6 on the link", "2001:db8::7", "2001:db8::11"),
            ("IPv6 over a link-local gateway", "2001:db8:9::1", "2001:db8:9::7"),
        ];
        for (description, addr, src) in cases {
            assert_eq!(to(&plain, addr), (src.to_owned(), 1500), "{description}");
        }
        let mut named = plain;
        (named[0].src, named[0].mtu) = (Some(ip("203.0.113.7")), Some(1400));
        assert_eq!(to(&named, "192.0.2.9"), ("203.0.113.7".to_owned(), 1400), "the route says so");
        named[0].mtu = Some(9000);
        assert_eq!(to(&named, "192.0.2.9").1, 1500, "no more than the interface takes");
    }
}
