//! A whole cluster of one node on VLANs of one wire, under a kernel that has the driver for them:
//! real tags, from and to the kernel's own VLAN interfaces.
//!
//! The programs are those of the workspace: `make build` first.

use std::{path::Path, time::Duration};

use steadfast_guest::{Clock, Guest, Image, Job};

/// For machines that are busy; it takes some 30 s of an idle one.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// What happens in the guest, in this order.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/machines/vlan/cluster.sh");
const SEEN: [&str; 7] = [
    "tags are taken off",
    "nat",
    "nat-6",
    "dr",
    "ping",
    "silence in another VLAN",
    "nat after the VLAN was made anew",
];

#[test]
fn segments_on_vlans_of_one_wire_are_served() {
    let programs = Path::new(env!("CARGO_BIN_EXE_guest")).parent().unwrap();
    for name in ["clusterd", "clusterctl", "lab-server"] {
        let path = programs.join(name);
        assert!(path.exists(), "{} is missing: build it with `make build`", path.display());
    }
    // One node of many must not miss its beacons because this machine is busy.
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
    assert_eq!((ended.code, seen), (0, SEEN.map(str::to_owned).to_vec()), "{said}");
}
