//! Persistence: clients keep their server, as a table of packets, and what peers are told of it.

use crate::lab::*;
use steadfast_dataplane::{
    Applied, ConfigSpec, Forwarding, Listen, Origin, Persistence, Protocol, Provenance, Role,
    ServerSpec, ServiceSpec, State, Sweep, TemplateKey, TemplateRecord, TemplateReplica,
};

const VIP: &str = "198.18.0.100";
const MINUTE: u64 = 60 * SECOND;

fn persistence() -> Persistence {
    Persistence {
        timeout_ns: 5 * MINUTE,
        prefix_v4: 32,
        prefix_v6: 128,
        expire_quiescent_template: false,
    }
}

/// A match group of two ports and both protocols over DR, round robin, persistent.
fn spec(persistence: Persistence) -> ConfigSpec {
    let vip = VIP.parse().unwrap();
    let listen = [(Protocol::Tcp, 80), (Protocol::Tcp, 443), (Protocol::Udp, 443)];
    let servers = vec![server(11, "198.18.0.21", 0), server(12, "198.18.0.22", 0)];
    ConfigSpec {
        services: vec![ServiceSpec {
            listen: listen.map(|(protocol, port)| Listen::new(protocol, vip, port)).to_vec(),
            forwarding: Forwarding::Dr,
            persistence: Some(persistence),
            ..service(1, Protocol::Tcp, 80, servers)
        }],
        ..config_spec(1)
    }
}

/// Which server a SYN, or a datagram, of a client gets.
fn server_of(lab: &mut Lab, protocol: Protocol, client: &str, port: u16) -> Option<u8> {
    let vip = format!("{VIP}:{port}");
    let frame = match protocol {
        Protocol::Udp => udp((CLIENT, FRONT), client, &vip, 64),
        _ => tcp((CLIENT, FRONT), client, &vip, 64, SYN),
    };
    match lab.handle(0, &frame) {
        Outcome::Sent(_, frame) if frame[..6] == DR_1 => Some(1),
        Outcome::Sent(_, frame) if frame[..6] == DR_2 => Some(2),
        _ => None,
    }
}

fn key(client: &str) -> TemplateKey {
    TemplateKey { service: 1.into(), client: client.parse().unwrap() }
}

fn advance(lab: &mut Lab, by_ns: u64) {
    lab.now += by_ns;
    let (now, log) = (lab.now, &lab.log);
    while lab.shared.advance(now, 100_000, log).more {}
}

#[test]
fn a_client_keeps_its_server_on_all_ports_and_protocols_of_the_service() {
    let mut lab = Lab::with(spec(persistence()), 1000);
    let cases = [
        ("the first client", Protocol::Tcp, "198.18.0.2:4000", 80, 1),
        ("another one gets the next server", Protocol::Tcp, "198.18.0.3:4000", 80, 2),
        ("the first again", Protocol::Tcp, "198.18.0.2:4001", 80, 1),
        ("on another port", Protocol::Tcp, "198.18.0.2:4002", 443, 1),
        ("with another protocol", Protocol::Udp, "198.18.0.2:4003", 443, 1),
        ("the other one again", Protocol::Tcp, "198.18.0.3:4001", 443, 2),
        ("a third one goes on in the round", Protocol::Tcp, "198.18.0.4:4000", 80, 1),
    ];
    for (description, protocol, client, port, expected) in cases {
        assert_eq!(server_of(&mut lab, protocol, client, port), Some(expected), "{description}");
    }
    assert_eq!(lab.shared.table.templates.len(), 3);
    let template = lab.shared.table.templates.find(&key("198.18.0.2")).unwrap();
    assert_eq!((template.controls, template.record.assured), (4, false));
}

/// So that a template outlives the connections it led somewhere, also at another node.
#[test]
fn copies_of_connections_count_with_the_copies_of_their_templates() {
    let lab = Lab::with(spec(persistence()), 1000);
    let controls = || lab.shared.table.templates.find(&key("198.18.0.2")).unwrap().controls;
    let _ = lab.shared.table.templates.apply(&told(12, 5, 0, true), START);
    let mut copy = replica(4000, 1, State::Established);
    copy.record.key.client = "198.18.0.2".parse().unwrap();
    copy.record.server = 12.into();
    copy.record.service = 1.into();
    let config = lab.shared.config.load();
    assert_eq!(lab.shared.table.apply_replica(&copy, &config, START), Applied::Inserted);
    assert_eq!(controls(), 1);
    assert_eq!(lab.shared.table.apply_replica(&copy, &config, START), Applied::Updated);
    assert_eq!(controls(), 1, "told again");
    copy.record.incarnation = 2;
    assert_eq!(lab.shared.table.apply_replica(&copy, &config, START), Applied::Replaced);
    assert_eq!(controls(), 1, "the new one for the old one");
    assert!(lab.shared.table.delete_replica(&copy.record.key, 2, epoch(9)).is_some());
    assert_eq!(controls(), 0);
}

/// What peers know of a connection is noted beside what its template has to hear of its end.
#[test]
fn a_connection_stays_with_its_template_whatever_was_copied_of_it() {
    let mut lab = Lab::with(spec(persistence()), 1000);
    assert_eq!(server_of(&mut lab, Protocol::Tcp, "198.18.0.2:4000", 80), Some(1));
    assert_eq!(server_of(&mut lab, Protocol::Tcp, "198.18.0.2:4001", 80), Some(1));
    let find = |port: u16| {
        let client = format!("198.18.0.2:{port}");
        lab.find(Protocol::Tcp, &client, "198.18.0.100:80").unwrap()
    };
    let controls = || lab.shared.table.templates.find(&key("198.18.0.2")).unwrap().controls;
    for (port, state, left) in [(4000, State::SynSent, 1), (4001, State::Established, 0)] {
        let connection = find(port);
        connection.set_synced_state(state);
        let (key, incarnation) = (connection.key(), connection.incarnation());
        assert!(lab.shared.table.delete_replica(&key, incarnation, epoch(9)).is_some());
        assert_eq!(controls(), left, "{state} was copied");
    }
}

/// Its copy of the node has the templates too.
#[test]
fn a_rehearsal_tells_which_server_a_client_keeps() {
    let mut lab = Lab::with(spec(persistence()), 1000);
    assert_eq!(server_of(&mut lab, Protocol::Tcp, "198.18.0.2:4000", 80), Some(1));
    let told = |lab: &Lab, client: &str| {
        let frame = tcp((CLIENT, FRONT), client, "198.18.0.100:443", 64, SYN);
        lab.shared.rehearse(lab.now, 0, &frame).opened.unwrap().server.0
    };
    assert_eq!(told(&lab, "198.18.0.2:4001"), 11, "the one it keeps");
    assert_eq!(told(&lab, "198.18.0.3:4001"), 12, "whose turn it is");
    let template = lab.shared.table.templates.find(&key("198.18.0.2")).unwrap();
    assert_eq!((lab.shared.table.templates.len(), template.controls), (1, 1), "nothing changed");
}

#[test]
fn a_network_of_clients_is_one() {
    let mut lab = Lab::with(spec(Persistence { prefix_v4: 24, ..persistence() }), 1000);
    for (client, expected) in
        [("198.18.7.1:1", 1), ("198.18.7.254:1", 1), ("198.18.8.1:1", 2), ("198.18.7.9:1", 1)]
    {
        assert_eq!(server_of(&mut lab, Protocol::Tcp, client, 80), Some(expected), "{client}");
    }
    assert!(lab.shared.table.templates.find(&key("198.18.7.0")).is_some());
    let wide = Persistence { prefix_v6: 56, prefix_v4: 0, ..persistence() };
    let network = |client: &str| wide.network(client.parse().unwrap()).to_string();
    assert_eq!(network("2001:db8:1:2345::6"), "2001:db8:1:2300::");
    assert_eq!(network("198.18.7.9"), "0.0.0.0");
}

/// ip_vs_conn_expire(): a template that controls connections lives on in minutes.
#[test]
fn a_template_ends_after_its_timeout_but_not_before_its_connections() {
    let mut lab = Lab::with(spec(persistence()), 1000);
    assert_eq!(server_of(&mut lab, Protocol::Tcp, "198.18.0.2:4000", 80), Some(1));
    let _ = lab.handle(0, &from_client(4000, 80, ACK));
    let there = |lab: &Lab| lab.shared.table.templates.find(&key("198.18.0.2"));
    assert!(there(&lab).unwrap().record.assured, "established");
    advance(&mut lab, 5 * MINUTE + SECOND);
    assert_eq!(there(&lab).unwrap().until_ns, lab.now + MINUTE, "armed again for a minute");
    // The connection ends 15 minutes after its last packet; the template within a minute of it.
    for _ in 0..9 {
        advance(&mut lab, MINUTE + SECOND);
        assert!(there(&lab).is_some());
    }
    advance(&mut lab, MINUTE);
    assert!(lab.shared.table.is_empty(), "15 minutes");
    advance(&mut lab, MINUTE);
    advance(&mut lab, SECOND);
    assert!(there(&lab).is_none());
    // One without connections ends on time, and a new connection moves the time.
    assert_eq!(server_of(&mut lab, Protocol::Tcp, "198.18.0.3:4000", 80), Some(2));
    advance(&mut lab, 4 * MINUTE);
    assert_eq!(server_of(&mut lab, Protocol::Tcp, "198.18.0.3:4001", 80), Some(2));
    advance(&mut lab, 4 * MINUTE);
    assert!(lab.shared.table.is_empty(), "half-open ones are gone");
    assert!(lab.shared.table.templates.find(&key("198.18.0.3")).is_some(), "used 4 minutes ago");
    advance(&mut lab, MINUTE + SECOND);
    assert!(lab.shared.table.templates.is_empty());
}

#[test]
fn a_server_that_cannot_serve_loses_its_clients() {
    type Change = fn(&mut ServerSpec);
    // (what happens to server 1, expire_quiescent_template, which server its client gets then)
    let cases: [(&str, Change, bool, u8); 4] = [
        ("down", |s| s.up = false, false, 2),
        ("weight 0 keeps its clients", |s| s.weight = 0, false, 1),
        ("unless told otherwise", |s| s.weight = 0, true, 2),
        ("nothing", |_| {}, true, 1),
    ];
    for (description, change, expire_quiescent_template, expected) in cases {
        let persistence = Persistence { expire_quiescent_template, ..persistence() };
        let mut lab = Lab::with(spec(persistence), 1000);
        assert_eq!(server_of(&mut lab, Protocol::Tcp, "198.18.0.2:1", 80), Some(1));
        let mut next = ConfigSpec { generation: 2, ..spec(persistence) };
        change(&mut next.services[0].servers[0]);
        lab.set_config(next);
        for port in 2..4 {
            let client = format!("198.18.0.2:{port}");
            let found = server_of(&mut lab, Protocol::Tcp, &client, 80);
            assert_eq!(found, Some(expected), "{description}");
        }
        // It stays where it went when the server comes back.
        lab.set_config(ConfigSpec { generation: 3, ..spec(persistence) });
        let found = server_of(&mut lab, Protocol::Tcp, "198.18.0.2:9", 80);
        assert_eq!(found, Some(expected), "{description}, back again");
    }
}

#[test]
fn a_full_table_gives_up_unassured_templates_and_keeps_the_others() {
    let mut lab = Lab::with(spec(persistence()), 8000);
    let max = lab.shared.table.templates.max();
    assert_eq!(max, 2000, "one for four connections");
    let client = |n: usize| format!("198.18.{}.{}:1", 16 + n / 250, n % 250 + 1);
    let ack = |lab: &mut Lab, n: usize| {
        lab.handle(0, &tcp((CLIENT, FRONT), &client(n), "198.18.0.100:80", 64, ACK))
    };
    for n in 0..max {
        server_of(&mut lab, Protocol::Tcp, &client(n), 80).unwrap();
        if n != 0 {
            let _ = ack(&mut lab, n);
        }
    }
    assert_eq!(lab.shared.table.templates.len(), max);
    server_of(&mut lab, Protocol::Tcp, &client(max), 80).unwrap();
    let network = |n: usize| key(client(n).split(':').next().unwrap());
    let templates = &lab.shared.table.templates;
    assert!(templates.find(&network(0)).is_none(), "the only unassured one gave way");
    assert!(templates.find(&network(1)).is_some() && templates.find(&network(max)).is_some());
    let _ = ack(&mut lab, max);
    assert!(
        server_of(&mut lab, Protocol::Tcp, &client(max + 1), 80).is_some(),
        "served all the same"
    );
    assert!(lab.shared.table.templates.find(&network(max + 1)).is_none());
    assert_eq!(lab.shared.table.templates.len(), max);
}

fn told(server: u32, incarnation: u64, claim: u32, assured: bool) -> TemplateReplica {
    let record = TemplateRecord {
        key: key("198.18.0.2"),
        server: server.into(),
        group: GROUP,
        incarnation,
        origin: Origin { claim, ..epoch(0) },
        assured,
    };
    TemplateReplica { record, donated: false, snapshot: 0 }
}

#[test]
fn peers_templates_meet_by_the_rules() {
    let donated = |replica| TemplateReplica { donated: true, ..replica };
    // (what is here, what comes, what becomes of it, whose server it is then)
    let cases = [
        ("the same", told(11, 5, 0, true), told(11, 5, 0, true), Applied::Updated, 11),
        (
            "a later one of the epoch",
            told(11, 5, 0, true),
            told(12, 6, 0, false),
            Applied::Replaced,
            12,
        ),
        ("an older one", told(11, 5, 0, false), told(12, 4, 0, true), Applied::Kept, 11),
        ("of a higher epoch", told(11, 5, 0, true), told(12, 4, 1, false), Applied::Replaced, 12),
        ("of a lower epoch", told(11, 5, 1, false), told(12, 6, 0, true), Applied::Kept, 11),
        (
            "given, over an assured one",
            told(11, 5, 0, true),
            donated(told(12, 6, 1, true)),
            Applied::Kept,
            11,
        ),
        (
            "given, assured",
            told(11, 5, 1, false),
            donated(told(12, 4, 0, true)),
            Applied::Replaced,
            12,
        ),
        (
            "given, not assured",
            told(11, 5, 1, false),
            donated(told(12, 6, 1, false)),
            Applied::Kept,
            11,
        ),
    ];
    for (description, here, comes, applied, server) in cases {
        let lab = Lab::with(spec(persistence()), 1000);
        let templates = &lab.shared.table.templates;
        assert_eq!(templates.apply(&here, START), Applied::Inserted);
        assert_eq!(templates.apply(&comes, START), applied, "{description}");
        assert_eq!(templates.find(&key("198.18.0.2")).unwrap().record.server.0, server);
    }
}

#[test]
fn a_copy_waits_for_its_holder_and_serves_after_a_take_over() {
    let mut lab = Lab::with(spec(persistence()), 1000);
    lab.set_role(Role::Other { relay: vec![Some(PEER)] });
    let templates = |lab: &Lab| lab.shared.table.templates.len();
    // Server 2, which round robin would not choose first.
    let _ = lab.shared.table.templates.apply(&told(12, 5, 0, true), lab.now);
    advance(&mut lab, 60 * MINUTE);
    assert_eq!(templates(&lab), 1, "as long as another holds the group");
    let role = Role::Holder { epoch: epoch(1), since_ns: lab.now, copy_complete: true };
    lab.set_role(role);
    advance(&mut lab, 4 * MINUTE);
    assert_eq!(server_of(&mut lab, Protocol::Tcp, "198.18.0.2:4000", 80), Some(2));
    let template = lab.shared.table.templates.find(&key("198.18.0.2")).unwrap();
    assert_eq!((template.controls, template.provenance), (1, Provenance::Replica));

    // Deletes and sweeps: nothing of a higher epoch, nothing that was confirmed.
    let table = &lab.shared.table.templates;
    assert!(table.delete(&key("198.18.0.2"), 4, epoch(9)).is_none(), "a later life");
    let sweep = |snapshot, claim| Sweep { group: GROUP, snapshot, epoch: epoch(claim) };
    let mut confirmed = told(12, 5, 1, true);
    confirmed.snapshot = 7;
    let _ = table.apply(&confirmed, START);
    let all = |_: &TemplateKey| true;
    assert_eq!(table.sweep(&sweep(7, 1), &all, 0, 10_000).0, 0, "confirmed by the snapshot");
    assert_eq!(table.sweep(&sweep(8, 0), &all, 0, 10_000).0, 0, "of a higher epoch");
    assert_eq!(table.sweep(&sweep(8, 1), &|_| false, 0, 10_000).0, 0, "of another shard");
    assert_eq!(table.sweep(&sweep(8, 1), &all, 0, 10_000).0, 1);
    let _ = table.apply(&confirmed, START);
    assert!(table.delete(&key("198.18.0.2"), 5, epoch(0)).is_none(), "of a higher epoch");
    assert!(table.delete(&key("198.18.0.2"), 5, epoch(1)).is_some());
}
