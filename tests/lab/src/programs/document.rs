//! The configuration: every program's service on every VIP.

use std::fmt::Write as _;

use super::mode::{MODES, Mode, Net, gateway, local};
use crate::{
    cluster::running::GROUP,
    host::{family::Family, names::SERVERS},
};

/// A port that a program serves.
#[derive(Clone, Copy, Debug)]
struct Port {
    name: &'static str,
    number: u16,
    protocol: &'static str,
    scheduler: &'static str,
}

/// HTTP.
pub const WEB: u16 = 80;
/// DNS, both protocols.
pub const DNS: u16 = 53;
/// SMTP.
pub const SMTP: u16 = 25;
/// What `iperf3` takes by itself.
pub const IPERF: u16 = 5201;

/// Commands of FTP.
pub const FTP: u16 = 21;
/// Where servers open data connections from.
const FTP_ACTIVE: u16 = FTP - 1;
/// Where vsftpd takes data connections.
pub const FTP_DATA: (u16, u16) = (50_000, 50_099);

/// One after the other, so that another node cannot guess where a connection went; but all
/// connections of one measurement of `iperf3` are for one server.
const RR: &str = "rr";
const BY_SOURCE: &str = "sh\n    hash: {port: false}";

const PORTS: [Port; 5] = [
    Port { name: "web", number: WEB, protocol: "tcp", scheduler: RR },
    Port { name: "dns", number: DNS, protocol: "udp", scheduler: RR },
    Port { name: "dns-tcp", number: DNS, protocol: "tcp", scheduler: RR },
    Port { name: "mail", number: SMTP, protocol: "tcp", scheduler: RR },
    Port { name: "iperf", number: IPERF, protocol: "tcp", scheduler: BY_SOURCE },
];

/// The whole document.
#[must_use]
pub fn document() -> String {
    let families = [Family::V4, Family::V6];
    let quoted = |all: Vec<String>| all.join(", ");
    let vips = MODES.iter().flat_map(|mode| families.map(|f| format!("'{}'", mode.vip(f))));
    let gateways = [Net::Front, Net::Back].into_iter();
    let gateways = gateways.flat_map(|net| families.map(|f| format!("'{}'", gateway(f, net))));
    let mut text = format!(
        "apiVersion: steadfast/v1\n\
         segments:\n  \
         - {{name: front, prefix: 198.18.0.0/24, prefixes: ['2001:db8:18::/64']}}\n  \
         - {{name: back, prefix: 198.18.1.0/24, prefixes: ['2001:db8:18:1::/64']}}\n\
         groups:\n  \
         - {{name: {GROUP}, addresses: [{}], gateways: [{}], local_addresses: [{}]}}\n\
         services:\n",
        quoted(vips.collect()),
        quoted(gateways.collect()),
        quoted(families.map(|f| format!("'{}'", local(f))).to_vec()),
    );
    for mode in &MODES {
        for family in families {
            for port in &PORTS {
                service(&mut text, mode, family, port);
            }
            ftp(&mut text, mode, family);
        }
    }
    text.push_str("settings:\n  connections_max: 65536\n  replication: on\n");
    text
}

fn digit(family: Family) -> u8 {
    if family == Family::V4 { 4 } else { 6 }
}

fn service(text: &mut String, mode: &Mode, family: Family, port: &Port) {
    let Port { name, number, protocol, scheduler } = port;
    let digit = digit(family);
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "  - name: {name}-{}-{digit}\n    group: {GROUP}\n    address: '{}'\n    port: {number}\n    \
         protocol: {protocol}\n    scheduler: {scheduler}\n",
        mode.name,
        mode.vip(family),
    );
    forwarding(text, mode);
    servers(text, mode, family, Some(*number));
    // One check a server and way is enough to know that packets reach it.
    if *name == "web" {
        text.push_str("    check: {type: tcp, interval_ms: 1000, timeout_ms: 500, fall: 3}\n");
    }
}

/// With NAT what servers tell is translated; else a match group has the ports, and persistence
/// leads them to one server.
fn ftp(text: &mut String, mode: &Mode, family: Family) {
    let (name, digit, vip, (first, last)) = (mode.name, digit(family), mode.vip(family), FTP_DATA);
    let _ = write!(
        text,
        "  - name: ftp-{name}-{digit}\n    group: {GROUP}\n    scheduler: {RR}\n    \
         persistence: {{timeout_s: 300}}\n"
    );
    if mode.forwarding == "nat" {
        let _ = write!(
            text,
            "    address: '{vip}'\n    port: {FTP}\n    ftp: {{data_ports: {first}-{last}}}\n"
        );
    } else {
        let _ = write!(
            text,
            "    match:\n      - {{address: '{vip}', port: {FTP_ACTIVE}-{FTP}}}\n      \
             - {{address: '{vip}', port: {first}-{last}}}\n"
        );
    }
    forwarding(text, mode);
    servers(text, mode, family, (mode.forwarding == "nat").then_some(FTP));
}

fn forwarding(text: &mut String, mode: &Mode) {
    let _ = writeln!(text, "    forwarding: {}", mode.forwarding);
    if let Some(tunnel) = mode.tunnel {
        let _ = writeln!(text, "    tunnel: {tunnel}");
    }
}

/// Without a port of their own, that of the packet stays.
fn servers(text: &mut String, mode: &Mode, family: Family, port: Option<u16>) {
    let port = port.map_or_else(String::new, |port| format!(", port: {port}"));
    text.push_str("    servers:\n");
    for n in SERVERS {
        let _ = writeln!(text, "      - {{address: '{}'{port}}}", mode.server(family, n));
    }
}
