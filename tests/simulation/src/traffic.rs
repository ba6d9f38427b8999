//! Clients and servers: sessions that send real frames and judge what comes back.
//!
//! A session is broken when its client is reset, when another server than its own hears of it, or
//! when nobody answers it for [`PATIENCE`] although the cluster is well.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    rc::Rc,
};

use crate::{
    clock::{MS, Ns, SECOND, US},
    cluster::{GATEWAY, LISTENERS, PERSISTENCE_S, SERVERS, listener_at, server_port, vip},
    ether::{
        ACK, Data, FIN, PSH, RST, Read, SYN, Segment, TCP, arp_request, client_ip, mac, read,
        server_ip, write,
    },
    machine::CLIENTS,
    queue::{Device, Event},
    world::World,
};

/// How long a session waits for an answer while the cluster is well.
pub(crate) const PATIENCE: Ns = 10 * SECOND;
/// A client or server asks again who has an address after so many tries without an answer.
const TRIES_BEFORE_ASKING: u32 = 3;
/// First and longest time between two tries.
const TRY_AGAIN: (Ns, Ns) = (200 * MS, 2 * SECOND);
/// A server asks who its gateway is at most so often.
const GATEWAY_EVERY: Ns = 2 * SECOND;

/// What a session does with its time.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    /// Talks all the time, and ends after a while.
    Talking,
    /// Says something seldom: nothing since the handshake, most of the time.
    Silent,
    /// Never ends, and is silent nearly as long as it may.
    Eternal,
    /// UDP.
    Datagrams,
    /// Short, and the next one must find the same server.
    Persistent,
}

/// Where a session is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Waits to open.
    Idle,
    /// Has sent its SYN, or its first datagram.
    Opening,
    /// Open; has asked, or not.
    Open {
        /// It waits for an answer.
        asking: bool,
    },
    /// Has sent its FIN.
    Closing,
}

/// A client's session, one after the other in the same place.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// What it does.
    pub kind: Kind,
    /// At which service.
    pub listener: usize,
    /// Which client.
    pub client: u16,
    /// From which port.
    pub port: u16,
    /// Its number; never used twice.
    pub id: u64,
    /// Where it is.
    pub phase: Phase,
    /// Questions so far.
    pub number: u32,
    /// Tries of the present one.
    pub tries: u32,
    /// Since when it waits.
    pub asked_at: Ns,
    /// When it opened.
    pub open_at: Ns,
    /// When it closes.
    pub close_at: Ns,
    /// When it acts next.
    pub act_at: Ns,
    /// Who answers it.
    pub server: Option<u16>,
    /// When two nodes were seen to know it; from then on nothing excuses its end.
    pub safe: Option<Ns>,
    /// It opened while something was wrong with the node that holds its group.
    pub troubled: bool,
    /// Its port is that of the session before.
    pub reused: bool,
}

/// A place that a server has in its memory.
type Tuple = (Ipv4Addr, u16, usize);

/// Clients and servers.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// All sessions.
    pub sessions: Vec<Session>,
    by_port: BTreeMap<(u16, u16, usize), usize>,
    neighbours: BTreeMap<(Device, Ipv4Addr), [u8; 6]>,
    asked: BTreeMap<Device, Ns>,
    known: Vec<BTreeMap<Tuple, u64>>,
    /// Handshakes of servers whose third packet has not come.
    half_open: BTreeMap<(u16, Tuple), u64>,
    bound: BTreeMap<u64, u16>,
    last_cart: BTreeMap<u16, (u16, Ns)>,
    /// Clients stand still: the tables are to be compared.
    pub quiet: bool,
    serial: u64,
}

impl World {
    /// Makes the sessions of a run.
    pub(crate) fn start_traffic(&mut self) {
        self.traffic.known = (0..SERVERS).map(|_| BTreeMap::new()).collect();
        let tcp = [0, 1, 3];
        for n in 0..self.options.sessions {
            let kind = match n % 10 {
                0..=3 => Kind::Talking,
                4..=5 => Kind::Silent,
                6 => Kind::Eternal,
                7 => Kind::Datagrams,
                _ => Kind::Persistent,
            };
            let listener = match kind {
                Kind::Datagrams => [2, 4][self.rng.index(2)],
                Kind::Persistent => 5,
                _ => tcp[self.rng.index(tcp.len())],
            };
            // Of persistent ones a client has one, so that the one before is known.
            let client = match kind {
                Kind::Persistent if n / 10 < u32::from(CLIENTS) && n % 10 == 8 => (n / 10) as u16,
                Kind::Persistent => continue,
                _ => self.rng.below(u64::from(CLIENTS)) as u16,
            };
            self.traffic.sessions.push(Session {
                kind,
                listener,
                client,
                port: 0,
                id: 0,
                phase: Phase::Idle,
                number: 0,
                tries: 0,
                asked_at: 0,
                open_at: 0,
                close_at: 0,
                act_at: Ns::MAX,
                server: None,
                safe: None,
                troubled: false,
                reused: false,
            });
            let at = self.now + self.rng.below(5 * SECOND);
            self.session_at(self.traffic.sessions.len() - 1, at);
        }
    }

    fn session_at(&mut self, index: usize, at: Ns) {
        self.traffic.sessions[index].act_at = at;
        self.queue.put(at, Event::Session(index));
    }

    /// A session's turn.
    pub(crate) fn session_turn(&mut self, index: usize) {
        let now = self.now;
        if self.traffic.sessions[index].act_at != now {
            return;
        }
        if self.traffic.quiet {
            return self.session_at(index, now + 200 * MS);
        }
        match self.traffic.sessions[index].phase {
            Phase::Idle => self.open(index),
            Phase::Open { asking: false } if now >= self.traffic.sessions[index].close_at => {
                self.close(index);
            }
            Phase::Open { asking: false } => {
                let session = &mut self.traffic.sessions[index];
                session.number += 1;
                session.tries = 0;
                session.asked_at = now;
                session.phase = Phase::Open { asking: true };
                self.send(index);
            }
            Phase::Opening | Phase::Open { asking: true } | Phase::Closing => self.again(index),
        }
    }

    fn open(&mut self, index: usize) {
        let now = self.now;
        self.traffic.serial += 1;
        let id = self.traffic.serial;
        let reuse = self.rng.permille(250);
        let session = &mut self.traffic.sessions[index];
        let key = (session.client, session.port, session.listener);
        session.reused = reuse && session.port != 0;
        if !session.reused {
            self.traffic.by_port.remove(&key);
            let port = loop {
                let port = self.rng.between(20_000, 60_000) as u16;
                let session = &self.traffic.sessions[index];
                let taken = (0..LISTENERS.len()).any(|listener| {
                    self.traffic.by_port.contains_key(&(session.client, port, listener))
                });
                if !taken {
                    break port;
                }
            };
            self.traffic.sessions[index].port = port;
        }
        let life = match self.traffic.sessions[index].kind {
            Kind::Talking => self.rng.between(10, 120) * SECOND,
            Kind::Persistent => self.rng.between(3, 15) * SECOND,
            Kind::Silent => self.rng.between(120, 900) * SECOND,
            Kind::Datagrams => self.rng.between(60, 400) * SECOND,
            Kind::Eternal => Ns::MAX / 2,
        };
        let session = &mut self.traffic.sessions[index];
        session.id = id;
        session.phase = Phase::Opening;
        session.number = 0;
        session.tries = 0;
        session.asked_at = now;
        session.open_at = now;
        session.close_at = now + life;
        session.server = None;
        session.safe = None;
        session.troubled = false;
        let key = (session.client, session.port, session.listener);
        self.traffic.by_port.insert(key, index);
        self.figures.opened += 1;
        self.send(index);
    }

    fn close(&mut self, index: usize) {
        let session = &mut self.traffic.sessions[index];
        if LISTENERS[session.listener].protocol != TCP {
            return self.done(index);
        }
        session.phase = Phase::Closing;
        session.tries = 0;
        session.asked_at = self.now;
        self.send(index);
    }

    /// The session is over; another follows.
    fn done(&mut self, index: usize) {
        self.traffic.sessions[index].phase = Phase::Idle;
        let at = self.now + self.rng.between(50 * MS, 2 * SECOND);
        self.session_at(index, at);
    }

    /// No answer yet.
    fn again(&mut self, index: usize) {
        let now = self.now;
        let calm = self.calm_since();
        let session = &mut self.traffic.sessions[index];
        session.tries += 1;
        let (tries, client) = (session.tries, session.client);
        let from = calm.map(|calm| calm.max(session.asked_at));
        let (phase, group) = (session.phase, LISTENERS[session.listener].group);
        if tries.is_multiple_of(TRIES_BEFORE_ASKING) {
            self.ask_neighbour(Device::Client(client), vip(group));
        }
        match phase {
            // Nobody is promised an end: the next one opens.
            Phase::Closing if tries > 4 => return self.done(index),
            _ if from.is_some_and(|from| now > from + PATIENCE) => {
                return self.broken_session(index, "no answer");
            }
            _ => {}
        }
        self.send(index);
    }

    fn ask_neighbour(&mut self, device: Device, address: Ipv4Addr) {
        let own = match device {
            Device::Client(client) => client_ip(client),
            Device::Server(server) => server_ip(server, 1),
            Device::Node(..) => return,
        };
        let frame = arp_request(mac(device), own, address);
        self.send_ether(device, &frame);
    }

    /// Sends what the session has to say, and waits.
    fn send(&mut self, index: usize) {
        let session = self.traffic.sessions[index].clone();
        let at = &LISTENERS[session.listener];
        let wait = (TRY_AGAIN.0 << session.tries.min(4)).min(TRY_AGAIN.1);
        self.session_at(index, self.now + wait + u64::from(session.client) * US);
        let client = Device::Client(session.client);
        let address = vip(at.group);
        let Some(dst_mac) = self.traffic.neighbours.get(&(client, address)).copied() else {
            return self.ask_neighbour(client, address);
        };
        let (flags, data) = match session.phase {
            _ if at.protocol != TCP => (0, true),
            Phase::Opening => (SYN, false),
            Phase::Closing => (FIN | ACK, false),
            _ => (PSH | ACK, true),
        };
        let data = data.then_some(Data { session: session.id, number: session.number, server: 0 });
        // Server and client number their octets by the session, so that it is known again.
        let frame = write(&Segment {
            src_mac: mac(client),
            dst_mac,
            protocol: at.protocol,
            src: (client_ip(session.client), session.port),
            dst: (address, at.port),
            flags,
            seq: session.id as u32,
            ack: if flags & ACK != 0 { session.id as u32 + 1 } else { 0 },
            data,
        });
        self.send_ether(client, &frame);
    }

    /// A frame has arrived at a client.
    pub(crate) fn client_frame(&mut self, client: u16, frame: &Rc<[u8]>) {
        let device = Device::Client(client);
        let segment = match read(frame) {
            Read::Segment(segment) if segment.dst.0 == client_ip(client) => segment,
            Read::Arp { sender, .. } => return self.hear_arp(device, sender),
            _ => return,
        };
        let Some(listener) = listener_at(segment.src.0.into(), segment.src.1, segment.protocol)
        else {
            return;
        };
        let key = (client, segment.dst.1, listener);
        let Some(index) = self.traffic.by_port.get(&key).copied() else { return };
        let session = &self.traffic.sessions[index];
        if segment.flags & RST != 0 {
            // Of an earlier session of the same port, if it does not acknowledge this one.
            let own = segment.seq == session.id as u32 + 1 || segment.ack == session.id as u32 + 1;
            if own && matches!(session.phase, Phase::Open { .. }) {
                self.broken_session(index, "reset");
            }
            return;
        }
        match (session.phase, segment.data) {
            (Phase::Opening, None)
                if segment.flags & (SYN | ACK) == SYN | ACK
                    && segment.ack == session.id as u32 + 1 =>
            {
                self.opened(index, segment.seq as u16);
            }
            (Phase::Opening | Phase::Open { asking: true }, Some(data))
                if (data.session, data.number) == (session.id, session.number) =>
            {
                if session.phase == Phase::Opening {
                    self.opened(index, data.server);
                }
                self.answered(index, data.server);
            }
            // Our third packet was lost.
            (Phase::Open { .. }, None)
                if segment.flags & (SYN | ACK) == SYN | ACK
                    && segment.ack == session.id as u32 + 1 =>
            {
                let session = session.clone();
                self.acknowledge_handshake(&session);
            }
            (Phase::Closing, None) if segment.flags & FIN != 0 => self.done(index),
            _ => {}
        }
    }

    fn opened(&mut self, index: usize, server: u16) {
        let now = self.now;
        let troubled = self.calm_since().is_none();
        let session = &mut self.traffic.sessions[index];
        session.phase = Phase::Open { asking: false };
        session.server = Some(server);
        session.open_at = now;
        session.troubled = troubled;
        self.figures.established += 1;
        let session = session.clone();
        if LISTENERS[session.listener].protocol == TCP {
            self.acknowledge_handshake(&session);
        }
        if session.kind == Kind::Persistent {
            self.judge_persistence(index, server);
        }
        let pause = self.pause(session.kind);
        self.session_at(index, now + pause);
    }

    /// The client's third packet: without it nobody calls the connection established.
    fn acknowledge_handshake(&mut self, session: &Session) {
        let at = &LISTENERS[session.listener];
        let client = Device::Client(session.client);
        let Some(dst_mac) = self.traffic.neighbours.get(&(client, vip(at.group))).copied() else {
            return;
        };
        let frame = write(&Segment {
            src_mac: mac(client),
            dst_mac,
            protocol: at.protocol,
            src: (client_ip(session.client), session.port),
            dst: (vip(at.group), at.port),
            flags: ACK,
            seq: session.id as u32 + 1,
            ack: session.id as u32 + 1,
            data: None,
        });
        self.send_ether(client, &frame);
    }

    /// How long a session says nothing.
    fn pause(&mut self, kind: Kind) -> Ns {
        let (low, high) = match kind {
            Kind::Talking | Kind::Persistent => (300 * MS, 3 * SECOND),
            Kind::Silent => (20 * SECOND, 80 * SECOND),
            Kind::Eternal => (2 * SECOND, 90 * SECOND),
            Kind::Datagrams => (SECOND, 30 * SECOND),
        };
        self.rng.between(low, high)
    }

    fn answered(&mut self, index: usize, server: u16) {
        let now = self.now;
        self.figures.answers += 1;
        let session = &mut self.traffic.sessions[index];
        let waited = now - session.asked_at;
        session.phase = Phase::Open { asking: false };
        if session.server != Some(server) {
            return self.broken_session(index, "an answer of another server");
        }
        self.figures.waited_max = self.figures.waited_max.max(waited);
        let pause = self.pause(self.traffic.sessions[index].kind);
        let close_at = self.traffic.sessions[index].close_at;
        self.session_at(index, (now + pause).min(close_at.max(now + MS)));
    }

    /// A client's next connection finds the server of the one before, while its template lasts.
    fn judge_persistence(&mut self, index: usize, server: u16) {
        let now = self.now;
        let client = self.traffic.sessions[index].client;
        let before = self.traffic.last_cart.insert(client, (server, now));
        let Some((last, at)) = before else { return };
        let lasts = now < at + PERSISTENCE_S * SECOND / 2;
        if last != server
            && lasts
            && self.is_in(5, last)
            && self.checks.knowledge.templates_safe(client)
        {
            self.violated(
                "persistence",
                &format!("client {client} got server {server}, had {last}"),
            );
        }
        self.figures.persistent += 1;
    }

    /// A frame has arrived at a server.
    pub(crate) fn server_frame(&mut self, server: u16, frame: &Rc<[u8]>) {
        let device = Device::Server(server);
        self.trace.detail(self.now, || format!("server {server}: {:?}", read(frame)));
        let segment = match read(frame) {
            Read::Segment(segment) => segment,
            Read::Arp { sender, .. } => return self.hear_arp(device, sender),
            Read::Other => return,
        };
        // With DR the packet is for the VIP, with NAT for the server.
        let listener = LISTENERS.iter().position(|at| {
            let address = if at.nat { server_ip(server, 1) } else { vip(at.group) };
            let port = server_port(at);
            (address, port, at.protocol) == (segment.dst.0, segment.dst.1, segment.protocol)
        });
        let Some(listener) = listener else { return };
        let tuple = (segment.src.0, segment.src.1, listener);
        let known = self.traffic.known[usize::from(server)].get(&tuple).copied();
        if segment.protocol != TCP {
            let Some(data) = segment.data else { return };
            let first = *self.traffic.bound.entry(data.session).or_insert(server);
            if first != server {
                self.heard_elsewhere(tuple, data.session, server);
                return;
            }
            return self.reply(server, listener, &segment, 0, Some(Data { server, ..data }));
        }
        let opens = segment.flags & (SYN | ACK) == SYN;
        if opens {
            self.traffic.known[usize::from(server)].insert(tuple, u64::from(segment.seq));
            self.traffic.bound.insert(u64::from(segment.seq), server);
            let new = self.traffic.half_open.insert((server, tuple), u64::from(segment.seq));
            if new != Some(u64::from(segment.seq)) {
                let frame = Rc::clone(frame);
                self.queue.put(self.now + SECOND, Event::Handshake(server, frame, 1));
            }
            return self.reply(server, listener, &segment, SYN | ACK, None);
        }
        if segment.flags & RST != 0 {
            return;
        }
        self.traffic.half_open.remove(&(server, tuple));
        let session = segment.data.map_or(known, |data| Some(data.session));
        match (known, segment.data) {
            (Some(known), _) if session == Some(known) => {
                if segment.flags & FIN != 0 {
                    self.reply(server, listener, &segment, FIN | ACK, None);
                } else if let Some(data) = segment.data {
                    let data = Data { server, ..data };
                    self.reply(server, listener, &segment, PSH | ACK, Some(data));
                }
            }
            (_, Some(data)) => {
                self.heard_elsewhere(tuple, data.session, server);
                self.reply(server, listener, &segment, RST, None);
            }
            _ => {}
        }
    }

    /// A server sends its part of a handshake again while the third packet does not come.
    pub(crate) fn handshake_again(&mut self, server: u16, frame: &Rc<[u8]>, tries: u32) {
        let Read::Segment(segment) = read(frame) else { return };
        let listener = LISTENERS.iter().position(|at| {
            let address = if at.nat { server_ip(server, 1) } else { vip(at.group) };
            (address, server_port(at), at.protocol)
                == (segment.dst.0, segment.dst.1, segment.protocol)
        });
        let Some(listener) = listener else { return };
        let key = (server, (segment.src.0, segment.src.1, listener));
        if self.traffic.half_open.get(&key) != Some(&u64::from(segment.seq)) {
            return;
        }
        if tries > 5 {
            self.traffic.half_open.remove(&key);
            return;
        }
        let at = self.now + (SECOND << tries);
        self.queue.put(at, Event::Handshake(server, Rc::clone(frame), tries + 1));
        self.reply(server, listener, &segment, SYN | ACK, None);
    }

    fn reply(&mut self, server: u16, listener: usize, to: &Segment, flags: u8, data: Option<Data>) {
        let at = &LISTENERS[listener];
        let device = Device::Server(server);
        let dst_mac = if at.nat {
            let due =
                self.traffic.asked.get(&device).is_none_or(|at| self.now > at + GATEWAY_EVERY);
            if due {
                self.traffic.asked.insert(device, self.now);
                self.ask_neighbour(device, GATEWAY);
            }
            match self.traffic.neighbours.get(&(device, GATEWAY)) {
                Some(mac) => *mac,
                None => return,
            }
        } else {
            let octet = to.src.0.octets()[3];
            mac(Device::Client(u16::from(octet) - 10))
        };
        let seq = if flags & SYN != 0 { u32::from(server) } else { to.ack };
        let ack = if flags & SYN != 0 { to.seq + 1 } else { to.seq };
        let frame = write(&Segment {
            src_mac: mac(device),
            dst_mac,
            protocol: at.protocol,
            src: to.dst,
            dst: to.src,
            flags,
            seq,
            ack,
            data,
        });
        self.send_ether(device, &frame);
    }

    fn hear_arp(&mut self, device: Device, (from, address): ([u8; 6], Ipv4Addr)) {
        let ours = match device {
            Device::Client(_) => address != GATEWAY,
            _ => address == GATEWAY,
        };
        let is_vip = (0..crate::cluster::GROUPS).any(|group| vip(group) == address);
        if ours && (is_vip || address == GATEWAY) {
            self.traffic.neighbours.insert((device, address), from);
        }
    }

    /// A server got a packet of a session that is not its own.
    fn heard_elsewhere(&mut self, tuple: Tuple, session: u64, server: u16) {
        let client = u16::from(tuple.0.octets()[3]);
        let Some(client) = client.checked_sub(10) else { return };
        let key = (client, tuple.1, tuple.2);
        let Some(index) = self.traffic.by_port.get(&key).copied() else { return };
        let open = matches!(self.traffic.sessions[index].phase, Phase::Open { .. });
        if open && self.traffic.sessions[index].id == session {
            self.figures.pcc += 1;
            self.broken_session(index, &format!("server {server} got a packet of it"));
        }
    }

    /// A session has ended against its will.
    pub(crate) fn broken_session(&mut self, index: usize, why: &str) {
        let session = self.traffic.sessions[index].clone();
        let excuse = self.excuse(&session);
        let at = &LISTENERS[session.listener];
        self.note(format_args!(
            "session {} ({:?}, {}, {}:{}) breaks: {why}; excused: {excuse:?}",
            session.id,
            session.kind,
            at.name,
            client_ip(session.client),
            session.port
        ));
        self.describe_session(&session);
        match excuse {
            Some(excuse) => *self.figures.excused.entry(excuse).or_default() += 1,
            None => {
                self.figures.broken += 1;
                self.violated("sessions", &format!("session {} breaks: {why}", session.id));
            }
        }
        self.done(index);
    }

    /// Which sessions are open, with their keys.
    pub(crate) fn open_sessions(&self) -> BTreeSet<usize> {
        let open = |session: &Session| matches!(session.phase, Phase::Open { .. });
        let all = self.traffic.sessions.iter().enumerate();
        all.filter(|(_, session)| open(session)).map(|(index, _)| index).collect()
    }
}
