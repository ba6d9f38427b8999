//! What our data plane is told about a scenario's service, and its neighbours.

use steadfast_dataplane::{HashOptions, NextHopsSpec, PortSpec, Route, SchedulerKind};
use steadfast_guest::ipvs::{Scenario, server_addr};

pub(super) const FRONT: [u8; 6] = [2, 0, 0, 0, 1, 0];
pub(super) const BACK: [u8; 6] = [2, 0, 0, 0, 2, 0];
pub(super) const CLIENT: [u8; 6] = [2, 0, 0, 0, 1, 2];

pub(super) fn scheduler(scenario: &Scenario) -> SchedulerKind {
    let name = scenario.scheduler.as_str();
    let has = |flag: &str| scenario.flags.iter().any(|f| *f == format!("{name}-{flag}"));
    let options = HashOptions { port: has("port"), fallback: has("fallback") };
    match name {
        "rr" => SchedulerKind::Rr,
        "wrr" => SchedulerKind::Wrr,
        "lc" => SchedulerKind::Lc,
        "wlc" => SchedulerKind::Wlc,
        "sed" => SchedulerKind::Sed,
        "nq" => SchedulerKind::Nq,
        "fo" => SchedulerKind::Fo,
        "ovf" => SchedulerKind::Ovf,
        "lblc" => SchedulerKind::Lblc,
        "lblcr" => SchedulerKind::Lblcr,
        "dh" => SchedulerKind::Dh,
        "sh" => SchedulerKind::Sh(options),
        "mh" => SchedulerKind::Mh(options),
        other => panic!("no scheduler {other}"),
    }
}

pub(super) fn server_mac(number: u8) -> [u8; 6] {
    // The first octets tell nothing; `Ours::handle` reads the last.
    [2, 0, 0, 0, 3, number]
}

pub(super) fn next_hops() -> NextHopsSpec {
    let route = |prefix: &str, prefix_len, port, gateway: Option<&str>| Route {
        prefix: prefix.parse().unwrap(),
        prefix_len,
        port,
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        src: None,
        mtu: None,
    };
    let gateways = ["198.18.0.2", "2001:db8:12::2"];
    let clients = gateways.map(|gateway| (0, gateway.parse().unwrap(), CLIENT));
    let of = |v6| (1..=u8::MAX).map(move |n| (1, server_addr(v6, n), server_mac(n)));
    let front = ["198.18.0.1", "2001:db8:12::1"].map(|addr| addr.parse().unwrap()).to_vec();
    // Where tunnels begin.
    let back = ["198.18.1.254", "2001:db8:13::fe"].map(|addr| addr.parse().unwrap()).to_vec();
    NextHopsSpec {
        generation: 1,
        ports: vec![
            PortSpec { mac: FRONT, addrs: front, ..PortSpec::default() },
            PortSpec { mac: BACK, addrs: back, ..PortSpec::default() },
        ],
        routes: vec![
            route("198.18.0.0", 24, Some(0), None),
            route("198.18.1.0", 24, Some(1), None),
            route("10.0.0.0", 8, Some(0), Some(gateways[0])),
            route("2001:db8:12::", 64, Some(0), None),
            route("2001:db8:13::", 64, Some(1), None),
            route("2001:db8:c::", 48, Some(0), Some(gateways[1])),
        ],
        neighbours: of(false).chain(of(true)).chain(clients).collect(),
    }
}
