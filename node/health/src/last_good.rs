//! What to do when a whole service seems to be down.

use std::{collections::BTreeMap, time::Duration};

use steadfast_model::ServerId;

/// The servers of a service to send new connections to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selection {
    /// In the order they were given.
    pub servers: Vec<ServerId>,
    /// Whether all are down and these are the last good ones. To be shown to the operator; a
    /// service that does not want it sends nothing then.
    pub panic: bool,
}

/// The last good set of one service.
///
/// When every server of a service is down, the fault is more often in what they share, or in the
/// checks, than in each of them; refusing every client would make sure of the outage. So the
/// servers that were up before the collapse are used on.
///
/// Checks notice a common fault one server after the other. The last good set is therefore not
/// what was up at the very end (one server), but what went down within `window` of the last one.
/// `window` has to cover the time a check needs to notice: `fall` intervals and a timeout, plus
/// the travel of views.
#[derive(Clone, Debug, Default)]
pub struct LastGood {
    /// Servers that were up once: since when they are not, in nanoseconds.
    seen: BTreeMap<ServerId, Option<u64>>,
}

impl LastGood {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Picks from the service's servers (those that may get new connections at all) with the
    /// verdict on each. To be called at every change of a verdict or of the list.
    pub fn select(
        &mut self,
        now_ns: u64,
        window: Duration,
        servers: &[(ServerId, bool)],
    ) -> Selection {
        let listed = |id: &ServerId| servers.iter().any(|(server, _)| server == id);
        self.seen.retain(|id, _| listed(id));
        for (id, up) in servers {
            if *up {
                self.seen.insert(*id, None);
            } else if let Some(down_since) = self.seen.get_mut(id) {
                down_since.get_or_insert(now_ns);
            }
        }
        if servers.is_empty() || servers.iter().any(|(_, up)| *up) {
            let servers = servers.iter().filter(|(_, up)| *up).map(|(id, _)| *id).collect();
            return Selection { servers, panic: false };
        }
        let window_ns = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        let last_ns = self.seen.values().flatten().max().copied();
        let good = |id: &ServerId| match (self.seen.get(id), last_ns) {
            (Some(Some(down_since)), Some(last)) => down_since.saturating_add(window_ns) >= last,
            // Nothing was ever up: all are as good.
            (_, None) => true,
            _ => false,
        };
        let servers = servers.iter().map(|(id, _)| *id).filter(|id| good(id)).collect();
        Selection { servers, panic: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const WINDOW: Duration = Duration::from_secs(10);

    /// Servers 1, 2, 3 by position; `u` up, `d` down, `-` not configured.
    fn servers(state: &str) -> Vec<(ServerId, bool)> {
        let servers = (1..).map(ServerId).zip(state.chars());
        servers.filter(|(_, c)| *c != '-').map(|(id, c)| (id, c == 'u')).collect()
    }

    #[test]
    fn panic_table() {
        // Steps of (second, servers), then the selection after the last one.
        type Case = (&'static str, &'static [(u64, &'static str)], &'static [u32], bool);
        let table: &[Case] = &[
            ("all up", &[(0, "uuu")], &[1, 2, 3], false),
            ("one down", &[(0, "uuu"), (1, "udu")], &[1, 3], false),
            ("no servers", &[(0, "")], &[], false),
            ("all down at once", &[(0, "uuu"), (9, "ddd")], &[1, 2, 3], true),
            (
                "all down within the window",
                &[(0, "uuu"), (100, "duu"), (103, "ddu"), (108, "ddd")],
                &[1, 2, 3],
                true,
            ),
            ("long dead ones stay out", &[(0, "uuu"), (50, "duu"), (100, "ddd")], &[2, 3], true),
            ("never up ones stay out", &[(0, "uud"), (100, "ddd")], &[1, 2], true),
            ("nothing ever up", &[(0, "ddd")], &[1, 2, 3], true),
            ("one server", &[(0, "u"), (5, "d")], &[1], true),
            ("the panic lasts", &[(0, "uuu"), (9, "ddd"), (999, "ddd")], &[1, 2, 3], true),
            ("one comes back", &[(0, "uuu"), (9, "ddd"), (20, "dud")], &[2], false),
            ("then it goes alone", &[(0, "uuu"), (9, "ddd"), (20, "dud"), (60, "ddd")], &[2], true),
            ("a good one is taken out", &[(0, "uud"), (9, "ddd"), (10, "-dd")], &[2], true),
            ("all good ones are taken out", &[(0, "udd"), (9, "ddd"), (10, "-dd")], &[2, 3], true),
            (
                "a short dip counts anew",
                &[(0, "uu"), (9, "du"), (10, "uu"), (30, "dd")],
                &[1, 2],
                true,
            ),
        ];
        for (name, steps, expected, panic) in table {
            let mut last_good = LastGood::new();
            let mut selection = Selection::default();
            for (second, state) in *steps {
                selection = last_good.select(second * SECOND, WINDOW, &servers(state));
            }
            let expected = expected.iter().map(|id| ServerId(*id)).collect();
            assert_eq!(selection, Selection { servers: expected, panic: *panic }, "{name}");
        }
    }
}
