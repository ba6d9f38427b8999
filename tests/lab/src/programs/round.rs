//! A round: every program at once, in one way of forwarding, and what happens meanwhile.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{
    cell::{Phase, Program, Round},
    report::Seen,
    session::{self, Ask},
    stage::Stage,
};
use crate::cluster::Cluster;

/// Sessions run for this long before the fault, and a long one for [`LASTS`] in all.
const BEFORE: Duration = Duration::from_millis(1200);
const LASTS: Duration = Duration::from_secs(4);

/// How long a killed daemon may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Runs the sessions of `programs`; afterwards the cluster is whole again.
///
/// # Errors
/// When the cluster is not ready before or after, or the fault did not happen as it must: then
/// nothing is shown.
pub async fn run(
    cluster: &mut Cluster,
    stage: &mut Stage,
    round: &Round,
    programs: &[Program],
) -> Result<Vec<(Program, Seen)>> {
    cluster.trust_nodes().await?;
    let before = cluster.wait_ready().await?.holder;
    let (tell, fault) = watch::channel(None);
    let mut sessions = JoinSet::new();
    let root = stage.files.dir.join("client");
    for &program in programs {
        let cell = round.cell(program);
        let ask = Ask {
            client: stage.client.clone(),
            files: stage.files.clone(),
            dir: root.join(&cell),
            cell,
            mode: round.mode,
            vip: round.mode.vip(round.family),
            phase: round.phase,
            lasts: LASTS,
            fault: fault.clone(),
        };
        sessions.spawn(async move { (program, session::run(program, ask).await) });
    }
    if round.phase == Phase::Kill {
        sleep(BEFORE).await;
        let holder = cluster.node_of(before.id).await?;
        cluster.signal(holder, Signal::KILL)?;
        cluster.reap(holder, GONE_WITHIN).await?;
        // Nobody listens any more only if every session has failed already.
        let _ = tell.send(Some(Instant::now()));
    }
    let mut seen = Vec::new();
    while let Some(session) = sessions.join_next().await {
        seen.push(session.context("a session panicked")?);
    }
    stage.check(cluster.plan())?;
    cluster.heal().await?;
    let after = cluster.wait_ready().await?.holder;
    let moved = before.id != after.id;
    ensure!(moved || round.phase != Phase::Kill, "the group is where it was before the kill");
    // The downloads of all rounds would be many.
    fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
    seen.sort_by_key(|(program, _)| Program::ALL.iter().position(|p| p == program));
    Ok(seen)
}
