//! Tables of nodes, groups, services and connections.

use steadfast_proto::json::NamedEnum;
use steadfast_proto::v1::{
    Connection, CopyState, Group, GroupCopy, ListConnectionsReply, Listener, Node, NodeRef, Server,
    Service, StatusReply,
};

use super::paint::{Paint, Tone, printable};
use super::service::answers_pass;
use super::table::{Cell, Table};
use crate::duration::text_ms;

/// The members.
pub(crate) fn nodes(reply: &StatusReply, paint: Paint) -> String {
    let mut table = Table::new(&[">ID", "NAME", "ROLE", "STATE", "HEARD", "API"]);
    for node in &reply.nodes {
        let here = reply.serving_node.as_ref().is_some_and(|serving| serving.id == node.id);
        let api = node.addresses.as_ref().map_or("", |addresses| addresses.api.as_str());
        table.row(vec![
            node.id.to_string().into(),
            node.name.as_str().into(),
            node.role().json_name().into(),
            node_state(node, here, reply.removed),
            node_heard(node, here),
            api.into(),
        ]);
    }
    table.render(paint, 2)
}

/// The VIP groups.
pub(crate) fn groups(reply: &StatusReply, paint: Paint) -> String {
    let columns = [">ID", "NAME", "HOLDER", "EPOCH", "FOR", "ADDRESSES", "COPIES"];
    let mut table = Table::new(&columns);
    for group in &reply.groups {
        table.row(vec![
            group.id.to_string().into(),
            group.name.as_str().into(),
            group_holder(reply, group),
            group.epoch.as_ref().map_or("-", |epoch| epoch.text.as_str()).into(),
            group.since_ms.map_or_else(|| "-".to_owned(), text_ms).into(),
            group.addresses.join(", ").into(),
            group_copies(reply, group),
        ]);
    }
    table.render(paint, 2)
}

/// The services, each with its real servers below it.
pub(crate) fn services(reply: &StatusReply, paint: Paint) -> String {
    let columns = [
        "SERVICE",
        "VIRTUAL / REAL SERVER",
        "STATE",
        ">WEIGHT",
        ">ACTIVE",
        ">INACTIVE",
        ">CONNS",
        ">IN PKTS",
        ">OUT PKTS",
    ];
    let mut table = Table::new(&columns);
    for service in &reply.services {
        let virtual_server = format!(
            "{} {} {} (group {})",
            listeners(service),
            service.scheduler,
            service.forwarding().json_name(),
            service.group
        );
        table.row(vec![
            service.name.as_str().into(),
            virtual_server.into(),
            service_state(service),
        ]);
        for server in &service.servers {
            table.row(server_row(service, server));
        }
    }
    table.render(paint, 2)
}

/// Connections with how many there are.
pub(crate) fn connections(reply: &ListConnectionsReply, paint: Paint) -> String {
    let columns = [
        "PROTO",
        "STATE",
        "CLIENT",
        "VIRTUAL",
        "SERVER",
        "SERVICE",
        "ORIGIN",
        ">IDLE",
        ">TIMEOUT",
        ">IN PKTS",
        ">OUT PKTS",
        "EPOCH",
    ];
    let mut table = Table::new(&columns);
    for connection in &reply.connections {
        table.row(connection_row(connection));
    }
    let shown = reply.connections.len();
    format!("{}{shown} of {} connections\n", table.render(paint, 0), reply.total)
}

/// Numbers up to five digits as they are, then rounded down in thousands.
pub(super) fn count(n: u64) -> String {
    match n {
        0..100_000 => n.to_string(),
        100_000..100_000_000 => format!("{}K", n / 1_000),
        100_000_000..100_000_000_000 => format!("{}M", n / 1_000_000),
        _ => format!("{}G", n / 1_000_000_000),
    }
}

/// The node that answered.
pub(crate) fn serving_name(reply: &StatusReply) -> String {
    reply.serving_node.as_ref().map_or_else(|| "?".to_owned(), node_name)
}

/// The name, with the id when the name is empty.
pub(super) fn node_name(node: &NodeRef) -> String {
    if node.name.is_empty() { format!("node {}", node.id) } else { printable(&node.name) }
}

fn node_state(node: &Node, here: bool, removed: bool) -> Cell {
    let mut cell = match node.alive {
        // A node that was removed is told nothing: it cannot know.
        _ if removed && here => Cell::new(Tone::Bad, "REMOVED"),
        _ if removed => Cell::new(Tone::Warn, "unknown"),
        true => Cell::new(Tone::Good, "up"),
        false => Cell::new(Tone::Bad, "DOWN"),
    };
    if node.is_leader {
        cell.push_listed(Tone::Plain, "leader");
    }
    if node.cordoned {
        cell.push_listed(Tone::Warn, "cordoned");
    }
    if node.held_down {
        let left = node.held_down_left_ms;
        let left = left.map_or_else(String::new, |ms| format!(" for {}", text_ms(ms)));
        cell.push_listed(Tone::Warn, format!("held down{left}"));
    }
    if here {
        cell.push_listed(Tone::Plain, "answers here");
    }
    cell
}

fn node_heard(node: &Node, here: bool) -> Cell {
    let mut cell = Cell::default();
    for path in &node.paths {
        let tone = if path.alive { Tone::Plain } else { Tone::Bad };
        let age = path.last_heard_ms.map_or_else(|| "never".to_owned(), text_ms);
        cell.push_listed(tone, format!("{} {age}", path.name));
    }
    if node.paths.is_empty() {
        cell.push(Tone::Plain, if here { "-" } else { "never" });
    }
    cell
}

fn group_holder(reply: &StatusReply, group: &Group) -> Cell {
    if reply.removed {
        return Cell::new(Tone::Warn, "unknown");
    }
    let Some(holder) = &group.holder else { return Cell::new(Tone::Bad, "NO HOLDER") };
    let silent = reply.nodes.iter().any(|node| node.id == holder.id && !node.alive);
    let mut cell = Cell::from(node_name(holder));
    if silent {
        cell.push(Tone::Bad, " SILENT");
    } else if group.announcing_here {
        cell.push(Tone::Plain, " (here)");
    }
    cell
}

fn group_copies(reply: &StatusReply, group: &Group) -> Cell {
    if reply.removed {
        return Cell::new(Tone::Warn, "unknown");
    }
    let mut cell = Cell::default();
    for copy in group.copies.iter().filter(|copy| copy.state() != CopyState::Holder) {
        let name = copy.node.as_ref().map_or_else(|| "?".to_owned(), node_name);
        let id = copy.node.as_ref().map(|node| node.id);
        let down = reply.nodes.iter().any(|node| Some(node.id) == id && !node.alive);
        let (tone, state) = match copy.state() {
            _ if down => (Tone::Bad, "DOWN"),
            CopyState::Complete => (Tone::Good, "complete"),
            CopyState::Stale => (Tone::Warn, "STALE"),
            CopyState::Empty => (Tone::Bad, "EMPTY"),
            CopyState::Unspecified | CopyState::Holder => (Tone::Warn, "unknown"),
        };
        cell.push_listed(Tone::Plain, format!("{name} "));
        cell.push(tone, state);
        cell.push(Tone::Plain, copy_lag(copy));
    }
    if group.copies.is_empty() {
        cell.push(Tone::Plain, "-");
    } else if group.copies.iter().all(|copy| copy.state() == CopyState::Holder) {
        cell.push(Tone::Bad, "NONE");
    }
    cell
}

/// ` (420 ms behind, 12 unacked)`; nothing when there is nothing behind.
fn copy_lag(copy: &GroupCopy) -> String {
    let lag = copy.lag_ms.filter(|ms| *ms > 0).map(|ms| format!("{} behind", text_ms(ms)));
    let unacked = copy.unacked.filter(|n| *n > 0).map(|n| format!("{} unacked", count(n)));
    let parts: Vec<_> = lag.into_iter().chain(unacked).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

pub(super) fn service_state(service: &Service) -> Cell {
    let of = service.servers.len();
    let up = service.servers.iter().filter(|server| server.up).count();
    let tone = match up {
        0 => Tone::Bad,
        _ if up < of => Tone::Warn,
        _ => Tone::Good,
    };
    Cell::new(tone, format!("{up}/{of} up"))
}

pub(super) fn server_state(server: &Server) -> Cell {
    match server.up {
        false => Cell::new(Tone::Bad, "DOWN"),
        true if server.weight == 0 || server.drain => Cell::new(Tone::Warn, "draining"),
        true if server.overloaded => Cell::new(Tone::Warn, "FULL"),
        true => Cell::new(Tone::Good, "up"),
    }
}

fn server_row(service: &Service, server: &Server) -> Vec<Cell> {
    let answers = if answers_pass(service) { count(server.out_packets) } else { "-".to_owned() };
    vec![
        Cell::default(),
        format!("-> {}", socket(&server.address, server.port)).into(),
        server_state(server),
        server.weight.to_string().into(),
        count(server.active_conns).into(),
        count(server.inactive_conns).into(),
        count(server.conns_total).into(),
        count(server.in_packets).into(),
        answers.into(),
    ]
}

fn connection_row(connection: &Connection) -> Vec<Cell> {
    let server = match connection.server.as_str() {
        "" => Cell::new(Tone::Warn, format!("unbound {}", connection.server_id)),
        server if connection.local.is_empty() => server.into(),
        // As the server sees it.
        server => format!("{server} from {}", connection.local).into(),
    };
    vec![
        connection.protocol().json_name().into(),
        connection.state.as_str().into(),
        connection.client.as_str().into(),
        connection.vip.as_str().into(),
        server,
        connection.service.as_str().into(),
        connection.origin().json_name().into(),
        text_ms(connection.idle_ms).into(),
        text_ms(connection.timeout_ms).into(),
        count(connection.in_packets).into(),
        count(connection.out_packets).into(),
        connection.epoch.as_str().into(),
    ]
}

/// What a service listens on: `tcp 198.18.0.100:80`, with ` and 2 more` for a match group.
pub(super) fn listeners(service: &Service) -> String {
    let Some(first) = service.listeners.first() else {
        // Of a daemon from before there were several.
        let name = service.protocol().json_name();
        return format!("{name} {}", socket(&service.vip, service.port));
    };
    let more = match service.listeners.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    listener(first) + &more
}

/// `tcp 198.18.0.100:8000-8999`.
pub(super) fn listener(listener: &Listener) -> String {
    let ports = match (listener.first_port, listener.last_port) {
        (0, 65_535) => "any".to_owned(),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    format!("{} {}", listener.protocol().json_name(), at(&listener.address, &ports))
}

/// `ADDRESS:PORT`, IPv6 in brackets; without a port where it is that of the packet.
pub(super) fn socket(address: &str, port: u32) -> String {
    if port == 0 { address.to_owned() } else { at(address, &port.to_string()) }
}

fn at(address: &str, port: &str) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::samples;

    #[test]
    fn a_service_shows_what_it_listens_on() {
        let mut service = samples::healthy().services.remove(0);
        assert_eq!(listeners(&service), "tcp 198.18.0.100:80");
        service.listeners[0].last_port = 89;
        assert_eq!(listeners(&service), "tcp 198.18.0.100:80-89");
        let all = Listener {
            address: "2001:db8::1".to_owned(),
            first_port: 0,
            last_port: 65_535,
            ..service.listeners[0].clone()
        };
        assert_eq!(listener(&all), "tcp [2001:db8::1]:any");
        service.listeners.push(all);
        assert_eq!(listeners(&service), "tcp 198.18.0.100:80-89 and 1 more");
        let screen = crate::render::service(&service, "n1", crate::render::Paint::new(false));
        assert!(screen.contains(": tcp 198.18.0.100:80-89, tcp [2001:db8::1]:any, group web"));
        service.listeners.clear();
        assert_eq!(listeners(&service), "tcp 198.18.0.100:80", "an older daemon");
        assert_eq!(socket("198.18.0.11", 0), "198.18.0.11", "the port of the packet");
    }
}
