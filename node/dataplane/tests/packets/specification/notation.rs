//! Packets as lines of text: `front tcp client:4000 > vip:80 S` comes in at the front, and
//! `front>dr tcp client:4000 > vip:80 S ttl=63` leaves there for that neighbour. Addresses have
//! names, so that a line stands for both families. `front.7` is VLAN 7 of the front; `first` and `last`
//! are the two parts of a packet in fragments, `id=2` says of which. What is sent is read by
//! etherparse, which computes each checksum again, but for parts.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use etherparse::{
    IpHeaders, IpNumber, NetHeaders, PacketBuilder, PacketHeaders, TransportHeader, ip_number,
};
use steadfast_dataplane::Protocol;
use steadfast_packet::{crc32c, internet_checksum};

use super::world::{ARM, GUE_PORT, NARROW, ROUTER, TAGGED};
use crate::{
    both::{Net, cut::cut, ends::Segment, error::Error, framed, ip, packet},
    lab::{BACK, CLIENT, DR_1, FRONT, Mac, NAT_1, Outcome, PEER},
};

/// Of a packet that comes in, unless it is said.
const TTL: u8 = 64;
/// Octets of an INIT after the chunk's header (RFC 9260 section 3.3.2).
const INIT: usize = 16;

/// Kinds of ICMP errors: the word, type and code of ICMP, of ICMPv6.
const KINDS: [(&str, [u8; 2], [u8; 2]); 3] = [
    ("port-unreachable", [3, 3], [1, 4]),
    ("too-big", [3, 4], [2, 0]),
    ("time-exceeded", [11, 0], [3, 0]),
];

const FLAGS: [(char, u8); 5] = [('F', 1), ('S', 2), ('R', 4), ('P', 8), ('A', 16)];

/// The names of one family, and what is chosen at run time.
pub(super) struct Notation {
    six: bool,
    names: Vec<(&'static str, IpAddr)>,
    /// The local port that full-NAT chose last, written as `*`.
    local_port: u16,
}

impl Notation {
    pub(super) fn new(net: Net, more: &[(&'static str, IpAddr)]) -> Self {
        let of = |text: &str| text.parse().unwrap();
        let mut names = vec![
            ("client", of(net.client)),
            ("vip", of(net.vip)),
            ("dr", of(net.dr)),
            ("nat", of(net.nat)),
            ("router", of(net.router)),
        ];
        names.extend(more);
        Self { six: net.name == "IPv6", names, local_port: 0 }
    }

    fn address(&self, name: &str) -> IpAddr {
        let found = self.names.iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("no name: {name}")).1
    }

    fn name(&self, address: IpAddr) -> String {
        let found = self.names.iter().find(|(_, known)| *known == address);
        found.map_or_else(|| address.to_string(), |(name, _)| (*name).to_owned())
    }

    fn end(&self, text: &str) -> SocketAddr {
        let (name, port) = text.split_once(':').unwrap_or((text, "0"));
        let port = if port == "*" { self.local_port } else { port.parse().unwrap() };
        SocketAddr::new(self.address(name), port)
    }

    fn ends(&self, words: &[&str]) -> (SocketAddr, SocketAddr) {
        let [src, ">", dst, ..] = words else { panic!("no ends: {words:?}") };
        (self.end(src), self.end(dst))
    }

    /// The port a line's packet comes in by, and its frame.
    pub(super) fn frame(&self, line: &str) -> (u16, Vec<u8>) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (wire, sender) = words[0].split_once('<').unwrap_or((words[0], ""));
        let (wire, vlan) = wire.split_once('.').map_or((wire, None), |(a, b)| (a, Some(b)));
        let (port, own) = if wire == "front" { (0, FRONT) } else { (1, BACK) };
        let (what, rest) = (words[1], &words[2..]);
        let (src, dst) = self.ends(rest);
        let told = |word: &str| rest.iter().find_map(|w| w.strip_prefix(word));
        let ttl = told("ttl=").map_or(TTL, |text| text.parse().unwrap());
        let part = ["first", "last"].iter().position(|part| rest.contains(part));
        let usual = match (what, part) {
            ("sctp", _) => INIT,
            (_, Some(_)) => 40,
            _ => 7,
        };
        let len = told("len=").map_or(usual, |text| text.parse().unwrap());
        let macs = (mac_of(if sender.is_empty() { rest[0] } else { sender }), own);
        let data = vec![0x5a; len];
        let frame = match what {
            "tcp" => {
                let flags = flags_of(rest.get(3).copied().unwrap_or_default());
                let number = |word, usual| told(word).map_or(usual, |text| text.parse().unwrap());
                let (seq, ack) = (number("seq=", 1000), number("ack=", 2000));
                let ack = if flags & 16 == 0 { 0 } else { ack };
                framed(macs, &Segment::new(flags, seq, ack, &data).packet((src, dst), ttl))
            }
            "udp" => framed(macs, &packet(Protocol::Udp, (src, dst), ttl, &data)),
            "sctp" => framed(macs, &packet(Protocol::Sctp, (src, dst), ttl, &data)),
            "echo" => framed(macs, &echo(src.ip(), dst.ip(), ttl, &data)),
            kind => {
                let of = rest.iter().position(|word| *word == "of").expect("what it is about");
                let protocol = protocol_of(rest[of + 1]);
                let (quoted_src, quoted_dst) = self.ends(&rest[of + 2..]);
                let (_, four, six) = KINDS.iter().find(|(word, ..)| *word == kind).unwrap();
                Error {
                    src: src.ip(),
                    dst: dst.ip(),
                    ttl,
                    kind: if self.six { *six } else { *four },
                    about: (protocol, quoted_src, quoted_dst),
                    quoted: 8,
                }
                .frame(macs)
            }
        };
        let mut frame = match part {
            Some(part) => {
                let id = told("id=").map_or(1, |text| text.parse().unwrap());
                cut(macs, &frame[14..], id).swap_remove(part)
            }
            None => frame,
        };
        if let Some(vlan) = vlan {
            frame.splice(12..12, [0x81, 0, 0, vlan.parse().unwrap()]);
        }
        (port, frame)
    }

    /// An outcome as a line.
    pub(super) fn told(&mut self, outcome: &Outcome) -> String {
        let (port, frame) = match outcome {
            Outcome::Dropped(reason) => return format!("dropped: {}", reason.name()),
            Outcome::Sent(port, frame) => (*port, frame),
        };
        let (wire, own) = if port == 0 { ("front", FRONT) } else { ("back", BACK) };
        assert_eq!(frame[6..12], own, "it leaves by {wire}");
        let to = neighbour(frame[..6].try_into().unwrap());
        let (tag, frame) = match frame[12..14] {
            [0x81, 0] => (format!(".{}", frame[15]), [&frame[..12], &frame[16..]].concat()),
            _ => (String::new(), frame.clone()),
        };
        // A short frame is filled to what Ethernet asks for.
        let len = match self.six || frame.len() > 60 {
            true => frame.len() - 14,
            false => u16::from_be_bytes([frame[16], frame[17]]).into(),
        };
        format!("{wire}{tag}>{to} {}", self.inside(&frame[14..14 + len]))
    }

    /// An IP packet, with what is in it.
    fn inside(&mut self, bytes: &[u8]) -> String {
        if let Some(part) = self.part(bytes) {
            return part;
        }
        let read = PacketHeaders::from_ip_slice(bytes).unwrap();
        let (src, dst, ttl, protocol, wrong) = self.header(&read, bytes);
        let (from, to) = (self.name(src), self.name(dst));
        let payload = read.payload.slice();
        let mut line = match &read.transport {
            Some(TransportHeader::Tcp(tcp)) => {
                let (from, to) = self.ports((src, tcp.source_port), (dst, tcp.destination_port));
                let sum = match &read.net {
                    Some(NetHeaders::Ipv4(ip, _)) => tcp.calc_checksum_ipv4(ip, payload),
                    Some(NetHeaders::Ipv6(ip, _)) => tcp.calc_checksum_ipv6(ip, payload),
                    _ => unreachable!("an IP packet"),
                };
                let bits = [tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack];
                let flags = FLAGS.iter().zip(bits).filter(|(_, set)| *set).map(|((c, _), _)| *c);
                let flags: String = flags.collect();
                let told = self.toa(tcp.options.as_slice()) + &self.proxy(payload);
                format!("tcp {from} > {to} {flags}{told}{}", bad(sum == Ok(tcp.checksum)))
            }
            Some(TransportHeader::Udp(udp)) => {
                let inner = payload.first().is_some_and(|first| first >> 6 == 0)
                    && udp.destination_port == GUE_PORT;
                let is_client = from == "client";
                let (from, to) = self.ports((src, udp.source_port), (dst, udp.destination_port));
                let sum = match &read.net {
                    Some(NetHeaders::Ipv4(ip, _)) => udp.calc_checksum_ipv4(ip, payload),
                    Some(NetHeaders::Ipv6(ip, _)) => udp.calc_checksum_ipv6(ip, payload),
                    _ => unreachable!("an IP packet"),
                };
                let wrong = bad(udp.checksum == 0 || sum == Ok(udp.checksum));
                if inner && !is_client {
                    // The source port spreads flows: any of the dynamic ones.
                    let (node, _) = from.split_once(':').unwrap();
                    let inner = self.inside(&payload[4..]);
                    return format!("gue {node} > {to}{wrong} ttl={ttl} | {inner}");
                }
                format!("udp {from} > {to}{wrong}")
            }
            Some(TransportHeader::Icmpv4(_) | TransportHeader::Icmpv6(_)) => {
                self.icmp(bytes, (src, dst))
            }
            None => match protocol {
                ip_number::SCTP => {
                    let at = |i: usize| u16::from_be_bytes(payload[i..i + 2].try_into().unwrap());
                    let (from, to) = self.ports((src, at(0)), (dst, at(2)));
                    let mut whole = payload.to_vec();
                    whole[8..12].fill(0);
                    let right = crc32c(&whole).to_le_bytes() == payload[8..12];
                    let chunk = if payload[12] == 6 { " ABORT" } else { "" };
                    format!("sctp {from} > {to}{chunk}{}", bad(right))
                }
                ip_number::IPV4 | ip_number::IPV6 => {
                    let inner = self.inside(payload);
                    return format!("ipip {from} > {to}{wrong} ttl={ttl} | {inner}");
                }
                ip_number::GRE => {
                    let summed = payload[0] & 0x80 != 0;
                    let right = !summed || internet_checksum(0, payload) == 0;
                    let (head, sum) = if summed { (8, "+sum") } else { (4, "") };
                    let inner = self.inside(&payload[head..]);
                    let wrong = bad(right);
                    return format!("gre{sum} {from} > {to}{wrong} ttl={ttl} | {inner}");
                }
                other => format!("protocol {} {from} > {to}", other.0),
            },
        };
        let _ = write!(line, "{wrong} ttl={ttl}");
        line
    }

    /// A part of a packet; only the first one has ports.
    fn part(&mut self, bytes: &[u8]) -> Option<String> {
        let at = |i: usize| u16::from_be_bytes([bytes[i], bytes[i + 1]]);
        let address = |at: usize, len: usize| read_address(&bytes[at..at + len]);
        let (protocol, offset, src, dst, payload, wrong) = match bytes[0] >> 4 {
            4 if at(6) & 0x3fff != 0 => {
                let wrong = bad(internet_checksum(0, &bytes[..20]) == 0);
                (bytes[9], at(6) & 0x1fff, address(12, 4), address(16, 4), 20, wrong)
            }
            6 if bytes[6] == 44 => {
                (bytes[40], at(42) & !7, address(8, 16), address(24, 16), 48, "")
            }
            _ => return None,
        };
        let ttl = if src.is_ipv4() { bytes[8] } else { bytes[7] };
        let (from, to, which) = match offset {
            0 => {
                let (from, to) = self.ports((src, at(payload)), (dst, at(payload + 2)));
                (from, to, "first")
            }
            _ => (self.name(src), self.name(dst), "last"),
        };
        Some(format!("{} {from} > {to} {which}{wrong} ttl={ttl}", word_of(protocol)))
    }

    /// The option that tells who the client is.
    fn toa(&self, options: &[u8]) -> String {
        let [254, len, a, b, address @ ..] = options else { return String::new() };
        let name = self.name(read_address(&address[..usize::from(*len) - 4]));
        format!(" toa={name}:{}", u16::from_be_bytes([*a, *b]))
    }

    /// The header that does.
    fn proxy(&self, payload: &[u8]) -> String {
        const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
        let Some([0x21, family, _, len, rest @ ..]) = payload.strip_prefix(SIGNATURE) else {
            return String::new();
        };
        let address = if *family == 0x11 { 4 } else { 16 };
        assert_eq!(usize::from(*len), 2 * address + 4);
        let end = |nth: usize| {
            let port = &rest[2 * address + 2 * nth..][..2];
            let name = self.name(read_address(&rest[nth * address..][..address]));
            format!("{name}:{}", u16::from_be_bytes([port[0], port[1]]))
        };
        format!(" proxy={}>{}", end(0), end(1))
    }

    fn header(
        &self,
        read: &PacketHeaders<'_>,
        bytes: &[u8],
    ) -> (IpAddr, IpAddr, u8, IpNumber, &'static str) {
        match &read.net {
            Some(NetHeaders::Ipv4(ip, _)) => {
                assert_eq!(usize::from(ip.total_len), bytes.len());
                let wrong = bad(ip.calc_header_checksum() == ip.header_checksum);
                let (src, dst) = (ip.source.into(), ip.destination.into());
                (src, dst, ip.time_to_live, ip.protocol, wrong)
            }
            Some(NetHeaders::Ipv6(ip, _)) => {
                assert_eq!(usize::from(ip.payload_length) + 40, bytes.len());
                (ip.source.into(), ip.destination.into(), ip.hop_limit, ip.next_header, "")
            }
            _ => panic!("no IP packet"),
        }
    }

    /// Two ends; a port of a local address is what the node chose.
    fn ports(&mut self, src: (IpAddr, u16), dst: (IpAddr, u16)) -> (String, String) {
        let mut end = |(address, port)| match self.name(address) {
            name if name == "local" => {
                self.local_port = port;
                "local:*".to_owned()
            }
            name => format!("{name}:{port}"),
        };
        (end(src), end(dst))
    }

    fn icmp(&mut self, bytes: &[u8], (src, dst): (IpAddr, IpAddr)) -> String {
        let message = if self.six { &bytes[40..] } else { &bytes[20..] };
        let sum = match self.six {
            false => 0,
            true => steadfast_packet::pseudo_sum(src, dst, 58, message.len() as u32),
        };
        let wrong = bad(internet_checksum(sum, message) == 0);
        let (from, to) = (self.name(src), self.name(dst));
        let kind = [message[0], message[1]];
        let known = KINDS.iter().find(|(_, four, six)| kind == if self.six { *six } else { *four });
        let Some((word, ..)) = known else {
            let word = if matches!(kind, [0 | 129, 0]) { "echo-reply" } else { "icmp" };
            return format!("{word} {from} > {to}{wrong}");
        };
        let about = &message[8..];
        let (head, protocol) = if self.six { (40, about[6]) } else { (20, about[9]) };
        let address = |at: usize| -> IpAddr {
            match self.six {
                true => <[u8; 16]>::try_from(&about[8 + at * 16..24 + at * 16]).unwrap().into(),
                false => <[u8; 4]>::try_from(&about[12 + at * 4..16 + at * 4]).unwrap().into(),
            }
        };
        let port = |at: usize| u16::from_be_bytes([about[head + at], about[head + at + 1]]);
        let (src, dst) = ((address(0), port(0)), (address(1), port(2)));
        let (quoted_src, quoted_dst) = self.ports(src, dst);
        let name = word_of(protocol);
        format!("{word} {from} > {to}{wrong} of {name} {quoted_src} > {quoted_dst}")
    }
}

fn bad(right: bool) -> &'static str {
    if right { "" } else { " WRONG CHECKSUM" }
}

fn read_address(octets: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(octets) {
        Ok(four) => four.into(),
        Err(_) => <[u8; 16]>::try_from(octets).unwrap().into(),
    }
}

fn word_of(protocol: u8) -> &'static str {
    match protocol {
        6 => "tcp",
        17 => "udp",
        _ => "sctp",
    }
}

fn protocol_of(word: &str) -> Protocol {
    match word {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => panic!("no protocol: {other}"),
    }
}

fn flags_of(word: &str) -> u8 {
    let bit = |letter| FLAGS.iter().find(|(c, _)| *c == letter).map_or(0, |(_, bit)| *bit);
    word.chars().map(bit).sum()
}

/// Who has this name on the wire.
fn mac_of(end: &str) -> Mac {
    match end.split(':').next().unwrap() {
        "client" => CLIENT,
        "dr" => DR_1,
        "nat" => NAT_1,
        "arm" => ARM,
        "narrow" => NARROW,
        "tagged" => TAGGED,
        "peer" => PEER,
        "router" | "tun" | "far" => ROUTER,
        other => panic!("no neighbour: {other}"),
    }
}

fn neighbour(mac: Mac) -> &'static str {
    match mac {
        CLIENT => "client",
        DR_1 => "dr",
        NAT_1 => "nat",
        PEER => "peer",
        ROUTER => "router",
        ARM => "arm",
        NARROW => "narrow",
        TAGGED => "tagged",
        other => panic!("no neighbour: {other:x?}"),
    }
}

fn echo(src: IpAddr, dst: IpAddr, ttl: u8, data: &[u8]) -> Vec<u8> {
    let headers: IpHeaders = ip(src, dst, ttl, Protocol::Udp);
    let builder = PacketBuilder::ip(headers);
    let mut bytes = Vec::new();
    if src.is_ipv4() {
        builder.icmpv4_echo_request(7, 1).write(&mut bytes, data).unwrap();
    } else {
        builder.icmpv6_echo_request(7, 1).write(&mut bytes, data).unwrap();
    }
    bytes
}
