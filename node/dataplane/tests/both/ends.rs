//! The ends of a TCP connection, and what goes between them.

use std::net::{IpAddr, SocketAddr};

use etherparse::{PacketBuilder, TcpHeader};
use steadfast_dataplane::{
    ClientAddress, ConfigSpec, FlowKey, Forwarding, HashOptions, NextHops, PortSlot, Protocol,
    SchedulerKind, ServiceSpec,
};

use super::{CLIENT_PORT, NETS, Net, REAL_PORT, at, framed, ip, next_hops, spec};
use crate::lab::{ACK, BACK, CLIENT, FRONT, Lab, NAT_1, Outcome, RST, SYN, server, service};

/// The TCP service of [`told`].
pub const PORT: u16 = 9090;
/// Of the interfaces of [`node_of`].
pub const MTU: u16 = 1500;

/// A TCP service in each family, by hashing, whose servers hear who their client is.
pub fn told(forwarding: Forwarding, client_address: ClientAddress) -> ConfigSpec {
    let mut spec = spec(1);
    spec.port_slot = PortSlot::new(2);
    for (id, net) in (1001..).zip(NETS) {
        let local = if net.name == "IPv4" { "198.18.1.200" } else { "2001:db8:1::200" };
        spec.groups[0].locals.push(local.parse().unwrap());
        let service = service(id, Protocol::Tcp, PORT, vec![server(id, net.nat, REAL_PORT)]);
        let scheduler = SchedulerKind::Mh(HashOptions { port: true, fallback: true });
        let mut service = ServiceSpec { forwarding, scheduler, client_address, ..service };
        service.listen[0].vip = net.vip.parse().unwrap();
        spec.services.push(service);
    }
    spec
}

pub fn node_of(spec: ConfigSpec) -> Lab {
    let lab = Lab::with(spec, 1000);
    let mut hops = next_hops();
    hops.ports.iter_mut().for_each(|port| port.mtu = MTU.into());
    lab.shared.set_next_hops(NextHops::new(hops));
    lab
}

/// A segment; whatever matters of it.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub urgent: u16,
    pub options: Vec<u8>,
    pub data: Vec<u8>,
}

impl Segment {
    pub fn new(flags: u8, seq: u32, ack: u32, data: &[u8]) -> Self {
        Self { flags, seq, ack, data: data.to_vec(), ..Self::default() }
    }

    pub fn with_options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    /// As an IP packet.
    pub fn packet(&self, (src, dst): (SocketAddr, SocketAddr), ttl: u8) -> Vec<u8> {
        let mut header = TcpHeader::new(src.port(), dst.port(), self.seq, 512);
        let flag = |bit| self.flags & bit != 0;
        header.acknowledgment_number = self.ack;
        (header.fin, header.syn, header.rst) = (flag(1), flag(SYN), flag(RST));
        (header.psh, header.ack, header.urg) = (flag(8), flag(ACK), flag(0x20));
        header.urgent_pointer = self.urgent;
        header.set_options_raw(&self.options).unwrap();
        let mut packet = Vec::new();
        let builder = PacketBuilder::ip(ip(src.ip(), dst.ip(), ttl, Protocol::Tcp));
        builder.tcp_header(header).write(&mut packet, &self.data).unwrap();
        packet
    }
}

/// The two ends of a connection, as each side knows them.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    /// Whom the server takes for its client.
    pub local: SocketAddr,
    pub real: SocketAddr,
}

impl Ends {
    /// Opens a connection to a port of the VIP with this SYN.
    pub fn open(lab: &mut Lab, net: Net, port: u16, syn: &Segment) -> (Self, Outcome) {
        let (client, vip) = (at(net.client, CLIENT_PORT), at(net.vip, port));
        let outcome = lab.handle(0, &framed((CLIENT, FRONT), &syn.packet((client, vip), 64)));
        let local = lab.shared.table.find(&key(net, port)).unwrap().local();
        let local = local.map_or(client, |local| (local.addr, local.port).into());
        (Self { client, vip, local, real: at(net.nat, REAL_PORT) }, outcome)
    }

    pub fn in_frame(&self, segment: &Segment) -> Vec<u8> {
        framed((CLIENT, FRONT), &segment.packet((self.client, self.vip), 64))
    }

    pub fn in_sent(&self, segment: &Segment) -> Outcome {
        Outcome::Sent(1, framed((BACK, NAT_1), &segment.packet((self.local, self.real), 63)))
    }

    pub fn out_frame(&self, segment: &Segment) -> Vec<u8> {
        framed((NAT_1, BACK), &segment.packet((self.real, self.local), 64))
    }

    pub fn out_sent(&self, segment: &Segment) -> Outcome {
        Outcome::Sent(0, framed((FRONT, CLIENT), &segment.packet((self.vip, self.client), 63)))
    }
}

/// A TCP connection from the client.
pub fn key(net: Net, port: u16) -> FlowKey {
    let (client, vip): (IpAddr, IpAddr) = (net.client.parse().unwrap(), net.vip.parse().unwrap());
    let protocol = Protocol::Tcp;
    FlowKey { protocol, client, client_port: CLIENT_PORT, vip, vip_port: port }
}
