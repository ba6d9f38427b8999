//! Whole Ethernet frames through AF_PACKET.
#![allow(clippy::unwrap_used)]

mod support;

use std::{io, os::fd::AsFd as _, time::Duration};

use af_xdp::{ETHERTYPE_ALL, Interface, PacketSocket, Received, poll};
use support::Lab;

/// IEEE 802 local experimental EtherType 1.
const ETHERTYPE: u16 = 0x88b5;
const GROUP: [u8; 6] = [0x03, 0, 0, 0, 0, 0x42];

fn frame(target: [u8; 6], ethertype: u16, body: &[u8]) -> Vec<u8> {
    [&target[..], &[2, 0, 0, 0, 0, 9], &ethertype.to_be_bytes(), body].concat()
}

fn would_block(result: io::Result<Received>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn frames_of_one_ethertype_go_both_ways_and_own_ones_are_not_heard() {
    let lab = Lab::new(1, 1);
    let open = |name: &str| {
        PacketSocket::bind(Interface::by_name(name).unwrap().index, ETHERTYPE).unwrap()
    };
    let (inside, outside) = (lab.in_node(|| open("a0")), lab.in_peer(|| open("b0")));
    let mut buffer = [0u8; 2048];
    assert!(would_block(inside.receive(&mut buffer)));

    let sent = frame([0xff; 6], ETHERTYPE, &[7; 100]);
    inside.send(&sent).unwrap();
    assert_eq!(poll([outside.as_fd()], Duration::from_secs(5)).unwrap(), 1);
    let received = outside.receive(&mut buffer).unwrap();
    assert_eq!(received, Received { len: sent.len(), frame_len: sent.len() });
    assert_eq!(buffer[..received.len], sent);
    assert!(would_block(inside.receive(&mut buffer)), "heard itself");

    outside.send(&frame([0xff; 6], 0x88b6, &[1; 60])).unwrap();
    outside.send(&sent).unwrap();
    assert_eq!(poll([inside.as_fd()], Duration::from_secs(5)).unwrap(), 1);
    let mut small = [0u8; 20];
    let received = inside.receive(&mut small).unwrap();
    assert_eq!(received, Received { len: 20, frame_len: sent.len() }, "tells that it was cut");
    assert!(would_block(inside.receive(&mut buffer)), "another EtherType came through");
}

#[test]
fn a_capture_of_everything_hears_others_only() {
    let lab = Lab::new(1, 1);
    let open = |name: &str| {
        PacketSocket::bind(Interface::by_name(name).unwrap().index, ETHERTYPE_ALL).unwrap()
    };
    let (inside, outside) = (lab.in_node(|| open("a0")), lab.in_peer(|| open("b0")));
    let mut buffer = [0u8; 2048];
    // By another socket: the kernel never gives a socket its own frames.
    lab.in_node(|| open("a0").send(&frame([0xff; 6], ETHERTYPE, &[1; 60]))).unwrap();
    outside.send(&frame([0xff; 6], ETHERTYPE, &[2; 60])).unwrap();
    assert_eq!(poll([inside.as_fd()], Duration::from_secs(5)).unwrap(), 1);
    inside.receive(&mut buffer).unwrap();
    assert_eq!(buffer[14], 2, "heard its own node");
    assert!(would_block(inside.receive(&mut buffer)));
}

#[test]
fn the_queue_can_be_made_larger_and_groups_joined() {
    let lab = Lab::new(1, 1);
    lab.in_node(|| {
        let index = Interface::by_name("a0").unwrap().index;
        let socket = PacketSocket::bind(index, ETHERTYPE).unwrap();
        socket.set_receive_buffer_bytes(4 << 20).unwrap();
        assert!(socket.receive_buffer_bytes().unwrap() >= 4 << 20);
        let groups = || std::fs::read_to_string("/proc/thread-self/net/dev_mcast").unwrap();
        assert!(!groups().contains("030000000042"));
        socket.join(GROUP).unwrap();
        assert!(groups().contains("030000000042"));
        drop(socket);
        assert!(!groups().contains("030000000042"));
        assert!(PacketSocket::bind(u32::MAX / 2, ETHERTYPE).is_err());
    });
}
