//! Tunnels and segment sizes.

use std::net::IpAddr;

use super::Check;
use crate::document::{Forwarding, MssClamp, Protocol, ServiceSpec, TunnelKind};

/// The least segment size that Linux takes from a peer (`TCP_MIN_MSS`), and the largest that an
/// IPv4 packet has room for.
const MSS_MIN: u32 = 88;
const MSS_MAX: u32 = 65_495;

impl Check<'_> {
    /// How packets travel to the servers of a service.
    pub(super) fn tunnel(&mut self, place: &str, service: &ServiceSpec) {
        let Some(tunnel) = &service.tunnel else { return };
        let place = format!("{place}.tunnel");
        if service.forwarding != Forwarding::Tun {
            let name = service.forwarding.name();
            self.problem(
                &place,
                format!("forwarding is {name}: no packet goes through a tunnel"),
                "take `tunnel` out, or write forwarding: tun",
            );
        }
        let name = tunnel.kind.name();
        if tunnel.port.is_some() && tunnel.kind != TunnelKind::Gue {
            let what = format!("{name} has no port");
            self.problem(format!("{place}.port"), what, "take it out, or write type: gue");
        } else if tunnel.port == Some(0) {
            self.problem(format!("{place}.port"), "0 is no port of a server", super::PORT_FIX);
        }
        if tunnel.checksum.is_some() && tunnel.kind == TunnelKind::Ipip {
            let what = "ipip has no checksum of its own";
            let fix = "take it out, or write type: gue or gre";
            self.problem(format!("{place}.checksum"), what, fix);
        }
    }

    /// A server behind a tunnel may be in any network that the nodes have a route to.
    pub(super) fn tunnel_server(&mut self, place: &str, address: IpAddr) {
        let is_link_local = match address {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let is_host = !address.is_multicast() && !address.is_unspecified();
        if !is_host || address.is_loopback() || is_link_local {
            let what = format!("{address} cannot be reached through routers");
            self.problem(place, what, "write the server's own unicast address");
        }
    }

    /// What the handshakes of a service may announce.
    pub(super) fn mss_clamp(&mut self, place: &str, service: &ServiceSpec) {
        let place = format!("{place}.mss_clamp");
        let listeners = service.listeners();
        let tcp = listeners.iter().any(|listener| listener.protocol == Protocol::Tcp);
        if let (true, false, Some(first)) =
            (service.mss_clamp != MssClamp::Off, tcp, listeners.first())
        {
            let what = format!("{} has no segments", first.protocol.name());
            self.problem(place, what, "take it out");
            return;
        }
        match service.mss_clamp {
            MssClamp::Off => {}
            MssClamp::At(most) => self.range(place, u32::from(most), MSS_MIN, MSS_MAX),
            MssClamp::Auto if service.forwarding.is_nat() => {}
            MssClamp::Auto => {
                let what = format!(
                    "under {} the servers' half of a handshake does not pass the nodes, and \
                     clients obey that half",
                    service.forwarding.name()
                );
                let fix = "take it out and lower what the servers announce (ip route ... advmss), \
                           or write a number for what the servers send";
                self.problem(place, what, fix);
            }
        }
    }
}
