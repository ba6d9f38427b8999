//! The planes of a node's network: cut one way or both, or lossy.
//!
//! It is the switch that drops, in the bridge family of nftables, so that no host notices: links stay
//! up, and what reads frames before the kernel's own filters (AF_XDP) is cut off like everybody else.

use anyhow::Result;

use super::{
    exec,
    names::{Host, Network, Tag},
};

/// Where a daemon on the management network has Raft, calls between nodes and their beacons.
pub const CONTROL_PORT: u16 = 7441;
/// Where it has copies of connections.
pub const REPLICATION_PORT: u16 = 7442;

/// The one table of all faults; it goes as a whole.
const TABLE: &str = "fault";

/// What nodes say to each other and to the world, in three parts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Plane {
    /// Raft, calls between nodes and beacons over QUIC.
    Control,
    /// Copies of connections.
    Replication,
    /// The segment of the VIPs: packets, ARP and beacons.
    Segment,
}

impl Plane {
    /// The words for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control plane",
            Self::Replication => "replication plane",
            Self::Segment => "VIP segment",
        }
    }
}

/// Which way nothing passes, seen from the node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// Neither.
    Both,
    /// It hears nothing.
    In,
    /// It says nothing.
    Out,
}

impl Way {
    /// The words for it.
    #[must_use]
    pub fn told(self) -> &'static str {
        match self {
            Self::Both => "in either direction",
            Self::In => "to it",
            Self::Out => "from it",
        }
    }
}

/// What the switch drops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Drops {
    /// A plane of a node.
    Plane(u8, Plane, Way),
    /// So many of 100 replication packets, of all nodes. One that the sender gave to its kernel in
    /// several segments counts once.
    Replication(u8),
}

impl Drops {
    fn rules(self) -> Vec<String> {
        // The daemons dial from the port they listen on.
        let port = |port| format!("udp dport {port} udp sport {port}");
        match self {
            Self::Replication(percent) => {
                let what = port(REPLICATION_PORT);
                vec![format!("{what} numgen random mod 100 < {percent} counter drop")]
            }
            Self::Plane(node, plane, way) => {
                let (network, what) = match plane {
                    Plane::Control => (Network::Mgmt, port(CONTROL_PORT)),
                    Plane::Replication => (Network::Mgmt, port(REPLICATION_PORT)),
                    Plane::Segment => (Network::Front, String::new()),
                };
                let link = Host::Node(node).port(network);
                let rule = |side: &str| format!("{side} \"{link}\" {what} counter drop");
                match way {
                    Way::Both => vec![rule("iifname"), rule("oifname")],
                    Way::In => vec![rule("oifname")],
                    Way::Out => vec![rule("iifname")],
                }
            }
        }
    }
}

/// Has the switch of a lab drop this and nothing else; `None`: nothing at all.
///
/// # Errors
/// What nftables said.
pub fn set(tag: &Tag, drops: Option<Drops>) -> Result<()> {
    let mut script = format!("add table bridge {TABLE}\ndelete table bridge {TABLE}\n");
    if let Some(drops) = drops {
        let rules = drops.rules().join("\n");
        script.push_str(&format!(
            "table bridge {TABLE} {{\nchain forward {{\n\
             type filter hook forward priority 0; policy accept;\n{rules}\n}}\n}}\n"
        ));
    }
    let script = format!("nft -f - <<'END'\n{script}END\n");
    exec::shell_in(&tag.namespace_path(Host::Switch), &script).map(drop)
}

/// How many frames the switch dropped so far.
///
/// # Errors
/// What nftables said, or when nothing is set.
pub fn dropped(tag: &Tag) -> Result<u64> {
    let script = format!("nft list table bridge {TABLE}");
    let rules = exec::shell_in(&tag.namespace_path(Host::Switch), &script)?;
    Ok(counted(&rules))
}

/// The sum of the counters in a listing.
fn counted(rules: &str) -> u64 {
    let words: Vec<&str> = rules.split_whitespace().collect();
    let counts = words.windows(3).filter(|w| w[..2] == ["counter", "packets"]);
    counts.filter_map(|w| w[2].parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plane_is_cut_where_and_which_way_it_was_asked_for() {
        let rules = |plane, way| Drops::Plane(2, plane, way).rules();
        assert_eq!(
            rules(Plane::Control, Way::Both),
            [
                "iifname \"n2-mgmt\" udp dport 7441 udp sport 7441 counter drop",
                "oifname \"n2-mgmt\" udp dport 7441 udp sport 7441 counter drop"
            ]
        );
        assert_eq!(rules(Plane::Segment, Way::In), ["oifname \"n2-front\"  counter drop"]);
        assert_eq!(
            rules(Plane::Replication, Way::Out),
            ["iifname \"n2-mgmt\" udp dport 7442 udp sport 7442 counter drop"]
        );
        assert_eq!(
            Drops::Replication(5).rules(),
            ["udp dport 7442 udp sport 7442 numgen random mod 100 < 5 counter drop"]
        );
    }
    #[test]
    fn the_counters_of_all_rules_are_added() {
        let listed = "iifname \"n1-front\" counter packets 12 bytes 900 drop\n\
                      oifname \"n1-front\" counter packets 30 bytes 1 drop\n";
        assert_eq!(counted(listed), 42);
        assert_eq!(counted("table bridge fault {}"), 0);
    }
}
