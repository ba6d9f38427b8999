//! Many connections one after the other to one service, from a few clients.

use super::{World, kinds::LIMITS};
use crate::{
    coverage::lacking_excess,
    naive::{Above, Excess, Limits, Mode, Service},
};

/// Connections of a crowd.
const CROWD: usize = 15;

/// Packets from one crowd above a limit to the next, as long as too few were.
const EVERY: usize = 800;

/// A crowd that comes.
#[derive(Clone, Copy)]
pub(super) struct Crowd {
    pub(super) left: usize,
    pub(super) service: usize,
}

impl World {
    pub(super) fn start_crowd(&mut self, service: usize) {
        self.crowd = Crowd { left: CROWD, service };
    }

    /// Now and then one above a limit of which too few were so far; true when one comes.
    pub(super) fn begins_crowd(&mut self) -> bool {
        let lacking: Vec<(bool, Excess, Above)> = lacking_excess(&self.naive).collect();
        if !self.is_large || lacking.is_empty() || self.random.below(EVERY) > 0 {
            return false;
        }
        let (ipv6, excess, above) = self.random.of(&lacking);
        let is_fit = |service: &Service| {
            let stays = service.mode == Mode::FullNat || service.persist.is_some();
            let fits = match above {
                Above::Dropped => stays,
                Above::ByHash => !stays,
                _ => true,
            };
            service.is_ipv6() == ipv6 && fits
        };
        let fit = self.limited.iter().copied();
        let fit: Vec<usize> = fit.filter(|at| is_fit(&self.naive.services[*at])).collect();
        let (new_per_s, per_source) = match excess {
            Excess::NewPerS => (1, 0),
            Excess::PerSource => (0, 1),
        };
        let at = self.random.of(&fit);
        let limits = Limits { new_per_s, per_source, refuses: above == Above::Refused };
        self.naive.services[at].limit(limits);
        self.is_reconfigured = true;
        self.start_crowd(at);
        true
    }

    pub(super) fn limits(&mut self) -> Limits {
        let (new_per_s, mut per_source) = self.random.of(&LIMITS);
        // In a small table sources share counters, and are taken to have more than they have.
        if !self.is_large {
            per_source = 0;
        }
        Limits { new_per_s, per_source, refuses: self.random.percent(30) }
    }
}
