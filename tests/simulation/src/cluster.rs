//! The cluster that is simulated: its document, and what follows from the committed state for the
//! data plane and for ownership, as the daemon's follower has it.

use std::{fmt::Write as _, net::IpAddr, net::Ipv4Addr};

use steadfast_dataplane as dp;
use steadfast_model::{
    ClusterState, Command, GroupId, Initialise, NodeId, NodeSpec, Service,
    document::{Forwarding, Protocol, Scheduler},
};
use steadfast_ownership::{Committed, CommittedGroup, Grant, Member, SegmentId};

use crate::ether::{TCP, UDP, server_ip};

/// Random number of the cluster.
pub(crate) const CLUSTER: u64 = 0x51ad_fa57;
/// Servers of each service, numbered from 0; a document may leave some out.
pub(crate) const SERVERS: u16 = 4;
/// The VIP groups that have services.
pub(crate) const GROUPS: usize = 3;
/// Where NAT servers route through.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);

/// A service as clients see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listener {
    /// Name in the document.
    pub name: &'static str,
    /// Index of its group.
    pub group: usize,
    /// Port at the VIP.
    pub port: u16,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Its servers are at the back, and answer through the node.
    pub nat: bool,
    /// How servers are chosen.
    pub scheduler: &'static str,
    /// Clients keep their server.
    pub persistent: bool,
}

const fn listener(name: &'static str, group: usize, port: u16, protocol: u8) -> Listener {
    Listener { name, group, port, protocol, nat: false, scheduler: "rr", persistent: false }
}

/// All services.
pub(crate) const LISTENERS: [Listener; 6] = [
    listener("web", 0, 80, TCP),
    Listener { scheduler: "mh", ..listener("hash", 0, 81, TCP) },
    listener("names", 0, 53, UDP),
    Listener { nat: true, ..listener("shop", 1, 80, TCP) },
    Listener { nat: true, ..listener("time", 1, 123, UDP) },
    Listener { persistent: true, ..listener("cart", 2, 80, TCP) },
];

/// Scaled time-outs, seconds.
pub(crate) const TCP_S: u64 = 120;
/// As above.
pub(crate) const UDP_S: u64 = 60;
/// As above.
pub(crate) const PERSISTENCE_S: u64 = 60;

/// The place of a group among all: the spare one gets another id whenever it comes back.
#[must_use]
pub(crate) fn place(group: GroupId) -> usize {
    (group.0 as usize).saturating_sub(1).min(GROUPS)
}

/// The VIP of a group.
#[must_use]
pub(crate) fn vip(group: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, 101 + group as u8)
}

/// What the document says of one server of one service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Membership {
    /// It takes connections.
    In,
    /// It keeps those it has.
    Weightless,
    /// It is not in the document.
    Out,
}

/// Which servers each service has.
pub(crate) type Pools = [[Membership; SERVERS as usize]; LISTENERS.len()];

/// The port of a server.
#[must_use]
pub(crate) fn server_port(listener: &Listener) -> u16 {
    if listener.nat { listener.port + 8000 } else { listener.port }
}

/// Which groups a document has, and of which policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Groups {
    /// Has it the one that nobody uses? That one may come and go.
    pub spare: bool,
    /// Are that one and the last one that is used strict?
    pub strict: bool,
}

/// The document with these pools and groups.
#[must_use]
pub(crate) fn document(pools: &Pools, groups: Groups) -> String {
    let mut text = String::from(
        "apiVersion: steadfast/v1\nsegments:\n  - {name: front, prefix: 198.18.0.0/24}\n  \
         - {name: back, prefix: 198.18.1.0/24}\ngroups:\n",
    );
    for group in 0..GROUPS + usize::from(groups.spare) {
        let gateways =
            if group == 1 { format!(", gateways: ['{GATEWAY}']") } else { String::new() };
        let strict = groups.strict && group + 1 >= GROUPS;
        let policy = if strict { ", policy: strict" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  - {{name: g{group}, addresses: ['{}']{gateways}{policy}}}",
            vip(group)
        );
    }
    text.push_str("services:\n");
    for (at, pool) in LISTENERS.iter().zip(pools) {
        let protocol = if at.protocol == TCP { "tcp" } else { "udp" };
        let forwarding = if at.nat { "nat" } else { "dr" };
        let _ = write!(
            text,
            "  - name: {}\n    group: g{}\n    address: '{}'\n    port: {}\n    protocol: {protocol}\n    \
             scheduler: {}\n    forwarding: {forwarding}\n    timeouts: {{tcp_s: {TCP_S}, udp_s: \
             {UDP_S}}}\n",
            at.name,
            at.group,
            vip(at.group),
            at.port,
            at.scheduler
        );
        if at.scheduler == "mh" {
            text.push_str("    hash: {port: true, fallback: true}\n");
        }
        if at.persistent {
            let _ = writeln!(text, "    persistence: {{timeout_s: {PERSISTENCE_S}}}");
        }
        text.push_str("    servers:\n");
        for (number, membership) in (0..).zip(pool) {
            let weight = match membership {
                Membership::In => 1,
                Membership::Weightless => 0,
                Membership::Out => continue,
            };
            let (ip, port) = (server_ip(number, u16::from(at.nat)), server_port(at));
            let port = if at.nat { format!(", port: {port}") } else { String::new() };
            let _ = writeln!(text, "      - {{address: '{ip}', weight: {weight}{port}}}");
        }
    }
    text
}

/// The commands that make a cluster of `nodes`.
#[must_use]
pub(crate) fn founding(nodes: u32, pools: &Pools, groups: Groups) -> Vec<Command> {
    let spec = |n: u32| {
        let at = |port| (Ipv4Addr::new(198, 19, 0, n as u8), port).into();
        let name = format!("n{n}");
        NodeSpec { name, api: at(1), control: at(2), replication: at(3) }
    };
    let mut commands = vec![Command::Initialise(Box::new(Initialise {
        name: "simulated".to_owned(),
        cluster: CLUSTER,
        ca_cert_pem: String::new(),
        ca_key_pem: String::new(),
        beacon_key: vec![7; 32],
        node: spec(1),
    }))];
    for n in 2..=nodes {
        let hash = format!("token-{n}");
        commands.push(Command::CreateToken { hash: hash.clone(), expires_unix_s: u64::MAX });
        commands.push(Command::AdmitNode { token_hash: hash, now_unix_s: 1, node: spec(n) });
    }
    commands.push(Command::Apply {
        text: document(pools, groups),
        expected_revision: None,
        source: "the simulator".to_owned(),
        now_unix_s: 1,
    });
    commands
}

/// What ownership is decided on; as the daemon's follower makes it.
#[must_use]
pub(crate) fn committed(state: &ClusterState, applied: u64, voters: &[NodeId]) -> Committed {
    let nodes = || state.nodes.values();
    let groups = state.groups.values().map(|group| {
        let mut candidates = group.grant.as_ref().map(|g| g.candidates.clone()).unwrap_or_default();
        let start = group.id.0 as usize % state.nodes.len().max(1);
        let rest = nodes().cycle().skip(start).take(state.nodes.len()).map(|n| n.id);
        for id in rest {
            if !candidates.contains(&id) {
                candidates.push(id);
            }
        }
        CommittedGroup {
            id: group.id,
            segments: group.segments.iter().map(|s| SegmentId(*s)).collect(),
            candidates,
            policy: group.spec.policy,
            alone: group.spec.alone(),
            sync_group: None,
            grant: group.grant.as_ref().map(|g| Grant {
                epoch: g.epoch,
                holder: g.epoch.node,
                boot: g.boot,
            }),
        }
    });
    Committed {
        generation: state.cluster.as_ref().map_or(0, |c| c.generation),
        applied_index: applied,
        voters: voters.to_vec(),
        members: nodes()
            .map(|n| Member {
                node: n.id,
                cordoned: n.cordoned,
                held_down: n.held_down,
                known_dead: false,
                witness: false,
            })
            .collect(),
        groups: groups.collect(),
    }
}

/// What the data plane is compiled from; as the daemon makes it of the fields that are used here.
#[must_use]
pub(crate) fn config_spec(
    state: &ClusterState,
    node: NodeId,
    workers: usize,
    generation: u64,
    now_ns: u64,
) -> dp::ConfigSpec {
    let groups = state.groups.values().map(|g| dp::GroupSpec {
        id: dp::GroupId(g.id.0),
        vips: g.spec.addresses.clone(),
        gateways: g.spec.gateways.clone(),
        locals: g.spec.local_addresses.clone(),
        unserved: dp::Unserved::Reject,
    });
    dp::ConfigSpec {
        generation,
        groups: groups.collect(),
        services: state.services.values().map(service_spec).collect(),
        now_ns,
        workers,
        port_slot: state.port_slot(node).and_then(dp::PortSlot::new),
        servers_given: dp::ServerId(state.servers_given().0),
    }
}

fn service_spec(service: &Service) -> dp::ServiceSpec {
    let spec = &service.spec;
    let weight = |weight: u32| u16::try_from(weight).unwrap_or(u16::MAX);
    let servers = spec.servers.iter().zip(&service.servers).enumerate();
    let servers = servers.map(|(i, (server, id))| dp::ServerSpec {
        id: dp::ServerId(id.0),
        addr: server.address,
        port: spec.server_port(server).unwrap_or(0),
        weight: weight(server.weight),
        last_weight: weight(service.last_weights.get(i).copied().unwrap_or(0)),
        drained: server.drain,
        ..dp::ServerSpec::default()
    });
    let listeners = spec.listeners();
    let listen = listeners.iter().map(|at| {
        let protocol = match at.protocol {
            Protocol::Tcp => dp::Protocol::Tcp,
            Protocol::Udp => dp::Protocol::Udp,
            Protocol::Sctp => dp::Protocol::Sctp,
        };
        dp::Listen::new(protocol, at.address, at.ports.first())
    });
    let options = spec.hash.unwrap_or_default();
    let options = dp::HashOptions { port: options.port, fallback: options.fallback };
    dp::ServiceSpec {
        id: dp::ServiceId(service.id.0),
        group: dp::GroupId(service.group.0),
        listen: listen.collect(),
        scheduler: match spec.scheduler {
            Scheduler::Mh => dp::SchedulerKind::Mh(options),
            _ => dp::SchedulerKind::Rr,
        },
        forwarding: match spec.forwarding {
            Forwarding::Nat => dp::Forwarding::Nat,
            _ => dp::Forwarding::Dr,
        },
        servers: servers.collect(),
        timeouts: dp::Timeouts::default()
            .with(dp::State::Established, spec.timeouts.tcp_s)
            .with(dp::State::FinWait, spec.timeouts.tcp_fin_s)
            .with(dp::State::Udp, spec.timeouts.udp_s)
            .with(dp::State::TimeWait, spec.timeouts.time_wait_s),
        persistence: spec.persistence_options().map(|options| dp::Persistence {
            timeout_ns: u64::from(options.timeout_s) * 1_000_000_000,
            prefix_v4: 32,
            prefix_v6: 128,
            expire_quiescent_template: options.expire_quiescent_template,
        }),
        sync: dp::SyncSettings {
            threshold: spec.sync.threshold,
            period: spec.sync.period,
            refresh_period_s: spec.sync.refresh_period_s,
            retries: u8::try_from(spec.sync.retries).unwrap_or(3),
            on_established: spec.sync.on_established,
            every_packet: spec.sync.every_packet,
            persist_mode: spec.sync.persist_mode,
        },
        ..dp::ServiceSpec::default()
    }
}

/// The service a frame to this address and port is for.
#[must_use]
pub(crate) fn listener_at(address: IpAddr, port: u16, protocol: u8) -> Option<usize> {
    LISTENERS.iter().position(|at| {
        IpAddr::V4(vip(at.group)) == address && (at.port, at.protocol) == (port, protocol)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_taken_and_compiles() {
        let pools = [[Membership::In; SERVERS as usize]; LISTENERS.len()];
        let mut state = ClusterState::default();
        let groups = Groups { spare: true, strict: true };
        for (index, command) in (1..).zip(founding(3, &pools, groups)) {
            let response = state.apply(index, command);
            assert!(!matches!(response, steadfast_model::Response::Rejected(_)), "{response:?}");
        }
        assert_eq!((state.groups.len(), state.services.len()), (GROUPS + 1, LISTENERS.len()));
        let spec = config_spec(&state, NodeId(1), 1, 1, 0);
        assert!(dp::Config::compile(spec, None).is_ok());
        let committed = committed(&state, 9, &[NodeId(1)]);
        assert_eq!(committed.groups.iter().map(|g| g.segments.len()).max(), Some(2));
    }
}
