//! The program itself against a server that speaks the real protocol, on a Unix socket and over
//! mutual TLS. The server is a fake: it answers what the test wants and tells what it was asked.
#![allow(clippy::unwrap_used, missing_docs)]

mod fake;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use fake::{Authority, Fake, Folder, clusterctl, on_socket, over_tls};
use steadfast_proto::v1::{
    AdminCredentials, DocumentError, ErrorDetail, ListConnectionsReply, Reason, StatusReply,
};
use steadfast_proto::{error_status, v1};
use tonic::Status;

/// Broken pipes and pauses must not hang a test.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn status_reaches_the_socket_and_prints_the_reply() {
    let folder = Folder::new("status");
    let socket = on_socket(&folder, Fake::default()).await;

    let table = clusterctl(["--socket", &socket, "status"]).await;
    assert_eq!(table.code, 0, "{}", table.stderr);
    assert!(table.stdout.starts_with("Cluster test as n1 sees it"), "{}", table.stdout);
    assert!(!table.stdout.contains('\x1b'), "colours without a terminal");
    assert_eq!(table.stderr, "");

    let json = clusterctl(["--socket", &socket, "status", "-o", "json"]).await;
    let reply: StatusReply = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(reply, fake::status_reply());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_variable_names_the_socket() {
    let folder = Folder::new("variable");
    let socket = on_socket(&folder, Fake::default()).await;
    let mut command = fake::command(["get", "nodes", "-o", "json"]);
    command.env("STEADFAST_SOCKET", &socket);
    let run = fake::finish(command).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let value: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(value["nodes"][0]["name"], "n1");
    assert_eq!(value["nodes"][0]["role"], "voter");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_service_is_found_by_name_or_id() {
    let folder = Folder::new("service");
    let socket = on_socket(&folder, Fake::default()).await;
    for name in ["http", "4"] {
        let run = clusterctl(["--socket", &socket, "get", "service", name]).await;
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stdout.contains("Scheduler wlc"), "{}", run.stdout);
    }
    let run = clusterctl(["--socket", &socket, "get", "service", "http", "--stats"]).await;
    assert!(run.stdout.ends_with(": no_route 10\n"), "of all workers: {}", run.stdout);
    let json =
        clusterctl(["--socket", &socket, "get", "service", "http", "--rate", "-o", "json"]).await;
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["service"]["in_packets"], 77);
    assert_eq!(value["drops"]["no_route"], 10);
    let both = clusterctl(["--socket", &socket, "get", "service", "4", "--stats", "--rate"]).await;
    assert_eq!(both.code, 2, "{}", both.stderr);
    let none = clusterctl(["--socket", &socket, "get", "service", "5"]).await;
    assert_eq!((none.code, none.stdout.as_str()), (1, ""));
    assert!(none.stderr.contains("there is no service 5"), "{}", none.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_document_is_shown_with_line_and_mark() {
    let folder = Folder::new("document");
    let wrong = DocumentError {
        source: "web.yaml".to_owned(),
        line: 2,
        column: 9,
        path: "services[0].port".to_owned(),
        what: "70000 is not a port".to_owned(),
        fix: "write a number from 1 to 65535".to_owned(),
    };
    let detail = ErrorDetail {
        reason: Reason::InvalidDocument.into(),
        document_errors: vec![wrong],
        ..ErrorDetail::default()
    };
    let refusal = error_status("web.yaml was refused, nothing was changed", &detail);
    let socket = on_socket(&folder, Fake::refusing(refusal)).await;
    let file = folder.write("web.yaml", "services:\n- port: 70000\n");

    let run = clusterctl(["--socket", &socket, "apply", "-f", &file]).await;
    assert_eq!(run.code, 1);
    assert_eq!(run.stdout, "");
    let wanted = "\
error: web.yaml:2:9: services[0].port: 70000 is not a port
    2 | - port: 70000
      |         ^
  write a number from 1 to 65535
error: web.yaml was refused, nothing was changed
";
    assert_eq!(run.stderr, wanted);
}

/// As a node refuses a document: by path, with the name the request gave the document.
fn refusal_by_path(errors: impl IntoIterator<Item = (String, String)>, source: &str) -> Status {
    let wrong = |(path, what)| DocumentError {
        source: source.to_owned(),
        path,
        what,
        ..DocumentError::default()
    };
    let detail = ErrorDetail {
        reason: Reason::InvalidDocument.into(),
        document_errors: errors.into_iter().map(wrong).collect(),
        ..ErrorDetail::default()
    };
    error_status("the document has errors; nothing was changed", &detail)
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_told_by_path_have_their_line_also_from_stdin() {
    let folder = Folder::new("by-path");
    let what = "group `wbe` does not exist; write `web`".to_owned();
    let refusal = refusal_by_path([("services[1].group".to_owned(), what)], "stdin");
    let socket = on_socket(&folder, Fake::refusing(refusal)).await;
    let text = "services:\n- name: a\n- name: b\n  group: wbe\n";

    let arguments = ["--socket", &socket, "apply", "-f", "-"];
    let run = fake::finish_with_stdin(fake::command(arguments), text).await;
    assert_eq!(run.code, 1);
    let wanted = "\
error: stdin:4:10: services[1].group: group `wbe` does not exist; write `web`
    4 |   group: wbe
      |          ^
error: the document has errors; nothing was changed
";
    assert_eq!(run.stderr, wanted);
}

/// They travel in the header of the answer, of which clients take 16 KiB unless told otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_errors_arrive() {
    let folder = Folder::new("thousand");
    let text: String = (0..1_000).map(|i| format!("- name: {i}\n")).collect();
    let file = folder.write("many.yaml", &format!("services:\n{text}"));
    let what = "a name, and what else a long message may have to say of it; ".repeat(4);
    let errors = (0..1_000).map(|i| (format!("services[{i}].name"), what.clone()));
    let refusal = refusal_by_path(errors, &file);

    let socket = on_socket(&folder, Fake::refusing(refusal.clone())).await;
    let authority = Authority::new();
    let address = over_tls(&authority, Fake::refusing(refusal)).await;
    let credentials = folder.credentials(&authority.client(), &authority, &[address]);
    for way in [["--socket", &socket], ["--credentials", &credentials]] {
        let run = clusterctl(way.into_iter().chain(["apply", "-f", &file])).await;
        assert_eq!(run.code, 1, "{}", run.stderr);
        let listed = run.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(listed, 1_001);
        assert!(run.stderr.contains(&format!("{file}:1001:9: services[999].name: ")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_sends_the_document_and_prints_the_difference() {
    let folder = Folder::new("apply");
    let fake = Fake::default();
    let socket = on_socket(&folder, fake.clone()).await;
    let file = folder.write("web.yaml", "services: []\n");

    let run = clusterctl(["--socket", &socket, "apply", "-f", &file, "--revision", "6"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stdout, "+ service http\nApplied as revision 7.\n");
    assert_eq!(run.stderr, "warning: beacons are thin\n");
    let asked = fake.applied();
    assert_eq!(asked.document, "services: []\n");
    assert_eq!(asked.expected_revision, Some(6));
    assert!(!asked.dry_run);
    assert!(asked.source.ends_with("web.yaml"));

    let dry = clusterctl(["--socket", &socket, "apply", "-f", &file, "--dry-run"]).await;
    assert!(dry.stdout.ends_with("Dry run: nothing was committed, revision 7 stays.\n"));
    assert!(fake.applied().dry_run);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_follow_the_reason() {
    let folder = Folder::new("codes");
    let cases = [
        (Reason::NoQuorum, 3),
        (Reason::OutcomeUnknown, 3),
        (Reason::MoveRefused, 1),
        (Reason::NotFound, 1),
        (Reason::Denied, 1),
        (Reason::RevisionConflict, 1),
    ];
    for (number, (reason, code)) in cases.into_iter().enumerate() {
        let fix = "do this".to_owned();
        let detail = ErrorDetail { reason: reason.into(), fix, ..ErrorDetail::default() };
        let refusal = error_status("it did not work", &detail);
        let part = folder.below(&number.to_string());
        let socket = on_socket(&part, Fake::refusing(refusal)).await;
        let file = folder.write("c.yaml", "services: []\n");
        let run = clusterctl(["--socket", &socket, "apply", "-f", &file]).await;
        assert_eq!(run.code, code, "{reason:?}");
        assert_eq!(run.stderr, "error: it did not work\n  do this\n", "{reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_daemon_is_exit_four_and_says_where() {
    let folder = Folder::new("nobody");
    let missing = folder.path("missing.sock");
    let run = clusterctl(["--socket", &missing, "status"]).await;
    assert_eq!(run.code, 4);
    assert!(run.stderr.contains(&missing) && run.stderr.contains("start clusterd"));

    let stale = folder.path("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let run = clusterctl(["--socket", &stale, "status"]).await;
    assert_eq!(run.code, 4);
    assert!(run.stderr.contains("left its socket behind"), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_daemon_does_not_hold_us_longer_than_the_timeout() {
    let folder = Folder::new("stopped");
    let socket = folder.path("s.sock");
    // Bound and never accepted from: what a SIGSTOPped daemon looks like.
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let start = Instant::now();
    let run = clusterctl(["--socket", &socket, "--timeout", "300ms", "node", "remove", "n3"]).await;
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.stderr.contains("no answer from"), "{}", run.stderr);
    assert!(run.stderr.contains("may or may not"), "{}", run.stderr);
    assert!(start.elapsed() < PATIENCE);
}

#[tokio::test(flavor = "multi_thread")]
async fn init_keeps_the_key_in_a_private_file() {
    let folder = Folder::new("init");
    let socket = on_socket(&folder, Fake::default()).await;
    let file = folder.path("new/credentials");
    let arguments = ["--socket", &socket, "--credentials", &file, "init", "--cluster-name", "test"];

    let run = clusterctl(arguments).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("clusterctl join TOKEN-1"), "{}", run.stdout);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    let text = std::fs::read_to_string(&file).unwrap();
    let credentials: AdminCredentials = serde_json::from_str(&text).unwrap();
    assert_eq!(credentials.key_pem, "SECRET-KEY");
    assert_eq!(std::fs::read_dir(folder.path("new")).unwrap().count(), 1, "a temporary stayed");

    let again = clusterctl(arguments).await;
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("exist already"), "{}", again.stderr);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);

    let json = clusterctl([&arguments[..], &["--force", "-o", "json"]].concat()).await;
    assert_eq!(json.code, 0, "{}", json.stderr);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["join_token"], "TOKEN-1");
    assert!(!run.stdout.contains("SECRET-KEY") && !json.stdout.contains("SECRET-KEY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_init_leaves_nothing() {
    let folder = Folder::new("init-fails");
    let detail = ErrorDetail { reason: Reason::AlreadyMember.into(), ..ErrorDetail::default() };
    let socket = on_socket(&folder, Fake::refusing(error_status("is a member", &detail))).await;
    for file in ["new/deeper/credentials", "credentials"] {
        let file = folder.path(file);
        let run = clusterctl(["--socket", &socket, "--credentials", &file, "init"]).await;
        assert_eq!(run.code, 1);
        assert_eq!(std::fs::read_dir(folder.path("")).unwrap().count(), 1, "more than the socket");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_connections_become_one_document() {
    let folder = Folder::new("batches");
    let fake = Fake::with_connections(2_500);
    let socket = on_socket(&folder, fake.clone()).await;
    let run =
        clusterctl(["--socket", &socket, "conn", "list", "--group", "web", "-o", "json"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let reply: ListConnectionsReply = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((reply.total, reply.connections.len()), (2_500, 2_500));
    let clients: std::collections::BTreeSet<_> =
        reply.connections.iter().map(|connection| &connection.client).collect();
    assert_eq!(clients.len(), 2_500);
    assert_eq!(fake.listed().group, "web");
    assert_eq!(fake.listed().limit, Some(10_000));

    let some = clusterctl(["--socket", &socket, "conn", "list", "--limit", "5"]).await;
    assert!(some.stdout.ends_with("5 of 2500 connections\n"), "{}", some.stdout);
    assert!(some.stderr.contains("--limit 0"), "{}", some.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_is_no_error() {
    let folder = Folder::new("pipe");
    // More than a pipe holds.
    let socket = on_socket(&folder, Fake::with_connections(5_000)).await;
    let mut command = fake::command(["--socket", &socket, "conn", "list"]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn vip_move_passes_the_wish_on() {
    let folder = Folder::new("move");
    let fake = Fake::default();
    let socket = on_socket(&folder, fake.clone()).await;
    let move_ = ["--socket", &socket, "vip", "move", "web", "--to", "n2", "--wait", "1500ms"];
    let run = clusterctl(move_).await;
    assert_eq!(run.stdout, "Group web is now held by n2 (id 2), epoch 1.20.0@2.\n");
    let asked = fake.moved();
    let wanted = v1::MoveGroupRequest {
        group: "web".to_owned(),
        to_node: "n2".to_owned(),
        wait_ms: Some(1_500),
        force: false,
    };
    assert_eq!(asked, wanted);
    clusterctl(["--socket", &socket, "vip", "move", "web", "--to", "n2", "--force"]).await;
    let wanted = v1::MoveGroupRequest { wait_ms: Some(5_000), force: true, ..wanted };
    assert_eq!(fake.moved(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn vip_rebalance_carries_out_the_plan_and_a_dry_run_does_not() {
    let folder = Folder::new("rebalance");
    let fake = Fake::default();
    let socket = on_socket(&folder, fake.clone()).await;
    let run = clusterctl(["--socket", &socket, "vip", "rebalance", "--dry-run"]).await;
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert!(run.stdout.contains("web-7  n1    n2  n1 holds 4, n2 0\n"), "{}", run.stdout);
    assert!(run.stdout.ends_with("nothing was moved. 2 groups would move.\n"), "{}", run.stdout);
    assert_eq!(fake.moves(), 0);

    let run = clusterctl(["--socket", &socket, "vip", "rebalance", "-o", "json"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stderr, "1/2 web-7 n1 -> n2\n2/2 web-8 n1 -> n3\n");
    let value: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&value["moved"], &value["moves"][1]["group_id"]), (&2.into(), &8.into()));
    let asked = v1::MoveGroupRequest {
        group: "8".to_owned(),
        to_node: "3".to_owned(),
        wait_ms: Some(5_000),
        force: false,
    };
    assert_eq!((fake.moves(), fake.moved()), (2, asked));
}

#[tokio::test(flavor = "multi_thread")]
async fn vip_rebalance_stops_at_the_first_refusal_and_says_where() {
    let folder = Folder::new("rebalance-refused");
    let fake = Fake::with_a_group_that_stays(7);
    let socket = on_socket(&folder, fake.clone()).await;
    let run = clusterctl(["--socket", &socket, "vip", "rebalance"]).await;
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    let said = "error: stopped at move 1 of 2, web-7 n1 -> n2: n3 has no complete copy\n  \
        wait for it; nothing has moved; clusterctl vip rebalance --dry-run shows what is left\n";
    assert_eq!(run.stderr, said);
    assert_eq!(fake.moves(), 1, "the second is not asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_replace_names_who_goes_first() {
    let folder = Folder::new("replace");
    let socket = on_socket(&folder, Fake::default()).await;
    let run = clusterctl(["--socket", &socket, "node", "replace", "old", "new"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.stdout, "Node old (id 3) was removed; its place has new (id 4), which votes.\n");
    let run = clusterctl(["--socket", &socket, "node", "replace", "old"]).await;
    assert_eq!(run.code, 2, "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_asks_for_the_packet_and_prints_where_it_goes() {
    let folder = Folder::new("trace");
    let fake = Fake::default();
    let socket = on_socket(&folder, fake.clone()).await;
    let packet = "udp [2001:db8::7]:4711 > [2001:db8::100]:53";
    let run = clusterctl(["--socket", &socket, "trace", packet, "--packet", "rst"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.ends_with("It reaches 198.18.0.11:80.\n"), "{}", run.stdout);
    let asked = v1::TraceRequest {
        protocol: v1::Protocol::Udp.into(),
        source: "[2001:db8::7]:4711".to_owned(),
        destination: "[2001:db8::100]:53".to_owned(),
        step: v1::TraceStep::Reset.into(),
    };
    assert_eq!(fake.traced(), asked);
    let run = clusterctl(["--socket", &socket, "trace", "tcp 198.51.100.7:4711"]).await;
    assert_eq!((run.code, run.stdout.as_str()), (2, ""));
    assert!(run.stderr.contains("quote it"), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_errors_are_exit_two() {
    for arguments in [&["frobnicate"][..], &["vip", "move", "web"], &["apply", "-f", "/nowhere"]] {
        let run = clusterctl(arguments).await;
        assert_eq!(run.code, 2, "{arguments:?}: {}", run.stderr);
        assert_eq!(run.stdout, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_tried_in_order_over_mutual_tls() {
    let folder = Folder::new("tls");
    let authority = Authority::new();
    let live = over_tls(&authority, Fake::default()).await;
    // Bound and closed: nobody listens there.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = folder.credentials(&authority.client(), &authority, &[dead, live]);

    let run = clusterctl(["--credentials", &file, "status"]).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.starts_with("Cluster test"), "{}", run.stdout);

    let server = dead.to_string();
    let run = clusterctl(["--credentials", &file, "--server", &server, "status"]).await;
    assert_eq!(run.code, 4);
    assert!(run.stderr.contains(&server), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_is_refused_with_the_reason() {
    let folder = Folder::new("tls-other");
    let (ours, other) = (Authority::new(), Authority::new());
    let address = over_tls(&other, Fake::default()).await;
    let file = folder.credentials(&ours.client(), &ours, &[address]);
    let run = clusterctl(["--credentials", &file, "status"]).await;
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.stderr.contains("not of the cluster"), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_another_cluster_are_refused_with_the_reason() {
    let folder = Folder::new("tls-client");
    let ours = Authority::new();
    let address = over_tls(&ours, Fake::default()).await;
    // The authorities of two clusters may have the same name; the server's alert differs.
    for other in [Authority::new(), Authority::named("another authority")] {
        // The node is the right one, only our certificate is from elsewhere.
        let file = folder.credentials(&other.client(), &ours, &[address]);
        let run = clusterctl(["--credentials", &file, "status"]).await;
        assert_eq!(run.code, 4, "{}", run.stderr);
        assert!(run.stderr.contains("refused these credentials"), "{}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_the_node_name_is_refused() {
    let folder = Folder::new("tls-name");
    let authority = Authority::new();
    let address = fake::over_tls_as(&authority, Fake::default(), "someone.else").await;
    let file = folder.credentials(&authority.client(), &authority, &[address]);
    let run = clusterctl(["--credentials", &file, "status"]).await;
    assert_eq!(run.code, 4, "{}", run.stderr);
}
