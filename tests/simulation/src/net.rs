//! The three networks between nodes: control, segments, replication. Each loses, delays, repeats
//! and reorders what it carries, and is cut, one way or both.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_model::NodeId;

use crate::{
    clock::{MS, Ns, US},
    rng::Rng,
};

/// A network. Segments are those of the ports: 0 in front, 1 at the back.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Plane {
    /// Beacons and consent between nodes, and the log.
    Control,
    /// The log alone: it travels with the first, and where that is cut nothing of it arrives.
    Log,
    /// A VIP segment.
    Segment(u16),
    /// Copies of connections.
    Replication,
}

/// Planes that faults are drawn for.
pub(crate) const PLANES: [Plane; 4] =
    [Plane::Control, Plane::Segment(0), Plane::Segment(1), Plane::Replication];

/// How badly a plane carries what it carries.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Quality {
    /// Lost, of a thousand.
    pub loss: u64,
    /// Carried twice, of a thousand.
    pub twice: u64,
    /// Up to so much later; frames overtake each other.
    pub delay: Ns,
}

/// The networks.
#[derive(Debug, Default)]
pub(crate) struct Net {
    cuts: BTreeMap<(NodeId, NodeId, Plane), u32>,
    down: BTreeSet<(NodeId, u16)>,
    log_spared: BTreeSet<(NodeId, NodeId)>,
    quality: BTreeMap<Plane, Quality>,
    slow: BTreeMap<NodeId, Ns>,
    narrow: BTreeSet<NodeId>,
    refused: BTreeSet<(NodeId, NodeId)>,
}

impl Net {
    /// Cuts or joins one direction; cuts are counted.
    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId, plane: Plane, cut: bool) {
        let count = self.cuts.entry((from, to, plane)).or_default();
        *count = if cut { *count + 1 } else { count.saturating_sub(1) };
    }

    /// The log gets through where the control plane is cut.
    pub(crate) fn spare_log(&mut self, from: NodeId, to: NodeId, spared: bool) {
        if spared {
            self.log_spared.insert((from, to));
        } else {
            self.log_spared.remove(&(from, to));
        }
    }

    /// Whether the control plane is cut but for the log.
    #[must_use]
    pub(crate) fn is_muted(&self, from: NodeId, to: NodeId) -> bool {
        self.log_spared.contains(&(from, to))
    }

    /// Whether nothing gets there.
    #[must_use]
    pub(crate) fn is_cut(&self, from: NodeId, to: NodeId, plane: Plane) -> bool {
        let is_cut =
            |plane| self.cuts.get(&(from, to, plane)).is_some_and(|count: &u32| *count > 0);
        let cut = is_cut(plane)
            || plane == Plane::Log
                && is_cut(Plane::Control)
                && !self.log_spared.contains(&(from, to));
        cut || matches!(plane, Plane::Segment(port)
            if self.is_down(from, port) || self.is_down(to, port))
    }

    /// A node's interface goes down or comes up.
    pub(crate) fn set_down(&mut self, node: NodeId, port: u16, down: bool) {
        if down {
            self.down.insert((node, port));
        } else {
            self.down.remove(&(node, port));
        }
    }

    /// Whether it is down.
    #[must_use]
    pub(crate) fn is_down(&self, node: NodeId, port: u16) -> bool {
        self.down.contains(&(node, port))
    }

    /// Makes a plane bad, or good again.
    pub(crate) fn set_quality(&mut self, plane: Plane, quality: Quality) {
        self.quality.insert(plane, quality);
    }

    /// How a plane is.
    #[must_use]
    pub(crate) fn quality(&self, plane: Plane) -> Quality {
        let plane = if plane == Plane::Log { Plane::Control } else { plane };
        self.quality.get(&plane).copied().unwrap_or_default()
    }

    /// What a node's copies take longer, both ways.
    pub(crate) fn set_slow(&mut self, node: NodeId, by: Ns) {
        self.slow.insert(node, by);
    }

    /// What copies between two nodes take longer.
    #[must_use]
    pub(crate) fn slowness(&self, a: NodeId, b: NodeId) -> Ns {
        let of = |node| self.slow.get(&node).copied().unwrap_or(0);
        of(a) + of(b)
    }

    /// Streams to a node let little out, or as much as others again.
    pub(crate) fn set_narrow(&mut self, node: NodeId, narrow: bool) {
        if narrow {
            self.narrow.insert(node);
        } else {
            self.narrow.remove(&node);
        }
    }

    /// Whether they do.
    #[must_use]
    pub(crate) fn is_narrow(&self, node: NodeId) -> bool {
        self.narrow.contains(&node)
    }

    /// Streams from one node to another cannot be opened, or can be again.
    pub(crate) fn refuse(&mut self, from: NodeId, to: NodeId, refused: bool) {
        if refused {
            self.refused.insert((from, to));
        } else {
            self.refused.remove(&(from, to));
        }
    }

    /// Whether they cannot.
    #[must_use]
    pub(crate) fn is_refused(&self, from: NodeId, to: NodeId) -> bool {
        self.refused.contains(&(from, to))
    }

    /// How long copies of a frame take on a plane: none, one or two.
    pub(crate) fn carry(&self, rng: &mut Rng, plane: Plane) -> [Option<Ns>; 2] {
        let Quality { loss, twice, delay } = self.quality(plane);
        if loss > 0 && rng.permille(loss) {
            return [None, None];
        }
        let again = twice > 0 && rng.permille(twice);
        [Some(Self::delay(rng, delay)), again.then(|| Self::delay(rng, delay))]
    }

    fn delay(rng: &mut Rng, up_to: Ns) -> Ns {
        let base = rng.between(60 * US, 260 * US);
        if up_to == 0 { base } else { base + rng.below(up_to.min(20 * MS)) }
    }

    /// How long a frame of a stream takes: what is lost is sent again.
    pub(crate) fn carry_surely(&self, rng: &mut Rng, from: NodeId, to: NodeId) -> Ns {
        let Quality { loss, delay, .. } = self.quality(Plane::Replication);
        let mut takes = Self::delay(rng, delay) + self.slowness(from, to);
        while loss > 0 && rng.permille(loss.min(900)) {
            takes += 25 * MS;
        }
        takes
    }

    /// Everything is well again.
    pub(crate) fn heal(&mut self) {
        *self = Self::default();
    }
}
