//! A machine with its disk and clock, and the run of the daemon on it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use steadfast_dataplane::{
    Actions, Carried, Config, Connection, FlowKey, Gone, NextHops, NextHopsSpec, PortSpec, Removal,
    Route, Shared, SyncHook, TableOptions, Template, Worker,
};
use steadfast_model::{BootId, ClusterState, Epoch, GroupId, NodeId};
use steadfast_ownership::{Committed, Frame, Ownership, Path, Role, SegmentId, Settings, Time};
use steadfast_replication::{
    Copies, DirtySet, GroupRole, Local, Receiver, ReplicationHook, Sender,
};

use crate::{
    asking::Question,
    clock::{Clock, Ns},
    cluster::{CLUSTER, SERVERS},
    ether::{client_ip, mac, node_ip, server_ip},
    queue::{Device, Event},
    raft::{Durable, Raft, RaftMessage},
};

/// Clients.
pub(crate) const CLIENTS: u16 = 6;
/// Connections that a table holds.
pub(crate) const CONNECTIONS_MAX: usize = 4096;

/// Parts of a node that can be stopped apart.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Part {
    /// The ownership thread.
    Owner = 0,
    /// The workers.
    Plane = 1,
    /// Everything else.
    Rest = 2,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Its id.
    pub id: NodeId,
    /// Its clock.
    pub clock: Clock,
    /// What it keeps when it loses power.
    pub disk: Disk,
    /// Runs so far.
    pub boots: u64,
    /// Which parts stand still, and how often they were stopped.
    pub stopped: [u32; 3],
    /// What waits for the parts that stand still.
    pub backlog: Vec<Event>,
    /// The daemon, unless it is down.
    pub run: Option<Run>,
    /// It shall stay down until somebody starts it.
    pub down: bool,
    /// Connections that its table holds in its next run.
    pub connections_max: usize,
    /// Until when something is, or was a moment ago, wrong with it.
    pub disturbed_until: Ns,
    /// Since when it was well.
    pub well_since: Ns,
}

/// A disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// The log.
    pub durable: Durable,
    /// How long a write takes now, beyond what it always takes.
    pub slow: Ns,
}

/// This node's part in a group, and what it was under the holder before: as the daemon has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct RoleNow {
    /// What it is.
    pub role: Role,
    /// Under which epoch.
    pub epoch: Epoch,
    /// The role and epoch under another holder.
    pub before: Option<(Role, Epoch)>,
}

/// What the ownership thread is told.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// Something was committed.
    Committed(Box<Committed>),
    /// Whether this node leads.
    Leader(bool),
    /// An interface came up or went down.
    Link(SegmentId, bool),
    /// Plan a move.
    Move(GroupId, Option<NodeId>),
    /// A proposal came to nothing.
    ProposalFailed(GroupId),
    /// Stop as planned.
    Shutdown,
}

/// A proposal that waits for its commit.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    /// Which group it is for, if it is a grant.
    pub group: Option<GroupId>,
    /// Where it stands in the log, and under which term.
    pub at: Option<(u64, u64)>,
}

/// A connection was created at a holder: which, on which server.
pub(crate) type Created = Arc<Mutex<Vec<(FlowKey, u32, u64)>>>;

/// The hook of the daemon, and an ear for what is created.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    inner: ReplicationHook,
    created: Created,
}

impl Hook {
    fn note(&self, connection: &Connection) {
        let line = (connection.key(), connection.server().0, connection.incarnation());
        if let Ok(mut created) = self.created.lock() {
            created.push(line);
        }
    }
}

impl SyncHook for Hook {
    fn forwarded(&self, carried: &Carried<'_>) {
        self.inner.forwarded(carried);
    }

    fn replied(&self, carried: &Carried<'_>) {
        self.inner.replied(carried);
    }

    fn renumbered(&self, connection: &Connection) {
        self.inner.renumbered(connection);
    }

    fn created(&self, connection: &Connection, now_ns: u64) {
        self.note(connection);
        self.inner.created(connection, now_ns);
    }

    fn template(&self, template: &Template, now_ns: u64) {
        self.inner.template(template, now_ns);
    }

    fn template_removed(&self, template: &Template) {
        self.inner.template_removed(template);
    }

    fn removed(&self, gone: &Gone, removal: Removal, now_ns: u64) {
        self.inner.removed(gone, removal, now_ns);
    }
}

/// A sender of copies with what its task remembers.
#[derive(Debug)]
pub(crate) struct SenderTask {
    /// The core.
    pub sender: Sender,
    /// What it was told of the roles.
    pub known: BTreeMap<GroupId, GroupRole>,
    /// How often they had changed then.
    pub known_changed: u64,
    /// When it looks around next.
    pub at: Ns,
}

/// A write of the log on its way to the disk.
#[derive(Debug)]
pub(crate) struct Write {
    /// Its number.
    pub serial: u64,
    /// What will be on the disk.
    pub durable: Durable,
    /// What is sent then.
    pub then: Vec<(NodeId, RaftMessage)>,
}

/// One run of the daemon: all that a crash takes.
#[derive(Debug)]
pub(crate) struct Run {
    /// Its random number.
    pub boot: BootId,
    /// The ownership core.
    pub core: Ownership,
    /// What waits for the ownership loop.
    pub inbox: Vec<(Path, Rc<Frame>, Ns)>,
    /// As above.
    pub told: Vec<Told>,
    /// When the ownership loop turns next.
    pub owner_at: Ns,
    /// When copies were judged last, local microseconds.
    pub copies_judged_us: u64,
    /// When stale senders were reported last.
    pub stale_reported_us: u64,
    /// Announcements that wait.
    pub announcements: VecDeque<(GroupId, u16, Ipv4Addr)>,
    /// Nodes whose MAC address a beacon has told.
    pub macs: BTreeSet<(NodeId, u16)>,
    /// Who held each group last, other than this node.
    pub last_other: BTreeMap<GroupId, (NodeId, BootId)>,
    /// Since when this node holds a group, and whether its copy was complete then.
    pub holding: BTreeMap<GroupId, (Ns, bool)>,
    /// Roles now.
    pub roles: BTreeMap<GroupId, RoleNow>,
    /// How often they have changed.
    pub roles_changed: u64,
    /// What it announces, for the checks.
    pub announcing: BTreeSet<GroupId>,
    /// The table and what workers share.
    pub shared: Arc<Shared>,
    /// Its one worker.
    pub worker: Worker<Hook>,
    /// What the worker asks for.
    pub actions: Actions,
    /// The hook for the timer.
    pub hook: Hook,
    /// What was created here since somebody looked.
    pub created: Created,
    /// Keys that wait to be copied.
    pub dirty: Arc<DirtySet>,
    /// Shards in which keys were marked, a bit each.
    pub marked: Arc<AtomicU8>,
    /// The worker wants to know something.
    pub wants: Arc<AtomicBool>,
    /// Questions that are under way.
    pub questions: BTreeMap<u64, Question>,
    /// Copies of others' connections.
    pub copies: Arc<Copies>,
    /// Senders by peer and shard.
    pub senders: BTreeMap<(NodeId, u8), SenderTask>,
    /// Receivers by peer and shard, with the number of their stream.
    pub receivers: BTreeMap<(NodeId, u8), (u64, Receiver)>,
    /// The log.
    pub raft: Raft,
    /// Writes on their way.
    pub writes: VecDeque<Write>,
    /// When the disk will have done what it was asked.
    pub disk_free_at: Ns,
    /// Entries that are on the disk.
    pub synced: u64,
    /// When the log's timer fires.
    pub raft_at: Ns,
    /// The applied state.
    pub state: ClusterState,
    /// Up to which index.
    pub applied: u64,
    /// Proposals of this run.
    pub proposals: BTreeMap<u64, Proposal>,
    /// What the follower told: revision, committed, leader.
    pub told_revision: Option<u64>,
    /// As above.
    pub told_committed: Option<Committed>,
    /// As above.
    pub told_leader: Option<bool>,
    /// It stops as planned.
    pub leaving: bool,
    /// When the last frame came, for a planned stop.
    pub frame_at: Ns,
    /// Counts configurations.
    pub generation: u64,
    /// The worker makes no progress.
    pub stuck_since: Option<Ns>,
}

impl Machine {
    /// A machine that was never started.
    #[must_use]
    pub(crate) fn new(id: NodeId, clock: Clock) -> Self {
        Self {
            id,
            clock,
            disk: Disk::default(),
            boots: 0,
            stopped: [0; 3],
            backlog: Vec::new(),
            run: None,
            down: true,
            connections_max: CONNECTIONS_MAX,
            disturbed_until: 0,
            well_since: 0,
        }
    }

    /// Local time, nanoseconds.
    #[must_use]
    pub(crate) fn local(&self, now: Ns) -> Ns {
        self.clock.local(now)
    }

    /// Local time as ownership has it.
    #[must_use]
    pub(crate) fn time(&self, now: Ns) -> Time {
        Time(self.clock.local(now) / 1_000)
    }

    /// Whether a part stands still.
    #[must_use]
    pub(crate) fn is_stopped(&self, part: Part) -> bool {
        self.stopped[part as usize] > 0
    }

    /// It runs, and all of it.
    #[must_use]
    pub(crate) fn is_well(&self) -> bool {
        self.run.is_some() && self.stopped == [0; 3]
    }

    /// The run with this number, if it is the present one.
    pub(crate) fn run_of(&mut self, boot: BootId) -> Option<&mut Run> {
        self.run.as_mut().filter(|run| run.boot == boot)
    }
}

/// What a run starts with.
pub(crate) struct Start<'a> {
    /// Whose.
    pub node: NodeId,
    /// Its number.
    pub boot: BootId,
    /// All nodes.
    pub members: &'a [NodeId],
    /// Ownership's settings.
    pub settings: &'a Settings,
    /// Connections that the table holds.
    pub connections_max: usize,
    /// Local time.
    pub local: Ns,
    /// World's time.
    pub now: Ns,
    /// Seeds of the table.
    pub seed: [u64; 2],
    /// The log.
    pub raft: Raft,
    /// What the log had on the disk.
    pub synced: u64,
}

impl Run {
    /// A daemon that has just been started: it knows nothing but what the disk says.
    ///
    /// # Errors
    /// When the settings are refused.
    pub(crate) fn new(start: Start<'_>) -> anyhow::Result<Self> {
        let Start { node, boot, members, settings, connections_max, local, now, seed, .. } = start;
        let options =
            TableOptions { connections_max, half_open_max: connections_max.div_ceil(2), seed };
        let shared = Arc::new(Shared::new(options));
        shared.set_config(Config::default());
        shared.set_next_hops(NextHops::new(next_hops(node, members)));
        let dirty = Arc::new(DirtySet::new());
        let marked = Arc::new(AtomicU8::new(0));
        let wake = Arc::clone(&marked);
        dirty.set_waker(move |shard| {
            wake.fetch_or(1 << shard, Ordering::Relaxed);
        });
        let wants = Arc::new(AtomicBool::new(false));
        let wake = Arc::clone(&wants);
        shared.unknown.set_waker(move || wake.store(true, Ordering::Relaxed));
        let created = Created::default();
        let inner = ReplicationHook::new(Arc::clone(&shared), Arc::clone(&dirty));
        let hook = Hook { inner, created: Arc::clone(&created) };
        let core = Ownership::new(node, boot, settings.clone(), Time(local / 1_000))?;
        Ok(Self {
            boot,
            core,
            inbox: Vec::new(),
            told: Vec::new(),
            owner_at: Ns::MAX,
            copies_judged_us: 0,
            stale_reported_us: 0,
            announcements: VecDeque::new(),
            macs: BTreeSet::new(),
            last_other: BTreeMap::new(),
            holding: BTreeMap::new(),
            roles: BTreeMap::new(),
            roles_changed: 1,
            announcing: BTreeSet::new(),
            worker: Worker::new(0, Arc::clone(&shared), hook.clone()),
            actions: Actions::new(),
            shared,
            hook,
            created,
            dirty,
            marked,
            wants,
            questions: BTreeMap::new(),
            copies: Arc::new(Copies::new()),
            senders: BTreeMap::new(),
            receivers: BTreeMap::new(),
            raft: start.raft,
            writes: VecDeque::new(),
            disk_free_at: now,
            synced: start.synced,
            raft_at: Ns::MAX,
            state: ClusterState::default(),
            applied: 0,
            proposals: BTreeMap::new(),
            told_revision: None,
            told_committed: None,
            told_leader: None,
            leaving: false,
            frame_at: now,
            generation: 0,
            stuck_since: None,
        })
    }

    /// Who this run is, in its streams.
    #[must_use]
    pub(crate) fn local(&self, node: NodeId) -> Local {
        Local { cluster: CLUSTER, node, boot: self.boot }
    }
}

/// Routes and neighbours of a node: everybody is on the link.
fn next_hops(node: NodeId, members: &[NodeId]) -> NextHopsSpec {
    let others = members.iter().copied().filter(|n| *n != node);
    let port = |number: u16| PortSpec {
        mac: mac(Device::Node(node, number)),
        addrs: vec![node_ip(node.0, number).into()],
        cluster_macs: others.clone().map(|n| mac(Device::Node(n, number))).collect(),
        ..PortSpec::default()
    };
    let route = |number: u16| Route {
        prefix: Ipv4Addr::new(198, 18, number as u8, 0).into(),
        prefix_len: 24,
        port: Some(number),
        gateway: None,
        src: None,
        mtu: None,
    };
    let clients = (0..CLIENTS).map(|c| (0, client_ip(c).into(), mac(Device::Client(c))));
    let servers = (0..2).flat_map(|port| {
        (0..SERVERS).map(move |s| (port, server_ip(s, port).into(), mac(Device::Server(s))))
    });
    NextHopsSpec {
        generation: 1,
        ports: vec![port(0), port(1)],
        routes: vec![route(0), route(1)],
        neighbours: clients.chain(servers).collect(),
    }
}
