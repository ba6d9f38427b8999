//! What the steering programs are told is ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use af_xdp::{AddressRole, NatSource, Steering, SteeringError};
use steadfast_dataplane::Forwarding;
use steadfast_model::ClusterState;

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
        let sources = state.services.values().flat_map(|service| {
            let spec = &service.spec;
            let nat = compile::forwarding(spec) == Forwarding::Nat;
            spec.servers.iter().filter(move |_| nat).flat_map(move |server| {
                spec.listeners().into_iter().map(move |listener| NatSource {
                    address: server.address,
                    protocol: compile::ip_protocol(listener.protocol),
                    ports: match spec.server_port(server) {
                        Some(port) => (port, port),
                        None => (listener.ports.first(), listener.ports.last()),
                    },
                })
            })
        });
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
