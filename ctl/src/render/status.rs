//! The cluster on one screen.

use std::fmt::Write as _;

use steadfast_proto::json::NamedEnum;
use steadfast_proto::v1::{BindMode, Interface, LocalStatus, Severity, StatusReply, Worker};

use super::lists::{self, count, node_name};
use super::paint::{Paint, Tone, printable};
use super::table::{Cell, Table};
use crate::duration::text_ms;

/// The screen: verdict, problems, nodes, groups, services, data plane of the answering node.
/// `verbose` adds each worker and counter.
pub(crate) fn status(reply: &StatusReply, paint: Paint, verbose: bool) -> String {
    let here = reply.serving_node.as_ref().map_or_else(|| "this node".to_owned(), node_name);
    let mut text = head(reply, paint, &here);
    text.push_str(&verdict(reply, paint));
    let mut section = |title: String, empty: &str, none: bool, body: String| {
        let body = if none { format!("  {empty}\n") } else { body };
        let _ = write!(text, "\n{}\n{body}", paint.text(Tone::Title, &title));
    };
    section("NODES".to_owned(), "none", reply.nodes.is_empty(), lists::nodes(reply, paint));
    section(
        "GROUPS".to_owned(),
        "none: apply a configuration with `clusterctl apply -f FILE`",
        reply.groups.is_empty(),
        lists::groups(reply, paint),
    );
    section(
        format!("SERVICES (counters of {here})"),
        "none",
        reply.services.is_empty(),
        lists::services(reply, paint),
    );
    if let Some(local) = &reply.local {
        section(format!("DATA PLANE of {here}"), "", false, local_summary(local, paint));
        if verbose {
            section(format!("WORKERS of {here}"), "", false, workers(local, paint));
            section(format!("COUNTERS of {here}"), "none yet", false, counters(local));
        }
    }
    text
}

fn head(reply: &StatusReply, paint: Paint, here: &str) -> String {
    let heard = format!("{} of {} voters heard", reply.voters_heard, reply.voters);
    let quorum = match (reply.has_quorum, reply.majority_heard) {
        _ if reply.removed => paint.text(Tone::Bad, "unknown (this node was removed)"),
        (true, _) => paint.text(Tone::Good, &format!("ok ({heard})")),
        (false, true) => paint.text(Tone::Warn, &format!("electing a leader ({heard})")),
        (false, false) => paint.text(Tone::Bad, &format!("NONE ({heard})")),
    };
    let leader = match &reply.leader {
        Some(leader) => node_name(leader),
        None if reply.removed => "unknown".to_owned(),
        None => paint.text(Tone::Bad, "NONE"),
    };
    let revision = match reply.config_revision {
        0 => "none yet".to_owned(),
        revision => revision.to_string(),
    };
    let acked = reply
        .quorum_ack_age_ms
        .map_or_else(String::new, |ms| format!(", majority acknowledged {} ago", text_ms(ms)));
    let cluster = match reply.cluster_name.as_str() {
        "" => "(none)".to_owned(),
        name => printable(name),
    };
    format!(
        "Cluster {} as {here} sees it (clusterd {})\n\
         Quorum {quorum}   Leader {leader}{acked}   Configuration revision {revision}\n",
        paint.text(Tone::Title, &cluster),
        printable(&reply.version),
    )
}

/// What the node says is wrong, each with what to do; a remedy that several in a row share stands
/// once, below the last of them.
fn verdict(reply: &StatusReply, paint: Paint) -> String {
    if reply.warnings.is_empty() {
        return format!("{}\n", paint.text(Tone::Good, "Nothing is wrong."));
    }
    let mut text = String::from("\n");
    for (i, warning) in reply.warnings.iter().enumerate() {
        let (tone, mark) = match warning.severity() {
            Severity::Bad => (Tone::Bad, "!!"),
            Severity::Warn | Severity::Unspecified => (Tone::Warn, "! "),
        };
        let line = format!("{mark} {}", printable(&warning.what));
        let _ = writeln!(text, "{}", paint.text(tone, &line));
        let next = reply.warnings.get(i + 1);
        if !warning.fix.is_empty() && next.is_none_or(|next| next.fix != warning.fix) {
            let _ = writeln!(text, "   -> {}", printable(&warning.fix));
        }
    }
    text
}

fn local_summary(local: &LocalStatus, paint: Paint) -> String {
    let mut table = Table::new(&["INTERFACE", "SEGMENT", "LINK", "PROGRAM", "SOCKETS", "BOUND"]);
    for interface in &local.interfaces {
        table.row(interface_row(interface));
    }
    let dropped: u64 = local.workers.iter().flat_map(|worker| worker.drops.values()).sum();
    let relayed: u64 = local.workers.iter().map(|worker| worker.relayed).sum();
    let held_back: u64 = local.workers.iter().map(|worker| worker.held_back).sum();
    let mut text = if local.interfaces.is_empty() { String::new() } else { table.render(paint, 2) };
    let _ = writeln!(
        text,
        "  connections {} of {}, half-open {}   packets forwarded {}, relayed {}, held back {}, dropped {}   \
         up {}",
        local.connections,
        local.connections_max,
        local.half_open,
        count(local.forwarded_packets),
        count(relayed),
        count(held_back),
        count(dropped),
        text_ms(local.uptime_ms),
    );
    text
}

fn interface_row(interface: &Interface) -> Vec<Cell> {
    let link = match interface.up {
        true => Cell::new(Tone::Good, "up"),
        false => Cell::new(Tone::Bad, "DOWN"),
    };
    let queues_tone = if interface.sockets < interface.queues { Tone::Bad } else { Tone::Plain };
    let bind = match (interface.bind_mode(), interface.bind_reason.as_str()) {
        (BindMode::ZeroCopy, _) => "zero-copy".to_owned(),
        (BindMode::Copy, "") => "copy".to_owned(),
        (BindMode::Copy, why) => format!("copy ({why})"),
        (BindMode::Unspecified, _) => "not bound".to_owned(),
    };
    let name = match interface.vlan {
        0 => interface.name.clone(),
        vlan => format!("{} (VLAN {vlan} of {})", interface.name, interface.trunk),
    };
    vec![
        name.into(),
        interface.segment.as_str().into(),
        link,
        interface.attach_mode().json_name().into(),
        Cell::new(queues_tone, format!("on {} of {} queues", interface.sockets, interface.queues)),
        bind.into(),
    ]
}

fn workers(local: &LocalStatus, paint: Paint) -> String {
    let columns =
        [">QUEUE", ">RX", ">TX", ">IN", ">OUT", ">RELAYED", ">HELD BACK", ">LOOP GAP MAX", "DROPS"];
    let mut table = Table::new(&columns);
    for worker in &local.workers {
        table.row(worker_row(worker));
    }
    table.render(paint, 2)
}

fn worker_row(worker: &Worker) -> Vec<Cell> {
    let drops: Vec<_> =
        worker.drops.iter().map(|(why, n)| format!("{why} {}", count(*n))).collect();
    vec![
        worker.queue.to_string().into(),
        count(worker.rx_packets).into(),
        count(worker.tx_packets).into(),
        count(worker.forwarded_in).into(),
        count(worker.forwarded_out).into(),
        count(worker.relayed).into(),
        count(worker.held_back).into(),
        format!("{} us", worker.loop_gap_max_us).into(),
        drops.join(", ").into(),
    ]
}

/// What happened to some packets on their way, over all workers; a line only for what did.
fn packets(local: &LocalStatus) -> String {
    let sum = |of: fn(&Worker) -> u64| local.workers.iter().map(of).sum::<u64>();
    let sums = [
        ("too_big", sum(|w| w.too_big)),
        ("fragmented", sum(|w| w.fragmented)),
        ("expired", sum(|w| w.expired)),
        ("fragments_early", sum(|w| w.fragments_early)),
        ("fragments_released", sum(|w| w.fragments_released)),
        ("longer_replies", sum(|w| w.longer_replies)),
        ("unfit_replies", sum(|w| w.unfit_replies)),
        ("client_told", sum(|w| w.client_told)),
        ("client_untold", sum(|w| w.client_untold)),
    ];
    let errors = local.tunnel_errors.iter().map(|(kind, n)| (kind.as_str(), *n));
    let mtus = local.tunnel_mtus.iter().map(|(server, mtu)| (server.as_str(), u64::from(*mtu)));
    let lines = [
        ("packets", sums.to_vec()),
        ("tunnel_errors", errors.collect()),
        ("tunnel_mtus", mtus.collect()),
    ];
    let mut text = String::new();
    for (what, all) in lines {
        let all: Vec<_> =
            all.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}")).collect();
        if !all.is_empty() {
            let _ = writeln!(text, "  {what}: {}", printable(&all.join(", ")));
        }
    }
    text
}

fn counters(local: &LocalStatus) -> String {
    let listed = |counters: &std::collections::BTreeMap<String, u64>| {
        let all: Vec<_> = counters.iter().map(|(name, n)| format!("{name} {n}")).collect();
        printable(&all.join(", "))
    };
    let mut text = format!(
        "  ownership: loop gap max {} us\n  beacons: {}\n",
        local.ownership_loop_gap_max_us,
        listed(&local.beacons)
    );
    text += &packets(local);
    if local.unknown_connections.values().any(|count| *count > 0) {
        let _ = writeln!(
            text,
            "  connections unknown after a take-over: {}",
            listed(&local.unknown_connections)
        );
    }
    for peer in &local.replication {
        let name = peer.node.as_ref().map_or_else(|| "?".to_owned(), node_name);
        let state = if peer.connected { "connected" } else { "NOT CONNECTED" };
        let _ = writeln!(
            text,
            "  replication with {name}: {state}, {} behind, {} unacked, {}",
            text_ms(peer.lag_ms),
            peer.unacked,
            listed(&peer.counters)
        );
    }
    text
}
