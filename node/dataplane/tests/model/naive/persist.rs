//! Persistence: clients of a network keep their server (ipvs.md 1.9: templates).

use std::net::IpAddr;

use super::{Conn, Naive, SECOND};
use crate::packet::{Pkt, Proto};

/// What a persistent service wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Persist {
    /// How long a template lasts after the last connection it led.
    pub(crate) timeout: u64,
    /// A server of weight 0 loses its clients.
    pub(crate) quiescent_goes: bool,
}

/// Bits of a client's address that do not count: networks of four.
const HOST_BITS: u32 = 2;

/// A template that leads connections outlives its time, this long at a time.
const CONTROLLING: u64 = 60 * SECOND;

/// Whose server.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    pub(crate) service: u32,
    pub(crate) network: IpAddr,
    pub(crate) server: u32,
    until: u64,
    /// Connections that it led to this server, and that are still there.
    controls: u64,
    /// Where the last one came to.
    last: (Proto, IpAddr, u16),
}

/// What was decided by a template.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kept {
    New,
    Stayed,
    StayedQuiescent,
    Moved,
    Outlived,
    Ended,
}

/// What differs between two connections that one template led.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Across {
    Protocols,
    Addresses,
    Ports,
}

pub(crate) fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(addr) => IpAddr::from((u32::from(addr) >> HOST_BITS << HOST_BITS).to_be_bytes()),
        IpAddr::V6(addr) => {
            IpAddr::from((u128::from(addr) >> HOST_BITS << HOST_BITS).to_be_bytes())
        }
    }
}

impl Naive {
    /// The server of a new connection, and whether a template led to it.
    pub(super) fn choose(&mut self, service: usize, pkt: &Pkt) -> Option<(usize, bool)> {
        let (id, persist) = (self.services[service].id, self.services[service].persist);
        let Some(persist) = persist else {
            return self.schedule(service, pkt).map(|server| (server, false));
        };
        let (network, until) = (network(pkt.src), self.now + persist.timeout);
        let to = (pkt.proto().unwrap(), pkt.dst, pkt.ports().1);
        let known = self.templates.iter().position(|t| (t.service, t.network) == (id, network));
        let Some(at) = known else {
            let chosen = self.schedule(service, pkt)?;
            let server = self.services[service].servers[chosen].id;
            let controls = 1;
            let template = Template { service: id, network, server, until, controls, last: to };
            self.templates.push(template);
            self.note(Kept::New);
            return Some((chosen, true));
        };
        let held = self.templates[at].server;
        let place = self.services[service].servers.iter().position(|server| server.id == held);
        let stays = place.filter(|place| {
            let server = &self.services[service].servers[*place];
            server.up && (server.weight > 0 || !persist.quiescent_goes)
        });
        let chosen = match stays {
            Some(place) => {
                let quiescent = self.services[service].servers[place].weight == 0;
                self.note(if quiescent { Kept::StayedQuiescent } else { Kept::Stayed });
                self.note_across(self.templates[at].last, to);
                place
            }
            None => {
                let chosen = self.schedule(service, pkt)?;
                self.templates[at].server = self.services[service].servers[chosen].id;
                self.templates[at].controls = 0;
                self.note(Kept::Moved);
                chosen
            }
        };
        let template = &mut self.templates[at];
        template.controls += 1;
        template.last = to;
        template.until = template.until.max(until);
        Some((chosen, true))
    }

    /// A connection is gone: its template leads one less.
    pub(super) fn leave(&mut self, conn: &Conn) {
        if conn.controlled {
            self.release(conn.service, conn.client, conn.server);
        }
        self.judge(conn.server);
    }

    pub(super) fn release(&mut self, service: u32, client: IpAddr, server: u32) {
        let whose = (service, network(client), server);
        let of = self.templates.iter_mut().find(|t| (t.service, t.network, t.server) == whose);
        if let Some(template) = of {
            template.controls = template.controls.saturating_sub(1);
        }
    }

    /// Templates whose time is over go, but for those that lead connections.
    pub(super) fn expire_templates(&mut self) {
        let now = self.now;
        let over = self.templates.iter_mut().filter(|template| template.until <= now);
        let mut outlived = 0;
        for template in over {
            if template.controls > 0 {
                template.until = now + CONTROLLING;
                outlived += 1;
            }
        }
        let before = self.templates.len();
        self.templates.retain(|template| template.until > now);
        let ended = before - self.templates.len();
        (0..outlived).for_each(|_| self.note(Kept::Outlived));
        (0..ended).for_each(|_| self.note(Kept::Ended));
    }

    fn note_across(&mut self, before: (Proto, IpAddr, u16), to: (Proto, IpAddr, u16)) {
        let differ = [
            (before.0 != to.0, Across::Protocols),
            (before.1 != to.1, Across::Addresses),
            (before.2 != to.2, Across::Ports),
        ];
        for (_, across) in differ.into_iter().filter(|(differs, _)| *differs) {
            *self.tally.across.entry((to.1.is_ipv6(), across)).or_default() += 1;
        }
    }

    fn note(&mut self, kept: Kept) {
        *self.tally.kept.entry(kept).or_default() += 1;
    }
}
