use insta::assert_snapshot;
use steadfast_proto::v1::{
    Connection, Cookies, Forwarding, ListConnectionsReply, Listener, NodeLoad, NodeRef, Origin,
    PlanRebalanceReply, PlannedMove, Protocol, Server, ServerOrder, StatusReply, TraceFate,
    TraceLine, TraceNode, TraceReply, Warning, Worker,
};

use super::samples::{electing, failing_over, healthy, no_quorum, node_ref, removed};
use super::*;

const PLAIN: fn() -> Paint = || Paint::new(false);

#[test]
fn status_of_a_healthy_cluster() {
    assert_snapshot!(status(&healthy(), PLAIN(), false));
}

#[test]
fn status_without_quorum() {
    assert_snapshot!(status(&no_quorum(), PLAIN(), false));
}

#[test]
fn status_during_an_election() {
    let text = status(&electing(), PLAIN(), false);
    assert!(!text.contains("NO QUORUM") && !text.contains("Quorum NONE"), "{text}");
    assert_snapshot!(text);
}

#[test]
fn status_of_a_node_that_was_removed() {
    let text = status(&removed(), PLAIN(), false);
    for claim in ["NO HOLDER", "Quorum NONE", "DOWN", "Leader NONE"] {
        let nodes_and_groups = text.split("SERVICES").next().unwrap();
        assert!(!nodes_and_groups.contains(claim), "it claims `{claim}`:\n{text}");
    }
    assert_snapshot!(text);
}

#[test]
fn status_while_failing_over() {
    assert_snapshot!(status(&failing_over(), PLAIN(), false));
}

#[test]
fn status_verbose() {
    assert_snapshot!(status(&healthy(), PLAIN(), true));
}

#[test]
fn status_verbose_says_what_happened_to_packets_on_their_way() {
    let mut reply = healthy();
    let local = reply.local.as_mut().unwrap();
    assert!(!status(&healthy(), PLAIN(), true).contains("packets:"));
    local.workers[0].too_big = 2;
    local.workers.push(Worker { too_big: 3, client_untold: 1, ..local.workers[0].clone() });
    local.tunnel_errors.insert("too_big".to_owned(), 4);
    local.tunnel_mtus.insert("198.18.0.11".to_owned(), 1400);
    let text = status(&reply, PLAIN(), true);
    for line in [
        "  packets: too_big 5, client_untold 1\n",
        "  tunnel_errors: too_big 4\n",
        "  tunnel_mtus: 198.18.0.11 1400\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(!status(&reply, PLAIN(), false).contains("tunnel_mtus"));
}

#[test]
fn status_of_a_node_that_knows_nothing() {
    assert_snapshot!(status(&StatusReply::default(), PLAIN(), true));
}

#[test]
fn service_with_what_its_servers_carry() {
    let mut service = healthy().services.remove(0);
    service.scheduler = "sh,sh-port,sh-fallback".to_owned();
    service.server_order = ServerOrder::NewestFirst.into();
    service.servers[1].up = false;
    service.servers[2].weight = 0;
    let full = Server {
        address: "198.18.0.14".to_owned(),
        upper: Some(101),
        lower: Some(90),
        overloaded: true,
        ..service.servers[0].clone()
    };
    service.servers.push(full);
    assert_snapshot!(super::service(&service, "n1", PLAIN()));
}

#[test]
fn service_with_what_was_counted() {
    let mut service = healthy().services.remove(0);
    let drops = [("header_checksum".to_owned(), 3), ("no_holder".to_owned(), 41)].into();
    assert_snapshot!(service_stats(&service, &drops, "n1", PLAIN()));
    service.out_packets = 12;
    for forwarding in [Forwarding::Dr, Forwarding::Tun] {
        service.forwarding = forwarding.into();
        let text = service_stats(&service, &Default::default(), "n1", PLAIN());
        assert!(!text.contains(" 12 "), "{text}");
        let reply = StatusReply { services: vec![service.clone()], ..StatusReply::default() };
        let text = services(&reply, PLAIN());
        assert!(text.lines().any(|line| line.contains("->") && line.ends_with(" -")), "{text}");
    }
    // Replies pass here.
    service.forwarding = Forwarding::Nat.into();
    let text = service_stats(&service, &Default::default(), "n1", PLAIN());
    assert!(text.contains(" 12 ") && text.ends_with(": nothing\n"), "{text}");
}

#[test]
fn service_with_what_happens_in_a_second() {
    let service = healthy().services.remove(0);
    let drops = [("rate_limited".to_owned(), 7)].into();
    assert_snapshot!(service_rate(&service, &drops, "n1", PLAIN()));
}

#[test]
fn service_behind_a_tunnel() {
    let mut service = healthy().services.remove(0);
    service.forwarding = Forwarding::Tun.into();
    service.tunnel = "gue port 6080 csum".to_owned();
    service.mss_clamp = "1400".to_owned();
    assert_snapshot!(super::service(&service, "n1", PLAIN()));
}

#[test]
fn service_above_its_limits() {
    let mut service = healthy().services.remove(0);
    service.limits = Some(steadfast_proto::v1::Limits {
        new_per_s: Some(20_000),
        per_source: Some(100),
        over: "hash".to_owned(),
        hashed: [("new_per_s".to_owned(), 12), ("half_open_max".to_owned(), 3)].into(),
        refused: [("per_source".to_owned(), 1)].into(),
        adopted: 5,
    });
    assert_snapshot!(super::service(&service, "n1", PLAIN()));
}

#[test]
fn service_that_gives_cookies() {
    let mut service = healthy().services.remove(0);
    service.syn_proxy = "auto".to_owned();
    let text = super::service(&service, "n1", PLAIN());
    assert!(text.contains("   SYN cookies auto   ") && !text.contains("sent"), "{text}");
    let cookies = Cookies { sent: 9_000, accepted: 40, refused: 7, given_up: 1 };
    service.cookies = Some(cookies);
    let text = super::service_stats(&service, &Default::default(), "n1", PLAIN());
    let line = "SYN cookies: 9000 sent, 40 came back, 7 packets without a good one, 1 not taken by \
                their server\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn service_of_a_match_group_that_is_persistent() {
    let mut service = healthy().services.remove(0);
    let first = service.listeners[0].clone();
    service.listeners.push(Listener { first_port: 8000, last_port: 8999, ..first.clone() });
    service.listeners.push(Listener { first_port: 0, last_port: 65_535, ..first });
    service.persistence = "300 s by /24 and /56".to_owned();
    service.one_packet = true;
    service.client_address = "toa".to_owned();
    service.ftp_data_ports = "50000-50099".to_owned();
    let text = super::service(&service, "n1", PLAIN());
    for part in [
        "tcp 198.18.0.100:80, tcp 198.18.0.100:8000-8999, tcp 198.18.0.100:any, group web",
        "Scheduler rr   FTP data 50000-50099   one packet   persistent 300 s by /24 and /56   Forwarding dr   client address by toa",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn connection_list() {
    let connection = Connection {
        protocol: Protocol::Tcp.into(),
        client: "198.18.0.9:40001".to_owned(),
        vip: "198.18.0.100:80".to_owned(),
        server: "198.18.0.11:80".to_owned(),
        server_id: 1,
        service: "http".to_owned(),
        state: "ESTABLISHED".to_owned(),
        origin: Origin::Local.into(),
        idle_ms: 80,
        timeout_ms: 900_000,
        in_packets: 31,
        out_packets: 0,
        epoch: "1.12.0@1".to_owned(),
        incarnation: 1,
        group: "web".to_owned(),
        local: String::new(),
        in_queue: None,
        out_queue: None,
    };
    let full_nat = Connection {
        client: "198.18.0.9:40002".to_owned(),
        local: "198.18.1.200:1024".to_owned(),
        ..connection.clone()
    };
    let unbound = Connection {
        server: String::new(),
        server_id: 77,
        service: String::new(),
        origin: Origin::Replica.into(),
        ..connection.clone()
    };
    let reply =
        ListConnectionsReply { total: 300, connections: vec![connection, full_nat, unbound] };
    assert_snapshot!(connections(&reply, PLAIN()));
}

#[test]
fn status_fits_one_screen() {
    let text = status(&healthy(), PLAIN(), false);
    assert!(text.lines().count() <= 30, "{} lines", text.lines().count());
    let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 120, "{widest} columns");
}

#[test]
fn colour_adds_nothing_but_colour() {
    for reply in [healthy(), no_quorum(), failing_over(), electing(), removed()] {
        let plain = status(&reply, Paint::new(false), true);
        let coloured = status(&reply, Paint::new(true), true);
        assert!(!plain.contains('\x1b'));
        assert!(coloured.contains("\x1b[1m"));
        let mut stripped = coloured;
        for code in ["32", "1;31", "33", "1", "0"] {
            stripped = stripped.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(stripped, plain);
    }
}

#[test]
fn what_is_wrong_is_red() {
    let text = status(&failing_over(), Paint::new(true), false);
    for word in ["NO HOLDER", "DOWN", " SILENT", "EMPTY", "0/3 up"] {
        assert!(text.contains(&format!("\x1b[1;31m{word}\x1b[0m")), "{word}");
    }
}

#[test]
fn no_line_ends_in_a_blank() {
    // Empty cells at the end of a row: a node without address, a worker without drops.
    let mut sparse = healthy();
    sparse.nodes[1].addresses = None;
    sparse.local.as_mut().unwrap().workers[0].drops.clear();
    for reply in [healthy(), no_quorum(), failing_over(), sparse, StatusReply::default()] {
        for line in status(&reply, PLAIN(), true).lines() {
            assert_eq!(line, line.trim_end());
        }
    }
}

#[test]
fn control_characters_from_the_network_are_not_printed() {
    let mut reply = healthy();
    let evil = "n\x1b[2J\x07\u{9b}";
    reply.cluster_name = evil.to_owned();
    reply.version = evil.to_owned();
    let warning = Warning { what: evil.to_owned(), fix: evil.to_owned(), severity: 0 };
    reply.warnings = vec![warning];
    reply.nodes[1].name = evil.to_owned();
    reply.nodes[1].paths[0].name = evil.to_owned();
    reply.groups[0].addresses = vec![evil.to_owned()];
    reply.groups[0].copies[1].node.as_mut().unwrap().name = evil.to_owned();
    reply.leader.as_mut().unwrap().name = evil.to_owned();
    reply.serving_node.as_mut().unwrap().name = evil.to_owned();
    let local = reply.local.as_mut().unwrap();
    local.interfaces[0].bind_reason = evil.to_owned();
    local.workers[0].drops.insert(evil.to_owned(), 1);
    local.beacons.insert(evil.to_owned(), 1);
    let text = status(&reply, PLAIN(), true);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
}

#[test]
fn a_vlan_is_shown_with_what_carries_it() {
    let mut reply = failing_over();
    let interface = &mut reply.local.as_mut().unwrap().interfaces[0];
    (interface.vlan, interface.trunk) = (4001, "eth7".to_owned());
    let text = status(&reply, PLAIN(), true);
    assert!(text.contains("front (VLAN 4001 of eth7)"), "{text}");
}

#[test]
fn json_of_a_status_is_stable() {
    assert_snapshot!(serde_json::to_string_pretty(&failing_over()).unwrap());
}

#[test]
fn json_reads_back() {
    for reply in [healthy(), no_quorum(), failing_over(), StatusReply::default()] {
        let text = serde_json::to_string(&reply).unwrap();
        let back: StatusReply = serde_json::from_str(&text).unwrap();
        assert_eq!(back, reply);
    }
}

fn trace_node(id: u32, fate: TraceFate, server: &str) -> TraceNode {
    TraceNode {
        node: Some(NodeRef { id, name: format!("n{id}") }),
        config_revision: 4,
        fate: fate.into(),
        server: server.to_owned(),
        holder: Some(NodeRef { id: 1, name: "n1".to_owned() }),
        lines: vec![
            TraceLine { what: "arrives".to_owned(), text: "a SYN on eth0".to_owned() },
            TraceLine { what: "connection".to_owned(), text: "none is known here".to_owned() },
        ],
        ..TraceNode::default()
    }
}

#[test]
fn trace_of_a_packet() {
    let silent = TraceNode {
        node: Some(NodeRef { id: 3, name: "n3".to_owned() }),
        error: "it does not answer: not connected".to_owned(),
        ..TraceNode::default()
    };
    let nodes = vec![
        trace_node(1, TraceFate::Forwarded, "198.18.1.11:8080"),
        trace_node(2, TraceFate::Relayed, ""),
        silent,
    ];
    assert_snapshot!(trace(&TraceReply { nodes }, PLAIN()));
}

#[test]
fn trace_says_whether_the_nodes_agree() {
    use TraceFate::{Answered, Dropped, Forwarded, Relayed, ToKernel};
    let (one, other) = ("198.18.1.11:8080", "198.18.1.12:8080");
    for (fates, says) in [
        (&[(Forwarded, one)][..], "It reaches 198.18.1.11:8080."),
        (&[(Forwarded, one), (Relayed, "")], "Through every node it reaches 198.18.1.11:8080."),
        (
            &[(Forwarded, one), (Forwarded, other)],
            "The nodes differ: 198.18.1.11:8080, 198.18.1.12:8080.",
        ),
        (
            &[(Forwarded, one), (Dropped, "")],
            "Through some nodes it reaches 198.18.1.11:8080, through others nothing.",
        ),
        (&[(Answered, ""), (Relayed, "")], "It reaches no real server."),
        (&[(ToKernel, ""), (Relayed, "")], "It reaches no real server."),
        (
            &[(ToKernel, "")],
            "It is for none of the cluster's addresses: nodes leave it to their kernels.",
        ),
    ] {
        let nodes = fates.iter().map(|(fate, server)| trace_node(1, *fate, server)).collect();
        let mut reply = TraceReply { nodes };
        let text = trace(&reply, PLAIN());
        assert!(text.ends_with(&format!("\n{says}\n")), "{text}");
        let several = reply.nodes.len() > 1;
        let last = reply.nodes.last_mut().unwrap();
        if several {
            last.config_revision = 5;
            assert!(trace(&reply, PLAIN()).contains("different revisions"));
        } else {
            last.error = "gone".to_owned();
            assert!(trace(&reply, PLAIN()).contains("one node did not tell"));
        }
    }
}

#[test]
fn service_that_looks_at_connection_ids() {
    let mut service = healthy().services.remove(0);
    service.quic_lb = vec!["id 0: 1+7 octets, keyed".to_owned()];
    let text = super::service(&service, "n1", PLAIN());
    assert!(text.contains("   QUIC-LB id 0: 1+7 octets, keyed   Forwarding"), "{text}");
}

#[test]
fn who_is_held_down_is_told_with_the_time_left() {
    let mut reply = healthy();
    reply.nodes[2].held_down = true;
    reply.nodes[2].held_down_left_ms = Some(252_000);
    let text = nodes(&reply, PLAIN());
    assert!(text.contains("up, held down for 4m12s"), "{text}");
    reply.nodes[2].held_down_left_ms = None;
    reply.nodes[2].alive = false;
    let text = nodes(&reply, PLAIN());
    assert!(text.contains("DOWN, held down "), "{text}");
}

#[test]
fn plan_of_a_rebalance() {
    let moves = [(3, "web-3", 1, 3, "n1 holds 4, n3 0"), (9, "mail", 2, 3, "n2 is cordoned")];
    let moves = moves.map(|(group_id, group, from, to, why)| PlannedMove {
        group_id,
        group: group.to_owned(),
        from: Some(node_ref(from)),
        to: Some(node_ref(to)),
        why: why.to_owned(),
    });
    let nodes = [(1, 4, 3, ""), (2, 1, 0, "cordoned"), (3, 0, 2, "")];
    let nodes = nodes.map(|(node, holds, will_hold, excluded)| NodeLoad {
        node: Some(node_ref(node)),
        holds,
        will_hold,
        excluded: excluded.to_owned(),
    });
    let (moves, nodes) = (moves.to_vec(), nodes.to_vec());
    let plan = PlanRebalanceReply { moves, more: 12, nodes, notes: Vec::new() };
    assert_snapshot!(rebalance(&plan, true, PLAIN()));
    assert!(
        rebalance(&plan, false, PLAIN())
            .ends_with("Moved 2 groups. 12 more would follow: run it again.\n")
    );
    let nothing = PlanRebalanceReply::default();
    assert!(rebalance(&nothing, false, PLAIN()).ends_with("\nNothing to move.\n"));
}
