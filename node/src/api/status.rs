//! `Status`: everything on one screen, from local memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use steadfast_dataplane::{
    self as dp, PORTS_PER_SLOT, PortSlot, Reason, Sent, TunnelErrors, TunnelMtus,
};
use steadfast_model::{ClusterState, NodeId, document::LimitsSpec};
use steadfast_ownership::{Completeness, Path, PeerStatus, SegmentId, Status as View};
use steadfast_proto::v1;
use tonic::Status;

use super::{
    groups::{epoch_message, role_of},
    membership::role,
    nodes::node_ref,
    pauses::Pauses,
    set_otherwise::set_otherwise,
    warnings::{Facts, warnings},
};
use crate::{
    clock,
    daemon::Node,
    member::{self, Member, StartSettings},
};

/// A write that a majority acknowledged within so long shows a quorum.
const QUORUM_AGE_MAX_MS: u64 = 1_000;

/// What this node knows.
pub(crate) async fn status(node: &Node, member: &Member) -> Result<v1::StatusReply, Status> {
    let view = member
        .owner
        .status()
        .await
        .ok_or_else(|| Status::internal("the ownership thread has ended; see the log"))?;
    let state = member.state();
    let metrics = member.raft.metrics();
    // Raft notices later than the beacons that its leader is gone.
    let heard =
        |id: &NodeId| *id == member.id() || view.peers.iter().any(|p| p.node == *id && !p.silent);
    let leader = metrics.leader.map(NodeId).filter(heard);
    let cluster = state.cluster.as_ref();
    let disowned_by = disowned_by(member, &state);
    let removed = !disowned_by.is_empty() || !state.nodes.contains_key(&member.id());
    let nodes: Vec<v1::Node> =
        state.nodes.values().map(|n| node_message(member, &state, &view, n, leader)).collect();
    let voters = nodes.iter().filter(|n| n.role() == v1::NodeRole::Voter).count();
    let mut reply = v1::StatusReply {
        cluster_name: cluster.map(|c| c.name.clone()).unwrap_or_default(),
        cluster_id: format!("{:016x}", member.identity().cluster_id),
        generation: cluster.map_or(0, |c| c.generation),
        serving_node: Some(node_ref(&state, member.id())),
        serving_boot_id: member.boot().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        leader: leader.map(|id| node_ref(&state, id)),
        has_quorum: has_quorum(member, &view) && !removed,
        quorum_ack_age_ms: metrics.quorum_ack_age_ms,
        applied_index: metrics.applied_index.unwrap_or(0),
        config_revision: state.config.revision,
        nodes,
        groups: groups(member, &state, &view),
        services: services(member, &state),
        local: Some(local(node, member, &state, &view)),
        warnings: Vec::new(),
        voters_heard: u32::try_from(view.voters_heard).unwrap_or(u32::MAX),
        voters: u32::try_from(voters).unwrap_or(u32::MAX),
        majority_heard: view.majority_heard && !removed,
        removed,
    };
    reply.warnings = warnings(&reply, &facts(member, &state, &view, &disowned_by));
    Ok(reply)
}

/// Whether anything can be decided now, as this node sees it: it leads and a majority acknowledged
/// it lately, or it hears the leader.
pub(crate) fn has_quorum(member: &Member, view: &View) -> bool {
    let metrics = member.raft.metrics();
    match metrics.leader.map(NodeId) {
        Some(id) if id == member.id() => {
            metrics.quorum_ack_age_ms.is_some_and(|age| age < QUORUM_AGE_MAX_MS)
        }
        Some(id) => view.peers.iter().any(|p| p.node == id && !p.silent),
        None => false,
    }
}

/// Peers that refuse this node as no member, unless any of the others takes it for one: a peer
/// whose log is behind is not the cluster. Beacons that it hears on a segment prove nothing: they
/// are for everybody.
fn disowned_by(member: &Member, state: &ClusterState) -> Vec<NodeId> {
    let others = || state.nodes.keys().copied().filter(|id| *id != member.id());
    if others().any(|id| member.owner.links.connected(id)) {
        return Vec::new();
    }
    others().filter(|id| member.owner.links.status(*id).disowns).collect()
}

fn node_message(
    member: &Member,
    state: &ClusterState,
    view: &View,
    node: &steadfast_model::Node,
    leader: Option<NodeId>,
) -> v1::Node {
    let own = node.id == member.id();
    let peer = view.peers.iter().find(|p| p.node == node.id);
    let silence_ms = silence_ms(state);
    let paths = peer.map(|p| paths(state, p, silence_ms)).unwrap_or_default();
    let boot = if own { Some(member.boot()) } else { peer.and_then(|p| p.boot) };
    let version = if own { env!("CARGO_PKG_VERSION").to_owned() } else { String::new() };
    let slot = state.port_slot(node.id).and_then(PortSlot::new);
    let ports = slot.map(|slot| (slot.first_port(), slot.first_port() + (PORTS_PER_SLOT - 1)));
    v1::Node {
        id: node.id.0,
        name: node.name.clone(),
        addresses: Some(v1::NodeAddresses {
            api: node.api.to_string(),
            control: node.control.to_string(),
            replication: node.replication.to_string(),
        }),
        role: role(member.is_voter(node.id)).into(),
        cordoned: node.cordoned,
        alive: own || peer.is_some_and(|p| !p.silent),
        paths,
        boot_id: boot.map(|b| b.to_string()).unwrap_or_default(),
        version,
        is_leader: leader == Some(node.id),
        local_port_first: ports.map_or(0, |(first, _)| first.into()),
        local_port_last: ports.map_or(0, |(_, last)| last.into()),
        held_down: node.held_down,
        held_down_left_ms: held_down_left_ms(member, state, node),
        failures: u32::try_from(member.hold_down.failures(state, node.id)).unwrap_or(u32::MAX),
    }
}

/// A node knows of itself only how long it runs.
fn held_down_left_ms(
    member: &Member,
    state: &ClusterState,
    node: &steadfast_model::Node,
) -> Option<u64> {
    let rule = &state.settings().hold_down;
    if !node.held_down {
        None
    } else if node.id == member.id() {
        let runs_ms = u64::try_from(member.runs_for().as_millis()).unwrap_or(u64::MAX);
        Some((u64::from(rule.stable_s) * 1_000).saturating_sub(runs_ms))
    } else {
        member.hold_down.left_ms(state, node.id)
    }
}

fn paths(state: &ClusterState, peer: &PeerStatus, silence_ms: u64) -> Vec<v1::NodePath> {
    // A segment that is in the configuration no more was heard on, once.
    let name = |path: &Path| match path {
        Path::Peer => Some("control".to_owned()),
        Path::Segment(SegmentId(number)) => state.segments.get(number).map(|s| s.name.clone()),
    };
    let shown = peer.paths.iter().filter_map(|(path, age_us)| {
        let (name, age_ms) = (name(path)?, age_us / 1_000);
        Some(v1::NodePath { name, last_heard_ms: Some(age_ms), alive: age_ms < silence_ms })
    });
    shown.collect()
}

fn silence_ms(state: &ClusterState) -> u64 {
    let beacon = &state.settings().beacon;
    u64::from(beacon.interval_ms) * u64::from(beacon.silent_after)
}

fn groups(member: &Member, state: &ClusterState, view: &View) -> Vec<v1::Group> {
    let ranks = member::ranks(state);
    let message = |group: &steadfast_model::Group| {
        let candidates = ranks.get(&group.id).map_or(&[][..], Vec::as_slice);
        group_message(member, state, view, group, candidates)
    };
    state.groups.values().map(message).collect()
}

fn group_message(
    member: &Member,
    state: &ClusterState,
    view: &View,
    group: &steadfast_model::Group,
    candidates: &[NodeId],
) -> v1::Group {
    let own = view.groups.iter().find(|g| g.group == group.id);
    let holder = role_of(member, group.id);
    let now_us = clock::now_ns() / 1_000;
    let names = |number: &u16| state.segments.get(number).map(|s| s.name.clone());
    let addresses = group.spec.all_addresses();
    let keeps = |node: &&NodeId| {
        member.roles.keeps_copies(group.id, **node) || holder.is_some_and(|(id, _)| id == **node)
    };
    let copies = state.nodes.keys().filter(keeps);
    let copies = copies.map(|node| copy(member, state, view, group, *node));
    v1::Group {
        id: group.id.0,
        name: group.spec.name.clone(),
        addresses: addresses.map(ToString::to_string).collect(),
        segments: group.segments.iter().filter_map(names).collect(),
        holder: holder.map(|(id, _)| node_ref(state, id)),
        epoch: own.map(|g| g.epoch).filter(|e| e.generation > 0).map(epoch_message),
        announcing_here: own.is_some_and(|g| g.announcing),
        since_ms: own.map(|g| now_us.saturating_sub(g.since.0) / 1_000),
        candidates: candidates.iter().map(|id| node_ref(state, *id)).collect(),
        copies: copies.collect(),
        sync_group: group.spec.sync_group.to_string(),
    }
}

/// How good a node's copy of a group is, as far as this node knows: its own from its own
/// accounts, another's from its beacons.
fn copy(
    member: &Member,
    state: &ClusterState,
    view: &View,
    group: &steadfast_model::Group,
    node: NodeId,
) -> v1::GroupCopy {
    let holder = role_of(member, group.id).map(|(id, _)| id);
    let own = view.groups.iter().find(|g| g.group == group.id);
    let known = if node == member.id() {
        own.and_then(|g| g.copy)
    } else {
        let peer = view.peers.iter().find(|p| p.node == node && !p.silent);
        peer.and_then(|p| {
            p.copies.iter().find(|(of, _)| Some(*of) == holder).map(|(_, copy)| *copy)
        })
    };
    let copy_state = match known {
        _ if holder == Some(node) => v1::CopyState::Holder,
        Some(Completeness::Complete) => v1::CopyState::Complete,
        Some(Completeness::Stale) => v1::CopyState::Stale,
        Some(Completeness::Empty) => v1::CopyState::Empty,
        None => v1::CopyState::Unspecified,
    };
    let figures = member.replicator.figures();
    let sent = figures.get(&node).map(|f| &f.sent).filter(|_| holder == Some(member.id()));
    v1::GroupCopy {
        node: Some(node_ref(state, node)),
        state: copy_state.into(),
        lag_ms: sent.map(|s| s.values().map(|m| m.lag_ns).max().unwrap_or(0) / 1_000_000),
        unacked: sent.map(|s| s.values().map(|m| m.unacked_records + m.waiting).sum()),
    }
}

fn services(member: &Member, state: &ClusterState) -> Vec<v1::Service> {
    let config = member.plane.shared.config.load();
    let estimators = member.plane.estimators();
    let services = state.services.values().map(|service| {
        let spec = &service.spec;
        let servers = spec.servers.iter().zip(&service.servers).enumerate();
        let servers = servers.map(|(i, (server, id))| {
            let compiled = config.server(dp::ServerId(id.0));
            let totals = compiled.and_then(|(s, at)| s.counters(at)).map(|c| c.totals());
            let totals = totals.unwrap_or_default();
            let load = compiled.and_then(|(s, at)| s.load(at));
            let checks = member.health.checks(service, i).into_iter().map(|(node, check)| {
                let check_state = match check.up {
                    Some(true) => v1::CheckState::Up,
                    Some(false) => v1::CheckState::Down,
                    None => v1::CheckState::Unspecified,
                };
                v1::ServerCheck {
                    node: Some(node_ref(state, node)),
                    state: check_state.into(),
                    age_ms: check.age_ms,
                    detail: check.detail,
                }
            });
            v1::Server {
                id: id.0,
                address: server.address.to_string(),
                port: spec.server_port(server).map(u32::from).unwrap_or_default(),
                weight: server.weight,
                up: member.health.is_up(service, i),
                active_conns: load.map_or(0, |l| l.active().into()),
                inactive_conns: load.map_or(0, |l| l.inactive().into()),
                conns_total: totals.conns,
                in_packets: totals.in_pkts,
                in_bytes: totals.in_bytes,
                out_packets: totals.out_pkts,
                out_bytes: totals.out_bytes,
                checks: checks.collect(),
                drain: server.drain,
                upper: server.upper,
                lower: server.lower,
                overloaded: load.is_some_and(|l| l.is_overloaded()),
                rates: Some(rates(estimators.server(dp::ServerId(id.0)))),
            }
        });
        let listeners: Vec<_> = spec.listeners().iter().map(listener).collect();
        let first = listeners.first().cloned().unwrap_or_default();
        let forwarding = match spec.forwarding {
            steadfast_model::document::Forwarding::Dr => v1::Forwarding::Dr,
            steadfast_model::document::Forwarding::Nat => v1::Forwarding::Nat,
            steadfast_model::document::Forwarding::FullNat => v1::Forwarding::FullNat,
            steadfast_model::document::Forwarding::Tun => v1::Forwarding::Tun,
        };
        let server_order = match spec.server_order {
            steadfast_model::document::ServerOrder::Canonical => v1::ServerOrder::Canonical,
            steadfast_model::document::ServerOrder::NewestFirst => v1::ServerOrder::NewestFirst,
        };
        let id = dp::ServiceId(service.id.0);
        let totals = config.service(id).map(|s| s.totals()).unwrap_or_default();
        let excess = config.service(id).map(|s| s.excess()).unwrap_or_default();
        v1::Service {
            id: service.id.0,
            name: spec.name.clone(),
            group: spec.group.clone(),
            group_id: service.group.0,
            vip: first.address,
            port: first.first_port,
            protocol: first.protocol,
            listeners,
            one_packet: spec.one_packet,
            ftp_data_ports: spec.ftp.map(|ftp| ftp.data_ports.to_string()).unwrap_or_default(),
            persistence: spec
                .persistence_options()
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            quic_lb: spec.quic_lb.iter().map(ToString::to_string).collect(),
            scheduler: spec.scheduler_text().to_string(),
            server_order: server_order.into(),
            conns_total: totals.conns,
            in_packets: totals.in_pkts,
            in_bytes: totals.in_bytes,
            out_packets: totals.out_pkts,
            out_bytes: totals.out_bytes,
            rates: Some(rates(estimators.service(id))),
            forwarding: forwarding.into(),
            tunnel: spec.tunnel_options().map(|tunnel| tunnel.to_string()).unwrap_or_default(),
            client_address: spec.client_address.name().to_owned(),
            mss_clamp: spec.mss_clamp.to_string(),
            syn_proxy: spec.syn_proxy.name().to_owned(),
            cookies: Some(cookies(&excess)),
            limits: Some(limits(&spec.limits, &excess)),
            servers: servers.collect(),
            set_otherwise: set_otherwise(spec),
        }
    });
    services.collect()
}

fn limits(limits: &LimitsSpec, excess: &dp::ExcessTotals) -> v1::Limits {
    let named = |counts: &[u64]| {
        let named = dp::Excess::ALL.iter().zip(counts).filter(|(_, count)| **count > 0);
        named.map(|(excess, count)| (excess.name().to_owned(), *count)).collect()
    };
    v1::Limits {
        new_per_s: limits.new_per_s,
        per_source: limits.per_source,
        over: limits.over.name().to_owned(),
        hashed: named(&excess.hashed),
        refused: named(&excess.refused),
        adopted: excess.adopted,
    }
}

fn cookies(excess: &dp::ExcessTotals) -> v1::Cookies {
    let count = |event: dp::CookieEvent| excess.cookies[event as usize];
    v1::Cookies {
        sent: count(dp::CookieEvent::Sent),
        accepted: count(dp::CookieEvent::Accepted),
        refused: count(dp::CookieEvent::Refused),
        given_up: count(dp::CookieEvent::GivenUp),
    }
}

fn rates(rates: dp::FlowRates) -> v1::Rates {
    v1::Rates {
        conns: rates.conns,
        in_packets: rates.in_pkts,
        in_bytes: rates.in_bytes,
        out_packets: rates.out_pkts,
        out_bytes: rates.out_bytes,
    }
}

fn listener(listener: &steadfast_model::document::Listener) -> v1::Listener {
    use steadfast_model::document::Protocol;

    v1::Listener {
        protocol: match listener.protocol {
            Protocol::Tcp => v1::Protocol::Tcp,
            Protocol::Udp => v1::Protocol::Udp,
            Protocol::Sctp => v1::Protocol::Sctp,
        }
        .into(),
        address: listener.address.to_string(),
        first_port: listener.ports.first().into(),
        last_port: listener.ports.last().into(),
    }
}

fn local(node: &Node, member: &Member, state: &ClusterState, view: &View) -> v1::LocalStatus {
    let workers = member.plane.workers();
    let gap = member.owner.gap_max_us.load(std::sync::atomic::Ordering::Relaxed);
    let table = &member.plane.shared.table;
    let half_open = table.half_open() as u64;
    let (mtus, now_ns) = (&member.plane.shared.tunnel_mtus, crate::clock::now_ns());
    let forwarded =
        workers.iter().map(|w| w.counters.sent(Sent::Forwarded) + w.counters.sent(Sent::Returned));
    v1::LocalStatus {
        interfaces: interfaces(node, member, state),
        forwarded_packets: forwarded.sum(),
        workers: workers.iter().map(|w| worker(w)).collect(),
        connections: (table.len() as u64).saturating_sub(half_open),
        connections_max: table.connections_max() as u64,
        half_open,
        half_open_max: table.half_open_max() as u64,
        tunnel_errors: tunnel_errors(mtus),
        tunnel_mtus: mtus
            .known(now_ns)
            .into_iter()
            .map(|(a, mtu, _)| (a.to_string(), mtu.into()))
            .collect(),
        beacons: beacons(view),
        unknown_connections: member.replicator.asked().map(|(name, n)| (name.to_owned(), n)).into(),
        replication: replication(member, state),
        ownership_loop_gap_max_us: gap,
        uptime_ms: u64::try_from(node.started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

fn tunnel_errors(mtus: &TunnelMtus) -> BTreeMap<String, u64> {
    let TunnelErrors { too_big, other, foreign } = mtus.errors();
    [("too_big", too_big), ("other", other), ("foreign", foreign)]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

fn worker(status: &crate::plane::WorkerStatus) -> v1::Worker {
    use std::sync::atomic::Ordering::Relaxed;
    let counters = &status.counters;
    let mut drops: BTreeMap<String, u64> = Reason::ALL
        .iter()
        // Not lost yet.
        .filter(|reason| **reason != Reason::FragmentEarly)
        .map(|reason| (reason.name().to_owned(), counters.dropped(*reason)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let failed = status.send_failed.load(Relaxed);
    if failed > 0 {
        drops.insert("send_failed".to_owned(), failed);
    }
    let sent = [Sent::Forwarded, Sent::Returned, Sent::Relayed, Sent::Answered];
    v1::Worker {
        queue: status.queue,
        rx_packets: counters.received(),
        tx_packets: sent.iter().map(|s| counters.sent(*s)).sum(),
        forwarded_in: counters.sent(Sent::Forwarded),
        forwarded_out: counters.sent(Sent::Returned),
        relayed: counters.sent(Sent::Relayed),
        held_back: counters.dropped(Reason::HeldBack),
        too_big: counters.too_big(),
        unfit_replies: counters.unfit_replies(),
        longer_replies: counters.longer_replies(),
        client_told: counters.told(),
        client_untold: counters.untold(),
        fragmented: counters.fragmented(),
        expired: counters.expired(),
        fragments_early: counters.dropped(Reason::FragmentEarly),
        fragments_released: counters.released(),
        drops,
        loop_gap_max_us: status.gap_max_ns.load(Relaxed) / 1_000,
    }
}

fn interfaces(node: &Node, member: &Member, state: &ClusterState) -> Vec<v1::Interface> {
    let view = node.kernel.borrow();
    let ports = member.plane.ports();
    let shown = ports.iter().map(|port| {
        let sockets = port.sockets();
        let first = sockets.values().find_map(|s| s.as_ref().ok());
        let bind_mode = match first.map(|s| s.mode) {
            Some(af_xdp::Mode::ZeroCopy) => v1::BindMode::ZeroCopy,
            Some(af_xdp::Mode::Copy) => v1::BindMode::Copy,
            None => v1::BindMode::Unspecified,
        };
        let failed: Vec<&str> =
            sockets.values().filter_map(|s| s.as_ref().err()).map(String::as_str).collect();
        let why = first.map(|s| s.fallback.clone()).unwrap_or_default();
        let bind_reason = if failed.is_empty() { why } else { failed.join("; ") };
        v1::Interface {
            name: port.name.clone(),
            segment: names(state, &port.segments()),
            ifindex: port.interface,
            attach_mode: v1::AttachMode::Native.into(),
            bind_mode: bind_mode.into(),
            bind_reason,
            queues: port.queues,
            sockets: sockets.values().filter(|s| s.is_ok()).count() as u32,
            up: view.interfaces.get(&port.interface).is_some_and(|i| i.up),
            vlan: port.trunk().map_or(0, |(_, vlan)| u32::from(vlan)),
            trunk: port.trunk().map(|(trunk, _)| trunk.name.clone()).unwrap_or_default(),
        }
    });
    shown.collect()
}

fn names(state: &ClusterState, segments: &BTreeSet<SegmentId>) -> String {
    let known = segments.iter().filter_map(|segment| state.segments.get(&segment.0));
    known.map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn beacons(view: &View) -> BTreeMap<String, u64> {
    let counters = &view.counters;
    let mut named = BTreeMap::from([
        ("sent".to_owned(), counters.beacons_sent.values().sum()),
        ("received".to_owned(), counters.beacons_received.values().sum()),
        ("claims".to_owned(), counters.claims),
        ("claims_won".to_owned(), counters.claims_won),
        ("consents".to_owned(), counters.consents),
        ("refusals".to_owned(), counters.refusals),
        ("resignations".to_owned(), counters.resignations),
        ("gaps".to_owned(), counters.gaps),
        ("mutes".to_owned(), counters.mutes),
        ("deposed".to_owned(), counters.deposed),
        ("gratuitous_arps".to_owned(), counters.gratuitous_arps),
        ("proposals".to_owned(), counters.proposals),
    ]);
    for (reason, count) in &counters.rejected {
        named.insert(format!("rejected_{reason:?}").to_lowercase(), *count);
    }
    named
}

fn replication(member: &Member, state: &ClusterState) -> Vec<v1::ReplicationPeer> {
    let figures = member.replicator.figures();
    let shown = figures.iter().map(|(peer, figures)| {
        let (sent, received) = (figures.sent.values(), figures.received.values());
        let mut counters = BTreeMap::new();
        let mut add = |name: &str, value: u64| {
            *counters.entry(name.to_owned()).or_insert(0) += value;
        };
        for metrics in sent.clone() {
            add("batches_sent", metrics.batches);
            add("bytes_sent", metrics.bytes);
            add("records_sent", metrics.records);
            add("donated", metrics.donated);
            add("deletes_sent", metrics.deletes);
            add("snapshots_sent", metrics.snapshots_done);
            add("snapshots_pending", metrics.snapshots_pending);
            add("snapshot_bytes_sent", metrics.walk_bytes);
            add("snapshots_held_up_ms", metrics.held_up_ns / 1_000_000);
            add("breaks", metrics.breaks);
            add("digests_sent", metrics.digests);
        }
        for metrics in received {
            add("batches_received", metrics.batches);
            add("records_applied", metrics.applied);
            add("donations_applied", metrics.donated);
            add("records_kept", metrics.kept);
            add("deletes_applied", metrics.deleted);
            add("swept", metrics.swept);
            add("snapshots_received", metrics.snapshots);
            add("rejected_epoch", metrics.rejected_epoch);
            add("rejected_holder", metrics.rejected_holder);
            add("rejected_full", metrics.rejected_full);
            add("digests_compared", metrics.digests);
            add("digests_differed", metrics.digests_differed);
            add("digests_refused", metrics.digests_refused);
        }
        v1::ReplicationPeer {
            node: Some(node_ref(state, *peer)),
            connected: member.replicator.connected(*peer),
            lag_ms: sent.clone().map(|m| m.lag_ns).max().unwrap_or(0) / 1_000_000,
            unacked: sent.map(|m| m.unacked_records + m.waiting).sum(),
            counters,
        }
    });
    shown.collect()
}

/// What this node knows beside what it answers.
fn facts(member: &Member, state: &ClusterState, view: &View, disowned_by: &[NodeId]) -> Facts {
    let service = |id| state.services.get(&id).map(|s| s.spec.name.clone());
    let started_with = &member.started_with;
    let outdated = *started_with != StartSettings::of(state);
    Facts {
        disowned_by: disowned_by.iter().map(|id| node_ref(state, *id).name).collect(),
        panicking: member.health.panicking().into_iter().filter_map(service).collect(),
        raft_ended: member.raft.metrics().fatal,
        started_with: outdated.then(|| {
            let StartSettings { connections_max, half_open_max, beacon } = started_with;
            format!(
                "connections_max {connections_max}, half_open_max {half_open_max} and beacons of {} ms x {}",
                beacon.interval_ms, beacon.silent_after
            )
        }),
        pauses: member.pauses.recent(Instant::now(), Pauses::of(&view.counters)),
        beacon: (started_with.beacon.interval_ms, started_with.beacon.silent_after),
        troubles: member.plane.troubles().into_iter().collect(),
    }
}
