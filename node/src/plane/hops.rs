//! The kernel's routes and neighbours as the data plane wants them.

use std::{collections::HashMap, sync::Arc};

use steadfast_dataplane::{NextHopsSpec, PortSpec, Route, Tagged};
use steadfast_model::NodeId;
use steadfast_ownership::SegmentId;

use super::port::PortInfo;
use crate::kernel::KernelView;

/// MAC addresses of the cluster's other nodes, by node and segment, as their beacons showed them.
pub(crate) type PeerMacs = HashMap<(NodeId, SegmentId), [u8; 6]>;

/// Builds the snapshot for `ports`. A number that no port has stays empty.
pub(crate) fn next_hops_spec(
    view: &KernelView,
    ports: &[Arc<PortInfo>],
    macs: &PeerMacs,
    generation: u64,
) -> NextHopsSpec {
    let port_of =
        |interface: u32| ports.iter().find(|p| p.interface == interface).map(|p| p.number);
    let count = ports.iter().map(|p| usize::from(p.number) + 1).max().unwrap_or(0);
    let mut specs = vec![PortSpec::default(); count];
    for port in ports {
        let addrs = view.interfaces.get(&port.interface).map(|i| i.addresses.clone());
        let on = port.segments();
        let cluster = macs.iter().filter(|((_, segment), _)| on.contains(segment));
        if let Some(place) = specs.get_mut(usize::from(port.number)) {
            *place = PortSpec {
                mac: port.mac,
                addrs: addrs.unwrap_or_default(),
                mtu: view.interfaces.get(&port.interface).map_or(0, |i| i.mtu),
                cluster_macs: cluster.map(|(_, mac)| *mac).collect(),
                tagged: port.trunk().map(|(trunk, vlan)| Tagged { trunk: trunk.number, vlan }),
                kernel_index: port.interface,
            };
        }
    }
    let mut routes: Vec<_> = view.routes.iter().collect();
    // Of two routes for one prefix the data plane takes the first: the lower metric.
    routes.sort_by_key(|route| route.metric);
    let routes = routes.into_iter().map(|route| Route {
        prefix: route.prefix.address(),
        prefix_len: route.prefix.length(),
        port: port_of(route.interface),
        gateway: route.gateway,
        src: route.source,
        mtu: route.mtu,
    });
    let neighbours = view.neighbours.iter().filter_map(|((interface, address), mac)| {
        port_of(*interface).map(|port| (port, *address, *mac))
    });
    NextHopsSpec {
        generation,
        ports: specs,
        routes: routes.collect(),
        neighbours: neighbours.collect(),
    }
}
