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
    use super::*;

    /// What a raw socket would take: an ICMP message that quotes a packet of this protocol, behind
    /// its IP header in IPv4, which may have options.
    fn message(domain: Domain, kind: u8, protocol: u8, options: usize) -> Vec<u8> {
        let mut quoted = vec![0; 48];
        quoted[if domain == Domain::IPV6 { 6 } else { 9 }] = protocol;
        let message = [&[kind, 0, 0, 0, 0, 0, 5, 20][..], &quoted].concat();
        let mut header = vec![0; 20 + options];
        header[0] = 0x40 | (header.len() / 4) as u8;
        if domain == Domain::IPV6 { message } else { [header, message].concat() }
    }

    /// Which of the messages come through the filter. Any socket has filters, and a pair of this
    /// kind gives them the message as it is, without asking for a right.
    fn heard(filter: &[SockFilter], sent: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let (sender, socket) = Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap();
        socket.attach_filter(filter).unwrap();
        let mut heard = Vec::new();
        for message in sent {
            // One that is filtered out is no error for its sender, or says that nobody took it.
            let _ = sender.send(message);
            socket.set_nonblocking(true).unwrap();
            let mut buffer = vec![0; 256];
            if let Ok(len) = io::Read::read(&mut &socket, &mut buffer) {
                buffer.truncate(len);
                heard.push(buffer);
            }
        }
        heard
    }

    #[test]
    fn only_errors_about_protocols_of_tunnels_are_heard() {
        for (domain, filter, errors, others) in [
            (Domain::IPV4, filter_v4(), &[3, 4, 11, 12][..], &[0, 5, 8, 13][..]),
            (Domain::IPV6, filter_v6(), &[1, 2, 3, 4, 127], &[128, 129, 135, 255]),
        ] {
            for options in [0, 4, 40] {
                let of = |kinds: &[u8], protocols: &[u8]| -> Vec<Vec<u8>> {
                    let all =
                        kinds.iter().flat_map(|kind| protocols.iter().map(move |p| (kind, p)));
                    all.map(|(kind, protocol)| message(domain, *kind, *protocol, options)).collect()
                };
                let expected = of(errors, &[4, 17, 41, 47]);
                let silent = [of(others, &[4, 17, 41, 47]), of(errors, &[1, 6, 50, 132])].concat();
                let short = vec![message(domain, errors[0], 4, options)[..9].to_vec()];
                let sent = [silent, expected.clone(), short].concat();
                assert_eq!(
                    heard(&filter, &sent),
                    expected,
                    "{domain:?}, {options} octets of options"
                );
            }
        }
    }
}
