//! One service on one screen.

use steadfast_proto::json::NamedEnum;
use steadfast_proto::v1::{Server, ServerOrder, Service};

use super::lists::{server_state, service_state, socket};
use super::paint::{Paint, Tone, printable};
use super::table::Table;

/// The service with its real servers: what is configured and what they carry.
pub(crate) fn service(service: &Service, node: &str, paint: Paint) -> String {
    // The names of ipvsadm.
    let columns = ["REAL SERVER", "STATE", ">WEIGHT", ">ActiveConn", ">InActConn"];
    let mut table = Table::new(&columns);
    for server in &service.servers {
        table.row(vec![
            server_name(server).into(),
            server_state(server),
            server.weight.to_string().into(),
            server.active_conns.to_string().into(),
            server.inactive_conns.to_string().into(),
        ]);
    }
    head(service, node, paint) + &table.render(paint, 2)
}

/// What the service is; the first lines of every screen about it.
fn head(service: &Service, node: &str, paint: Paint) -> String {
    let order = match service.server_order() {
        ServerOrder::NewestFirst => ", the newest server first",
        ServerOrder::Canonical | ServerOrder::Unspecified => "",
    };
    let tunnel = match service.tunnel.as_str() {
        "" => String::new(),
        tunnel => format!(" ({})", printable(tunnel)),
    };
    let mss = match service.mss_clamp.as_str() {
        "" | "off" => String::new(),
        most => format!("   MSS clamp {}", printable(most)),
    };
    format!(
        "{} {}: {} {}, group {}\nScheduler {}{order}   Forwarding {}{tunnel}{mss}   {}   counted by {node}\n\n",
        paint.text(Tone::Title, "SERVICE"),
        printable(&service.name),
        service.protocol().json_name(),
        printable(&socket(&service.vip, service.port)),
        printable(&service.group),
        printable(&service.scheduler),
        service.forwarding().json_name(),
        service_state(service).painted(paint),
    )
}

fn server_name(server: &Server) -> String {
    socket(&server.address, server.port)
}
