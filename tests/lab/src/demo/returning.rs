//! The fault `return`: a holder dies, is rebuilt from nothing, and must carry everything again.
//!
//! 1. The holder is killed; another node takes over.
//! 2. Further sessions are opened through that one.
//! 3. The dead node's data is wiped; it starts, joins as a new node; the dead voter is removed.
//! 4. Its copy becomes complete: from the snapshot for what was there before it.
//! 5. The third node is cordoned: it may consent and not hold.
//! 6. The second holder is killed. Only the returned node can take over.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tokio::time::sleep;

use super::{
    inject::{GONE_WITHIN, Injected, Scene},
    run::{announcer, list_sessions},
    validity::Check,
};
use crate::{cluster::api::NodeRef, host::names::NODES, load::now_ns};

/// How long the others may take to take over or to learn something.
const WITHIN: Duration = Duration::from_secs(10);

/// Sessions opened meanwhile: one for this many that are there.
const MEANWHILE_SHARE: u32 = 10;

/// Fewest sessions opened meanwhile.
const MEANWHILE_MIN: u32 = 6;

/// Injects it; returns when the second holder is dead.
///
/// # Errors
/// When a step does not succeed.
pub async fn inject(scene: &mut Scene<'_>, first: u8) -> Result<Injected> {
    let first_node = scene.holder.clone();
    let begin_ns = now_ns();
    scene.cluster.signal(first, Signal::KILL)?;
    scene.cluster.reap(first, GONE_WITHIN).await?;
    let (second, second_node) = successor(scene, &first_node).await?;
    (scene.say)(&format!("n{first} is dead, n{second} holds the group; more sessions"));

    let more = (scene.sessions / MEANWHILE_SHARE).max(MEANWHILE_MIN);
    let target = scene.cluster.plan().family.target();
    let opened = scene.client.open(target, more - more / 3, more / 3).await?;

    (scene.say)(&format!("n{first} comes back with nothing, joins, the dead voter is removed"));
    scene.cluster.wipe(first)?;
    scene.cluster.start_node(first).await?;
    let returned = scene.cluster.join(first, second).await?;
    scene.cluster.ctl(second).node("remove", first_node.id).await?;
    scene.cluster.ensure_voter(returned).await?;
    let ready = scene.cluster.wait_ready().await.context("the node that came back")?;
    if ready.holder.id != second_node.id {
        bail!("the group moved to {} while a node came back", ready.holder.name);
    }

    let third = NODES.into_iter().find(|&n| n != first && n != second).context("no third node")?;
    let third_id = scene.cluster.id_of(third).await?;
    scene.cluster.cordon(third_id).await?;
    wait_cordoned(scene, third_id).await?;
    let sessions = scene.client.snapshot().await?;
    let (listed, servers) = list_sessions(scene.cluster, second, &sessions).await?;

    (scene.say)(&format!("n{first} is complete, n{third} cordoned; n{second} is killed"));
    scene.cluster.signal(second, Signal::KILL)?;
    let done = format!(
        "n{first} was killed, wiped and joined anew as node {returned}; then n{second} was killed"
    );
    let mut injected = Injected::plain(begin_ns, done, Some(first_node));
    scene.cluster.reap(second, GONE_WITHIN).await?;
    let (_, holder) = successor(scene, &second_node).await?;
    injected.opened = (u64::from(more), u64::from(opened.established));
    injected.listed.push(listed);
    injected.servers = servers;
    injected.checks.push(Check {
        what: "the node that came back takes over".to_owned(),
        passed: holder.id == returned,
        seen: format!("{} (id {}) did", holder.name, holder.id),
    });
    Ok(injected)
}

/// Waits until another node than `old` announces the group.
async fn successor(scene: &Scene<'_>, old: &NodeRef) -> Result<(u8, NodeRef)> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let statuses = scene.cluster.statuses().await;
        if let Some((n, node, _)) = announcer(&statuses).filter(|(_, node, _)| node.id != old.id) {
            return Ok((n, node));
        }
        if Instant::now() > deadline {
            bail!("nobody took over from {} within {WITHIN:?}", old.name);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until every node knows that `id` is cordoned.
async fn wait_cordoned(scene: &Scene<'_>, id: u64) -> Result<()> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let statuses = scene.cluster.statuses().await;
        let knows =
            |nodes: &[crate::cluster::api::Node]| nodes.iter().any(|n| n.id == id && n.cordoned);
        if statuses.len() == NODES.len() && statuses.iter().all(|(_, s)| knows(&s.nodes)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("not every node knows after {WITHIN:?} that node {id} is cordoned");
        }
        sleep(Duration::from_millis(100)).await;
    }
}
