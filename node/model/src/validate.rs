//! How the parts of a document must fit together.
//!
//! Guarantees: a document without problems can be compiled into services on every node. All
//! problems are reported at once, each with the place, what is wrong and what to write instead.
//!
//! Every node applies the log by these rules: a document that one version refuses and another
//! takes would tear the replicated state apart.

mod client_address;
mod ftp;
mod full_nat;
mod limits;
mod listening;
mod quic;
mod syn_proxy;
mod tunnel;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use self::listening::{Endpoints, Pools};
pub use self::listening::{MATCHES_MAX, RANGES_MAX};
use crate::{
    document::{
        Alone, Document, Forwarding, GroupSpec, Listener, Policy, Prefix, Protocol, ServerSpec,
        ServiceSpec, SyncGroup,
    },
    problem::{NAME_LENGTH_MAX, Problem, Problems, choose_or, in_names, shown},
    state::NODES_MAX,
};

/// Services in one document.
pub const SERVICES_MAX: usize = 10_000;
/// Servers of one service.
pub const SERVERS_MAX: usize = 4_096;
/// Groups in one document.
pub const GROUPS_MAX: usize = 10_000;
/// Local addresses of one group.
const LOCAL_ADDRESSES_MAX: usize = 1_024;
/// Prefixes of one segment beside its first.
const PREFIXES_MAX: usize = 16;
/// Largest weight of a server.
pub const WEIGHT_MAX: u32 = 65_535;

const CONNECTIONS_MIN: u32 = 1_024;
const CONNECTIONS_LIMIT: u32 = 64 << 20;
const TIMEOUT_MAX_S: u32 = 2_678_400;
const SLOW_START_MAX_S: u32 = 3_600;
const RETRIES_MAX: u32 = 3;
const SNAPSHOT_MBIT_MAX: u32 = 100_000;
/// Two heartbeats of replication: an idle copy is never known to be fresher than one.
const LAG_MIN_MS: u32 = 100;
const LAG_LIMIT_MS: u32 = 60_000;

/// What to write for a port that must be given.
const PORT_FIX: &str = "write 1 to 65535";

/// Every problem of `document`, at most [`PROBLEMS_MAX`](crate::PROBLEMS_MAX); empty when it can
/// be committed.
#[must_use]
pub fn validate(document: &Document) -> Vec<Problem> {
    let mut check = Check { document, problems: Problems::default() };
    check.segments();
    check.groups();
    check.services();
    check.settings();
    check.problems.into_vec()
}

struct Check<'a> {
    document: &'a Document,
    problems: Problems,
}

impl<'a> Check<'a> {
    fn problem(
        &mut self,
        place: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.problems.add(place, what, fix);
    }

    /// The name of what lies at `owner`; `seen` has the earlier ones and where they were.
    fn name(&mut self, owner: &str, name: &'a str, seen: &mut BTreeMap<&'a str, String>) {
        let place = format!("{owner}.name");
        let ok = !name.is_empty() && name.len() <= NAME_LENGTH_MAX && name.bytes().all(in_names);
        if !ok {
            let fix = format!("write 1 to {NAME_LENGTH_MAX} letters, digits, '-', '_' or '.'");
            self.problem(&place, format!("{} is no name", shown(name)), fix);
        }
        if let Some(first) = seen.get(name) {
            let what = format!("{} is the name of {first} already", shown(name));
            self.problem(place, what, "give one of them another name");
        } else {
            seen.insert(name, owner.to_owned());
        }
    }

    fn count(&mut self, place: &str, found: usize, most: usize) -> bool {
        if found > most {
            let what = format!("has {found} entries, at most {most} are supported");
            self.problem(place, what, format!("take out {}", found - most));
        }
        found <= most
    }

    fn range(&mut self, place: impl Into<String>, value: u32, least: u32, most: u32) {
        if !(least..=most).contains(&value) {
            let what = format!("{value} is out of range");
            self.problem(place, what, format!("write {least} to {most}"));
        }
    }

    fn segments(&mut self) {
        let mut seen = BTreeMap::new();
        let mut before: Vec<(Prefix, &str)> = Vec::new();
        for (i, segment) in self.document.segments.iter().enumerate() {
            let place = format!("segments[{i}]");
            self.name(&place, &segment.name, &mut seen);
            self.prefix(&format!("{place}.prefix"), segment.prefix, &segment.name, &mut before);
            let more = format!("{place}.prefixes");
            if !self.count(&more, segment.prefixes.len(), PREFIXES_MAX) {
                continue;
            }
            for (j, prefix) in segment.prefixes.iter().enumerate() {
                self.prefix(&format!("{more}[{j}]"), *prefix, &segment.name, &mut before);
            }
        }
    }

    /// A prefix of segment `name`; `before` has the earlier ones and whose they are.
    fn prefix(
        &mut self,
        place: &str,
        prefix: Prefix,
        name: &'a str,
        before: &mut Vec<(Prefix, &'a str)>,
    ) {
        //= RFC 4007 section 4: every link has the same one, so no interface is found by it
        if is_link_local(prefix.address()) {
            let what = format!("{prefix} is link-local: every network has it");
            self.problem(place, what, "write a prefix that only this network has");
        }
        for (other, owner) in before.iter() {
            if prefix.contains(other.address()) || other.contains(prefix.address()) {
                self.problem(
                    place,
                    format!("{prefix} overlaps {other} of segment {}", shown(owner)),
                    "write prefixes that have no address in common",
                );
            }
        }
        before.push((prefix, name));
    }

    fn groups(&mut self) {
        if !self.count("groups", self.document.groups.len(), GROUPS_MAX) {
            return;
        }
        let mut seen = BTreeMap::new();
        let mut owners: BTreeMap<IpAddr, (usize, &str)> = BTreeMap::new();
        for (i, group) in self.document.groups.iter().enumerate() {
            let place = format!("groups[{i}]");
            self.name(&place, &group.name, &mut seen);
            if group.addresses.is_empty() {
                self.problem(
                    format!("{place}.addresses"),
                    "is empty",
                    "give the group at least one VIP",
                );
            }
            if (group.policy, group.alone) == (Policy::Strict, Some(Alone::Claim)) {
                self.problem(
                    format!("{place}.alone"),
                    "claim may have two nodes announce the group, and its policy is strict",
                    "write alone: never, or policy: available",
                );
            }
            self.sync_group(&format!("{place}.sync_group"), &group.sync_group);
            let lists = [
                ("addresses", &group.addresses),
                ("gateways", &group.gateways),
                ("local_addresses", &group.local_addresses),
            ];
            let locals = format!("{place}.local_addresses");
            self.count(&locals, group.local_addresses.len(), LOCAL_ADDRESSES_MAX);
            for (list, addresses) in lists {
                for (j, address) in addresses.iter().enumerate() {
                    let place = format!("{place}.{list}[{j}]");
                    self.group_address(&place, *address);
                    let Some((owner, name)) = owners.insert(*address, (i, &group.name)) else {
                        continue;
                    };
                    let (what, fix) = if owner == i {
                        ("is in this group twice".to_owned(), "take one of them out")
                    } else {
                        let what = format!("is also an address of group {}", shown(name));
                        (what, "take it out of one of them: one group owns it")
                    };
                    self.problem(place, format!("{address} {what}"), fix);
                }
            }
        }
    }

    fn sync_group(&mut self, place: &str, spec: &SyncGroup) {
        const FIX: &str = "write all, 1 to 31, or the names of up to 32 nodes";
        let problem = match spec {
            SyncGroup::All => None,
            SyncGroup::Count(count) => {
                let is_fit = usize::try_from(*count).is_ok_and(|n| (1..NODES_MAX).contains(&n));
                (!is_fit).then(|| format!("{count} is no number of copies"))
            }
            SyncGroup::Named(names) if names.is_empty() => Some("names nobody".to_owned()),
            SyncGroup::Named(names) if names.len() > NODES_MAX => {
                Some(format!("names {} nodes, a cluster has up to {NODES_MAX}", names.len()))
            }
            SyncGroup::Named(names) => {
                let mut seen = BTreeSet::new();
                let twice = names.iter().find(|name| !seen.insert(name.as_str()));
                twice.map(|name| format!("{} is named twice", shown(name)))
            }
        };
        if let Some(what) = problem {
            self.problem(place, what, FIX);
        }
    }

    fn group_address(&mut self, place: &str, address: IpAddr) {
        if address.is_multicast() || address.is_unspecified() || address.is_loopback() {
            let what = format!("{address} is no unicast address");
            self.problem(place, what, "write an address of one of the segments");
        } else if is_mapped(address) {
            //= RFC 4291 section 2.5.5.2: an IPv4 node's address as programs see it, not as packets
            //= carry it
            let what = format!("{address} is an IPv4 address in the form of an IPv6 one");
            self.problem(place, what, format!("write {}", address.to_canonical()));
        } else if is_link_local(address) {
            //= RFC 4291 section 2.5.6: routers must not forward packets with link-local addresses
            let what = format!("{address} is link-local: it means something else on each link");
            self.problem(place, what, "write an address of one of the segments");
        } else {
            match self.document.prefix_of(address) {
                None => self.in_no_segment(place, address),
                Some((_, prefix)) if prefix.is_reserved(address) => {
                    let what = format!("{address} is the network or broadcast address of {prefix}");
                    self.problem(place, what, "write an address that a host can have");
                }
                //= RFC 4291 section 2.6.1: every router of the link answers for it too
                Some((_, prefix)) if is_anycast(prefix, address) => {
                    let what =
                        format!("{address} is the address that all routers of {prefix} have");
                    self.problem(place, what, "write an address that one host can have");
                }
                Some(_) => {}
            }
        }
    }

    fn in_no_segment(&mut self, place: impl Into<String>, address: IpAddr) {
        let prefixes = self.document.segments.iter().flat_map(|s| s.all_prefixes());
        let of_its_kind = |p: &Prefix| p.address().is_ipv4() == address.is_ipv4();
        let choices = prefixes.filter(of_its_kind).map(|p| p.to_string());
        let add = "add a segment with its prefix under `segments`";
        let fix = choose_or("an address of ", choices, add);
        self.problem(place, format!("{address} lies in no segment"), fix);
    }

    fn services(&mut self) {
        if !self.count("services", self.document.services.len(), SERVICES_MAX) {
            return;
        }
        let groups: BTreeMap<&str, &GroupSpec> =
            self.document.groups.iter().map(|g| (g.name.as_str(), g)).collect();
        let mut names = BTreeMap::new();
        let mut endpoints = Endpoints::default();
        let mut pools = Pools::default();
        let mut ftp_servers = BTreeMap::new();
        for (i, service) in self.document.services.iter().enumerate() {
            let place = format!("services[{i}]");
            self.name(&place, &service.name, &mut names);
            let listeners = self.listeners(&place, service, &mut endpoints);
            self.ftp(&place, service, &mut endpoints, &mut ftp_servers);
            match groups.get(service.group.as_str()) {
                None => self.problem(
                    format!("{place}.group"),
                    format!("group {} does not exist", shown(&service.group)),
                    choose_or("", groups.keys().map(|name| shown(name)), "add it under `groups`"),
                ),
                Some(group) => self.service_in_group(&listeners, &place, service, group),
            }
            self.servers(&place, service);
            self.service_settings(&place, service);
            self.tunnel(&place, service);
            self.mss_clamp(&place, service);
            self.client_address(&place, service);
            self.syn_proxy(&place, service);
            self.limits(&place, service);
            self.nat_servers(&place, service, &mut pools);
        }
    }

    fn server_in_group(
        &mut self,
        place: &str,
        service: &ServiceSpec,
        server: &ServerSpec,
        group: &GroupSpec,
        listeners: &[(String, Listener)],
    ) {
        if matches!(service.forwarding, Forwarding::Tun | Forwarding::FullNat) {
            return self.tunnel_server(place, server.address);
        }
        let Some((segment, prefix)) = self.document.prefix_of(server.address) else {
            self.in_no_segment(place, server.address);
            return;
        };
        let name = shown(&segment.name);
        let shares = |listener: &Listener| {
            self.document
                .segment_of(listener.address)
                .is_some_and(|found| found.name == segment.name)
        };
        let outside = listeners.iter().find(|(_, at)| !shares(at));
        match (service.forwarding, outside) {
            (Forwarding::Dr, Some((_, listener))) => self.problem(
                place,
                format!(
                    "{} is in segment {name}, the VIP {} is not",
                    server.address, listener.address
                ),
                "dr needs both in one: write a server of that segment, or forwarding: nat",
            ),
            (Forwarding::Nat, _)
                if !group.gateways.iter().any(|gateway| prefix.contains(*gateway)) =>
            {
                let group = shown(&group.name);
                self.problem(
                    place,
                    format!(
                        "{} is in segment {name}, where group {group} has no gateway address: its \
                         answers would not come back through the group's holder",
                        server.address
                    ),
                    format!("add an address of {prefix} to the `gateways` of that group"),
                );
            }
            (Forwarding::Dr | Forwarding::Nat | Forwarding::FullNat | Forwarding::Tun, _) => {}
        }
    }

    fn servers(&mut self, place: &str, service: &ServiceSpec) {
        if !self.count(&format!("{place}.servers"), service.servers.len(), SERVERS_MAX) {
            return;
        }
        let mut seen = BTreeSet::new();
        for (j, server) in service.servers.iter().enumerate() {
            let place = format!("{place}.servers[{j}]");
            if !seen.insert((server.address, service.server_port(server))) {
                let what = format!("{} is listed twice", server.place());
                self.problem(&place, what, "take one out; for a larger share give it more weight");
            }
            self.server(&place, service, server);
        }
    }

    fn server(&mut self, place: &str, service: &ServiceSpec, server: &ServerSpec) {
        let address = format!("{place}.address");
        let vip = service.listeners().first().map(|listener| listener.address);
        let other = |vip: &IpAddr| vip.is_ipv4() != server.address.is_ipv4();
        if let Some(vip) = vip.filter(other).filter(|_| service.forwarding != Forwarding::Tun) {
            let what = format!("{} is of another family than the VIP {vip}", server.address);
            let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
            self.problem(&address, what, format!("write an {family} address"));
        }
        self.server_port(place, service, server);
        self.range(format!("{place}.weight"), server.weight, 0, WEIGHT_MAX);
        if let Some(lower) = server.lower
            && !(1..server.upper.unwrap_or(0)).contains(&lower)
        {
            let (what, fix) = match server.upper {
                None | Some(0 | 1) => {
                    ("there is no upper threshold".to_owned(), "take it out".to_owned())
                }
                Some(upper) => (
                    format!("{lower} is not below the upper threshold {upper}"),
                    format!("write 1 to {}", upper - 1),
                ),
            };
            self.problem(format!("{place}.lower"), what, fix);
        }
        if server.upper == Some(0) {
            let what = "a server that takes no connections has no use";
            self.problem(format!("{place}.upper"), what, "take it out for no bound");
        }
        let is_of = |g: &&GroupSpec| g.all_addresses().any(|address| *address == server.address);
        let owner = self.document.groups.iter().find(is_of);
        if let Some(group) = owner {
            let what = format!("{} is an address of group {}", server.address, shown(&group.name));
            self.problem(address, what, "write the server's own address");
        }
    }

    fn service_settings(&mut self, place: &str, service: &ServiceSpec) {
        if service.hash.is_some() && !service.scheduler.hashes_source() {
            let name = service.scheduler.name();
            self.problem(
                format!("{place}.hash"),
                format!("scheduler {name} does not hash the source: it has no such options"),
                "take `hash` out, or write scheduler: sh or mh",
            );
        }
        if let Some(slow_start_s) = service.slow_start_s {
            let place = format!("{place}.slow_start_s");
            if !service.scheduler.shares_by_weight() {
                let name = service.scheduler.name();
                self.problem(
                    &place,
                    format!("scheduler {name} does not share by weight: no server can start slow"),
                    "take it out, or write scheduler: wrr, wlc, sed, nq, lblc, lblcr or twos",
                );
            }
            self.range(place, slow_start_s, 1, SLOW_START_MAX_S);
        }
        let sync = &service.sync;
        if sync.period != 0 && sync.threshold >= sync.period {
            self.problem(
                format!("{place}.sync.threshold"),
                format!("threshold {} is not below period {}", sync.threshold, sync.period),
                format!("write 0 to {}, or period: 0", sync.period - 1),
            );
        }
        self.range(format!("{place}.sync.retries"), sync.retries, 0, RETRIES_MAX);
        if sync.persist_mode && service.persistence.is_none() && service.ftp.is_none() {
            self.problem(
                format!("{place}.sync.persist_mode"),
                "the service has no persistence: nothing of it would be copied",
                "take it out, or give the service `persistence`",
            );
        }
        let listeners = service.listeners();
        for (name, set, of, packets) in [
            ("sloppy_tcp", service.sloppy_tcp, Protocol::Tcp, "TCP"),
            ("sloppy_sctp", service.sloppy_sctp, Protocol::Sctp, "SCTP"),
        ] {
            let other = listeners.iter().all(|listener| listener.protocol != of);
            if let (true, true, Some(first)) = (set, other, listeners.first()) {
                let what = format!("protocol {} has no {packets} packets", first.protocol.name());
                self.problem(format!("{place}.{name}"), what, "take it out");
            }
        }
        if let Some(persistence) = &service.persistence {
            let place = format!("{place}.persistence");
            self.range(format!("{place}.timeout_s"), persistence.timeout_s, 1, TIMEOUT_MAX_S);
            self.range(format!("{place}.prefix_v4"), persistence.prefix_v4, 1, 32);
            self.range(format!("{place}.prefix_v6"), persistence.prefix_v6, 1, 128);
        }
        self.quic(place, service);
        self.one_packet(&format!("{place}.one_packet"), service, &listeners);
        for (name, value) in service.timeouts.named() {
            self.range(format!("{place}.timeouts.{name}"), value, 1, TIMEOUT_MAX_S);
        }
        let Some(check) = &service.check else { return };
        let place = format!("{place}.check");
        // Of a group, TCP is what the check speaks to.
        let only_sctp = listeners.iter().all(|listener| listener.protocol == Protocol::Sctp);
        if only_sctp && !listeners.is_empty() && check.port.is_none() {
            self.problem(
                &place,
                "a check over TCP says nothing about the SCTP port of a server",
                "write `port` with a TCP port that tells whether the server works, or take it out",
            );
        }
        self.range(format!("{place}.interval_ms"), check.interval_ms, 50, 3_600_000);
        self.range(format!("{place}.timeout_ms"), check.timeout_ms, 10, 60_000);
        self.range(format!("{place}.rise"), check.rise, 1, 100);
        self.range(format!("{place}.fall"), check.fall, 1, 100);
    }

    fn settings(&mut self) {
        let settings = &self.document.settings;
        let (least, most) = (CONNECTIONS_MIN, CONNECTIONS_LIMIT);
        self.range("settings.connections_max", settings.connections_max, least, most);
        self.range("settings.half_open_max", settings.half_open_max, least, most);
        let beacon = &settings.beacon;
        self.range("settings.beacon.interval_ms", beacon.interval_ms, 5, 1_000);
        self.range("settings.beacon.silent_after", beacon.silent_after, 2, 20);
        let copies = &settings.copies;
        let place = "settings.copies.snapshot_mbit_per_s";
        self.range(place, copies.snapshot_mbit_per_s, 0, SNAPSHOT_MBIT_MAX);
        self.range("settings.copies.lag_max_ms", copies.lag_max_ms, LAG_MIN_MS, LAG_LIMIT_MS);
        let hold_down = &settings.hold_down;
        self.range("settings.hold_down.failures", hold_down.failures, 0, 20);
        self.range("settings.hold_down.within_s", hold_down.within_s, 10, 86_400);
        self.range("settings.hold_down.stable_s", hold_down.stable_s, 10, 86_400);
    }
}

/// Only one link knows it (RFC 3927, RFC 4291 section 2.5.6). IPv4 ones are used on one network as
/// others are; IPv6 has one on every interface.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// The subnet-router anycast address. Prefixes of two addresses have none (RFC 6164).
fn is_anycast(prefix: Prefix, address: IpAddr) -> bool {
    address.is_ipv6() && prefix.length() < 127 && prefix.address() == address
}

#[cfg(test)]
mod tests;
