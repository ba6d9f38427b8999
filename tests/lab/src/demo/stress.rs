//! Faults by load: processors that are busy with something else, a flood of forged SYNs.

use std::{
    hint::spin_loop,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{Builder, JoinHandle, available_parallelism},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with,
};
use tokio::time::sleep;

use super::{
    inject::{Injected, Scene, kill},
    validity::Check,
};
use crate::{
    cluster::api::Status,
    host::{inside::inside, names::Host},
    load::now_ns,
};

/// How long the processors are busy.
const BUSY: Duration = Duration::from_secs(10);

/// Forged SYNs each second, sent a few at each step.
const FLOOD_HZ: u32 = 20_000;
const FLOOD_STEP: Duration = Duration::from_millis(2);

/// How long the flood lasts before the holder dies, and after.
const FLOOD_BEFORE: Duration = Duration::from_secs(2);
const FLOOD_AFTER: Duration = Duration::from_secs(2);

/// A flood that was much thinner than asked for shows little.
const FLOOD_SENT_MIN: u64 = 50;

/// Keeps every processor busy, at the priority of any program.
pub(crate) async fn hogs(scene: &mut Scene<'_>) -> Result<Injected> {
    let begin_ns = now_ns();
    let deadline = Instant::now() + BUSY;
    let spin = move || {
        while Instant::now() < deadline {
            spin_loop();
        }
    };
    let processors = available_parallelism()?.get();
    let start = |number| Builder::new().name(format!("hog-{number}")).spawn(spin);
    let hogs: Vec<JoinHandle<()>> = (0..processors).map(start).collect::<Result<_, _>>()?;
    sleep(BUSY).await;
    for hog in hogs {
        // It only counts time.
        let _ = hog.join();
    }
    let done = format!("{processors} processors were busy for {} s", BUSY.as_secs());
    let mut injected = Injected::plain(begin_ns, done, None);
    let leader = |statuses: &[(u8, Status)]| statuses.iter().find_map(|(_, s)| s.leader.clone());
    let (before, after) = (leader(scene.before), leader(&scene.cluster.statuses().await));
    let name = |node: &Option<_>| {
        format!("{:?}", node.as_ref().map(|n: &crate::cluster::api::NodeRef| n.id))
    };
    injected.checks.push(Check {
        what: "the Raft leader leads on".to_owned(),
        passed: before.is_some() && name(&before) == name(&after),
        seen: format!("{} before, {} after", name(&before), name(&after)),
    });
    Ok(injected)
}

/// Floods the service from addresses that nobody has, and kills node `victim` meanwhile.
pub(crate) async fn flood(scene: &mut Scene<'_>, victim: u8) -> Result<Injected> {
    let SocketTarget { vip, port } = target(scene)?;
    let namespace = scene.cluster.plan().tag.namespace_path(Host::Client);
    let flood = Flood::start(&namespace, SocketAddrV4::new(vip, port))?;
    let begin_ns = now_ns();
    sleep(FLOOD_BEFORE).await;
    let mut injected = kill(scene, victim).await?;
    sleep(FLOOD_AFTER).await;
    let (sent, took) = flood.stop()?;
    injected.window.begin_ns = begin_ns;
    injected.window.ended_ns = now_ns();
    injected.done = format!("n{victim} was killed in a flood of SYNs");
    let asked = u64::from(FLOOD_HZ) * took.as_millis() as u64 / 1000;
    injected.checks.push(Check {
        what: "the flood was a flood".to_owned(),
        passed: sent * 100 >= asked * FLOOD_SENT_MIN,
        seen: format!("{sent} SYNs in {took:.1?}, {asked} wanted"),
    });
    Ok(injected)
}

struct SocketTarget {
    vip: Ipv4Addr,
    port: u16,
}

fn target(scene: &Scene<'_>) -> Result<SocketTarget> {
    let target = scene.cluster.plan().family.target();
    match target.ip() {
        IpAddr::V4(vip) => Ok(SocketTarget { vip, port: target.port() }),
        IpAddr::V6(_) => bail!("the flood is of IPv4: leave out `--family 6`"),
    }
}

/// A thread that sends.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    started: Instant,
    thread: JoinHandle<Result<()>>,
}

impl Flood {
    fn start(namespace: &std::path::Path, target: SocketAddrV4) -> Result<Self> {
        // The kernel finds the holder's address for what it sends, as for any other packet.
        let raw = Some(ipproto::RAW);
        let opened = inside(namespace, || {
            socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, raw)
        })?;
        let socket = opened.context("cannot open a raw socket")?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let work = move || {
            let mut number = 0_u32;
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..FLOOD_HZ / (1000 / FLOOD_STEP.as_millis() as u32) {
                    number = number.wrapping_add(1);
                    let packet = forged_syn(number, target);
                    // Without a neighbour, or with a full queue, a packet is lost like any other.
                    if sendto(&socket, &packet, SendFlags::DONTWAIT, &target).is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
                next += FLOOD_STEP;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(())
        };
        let thread = Builder::new().name("flood".to_owned()).spawn(work)?;
        Ok(Self { stop, sent, started: Instant::now(), thread })
    }

    /// How many were sent, in which time.
    fn stop(self) -> Result<(u64, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        let took = self.started.elapsed();
        match self.thread.join() {
            Ok(result) => result.map(|()| (self.sent.load(Ordering::Relaxed), took)),
            Err(_) => bail!("the flood panicked"),
        }
    }
}

/// A SYN from an address of 198.19.0.0/16, RFC 2544, that no host of a lab has. RFC 791 and 9293;
/// the kernel fills in length, identification and checksum of the IP header.
fn forged_syn(number: u32, to: SocketAddrV4) -> [u8; 40] {
    // Neighbours in time are far apart in address and port.
    let mixed = number.wrapping_mul(0x9e37_79b1);
    let from = Ipv4Addr::new(198, 19, (mixed >> 8) as u8, mixed as u8);
    let port = 1024 + (mixed >> 16) as u16 % 60_000;
    let mut packet = [0; 40];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&40_u16.to_be_bytes());
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[24..28].copy_from_slice(&mixed.to_be_bytes());
    packet[32] = 0x50;
    packet[33] = 0x02;
    packet[34..36].copy_from_slice(&64_000_u16.to_be_bytes());
    let mut sum: u32 = 6 + 20;
    for pair in packet[12..].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[36..38].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn what_is_forged_is_a_syn() {
        let to: SocketAddrV4 = "198.18.0.100:7".parse().unwrap();
        let mut seen = std::collections::HashSet::new();
        for number in 0..1000 {
            let packet = forged_syn(number, to);
            let sliced = SlicedPacket::from_ip(&packet).unwrap();
            let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
                (sliced.net, sliced.transport)
            else {
                panic!("no TCP over IPv4");
            };
            let from = ip.header().source_addr();
            assert_eq!(
                (ip.header().destination_addr(), from.octets()[..2].to_vec()),
                (*to.ip(), vec![198, 19])
            );
            assert!(tcp.syn() && !tcp.ack() && tcp.destination_port() == 7);
            let sum = tcp.to_header().calc_checksum_ipv4(&ip.header().to_header(), &[]).unwrap();
            assert_eq!(tcp.checksum(), sum);
            seen.insert((from, tcp.source_port()));
        }
        assert_eq!(seen.len(), 1000, "each is a connection of its own");
    }
}
