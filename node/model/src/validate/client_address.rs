//! Who tells servers their client's address, and to which it can be told.

use super::Check;
use crate::document::{ClientAddress, Forwarding, Protocol, ServiceSpec};

impl Check<'_> {
    /// How the servers of a service hear who their client is.
    pub(super) fn client_address(&mut self, place: &str, service: &ServiceSpec) {
        let told = service.client_address;
        if told == ClientAddress::None {
            return;
        }
        let place = format!("{place}.client_address");
        let listeners = service.listeners();
        let is_tcp = |protocol| protocol == Protocol::Tcp;
        if let (false, Some(first)) =
            (listeners.iter().any(|at| is_tcp(at.protocol)), listeners.first())
        {
            let what = format!("{} cannot carry it, TCP alone can", first.protocol.name());
            return self.problem(place, what, "take it out");
        }
        if told == ClientAddress::ProxyV2 {
            return self.proxy_v2(&place, service);
        }
        if service.forwarding != Forwarding::FullNat {
            let name = service.forwarding.name();
            let what = format!("under {name} the server sees the client's own address");
            self.problem(place, what, "take it out, or write forwarding: full_nat");
        }
    }

    /// Who puts a header into a stream has to see both sides of it from the beginning.
    fn proxy_v2(&mut self, place: &str, service: &ServiceSpec) {
        if !service.forwarding.is_nat() {
            let name = service.forwarding.name();
            let what = format!(
                "under {name} servers answer their clients themselves, who would hear of octets that \
                 they never sent"
            );
            self.problem(place, what, "take it out, or write forwarding: nat or full_nat");
        } else if service.sloppy_tcp {
            let what = "sloppy_tcp opens connections in their middle, where no header can go";
            self.problem(place, what, "take one of them out");
        } else if service.ftp.is_some() {
            let what = "an FTP server opens data connections itself, and reads no header there";
            self.problem(place, what, "take one of them out");
        }
    }
}
