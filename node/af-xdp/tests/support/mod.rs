//! Network namespaces, frames and captures for the tests of this crate.
//!
//! Needs root; a missing right or program fails the test with its name. What a test makes, it
//! removes when it ends, also by a panic.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    net::Ipv4Addr,
    os::fd::AsFd as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use af_xdp::{ETHERTYPE_ALL, Interface, PacketSocket, Steering, poll, steering::BPFFS};
use etherparse::PacketBuilder;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The node's side of every veth pair is `a0`, `a1`...; the outside is `b0`, `b1`...
pub(crate) struct Lab {
    node: String,
    peer: String,
    instances: Vec<(String, String)>,
}

impl Lab {
    /// Two namespaces joined by `links` veth pairs with `queues` queues each.
    pub(crate) fn new(links: usize, queues: u32) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("afx-{}-{number}{side}", std::process::id());
        let lab = Self { node: name('n'), peer: name('p'), instances: Vec::new() };
        for namespace in [&lab.node, &lab.peer] {
            run("ip", &["netns", "add", namespace]);
            // No router solicitations, no MLD: every frame seen is one a test caused.
            within(namespace, || {
                for which in ["all", "default"] {
                    sysctl(&format!("net/ipv6/conf/{which}/disable_ipv6"), "1");
                }
            });
        }
        for link in 0..links {
            lab.add_link(link, queues);
        }
        lab
    }

    /// Makes (again) the pair `a<link>` - `b<link>` with 198.18.<link>.1/24 inside.
    pub(crate) fn add_link(&self, link: usize, queues: u32) {
        let (inside, outside) = (format!("a{link}"), format!("b{link}"));
        let queues = queues.to_string();
        run(
            "ip",
            &[
                "-n",
                &self.node,
                "link",
                "add",
                &inside,
                "numrxqueues",
                &queues,
                "numtxqueues",
                &queues,
                "type",
                "veth",
                "peer",
                "name",
                &outside,
                "numrxqueues",
                &queues,
                "numtxqueues",
                &queues,
                "netns",
                &self.peer,
            ],
        );
        let address = format!("198.18.{link}.1/24");
        run("ip", &["-n", &self.node, "address", "add", &address, "dev", &inside]);
        run("ip", &["-n", &self.node, "link", "set", &inside, "up"]);
        run("ip", &["-n", &self.peer, "link", "set", &outside, "up"]);
        let namespace = format!("--net=/run/netns/{}", self.peer);
        run("nsenter", &[&namespace, "ethtool", "-K", &outside, "tx", "off"]);
    }

    /// Runs `body` inside the node's namespace.
    pub(crate) fn in_node<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        within(&self.node, body)
    }

    /// Runs `body` outside, at the other end of the cables.
    pub(crate) fn in_peer<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        within(&self.peer, body)
    }

    /// The node's namespace, for `ip -n`.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// An instance name of this lab's own; its pins on `interface` go when the lab goes.
    pub(crate) fn instance(&mut self, interface: &str) -> String {
        let instance = self.node.clone();
        self.instances.push((instance.clone(), interface.to_owned()));
        instance
    }

    /// Starts the program that steers `interface` and reflects, and waits until it works.
    /// Returns it and how it attached.
    pub(crate) fn hold(&self, instance: &str, interface: &str, vip: &str) -> (Killed, String) {
        self.in_node(|| {
            let mut child = Command::new(env!("CARGO_BIN_EXE_afx-hold"))
                .args([instance, interface, vip])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert!(!line.is_empty(), "afx-hold ended: {:?}", child.wait());
            (Killed(child), line.trim().to_owned())
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (instance, interface) in &self.instances {
            if let Err(error) = Steering::detach(Path::new(BPFFS), instance, interface) {
                eprintln!("pins of {instance} {interface} stay: {error}");
            }
        }
        for namespace in [&self.node, &self.peer] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

/// A process that ends by SIGKILL, at the latest when dropped.
pub(crate) struct Killed(Child);

impl Killed {
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `body` on a thread of its own inside the named network namespace.
pub(crate) fn within<R: Send>(namespace: &str, body: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let file = File::open(format!("/run/netns/{namespace}")).unwrap();
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root is needed to enter a network namespace");
            body()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program} (is it installed?): {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Writes a sysctl of the calling thread's network namespace.
pub(crate) fn sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/{name}"), value).unwrap();
}

/// One end of a cable, seen by a capture that takes everything.
pub(crate) struct Tap {
    pub(crate) socket: PacketSocket,
    pub(crate) interface: Interface,
}

impl Tap {
    /// On an interface of the calling thread's network namespace.
    pub(crate) fn new(interface: &str) -> Self {
        let interface = Interface::by_name(interface).unwrap();
        let socket = PacketSocket::bind(interface.index, ETHERTYPE_ALL).unwrap();
        socket.set_receive_buffer_bytes(64 << 20).unwrap();
        Self { socket, interface }
    }

    /// Sends, waiting out a full queue.
    pub(crate) fn send(&self, frame: &[u8]) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(error) = self.socket.send(frame) {
            let is_full = error.kind() == io::ErrorKind::WouldBlock
                || error.raw_os_error() == Some(105 /* ENOBUFS */);
            assert!(is_full && Instant::now() < deadline, "send: {error}");
            thread::yield_now();
        }
    }

    /// The next frame, or `None` after `timeout`.
    pub(crate) fn next(&self, timeout: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65536];
        let deadline = Instant::now() + timeout;
        loop {
            match self.socket.receive(&mut buffer) {
                Ok(received) => {
                    assert_eq!(received.len, received.frame_len);
                    buffer.truncate(received.len);
                    return Some(buffer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("receive: {error}"),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            poll([self.socket.as_fd()], left).unwrap();
        }
    }

    /// All frames until nothing came for `quiet`.
    pub(crate) fn drain(&self, quiet: Duration) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.next(quiet)).collect()
    }
}

/// Where test packets come from.
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
/// See [`CLIENT_MAC`].
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 200);

/// A TCP SYN from [`CLIENT`].
pub(crate) fn syn(mac: [u8; 6], target: Ipv4Addr, source_port: u16, target_port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, mac)
        .ipv4(CLIENT.octets(), target.octets(), 64)
        .tcp(source_port, target_port, 1, 1024)
        .syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

/// A UDP datagram from [`CLIENT`].
pub(crate) fn udp(mac: [u8; 6], target: Ipv4Addr, source_port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, mac)
        .ipv4(CLIENT.octets(), target.octets(), 64)
        .udp(source_port, 53);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// An ARP packet (RFC 826): operation 1 asks, 2 answers.
pub(crate) fn arp(mac: [u8; 6], operation: u8, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(mac);
    frame.extend(CLIENT_MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(CLIENT_MAC);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}
