//! What the steering programs are told is ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use af_xdp::{AddressRole, NatSource, Steering, SteeringError};
use steadfast_dataplane::Forwarding;
use steadfast_model::{
    ClusterState,
    document::{Protocol, ServiceSpec},
};

use super::compile;
use crate::kernel::KernelView;

/// The tables, the same on every interface.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tables {
    addresses: BTreeMap<IpAddr, AddressRole>,
    sources: BTreeSet<NatSource>,
    local: BTreeSet<IpAddr>,
}

impl Tables {
    /// Those of a configuration.
    pub(crate) fn of(state: &ClusterState, view: &KernelView) -> Self {
        let addresses = state.groups.values().flat_map(|g| {
            let vips = g.spec.addresses.iter().map(|a| (*a, AddressRole::Vip));
            // All that comes for a local address is ours, as it is for a VIP.
            let locals = g.spec.local_addresses.iter().map(|a| (*a, AddressRole::Vip));
            let gateways = g.spec.gateways.iter().map(|a| (*a, AddressRole::Gateway));
            vips.chain(locals).chain(gateways)
        });
        let sources = state.services.values().flat_map(|service| nat_sources(&service.spec));
        Self {
            addresses: addresses.collect(),
            sources: sources.collect(),
            local: view.interfaces.values().flat_map(|i| i.addresses.iter().copied()).collect(),
        }
    }

    /// Writes them; a system call for each entry of the NAT sources and addresses.
    ///
    /// # Errors
    /// A table is too small, or what the kernel says.
    pub(super) fn write(&self, steering: &mut Steering) -> Result<(), SteeringError> {
        steering.set_local_addresses(self.local.iter().copied())?;
        steering.set_nat_sources(self.sources.iter().copied())?;
        steering.set_addresses(self.addresses.iter().map(|(address, role)| (*address, *role)))
    }
}

/// Where packets come from that belong to a NAT service.
fn nat_sources(spec: &ServiceSpec) -> Vec<NatSource> {
    if compile::forwarding(spec) != Forwarding::Nat {
        return Vec::new();
    }
    let mut sources = Vec::new();
    for server in &spec.servers {
        let mut add = |protocol, ports| {
            let protocol = compile::ip_protocol(protocol);
            sources.push(NatSource { address: server.address, protocol, ports });
        };
        for listener in spec.listeners() {
            let own = spec.server_port(server).map(|port| (port, port));
            let ports = own.unwrap_or_else(|| (listener.ports.first(), listener.ports.last()));
            add(listener.protocol, ports);
        }
        if let (Some(ftp), Some(control)) = (spec.ftp, spec.server_port(server)) {
            // What servers open comes from the port below the control port.
            let active = control.saturating_sub(1);
            add(Protocol::Tcp, (active, active));
            add(Protocol::Tcp, (ftp.data_ports.first(), ftp.data_ports.last()));
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use steadfast_model::document::Document;

    use super::*;

    fn sources(fields: &str) -> Vec<(u8, (u16, u16))> {
        let text =
            format!("{{apiVersion: steadfast/v1, services: [{{name: a, group: g, {fields}}}]}}");
        let service = Document::parse(&text).unwrap().services.remove(0);
        let found: BTreeSet<_> = nat_sources(&service).into_iter().collect();
        found.into_iter().map(|source| (source.protocol, source.ports)).collect()
    }

    #[test]
    fn what_servers_answer_from_follows_from_their_ports() {
        let (tcp, udp) = (6, 17);
        let bare = "servers: [{address: 198.18.1.11}]";
        let own = "servers: [{address: 198.18.1.11, port: 2121}]";
        let at = "address: 198.18.0.100";
        for (fields, expected) in [
            (format!("forwarding: dr, {at}, port: 80, {bare}"), vec![]),
            (format!("forwarding: nat, {at}, port: 80, {bare}"), vec![(tcp, (80, 80))]),
            (format!("forwarding: nat, {at}, port: 21, {own}"), vec![(tcp, (2121, 2121))]),
            (
                format!(
                    "forwarding: nat, match: [{{{at}, port: 53, protocol: udp}}, {{{at}, port: 80-90}}], {bare}"
                ),
                vec![(tcp, (80, 90)), (udp, (53, 53))],
            ),
            (
                format!("forwarding: nat, {at}, port: 21, ftp: {{data_ports: 5000-5099}}, {own}"),
                vec![(tcp, (2120, 2120)), (tcp, (2121, 2121)), (tcp, (5000, 5099))],
            ),
        ] {
            assert_eq!(sources(&fields), expected, "{fields}");
        }
    }
}
