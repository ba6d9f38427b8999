//! Servers behind full-NAT hear who their client is: nginx behind the nodes, curl in front of them,
//! IPv4 and IPv6, also after the holder's daemon is killed. Needs root; fails without.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::common::{
    Lab, phase, until,
    wire::{IPV4, IPV6, Wire},
};
use etherparse::{PacketHeaders, TcpHeader, TransportHeader};
use rustix::process::Signal;
use steadfast_lab::host::{
    exec,
    family::Family,
    inside::inside,
    names::{Host, Mode, NODES, Network, SERVERS},
};

/// A way to tell servers who their client is: what the document calls it, and the port of its service.
#[derive(Clone, Copy, Debug)]
struct Way {
    key: &'static str,
    port: u16,
}

const TOA: Way = Way { key: "toa", port: 8081 };
const PROXY: Way = Way { key: "proxy_v2", port: 8082 };
const WAYS: [Way; 2] = [TOA, PROXY];

/// A transfer takes some 3 s.
const FILE_BYTES: usize = 6 << 20;
const RATE: &str = "2m";

const SOON: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(10);
/// What was sent before this has been captured.
const MOMENT: Duration = Duration::from_millis(200);

/// RFC 4727; see `node/packet/src/toa.rs`.
const TOA_KIND: u8 = 254;

#[tokio::test]
async fn servers_hear_who_their_client_is_also_after_a_failover() {
    exec::check_tools(&[("nginx", "nginx-light"), ("curl", "curl")]).unwrap();
    let mut lab = Lab::start_with("e2ewho", Mode::FullNat, Family::V6).await;
    let services: String = all().map(|(way, family)| service(way, family)).collect();
    lab.apply(&[("settings:", &format!("{services}settings:"))]).await;
    let daemons: Vec<Nginx> = SERVERS.iter().map(|n| Nginx::start(&lab, *n)).collect();
    for family in Family::V6.all() {
        the_option_has_the_client(&lab, *family);
        the_header_has_the_client(&lab, *family);
    }
    trace_and_get_service_say_so(&lab);
    transfers_go_on_over_a_failover(&mut lab).await;
    drop(daemons);
    phase("done");
}

/// Each way in each family.
fn all() -> impl Iterator<Item = (Way, Family)> {
    WAYS.into_iter().flat_map(|way| Family::V6.all().iter().map(move |family| (way, *family)))
}

/// The name of a service.
fn name(way: Way, family: Family) -> String {
    format!("told-{}{}", way.port, family.suffix())
}

fn service(Way { key, port }: Way, family: Family) -> String {
    let servers: String = SERVERS
        .map(|n| {
            let address = family.server(Mode::FullNat, n);
            format!("      - {{address: \"{address}\", port: {port}}}\n")
        })
        .concat();
    format!(
        "  - name: {}\n    group: web\n    address: \"{}\"\n    port: {port}\n    scheduler: rr\n    \
         forwarding: full_nat\n    client_address: {key}\n    servers:\n{servers}",
        name(Way { key, port }, family),
        family.vip()
    )
}

/// nginx in the namespace of a server: it says whom it takes for its client, and has a file to fetch
/// and takes one.
struct Nginx(Child);

impl Nginx {
    fn start(lab: &Lab, n: u8) -> Self {
        let dir = lab.scratch(&format!("nginx-s{n}"));
        let root = dir.join("root");
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("large"), noise(FILE_BYTES)).unwrap();
        let conf = dir.join("nginx.conf");
        let text = format!(
            "daemon off; master_process off; user root; pid nginx.pid; error_log stderr warn;\n\
             events {{ worker_connections 512; }}\nhttp {{ access_log off; \
             client_max_body_size 0; client_body_temp_path body; proxy_temp_path proxy; \
             fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
             server {{ listen {}; listen [::]:{}; root {};\n\
             location = /who {{ return 200 '$remote_addr $remote_port\\n'; }}\n\
             location = /large {{ limit_rate {RATE}; }}\n\
             location /put/ {{ dav_methods PUT; create_full_put_path on; }} }}\n\
             server {{ listen {} proxy_protocol; listen [::]:{} proxy_protocol; root {};\n\
             location = /who {{ return 200 '$proxy_protocol_addr $proxy_protocol_port\\n'; }}\n\
             location = /large {{ limit_rate {RATE}; }}\n\
             location /put/ {{ dav_methods PUT; create_full_put_path on; }} }}\n}}\n",
            TOA.port,
            TOA.port,
            root.display(),
            PROXY.port,
            PROXY.port,
            root.display()
        );
        fs::write(&conf, text).unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net={}", lab.namespace(Host::Server(n)).display()))
            .args(["nginx", "-p"])
            .arg(&dir)
            .arg("-c")
            .arg(&conf)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Octets that look like none of the others.
fn noise(len: usize) -> Vec<u8> {
    steadfast_lab::programs::server::noise(len as u64, len)
}

/// `curl` at the client, started.
fn curl(lab: &Lab, (way, family): (Way, Family), path: &str, options: &[&str]) -> Child {
    let url = format!("http://{}{path}", SocketAddr::from((family.vip(), way.port)));
    Command::new("nsenter")
        .arg(format!("--net={}", lab.namespace(Host::Client).display()))
        .args(["curl", "--disable", "--noproxy", "*", "--silent", "--show-error", "--fail"])
        .args(["--max-time", "30"])
        .args(options)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn ended(child: Child) -> Result<Vec<u8>, String> {
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    if ended.status.success() { Ok(ended.stdout) } else { Err(format!("{} {said}", ended.status)) }
}

/// What comes in at the servers.
struct Capture(Vec<Wire>);

impl Capture {
    fn start(lab: &Lab, family: Family) -> Self {
        let ethertype = if family == Family::V4 { IPV4 } else { IPV6 };
        let on = Network::Back.name();
        let of = |n: u8| Wire::open_on(&lab.namespace(Host::Server(n)), on, ethertype);
        Self(SERVERS.into_iter().map(of).collect())
    }

    /// Segments for the service, and the client that each tells.
    fn told(self) -> Vec<(TcpHeader, Option<SocketAddr>)> {
        let frames = self.0.iter().flat_map(|wire| wire.receive(MOMENT));
        let segments = frames.filter_map(|frame| {
            let read = PacketHeaders::from_ethernet_slice(&frame).ok()?;
            let Some(TransportHeader::Tcp(tcp)) = read.transport else { return None };
            let told = toa(tcp.options.as_slice());
            (tcp.destination_port == TOA.port).then_some((tcp, told))
        });
        segments.collect()
    }
}

/// The address in the option, read as kernel modules read it: the first of its kind.
fn toa(mut options: &[u8]) -> Option<SocketAddr> {
    loop {
        options = match *options {
            [1, ..] => &options[1..],
            [TOA_KIND, len, high, low, ..] => {
                let addr: IpAddr = match len {
                    8 => <[u8; 4]>::try_from(options.get(4..8)?).ok()?.into(),
                    20 => <[u8; 16]>::try_from(options.get(4..20)?).ok()?.into(),
                    _ => return None,
                };
                return Some((addr, u16::from_be_bytes([high, low])).into());
            }
            [kind, len, ..] if kind != 0 && len >= 2 => options.get(usize::from(len)..)?,
            _ => return None,
        };
    }
}

/// Whom a server takes for its client, and who that is.
fn who(lab: &Lab, to: (Way, Family)) -> Result<(SocketAddr, SocketAddr), String> {
    let own = "\n%{local_ip} %{local_port}\n";
    let text = String::from_utf8(ended(curl(lab, to, "/who", &["--write-out", own]))?).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let place = |line: &str| -> SocketAddr {
        let (addr, port) = line.split_once(' ').unwrap();
        (addr.parse::<IpAddr>().unwrap(), port.parse().unwrap()).into()
    };
    Ok((place(lines[0]), place(lines[1])))
}

fn the_header_has_the_client(lab: &Lab, family: Family) {
    phase(&format!("{family}: nginx reads the header"));
    until("nginx answers", SOON, || who(lab, (PROXY, family)));
    for _ in 0..2 * SERVERS.len() {
        let (seen, client) = who(lab, (PROXY, family)).unwrap();
        assert_eq!(client.ip(), family.client());
        assert_eq!(seen, client, "{family}");
    }
}

fn the_option_has_the_client(lab: &Lab, family: Family) {
    phase(&format!("{family}: what the servers receive tells the client"));
    until("nginx answers", SOON, || who(lab, (TOA, family)));
    for _ in 0..SERVERS.len() {
        let capture = Capture::start(lab, family);
        let (seen, client) = who(lab, (TOA, family)).unwrap();
        assert!(family.locals().contains(&seen.ip().to_canonical()), "{seen}");
        assert_eq!(client.ip(), family.client());
        let told: Vec<_> =
            capture.told().into_iter().filter(|(tcp, _)| tcp.source_port == seen.port()).collect();
        // A SYN, the ACK that ends the handshake, and the request at least.
        assert!(told.len() >= 3 && told.iter().any(|(tcp, _)| tcp.syn && !tcp.ack), "{told:?}");
        assert!(told.iter().all(|(_, told)| *told == Some(client)), "{client}: {told:?}");
    }
}

fn trace_and_get_service_say_so(lab: &Lab) {
    phase("trace, get service and the counters say so");
    let (holder, _) = lab.holder().unwrap();
    for (way, family) in all() {
        let shown = lab.ctl(holder, &["get", "service", &name(way, family)]).good();
        assert!(shown.contains(&format!("client address by {}", way.key)), "{shown}");
        let client = SocketAddr::from((family.client(), 4711));
        let flow = format!("tcp {client} > {}", SocketAddr::from((family.vip(), way.port)));
        let traced = lab.ctl(holder, &["trace", &flow]).good();
        let line = format!("the server that its client is {client}");
        assert!(traced.contains(&line), "{traced}");
    }
    let status = lab.status_json(holder);
    let workers = status["local"]["workers"].as_array().unwrap();
    assert!(workers.iter().any(|worker| worker["client_told"] != 0), "{workers:?}");
    assert!(workers.iter().all(|worker| worker["client_untold"] == 0), "{workers:?}");
}

/// A session that is kept, and whom the server took for its client.
struct Kept(BufReader<TcpStream>);

impl Kept {
    fn open(lab: &Lab, (way, family): (Way, Family)) -> Self {
        let to = SocketAddr::from((family.vip(), way.port));
        let stream = inside(&lab.namespace(Host::Client), || {
            TcpStream::connect_timeout(&to, PATIENCE).unwrap()
        });
        let stream = stream.unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn ask(&mut self) -> String {
        self.0.get_mut().write_all(b"GET /who HTTP/1.1\r\nHost: lab\r\n\r\n").unwrap();
        let (mut len, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "closed");
            if let Some(found) = line.to_lowercase().strip_prefix("content-length:") {
                len = found.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; len];
        self.0.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }
}

async fn transfers_go_on_over_a_failover(lab: &mut Lab) {
    phase("kept sessions, downloads and uploads of each way in both families");
    let all: Vec<(Way, Family)> = all().collect();
    let body = noise(FILE_BYTES);
    let file = lab.scratch("upload");
    fs::write(&file, &body).unwrap();
    let mut kept: Vec<Kept> = all.iter().map(|to| Kept::open(lab, *to)).collect();
    let before: Vec<String> = kept.iter_mut().map(Kept::ask).collect();
    lab.ready().await;
    let downloads: Vec<Child> = all.iter().map(|to| curl(lab, *to, "/large", &[])).collect();
    let upload =
        ["--limit-rate", RATE, "--upload-file", &file.display().to_string()].map(ToOwned::to_owned);
    let upload: Vec<&str> = upload.iter().map(String::as_str).collect();
    let uploads: Vec<Child> = all
        .iter()
        .map(|(way, family)| {
            curl(lab, (*way, *family), &format!("/put/{}", name(*way, *family)), &upload)
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));

    let (holder, _) = lab.holder().unwrap();
    phase(&format!("n{holder}, the holder, is killed in their middle"));
    lab.cluster.signal(holder, Signal::KILL).unwrap();
    lab.cluster.reap(holder, PATIENCE).await.unwrap();
    lab.wait_holder("another node takes over", SOON, Some(holder));
    for ((way, family), (kept, before)) in all.iter().zip(kept.iter_mut().zip(&before)) {
        let capture = Capture::start(lab, *family);
        assert_eq!(&kept.ask(), before, "the same server, which knows the same client");
        let client = kept.0.get_ref().local_addr().unwrap();
        if way.key == PROXY.key {
            assert_eq!(*before, format!("{} {}\n", client.ip(), client.port()));
            continue;
        }
        let told = capture.told();
        let tells = told.iter().any(|(_, told)| *told == Some(client));
        assert!(tells, "the new holder tells {client}: {told:?}");
    }
    for (to, child) in all.iter().zip(downloads) {
        let got = ended(child).unwrap_or_else(|error| panic!("{to:?}: {error}"));
        assert!(got == body, "{to:?}: the download differs, {} octets", got.len());
    }
    for (to, child) in all.iter().zip(uploads) {
        ended(child).unwrap_or_else(|error| panic!("{to:?}: {error}"));
        let of = |n| lab.scratch(&format!("nginx-s{n}/root/put/{}", name(to.0, to.1)));
        let got = SERVERS.into_iter().find_map(|n| fs::read(of(n)).ok()).unwrap();
        assert!(got == body, "{to:?}: the upload differs, {} octets", got.len());
    }
    lab.cluster.start_node(holder).await.unwrap();
    lab.ready().await;
    assert_eq!(NODES.into_iter().filter(|n| lab.try_status(*n).is_some()).count(), NODES.len());
}
