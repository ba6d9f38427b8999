//! The services, servers and neighbours of the world.

use std::net::IpAddr;

use super::{
    World, addr, far,
    kinds::{
        ASSOCIATIONS, BOUNDED, GROUPS, LIMITED, LOCALS, ONCE, QUIET, SCHEDULERS, SOURCELESS, TOLD,
        TUNNELS, VIPS,
    },
};
use crate::{
    naive::{Listen, Mode, Persist, SECOND, Sched, Server, Service, Tunnel, VLAN_PORT, Way},
    packet::Proto,
};

/// The servers that a service may have; each has its own port on NAT, or shares it with another
/// service's.
pub(super) fn server(
    ipv6: bool,
    mode: Mode,
    service: u32,
    slot: u8,
    id: u32,
    weight: u16,
    port: u16,
) -> Server {
    let (net, host) = match mode {
        Mode::Tunnel => (2, 20 + slot),
        Mode::Dr => (0, 20 + slot),
        Mode::Nat | Mode::FullNat => (1, 20 + slot),
    };
    // Some of the servers of some services are elsewhere: in a VLAN, or where the clients are.
    let is_elsewhere = slot % 2 == 1 && service % 200 / 2 != 50;
    let net = match (mode, service % 4) {
        (Mode::Dr, 3) | (Mode::Nat | Mode::FullNat, 1) if is_elsewhere => 4,
        (Mode::Nat | Mode::FullNat, 2) if is_elsewhere => 0,
        // There no tunnel of this node can start.
        (Mode::Tunnel, _) if slot == 1 && service % 200 == SOURCELESS => 4,
        _ => net,
    };
    let port = match mode {
        // That of the packet.
        _ if port == 0 => 0,
        Mode::Dr | Mode::Tunnel => port,
        // Services 100 and 101 of each family share their servers.
        Mode::Nat if service % 200 / 2 == 50 => 7000,
        Mode::Nat | Mode::FullNat => 8000 + service as u16,
    };
    let (addr, upper, lower) = (addr(ipv6, net, host), 0, 0);
    Server { id, addr, port, weight, up: true, upper, lower, since: 0 }
}

impl World {
    pub(super) fn add_family(&mut self, ipv6: bool) {
        let (vip, family) = (addr(ipv6, 0, 100), if ipv6 { 200 } else { 0 });
        self.naive.vips.extend(VIPS.map(|number| addr(ipv6, 0, number)));
        self.naive.quiet.push(addr(ipv6, 0, QUIET));
        for (number, sched) in SCHEDULERS.into_iter().enumerate() {
            for (mode, more) in [(Mode::Dr, 0), (Mode::Nat, 20)] {
                let proto = if number % 3 == 2 { Proto::Udp } else { Proto::Tcp };
                self.add_service(family + more + number as u32, proto, vip, mode, sched);
            }
        }
        for number in [100, 101] {
            self.add_service(family + number, Proto::Tcp, vip, Mode::Nat, Sched::Rr);
        }
        let kinds = [
            (Proto::Tcp, Mode::Nat, Sched::Rr),
            (Proto::Udp, Mode::Dr, Sched::Wlc),
            (Proto::Tcp, Mode::Dr, Sched::Sh { port: true, fallback: true }),
        ];
        for ((proto, mode, sched), number) in kinds.into_iter().zip(0..) {
            self.add_service(family + 110 + number, proto, vip, mode, sched);
            let last = self.naive.services.last_mut().unwrap();
            // One of them lets the clients of a server of weight 0 go.
            let timeout = 20 * SECOND;
            last.persist = Some(Persist { timeout, quiescent_goes: number == 2 });
        }
        for ((mode, sched), number) in ASSOCIATIONS.into_iter().zip(120..) {
            self.add_service(family + number, Proto::Sctp, vip, mode, sched);
        }
        for (number, (tunnel, crosses, proto, sched, clamp)) in (130..).zip(TUNNELS) {
            self.add_tunnel(family + number, (proto, vip, sched), tunnel, ipv6 != crosses);
            self.naive.services.last_mut().unwrap().clamp = clamp;
        }
        for ((mode, sched), number) in ONCE.into_iter().zip(140..) {
            self.add_service(family + number, Proto::Udp, vip, mode, sched);
            let last = self.naive.services.last_mut().unwrap();
            last.once = true;
            if mode == Mode::Tunnel {
                let servers = last.servers.iter_mut().zip(0..);
                servers.for_each(|(server, slot)| server.addr = addr(ipv6, 2, 20 + slot));
            }
        }
        for ((proto, sched), number) in LOCALS.into_iter().zip(150..) {
            self.add_service(family + number, proto, vip, Mode::FullNat, sched);
            self.naive.services.last_mut().unwrap().toa = number >= TOLD;
        }
        for ((mode, sched, slow_start), number) in BOUNDED.into_iter().zip(160..) {
            self.add_service(family + number, Proto::Tcp, vip, mode, sched);
            self.naive.services.last_mut().unwrap().slow_start = slow_start;
        }
        for ((proto, mode, sched, persists), number) in LIMITED.into_iter().zip(60..) {
            self.add_service(family + number, proto, vip, mode, sched);
            let limits = self.limits();
            let last = self.naive.services.last_mut().unwrap();
            let persist = Persist { timeout: 20 * SECOND, quiescent_goes: false };
            last.persist = persists.then_some(persist);
            last.limit(limits);
        }
        for (group, id) in GROUPS.iter().zip(family + 180..) {
            let listen = |(proto, number, first, last): &(Proto, u8, u16, u16)| {
                let (vip, first, last) = (addr(ipv6, 0, *number), *first, *last);
                Listen { proto: *proto, vip, first, last }
            };
            let listens = group.listens.iter().map(listen).collect();
            self.add_listening(id, listens, group.mode, group.sched);
            let last = self.naive.services.last_mut().unwrap();
            let timeout = 20 * SECOND;
            last.persist = group.persists.map(|quiescent_goes| Persist { timeout, quiescent_goes });
            last.once = group.once;
        }
        self.add_neighbours(ipv6);
    }

    fn add_neighbours(&mut self, ipv6: bool) {
        for client in 0..24 {
            let mac = [2, 0, 0, 0, 3, client];
            let way = match client {
                0 => Way::Silent(0),
                1 => continue,
                _ => Way::Known(0, mac),
            };
            self.naive.neighbours.push((addr(ipv6, 0, 200 + client), way));
            if client < 8 {
                self.naive.mtus.push((addr(ipv6, 0, 200 + client), 1290));
                // Those of another network, for what counts by networks.
                let way = match way {
                    Way::Known(_, mac) => Way::Known(VLAN_PORT, mac),
                    _ => Way::Silent(VLAN_PORT),
                };
                self.naive.neighbours.push((far(ipv6, 200 + client), way));
            }
        }
        for slot in 0..6 {
            let way = |port, net| match slot {
                5 => Way::Silent(port),
                _ => Way::Known(port, [2, 0, 0, 0, net, 20 + slot]),
            };
            self.naive.neighbours.push((addr(ipv6, 0, 20 + slot), way(0, 1)));
            self.naive.neighbours.push((addr(ipv6, 1, 20 + slot), way(1, 2)));
            self.naive.neighbours.push((addr(ipv6, 2, 20 + slot), way(1, 4)));
            self.naive.neighbours.push((addr(ipv6, 4, 20 + slot), way(VLAN_PORT, 5)));
            // 1310 is too little for IPv6 inside IPv6.
            let narrow = if ipv6 { 1400 } else { 403 };
            let mtu = [1500, 1480, 1310, 1300, narrow, 1300][usize::from(slot)];
            self.naive.mtus.push((addr(ipv6, 2, 20 + slot), mtu));
            // The narrowest: one packet would take too many pieces there; no multiple of eight fits.
            let (front, back) = match (slot, ipv6) {
                (4, false) => (107, 307),
                (2 | 3, _) | (4, true) => (1400, 1300),
                _ => continue,
            };
            self.naive.mtus.push((addr(ipv6, 0, 20 + slot), front));
            self.naive.mtus.push((addr(ipv6, 1, 20 + slot), back));
        }
    }

    fn add_tunnel(
        &mut self,
        id: u32,
        (proto, vip, sched): (Proto, IpAddr, Sched),
        tunnel: Tunnel,
        outer_v6: bool,
    ) {
        self.add_service(id, proto, vip, Mode::Tunnel, sched);
        let last = self.naive.services.last_mut().unwrap();
        last.tunnel = tunnel;
        let moved = last.servers.iter().zip(0..).map(|(held, slot)| {
            let Server { addr, .. } = server(outer_v6, Mode::Tunnel, id, slot, 0, 0, 0);
            Server { addr, ..*held }
        });
        let moved: Vec<Server> = moved.collect();
        last.servers.clear();
        moved.into_iter().for_each(|server| last.add(server));
    }

    fn add_service(&mut self, id: u32, proto: Proto, vip: IpAddr, mode: Mode, sched: Sched) {
        let port = 1000 + (id % 200) as u16;
        self.add_listening(id, vec![Listen::one(proto, vip, port)], mode, sched);
    }

    fn add_listening(&mut self, id: u32, listens: Vec<Listen>, mode: Mode, sched: Sched) {
        let mut service = Service::new(id, listens, mode, sched);
        let (ipv6, port) = (service.is_ipv6(), service.port().unwrap_or(0));
        for slot in 0..4 {
            self.next_server += 1;
            let weight = 1 + u16::from(slot) * u16::from(slot);
            service.add(server(ipv6, mode, id, slot, self.next_server, weight, port));
        }
        self.naive.services.push(service);
    }
}
