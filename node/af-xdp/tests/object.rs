//! The checked-in steering program is what its source compiles to.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Command};

#[test]
fn the_checked_in_object_is_what_clang_14_makes_of_the_source() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
    let rebuilt = std::env::temp_dir().join(format!("afx-steer-{}.o", std::process::id()));
    let output = Command::new("sh")
        .arg(folder.join("build.sh"))
        .arg(&rebuilt)
        .output()
        .expect("sh is needed to run bpf/build.sh");
    assert!(
        output.status.success(),
        "bpf/build.sh failed; it needs clang-14 (apt-get install clang-14): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let fresh = fs::read(&rebuilt).unwrap();
    fs::remove_file(&rebuilt).unwrap();
    let checked_in = fs::read(folder.join("steer.bpf.o")).unwrap();
    assert!(
        fresh == checked_in,
        "bpf/steer.bpf.o ({} bytes) is not what bpf/build.sh makes ({} bytes): run it and commit",
        checked_in.len(),
        fresh.len()
    );
    let text = String::from_utf8_lossy(&checked_in);
    for path in [env!("CARGO_MANIFEST_DIR"), "/usr/", "/home/", "/root/"] {
        assert!(!text.contains(path), "the object names a path of this machine: {path}");
    }
}
