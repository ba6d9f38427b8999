//! Packets that do not fit the path, and what the path says about them: datagrams in fragments,
//! errors from behind the VIP, and the discovery of a smaller MTU beyond a router. By NAT, full-NAT
//! and DR, over IPv4 and IPv6, with kernel sockets at both ends. Needs root; fails without.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::common::{Lab, phase, until};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use steadfast_lab::host::{
    exec,
    family::Family,
    inside::inside,
    names::{Host, Mode, NODES},
};

/// Datagrams echoed, a large download, nobody there, and a server behind a router; by full-NAT, the
/// same so much higher.
const BIG: u16 = 7000;
const DOWNLOAD: u16 = 7001;
const CLOSED: u16 = 7002;
const BEYOND: u16 = 7003;
const FULL_NAT: u16 = 100;

/// Does not fit an MTU of 1500: three fragments.
const DATAGRAM: usize = 4000;
const DATAGRAMS: u32 = 200;
const DOWNLOAD_BYTES: usize = 600_000;

/// Waiting for an answer on an idle machine.
const PATIENCE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn large_packets_and_errors_pass_by_nat() {
    run("pathnat", Mode::Nat, &["nat", "full_nat"]).await;
}

#[tokio::test]
async fn large_packets_and_errors_pass_by_dr() {
    run("pathdr", Mode::Dr, &["dr"]).await;
}

async fn run(name: &str, mode: Mode, forwardings: &[&'static str]) {
    let mut lab = Lab::start_with(name, mode, Family::V6).await;
    let mut ways = Vec::new();
    for family in [Family::V4, Family::V6] {
        ways.extend(forwardings.iter().map(|forwarding| Way { family, mode, forwarding }));
    }
    let services: String = ways.iter().map(|way| way.services()).collect();
    let locals = [Family::V4, Family::V6].map(|family| format!("\"{}\"", family.locals()[0]));
    let gateways = "    gateways:";
    let with_locals = format!("    local_addresses: [{}]\n{gateways}", locals.join(", "));
    let with_services = format!("{services}settings:");
    let mut edits = vec![("settings:", with_services.as_str())];
    if mode == Mode::Nat {
        edits.push((gateways, &with_locals));
    }
    lab.apply(&edits).await;
    let servers = [Family::V4, Family::V6].map(|family| {
        // With DR the server answers as the VIP.
        let own = if mode == Mode::Dr { family.vip() } else { family.server(mode, 1) };
        Server::start(&lab.namespace(Host::Server(1)), own)
    });
    if mode == Mode::Nat {
        route_beyond_the_server(&lab);
    }
    let far = a_network_behind_the_client(&lab, mode);
    for way in ways {
        phase(&format!("{}, {}", way.forwarding, way.family));
        large_datagrams_pass(&lab, way);
        a_closed_port_is_told(&lab, way);
        if mode == Mode::Nat {
            a_router_behind_the_vip_is_heard_as_the_vip(&lab, way);
        }
        a_smaller_mtu_on_the_way_is_found(&lab, &far, way);
    }
    drop(servers);
    phase("done");
}

/// How packets get to the server.
#[derive(Clone, Copy, Debug)]
struct Way {
    family: Family,
    mode: Mode,
    forwarding: &'static str,
}

impl Way {
    /// The port at the VIP of what has `port` at the server.
    fn port(self, port: u16) -> u16 {
        if self.forwarding == "full_nat" { port + FULL_NAT } else { port }
    }

    fn vip(self, port: u16) -> SocketAddr {
        (self.family.vip(), self.port(port)).into()
    }

    /// Services of one server each; nobody checks them.
    fn services(self) -> String {
        let Self { family, mode, forwarding } = self;
        let service = |name: &str, port: u16, protocol: &str, server: IpAddr| {
            let (vip, listen) = (family.vip(), self.port(port));
            let name = format!("{name}-{forwarding}-{family}").to_lowercase().replace('_', "-");
            format!(
                "  - name: {name}\n    group: web\n    address: \"{vip}\"\n    port: {listen}\n    \
                 protocol: {protocol}\n    scheduler: rr\n    forwarding: {forwarding}\n    \
                 servers:\n      - {{address: \"{server}\", port: {port}, weight: 1}}\n"
            )
        };
        let real = family.server(mode, 1);
        let mut all = service("big", BIG, "udp", real);
        all += &service("download", DOWNLOAD, "tcp", real);
        all += &service("closed", CLOSED, "udp", real);
        if mode == Mode::Nat {
            all += &service("beyond", BEYOND, "udp", beyond(family));
        }
        all
    }
}

/// An address that the first server would route to.
fn beyond(family: Family) -> IpAddr {
    let text = if family == Family::V4 { "198.18.1.130" } else { "2001:db8:18:1::130" };
    text.parse().unwrap()
}

/// The network beyond a router: a client there, and the router.
fn far(family: Family) -> (IpAddr, IpAddr) {
    let (client, router) = match family {
        Family::V4 => ("198.18.8.2", "198.18.8.1"),
        Family::V6 => ("2001:db8:18:8::2", "2001:db8:18:8::1"),
    };
    (client.parse().unwrap(), router.parse().unwrap())
}

/// The kernel of a namespace passes packets on, in both families.
fn make_router(namespace: &Path) {
    let both = "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1";
    exec::shell_in(namespace, both).unwrap();
}

fn route_beyond_the_server(lab: &Lab) {
    make_router(&lab.namespace(Host::Server(1)));
    for (n, family) in NODES.into_iter().flat_map(|n| [(n, Family::V4), (n, Family::V6)]) {
        let (beyond, len) = (beyond(family), family.host_len());
        let via = family.server(Mode::Nat, 1);
        let route = format!("ip route add {beyond}/{len} via {via} dev back");
        exec::shell_in(&lab.namespace(Host::Node(n)), &route).unwrap();
    }
}

/// The server's sockets, and the threads that serve them.
struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(namespace: &Path, own: IpAddr) -> Self {
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

fn client_socket(lab: &Lab, way: Way, to: u16) -> UdpSocket {
    let socket = inside(&lab.namespace(Host::Client), || {
        let socket = UdpSocket::bind((way.family.client(), 0)).unwrap();
        socket.connect(way.vip(to)).unwrap();
        socket
    });
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn large_datagrams_pass(lab: &Lab, way: Way) {
    let created = || fragments(&lab.namespace(Host::Client), way.family);
    let before = created();
    phase("datagrams of 4000 octets, there and back");
    let socket = client_socket(lab, way, BIG);
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
    let sent = created() - before;
    assert!(sent >= u64::from(DATAGRAMS) * 3, "only {sent} fragments were sent");
}

fn a_closed_port_is_told(lab: &Lab, way: Way) {
    phase("a server's port unreachable reaches the client's socket");
    let socket = client_socket(lab, way, CLOSED);
    socket.send(b"anybody?").unwrap();
    let told = socket.recv(&mut [0; 8]).map_err(|error| error.kind());
    assert_eq!(told, Err(ErrorKind::ConnectionRefused));
}

/// As traceroute would: a datagram whose time to live ends at the router behind the VIP.
fn a_router_behind_the_vip_is_heard_as_the_vip(lab: &Lab, way: Way) {
    phase("time exceeded behind the VIP, translated, at the client");
    let v4 = way.family == Family::V4;
    let heard = inside(&lab.namespace(Host::Client), || {
        let (domain, protocol) = match way.family {
            Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
            Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        UdpSocket::from(socket)
    })
    .unwrap();
    let socket = client_socket(lab, way, BEYOND);
    // One for the load balancer, which leaves one for the router.
    let hops = if v4 { socket.set_ttl(2) } else { SockRef::from(&socket).set_unicast_hops_v6(2) };
    hops.unwrap();
    let source = socket.local_addr().unwrap().port();
    // The kernel shows the header of IPv4, and has checked the checksum of ICMPv6 (RFC 3542 3.1).
    let (header, kind) = if v4 { (20, 11) } else { (0, 3) };
    let (from, error) = until("time exceeded", Duration::from_secs(10), || {
        socket.send(b"how far?").map_err(|error| error.to_string())?;
        let mut packet = vec![0; 600];
        let (len, from) = heard.recv_from(&mut packet).map_err(|error| error.to_string())?;
        packet.truncate(len);
        let found = packet[header];
        if found == kind { Ok((from, packet)) } else { Err(format!("ICMP type {found}")) }
    });
    assert_eq!(from.ip(), way.family.vip(), "its sender");
    let quoted = &error[header + 8..];
    let (addrs, len) = if v4 { (12..20, 20) } else { (8..40, 40) };
    let octets = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    };
    let expected = [octets(way.family.client()), octets(way.family.vip())].concat();
    assert_eq!(quoted[addrs], expected, "the quoted source and destination");
    assert_eq!(quoted[len..len + 2], source.to_be_bytes(), "the quoted source port");
    let to = way.port(BEYOND).to_be_bytes();
    assert_eq!(quoted[len + 2..len + 4], to, "the quoted destination port");
    let sum = |bytes: &[u8]| {
        let words =
            bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
        let sum: u32 = words.sum();
        (sum & 0xffff) + (sum >> 16)
    };
    if v4 {
        assert_eq!(sum(&error[20..]), 0xffff, "its checksum");
        assert_eq!(sum(&quoted[..20]), 0xffff, "the checksum of the quoted header");
    }
}

/// The client is a router now, to a network whose MTU neither end knows.
fn a_network_behind_the_client(lab: &Lab, mode: Mode) -> PathBuf {
    let far_name = format!("{}far", lab.tag().prefix());
    exec::ip_batch(None, &format!("netns add {far_name}\n")).unwrap();
    let router = lab.tag().namespace(Host::Client);
    let mut near_lines = format!(
        "link add near type veth peer name far netns {far_name}\nlink set near mtu 1300 up\n"
    );
    let mut far_lines = "link set far up\n".to_owned();
    for family in [Family::V4, Family::V6] {
        let ((client, near), len) = (far(family), family.prefix_len());
        let nodad = if family == Family::V6 { " nodad" } else { "" };
        near_lines.push_str(&format!("addr add {near}/{len} dev near{nodad}\n"));
        far_lines.push_str(&format!("addr add {client}/{len} dev far{nodad}\n"));
        far_lines.push_str(&format!("route add default via {near}\n"));
    }
    let far_path = PathBuf::from("/run/netns").join(&far_name);
    make_router(&lab.namespace(Host::Client));
    exec::ip_batch(Some(&router), &near_lines).unwrap();
    exec::ip_batch(Some(&far_name), &far_lines).unwrap();
    // By full-NAT servers answer a node, as by NAT.
    let hosts = if mode == Mode::Nat { NODES.map(Host::Node) } else { [Host::Server(1); 3] };
    for family in [Family::V4, Family::V6] {
        let ((client, _), len) = (far(family), family.host_len());
        let via = family.client();
        let route = format!("ip route replace {client}/{len} via {via} dev front");
        for host in hosts {
            exec::shell_in(&lab.namespace(host), &route).unwrap();
        }
    }
    far_path
}

fn a_smaller_mtu_on_the_way_is_found(lab: &Lab, far_path: &Path, way: Way) {
    phase("a download through a router with a smaller MTU");
    let router = lab.namespace(Host::Client);
    let too_big = || match way.family {
        Family::V4 => snmp(&router, "Ip", "FragFails"),
        Family::V6 => snmp6(&router, "Ip6InTooBigErrors"),
    };
    let before = too_big();
    let started = Instant::now();
    let got = inside(far_path, || {
        let to = way.vip(DOWNLOAD);
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

/// The same of IPv6.
fn snmp6(namespace: &Path, name: &str) -> u64 {
    let text = exec::shell_in(namespace, "cat /proc/net/snmp6").unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    value.trim().parse().unwrap()
}

/// Fragments that a namespace's kernel made.
fn fragments(namespace: &Path, family: Family) -> u64 {
    match family {
        Family::V4 => snmp(namespace, "Ip", "FragCreates"),
        Family::V6 => snmp6(namespace, "Ip6FragCreates"),
    }
}
