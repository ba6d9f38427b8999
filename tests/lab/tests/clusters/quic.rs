//! Real QUIC connections whose clients change their address: they keep their server when servers
//! name themselves in connection IDs, also after the holder's daemon is killed; without that they
//! break. Needs root; fails without.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use crate::common::{Lab, phase};
use aes::{
    Aes128,
    cipher::{BlockCipherEncrypt as _, KeyInit as _},
};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    IdleTimeout, ServerConfig, TokioRuntime, TransportConfig,
};
use rustix::process::Signal;
use steadfast_lab::host::{
    exec,
    inside::inside,
    names::{Host, Mode, SERVERS, VIP},
};
use tokio::time::timeout;
use tokio_rustls::rustls::{RootCertStore, pki_types::PrivatePkcs8KeyDer};

const PORT: u16 = 4433;
const KEY: [u8; 16] = [
    0x8f, 0x95, 0xf0, 0x92, 0x45, 0x76, 0x5f, 0x80, 0x25, 0x69, 0x34, 0xe5, 0x0c, 0x66, 0x20, 0x7f,
];
/// The first three bits of a connection ID.
const CONFIG: u8 = 2;
/// Server ID and nonce: one block of AES.
const BLOCK: usize = 16;

/// Clients, two for each server when they take turns.
const CLIENTS: usize = 6;
/// Where the clients move.
const NEW_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 210);

const SOON: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);
/// A connection that is heard of no more is given up after this.
const IDLE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_changes_its_address_keeps_its_server() {
    let mut lab = Lab::start("e2equic").await;
    let add = format!("ip addr add {NEW_ADDRESS}/24 dev front");
    exec::shell_in(&lab.namespace(Host::Client), &add).unwrap();
    let issued = rcgen::generate_simple_self_signed(["lab".to_owned()]).unwrap();
    let _servers = SERVERS.map(|n| serve(&lab, n, &issued));

    phase("connection IDs name servers: who moves keeps its server");
    lab.apply(&[("settings:", &format!("{}settings:", service(true)))]).await;
    let shown = lab.ctl(1, &["get", "service", "h3"]).good();
    assert!(shown.contains("QUIC-LB id 2: 1+15 octets, keyed"), "{shown}");
    let clients = connect(&lab, &issued).await;
    let names = ask_all(&clients).await;
    let of_each =
        SERVERS.map(|n| names.iter().filter(|name| **name == Ok(format!("s{n}"))).count());
    assert_eq!(of_each, [CLIENTS / SERVERS.len(); 3], "in turn: {names:?}");
    move_all(&lab, &clients, NEW_ADDRESS);
    assert_eq!(ask_all(&clients).await, names, "after the move");

    phase("the holder dies, and they move once more");
    let (holder, _) = lab.holder().unwrap();
    lab.cluster.signal(holder, Signal::KILL).unwrap();
    lab.cluster.reap(holder, PATIENCE).await.unwrap();
    lab.wait_holder("another node takes over", SOON, Some(holder));
    assert_eq!(ask_all(&clients).await, names, "after the failover");
    move_all(&lab, &clients, steadfast_lab::host::names::CLIENT);
    assert_eq!(ask_all(&clients).await, names, "after failover and move");
    for (endpoint, _) in clients {
        endpoint.close(0_u32.into(), b"done");
    }

    phase("without, some of them break: nobody knows where they belong");
    lab.cluster.start_node(holder).await.unwrap();
    lab.ready().await;
    lab.apply(&[("settings:", &format!("{}settings:", service(false)))]).await;
    let clients = connect(&lab, &issued).await;
    let names = ask_all(&clients).await;
    assert!(names.iter().all(Result::is_ok), "{names:?}");
    // One flow more: in the round, nobody who moves meets the server it had.
    let (extra, _) = open(&lab, &issued).await;
    move_all(&lab, &clients, NEW_ADDRESS);
    let after = ask_all(&clients).await;
    assert!(after.iter().any(Result::is_err), "nothing broke: {names:?}, {after:?}");
    extra.close(0_u32.into(), b"done");
    phase("done");
}

fn service(routes: bool) -> String {
    let key: String = KEY.iter().map(|octet| format!("{octet:02x}")).collect();
    let quic = format!(
        "    quic_lb: [{{id: {CONFIG}, server_id_length: 1, nonce_length: 15, key: {key}}}]\n"
    );
    let servers: String = SERVERS
        .map(|n| {
            let ids = if routes { format!(", quic_ids: ['a{n}']") } else { String::new() };
            let address = Mode::Dr.server_address(n);
            format!("      - {{address: {address}, port: {PORT}{ids}}}\n")
        })
        .concat();
    format!(
        "  - name: h3\n    group: web\n    address: {VIP}\n    port: {PORT}\n    protocol: udp\n    \
         scheduler: rr\n{}    servers:\n{servers}",
        if routes { quic.as_str() } else { "" }
    )
}

/// Connection IDs that name one server.
struct Named {
    server: u8,
    nonce: u64,
}

impl ConnectionIdGenerator for Named {
    fn generate_cid(&mut self) -> ConnectionId {
        self.nonce += 1;
        let mut block = [0; BLOCK];
        block[0] = 0xa0 | self.server;
        block[1..9].copy_from_slice(&self.nonce.to_be_bytes());
        let mut block = block.into();
        Aes128::new(&KEY.into()).encrypt_block(&mut block);
        let mut cid = vec![CONFIG << 5 | BLOCK as u8];
        cid.extend_from_slice(&block);
        ConnectionId::new(&cid)
    }

    fn cid_len(&self) -> usize {
        1 + BLOCK
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

type Issued = rcgen::CertifiedKey<rcgen::KeyPair>;

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(IDLE).unwrap()));
    Arc::new(transport)
}

/// A real server that says its name on each stream.
fn serve(lab: &Lab, n: u8, issued: &Issued) -> Endpoint {
    let key = PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der());
    let mut config =
        ServerConfig::with_single_cert(vec![issued.cert.der().clone()], key.into()).unwrap();
    config.transport_config(transport());
    let mut endpoint = EndpointConfig::default();
    endpoint.cid_generator(move || Box::new(Named { server: n, nonce: u64::from(n) << 32 }));
    let socket = bound(lab, Host::Server(n), (VIP, PORT).into());
    let endpoint = Endpoint::new(endpoint, Some(config), socket, Arc::new(TokioRuntime)).unwrap();
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                    let _ = receive.read_to_end(16).await;
                    let _ = send.write_all(format!("s{n}").as_bytes()).await;
                    let _ = send.finish();
                }
            });
        }
    });
    endpoint
}

fn bound(lab: &Lab, host: Host, address: SocketAddr) -> UdpSocket {
    inside(&lab.namespace(host), || UdpSocket::bind(address).unwrap()).unwrap()
}

async fn connect(lab: &Lab, issued: &Issued) -> Vec<(Endpoint, Connection)> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(open(lab, issued).await);
    }
    clients
}

async fn open(lab: &Lab, issued: &Issued) -> (Endpoint, Connection) {
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    config.transport_config(transport());
    let socket = bound(lab, Host::Client, (steadfast_lab::host::names::CLIENT, 0).into());
    let runtime = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, runtime).unwrap();
    let connecting = endpoint.connect_with(config, (VIP, PORT).into(), "lab").unwrap();
    let connection = timeout(PATIENCE, connecting).await.unwrap().unwrap();
    (endpoint, connection)
}

/// The sockets are others now; nothing is said to the servers.
fn move_all(lab: &Lab, clients: &[(Endpoint, Connection)], address: Ipv4Addr) {
    for (endpoint, _) in clients {
        endpoint.rebind(bound(lab, Host::Client, (address, 0).into())).unwrap();
    }
}

async fn ask_all(clients: &[(Endpoint, Connection)]) -> Vec<Result<String, String>> {
    let mut names = Vec::new();
    for (_, connection) in clients {
        let asked = timeout(PATIENCE, ask(connection)).await;
        names.push(asked.unwrap_or_else(|_| Err("no answer".to_owned())));
    }
    names
}

async fn ask(connection: &Connection) -> Result<String, String> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|e| e.to_string())?;
    send.write_all(b"who?").await.map_err(|e| e.to_string())?;
    send.finish().map_err(|e| e.to_string())?;
    let answer = receive.read_to_end(16).await.map_err(|e| e.to_string())?;
    String::from_utf8(answer).map_err(|e| e.to_string())
}
