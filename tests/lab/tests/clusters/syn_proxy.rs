//! SYN cookies with real programs: nginx behind the nodes, curl in front of them; files are fetched
//! and stored over a kill of the holder, and a flood of forged SYNs keeps nobody out. Needs root;
//! fails without.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::common::{Lab, phase, until};
use etherparse::PacketBuilder;
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use steadfast_lab::host::{
    exec,
    family::Family,
    inside::inside,
    names::{Host, Mode, NODES, SERVERS},
};

/// The port of nginx; services on it, and on the next one, by their mode of cookies.
const ALWAYS: u16 = 8000;
const AUTO: u16 = 8001;

const FILE_BYTES: usize = 6 << 20;
/// Of curl, so that a file takes six seconds.
const RATE: &str = "1M";

/// Places for half-open connections at a node, and forged SYNs: far more.
const HALF_OPEN_MAX: u32 = 1024;
const SYNS_PER_S: u64 = 2000;
const SYNS_MAX: u64 = 40_000;

const SOON: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn files_pass_unharmed_over_a_failover() {
    exec::check_tools(&[("nginx", "nginx"), ("curl", "curl")]).unwrap();
    for (tag, mode) in [("e2esynn", Mode::Nat), ("e2esynf", Mode::FullNat)] {
        let mut lab = Lab::start_with(tag, mode, Family::V6).await;
        let text: String = Family::V6.all().iter().map(|f| service(*f, mode, "always")).collect();
        lab.apply(&[("settings:", &format!("{text}settings:"))]).await;
        let web = Web::start(&lab);
        for family in Family::V6.all() {
            phase(&format!("{mode:?}: clients of {family} are answered, by a cookie"));
            until("nginx answers", SOON, || web.get_name(&lab, *family, ALWAYS));
            let name = name(*family, "always");
            let shown = lab.ctl(lab.holder().unwrap().0, &["get", "service", &name]).good();
            assert!(shown.contains("SYN cookies always"), "{shown}");
            assert!(shown.contains(" came back, "), "{shown}");
            let way = format!("tcp {} > {}", client(*family), at(*family, ALWAYS));
            let told = lab.ctl(1, &["trace", &way]).good();
            assert!(told.contains("SYN-ACK") && told.contains("cookie"), "{told}");
        }
        lab.ready().await;
        over_a_kill(&mut lab, &web, mode).await;
        let config = lab.ctl(1, &["-o", "json", "get", "config"]).good();
        assert!(!config.contains("secret") && !config.contains("present"), "keys are not shown");
    }
    phase("done");
}

async fn over_a_kill(lab: &mut Lab, web: &Web, mode: Mode) {
    let (holder, _) = lab.holder().unwrap();
    phase(&format!("{mode:?}: files both ways while n{holder}, the holder, is killed"));
    let mut running = Vec::new();
    for family in Family::V6.all() {
        for n in 0..3 {
            let to = web.dir.join(format!("got-{family}-{n}"));
            let url = url(*family, ALWAYS, "file");
            let limit = ["--limit-rate", RATE, "-o", to.to_str().unwrap()];
            running.push((curl(lab, &limit, &url), Some(to)));
            let url = self::url(*family, ALWAYS, &format!("put/{family}-{n}"));
            let file = web.file.to_str().unwrap();
            running.push((curl(lab, &["--limit-rate", RATE, "-T", file], &url), None));
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    lab.cluster.signal(holder, Signal::KILL).unwrap();
    lab.cluster.reap(holder, PATIENCE).await.unwrap();
    lab.wait_holder("another node takes over", SOON, Some(holder));
    for (mut child, to) in running {
        let ended = child.wait().unwrap();
        assert!(ended.success(), "curl ended with {ended}");
        if let Some(to) = to {
            assert!(fs::read(to).unwrap() == web.content, "a fetched file is another");
        }
    }
    for family in Family::V6.all() {
        for n in 0..3 {
            let stored = web.put.join(format!("{family}-{n}"));
            assert!(fs::read(stored).unwrap() == web.content, "a stored file is another");
        }
        phase(&format!("{mode:?}: and new ones of {family}"));
        until("nginx answers", SOON, || web.get_name(lab, *family, ALWAYS));
    }
    lab.cluster.start_node(holder).await.unwrap();
    lab.ready().await;
}

#[tokio::test]
async fn a_flood_keeps_nobody_out() {
    exec::check_tools(&[("nginx", "nginx"), ("curl", "curl")]).unwrap();
    let mut lab = Lab::start_with("e2esynd", Mode::Nat, Family::V4).await;
    let services = service(Family::V4, Mode::Nat, "auto");
    let settings = format!("{services}settings:\n  half_open_max: {HALF_OPEN_MAX}");
    lab.apply(&[("settings:", &settings)]).await;
    phase("the nodes start again with few places for half-open connections");
    for n in NODES {
        lab.cluster.signal(n, Signal::KILL).unwrap();
        lab.cluster.reap(n, PATIENCE).await.unwrap();
        lab.cluster.start_node(n).await.unwrap();
        lab.ready().await;
    }
    let web = Web::start(&lab);
    until("nginx answers", SOON, || web.get_name(&lab, Family::V4, AUTO));
    let (holder, _) = lab.holder().unwrap();
    let sent = || cookies(&lab, holder)["sent"].as_u64().unwrap_or(0);
    assert_eq!(sent(), 0, "there was no need");
    phase("sessions that stay, then a flood of forged SYNs");
    let mut running = Vec::new();
    for n in 0..4 {
        let to = web.dir.join(format!("kept-{n}"));
        let limit = ["--limit-rate", "400k", "-o", to.to_str().unwrap()];
        running.push((curl(&lab, &limit, &url(Family::V4, AUTO, "file")), to));
    }
    std::thread::sleep(Duration::from_secs(1));
    let flood = Flood::start(&lab);
    until("cookies are given", SOON, || match sent() {
        0 => Err("none yet".to_owned()),
        some => Ok(some),
    });
    let asked = get_in(&lab, &web, "during the flood");
    let status = lab.status_json(holder);
    let half_open = status["local"]["half_open"].as_u64().unwrap();
    assert!(half_open <= u64::from(HALF_OPEN_MAX), "{half_open}");
    phase(&format!("n{holder}, the holder, is killed, and the flood goes on"));
    lab.cluster.signal(holder, Signal::KILL).unwrap();
    lab.cluster.reap(holder, PATIENCE).await.unwrap();
    let (next, _) = lab.wait_holder("another node takes over", SOON, Some(holder));
    let mut later = get_in(&lab, &web, "at the next holder");
    let count = |what: &str| cookies(&lab, next)[what].as_u64().unwrap_or(0);
    until("cookies are given there", SOON, || match count("sent") {
        0 => Err("none yet".to_owned()),
        some => Ok(some),
    });
    later += get_in(&lab, &web, "during the flood, at the next holder");
    assert!(count("accepted") > 0, "clients come back with cookies there");
    println!("{} forged SYNs, {} requests got in", flood.stop(), asked + later);
    get_in(&lab, &web, "after the flood");
    for (mut child, to) in running {
        let ended = child.wait().unwrap();
        assert!(ended.success(), "a session that stood before was broken: {ended}");
        assert!(fs::read(to).unwrap() == web.content, "its file is another");
    }
    lab.cluster.start_node(holder).await.unwrap();
    lab.ready().await;
    phase("done");
}

/// Ten requests one after the other, each on a connection of its own; how many.
fn get_in(lab: &Lab, web: &Web, when: &str) -> usize {
    phase(&format!("new requests get in {when}"));
    for _ in 0..10 {
        until("a request gets in", SOON, || web.get_name(lab, Family::V4, AUTO));
    }
    10
}

/// What node `n` counts of cookies of the automatic service.
fn cookies(lab: &Lab, n: u8) -> serde_json::Value {
    let json = lab.ctl(n, &["-o", "json", "get", "service", "web-auto"]).json();
    json["service"]["cookies"].clone()
}

fn name(family: Family, mode: &str) -> String {
    match family {
        Family::V4 => format!("web-{mode}"),
        Family::V6 => format!("web-{mode}-v6"),
    }
}

fn service(family: Family, mode: Mode, proxy: &str) -> String {
    let port = if proxy == "auto" { AUTO } else { ALWAYS };
    let servers: String = SERVERS
        .map(|n| format!("      - {{address: \"{}\", port: {ALWAYS}}}\n", family.server(mode, n)))
        .concat();
    let forwarding = if mode == Mode::Nat { "nat" } else { "full_nat" };
    format!(
        "  - name: {}\n    group: web\n    address: \"{}\"\n    port: {port}\n    scheduler: rr\n    \
         forwarding: {forwarding}\n    syn_proxy: {proxy}\n    servers:\n{servers}",
        name(family, proxy),
        family.vip()
    )
}

fn at(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.vip(), port)
}

/// Somebody who has no connection.
fn client(family: Family) -> SocketAddr {
    let addr: IpAddr = match family {
        Family::V4 => [198, 18, 0, 99].into(),
        Family::V6 => "2001:db8:18::99".parse().unwrap(),
    };
    SocketAddr::new(addr, 4711)
}

fn url(family: Family, port: u16, path: &str) -> String {
    format!("http://{}/{path}", at(family, port))
}

fn curl(lab: &Lab, options: &[&str], url: &str) -> Child {
    Command::new("nsenter")
        .arg(format!("--net={}", lab.namespace(Host::Client).display()))
        .args(["curl", "--disable", "--noproxy", "*", "--silent", "--show-error", "--fail"])
        .args(["--globoff", "--connect-timeout", "8", "--max-time", "60"])
        .args(options)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// nginx on each server, with one file to fetch and a folder to store into, and what is in the file.
struct Web {
    dir: PathBuf,
    file: PathBuf,
    put: PathBuf,
    content: Vec<u8>,
    running: Vec<Child>,
}

impl Web {
    fn start(lab: &Lab) -> Self {
        let dir = lab.scratch("web");
        let put = dir.join("www/put");
        fs::create_dir_all(&put).unwrap();
        let mut state = 1_u32;
        let content: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(FILE_BYTES)
        .collect();
        let file = dir.join("www/file");
        fs::write(&file, &content).unwrap();
        let running = SERVERS.map(|n| nginx(lab, &dir, n)).into();
        Self { dir, file, put, content, running }
    }

    /// Which server answers.
    fn get_name(&self, lab: &Lab, family: Family, port: u16) -> Result<String, String> {
        let ended = curl(lab, &[], &url(family, port, "name")).wait_with_output().unwrap();
        let name = String::from_utf8(ended.stdout).unwrap();
        let is_server = SERVERS.iter().any(|n| name == format!("s{n}"));
        if ended.status.success() && is_server {
            Ok(name)
        } else {
            Err(format!("curl: {}", ended.status))
        }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn nginx(lab: &Lab, dir: &Path, n: u8) -> Child {
    let own = dir.join(format!("s{n}"));
    fs::create_dir_all(&own).unwrap();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|path| format!("{path}_temp_path {path};\n"))
        .concat();
    let text = format!(
        "daemon off; master_process off; user root; pid nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 512; }}\nhttp {{\naccess_log off;\n{temp}\
         server {{\nlisten {ALWAYS}; listen [::]:{ALWAYS}; root {}; client_max_body_size 100m;\n\
         location = /name {{ return 200 's{n}'; }}\nlocation /put/ {{ dav_methods PUT; }}\n}}\n}}\n",
        dir.join("www").display()
    );
    let conf = own.join("nginx.conf");
    fs::write(&conf, text).unwrap();
    Command::new("nsenter")
        .arg(format!("--net={}", lab.namespace(Host::Server(n)).display()))
        .args(["/usr/sbin/nginx", "-p"])
        .arg(&own)
        .arg("-c")
        .arg(&conf)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// Forged SYNs to the automatic service, each from another address.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Flood {
    fn start(lab: &Lab) -> Self {
        let raw = inside(&lab.namespace(Host::Client), || {
            // IPPROTO_RAW: whole packets, the header too.
            Socket::new(Domain::IPV4, Type::RAW, Some(255.into())).unwrap()
        });
        let (raw, to) = (raw.unwrap(), at(Family::V4, AUTO));
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until_stop, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let started = Instant::now();
            for n in 0..SYNS_MAX {
                if until_stop.load(Ordering::Relaxed) {
                    return;
                }
                let due = Duration::from_micros(n * 1_000_000 / SYNS_PER_S);
                std::thread::sleep(due.saturating_sub(started.elapsed()));
                let _ = raw.send_to(&forged(n, to), &to.into());
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, sent, thread }
    }

    /// How many there were.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.sent.load(Ordering::Relaxed)
    }
}

fn forged(n: u64, to: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(vip) = to.ip() else { panic!("of IPv4") };
    // 203.0.113.0/24 is nobody's (RFC 5737).
    let from = Ipv4Addr::new(203, 0, 113, n as u8);
    let port = 1024 + (n >> 8) as u16;
    let mut packet = Vec::new();
    PacketBuilder::ipv4(from.octets(), vip.octets(), 64)
        .tcp(port, to.port(), n as u32, 64_000)
        .syn()
        .write(&mut packet, b"")
        .unwrap();
    packet
}
