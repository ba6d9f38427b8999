//! What is asked about where things stand before a step is taken.

use steadfast_guest::ipvs::{self as oracle, Entry, Server, Step};

use super::{Ours, Present};

impl Ours<'_> {
    /// The flow has a connection, and its server was removed.
    pub(in crate::ipvs) fn is_orphan(&self, flow: usize) -> bool {
        let gone = |entry: Entry| !self.servers.iter().any(|s| s.server.number == entry.server);
        self.connection(self.scenario.flows[flow]).is_some_and(gone)
    }

    /// A SYN of the flow opens a new connection in the place of an old one.
    pub(in crate::ipvs) fn is_reusable(&self, flow: usize) -> bool {
        let found = self.shared.table.find(&self.key(self.scenario.flows[flow]));
        found.is_some_and(|found| found.state().is_reusable())
    }

    /// The server has this weight already, and turns depend on weights.
    pub(in crate::ipvs) fn is_wrr_with(&self, server: Server) -> bool {
        self.scenario.scheduler == "wrr" && self.servers.iter().any(|s| s.server == server)
    }

    /// The flow's client may not stay with the server of its connection.
    pub(in crate::ipvs) fn is_moved(&self, flow: usize) -> bool {
        let found = self.connection(self.scenario.flows[flow]);
        let Some(Entry { server, .. }) = found else { return false };
        let template = self.template(self.scenario.flows[flow]);
        self.is_led_astray(flow) || template.is_some_and(|template| template.server != server)
    }

    /// The flow's template names a server that clients may not stay with.
    pub(in crate::ipvs) fn is_led_astray(&self, flow: usize) -> bool {
        let Some(persistence) = self.scenario.persistence else { return false };
        let Some(template) = self.template(self.scenario.flows[flow]) else { return false };
        let stays = |s: &Present| {
            let Server { number, weight, .. } = s.server;
            number == template.server && (weight > 0 || !persistence.expire_quiescent)
        };
        !self.servers.iter().any(stays)
    }

    /// The template of the flow that a step is about.
    pub(in crate::ipvs) fn template_of(&self, step: &Step) -> Option<Entry> {
        self.template(self.scenario.flows[step.flow()?])
    }

    /// The server of this number has the weight 0.
    pub(in crate::ipvs) fn has_drained(&self, number: u8) -> bool {
        self.servers.iter().any(|s| (s.server.number, s.server.weight) == (number, 0))
    }

    /// Somebody takes new connections.
    pub(in crate::ipvs) fn has_available(&self) -> bool {
        self.servers.iter().any(|s| s.server.weight > 0)
    }

    /// The flow has a connection, and its template was not taken for a real client's yet.
    pub(in crate::ipvs) fn is_unproven(&self, flow: usize) -> bool {
        let flow = self.scenario.flows[flow];
        self.connection(flow).is_some() && self.template(flow).is_some_and(|t| t.state == "NONE")
    }

    pub(in crate::ipvs) fn is_tcp(&self) -> bool {
        self.scenario.protocol == oracle::Protocol::Tcp
    }

    pub(in crate::ipvs) fn is_udp(&self) -> bool {
        self.scenario.protocol == oracle::Protocol::Udp
    }
}
