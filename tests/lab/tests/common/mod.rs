//! A cluster of a test: started, asked, removed again whatever happens.

#![allow(dead_code, unreachable_pub)]

pub mod wire;

use std::{
    fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use serde_json::Value;
use steadfast_lab::{
    cluster::{
        Cluster, Plan,
        api::{Epoch, Status},
    },
    host::{
        exec,
        family::Family,
        names::{Host, Mode, NODES, Tag},
        state::Lock,
        sweep,
    },
};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// One cluster at a time: two cores are just enough for one.
static TURN: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);

/// Removes the lab of a test, also a failing one's. The logs of a failing test stay.
struct Broom {
    tag: Tag,
    out_dir: PathBuf,
    _lock: Lock,
    _turn: OwnedMutexGuard<()>,
}

impl Drop for Broom {
    fn drop(&mut self) {
        if let Err(error) = sweep::sweep(&self.tag) {
            eprintln!("the lab {} is not wholly removed: {error:#}", self.tag);
        }
        if std::thread::panicking() {
            eprintln!("logs of the hosts: {}", self.out_dir.join("logs").display());
        } else {
            let _ = std::fs::remove_dir_all(&self.out_dir);
        }
    }
}

/// A running cluster. Fields are dropped in this order.
pub struct Lab {
    pub cluster: Cluster,
    broom: Broom,
}

/// What `clusterctl` said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Asserts that it succeeded; its standard output.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.code, Some(0), "clusterctl failed: {self}");
        self.out
    }

    /// Asserts that it failed with `code` and said each of `parts`.
    #[track_caller]
    pub fn bad(self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "another exit code was expected: {self}");
        for part in parts {
            assert!(self.err.contains(part), "it does not say `{part}`: {self}");
        }
    }

    /// Asserts success and one JSON document.
    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.good();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("no JSON: {error}: {text}"))
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {:?}\nstdout: {}\nstderr: {}", self.code, self.out, self.err)
    }
}

impl Lab {
    /// Starts a cluster with direct routing, `init`, two `join`s and the example applied.
    pub async fn start(name: &str) -> Self {
        Self::start_with(name, Mode::Dr, Family::V4).await
    }

    /// The same in another mode, or with sessions of IPv6.
    pub async fn start_with(name: &str, mode: Mode, family: Family) -> Self {
        exec::check_rights_and_tools().unwrap();
        let turn = Arc::clone(&TURN).lock_owned().await;
        let tag: Tag = name.parse().unwrap();
        let lock = Lock::take(&tag).unwrap();
        sweep::sweep(&tag).unwrap();
        let bin_dir = Path::new(env!("CARGO_BIN_EXE_lab")).parent().unwrap().to_owned();
        let out_dir = bin_dir.join(format!("../test-{tag}"));
        std::fs::create_dir_all(&out_dir).unwrap();
        let out_dir = out_dir.canonicalize().unwrap();
        let broom = Broom { tag: tag.clone(), out_dir: out_dir.clone(), _lock: lock, _turn: turn };
        let examples_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
        let plan = Plan {
            tag,
            mode,
            replication: true,
            queues: 1,
            family,
            changes: Default::default(),
            old_dir: None,
            bin_dir,
            examples_dir,
            out_dir,
        };
        let started = Cluster::start(plan, &mut |line| phase(line)).await;
        Self { cluster: started.unwrap_or_else(|error| panic!("{error:#}")), broom }
    }

    pub fn tag(&self) -> &Tag {
        &self.broom.tag
    }

    /// The namespace of a host.
    pub fn namespace(&self, host: Host) -> PathBuf {
        self.tag().namespace_path(host)
    }

    /// A path in the folder that is removed in the end.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.cluster.plan().work_dir().join(name)
    }

    /// `clusterctl` on node `n`.
    pub fn ctl(&self, n: u8, args: &[&str]) -> Said {
        self.ctl_at(&self.tag().socket(n), args)
    }

    /// `clusterctl` through any socket.
    pub fn ctl_at(&self, socket: &Path, args: &[&str]) -> Said {
        let mut command = Command::new(self.cluster.plan().program("clusterctl"));
        command.arg("--socket").arg(socket).args(args);
        said(command)
    }

    /// `clusterctl` inside a namespace, which decides by itself how to reach the cluster.
    pub fn ctl_in(&self, host: Host, args: &[&str]) -> Said {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace(host).display()))
            .arg(self.cluster.plan().program("clusterctl"))
            .args(args);
        said(command)
    }

    /// What node `n` says of the cluster.
    #[track_caller]
    pub fn status(&self, n: u8) -> Status {
        let text = self.ctl(n, &["-o", "json", "status"]).good();
        serde_json::from_str(&text).unwrap()
    }

    /// The same as plain JSON.
    #[track_caller]
    pub fn status_json(&self, n: u8) -> Value {
        self.ctl(n, &["-o", "json", "status"]).json()
    }

    /// What node `n` says, `None` when it does not answer or is nobody.
    pub fn try_status(&self, n: u8) -> Option<Status> {
        let said = self.ctl(n, &["-o", "json", "status"]);
        (said.code == Some(0)).then(|| serde_json::from_str(&said.out).unwrap())
    }

    /// Which node announces, by its number, and its epoch.
    pub fn holder(&self) -> Option<(u8, Epoch)> {
        NODES.into_iter().find_map(|n| {
            let status = self.try_status(n)?;
            let group = status.groups.into_iter().next()?;
            group.announcing_here.then(|| (n, group.epoch.unwrap_or_default()))
        })
    }

    /// Waits for a node that announces.
    #[track_caller]
    pub fn wait_holder(&self, what: &str, limit: Duration, other_than: Option<u8>) -> (u8, Epoch) {
        until(what, limit, || {
            let found = self.holder().filter(|(n, _)| Some(*n) != other_than);
            found.ok_or_else(|| "nobody announces".to_owned())
        })
    }

    /// Waits until the cluster is at rest.
    pub async fn ready(&mut self) -> steadfast_lab::cluster::ready::Ready {
        match self.cluster.wait_ready().await {
            Ok(ready) => ready,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// The log of a host.
    pub fn log(&self, host: Host) -> String {
        std::fs::read_to_string(self.cluster.plan().log(host)).unwrap_or_default()
    }

    /// Applies the example with changes, each from something that is in it to something else, and
    /// waits until every node has it.
    pub async fn apply(&mut self, changes: &[(&str, &str)]) -> u64 {
        let mut text = self.cluster.plan().document().unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "the example has no `{from}`");
            text = text.replace(from, to);
        }
        let path = self.scratch("applied.yaml");
        std::fs::write(&path, text).unwrap();
        self.ctl(1, &["apply", "-f", &path.display().to_string()]).good();
        self.ready().await.revision
    }
}

fn said(mut command: Command) -> Said {
    command.env_remove("STEADFAST_SOCKET").env_remove("STEADFAST_CREDENTIALS");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Says what is looked at next, with the time.
pub fn phase(what: &str) {
    use std::sync::OnceLock;
    static STARTED: OnceLock<Instant> = OnceLock::new();
    println!("[{:5.1} s] {what}", STARTED.get_or_init(Instant::now).elapsed().as_secs_f32());
}

/// Looks until it is there.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(missing) => {
                assert!(Instant::now() < deadline, "{what}: not within {limit:?}: {missing}");
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Asserts that something stays true for a time.
#[track_caller]
pub fn throughout(what: &str, time: Duration, mut look: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Err(seen) = look() {
            panic!("{what}: {seen}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
