//! One-packet scheduling: each datagram gets a server, and nothing is kept of it.

use super::{Fate, Mode, Naive};
use crate::packet::{Pkt, Proto};

/// Datagrams of IPv6, of a mode, to a server.
pub(crate) type Once = (bool, Mode, bool);

impl Naive {
    /// A datagram on its way to the server that was chosen for it.
    pub(super) fn send_once(&mut self, pkt: &Pkt, service: usize, server: usize) -> Fate {
        let (cport, vport) = pkt.ports();
        let of = &self.services[service];
        let server = of.servers[server];
        let flow = ((pkt.src, cport), (pkt.dst, vport));
        let path = of.path(true, flow, (server.addr, server.port_for(vport)));
        self.pass_once(pkt, &path)
    }

    /// What a server of such a service says to a client: its address and port are those of the
    /// service again, by the configuration alone.
    pub(super) fn return_once(&mut self, pkt: &Pkt) -> Option<Fate> {
        let (sport, dport) = pkt.ports();
        let mut once = self.services.iter().filter(|service| service.once);
        let of = once.find(|service| service.answers(Proto::Udp, pkt.src, sport))?;
        let role = self.role(self.group_of(of));
        if pkt.proto() != Some(Proto::Udp) || !role.is_holder() {
            return None;
        }
        let server = of.servers.iter().find(|server| server.addr == pkt.src)?;
        let vport = if server.port == 0 { sport } else { of.port()? };
        let flow = ((pkt.dst, dport), (of.listens[0].vip, vport));
        let path = of.path(false, flow, (pkt.src, sport));
        Some(self.pass_once(pkt, &path))
    }

    fn pass_once(&mut self, pkt: &Pkt, path: &super::forward::Path) -> Fate {
        if pkt.fragment().is_some() {
            return Fate::Dropped("fragment");
        }
        match self.on_way(pkt, path) {
            Ok(sent) => {
                let once = (pkt.src.is_ipv6(), path.mode, path.inbound);
                *self.tally.once.entry(once).or_default() += 1;
                self.passed_once = true;
                Fate::Sent(sent)
            }
            Err(fate) => *fate,
        }
    }
}
