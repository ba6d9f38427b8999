//! Raw frames on the client's link.

#![allow(dead_code, unreachable_pub)]

use std::{
    io,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    path::Path,
    time::{Duration, Instant},
};

use af_xdp::{Interface, PacketSocket};
use etherparse::PacketBuilder;
use steadfast_lab::host::{inside::inside, names::CLIENT};

pub type Mac = [u8; 6];

pub const BROADCAST: Mac = [0xff; 6];

/// EtherTypes.
pub const ARP: u16 = 0x0806;
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const BEACON: u16 = 0x88b5;

const FRAME_BYTES_MAX: usize = 2048;

/// Frames of one EtherType on an interface of a namespace, `front` for most.
pub struct Wire {
    socket: PacketSocket,
    pub mac: Mac,
}

impl Wire {
    pub fn open(namespace: &Path, ethertype: u16) -> Self {
        Self::open_on(namespace, "front", ethertype)
    }

    /// The same on another interface.
    pub fn open_on(namespace: &Path, interface: &str, ethertype: u16) -> Self {
        inside(namespace, || {
            let interface = Interface::by_name(interface).unwrap();
            let socket = PacketSocket::bind(interface.index, ethertype).unwrap();
            socket.set_receive_buffer_bytes(1 << 20).unwrap();
            Self { socket, mac: interface.mac }
        })
        .unwrap()
    }

    /// Sends a frame; waits when the link has no room.
    pub fn send(&self, frame: &[u8]) {
        let deadline = Instant::now() + Duration::from_secs(2);
        while let Err(error) = self.socket.send(frame) {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "cannot send: {error}");
            assert!(Instant::now() < deadline, "the link takes no frames");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Every frame that comes within `time`.
    pub fn receive(&self, time: Duration) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + time;
        let (mut frames, mut buffer) = (Vec::new(), [0; FRAME_BYTES_MAX]);
        loop {
            match self.socket.receive(&mut buffer) {
                Ok(got) => frames.push(buffer[..got.len].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return frames;
                    }
                    let step = left.min(Duration::from_millis(20));
                    let _ = af_xdp::poll([self.socket.as_fd()], step);
                }
                Err(error) => panic!("cannot receive: {error}"),
            }
        }
    }
}

pub fn source(frame: &[u8]) -> Mac {
    frame[6..12].try_into().unwrap()
}

/// Who has `address`, asked by the client: RFC 826.
pub fn arp_request(from: Mac, to: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(to);
    frame.extend(from);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(from);
    frame.extend(CLIENT.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// The MAC address that an ARP reply gives for `address`.
pub fn arp_answer(frame: &[u8], address: Ipv4Addr) -> Option<Mac> {
    let is_reply = frame.len() >= 42 && frame[20..22] == [0, 2];
    (is_reply && frame[28..32] == address.octets()).then(|| frame[22..28].try_into().unwrap())
}

/// An echo request from the client, RFC 792.
pub fn ping(from: Mac, to: Mac, address: Ipv4Addr, sequence: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from, to)
        .ipv4(CLIENT.octets(), address.octets(), 64)
        .icmpv4_echo_request(0x5fad, sequence);
    let payload = b"steadfast";
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// Whether a frame is the answer to [`ping`] from `address`.
pub fn is_pong(frame: &[u8], address: Ipv4Addr) -> bool {
    frame.len() >= 42
        && frame[23] == 1
        && frame[26..30] == address.octets()
        && frame[34] == 0
        && frame[38..40] == [0x5f, 0xad]
}

/// The first packet of a TCP connection from any address.
pub fn syn(from: Mac, to: Mac, client: (Ipv4Addr, u16), server: (Ipv4Addr, u16)) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from, to)
        .ipv4(client.0.octets(), server.0.octets(), 64)
        .tcp(client.1, server.1, 1, 64_000)
        .syn();
    let mut frame = Vec::with_capacity(builder.size(0));
    builder.write(&mut frame, &[]).unwrap();
    frame
}
