//! Plays a scenario to the kernel's IPVS. Runs inside a guest with one processor.
//!
//! How it knows that a packet was handled: after each one it sends a marker the same way, which
//! the director merely routes. The kernel's queue of one processor keeps the order, so when the
//! marker is out at the other side, the packet before it has been dealt with, too.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use af_xdp::PacketSocket;
use anyhow::{Context as _, Result, anyhow, bail};
use steadfast_packet::{Content, Packet, parse};

use super::{
    Entry, Flow, Method, Played, Protocol, Scenario, Seen, Sent, Step,
    director::{Director, add, ipvsadm, remove, weigh},
    frames::{
        BACK_MAC, BYSTANDER, BYSTANDER_ADDR, CLIENT_GATEWAY, CLIENT_MAC, FRONT_MAC, carried,
        marker, server_addr, server_mac, to_client, to_vip, vip,
    },
    listing,
};

/// A scenario ends before the first of its connections could: those in CLOSE last 10 s, those of
/// SCTP in INIT1 and REJECTED 4 s.
const SCENARIO_MAX: Duration = Duration::from_secs(8);
const SCTP_SCENARIO_MAX: Duration = Duration::from_millis(3500);

/// How long a marker is waited for, or the end of a connection that was replaced.
const WAIT_MAX: Duration = Duration::from_secs(5);
const WAIT_STEP: Duration = Duration::from_micros(500);

const FRAME_LEN_MAX: usize = 2048;

/// Plays a scenario in a director of its own.
///
/// # Errors
/// What the system's programs say, or a packet that is lost on its way.
pub fn play(scenario: &Scenario) -> Result<Game> {
    let director = Director::make(scenario)?;
    let seen = thread::scope(|scope| {
        let player = Player { scenario, director: &director, markers: 0 };
        let thread = scope.spawn(|| player.play());
        thread.join().map_err(|_| anyhow!("the player panicked"))?
    })?;
    Ok(Game { director, seen })
}

/// A scenario that was played; its director is there until this goes.
#[derive(Debug)]
pub struct Game {
    director: Director,
    seen: Vec<Seen>,
}

impl Game {
    /// What was seen of the scenario with this index, and what took so long.
    ///
    /// # Errors
    /// What ipvsadm says, if servers are `counted`.
    pub fn tell(self, scenario: usize, took_ms: u64, counted: bool) -> Result<Played> {
        let servers = if counted { self.director.server_counts()? } else { Vec::new() };
        Ok(Played { scenario, seen: self.seen, servers, took_ms })
    }
}

struct Player<'a> {
    scenario: &'a Scenario,
    director: &'a Director,
    markers: u64,
}

/// Which way packets go through the director.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    In,
    Out,
}

impl Player<'_> {
    fn play(mut self) -> Result<Vec<Seen>> {
        self.director.enter(self.scenario)?;
        let mut seen = vec![Seen { loads: listing::loads()?, ..Seen::default() }];
        let began = Instant::now();
        let waits = self.scenario.steps.iter().any(|step| matches!(step, Step::Wait { .. }));
        let max = match self.scenario.protocol {
            Protocol::Sctp => SCTP_SCENARIO_MAX,
            Protocol::Tcp | Protocol::Udp => SCENARIO_MAX,
        };
        for (number, step) in self.scenario.steps.iter().enumerate() {
            if began.elapsed() > max && !waits {
                break;
            }
            seen.push(self.step(step).with_context(|| format!("step {number}: {step:?}"))?);
        }
        Ok(seen)
    }

    fn step(&mut self, step: &Step) -> Result<Seen> {
        let scenario = self.scenario;
        let flow = |index: usize| {
            scenario.flows.get(index).copied().with_context(|| format!("no flow {index}"))
        };
        let sent = match *step {
            Step::Send { flow: index, flags } => {
                let flow = flow(index)?;
                let frame = to_vip(scenario, flow, flags, (CLIENT_MAC, FRONT_MAC));
                self.through(Way::In, flow, &frame)?
            }
            Step::Reply { flow: index, flags } => {
                let flow = flow(index)?;
                match settled(flow)? {
                    Some(Entry { server, .. }) => {
                        let macs = (server_mac(server), BACK_MAC);
                        let frame = to_client(scenario, flow, server, flags, macs);
                        self.through(Way::Out, flow, &frame)?
                    }
                    None => None,
                }
            }
            Step::Weigh(server) => {
                ipvsadm(&weigh(scenario, server))?;
                None
            }
            Step::Add(server) => {
                ipvsadm(&add(scenario, server))?;
                None
            }
            Step::Remove { number } => {
                ipvsadm(&remove(scenario, number))?;
                None
            }
            Step::Wait { seconds } => {
                thread::sleep(Duration::from_secs(seconds.into()));
                None
            }
        };
        let flow = step.flow().map(flow).transpose()?;
        let mut seen = Seen::default();
        if let Some(flow) = flow {
            seen.connection = settled(flow)?;
        }
        (seen.loads, seen.counts) = (listing::loads()?, listing::counts()?);
        if let Some(persistence) = scenario.persistence {
            let listed = listing::templates(persistence, flow)?;
            (seen.templates, seen.template) = (listed.counts, listed.own);
        }
        if let Some((sent, packet)) = sent {
            (seen.sent, seen.packet) = (Some(sent), packet);
        }
        Ok(seen)
    }

    /// Sends a frame through the director; where it came out, and what.
    fn through(&mut self, way: Way, flow: Flow, frame: &[u8]) -> Result<Option<(Sent, String)>> {
        let Director { front, back, .. } = self.director;
        let bystander = BYSTANDER_ADDR;
        let (into, out, macs, src, dst): (_, _, _, Ipv4Addr, Ipv4Addr) = match way {
            Way::In => (front, back, (CLIENT_MAC, FRONT_MAC), CLIENT_GATEWAY, bystander),
            Way::Out => (back, front, (server_mac(BYSTANDER), BACK_MAC), bystander, CLIENT_GATEWAY),
        };
        self.markers += 1;
        into.send(frame).context("cannot send")?;
        into.send(&marker(macs, src, dst, self.markers)).context("cannot send")?;
        let ends_with = self.markers.to_be_bytes();
        let mut came = None;
        let began = Instant::now();
        let mut buffer = [0; FRAME_LEN_MAX];
        loop {
            let Some(frame) = receive(out, &mut buffer)? else {
                if began.elapsed() > WAIT_MAX {
                    bail!("marker {} did not come out of the director", self.markers);
                }
                thread::sleep(WAIT_STEP);
                continue;
            };
            let number = frame.get(5).copied().unwrap_or_default();
            let inner = carried(frame, server_addr(self.scenario.v6, number));
            let frame = match &inner {
                Some(inner) if way == Way::In && self.scenario.method == Method::IpIp => inner,
                _ => frame,
            };
            let Ok(parsed) = parse(frame) else { continue };
            let Content::Ip(packet) = parsed.content else { continue };
            if packet.dst == IpAddr::V4(dst)
                && packet.src == IpAddr::V4(src)
                && frame.ends_with(&ends_with)
            {
                return Ok(came);
            }
            let sent = match way {
                Way::In => self.to_server(flow, &packet, parsed.dst_mac),
                Way::Out => self.to_client(flow, &packet),
            };
            if let (None, Some(sent)) = (&came, sent) {
                came = Some((sent, hexadecimal(&frame[packet.l3..packet.end])));
            }
        }
    }

    /// Not an ICMP error of the director's own, which an earlier packet may have brought about.
    fn to_client(&self, flow: Flow, packet: &Packet) -> Option<Sent> {
        let (_, _, dst_port) = packet.tuple()?;
        let ends = (packet.src, packet.dst, dst_port);
        (ends == (vip(self.scenario.v6), flow.addr, flow.port)).then_some(Sent::Client)
    }

    fn to_server(&self, flow: Flow, packet: &Packet, dst_mac: [u8; 6]) -> Option<Sent> {
        let (_, src_port, _) = packet.tuple()?;
        if (packet.src, src_port) != (flow.addr, flow.port) {
            return None;
        }
        let number = dst_mac[5];
        let v6 = self.scenario.v6;
        let dst = match self.scenario.method {
            Method::Nat => server_addr(v6, number),
            Method::Dr | Method::IpIp => vip(v6),
        };
        (dst_mac == server_mac(number) && packet.dst == dst).then_some(Sent::Server(number))
    }
}

/// As [`Seen::packet`] has it.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The connection of a flow, once there are no two and none that is about to go.
//= Linux net/netfilter/ipvs/ip_vs_conn.c, ip_vs_conn_expire_now(): what a new connection replaces
//= goes with the timer's next tick
fn settled(flow: Flow) -> Result<Option<Entry>> {
    let began = Instant::now();
    loop {
        let mut entries = listing::connections(flow)?;
        let goes = entries.iter().any(|entry| entry.expires_s == 0);
        if entries.len() <= 1 && !goes {
            return Ok(entries.pop());
        }
        if began.elapsed() > WAIT_MAX {
            bail!("connections of one flow that do not go: {entries:?}");
        }
        thread::sleep(WAIT_STEP);
    }
}

fn receive<'a>(socket: &PacketSocket, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
    match socket.receive(buffer) {
        Ok(received) => Ok(Some(&buffer[..received.len])),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("cannot receive"),
    }
}
