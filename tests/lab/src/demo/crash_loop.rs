//! The fault `crash-loop`: a daemon that dies again and again.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::time::sleep;

use super::{
    inject::{GONE_WITHIN, Injected, Scene},
    run::announcer,
    validity::Check,
};
use crate::load::now_ns;

/// How often it dies.
const ROUNDS: u32 = 6;

/// It lives so long each time.
const LIVES: Duration = Duration::from_secs(5);

/// Kills the daemon of node `victim` and starts it again, many times; returns when it lives again.
pub(crate) async fn inject(scene: &mut Scene<'_>, victim: u8) -> Result<Injected> {
    let begin_ns = now_ns();
    let mut holders = Vec::new();
    for round in 1..=ROUNDS {
        scene.cluster.signal(victim, Signal::KILL)?;
        scene.cluster.reap(victim, GONE_WITHIN).await?;
        scene.cluster.start_node(victim).await?;
        sleep(LIVES).await;
        let statuses = scene.cluster.statuses().await;
        let (_, holder, epoch) = announcer(&statuses).context("nobody holds the group")?;
        (scene.say)(&format!("crash {round} of n{victim}: {} holds the group", holder.name));
        holders.push((holder.id, epoch));
    }
    let done = format!(
        "n{victim} crashed {ROUNDS} times, each time {} s after its start",
        LIVES.as_secs()
    );
    let mut injected = Injected::plain(begin_ns, done, Some(scene.holder.clone()));
    let mut after_first = holders.clone();
    after_first.dedup();
    injected.checks.push(Check {
        what: "the group moved at the first crash only".to_owned(),
        passed: after_first.len() == 1 && after_first[0].0 != scene.holder.id,
        seen: holders
            .iter()
            .map(|(id, epoch)| format!("{id} under {epoch}"))
            .collect::<Vec<_>>()
            .join(", "),
    });
    Ok(injected)
}
