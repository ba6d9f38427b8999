//! The crate under test, and what it is told.

use std::{net::IpAddr, sync::Arc};

use steadfast_dataplane as dp;

use crate::{
    lab,
    naive::{
        Clamp, GROUPS, Gone, Group, Listen, Mode, Naive, PEERS, Role, SEED, SLOW_START, Sched,
        Service, TRUNK, Tunnel, VLAN, VLAN_PORT, Way,
    },
    packet::{Mac, Proto},
    world::{BACK, FRONT},
};

/// Of this node's ports.
const SLOT: u16 = 3;

/// Few, so that they are often too many.
pub(crate) const HALF_OPEN_MAX: usize = 48;

/// The crate under test.
pub(crate) struct Plane {
    pub(crate) shared: Arc<dp::Shared>,
    worker: dp::Worker<dp::NoHook>,
    actions: dp::Actions,
    generation: u64,
    counters: Arc<dp::WorkerCounters>,
    /// No local port was found for the frame at hand.
    pub(crate) is_exhausted: bool,
    /// Frames that leave beside the one at hand.
    pub(crate) rest: Vec<(u16, Vec<u8>)>,
    packets: usize,
}

impl Plane {
    pub(crate) fn new(connections_max: usize) -> Self {
        let options =
            dp::TableOptions { connections_max, half_open_max: HALF_OPEN_MAX, seed: SEED };
        let shared = Arc::new(dp::Shared::new(options));
        let worker = dp::Worker::new(0, Arc::clone(&shared), dp::NoHook);
        let (counters, actions) = (worker.counters(), dp::Actions::new());
        let (generation, is_exhausted, rest, packets) = (0, false, Vec::new(), 0);
        Self { shared, worker, actions, generation, counters, is_exhausted, rest, packets }
    }

    pub(crate) fn configure(&mut self, naive: &Naive) {
        self.generation += 1;
        let vips =
            |group| naive.vips.iter().copied().filter(|vip| naive.group(*vip) == group).collect();
        let of = |service| group_id(naive.group_of(service));
        let services = naive.services.iter();
        let services = services.map(|service| service_spec(service, of(service)));
        let spec = dp::ConfigSpec {
            now_ns: naive.now,
            groups: vec![
                dp::GroupSpec {
                    id: group_id(Group::First),
                    vips: vips(Group::First),
                    gateways: Vec::new(),
                    locals: naive.locals.clone(),
                    unserved: dp::Unserved::Reject,
                },
                dp::GroupSpec {
                    id: group_id(Group::Quiet),
                    vips: vips(Group::Quiet),
                    gateways: Vec::new(),
                    locals: Vec::new(),
                    unserved: dp::Unserved::Drop,
                },
            ],
            services: services.collect(),
            workers: 1,
            port_slot: dp::PortSlot::new(SLOT),
            servers_given: Default::default(),
            ..lab::config_spec(self.generation)
        };
        let previous = self.shared.config.load_full();
        self.shared.set_config(dp::Config::compile(spec, Some(&previous)).unwrap());
    }

    pub(crate) fn set_hops(&self, naive: &Naive) {
        let link = |prefix: &str, prefix_len, port| dp::Route {
            prefix: prefix.parse().unwrap(),
            prefix_len,
            port: Some(port),
            gateway: None,
            src: None,
            mtu: naive.mtus.iter().find(|(of, _)| of.to_string() == prefix).map(|of| of.1.into()),
        };
        let known = naive.neighbours.iter().filter_map(|(addr, way)| match way {
            Way::Known(port, mac) => Some((*port, *addr, *mac)),
            Way::Silent(_) | Way::NoRoute => None,
        });
        // A route for each neighbour alone: who is not listed has none.
        let routes = naive.neighbours.iter().filter_map(|(addr, way)| {
            let len = if addr.is_ipv6() { 128 } else { 32 };
            match way {
                Way::Known(port, _) | Way::Silent(port) => {
                    Some(link(&addr.to_string(), len, *port))
                }
                Way::NoRoute => None,
            }
        });
        self.shared.set_next_hops(dp::NextHops::new(dp::NextHopsSpec {
            generation: 1,
            ports: vec![
                dp::PortSpec {
                    mac: FRONT,
                    cluster_macs: peers(0),
                    mtu: naive.port_mtus[0].into(),
                    ..Default::default()
                },
                dp::PortSpec {
                    mac: BACK,
                    addrs: naive.tunnel_ends.to_vec(),
                    mtu: naive.port_mtus[1].into(),
                    ..Default::default()
                },
                dp::PortSpec {
                    mac: FRONT,
                    cluster_macs: peers(usize::from(VLAN_PORT)),
                    mtu: naive.port_mtus[2].into(),
                    tagged: Some(dp::Tagged { trunk: TRUNK, vlan: VLAN }),
                    ..Default::default()
                },
            ],
            routes: routes.collect(),
            neighbours: known.collect(),
        }));
    }

    pub(crate) fn set_roles(&self, roles: [Role; GROUPS]) {
        for (role, group) in roles.into_iter().zip([Group::First, Group::Quiet]) {
            self.set_role(role, group_id(group));
        }
    }

    fn set_role(&self, role: Role, group: dp::GroupId) {
        let epoch = dp::Origin { generation: 1, grant_index: 7, claim: 0, node: 1 };
        self.shared.groups.group(group).set_role(match role {
            Role::Holder { since, complete } => {
                dp::Role::Holder { epoch, since_ns: since, copy_complete: complete }
            }
            Role::Other => dp::Role::Other { relay: PEERS.to_vec() },
            Role::Nobody => dp::Role::NoHolder { since_ns: 0 },
        });
    }

    pub(crate) fn expire(&self, now_ns: u64) {
        while self.shared.advance(now_ns, 10_000, &dp::NoHook).more {}
    }

    pub(crate) fn packet(
        &mut self,
        now_ns: u64,
        port: u16,
        frame: &[u8],
    ) -> Result<(u16, Vec<u8>), &'static str> {
        const HEADROOM: usize = 96;
        let mut buffer = vec![0xee; HEADROOM];
        buffer.extend_from_slice(frame);
        buffer.resize(HEADROOM + frame.len() + 200, 0xee);
        let span = (HEADROOM, frame.len());
        // Every other packet may go the short way.
        self.packets += 1;
        self.worker.prepare(std::iter::once(frame).take(self.packets % 2));
        let exhausted = || self.counters.dropped(dp::Reason::LocalPortsExhausted);
        let before = exhausted();
        let verdict = self.worker.handle_frame(now_ns, port, &mut buffer, span, &mut self.actions);
        self.is_exhausted = exhausted() > before;
        self.rest.clear();
        self.actions.send_frames(|port, frame| self.rest.push(untagged(port, frame)));
        match verdict {
            dp::Verdict::Transmit { port, start, len } => {
                Ok(untagged(port, &buffer[start..start + len]))
            }
            dp::Verdict::Drop(reason) => Err(reason.name()),
        }
    }

    /// What the packet path says would become of a frame.
    pub(crate) fn rehearse(
        &self,
        now_ns: u64,
        port: u16,
        frame: &[u8],
    ) -> Result<(u16, Vec<u8>), &'static str> {
        let rehearsal = self.shared.rehearse(now_ns, port, frame);
        match rehearsal.verdict {
            dp::Verdict::Transmit { port, .. } => Ok((port, rehearsal.frame)),
            dp::Verdict::Drop(reason) => Err(reason.name()),
        }
    }

    /// The templates, in an order of their own.
    pub(crate) fn templates(&self) -> Vec<String> {
        let (mut lines, mut from) = (Vec::new(), Some(0));
        while let Some(at) = from {
            let (found, next) = self.shared.table.templates.walk(at, 256);
            lines.extend(found.iter().map(|template| {
                let dp::TemplateRecord { key, server, .. } = template.record;
                template_line(key.service.0, key.client, server.0)
            }));
            from = next;
        }
        lines.sort();
        lines
    }

    /// What is in the table, in an order of its own.
    pub(crate) fn connections(&self) -> Vec<String> {
        let (mut lines, mut cursor) = (Vec::new(), Some(dp::Cursor::default()));
        while let Some(at) = cursor {
            let (found, next) = self.shared.table.walk(at, 256);
            lines.extend(found.iter().map(|c| {
                let key = c.key();
                let (client, vip) = ((key.client, key.client_port), (key.vip, key.vip_port));
                line(&key.protocol.to_string(), client, vip, c.server().0, c.state().name())
            }));
            cursor = next;
        }
        lines.sort();
        lines
    }
}

fn group_id(group: Group) -> dp::GroupId {
    dp::GroupId(1 + group as u32)
}

/// Why the crate drops packets.
pub(crate) fn reasons() -> Vec<&'static str> {
    dp::Reason::ALL.iter().map(|reason| reason.name()).collect()
}

/// The other node's address on an interface.
fn peers(port: usize) -> Vec<Mac> {
    PEERS[port].into_iter().collect()
}

/// A frame that leaves by an interface, or by the VLAN that its tag says.
fn untagged(port: u16, frame: &[u8]) -> (u16, Vec<u8>) {
    let tag = [0x81, 0, 0, VLAN as u8];
    if port == TRUNK && frame.get(12..16) == Some(&tag) {
        return (VLAN_PORT, [&frame[..12], &frame[16..]].concat());
    }
    (port, frame.to_vec())
}

pub(crate) fn line(
    proto: &str,
    client: (IpAddr, u16),
    vip: (IpAddr, u16),
    server: u32,
    state: &str,
) -> String {
    format!("{proto} {client:?} {vip:?} server {server} {state}")
}

pub(crate) fn template_line(service: u32, network: IpAddr, server: u32) -> String {
    format!("service {service} {network} server {server}")
}

fn listen(listen: &Listen) -> dp::Listen {
    let protocol = match listen.proto {
        Proto::Tcp => dp::Protocol::Tcp,
        Proto::Udp => dp::Protocol::Udp,
        Proto::Sctp => dp::Protocol::Sctp,
    };
    let ports = dp::Ports { first: listen.first, last: listen.last };
    dp::Listen { protocol, vip: listen.vip, ports }
}

fn service_spec(service: &Service, group: dp::GroupId) -> dp::ServiceSpec {
    let hash = |port, fallback| dp::HashOptions { port, fallback };
    dp::ServiceSpec {
        group,
        listen: service.listens.iter().map(listen).collect(),
        scheduler: match service.sched {
            Sched::Rr => dp::SchedulerKind::Rr,
            Sched::Wrr => dp::SchedulerKind::Wrr,
            Sched::Lc => dp::SchedulerKind::Lc,
            Sched::Wlc => dp::SchedulerKind::Wlc,
            Sched::Sed => dp::SchedulerKind::Sed,
            Sched::Nq => dp::SchedulerKind::Nq,
            Sched::Fo => dp::SchedulerKind::Fo,
            Sched::Ovf => dp::SchedulerKind::Ovf,
            Sched::Dh => dp::SchedulerKind::Dh,
            Sched::Sh { port, fallback } => dp::SchedulerKind::Sh(hash(port, fallback)),
            Sched::Lblc => dp::SchedulerKind::Lblc,
            Sched::Lblcr => dp::SchedulerKind::Lblcr,
            Sched::Mh { port, fallback } => dp::SchedulerKind::Mh(hash(port, fallback)),
        },
        forwarding: match service.mode {
            Mode::Dr => dp::Forwarding::Dr,
            Mode::Nat => dp::Forwarding::Nat,
            Mode::FullNat => dp::Forwarding::FullNat,
            Mode::Tunnel => dp::Forwarding::Tunnel(match service.tunnel {
                Tunnel::IpIp => dp::Tunnel::IpIp,
                Tunnel::Gre(checksum) => dp::Tunnel::Gre { checksum },
                Tunnel::Gue(port, checksum) => dp::Tunnel::Gue {
                    port,
                    checksum: match checksum {
                        None => dp::UdpChecksum::ByFamily,
                        Some(true) => dp::UdpChecksum::On,
                        Some(false) => dp::UdpChecksum::Off,
                    },
                },
            }),
        },
        policies: dp::Policies {
            on_server_gone: match service.gone {
                Gone::Drop => dp::OnServerGone::Drop,
                Gone::Reset => dp::OnServerGone::Reset,
                Gone::Reschedule => dp::OnServerGone::Reschedule,
            },
            ..dp::Policies::default()
        },
        slow_start_ns: if service.slow_start { SLOW_START } else { 0 },
        one_packet: service.once,
        limits: dp::Limits {
            new_per_s: service.limits.new_per_s as u32,
            per_source: service.limits.per_source as u32,
            over: if service.limits.refuses { dp::Over::Refuse } else { dp::Over::Hash },
        },
        client_address: match service.toa {
            true => dp::ClientAddress::Toa,
            false => dp::ClientAddress::None,
        },
        persistence: service.persist.map(|persist| dp::Persistence {
            timeout_ns: persist.timeout,
            prefix_v4: 30,
            prefix_v6: 126,
            expire_quiescent_template: persist.quiescent_goes,
        }),
        mss_clamp: match service.clamp {
            Clamp::Off => dp::MssClamp::Off,
            Clamp::Auto => dp::MssClamp::Auto,
            Clamp::At(most) => dp::MssClamp::At(most),
        },
        // The order in which servers come must not matter.
        servers: service
            .servers
            .iter()
            .rev()
            .map(|server| dp::ServerSpec {
                weight: server.weight,
                upper: server.upper,
                lower: server.lower,
                up: server.up,
                ..lab::server(server.id, &server.addr.to_string(), server.port)
            })
            .collect(),
        ..lab::service(service.id, dp::Protocol::Tcp, 0, Vec::new())
    }
}
