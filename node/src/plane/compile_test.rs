use std::net::SocketAddr;

use steadfast_model::{Command, Initialise, NodeSpec, Response};

use super::*;

fn started() -> ClusterState {
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
    state
}

/// The service of a document with these fields and the fields of its first server.
fn compiled(state: &mut ClusterState, fields: &str, server: &str) -> dp::ServiceSpec {
    let text = format!(
        "apiVersion: steadfast/v1
segments: [{{name: front, prefix: 198.18.0.0/24}}]
groups: [{{name: web, addresses: [198.18.0.100], local_addresses: [198.18.0.200]}}]
services:
  - {{name: a, group: web, address: 198.18.0.100, port: 80, {fields}
     servers: [{{address: 198.18.0.11, port: 80{server}}}, {{address: 198.18.0.12, port: 80}}]}}
"
    );
    let source = "test".to_owned();
    let apply = Command::Apply { text, expected_revision: None, source, now_unix_s: 0 };
    let response = state.apply(2, apply);
    assert!(matches!(response, Response::Applied { .. }), "{fields} {server}: {response:?}");
    let mut spec =
        config_spec(state, steadfast_model::NodeId(1), &|_, server| server == 0, 2, 9, 77);
    assert_eq!((spec.generation, spec.now_ns, spec.workers), (9, 77, 2));
    spec.services.remove(0)
}

#[test]
fn every_scheduler_has_its_own() {
    let ours = dp::HashOptions { port: true, fallback: true };
    let port_only = dp::HashOptions { port: true, fallback: false };
    let cases = [
        ("rr", dp::SchedulerKind::Rr),
        ("wrr", dp::SchedulerKind::Wrr),
        ("lc", dp::SchedulerKind::Lc),
        ("wlc", dp::SchedulerKind::Wlc),
        ("sed", dp::SchedulerKind::Sed),
        ("nq", dp::SchedulerKind::Nq),
        ("lblc", dp::SchedulerKind::Lblc),
        ("lblcr", dp::SchedulerKind::Lblcr),
        ("dh", dp::SchedulerKind::Dh),
        ("sh", dp::SchedulerKind::Sh(ours)),
        ("mh", dp::SchedulerKind::Mh(ours)),
        ("mh, hash: {fallback: false}", dp::SchedulerKind::Mh(port_only)),
        ("fo", dp::SchedulerKind::Fo),
        ("ovf", dp::SchedulerKind::Ovf),
        ("twos", dp::SchedulerKind::Twos),
    ];
    let mut state = started();
    for (name, expected) in cases {
        let service = compiled(&mut state, &format!("scheduler: {name},"), "");
        assert_eq!(service.scheduler, expected, "{name}");
    }
}

#[test]
fn settings_arrive_where_they_belong() {
    let mut state = started();
    let service = compiled(&mut state, "", "");
    assert_eq!(service.policies, dp::Policies::default(), "the same defaults");
    assert_eq!(service.timeouts, dp::Timeouts::default(), "the same defaults");
    assert_eq!((service.order, service.slow_start_ns), (dp::ServerOrder::Canonical, 0));
    let fields = "scheduler: wlc, server_order: newest_first, slow_start_s: 3, sloppy_tcp: true,
        on_server_gone: reschedule, conn_reuse: never,
        timeouts: {none_s: 1, tcp_s: 2, syn_sent_s: 3, syn_recv_s: 4, tcp_fin_s: 5,
          time_wait_s: 6, close_s: 7, close_wait_s: 8, last_ack_s: 9, listen_s: 10, synack_s: 11,
          udp_s: 12, sctp_init1_s: 13, sctp_init_s: 14, sctp_cookie_sent_s: 15,
          sctp_cookie_replied_s: 16, sctp_cookie_wait_s: 17, sctp_cookie_s: 18,
          sctp_cookie_echoed_s: 19, sctp_s: 20, sctp_shutdown_sent_s: 21,
          sctp_shutdown_received_s: 22, sctp_shutdown_ack_sent_s: 23, sctp_rejected_s: 24,
          sctp_closed_s: 25},";
    let service = compiled(&mut state, fields, ", drain: true, upper: 5, lower: 4, weight: 3");
    assert_eq!(service.order, dp::ServerOrder::NewestFirst);
    assert_eq!(service.slow_start_ns, 3_000_000_000);
    assert_eq!(
        service.policies,
        dp::Policies {
            on_server_gone: dp::OnServerGone::Reschedule,
            reuse: dp::ConnReuse::Never,
            sloppy_tcp: true,
            sloppy_sctp: false
        }
    );
    for (number, state) in (1..).zip(dp::State::ALL) {
        assert_eq!(service.timeouts.of_ns(state), number * 1_000_000_000, "{state}");
    }
    let busy = compiled(&mut started(), "conn_reuse: fin_wait,", "");
    assert_eq!(busy.policies.reuse, dp::ConnReuse::FinWait);
    let sctp = compiled(&mut started(), "protocol: sctp, sloppy_sctp: true,", "");
    assert!(sctp.policies.sloppy_sctp && !sctp.policies.sloppy_tcp);
    let fields = "mss_clamp: 1400, syn_proxy: always, forwarding: full_nat,
        limits: {new_per_s: 7, per_source: 8, over: refuse},
        sync: {threshold: 5, period: 60, refresh_period_s: 9, retries: 2, on_established: false,
          every_packet: true},";
    let other = compiled(&mut started(), fields, "");
    assert_eq!(other.mss_clamp, dp::MssClamp::At(1400));
    assert_eq!(other.syn_proxy, dp::SynProxy::Always);
    let limits = dp::Limits { new_per_s: 7, per_source: 8, over: dp::Over::Refuse };
    assert_eq!(other.limits, limits);
    let sync = dp::SyncSettings {
        threshold: 5,
        period: 60,
        refresh_period_s: 9,
        retries: 2,
        on_established: false,
        every_packet: true,
        persist_mode: false,
    };
    assert_eq!(other.sync, sync);
    let fields = "persistence: {timeout_s: 60}, sync: {persist_mode: true},";
    assert!(compiled(&mut started(), fields, "").sync.persist_mode);
    let server = service.servers[0];
    assert_eq!((server.drained, server.up, server.upper, server.lower), (true, true, 5, 4));
    assert_eq!((server.weight, service.servers[1].weight, service.servers[1].up), (3, 1, false));
}

#[test]
fn silence_for_ports_without_a_service_arrives() {
    let spec = |text: &str| {
        let mut state = started();
        let text = format!(
            "apiVersion: steadfast/v1
settings: {{{text}}}
segments: [{{name: front, prefix: 198.18.0.0/24}}]
groups: [{{name: web, addresses: [198.18.0.100]}}]
"
        );
        let source = "test".to_owned();
        let apply = Command::Apply { text, expected_revision: None, source, now_unix_s: 0 };
        let response = state.apply(2, apply);
        assert!(matches!(response, Response::Applied { .. }), "{response:?}");
        let node = steadfast_model::NodeId(1);
        config_spec(&state, node, &|_, _| true, 1, 9, 77).groups[0].unserved
    };
    assert_eq!(spec("unserved: drop"), dp::Unserved::Drop);
    assert_eq!(spec("unserved: reject"), dp::Unserved::Reject);
}

#[test]
fn a_place_is_kept_unless_the_tables_of_sh_are_wanted_exactly() {
    let cases = [
        ("scheduler: mh,", 3),
        ("scheduler: sh,", 3),
        ("scheduler: mh, server_order: newest_first,", 3),
        ("scheduler: sh, server_order: newest_first,", 0),
    ];
    for (fields, expected) in cases {
        let mut state = started();
        compiled(&mut state, fields, ", weight: 3");
        let server = compiled(&mut state, fields, ", weight: 0").servers[0];
        assert_eq!((server.weight, server.last_weight), (0, expected), "{fields}");
    }
}

#[test]
fn what_connection_ids_say_arrives() {
    let mut state = started();
    let key = "000102030405060708090a0b0c0d0e0f";
    let fields = format!(
        "protocol: udp, quic_lb: [{{id: 3, server_id_length: 2, nonce_length: 9, key: {key}}}],"
    );
    let service = compiled(&mut state, &fields, ", quic_ids: ['a1b2', 'C3d4']");
    let bytes: Vec<u8> = (0..16).collect();
    let key = Some(<[u8; 16]>::try_from(bytes).unwrap());
    let config = dp::QuicConfig { id: 3, server_id_len: 2, nonce_len: 9, key };
    assert_eq!(service.quic.configs, [config]);
    let server = service.servers.iter().find(|s| s.addr.to_string() == "198.18.0.11").unwrap();
    let id = |octets: &[u8]| (dp::QuicServerId::new(octets).unwrap(), server.id);
    assert_eq!(service.quic.servers, [id(&[0xa1, 0xb2]), id(&[0xc3, 0xd4])]);
}

#[test]
fn persistence_and_one_packet_are_passed_on() {
    let mut state = started();
    let plain = compiled(&mut state, "", "");
    assert_eq!((plain.persistence, plain.one_packet, plain.ftp), (None, false, None));
    let kept = compiled(&mut state, "persistence: {timeout_s: 60, prefix_v4: 24},", "");
    let kept = kept.persistence.unwrap();
    assert_eq!((kept.timeout_ns, kept.prefix_v4, kept.prefix_v6), (60_000_000_000, 24, 128));
    assert!(!kept.expire_quiescent_template);
    let once = compiled(&mut state, "protocol: udp, one_packet: true,", "");
    assert!(once.one_packet);
    assert_eq!(plain.client_address, dp::ClientAddress::None);
    let told = compiled(&mut state, "forwarding: full_nat, client_address: toa,", "");
    assert_eq!(told.client_address, dp::ClientAddress::Toa);
    let told = compiled(&mut state, "forwarding: full_nat, client_address: proxy_v2,", "");
    assert_eq!(told.client_address, dp::ClientAddress::ProxyV2);
}
