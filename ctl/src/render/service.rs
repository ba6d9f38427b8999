//! One service on one screen.

use std::collections::BTreeMap;

use steadfast_proto::json::NamedEnum;
use steadfast_proto::v1::{Cookies, Forwarding, Rates, Server, ServerOrder, Service};

use super::lists::{listener, listeners, server_state, service_state, socket};
use super::paint::{Paint, Tone, printable};
use super::table::{Cell, Table};

/// The service with its real servers: what is configured and what they carry.
pub(crate) fn service(service: &Service, node: &str, paint: Paint) -> String {
    // The names of ipvsadm.
    let columns =
        ["REAL SERVER", "STATE", ">WEIGHT", ">ActiveConn", ">InActConn", ">UPPER", ">LOWER"];
    let mut table = Table::new(&columns);
    for server in &service.servers {
        table.row(vec![
            server_name(server).into(),
            server_state(server),
            server.weight.to_string().into(),
            server.active_conns.to_string().into(),
            server.inactive_conns.to_string().into(),
            threshold(server.upper).into(),
            threshold(server.lower).into(),
        ]);
    }
    head(service, node, paint) + &table.render(paint, 2)
}

/// What was counted of the service and each of its servers, and the drops of the node.
pub(crate) fn service_stats(
    service: &Service,
    drops: &BTreeMap<String, u64>,
    node: &str,
    paint: Paint,
) -> String {
    let columns = [">CONNS", ">IN PKTS", ">OUT PKTS", ">IN BYTES", ">OUT BYTES"];
    let all = Rates {
        conns: service.conns_total,
        in_packets: service.in_packets,
        in_bytes: service.in_bytes,
        out_packets: service.out_packets,
        out_bytes: service.out_bytes,
    };
    let of = |server: &Server| Rates {
        conns: server.conns_total,
        in_packets: server.in_packets,
        in_bytes: server.in_bytes,
        out_packets: server.out_packets,
        out_bytes: server.out_bytes,
    };
    head(service, node, paint) + &figures(service, columns, all, of, paint) + &dropped(drops, node)
}

/// What happens in a second, and the drops of the node.
pub(crate) fn service_rate(
    service: &Service,
    drops: &BTreeMap<String, u64>,
    node: &str,
    paint: Paint,
) -> String {
    let columns = [">CONNS/s", ">IN PKTS/s", ">OUT PKTS/s", ">IN BYTES/s", ">OUT BYTES/s"];
    let all = service.rates.unwrap_or_default();
    let of = |server: &Server| server.rates.unwrap_or_default();
    head(service, node, paint) + &figures(service, columns, all, of, paint) + &dropped(drops, node)
}

/// A line for the service and one for each of its servers.
fn figures(
    service: &Service,
    columns: [&str; 5],
    all: Rates,
    of: impl Fn(&Server) -> Rates,
    paint: Paint,
) -> String {
    let names = ["REAL SERVER", "STATE"];
    let mut table = Table::new(&names.into_iter().chain(columns).collect::<Vec<_>>());
    let answers_pass = answers_pass(service);
    let cells = |rates: Rates| {
        let answers = |n: u64| if answers_pass { n.to_string() } else { "-".to_owned() };
        let cells = [
            rates.conns.to_string(),
            rates.in_packets.to_string(),
            answers(rates.out_packets),
            rates.in_bytes.to_string(),
            answers(rates.out_bytes),
        ];
        cells.map(Cell::from)
    };
    let service_row = [Cell::from("all"), Cell::default()];
    table.row(service_row.into_iter().chain(cells(all)).collect());
    for server in &service.servers {
        let row = [Cell::from(server_name(server)), server_state(server)];
        table.row(row.into_iter().chain(cells(of(server))).collect());
    }
    table.render(paint, 2)
}

/// Under dr and through tunnels nobody can count what the servers answer: a zero would be a claim.
pub(super) fn answers_pass(service: &Service) -> bool {
    !matches!(service.forwarding(), Forwarding::Dr | Forwarding::Tun)
}

/// One line; drops are not known by service.
fn dropped(drops: &BTreeMap<String, u64>, node: &str) -> String {
    let reasons: Vec<_> =
        drops.iter().map(|(reason, count)| format!("{} {count}", printable(reason))).collect();
    let reasons = if reasons.is_empty() { "nothing".to_owned() } else { reasons.join(", ") };
    format!("\nDropped by {node} since its daemon started, for whichever service: {reasons}\n")
}

/// What the service is; the first lines of every screen about it.
fn head(service: &Service, node: &str, paint: Paint) -> String {
    let order = match service.server_order() {
        ServerOrder::NewestFirst => ", the newest server first",
        ServerOrder::Canonical | ServerOrder::Unspecified => "",
    };
    // All of a match group: this screen is about nothing else.
    let all = match service.listeners.len() {
        0 => listeners(service),
        _ => service.listeners.iter().map(listener).collect::<Vec<_>>().join(", "),
    };
    let tunnel = match service.tunnel.as_str() {
        "" => String::new(),
        tunnel => format!(" ({})", printable(tunnel)),
    };
    let mss = match service.mss_clamp.as_str() {
        "" | "off" => String::new(),
        most => format!("   MSS clamp {}", printable(most)),
    };
    let told = match service.client_address.as_str() {
        "" | "none" => String::new(),
        how => format!("   client address by {}", printable(how)),
    };
    let ftp = match service.ftp_data_ports.as_str() {
        "" => String::new(),
        ports => format!("   FTP data {}", printable(ports)),
    };
    let proxy = match service.syn_proxy.as_str() {
        "" | "off" => String::new(),
        when => format!("   SYN cookies {}", printable(when)),
    };
    let once = if service.one_packet { "   one packet" } else { "" };
    let persistent = match service.persistence.as_str() {
        "" => String::new(),
        how => format!("   persistent {}", printable(how)),
    };
    let quic: Vec<String> = service.quic_lb.iter().map(|config| printable(config)).collect();
    let quic = match quic.as_slice() {
        [] => String::new(),
        some => format!("   QUIC-LB {}", some.join("; ")),
    };
    let set: Vec<String> = service.set_otherwise.iter().map(|set| printable(set)).collect();
    let set = if set.is_empty() { String::new() } else { format!("Set {}\n", set.join(", ")) };
    format!(
        "{} {}: {}, group {}\nScheduler {}{order}{ftp}{once}{persistent}{quic}   Forwarding {}{tunnel}{told}{mss}{proxy}   {}   counted by {node}\n{set}{}\n",
        paint.text(Tone::Title, "SERVICE"),
        printable(&service.name),
        printable(&all),
        printable(&service.group),
        printable(&service.scheduler),
        service.forwarding().json_name(),
        service_state(service).painted(paint),
        limits(service),
    )
}

/// What a service may get, and what was above it; nothing if there is nothing to say.
fn limits(service: &Service) -> String {
    let mut lines = cookies(service);
    let Some(limits) = &service.limits else { return lines };
    let limit = |limit: Option<u32>, of: &str| limit.map(|limit| format!("{limit} {of}"));
    let set = [limit(limits.new_per_s, "new a second"), limit(limits.per_source, "by source")];
    let set: Vec<_> = set.into_iter().flatten().collect();
    let above = match limits.over.as_str() {
        "refuse" => "above them refused",
        // What the hash says is not where a client's earlier connections are.
        _ if !service.persistence.is_empty() => "above them dropped, for clients keep their server",
        _ => "above them by the hash",
    };
    let counted = |what: &str, counts: &BTreeMap<String, u64>| {
        let counts: Vec<_> =
            counts.iter().map(|(why, count)| format!("{} {count}", printable(why))).collect();
        (!counts.is_empty()).then(|| format!("{what} {}", counts.join(", ")))
    };
    let counts = [
        counted("by the hash:", &limits.hashed),
        (limits.adopted > 0).then(|| format!("of those taken in later: {}", limits.adopted)),
        counted("refused:", &limits.refused),
    ];
    let counts: Vec<_> = counts.into_iter().flatten().collect();
    if !set.is_empty() {
        lines += &format!("Limits {}, {above}\n", set.join(", "));
    }
    if !counts.is_empty() {
        lines += &format!("Above limits: {}\n", counts.join("; "));
    }
    lines
}

/// What became of SYN cookies; nothing where there were none.
fn cookies(service: &Service) -> String {
    let Some(cookies) = &service.cookies else { return String::new() };
    let Cookies { sent, accepted, refused, given_up } = *cookies;
    if (sent, accepted, refused) == (0, 0, 0) {
        return String::new();
    }
    format!(
        "SYN cookies: {sent} sent, {accepted} came back, {refused} packets without a good one, \
         {given_up} not taken by their server\n"
    )
}

fn threshold(connections: Option<u32>) -> String {
    connections.map_or_else(|| "-".to_owned(), |connections| connections.to_string())
}

fn server_name(server: &Server) -> String {
    socket(&server.address, server.port)
}
