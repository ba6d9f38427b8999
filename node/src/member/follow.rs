//! Follows what the cluster commits, what the kernel knows and what the checks see, and tells the
//! parts that act on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use steadfast_dataplane::{Connection, Cursor};
use steadfast_model::{ClusterState, GroupId, NodeId, document::Switch, sync_group};
use steadfast_ownership::{Committed, CommittedGroup, Grant, Member as Candidate, SegmentId, rank};
use steadfast_peer::Peer;
use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tracing::{error, info};

use super::Member;
use crate::{
    kernel::{Interface, KernelFeed, KernelView, News},
    owner,
    plane::PortInfo,
    replicated::Replicated,
};

/// Everything is looked at again at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Connections looked at in one turn for clients that are not resolved.
const CLIENTS_PER_TURN: usize = 1_024;

/// What has been told to the parts, to tell them only what is new.
#[derive(Default)]
struct Told {
    revision: Option<u64>,
    committed: Option<Committed>,
    members: Vec<NodeId>,
    replication: Option<bool>,
    leader: Option<bool>,
    links: BTreeMap<SegmentId, bool>,
    ports: Vec<(Arc<PortInfo>, BTreeSet<SegmentId>)>,
    workers: usize,
    port_slot: Option<u16>,
    /// The interfaces for which tables were written last, and whether that went well.
    tables: (BTreeMap<u32, Interface>, bool),
    /// How far the table was walked for clients whose next hop is not resolved.
    walked: Option<Cursor>,
}

/// What is new in a turn.
#[derive(Clone, Copy, Debug, Default)]
struct New {
    kernel: bool,
    health: bool,
    /// Time to look at everything that nobody tells about.
    look: bool,
}

/// Runs until the daemon ends.
pub(crate) async fn follow(member: Arc<Member>) {
    let mut applied = member.raft.watch();
    let mut kernel = KernelFeed::new(member.node.kernel.clone());
    let mut health = member.health.watch();
    let mut look = tokio::time::interval(LOOK_AGAIN);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Told::default();
    let mut attacher = Attacher::default();
    let mut new = New { kernel: true, health: true, look: false };
    let mut view = kernel.view();
    loop {
        applied.borrow_and_update();
        if new.kernel {
            view = kernel.view();
        }
        let replicated = member.raft.state();
        turn(&member, &replicated, &view, &mut told, &mut attacher, new).await;
        new = New::default();
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            news = kernel.next() => match news {
                News::Changed => new.kernel = true,
                News::Ended => member.plane.kernel_lost(),
            },
            changed = health.changed() => match changed {
                Ok(()) => new.health = true,
                Err(_) => return,
            },
            () = member.macs_changed.notified() => kernel.nudge(),
            () = member.plane.ports_changed() => {}
            () = attacher.done() => {}
            _ = look.tick() => new.look = true,
        }
    }
}

async fn turn(
    member: &Arc<Member>,
    replicated: &Arc<Replicated>,
    view: &Arc<KernelView>,
    told: &mut Told,
    attacher: &mut Attacher,
    new: New,
) {
    let state = &replicated.0;
    if let Some(cluster) = &state.cluster {
        let key = Some(cluster.beacon_key.clone());
        member.key.send_if_modified(|old| std::mem::replace(old, key.clone()) != key);
    }
    tell_members(member, state, told);
    member.plane.set_cookie_keys(state);
    let revision_new = told.revision != Some(state.config.revision);
    told.revision = Some(state.config.revision);
    if revision_new {
        info!(revision = state.config.revision, "configuration");
        member.health.set_targets(state);
        let replicated = state.settings().replication == Switch::On;
        let document = owner::Command::Document(addresses(state), replicated);
        member.owner.tell(document).await;
        member.replicator.set_bounds(&state.settings().copies);
    }
    let workers = member.plane.workers().len();
    let port_slot = state.port_slot(member.id());
    if revision_new || new.health || (told.workers, told.port_slot) != (workers, port_slot) {
        (told.workers, told.port_slot) = (workers, port_slot);
        let up = member.health.servers_up(state);
        member.plane.configure(state, member.id(), &|service, i| up.contains(&service.servers[i]));
    }
    member.plane.assign(state, view);
    let ports_new = tell_ports(member, told).await;
    let again = new.look && !told.tables.1;
    if revision_new || ports_new || again || told.tables.0 != view.interfaces {
        let well = set_tables(member, replicated, view).await;
        told.tables = (view.interfaces.clone(), well);
    }
    if revision_new || new.kernel || ports_new {
        member.plane.route(view);
    }
    if revision_new || new.kernel || new.look || ports_new {
        attacher.want();
    }
    attacher.start(member, replicated, view);
    resolve_servers(member, state, view);
    told.walked = resolve_clients(member, view, told.walked);
    // A segment that works must be known before a group is on it, and stay known until no group is
    // on it any more: else renaming a segment would be a resignation.
    let gone = tell_links(member, state, view, told).await;
    let committed = committed(member, state);
    let same = |old: &Committed| {
        (&old.voters, &old.members, &old.groups, old.generation)
            == (&committed.voters, &committed.members, &committed.groups, committed.generation)
    };
    if !told.committed.as_ref().is_some_and(same) {
        told.committed = Some(committed.clone());
        member.owner.tell(owner::Command::Committed(Box::new(committed))).await;
    }
    for segment in gone {
        info!(segment = segment.0, "in use no more");
        member.owner.tell(owner::Command::SegmentGone(segment)).await;
    }
    let leader = member.raft.is_leader();
    if told.leader != Some(leader) {
        told.leader = Some(leader);
        member.owner.tell(owner::Command::Leader(leader)).await;
    }
}

/// The first packet to a server must not be the one that finds it unresolved: it would be lost.
fn resolve_servers(member: &Member, state: &ClusterState, view: &KernelView) {
    for server in state.services.values().flat_map(|s| &s.spec.servers) {
        let hop = view.route(server.address);
        if hop.is_some_and(|hop| !view.neighbours.contains_key(&hop)) {
            member.node.prober.probe(server.address);
        }
    }
}

/// A node that takes a NAT service over sends to its clients at once: their next hops must be
/// resolved before. Looks at a part of the table in each turn.
fn resolve_clients(member: &Member, view: &KernelView, from: Option<Cursor>) -> Option<Cursor> {
    let (connections, next) =
        member.plane.shared.table.walk(from.unwrap_or_default(), CLIENTS_PER_TURN);
    let nat = |c: &&Connection| c.target().is_some_and(|target| target.forwarding.is_nat());
    let clients: BTreeSet<_> = connections.iter().filter(nat).map(|c| c.key().client).collect();
    let unresolved = |hop: Option<_>| hop.is_some_and(|hop| !view.neighbours.contains_key(&hop));
    for client in clients.into_iter().filter(|c| unresolved(view.route(*c))) {
        member.node.prober.probe(client);
    }
    next
}

/// Attaches interfaces beside everything else: binding sockets and loading programs takes its time.
#[derive(Default)]
struct Attacher {
    wanted: bool,
    running: Option<JoinHandle<()>>,
}

impl Attacher {
    /// Something may be different.
    fn want(&mut self) {
        self.wanted = true;
    }

    /// Starts if it is wanted and not at it.
    fn start(&mut self, member: &Arc<Member>, state: &Arc<Replicated>, view: &Arc<KernelView>) {
        if !self.wanted || self.running.is_some() {
            return;
        }
        self.wanted = false;
        let (plane, state, view) = (Arc::clone(&member.plane), Arc::clone(state), Arc::clone(view));
        self.running = Some(tokio::task::spawn_blocking(move || plane.attach(&state.0, &view)));
    }

    /// Waits until it is through; for ever when it is not at it.
    async fn done(&mut self) {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        if let Err(error) = running.await {
            error!("attaching interfaces: {error}");
        }
        self.running = None;
    }
}

/// Writing tables blocks.
async fn set_tables(member: &Arc<Member>, state: &Arc<Replicated>, view: &Arc<KernelView>) -> bool {
    let (plane, state, view) = (Arc::clone(&member.plane), Arc::clone(state), Arc::clone(view));
    let done = tokio::task::spawn_blocking(move || plane.set_tables(&state.0, &view)).await;
    done.unwrap_or_else(|error| {
        error!("tables: {error}");
        false
    })
}

/// Which data interfaces there are, and which segments on each; says whether that is news.
async fn tell_ports(member: &Member, told: &mut Told) -> bool {
    let ports: Vec<_> =
        member.plane.ports().iter().map(|p| (Arc::clone(p), p.segments())).collect();
    let same = ports.len() == told.ports.len()
        && ports.iter().zip(&told.ports).all(|(a, b)| Arc::ptr_eq(&a.0, &b.0) && a.1 == b.1);
    if !same {
        told.ports.clone_from(&ports);
        member.owner.tell(owner::Command::Ports(ports)).await;
    }
    !same
}

/// Whom to connect to and whom to hear.
fn tell_members(member: &Member, state: &ClusterState, told: &mut Told) {
    let mut members: Vec<NodeId> = state.nodes.keys().copied().collect();
    let knows_itself = state.nodes.contains_key(&member.id());
    if !knows_itself {
        // The log has not told this node of its admission yet: the first peers bring it.
        members.extend(member.identity.first_peers.iter().map(|p| p.node));
        members.push(member.id());
        members.sort_unstable();
        members.dedup();
    }
    let on = state.settings().replication == Switch::On;
    if told.members == members && told.replication == Some(on) {
        return;
    }
    let peer = |id: &NodeId, control: bool| -> Option<Peer> {
        let addr = match state.nodes.get(id) {
            Some(n) if control => n.control,
            Some(n) => n.replication,
            None => {
                let first = member.identity.first_peers.iter().find(|p| p.node == *id)?;
                if control { first.control } else { first.replication }
            }
        };
        Some(Peer { id: *id, addr })
    };
    member.health.set_members(&members);
    member.membership.set(members.iter().copied().collect::<BTreeSet<_>>());
    let control: Vec<Peer> = members.iter().filter_map(|id| peer(id, true)).collect();
    member.owner.links.set_peers(&control);
    let replication: Vec<Peer> = members.iter().filter_map(|id| peer(id, false)).collect();
    member.replicator.set_peers(if on { &replication } else { &[] });
    told.members = members;
    told.replication = Some(on);
}

/// Which segments of the groups work here; answers those that no group is on any more.
async fn tell_links(
    member: &Member,
    state: &ClusterState,
    view: &KernelView,
    told: &mut Told,
) -> Vec<SegmentId> {
    let ports = member.plane.ports();
    let works = |segment: &SegmentId| {
        ports.iter().any(|port| {
            port.segments().contains(segment)
                && port.is_served()
                && view.interfaces.get(&port.interface).is_some_and(|i| i.up)
        })
    };
    let used: BTreeSet<u16> =
        state.groups.values().flat_map(|g| g.segments.iter().copied()).collect();
    let links: BTreeMap<_, _> =
        used.into_iter().map(SegmentId).map(|segment| (segment, works(&segment))).collect();
    for (segment, up) in &links {
        if told.links.get(segment) != Some(up) {
            info!(segment = segment.0, up, "link");
            member.owner.tell(owner::Command::Link(*segment, *up)).await;
        }
    }
    let gone = told.links.keys().filter(|segment| !links.contains_key(segment)).copied().collect();
    told.links = links;
    gone
}

fn addresses(state: &ClusterState) -> Vec<owner::GroupAddress> {
    let segment_of = |address| {
        let spec = state.config.document.segment_of(address)?;
        let found = state.segments.iter().find(|(_, s)| s.name == spec.name)?;
        Some(SegmentId(*found.0))
    };
    let mut all = Vec::new();
    for group in state.groups.values() {
        let vips = group.spec.addresses.iter().map(|address| (*address, false));
        let gateways = group.spec.gateways.iter().map(|address| (*address, true));
        let locals = group.spec.local_addresses.iter().map(|address| (*address, false));
        for (address, gateway) in vips.chain(gateways).chain(locals) {
            if let Some(segment) = segment_of(address) {
                all.push(owner::GroupAddress { group: group.id, segment, address, gateway });
            }
        }
    }
    all
}

/// In which order the nodes stand by for each group.
pub(crate) fn ranks(state: &ClusterState) -> BTreeMap<GroupId, Vec<NodeId>> {
    let holder = |grant: &steadfast_model::Grant| grant.epoch.node;
    let groups: Vec<_> =
        state.groups.values().map(|g| (g.id, g.grant.as_ref().map(holder))).collect();
    let nodes: Vec<_> = state.nodes.values().map(|n| (n.id, !n.cordoned && !n.held_down)).collect();
    rank(&groups, &nodes)
}

/// What ownership is decided on.
fn committed(member: &Member, state: &ClusterState) -> Committed {
    let membership = member.raft.membership();
    let nodes = || state.nodes.values();
    let mut ranks = ranks(state);
    let groups = state.groups.values().map(|group| {
        let mut candidates = ranks.remove(&group.id).unwrap_or_default();
        let sync_group = sync_group(&group.spec.sync_group, group.id, nodes());
        if let Some(members) = &sync_group {
            // Who has copies goes first.
            candidates.sort_by_key(|node| !members.contains(node));
        }
        CommittedGroup {
            id: group.id,
            segments: group.segments.iter().map(|s| SegmentId(*s)).collect(),
            candidates,
            grant: group.grant.as_ref().map(|g| Grant {
                epoch: g.epoch,
                holder: g.epoch.node,
                boot: g.boot,
            }),
            policy: group.spec.policy,
            alone: group.spec.alone(),
            sync_group,
        }
    });
    Committed {
        generation: state.cluster.as_ref().map_or(0, |c| c.generation),
        applied_index: *member.raft.watch().borrow(),
        voters: membership.voters.iter().map(|v| NodeId(*v)).collect(),
        members: nodes()
            .map(|n| Candidate {
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
