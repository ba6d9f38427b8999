//! Whether this node can serve a group: workers, links, and segments it is cut off from.

use crate::group::Group;
use crate::ownership::Ownership;
use crate::peer::{Peer, View};
use crate::{Path, SegmentId, StopReason, Time};

impl Ownership {
    /// Why this node cannot serve the group now.
    pub(crate) fn unfit(&self, now: Time, group: &Group) -> Option<StopReason> {
        if !self.workers_ok {
            return Some(StopReason::WorkerStuck);
        }
        group.spec.segments.iter().find_map(|segment| {
            if !self.links.get(segment).is_some_and(|link| link.up) {
                return Some(StopReason::SegmentDown(*segment));
            }
            self.cut_off(now, *segment).then_some(StopReason::CutOff(*segment))
        })
    }

    pub(crate) fn segment_works(&self, now: Time, segment: SegmentId) -> bool {
        self.links.get(&segment).is_some_and(|link| link.up) && !self.cut_off(now, segment)
    }

    /// The others hear each other on this segment, but this node hears nobody there, or nobody
    /// there hears it. Only a third node can tell: with two, neither knows whose fault it is.
    fn cut_off(&self, now: Time, segment: SegmentId) -> bool {
        let silence = self.settings.silence();
        let Some(link) = self.links.get(&segment) else { return true };
        let up_for = now.since(link.since.max(self.timers_from));
        if up_for < silence {
            return false;
        }
        let views: Vec<&View> = self
            .peers
            .values()
            .filter(|peer| peer.heard_within(now, silence))
            .filter_map(|peer| peer.view.as_ref())
            .collect();
        if !views.iter().any(|view| self.hears_another(view, segment)) {
            return false;
        }
        let deaf = self.peers.values().all(|peer| !hears_on(peer, now, segment, silence));
        // What they hear of this node they report a moment later: give it one silence time more.
        let mut hears = views.iter().filter_map(|view| self.hears_self(view, segment)).peekable();
        let told = up_for >= silence.saturating_mul(2) && hears.peek().is_some();
        let unheard = told && hears.all(|hears| !hears);
        deaf || unheard
    }

    fn hears_another(&self, view: &View, segment: SegmentId) -> bool {
        let Some(column) = column(view, segment) else { return false };
        view.peers
            .values()
            .filter(|report| report.node != self.node)
            .any(|report| self.fresh(report.path_ages.get(column)))
    }

    /// Whether the sender of a view hears this run; `None` if it speaks of another one, which
    /// somebody may have recorded and replayed.
    fn hears_self(&self, view: &View, segment: SegmentId) -> Option<bool> {
        let column = column(view, segment)?;
        let report = view.peers.get(&self.node)?;
        if report.boot != self.boot || report.age.is_none() {
            return None;
        }
        Some(self.fresh(report.path_ages.get(column)))
    }

    fn fresh(&self, age: Option<&u8>) -> bool {
        age.is_some_and(|age| u32::from(*age) < self.settings.silent_after)
    }
}

fn column(view: &View, segment: SegmentId) -> Option<usize> {
    view.paths.iter().position(|path| *path == Path::Segment(segment))
}

fn hears_on(peer: &Peer, now: Time, segment: SegmentId, silence: u64) -> bool {
    let heard = peer.paths.get(&Path::Segment(segment));
    heard.is_some_and(|(_, at)| now.since(*at) < silence)
}
