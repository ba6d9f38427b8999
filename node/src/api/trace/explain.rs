//! A rehearsal in words: the way of a packet through this node, and why it goes there.

use std::net::{IpAddr, SocketAddr};

use steadfast_dataplane::{
    self as dp, AddressKind, Config, Forwarding, Met, NextHops, Question, Reason, Rehearsal,
    Removal, Resolved, Sent, ServerSpec, Service, Shared, Step, Tunnel, Verdict,
};
use steadfast_model::{ClusterState, Epoch, GroupId, NodeId};
use steadfast_packet::{Content, Mac, Transport, parse};
use steadfast_proto::v1::{TraceFate, TraceLine, TraceNode, TraceStep};

use super::{super::connections, Asked, node_ref};

/// Who sends the packet, where the kernel knows no neighbour on that way.
const SOMEBODY: Mac = [2, 0, 0, 0, 0, 1];

/// What an explanation draws on.
pub(super) struct Facts<'a> {
    pub(super) asked: Asked,
    pub(super) now_ns: u64,
    pub(super) shared: &'a Shared,
    pub(super) state: &'a ClusterState,
    pub(super) node: NodeId,
    /// Who holds a group, and under which epoch.
    pub(super) holder: &'a dyn Fn(GroupId) -> Option<(NodeId, Epoch)>,
    /// The name of an interface.
    pub(super) interface: &'a dyn Fn(u16) -> String,
}

/// Handles the packet on a copy and says what happened.
///
/// # Errors
/// When there is no way to handle a packet here at all.
pub(super) fn explain(facts: &Facts<'_>) -> Result<TraceNode, String> {
    let (config, hops) = (facts.shared.config.load_full(), facts.shared.next_hops.load_full());
    let Asked { protocol, src, dst, step } = facts.asked;
    let port = arrival(&hops, src.ip());
    let Some(mac) = hops.port_mac(port) else {
        return Err("it has no data interface: `clusterctl status` says why".to_owned());
    };
    let from = match hops.resolve(src.ip()) {
        Resolved::Hop(hop) => hop.dst_mac,
        Resolved::Unresolved { .. } | Resolved::NoRoute => SOMEBODY,
    };
    let rehearse = |step| {
        let question = Question { protocol, src, dst, step };
        let frame = question.frame(from, mac).ok_or("the addresses are of two families")?;
        Ok::<_, String>((step, facts.shared.rehearse(facts.now_ns, port, &frame)))
    };
    let (step, rehearsal) = match step {
        Some(step) => rehearse(step)?,
        None => match rehearse(Step::Data)? {
            // Who uses the ports of a finished connection again opens one.
            (step, known) if known.met.as_ref().is_some_and(is_open) => (step, known),
            _ => rehearse(Step::Open)?,
        },
    };
    let mut told = Told { facts, config: &config, rehearsal: &rehearsal, lines: Vec::new() };
    told.line("arrives", format!("{} on {}", step_name(protocol, step), (facts.interface)(port)));
    let group = told.address();
    told.connection();
    let service = told.service();
    if let Some(service) = &service {
        told.cookie(service);
    }
    told.ends();
    let sent = told.outcome();
    let (lines, fate) = (told.lines, fate(&rehearsal));
    let target = target(&rehearsal);
    let slot = service.as_ref().filter(|_| rehearsal.opened.is_some());
    let slot = slot.and_then(|service| service.slot(src.ip(), src.port(), dst.ip()));
    let names = connections::Names::of(facts.state);
    let met = rehearsal.met.as_ref().filter(|_| fate != TraceFate::ToKernel);
    Ok(TraceNode {
        node: Some(node_ref(facts.state, facts.node)),
        error: String::new(),
        config_revision: facts.state.config.revision,
        step: step_message(step).into(),
        fate: fate.into(),
        drop_reason: match rehearsal.verdict {
            Verdict::Drop(reason) if fate == TraceFate::Dropped => reason.name().to_owned(),
            _ => String::new(),
        },
        group: group.map(|group| group_name(facts.state, group)).unwrap_or_default(),
        holder: group
            .and_then(|group| (facts.holder)(GroupId(group.0)))
            .map(|(node, _)| node_ref(facts.state, node)),
        service: service.map(|service| names.service(service.spec.id)).unwrap_or_default(),
        connection: met
            .map(|met| connections::describe(&met.connection, &config, &names, facts.now_ns)),
        server: target
            .filter(|_| fate != TraceFate::Relayed)
            .map(|t| t.to_string())
            .unwrap_or_default(),
        slot: slot.map(|slot| slot.slot),
        slots: slot.map(|slot| slot.slots),
        sent_interface: sent.interface,
        sent_mac: sent.mac,
        sent_packet: sent.packet,
        lines,
    })
}

/// What is sent, in words; empty when nothing is.
#[derive(Default)]
struct SentFrame {
    interface: String,
    mac: String,
    packet: String,
}

struct Told<'a> {
    facts: &'a Facts<'a>,
    config: &'a Config,
    rehearsal: &'a Rehearsal,
    lines: Vec<TraceLine>,
}

impl Told<'_> {
    fn line(&mut self, what: &str, text: String) {
        self.lines.push(TraceLine { what: what.to_owned(), text });
    }

    /// What the packet is addressed to; the group whose business it is.
    fn address(&mut self) -> Option<dp::GroupId> {
        let Asked { protocol, src, dst, .. } = self.facts.asked;
        let (group, what) = match self.config.address(dst.ip()) {
            Some(address) => {
                let kind = match address.kind {
                    AddressKind::Vip => "a VIP",
                    AddressKind::Gateway => "a gateway address",
                    AddressKind::Local => "a local address of full-NAT services",
                };
                (address.group, format!("{} is {kind}", dst.ip()))
            }
            None => match self.config.pool_group(protocol, src.ip(), src.port()) {
                Some(group) => (group, format!("{src} is a real server")),
                None => {
                    let text = format!(
                        "{} is no VIP and {src} is no real server of a NAT service",
                        dst.ip()
                    );
                    self.line("address", text);
                    return None;
                }
            },
        };
        let name = group_name(self.facts.state, group);
        let held = match (self.facts.holder)(GroupId(group.0)) {
            Some((node, epoch)) if node == self.facts.node => {
                format!("which this node holds (epoch {epoch})")
            }
            Some((node, epoch)) => {
                format!("which {} holds (epoch {epoch})", node_name(self.facts.state, node))
            }
            None => "which nobody holds, as far as this node knows".to_owned(),
        };
        self.line("address", format!("{what} of group {name}, {held}"));
        Some(group)
    }

    fn connection(&mut self) {
        if self.rehearsal.verdict == Verdict::Drop(Reason::NotOurs) {
            return;
        }
        let Some(met) = &self.rehearsal.met else {
            return self.line("connection", "none is known here".to_owned());
        };
        let connection = &met.connection;
        let made = match connection.provenance() {
            dp::Provenance::Local => "made here",
            dp::Provenance::Replica => "a copy",
            dp::Provenance::Donated => "a copy from its former holder",
        };
        let to = connection.target().map_or_else(
            || format!("to server {}, which this configuration does not name", connection.server()),
            |target| format!("to {}", SocketAddr::new(target.addr, target.port)),
        );
        let idle = self.facts.now_ns.saturating_sub(connection.last_seen_ns()) / 1_000_000_000;
        let state = connection.state();
        let timeout = self.config.timeouts(connection.service()).of_ns(state) / 1_000_000_000;
        let next = if met.next == state { String::new() } else { format!(", then {}", met.next) };
        let superseded = if connection.is_superseded() {
            "; a new one at the holder takes its place"
        } else {
            ""
        };
        self.line(
            "connection",
            format!("{}{next}, {made}, {to}, idle {idle} of {timeout} s{superseded}", state.name()),
        );
        if let Some(note) = server_note(self.config, connection.server()) {
            self.line("server", note);
        }
        if let Some(deltas) = connection.deltas() {
            self.line("shifts", shifts(&deltas));
        }
    }

    /// The service, and how it chooses when a connection is opened.
    fn service(&mut self) -> Option<std::sync::Arc<Service>> {
        let Asked { protocol, src, dst, .. } = self.facts.asked;
        let opened = self.rehearsal.opened;
        let of_met = self.rehearsal.met.as_ref().map(|met| met.connection.service());
        let service = match opened.map(|record| record.service).or(of_met) {
            Some(id) => self.config.service(id),
            None => self.config.listener(protocol, dst.ip(), dst.port()),
        };
        let Some(service) = service.cloned() else {
            let is_vip = self.config.address(dst.ip()).is_some();
            if is_vip && self.rehearsal.met.is_none() {
                self.line("service", format!("none listens on {protocol} {dst}"));
            }
            return None;
        };
        let names = connections::Names::of(self.facts.state);
        let Some(record) = opened else {
            self.line("service", names.service(service.spec.id));
            if let Some(target) = self.rehearsal.hashed {
                let server = SocketAddr::new(target.addr, target.port);
                let text = "the service, or the half-open connections of this node, are above a \
                            limit, or were in the last minute: the packet goes by the hash, ";
                self.line("limits", format!("{text}{server}, and no connection is opened"));
            }
            return Some(service);
        };
        let scheduler = self.scheduler(record.service);
        self.line("service", format!("{}, scheduler {scheduler}", names.service(record.service)));
        let chosen = service.spec.servers.iter().find(|server| server.id == record.server);
        let chosen = chosen.map_or_else(|| record.server.to_string(), socket);
        let network = service.spec.persistence.map(|kept| kept.network(src.ip()));
        let template = network.and_then(|client| {
            let key = dp::TemplateKey { service: service.spec.id, client };
            self.facts.shared.table.templates.find(&key).map(|found| (client, found.record.server))
        });
        let why = match service.slot(src.ip(), src.port(), dst.ip()) {
            Some(slot) => {
                let first = slot.server.and_then(|index| {
                    Some((service.spec.servers.get(index)?, service.load(index)))
                });
                match first {
                    Some((server, _)) if server.id == record.server => {
                        format!("slot {} of {} is {chosen}", slot.slot, slot.slots)
                    }
                    Some((server, load)) => format!(
                        "slot {} of {} is {}, which {}; {chosen} in its place",
                        slot.slot,
                        slot.slots,
                        socket(server),
                        unavailable(server, load.is_some_and(|load| load.is_overloaded())),
                    ),
                    None => format!("slot {} of {} is empty", slot.slot, slot.slots),
                }
            }
            None => format!("{chosen} is next, unless another connection comes first"),
        };
        let why = match template {
            Some((client, server)) if server == record.server => {
                format!("{chosen} is the server that {client} keeps")
            }
            _ => why,
        };
        self.line("schedule", why);
        let target = record.target.map(|t| SocketAddr::new(t.addr, t.port).to_string());
        self.line(
            "opens",
            format!("a connection to {}", target.unwrap_or_else(|| record.server.to_string())),
        );
        Some(service)
    }

    fn scheduler(&self, id: dp::ServiceId) -> String {
        let found = self.facts.state.services.values().find(|service| service.id.0 == id.0);
        found.map(|service| service.spec.scheduler_text().to_string()).unwrap_or_default()
    }

    fn ends(&mut self) {
        for (record, removal) in &self.rehearsal.removed {
            let key = record.key;
            let why = match removal {
                Removal::Expired => "it has timed out",
                Removal::Evicted => "the table is full",
                Removal::Reused => "a new one takes its place",
                Removal::ServerGone => "its server is gone",
                Removal::GivenUp => "its server does not take it",
            };
            let connection = format!(
                "the connection of {} to {}: {why}",
                SocketAddr::new(key.client, key.client_port),
                SocketAddr::new(key.vip, key.vip_port)
            );
            self.line("ends", connection);
        }
    }

    /// Whether the client is to come back first.
    fn cookie(&mut self, service: &Service) {
        let when = match service.spec.syn_proxy {
            dp::SynProxy::Off => return,
            dp::SynProxy::Auto => "auto, and the places of half-open connections are full",
            dp::SynProxy::Always => "always",
        };
        let Ok(parsed) = parse(&self.rehearsal.frame) else { return };
        let Content::Ip(packet) = parsed.content else { return };
        let Transport::Tcp { flags, .. } = packet.transport else { return };
        if self.rehearsal.sent == Some(Sent::Answered) && flags.syn() {
            let text = format!(
                "syn_proxy is {when}: nothing is stored, and a server hears of the client when it \
                 comes back with the cookie"
            );
            self.line("cookie", text);
        }
    }

    fn outcome(&mut self) -> SentFrame {
        let port = match self.rehearsal.verdict {
            Verdict::Drop(Reason::NotOurs) => {
                self.line("kernel", "the steering program leaves it to the kernel".to_owned());
                return SentFrame::default();
            }
            Verdict::Drop(reason) => {
                let mut text = format!("{}: {}", reason.name(), reason.text());
                if let Some((port, addr)) = self.rehearsal.probe {
                    let interface = (self.facts.interface)(port);
                    text += &format!(" The kernel would be asked for {addr} on {interface}.");
                }
                self.line("drops", text);
                return SentFrame::default();
            }
            Verdict::Transmit { port, .. } => port,
        };
        self.told();
        let sent = self.sent(port);
        let what = match self.rehearsal.sent {
            Some(Sent::Relayed) => "relays",
            Some(Sent::Answered) => "answers",
            Some(Sent::Forwarded | Sent::Returned) | None => "sends",
        };
        self.line(what, format!("{}, on {} to {}", sent.packet, sent.interface, sent.mac));
        sent
    }

    /// Whether the server hears who its client is.
    fn told(&mut self) {
        let Asked { src, .. } = self.facts.asked;
        let opened = self.rehearsal.opened.map(|record| record.service);
        let of_met = self.rehearsal.met.as_ref().map(|met| met.connection.service());
        let service = opened.or(of_met).and_then(|id| self.config.service(id));
        let how = service.map(|service| service.spec.client_address).unwrap_or_default();
        let text = match (self.rehearsal.told, how) {
            (Some(true), dp::ClientAddress::Toa) => {
                format!("the server that its client is {src}, by a TCP option (TOA)")
            }
            (Some(true), _) => {
                format!(
                    "the server that its client is {src}, by a PROXY header before this packet's data"
                )
            }
            (Some(false), _) => "the server nothing of its client: no room".to_owned(),
            (None, dp::ClientAddress::ProxyV2) if opened.is_some() => format!(
                "the server that its client is {src}, by a PROXY header when the handshake has ended"
            ),
            (None, _) => return,
        };
        self.line("tells", text);
    }

    fn sent(&self, port: u16) -> SentFrame {
        let interface = (self.facts.interface)(port);
        let Ok(parsed) = parse(&self.rehearsal.frame) else {
            return SentFrame { interface, ..SentFrame::default() };
        };
        let mac = parsed.dst_mac.map(|octet| format!("{octet:02x}")).join(":");
        let Content::Ip(packet) = parsed.content else {
            return SentFrame { interface, mac, packet: String::new() };
        };
        let at = |addr: IpAddr, port| SocketAddr::new(addr, port);
        let ports = packet.tuple().map(|(_, src, dst)| (at(packet.src, src), at(packet.dst, dst)));
        let forwarding = self.forwarding().filter(|_| self.rehearsal.sent == Some(Sent::Forwarded));
        let packet = match (forwarding, packet.transport, ports) {
            (Some(Forwarding::Tunnel(tunnel)), ..) => {
                let Asked { src, dst, .. } = self.facts.asked;
                let kind = match tunnel {
                    Tunnel::IpIp => "ipip",
                    Tunnel::Gue { .. } => "gue",
                    Tunnel::Gre { .. } => "gre",
                };
                format!("{src} > {dst} inside {kind} {} > {}", packet.src, packet.dst)
            }
            (_, Transport::Tcp { flags, .. }, Some((src, dst)))
                if self.rehearsal.sent == Some(Sent::Answered) && flags.rst() =>
            {
                format!("RST {src} > {dst}")
            }
            (_, Transport::Tcp { flags, .. }, Some((src, dst)))
                if self.rehearsal.sent == Some(Sent::Answered) && flags.syn() =>
            {
                format!("SYN-ACK {src} > {dst}")
            }
            (_, Transport::Sctp { .. }, Some((src, dst)))
                if self.rehearsal.sent == Some(Sent::Answered) =>
            {
                format!("ABORT {src} > {dst}")
            }
            (_, _, Some((src, dst))) => format!("{src} > {dst}"),
            (_, _, None) => format!("ICMP error {} > {}", packet.src, packet.dst),
        };
        SentFrame { interface, mac, packet }
    }

    fn forwarding(&self) -> Option<Forwarding> {
        let of_met = self.rehearsal.met.as_ref().and_then(|met| met.connection.target());
        let of_opened = self.rehearsal.opened.and_then(|record| record.target);
        of_opened.or(of_met).or(self.rehearsal.hashed).map(|target| target.forwarding)
    }
}

/// What is added to the numbers of a connection, modulo 2^32.
fn shifts(deltas: &dp::Deltas) -> String {
    let mut text = format!(
        "sequence numbers by {} to the client and {} to the server",
        deltas.to_client, deltas.to_server
    );
    if deltas.timestamps != 0 {
        text += &format!(", timestamps of the server by {}", deltas.timestamps);
    }
    if (deltas.windows_to_client, deltas.windows_to_server) != (0, 0) {
        let (client, server) = (deltas.windows_to_client, deltas.windows_to_server);
        text += &format!(", windows by 2^{client} to the client and 2^{server} to the server");
    }
    if let Some(longer) = deltas.longer {
        let (by, end) = (longer.address.by, longer.address.end());
        text += &format!(", {by} of those to the client since its server's number {end}");
    }
    text
}

fn is_open(met: &Met) -> bool {
    !met.connection.state().is_reusable()
}

fn arrival(hops: &NextHops, src: IpAddr) -> u16 {
    match hops.resolve(src) {
        Resolved::Hop(hop) => hop.port,
        Resolved::Unresolved { port, .. } => port,
        Resolved::NoRoute => 0,
    }
}

fn fate(rehearsal: &Rehearsal) -> TraceFate {
    match (rehearsal.verdict, rehearsal.sent) {
        (Verdict::Drop(Reason::NotOurs), _) => TraceFate::ToKernel,
        (Verdict::Drop(_), _) => TraceFate::Dropped,
        (Verdict::Transmit { .. }, Some(Sent::Returned)) => TraceFate::Returned,
        (Verdict::Transmit { .. }, Some(Sent::Relayed)) => TraceFate::Relayed,
        (Verdict::Transmit { .. }, Some(Sent::Answered)) => TraceFate::Answered,
        (Verdict::Transmit { .. }, Some(Sent::Forwarded) | None) => TraceFate::Forwarded,
    }
}

/// The real server that the packet goes to, or comes from.
fn target(rehearsal: &Rehearsal) -> Option<SocketAddr> {
    let of_met = rehearsal.met.as_ref().and_then(|met| met.connection.target());
    let target = rehearsal.opened.and_then(|record| record.target).or(of_met);
    let target = target.or(rehearsal.hashed)?;
    Some(SocketAddr::new(target.addr, target.port))
}

/// What is to be known of the server of a connection, if anything.
fn server_note(config: &Config, id: dp::ServerId) -> Option<String> {
    let Some((service, index)) = config.server(id) else {
        return Some("its server is not in the configuration any more".to_owned());
    };
    let server = service.spec.servers.get(index)?;
    let overloaded = service.load(index).is_some_and(|load| load.is_overloaded());
    let is_available = server.is_available() && !overloaded;
    (!is_available).then(|| {
        format!(
            "{} {}: known connections stay with it",
            socket(server),
            unavailable(server, overloaded)
        )
    })
}

/// Why a server gets no new connections.
fn unavailable(server: &ServerSpec, overloaded: bool) -> &'static str {
    match () {
        () if !server.up => "is down",
        () if server.weight == 0 || server.drained => "drains",
        () if overloaded => "is full",
        () => "is not free",
    }
}

fn socket(server: &ServerSpec) -> String {
    match server.port {
        0 => server.addr.to_string(),
        port => SocketAddr::new(server.addr, port).to_string(),
    }
}

fn group_name(state: &ClusterState, id: dp::GroupId) -> String {
    let found = state.groups.values().find(|group| group.id.0 == id.0);
    found.map_or_else(|| id.0.to_string(), |group| group.spec.name.clone())
}

fn node_name(state: &ClusterState, id: NodeId) -> String {
    state.nodes.get(&id).map_or_else(|| id.to_string(), |node| node.name.clone())
}

fn step_name(protocol: dp::Protocol, step: Step) -> &'static str {
    match (protocol, step) {
        (dp::Protocol::Tcp, Step::Open) => "a SYN",
        (dp::Protocol::Tcp, Step::Data) => "an ACK",
        (dp::Protocol::Tcp, Step::Close) => "a FIN",
        (dp::Protocol::Tcp, Step::Reset) => "a RST",
        (dp::Protocol::Udp, _) => "a datagram",
        (dp::Protocol::Sctp, Step::Open) => "an INIT",
        (dp::Protocol::Sctp, Step::Data) => "a DATA chunk",
        (dp::Protocol::Sctp, Step::Close) => "a SHUTDOWN",
        (dp::Protocol::Sctp, Step::Reset) => "an ABORT",
    }
}

fn step_message(step: Step) -> TraceStep {
    match step {
        Step::Open => TraceStep::Open,
        Step::Data => TraceStep::Data,
        Step::Close => TraceStep::Close,
        Step::Reset => TraceStep::Reset,
    }
}

#[cfg(test)]
#[path = "explain_test.rs"]
mod tests;
