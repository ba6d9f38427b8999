//! The driver of ownership: a thread of its own with its own sockets and raised priority.
//!
//! It also carries the control connections, since evidence of life must not wait for anything
//! else. Guarantees: all pending input is drained before a deadline is judged; what the core
//! decides is published to the workers before the thread sleeps again.

mod announce;
mod publish;
mod segment;
mod thread;

use std::{collections::BTreeSet, sync::Arc};

use steadfast_model::{BootId, GroupId, NodeId};
use steadfast_ownership::{Committed, MoveError, RebalanceInput, SegmentId, Settings, Status};
use steadfast_peer::{EndpointConfig, Handler, Links};
use steadfast_replication::Copies;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::announce::GroupAddress;
pub(crate) use self::publish::{RoleNow, Roles};
use crate::plane::{DataPlane, PortInfo};

/// Commands that may wait for the thread.
const COMMANDS_MAX: usize = 256;

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// The replicated state has changed.
    Committed(Box<Committed>),
    /// Every address of every group with its segment, and whether connections are replicated.
    Document(Vec<GroupAddress>, bool),
    /// Whether this node is the Raft leader.
    Leader(bool),
    /// The link of a segment came or went.
    Link(SegmentId, bool),
    /// No group uses the segment any more.
    SegmentGone(SegmentId),
    /// The data interfaces and the segments on each: beacons go out on them. Replaces what was
    /// told before; what stays is not interrupted.
    Ports(Vec<(Arc<PortInfo>, BTreeSet<SegmentId>)>),
    /// At the leader: move a group; the last: whatever the copy at the target is.
    Move(GroupId, Option<NodeId>, bool, oneshot::Sender<Result<NodeId, MoveError>>),
    /// A grant that was asked for could not be committed.
    ProposalFailed(GroupId),
    /// SIGTERM.
    Shutdown,
    /// Show yourself.
    Status(oneshot::Sender<Status>),
    /// Who holds what, and who could take it.
    Placement(oneshot::Sender<RebalanceInput>),
}

/// What the thread asks of the rest of the daemon.
#[derive(Debug)]
pub(crate) enum Request {
    /// Commit a grant.
    Grant(steadfast_model::Command),
    /// Ask the leader to move these groups away from here.
    MoveAway(Vec<GroupId>),
}

/// Everything the thread needs to start.
pub(crate) struct OwnerConfig {
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    pub(crate) cluster: u64,
    pub(crate) settings: Settings,
    pub(crate) endpoint: EndpointConfig,
    pub(crate) handler: Handler,
    pub(crate) plane: Arc<DataPlane>,
    pub(crate) copies: Arc<Copies>,
    /// The key of the beacons, once it is known.
    pub(crate) key: watch::Receiver<Option<Vec<u8>>>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) roles: Arc<Roles>,
    pub(crate) macs_changed: Arc<tokio::sync::Notify>,
}

/// The running thread.
pub(crate) struct Owner {
    commands: mpsc::Sender<Command>,
    /// The control connections.
    pub(crate) links: Links,
    /// The longest time between two turns of its loop, in microseconds.
    pub(crate) gap_max_us: Arc<std::sync::atomic::AtomicU64>,
    /// What others need to know at once.
    pub(crate) news: watch::Receiver<News>,
}

/// What the thread publishes besides roles.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct News {
    /// It holds no group any more.
    pub(crate) holds_nothing: bool,
    /// Peers that are silent on every path.
    pub(crate) silent: BTreeSet<NodeId>,
}

impl Owner {
    /// Starts the thread; returns when its sockets are open.
    ///
    /// # Errors
    /// When the control address is taken or not ours, or no thread can be had.
    pub(crate) async fn start(config: OwnerConfig) -> anyhow::Result<Self> {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (started, opened) = oneshot::channel();
        let gap_max_us = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (news_sender, news) = watch::channel(News::default());
        let main_runtime = tokio::runtime::Handle::current();
        let gap = Arc::clone(&gap_max_us);
        std::thread::Builder::new().name("ownership".to_owned()).spawn(move || {
            thread::run(config, receiver, started, main_runtime, gap, news_sender);
        })?;
        let links = opened
            .await
            .map_err(|_| anyhow::anyhow!("the ownership thread ended at its start"))??;
        Ok(Self { commands, links, gap_max_us, news })
    }

    /// Tells the thread something; waits while its queue is full.
    pub(crate) async fn tell(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::error!("the ownership thread has ended: this node announces nothing");
        }
    }

    /// What it knows.
    pub(crate) async fn status(&self) -> Option<Status> {
        let (sender, receiver) = oneshot::channel();
        self.tell(Command::Status(sender)).await;
        receiver.await.ok()
    }

    /// Who holds what, and who could take it.
    pub(crate) async fn placement(&self) -> Option<RebalanceInput> {
        let (sender, receiver) = oneshot::channel();
        self.tell(Command::Placement(sender)).await;
        receiver.await.ok()
    }

    /// Plans a move; only at the leader. `force`: whatever the copy at the target is.
    ///
    /// # Errors
    /// Why the target cannot take it.
    pub(crate) async fn plan_move(
        &self,
        group: GroupId,
        target: Option<NodeId>,
        force: bool,
    ) -> Result<NodeId, String> {
        let (sender, receiver) = oneshot::channel();
        self.tell(Command::Move(group, target, force, sender)).await;
        match receiver.await {
            Ok(Ok(node)) => Ok(node),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the ownership thread has ended".to_owned()),
        }
    }
}
