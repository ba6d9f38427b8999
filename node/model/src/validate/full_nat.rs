//! What full-NAT services need.

use super::Check;
use crate::{
    document::{GroupSpec, ServiceSpec},
    problem::shown,
};

impl Check<'_> {
    /// A full-NAT service talks to its servers from a local address of its group.
    pub(super) fn local_addresses(
        &mut self,
        place: &str,
        service: &ServiceSpec,
        group: &GroupSpec,
    ) {
        let listeners = service.listeners();
        for is_ipv4 in [true, false] {
            let needed = listeners.iter().any(|listener| listener.address.is_ipv4() == is_ipv4);
            let has = group.local_addresses.iter().any(|local| local.is_ipv4() == is_ipv4);
            if !needed || has {
                continue;
            }
            let family = if is_ipv4 { "IPv4" } else { "IPv6" };
            self.problem(
                format!("{place}.forwarding"),
                format!(
                    "group {} has no local address of {family} for full_nat to send from",
                    shown(&group.name)
                ),
                format!("add an {family} address to the `local_addresses` of that group"),
            );
        }
    }
}
