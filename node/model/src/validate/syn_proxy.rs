//! Handshakes by cookie.

use super::Check;
use crate::document::{ClientAddress, Protocol, ServiceSpec, SynProxy};

impl Check<'_> {
    /// Where clients may get cookies.
    pub(super) fn syn_proxy(&mut self, place: &str, service: &ServiceSpec) {
        if service.syn_proxy == SynProxy::Off {
            return;
        }
        let place = format!("{place}.syn_proxy");
        let has_tcp = service.listeners().iter().any(|at| at.protocol == Protocol::Tcp);
        if !has_tcp {
            self.problem(&place, "only TCP has SYN cookies", "take it out");
        }
        if !service.forwarding.is_nat() {
            let what = format!(
                "under {} the servers' half of a connection does not pass the nodes, and they \
                 could not translate its sequence numbers",
                service.forwarding.name()
            );
            self.problem(&place, what, "take it out, or write forwarding: nat or full_nat");
        }
        if service.client_address != ClientAddress::None {
            let what = "what client_address tells servers would have to be in segments that a node \
                        sends by itself, and is not";
            self.problem(&place, what, "take one of them out");
        }
        if service.sloppy_tcp {
            let what = "sloppy_tcp lets in clients that have no cookie";
            self.problem(&place, what, "take one of them out");
        }
    }
}
