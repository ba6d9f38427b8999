//! The emulated machine itself.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use steadfast_guest::{Clock, Guest, Image, Job, SERIES};

fn guest(time_limit: Duration) -> Guest {
    Guest {
        image: Image::prepare().unwrap(),
        cpus: 1,
        clock: Clock::Instructions,
        memory_mib: 512,
        time_limit,
    }
}

fn shell(script: &str, args: &[&str]) -> Job {
    let args = ["-c", script, "sh"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
    let env = vec![("GREETING".to_owned(), "good day".to_owned())];
    Job { program: "/bin/sh".into(), args, env }
}

/// Folders of runs that are not over.
fn folders() -> usize {
    let own = format!("steadfast-guest-{}-", std::process::id());
    let entries = std::fs::read_dir(std::env::temp_dir()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&own)).count()
}

#[test]
fn a_guest_runs_one_program_and_ends_with_it() {
    let script = "uname -r; echo $GREETING; for w in \"$@\"; do echo \"<$w>\"; done; exit 7";
    let job = shell(script, &["two words", "it's", ""]);
    let mut lines = Vec::new();
    let guest = guest(Duration::from_secs(300));
    let ended = guest.run(&job, |line| lines.push(line.to_owned())).unwrap();
    assert_eq!(ended.code, 7);
    assert!(lines[0].starts_with(SERIES), "{lines:?}");
    assert_eq!(lines[0], guest.image.release());
    assert_eq!(lines[1..], ["good day", "<two words>", "<it's>", "<>"]);

    // One that never ends is ended, whatever it does; it is not told apart from a slow boot.
    let mut guest = guest;
    guest.time_limit = Duration::from_secs(1);
    let error = guest.run(&shell("sleep 1000", &[]), |_| {}).unwrap_err().to_string();
    assert!(error.contains("still there after 1 s"), "{error}");
    assert_eq!(folders(), 0);
}
