//! Restarts of all daemons, one after the other: `rolling`, and `upgrade` with another version.
//!
//! An upgrade begins with the other version on all nodes. Each is stopped and started with this one;
//! the next one waits until the cluster is ready. After the first, while both versions are there, the
//! group is moved from the old one to the new one and back, and the old holder is killed. Then all go
//! back to the other version in the same way.

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::{
    inject::{GONE_WITHIN, Injected, Scene, open_more, stop_well},
    validity::Check,
};
use crate::{
    cluster::{ready::Ready, running::GROUP},
    host::names::NODES,
    load::now_ns,
};

/// Injects `rolling`, with node `first` first; returns when the last daemon is back.
pub(crate) async fn inject(scene: &mut Scene<'_>, first: u8) -> Result<Injected> {
    let begin_ns = now_ns();
    let mut checks = Vec::new();
    for n in from(first) {
        checks.push(stop_well(scene, n).await?);
        restarted(scene, n).await?;
    }
    let done = "every daemon was restarted".to_owned();
    let mut injected = Injected::plain(begin_ns, done, Some(scene.holder.clone()));
    injected.checks = checks;
    Ok(injected)
}

/// Injects `upgrade`, with node `first` first.
pub(crate) async fn upgrade(scene: &mut Scene<'_>, first: u8) -> Result<Injected> {
    if scene.cluster.plan().old_dir.is_none() {
        bail!("`upgrade` needs a clusterd of another version: `--old-dir FOLDER`");
    }
    let begin_ns = now_ns();
    let mut injected = Injected::plain(begin_ns, String::new(), Some(scene.holder.clone()));
    for old in [false, true] {
        let version = if old { "the other version" } else { "this version" };
        for (place, n) in from(first).into_iter().enumerate() {
            injected.checks.push(stop_well(scene, n).await?);
            scene.cluster.set_old(n, old)?;
            let ready = restarted(scene, n).await?;
            (scene.say)(&format!("n{n} has {version}"));
            if place == 0 {
                mixed(scene, n, &ready, &mut injected).await?;
            }
        }
    }
    injected.done = "every node was upgraded and brought back".to_owned();
    injected.window.ended_ns = now_ns();
    Ok(injected)
}

/// Node `one` alone has its version: the group goes to it and away again, and the node that then
/// holds it is killed.
async fn mixed(
    scene: &mut Scene<'_>,
    one: u8,
    ready: &Ready,
    injected: &mut Injected,
) -> Result<()> {
    let (one_id, mut holder) = (scene.cluster.id_of(one).await?, ready.holder.id);
    let other = NODES.into_iter().find(|&n| n != one).context("no other node")?;
    let other_id = scene.cluster.id_of(other).await?;
    for target in [one_id, other_id] {
        if target != holder {
            scene.cluster.any_ctl()?.move_group(GROUP, target).await?;
            holder = target;
        }
        scene.cluster.wait_ready().await?;
    }
    let (opened, check) = open_more(scene, "new sessions come up between versions").await?;
    injected.opened = (injected.opened.0 + opened.0, injected.opened.1 + opened.1);
    injected.checks.push(check);
    // What came last is copied before the node dies.
    scene.cluster.wait_ready().await?;
    scene.cluster.signal(other, Signal::KILL)?;
    scene.cluster.reap(other, GONE_WITHIN).await?;
    scene.cluster.start_node(other).await?;
    let after = scene.cluster.wait_ready().await.context("after the kill between versions")?;
    injected.checks.push(Check {
        what: "another node takes over between versions".to_owned(),
        passed: after.holder.id != other_id,
        seen: format!("n{other} was killed, {} holds the group", after.holder.name),
    });
    Ok(())
}

fn from(first: u8) -> Vec<u8> {
    std::iter::once(first).chain(NODES.into_iter().filter(|&n| n != first)).collect()
}

/// Starts the daemon of node `n`, which was stopped, and waits until all is as it was.
async fn restarted(scene: &mut Scene<'_>, n: u8) -> Result<Ready> {
    scene.cluster.start_node(n).await?;
    let ready = scene.cluster.wait_ready().await;
    let ready = ready.with_context(|| format!("after the restart of n{n}"))?;
    (scene.say)(&format!("n{n} is back; {} holds the group", ready.holder.name));
    Ok(ready)
}
