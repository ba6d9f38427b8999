//! How a daemon becomes a member, and that it is none when that fails. The daemon itself, on
//! loopback addresses of its own; needs root for a folder on a bpffs.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use steadfast_peer::pki;
use steadfast_proto::{
    NODE_TLS_NAME,
    v1::{
        AdmitRequest, ApplyRequest, CreateTokenRequest, DetachRequest, InitReply, InitRequest,
        JoinRequest, Node, NodeAddresses, NodeCordonRequest, NodeDemoteRequest, NodeReplaceRequest,
        NodeRole, StatusReply, StatusRequest, control_client::ControlClient,
    },
};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

/// A daemon is up, and a port free again, by then.
const SOON: Duration = Duration::from_secs(10);

/// One test after the other: a child that another test is just starting holds copies of our open
/// sockets until it runs its program, and an address would be taken for longer than it seems.
static ONE_BY_ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A daemon, removed with all it made.
struct Daemon {
    child: Child,
    address: Ipv4Addr,
    folder: PathBuf,
}

impl Daemon {
    fn start() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let address = Ipv4Addr::new(127, high, low, number);
        let name = format!("clusterd-test-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let config = folder.join("clusterd.yaml");
        let text = format!(
            "instance: t{number}\ndata_dir: {0}/data\nsocket: {0}/socket\nbpffs: {1}\nlisten: \
             {{api: '{address}:7440', control: '{address}:7441', replication: '{address}:7442'}}\n",
            folder.display(),
            Self::bpffs_of(&folder).display(),
        );
        fs::write(&config, text).unwrap();
        let daemon = Self { child: Self::spawn(&folder), address, folder };
        daemon.wait_until_up();
        daemon
    }

    fn spawn(folder: &Path) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log"));
        Command::new(env!("CARGO_BIN_EXE_clusterd"))
            .arg("--config")
            .arg(folder.join("clusterd.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap()
    }

    fn wait_until_up(&self) {
        let started = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.folder.join("socket")).is_err() {
            assert!(started.elapsed() < SOON, "it does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart_after_kill(&mut self) {
        self.kill();
        self.restart();
    }

    fn restart(&mut self) {
        self.child = Self::spawn(&self.folder);
        self.wait_until_up();
    }

    fn bpffs_of(folder: &Path) -> PathBuf {
        Path::new("/sys/fs/bpf").join(folder.file_name().unwrap())
    }

    fn bpffs(&self) -> PathBuf {
        Self::bpffs_of(&self.folder)
    }

    fn instance(&self) -> String {
        format!("t{}", self.address.octets()[3])
    }

    fn listen(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    async fn client(&self) -> ControlClient<Channel> {
        let socket = format!("unix://{}/socket", self.folder.display());
        ControlClient::new(Endpoint::from_shared(socket).unwrap().connect().await.unwrap())
    }

    async fn init(&self) -> Result<InitReply, Status> {
        let request = InitRequest { cluster_name: "test".to_owned(), ..InitRequest::default() };
        Ok(self.client().await.init(request).await?.into_inner())
    }

    async fn join(&self, token: &str) -> Result<u32, Status> {
        let request = JoinRequest { token: token.to_owned() };
        Ok(self.client().await.join(request).await?.into_inner().node_id)
    }

    /// How many entries of the log this node has applied; none for a node that is nobody.
    async fn applied(&self) -> Option<u64> {
        let reply = self.client().await.status(StatusRequest {}).await.ok()?;
        Some(reply.into_inner().applied_index)
    }

    /// What it says of the cluster, once that is so.
    async fn status_when(&self, what: &str, so: impl Fn(&StatusReply) -> bool) -> StatusReply {
        let started = Instant::now();
        loop {
            let reply = self.client().await.status(StatusRequest {}).await.unwrap().into_inner();
            if so(&reply) {
                return reply;
            }
            assert!(started.elapsed() < SOON, "{what}: not within {SOON:?}: {reply:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asserts that the daemon is as new, apart from its log.
    async fn assert_nobody(&self, what: &str) {
        let said = self.client().await.status(StatusRequest {}).await.unwrap_err();
        assert!(said.message().contains("belongs to no cluster yet"), "{what}: {said}");
        let left = fs::read_dir(self.folder.join("data")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"], "{what}: left in the data folder");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of {}:\n{}", self.address, self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_dir(self.bpffs().join(self.instance()));
        let _ = fs::remove_dir(self.bpffs());
    }
}

/// Somebody who has one of the node's addresses.
enum Squatter {
    Tcp(#[allow(dead_code)] TcpListener),
    Udp(#[allow(dead_code)] UdpSocket),
}

/// The keys of the local file, with a socket that has their address.
fn squatters(daemon: &Daemon) -> impl Iterator<Item = (&'static str, Squatter)> {
    [("listen.api", 7440), ("listen.control", 7441), ("listen.replication", 7442)].into_iter().map(
        |(key, port)| {
            let address = daemon.listen(port);
            let squatter = match key {
                "listen.api" => Squatter::Tcp(TcpListener::bind(address).unwrap()),
                _ => Squatter::Udp(UdpSocket::bind(address).unwrap()),
            };
            (key, squatter)
        },
    )
}

#[tokio::test]
async fn a_taken_address_stops_init_before_it_begins() {
    let _turn = ONE_BY_ONE.lock().await;
    let node = Daemon::start();
    for (key, squatter) in squatters(&node) {
        let said = node.init().await.unwrap_err();
        assert!(said.message().contains(key), "{key}: {said}");
        node.assert_nobody(key).await;
        drop(squatter);
    }
    node.init().await.unwrap();
    assert!(node.applied().await.is_some());
}

#[tokio::test]
async fn a_taken_address_stops_join_before_the_token_is_spent() {
    let _turn = ONE_BY_ONE.lock().await;
    let (first, second) = (Daemon::start(), Daemon::start());
    let token = first.init().await.unwrap().join_token;
    let before = first.applied().await;
    for (key, squatter) in squatters(&second) {
        let said = second.join(&token).await.unwrap_err();
        assert!(said.message().contains(key), "{key}: {said}");
        second.assert_nobody(key).await;
        drop(squatter);
    }
    assert_eq!(first.applied().await, before, "the cluster was asked");
    assert_eq!(second.join(&token).await.unwrap(), 2, "ids were spent");
    let said = Daemon::start().join(&token).await.unwrap_err();
    assert!(said.message().contains("token"), "it is good for two nodes: {said}");
}

/// The identity is the last that is written: everything else runs by then.
#[tokio::test]
async fn a_member_that_cannot_be_saved_is_taken_back() {
    let _turn = ONE_BY_ONE.lock().await;
    let (first, second) = (Daemon::start(), Daemon::start());
    let obstacle = |node: &Daemon| node.folder.join("data/identity.json.new");
    fs::create_dir(obstacle(&first)).unwrap();
    let said = first.init().await.unwrap_err();
    assert!(said.message().contains("identity.json"), "{said}");
    fs::remove_dir(obstacle(&first)).unwrap();
    first.assert_nobody("init").await;
    let token = when_free(|| first.init()).await.unwrap().join_token;

    fs::create_dir(obstacle(&second)).unwrap();
    let said = second.join(&token).await.unwrap_err();
    assert!(said.message().contains("admitted this node as 2, but"), "{said}");
    fs::remove_dir(obstacle(&second)).unwrap();
    second.assert_nobody("join").await;
    let said = when_free(|| second.join(&token)).await.unwrap_err();
    assert!(said.message().contains("token"), "{said}");
}

/// The sockets of what was taken back close in the background.
async fn when_free<T, F: Future<Output = Result<T, Status>>>(
    mut call: impl FnMut() -> F,
) -> Result<T, Status> {
    let started = Instant::now();
    loop {
        match call().await {
            Err(said) if said.message().contains("in use") && started.elapsed() < SOON => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            done => return done,
        }
    }
}

#[tokio::test]
async fn strangers_write_nothing_into_the_log() {
    let _turn = ONE_BY_ONE.lock().await;
    let node = Daemon::start();
    let ca = node.init().await.unwrap().admin.unwrap().ca_pem;
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(NODE_TLS_NAME);
    let endpoint = Endpoint::from_shared(format!("https://{}", node.listen(7440))).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let before = node.applied().await.unwrap();
    let address = |port: u16| format!("198.18.0.1:{port}");
    let request = AdmitRequest {
        token_secret: "00112233445566778899aabbccddeeff".to_owned(),
        csr_pem: pki::JoinRequest::generate().unwrap().csr_pem().to_owned(),
        node_name: "stranger".to_owned(),
        addresses: Some(NodeAddresses {
            api: address(1),
            control: address(2),
            replication: address(3),
        }),
    };
    let calls = (0..100).map(|_| {
        let (mut client, request) = (ControlClient::new(channel.clone()), request.clone());
        tokio::spawn(async move { client.admit(request).await })
    });
    for call in calls.collect::<Vec<_>>() {
        let said = call.await.unwrap().unwrap_err();
        assert!(said.message().contains("token"), "{said}");
        assert_eq!(said.code(), Code::Unauthenticated, "{said}");
    }
    assert_eq!(node.applied().await.unwrap(), before, "entries were committed");
    let lines = node.log().matches("a node was not admitted").count();
    assert!((1..20).contains(&lines), "{lines} lines in the log");
}

/// Three voters; the first leads.
async fn three_voters() -> [Daemon; 3] {
    let nodes = [Daemon::start(), Daemon::start(), Daemon::start()];
    let mut token = nodes[0].init().await.unwrap().join_token;
    for node in &nodes[1..] {
        node.join(&token).await.unwrap();
        token = new_token(&nodes[0]).await;
    }
    nodes[0].status_when("three voters", |reply| reply.voters == 3 && reply.has_quorum).await;
    nodes
}

async fn new_token(node: &Daemon) -> String {
    let request = CreateTokenRequest { ttl_ms: None };
    node.client().await.create_token(request).await.unwrap().into_inner().token
}

fn node_of(reply: &StatusReply, id: u32) -> Option<&Node> {
    reply.nodes.iter().find(|node| node.id == id)
}

#[tokio::test]
async fn a_node_that_fails_twice_is_held_down_until_it_is_uncordoned() {
    let _turn = ONE_BY_ONE.lock().await;
    let mut nodes = three_voters().await;
    let document =
        "apiVersion: steadfast/v1\nsettings: {hold_down: {failures: 2, stable_s: 600}}\n";
    let request = ApplyRequest { document: document.to_owned(), ..ApplyRequest::default() };
    nodes[2].client().await.apply(request).await.unwrap();
    let first = |reply: &StatusReply| node_of(reply, 1).cloned().unwrap();
    for failures in 1..=2 {
        // Heard before, so that each death is one. It leads at first, and may lead again.
        nodes[2].status_when("it is up", |reply| first(reply).alive).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        nodes[0].kill();
        let seen = |reply: &StatusReply| first(reply).failures == failures;
        nodes[2].status_when("the death counts", seen).await;
        nodes[0].restart();
    }
    let held =
        |reply: &StatusReply| first(reply).held_down && first(reply).held_down_left_ms.is_some();
    let reply = nodes[1].status_when("it is held down", held).await;
    let left = first(&reply).held_down_left_ms.unwrap();
    assert!((500_000..=600_000).contains(&left), "{left} ms");
    assert!(reply.warnings.iter().any(|w| w.what.contains("HELD DOWN")), "{:?}", reply.warnings);

    let request = NodeCordonRequest { node: "1".to_owned(), cordon: false };
    let said = nodes[1].client().await.node_cordon(request).await.unwrap().into_inner();
    assert!(said.let_go && !said.changed, "{said:?}");
    let trusted = |reply: &StatusReply| !first(reply).held_down && first(reply).failures == 0;
    nodes[2].status_when("it is trusted", trusted).await;
}

#[tokio::test]
async fn a_replaced_node_is_shut_out_and_its_successor_votes() {
    let _turn = ONE_BY_ONE.lock().await;
    let mut nodes = three_voters().await;
    let replace = |old: &str, new: &str| NodeReplaceRequest {
        old_node: old.to_owned(),
        new_node: new.to_owned(),
    };
    let said = nodes[0].client().await.node_replace(replace("3", "3")).await.unwrap_err();
    assert!(said.message().contains("its own place"), "{said}");

    // The leader is replaced, alive, through another node.
    let successor = Daemon::start();
    assert_eq!(successor.join(&new_token(&nodes[1]).await).await.unwrap(), 4);
    let heard = |id| move |reply: &StatusReply| node_of(reply, id).is_some_and(|node| node.alive);
    nodes[1].status_when("node 4 is heard", heard(4)).await;
    let said = nodes[1].client().await.node_replace(replace("1", "4")).await;
    assert!(said.unwrap().into_inner().voter);
    let so = |reply: &StatusReply| {
        let votes = node_of(reply, 4).is_some_and(|node| node.role() == NodeRole::Voter);
        node_of(reply, 1).is_none() && votes && reply.voters == 3 && reply.has_quorum
    };
    nodes[1].status_when("node 4 has the place of node 1", so).await;
    nodes[0].status_when("node 1 knows", |reply| reply.removed).await;
    nodes[0].restart_after_kill();
    nodes[0].status_when("it learns it again", |reply| reply.removed).await;

    // One that is dead is replaced too, and a voter becomes a learner.
    let successor = Daemon::start();
    assert_eq!(successor.join(&new_token(&nodes[1]).await).await.unwrap(), 5);
    nodes[1].status_when("node 5 is heard", heard(5)).await;
    nodes[2].kill();
    let dead = |reply: &StatusReply| node_of(reply, 3).is_some_and(|node| !node.alive);
    nodes[1].status_when("node 3 is dead", dead).await;
    let said = nodes[1].client().await.node_replace(replace("5", "3")).await.unwrap_err();
    assert!(said.message().contains("not heard"), "{said}");
    let said = nodes[1].client().await.node_replace(replace("3", "5")).await;
    assert!(said.unwrap().into_inner().voter);
    let request = || NodeDemoteRequest { node: "5".to_owned() };
    let said = nodes[1].client().await.node_demote(request()).await.unwrap().into_inner();
    assert!(said.changed);
    let learner = |reply: &StatusReply| {
        node_of(reply, 5).is_some_and(|node| node.role() == NodeRole::Learner) && reply.voters == 2
    };
    nodes[1].status_when("node 5 is a learner", learner).await;
    let again = nodes[1].client().await.node_demote(request()).await.unwrap().into_inner();
    assert!(!again.changed);
}

/// A bpffs takes no dots in names: af-xdp has eth0.7 in eth0:7.
#[tokio::test]
async fn detach_finds_the_pins_of_a_vlan_interface() {
    let _turn = ONE_BY_ONE.lock().await;
    let node = Daemon::start();
    let pins = node.bpffs().join(node.instance()).join("eth0:7");
    fs::create_dir_all(&pins).unwrap();
    let reply = node.client().await.detach(DetachRequest {}).await;
    let gone = !pins.exists();
    let _ = fs::remove_dir(&pins);
    assert_eq!(reply.unwrap().into_inner().interfaces, ["eth0.7"]);
    assert!(gone, "the pins stay");
}
