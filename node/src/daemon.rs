//! One run of the daemon: from the local file to the last frame.

use std::{sync::Arc, time::Instant};

use anyhow::Context;
use arc_swap::ArcSwapOption;
use steadfast_model::BootId;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Mutex, watch},
};
use tracing::{info, warn};

use crate::{
    api,
    identity::DataFolder,
    join,
    kernel::{self, KernelView, Prober},
    listeners::Listeners,
    local_file::LocalFile,
    member::Member,
};

/// What exists on a node before it belongs to a cluster, and stays the same afterwards.
pub(crate) struct Node {
    pub(crate) local: LocalFile,
    pub(crate) boot: BootId,
    pub(crate) data: DataFolder,
    pub(crate) kernel: watch::Receiver<KernelView>,
    pub(crate) prober: Prober,
    pub(crate) started: Instant,
    /// Held by `init` and `join`, so that there is one of them at a time.
    pub(crate) joining: Mutex<()>,
    member: ArcSwapOption<Member>,
}

impl Node {
    /// The membership, once there is one.
    pub(crate) fn member(&self) -> Option<Arc<Member>> {
        self.member.load_full()
    }

    /// Publishes the membership to the API.
    pub(crate) fn set_member(&self, member: &Arc<Member>) {
        self.member.store(Some(Arc::clone(member)));
    }
}

/// Runs until a signal ends it.
///
/// # Errors
/// What could not be opened or started, and what to do.
pub(crate) async fn run(local: LocalFile) -> anyhow::Result<()> {
    kernel::check_version()?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let (data, _lock) = DataFolder::open(&local.data_dir)?;
    let boot = BootId(join::random_u64()?);
    let (kernel, handle) = kernel::watch().await?;
    let prober = Prober::start(handle, kernel.clone());
    info!(instance = local.instance, %boot, version = env!("CARGO_PKG_VERSION"), "starting");
    let socket = local.socket();
    let node = Arc::new(Node {
        local,
        boot,
        data,
        kernel,
        prober,
        started: Instant::now(),
        joining: Mutex::new(()),
        member: ArcSwapOption::empty(),
    });
    if let Some((identity, keys)) = node.data.load()? {
        let listeners = Listeners::open(&node.local.listen).await?;
        Member::start(&node, identity, keys, join::Start::Again, listeners).await?.publish();
    } else {
        info!("this node belongs to no cluster: `clusterctl init` or `clusterctl join TOKEN`");
    }
    api::serve_socket(Arc::clone(&node), &socket).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if let Some(member) = node.member() {
        info!("stopping: moving groups away; a second signal ends it at once");
        tokio::select! {
            () = member.stop() => info!("stopped"),
            _ = terminate.recv() => warn!("ended at once"),
            _ = interrupt.recv() => warn!("ended at once"),
        }
    }
    if let Err(error) = std::fs::remove_file(&socket) {
        warn!("cannot remove {}: {error}", socket.display());
    }
    Ok(())
}
