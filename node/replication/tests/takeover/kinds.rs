//! The kinds of records, one row each: the service, what makes the record, and what comes after the
//! take-over.

use std::{net::SocketAddr, sync::Arc};

use etherparse::{IpNumber, PacketBuilder};
use steadfast_dataplane::{
    ClientAddress, ConfigSpec, CookieKey, CookieKeys, FlowKey, Forwarding, Ftp, Listen, NextHops,
    Persistence, PortSlot, Ports, Protocol, SchedulerKind, ServiceSpec, SynProxy, Tunnel,
};
use steadfast_packet::crc32c;

use crate::{
    both::{self, NETS, Net, at, ends::Segment, framed, ip},
    lab::{self, ACK, BACK, CLIENT, FRONT, Lab, Mac, NAT_1, Outcome, SECOND, SYN, SYN_ACK},
};

const PSH_ACK: u8 = 0x18;
/// Of all services but FTP.
const PORT: u16 = 9090;
const REAL_PORT: u16 = 9191;
const FTP_PORT: u16 = 21;
/// Of the client whose connection is watched; another one comes before it and takes the first turn.
pub(crate) const CLIENT_PORT: u16 = 4000;
const DECOY_PORT: u16 = 3999;
/// Numbers of the client and of the server; both are used up soon.
const CLIENT_ISN: u32 = u32::MAX - 5;
const SERVER_ISN: u32 = u32::MAX - 9;

/// The interface by which a frame comes, and the frame.
pub(crate) type Frames = Vec<(u16, Vec<u8>)>;

/// Given the client's port.
type Opens = Box<dyn Fn(&mut Lab, u16)>;
type GoesOn = Box<dyn Fn(&Lab, u16) -> Frames>;

/// One row.
pub(crate) struct Kind {
    pub(crate) name: String,
    spec: ConfigSpec,
    /// Makes the record at the holder.
    pub(crate) open: Opens,
    /// What comes after the take-over, given the holder's table.
    pub(crate) goes_on: GoesOn,
}

impl Kind {
    /// A packet path with this service.
    pub(crate) fn lab(&self) -> Lab {
        let lab = Lab::with(self.spec.clone(), 4000);
        let mut hops = both::next_hops();
        let own = [["198.18.0.11", "2001:db8::11"], ["198.18.1.11", "2001:db8:1::11"]];
        for (port, own) in hops.ports.iter_mut().zip(own) {
            port.mtu = 1500;
            port.addrs = own.map(|addr| addr.parse().unwrap()).to_vec();
        }
        for (port, addr) in
            [(0, "198.18.0.22"), (1, "198.18.1.22"), (0, "2001:db8::22"), (1, "2001:db8:1::22")]
        {
            hops.neighbours.push((port, addr.parse().unwrap(), [2, 0, 0, 0, 9, 22]));
        }
        lab.shared.set_next_hops(NextHops::new(hops));
        let key = |slot| CookieKey { slot, key: [slot + 11, 5] };
        let keys = CookieKeys { present: key(7), previous: Some(key(6)) };
        lab.shared.cookie_keys.store(Some(Arc::new(keys)));
        lab
    }
}

/// Every kind of record there is.
pub(crate) fn all() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for net in NETS {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            for forwarding in [
                Forwarding::Nat,
                Forwarding::Dr,
                Forwarding::FullNat,
                Forwarding::Tunnel(Tunnel::IpIp),
            ] {
                kinds.push(plain(net, protocol, forwarding));
            }
            kinds.push(persistent(net, protocol, false));
        }
        for forwarding in [Forwarding::Nat, Forwarding::FullNat] {
            kinds.push(cookie(net, forwarding));
            for is_heard in [false, true] {
                kinds.push(proxy_header(net, forwarding, is_heard));
            }
        }
        kinds.push(ftp_data(net));
    }
    kinds.push(ftp_reply());
    kinds
}

/// The second server of a family, on the side of the client or behind the node.
fn second(net: Net, behind: bool) -> &'static str {
    match (net.name, behind) {
        ("IPv4", false) => "198.18.0.22",
        ("IPv4", true) => "198.18.1.22",
        (_, false) => "2001:db8::22",
        (_, true) => "2001:db8:1::22",
    }
}

/// One service with two servers that take turns.
fn spec(net: Net, protocol: Protocol, port: u16, change: impl Fn(&mut ServiceSpec)) -> ConfigSpec {
    let mut spec = both::spec(1);
    spec.port_slot = PortSlot::new(3);
    let local = if net.name == "IPv4" { "198.18.1.200" } else { "2001:db8:1::200" };
    spec.groups[0].locals.push(local.parse().unwrap());
    let mut service = lab::service(900, protocol, port, vec![]);
    service.listen = vec![Listen::new(protocol, net.vip.parse().unwrap(), port)];
    service.scheduler = SchedulerKind::Rr;
    change(&mut service);
    let behind = service.forwarding.is_nat();
    let real = if behind { REAL_PORT } else { port };
    let first = if behind { net.nat } else { net.dr };
    service.servers =
        vec![lab::server(901, first, real), lab::server(902, second(net, behind), real)];
    spec.services = vec![service];
    spec
}

/// Who talks to whom, as each side knows it.
#[derive(Clone, Copy)]
struct Ends {
    client: SocketAddr,
    vip: SocketAddr,
    local: SocketAddr,
    real: SocketAddr,
}

fn ends(lab: &Lab, net: Net, protocol: Protocol, client_port: u16, vip_port: u16) -> Ends {
    let (client, vip) = (at(net.client, client_port), at(net.vip, vip_port));
    let key = FlowKey { protocol, client: client.ip(), client_port, vip: vip.ip(), vip_port };
    let connection = lab.shared.table.find(&key).unwrap();
    let local = connection.local().map_or(client, |local| (local.addr, local.port).into());
    let target = connection.target().unwrap();
    Ends { client, vip, local, real: (target.addr, target.port).into() }
}

impl Ends {
    fn client_sends(&self, segment: &Segment) -> (u16, Vec<u8>) {
        (0, framed((CLIENT, FRONT), &segment.packet((self.client, self.vip), 64)))
    }

    fn server_sends(&self, segment: &Segment) -> (u16, Vec<u8>) {
        (1, framed((NAT_1, BACK), &segment.packet((self.real, self.local), 64)))
    }
}

fn passes(lab: &mut Lab, (port, frame): (u16, Vec<u8>)) -> Vec<u8> {
    match lab.handle(port, &frame) {
        Outcome::Sent(_, frame) => frame,
        other => panic!("{other:?} of a frame that makes the record: {frame:x?}"),
    }
}

fn client_segment(flags: u8, behind: u32, data: &[u8]) -> Segment {
    let ack = SERVER_ISN.wrapping_add(1);
    Segment::new(flags, CLIENT_ISN.wrapping_add(1).wrapping_add(behind), ack, data)
}

fn server_segment(flags: u8, behind: u32, data: &[u8]) -> Segment {
    let ack = CLIENT_ISN.wrapping_add(1);
    Segment::new(flags, SERVER_ISN.wrapping_add(1).wrapping_add(behind), ack, data)
}

/// A SYN of a client.
fn syn(net: Net, (from, to): (u16, u16)) -> (u16, Vec<u8>) {
    let syn = Segment::new(SYN, CLIENT_ISN, 0, b"");
    (0, framed((CLIENT, FRONT), &syn.packet((at(net.client, from), at(net.vip, to)), 64)))
}

/// The handshake of TCP, as far as the node sees it.
fn shake_hands(lab: &mut Lab, net: Net, ports: (u16, u16), sees_replies: bool) -> Ends {
    passes(lab, syn(net, ports));
    let ends = ends(lab, net, Protocol::Tcp, ports.0, ports.1);
    if sees_replies {
        let answer = Segment::new(SYN_ACK, SERVER_ISN, CLIENT_ISN.wrapping_add(1), b"");
        passes(lab, ends.server_sends(&answer));
    }
    passes(lab, ends.client_sends(&client_segment(ACK, 0, b"")));
    ends
}

/// A packet of UDP, or of one chunk of SCTP.
fn datagram(
    protocol: Protocol,
    macs: (Mac, Mac),
    (src, dst): (SocketAddr, SocketAddr),
    chunk: u8,
) -> Vec<u8> {
    let builder = PacketBuilder::ip(ip(src.ip(), dst.ip(), 64, protocol));
    let mut packet = Vec::new();
    if protocol == Protocol::Udp {
        builder.udp(src.port(), dst.port()).write(&mut packet, b"a datagram").unwrap();
        return framed(macs, &packet);
    }
    let mut sctp = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    sctp.extend_from_slice(&0x0a0b_0c0d_u32.to_be_bytes());
    sctp.extend_from_slice(&[0; 4]);
    sctp.extend_from_slice(&[chunk, 0, 0, 20]);
    sctp.extend_from_slice(&[7; 16]);
    let crc = crc32c(&sctp).to_le_bytes();
    sctp[8..12].copy_from_slice(&crc);
    builder.write(&mut packet, IpNumber(protocol as u8), &sctp).unwrap();
    framed(macs, &packet)
}

//= RFC 9260 section 3.2
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

/// A conversation of any protocol that is under way.
fn talk(lab: &mut Lab, net: Net, protocol: Protocol, ports: (u16, u16), sees_replies: bool) {
    if protocol == Protocol::Tcp {
        shake_hands(lab, net, ports, sees_replies);
        return;
    }
    let way = (at(net.client, ports.0), at(net.vip, ports.1));
    let from_client = |lab: &mut Lab, chunk| {
        passes(lab, (0, datagram(protocol, (CLIENT, FRONT), way, chunk)));
    };
    from_client(lab, INIT);
    let ends = ends(lab, net, protocol, ports.0, ports.1);
    let from_server = |lab: &mut Lab, chunk| {
        let frame = datagram(protocol, (NAT_1, BACK), (ends.real, ends.local), chunk);
        if sees_replies {
            passes(lab, (1, frame));
        }
    };
    if protocol == Protocol::Udp {
        return from_server(lab, DATA);
    }
    from_server(lab, INIT_ACK);
    from_client(lab, COOKIE_ECHO);
    from_server(lab, COOKIE_ACK);
    from_client(lab, DATA);
}

/// More of it, both ways.
fn more(lab: &Lab, net: Net, protocol: Protocol, ports: (u16, u16), sees_replies: bool) -> Frames {
    let ends = ends(lab, net, protocol, ports.0, ports.1);
    let mut frames = match protocol {
        Protocol::Tcp => vec![
            ends.client_sends(&client_segment(PSH_ACK, 0, b"a request")),
            ends.server_sends(&server_segment(ACK, 0, b"an answer")),
            ends.client_sends(&client_segment(0x11, 9, b"")),
        ],
        _ => {
            let (to, back) = ((ends.client, ends.vip), (ends.real, ends.local));
            vec![
                (0, datagram(protocol, (CLIENT, FRONT), to, DATA)),
                (1, datagram(protocol, (NAT_1, BACK), back, DATA)),
            ]
        }
    };
    frames.retain(|(port, _)| *port == 0 || sees_replies);
    frames
}

fn plain(net: Net, protocol: Protocol, forwarding: Forwarding) -> Kind {
    let sees_replies = forwarding.is_nat();
    Kind {
        name: format!("{} {protocol} {forwarding:?}", net.name),
        spec: spec(net, protocol, PORT, |service| service.forwarding = forwarding),
        open: Box::new(move |lab, from| {
            talk(lab, net, protocol, (DECOY_PORT, PORT), sees_replies);
            talk(lab, net, protocol, (from, PORT), sees_replies);
        }),
        goes_on: Box::new(move |lab, from| more(lab, net, protocol, (from, PORT), sees_replies)),
    }
}

fn persistence() -> Persistence {
    Persistence {
        timeout_ns: 300 * SECOND,
        prefix_v4: 32,
        prefix_v6: 128,
        expire_quiescent_template: false,
    }
}

/// After the take-over the client comes from another port, and gets the server of its template.
pub(crate) fn persistent(net: Net, protocol: Protocol, persist_mode: bool) -> Kind {
    Kind {
        name: format!("{} {protocol} template", net.name),
        spec: spec(net, protocol, PORT, |service| {
            service.persistence = Some(persistence());
            service.sync.persist_mode = persist_mode;
        }),
        open: Box::new(move |lab, from| {
            // Another client takes the first turn.
            let router = elsewhere(net);
            open_only(lab, router, protocol, (DECOY_PORT, PORT));
            talk(lab, net, protocol, (from, PORT), true);
        }),
        goes_on: Box::new(move |_, from| vec![first_packet(net, protocol, (from + 1000, PORT))]),
    }
}

/// The same, for a client somewhere else.
fn elsewhere(mut net: Net) -> Net {
    net.client = net.router;
    net
}

fn first_packet(net: Net, protocol: Protocol, ports: (u16, u16)) -> (u16, Vec<u8>) {
    if protocol == Protocol::Tcp {
        return syn(net, ports);
    }
    let way = (at(net.client, ports.0), at(net.vip, ports.1));
    (0, datagram(protocol, (CLIENT, FRONT), way, INIT))
}

fn open_only(lab: &mut Lab, net: Net, protocol: Protocol, ports: (u16, u16)) {
    passes(lab, first_packet(net, protocol, ports));
}

fn of_ftp(service: &mut ServiceSpec) {
    service.ftp = Some(Ftp { data: Ports { first: 50_000, last: 50_099 } });
    service.persistence = Some(persistence());
}

/// After the take-over the client opens the data connection of its session.
fn ftp_data(net: Net) -> Kind {
    Kind {
        name: format!("{} FTP data", net.name),
        spec: spec(net, Protocol::Tcp, FTP_PORT, of_ftp),
        open: Box::new(move |lab, from| {
            let router = elsewhere(net);
            open_only(lab, router, Protocol::Tcp, (DECOY_PORT, FTP_PORT));
            shake_hands(lab, net, (from, FTP_PORT), true);
        }),
        goes_on: Box::new(move |lab, from| {
            let mut frames = more(lab, net, Protocol::Tcp, (from, FTP_PORT), true);
            frames.insert(0, syn(net, (from + 1000, 50_007)));
            frames
        }),
    }
}

/// A reply that had to get longer, on its way: its numbers are shifted from its end on.
fn ftp_reply() -> Kind {
    const TIGHT: &[u8] = b"227 (198,18,1,22,195,80)\r\n";
    let net = NETS[0];
    Kind {
        name: "IPv4 FTP longer reply".to_owned(),
        spec: spec(net, Protocol::Tcp, FTP_PORT, of_ftp),
        open: Box::new(move |lab, from| {
            let router = elsewhere(net);
            open_only(lab, router, Protocol::Tcp, (DECOY_PORT, FTP_PORT));
            let ends = shake_hands(lab, net, (from, FTP_PORT), true);
            passes(lab, ends.server_sends(&server_segment(PSH_ACK, 0, TIGHT)));
            let key = FlowKey {
                protocol: Protocol::Tcp,
                client: ends.client.ip(),
                client_port: from,
                vip: ends.vip.ip(),
                vip_port: FTP_PORT,
            };
            let deltas = lab.shared.table.find(&key).unwrap().deltas();
            assert!(deltas.is_some_and(|deltas| deltas.longer.is_some()), "{deltas:?}");
        }),
        goes_on: Box::new(move |lab, from| {
            let ends = ends(lab, net, Protocol::Tcp, from, FTP_PORT);
            let len = u32::try_from(TIGHT.len()).unwrap();
            let heard = |octets: u32| {
                let ack = SERVER_ISN.wrapping_add(1).wrapping_add(octets);
                Segment { ack, ..client_segment(ACK, 0, b"") }
            };
            vec![
                ends.server_sends(&server_segment(PSH_ACK, 0, TIGHT)),
                ends.client_sends(&heard(len + 1)),
                ends.server_sends(&server_segment(PSH_ACK, len, b"150 here it comes\r\n")),
                ends.client_sends(&heard(len + 20)),
            ]
        }),
    }
}

/// The sequence number of a segment, and its acknowledgement.
fn numbers(frame: &[u8]) -> (u32, u32) {
    let tcp = if frame[12..14] == [0x08, 0x00] { 34 } else { 54 };
    let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    (number(tcp + 4), number(tcp + 8))
}

/// The client came with a cookie: its numbers and the server's differ by a number that nobody else
/// could guess.
fn cookie(net: Net, forwarding: Forwarding) -> Kind {
    Kind {
        name: format!("{} {forwarding:?} SYN cookie", net.name),
        spec: spec(net, Protocol::Tcp, PORT, |service| {
            (service.forwarding, service.syn_proxy) = (forwarding, SynProxy::Always);
        }),
        open: Box::new(move |lab, from| {
            for from in [DECOY_PORT, from] {
                let way = (at(net.client, from), at(net.vip, PORT));
                let mss = Segment::new(SYN, CLIENT_ISN, 0, b"").with_options(&[2, 4, 5, 180]);
                let answer = passes(lab, (0, framed((CLIENT, FRONT), &mss.packet(way, 64))));
                let (cookie, _) = numbers(&answer);
                let back = client_segment(ACK, 0, b"");
                let back = Segment { ack: cookie.wrapping_add(1), ..back };
                lab.handle(0, &framed((CLIENT, FRONT), &back.packet(way, 64)));
                let ends = ends(lab, net, Protocol::Tcp, from, PORT);
                let answer = Segment::new(SYN_ACK, SERVER_ISN, CLIENT_ISN.wrapping_add(1), b"");
                let answer = answer.with_options(&[2, 4, 5, 180]);
                passes(lab, ends.server_sends(&answer));
            }
        }),
        goes_on: Box::new(move |lab, from| {
            let ends = ends(lab, net, Protocol::Tcp, from, PORT);
            vec![
                ends.client_sends(&client_segment(PSH_ACK, 0, b"a request")),
                ends.server_sends(&server_segment(ACK, 0, b"an answer")),
                ends.client_sends(&client_segment(ACK, 9, b"more")),
            ]
        }),
    }
}

/// The server reads a header before its client's stream: while that is on its way it is put there
/// again, and once it is heard all numbers are shifted by it.
fn proxy_header(net: Net, forwarding: Forwarding, is_heard: bool) -> Kind {
    let len = if net.name == "IPv4" { 28 } else { 52 };
    let heard = move |behind| {
        let ack = CLIENT_ISN.wrapping_add(1).wrapping_add(len);
        Segment { ack, ..server_segment(ACK, behind, b"hello") }
    };
    Kind {
        name: format!("{} {forwarding:?} PROXY header, heard: {is_heard}", net.name),
        spec: spec(net, Protocol::Tcp, PORT, |service| {
            (service.forwarding, service.client_address) = (forwarding, ClientAddress::ProxyV2);
        }),
        open: Box::new(move |lab, from| {
            for from in [DECOY_PORT, from] {
                let ends = shake_hands(lab, net, (from, PORT), true);
                if is_heard {
                    passes(lab, ends.server_sends(&heard(0)));
                }
            }
        }),
        goes_on: Box::new(move |lab, from| {
            let ends = ends(lab, net, Protocol::Tcp, from, PORT);
            vec![
                ends.client_sends(&client_segment(PSH_ACK, 0, b"abc")),
                ends.client_sends(&client_segment(PSH_ACK, 3, b"def")),
                ends.server_sends(&heard(5)),
                ends.client_sends(&client_segment(PSH_ACK, 0, b"abc")),
            ]
        }),
    }
}
