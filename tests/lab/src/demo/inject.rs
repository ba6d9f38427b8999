//! Injecting a fault.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tokio::time::sleep;

use super::{
    client_link::ClientLink,
    crash_loop,
    dice::Dice,
    fault::{Fault, millis},
    planes, returning, rolling,
    run::Chosen,
    stress,
    validity::{Check, Listed},
};
use crate::{
    cluster::{
        Cluster,
        api::{NodeRef, Status},
        running::GROUP,
    },
    host::names::NODES,
    load::{judge::FaultWindow, now_ns},
};

/// How long `cut` isolates.
const CUT: Duration = Duration::from_secs(5);

/// A stopping daemon forwards on for 10 s at most; a little more for the machine.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// A killed process is gone by then.
pub(crate) const GONE_WITHIN: Duration = Duration::from_secs(5);

/// A write without quorum fails after 0.9 s; on a machine that does not run all the time it may take
/// longer, but a command that hangs is wrong on any. How long it took is told.
const WRITE_HANGS: Duration = Duration::from_secs(5);

/// New sessions during a fault: two in three talk.
const MORE_SESSIONS: u32 = 30;

/// Everything a fault needs.
pub struct Scene<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    /// The client.
    pub client: &'a mut ClientLink,
    /// What the nodes said just before.
    pub before: &'a [(u8, Status)],
    /// Who holds the group.
    pub holder: NodeRef,
    /// Sessions that are up.
    pub sessions: u32,
    /// Number of the run.
    pub number: u32,
    /// Choices.
    pub dice: &'a mut Dice,
    /// Progress.
    pub say: &'a mut dyn FnMut(&str),
}

/// What was done.
#[derive(Debug)]
pub struct Injected {
    /// When.
    pub window: FaultWindow,
    /// What, to whom.
    pub done: String,
    /// Who was hit first.
    pub victim: Option<NodeRef>,
    /// Sessions opened meanwhile: asked for and up.
    pub opened: (u64, u64),
    /// What was to be shown, and whether it was.
    pub checks: Vec<Check>,
    /// Connection lists of further holders.
    pub listed: Vec<Listed>,
    /// What a further holder had chosen, sessions opened meanwhile included.
    pub servers: Chosen,
}

impl Injected {
    /// Nothing but the fault itself.
    pub(crate) fn plain(begin_ns: u64, done: String, victim: Option<NodeRef>) -> Self {
        Self {
            window: FaultWindow { begin_ns, ended_ns: now_ns() },
            done,
            victim,
            opened: (0, 0),
            checks: Vec::new(),
            listed: Vec::new(),
            servers: Chosen::new(),
        }
    }
}

impl Scene<'_> {
    /// Which node has this id, by what the nodes said before the fault.
    pub(crate) fn node(&self, id: u64) -> Result<u8> {
        let is = |s: &Status| s.serving_node.as_ref().is_some_and(|r| r.id == id);
        let found = self.before.iter().find(|(_, s)| is(s)).map(|&(n, _)| n);
        found.with_context(|| format!("no node has the id {id}"))
    }

    /// The others than the holder.
    pub(crate) fn others(&self) -> Vec<(u8, NodeRef)> {
        let named = |(n, s): &(u8, Status)| Some((*n, s.serving_node.clone()?));
        self.before.iter().filter_map(named).filter(|(_, node)| node.id != self.holder.id).collect()
    }
}

/// Injects `fault`; returns when it has ended.
///
/// # Errors
/// When it could not be injected.
pub async fn inject(fault: Fault, scene: &mut Scene<'_>) -> Result<Injected> {
    let victim = scene.node(scene.holder.id)?;
    match fault {
        Fault::Kill => kill(scene, victim).await,
        Fault::Power => power(scene, victim).await,
        Fault::Cut => cut(scene, victim).await,
        Fault::Pause(ms) => pause(scene, victim, millis(ms)).await,
        Fault::Move => move_group(scene).await,
        Fault::Stop => stop(scene, victim).await,
        Fault::CrashLoop => crash_loop::inject(scene, victim).await,
        Fault::Rolling => rolling::inject(scene, victim).await,
        Fault::Upgrade => rolling::upgrade(scene, victim).await,
        Fault::Plane(plane, way) => planes::cut(scene, victim, plane, way).await,
        Fault::Loss(percent) => planes::lose(scene, victim, percent).await,
        Fault::Hogs => stress::hogs(scene).await,
        Fault::Flood => stress::flood(scene, victim).await,
        Fault::Idle => idle(scene, victim).await,
        Fault::Return => returning::inject(scene, victim).await,
        Fault::Leader => leader(scene).await,
        Fault::Quorum => quorum(scene).await,
        Fault::None => Ok(Injected::plain(now_ns(), "nothing".to_owned(), None)),
    }
}

pub(crate) async fn kill(scene: &mut Scene<'_>, victim: u8) -> Result<Injected> {
    let begin_ns = now_ns();
    scene.cluster.signal(victim, Signal::KILL)?;
    let done = format!("n{victim} was killed");
    let injected = Injected::plain(begin_ns, done, Some(scene.holder.clone()));
    scene.cluster.reap(victim, GONE_WITHIN).await?;
    Ok(injected)
}

/// A copy has its full timeout from the take-over on: both silences together are longer than one.
async fn idle(scene: &mut Scene<'_>, victim: u8) -> Result<Injected> {
    let Some(timeout_s) = scene.cluster.plan().changes.tcp_timeout else {
        bail!(
            "`idle` needs `--tcp-timeout SECONDS`: with the usual one it would take half an hour"
        );
    };
    let silence = Duration::from_secs(timeout_s.into()) * 2 / 3;
    (scene.say)(&format!("silence for {silence:?}, twice"));
    let begin_ns = now_ns();
    sleep(silence).await;
    let mut injected = kill(scene, victim).await?;
    sleep(silence).await;
    injected.window = FaultWindow { begin_ns, ended_ns: now_ns() };
    Ok(injected)
}

async fn power(scene: &mut Scene<'_>, victim: u8) -> Result<Injected> {
    let begin_ns = now_ns();
    scene.cluster.unplug(victim)?;
    scene.cluster.signal(victim, Signal::KILL)?;
    let done = format!("n{victim} lost power");
    let injected = Injected::plain(begin_ns, done, Some(scene.holder.clone()));
    scene.cluster.reap(victim, GONE_WITHIN).await?;
    Ok(injected)
}

/// Odd runs keep the carrier, so that the victim learns of its isolation only by silence; even
/// runs take the ports down.
async fn cut(scene: &mut Scene<'_>, victim: u8) -> Result<Injected> {
    let silently = scene.number % 2 == 1;
    let begin_ns = now_ns();
    if silently {
        scene.cluster.topology().set_node_isolated(victim, true)?;
    } else {
        scene.cluster.unplug(victim)?;
    }
    sleep(CUT).await;
    if silently {
        scene.cluster.topology().set_node_isolated(victim, false)?;
    } else {
        scene.cluster.plug(victim)?;
    }
    let how = if silently { "its links stayed up" } else { "its links went down" };
    let done = format!("n{victim} was cut off for {} s; {how}", CUT.as_secs());
    Ok(Injected::plain(begin_ns, done, Some(scene.holder.clone())))
}

async fn pause(scene: &mut Scene<'_>, victim: u8, time: Duration) -> Result<Injected> {
    let begin_ns = now_ns();
    scene.cluster.signal(victim, Signal::STOP)?;
    sleep(time).await;
    scene.cluster.signal(victim, Signal::CONT)?;
    let done = format!("n{victim} was stopped for {time:?} and went on");
    Ok(Injected::plain(begin_ns, done, Some(scene.holder.clone())))
}

async fn move_group(scene: &mut Scene<'_>) -> Result<Injected> {
    let others = scene.others();
    if others.is_empty() {
        bail!("nobody to move the group to");
    }
    let (n, target) = &others[scene.dice.below(others.len() as u64) as usize];
    let ctl = scene.cluster.any_ctl()?;
    let begin_ns = now_ns();
    ctl.move_group(GROUP, target.id).await?;
    let done = format!("clusterctl vip move {GROUP} --to n{n}");
    Ok(Injected::plain(begin_ns, done, Some(scene.holder.clone())))
}

async fn stop(scene: &mut Scene<'_>, victim: u8) -> Result<Injected> {
    let begin_ns = now_ns();
    let check = stop_well(scene, victim).await?;
    let done = format!("n{victim} was told to stop");
    let mut injected = Injected::plain(begin_ns, done, Some(scene.holder.clone()));
    injected.checks.push(check);
    Ok(injected)
}

/// Tells the daemon of node `n` to stop; whether it did as it should.
pub(crate) async fn stop_well(scene: &mut Scene<'_>, n: u8) -> Result<Check> {
    let begin_ns = now_ns();
    scene.cluster.signal(n, Signal::TERM)?;
    let status = scene.cluster.reap(n, STOP_WITHIN).await?;
    let took_ms = (now_ns() - begin_ns) / 1_000_000;
    Ok(Check {
        what: "a stopped daemon ends well".to_owned(),
        passed: status.success(),
        seen: format!("n{n}: {status} after {took_ms} ms"),
    })
}

async fn leader(scene: &mut Scene<'_>) -> Result<Injected> {
    let leader = scene.before.iter().find_map(|(_, s)| s.leader.clone());
    let leader = leader.context("nobody knows a leader")?;
    if leader.id == scene.holder.id {
        bail!("the leader came to hold the group meanwhile: the fault would hit the holder");
    }
    let n = scene.node(leader.id)?;
    let begin_ns = now_ns();
    scene.cluster.signal(n, Signal::KILL)?;
    let injected = Injected::plain(begin_ns, format!("n{n}, the leader, was killed"), Some(leader));
    scene.cluster.reap(n, GONE_WITHIN).await?;
    Ok(injected)
}

async fn quorum(scene: &mut Scene<'_>) -> Result<Injected> {
    let others = scene.others();
    let holder = scene.node(scene.holder.id)?;
    if others.len() != NODES.len() - 1 {
        bail!("{} other nodes answer, not {}", others.len(), NODES.len() - 1);
    }
    let begin_ns = now_ns();
    for (n, _) in &others {
        scene.cluster.signal(*n, Signal::KILL)?;
    }
    let names: Vec<String> = others.iter().map(|(n, _)| format!("n{n}")).collect();
    let done = format!("{} were killed", names.join(" and "));
    let victim = others.first().map(|(_, node)| node.clone());
    let mut injected = Injected::plain(begin_ns, done, victim);
    for (n, _) in &others {
        scene.cluster.reap(*n, GONE_WITHIN).await?;
    }
    (scene.say)("no quorum: new sessions and a write");
    let opened = open_more(scene, "new sessions come up without a quorum").await?;
    injected.opened = opened.0;
    injected.checks.push(opened.1);
    injected.checks.push(refused_write(scene.cluster, holder).await?);
    Ok(injected)
}

/// Opens more sessions; how many were asked for and came up, and whether all did.
pub(crate) async fn open_more(scene: &mut Scene<'_>, what: &str) -> Result<((u64, u64), Check)> {
    let silent = MORE_SESSIONS / 3;
    let target = scene.cluster.plan().family.target();
    let opened = scene.client.open(target, MORE_SESSIONS - silent, silent).await?;
    let check = Check {
        what: what.to_owned(),
        passed: opened.established == MORE_SESSIONS,
        seen: format!("{} of {MORE_SESSIONS} {}", opened.established, opened.failures.join("; ")),
    };
    Ok(((MORE_SESSIONS.into(), opened.established.into()), check))
}

/// Tries to change the configuration without a quorum.
async fn refused_write(cluster: &Cluster, holder: u8) -> Result<Check> {
    let document = cluster.plan().document()?;
    let changed = document.replacen("weight: 1", "weight: 2", 1);
    if changed == document {
        bail!("the example names no `weight: 1` to change");
    }
    let path = cluster.plan().tag.run_dir().join("refused.yaml");
    fs::write(&path, changed)?;
    let (took, result) = cluster.ctl(holder).time_apply(&path).await;
    let said = match &result {
        Ok(()) => "it was accepted".to_owned(),
        Err(error) => error.to_string(),
    };
    let reason = ["quorum", "majority"].iter().any(|word| said.to_lowercase().contains(word));
    Ok(Check {
        what: "clusterctl apply fails and says why".to_owned(),
        passed: result.is_err() && reason && took < WRITE_HANGS,
        seen: format!("after {} ms: {said}", took.as_millis()),
    })
}
