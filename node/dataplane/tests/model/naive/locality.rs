//! lblc and lblcr, after their rules (ipvs.md 1.11): a destination stays with its server, or with a
//! set of them that grows when all have too much to do, and shrinks once a day.

use std::net::IpAddr;

use super::{Naive, SECOND, load::Pool};

/// An address not asked for in this time is forgotten; a set that did not change in it loses one.
const DAY: u64 = 24 * 3600 * SECOND;

/// Where a destination was sent, by server ids, the newest first.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    vip: IpAddr,
    servers: Vec<u32>,
    used: u64,
    changed: u64,
}

/// What became of a destination.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Place {
    New,
    Forgotten,
    Stayed,
    Moved,
    Grew,
    Shrank,
}

impl Naive {
    pub(super) fn stay(
        &mut self,
        service: usize,
        vip: IpAddr,
        sets: bool,
        pool: &Pool,
    ) -> Option<usize> {
        let now = self.now;
        let kept = &mut self.services[service].kept;
        let known = kept.iter().position(|kept| kept.vip == vip);
        let is_old = known.is_some_and(|at| kept[at].used + DAY < now);
        let kept = &mut self.services[service].kept;
        let Some(at) = known.filter(|_| !is_old) else {
            let chosen = pool.least(&|at| pool.takes(at), &|at| pool.overhead(at))?;
            kept.retain(|kept| kept.vip != vip);
            let servers = vec![pool.servers[chosen].id];
            kept.push(Kept { vip, servers, used: now, changed: now });
            self.note_place(sets, if is_old { Place::Forgotten } else { Place::New });
            return Some(chosen);
        };
        kept[at].used = now;
        // Who left the service is in no set.
        kept[at].servers.retain(|id| pool.servers.iter().any(|server| server.id == *id));
        let members: Vec<usize> = kept[at].servers.iter().map(|id| pool.place(*id)).collect();
        let held = pool.least_of(&members, &|at| pool.takes(at), &|at| pool.overhead(at));
        if sets && members.len() > 1 && now > kept[at].changed + DAY {
            // ip_vs_dest_set_max(): the most for its weight goes, of those that have one.
            if let Some(most) = pool.most_of(&members) {
                let id = pool.servers[most].id;
                kept[at].servers.retain(|held| *held != id);
                kept[at].changed = now;
                self.note_place(sets, Place::Shrank);
            }
        }
        if let Some(held) = held.filter(|at| !pool.has_too_much(*at)) {
            self.note_place(sets, Place::Stayed);
            return Some(held);
        }
        let chosen = pool.least(&|at| pool.takes(at), &|at| pool.overhead(at))?;
        let id = pool.servers[chosen].id;
        let kept = &mut self.services[service].kept[at];
        if !sets {
            kept.servers = vec![id];
            self.note_place(sets, Place::Moved);
        } else if !kept.servers.contains(&id) {
            // ip_vs_dest_set_insert(): the newest stands first.
            kept.servers.insert(0, id);
            kept.changed = now;
            self.note_place(sets, Place::Grew);
        }
        Some(chosen)
    }

    fn note_place(&mut self, sets: bool, place: Place) {
        *self.tally.places.entry((sets, place)).or_default() += 1;
    }
}
