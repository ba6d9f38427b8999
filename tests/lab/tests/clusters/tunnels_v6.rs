//! Tunnels that IPv6 carries, and IPv6 that IPv4 carries, with the path MTU that clients learn. Where
//! `type: ipip` goes over IPv6, the real servers' kernels end it: segment routing (RFC 8986 sections
//! 4.6 and 4.7) takes out packets without a routing header too. One cluster, one phase after the
//! other. Needs root; fails without.

use crate::{
    common::{Lab, phase, until},
    tunnels::{
        PATIENCE, datagrams_leave_in_pieces, echo_datagram, echo_lines, route_to_vip, too_big,
    },
};
use steadfast_lab::host::{
    exec,
    family::Family,
    names::{Host, Mode, NODES, SERVERS},
};

/// The tunnel of the TCP services in the example.
const EXAMPLE: &str = "{type: gue, port: 6080}";

/// What tunnels carry: the number of the protocol, and of the servers' table with the route for it.
const IPV4: u8 = 4;
const IPV6: u8 = 41;

/// What goes on from a router on the way to the servers.
const TOLD: u32 = 1400;

/// Packets in which the clients of a phase send their lines at least.
const LEAST: u64 = 3 * 60 * 1000 / 1460;

#[tokio::test]
async fn tunnels_over_ipv6_and_of_mixed_families_reach_the_servers() {
    let mut lab = Lab::start_with("e2etun6", Mode::Tun, Family::V6).await;
    SERVERS.into_iter().for_each(|n| end_in_the_kernel(&lab, n));
    // 1500 octets less IPv6, UDP and GUE.
    full_segments_learn(&lab, Family::V6, "GUE over IPv6", 1448);

    lab.apply(&[(EXAMPLE, "{type: gre, checksum: true}")]).await;
    // Less IPv6, and GRE with its checksum.
    full_segments_learn(&lab, Family::V6, "GRE over IPv6", 1452);

    lab.apply(&[(EXAMPLE, "{type: ipip}")]).await;
    full_segments_learn(&lab, Family::V6, "IPv6 in IPv6", 1460);
    errors_of_a_router_reach_the_client(&lab);
    phase("a datagram in parts, which the server's kernel puts together");
    let answer = echo_datagram(&lab, Family::V6, 4000);
    assert!(answer.contains(&"y".repeat(4000)), "{} came back", answer.len());
    let count = taken_out(&lab, IPV6);
    assert!(count > 2 * LEAST, "{count} packets");

    // Each VIP's servers by their address of the other family.
    let swap = [
        (EXAMPLE, "{type: ipip}"),
        ("{address: 198.18.0.1", "{address: of the other 1"),
        ("{address: \"2001:db8:18::11\"", "{address: 198.18.0.11"),
        ("{address: \"2001:db8:18::12\"", "{address: 198.18.0.12"),
        ("{address: \"2001:db8:18::13\"", "{address: 198.18.0.13"),
        ("{address: of the other 11", "{address: \"2001:db8:18::11\""),
        ("{address: of the other 12", "{address: \"2001:db8:18::12\""),
        ("{address: of the other 13", "{address: \"2001:db8:18::13\""),
    ];
    lab.apply(&swap).await;
    // What the router said of the way to the servers holds for IPv4 inside too.
    full_segments_learn(&lab, Family::V4, "IPv4 in IPv6", TOLD - 40);
    datagrams_leave_in_pieces(&lab);
    let count = taken_out(&lab, IPV4);
    assert!(count > LEAST, "{count} packets");
    full_segments_learn(&lab, Family::V6, "IPv6 in IPv4", 1480);
    let answer = echo_datagram(&lab, Family::V6, 4000);
    assert!(answer.contains(&"y".repeat(4000)), "{} came back", answer.len());
    for n in SERVERS {
        let log = lab.log(Host::Server(n));
        assert!(!log.contains("refused"), "s{n} was sent what it does not understand: {log}");
    }
    phase("done");
}

/// Has the kernel of a real server take packets out of IPv6 before the server's program sees them.
fn end_in_the_kernel(lab: &Lab, n: u8) {
    let end = Family::V6.server(Mode::Tun, n);
    let to_end = format!("ip -6 route add {end}/128 encap seg6local action");
    // What is in the packets is for an address of the server itself. Rules of its own come before
    // the addresses of the host, or the packet would be the host's before a route is asked.
    let script = format!(
        "set -e
        {to_end} End.DT6 table local count dev front table {IPV6}
        {to_end} End.DX4 nh4 0.0.0.0 count dev front table {IPV4}
        ip -6 rule add pref 5 ipproto {IPV6} lookup {IPV6}
        ip -6 rule add pref 6 ipproto {IPV4} lookup {IPV4}
        ip -6 rule add pref 10 lookup local
        ip -6 rule del pref 0"
    );
    exec::shell_in(&lab.namespace(Host::Server(n)), &script).unwrap();
}

/// Packets of this protocol that the servers' kernels took out of tunnels; none was wrong.
fn taken_out(lab: &Lab, protocol: u8) -> u64 {
    let of = |n: u8| -> u64 {
        let show = format!("ip -6 -s route show table {protocol}");
        let text = exec::shell_in(&lab.namespace(Host::Server(n)), &show).unwrap();
        let after = |key: &str| text.split_whitespace().skip_while(|word| *word != key).nth(1);
        assert_eq!(after("errors"), Some("0"), "s{n}: {text}");
        after("packets").unwrap().parse().unwrap()
    };
    SERVERS.into_iter().map(of).sum()
}

fn full_segments_learn(lab: &Lab, family: Family, tunnel: &str, mtu: u32) {
    phase(&format!("{tunnel}: full segments do not fit, the client learns {mtu} from the VIP"));
    forget_ways(lab);
    let before = too_big(lab);
    // A server each, one after the other.
    for _ in SERVERS {
        let answers = echo_lines(lab, family, 1000, 60);
        assert_eq!(answers.len(), 60, "all of it came back");
        assert!(answers.iter().all(|answer| answer.contains(&"x".repeat(1000))));
    }
    let route = route_to_vip(lab, family);
    assert!(route.contains(&format!("mtu {mtu}")), "{route}");
    assert!(too_big(lab) > before, "and the nodes count it");
}

/// The client knows no path MTU any more.
fn forget_ways(lab: &Lab) {
    let flush = "ip -4 route flush cache; ip -6 route flush cache";
    exec::shell_in(&lab.namespace(Host::Client), flush).unwrap();
}

/// The client's kernel is also a router on the nodes' way to the servers, with less room beyond it.
fn errors_of_a_router_reach_the_client(lab: &Lab) {
    phase(&format!("a router tells the nodes that {TOLD} octets go on from it"));
    let router = Family::V6.client();
    let servers = SERVERS.map(|n| Family::V6.server(Mode::Tun, n));
    let routes = |rest: &str| -> String {
        servers.iter().map(|server| format!("ip -6 route add {server}/128 {rest}\n")).collect()
    };
    let forwards = "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding\n";
    let beyond = format!("set -e\n{forwards}{}", routes(&format!("dev front mtu lock {TOLD}")));
    exec::shell_in(&lab.namespace(Host::Client), &beyond).unwrap();
    // It sees that there is a shorter way, and says so.
    let faithful = "for f in all front; do \
                    echo 0 > /proc/sys/net/ipv6/conf/$f/accept_redirects; done\n";
    let by_router = format!("set -e\n{faithful}{}", routes(&format!("via {router}")));
    for n in NODES {
        exec::shell_in(&lab.namespace(Host::Node(n)), &by_router).unwrap();
    }
    let (holder, _) = lab.holder().unwrap();
    until("the ways to all servers are known", PATIENCE, || {
        // Or it sends nothing more that is too big for them.
        forget_ways(lab);
        assert_eq!(echo_lines(lab, Family::V6, 1000, 60).len(), 60, "all of it comes back");
        let known = lab.status_json(holder)["local"]["tunnel_mtus"].clone();
        let all = servers.iter().all(|server| known[server.to_string()] == TOLD);
        if all { Ok(()) } else { Err(known.to_string()) }
    });
    full_segments_learn(lab, Family::V6, "IPv6 in IPv6", TOLD - 40);
}
