//! Kernels as real servers: their tunnel devices take pages' packets out of every kind of tunnel,
//! and their SCTP speaks through DR and NAT.
//!
//! The programs are those of the workspace: `make build` first.

use crate::script;

const TUNNELS: [&str; 6] =
    ["ipip", "gre", "gre-checksum", "gue", "gue-checksum", "gue-no-checksum"];
/// The family of the packet within, in that without.
const FAMILIES: [&str; 4] = ["4in4", "4in6", "6in4", "6in6"];
const SCTP: [&str; 4] = ["sctp dr", "sctp dr-6", "sctp nat", "sctp nat-6"];

#[test]
fn kernels_take_tunnels_and_speak_sctp() {
    let told = script::run("kernels/cluster.sh", &["clusterd", "clusterctl", "sctp-lines"]);
    let of = |tunnel: &'static str| FAMILIES.map(|families| format!("{tunnel} {families}"));
    let mut expected: Vec<_> = TUNNELS.into_iter().flat_map(of).collect();
    expected.extend(SCTP.map(str::to_owned));
    told.assert_seen(expected.iter().map(String::as_str));
}

/// Two sessions through each kind of tunnel, either family in either, and two associations of each
/// SCTP service: one at each of its servers.
#[test]
#[ignore = "two minutes of an emulator: make test-full runs it"]
fn tunnels_and_associations_outlive_the_holder() {
    let told = script::run(
        "kernels/failover.sh",
        &["clusterd", "clusterctl", "lab-server", "lab-client", "sctp-lines"],
    );
    let kept = ["sctp-dr", "sctp-dr-6", "sctp-nat", "sctp-nat-6"]
        .map(|service| format!("{service} kept at two servers"));
    told.assert_seen(kept.iter().map(String::as_str));
    told.assert_kept(3 * FAMILIES.len() * 2, &["t1", "t2"]);
}
