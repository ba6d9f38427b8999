//! Packets that do not fit the path, and what the path says about them: datagrams in fragments,
//! errors from behind the VIP, and the discovery of a smaller MTU beyond a router. By NAT and by
//! DR, with kernel sockets at both ends. Needs root; fails without.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::common::{Lab, phase, until};
use socket2::{Domain, Protocol, Socket, Type};
use steadfast_lab::host::{
    exec,
    family::Family,
    inside::inside,
    names::{CLIENT, Host, Mode, NODES, VIP},
};

/// Datagrams echoed, a large download, nobody there, and a server behind a router.
const BIG: u16 = 7000;
const DOWNLOAD: u16 = 7001;
const CLOSED: u16 = 7002;
const BEYOND: u16 = 7003;

/// Does not fit an MTU of 1500: three fragments.
const DATAGRAM: usize = 4000;
const DATAGRAMS: u32 = 200;
const DOWNLOAD_BYTES: usize = 600_000;

/// An address that the first server would route to.
const SERVER_BEYOND: &str = "198.18.1.130";
/// A client beyond a router, and the router's address there.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 18, 8, 2);
const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 8, 1);

/// Waiting for an answer on an idle machine.
const PATIENCE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn large_packets_and_errors_pass_by_nat() {
    run("pathnat", Mode::Nat).await;
}

#[tokio::test]
async fn large_packets_and_errors_pass_by_dr() {
    run("pathdr", Mode::Dr).await;
}

async fn run(name: &str, mode: Mode) {
    let mut lab = Lab::start_with(name, mode, Family::V4).await;
    let services = services(mode);
    lab.apply(&[("settings:", &format!("{services}settings:"))]).await;
    // With DR the server answers as the VIP.
    let own = if mode == Mode::Dr { VIP } else { mode.server_address(1) };
    let server = Server::start(&lab.namespace(Host::Server(1)), own);
    large_datagrams_pass(&lab);
    a_closed_port_is_told(&lab);
    if mode == Mode::Nat {
        a_router_behind_the_vip_is_heard_as_the_vip(&lab);
    }
    a_smaller_mtu_on_the_way_is_found(&lab, mode);
    drop(server);
    phase("done");
}

/// Services of one server each; nobody checks them.
fn services(mode: Mode) -> String {
    let real = mode.server_address(1).to_string();
    let service = |name: &str, port: u16, protocol: &str, server: &str| {
        let method = mode.name();
        format!(
            "  - name: {name}\n    group: web\n    address: {VIP}\n    port: {port}\n    \
             protocol: {protocol}\n    scheduler: rr\n    forwarding: {method}\n    servers:\n      \
             - {{address: {server}, port: {port}, weight: 1}}\n"
        )
    };
    let mut all = service("big", BIG, "udp", &real);
    all += &service("download", DOWNLOAD, "tcp", &real);
    all += &service("closed", CLOSED, "udp", &real);
    if mode == Mode::Nat {
        all += &service("beyond", BEYOND, "udp", SERVER_BEYOND);
    }
    all
}

/// The server's sockets, and the threads that serve them.
struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(namespace: &Path, own: Ipv4Addr) -> Self {
        let (datagrams, downloads) = inside(namespace, || {
            (UdpSocket::bind((own, BIG)).unwrap(), TcpListener::bind((own, DOWNLOAD)).unwrap())
        })
        .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        datagrams.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        downloads.set_nonblocking(true).unwrap();
        let stopped = [Arc::clone(&stop), Arc::clone(&stop)];
        let [by_echo, by_download] = stopped;
        let echo = std::thread::spawn(move || {
            let mut buffer = [0; 2 * DATAGRAM];
            while !by_echo.load(Ordering::Acquire) {
                if let Ok((len, from)) = datagrams.recv_from(&mut buffer) {
                    datagrams.send_to(&buffer[..len], from).unwrap();
                }
            }
        });
        let serve = std::thread::spawn(move || {
            while !by_download.load(Ordering::Acquire) {
                match downloads.accept() {
                    Ok((mut stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        stream.set_write_timeout(Some(PATIENCE)).unwrap();
                        // Whether it arrives the client says.
                        let _ = stream.write_all(&vec![0x5a; DOWNLOAD_BYTES]);
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        });
        Self { stop, threads: vec![echo, serve] }
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

fn client_socket(lab: &Lab, to: u16) -> UdpSocket {
    let socket = inside(&lab.namespace(Host::Client), || {
        let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
        socket.connect((VIP, to)).unwrap();
        socket
    });
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn large_datagrams_pass(lab: &Lab) {
    phase("datagrams of 4000 octets, there and back");
    let socket = client_socket(lab, BIG);
    // Until the holder's kernel knows the client's MAC address, replies are dropped and it is asked.
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    until("a first reply", Duration::from_secs(5), || {
        socket.send(b"first").unwrap();
        socket.recv(&mut [0; 64]).map(drop).map_err(|error| error.to_string())
    });
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // A late reply to one of those is no reply to a large one.
    std::thread::sleep(Duration::from_millis(200));
    socket.set_nonblocking(true).unwrap();
    while socket.recv(&mut [0; 64]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    let mut lost = 0;
    for n in 0..DATAGRAMS {
        let sent: Vec<u8> = (0..DATAGRAM).map(|at| (at as u32 + n) as u8).collect();
        socket.send(&sent).unwrap();
        let mut buffer = [0; 2 * DATAGRAM];
        match socket.recv(&mut buffer) {
            Ok(len) => assert_eq!(buffer[..len], sent, "datagram {n}"),
            Err(error) => {
                println!("datagram {n}: {error}");
                lost += 1;
            }
        }
    }
    println!("{lost} of {DATAGRAMS} lost");
    assert_eq!(lost, 0, "of {DATAGRAMS}");
    let fragments = snmp(&lab.namespace(Host::Client), "Ip", "FragCreates");
    assert!(fragments >= u64::from(DATAGRAMS) * 3, "only {fragments} fragments were sent");
}

fn a_closed_port_is_told(lab: &Lab) {
    phase("a server's port unreachable reaches the client's socket");
    let socket = client_socket(lab, CLOSED);
    socket.send(b"anybody?").unwrap();
    let told = socket.recv(&mut [0; 8]).map_err(|error| error.kind());
    assert_eq!(told, Err(ErrorKind::ConnectionRefused));
}

/// As traceroute would: a datagram whose time to live ends at the router behind the VIP.
fn a_router_behind_the_vip_is_heard_as_the_vip(lab: &Lab) {
    phase("time exceeded behind the VIP, translated, at the client");
    let router = lab.namespace(Host::Server(1));
    exec::shell_in(&router, "echo 1 > /proc/sys/net/ipv4/ip_forward").unwrap();
    for n in NODES {
        let route = format!("ip route add {SERVER_BEYOND}/32 via 198.18.1.11 dev back");
        exec::shell_in(&lab.namespace(Host::Node(n)), &route).unwrap();
    }
    let heard = inside(&lab.namespace(Host::Client), || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket
    })
    .unwrap();
    let socket = client_socket(lab, BEYOND);
    // One for the load balancer, which leaves one for the router.
    socket.set_ttl(2).unwrap();
    let source = socket.local_addr().unwrap().port();
    let error = until("time exceeded", Duration::from_secs(10), || {
        socket.send(b"how far?").map_err(|error| error.to_string())?;
        let mut packet = vec![0; 600];
        let len = (&heard).read(&mut packet).map_err(|error| error.to_string())?;
        packet.truncate(len);
        if packet[20] == 11 { Ok(packet) } else { Err(format!("ICMP type {}", packet[20])) }
    });
    assert_eq!(error[12..16], VIP.octets(), "its sender");
    assert_eq!(error[16..20], CLIENT.octets(), "to the client");
    let quoted = &error[28..];
    assert_eq!(quoted[12..16], CLIENT.octets(), "the quoted source");
    assert_eq!(quoted[16..20], VIP.octets(), "the quoted destination");
    assert_eq!(quoted[20..22], source.to_be_bytes(), "the quoted source port");
    assert_eq!(quoted[22..24], BEYOND.to_be_bytes(), "the quoted destination port");
    let sum = |bytes: &[u8]| {
        let words =
            bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
        let sum: u32 = words.sum();
        (sum & 0xffff) + (sum >> 16)
    };
    assert_eq!(sum(&error[20..]), 0xffff, "its checksum");
    assert_eq!(sum(&quoted[..20]), 0xffff, "the checksum of the quoted header");
}

/// The client is a router now, to a network whose MTU neither end knows.
fn a_smaller_mtu_on_the_way_is_found(lab: &Lab, mode: Mode) {
    phase("a download through a router with a smaller MTU");
    let far = format!("{}far", lab.tag().prefix());
    let far_path = PathBuf::from("/run/netns").join(&far);
    exec::ip_batch(None, &format!("netns add {far}\n")).unwrap();
    let router = lab.tag().namespace(Host::Client);
    let lines = format!(
        "link add near type veth peer name far netns {far}\naddr add {NEAR}/24 dev near\n\
         link set near mtu 1300 up\n"
    );
    exec::ip_batch(Some(&router), &lines).unwrap();
    let lines =
        format!("addr add {FAR}/24 dev far\nlink set far up\nroute add default via {NEAR}\n");
    exec::ip_batch(Some(&far), &lines).unwrap();
    let router = lab.namespace(Host::Client);
    exec::shell_in(&router, "echo 1 > /proc/sys/net/ipv4/ip_forward").unwrap();
    let route = format!("ip route add 198.18.8.0/24 via {CLIENT} dev front");
    match mode {
        Mode::Nat | Mode::FullNat => {
            for n in NODES {
                exec::shell_in(&lab.namespace(Host::Node(n)), &route).unwrap();
            }
        }
        Mode::Dr | Mode::Tun => {
            drop(exec::shell_in(&lab.namespace(Host::Server(1)), &route).unwrap())
        }
    }
    let too_big = || snmp(&router, "Ip", "FragFails");
    let before = too_big();
    let started = Instant::now();
    let got = inside(&far_path, || {
        let to = SocketAddr::from((VIP, DOWNLOAD));
        // The route may not have reached the nodes' workers yet: a SYN is repeated after a second.
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (mut got, mut buffer) = (0, [0; 65_536]);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(got),
                Ok(len) => got += len,
                Err(error) => return Err((got, error.kind())),
            }
        }
    });
    println!("{got:?} in {:?}", started.elapsed());
    assert_eq!(got.unwrap(), Ok(DOWNLOAD_BYTES), "the download");
    assert!(too_big() > before, "no packet was too big: the test shows nothing");
}

/// A counter of a namespace's kernel.
fn snmp(namespace: &Path, protocol: &str, name: &str) -> u64 {
    let text = exec::shell_in(namespace, "cat /proc/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with(&format!("{protocol}:")));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|found| found == name).unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}
