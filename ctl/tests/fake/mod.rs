//! A server that answers what the test wants, and the means to run the program against it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use steadfast_proto::NODE_TLS_NAME;
use steadfast_proto::v1::control_server::{Control, ControlServer};
use steadfast_proto::v1::{self, AdminCredentials, NodeRef, NodeRole, StatusReply};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// Connections in one batch of the fake.
const BATCH: usize = 1_000;

/// What the fake was asked, and what it answers.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    refusal: Option<Status>,
    connections: usize,
    /// A group that stays where it is.
    stays: Option<u32>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    apply: v1::ApplyRequest,
    list: v1::ListConnectionsRequest,
    moved: v1::MoveGroupRequest,
    moves: usize,
    trace: v1::TraceRequest,
}

impl Fake {
    pub(crate) fn refusing(status: Status) -> Self {
        Self { refusal: Some(status), ..Self::default() }
    }

    pub(crate) fn with_connections(connections: usize) -> Self {
        Self { connections, ..Self::default() }
    }

    pub(crate) fn with_a_group_that_stays(id: u32) -> Self {
        Self { stays: Some(id), ..Self::default() }
    }

    /// How often it was asked to move a group.
    pub(crate) fn moves(&self) -> usize {
        self.seen.lock().unwrap().moves
    }

    pub(crate) fn applied(&self) -> v1::ApplyRequest {
        self.seen.lock().unwrap().apply.clone()
    }

    pub(crate) fn listed(&self) -> v1::ListConnectionsRequest {
        self.seen.lock().unwrap().list.clone()
    }

    pub(crate) fn moved(&self) -> v1::MoveGroupRequest {
        self.seen.lock().unwrap().moved.clone()
    }

    pub(crate) fn traced(&self) -> v1::TraceRequest {
        self.seen.lock().unwrap().trace.clone()
    }

    fn answer<T>(&self, reply: T) -> Result<Response<T>, Status> {
        match &self.refusal {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(Response::new(reply)),
        }
    }
}

pub(crate) fn status_reply() -> StatusReply {
    StatusReply {
        cluster_name: "test".to_owned(),
        serving_node: Some(NodeRef { id: 1, name: "n1".to_owned() }),
        has_quorum: true,
        nodes: vec![v1::Node {
            id: 1,
            name: "n1".to_owned(),
            role: NodeRole::Voter.into(),
            alive: true,
            ..v1::Node::default()
        }],
        services: vec![v1::Service {
            id: 4,
            name: "http".to_owned(),
            scheduler: "wlc".to_owned(),
            in_packets: 77,
            ..v1::Service::default()
        }],
        local: Some(v1::LocalStatus {
            workers: (0..2)
                .map(|queue| v1::Worker {
                    queue,
                    drops: [("no_route".to_owned(), 5)].into(),
                    ..v1::Worker::default()
                })
                .collect(),
            ..v1::LocalStatus::default()
        }),
        ..StatusReply::default()
    }
}

#[tonic::async_trait]
impl Control for Fake {
    type ListConnectionsStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<v1::ListConnectionsReply, Status>>>;

    async fn init(&self, _: Request<v1::InitRequest>) -> Result<Response<v1::InitReply>, Status> {
        let admin = AdminCredentials {
            ca_pem: "CA".to_owned(),
            cert_pem: "CERT".to_owned(),
            key_pem: "SECRET-KEY".to_owned(),
            endpoints: vec!["127.0.0.1:1".to_owned()],
        };
        let join_token = "TOKEN-1".to_owned();
        self.answer(v1::InitReply { admin: Some(admin), join_token, ..v1::InitReply::default() })
    }

    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> Result<Response<v1::ApplyReply>, Status> {
        self.seen.lock().unwrap().apply = request.into_inner();
        self.answer(v1::ApplyReply {
            revision: 7,
            changed: true,
            diff: vec!["+ service http".to_owned()],
            warnings: vec!["beacons are thin".to_owned()],
        })
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<StatusReply>, Status> {
        self.answer(status_reply())
    }

    async fn move_group(
        &self,
        request: Request<v1::MoveGroupRequest>,
    ) -> Result<Response<v1::MoveGroupReply>, Status> {
        let request = request.into_inner();
        let stays = self.stays.is_some_and(|id| id.to_string() == request.group);
        {
            let mut seen = self.seen.lock().unwrap();
            seen.moved = request;
            seen.moves += 1;
        }
        if stays {
            let detail = v1::ErrorDetail {
                reason: v1::Reason::MoveRefused.into(),
                fix: "wait for it".to_owned(),
                ..v1::ErrorDetail::default()
            };
            return Err(steadfast_proto::error_status("n3 has no complete copy", &detail));
        }
        let epoch = v1::Epoch { text: "1.20.0@2".to_owned(), ..v1::Epoch::default() };
        let holder = NodeRef { id: 2, name: "n2".to_owned() };
        self.answer(v1::MoveGroupReply { epoch: Some(epoch), holder: Some(holder), moved: true })
    }

    async fn plan_rebalance(
        &self,
        _: Request<v1::PlanRebalanceRequest>,
    ) -> Result<Response<v1::PlanRebalanceReply>, Status> {
        let node = |id: u32| Some(NodeRef { id, name: format!("n{id}") });
        let planned = |group: u32, to: u32| v1::PlannedMove {
            group_id: group,
            group: format!("web-{group}"),
            from: node(1),
            to: node(to),
            why: "n1 holds 4, n2 0".to_owned(),
        };
        self.answer(v1::PlanRebalanceReply {
            moves: vec![planned(7, 2), planned(8, 3)],
            ..v1::PlanRebalanceReply::default()
        })
    }

    async fn list_connections(
        &self,
        request: Request<v1::ListConnectionsRequest>,
    ) -> Result<Response<Self::ListConnectionsStream>, Status> {
        let request = request.into_inner();
        let limit = request.limit.map_or(usize::MAX, |limit| limit as usize);
        self.seen.lock().unwrap().list = request;
        let all: Vec<_> = (0..self.connections.min(limit))
            .map(|number| v1::Connection {
                client: format!("198.18.0.9:{}", 10_000 + number),
                ..v1::Connection::default()
            })
            .collect();
        let batches: Vec<_> = all
            .chunks(BATCH)
            .map(|batch| {
                let total = self.connections as u64;
                Ok(v1::ListConnectionsReply { total, connections: batch.to_vec() })
            })
            .collect();
        self.answer(tokio_stream::iter(batches))
    }

    async fn trace(
        &self,
        request: Request<v1::TraceRequest>,
    ) -> Result<Response<v1::TraceReply>, Status> {
        self.seen.lock().unwrap().trace = request.into_inner();
        let node = v1::TraceNode {
            fate: v1::TraceFate::Forwarded.into(),
            server: "198.18.0.11:80".to_owned(),
            ..v1::TraceNode::default()
        };
        self.answer(v1::TraceReply { nodes: vec![node] })
    }

    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn create_token(
        &self,
        _: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenReply>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn admit(
        &self,
        _: Request<v1::AdmitRequest>,
    ) -> Result<Response<v1::AdmitReply>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn get_config(
        &self,
        _: Request<v1::GetConfigRequest>,
    ) -> Result<Response<v1::GetConfigReply>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn node_remove(
        &self,
        _: Request<v1::NodeRemoveRequest>,
    ) -> Result<Response<v1::NodeRemoveReply>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn node_promote(
        &self,
        _: Request<v1::NodePromoteRequest>,
    ) -> Result<Response<v1::NodePromoteReply>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn node_demote(
        &self,
        _: Request<v1::NodeDemoteRequest>,
    ) -> Result<Response<v1::NodeDemoteReply>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn node_replace(
        &self,
        request: Request<v1::NodeReplaceRequest>,
    ) -> Result<Response<v1::NodeReplaceReply>, Status> {
        let v1::NodeReplaceRequest { old_node, new_node } = request.into_inner();
        let node = |id: u32, name: String| Some(NodeRef { id, name });
        self.answer(v1::NodeReplaceReply {
            old_node: node(3, old_node),
            new_node: node(4, new_node),
            voter: true,
        })
    }

    async fn node_cordon(
        &self,
        _: Request<v1::NodeCordonRequest>,
    ) -> Result<Response<v1::NodeCordonReply>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn detach(
        &self,
        _: Request<v1::DetachRequest>,
    ) -> Result<Response<v1::DetachReply>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }
}

/// Serves on a Unix socket in the folder until the test's runtime ends.
pub(crate) async fn on_socket(folder: &Folder, fake: Fake) -> String {
    let path = folder.path("clusterd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = Server::builder().add_service(ControlServer::new(fake));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    path
}

/// Serves over mutual TLS on loopback.
pub(crate) async fn over_tls(authority: &Authority, fake: Fake) -> SocketAddr {
    over_tls_as(authority, fake, NODE_TLS_NAME).await
}

/// The same with another name in the certificate.
pub(crate) async fn over_tls_as(authority: &Authority, fake: Fake, name: &str) -> SocketAddr {
    let (cert, key) = authority.issue(name, ExtendedKeyUsagePurpose::ServerAuth);
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(authority.ca_pem()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = Server::builder().tls_config(tls).unwrap();
    let server = server.add_service(ControlServer::new(fake));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// A certificate authority of one test.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("test authority")
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key of an administrator.
    pub(crate) fn client(&self) -> (String, String) {
        self.issue("admin.steadfast", ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn ca_pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// A folder of one test, removed at its end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cctl-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A folder in this one.
    pub(crate) fn below(&self, name: &str) -> Self {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A credentials file with this identity, trusting `authority`.
    pub(crate) fn credentials(
        &self,
        identity: &(String, String),
        authority: &Authority,
        endpoints: &[SocketAddr],
    ) -> String {
        let credentials = AdminCredentials {
            ca_pem: authority.ca_pem(),
            cert_pem: identity.0.clone(),
            key_pem: identity.1.clone(),
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
        };
        self.write("credentials", &serde_json::to_string(&credentials).unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a run of the program left.
pub(crate) struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// The program with arguments, without the caller's variables.
pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(
    arguments: impl IntoIterator<Item = S>,
) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_clusterctl"));
    command.args(arguments).env_clear().kill_on_drop(true);
    command
}

/// Runs it to its end.
pub(crate) async fn finish(command: tokio::process::Command) -> Run {
    finish_with_stdin(command, "").await
}

/// Runs it to its end with this on its standard input.
pub(crate) async fn finish_with_stdin(mut command: tokio::process::Command, text: &str) -> Run {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Dropped at the end of the statement, which ends the input.
    child.stdin.take().unwrap().write_all(text.as_bytes()).await.unwrap();
    let output = child.wait_with_output();
    let output = tokio::time::timeout(super::PATIENCE, output).await.unwrap().unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the program with arguments.
pub(crate) async fn clusterctl<S: AsRef<std::ffi::OsStr>>(
    arguments: impl IntoIterator<Item = S>,
) -> Run {
    finish(command(arguments)).await
}
