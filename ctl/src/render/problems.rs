//! What is wrong with a cluster, worst first: the part of `status` a person reads at night.

use steadfast_proto::v1::{CheckState, CopyState, Group, Node, Server, Service, StatusReply};

use crate::duration::text_ms;

/// Part of the connection table that is left when it is worth a warning.
const TABLE_FREE_PARTS: u64 = 10;

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Problem {
    /// Bad ones sort first.
    pub(super) severity: Severity,
    /// One sentence without a full stop.
    pub(super) text: String,
}

/// How bad.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Severity {
    /// Something does not work, or the next fault breaks sessions.
    Bad,
    /// Worth a look.
    Warn,
}

/// Everything wrong, bad ones first, otherwise in the order of the screen.
pub(super) fn problems(reply: &StatusReply) -> Vec<Problem> {
    let mut found = Vec::new();
    quorum(reply, &mut found);
    for group in &reply.groups {
        group_problems(reply, group, &mut found);
    }
    for node in reply.nodes.iter() {
        node_problems(node, &mut found);
    }
    for service in &reply.services {
        service_problems(service, &mut found);
    }
    local_problems(reply, &mut found);
    for warning in &reply.warnings {
        found.push(Problem { severity: Severity::Warn, text: warning.clone() });
    }
    // Stable: keeps the order within a severity.
    found.sort_by_key(|problem| problem.severity);
    found
}

/// Voters heard, of how many; the answering node hears itself.
pub(super) fn voters(reply: &StatusReply) -> (usize, usize) {
    use steadfast_proto::v1::NodeRole;
    let voters = reply.nodes.iter().filter(|node| node.role() == NodeRole::Voter);
    let heard = voters.clone().filter(|node| node.alive).count();
    (heard, voters.count())
}

/// Age of the newest beacon on any path.
pub(super) fn last_heard_ms(node: &Node) -> Option<u64> {
    node.paths.iter().filter_map(|path| path.last_heard_ms).min()
}

fn quorum(reply: &StatusReply, found: &mut Vec<Problem>) {
    if reply.has_quorum {
        return;
    }
    let (heard, of) = voters(reply);
    let leader = if reply.leader.is_none() { ", no leader" } else { "" };
    found.push(Problem {
        severity: Severity::Bad,
        text: format!(
            "NO QUORUM: {heard} of {of} voters heard{leader}; forwarding goes on, changes and \
             take-overs wait for a majority"
        ),
    });
}

fn group_problems(reply: &StatusReply, group: &Group, found: &mut Vec<Problem>) {
    let name = &group.name;
    let mut bad = |text| found.push(Problem { severity: Severity::Bad, text });
    let Some(holder) = &group.holder else {
        let addresses = group.addresses.join(", ");
        bad(format!("group {name}: NO HOLDER, nobody answers for {addresses}"));
        return;
    };
    let silent = reply.nodes.iter().find(|node| node.id == holder.id && !node.alive);
    if let Some(node) = silent {
        let age = last_heard_ms(node).map_or_else(|| "ever".to_owned(), text_ms);
        bad(format!(
            "group {name}: holder {} SILENT for {age}, take-over not seen yet",
            holder.name
        ));
    }
    let others: Vec<_> =
        group.copies.iter().filter(|copy| copy.state() != CopyState::Holder).collect();
    let live = |id| reply.nodes.iter().any(|node| node.id == id && node.alive);
    let usable = others.iter().any(|copy| {
        copy.state() == CopyState::Complete && copy.node.as_ref().is_some_and(|node| live(node.id))
    });
    // A cluster of one has nobody to copy to; its owner knows.
    if !usable && reply.nodes.len() > 1 {
        bad(match silent {
            None => format!(
                "group {name}: NO COMPLETE COPY on a live node, sessions break if {} dies now",
                holder.name
            ),
            Some(_) => format!(
                "group {name}: NO COMPLETE COPY on a live node, the take-over may break sessions"
            ),
        });
    }
    for copy in others {
        let node = copy.node.as_ref().map_or("?", |node| node.name.as_str());
        let state = match copy.state() {
            CopyState::Stale => "STALE",
            CopyState::Empty => "EMPTY",
            _ => continue,
        };
        let lag = copy.lag_ms.map_or_else(String::new, |ms| format!(", {} behind", text_ms(ms)));
        found.push(Problem {
            severity: Severity::Warn,
            text: format!("group {name}: copy on {node} is {state}{lag}"),
        });
    }
}

fn node_problems(node: &Node, found: &mut Vec<Problem>) {
    if !node.alive {
        let heard = last_heard_ms(node).map_or_else(
            || "never heard".to_owned(),
            |ms| format!("last heard {} ago", text_ms(ms)),
        );
        let text = format!("node {}: DOWN, {heard}", node.name);
        found.push(Problem { severity: Severity::Bad, text });
        return;
    }
    for path in node.paths.iter().filter(|path| !path.alive) {
        let age = path.last_heard_ms.map_or_else(|| "ever".to_owned(), text_ms);
        let text = format!("node {}: not heard on {} for {age}", node.name, path.name);
        found.push(Problem { severity: Severity::Warn, text });
    }
}

fn service_problems(service: &Service, found: &mut Vec<Problem>) {
    let name = &service.name;
    if service.servers.is_empty() {
        let text = format!("service {name}: has no real servers");
        found.push(Problem { severity: Severity::Bad, text });
        return;
    }
    let down: Vec<_> = service.servers.iter().filter(|server| !server.up).collect();
    if down.len() == service.servers.len() {
        let text = format!("service {name}: ALL {} real servers DOWN", down.len());
        found.push(Problem { severity: Severity::Bad, text });
    }
    for server in down {
        let text = format!(
            "service {name}: real server {}:{} DOWN{}",
            server.address,
            server.port,
            seen_down(server)
        );
        found.push(Problem { severity: Severity::Bad, text });
    }
}

/// ` (n1, n3: connection refused)`.
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

fn local_problems(reply: &StatusReply, found: &mut Vec<Problem>) {
    let Some(local) = &reply.local else { return };
    let here = reply.serving_node.as_ref().map_or("this node", |node| node.name.as_str());
    for interface in &local.interfaces {
        let name = &interface.name;
        if !interface.up {
            let text = format!("node {here}: interface {name} has no link");
            found.push(Problem { severity: Severity::Bad, text });
        }
        if interface.sockets < interface.queues {
            let text = format!(
                "node {here}: interface {name} has sockets on {} of {} queues; packets of the \
                 others are dropped",
                interface.sockets, interface.queues
            );
            found.push(Problem { severity: Severity::Bad, text });
        }
    }
    let free = local.connections_max.saturating_sub(local.connections);
    if local.connections_max > 0 && free < local.connections_max / TABLE_FREE_PARTS {
        let text = format!(
            "node {here}: connection table nearly full, {} of {}",
            local.connections, local.connections_max
        );
        found.push(Problem { severity: Severity::Warn, text });
    }
}
