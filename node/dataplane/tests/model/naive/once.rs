//! One-packet scheduling: each datagram gets a server, and nothing is kept of it.

use super::{Fate, Mode, Naive, Role};
use crate::packet::{Pkt, Proto};

/// Datagrams of IPv6, of a mode, to a server.
pub(crate) type Once = (bool, Mode, bool);

impl Naive {
    /// A datagram on its way to the server that was chosen for it.
    pub(super) fn send_once(&mut self, pkt: &Pkt, service: usize, server: usize) -> Fate {
        let (cport, _) = pkt.ports();
        let of = &self.services[service];
        let server = of.servers[server];
        let path = of.path(true, (pkt.src, cport), (server.addr, server.port));
        self.pass_once(pkt, &path)
    }

    /// What a server of such a service says to a client: its address and port are those of the
    /// service again, by the configuration alone.
    pub(super) fn return_once(&mut self, pkt: &Pkt) -> Option<Fate> {
        let (sport, dport) = pkt.ports();
        let is_of = |server: &super::Server| (server.addr, server.port) == (pkt.src, sport);
        let of = self.services.iter().find(|service| {
            let answers = service.once && service.mode == Mode::Nat;
            answers && service.servers.iter().any(is_of)
        })?;
        if pkt.proto() != Some(Proto::Udp) || !matches!(self.role, Role::Holder { .. }) {
            return None;
        }
        let path = of.path(false, (pkt.dst, dport), (pkt.src, sport));
        Some(self.pass_once(pkt, &path))
    }

    fn pass_once(&mut self, pkt: &Pkt, path: &super::forward::Path) -> Fate {
        if pkt.fragment().is_some() {
            return Fate::Dropped("fragment");
        }
        match self.on_way(pkt, path) {
            Ok(sent) => {
                let once = (pkt.src.is_ipv6(), path.mode, path.inbound);
                *self.once.entry(once).or_default() += 1;
                self.passed_once = true;
                Fate::Sent(sent)
            }
            Err(fate) => *fate,
        }
    }
}
