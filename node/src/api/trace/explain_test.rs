use std::fmt::Write as _;

use steadfast_dataplane::{
    NextHopsSpec, NoHook, Origin, PortSpec, Protocol, Route, TableOptions, Worker,
};
use steadfast_model::{Command, Initialise, NodeSpec, Response};

use super::*;
use crate::plane::compile::config_spec;

const NOW: u64 = 5_000_000_000_000;

fn state() -> ClusterState {
    let at = |port: u16| SocketAddr::from(([198, 18, 2, 1], port));
    let node = NodeSpec { name: "n1".to_owned(), api: at(1), control: at(2), replication: at(3) };
    let mut state = ClusterState::default();
    let initialise = Initialise {
        name: "test".to_owned(),
        cluster: 7,
        ca_cert_pem: String::new(),
        ca_key_pem: String::new(),
        beacon_key: vec![1; 32],
        node,
    };
    state.apply(1, Command::Initialise(Box::new(initialise)));
    let text = "apiVersion: steadfast/v1
segments: [{name: front, prefix: 198.18.0.0/24}, {name: back, prefix: 198.18.1.0/24}]
groups: [{name: web, addresses: [198.18.0.100], gateways: [198.18.1.254],
          local_addresses: [198.18.0.200]}]
services:
  - {name: turns, group: web, address: 198.18.0.100, port: 80, scheduler: rr,
     servers: [{address: 198.18.0.21, port: 80}, {address: 198.18.0.22, port: 80}]}
  - {name: hashed, group: web, address: 198.18.0.100, port: 8080, forwarding: nat,
     servers: [{address: 198.18.1.21, port: 80}, {address: 198.18.1.22, port: 80}]}
  - {name: told, group: web, address: 198.18.0.100, port: 70, forwarding: full_nat,
     client_address: toa, scheduler: fo, servers: [{address: 198.18.1.21, port: 70}]}
  - {name: headed, group: web, address: 198.18.0.100, port: 71, forwarding: full_nat,
     client_address: proxy_v2, scheduler: fo, servers: [{address: 198.18.1.21, port: 71}]}
  - {name: tunnel, group: web, address: 198.18.0.100, port: 90, forwarding: tun, scheduler: fo,
     servers: [{address: 198.18.1.21, port: 90, weight: 2}, {address: 198.18.1.22, port: 90}]}
";
    let source = "test".to_owned();
    let apply =
        Command::Apply { text: text.to_owned(), expected_revision: None, source, now_unix_s: 0 };
    let response = state.apply(2, apply);
    assert!(matches!(response, Response::Applied { .. }), "{response:?}");
    state
}

/// A node of that cluster; its servers are up but for those listed.
fn shared(state: &ClusterState, down: &[&str]) -> Shared {
    let shared =
        Shared::new(TableOptions { connections_max: 100, half_open_max: 100, seed: [1, 2] });
    let up = |service: &steadfast_model::Service, index: usize| {
        !down.contains(&service.spec.servers[index].address.to_string().as_str())
    };
    shared.set_config(Config::compile(config_spec(state, NodeId(1), &up, 1, 1, 0), None).unwrap());
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let link = |prefix, port| Route {
        prefix: ip(prefix),
        prefix_len: 24,
        port: Some(port),
        gateway: None,
        src: None,
        mtu: None,
    };
    let port = |mac: u8, addr| PortSpec {
        mac: [2, 0, 0, 0, mac, 0],
        addrs: vec![ip(addr)],
        ..PortSpec::default()
    };
    shared.set_next_hops(NextHops::new(NextHopsSpec {
        generation: 1,
        ports: vec![port(1, "198.18.0.1"), port(2, "198.18.1.1")],
        routes: vec![link("198.18.0.0", 0), link("198.18.1.0", 1)],
        neighbours: vec![
            (0, ip("198.18.0.9"), [2, 0, 0, 0, 9, 9]),
            (0, ip("198.18.0.21"), [2, 0, 0, 0, 1, 21]),
            (1, ip("198.18.1.21"), [2, 0, 0, 0, 2, 21]),
            (1, ip("198.18.1.22"), [2, 0, 0, 0, 2, 22]),
        ],
    }));
    hold(&shared);
    shared
}

fn hold(shared: &Shared) {
    let epoch = Origin { generation: 1, grant_index: 2, claim: 0, node: 1 };
    shared.groups.group(dp::GroupId(1)).set_role(dp::Role::Holder {
        epoch,
        since_ns: 0,
        copy_complete: true,
    });
}

fn told(shared: &Shared, state: &ClusterState, flow: (&str, &str), step: Option<Step>) -> String {
    let asked = Asked {
        protocol: Protocol::Tcp,
        src: flow.0.parse().unwrap(),
        dst: flow.1.parse().unwrap(),
        step,
    };
    let node = explain(&Facts {
        asked,
        now_ns: NOW,
        shared,
        state,
        node: NodeId(1),
        holder: &|_| Some((NodeId(1), Epoch { generation: 1, ..Epoch::default() })),
        interface: &|port| format!("eth{port}"),
    });
    let node = node.unwrap();
    let mut text = format!("{:?} {}", node.fate(), node.drop_reason);
    writeln!(text, "[{}] [{}] [{}]", node.group, node.service, node.server).unwrap();
    for line in node.lines {
        writeln!(text, "{}: {}", line.what, line.text).unwrap();
    }
    text
}

#[test]
fn the_way_of_a_packet_is_told() {
    let state = state();
    let shared = shared(&state, &["198.18.1.22"]);
    let client = "198.18.0.9:4711";
    let cases = [
        ("dr, in turn", (client, "198.18.0.100:80"), None),
        ("nat, hashed", (client, "198.18.0.100:8080"), None),
        ("nat, hashed to one that is down", ("198.18.0.9:4716", "198.18.0.100:8080"), None),
        ("tunnel", (client, "198.18.0.100:90"), None),
        ("full-NAT, which tells", (client, "198.18.0.100:70"), None),
        ("full-NAT, with a header", (client, "198.18.0.100:71"), None),
        ("in the middle of nothing", (client, "198.18.0.100:80"), Some(Step::Data)),
        ("a reset of nothing", (client, "198.18.0.100:80"), Some(Step::Reset)),
        ("no service", (client, "198.18.0.100:81"), None),
        ("not ours", (client, "198.18.0.5:81"), None),
        ("a server that nobody asked", ("198.18.1.21:80", client), Some(Step::Data)),
        ("a client without a route", ("203.0.113.9:1", "198.18.0.100:8080"), None),
    ];
    let text: String = cases
        .into_iter()
        .map(|(name, flow, step)| format!("--- {name}\n{}", told(&shared, &state, flow, step)))
        .collect();
    insta::assert_snapshot!(text);
}

#[test]
fn a_known_connection_is_told_with_its_state_and_server() {
    let state = state();
    let shared = std::sync::Arc::new(shared(&state, &[]));
    let mut worker = Worker::new(0, std::sync::Arc::clone(&shared), NoHook);
    let (client, vip) = ("198.18.0.9:4711", "198.18.0.100:8080");
    let open = Question {
        protocol: Protocol::Tcp,
        src: client.parse().unwrap(),
        dst: vip.parse().unwrap(),
        step: Step::Open,
    };
    let mut frame = open.frame([2, 0, 0, 0, 9, 9], [2, 0, 0, 0, 1, 0]).unwrap();
    let len = frame.len();
    frame.resize(200, 0);
    let mut actions = dp::Actions::new();
    let verdict = worker.handle_frame(NOW - 7_000_000_000, 0, &mut frame, (0, len), &mut actions);
    assert!(matches!(verdict, Verdict::Transmit { .. }));
    let next = told(&shared, &state, (client, vip), None);
    assert!(next.contains("connection: SYN_RECV, then ESTABLISHED, made here, to "), "{next}");
    assert!(next.contains("service: "), "{next}");
    assert!(next.contains("idle 7 of 60 s") && next.starts_with("Forwarded"), "{next}");
    let server = shared.table.walk(dp::Cursor::default(), 9).0[0].target().unwrap();
    let server = SocketAddr::new(server.addr, server.port).to_string();
    let back = told(&shared, &state, (&server, client), None);
    assert!(
        back.starts_with("Returned") && back.contains(&format!("sends: {vip} > {client}")),
        "{back}"
    );
    // Its server goes down: the connection stays, and that is said.
    let down = server.split(':').next().unwrap();
    let up = |service: &steadfast_model::Service, index: usize| {
        service.spec.servers[index].address.to_string() != down
    };
    let previous = shared.config.load_full();
    let spec = config_spec(&state, NodeId(1), &up, 1, 2, NOW);
    shared.set_config(Config::compile(spec, Some(&previous)).unwrap());
    let next = told(&shared, &state, (client, vip), None);
    assert!(next.contains("is down: known connections stay with it"), "{next}");
}

#[test]
fn without_an_interface_nothing_can_be_told() {
    let state = state();
    let shared = Shared::new(TableOptions { connections_max: 10, half_open_max: 10, seed: [1, 2] });
    let asked = Asked {
        protocol: Protocol::Tcp,
        src: "198.18.0.9:1".parse().unwrap(),
        dst: "198.18.0.100:80".parse().unwrap(),
        step: None,
    };
    let error = explain(&Facts {
        asked,
        now_ns: NOW,
        shared: &shared,
        state: &state,
        node: NodeId(1),
        holder: &|_| None,
        interface: &|_| String::new(),
    });
    assert!(error.unwrap_err().contains("no data interface"));
}

/// Its numbers are part of where a packet goes.
#[test]
fn shifted_numbers_are_told() {
    let state = state();
    let shared = shared(&state, &["198.18.1.22"]);
    let flow = ("198.18.0.9:4711", "198.18.0.100:8080");
    let frame = Question {
        protocol: Protocol::Tcp,
        src: flow.0.parse().unwrap(),
        dst: flow.1.parse().unwrap(),
        step: Step::Open,
    };
    let frame = frame.frame([2, 0, 0, 0, 9, 9], [2, 0, 0, 0, 1, 0]).unwrap();
    let shared = std::sync::Arc::new(shared);
    let mut worker = Worker::new(0, std::sync::Arc::clone(&shared), NoHook);
    let mut buffer = frame.clone();
    buffer.resize(2048, 0);
    let span = (0, frame.len());
    let _ = worker.handle_frame(NOW, 0, &mut buffer, span, &mut dp::Actions::new());
    let (found, _) = shared.table.walk(dp::Cursor::default(), 10);
    let text = told(&shared, &state, flow, None);
    assert!(!text.contains("shifts:"), "{text}");
    let deltas =
        dp::Deltas { to_client: 5, timestamps: 7, windows_to_server: -2, ..Default::default() };
    shared.table.set_deltas(&found[0], &deltas);
    let text = told(&shared, &state, flow, None);
    let line = "shifts: sequence numbers by 5 to the client and 0 to the server, timestamps of the \
                server by 7, windows by 2^0 to the client and 2^-2 to the server";
    assert!(text.contains(line), "{text}");
    let address = dp::Grown { at: 990, len: 10, by: 2 };
    let longer = Some(dp::LongerReply { address, is_heard: true });
    shared.table.set_deltas(&found[0], &dp::Deltas { longer, ..deltas });
    let text = told(&shared, &state, flow, None);
    let line = "to the server, 2 of those to the client since its server's number 1000";
    assert!(text.contains(line), "{text}");
}

#[test]
fn a_cookie_is_told() {
    let state = state();
    let shared = shared(&state, &[]);
    let mut spec = config_spec(&state, NodeId(1), &|_, _| true, 1, 2, 0);
    let hashed = spec.services.iter_mut().find(|service| service.listen[0].ports.contains(8080));
    hashed.unwrap().syn_proxy = dp::SynProxy::Always;
    shared.set_config(Config::compile(spec, Some(&shared.config.load())).unwrap());
    let keys = dp::CookieKeys { present: dp::CookieKey { slot: 1, key: [5, 7] }, previous: None };
    shared.cookie_keys.store(Some(std::sync::Arc::new(keys)));
    let flow = ("198.18.0.9:4711", "198.18.0.100:8080");
    let text = told(&shared, &state, flow, Some(Step::Open));
    for part in [
        "cookie: syn_proxy is always: nothing is stored",
        "answers: SYN-ACK 198.18.0.100:8080 > 198.18.0.9:4711",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("opens:"), "{text}");
}
