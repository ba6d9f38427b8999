//! Reads the kernel's picture by netlink and keeps it true.

use std::{net::IpAddr, time::Duration};

use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        address::AddressAttribute,
        link::{InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, VlanProtocol},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType},
    },
};
use steadfast_model::document::Prefix;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, warn};

use super::view::{Interface, KernelView, NEIGHBOURS_MAX, NeighbourKey, Route, Vlan};

/// A full read at least this often, in case a message was lost.
pub(crate) const RESYNC_EVERY: Duration = Duration::from_secs(30);

/// Changes that come together are read together.
const SETTLE: Duration = Duration::from_millis(5);

/// Starts watching; the receiver always holds a complete picture.
///
/// # Errors
/// When netlink cannot be opened or the first read fails.
pub(crate) async fn watch() -> anyhow::Result<(watch::Receiver<KernelView>, Handle)> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Neigh,
    ];
    let (connection, handle, mut messages) =
        rtnetlink::new_multicast_connection(&groups).context("cannot open a netlink socket")?;
    tokio::spawn(connection);
    let first = read(&handle).await.context("cannot read interfaces and routes by netlink")?;
    let (sender, receiver) = watch::channel(first);
    let reader = handle.clone();
    tokio::spawn(async move {
        let mut resync_at = Instant::now() + RESYNC_EVERY;
        loop {
            let read_all = tokio::select! {
                message = messages.next() => match message {
                    Some((message, _)) => match message.payload {
                        NetlinkPayload::InnerMessage(inner) => !neighbour_change(&sender, &inner),
                        _ => true,
                    },
                    None => {
                        warn!("netlink closed: routes and neighbours are no longer followed");
                        return;
                    }
                },
                () = tokio::time::sleep_until(resync_at) => true,
            };
            if read_all {
                resync_at = resync_at.min(Instant::now() + SETTLE);
            }
            if Instant::now() >= resync_at {
                resync_at = Instant::now() + RESYNC_EVERY;
                match read(&reader).await {
                    Ok(view) => {
                        sender.send_if_modified(|old| {
                            let changed = *old != view;
                            *old = view;
                            changed
                        });
                    }
                    Err(error) => warn!("cannot read routes and neighbours: {error:#}"),
                }
            }
            if sender.is_closed() {
                return;
            }
        }
    });
    Ok((receiver, handle))
}

/// Applies a neighbour message by itself, since they are frequent; says whether it was one.
fn neighbour_change(sender: &watch::Sender<KernelView>, message: &RouteNetlinkMessage) -> bool {
    let (message, gone) = match message {
        RouteNetlinkMessage::NewNeighbour(m) => (m, false),
        RouteNetlinkMessage::DelNeighbour(m) => (m, true),
        _ => return false,
    };
    let Some((key, mac)) = neighbour(message) else { return true };
    let mac = mac.filter(|_| !gone);
    sender.send_if_modified(|view| match mac {
        Some(mac) if view.neighbours.len() < NEIGHBOURS_MAX => {
            view.neighbours.insert(key, mac) != Some(mac)
        }
        Some(_) => false,
        None => view.neighbours.remove(&key).is_some(),
    });
    debug!(interface = key.0, address = %key.1, ?mac, "neighbour");
    true
}

async fn read(handle: &Handle) -> anyhow::Result<KernelView> {
    let mut view = KernelView::default();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        let mut interface = Interface {
            index: link.header.index,
            name: String::new(),
            mac: [0; 6],
            up: link.header.flags.contains(LinkFlags::Up)
                && link.header.flags.contains(LinkFlags::LowerUp),
            mtu: 0,
            addresses: Vec::new(),
            vlan: vlan(&link.attributes),
        };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name = name,
                LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
                LinkAttribute::Address(bytes) => {
                    interface.mac = bytes.try_into().unwrap_or_default();
                }
                _ => {}
            }
        }
        view.interfaces.insert(interface.index, interface);
    }
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        let local = message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let address = local.or_else(|| {
            message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        });
        if let (Some(address), Some(interface)) =
            (address, view.interfaces.get_mut(&message.header.index))
        {
            interface.addresses.push(address);
        }
    }
    for message in [
        rtnetlink::RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        rtnetlink::RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ] {
        let mut routes = handle.route().get(message).execute();
        while let Some(message) = routes.try_next().await? {
            view.routes.extend(route(&message));
        }
    }
    let mut neighbours = handle.neighbours().get().execute();
    while let Some(message) = neighbours.try_next().await? {
        if let Some((key, Some(mac))) = neighbour(&message)
            && view.neighbours.len() < NEIGHBOURS_MAX
        {
            view.neighbours.insert(key, mac);
        }
    }
    Ok(view)
}

/// What the kernel says of a VLAN; other kinds of interface have a link to another one, too.
fn vlan(attributes: &[LinkAttribute]) -> Option<Vlan> {
    let parent = attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(parent) => Some(*parent),
        _ => None,
    })?;
    let info = attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(info) => Some(info),
        _ => None,
    })?;
    if !info.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Vlan))) {
        return None;
    }
    let (mut id, mut is_8021q) = (None, true);
    for info in info {
        let LinkInfo::Data(InfoData::Vlan(data)) = info else { continue };
        for attribute in data {
            match attribute {
                InfoVlan::Id(number) => id = Some(*number),
                InfoVlan::Protocol(protocol) => is_8021q = *protocol == VlanProtocol::Ieee8021Q,
                _ => {}
            }
        }
    }
    Some(Vlan { parent, id: id?, is_8021q })
}

/// A unicast route of the main table; of several next hops the first counts.
fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let any = match header.address_family {
        rtnetlink::packet_route::AddressFamily::Inet => IpAddr::from([0_u8; 4]),
        rtnetlink::packet_route::AddressFamily::Inet6 => IpAddr::from([0_u8; 16]),
        _ => return None,
    };
    let (mut destination, mut interface, mut gateway, mut metric) = (any, None, None, 0);
    let (mut source, mut mtu) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => destination = address(a)?,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(a) => gateway = address(a),
            RouteAttribute::Priority(p) => metric = *p,
            RouteAttribute::PrefSource(a) => source = address(a),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(hops) => {
                let hop = hops.first()?;
                interface = Some(hop.interface_index);
                gateway = hop.attributes.iter().find_map(|a| match a {
                    RouteAttribute::Gateway(a) => address(a),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let prefix = Prefix::new(destination, header.destination_prefix_length)?;
    Some(Route { prefix, interface: interface?, gateway, metric, source, mtu })
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

/// Key and, while the entry is usable, MAC address of a neighbour.
fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, Option<[u8; 6]>)> {
    let (mut destination, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => {
                destination = Some(IpAddr::V4(*a));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => {
                destination = Some(IpAddr::V6(*a));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let usable = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    Some(((message.header.ifindex, destination?), mac.filter(|_| usable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_is_known_by_its_kind_and_nothing_else_is_one() {
        let vlan_of = |kind, protocol| {
            let data = vec![InfoVlan::Protocol(protocol), InfoVlan::Id(4001)];
            let info = vec![LinkInfo::Kind(kind), LinkInfo::Data(InfoData::Vlan(data))];
            vlan(&[LinkAttribute::Link(7), LinkAttribute::LinkInfo(info)])
        };
        let expected = Vlan { parent: 7, id: 4001, is_8021q: true };
        assert_eq!(vlan_of(InfoKind::Vlan, VlanProtocol::Ieee8021Q), Some(expected));
        let service = Vlan { is_8021q: false, ..expected };
        assert_eq!(vlan_of(InfoKind::Vlan, VlanProtocol::Ieee8021Ad), Some(service));
        // Whose link is its other end.
        assert_eq!(vlan_of(InfoKind::Veth, VlanProtocol::Ieee8021Q), None);
        assert_eq!(vlan(&[LinkAttribute::Link(7)]), None);
        let nothing = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan)]);
        assert_eq!(vlan(&[LinkAttribute::Link(7), nothing]), None, "without a number");
    }
}
