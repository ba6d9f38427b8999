//! Without a right, the program says which.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use support::Lab;

/// What `afx-hold` says when it runs without a capability and with the usual memlock limit.
fn complaint_without(capability: &str) -> String {
    let mut lab = Lab::new(1, 1);
    let instance = lab.instance("a0");
    let output = lab.in_node(|| {
        Command::new("prlimit")
            .args(["--memlock=8388608:8388608", "setpriv", "--bounding-set", capability])
            .args([env!("CARGO_BIN_EXE_afx-hold"), &instance, "a0", "198.18.100.1"])
            .output()
            .expect("prlimit and setpriv (util-linux) are needed")
    });
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_missing_cap_net_raw_is_named() {
    let complaint = complaint_without("-net_raw");
    assert!(complaint.contains("NotPermitted"), "{complaint}");
}

#[test]
fn too_little_lockable_memory_is_named() {
    let complaint = complaint_without("-ipc_lock");
    assert!(complaint.contains("Memlock"), "{complaint}");
}
