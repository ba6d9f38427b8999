//! Faults of the network between nodes: a plane that is cut, replication that loses packets.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::{
    inject::{Injected, Scene, kill, open_more},
    run::list_sessions,
    validity::Check,
};
use crate::{
    host::planes::{Drops, Plane, Way},
    load::now_ns,
};

/// How long a plane is cut.
const CUT: Duration = Duration::from_secs(5);

/// A session that is so old must outlive its node.
const OLD_ENOUGH: Duration = Duration::from_secs(1);

/// Cuts a plane of node `victim`; returns when it is whole again. Sessions come up meanwhile.
pub(crate) async fn cut(
    scene: &mut Scene<'_>,
    victim: u8,
    plane: Plane,
    way: Way,
) -> Result<Injected> {
    let begin_ns = now_ns();
    scene.cluster.drop_packets(Drops::Plane(victim, plane, way))?;
    sleep(CUT / 2).await;
    let (opened, check) = open_more(scene, "new sessions come up during the cut").await?;
    sleep(CUT / 2).await;
    let dropped = scene.cluster.pass_all()?;
    let done = format!("n{victim}'s {} passed nothing {}", plane.name(), way.told());
    let mut injected = Injected::plain(begin_ns, done, Some(scene.holder.clone()));
    injected.opened = opened;
    injected.checks.extend([check, something_was(dropped)]);
    Ok(injected)
}

/// Loses `percent` of 100 replication packets, opens sessions meanwhile, kills node `victim`.
pub(crate) async fn lose(scene: &mut Scene<'_>, victim: u8, percent: u8) -> Result<Injected> {
    let begin_ns = now_ns();
    scene.cluster.drop_packets(Drops::Replication(percent))?;
    let (opened, check) = open_more(scene, "new sessions come up").await?;
    sleep(OLD_ENOUGH).await;
    let sessions = scene.client.snapshot().await?;
    let (listed, servers) = list_sessions(scene.cluster, victim, &sessions).await?;
    let killed = kill(scene, victim).await?;
    let dropped = scene.cluster.pass_all()?;
    let done = format!("{percent}% of replication was lost, n{victim} was killed");
    let mut injected = Injected::plain(begin_ns, done, killed.victim);
    injected.opened = opened;
    injected.checks.extend([check, something_was(dropped)]);
    injected.listed.push(listed);
    injected.servers = servers;
    Ok(injected)
}

/// A cut that nothing ran into shows nothing.
fn something_was(dropped: u64) -> Check {
    Check {
        what: "the switch dropped packets".to_owned(),
        passed: dropped > 0,
        seen: format!("{dropped} of them"),
    }
}
