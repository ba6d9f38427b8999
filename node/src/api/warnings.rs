//! What is wrong, worst first, and what to do about it: the part of `status` a person reads at
//! night. Pure: judges a finished reply and what of this node stands nowhere in it.

use std::collections::BTreeSet;

use steadfast_proto::v1::{
    CheckState, CopyState, Group, GroupCopy, LocalStatus, Node, NodeRef, NodeRole, Server, Service,
    Severity, StatusReply, Warning,
};

use super::pauses::{Pauses, WINDOW};

/// Part of the connection table that is left when it is worth a warning.
const TABLE_FREE_PARTS: u64 = 10;

/// The silence time that is recommended for hosts that pause; a longer one helps no further.
const PATIENT_MS: u32 = 250;

/// What this node knows beside what it answers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Facts {
    /// Peers that refuse this node as no member.
    pub(crate) disowned_by: Vec<String>,
    /// Services whose servers all fail.
    pub(crate) panicking: BTreeSet<String>,
    /// Why the Raft role has stopped.
    pub(crate) raft_ended: Option<String>,
    /// The settings this run was started with, when others are committed.
    pub(crate) started_with: Option<String>,
    /// What this node's own pauses cost it lately.
    pub(crate) pauses: Pauses,
    /// The silence time it runs with: interval in milliseconds, beacons.
    pub(crate) beacon: (u32, u32),
    /// What could not be set up in the data plane, and why.
    pub(crate) troubles: Vec<(String, String)>,
}

/// Everything wrong, bad ones first, otherwise in the order of the screen.
pub(crate) fn warnings(reply: &StatusReply, facts: &Facts) -> Vec<Warning> {
    let mut found = Found::default();
    if reply.removed {
        removed(facts, &mut found);
    } else {
        quorum(reply, &mut found);
        for group in &reply.groups {
            judge_group(reply, group, &mut found);
        }
        for node in &reply.nodes {
            judge_node(node, &mut found);
        }
        voters(reply, &mut found);
    }
    for service in &reply.services {
        judge_service(service, facts.panicking.contains(&service.name), &mut found);
    }
    let here = reply.serving_node.as_ref().map_or("this node", |node| node.name.as_str());
    if let Some(local) = &reply.local {
        // Without groups there is nothing to forward, and nothing is attached.
        if local.interfaces.is_empty() && !reply.groups.is_empty() && !reply.removed {
            found.bad(
                format!("node {here}: forwards NOTHING, no interface is attached"),
                "a daemon that was just started attaches in seconds; if it lasts, its log says why",
            );
        }
        judge_local(here, local, &mut found);
    }
    judge_facts(here, facts, &mut found);
    // Stable: keeps the order within a severity.
    found.0.sort_by_key(|warning| warning.severity);
    found.0
}

#[derive(Default)]
struct Found(Vec<Warning>);

impl Found {
    fn bad(&mut self, what: String, fix: impl Into<String>) {
        self.0.push(Warning { severity: Severity::Bad.into(), what, fix: fix.into() });
    }

    fn warn(&mut self, what: String, fix: impl Into<String>) {
        self.0.push(Warning { severity: Severity::Warn.into(), what, fix: fix.into() });
    }
}

fn removed(facts: &Facts, found: &mut Found) {
    let why = match facts.disowned_by.as_slice() {
        [] => "its log says so".to_owned(),
        peers => format!("{} refuse it as no member", list(peers)),
    };
    found.bad(
        format!(
            "THIS NODE WAS REMOVED from the cluster: {why}; what it shows is what it knew before, \
             and tells nothing about the VIPs"
        ),
        "to use it again: stop clusterd, empty its data_dir, start it, `clusterctl join TOKEN`; \
         for the state of the cluster ask a member",
    );
}

fn quorum(reply: &StatusReply, found: &mut Found) {
    if reply.has_quorum {
        return;
    }
    let (heard, of) = (reply.voters_heard, reply.voters);
    if let (true, Some(leader)) = (reply.majority_heard, &reply.leader) {
        found.warn(
            format!(
                "the leader, {}, has no answers of a majority, though {heard} of {of} voters are \
                 heard; take-overs still work, writes wait",
                leader.name
            ),
            "look at the network of listen.control between the voters: Raft uses it alone",
        );
        return;
    }
    if reply.majority_heard {
        found.warn(
            format!(
                "no leader, an election is running ({heard} of {of} voters heard); take-overs \
                 still work, writes wait"
            ),
            "it takes a few seconds at most; if it lasts, the voters' logs say why",
        );
        return;
    }
    let silent = reply.nodes.iter().filter(|n| n.role() == NodeRole::Voter && !n.alive);
    let silent: Vec<String> = silent.map(|n| n.name.clone()).collect();
    let leader = if reply.leader.is_none() { ", no leader" } else { "" };
    found.bad(
        format!(
            "NO QUORUM: {heard} of {of} voters heard{leader}; forwarding goes on, changes and \
             take-overs wait for a majority"
        ),
        format!("bring back enough of {}: their clusterd, their control network", list(&silent)),
    );
}

/// How many voters there are, which nobody looks at until one is lost.
fn voters(reply: &StatusReply, found: &mut Found) {
    let voting = |node: &&Node| node.role() == NodeRole::Voter;
    let voters: Vec<&Node> = reply.nodes.iter().filter(voting).collect();
    let learner = reply.nodes.iter().find(|n| !voting(n) && n.alive);
    let one_more = |what: &str| match learner {
        Some(node) => format!("make {what}: clusterctl node promote {}", node.name),
        None => format!("join a node (clusterctl token create) and promote it: {what}"),
    };
    match voters.as_slice() {
        [only] if reply.nodes.len() == 2 => found.warn(
            format!(
                "one voter, {}, in a cluster of two: its loss stops writes and take-overs",
                only.name
            ),
            "join a third node: then all three vote, without further commands",
        ),
        [only] if reply.nodes.len() > 2 => found.warn(
            format!("one voter, {}: its loss stops writes and take-overs", only.name),
            "the leader makes three voters when two others follow its log; if it does not, \
             clusterctl node promote NODE",
        ),
        [_, _] => found.warn(
            "two voters: the loss of either stops writes and take-overs".to_owned(),
            one_more("a third voter"),
        ),
        more if !more.is_empty() && more.len() % 2 == 0 => found.warn(
            format!(
                "{} voters: they bear no more losses than {} would",
                more.len(),
                more.len() - 1
            ),
            one_more("an odd number of voters"),
        ),
        _ => {}
    }
}

fn judge_group(reply: &StatusReply, group: &Group, found: &mut Found) {
    let name = &group.name;
    let Some(holder) = &group.holder else {
        let addresses = group.addresses.join(", ");
        let fix = if reply.majority_heard {
            "a live, uncordoned node with a link to its segment takes it by itself: is there one?"
        } else {
            "a take-over needs a majority of the voters"
        };
        found.bad(format!("group {name}: NO HOLDER, nobody answers for {addresses}"), fix);
        return;
    };
    let silent = reply.nodes.iter().find(|node| node.id == holder.id && !node.alive);
    if let Some(node) = silent {
        let age = last_heard_ms(node).map_or_else(|| "ever".to_owned(), age);
        let fix = if reply.majority_heard {
            "a candidate takes over by itself, within a second or two; if it lasts: is another \
             node live and uncordoned?"
        } else {
            "a take-over needs a majority of the voters"
        };
        let text = format!(
            "group {name}: holder {} SILENT for {age}, take-over not seen yet",
            holder.name
        );
        found.bad(text, fix);
    }
    judge_successors(reply, group, holder, found);
    judge_copies(reply, group, silent.is_some(), found);
}

/// A cordon is easily forgotten, and the last node without one is the last that serves.
fn judge_successors(reply: &StatusReply, group: &Group, holder: &NodeRef, found: &mut Found) {
    let others = || reply.nodes.iter().filter(|node| node.id != holder.id);
    let cordoned: Vec<String> =
        others().filter(|node| node.cordoned).map(|node| node.name.clone()).collect();
    if cordoned.is_empty() || others().any(|node| node.alive && !node.cordoned) {
        return;
    }
    found.bad(
        format!("group {}: NOBODY could take over, {} cordoned", group.name, list(&cordoned)),
        "let one of them: `clusterctl node uncordon NAME`",
    );
}

fn judge_copies(reply: &StatusReply, group: &Group, holder_silent: bool, found: &mut Found) {
    let name = &group.name;
    let holder = group.holder.as_ref().map_or("its holder", |node| node.name.as_str());
    let others: Vec<&GroupCopy> =
        group.copies.iter().filter(|copy| copy.state() != CopyState::Holder).collect();
    let node_of = |copy: &GroupCopy| {
        reply.nodes.iter().find(|n| copy.node.as_ref().map(|c| c.id) == Some(n.id))
    };
    let live: Vec<&&GroupCopy> =
        others.iter().filter(|c| node_of(c).is_some_and(|n| n.alive)).collect();
    let usable = live.iter().any(|copy| copy.state() == CopyState::Complete);
    // A cluster of one has nobody to copy to; its owner knows.
    if !usable && reply.nodes.len() > 1 {
        let what = if holder_silent {
            "the take-over may break sessions".to_owned()
        } else {
            format!("sessions break if {holder} dies now")
        };
        let fix = if live.is_empty() && group.sync_group != "all" && !group.sync_group.is_empty() {
            "bring back a node of its sync_group, or write another sync_group"
        } else if live.is_empty() {
            "bring back another node, or join one"
        } else {
            "a copy takes seconds; if it does not become complete, `clusterctl status -v` at the \
             holder shows what it waits for"
        };
        found.bad(format!("group {name}: NO COMPLETE COPY on a live node, {what}"), fix);
    }
    for copy in others {
        let node = copy.node.as_ref().map_or("?", |node| node.name.as_str());
        let state = match copy.state() {
            CopyState::Stale => "STALE",
            CopyState::Empty => "EMPTY",
            _ => continue,
        };
        let lag = copy.lag_ms.map_or_else(String::new, |ms| format!(", {} behind", age(ms)));
        found.warn(
            format!("group {name}: copy on {node} is {state}{lag}"),
            "it catches up by itself; until then it is the last to take over",
        );
    }
}

fn judge_node(node: &Node, found: &mut Found) {
    if node.held_down {
        let left = match node.held_down_left_ms {
            Some(0) => "about to be let go".to_owned(),
            Some(ms) => format!("{} to go", age(ms)),
            None => "its time runs once it is heard again".to_owned(),
        };
        found.warn(
            format!(
                "node {}: HELD DOWN, for it failed again and again: it gets no groups and claims \
                 after all others; {left}",
                node.name
            ),
            format!(
                "its log says why it fails; to trust it at once: clusterctl node uncordon {}",
                node.name
            ),
        );
    }
    if !node.alive {
        let heard = last_heard_ms(node)
            .map_or_else(|| "never heard".to_owned(), |ms| format!("last heard {} ago", age(ms)));
        found.bad(
            format!("node {}: DOWN, {heard} on any path", node.name),
            "is its clusterd running, and its network up? If it is gone for good: clusterctl node \
             remove NODE, then join another",
        );
        return;
    }
    if !node.paths.is_empty() && node.paths.iter().all(|path| !path.alive) {
        let age = last_heard_ms(node).map_or_else(|| "ever".to_owned(), age);
        found.warn(
            format!("node {}: not heard for {age}", node.name),
            "the node asked has just started or paused, and gives it time before it counts as down",
        );
        return;
    }
    for path in node.paths.iter().filter(|path| !path.alive) {
        let age = path.last_heard_ms.map_or_else(|| "ever".to_owned(), age);
        found.warn(
            format!("node {}: not heard on {} for {age}", node.name, path.name),
            "look at link, switch and addresses of that network on both nodes; it is alive on \
             another one",
        );
    }
}

fn judge_service(service: &Service, panicking: bool, found: &mut Found) {
    let name = &service.name;
    if service.servers.is_empty() {
        let text = format!("service {name}: has no real servers");
        found.bad(text, "name some under `servers` in the document and apply it");
        return;
    }
    let down: Vec<_> = service.servers.iter().filter(|server| !server.up).collect();
    if panicking || down.len() == service.servers.len() {
        let (of, used) = (
            service.servers.len(),
            if panicking { ", the last good ones are used on" } else { "" },
        );
        found.bad(
            format!("service {name}: ALL {of} real servers DOWN{used}"),
            "when all fail at once it is often the check: does its port answer to the nodes?",
        );
    }
    for server in down {
        let place = match server.port {
            0 => server.address.clone(),
            port => format!("{}:{port}", server.address),
        };
        found.bad(
            format!("service {name}: real server {place} DOWN{}", seen_down(server)),
            if panicking {
                "while all are down, new connections go on to those that failed last"
            } else {
                "it gets no new connections until its check passes again"
            },
        );
    }
}

/// ` (seen by n1, n3: connection refused)`.
fn seen_down(server: &Server) -> String {
    let down = server.checks.iter().filter(|check| check.state() == CheckState::Down);
    let who: Vec<_> =
        down.clone().filter_map(|check| check.node.as_ref()).map(|node| &*node.name).collect();
    let why = down.map(|check| check.detail.as_str()).find(|detail| !detail.is_empty());
    match (who.is_empty(), why) {
        (true, _) => String::new(),
        (false, None) => format!(" (seen by {})", who.join(", ")),
        (false, Some(why)) => format!(" (seen by {}: {why})", who.join(", ")),
    }
}

fn judge_local(here: &str, local: &LocalStatus, found: &mut Found) {
    for interface in &local.interfaces {
        let name = &interface.name;
        if !interface.up {
            let text = format!("node {here}: interface {name} has no link");
            found.bad(text, "look at cable and switch port, or `ip link set IF up`");
        }
        if interface.sockets < interface.queues {
            found.bad(
                format!(
                    "node {here}: interface {name} has sockets on {} of {} queues; packets of the \
                     others are dropped",
                    interface.sockets, interface.queues
                ),
                format!(
                    "use fewer queues: ethtool -L {name} combined {}",
                    interface.sockets.max(1)
                ),
            );
        }
    }
    let free = local.connections_max.saturating_sub(local.connections);
    if local.connections_max > 0 && free < local.connections_max / TABLE_FREE_PARTS {
        found.warn(
            format!(
                "node {here}: connection table nearly full, {} of {}",
                local.connections, local.connections_max
            ),
            "raise settings.connections_max and restart the nodes one by one",
        );
    }
    if local.half_open_max > 0 && local.half_open >= local.half_open_max {
        found.warn(
            format!(
                "node {here}: {} half-open connections, as many as it keeps: a flood, or too many \
                 clients; others go by the hash",
                local.half_open
            ),
            "see `clusterctl get service NAME --stats` for whose they are; raise \
             settings.half_open_max",
        );
    }
}

fn judge_facts(here: &str, facts: &Facts, found: &mut Found) {
    if let Some(why) = &facts.raft_ended {
        found.bad(
            format!("node {here}: its Raft role has stopped: {why}; forwarding goes on"),
            "free space if the file system of that file is full, replace the disk if it fails; \
             then restart clusterd, which checks the file and says what to do if it is damaged",
        );
    }
    for (what, why) in &facts.troubles {
        found.bad(
            format!("node {here}: {what}: {why}"),
            "clusterd tries again by itself; its log has the whole error",
        );
    }
    let Pauses { mutes, gaps } = facts.pauses;
    if mutes > 0 && gaps > 0 {
        let (interval_ms, silent_after) = facts.beacon;
        let minutes = WINDOW.as_secs() / 60;
        let fix = if interval_ms * silent_after < PATIENT_MS {
            "give it more time: `settings: {beacon: {interval_ms: 50, silent_after: 5}}` in the \
             document, apply it and restart the nodes one by one; or find what stops its processes"
        } else {
            "find what stops its processes: an overcommitted hypervisor, swapping, builds"
        };
        found.warn(
            format!(
                "node {here}: went mute {mutes} times in the last {minutes} minutes, its own loop \
                 stood still {gaps} times: this host pauses too long for beacons of \
                 {interval_ms} ms x {silent_after}"
            ),
            fix,
        );
    }
    if let Some(old) = &facts.started_with {
        found.warn(
            format!("node {here}: still runs with {old}"),
            "restart its clusterd to take over the settings that were applied since",
        );
    }
}

/// Age of the newest beacon on any path.
fn last_heard_ms(node: &Node) -> Option<u64> {
    node.paths.iter().filter_map(|path| path.last_heard_ms).min()
}

fn age(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        3_600_000..86_400_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}

/// `n1`, `n1 and n2`, `n1, n2 and n3`.
fn list(names: &[String]) -> String {
    match names {
        [] => "nobody".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
#[path = "warnings_test.rs"]
mod tests;
