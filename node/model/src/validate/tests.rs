use super::*;
use crate::PROBLEMS_MAX;

const GOOD: &str = "
apiVersion: steadfast/v1
segments: [{name: front, prefix: 198.18.0.0/24}, {name: back, prefix: 198.18.1.0/24}]
groups: [{name: web, addresses: [198.18.0.100], gateways: [198.18.1.254]}]
services:
  - {name: a, group: web, address: 198.18.0.100, port: 80, forwarding: nat,
     servers: [{address: 198.18.1.11, port: 8080}]}
  - {name: b, group: web, address: 198.18.0.100, port: 81, forwarding: dr,
     servers: [{address: 198.18.0.11, port: 81}]}
";

fn problems(text: &str) -> Vec<String> {
    validate(&Document::parse(text).unwrap()).iter().map(ToString::to_string).collect()
}

#[test]
fn a_good_document_has_no_problems() {
    assert_eq!(problems(GOOD), Vec::<String>::new());
}

/// SCTP on a port of TCP, checked elsewhere.
#[test]
fn an_sctp_service_may_share_a_port_and_be_checked_on_another() {
    let sctp = "port: 80, protocol: sctp, sloppy_sctp: true, check: {port: 22}, forwarding: dr";
    let text = GOOD.replacen("port: 81, forwarding: dr", sctp, 1);
    assert_eq!(problems(&text.replacen(B, "{address: 198.18.0.11, port: 80}", 1)), [""; 0]);
}

#[test]
fn services_of_several_ports_are_good() {
    let b = "address: 198.18.0.100, port: 81, forwarding: dr,\n     servers: \
             [{address: 198.18.0.11, port: 81}]";
    for instead in [
        // Beside port 80 of service `a`: that is the more specific one.
        "address: 198.18.0.100, ports: 1-1024, servers: [{address: 198.18.0.11}]",
        "address: 198.18.0.100, port: any, servers: [{address: 198.18.0.11}]",
        "address: 198.18.0.100, port: 0, check: {port: 22}, servers: [{address: 198.18.0.11}]",
        "address: 198.18.0.100, port: 81, servers: [{address: 198.18.0.11}]",
        "match: [{address: 198.18.0.100, port: 443}, {address: 198.18.0.100, port: 443, \
         protocol: udp}], servers: [{address: 198.18.0.11, port: 443}]",
        "match: [{address: 198.18.0.100, port: 21}, {address: 198.18.0.100, port: 50000-50100}], \
         servers: [{address: 198.18.0.11}]",
        "address: 198.18.0.100, port: 8000-8079, forwarding: nat, servers: \
         [{address: 198.18.1.11}]",
    ] {
        assert_eq!(problems(&GOOD.replacen(b, instead, 1)), Vec::<String>::new(), "{instead}");
    }
}

/// Service `b` as one of QUIC, and its server.
const QUIC: &str = "port: 81, protocol: udp, forwarding: dr,
     quic_lb: [{id: 0, server_id_length: 1, nonce_length: 7}],
     servers: [{address: 198.18.0.11, port: 81, quic_ids: ['a1']}]";

#[test]
fn quic_connection_ids_are_checked() {
    let b = "port: 81, forwarding: dr,\n     servers: [{address: 198.18.0.11, port: 81}]";
    let good = GOOD.replacen(b, QUIC, 1);
    assert_eq!(problems(&good), [""; 0]);
    let ours = "quic_lb: [{id: 0, server_id_length: 1, nonce_length: 7}]";
    for (from, to, says) in [
        (
            "protocol: udp",
            "protocol: tcp",
            "services[1].quic_lb: no listener of the service is udp",
        ),
        (
            "{id: 0, server",
            "{id: 7, server",
            "services[1].quic_lb[0].id: 7 is out of range; write 0 to 6",
        ),
        (
            "nonce_length: 7",
            "nonce_length: 19",
            "services[1].quic_lb[0].nonce_length: 19 is out of range; write 4 to 18",
        ),
        (
            "nonce_length: 7",
            "nonce_length: 3",
            "services[1].quic_lb[0].nonce_length: 3 is out of range",
        ),
        (
            "id_length: 1",
            "id_length: 0",
            "services[1].quic_lb[0].server_id_length: 0 is out of range; write 1 to 15",
        ),
        (
            "nonce_length: 7",
            "nonce_length: 7, key: 0abc",
            "quic_lb[0].key: the key is not 16 octets",
        ),
        (
            ours,
            "quic_lb: [{id: 0, server_id_length: 1, nonce_length: 7}, \
             {id: 0, server_id_length: 1, nonce_length: 8}]",
            "services[1].quic_lb[1].id: id 0 is that of quic_lb[0], too",
        ),
        ("['a1']", "['a1b2']", "quic_ids[0]: `a1b2` is no server ID of quic_lb; write 1 octets"),
        ("['a1']", "['g1']", "quic_ids[0]: `g1` is no server ID"),
        ("['a1']", "['a1', 'A1']", "quic_ids[1]: server 198.18.0.11 has this ID already"),
        (ours, "sloppy_tcp: false", "quic_ids[0]: the service does not look at connection IDs"),
    ] {
        assert!(good.contains(from), "{from}");
        let found = problems(&good.replacen(from, to, 1));
        assert!(found.iter().any(|problem| problem.contains(says)), "{from} -> {to}: {found:?}");
    }
}

/// The server of service `b`, which most cases change.
const B: &str = "{address: 198.18.0.11, port: 81}";

/// (what is put in place of what, a problem that must be reported)
const CASES: &[(&str, &str, &str)] = &[
    (
        "name: back, prefix: 198.18.1.0/24",
        "name: back, prefix: 198.18.0.0/16",
        "segments[1].prefix: 198.18.0.0/16 overlaps 198.18.0.0/24 of segment `front`; write \
         prefixes that have no address in common",
    ),
    (
        "name: back",
        "name: \"back: yard\"",
        "segments[1].name: `back??yard` is no name; write 1 to 63 letters, digits, '-', '_' or '.'",
    ),
    (
        "name: b,",
        "name: a,",
        "services[1].name: `a` is the name of services[0] already; give one of them another name",
    ),
    (
        "addresses: [198.18.0.100]",
        "addresses: []",
        "groups[0].addresses: is empty; give the group at least one VIP",
    ),
    (
        "addresses: [198.18.0.100]",
        "addresses: [198.18.0.100, '::1']",
        "groups[0].addresses[1]: ::1 is no unicast address; write an address of one of the segments",
    ),
    (
        "addresses: [198.18.0.100]",
        "addresses: [198.18.0.100, 198.18.0.255]",
        "groups[0].addresses[1]: 198.18.0.255 is the network or broadcast address of \
         198.18.0.0/24; write an address that a host can have",
    ),
    (
        "gateways: [198.18.1.254]",
        "gateways: [198.18.1.0]",
        "groups[0].gateways[0]: 198.18.1.0 is the network or broadcast address of 198.18.1.0/24; \
         write an address that a host can have",
    ),
    (
        "gateways: [198.18.1.254]",
        "gateways: [198.18.1.254, 224.0.0.1]",
        "groups[0].gateways[1]: 224.0.0.1 is no unicast address; write an address of one of the \
         segments",
    ),
    (
        "addresses: [198.18.0.100]",
        "addresses: [198.18.0.100, 192.0.2.1]",
        "groups[0].addresses[1]: 192.0.2.1 lies in no segment; write an address of \
         198.18.0.0/24 or 198.18.1.0/24, or add a segment with its prefix under `segments`",
    ),
    (
        "gateways: [198.18.1.254]",
        "gateways: [198.18.1.254, 198.18.0.100]",
        "groups[0].gateways[1]: 198.18.0.100 is in this group twice; take one of them out",
    ),
    (
        "gateways: [198.18.1.254]}",
        "gateways: [198.18.1.254]}, {name: db, addresses: [198.18.0.100]}",
        "groups[1].addresses[0]: 198.18.0.100 is also an address of group `web`; take it out of \
         one of them: one group owns it",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 80, forwarding: dr",
        "services[1].port: tcp 198.18.0.100:80 is already service `a`; write another port, or list \
         the servers in one of the services",
    ),
    (
        "port: 81, forwarding: dr",
        "forwarding: dr",
        "services[1].port: is missing; add it, or a `match`",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 81, match: [{address: 198.18.0.100, port: 82}], forwarding: dr",
        "services[1].match: stands beside address, port or protocol; put those into an entry of \
         `match`, or take `match` out",
    ),
    (
        "address: 198.18.0.100, port: 81",
        "match: [{address: 198.18.0.100, port: 81}, {address: 198.18.0.100, port: 80}]",
        "services[1].match[1].port: tcp 198.18.0.100:80 is already service `a`; write another \
         port, or list the servers in one of the services",
    ),
    (
        "address: 198.18.0.100, port: 81",
        "match: [{address: 198.18.0.100, port: 5-9}, {address: 198.18.0.100, ports: 9-12}]",
        "services[1].match[1].port: tcp 198.18.0.100:9-12 overlaps 5-9 of service `b`; write \
         ranges that have no port in common",
    ),
    (
        "address: 198.18.0.100, port: 81",
        "match: [{address: 198.18.0.100, port: 81}, {address: 198.18.0.101, port: 81}]",
        "services[1].match[1].address: 198.18.0.101 is no address of group `web`; write \
         198.18.0.100, or add it to the `addresses` of that group",
    ),
    (
        "address: 198.18.0.100, port: 81",
        "match: [{address: 198.18.0.100, port: 81}, {address: '::1', port: 81}]",
        "services[1].match[1].address: ::1 is of another family than the first one; make a service \
         of its own for it: its servers are others",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 8000-8999, forwarding: dr",
        "services[1].servers[0].port: 81 cannot stand for the several ports of the service; take \
         it out: packets keep their port",
    ),
    (
        "port: 81, forwarding: dr,\n     servers: [{address: 198.18.0.11, port: 81}]",
        "port: any, check: {}, servers: [{address: 198.18.0.11}]",
        "services[1].servers[0].port: is missing, and the check has none either; add `port` to \
         the check",
    ),
    (
        "port: 81, forwarding: dr,\n     servers: [{address: 198.18.0.11, port: 81}]",
        "port: 8000-9000, forwarding: nat,\n     servers: [{address: 198.18.1.11}]",
        "services[1].servers[0]: 198.18.1.11:8000-9000 is also a NAT server of service `a` (group \
         `web`): its answers could belong to either; write another port",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 81, forwarding: dr, scheduler: dh, hash: {port: false}",
        "services[1].hash: scheduler dh does not hash the source: it has no such options; take \
         `hash` out, or write scheduler: sh or mh",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 81, forwarding: dr, timeouts: {close_wait_s: 0}",
        "services[1].timeouts.close_wait_s: 0 is out of range; write 1 to 2678400",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 81, forwarding: dr, protocol: udp, sloppy_tcp: true",
        "services[1].sloppy_tcp: protocol udp has no TCP packets; take it out",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 81, forwarding: dr, limits: {new_per_s: 0}",
        "services[1].limits.new_per_s: 0 is out of range; write 1 to 16777216",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 81, forwarding: dr, limits: {per_source: 99999999}",
        "services[1].limits.per_source: 99999999 is out of range; write 1 to 67108864",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 81, forwarding: dr, limits: {over: refuse}",
        "services[1].limits.over: there is no limit to be above; write `new_per_s` or `per_source` \
         too, or take it out",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 81, forwarding: dr, slow_start_s: 60",
        "services[1].slow_start_s: scheduler mh does not share by weight: no server can start \
         slow; take it out, or write scheduler: wrr, wlc, sed, nq, lblc, lblcr or twos",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 81, forwarding: dr, scheduler: wlc, slow_start_s: 0",
        "services[1].slow_start_s: 0 is out of range; write 1 to 3600",
    ),
    (
        B,
        "{address: 198.18.0.11, port: 81, upper: 100, lower: 100}",
        "services[1].servers[0].lower: 100 is not below the upper threshold 100; write 1 to 99",
    ),
    (
        B,
        "{address: 198.18.0.11, port: 81, lower: 1}",
        "services[1].servers[0].lower: there is no upper threshold; take it out",
    ),
    (
        B,
        "{address: 198.18.0.11, port: 81, upper: 0}",
        "services[1].servers[0].upper: a server that takes no connections has no use; take it out \
         for no bound",
    ),
    (
        "group: web, address: 198.18.0.100, port: 81",
        "group: gone, address: 198.18.0.100, port: 81",
        "services[1].group: group `gone` does not exist; write `web`, or add it under `groups`",
    ),
    (
        "address: 198.18.0.100, port: 81",
        "address: 198.18.0.101, port: 81",
        "services[1].address: 198.18.0.101 is no address of group `web`; write 198.18.0.100, or \
         add it to the `addresses` of that group",
    ),
    (
        B,
        "{address: 198.18.1.12, port: 81}",
        "services[1].servers[0].address: 198.18.1.12 is in segment `back`, the VIP 198.18.0.100 is \
         not; dr needs both in one: write a server of that segment, or forwarding: nat",
    ),
    (
        "gateways: [198.18.1.254]",
        "gateways: [198.18.0.254]",
        "services[0].servers[0].address: 198.18.1.11 is in segment `back`, where group `web` has \
         no gateway address: its answers would not come back through the group's holder; add an \
         address of 198.18.1.0/24 to the `gateways` of that group",
    ),
    (
        "{address: 198.18.1.11, port: 8080}",
        "{address: 198.51.100.1, port: 8080}",
        "services[0].servers[0].address: 198.51.100.1 lies in no segment; write an address of \
         198.18.0.0/24 or 198.18.1.0/24, or add a segment with its prefix under `segments`",
    ),
    (
        "forwarding: dr,\n     servers: [{address: 198.18.0.11, port: 81}]",
        "forwarding: nat,\n     servers: [{address: 198.18.1.11, port: 8080}]",
        "services[1].servers[0]: 198.18.1.11:8080 is also a NAT server of service `a` (group \
         `web`): its answers could belong to either; write another port",
    ),
    (
        B,
        "{address: 198.18.0.11, port: 81}, {address: 198.18.0.11, port: 81}",
        "services[1].servers[1]: 198.18.0.11:81 is listed twice; take one out; for a larger share \
         give it more weight",
    ),
    (
        B,
        "{address: '2001:db8::1', port: 81}",
        "services[1].servers[0].address: 2001:db8::1 is of another family than the VIP \
         198.18.0.100; write an IPv4 address",
    ),
    (
        B,
        "{address: 198.18.0.11, port: 0}",
        "services[1].servers[0].port: 0 is no port of a server; write 1 to 65535",
    ),
    (
        B,
        "{address: 198.18.0.11, port: 82}",
        "services[1].servers[0].port: dr cannot change ports from 81 to 82; write 81, or \
         forwarding: nat",
    ),
    (
        B,
        "{address: 198.18.0.11, port: 81, weight: 70000}",
        "services[1].servers[0].weight: 70000 is out of range; write 0 to 65535",
    ),
    (
        B,
        "{address: 198.18.0.100, port: 81}",
        "services[1].servers[0].address: 198.18.0.100 is an address of group `web`; write the \
         server's own address",
    ),
    (
        "forwarding: dr,\n     servers: [{address: 198.18.0.11, port: 81}]",
        "forwarding: tun,\n     servers: [{address: 203.0.113.1, port: 82}]",
        "services[1].servers[0].port: tun cannot change ports from 81 to 82; write 81, or \
         forwarding: nat",
    ),
    (
        "forwarding: dr,\n     servers: [{address: 198.18.0.11, port: 81}]",
        "forwarding: tun,\n     servers: [{address: 'fe80::1', port: 81}]",
        "services[1].servers[0].address: fe80::1 cannot be reached through routers; write the \
         server's own unicast address",
    ),
    (
        "forwarding: dr",
        "forwarding: dr, tunnel: {type: gue}",
        "services[1].tunnel: forwarding is dr: no packet goes through a tunnel; take `tunnel` out, \
         or write forwarding: tun",
    ),
    (
        "forwarding: dr",
        "forwarding: tun, tunnel: {type: gre, port: 6080}",
        "services[1].tunnel.port: gre has no port; take it out, or write type: gue",
    ),
    (
        "forwarding: dr",
        "forwarding: tun, tunnel: {type: gue, port: 0}",
        "services[1].tunnel.port: 0 is no port of a server; write 1 to 65535",
    ),
    (
        "forwarding: dr",
        "forwarding: tun, tunnel: {checksum: true}",
        "services[1].tunnel.checksum: ipip has no checksum of its own; take it out, or write \
         type: gue or gre",
    ),
    (
        "forwarding: nat",
        "forwarding: nat, mss_clamp: 87",
        "services[0].mss_clamp: 87 is out of range; write 88 to 65495",
    ),
    (
        "forwarding: nat",
        "forwarding: nat, protocol: udp, mss_clamp: auto",
        "services[0].mss_clamp: udp has no segments; take it out",
    ),
    (
        "forwarding: dr",
        "forwarding: tun, mss_clamp: auto",
        "services[1].mss_clamp: under tun the servers' half of a handshake does not pass the \
         nodes, and clients obey that half; take it out and lower what the servers announce \
         (ip route ... advmss), or write a number for what the servers send",
    ),
    (
        "forwarding: nat",
        "forwarding: nat, client_address: toa",
        "services[0].client_address: under nat the server sees the client's own address; take it \
         out, or write forwarding: full_nat",
    ),
    (
        "forwarding: dr",
        "forwarding: dr, client_address: proxy_v2",
        "services[1].client_address: under dr servers answer their clients themselves, who would \
         hear of octets that they never sent; take it out, or write forwarding: nat or full_nat",
    ),
    (
        "forwarding: nat",
        "forwarding: nat, sloppy_tcp: true, client_address: proxy_v2",
        "services[0].client_address: sloppy_tcp opens connections in their middle, where no header \
         can go; take one of them out",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], ftp: {data_ports: 5000-5099}, client_address: proxy_v2}",
        "services[0].client_address: an FTP server opens data connections itself, and reads no \
         header there; take one of them out",
    ),
    (
        "forwarding: dr",
        "forwarding: full_nat, protocol: udp, client_address: toa",
        "services[1].client_address: udp cannot carry it, TCP alone can; take it out",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], sync: {threshold: 50}}",
        "services[0].sync.threshold: threshold 50 is not below period 50; write 0 to 49, or \
         period: 0",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], persistence: {timeout_s: 2678401}}",
        "services[0].persistence.timeout_s: 2678401 is out of range; write 1 to 2678400",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 81, ftp: {}, forwarding: dr",
        "services[1].ftp: dr translates nothing; take it out, and make a match group of port 21 \
         and the servers' data ports, with persistence; or write forwarding: nat",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], ftp: {data_ports: 79-90}}",
        "services[0].ftp.data_ports: 79-90 has the control port 80 or the one below in it; write \
         the ports that the servers are set to",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 81, one_packet: true, forwarding: dr",
        "services[1].one_packet: tcp has connections, whose packets belong together; take it out, \
         or write protocol: udp",
    ),
    (
        "port: 81, forwarding: dr",
        "port: 81, protocol: udp, one_packet: true, forwarding: full_nat",
        "services[1].one_packet: full_nat needs a connection that keeps the local port; take it out, \
         or write forwarding: nat, dr or tun",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], persistence: {prefix_v4: 33}}",
        "services[0].persistence.prefix_v4: 33 is out of range; write 1 to 32",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], sync: {retries: 4}}",
        "services[0].sync.retries: 4 is out of range; write 0 to 3",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], timeouts: {udp_s: 0}}",
        "services[0].timeouts.udp_s: 0 is out of range; write 1 to 2678400",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], timeouts: {sctp_s: 0}}",
        "services[0].timeouts.sctp_s: 0 is out of range; write 1 to 2678400",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], protocol: sctp, check: {type: tcp}}",
        "services[0].check: a check over TCP says nothing about the SCTP port of a server; write \
         `port` with a TCP port that tells whether the server works, or take it out",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], sloppy_sctp: true}",
        "services[0].sloppy_sctp: protocol tcp has no SCTP packets; take it out",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], check: {interval_ms: 1}}",
        "services[0].check.interval_ms: 1 is out of range; write 50 to 3600000",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], persistence: {prefix_v6: 129}}",
        "services[0].persistence.prefix_v6: 129 is out of range; write 1 to 128",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], check: {rise: 0}}",
        "services[0].check.rise: 0 is out of range; write 1 to 100",
    ),
    (
        "port: 8080}]}",
        "port: 8080}], check: {fall: 101}}",
        "services[0].check.fall: 101 is out of range; write 1 to 100",
    ),
    (
        "address: 198.18.0.100, port: 80, forwarding: nat",
        "match: [{address: 198.18.0.100, port: 21}, {address: 198.18.0.101, port: 21}], ftp: {}, \
         forwarding: nat",
        "services[0].ftp: data connections would not show which of several VIPs they belong to; \
         give the service one address and one TCP port",
    ),
    (
        "port: 80, forwarding: nat,\n     servers: [{address: 198.18.1.11, port: 8080}]",
        "port: 20-21, ftp: {}, forwarding: nat,\n     servers: [{address: 198.18.1.11}]",
        "services[0].ftp: 20-21 are not one control port; write the one port that servers take \
         commands on",
    ),
    (
        "port: 81, forwarding: dr,\n     servers: [{address: 198.18.0.11, port: 81}]",
        "port: 2121, ftp: {data_ports: 3000-3100}, forwarding: nat,\n     servers: [{address: \
         198.18.1.11, port: 21}]}\n  - {name: c, group: web, address: 198.18.0.100, port: 21, ftp: \
         {data_ports: 4000-4100}, forwarding: nat,\n     servers: [{address: 198.18.1.11, port: 22}]",
        "services[2].servers[0]: 198.18.1.11 is also an FTP server of service `b`; give it another \
         address: its data connections could be of either",
    ),
    (
        "address: 198.18.0.100, port: 81, forwarding: dr,\n     servers: [{address: 198.18.0.11, \
         port: 81}]",
        "match: [{address: 198.18.0.100, port: 81, protocol: udp}, {address: 198.18.0.101, port: \
         81, protocol: udp}], one_packet: true, forwarding: nat, servers: [{address: 198.18.1.12, \
         port: 81}]",
        "services[1].one_packet: no connection would tell whether answers are from the VIP \
         198.18.0.101; make a service of its own for it, or write forwarding: dr",
    ),
    (
        "services:",
        "settings: {connections_max: 0}\nservices:",
        "settings.connections_max: 0 is out of range; write 1024 to 67108864",
    ),
    (
        "services:",
        "settings: {half_open_max: 99999999}\nservices:",
        "settings.half_open_max: 99999999 is out of range; write 1024 to 67108864",
    ),
    (
        "services:",
        "settings: {beacon: {silent_after: 1}}\nservices:",
        "settings.beacon.silent_after: 1 is out of range; write 2 to 20",
    ),
    (
        "services:",
        "settings: {copies: {snapshot_mbit_per_s: 200000}}\nservices:",
        "settings.copies.snapshot_mbit_per_s: 200000 is out of range; write 0 to 100000",
    ),
    (
        "services:",
        "settings: {copies: {lag_max_ms: 50}}\nservices:",
        "settings.copies.lag_max_ms: 50 is out of range; write 100 to 60000",
    ),
    (
        "port: 80, forwarding: nat,",
        "port: 80, forwarding: nat, sync: {persist_mode: true},",
        "services[0].sync.persist_mode: the service has no persistence: nothing of it would be \
         copied; take it out, or give the service `persistence`",
    ),
    (
        "{name: web, ",
        "{name: web, sync_group: 32, ",
        "groups[0].sync_group: 32 is no number of copies; write all, 1 to 31, or the names of up to \
         32 nodes",
    ),
    (
        "{name: web, ",
        "{name: web, sync_group: [lb1, lb2, lb1], ",
        "groups[0].sync_group: `lb1` is named twice; write all, 1 to 31, or the names of up to 32 \
         nodes",
    ),
    (
        "{name: web, ",
        "{name: web, sync_group: [], ",
        "groups[0].sync_group: names nobody; write all, 1 to 31, or the names of up to 32 nodes",
    ),
];

#[test]
fn each_mistake_is_reported_with_its_place_and_what_to_write() {
    for (from, to, expected) in CASES {
        assert!(GOOD.contains(from), "the case `{from}` does not apply");
        let found = problems(&GOOD.replacen(from, to, 1));
        assert!(found.iter().any(|p| p == expected), "{to}: {found:#?}\nnot {expected}");
    }
}

/// Both families in one group, and a service of each kind in each.
const DUAL: &str = "
apiVersion: steadfast/v1
segments:
  - {name: front, prefix: 198.18.0.0/24, prefixes: ['2001:db8::/64']}
  - {name: back, prefix: '2001:db8:0:1::/64', prefixes: [198.18.1.0/24, '2001:db8:0:2::/64']}
groups:
  - {name: web, addresses: [198.18.0.100, '2001:db8::100'],
     gateways: [198.18.1.254, '2001:db8:0:1::254']}
services:
  - {name: a, group: web, address: 198.18.0.100, port: 80, forwarding: nat,
     servers: [{address: 198.18.1.11, port: 8080}]}
  - {name: a6, group: web, address: '2001:db8::100', port: 80, forwarding: nat,
     servers: [{address: '2001:db8:0:1::11', port: 8080}]}
  - {name: b6, group: web, address: '2001:db8::100', port: 81,
     servers: [{address: '2001:db8::11', port: 81}]}
";

#[test]
fn a_group_can_have_both_families() {
    assert_eq!(problems(DUAL), Vec::<String>::new());
}

/// As [`CASES`], of [`DUAL`].
const DUAL_CASES: &[(&str, &str, &str)] = &[
    (
        "prefixes: ['2001:db8::/64']",
        "prefixes: ['2001:db8::/48']",
        "segments[1].prefix: 2001:db8:0:1::/64 overlaps 2001:db8::/48 of segment `front`; write \
         prefixes that have no address in common",
    ),
    (
        "198.18.1.0/24, '2001:db8:0:2::/64'",
        "198.18.1.0/24, '2001:db8:0:1:8000::/65'",
        "segments[1].prefixes[1]: 2001:db8:0:1:8000::/65 overlaps 2001:db8:0:1::/64 of segment \
         `back`; write prefixes that have no address in common",
    ),
    (
        "198.18.1.0/24, '2001:db8:0:2::/64'",
        "198.18.1.0/24, 'fe80::/64'",
        "segments[1].prefixes[1]: fe80::/64 is link-local: every network has it; write a prefix \
         that only this network has",
    ),
    (
        "addresses: [198.18.0.100, ",
        "addresses: [198.18.0.100, 'fe80::100', ",
        "groups[0].addresses[1]: fe80::100 is link-local: it means something else on each link; \
         write an address of one of the segments",
    ),
    (
        "addresses: [198.18.0.100, ",
        "addresses: [198.18.0.100, '::ffff:198.18.0.7', ",
        "groups[0].addresses[1]: ::ffff:198.18.0.7 is an IPv4 address in the form of an IPv6 one; \
         write 198.18.0.7",
    ),
    (
        "addresses: [198.18.0.100, ",
        "addresses: [198.18.0.100, 'ff02::1', ",
        "groups[0].addresses[1]: ff02::1 is no unicast address; write an address of one of the \
         segments",
    ),
    (
        "addresses: [198.18.0.100, ",
        "addresses: [198.18.0.100, '2001:db8::', ",
        "groups[0].addresses[1]: 2001:db8:: is the address that all routers of 2001:db8::/64 have; \
         write an address that one host can have",
    ),
    (
        "addresses: [198.18.0.100, ",
        "addresses: [198.18.0.100, '2001:db8:9::1', ",
        "groups[0].addresses[1]: 2001:db8:9::1 lies in no segment; write an address of \
         2001:db8::/64 or 2001:db8:0:1::/64 or 2001:db8:0:2::/64, or add a segment with its prefix \
         under `segments`",
    ),
    (
        "'2001:db8:0:1::254'",
        "'2001:db8:0:2::254'",
        "services[1].servers[0].address: 2001:db8:0:1::11 is in segment `back`, where group `web` \
         has no gateway address: its answers would not come back through the group's holder; add \
         an address of 2001:db8:0:1::/64 to the `gateways` of that group",
    ),
    (
        "{address: '2001:db8::11', port: 81}",
        "{address: '2001:db8:0:1::12', port: 81}",
        "services[2].servers[0].address: 2001:db8:0:1::12 is in segment `back`, the VIP \
         2001:db8::100 is not; dr needs both in one: write a server of that segment, or \
         forwarding: nat",
    ),
    (
        "{address: '2001:db8::11', port: 81}",
        "{address: 198.18.0.11, port: 81}",
        "services[2].servers[0].address: 198.18.0.11 is of another family than the VIP \
         2001:db8::100; write an IPv6 address",
    ),
];

#[test]
fn each_mistake_with_ipv6_is_reported_with_its_place_and_what_to_write() {
    for (from, to, expected) in DUAL_CASES {
        assert!(DUAL.contains(from), "the case `{from}` does not apply");
        let found = problems(&DUAL.replacen(from, to, 1));
        assert!(found.iter().any(|p| p == expected), "{to}: {found:#?}\nnot {expected}");
    }
}

#[test]
fn cookies_need_tcp_and_both_halves_of_a_connection() {
    let from = "forwarding: nat";
    for word in ["off", "auto", "always"] {
        let to = format!("forwarding: nat, syn_proxy: {word}");
        assert_eq!(problems(&GOOD.replacen(from, &to, 1)), Vec::<String>::new());
    }
    let toa = FULL_NAT.replacen("full_nat", "full_nat, client_address: toa, syn_proxy: auto", 1);
    let said = problems(&toa).join(" ");
    assert!(said.starts_with("services[0].syn_proxy: what client_address tells"), "{said}");
    let cases = [
        (
            "forwarding: nat, syn_proxy: always, sloppy_tcp: true",
            "services[0].syn_proxy: sloppy_tcp lets in clients that have no cookie; take one of \
             them out",
        ),
        (
            "forwarding: nat, protocol: udp, syn_proxy: auto",
            "services[0].syn_proxy: only TCP has SYN cookies; take it out",
        ),
        (
            "forwarding: dr, syn_proxy: auto",
            "services[0].syn_proxy: under dr the servers' half of a connection does not pass the \
             nodes, and they could not translate its sequence numbers; take it out, or write \
             forwarding: nat or full_nat",
        ),
    ];
    for (to, expected) in cases {
        let found = problems(&GOOD.replacen(from, to, 1));
        assert!(found.iter().any(|p| p == expected), "{to}: {found:#?}\nnot {expected}");
    }
}

#[test]
fn a_server_behind_a_tunnel_may_be_anywhere_and_of_either_family() {
    for server in ["203.0.113.1", "'2001:db8::1'", "198.18.1.77"] {
        let to = format!("forwarding: tun, servers: [{{address: {server}, port: 81}}]");
        let from = "forwarding: dr,\n     servers: [{address: 198.18.0.11, port: 81}]";
        assert_eq!(problems(&GOOD.replacen(from, &to, 1)), Vec::<String>::new(), "{server}");
    }
    let auto = GOOD.replacen("forwarding: nat", "forwarding: nat, mss_clamp: auto", 1);
    assert_eq!(problems(&auto), Vec::<String>::new());
}

/// Both families by full-NAT; the servers are anywhere.
const FULL_NAT: &str = "
apiVersion: steadfast/v1
segments: [{name: front, prefix: 198.18.0.0/24, prefixes: ['2001:db8::/64']}]
groups: [{name: web, addresses: [198.18.0.100, '2001:db8::100'],
          local_addresses: [198.18.0.200, '2001:db8::200']}]
services:
  - {name: a, group: web, address: 198.18.0.100, port: 80, forwarding: full_nat, mss_clamp: auto,
     servers: [{address: 203.0.113.1, port: 8080}]}
  - {name: b, group: web, address: '2001:db8::100', port: 80, forwarding: fnat,
     servers: [{address: '2001:db8:7::1', port: 8080}]}
";

#[test]
fn full_nat_needs_a_local_address_of_its_family() {
    assert_eq!(problems(FULL_NAT), Vec::<String>::new());
    let cases = [
        (
            "[198.18.0.200, ",
            "[",
            "services[0].forwarding: group `web` has no local address of IPv4 for full_nat to send \
             from; add an IPv4 address to the `local_addresses` of that group",
        ),
        (
            ", '2001:db8::200'",
            "",
            "services[1].forwarding: group `web` has no local address of IPv6 for full_nat to send \
             from; add an IPv6 address to the `local_addresses` of that group",
        ),
        (
            "[198.18.0.200, ",
            "[198.18.0.100, ",
            "groups[0].local_addresses[0]: 198.18.0.100 is in this group twice; take one of them out",
        ),
        (
            "[198.18.0.200, ",
            "[198.51.100.1, 198.18.0.200, ",
            "groups[0].local_addresses[0]: 198.51.100.1 lies in no segment; write an address of \
             198.18.0.0/24, or add a segment with its prefix under `segments`",
        ),
        (
            "203.0.113.1",
            "198.18.0.200",
            "services[0].servers[0].address: 198.18.0.200 is an address of group `web`; write the \
             server's own address",
        ),
        (
            "203.0.113.1",
            "'2001:db8:7::1'",
            "services[0].servers[0].address: 2001:db8:7::1 is of another family than the VIP \
             198.18.0.100; write an IPv4 address",
        ),
        (
            "203.0.113.1",
            "224.0.0.1",
            "services[0].servers[0].address: 224.0.0.1 cannot be reached through routers; write the \
             server's own unicast address",
        ),
    ];
    for (from, to, expected) in cases {
        let found = problems(&FULL_NAT.replacen(from, to, 1));
        assert!(found.iter().any(|p| p == expected), "{to}: {found:#?}\nnot {expected}");
    }
}

/// Whoever shows them splits a problem at the first `: ` and finds the path in the document.
#[test]
fn places_are_paths_of_keys_and_numbers() {
    for (from, to, _) in CASES {
        for problem in validate(&Document::parse(&GOOD.replacen(from, to, 1)).unwrap()) {
            let fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._[]".contains(c);
            assert!(problem.place.chars().all(fit), "`{}` is no path", problem.place);
            assert!(!problem.fix.is_empty(), "{problem} does not say what to write");
        }
    }
}

/// Every pair of these is a problem: without a bound there would be millions.
#[test]
fn problems_are_bounded() {
    let segments: Vec<String> =
        (0..2_000).map(|i| format!("{{name: s{i}, prefix: 198.18.0.0/24}}")).collect();
    let text = format!("apiVersion: steadfast/v1\nsegments: [{}]\n", segments.join(", "));
    let found = problems(&text);
    assert_eq!(found.len(), PROBLEMS_MAX);
    assert_eq!(found[PROBLEMS_MAX - 1], "1998001 more are not listed; correct these and try again");
}

#[test]
fn a_strict_group_claims_nothing_alone() {
    let group = |keys: &str| {
        GOOD.replacen("groups: [{name: web,", &format!("groups: [{{name: web, {keys},"), 1)
    };
    for good in ["policy: strict", "policy: strict, alone: never", "alone: claim", "alone: never"] {
        assert_eq!(problems(&group(good)), [""; 0], "{good}");
    }
    let problem = "groups[0].alone: claim may have two nodes announce the group, and its policy is \
                   strict; write alone: never, or policy: available";
    assert_eq!(problems(&group("policy: strict, alone: claim")), [problem]);
    let alone = |keys: &str| Document::parse(&group(keys)).unwrap().groups[0].alone();
    assert_eq!(alone("policy: strict"), Alone::Never);
    assert_eq!(alone("policy: available"), Alone::Claim);
    assert_eq!(alone("alone: never"), Alone::Never);
}
