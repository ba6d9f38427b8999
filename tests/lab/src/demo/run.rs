//! One run: load, fault, five seconds, verdict.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{
    client_link::ClientLink,
    dice::Dice,
    fault::Fault,
    inject::{Injected, Scene, inject},
    report::{BeforeAfter, BrokenSession, RunOutcome, RunReport},
    stats::{Summary, ms},
    validity::{Check, Evidence, Listed, is_spoilt, void_reasons},
};
use crate::{
    cluster::{
        Cluster, Plan,
        api::{Connection, Epoch, Group, NodeRef, Status},
        ready::Ready,
        running::GROUP,
    },
    host::{
        family::Family,
        names::{Mode, PORT, SERVERS},
        watchdog::Watchdog,
    },
    load::{
        judge::{Broken, Kind, Why},
        now_ns,
        wire::{ProbeReport, SessionReport},
    },
};

/// The connection list is read this long before the fault: parsing it must not disturb it.
const LIST_BEFORE: Duration = Duration::from_millis(800);

/// What the nodes say is read this long before the fault.
const LOOK_BEFORE: Duration = Duration::from_millis(200);

/// The silent sessions speak this long after the fault ended.
const SPEAK_AFTER: Duration = Duration::from_secs(1);

/// Broken sessions told of one by one.
const BROKEN_SHOWN: usize = 20;

/// How often the group is moved away from a leader that follows it.
const LEADER_TRIES: u32 = 5;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The fault.
    pub fault: Fault,
    /// Number of the run, from 1.
    pub number: u32,
    /// The seed of the series.
    pub seed: u64,
    /// Sessions to open; two in three talk.
    pub sessions: u32,
    /// Who leads.
    pub leads: Leads,
}

/// Who leads the cluster when the fault comes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Leads {
    /// Whoever does.
    #[default]
    Any,
    /// The node that holds the group.
    Holder,
    /// Another node.
    Other,
}

impl Leads {
    /// The word on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Holder => "holder",
            Self::Other => "other",
        }
    }

    fn allows(self, ready: &Ready) -> bool {
        let holder_leads = ready.leader.id == ready.holder.id;
        match self {
            Self::Any => true,
            Self::Holder => holder_leads,
            Self::Other => !holder_leads,
        }
    }
}

/// What was seen just before the fault.
struct Before {
    statuses: Vec<(u8, Status)>,
    holder: NodeRef,
    epoch: Epoch,
    sessions: Vec<SessionReport>,
    listed: Listed,
    servers: Chosen,
    checks: Vec<Check>,
    /// The group changed hands although nothing had happened yet.
    moved: Option<String>,
}

/// The server that a holder had chosen for each session, by the session's number. Not by the
/// client's port: ports come again, and a list may still hold the one that used it before.
pub(crate) type Chosen = HashMap<u32, String>;

/// Marks an error that came after the fault: it is the cluster's, not the machine's.
#[derive(Debug, thiserror::Error)]
#[error("after the fault")]
pub struct AfterFault;

/// Runs it on a cluster that may still have to heal.
///
/// # Errors
/// A set-up failure: the run says nothing.
pub async fn run(
    cluster: &mut Cluster,
    order: Order,
    say: &mut dyn FnMut(&str),
) -> Result<RunOutcome> {
    let started = Instant::now();
    let watchdog = Watchdog::start();
    let mut dice = Dice::new(order.seed, order.number);
    let delay = dice.fault_delay();
    cluster.heal().await?;
    let leads = if order.fault == Fault::Leader { Leads::Other } else { order.leads };
    let ready = settle(cluster, leads, &mut dice, say).await?;
    let baseline = cluster.statuses().await;

    let plan = cluster.plan().clone();
    let mut client = ClientLink::start(&plan, cluster.ledger())?;
    client.probe(plan.family.target()).await?;
    let silent = order.sessions / 3;
    let opened = client.open(plan.family.target(), order.sessions - silent, silent).await?;
    if opened.established < order.sessions {
        let failures = opened.failures.join("; ");
        bail!("{} of {} sessions came up: {failures}", opened.established, order.sessions);
    }
    say(&format!("{} sessions through the VIP, held by {}", opened.established, ready.holder.name));
    let fault_at = opened.last_up_ns + nanos(delay);
    let before = look(cluster, &mut client, &ready, fault_at).await?;

    sleep_until_ns(fault_at).await;
    let fault_after_ms = (now_ns() - opened.last_up_ns) / crate::load::MS;
    say(&format!("now: {}", order.fault.story()));
    let mut scene = Scene {
        cluster: &mut *cluster,
        client: &mut client,
        before: &before.statuses,
        holder: before.holder.clone(),
        sessions: order.sessions,
        number: order.number,
        dice: &mut dice,
        say: &mut *say,
    };
    let injected = inject(order.fault, &mut scene).await.context(AfterFault)?;
    say(&format!("{}; 5 s for every echo", injected.done));
    let listened = listen(client, &injected).await.context(AfterFault);
    let (mut sessions, probe) = listened?;
    check_servers(&mut sessions, &before.servers);
    check_servers(&mut sessions, &injected.servers);
    let after = cluster.statuses().await;
    cluster.check_processes().context(AfterFault)?;

    let seen = evidence(order, &baseline, &before, &injected, &probe, &after);
    let evidence = Evidence { pause: watchdog.longest(), ..seen };
    let took = started.elapsed();
    Ok(Seen { order, plan, evidence, injected, sessions, probe, fault_after_ms, took }.outcome())
}

/// Lets the silent sessions speak, and everybody have the answer.
async fn listen(
    mut client: ClientLink,
    injected: &Injected,
) -> Result<(Vec<SessionReport>, ProbeReport)> {
    sleep_until_ns(injected.window.ended_ns + nanos(SPEAK_AFTER)).await;
    client.speak().await?;
    sleep_until_ns(injected.window.echo_deadline_ns()).await;
    let (sessions, probe) = client.finish(injected.window).await?;
    Ok((sessions, probe.context("the probe was lost")?))
}

/// All that was seen of a run.
struct Seen {
    order: Order,
    plan: Plan,
    evidence: Evidence,
    injected: Injected,
    sessions: Vec<SessionReport>,
    probe: ProbeReport,
    fault_after_ms: u64,
    took: Duration,
}

/// Waits until the cluster is ready, and moves the group until the right node leads.
async fn settle(
    cluster: &mut Cluster,
    leads: Leads,
    dice: &mut Dice,
    say: &mut dyn FnMut(&str),
) -> Result<Ready> {
    cluster.trust_nodes().await?;
    for _ in 0..LEADER_TRIES {
        let ready = cluster.wait_ready().await?;
        if leads.allows(&ready) {
            return Ok(ready);
        }
        let target = if leads == Leads::Holder {
            say("the leader does not hold the group: moving it there first");
            ready.leader.id
        } else {
            say("the leader holds the group: moving it away first");
            let statuses = cluster.statuses().await;
            let nodes = statuses.iter().filter_map(|(_, s)| s.serving_node.clone());
            let others = nodes.map(|n| n.id).filter(|&id| id != ready.holder.id);
            let others: Vec<u64> = others.collect();
            if others.is_empty() {
                bail!("nobody to move the group to");
            }
            others[dice.below(others.len() as u64) as usize]
        };
        cluster.any_ctl()?.move_group(GROUP, target).await?;
    }
    bail!("after {LEADER_TRIES} moves it is still not the right node that leads")
}

/// Takes down what must be true just before the fault.
async fn look(
    cluster: &Cluster,
    client: &mut ClientLink,
    ready: &Ready,
    fault_at: u64,
) -> Result<Before> {
    sleep_until_ns(fault_at.saturating_sub(nanos(LIST_BEFORE))).await;
    let sessions = client.snapshot().await?;
    let holder_node = cluster.node_of(ready.holder.id).await?;
    let connections = cluster.ctl(holder_node).connections(cluster.plan().family.service()).await?;
    let (listed, servers) =
        match_sessions(&ready.holder.name, of(cluster), &connections, &sessions);
    let mut checks = Vec::new();
    if cluster.plan().queues > 1 && !cluster.plan().mode.servers_have_the_vip() {
        checks.push(two_workers(&connections));
    }
    sleep_until_ns(fault_at.saturating_sub(nanos(LOOK_BEFORE))).await;
    let statuses = cluster.statuses().await;
    let (_, holder, epoch) = announcer(&statuses).context("nobody holds the group")?;
    let mut moved = None;
    if holder.id != ready.holder.id || epoch != ready.epoch {
        moved = Some(format!(
            "{} held the group under {}, and before the fault {} under {epoch}",
            ready.holder.name, ready.epoch, holder.name
        ));
    }
    Ok(Before { statuses, holder, epoch, sessions, listed, servers, checks, moved })
}

/// The node that says of itself that it holds the group and announces it; the one with the
/// highest epoch if there are several.
pub(crate) fn announcer(statuses: &[(u8, Status)]) -> Option<(u8, NodeRef, Epoch)> {
    announcers(statuses).into_iter().max_by(|a, b| a.2.cmp(&b.2))
}

fn announcers(statuses: &[(u8, Status)]) -> Vec<(u8, NodeRef, Epoch)> {
    let of = |(n, status): &(u8, Status)| {
        let (me, group) = (status.serving_node.clone()?, status.group()?);
        let holds = group.holder.as_ref().is_some_and(|h| h.id == me.id);
        (holds && group.announcing_here).then(|| (*n, me, group.epoch.clone().unwrap_or_default()))
    };
    statuses.iter().filter_map(of).collect()
}

/// How many of `sessions` node `n` has in its connection list.
pub(crate) async fn list_sessions(
    cluster: &Cluster,
    n: u8,
    sessions: &[SessionReport],
) -> Result<(Listed, Chosen)> {
    let connections = cluster.ctl(n).connections(cluster.plan().family.service()).await?;
    Ok(match_sessions(&format!("n{n}"), of(cluster), &connections, sessions))
}

fn of(cluster: &Cluster) -> (Mode, Family) {
    (cluster.plan().mode, cluster.plan().family)
}

/// Counts the sessions that a connection list has with the right real server, and tells the
/// server of each.
fn match_sessions(
    holder: &str,
    (mode, family): (Mode, Family),
    connections: &[Connection],
    sessions: &[SessionReport],
) -> (Listed, Chosen) {
    let names: HashMap<String, String> = SERVERS
        .into_iter()
        .map(|n| (SocketAddr::from((family.server(mode, n), PORT)).to_string(), n))
        .map(|(address, n)| (address, format!("s{n}")))
        .collect();
    let vip = family.target().to_string();
    let ours = connections.iter().filter(|c| c.protocol.is("tcp", 1) && c.vip == vip);
    let known: HashMap<SocketAddr, String> = ours
        .filter_map(|c| Some((c.client.parse().ok()?, names.get(&c.server)?.clone())))
        .collect();
    let chosen: Chosen =
        sessions.iter().filter_map(|s| Some((s.id, known.get(&s.local)?.clone()))).collect();
    let is_listed = |s: &&SessionReport| {
        let server = chosen.get(&s.id);
        server.is_some_and(|server| s.server.as_ref().is_none_or(|heard| heard == server))
    };
    let listed = sessions.iter().filter(is_listed).count() as u64;
    (Listed { holder: holder.to_owned(), sessions: sessions.len() as u64, listed }, chosen)
}

/// A silent session hears a server for the first time after the fault: it must be the one that
/// the holder had chosen before.
fn check_servers(sessions: &mut [SessionReport], chosen: &Chosen) {
    for session in sessions {
        let (Some(heard), Some(chosen)) = (&session.server, chosen.get(&session.id)) else {
            continue;
        };
        if session.broken.is_none() && heard != chosen {
            let detail = format!("the holder had chosen {chosen}, {heard} answered");
            session.broken = Some(Broken { why: Why::OtherServer, at_ns: now_ns(), detail });
        }
    }
}

/// With two queues: connections whose two directions went through different workers.
fn two_workers(connections: &[Connection]) -> Check {
    let split = |c: &&Connection| c.in_queue.zip(c.out_queue).is_some_and(|(a, b)| a != b);
    let found: Vec<&Connection> = connections.iter().filter(split).collect();
    let example = found.first().map_or_else(
        || "none of them was seen on two workers".to_owned(),
        |c| {
            let [inward, outward] =
                [c.in_queue, c.out_queue].map(|queue| queue.unwrap_or_default());
            format!(
                "{} to {}: client to server on worker {inward}, server to client on worker {outward}",
                c.client, c.server
            )
        },
    );
    Check {
        what: "two workers serve the two directions of one NAT connection".to_owned(),
        passed: !found.is_empty(),
        seen: format!("{} of {} connections; {example}", found.len(), connections.len()),
    }
}

fn evidence(
    order: Order,
    baseline: &[(u8, Status)],
    before: &Before,
    injected: &Injected,
    probe: &ProbeReport,
    after: &[(u8, Status)],
) -> Evidence {
    let counted = |statuses: &[(u8, Status)], id: u64| {
        let is = |s: &Status| s.serving_node.as_ref().is_some_and(|r| r.id == id);
        statuses.iter().find(|(_, s)| is(s)).map_or(0, |(_, s)| s.forwarded())
    };
    // A daemon that was restarted counts from nothing.
    let forwarded = |from: &[(u8, Status)], to: &[(u8, Status)], id: u64| {
        counted(to, id).checked_sub(counted(from, id)).unwrap_or_else(|| counted(to, id))
    };
    let in_the_end = announcer(after);
    let holder_after = in_the_end.as_ref().map(|(_, node, _)| node.clone());
    let mut checks = before.checks.clone();
    checks.extend(injected.checks.iter().cloned());
    let announcing = announcers(after).len();
    if announcing > 1 {
        checks.push(Check {
            what: "one node announces the group in the end".to_owned(),
            passed: false,
            seen: format!("{announcing} do"),
        });
    }
    let holder_id = |node: Option<&NodeRef>| node.map(|n| n.id);
    let yielded = |status: &Status| {
        let knows = |g: &Group| holder_id(g.holder.as_ref()) == holder_id(holder_after.as_ref());
        status.serving_node.as_ref().is_some_and(|me| me.id == before.holder.id)
            && status.group().is_some_and(|g| !g.announcing_here && knows(g))
    };
    let victim_yielded = after.iter().any(|(_, s)| yielded(s));
    let mute = |s: &&SessionReport| s.kind == Kind::Talker && s.echoed == 0;
    let mut listed = vec![before.listed.clone()];
    listed.extend(injected.listed.iter().cloned());
    Evidence {
        fault: order.fault,
        sessions: u64::from(order.sessions) + injected.opened.0,
        // Fewer at the beginning would have ended the run.
        established: u64::from(order.sessions) + injected.opened.1,
        broken_before: before.sessions.iter().filter(|s| s.broken.is_some()).count() as u64,
        mute_before: before.sessions.iter().filter(mute).count() as u64,
        probe_lost_before: probe.lost_before_fault,
        moved_before: before.moved.clone(),
        victim: injected.victim.clone(),
        holder_before: before.holder.clone(),
        epoch_before: before.epoch.clone(),
        listed,
        holder_forwarded: forwarded(baseline, &before.statuses, before.holder.id),
        successor_forwarded: holder_after
            .as_ref()
            .map_or(0, |node| forwarded(&before.statuses, after, node.id)),
        holder_after,
        epoch_after: in_the_end.map(|(_, _, epoch)| epoch).unwrap_or_default(),
        victim_yielded,
        checks,
        pause: Duration::ZERO,
    }
}

impl Seen {
    fn outcome(&self) -> RunOutcome {
        let Self { order, plan, evidence, injected, sessions, probe, .. } = self;
        let mut broken_by: BTreeMap<String, u64> = BTreeMap::new();
        let mut broken_sessions = Vec::new();
        for session in sessions {
            let Some(broken) = &session.broken else { continue };
            *broken_by.entry(broken.why.name().to_owned()).or_default() += 1;
            broken_sessions.push(BrokenSession {
                id: session.id,
                kind: session.kind,
                local: session.local.to_string(),
                server: session.server.clone(),
                why: broken.why,
                after_fault_ms: ms(broken.at_ns.saturating_sub(injected.window.begin_ns)),
                detail: broken.detail.clone(),
            });
        }
        let broken = broken_sessions.len() as u64;
        broken_sessions.truncate(BROKEN_SHOWN);
        let stalls_ms: Vec<f64> = sessions.iter().filter_map(|s| s.stall_ns).map(ms).collect();
        let text = |node: &NodeRef| format!("{} (id {})", node.name, node.id);
        let after = evidence.holder_after.as_ref();
        let report = RunReport {
            number: order.number,
            fault: order.fault,
            done: injected.done.clone(),
            mode: plan.mode,
            family: plan.family,
            replication: plan.replication,
            leads: order.leads,
            fault_after_ms: self.fault_after_ms,
            sessions: evidence.sessions,
            established: evidence.established,
            broken,
            broken_by,
            broken_sessions,
            outage_ms: Some(ms(probe.silent_ns)),
            stall_ms: Summary::of(&stalls_ms),
            probe_sent: probe.sent,
            probe_lost: probe.lost,
            holder: BeforeAfter {
                before: Some(text(&evidence.holder_before)),
                after: after.map(text),
            },
            epoch: BeforeAfter {
                before: Some(evidence.epoch_before.clone()),
                after: after.map(|_| evidence.epoch_after.clone()),
            },
            checks: evidence.checks.clone(),
            void: void_reasons(evidence),
            spoilt: is_spoilt(evidence),
            pause_ms: ms(nanos(evidence.pause)),
            took_ms: u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
        };
        RunOutcome { report, stalls_ms }
    }
}

async fn sleep_until_ns(at_ns: u64) {
    sleep(Duration::from_nanos(at_ns.saturating_sub(now_ns()))).await;
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(port: u16, server: Option<&str>) -> SessionReport {
        SessionReport {
            id: u32::from(port),
            kind: Kind::Silent,
            local: ([198, 18, 0, 200], port).into(),
            server: server.map(str::to_owned),
            sent: 0,
            echoed: 0,
            stall_ns: None,
            broken: None,
        }
    }

    fn connection(port: u16, protocol: &str, vip: &str, server: &str) -> Connection {
        let text = format!(
            r#"{{"protocol":"{protocol}","client":"198.18.0.200:{port}","vip":"{vip}",
            "server":"{server}"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn only_connections_of_the_session_with_its_server_count_as_listed() {
        let (vip, s1) = ("198.18.0.100:7", "198.18.0.11:7");
        let sessions =
            [session(1, None), session(2, Some("s1")), session(3, Some("s2")), session(4, None)];
        let list = [
            connection(1, "tcp", vip, s1),
            connection(2, "PROTOCOL_TCP", vip, s1),
            connection(3, "tcp", vip, s1),
            connection(4, "udp", vip, s1),
            connection(4, "tcp", "198.18.0.101:7", s1),
            connection(4, "tcp", vip, "198.18.0.99:7"),
        ];
        let (listed, servers) = match_sessions("n1", (Mode::Dr, Family::V4), &list, &sessions);
        assert_eq!((listed.sessions, listed.listed), (4, 2));
        assert_eq!(servers.len(), 3);
    }

    #[test]
    fn addresses_of_ipv6_are_written_with_brackets() {
        let list = [connection(1, "tcp", "[2001:db8:18::100]:7", "[2001:db8:18:1::12]:7")];
        let (_, servers) =
            match_sessions("n1", (Mode::Nat, Family::V6), &list, &[session(1, None)]);
        assert_eq!(servers, [(1, "s2".to_owned())].into());
    }

    #[test]
    fn a_port_that_comes_again_says_nothing_of_the_session_that_used_it_before() {
        let (vip, s1) = ("198.18.0.100:7", "198.18.0.11:7");
        let left_over = [connection(1, "tcp", vip, s1), connection(2, "tcp", vip, s1)];
        let (_, chosen) =
            match_sessions("n1", (Mode::Dr, Family::V4), &left_over, &[session(1, Some("s1"))]);
        let mut later = [session(1, Some("s1")), SessionReport { id: 9, ..session(2, Some("s2")) }];
        check_servers(&mut later, &chosen);
        assert!(later.iter().all(|s| s.broken.is_none()), "{later:?}");
    }

    #[test]
    fn a_silent_session_must_be_answered_by_the_server_that_was_chosen() {
        let mut sessions = [
            session(1, Some("s1")),
            session(2, Some("s2")),
            session(3, None),
            session(4, Some("s3")),
        ];
        let chosen = [(1, "s1"), (2, "s1"), (3, "s1")].map(|(id, s)| (id, s.to_owned()));
        check_servers(&mut sessions, &chosen.into());
        let broken = sessions.map(|s| s.broken.map(|b| b.why));
        assert_eq!(broken, [None, Some(Why::OtherServer), None, None]);
    }

    #[test]
    fn two_workers_are_shown_only_by_a_connection_split_between_them() {
        let with = |in_queue: Option<u32>, out_queue: Option<u32>| Connection {
            in_queue,
            out_queue,
            ..Connection::default()
        };
        let (split, same) = (with(Some(0), Some(1)), with(Some(1), Some(1)));
        let (one_way, none) = (with(Some(0), None), with(None, None));
        assert!(!two_workers(&[same.clone(), one_way.clone(), none.clone()]).passed);
        let check = two_workers(&[same, one_way, none, split]);
        assert!(check.passed && check.seen.starts_with("1 of 4"), "{}", check.seen);
    }
}
