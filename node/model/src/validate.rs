//! How the parts of a document must fit together.
//!
//! Guarantees: a document without problems can be compiled into services on every node. All
//! problems are reported at once, each with the place and what to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use crate::document::{Document, Forwarding, GroupSpec, ServiceSpec};

/// Services in one document.
pub const SERVICES_MAX: usize = 10_000;
/// Servers of one service.
pub const SERVERS_MAX: usize = 4_096;
/// Groups in one document.
pub const GROUPS_MAX: usize = 10_000;
/// Largest weight of a server.
pub const WEIGHT_MAX: u32 = 65_535;

const NAME_LENGTH_MAX: usize = 63;
const CONNECTIONS_MIN: u32 = 1_024;
const CONNECTIONS_LIMIT: u32 = 64 << 20;

/// One thing wrong with a document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Where, as a path such as `services.echo.servers[2]`.
    pub place: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Every problem of `document`; empty when it can be committed.
#[must_use]
pub fn validate(document: &Document) -> Vec<Problem> {
    let mut check = Check { document, problems: Vec::new() };
    check.segments();
    check.groups();
    check.services();
    check.settings();
    check.problems
}

struct Check<'a> {
    document: &'a Document,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn problem(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), message: message.into() });
    }

    fn name(&mut self, place: &str, name: &str, seen: &mut BTreeSet<String>) {
        let ok = !name.is_empty()
            && name.len() <= NAME_LENGTH_MAX
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.');
        if !ok {
            self.problem(
                place,
                format!(
                    "`{name}` is no name: 1 to {NAME_LENGTH_MAX} letters, digits, '-', '_', '.'"
                ),
            );
        }
        if !seen.insert(name.to_owned()) {
            self.problem(place, format!("the name `{name}` is used twice: rename one"));
        }
    }

    fn count(&mut self, place: &str, found: usize, most: usize) -> bool {
        if found > most {
            self.problem(place, format!("{found} entries; at most {most} are supported"));
        }
        found <= most
    }

    fn segments(&mut self) {
        let mut seen = BTreeSet::new();
        for (i, segment) in self.document.segments.iter().enumerate() {
            let place = format!("segments[{i}]");
            self.name(&place, &segment.name, &mut seen);
            for other in &self.document.segments[..i] {
                let (a, b) = (segment.prefix, other.prefix);
                if a.contains(b.address()) || b.contains(a.address()) {
                    self.problem(&place, format!("{a} overlaps {b} of segment `{}`", other.name));
                }
            }
        }
    }

    fn groups(&mut self) {
        if !self.count("groups", self.document.groups.len(), GROUPS_MAX) {
            return;
        }
        let mut seen = BTreeSet::new();
        let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
        for (i, group) in self.document.groups.iter().enumerate() {
            let place = format!("groups[{i}] ({})", group.name);
            self.name(&place, &group.name, &mut seen);
            if group.addresses.is_empty() {
                self.problem(&place, "has no addresses: give it at least one VIP");
            }
            for address in group.addresses.iter().chain(&group.gateways) {
                self.group_address(&place, *address);
                if let Some(other) = owners.insert(*address, &group.name) {
                    self.problem(
                        &place,
                        format!(
                            "{address} is also an address of group `{other}`: one group owns it"
                        ),
                    );
                }
            }
        }
    }

    fn group_address(&mut self, place: &str, address: IpAddr) {
        if address.is_ipv6() {
            self.problem(
                place,
                format!("{address}: IPv6 VIPs are not served by this version; use an IPv4 address"),
            );
        } else if address.is_multicast() || address.is_unspecified() || address.is_loopback() {
            self.problem(place, format!("{address} is no unicast address"));
        } else if self.document.segment_of(address).is_none() {
            self.problem(
                place,
                format!("{address} lies in no segment: add one with its prefix under `segments`"),
            );
        }
    }

    fn services(&mut self) {
        if !self.count("services", self.document.services.len(), SERVICES_MAX) {
            return;
        }
        let groups: BTreeMap<&str, &GroupSpec> =
            self.document.groups.iter().map(|g| (g.name.as_str(), g)).collect();
        let mut names = BTreeSet::new();
        let mut endpoints = BTreeMap::new();
        let mut pools: BTreeMap<(IpAddr, u16, &str), (&str, &str)> = BTreeMap::new();
        for (i, service) in self.document.services.iter().enumerate() {
            let place = format!("services[{i}] ({})", service.name);
            self.name(&place, &service.name, &mut names);
            let key = (service.address, service.port, service.protocol);
            if let Some(other) = endpoints.insert(key, &service.name) {
                self.problem(
                    &place,
                    format!(
                        "{} {}:{} is already service `{other}`",
                        service.protocol.name(),
                        service.address,
                        service.port
                    ),
                );
            }
            if service.port == 0 {
                self.problem(&place, "port 0 (all ports) is not served by this version");
            }
            match groups.get(service.group.as_str()) {
                None => self.problem(
                    &place,
                    format!("group `{}` does not exist: add it under `groups`", service.group),
                ),
                Some(group) => self.service_in_group(&place, service, group),
            }
            self.servers(&place, service);
            self.service_settings(&place, service);
            if service.forwarding == Forwarding::Nat {
                for server in &service.servers {
                    let key = (server.address, server.port, service.protocol.name());
                    let pool = (service.group.as_str(), service.name.as_str());
                    if let Some((group, other)) = pools.insert(key, pool)
                        && other != service.name
                    {
                        self.problem(
                            &place,
                            format!(
                                "server {}:{} is also a NAT server of service `{other}` (group \
                                 `{group}`): its answers could belong to either; use another port",
                                server.address, server.port
                            ),
                        );
                    }
                }
            }
        }
    }

    fn service_in_group(&mut self, place: &str, service: &ServiceSpec, group: &GroupSpec) {
        if !group.addresses.contains(&service.address) {
            self.problem(
                place,
                format!("{} is no address of group `{}`", service.address, group.name),
            );
        }
        for server in &service.servers {
            let Some(segment) = self.document.segment_of(server.address) else {
                self.problem(
                    place,
                    format!("server {} lies in no segment: add one for its prefix", server.address),
                );
                continue;
            };
            match service.forwarding {
                Forwarding::Dr if !segment.prefix.contains(service.address) => self.problem(
                    place,
                    format!(
                        "server {} is in segment `{}`, the VIP is not: dr needs both in one",
                        server.address, segment.name
                    ),
                ),
                Forwarding::Nat
                    if !group.gateways.iter().any(|gateway| segment.prefix.contains(*gateway)) =>
                {
                    self.problem(
                        place,
                        format!(
                            "group `{}` has no gateway address in segment `{}`, where server {} \
                             is: its answers would not come back through the group's holder",
                            group.name, segment.name, server.address
                        ),
                    );
                }
                Forwarding::Dr | Forwarding::Nat => {}
            }
        }
    }

    fn servers(&mut self, place: &str, service: &ServiceSpec) {
        if !self.count(&format!("{place}.servers"), service.servers.len(), SERVERS_MAX) {
            return;
        }
        let mut seen = BTreeSet::new();
        for (i, server) in service.servers.iter().enumerate() {
            let place = format!("{place}.servers[{i}]");
            if !seen.insert((server.address, server.port)) {
                self.problem(&place, format!("{}:{} is listed twice", server.address, server.port));
            }
            if server.address.is_ipv4() != service.address.is_ipv4() {
                self.problem(&place, "another address family than the VIP");
            }
            if server.port == 0 {
                self.problem(&place, "port 0 is no port of a server");
            }
            let fixed_port = service.forwarding == Forwarding::Dr && service.port != 0;
            if fixed_port && server.port != service.port {
                self.problem(
                    &place,
                    format!("dr cannot change ports: use {} or forwarding: nat", service.port),
                );
            }
            if server.weight > WEIGHT_MAX {
                self.problem(&place, format!("weight {} is above {WEIGHT_MAX}", server.weight));
            }
            if self.document.groups.iter().any(|g| {
                g.addresses.contains(&server.address) || g.gateways.contains(&server.address)
            }) {
                self.problem(&place, format!("{} is an address of a group", server.address));
            }
        }
    }

    fn service_settings(&mut self, place: &str, service: &ServiceSpec) {
        let sync = &service.sync;
        if sync.period != 0 && sync.threshold >= sync.period {
            self.problem(
                format!("{place}.sync"),
                format!("threshold {} must be below period {}", sync.threshold, sync.period),
            );
        }
        if sync.retries > 3 {
            self.problem(format!("{place}.sync"), "retries is 0 to 3");
        }
        let timeouts = &service.timeouts;
        for (name, value) in [
            ("tcp_s", timeouts.tcp_s),
            ("tcp_fin_s", timeouts.tcp_fin_s),
            ("udp_s", timeouts.udp_s),
        ] {
            if !(1..=2_678_400).contains(&value) {
                self.problem(format!("{place}.timeouts.{name}"), "must be 1 s to 31 days");
            }
        }
        if let Some(check) = &service.check {
            let place = format!("{place}.check");
            if !(50..=3_600_000).contains(&check.interval_ms) {
                self.problem(&place, "interval_ms must be 50 to 3600000");
            }
            if !(10..=60_000).contains(&check.timeout_ms) {
                self.problem(&place, "timeout_ms must be 10 to 60000");
            }
            if !(1..=100).contains(&check.rise) || !(1..=100).contains(&check.fall) {
                self.problem(&place, "rise and fall must be 1 to 100");
            }
        }
    }

    fn settings(&mut self) {
        let settings = &self.document.settings;
        if !(CONNECTIONS_MIN..=CONNECTIONS_LIMIT).contains(&settings.connections_max) {
            self.problem(
                "settings.connections_max",
                format!("must be {CONNECTIONS_MIN} to {CONNECTIONS_LIMIT}"),
            );
        }
        if !(5..=1_000).contains(&settings.beacon.interval_ms) {
            self.problem("settings.beacon.interval_ms", "must be 5 to 1000");
        }
        if !(2..=20).contains(&settings.beacon.silent_after) {
            self.problem("settings.beacon.silent_after", "must be 2 to 20");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
apiVersion: steadfast/v1
segments: [{name: front, prefix: 198.18.0.0/24}, {name: back, prefix: 198.18.1.0/24}]
groups: [{name: web, addresses: [198.18.0.100], gateways: [198.18.1.254]}]
services:
  - {name: a, group: web, address: 198.18.0.100, port: 80, forwarding: nat,
     servers: [{address: 198.18.1.11, port: 8080}]}
  - {name: b, group: web, address: 198.18.0.100, port: 81, forwarding: dr,
     servers: [{address: 198.18.0.11, port: 81}]}
";

    fn problems(text: &str) -> Vec<String> {
        validate(&Document::parse(text).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_document_has_no_problems() {
        assert_eq!(problems(GOOD), Vec::<String>::new());
    }

    /// (what is put in place of what, a part of the one problem that must be reported)
    const CASES: &[(&str, &str, &str)] = &[
        ("name: back, prefix: 198.18.1.0/24", "name: back, prefix: 198.18.0.0/16", "overlaps"),
        ("name: b,", "name: a,", "used twice"),
        ("port: 81, forwarding: dr", "port: 80, forwarding: dr", "already service `a`"),
        (
            "group: web, address: 198.18.0.100, port: 81",
            "group: gone, address: 198.18.0.100, port: 81",
            "does not exist",
        ),
        (
            "address: 198.18.0.100, port: 81",
            "address: 198.18.0.101, port: 81",
            "no address of group",
        ),
        (
            "{address: 198.18.0.11, port: 81}",
            "{address: 198.18.0.11, port: 82}",
            "cannot change ports",
        ),
        (
            "{address: 198.18.0.11, port: 81}",
            "{address: 198.18.1.12, port: 81}",
            "dr needs both in one",
        ),
        (
            "gateways: [198.18.1.254]",
            "gateways: [198.18.0.254]",
            "no gateway address in segment `back`",
        ),
        (
            "{address: 198.18.1.11, port: 8080}",
            "{address: 198.51.100.1, port: 8080}",
            "lies in no segment",
        ),
        (
            "{address: 198.18.0.11, port: 81}",
            "{address: 198.18.0.100, port: 81}",
            "address of a group",
        ),
        (
            "{address: 198.18.0.11, port: 81}",
            "{address: 198.18.0.11, port: 81, weight: 70000}",
            "weight 70000",
        ),
        ("gateways: [198.18.1.254]", "gateways: [198.18.1.254, 198.18.0.100]", "one group owns it"),
        ("port: 8080}]}", "port: 8080}], sync: {threshold: 50}}", "must be below period"),
        ("port: 8080}]}", "port: 8080}], check: {interval_ms: 1}}", "interval_ms"),
    ];

    #[test]
    fn each_mistake_is_reported_with_its_place() {
        for (from, to, expected) in CASES {
            assert!(GOOD.contains(from), "the case `{from}` does not apply");
            let found = problems(&GOOD.replacen(from, to, 1));
            assert!(found.iter().any(|p| p.contains(expected)), "{to}: {found:?}");
        }
    }
}
