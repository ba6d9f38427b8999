//! Segments on VLANs of one wire, under a kernel that has the driver for them: real tags, from and
//! to the kernel's own VLAN interfaces.
//!
//! The programs are those of the workspace: `make build` first.

use crate::script;

#[test]
fn segments_on_vlans_of_one_wire_are_served() {
    let told = script::run("vlan/cluster.sh", &["clusterd", "clusterctl", "lab-server"]);
    told.assert_seen([
        "tags are taken off",
        "nat",
        "nat-6",
        "dr",
        "ping",
        "silence in another VLAN",
        "nat after the VLAN was made anew",
    ]);
}

/// NAT and DR, each between VLANs of one wire (DR: within one) and between those of two, in both
/// families: eight services with four sessions each.
#[test]
fn sessions_on_vlans_outlive_the_holder() {
    let told =
        script::run("vlan/failover.sh", &["clusterd", "clusterctl", "lab-server", "lab-client"]);
    told.assert_seen([]);
    told.assert_kept(8 * 4, &["s1", "s2", "t1", "t2", "d1", "d2"]);
}
