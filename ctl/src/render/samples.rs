//! Replies of three clusters, as a node of each would send them.

use std::collections::BTreeMap;

use steadfast_proto::v1::{
    AttachMode, BindMode, CheckState, CopyState, Epoch, Forwarding, Group, GroupCopy, Interface,
    Listener, LocalStatus, Node, NodeAddresses, NodePath, NodeRef, NodeRole, Protocol, Rates,
    ReplicationPeer, Server, ServerCheck, ServerOrder, Service, Severity, StatusReply, Warning,
    Worker,
};

pub(super) fn node_ref(id: u32) -> NodeRef {
    NodeRef { id, name: format!("n{id}") }
}

fn node(id: u32, heard_ms: Option<u64>) -> Node {
    let path = |name: &str| NodePath {
        name: name.to_owned(),
        last_heard_ms: heard_ms,
        alive: heard_ms.is_some_and(|ms| ms < 100),
    };
    Node {
        id,
        name: format!("n{id}"),
        addresses: Some(NodeAddresses {
            api: format!("198.18.255.{id}:7440"),
            control: format!("198.18.255.{id}:7441"),
            replication: format!("198.18.255.{id}:7442"),
        }),
        role: NodeRole::Voter.into(),
        cordoned: false,
        alive: heard_ms.is_some_and(|ms| ms < 100),
        paths: vec![path("control"), path("front")],
        boot_id: format!("{:016x}", 0xb007_0000_u64 + u64::from(id)),
        version: "0.1.0".to_owned(),
        is_leader: id == 2,
        local_port_first: 1_024 + (id - 1) * 1_008,
        local_port_last: 1_023 + id * 1_008,
        held_down: false,
        held_down_left_ms: None,
        failures: 0,
    }
}

/// The answering node hears itself on no path and is alive.
fn this_node(id: u32) -> Node {
    Node { paths: Vec::new(), alive: true, ..node(id, None) }
}

fn copy(id: u32, state: CopyState) -> GroupCopy {
    GroupCopy { node: Some(node_ref(id)), state: state.into(), lag_ms: Some(0), unacked: Some(0) }
}

fn server(id: u32, up: bool) -> Server {
    let check = |node| ServerCheck {
        node: Some(node_ref(node)),
        state: if up { CheckState::Up } else { CheckState::Down }.into(),
        age_ms: Some(300),
        detail: if up { String::new() } else { "connection refused".to_owned() },
    };
    Server {
        id,
        address: format!("198.18.0.{}", 10 + id),
        port: 80,
        weight: 1,
        up,
        active_conns: 98 + u64::from(id),
        inactive_conns: 2,
        conns_total: 1_200,
        in_packets: 123_456,
        in_bytes: 7_400_000,
        out_packets: 0,
        out_bytes: 0,
        checks: vec![check(1), check(2), check(3)],
        drain: false,
        upper: None,
        lower: None,
        overloaded: false,
        rates: Some(Rates { conns: 40, in_packets: 4_115, in_bytes: 246_900, ..Rates::default() }),
    }
}

fn local() -> LocalStatus {
    LocalStatus {
        interfaces: vec![Interface {
            name: "front".to_owned(),
            segment: "198.18.0.0/24".to_owned(),
            ifindex: 4,
            attach_mode: AttachMode::Native.into(),
            bind_mode: BindMode::Copy.into(),
            bind_reason: "the driver has no zero-copy".to_owned(),
            queues: 1,
            sockets: 1,
            up: true,
            vlan: 0,
            trunk: String::new(),
        }],
        workers: vec![Worker {
            queue: 0,
            rx_packets: 371_000,
            tx_packets: 370_368,
            forwarded_in: 370_368,
            forwarded_out: 0,
            drops: BTreeMap::from([
                ("header_checksum".to_owned(), 3),
                ("no_holder".to_owned(), 41),
            ]),
            relayed: 12,
            held_back: 5,
            too_big: 0,
            unfit_replies: 0,
            longer_replies: 0,
            client_told: 0,
            client_untold: 0,
            fragmented: 0,
            expired: 0,
            fragments_early: 0,
            fragments_released: 0,
            loop_gap_max_us: 10_420,
        }],
        connections: 303,
        connections_max: 262_144,
        half_open: 12,
        half_open_max: 65_536,
        tunnel_errors: BTreeMap::new(),
        tunnel_mtus: BTreeMap::new(),
        forwarded_packets: 370_368,
        unknown_connections: BTreeMap::from([
            ("asked_for".to_owned(), 12),
            ("found_at_peers".to_owned(), 9),
            ("known_to_nobody".to_owned(), 3),
        ]),
        beacons: BTreeMap::from([
            ("received".to_owned(), 9_100),
            ("rejected_forged".to_owned(), 7),
            ("sent".to_owned(), 4_550),
        ]),
        replication: vec![ReplicationPeer {
            node: Some(node_ref(2)),
            connected: true,
            lag_ms: 0,
            unacked: 0,
            counters: BTreeMap::from([("batches_sent".to_owned(), 812)]),
        }],
        ownership_loop_gap_max_us: 11_900,
        uptime_ms: 192_000,
    }
}

/// Three nodes, n1 holds and answers, n2 leads.
pub(crate) fn healthy() -> StatusReply {
    let epoch =
        Epoch { generation: 1, grant_index: 12, claim: 0, node: 1, text: "1.12.0@1".to_owned() };
    StatusReply {
        cluster_name: "web-fra".to_owned(),
        cluster_id: "5f0c2a9d1e4b7788".to_owned(),
        generation: 1,
        serving_node: Some(node_ref(1)),
        serving_boot_id: format!("{:016x}", 0xb007_0001_u64),
        version: "0.1.0".to_owned(),
        leader: Some(node_ref(2)),
        has_quorum: true,
        quorum_ack_age_ms: None,
        applied_index: 14,
        config_revision: 3,
        nodes: vec![this_node(1), node(2, Some(12)), node(3, Some(9))],
        groups: vec![Group {
            id: 1,
            name: "web".to_owned(),
            addresses: vec!["198.18.0.100".to_owned()],
            segments: vec!["198.18.0.0/24".to_owned()],
            holder: Some(node_ref(1)),
            epoch: Some(epoch),
            announcing_here: true,
            since_ms: Some(192_000),
            candidates: vec![node_ref(1), node_ref(2), node_ref(3)],
            copies: vec![
                copy(1, CopyState::Holder),
                copy(2, CopyState::Complete),
                copy(3, CopyState::Complete),
            ],
            sync_group: "all".to_owned(),
        }],
        services: vec![Service {
            id: 1,
            name: "http".to_owned(),
            group: "web".to_owned(),
            group_id: 1,
            vip: "198.18.0.100".to_owned(),
            port: 80,
            protocol: Protocol::Tcp.into(),
            scheduler: "rr".to_owned(),
            forwarding: Forwarding::Dr.into(),
            tunnel: String::new(),
            client_address: "none".to_owned(),
            mss_clamp: "off".to_owned(),
            syn_proxy: "off".to_owned(),
            cookies: None,
            limits: None,
            server_order: ServerOrder::Canonical.into(),
            conns_total: 3_700,
            in_packets: 371_000,
            in_bytes: 22_260_000,
            out_packets: 0,
            out_bytes: 0,
            rates: Some(Rates {
                conns: 120,
                in_packets: 12_345,
                in_bytes: 740_700,
                ..Rates::default()
            }),
            servers: vec![server(1, true), server(2, true), server(3, true)],
            listeners: vec![Listener {
                protocol: Protocol::Tcp.into(),
                address: "198.18.0.100".to_owned(),
                first_port: 80,
                last_port: 80,
            }],
            persistence: String::new(),
            quic_lb: Vec::new(),
            set_otherwise: vec![
                "check: {fall: 3, interval_ms: 500, rise: 1, timeout_ms: 1000, type: tcp}"
                    .to_owned(),
                "slow_start_s: 30".to_owned(),
            ],
            one_packet: false,
            ftp_data_ports: String::new(),
        }],
        local: Some(local()),
        warnings: Vec::new(),
        voters_heard: 3,
        voters: 3,
        majority_heard: true,
        removed: false,
    }
}

fn bad(what: &str, fix: &str) -> Warning {
    Warning { severity: Severity::Bad.into(), what: what.to_owned(), fix: fix.to_owned() }
}

fn warn(what: &str, fix: &str) -> Warning {
    Warning { severity: Severity::Warn.into(), ..bad(what, fix) }
}

/// n1 holds and is alone: n2 (leader) and n3 are gone, and so is one real server.
pub(crate) fn no_quorum() -> StatusReply {
    let mut reply = healthy();
    reply.leader = None;
    reply.has_quorum = false;
    reply.nodes = vec![this_node(1), node(2, Some(5_290)), node(3, None)];
    reply.nodes[1].is_leader = false;
    reply.groups[0].copies[2].state = CopyState::Unspecified.into();
    reply.services[0].servers[1] = server(2, false);
    reply.services[0].servers[1].checks.truncate(1);
    (reply.voters_heard, reply.majority_heard) = (1, false);
    let down = "is its clusterd running, and its network up?";
    reply.warnings = vec![
        bad("NO QUORUM: 1 of 3 voters heard, no leader", "bring back enough of n2 and n3"),
        bad("node n2: DOWN, last heard 5.2 s ago on any path", down),
        bad("node n3: DOWN, never heard on any path", down),
        warn("node n1: went mute 3 times", ""),
    ];
    reply
}

/// As n2 sees it: n1 led and died a moment ago; n2 and n3 elect another leader.
pub(crate) fn electing() -> StatusReply {
    let mut reply = healthy();
    reply.serving_node = Some(node_ref(2));
    (reply.leader, reply.has_quorum, reply.voters_heard) = (None, false, 2);
    reply.nodes = vec![node(1, Some(240)), this_node(2), node(3, Some(9))];
    reply.nodes[1].is_leader = false;
    reply.warnings = vec![
        bad("node n1: DOWN, last heard 240 ms ago on any path", "is its clusterd running?"),
        warn("no leader, an election is running (2 of 3 voters heard)", "it takes seconds at most"),
    ];
    reply
}

/// n1 comes back with its old data after it was removed.
pub(crate) fn removed() -> StatusReply {
    let mut reply = no_quorum();
    reply.removed = true;
    reply.groups[0].holder = None;
    reply.warnings = vec![bad(
        "THIS NODE WAS REMOVED from the cluster: n2 and n3 refuse it as no member",
        "to use it again: stop clusterd, empty its data_dir, start it, `clusterctl join TOKEN`",
    )];
    reply
}

/// As n2 sees it: n1 held `web` and fell silent, `mail` has nobody; n3 came back with a copy that
/// is not complete, and is cordoned; a service has lost all real servers.
pub(crate) fn failing_over() -> StatusReply {
    let mut reply = healthy();
    reply.serving_node = Some(node_ref(2));
    reply.quorum_ack_age_ms = Some(35);
    reply.nodes = vec![node(1, Some(140)), this_node(2), node(3, Some(9))];
    reply.nodes[2].cordoned = true;
    reply.nodes[2].paths[1] =
        NodePath { name: "front".to_owned(), last_heard_ms: Some(2_400), alive: false };
    reply.groups[0].announcing_here = false;
    reply.groups[0].copies[1].state = CopyState::Stale.into();
    reply.groups[0].copies[1].lag_ms = Some(420);
    reply.groups[0].copies[1].unacked = None;
    reply.groups[0].copies[2].state = CopyState::Empty.into();
    reply.groups[0].copies[2].lag_ms = None;
    reply.groups.push(Group {
        id: 2,
        name: "mail".to_owned(),
        addresses: vec!["198.18.0.101".to_owned(), "198.18.0.102".to_owned()],
        holder: None,
        epoch: None,
        since_ms: None,
        copies: Vec::new(),
        announcing_here: false,
        ..reply.groups[0].clone()
    });
    for server in &mut reply.services[0].servers {
        server.up = false;
        server.checks.clear();
    }
    if let Some(local) = &mut reply.local {
        local.interfaces[0].up = false;
        local.interfaces[0].sockets = 0;
        local.connections = 250_000;
    }
    reply.voters_heard = 2;
    reply.warnings = vec![
        bad("group mail: NO HOLDER, nobody answers for 198.18.0.101, 198.18.0.102", "is one live?"),
        warn("group web: copy on n3 is EMPTY", "it catches up by itself"),
    ];
    reply
}
