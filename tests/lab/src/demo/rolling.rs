//! The fault `rolling`: every daemon is told to stop and started again, one after the other, as an
//! upgrade does it. The next one waits until the cluster is ready.

use anyhow::{Context as _, Result};

use super::inject::{Injected, Scene, stop_well};
use crate::{host::names::NODES, load::now_ns};

/// Injects it, with node `first` first; returns when the last daemon is back.
pub(crate) async fn inject(scene: &mut Scene<'_>, first: u8) -> Result<Injected> {
    let begin_ns = now_ns();
    let mut checks = Vec::new();
    for n in std::iter::once(first).chain(NODES.into_iter().filter(|&n| n != first)) {
        checks.push(stop_well(scene, n).await?);
        scene.cluster.start_node(n).await?;
        let ready = scene.cluster.wait_ready().await;
        let ready = ready.with_context(|| format!("after the restart of n{n}"))?;
        (scene.say)(&format!("n{n} is back; {} holds the group", ready.holder.name));
    }
    let done = "every daemon was restarted".to_owned();
    let mut injected = Injected::plain(begin_ns, done, Some(scene.holder.clone()));
    injected.checks = checks;
    Ok(injected)
}
