//! Limits of a service.

use super::Check;
use crate::document::{Over, ServiceSpec};

/// The most new connections a second: what a table of the largest size takes in four seconds.
const NEW_PER_S_MAX: u32 = 16 << 20;

/// The most connections of a source: as many as a table can have.
const PER_SOURCE_MAX: u32 = super::CONNECTIONS_LIMIT;

impl Check<'_> {
    pub(super) fn limits(&mut self, place: &str, service: &ServiceSpec) {
        let (limits, place) = (&service.limits, format!("{place}.limits"));
        let bounds = [
            ("new_per_s", limits.new_per_s, NEW_PER_S_MAX),
            ("per_source", limits.per_source, PER_SOURCE_MAX),
        ];
        for (name, limit, most) in bounds {
            if let Some(limit) = limit {
                self.range(format!("{place}.{name}"), limit, 1, most);
            }
        }
        if limits.over == Over::Refuse && !limits.is_set() {
            let fix = "write `new_per_s` or `per_source` too, or take it out";
            self.problem(format!("{place}.over"), "there is no limit to be above", fix);
        }
    }
}
