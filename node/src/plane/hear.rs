//! ICMP errors about what this node put into tunnels: they come for an address of the node.
//!
//! Heard by raw sockets beside the kernel, which gets all of them too: the steering program takes none,
//! so nothing that the kernel is for can be lost here. A filter lets errors about protocols of
//! tunnels through alone.
//!
//! Guarantees: bounded work, [`BURST`] messages in [`PAUSE`]; more wait in the socket's buffer, and are
//! lost when it is full, as any ICMP may be. Without the sockets the rest goes on, and the log says so.

use std::{io, sync::atomic::Ordering, time::Duration};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use steadfast_packet::{tunnel_error_v4, tunnel_error_v6};
use tokio::net::UdpSocket;
use tracing::warn;

use super::DataPlane;
use crate::clock;

/// Messages that are read at once.
const BURST: usize = 64;

/// Until more are.
const PAUSE: Duration = Duration::from_millis(10);

/// How late a stop is seen.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// A longer message is none that a router sends.
const MESSAGE_BYTES_MAX: usize = 9216;

impl DataPlane {
    /// Hears errors until the data plane stops.
    pub(crate) async fn hear_errors(&self) {
        tokio::join!(self.hear(Domain::IPV4), self.hear(Domain::IPV6));
    }

    async fn hear(&self, domain: Domain) {
        let socket = match open(domain) {
            Ok(socket) => socket,
            Err(error) => {
                let family = if domain == Domain::IPV6 { "ICMPv6" } else { "ICMP" };
                warn!("cannot hear {family} errors about tunnels: {error}");
                return;
            }
        };
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        while !self.stop.load(Ordering::Acquire) {
            if let Ok(Ok(())) = tokio::time::timeout(WAIT_MAX, socket.readable()).await {
                for _ in 0..BURST {
                    let Ok(len) = socket.try_recv(&mut buffer) else { break };
                    self.note(domain, buffer.get(..len).unwrap_or_default());
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn note(&self, domain: Domain, message: &[u8]) {
        let error = match domain {
            Domain::IPV6 => tunnel_error_v6(message),
            _ => tunnel_error_v4(message),
        };
        if let Some(error) = error {
            self.shared.hear_error(clock::now_ns(), &error);
        }
    }
}

/// A raw socket; to read from it is the same as from one of UDP.
fn open(domain: Domain) -> io::Result<UdpSocket> {
    let (protocol, filter) = match domain {
        Domain::IPV6 => (Protocol::ICMPV6, filter_v6()),
        _ => (Protocol::ICMPV4, filter_v4()),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.attach_filter(&filter)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

// Classic BPF (linux/filter.h): load an octet at X + k, compare, return how much of it is taken.
const LOAD_HEADER_LEN: u16 = 0xb1;
const LOAD_AT_X: u16 = 0x50;
const LOAD: u16 = 0x30;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const ALL: u32 = u32::MAX;

/// Protocols of outer packets: IPIP, UDP, IPv6 and GRE.
const PROTOCOLS: [u32; 4] = [4, 17, 41, 47];

/// The message starts with its IP header, whose length is X.
fn filter_v4() -> Vec<SockFilter> {
    let [a, b, c, d] = PROTOCOLS;
    vec![
        SockFilter::new(LOAD_HEADER_LEN, 0, 0, 0),
        SockFilter::new(LOAD_AT_X, 0, 0, 0),
        SockFilter::new(IF_EQUAL, 3, 0, 3),
        SockFilter::new(IF_EQUAL, 2, 0, 4),
        SockFilter::new(IF_EQUAL, 1, 0, 11),
        SockFilter::new(IF_EQUAL, 0, 5, 12),
        SockFilter::new(LOAD_AT_X, 0, 0, 8 + 9),
        SockFilter::new(IF_EQUAL, 4, 0, a),
        SockFilter::new(IF_EQUAL, 3, 0, b),
        SockFilter::new(IF_EQUAL, 2, 0, c),
        SockFilter::new(IF_EQUAL, 1, 0, d),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, ALL),
    ]
}

/// The message comes without its IP header.
fn filter_v6() -> Vec<SockFilter> {
    let [a, b, c, d] = PROTOCOLS;
    vec![
        SockFilter::new(LOAD, 0, 0, 0),
        SockFilter::new(IF_AT_LEAST, 5, 0, 128),
        SockFilter::new(LOAD, 0, 0, 8 + 6),
        SockFilter::new(IF_EQUAL, 4, 0, a),
        SockFilter::new(IF_EQUAL, 3, 0, b),
        SockFilter::new(IF_EQUAL, 2, 0, c),
        SockFilter::new(IF_EQUAL, 1, 0, d),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, ALL),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    use steadfast_packet::internet_checksum;

    use super::*;

    /// For a message that comes at all.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// An ICMP message that quotes a packet of this protocol to nobody (RFC 5737, RFC 3849).
    fn message(domain: Domain, kind: u8, protocol: u8) -> Vec<u8> {
        let quoted = if domain == Domain::IPV6 {
            let nobody = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets();
            [&[0x60, 0, 0, 0, 0, 8, protocol, 64][..], &nobody, &nobody, &[0; 8]].concat()
        } else {
            let nobody = Ipv4Addr::new(192, 0, 2, 1).octets();
            let start = [0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, protocol, 0, 0];
            [&start[..], &nobody, &nobody, &[0; 8]].concat()
        };
        let mut message = [&[kind, 0, 0, 0, 0, 0, 5, 20][..], &quoted].concat();
        let checksum = internet_checksum(0, &message).to_be_bytes();
        // The kernel makes that of ICMPv6.
        message[2..4].copy_from_slice(&checksum);
        message
    }

    /// Sends messages over loopback, then one that is heard; gives which were heard before it. Needs
    /// root, as the daemon does.
    async fn heard(domain: Domain, sent: &[(u8, u8)]) -> Vec<(u8, u8)> {
        let socket = open(domain).unwrap();
        let (protocol, loopback, header, at) = if domain == Domain::IPV6 {
            (Protocol::ICMPV6, IpAddr::from(Ipv6Addr::LOCALHOST), 0, 8 + 6)
        } else {
            (Protocol::ICMPV4, IpAddr::from(Ipv4Addr::LOCALHOST), 20, 8 + 9)
        };
        let sender = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        let to = SocketAddr::new(loopback, 0).into();
        let last = (3, 47);
        for (kind, protocol) in sent.iter().chain([&last]) {
            sender.send_to(&message(domain, *kind, *protocol), &to).unwrap();
        }
        let (mut buffer, mut heard) = ([0; 256], Vec::new());
        loop {
            let len = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
            let len = len.expect("the last is heard").unwrap();
            let message = &buffer[header..len];
            // Others may speak on this machine.
            if message.len() < 48 - header || message[6..8] != [5, 20] {
                continue;
            }
            match (message[0], message[at]) {
                found if found == last => return heard,
                found => heard.push(found),
            }
        }
    }

    #[tokio::test]
    async fn only_errors_about_protocols_of_tunnels_are_heard() {
        let tunnels = [4, 17, 41, 47];
        let about_others = [(3, 6), (3, 1), (3, 132)];
        for (domain, errors, others) in [
            (Domain::IPV4, &[3, 4, 11, 12][..], &[0, 5, 8, 13][..]),
            (Domain::IPV6, &[1, 2, 3, 4, 127], &[128, 129, 135, 255]),
        ] {
            let of = |kinds: &[u8]| -> Vec<(u8, u8)> {
                let all = kinds.iter().flat_map(|kind| tunnels.map(|protocol| (*kind, protocol)));
                all.filter(|sent| *sent != (3, 47)).collect()
            };
            let sent = [of(errors), of(others), about_others.to_vec()].concat();
            assert_eq!(heard(domain, &sent).await, of(errors), "{domain:?}");
        }
    }
}
