//! A node with every way of forwarding, in both families: what the frames of the target `frame`
//! come to.

use std::net::IpAddr;

use steadfast_dataplane::{
    ClientAddress, ConfigSpec, Forwarding, Ftp, GroupId, GroupSpec, HashOptions, Limits, Listen,
    MssClamp, NextHopsSpec, Persistence, PortSlot, PortSpec, Ports, Protocol, QuicConfig,
    QuicServerId, QuicSpec, Route, SchedulerKind, ServerId, ServerSpec, ServiceId, ServiceSpec,
    SynProxy, Tagged, Tunnel, UdpChecksum,
};

/// The group of all services.
pub(crate) const GROUP: GroupId = GroupId(1);

pub(crate) const FRONT: [u8; 6] = [2, 0, 0, 0, 1, 0];
pub(crate) const BACK: [u8; 6] = [2, 0, 0, 0, 2, 0];
pub(crate) const CLIENT: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub(crate) const SERVER: [u8; 6] = [2, 0, 0, 0, 2, 21];
pub(crate) const PEER: [u8; 6] = [2, 0, 0, 0, 1, 12];

/// A VLAN of the first interface: the third port.
const VLAN: u16 = 7;

/// Small enough that frames of the fuzzer are too big for it.
const TUNNEL_MTU: u32 = 140;

const SECOND_NS: u64 = 1_000_000_000;

/// Ports of the VIPs; what is there stands in [`services`].
const FTP_PORT: u16 = 21;
/// Clients get a cookie before a server is asked.
pub(crate) const COOKIE_PORT: u16 = 10;
/// The server is told who the client is by a header before its stream.
pub(crate) const PROXY_PORT: u16 = 11;
const DATA_PORTS: Ports = Ports { first: 50_000, last: 50_009 };

/// A SYN to the NAT service, from its EtherType on, with no checksums.
pub(crate) const SYN: [u8; 42] = [
    0x08, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 198, 18, 0, 2, 198, 18, 0, 100, 0x20, 0,
    0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0,
];
/// Where the lower half of its client port is.
pub(crate) const SYN_CLIENT_PORT: usize = 23;

const MODES: [(u16, Forwarding); 8] = [
    (1, Forwarding::Dr),
    (2, Forwarding::Nat),
    (3, Forwarding::FullNat),
    (4, Forwarding::Tunnel(Tunnel::IpIp)),
    (5, Forwarding::Tunnel(Tunnel::Gue { port: 6080, checksum: UdpChecksum::ByFamily })),
    (6, Forwarding::Tunnel(Tunnel::Gue { port: 6080, checksum: UdpChecksum::On })),
    (7, Forwarding::Tunnel(Tunnel::Gre { checksum: false })),
    (8, Forwarding::Tunnel(Tunnel::Gre { checksum: true })),
];

/// The addresses of one family.
struct Family {
    number: u32,
    vip: IpAddr,
    gateway: IpAddr,
    local: IpAddr,
    own: IpAddr,
    router: IpAddr,
    /// Servers: next to the clients, behind the node, on the VLAN, behind the router.
    near: IpAddr,
    behind: [IpAddr; 2],
    on_vlan: IpAddr,
    far: IpAddr,
    links: [(IpAddr, u16); 3],
    link_len: u8,
    all: IpAddr,
}

fn families() -> [Family; 2] {
    let addr = |text: &str| text.parse::<IpAddr>().expect("an address");
    let of = |number: u32, front: &str, back: &str, vlan: &str, far: &str, link_len, all: &str| {
        let at = |net: &str, host: &str| addr(&format!("{net}{host}"));
        Family {
            number,
            vip: at(front, "100"),
            gateway: at(back, "1"),
            local: at(back, "200"),
            own: at(front, "11"),
            router: at(front, "2"),
            near: at(front, "21"),
            behind: [at(back, "21"), at(back, "22")],
            on_vlan: at(vlan, "21"),
            far: at(far, "21"),
            links: [(at(front, "0"), 0), (at(back, "0"), 1), (at(vlan, "0"), 2)],
            link_len,
            all: addr(all),
        }
    };
    [
        of(0, "198.18.0.", "198.18.1.", "198.18.2.", "203.0.113.", 24, "0.0.0.0"),
        of(1, "2001:db8::", "2001:db8:1::", "2001:db8:2::", "2001:db8:9::", 64, "::"),
    ]
}

/// The configuration; with `few`, each service has lost a server.
pub(crate) fn config(few: bool) -> ConfigSpec {
    let families = families();
    ConfigSpec {
        generation: 1 + u64::from(few),
        groups: vec![GroupSpec {
            id: GROUP,
            vips: families.iter().map(|family| family.vip).collect(),
            gateways: families.iter().map(|family| family.gateway).collect(),
            locals: families.iter().map(|family| family.local).collect(),
            ..GroupSpec::default()
        }],
        services: families.iter().flat_map(|family| services(family, &families, few)).collect(),
        workers: 1,
        now_ns: 0,
        port_slot: PortSlot::new(2),
        servers_given: Default::default(),
    }
}

fn services(family: &Family, families: &[Family; 2], few: bool) -> Vec<ServiceSpec> {
    let mut services = Vec::new();
    let [first, second] = family.behind;
    let mut add = |protocol, port, servers: &[IpAddr], service: ServiceSpec| {
        let id = family.number * 100 + services.len() as u32 + 1;
        let servers = servers.iter().zip(1..).skip(usize::from(few && servers.len() > 1));
        let servers = servers.map(|(addr, number)| ServerSpec {
            id: ServerId(id * 10 + number),
            addr: *addr,
            port: if service.forwarding.is_nat() && service.ftp.is_none() { 8000 } else { 0 },
            ..ServerSpec::default()
        });
        services.push(ServiceSpec {
            id: ServiceId(id),
            group: GROUP,
            listen: vec![Listen::new(protocol, family.vip, port)],
            servers: servers.collect(),
            ..service
        });
    };
    let plain = ServiceSpec::default;
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        for (port, forwarding) in MODES {
            let other = &families[1 - family.number as usize];
            let servers = match forwarding {
                Forwarding::Dr => vec![family.near, family.own],
                Forwarding::Tunnel(_) => vec![family.far, other.far],
                Forwarding::Nat | Forwarding::FullNat => vec![first, family.on_vlan],
            };
            let mss_clamp = if port % 2 == 0 { MssClamp::Auto } else { MssClamp::At(1000) };
            let is_told = forwarding == Forwarding::FullNat && protocol == Protocol::Tcp;
            let client_address = if is_told { ClientAddress::Toa } else { ClientAddress::None };
            let service = ServiceSpec { forwarding, mss_clamp, client_address, ..plain() };
            add(protocol, port, &servers, service);
        }
    }
    let nat = || ServiceSpec { forwarding: Forwarding::Nat, ..plain() };
    let persistence = Some(Persistence {
        timeout_ns: 60 * SECOND_NS,
        prefix_v4: 24,
        prefix_v6: 64,
        expire_quiescent_template: true,
    });
    let ftp = ServiceSpec { ftp: Some(Ftp { data: DATA_PORTS }), persistence, ..nat() };
    add(Protocol::Tcp, FTP_PORT, &[first, second], ftp);
    add(Protocol::Udp, 53, &[first, second], ServiceSpec { one_packet: true, ..nat() });
    let limits = Limits { new_per_s: 2, per_source: 3, ..Limits::default() };
    let sh = SchedulerKind::Sh(HashOptions { port: true, fallback: true });
    let limited = ServiceSpec { limits, scheduler: sh, ..nat() };
    add(Protocol::Tcp, 9, &[first, second], limited);
    let server_of = |octet: u8, number| {
        let id = family.number * 100 + 28;
        QuicServerId::new(&[octet]).map(|name| (name, ServerId(id * 10 + number)))
    };
    let with_id = |id, nonce_len, key| QuicConfig { id, server_id_len: 1, nonce_len, key };
    let key = Some([5; 16]);
    let quic = QuicSpec {
        configs: vec![with_id(2, 4, None), with_id(3, 4, key), with_id(4, 15, key)],
        servers: [server_of(0xa1, 1), server_of(0xb2, 2)].into_iter().flatten().collect(),
    };
    add(Protocol::Udp, 443, &[first, second], ServiceSpec { quic, persistence, ..nat() });
    // One server each, so that seeds know who answers.
    let asked = ServiceSpec { syn_proxy: SynProxy::Always, ..nat() };
    add(Protocol::Tcp, COOKIE_PORT, &[first], asked);
    let client_address = ClientAddress::ProxyV2;
    add(Protocol::Tcp, PROXY_PORT, &[first], ServiceSpec { client_address, ..nat() });
    services
}

/// Interfaces, routes and neighbours.
pub(crate) fn next_hops() -> NextHopsSpec {
    let families = families();
    let owns = |of: fn(&Family) -> IpAddr| families.iter().map(of).collect::<Vec<_>>();
    let port = |mac, addrs| PortSpec { mac, addrs, mtu: 1500, ..PortSpec::default() };
    let tagged = Some(Tagged { trunk: 0, vlan: VLAN });
    let mut spec = NextHopsSpec {
        generation: 1,
        ports: vec![
            PortSpec { cluster_macs: vec![PEER], ..port(FRONT, owns(|family| family.own)) },
            port(BACK, owns(|family| family.gateway)),
            PortSpec { tagged, ..port(FRONT, vec![]) },
        ],
        ..NextHopsSpec::default()
    };
    for family in &families {
        let link = |prefix, prefix_len, port, gateway, mtu| Route {
            prefix,
            prefix_len,
            port: Some(port),
            gateway,
            src: None,
            mtu,
        };
        for (prefix, port) in family.links {
            spec.routes.push(link(prefix, family.link_len, port, None, None));
        }
        let far_len = family.link_len;
        spec.routes.push(link(family.all, 0, 0, Some(family.router), None));
        let far = match family.far {
            IpAddr::V4(addr) => {
                IpAddr::from([addr.octets()[0], addr.octets()[1], addr.octets()[2], 0])
            }
            IpAddr::V6(addr) => {
                let [a, b, c, ..] = addr.segments();
                IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
            }
        };
        spec.routes.push(link(far, far_len, 0, Some(family.router), Some(TUNNEL_MTU)));
        spec.neighbours.extend([(0, family.router, CLIENT), (0, family.near, SERVER)]);
        spec.neighbours.extend(family.behind.map(|addr| (1, addr, SERVER)));
        spec.neighbours.push((2, family.on_vlan, SERVER));
    }
    spec
}
