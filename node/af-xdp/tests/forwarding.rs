//! Frames through AF_XDP sockets between network namespaces.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeSet,
    os::fd::AsFd as _,
    path::Path,
    time::{Duration, Instant},
};

use af_xdp::{
    AddressRole, BIND_BUSY_MAX, BindError, BindMode, Frame, Interface, Mode, Socket, Steering,
    Umem, UmemConfig, poll, steering::BPFFS,
};
use support::{Lab, Tap};

const VIP: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 18, 100, 1);

/// Receives until `wanted` frames are there, or fails after a while.
fn receive(sockets: &mut [Socket], umem: &mut Umem, wanted: usize) -> Vec<(u32, Frame)> {
    let mut frames = Vec::new();
    let mut burst = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while frames.len() < wanted {
        assert!(Instant::now() < deadline, "{} of {wanted} frames arrived", frames.len());
        poll(sockets.iter().map(|socket| socket.as_fd()), Duration::from_millis(100)).unwrap();
        for socket in sockets.iter_mut() {
            socket.receive(&mut burst);
            frames.extend(burst.drain(..).map(|frame| (socket.queue(), frame)));
            socket.refill(umem);
        }
    }
    frames
}

#[test]
fn one_umem_carries_frames_from_one_interface_to_another() {
    const FRAMES: usize = 500;
    let mut lab = Lab::new(2, 1);
    let instance = lab.instance("a0");
    let (in_tap, out_tap) = lab.in_peer(|| (Tap::new("b0"), Tap::new("b1")));
    lab.in_node(|| {
        let (front, back) = (Interface::by_name("a0").unwrap(), Interface::by_name("a1").unwrap());
        let mut umem = Umem::new(UmemConfig::for_sockets(2)).unwrap();
        let mut from = Socket::bind(&mut umem, front.index, 0, BindMode::Auto).unwrap();
        let mut to = Socket::bind(&mut umem, back.index, 0, BindMode::Auto).unwrap();
        assert_eq!((from.mode(), to.mode()), (Mode::Copy, Mode::Copy), "veth has no zero-copy");
        assert!(from.fallback().is_some_and(|why| why.contains("zero-copy")));
        let mut steering = Steering::open(Path::new(BPFFS), &instance, "a0").unwrap();
        steering.set_addresses([(VIP.into(), AddressRole::Vip)]).unwrap();
        steering.insert_socket(0, &from).unwrap();
        steering.attach().unwrap();

        for round in 0..FRAMES / 50 {
            let sent: Vec<Vec<u8>> = (0..50)
                .map(|number| {
                    let payload: Vec<u8> =
                        (0..(round * 50 + number) % 1400).map(|byte| byte as u8).collect();
                    support::udp(front.mac, VIP, 1000 + number as u16, &payload)
                })
                .collect();
            sent.iter().for_each(|frame| in_tap.send(frame));
            for (_, frame) in receive(std::slice::from_mut(&mut from), &mut umem, 50) {
                to.send(frame).unwrap();
            }
            to.flush().unwrap();
            for frame in &sent {
                let arrived = out_tap.next(Duration::from_secs(5)).expect("a forwarded frame");
                assert_eq!(&arrived, frame, "bytes change on the way");
            }
            to.complete(&mut umem);
        }
        assert_eq!(to.pending(), 0);
        assert_eq!(umem.missing(), 0, "a frame got lost between the two sockets");
        from.refill(&mut umem);
        let config = *umem.config();
        let free = (config.frames - 2 * config.fill_size) as usize;
        assert_eq!(umem.available(), free, "sent frames are back, fill rings full");
        let statistics = from.statistics().unwrap();
        assert_eq!((statistics.rx_dropped, statistics.foreign_descriptors), (0, 0));
        assert_eq!(steering.counters().unwrap().vip, FRAMES as u64);
    });
}

#[test]
fn a_full_transmit_ring_gives_the_frame_back() {
    let lab = Lab::new(1, 1);
    lab.in_node(|| {
        let interface = Interface::by_name("a0").unwrap();
        let config = UmemConfig { tx_size: 4, fill_size: 4, ..UmemConfig::default() };
        let mut umem = Umem::new(config).unwrap();
        let mut socket = Socket::bind(&mut umem, interface.index, 0, BindMode::Copy).unwrap();
        assert_eq!(socket.fallback(), None);
        for _ in 0..4 {
            socket.send(umem.alloc_with(&[0xff; 60]).unwrap()).unwrap();
        }
        let frame = socket.send(umem.alloc_with(&[0xff; 60]).unwrap()).unwrap_err();
        assert_eq!(frame.len(), 60);
        umem.free(frame);
        let empty = umem.alloc().unwrap();
        umem.free(socket.send(empty).unwrap_err());
        socket.flush().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut completed = 0;
        while completed < 4 {
            completed += socket.complete(&mut umem);
            assert!(Instant::now() < deadline, "{completed} of 4 frames came back");
        }
        assert_eq!(umem.missing(), 0);
        socket.send(umem.alloc_with(&[0xff; 60]).unwrap()).unwrap();
    });
}

#[test]
fn both_queues_receive() {
    let mut lab = Lab::new(1, 2);
    let instance = lab.instance("a0");
    let tap = lab.in_peer(|| Tap::new("b0"));
    lab.in_node(|| {
        let interface = Interface::by_name("a0").unwrap();
        assert_eq!((interface.rx_queues, interface.tx_queues), (2, 2));
        let mut umem = Umem::new(UmemConfig::default()).unwrap();
        let mut steering = Steering::open(Path::new(BPFFS), &instance, "a0").unwrap();
        steering.set_addresses([(VIP.into(), AddressRole::Vip)]).unwrap();
        let mut sockets: Vec<Socket> = (0..2)
            .map(|queue| {
                let socket =
                    Socket::bind(&mut umem, interface.index, queue, BindMode::Auto).unwrap();
                steering.insert_socket(queue, &socket).unwrap();
                socket
            })
            .collect();
        assert!(steering.insert_socket(0, &sockets[1]).is_err(), "queue 1's socket on queue 0");
        steering.attach().unwrap();
        for port in 0..200 {
            tap.send(&support::udp(interface.mac, VIP, 2000 + port, b"hello"));
        }
        let mut queues = BTreeSet::new();
        for (queue, frame) in receive(&mut sockets, &mut umem, 200) {
            queues.insert(queue);
            umem.free(frame);
        }
        assert_eq!(queues, BTreeSet::from([0, 1]));
    });
}

#[test]
fn a_socket_whose_interface_is_gone_says_so() {
    let lab = Lab::new(1, 1);
    lab.in_node(|| {
        let interface = Interface::by_name("a0").unwrap();
        let mut umem = Umem::new(UmemConfig::default()).unwrap();
        let mut socket = Socket::bind(&mut umem, interface.index, 0, BindMode::Auto).unwrap();
        assert!(socket.take_error().unwrap().is_none());
        support::run("ip", &["link", "delete", "a0"]);
        let error = socket.take_error().unwrap().expect("an error");
        assert_eq!(error.kind(), std::io::ErrorKind::NetworkDown, "{error}");
        assert_eq!(poll([socket.as_fd()], Duration::from_millis(10)).unwrap(), 0, "spins");
        socket.send(umem.alloc_with(&[0xff; 60]).unwrap()).unwrap();
        assert!(socket.flush().is_err());
        // The same memory serves the interface that comes in its place.
        lab.add_link(0, 1);
        let interface = Interface::by_name("a0").unwrap();
        Socket::bind(&mut umem, interface.index, 0, BindMode::Auto).unwrap();
    });
}

#[test]
fn bind_says_what_is_wrong() {
    let lab = Lab::new(1, 2);
    lab.in_node(|| {
        let interface = Interface::by_name("a0").unwrap();
        let mut umem = Umem::new(UmemConfig::default()).unwrap();
        let error = Socket::bind(&mut umem, interface.index, 2, BindMode::Auto).unwrap_err();
        assert!(matches!(error, BindError::NoQueue { queue: 2, queues: 2, .. }), "{error}");
        let error = Socket::bind(&mut umem, interface.index, 0, BindMode::ZeroCopy).unwrap_err();
        assert!(matches!(error, BindError::NoZeroCopy { .. }), "{error}");

        let socket = Socket::bind(&mut umem, interface.index, 0, BindMode::Auto).unwrap();
        let error = Socket::bind(&mut umem, interface.index, 1, BindMode::ZeroCopy).unwrap_err();
        assert!(matches!(error, BindError::ModeMismatch { mode: Mode::Copy, .. }), "{error}");
        let mut other = Umem::new(UmemConfig::default()).unwrap();
        let error = Socket::bind(&mut other, interface.index, 0, BindMode::Auto).unwrap_err();
        assert!(matches!(error, BindError::Busy { queue: 0, .. }), "{error}");
        // A thread that must not wait is told at once.
        let started = Instant::now();
        let error = Socket::try_bind(&mut other, interface.index, 0, BindMode::Auto).unwrap_err();
        assert!(matches!(error, BindError::Busy { waited_ms: 0, .. }), "{error}");
        assert!(started.elapsed() < BIND_BUSY_MAX / 4, "it waited {:?}", started.elapsed());
        drop(socket);
        Socket::bind(&mut other, interface.index, 0, BindMode::Auto).unwrap();

        support::run("ip", &["-n", lab.node(), "link", "set", "a0", "mtu", "1900"]);
        let error = Socket::bind(&mut umem, interface.index, 1, BindMode::Auto).unwrap_err();
        assert!(matches!(error, BindError::FrameTooSmall { mtu: 1900, .. }), "{error}");
        support::run("ip", &["-n", lab.node(), "link", "set", "a0", "mtu", "3507"]);
        let error = Socket::bind(&mut umem, interface.index, 1, BindMode::Auto).unwrap_err();
        assert!(matches!(error, BindError::Mtu { mtu: 3507, max: 3506, .. }), "{error}");
    });
}
