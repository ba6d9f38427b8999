//! Segments on VLANs: the kernel has an interface for each (`eth0.100`), and only the one that
//! carries it (`eth0`) can have a steering program and sockets.
//!
//! Guarantees: a VLAN is a port only while its interface, what carries it and the driver's settings
//! are such that each frame's VLAN is known and nobody else's frames are taken; otherwise its
//! segments are down, and the reason is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use af_xdp::steering::VLANS_MAX;
use anyhow::{Context, ensure};
use tracing::info;

use super::{DataPlane, port::PortInfo, segments::Segments, worker::PORTS_MAX};
use crate::kernel::{Interface, KernelView, Vlan};

/// VLANs of all interfaces together.
const NUMBERS_MAX: u16 = VLANS_MAX as u16;

/// The interfaces that must be attached, each with the VLANs of it that segments are on.
pub(super) fn wires(segments: &Segments, view: &KernelView) -> BTreeMap<u32, BTreeSet<u16>> {
    let mut wires: BTreeMap<u32, BTreeSet<u16>> = BTreeMap::new();
    for index in segments.on.keys() {
        match view.interfaces.get(index).and_then(|interface| interface.vlan) {
            None => drop(wires.entry(*index).or_default()),
            // What cannot carry it is told when the VLAN is to be attached.
            Some(vlan) if !carries(&vlan, view) => {}
            Some(vlan) => drop(wires.entry(vlan.parent).or_default().insert(vlan.id)),
        }
    }
    wires
}

/// An interface of this namespace, itself no VLAN, carries it by the tags we know.
fn carries(vlan: &Vlan, view: &KernelView) -> bool {
    let parent = view.interfaces.get(&vlan.parent);
    vlan.is_8021q && parent.is_some_and(|parent| parent.vlan.is_none())
}

impl DataPlane {
    /// Makes ports of the VLANs that segments are on.
    pub(super) fn attach_vlans(
        &self,
        segments: &Segments,
        view: &KernelView,
        troubles: &mut BTreeMap<String, String>,
    ) {
        for index in segments.on.keys() {
            let Some(interface) = view.interfaces.get(index) else { continue };
            let Some(vlan) = interface.vlan else { continue };
            if self.ports().iter().any(|port| port.interface == *index) {
                continue;
            }
            if let Err(error) = self.attach_vlan(interface, vlan, view) {
                troubles.insert(format!("interface {}", interface.name), format!("{error:#}"));
            }
        }
    }

    fn attach_vlan(
        &self,
        interface: &Interface,
        vlan: Vlan,
        view: &KernelView,
    ) -> anyhow::Result<()> {
        let parent = view.interfaces.get(&vlan.parent).context(
            "what carries this VLAN is not in the network namespace of clusterd: move it here",
        )?;
        fits(interface, vlan, parent)?;
        let ports = self.ports();
        let trunk = ports.iter().find(|port| port.interface == vlan.parent);
        let trunk = trunk.with_context(|| {
            format!("{}, which carries this VLAN, is not attached", parent.name)
        })?;
        tags_are_left(&parent.name)?;
        let first = PORTS_MAX as u16;
        let free = (first..first + NUMBERS_MAX)
            .find(|number| ports.iter().all(|port| port.number != *number));
        let number =
            free.with_context(|| format!("one VLAN more than the {NUMBERS_MAX} possible"))?;
        let port = Arc::new(PortInfo::vlan(number, interface, trunk, vlan.id));
        info!(interface = port.name, number, vlan = vlan.id, of = trunk.name, "VLAN attached");
        self.publish(|ports| ports.push(port));
        Ok(())
    }

    /// Why a VLAN is not what it was, if it is not.
    pub(super) fn vlan_changed(&self, port: &PortInfo, trunk: &Arc<PortInfo>) -> Option<String> {
        if !self.ports().iter().any(|port| Arc::ptr_eq(port, trunk)) {
            return Some(format!("{}, which carries this VLAN, is attached anew", trunk.name));
        }
        match af_xdp::Interface::by_index(port.interface) {
            Ok(now) if now.mac != port.mac => Some("its MAC address is another now".to_owned()),
            Err(af_xdp::InterfaceError::NoSuchIndex { .. }) => Some("it is gone".to_owned()),
            // It went while it was asked, or the kernel would not say: asked again soon.
            Ok(_) | Err(_) => tags_are_left(&trunk.name).err().map(|error| error.to_string()),
        }
    }
}

/// Whether frames of this VLAN can be told from others and are for us.
fn fits(interface: &Interface, vlan: Vlan, parent: &Interface) -> anyhow::Result<()> {
    ensure!(
        vlan.is_8021q,
        "its tags are those of 802.1ad: make it anew without `proto 802.1ad`, or use another interface"
    );
    ensure!(
        parent.vlan.is_none(),
        "it is a VLAN of {}, itself a VLAN: frames with two tags are not forwarded",
        parent.name
    );
    ensure!(
        interface.mac == parent.mac,
        "its MAC address is not that of {0}, which carries it: ip link set {1} address $(cat \
         /sys/class/net/{0}/address)",
        parent.name,
        interface.name
    );
    Ok(())
}

/// A NIC that takes tags off leaves nothing by which a program could tell VLANs apart.
fn tags_are_left(parent: &str) -> anyhow::Result<()> {
    let facts = af_xdp::Interface::by_name(parent)?;
    ensure!(
        !facts.takes_tags_off,
        "{parent} takes the tags of VLANs off before a program sees them: ethtool -K {parent} rxvlan off"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use steadfast_ownership::SegmentId;

    use super::*;

    fn interface(index: u32, name: &str, vlan: Option<(u32, u16)>) -> Interface {
        let vlan = vlan.map(|(parent, id)| Vlan { parent, id, is_8021q: true });
        let mac = [2, 0, 0, 0, 0, 1];
        Interface { index, name: name.into(), mac, up: true, mtu: 1500, addresses: vec![], vlan }
    }

    fn view(interfaces: &[Interface]) -> KernelView {
        let interfaces = interfaces.iter().map(|i| (i.index, i.clone()));
        KernelView { interfaces: interfaces.collect(), ..KernelView::default() }
    }

    #[test]
    fn what_carries_vlans_is_attached_and_not_they() {
        let view = view(&[
            interface(2, "eth0", None),
            interface(3, "eth1", None),
            interface(10, "eth0.100", Some((2, 100))),
            interface(11, "eth0.200", Some((2, 200))),
            interface(12, "eth0.100.7", Some((10, 7))),
            interface(13, "from-elsewhere", Some((99, 7))),
        ]);
        let on = |indexes: &[u32]| {
            let on = indexes.iter().map(|index| (*index, [SegmentId(1)].into()));
            wires(&Segments { on: on.collect(), ..Segments::default() }, &view)
        };
        assert_eq!(on(&[10, 11]), [(2, [100, 200].into())].into());
        assert_eq!(on(&[2, 11, 3]), [(2, [200].into()), (3, [].into())].into());
        assert_eq!(on(&[12, 13]), BTreeMap::new(), "nothing that could be attached");
    }

    #[test]
    fn a_vlan_that_cannot_be_served_is_refused_with_what_to_do() {
        let (eth0, good) = (interface(2, "eth0", None), interface(10, "eth0.100", Some((2, 100))));
        let vlan = good.vlan.unwrap();
        fits(&good, vlan, &eth0).unwrap();
        let refused = |interface: &Interface, vlan, parent: &Interface| {
            fits(interface, vlan, parent).unwrap_err().to_string()
        };
        let other_mac = Interface { mac: [2; 6], ..good.clone() };
        let said = refused(&other_mac, vlan, &eth0);
        assert!(said.contains("ip link set eth0.100 address"), "{said}");
        let said = refused(&good, Vlan { is_8021q: false, ..vlan }, &eth0);
        assert!(said.contains("802.1ad"), "{said}");
        let inner = interface(12, "eth0.100.7", Some((10, 7)));
        let said = refused(&inner, inner.vlan.unwrap(), &good);
        assert!(said.contains("two tags"), "{said}");
    }
}
