//! Scripts of the guest, and what they say: `seen: WHAT` is a step that went well, `judged: EVENT`
//! what became of the sessions of a client, and everything else is for whoever reads a failure.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use steadfast_guest::{Clock, Guest, Image, Job};
use steadfast_lab::load::wire::{Event, SessionReport};

/// For machines that are busy; an idle one takes a minute or two.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// How a script went.
pub(crate) struct Told {
    /// Its exit code.
    pub(crate) code: i32,
    /// The steps it has seen, in order.
    pub(crate) seen: Vec<String>,
    /// The sessions of its clients.
    pub(crate) sessions: Vec<SessionReport>,
    /// All else it said.
    pub(crate) said: String,
}

/// Runs the script at `path` below this folder in a guest, with the folder of the workspace's
/// programs as its argument. It takes `programs` of these.
pub(crate) fn run(path: &str, programs: &[&str]) -> Told {
    let folder = Path::new(env!("CARGO_BIN_EXE_guest")).parent().unwrap();
    for name in programs {
        let path = folder.join(name);
        assert!(path.exists(), "{} is missing: build it with `make build`", path.display());
    }
    // Nodes must not miss beacons because this machine is busy.
    let guest = Guest {
        image: Image::prepare().unwrap(),
        cpus: 1,
        clock: Clock::Instructions,
        memory_mib: 1536,
        time_limit: TIME_LIMIT,
    };
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/machines").join(path);
    let args = vec![script.display().to_string(), folder.display().to_string()];
    let job = Job { program: "/bin/bash".into(), args, env: Vec::new() };
    let mut told = Told { code: 0, seen: Vec::new(), sessions: Vec::new(), said: String::new() };
    let ended = guest.run(&job, |line| told.take(line)).unwrap();
    told.code = ended.code;
    println!("the guest was there for {:.0} s; it said:\n{}", ended.took.as_secs_f64(), told.said);
    told
}

impl Told {
    fn take(&mut self, line: &str) {
        if let Some(what) = line.strip_prefix("seen: ") {
            self.seen.push(what.to_owned());
        } else if let Some(event) = line.strip_prefix("judged: ") {
            match serde_json::from_str(event).unwrap() {
                Event::Finished { sessions, .. } => self.sessions.extend(sessions),
                other => panic!("that is no last word: {other:?}"),
            }
        } else {
            self.said = format!("{}{line}\n", self.said);
        }
    }

    /// The script has seen these steps, in this order, and ended well.
    #[track_caller]
    pub(crate) fn assert_seen<'a>(&self, steps: impl IntoIterator<Item = &'a str>) {
        let seen: Vec<_> = self.seen.iter().map(String::as_str).collect();
        assert_eq!((self.code, seen), (0, steps.into_iter().collect()), "{}", self.said);
    }

    /// There were `count` sessions, none is broken, and each of these servers had some.
    #[track_caller]
    pub(crate) fn assert_kept(&self, count: usize, servers: &[&str]) {
        let broken: Vec<_> = self.sessions.iter().filter(|s| s.broken.is_some()).collect();
        assert!(broken.is_empty(), "{} broken: {broken:#?}\n{}", broken.len(), self.said);
        assert_eq!(self.sessions.len(), count, "{}", self.said);
        let served: BTreeSet<_> =
            self.sessions.iter().filter_map(|s| s.server.as_deref()).collect();
        assert_eq!(served, servers.iter().copied().collect(), "{}", self.said);
    }
}
