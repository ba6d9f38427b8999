//! What may go wrong, and how often in one history.

/// Ways between two nodes that a fault is about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Which {
    /// The control connection.
    Peer,
    /// One segment, by its place.
    Segment(usize),
    /// All of them at once.
    All,
}

/// One fault, or its end. Those that begin count; those that end one do not.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Fault {
    /// Power is lost, or the daemon killed: its workers are gone too.
    Crash(usize),
    /// Ends a crash: a new run, which knows only what was committed.
    Restart(usize),
    /// The loop stands still; workers go on by what they were last told.
    Pause(usize),
    /// Ends a pause. What came meanwhile waits in the inbox.
    Resume(usize),
    /// Frames from the first node to the second get lost, until healed.
    Cut(usize, usize, Which),
    /// Ends a cut.
    Heal(usize, usize, Which),
    /// A node is cut off from all others, both ways, until it rejoins them.
    Isolate(usize),
    /// Ends that.
    Rejoin(usize),
    /// Frames under way from the first node to the second get lost once.
    Lose(usize, usize),
    /// Frames under way from the first node to the second come a tick later, so that those sent
    /// after them on another way, or by another node, come first.
    Delay(usize, usize, Which),
    /// A node applies what is committed a tick later than it would.
    Lag(usize),
    /// The leader is asked to move a group, by its place, to a node. No fault, but it meets them.
    Move(usize, usize),
}

impl Fault {
    /// Whether it uses up one of the faults that a history may have.
    pub(crate) fn counts(self) -> bool {
        !matches!(self, Self::Restart(_) | Self::Resume(_) | Self::Heal(..) | Self::Rejoin(_))
    }
}
