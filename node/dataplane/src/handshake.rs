//! Handshakes by cookie: clients show that they are where they say before their server hears of
//! them (RFC 4987 section 3.6), and before anything is stored of them.
//!
//! ```text
//! client            node             server
//!   | SYN isn         |                 |
//!   |---------------->|                 |    nothing is stored
//!   | SYN-ACK cookie, window 0          |
//!   |<----------------|                 |
//!   | ACK cookie+1    | SYN isn         |    the connection comes into the table
//!   |---------------->|---------------->|    again after 200 ms, 400 ms ...
//!   | window          | SYN-ACK number  |    to_client = cookie - number
//!   |<----------------|<----------------|
//!   |                 | ACK number+1    |
//!   |                 |---------------->|
//! ```
//!
//! From there on all segments are shifted by the [`Deltas`], which peers are told at once.
//!
//! Guarantees: a SYN costs no memory and no lock; any node of the cluster that holds the group knows
//! a cookie of any other; a client that comes with a cookie is scheduled as any other (thresholds,
//! persistence, limits). After a take-over the cookies of others wait until it is known which of
//! them have led to connections, those that this node issued do not.
//! Not guaranteed: that a client whose ACK is lost, and who waits for its server to speak first, ever
//! hears more: nothing here remembers it.

use std::net::SocketAddr;

use steadfast_packet::{
    Packet, Segment, SegmentOptions, Tcp, TcpFlags, Transport, segment_options, set_macs,
    tcp_header, write_segment,
};

use crate::{
    Action, Actions, Connection, CookieEvent, Deltas, Excess, FlowKey, MssClamp, Origin, Protocol,
    Reason, Removal, Sent, Service, SmallFrame, SynProxy, SyncHook, Target, Verdict,
    admit::Opening,
    cache::{HotServer, Way},
    degrade::asked,
    deltas::Handshake,
    forward::Hot,
    frame::Frame,
    mss::headers_len,
    pending::{Pending, WAITS_MS},
    worker::{Core, View},
};

/// The scale that clients are told for the windows of servers, before the server's own is known: a
/// window of 64 KiB and more has to be spoken of, and 7 is what most servers use.
const SCALE: u8 = 7;

/// Nobody knows yet by which way its server will be reached: clients are told what fits any.
const MTU_MAX: u16 = 1500;

/// Who issues a cookie, as far as four bits tell: the same for all of one time of holding a group.
fn issuer(epoch: Origin) -> u8 {
    let Origin { generation, grant_index, claim, node } = epoch;
    let mixed =
        grant_index ^ u64::from(claim) << 48 ^ u64::from(node) << 24 ^ u64::from(generation);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as u8
}

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Whether a SYN to this service is answered with a cookie now.
    pub(crate) fn gives_cookies(&self, service: &Service, now_ns: u64) -> bool {
        match service.spec.syn_proxy {
            SynProxy::Off => false,
            SynProxy::Auto => self.shared.table.is_crowded(now_ns),
            SynProxy::Always => true,
        }
    }

    /// Answers a SYN with a cookie; none when there are no keys for that.
    pub(crate) fn send_cookie(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        (key, service, epoch): (&FlowKey, &Service, Origin),
        view: View<'_>,
    ) -> Option<Verdict> {
        let keys = self.shared.cookie_keys.load();
        let keys = keys.as_ref()?;
        if packet.fragment.is_some() {
            return Some(Verdict::Drop(Reason::Fragment));
        }
        let tcp = *tcp_header(frame.received(), packet)?;
        let Ok(offered) = segment_options(frame.received(), packet) else {
            return Some(Verdict::Drop(Reason::TcpOptions));
        };
        let isn = tcp.seq.get();
        let issued = keys.issue(key, isn, &offered, issuer(epoch), frame.now_ns);
        let times = issued.timestamp.zip(offered.timestamps.map(|(value, _)| value));
        let mtu = view.hops.port_mtu(frame.port).min(MTU_MAX);
        let mss = mtu.saturating_sub(headers_len(packet) as u16);
        let answer = Segment {
            src: SocketAddr::new(key.vip, key.vip_port),
            dst: SocketAddr::new(key.client, key.client_port),
            seq: issued.cookie,
            ack: isn.wrapping_add(1),
            flags: TcpFlags::SYN_ACK,
            window: 0,
            options: SegmentOptions {
                mss: Some(match service.spec.mss_clamp {
                    MssClamp::At(most) => mss.min(most),
                    MssClamp::Off | MssClamp::Auto => mss,
                }),
                // Without a timestamp nothing remembers them.
                window_scale: times.and(offered.window_scale).map(|_| SCALE),
                sack_permitted: times.is_some() && offered.sack_permitted,
                timestamps: times,
            },
        };
        service.defence.count_cookie(self.index, CookieEvent::Sent);
        Some(self.answer_client(frame, &answer, view))
    }

    /// What becomes of a packet in the middle of an unknown connection, if it acknowledges a cookie.
    pub(crate) fn open_by_cookie(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        (key, old): (FlowKey, Option<&Connection>),
        (epoch, settled): (Origin, bool),
        view: View<'_>,
        actions: &mut Actions,
    ) -> Option<Verdict> {
        if key.protocol != Protocol::Tcp {
            return None;
        }
        let service = view.config.listener(key.protocol, key.vip, key.vip_port)?;
        if service.spec.syn_proxy == SynProxy::Off || !self.may_come(service, &key) {
            return None;
        }
        let tcp = *tcp_header(frame.received(), packet)?;
        let flags = TcpFlags(tcp.flags);
        if !flags.ack() || flags.rst() || flags.syn() || packet.fragment.is_some() {
            return None;
        }
        let Some((handshake, issued_by)) = self.remembered(frame, packet, &key, &tcp) else {
            service.defence.count_cookie(self.index, CookieEvent::Refused);
            return None;
        };
        // Another node may have opened it, and the copy may be on its way.
        if !settled && issued_by != issuer(epoch) {
            return Some(Verdict::Drop(Reason::HeldBack));
        }
        if self.handshakes.is_full() {
            return Some(Verdict::Drop(Reason::ShakingFull));
        }
        let now_ns = frame.now_ns;
        if let Some(excess) = self.excess(service, &key, now_ns) {
            // Its server has not heard of it: there is no going by the hash.
            service.defence.count_refused(self.index, excess);
            return Some(self.reject(frame, packet, view));
        }
        let Some((server, controlled)) = self.choose(service, &asked(key, now_ns), epoch, None)
        else {
            return Some(self.reject(frame, packet, view));
        };
        let adopted = false;
        let handshake = Some(handshake);
        let deltas = None;
        let new = Opening { key, server, epoch, adopted, controlled, deltas, handshake };
        let opened = self.open_counted(now_ns, service, &new, old.cloned());
        let (connection, is_new) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                if reason == Reason::OverLimit {
                    service.defence.count_refused(self.index, Excess::HalfOpen);
                }
                // Somebody who has shown that he is there is told.
                self.counters.count_dropped(reason);
                return Some(self.reject(frame, packet, view));
            }
        };
        // Another worker was first.
        if !is_new {
            return Some(Verdict::Drop(Reason::Shaking));
        }
        service.defence.count_cookie(self.index, CookieEvent::Accepted);
        self.handshakes.put(connection.clone(), 0, now_ns);
        Some(self.ask_server(frame, packet, &connection, view, actions))
    }

    /// What the cookie remembers that this segment acknowledges, and who issued it.
    fn remembered(
        &self,
        frame: &Frame<'_>,
        packet: &Packet,
        key: &FlowKey,
        tcp: &Tcp,
    ) -> Option<(Handshake, u8)> {
        let keys = self.shared.cookie_keys.load();
        let options = segment_options(frame.received(), packet).ok()?;
        let (cookie, echo) = (tcp.ack.get().wrapping_sub(1), options.timestamps.map(|(_, e)| e));
        let seq = tcp.seq.get();
        //= RFC 9293 section 3.8.6.1: a probe of a closed window carries an old number
        let (isn, remembered) = [seq.wrapping_sub(1), seq].into_iter().find_map(|isn| {
            keys.as_ref()?.accept(key, isn, cookie, echo).map(|remembered| (isn, remembered))
        })?;
        let handshake = Handshake {
            cookie,
            isn,
            times: options.timestamps.map(|(value, echo)| (echo, value)),
            sack_permitted: remembered.sack_permitted,
            window_scale: remembered.window_scale,
            mss: remembered.mss,
            window: tcp.window.get(),
        };
        Some((handshake, remembered.issuer))
    }

    /// Makes of the packet of a client the SYN that its server gets.
    fn ask_server(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        connection: &Connection,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let Some(sides) = Sides::of(connection) else {
            return Verdict::Drop(Reason::ConnectionGone);
        };
        let hop = self.next_hop(sides.target.addr, view, actions);
        let Ok(len) = write_segment(frame.bytes(), &sides.syn()) else {
            return Verdict::Drop(Reason::NoSpace);
        };
        self.note(frame.now_ns, packet, (connection, Way::In), TcpFlags(TcpFlags::SYN), view);
        match hop {
            Ok(hop) => {
                set_macs(frame.bytes(), hop.src_mac, hop.dst_mac);
                self.transmit(Sent::Forwarded, hop.port, frame.start(), len)
            }
            // It is asked again in a moment.
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// What becomes of a packet of a connection whose server has not answered.
    pub(crate) fn shake(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        hot: &Hot<'_>,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let Some(sides) = Sides::of(hot.connection) else {
            return Verdict::Drop(Reason::ConnectionGone);
        };
        let Some(tcp) = tcp_header(frame.received(), packet).copied() else {
            return Verdict::Drop(Reason::Shaking);
        };
        match hot.way {
            Way::In => self.hear_client(frame, packet, hot.connection, (&sides, &tcp), view),
            Way::Out => self.hear_server(frame, packet, hot, (&sides, &tcp), view, actions),
        }
    }

    fn hear_client(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        connection: &Connection,
        (sides, tcp): (&Sides, &Tcp),
        view: View<'_>,
    ) -> Verdict {
        let Handshake { cookie, isn, .. } = sides.handshake;
        let (flags, seq) = (TcpFlags(tcp.flags), tcp.seq.get());
        //= RFC 9293 section 3.10.7.4: a reset counts if its number is the next one
        if flags.rst() && seq == isn.wrapping_add(1) {
            self.give_up(connection, frame.now_ns);
            let reset = Segment { flags: TcpFlags::RST, ..sides.to_server(seq, 0) };
            return self.send_segment(frame, &reset, (Sent::Forwarded, sides.target.addr), view);
        }
        let header = packet.l4 + usize::from(tcp.offset >> 4) * 4;
        let is_probe = packet.end > header || seq == isn || flags.fin();
        if flags.rst() || flags.syn() || !is_probe {
            return Verdict::Drop(Reason::Shaking);
        }
        if !self.answers.take(frame.now_ns) {
            return Verdict::Drop(Reason::RateLimited);
        }
        let answer = sides.to_client(cookie.wrapping_add(1), 0);
        self.answer_client(frame, &answer, view)
    }

    fn hear_server(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        hot: &Hot<'_>,
        (sides, tcp): (&Sides, &Tcp),
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let Handshake { cookie, isn, .. } = sides.handshake;
        let flags = TcpFlags(tcp.flags);
        let is_ours = flags.ack() && tcp.ack.get() == isn.wrapping_add(1);
        match (flags.rst(), flags.syn(), is_ours) {
            //= RFC 9293 section 3.10.7.3: a reset that acknowledges the SYN ends it
            (true, _, true) => {
                let key = hot.connection.key();
                if let Some(service) = view.config.service(hot.connection.service()) {
                    service.defence.count_cookie(self.index, CookieEvent::GivenUp);
                }
                self.give_up(hot.connection, frame.now_ns);
                let reset = sides.reset_client(cookie);
                self.send_segment(frame, &reset, (Sent::Returned, key.client), view)
            }
            (false, true, true) => self.join(frame, packet, hot, (sides, tcp), view, actions),
            //= RFC 9293 section 3.10.7.3: of an earlier connection, which is over
            (false, _, false) if flags.ack() => self.reject(frame, packet, view),
            _ => Verdict::Drop(Reason::Shaking),
        }
    }

    /// The server takes the connection: both sides are told, and from here on they hear each other.
    fn join(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        hot: &Hot<'_>,
        (sides, tcp): (&Sides, &Tcp),
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let Ok(offered) = segment_options(frame.received(), packet) else {
            return Verdict::Drop(Reason::TcpOptions);
        };
        let (number, window) = (tcp.seq.get(), tcp.window.get());
        let deltas = sides.deltas(number, &offered);
        let (now_ns, connection) = (frame.now_ns, hot.connection);
        if !self.shared.table.finish_handshake(connection, &deltas) {
            return Verdict::Drop(Reason::Shaking);
        }
        self.note(now_ns, packet, (connection, Way::Out), TcpFlags(TcpFlags::SYN_ACK), view);
        self.note(now_ns, packet, (connection, Way::In), TcpFlags(TcpFlags::ACK), view);
        let theirs = offered.timestamps.map(|(value, _)| value);
        let ack = sides.ack_server(number, theirs, &deltas);
        if let Ok(hop) = self.next_hop(sides.target.addr, view, actions) {
            self.emit(actions, hop.port, view, &ack, (hop.src_mac, hop.dst_mac));
        }
        // The window of a SYN is not scaled.
        let window = match sides.handshake.window_scale {
            Some(_) => window >> SCALE,
            None => window,
        };
        let update = sides.to_client(sides.handshake.cookie.wrapping_add(1), window);
        self.send_segment(frame, &update, (Sent::Returned, sides.key.client), view)
    }

    /// Asks servers again whose time is over, and tells clients of those that never answer.
    pub(crate) fn ask_again(&mut self, now_ns: u64, view: View<'_>, actions: &mut Actions) {
        // What is put back is due later.
        while actions.has_room()
            && let Some(Pending { connection, tries, .. }) = self.handshakes.take_due(now_ns)
        {
            let Some(sides) = Sides::of(&connection) else { continue };
            let is_last = tries + 1 >= WAITS_MS.len();
            let (towards, segment) = if is_last {
                (sides.key.client, sides.reset_client(sides.handshake.cookie))
            } else {
                (sides.target.addr, sides.syn())
            };
            if let Ok(hop) = self.next_hop(towards, view, actions) {
                self.emit(actions, hop.port, view, &segment, (hop.src_mac, hop.dst_mac));
            }
            if is_last {
                if let Some(service) = view.config.service(connection.service()) {
                    service.defence.count_cookie(self.index, CookieEvent::GivenUp);
                }
                self.give_up(&connection, now_ns);
            } else {
                self.handshakes.put(connection, tries + 1, now_ns);
            }
        }
    }

    /// Takes a connection out that its server does not take.
    fn give_up(&self, connection: &Connection, now_ns: u64) {
        let (key, incarnation) = (connection.key(), connection.incarnation());
        if let Some(gone) = self.shared.table.remove(&key, incarnation) {
            self.hook.removed(&gone, Removal::GivenUp, now_ns);
        }
    }

    /// Notes a packet that this node sends for one side: state, age, counters, hook.
    fn note(
        &self,
        now_ns: u64,
        packet: &Packet,
        (connection, way): (&Connection, Way),
        flags: TcpFlags,
        view: View<'_>,
    ) {
        let Some(mut server) = HotServer::of(connection.server(), view.config) else { return };
        let Transport::Tcp { src_port, dst_port, .. } = packet.transport else { return };
        let packet = Packet { transport: Transport::Tcp { src_port, dst_port, flags }, ..*packet };
        let hot = Hot { way, connection, server: &mut server };
        self.account(now_ns, &packet, &hot, true, view.config);
    }

    /// Sends a segment by itself, beside what becomes of the packet at hand.
    fn emit(
        &self,
        actions: &mut Actions,
        port: u16,
        view: View<'_>,
        segment: &Segment,
        (src, dst): (steadfast_packet::Mac, steadfast_packet::Mac),
    ) {
        let sent = SmallFrame::new(view.hops, port, |buffer| {
            let len = write_segment(buffer, segment)?;
            set_macs(buffer, src, dst);
            Ok(len)
        });
        if let Some((port, frame)) = sent {
            actions.push(Action::Send { port, frame });
        }
    }

    /// Sends a segment in the place of the packet at hand, by the route to `towards`.
    fn send_segment(
        &self,
        frame: &mut Frame<'_>,
        segment: &Segment,
        (sent, towards): (Sent, std::net::IpAddr),
        view: View<'_>,
    ) -> Verdict {
        let hop = match self.next_hop(towards, view, &mut Actions::none()) {
            Ok(hop) => hop,
            Err(reason) => return Verdict::Drop(reason),
        };
        let Ok(len) = write_segment(frame.bytes(), segment) else {
            return Verdict::Drop(Reason::NoSpace);
        };
        set_macs(frame.bytes(), hop.src_mac, hop.dst_mac);
        self.transmit(sent, hop.port, frame.start(), len)
    }

    /// Answers a client whose packet is at hand.
    fn answer_client(&self, frame: &mut Frame<'_>, segment: &Segment, view: View<'_>) -> Verdict {
        let Some(own) = view.hops.port_mac(frame.port) else {
            return Verdict::Drop(Reason::NoRoute);
        };
        let Ok(len) = write_segment(frame.bytes(), segment) else {
            return Verdict::Drop(Reason::NoSpace);
        };
        let from = frame.src_mac;
        set_macs(frame.bytes(), own, from);
        self.send_back(frame, segment.dst.ip(), len, view)
    }
}

/// The two sides of a handshake.
struct Sides {
    key: FlowKey,
    target: Target,
    /// From where the server is asked.
    from: SocketAddr,
    handshake: Handshake,
}

impl Sides {
    /// Those of a connection whose server has not answered; none when it has, or it is gone.
    fn of(connection: &Connection) -> Option<Self> {
        let (key, target, local) = (connection.key(), connection.target()?, connection.local());
        let client = SocketAddr::new(key.client, key.client_port);
        let from = local.map_or(client, |local| SocketAddr::new(local.addr, local.port));
        // Says also that what was read is true.
        let handshake = connection.handshake()?;
        Some(Self { key, target, from, handshake })
    }

    /// What the server would have got from the client.
    fn syn(&self) -> Segment {
        let Handshake { window_scale, sack_permitted, mss, window, isn, times, .. } =
            self.handshake;
        let window = u32::from(window) << window_scale.unwrap_or(0);
        Segment {
            flags: TcpFlags::SYN,
            ack: 0,
            window: u16::try_from(window).unwrap_or(u16::MAX),
            options: SegmentOptions {
                mss: Some(mss),
                window_scale,
                sack_permitted,
                timestamps: times.map(|(_, client)| (client, 0)),
            },
            ..self.to_server(isn, 0)
        }
    }

    /// The end of the handshake, with the window of the client.
    fn ack_server(&self, number: u32, theirs: Option<u32>, deltas: &Deltas) -> Segment {
        let Handshake { isn, window, times, .. } = self.handshake;
        let window = u32::from(window) << deltas.windows_to_server.max(0);
        let segment = self.to_server(isn.wrapping_add(1), number.wrapping_add(1));
        let timestamps = times.zip(theirs).map(|((_, client), theirs)| (client, theirs));
        Segment {
            window: u16::try_from(window).unwrap_or(u16::MAX),
            options: SegmentOptions { timestamps, ..SegmentOptions::default() },
            ..segment
        }
    }

    fn to_server(&self, seq: u32, ack: u32) -> Segment {
        Segment {
            src: self.from,
            dst: SocketAddr::new(self.target.addr, self.target.port),
            seq,
            ack,
            flags: TcpFlags::ACK,
            window: 0,
            options: SegmentOptions::default(),
        }
    }

    fn to_client(&self, seq: u32, window: u16) -> Segment {
        let Handshake { isn, times, .. } = self.handshake;
        Segment {
            src: SocketAddr::new(self.key.vip, self.key.vip_port),
            dst: SocketAddr::new(self.key.client, self.key.client_port),
            seq,
            ack: isn.wrapping_add(1),
            flags: TcpFlags::ACK,
            window,
            options: SegmentOptions { timestamps: times, ..SegmentOptions::default() },
        }
    }

    /// Tells the client that its server does not want it.
    fn reset_client(&self, cookie: u32) -> Segment {
        let segment = self.to_client(cookie.wrapping_add(1), 0);
        let options = SegmentOptions::default();
        Segment { flags: TcpFlags::RST | TcpFlags::ACK, options, ..segment }
    }

    /// How the numbers of the sides differ, now that the server has said its own.
    fn deltas(&self, number: u32, offered: &SegmentOptions) -> Deltas {
        let Handshake { cookie, times, window_scale, .. } = self.handshake;
        let own = times.map(|(own, _)| own);
        let theirs = offered.timestamps.map(|(value, _)| value);
        let (windows_to_client, windows_to_server) = match (window_scale, offered.window_scale) {
            (None, _) => (0, 0),
            (Some(_), Some(theirs)) => (theirs as i8 - SCALE as i8, 0),
            //= RFC 7323 section 2.2: a server that does not offer one takes windows as they are
            (Some(client), None) => (-(SCALE as i8), client as i8),
        };
        Deltas {
            to_client: cookie.wrapping_sub(number),
            to_server: 0,
            timestamps: own.zip(theirs).map_or(0, |(own, theirs)| own.wrapping_sub(theirs)),
            windows_to_client,
            windows_to_server,
            ..Deltas::default()
        }
    }
}
