//! Which connection a packet belongs to.

use std::{net::IpAddr, sync::Arc};

use steadfast_packet::Packet;

use crate::{
    Actions, Address, AddressKind, Connection, FlowKey, GroupId, Protocol, Reason, Service,
    SyncHook, Verdict,
    cache::{Tuple, Way},
    forward::opens,
    frame::Frame,
    policies::{Fate, Part, Standing},
    worker::{Core, View},
};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Finds or makes the connection of a packet, and points `found` at it.
    pub(crate) fn look_up(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        tuple: Tuple,
        view: View<'_>,
        found: &mut Connection,
        actions: &mut Actions,
    ) -> Result<Way, Verdict> {
        match view.config.address(tuple.dst).map(|found| found.kind) {
            Some(AddressKind::Vip) => {
                self.find_inbound(frame, packet, tuple.key(), view, found, actions)?;
                Ok(Way::In)
            }
            Some(AddressKind::Gateway) => Err(Verdict::Drop(Reason::NotOurs)),
            Some(AddressKind::Local) | None => {
                self.find_return(frame, packet, &tuple, view, found, actions)?;
                Ok(Way::Out)
            }
        }
    }

    fn find_inbound(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        key: FlowKey,
        view: View<'_>,
        found: &mut Connection,
        actions: &mut Actions,
    ) -> Result<(), Verdict> {
        let Some(place) = self.shared.table.locate(&key) else {
            *found = self.admit(frame, packet, key, None, view, actions)?;
            return Ok(());
        };
        found.point_at(place);
        if found.target().is_none() {
            if let Some(bound) = self.shared.table.bind_one(found, view.config) {
                *found = bound;
                return Ok(());
            }
            // A copy may come when its server is gone already: its packets get what those of any
            // other connection to a removed server get.
            if !view.config.is_gone(found.server()) {
                return Err(Verdict::Drop(Reason::Unbound));
            }
        }
        let part = match key.protocol {
            Protocol::Udp => Part::Datagram,
            _ if opens(packet) => Part::Opening,
            _ => Part::Middle,
        };
        let server = view.config.server(found.server());
        let service = match server {
            Some((service, _)) => Some(service),
            None => view.config.service(found.service()),
        };
        let policies = service.map(|service| service.spec.policies).unwrap_or_default();
        let both_ways = found.target().is_some_and(|target| target.forwarding.is_nat());
        let replaced = policies.reuse.replaces(found.state(), both_ways);
        let fate = policies.fate(part, replaced, standing(server));
        if found.is_superseded() || fate == Fate::Replace {
            let old = Some(found.clone());
            *found = self.admit(frame, packet, key, old, view, actions)?;
            return Ok(());
        }
        match fate {
            Fate::Drop => Err(Verdict::Drop(Reason::ServerRemoved)),
            Fate::Follow | Fate::Replace => Ok(()),
        }
    }

    fn find_return(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        tuple: &Tuple,
        view: View<'_>,
        found: &mut Connection,
        actions: &mut Actions,
    ) -> Result<(), Verdict> {
        if asked_for(tuple, view).is_none() {
            return Err(Verdict::Drop(Reason::NotOurs));
        }
        let Some(place) = self.shared.table.locate_reply(&tuple.reply_key()) else {
            if let Some(verdict) = self.return_once(frame, packet, tuple, view, actions) {
                return Err(verdict);
            }
            if let Some(opened) = self.open_from_server(frame, packet, tuple, view) {
                *found = opened?;
                return Ok(());
            }
            return Err(self.refuse_return(frame, packet, tuple, view, actions));
        };
        found.point_at(place);
        if view.config.server(found.server()).is_none() {
            return Err(Verdict::Drop(Reason::ServerRemoved));
        }
        Ok(())
    }
}

/// The group whose connection a packet from a server may belong to, and the local address it was sent
/// to; none: it comes through the group's gateway.
pub(crate) fn asked_for(tuple: &Tuple, view: View<'_>) -> Option<(GroupId, Option<IpAddr>)> {
    let Tuple { protocol, src, src_port, dst, .. } = *tuple;
    match view.config.address(dst) {
        Some(Address { group, kind: AddressKind::Local, .. }) => Some((group, Some(dst))),
        _ => view.config.pool_group(protocol, src, src_port).map(|group| (group, None)),
    }
}

fn standing(server: Option<(&Arc<Service>, usize)>) -> Standing {
    match server.and_then(|(service, index)| service.spec.servers.get(index)) {
        None => Standing::Gone,
        Some(server) if server.weight == 0 || server.drained => Standing::Drained,
        Some(_) => Standing::Serving,
    }
}
