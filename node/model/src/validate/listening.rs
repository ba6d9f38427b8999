//! Where services listen, and what NAT servers answer for: no packet may be of two services.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
};

use super::{Check, PORT_FIX};
use crate::{
    document::{Forwarding, GroupSpec, Listener, Ports, Protocol, ServerSpec, ServiceSpec},
    problem::{choose_or, shown},
};

/// Addresses, protocols and ports of one match group.
pub const MATCHES_MAX: usize = 256;
/// Port ranges of one address and protocol, over all services.
pub const RANGES_MAX: usize = 1_024;

/// Port intervals that have no port in common, and whose they are.
#[derive(Debug, Default)]
struct Intervals<'a>(BTreeMap<u16, (Ports, &'a ServiceSpec)>);

/// Who listens where. Single ports, ranges and all ports do not get in each other's way.
#[derive(Debug, Default)]
pub(super) struct Endpoints<'a>(BTreeMap<(IpAddr, Protocol, Class), Intervals<'a>>);

/// Whose answers come from where.
#[derive(Debug, Default)]
pub(super) struct Pools<'a>(BTreeMap<(IpAddr, Protocol), Intervals<'a>>);

/// How specific ports are, the most specific first: the order of looking up.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Class {
    Single,
    Range,
    Any,
}

impl<'a> Intervals<'a> {
    /// Adds an interval, unless it meets another: then that one.
    fn add(&mut self, ports: Ports, service: &'a ServiceSpec) -> Option<(Ports, &'a ServiceSpec)> {
        let before = self.0.range(..=ports.last()).next_back().map(|(_, found)| *found);
        if let Some(found) = before.filter(|(other, _)| other.meets(ports)) {
            return Some(found);
        }
        if let Entry::Vacant(place) = self.0.entry(ports.first()) {
            place.insert((ports, service));
        }
        None
    }
}

impl Class {
    fn of(ports: Ports) -> Self {
        match ports.single() {
            Some(_) => Self::Single,
            None if ports == Ports::ANY => Self::Any,
            None => Self::Range,
        }
    }
}

impl<'a> Check<'a> {
    /// Everything the service listens on, with the path of each in the document.
    pub(super) fn listeners(
        &mut self,
        place: &str,
        service: &'a ServiceSpec,
        endpoints: &mut Endpoints<'a>,
    ) -> Vec<(String, Listener)> {
        let single = service.address.is_some() || service.port.is_some();
        if service.matches.is_empty() {
            for (key, given) in
                [("address", service.address.is_some()), ("port", service.port.is_some())]
            {
                if !given {
                    self.problem(format!("{place}.{key}"), "is missing", "add it, or a `match`");
                }
            }
        } else if single || service.protocol.is_some() {
            self.problem(
                format!("{place}.match"),
                "stands beside address, port or protocol",
                "put those into an entry of `match`, or take `match` out",
            );
            return Vec::new();
        }
        if !self.count(&format!("{place}.match"), service.matches.len(), MATCHES_MAX) {
            return Vec::new();
        }
        let listeners: Vec<_> = service
            .listeners()
            .into_iter()
            .enumerate()
            .map(|(i, listener)| match service.matches.len() {
                0 => (place.to_owned(), listener),
                _ => (format!("{place}.match[{i}]"), listener),
            })
            .collect();
        for (place, listener) in &listeners {
            self.endpoint(&format!("{place}.port"), service, *listener, endpoints);
            let family = |listener: &Listener| listener.address.is_ipv4();
            if family(listener) != family(&listeners[0].1) {
                self.problem(
                    format!("{place}.address"),
                    format!("{} is of another family than the first one", listener.address),
                    "make a service of its own for it: its servers are others",
                );
            }
        }
        listeners
    }

    pub(super) fn endpoint(
        &mut self,
        place: &str,
        service: &'a ServiceSpec,
        listener: Listener,
        endpoints: &mut Endpoints<'a>,
    ) {
        let Listener { address, protocol, ports } = listener;
        let class = Class::of(ports);
        let taken = endpoints.0.entry((address, protocol, class)).or_default();
        let found = taken.add(ports, service);
        let too_many = class == Class::Range && taken.0.len() > RANGES_MAX;
        if let Some((other, of)) = found {
            let (what, fix) = if other == ports {
                let what = format!("{listener} is already service {}", shown(&of.name));
                (what, "write another port, or list the servers in one of the services")
            } else {
                let what = format!("{listener} overlaps {other} of service {}", shown(&of.name));
                (what, "write ranges that have no port in common")
            };
            self.problem(place, what, fix);
        } else if too_many {
            let what = format!("{address} has more than {RANGES_MAX} port ranges");
            self.problem(place, what, "join some of them, or use another address");
        }
    }

    pub(super) fn service_in_group(
        &mut self,
        listeners: &[(String, Listener)],
        place: &str,
        service: &ServiceSpec,
        group: &GroupSpec,
    ) {
        for (place, listener) in listeners {
            if group.addresses.contains(&listener.address) {
                continue;
            }
            self.problem(
                format!("{place}.address"),
                format!("{} is no address of group {}", listener.address, shown(&group.name)),
                choose_or(
                    "",
                    group.addresses.iter().map(ToString::to_string),
                    "add it to the `addresses` of that group",
                ),
            );
        }
        if service.forwarding == Forwarding::FullNat {
            self.local_addresses(place, service, group);
        }
        for (j, server) in service.servers.iter().enumerate() {
            let place = format!("{place}.servers[{j}].address");
            self.server_in_group(&place, service, server, group, listeners);
        }
    }

    /// A server of two NAT services could not tell for which of them it answers.
    pub(super) fn nat_servers(
        &mut self,
        place: &str,
        service: &'a ServiceSpec,
        pools: &mut Pools<'a>,
    ) {
        if service.forwarding != Forwarding::Nat {
            return;
        }
        for (j, server) in service.servers.iter().enumerate() {
            for listener in service.listeners() {
                let own = service.server_port(server).and_then(|port| Ports::new(port, port));
                let ports = own.unwrap_or(listener.ports);
                let pool = pools.0.entry((server.address, listener.protocol)).or_default();
                let other = pool.add(ports, service).map(|(_, other)| other);
                let Some(other) = other.filter(|other| other.name != service.name) else {
                    continue;
                };
                self.problem(
                    format!("{place}.servers[{j}]"),
                    format!(
                        "{}:{ports} is also a NAT server of service {} (group {}): its answers \
                         could belong to either",
                        server.address,
                        shown(&other.name),
                        shown(&other.group)
                    ),
                    "write another port",
                );
                break;
            }
        }
    }

    /// What cannot be scheduled packet by packet.
    pub(super) fn one_packet(&mut self, place: &str, service: &ServiceSpec, at: &[Listener]) {
        if !service.one_packet {
            return;
        }
        if let Some(other) = at.iter().find(|listener| listener.protocol != Protocol::Udp) {
            let name = other.protocol.name();
            let what = format!("{name} has connections, whose packets belong together");
            return self.problem(place, what, "take it out, or write protocol: udp");
        }
        if service.forwarding == Forwarding::FullNat {
            let what = "full_nat needs a connection that keeps the local port";
            return self.problem(place, what, "take it out, or write forwarding: nat, dr or tun");
        }
        let mut vips = at.iter().map(|listener| listener.address);
        let first = vips.next();
        if let Some(vip) = vips.find(|vip| Some(*vip) != first)
            && service.forwarding == Forwarding::Nat
        {
            let what = format!("no connection would tell whether answers are from the VIP {vip}");
            self.problem(place, what, "make a service of its own for it, or write forwarding: dr");
        }
    }

    /// The port of a server, which can be another than the packet's only with NAT, and only where
    /// there is just one.
    pub(super) fn server_port(&mut self, place: &str, service: &ServiceSpec, server: &ServerSpec) {
        let place = format!("{place}.port");
        match (server.port, service.single_port()) {
            (Some(0), _) => self.problem(place, "0 is no port of a server", PORT_FIX),
            (Some(port), Some(own)) if !service.forwarding.is_nat() && port != own => {
                let name = service.forwarding.name();
                let what = format!("{name} cannot change ports from {own} to {port}");
                self.problem(place, what, format!("write {own}, or forwarding: nat"));
            }
            (Some(port), None) if !service.listeners().is_empty() => {
                let what = format!("{port} cannot stand for the several ports of the service");
                self.problem(place, what, "take it out: packets keep their port");
            }
            (None, None) if service.check.as_ref().is_some_and(|check| check.port.is_none()) => {
                let what = "is missing, and the check has none either";
                self.problem(place, what, "add `port` to the check");
            }
            _ => {}
        }
    }
}
