//! What an operator and a program see of the control API: documents, JSON, mutual TLS, gRPC health
//! and reflection. One cluster, one phase after the other. Needs root; fails without.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::common::{Lab, phase, until};
use rustix::process::Signal;
use serde_json::Value;
use steadfast_lab::{
    cluster::api,
    host::{
        inside::inside,
        names::{Host, NODES, Network, vip_target},
    },
};
use steadfast_peer::pki::{Ca, Role};
use steadfast_proto::{
    NODE_TLS_NAME, SERVICE_NAME,
    v1::{StatusRequest, control_client::ControlClient},
};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

#[tokio::test]
async fn an_operator_sees() {
    let mut lab = Lab::start("e2eops").await;
    a_wrong_document_changes_nothing(&lab);
    revisions_and_differences(&mut lab).await;
    json_is_json(&mut lab).await;
    mutual_tls_decides_who_may_call(&lab);
    health_and_reflection_answer(&lab).await;
    status_says_what_is_wrong_and_what_to_do(&mut lab).await;
    phase("done");
}

// ---- Documents ----

fn write(lab: &Lab, name: &str, text: &str) -> String {
    let path = lab.scratch(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn a_wrong_document_changes_nothing(lab: &Lab) {
    phase("a wrong document changes nothing");
    let good = lab.cluster.plan().document().unwrap();
    let before = (lab.status(1).config_revision, config(lab, 1));
    let place = |needle: &str| -> String {
        let line = good.lines().position(|l| l.contains(needle)).unwrap() + 1;
        format!(":{line}:")
    };
    // What is changed, where that is said to be, and what is said of it.
    let cases: [(&str, &str, String, &[&str]); 5] = [
        ("scheduler: rr", "scheduler: rx", place("scheduler: rr"), &["rx"]),
        ("forwarding: dr", "forwarding: dr\n    wieght: 1", String::new(), &["wieght"]),
        ("weight: 1}", "weight: heavy}", place("weight: 1}"), &[]),
        ("group: web", "group: wbe", place("group: web"), &["services[0].group", "wbe", "web"]),
        (
            "port: 7\n    protocol: tcp",
            "port: 70000\n    protocol: tcp",
            place("port: 7"),
            &["70000 is no port", "1 to 65535"],
        ),
    ];
    for (from, to, place, parts) in cases {
        assert!(good.contains(from), "the example has no `{from}`");
        let file = write(lab, "wrong.yaml", &good.replacen(from, to, 1));
        for n in NODES {
            let said = lab.ctl(n, &["apply", "-f", &file]);
            assert!(said.out.is_empty(), "data on standard output: {said}");
            assert!(!said.err.contains('\u{fffd}'), "unprintable characters: {said}");
            let wanted: Vec<&str> =
                [file.as_str(), place.as_str()].into_iter().chain(parts.iter().copied()).collect();
            said.bad(1, &wanted);
        }
    }
    let line = place("scheduler: rr");
    let file = write(lab, "wrong.yaml", &good.replacen("scheduler: rr", "scheduler: rx", 1));
    let said = lab.ctl(1, &["apply", "-f", &file, "--dry-run"]);
    assert!(said.err.contains(&format!("{file}{line}")), "no FILE:LINE:COLUMN: {said}");
    said.bad(1, &["rr"]);
    // The daemon knows what does not fit together by its path only; the line is found all the same.
    let line = place("group: web");
    let file = write(lab, "wrong.yaml", &good.replacen("group: web", "group: wbe", 1));
    let said = lab.ctl(1, &["apply", "-f", &file, "--dry-run"]);
    let wanted = format!("{file}{line}12: services[0].group: group `wbe` does not exist; write");
    assert!(said.err.contains(&wanted), "no `{wanted}`: {said}");
    said.bad(1, &["`web`"]);
    lab.ctl(1, &["apply", "-f", "/nonexistent.yaml"]).bad(2, &["/nonexistent.yaml"]);
    for n in NODES {
        let now = (lab.status(n).config_revision, config(lab, n));
        assert_eq!(now, before, "n{n} has another configuration");
    }
}

fn config(lab: &Lab, n: u8) -> String {
    lab.ctl(n, &["get", "config"]).good()
}

async fn revisions_and_differences(lab: &mut Lab) {
    phase("revisions, conflicts, differences");
    let text = lab.cluster.plan().document().unwrap();
    let revision = lab.status(1).config_revision;
    for n in NODES {
        assert_eq!(config(lab, n), text, "the document of n{n} is not what was applied");
    }
    let said = lab.ctl(2, &["apply", "-f", &write(lab, "same.yaml", &text)]).good();
    assert!(said.contains("No change"), "{said}");

    let other = text.replacen("scheduler: rr", "scheduler: mh", 1);
    let file = write(lab, "other.yaml", &other);
    let said = lab.ctl(3, &["apply", "-f", &file, "--dry-run"]).good();
    assert!(said.contains("~ service echo-tcp: scheduler rr -> mh\n"), "{said}");
    assert!(said.contains("nothing was committed"), "{said}");
    let nothing_changed = |what: &str| {
        for n in NODES {
            assert_eq!(lab.status(n).config_revision, revision, "n{n}: {what} was committed");
            assert_eq!(config(lab, n), text, "n{n}: {what} was committed");
        }
    };
    nothing_changed("a dry run");
    let wrong = (revision + 7).to_string();
    let said = lab.ctl(3, &["apply", "-f", &file, "--revision", &wrong]);
    said.bad(1, &["revision", &revision.to_string()]);
    nothing_changed("a change to another revision");

    lab.ctl(3, &["apply", "-f", &file, "--revision", &revision.to_string()]).good();
    assert_eq!(lab.ready().await.revision, revision + 1);
    for n in NODES {
        assert_eq!(config(lab, n), other, "n{n} has not what was applied last");
        let old = lab.ctl(n, &["get", "config", "--revision", &revision.to_string()]).good();
        assert_eq!(old, text, "n{n} has forgotten revision {revision}");
    }
    lab.ctl(1, &["get", "config", "--revision", "99"]).bad(1, &["99"]);
}

// ---- What is wrong ----

/// A fault is noticed by then.
const SOON: Duration = Duration::from_secs(10);

/// What node `n` warns of: severity, text, remedy.
fn warnings(lab: &Lab, n: u8) -> Vec<(String, String, String)> {
    let status = lab.status_json(n);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let warnings = status["warnings"].as_array().unwrap().iter();
    warnings.map(|w| (text(&w["severity"]), text(&w["what"]), text(&w["fix"]))).collect()
}

#[track_caller]
fn wait_warning(lab: &Lab, n: u8, severity: &str, what: &str) {
    until(&format!("n{n} warns of `{what}`"), SOON, || {
        let all = warnings(lab, n);
        let found = all.iter().any(|w| w.0 == severity && w.1.contains(what) && !w.2.is_empty());
        if found { Ok(()) } else { Err(format!("{all:?}")) }
    });
}

async fn kill(lab: &mut Lab, n: u8) {
    lab.cluster.signal(n, Signal::KILL).unwrap();
    lab.cluster.reap(n, SOON).await.unwrap();
}

async fn status_says_what_is_wrong_and_what_to_do(lab: &mut Lab) {
    let (holder, _) = lab.holder().unwrap();
    let others: Vec<u8> = NODES.into_iter().filter(|n| *n != holder).collect();
    let (dead, other) = (others[0], others[1]);
    let log_before = |lab: &Lab, n| lab.log(Host::Node(n)).len();

    phase("a node that is down is told of once");
    kill(lab, dead).await;
    wait_warning(lab, holder, "bad", &format!("node n{dead}: DOWN"));
    until("there is a leader", SOON, || {
        if lab.status(holder).has_quorum { Ok(()) } else { Err("no quorum".to_owned()) }
    });
    let about: Vec<_> = warnings(lab, holder)
        .into_iter()
        .filter(|w| w.1.starts_with(&format!("node n{dead}")))
        .collect();
    assert_eq!(about.len(), 1, "{about:?}");
    let seen: Vec<usize> = [holder, other].map(|n| log_before(lab, n)).to_vec();
    tokio::time::sleep(Duration::from_secs(5)).await;
    for (n, before) in [holder, other].into_iter().zip(seen) {
        let log = lab.log(Host::Node(n));
        let new = log[before..].lines().count();
        assert!(new < 20, "n{n} logs {new} lines in 5 s while a node is down: {}", &log[before..]);
        let lost = log.lines().filter(|l| l.contains("control down")).count();
        assert!(lost > 0, "n{n} does not log that it lost n{dead}");
    }

    phase("who is needed stays; what is left is judged");
    let needed = format!("n{other}");
    lab.ctl(holder, &["node", "remove", &needed]).bad(1, &["nothing could be decided"]);
    lab.ctl(holder, &["node", "remove", &format!("n{dead}")]).good();
    wait_warning(lab, holder, "warn", "two voters");
    let screen = lab.ctl(holder, &["status"]).good();
    assert!(screen.contains("!  two voters") && screen.contains("   -> "), "{screen}");

    phase("a removed node knows that it is one");
    lab.cluster.start_node(dead).await.unwrap();
    wait_warning(lab, dead, "bad", "THIS NODE WAS REMOVED");
    let screen = lab.ctl(dead, &["status"]).good();
    for claim in ["NO HOLDER", "NO QUORUM", "Quorum NONE", "election"] {
        assert!(!screen.contains(claim), "it claims `{claim}`: {screen}");
    }
    assert_eq!(lab.status_json(dead)["removed"], true);
    assert_eq!(lab.status_json(holder)["removed"], false);

    phase("no move without a quorum");
    kill(lab, other).await;
    wait_warning(lab, holder, "bad", "NO QUORUM: 1 of 2 voters heard");
    let started = std::time::Instant::now();
    lab.ctl(holder, &["vip", "move", "web", "--to", &needed]).bad(3, &["no quorum"]);
    assert!(started.elapsed() < Duration::from_secs(4), "it took {:?}", started.elapsed());
}

// ---- JSON ----

async fn json_is_json(lab: &mut Lab) {
    phase("-o json");
    let mut client = lab.cluster.client().unwrap();
    assert_eq!(client.open(vip_target(), 3, 3).await.unwrap().established, 6);
    let (holder, _) = lab.holder().unwrap();
    for n in NODES {
        let status = lab.ctl(n, &["status", "-o", "json"]).json();
        assert_eq!(status["serving_node"]["name"], format!("n{n}"));
        assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
        let nodes = lab.ctl(n, &["node", "list", "-o", "json"]).json();
        let names: Vec<&Value> = nodes["nodes"].as_array().unwrap().iter().collect();
        assert_eq!(names.len(), 3, "{nodes}");
        assert!(names.iter().all(|node| node["role"] == "voter"), "{nodes}");
    }
    let list = lab.ctl(holder, &["conn", "list", "-o", "json", "--service", "echo-tcp"]).json();
    let connections = list["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 6, "{list}");
    assert_eq!(list["total"].as_u64(), Some(6), "{list}");
    for connection in connections {
        assert_eq!(connection["state"], "ESTABLISHED", "{connection}");
        assert_eq!(connection["origin"], "local", "{connection}");
        let servers = ["198.18.0.11:7", "198.18.0.12:7", "198.18.0.13:7"];
        assert!(servers.iter().any(|s| connection["server"] == *s), "{connection}");
    }
    let one = lab.ctl(holder, &["conn", "list", "-o", "json", "--limit", "1"]).json();
    assert_eq!(one["connections"].as_array().unwrap().len(), 1);
    for (what, key) in [("services", "services"), ("groups", "groups"), ("nodes", "nodes")] {
        let part = lab.ctl(1, &["get", what, "-o", "json"]).json();
        assert!(!part[key].as_array().unwrap().is_empty(), "{part}");
    }
    let table = lab.ctl(holder, &["status"]).good();
    for word in ["n1", "n2", "n3", "web", "echo-tcp", "198.18.0.100"] {
        assert!(table.contains(word), "the screen does not show `{word}`:\n{table}");
    }
}

// ---- Mutual TLS ----

fn api_of(n: u8) -> SocketAddr {
    (Network::Mgmt.node_address(n), 7440).into()
}

fn mutual_tls_decides_who_may_call(lab: &Lab) {
    phase("the credentials of init work from another node");
    let path: PathBuf = lab.tag().socket(1).with_extension("admin");
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "mode of the credentials");
    let file = path.display().to_string();
    let here = Host::Node(2);
    for n in NODES {
        let server = api_of(n).to_string();
        let args = ["--server", &server, "--credentials", &file, "status", "-o", "json"];
        let status = lab.ctl_in(here, &args).json();
        assert_eq!(status["serving_node"]["name"], format!("n{n}"));
    }
    // Without --server it goes where the file says.
    let status = lab.ctl_in(here, &["--credentials", &file, "status", "-o", "json"]).json();
    assert_eq!(status["serving_node"]["name"], "n1");

    phase("others are denied");
    let real: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let ca = real["ca_pem"].as_str().unwrap();
    // The same names, another key.
    let forger = Ca::generate("demo").unwrap();
    let forged = forger.issue_user("admin", Role::Admin).unwrap();
    let server = api_of(1).to_string();
    let mut credentials = real.clone();
    credentials["cert_pem"] = forged.cert_pem.clone().into();
    credentials["key_pem"] = forged.key_pem.clone().into();
    let before = lab.status(1).config_revision;
    for (what, ca_pem) in [("certificate", ca), ("authority", forger.cert_pem())] {
        credentials["ca_pem"] = ca_pem.into();
        let file = write(lab, "forged.json", &credentials.to_string());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let said = lab.ctl_in(here, &["--server", &server, "--credentials", &file, "status"]);
        assert!(matches!(said.code, Some(1 | 4)), "a forged {what} was let in: {said}");
        assert!(said.out.is_empty(), "a forged {what} was answered: {said}");
        assert!(said.err.contains("credentials"), "the reason is not told ({what}): {said}");
    }
    let anonymous = call_status(lab, ca, None).unwrap_err();
    assert_eq!(anonymous.code(), Code::PermissionDenied, "without certificate: {anonymous:?}");
    let viewer = call_status(lab, ca, Some((forged.cert_pem, forged.key_pem)));
    assert!(viewer.is_err(), "a certificate of another authority was let in");
    let certificate = real["cert_pem"].as_str().unwrap().to_owned();
    let key = real["key_pem"].as_str().unwrap().to_owned();
    assert_eq!(call_status(lab, ca, Some((certificate, key))).unwrap(), "n1", "the test is wrong");
    assert_eq!(lab.status(1).config_revision, before);
    let log = lab.log(Host::Node(1));
    assert!(log.contains("denied") && log.contains("anonymous"), "the denial is in no audit log");
    // Refused in the handshake: the other side is told little, so this one says who and why.
    let why = "its certificate: it is signed by the authority of another cluster";
    let from = format!("TLS refused: {why} from={}:", Network::Mgmt.node_address(2));
    assert!(log.contains(&from), "n1 does not say whom it refused and why");
}

/// Calls `Status` on n1 from n2 with these certificates; who answered.
fn call_status(
    lab: &Lab,
    ca: &str,
    client: Option<(String, String)>,
) -> Result<String, tonic::Status> {
    inside(&lab.namespace(Host::Node(2)), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(ca))
                .domain_name(NODE_TLS_NAME);
            if let Some((certificate, key)) = client {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            let broken = |e: tonic::transport::Error| tonic::Status::unavailable(e.to_string());
            let channel = Endpoint::from_shared(format!("https://{}", api_of(1)))
                .map_err(broken)?
                .tls_config(tls)
                .map_err(broken)?
                .timeout(Duration::from_secs(5))
                .connect()
                .await
                .map_err(broken)?;
            let reply = ControlClient::new(channel).status(StatusRequest {}).await?.into_inner();
            Ok(reply.serving_node.unwrap().name)
        })
    })
    .unwrap()
}

// ---- gRPC ----

async fn channel(socket: &Path) -> Channel {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    endpoint.timeout(Duration::from_secs(5)).connect().await.unwrap()
}

async fn health_and_reflection_answer(lab: &Lab) {
    phase("gRPC health and reflection");
    for n in NODES {
        let channel = channel(&lab.tag().socket(n)).await;
        let mut health = HealthClient::new(channel.clone());
        for service in [SERVICE_NAME, ""] {
            let request = HealthCheckRequest { service: service.to_owned() };
            let reply = health.check(request).await.unwrap().into_inner();
            assert_eq!(reply.status(), ServingStatus::Serving, "n{n}, `{service}`");
        }
        let request = HealthCheckRequest { service: "no.such.Service".to_owned() };
        assert_eq!(health.check(request).await.unwrap_err().code(), Code::NotFound);

        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut replies = ServerReflectionClient::new(channel.clone())
            .server_reflection_info(tokio_stream::once(request))
            .await
            .unwrap()
            .into_inner();
        let reply = replies.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::ListServicesResponse(list) = reply else { panic!("{reply:?}") };
        let names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
        for wanted in [SERVICE_NAME, "grpc.health.v1.Health"] {
            assert!(names.iter().any(|n| n == wanted), "reflection of n{n} lists {names:?}");
        }
    }
    // What a program reads is what clusterctl prints.
    let reply = ControlClient::new(channel(&lab.tag().socket(1)).await)
        .status(StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    let status: api::Status =
        serde_json::from_str(&serde_json::to_string(&reply).unwrap()).unwrap();
    assert_eq!(status.config_revision, lab.status(1).config_revision);
}
