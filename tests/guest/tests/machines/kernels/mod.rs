//! Kernels as real servers: their tunnel devices take pages' packets out of every kind of tunnel,
//! and their SCTP speaks through DR and NAT.
//!
//! The programs are those of the workspace: `make build` first.

use std::{path::Path, time::Duration};

use steadfast_guest::{Clock, Guest, Image, Job};

/// For machines that are busy; it takes some 40 s of an idle one.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// What happens in the guest.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/machines/kernels/cluster.sh");
const TUNNELS: [&str; 6] =
    ["ipip", "gre", "gre-checksum", "gue", "gue-checksum", "gue-no-checksum"];
/// The family of the packet within, in that without.
const FAMILIES: [&str; 4] = ["4in4", "4in6", "6in4", "6in6"];
const SCTP: [&str; 4] = ["sctp dr", "sctp dr-6", "sctp nat", "sctp nat-6"];

#[test]
fn kernels_take_tunnels_and_speak_sctp() {
    let programs = Path::new(env!("CARGO_BIN_EXE_guest")).parent().unwrap();
    for name in ["clusterd", "clusterctl", "sctp-lines"] {
        let path = programs.join(name);
        assert!(path.exists(), "{} is missing: build it with `make build`", path.display());
    }
    let guest = Guest {
        image: Image::prepare().unwrap(),
        cpus: 1,
        clock: Clock::Instructions,
        memory_mib: 1536,
        time_limit: TIME_LIMIT,
    };
    let args = vec![SCRIPT.to_owned(), programs.to_string_lossy().into_owned()];
    let job = Job { program: "/bin/bash".into(), args, env: Vec::new() };
    let (mut seen, mut said) = (Vec::new(), String::new());
    let ended = guest.run(&job, |line| match line.strip_prefix("seen: ") {
        Some(what) => seen.push(what.to_owned()),
        None => said = format!("{said}{line}\n"),
    });
    let ended = ended.unwrap();
    println!("the guest was there for {:.0} s; it said:\n{said}", ended.took.as_secs_f64());
    let of = |tunnel: &'static str| FAMILIES.map(|families| format!("{tunnel} {families}"));
    let mut expected: Vec<_> = TUNNELS.into_iter().flat_map(of).collect();
    expected.extend(SCTP.map(str::to_owned));
    assert_eq!((ended.code, seen), (0, expected), "{said}");
}
