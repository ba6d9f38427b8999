//! FTP through NAT with real programs: vsftpd behind the nodes, curl in front of them, passive and
//! active, IPv4 and IPv6, and a session that goes on after the holder's daemon is killed; and the same
//! with a server whose replies have no words, so that they get longer. Needs root; fails without.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::common::{Lab, phase, until};
use rustix::process::Signal;
use steadfast_lab::host::{
    exec,
    family::Family,
    inside::inside,
    names::{Host, Mode, NODES, SERVERS},
};

/// As in the document; vsftpd is told the same.
const DATA_PORTS: (u16, u16) = (50_000, 50_099);
const CONTROL: u16 = 21;
/// Of the server of few words.
const TERSE_DATA_PORTS: (u16, u16) = (51_000, 51_099);
const TERSE_CONTROL: u16 = 2100;
/// It has an address of its own: its data connections could be of either service.
const TERSE_SERVERS: [&str; 3] = ["198.18.1.31", "198.18.1.32", "198.18.1.33"];
const FILE_BYTES: usize = 300_000;

const SOON: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn files_are_fetched_by_every_kind_of_data_connection_and_over_a_failover() {
    exec::check_tools(&[("vsftpd", "vsftpd"), ("curl", "curl")]).unwrap();
    let mut lab = Lab::start_with("e2eftp", Mode::Nat, Family::V6).await;
    let services: String = Family::V6.all().iter().map(|family| service(*family)).collect();
    let terse = TERSE_SERVERS.map(|addr| addr.parse().unwrap());
    let terse = service_at(Family::V4, "ftp-terse", (TERSE_CONTROL, TERSE_DATA_PORTS), terse);
    lab.apply(&[("settings:", &format!("{services}{terse}settings:"))]).await;
    let daemons: Vec<Daemon> = SERVERS.iter().map(|n| Daemon::start(&lab, *n)).collect();
    for (n, address) in SERVERS.into_iter().zip(TERSE_SERVERS) {
        let namespace = lab.namespace(Host::Server(n));
        exec::shell_in(&namespace, &format!("ip addr add {address}/24 dev back")).unwrap();
        terse::start(namespace, n);
    }
    for family in Family::V6.all() {
        every_kind(&lab, *family);
    }
    curl_reads_replies_that_got_longer(&lab);
    a_data_port_is_closed_to_strangers(&lab);
    sessions_go_on_over_a_failover(&mut lab).await;
    no_reply_was_left(&lab);
    drop(daemons);
    phase("done");
}

/// Round robin, so that only the client's session leads data connections to its server.
fn service(family: Family) -> String {
    let servers = SERVERS.map(|n| family.server(Mode::Nat, n));
    service_at(family, name(family), (CONTROL, DATA_PORTS), servers)
}

fn service_at(
    family: Family,
    name: &str,
    (port, (first, last)): (u16, (u16, u16)),
    servers: [IpAddr; 3],
) -> String {
    let servers: String = servers
        .map(|address| format!("      - {{address: \"{address}\", port: {port}}}\n"))
        .concat();
    format!(
        "  - name: {name}\n    group: web\n    address: \"{}\"\n    port: {port}\n    scheduler: rr\n    \
         forwarding: nat\n    ftp: {{data_ports: {first}-{last}}}\n    servers:\n{servers}",
        family.vip()
    )
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ftp",
        Family::V6 => "ftp-v6",
    }
}

/// vsftpd in the namespace of a server, with one file that says whose it is.
struct Daemon(Child);

impl Daemon {
    fn start(lab: &Lab, n: u8) -> Self {
        let dir = lab.scratch(&format!("ftp-s{n}"));
        let root = dir.join("root");
        fs::create_dir_all(dir.join("empty")).unwrap();
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("name"), format!("s{n}\n")).unwrap();
        fs::write(root.join("large"), vec![b'0' + n; FILE_BYTES]).unwrap();
        let (first, last) = DATA_PORTS;
        let conf = dir.join("vsftpd.conf");
        let text = format!(
            "listen=NO\nlisten_ipv6=YES\nbackground=NO\nanonymous_enable=YES\n\
             anon_root={}\nsecure_chroot_dir={}\nconnect_from_port_20=YES\npasv_min_port={first}\n\
             pasv_max_port={last}\nseccomp_sandbox=NO\nlocal_enable=NO\nxferlog_enable=NO\n",
            root.display(),
            dir.join("empty").display()
        );
        fs::write(&conf, text).unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net={}", lab.namespace(Host::Server(n)).display()))
            .arg("vsftpd")
            .arg(&conf)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Extended and plain, passive and active: EPSV, PASV, EPRT, PORT. IPv6 has only the extended ones.
fn kinds(family: Family) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut kinds = vec![("EPSV", vec![]), ("EPRT", vec!["--ftp-port", "-"])];
    if family == Family::V4 {
        kinds.push(("PASV", vec!["--disable-epsv"]));
        kinds.push(("PORT", vec!["--ftp-port", "-", "--disable-eprt"]));
    }
    kinds
}

fn every_kind(lab: &Lab, family: Family) {
    let mut served = BTreeSet::new();
    for (kind, options) in kinds(family) {
        phase(&format!("{family:?}: a listing and two files by {kind}"));
        let got = until("vsftpd answers", SOON, || fetch(lab, family, &options, kind));
        served.insert(got);
    }
    assert_eq!(served.len(), 1, "the client keeps its server: {served:?}");
    let totals = lab.ctl(1, &["get", "service", name(family)]).good();
    assert!(totals.contains("FTP data 50000-50099"), "{totals}");
    assert!(totals.contains("persistent 300 s"), "{totals}");
}

/// Which server it was.
fn fetch(lab: &Lab, family: Family, options: &[&str], kind: &str) -> Result<String, String> {
    let host = match family.vip() {
        IpAddr::V4(vip) => vip.to_string(),
        IpAddr::V6(vip) => format!("[{vip}]"),
    };
    let url = format!("ftp://{host}/{{name,large,}}");
    let ended = Command::new("nsenter")
        .arg(format!("--net={}", lab.namespace(Host::Client).display()))
        .args(["curl", "--disable", "--noproxy", "*", "--silent", "--show-error", "--verbose"])
        .args(["--max-time", "20"])
        .args(options)
        .arg(&url)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    if !ended.status.success() {
        return Err(format!("curl: {}\n{said}", ended.status));
    }
    assert!(said.contains(&format!("> {kind}")), "{kind} was not used:\n{said}");
    let text = String::from_utf8(ended.stdout).unwrap();
    let (name, rest) = text.split_once('\n').unwrap();
    let digit = name.strip_prefix('s').unwrap();
    assert!(rest.starts_with(&digit.repeat(FILE_BYTES)), "the large file of {name}");
    let listing = &rest[FILE_BYTES..];
    assert!(listing.contains("large") && listing.contains("name"), "the listing: {listing}");
    Ok(name.to_owned())
}

/// Which connects to the address that it is told.
fn curl_reads_replies_that_got_longer(lab: &Lab) {
    phase("a reply without words gets longer by the length of the VIP");
    let url = format!("ftp://{}:{TERSE_CONTROL}/name", Family::V4.vip());
    let ended = Command::new("nsenter")
        .arg(format!("--net={}", lab.namespace(Host::Client).display()))
        .args(["curl", "--disable", "--noproxy", "*", "--silent", "--show-error", "--verbose"])
        .args(["--max-time", "20", "--disable-epsv", "--no-ftp-skip-pasv-ip"])
        .arg(&url)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && ended.stdout.starts_with(b"s"), "{said}");
    let vip = Family::V4.vip().to_string().replace('.', ",");
    assert!(said.contains(&format!("< 227 ({vip},")), "{said}");
    let longer = |n: &u8| {
        let status = lab.status_json(*n);
        let workers = status["local"]["workers"].as_array().unwrap().clone();
        workers.iter().map(|worker| worker["longer_replies"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(NODES.iter().map(longer).sum::<u64>(), 1);
}

/// The VIP has no open ports for who has no session.
fn a_data_port_is_closed_to_strangers(lab: &Lab) {
    phase("a data port is closed to who has no session");
    let stranger = "198.18.0.77";
    let client = lab.namespace(Host::Client);
    exec::shell_in(&client, &format!("ip addr add {stranger}/24 dev front")).unwrap();
    let refused = inside(&client, || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let own: SocketAddr = format!("{stranger}:0").parse().unwrap();
        socket.bind(&own.into()).unwrap();
        let to = SocketAddr::from((Family::V4.vip(), DATA_PORTS.0));
        socket.connect_timeout(&to.into(), PATIENCE).unwrap_err().kind()
    });
    assert_eq!(refused.unwrap(), std::io::ErrorKind::ConnectionRefused);
}

/// A control connection by hand: commands, and data connections of either kind.
struct Session {
    control: BufReader<TcpStream>,
    family: Family,
}

impl Session {
    fn open(lab: &Lab, family: Family, port: u16) -> Self {
        let stream = inside(&lab.namespace(Host::Client), || {
            TcpStream::connect_timeout(&(family.vip(), port).into(), PATIENCE).unwrap()
        });
        let stream = stream.unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut session = Self { control: BufReader::new(stream), family };
        session.hear("220");
        session.say("USER anonymous", "331");
        session.say("PASS x", "230");
        session.say("TYPE I", "200");
        session
    }

    fn hear(&mut self, code: &str) -> String {
        let mut line = String::new();
        self.control.read_line(&mut line).unwrap();
        assert!(line.starts_with(code), "{code} was expected: {line:?}");
        line
    }

    fn say(&mut self, command: &str, code: &str) -> String {
        self.control.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
        self.hear(code)
    }

    /// Fetches `name` over a passive connection; who it says it is.
    fn passive(&mut self, lab: &Lab) -> String {
        let port = match self.family {
            Family::V4 => {
                let reply = self.say("PASV", "227");
                let from = reply.find('(').unwrap() + 1;
                let numbers: Vec<u16> = reply[from..reply.find(')').unwrap()]
                    .split(',')
                    .map(|number| number.parse().unwrap())
                    .collect();
                let told =
                    numbers[..4].iter().map(ToString::to_string).collect::<Vec<_>>().join(".");
                assert_eq!(told, self.family.vip().to_string(), "{reply}");
                numbers[4] << 8 | numbers[5]
            }
            Family::V6 => {
                let reply = self.say("EPSV", "229");
                reply.split('|').nth(3).unwrap().parse().unwrap()
            }
        };
        let to = SocketAddr::from((self.family.vip(), port));
        let data = inside(&lab.namespace(Host::Client), || {
            TcpStream::connect_timeout(&to, PATIENCE).unwrap()
        });
        self.retrieve(|| data.unwrap())
    }

    /// The same over one that the server opens.
    fn active(&mut self, lab: &Lab) -> String {
        let own = self.control.get_ref().local_addr().unwrap().ip();
        let listener =
            inside(&lab.namespace(Host::Client), || TcpListener::bind((own, 0)).unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let number = if self.family == Family::V4 { 1 } else { 2 };
        self.say(&format!("EPRT |{number}|{own}|{port}|"), "200");
        let vip = self.family.vip();
        self.retrieve(|| {
            let (data, from) = listener.accept().unwrap();
            assert_eq!(from, SocketAddr::from((vip, 20)), "the data connection comes from the VIP");
            data
        })
    }

    fn retrieve(&mut self, data: impl FnOnce() -> TcpStream) -> String {
        self.control.get_mut().write_all(b"RETR name\r\n").unwrap();
        let mut data = data();
        data.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = String::new();
        data.read_to_string(&mut text).unwrap();
        self.hear("150");
        self.hear("226");
        text
    }
}

async fn sessions_go_on_over_a_failover(lab: &mut Lab) {
    phase("sessions of both families, with a data connection of each kind");
    let mut sessions: Vec<_> =
        Family::V6.all().iter().map(|family| Session::open(lab, *family, CONTROL)).collect();
    let before: Vec<_> = sessions.iter_mut().map(|session| session.passive(lab)).collect();
    let mut terse = Session::open(lab, Family::V4, TERSE_CONTROL);
    let terse_before = terse.passive(lab);
    assert_eq!(terse.passive(lab), terse_before);
    for (session, name) in sessions.iter_mut().zip(&before) {
        assert_eq!(&session.active(lab), name);
    }
    lab.ready().await;
    for _ in 0..2 {
        let (holder, _) = lab.holder().unwrap();
        phase(&format!(
            "n{holder}, the holder, is killed: the sessions go on, at the same servers"
        ));
        lab.cluster.signal(holder, Signal::KILL).unwrap();
        lab.cluster.reap(holder, PATIENCE).await.unwrap();
        lab.wait_holder("another node takes over", SOON, Some(holder));
        for (session, name) in sessions.iter_mut().zip(&before) {
            session.say("NOOP", "200");
            assert_eq!(&session.passive(lab), name, "{:?}", session.family);
            assert_eq!(&session.active(lab), name, "{:?}", session.family);
        }
        // Two replies got longer before the first kill: every number is another since then.
        terse.say("NOOP", "200");
        for _ in 0..2 {
            assert_eq!(terse.passive(lab), terse_before, "the server of few words");
        }
        lab.cluster.start_node(holder).await.unwrap();
        lab.ready().await;
    }
    terse.say("QUIT", "221");
    for session in &mut sessions {
        session.say("QUIT", "221");
    }
}

/// Every 227 reply was translated.
fn no_reply_was_left(lab: &Lab) {
    for n in NODES {
        let status = lab.status_json(n);
        let workers = status["local"]["workers"].as_array().unwrap();
        assert!(workers.iter().all(|worker| worker["unfit_replies"] == 0), "{workers:?}");
    }
}

/// An FTP server whose replies have no words that could make room, for passive connections alone.
mod terse {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
        path::PathBuf,
        thread,
    };

    use steadfast_lab::host::inside::inside;

    use super::{TERSE_CONTROL, TERSE_DATA_PORTS};

    /// Serves until the test ends; a session each, one file with the name of server `n`.
    pub(super) fn start(namespace: PathBuf, n: u8) {
        let any = (Ipv4Addr::UNSPECIFIED, TERSE_CONTROL);
        let listener = inside(&namespace, || TcpListener::bind(any).unwrap()).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let namespace = namespace.clone();
                thread::spawn(move || serve(&namespace, n, stream));
            }
        });
    }

    /// One session, as long as its client is there.
    fn serve(namespace: &std::path::Path, n: u8, mut stream: TcpStream) -> Option<()> {
        let own = stream.local_addr().ok()?;
        let mut commands = BufReader::new(stream.try_clone().ok()?);
        let mut data = None;
        stream.write_all(b"220 hi\r\n").ok()?;
        loop {
            let mut line = String::new();
            if commands.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let reply = match line.split_whitespace().next()? {
                "USER" => "331 ok\r\n".to_owned(),
                "PASS" => "230 ok\r\n".to_owned(),
                "PWD" => "257 \"/\"\r\n".to_owned(),
                "TYPE" | "NOOP" => "200 ok\r\n".to_owned(),
                "SIZE" => "213 3\r\n".to_owned(),
                "QUIT" => "221 ok\r\n".to_owned(),
                "PASV" => {
                    let listener = listen(namespace, own)?;
                    let port = listener.local_addr().ok()?.port();
                    data = Some(listener);
                    let address = own.ip().to_string().replace('.', ",");
                    format!("227 ({address},{},{})\r\n", port >> 8, port & 0xff)
                }
                "RETR" => {
                    let (mut to, _) = data.take()?.accept().ok()?;
                    stream.write_all(b"150 ok\r\n").ok()?;
                    to.write_all(format!("s{n}\n").as_bytes()).ok()?;
                    "226 ok\r\n".to_owned()
                }
                _ => "502 no\r\n".to_owned(),
            };
            stream.write_all(reply.as_bytes()).ok()?;
        }
    }

    /// On one of the data ports.
    fn listen(namespace: &std::path::Path, own: SocketAddr) -> Option<TcpListener> {
        let (first, last) = TERSE_DATA_PORTS;
        let open = || (first..=last).find_map(|port| TcpListener::bind((own.ip(), port)).ok());
        inside(namespace, open).ok()?
    }
}
