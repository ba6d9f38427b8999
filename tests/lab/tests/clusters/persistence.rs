//! Clients that keep their server: a match group of two VIPs and two ports, round robin, so that no
//! hash explains where a client goes; the same after the holder's daemon is killed. Needs root;
//! fails without.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::common::{Lab, phase, until};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use steadfast_lab::host::{
    exec,
    family::Family,
    inside::inside,
    names::{Host, Mode, NODES, SERVERS, VIP},
};

const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 101);
const PORTS: [u16; 2] = [80, 443];

/// As many as there are servers: in the round each gets another one.
const CLIENTS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(198, 18, 0, 201),
    Ipv4Addr::new(198, 18, 0, 202),
    Ipv4Addr::new(198, 18, 0, 203),
];

const SOON: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_client_keeps_its_server_over_ports_vips_and_a_failover() {
    let mut lab = Lab::start_with("e2epers", Mode::Nat, Family::V4).await;
    let addresses = ("addresses: [198.18.0.100]", "addresses: [198.18.0.100, 198.18.0.101]");
    lab.apply(&[addresses, ("settings:", &format!("{}settings:", service()))]).await;
    for client in CLIENTS {
        let add = format!("ip addr add {client}/24 dev front");
        exec::shell_in(&lab.namespace(Host::Client), &add).unwrap();
    }
    let servers = SERVERS.map(|n| Server::start(&lab, n));

    phase("the match group is shown with all it listens on");
    let shown = lab.ctl(1, &["get", "service", "shop"]).good();
    for vip in [VIP, OTHER_VIP] {
        for port in PORTS {
            assert!(shown.contains(&format!("tcp {vip}:{port}")), "{shown}");
        }
    }
    assert!(shown.contains("persistent 300 s"), "{shown}");

    phase("each client gets a server of its own, the same everywhere");
    let mut sessions: Vec<_> = CLIENTS.iter().map(|client| open(&lab, *client, VIP, 80)).collect();
    let names: Vec<_> = sessions.iter_mut().map(exchange).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), CLIENTS.len(), "{names:?}");
    everywhere(&lab, &names);

    phase("every node has a template for each client");
    for n in NODES {
        until("the templates", SOON, || {
            let list = ["conn", "list", "--templates", "--service", "shop", "-o", "json"];
            let list = lab.ctl(n, &list).json();
            let listed = list["connections"].as_array().unwrap();
            let assured = listed.iter().filter(|template| template["state"] == "ASSURED").count();
            if (listed.len(), assured) == (3, 3) { Ok(()) } else { Err(format!("n{n}: {list}")) }
        });
    }

    phase("the holder dies: sessions go on, and new ones find the server of their client");
    let (holder, _) = lab.holder().unwrap();
    lab.cluster.signal(holder, Signal::KILL).unwrap();
    lab.cluster.reap(holder, PATIENCE).await.unwrap();
    lab.wait_holder("another node takes over", SOON, Some(holder));
    let after: Vec<_> = sessions.iter_mut().map(exchange).collect();
    assert_eq!(after, names, "the open sessions");
    everywhere(&lab, &names);

    phase("a client that nobody knows goes on in the round");
    let fresh = Ipv4Addr::new(198, 18, 0, 204);
    let add = format!("ip addr add {fresh}/24 dev front");
    exec::shell_in(&lab.namespace(Host::Client), &add).unwrap();
    let name = exchange(&mut open(&lab, fresh, VIP, 80));
    assert_eq!(exchange(&mut open(&lab, fresh, OTHER_VIP, 443)), name);
    drop(servers);
    phase("done");
}

/// Two VIPs, two ports, one service; nobody checks it.
fn service() -> String {
    let listeners = [VIP, OTHER_VIP].into_iter().flat_map(|vip| PORTS.map(|port| (vip, port)));
    let listeners: String = listeners
        .map(|(vip, port)| format!("      - {{address: {vip}, port: {port}}}\n"))
        .collect();
    let servers: String =
        SERVERS.map(|n| format!("      - {{address: {}}}\n", Mode::Nat.server_address(n))).concat();
    format!(
        "  - name: shop\n    group: web\n    match:\n{listeners}    scheduler: rr\n    \
         forwarding: nat\n    persistence: {{timeout_s: 300}}\n    servers:\n{servers}"
    )
}

/// Every client on every VIP and port, twice, in turn: in the round they would all move.
fn everywhere(lab: &Lab, names: &[String]) {
    for _ in 0..2 {
        for vip in [VIP, OTHER_VIP] {
            for port in PORTS {
                for (client, name) in CLIENTS.iter().zip(names) {
                    let found = exchange(&mut open(lab, *client, vip, port));
                    assert_eq!(&found, name, "{client} at {vip}:{port}");
                }
            }
        }
    }
}

fn open(lab: &Lab, client: Ipv4Addr, vip: Ipv4Addr, port: u16) -> TcpStream {
    inside(&lab.namespace(Host::Client), || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((client, 0)).into()).unwrap();
        socket.connect_timeout(&SocketAddr::from((vip, port)).into(), PATIENCE).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.into()
    })
    .unwrap()
}

/// Says something and hears which server it is.
fn exchange(stream: &mut TcpStream) -> String {
    stream.write_all(b"who?\n").unwrap();
    let mut answer = String::new();
    BufReader::new(&*stream).read_line(&mut answer).unwrap();
    answer
}

/// A real server that says its name on every line, on every port.
struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(lab: &Lab, n: u8) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let own = IpAddr::V4(Mode::Nat.server_address(n));
        let threads = PORTS.map(|port| {
            let listener =
                inside(&lab.namespace(Host::Server(n)), || TcpListener::bind((own, port)).unwrap());
            let (listener, stopped) = (listener.unwrap(), Arc::clone(&stop));
            listener.set_nonblocking(true).unwrap();
            std::thread::spawn(move || {
                while !stopped.load(Ordering::Acquire) {
                    match listener.accept() {
                        Ok((stream, _)) => drop(std::thread::spawn(move || answer(&stream, n))),
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
            })
        });
        Self { stop, threads: threads.into() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Ends when the client does.
fn answer(mut stream: &TcpStream, n: u8) {
    stream.set_nonblocking(false).unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(stream);
    while reader.read_line(&mut line).is_ok_and(|len| len > 0) {
        if stream.write_all(format!("s{n}\n").as_bytes()).is_err() {
            return;
        }
        line.clear();
    }
}
