//! Handshakes by cookie: frames in, verdicts, frames and actions out, for both families and both ways
//! of NAT, with and without timestamps.

use std::{net::SocketAddr, sync::Arc};

use crate::both::{self, *};
use crate::lab::{self, *};
use steadfast_dataplane::{
    Action, Actions, Config, ConfigError, ConfigSpec, Connection, CookieEvent, CookieKey,
    CookieKeys, Deltas, FlowKey, Forwarding, HANDSHAKES_MAX, Limits, MssClamp, NextHops, Over,
    PortSlot, Protocol, Reason, Record, Replica, Role, ServiceId, ServiceSpec, State, SynProxy,
    WAITS_MS, Worker,
};
use steadfast_packet::{
    Content, Packet, SEGMENT_LEN_MAX, Segment, SegmentOptions, Tcp, parse, segment_options,
    set_macs, tcp_header, write_segment,
};

const PORT: u16 = 9090;
const FORWARDINGS: [Forwarding; 2] = [Forwarding::Nat, Forwarding::FullNat];
pub(crate) const MS: u64 = SECOND / 1000;
const RST_ACK: u8 = 0x14;
/// Numbers of the client and of the server; both sides wrap around soon.
const ISN: u32 = u32::MAX - 1;
const NUMBER: u32 = u32::MAX;

pub(crate) const OFFER: SegmentOptions = SegmentOptions {
    mss: Some(1460),
    window_scale: Some(9),
    sack_permitted: true,
    timestamps: Some((70_000, 0)),
};
const SERVERS_OFFER: SegmentOptions = SegmentOptions {
    mss: Some(1460),
    window_scale: Some(5),
    sack_permitted: true,
    timestamps: Some((0xffff_0000, 70_000)),
};
const PLAIN: SegmentOptions =
    SegmentOptions { mss: Some(1460), window_scale: None, sack_permitted: false, timestamps: None };

fn key_of_slot(slot: u64) -> CookieKey {
    CookieKey { slot, key: [slot + 11, 5] }
}

fn keys(slot: u64) -> CookieKeys {
    CookieKeys { present: key_of_slot(slot), previous: Some(key_of_slot(slot - 1)) }
}

fn spec(forwarding: Forwarding, change: impl Fn(&mut ServiceSpec)) -> ConfigSpec {
    let mut spec = both::spec(1);
    spec.port_slot = PortSlot::new(3);
    for (id, net) in (900..).zip(NETS) {
        let local = if net.name == "IPv4" { "198.18.1.200" } else { "2001:db8:1::200" };
        spec.groups[0].locals.push(local.parse().unwrap());
        let service = lab::service(id, Protocol::Tcp, PORT, vec![server(id, net.nat, REAL_PORT)]);
        let syn_proxy = SynProxy::Always;
        let mut service = ServiceSpec { forwarding, syn_proxy, ..service };
        service.listen[0].vip = net.vip.parse().unwrap();
        change(&mut service);
        spec.services.push(service);
    }
    spec
}

fn node_with(spec: ConfigSpec, half_open_max: usize) -> Lab {
    let lab = Lab::bounded(spec, 20_000, half_open_max);
    lab.shared.set_next_hops(NextHops::new(both::next_hops()));
    lab.shared.cookie_keys.store(Some(Arc::new(keys(7))));
    lab
}

pub(crate) fn node(forwarding: Forwarding) -> Lab {
    node_with(spec(forwarding, |_| ()), 1000)
}

fn cookies(lab: &Lab, net: Net) -> [u64; 4] {
    let id = ServiceId(if net.name == "IPv4" { 900 } else { 901 });
    lab.shared.config.load().service(id).unwrap().excess().cookies
}

fn frame_of(segment: &Segment, macs: (Mac, Mac)) -> Vec<u8> {
    let mut buffer = [0; SEGMENT_LEN_MAX];
    let len = write_segment(&mut buffer, segment).unwrap();
    set_macs(&mut buffer, macs.0, macs.1);
    buffer[..len].to_vec()
}

fn read(frame: &[u8]) -> (Packet, Tcp, SegmentOptions) {
    let Content::Ip(packet) = parse(frame).unwrap().content else { panic!("not IP") };
    let tcp = *tcp_header(frame, &packet).unwrap();
    (packet, tcp, segment_options(frame, &packet).unwrap())
}

fn connection(lab: &Lab, net: Net, client_port: u16) -> Option<Connection> {
    let (client, vip) = (net.client.parse().unwrap(), net.vip.parse().unwrap());
    let key = FlowKey { protocol: Protocol::Tcp, client, client_port, vip, vip_port: PORT };
    lab.shared.table.find(&key)
}

fn sent(outcome: Outcome, port: u16) -> Vec<u8> {
    match outcome {
        Outcome::Sent(by, frame) if by == port => frame,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn advance(lab: &mut Lab, by_ns: u64) {
    lab.now += by_ns;
    let mut actions = Actions::new();
    lab.worker.advance(lab.now, &mut actions);
    lab.actions = actions.drain().collect();
}

/// A client on its way to a service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    net: Net,
    port: u16,
    offer: SegmentOptions,
    /// What it was told: cookie and timestamp.
    cookie: u32,
    echo: u32,
}

impl Client {
    pub(crate) fn new(net: Net, port: u16, offer: SegmentOptions) -> Self {
        Self { net, port, offer, cookie: 0, echo: 0 }
    }

    fn ends(&self) -> (SocketAddr, SocketAddr) {
        (at(self.net.client, self.port), at(self.net.vip, PORT))
    }

    fn segment(&self, flags: u8, seq: u32, ack: u32) -> Segment {
        let (src, dst) = self.ends();
        let timestamps = self.offer.timestamps.map(|(value, _)| (value + 5, self.echo));
        let options = SegmentOptions { timestamps, ..SegmentOptions::default() };
        Segment { src, dst, seq, ack, flags, window: 100, options }
    }

    fn syn(&self) -> Vec<u8> {
        let options = self.offer;
        let syn = Segment { options, window: 64_000, ..self.segment(SYN, ISN, 0) };
        frame_of(&syn, (CLIENT, FRONT))
    }

    pub(crate) fn ack(&self) -> Vec<u8> {
        let ack = self.segment(ACK, ISN.wrapping_add(1), self.cookie.wrapping_add(1));
        frame_of(&ack, (CLIENT, FRONT))
    }

    /// Gets a cookie.
    pub(crate) fn ask(&mut self, lab: &mut Lab) {
        let before = lab.shared.table.len();
        let frame = sent(lab.handle(0, &self.syn()), 0);
        let (packet, tcp, options) = read(&frame);
        let (client, vip) = self.ends();
        assert_eq!((packet.src, packet.dst), (vip.ip(), client.ip()));
        assert_eq!((tcp.src_port.get(), tcp.dst_port.get()), (PORT, self.port));
        assert_eq!((tcp.flags, tcp.window.get()), (SYN_ACK, 0), "it must not send yet");
        assert_eq!(tcp.ack.get(), ISN.wrapping_add(1));
        let mss = if self.net.name == "IPv4" { 1460 } else { 1440 };
        let has_times = self.offer.timestamps.is_some();
        let value = options.timestamps.map(|(value, _)| value);
        let expected = SegmentOptions {
            mss: Some(mss),
            window_scale: self.offer.window_scale.filter(|_| has_times).map(|_| 7),
            sack_permitted: self.offer.sack_permitted && has_times,
            timestamps: value.map(|value| (value, 70_000)),
        };
        assert_eq!((options, options.timestamps.is_some()), (expected, has_times));
        assert_eq!(lab.shared.table.len(), before, "nothing is stored");
        assert_eq!(frame[..12], [CLIENT, FRONT].concat());
        (self.cookie, self.echo) = (tcp.seq.get(), value.unwrap_or(0));
    }

    /// The connection's server, and who it takes for the client.
    fn behind(&self, lab: &Lab) -> (SocketAddr, SocketAddr) {
        let connection = connection(lab, self.net, self.port).unwrap();
        let local = connection.local().map(|local| SocketAddr::new(local.addr, local.port));
        (local.unwrap_or_else(|| self.ends().0), at(self.net.nat, REAL_PORT))
    }

    /// The SYN that the server has to get.
    fn asked(&self, lab: &Lab) -> Vec<u8> {
        let (src, dst) = self.behind(lab);
        let times = self.offer.timestamps.map(|(value, _)| (value + 5, 0));
        let smaller = if self.net.name == "IPv4" { 1460 } else { 1440 };
        let syn = Segment {
            src,
            dst,
            seq: ISN,
            ack: 0,
            flags: SYN,
            window: if times.is_some() { 51_200 } else { 100 },
            options: SegmentOptions {
                mss: Some(smaller),
                window_scale: times.and(self.offer.window_scale),
                sack_permitted: times.is_some(),
                timestamps: times,
            },
        };
        frame_of(&syn, (BACK, NAT_1))
    }

    fn servers(&self, lab: &Lab, flags: u8, ack: u32, options: SegmentOptions) -> Vec<u8> {
        let (client, real) = self.behind(lab);
        let segment =
            Segment { src: real, dst: client, seq: NUMBER, ack, flags, window: 40_000, options };
        frame_of(&segment, (NAT_1, BACK))
    }

    pub(crate) fn syn_ack(&self, lab: &Lab) -> Vec<u8> {
        let offer = if self.offer.timestamps.is_some() { SERVERS_OFFER } else { PLAIN };
        self.servers(lab, SYN_ACK, ISN.wrapping_add(1), offer)
    }

    /// What both sides hear when the server takes the connection: the client a window, the server
    /// an ACK.
    fn told(&self, lab: &Lab) -> (Vec<u8>, Vec<u8>) {
        let (local, real) = self.behind(lab);
        let (client, vip) = self.ends();
        let has_times = self.offer.timestamps.is_some();
        let times = |value, echo| SegmentOptions {
            timestamps: has_times.then_some((value, echo)),
            ..SegmentOptions::default()
        };
        let window = Segment {
            src: vip,
            dst: client,
            seq: self.cookie.wrapping_add(1),
            ack: ISN.wrapping_add(1),
            flags: ACK,
            window: if has_times { 40_000 >> 7 } else { 40_000 },
            options: times(self.echo, 70_005),
        };
        let ack = Segment {
            src: local,
            dst: real,
            seq: ISN.wrapping_add(1),
            ack: NUMBER.wrapping_add(1),
            flags: ACK,
            window: 100,
            options: times(70_005, 0xffff_0000),
        };
        (frame_of(&window, (FRONT, CLIENT)), frame_of(&ack, (BACK, NAT_1)))
    }

    /// The server answers, and both sides are told.
    fn join(&self, lab: &mut Lab) {
        let syn_ack = self.syn_ack(lab);
        let (window, ack) = self.told(lab);
        assert_eq!(lab.handle(1, &syn_ack), Outcome::Sent(0, window));
        assert_eq!(emitted(lab), [(1, ack)]);
    }

    fn open(net: Net, port: u16, lab: &mut Lab) -> Self {
        let mut client = Self::new(net, port, OFFER);
        client.ask(lab);
        let outcome = lab.handle(0, &client.ack());
        assert_eq!(outcome, Outcome::Sent(1, client.asked(lab)));
        client.join(lab);
        client
    }

    /// One segment each way.
    fn talk(&self, lab: &mut Lab, sent_before: u32) {
        let (local, real) = self.behind(lab);
        let (client, vip) = self.ends();
        let has_times = self.offer.timestamps.is_some();
        let times = |value, echo| SegmentOptions {
            timestamps: has_times.then_some((value, echo)),
            ..SegmentOptions::default()
        };
        let seq = ISN.wrapping_add(1 + sent_before);
        let ack = self.cookie.wrapping_add(1 + sent_before);
        let received =
            Segment { options: times(80_000, self.echo + 3), ..self.segment(ACK, seq, ack) };
        let expected = Segment {
            src: local,
            dst: real,
            ack: NUMBER.wrapping_add(1 + sent_before),
            options: times(80_000, 0xffff_0003),
            ..received
        };
        let outcome = sent(lab.handle(0, &frame_of(&received, (CLIENT, FRONT))), 1);
        assert_same(&outcome, &frame_of(&expected, (BACK, NAT_1)));
        let received = Segment {
            src: real,
            dst: local,
            seq: NUMBER.wrapping_add(1 + sent_before),
            ack: seq,
            window: 4000,
            options: times(0xffff_0009, 80_000),
            ..received
        };
        let expected = Segment {
            src: vip,
            dst: client,
            seq: ack,
            window: if has_times { 1000 } else { 4000 },
            options: times(self.echo + 9, 80_000),
            ..received
        };
        let outcome = sent(lab.handle(1, &frame_of(&received, (NAT_1, BACK))), 0);
        assert_same(&outcome, &frame_of(&expected, (FRONT, CLIENT)));
    }
}

/// Forwarded frames differ from those made here by their time to live alone.
fn assert_same(found: &[u8], expected: &[u8]) {
    let plain = |frame: &[u8]| {
        let (packet, tcp, options) = read(frame);
        let ends = (packet.src, packet.dst, tcp.src_port.get(), tcp.dst_port.get());
        let numbers = (tcp.seq.get(), tcp.ack.get(), tcp.window.get(), tcp.checksum.get());
        (frame[..12].to_vec(), ends, numbers, tcp.flags, options)
    };
    assert_eq!(plain(found), plain(expected));
}

pub(crate) fn emitted(lab: &Lab) -> Vec<(u16, Vec<u8>)> {
    let sent = |action: &Action| match action {
        Action::Send { port, frame } => Some((*port, frame.bytes().to_vec())),
        Action::Probe { .. } => None,
    };
    lab.actions.iter().filter_map(sent).collect()
}

#[test]
fn a_server_hears_of_a_client_that_came_back() {
    for forwarding in FORWARDINGS {
        for net in NETS {
            for offer in [OFFER, SegmentOptions { timestamps: None, ..OFFER }] {
                let mut lab = node(forwarding);
                let mut client = Client::new(net, CLIENT_PORT, offer);
                client.ask(&mut lab);
                let outcome = lab.handle(0, &client.ack());
                assert_eq!(outcome, Outcome::Sent(1, client.asked(&lab)), "{client:?}");
                let held = connection(&lab, net, CLIENT_PORT).unwrap();
                assert_eq!((held.state(), held.deltas()), (State::SynRecv, None));
                client.join(&mut lab);
                assert_eq!(held.state(), State::Established);
                let deltas = held.deltas().unwrap();
                assert_eq!(deltas.to_client, client.cookie.wrapping_sub(NUMBER));
                let log = lab.log.take();
                assert_eq!(log[0], format!("created {CLIENT_PORT} server {}", held.server()));
                let last = format!("forwarded {CLIENT_PORT} SYN_RECV>ESTABLISHED 2");
                assert_eq!(log.last().unwrap(), &last, "it is copied at once");
                client.talk(&mut lab, 0);
                client.talk(&mut lab, 0x1_0000);
                assert_eq!(cookies(&lab, net), [1, 1, 0, 0]);
            }
        }
    }
}

/// What is lost on the way is sent again by somebody.
#[test]
fn each_packet_may_be_lost() {
    for forwarding in FORWARDINGS {
        for net in NETS {
            let mut lab = node(forwarding);
            let mut client = Client::new(net, CLIENT_PORT, OFFER);
            // The SYN, or its answer: the client sends it again, and gets the same cookie.
            client.ask(&mut lab);
            let first = client.cookie;
            client.ask(&mut lab);
            assert_eq!(client.cookie, first);
            // Its ACK: a probe of the closed window brings the cookie as well.
            let probe = client.segment(ACK, ISN, client.cookie.wrapping_add(1));
            let probe = Segment { window: 100, ..probe };
            let outcome = lab.handle(0, &frame_of(&probe, (CLIENT, FRONT)));
            assert_eq!(outcome, Outcome::Sent(1, client.asked(&lab)));
            // The SYN to the server, or its answer.
            advance(&mut lab, WAITS_MS[0] * MS - 1);
            assert_eq!(lab.actions, []);
            let mut waits = WAITS_MS.into_iter();
            let mut wait = waits.next().unwrap() * MS - (WAITS_MS[0] * MS - 1);
            for _ in 1..WAITS_MS.len() {
                advance(&mut lab, wait);
                assert_eq!(emitted(&lab), [(1, client.asked(&lab))]);
                wait = waits.next().unwrap() * MS;
            }
            // Meanwhile its window stays closed.
            let outcome = lab.handle(0, &frame_of(&probe, (CLIENT, FRONT)));
            let (_, tcp, _) = read(&sent(outcome, 0));
            assert_eq!((tcp.flags, tcp.window.get()), (ACK, 0));
            assert_eq!(tcp.seq.get(), client.cookie.wrapping_add(1));
            assert_eq!(lab.handle(0, &client.ack()), dropped(Reason::Shaking));
            client.join(&mut lab);
            advance(&mut lab, 10 * SECOND);
            assert_eq!(lab.actions, [], "nobody is asked any more");
            // The ACK to the server: it answers once more, and the client acknowledges again.
            let again = lab.handle(1, &client.syn_ack(&lab));
            let (_, tcp, _) = read(&sent(again, 0));
            assert_eq!((tcp.flags, tcp.seq.get()), (SYN_ACK, client.cookie));
            client.talk(&mut lab, 0);
            assert_eq!(cookies(&lab, net), [2, 1, 0, 0]);
        }
    }
}

#[test]
fn a_client_hears_that_its_server_does_not_answer() {
    for net in NETS {
        let mut lab = node(Forwarding::Nat);
        let mut client = Client::new(net, CLIENT_PORT, OFFER);
        client.ask(&mut lab);
        lab.handle(0, &client.ack());
        for wait in &WAITS_MS[..WAITS_MS.len() - 1] {
            advance(&mut lab, wait * MS);
            assert_eq!(emitted(&lab).len(), 1);
        }
        advance(&mut lab, WAITS_MS[WAITS_MS.len() - 1] * MS);
        let (_, tcp, _) = read(&emitted(&lab)[0].1);
        assert_eq!((tcp.flags, tcp.seq.get()), (RST_ACK, client.cookie.wrapping_add(1)));
        assert!(connection(&lab, net, CLIENT_PORT).is_none());
        assert_eq!(lab.log.take().pop().unwrap(), format!("removed {CLIENT_PORT} GivenUp"));
        assert_eq!(cookies(&lab, net), [1, 1, 0, 1]);
        advance(&mut lab, 60 * SECOND);
        assert_eq!(lab.actions, []);
    }
}

#[test]
fn resets_end_a_handshake_and_forged_ones_do_not() {
    for net in NETS {
        let mut lab = node(Forwarding::FullNat);
        let mut client = Client::new(net, CLIENT_PORT, OFFER);
        client.ask(&mut lab);
        lab.handle(0, &client.ack());
        let none = SegmentOptions::default();
        let wrong = client.servers(&lab, RST_ACK, ISN, none);
        assert_eq!(lab.handle(1, &wrong), dropped(Reason::Shaking));
        // An old connection of the server: it is told to forget that one.
        let old = client.servers(&lab, ACK, 77, none);
        let (_, tcp, _) = read(&sent(lab.handle(1, &old), 1));
        assert_eq!((tcp.flags, tcp.seq.get()), (RST, 77));
        let reset = client.servers(&lab, RST_ACK, ISN.wrapping_add(1), none);
        let (_, tcp, _) = read(&sent(lab.handle(1, &reset), 0));
        assert_eq!((tcp.flags, tcp.seq.get()), (RST_ACK, client.cookie.wrapping_add(1)));
        assert_eq!(tcp.ack.get(), ISN.wrapping_add(1));
        assert!(connection(&lab, net, CLIENT_PORT).is_none());

        // The client gives up.
        client.ask(&mut lab);
        lab.handle(0, &client.ack());
        let reset = |seq| frame_of(&client.segment(RST, seq, 0), (CLIENT, FRONT));
        assert_eq!(lab.handle(0, &reset(ISN)), dropped(Reason::Shaking));
        let (_, tcp, _) = read(&sent(lab.handle(0, &reset(ISN.wrapping_add(1))), 1));
        assert_eq!((tcp.flags, tcp.seq.get()), (RST, ISN.wrapping_add(1)));
        assert!(connection(&lab, net, CLIENT_PORT).is_none());
        advance(&mut lab, 60 * SECOND);
        assert_eq!(lab.actions, [], "nobody is asked for one that is gone");
    }
}

#[test]
fn what_is_no_cookie_is_refused() {
    for net in NETS {
        let mut lab = node(Forwarding::Nat);
        let mut client = Client::new(net, CLIENT_PORT, OFFER);
        client.ask(&mut lab);
        let good = client.ack();
        let forged = Client { cookie: client.cookie ^ 1, ..client };
        let stranger = Client { port: CLIENT_PORT + 1, ..client };
        for other in [forged, stranger] {
            let (_, tcp, _) = read(&sent(lab.handle(0, &other.ack()), 0));
            assert_eq!(tcp.flags, RST, "{other:?}");
        }
        assert!(lab.shared.table.is_empty());
        assert_eq!(cookies(&lab, net)[CookieEvent::Refused as usize], 2);
        for (slot, is_good) in [(9, false), (8, true)] {
            lab.shared.cookie_keys.store(Some(Arc::new(keys(slot))));
            let outcome = lab.handle(0, &good);
            let port = if is_good { 1 } else { 0 };
            sent(outcome, port);
            assert_eq!(lab.shared.table.is_empty(), !is_good, "in slot {slot}");
        }
    }
}

/// Whichever node issued it, whichever worker gets it.
#[test]
fn another_worker_and_another_node_accept_a_cookie() {
    for net in NETS {
        let mut lab = node(Forwarding::Nat);
        let mut client = Client::new(net, CLIENT_PORT, OFFER);
        client.ask(&mut lab);
        let mut second = node(Forwarding::Nat);
        assert_eq!(
            second.handle(0, &client.ack()),
            Outcome::Sent(1, client.asked(&second)),
            "another node"
        );
        client.join(&mut second);
        client.talk(&mut second, 0);

        lab.worker = Worker::new(1, Arc::clone(&lab.shared), Arc::clone(&lab.log));
        assert_eq!(lab.handle(0, &client.ack()), Outcome::Sent(1, client.asked(&lab)));
        lab.worker = Worker::new(0, Arc::clone(&lab.shared), Arc::clone(&lab.log));
        client.join(&mut lab);
        client.talk(&mut lab, 0);
    }
}

/// What the former holder has opened may still be on its way here.
#[test]
fn after_a_take_over_cookies_of_others_wait() {
    let net = NETS[0];
    let mut first = node(Forwarding::Nat);
    let mut client = Client::new(net, CLIENT_PORT, OFFER);
    client.ask(&mut first);
    let mut second = node(Forwarding::Nat);
    let now = second.now;
    let copy_complete = true;
    second.set_role(Role::Holder { epoch: epoch(1), since_ns: now, copy_complete });
    assert_eq!(second.handle(0, &client.ack()), dropped(Reason::HeldBack));
    let mut own = Client::new(net, CLIENT_PORT + 1, OFFER);
    own.ask(&mut second);
    assert_eq!(second.handle(0, &own.ack()), Outcome::Sent(1, own.asked(&second)), "its own");
    second.now += 3 * SECOND;
    assert_eq!(second.handle(0, &client.ack()), Outcome::Sent(1, client.asked(&second)));
}

/// In the middle of a stream, on a copy.
#[test]
fn a_successor_goes_on() {
    for forwarding in FORWARDINGS {
        for net in NETS {
            let mut first = node(forwarding);
            let client = Client::open(net, CLIENT_PORT, &mut first);
            client.talk(&mut first, 0);
            let opened = connection(&first, net, CLIENT_PORT).unwrap();
            let copy = Replica {
                record: Record { target: None, ..opened.record() },
                state: opened.state(),
                in_pkts: 3,
                assured: true,
                donated: false,
                snapshot: 1,
                deltas: opened.deltas(),
            };
            let mut second = node(forwarding);
            let config = second.shared.config.load_full();
            second.shared.table.apply_replica(&copy, &config, START);
            client.talk(&mut second, 1000);
        }
    }
}

/// Servers that know less than clients were promised.
#[test]
fn windows_are_translated_whatever_the_server_offers() {
    let cases = [(Some(0), (-7, 0)), (Some(7), (0, 0)), (Some(14), (7, 0)), (None, (-7, 9))];
    for (window_scale, expected) in cases {
        let mut lab = node(Forwarding::Nat);
        let mut client = Client::new(NETS[0], CLIENT_PORT, OFFER);
        client.ask(&mut lab);
        lab.handle(0, &client.ack());
        let offer = SegmentOptions { window_scale, ..SERVERS_OFFER };
        let syn_ack = client.servers(&lab, SYN_ACK, ISN.wrapping_add(1), offer);
        sent(lab.handle(1, &syn_ack), 0);
        let deltas = connection(&lab, NETS[0], CLIENT_PORT).unwrap().deltas().unwrap();
        assert_eq!((deltas.windows_to_client, deltas.windows_to_server), expected);
        let (_, ack, _) = read(&emitted(&lab)[0].1);
        let window = if window_scale.is_some() { 100 } else { 100 << 9 };
        assert_eq!(ack.window.get(), window, "to the server, {window_scale:?}");
    }
    // A server without timestamps: those of the client are left alone.
    let mut lab = node(Forwarding::Nat);
    let mut client = Client::new(NETS[1], CLIENT_PORT, OFFER);
    client.ask(&mut lab);
    lab.handle(0, &client.ack());
    let offer = SegmentOptions { timestamps: None, ..SERVERS_OFFER };
    let syn_ack = client.servers(&lab, SYN_ACK, ISN.wrapping_add(1), offer);
    sent(lab.handle(1, &syn_ack), 0);
    let deltas = connection(&lab, NETS[1], CLIENT_PORT).unwrap().deltas().unwrap();
    assert_eq!(deltas.timestamps, 0);
}

/// No memory, no connection; and whoever comes back gets in.
#[test]
fn a_flood_stores_nothing() {
    for mode in [SynProxy::Always, SynProxy::Auto] {
        let net = NETS[0];
        let spec = spec(Forwarding::Nat, |service| service.syn_proxy = mode);
        let mut lab = node_with(spec, 100);
        let mut clients = 0;
        for n in 0..10_000_u16 {
            lab.now += MS / 10;
            let forged = Client::new(net, 10_000 + n, OFFER);
            let outcome = lab.handle(0, &forged.syn());
            assert!(matches!(outcome, Outcome::Sent(..)), "{outcome:?}");
            assert!(lab.shared.table.len() <= 100 + clients, "{mode:?}");
            if n % 500 == 499 {
                let client = Client::open(net, 1000 + n, &mut lab);
                client.talk(&mut lab, 0);
                clients += 1;
            }
        }
        assert_eq!(clients, 20, "all of them get in");
        let half_open = lab.shared.table.half_open();
        let expected = if mode == SynProxy::Auto { 100 } else { 0 };
        assert!(half_open <= expected, "{half_open} {mode:?}");
        // One in a second tries whether there is room again.
        let [given, ..] = cookies(&lab, net);
        assert!(given >= 10_000 - expected as u64 - 2, "{given}");
    }
}

#[test]
fn automatic_cookies_end_with_the_need() {
    let net = NETS[0];
    let spec = spec(Forwarding::Nat, |service| service.syn_proxy = SynProxy::Auto);
    let mut lab = node_with(spec, 8);
    let open = |lab: &mut Lab, port: u16| {
        sent(lab.handle(0, &Client::new(net, port, OFFER).syn()), 1);
    };
    (0..8).for_each(|n| open(&mut lab, 5000 + n));
    assert_eq!(cookies(&lab, net)[0], 0);
    lab.now += SECOND;
    // This one pushes out the oldest; the next does without.
    open(&mut lab, 6000);
    Client::new(net, 6001, OFFER).ask(&mut lab);
    lab.now += SECOND - 1;
    Client::new(net, 6002, OFFER).ask(&mut lab);
    lab.now += 1;
    open(&mut lab, 6003);
    Client::new(net, 6004, OFFER).ask(&mut lab);
    // All have timed out.
    lab.now += 61 * SECOND;
    let (now, log) = (lab.now, &lab.log);
    while lab.shared.advance(now, 100_000, log).more {}
    (0..8).for_each(|n| open(&mut lab, 7000 + n));
    assert_eq!(cookies(&lab, net)[0], 3);
}

/// More than a worker waits for are not let in, and may come again.
#[test]
fn servers_that_are_waited_for_are_bounded() {
    let net = NETS[1];
    let mut lab = node_with(spec(Forwarding::Nat, |_| ()), 10_000);
    for n in 0..=HANDSHAKES_MAX as u16 {
        let mut client = Client::new(net, 1000 + n, OFFER);
        client.ask(&mut lab);
        match lab.handle(0, &client.ack()) {
            Outcome::Sent(1, _) => assert!(usize::from(n) < HANDSHAKES_MAX),
            outcome => {
                assert_eq!(
                    (outcome, usize::from(n)),
                    (dropped(Reason::ShakingFull), HANDSHAKES_MAX)
                );
            }
        }
    }
    assert_eq!(lab.shared.table.len(), HANDSHAKES_MAX);
}

/// A client that comes with a cookie is scheduled as any other, and is told when it cannot be.
#[test]
fn limits_hold_for_clients_with_cookies() {
    let net = NETS[0];
    let limits = Limits { per_source: 1, over: Over::Hash, ..Limits::default() };
    let mut lab = node_with(spec(Forwarding::Nat, |service| service.limits = limits), 100);
    let client = Client::open(net, CLIENT_PORT, &mut lab);
    let mut next = Client::new(net, CLIENT_PORT + 1, OFFER);
    next.ask(&mut lab);
    let (_, tcp, _) = read(&sent(lab.handle(0, &next.ack()), 0));
    assert_eq!(tcp.flags, RST);
    client.talk(&mut lab, 0);

    let mut lab = node_with(spec(Forwarding::Nat, |service| service.servers[0].weight = 0), 100);
    let mut alone = Client::new(net, CLIENT_PORT, OFFER);
    alone.ask(&mut lab);
    let (_, tcp, _) = read(&sent(lab.handle(0, &alone.ack()), 0));
    assert_eq!(tcp.flags, RST, "no server takes it");
}

/// A port that is used again: the finished connection gives way to a client that comes back, and
/// to nobody before.
#[test]
fn a_finished_connection_gives_way() {
    for net in NETS {
        let mut lab = node(Forwarding::FullNat);
        let client = Client::open(net, CLIENT_PORT, &mut lab);
        let old = connection(&lab, net, CLIENT_PORT).unwrap();
        client.talk(&mut lab, 0);
        let (incarnation, record) = (old.incarnation(), old.record());
        old.set_state(State::TimeWait);
        lab.now += SECOND;
        let mut again = Client::new(net, CLIENT_PORT, OFFER);
        again.ask(&mut lab);
        assert!(!old.is_dead() && old.record() == record, "a SYN may be forged");
        let outcome = lab.handle(0, &again.ack());
        assert_eq!(outcome, Outcome::Sent(1, again.asked(&lab)));
        assert!(connection(&lab, net, CLIENT_PORT).unwrap().incarnation() > incarnation);
        again.join(&mut lab);
        again.talk(&mut lab, 0);
    }
}

#[test]
fn without_keys_and_where_replies_go_another_way_there_are_no_cookies() {
    let net = NETS[0];
    let mut lab = node(Forwarding::Nat);
    lab.shared.cookie_keys.store(None);
    sent(lab.handle(0, &Client::new(net, CLIENT_PORT, OFFER).syn()), 1);
    assert_eq!(cookies(&lab, net), [0; 4]);
    for change in [
        |service: &mut ServiceSpec| {
            service.forwarding = Forwarding::Dr;
            service.servers[0].port = PORT;
        },
        |service: &mut ServiceSpec| service.listen[0].protocol = Protocol::Udp,
    ] {
        let error = Config::compile(spec(Forwarding::Nat, change), None).unwrap_err();
        assert!(matches!(error, ConfigError::SynProxy(_)), "{error}");
    }
}

#[test]
fn the_answer_offers_segments_that_fit() {
    let clamp = |service: &mut ServiceSpec| service.mss_clamp = MssClamp::At(1300);
    let mut lab = node_with(spec(Forwarding::Nat, clamp), 100);
    let frame = sent(lab.handle(0, &Client::new(NETS[1], 1, OFFER).syn()), 0);
    assert_eq!(read(&frame).2.mss, Some(1300));
}

/// What `clusterctl trace` shows is what would be done, and leaves no trace itself.
#[test]
fn rehearsals_get_cookies_too() {
    let net = NETS[0];
    let mut lab = node(Forwarding::Nat);
    let mut client = Client::new(net, CLIENT_PORT, OFFER);
    let told = lab.shared.rehearse(lab.now, 0, &client.syn());
    client.ask(&mut lab);
    assert_eq!(read(&told.frame).1.seq.get(), client.cookie);
    let told = lab.shared.rehearse(lab.now, 0, &client.ack());
    assert!(told.opened.is_some() && lab.shared.table.is_empty());
    lab.handle(0, &client.ack());
    let syn_ack = client.syn_ack(&lab);
    let told = lab.shared.rehearse(lab.now, 1, &syn_ack);
    assert_eq!(told.frame, client.told(&lab).0);
    assert_eq!(connection(&lab, net, CLIENT_PORT).unwrap().deltas(), None);
    client.join(&mut lab);
    let deltas = connection(&lab, net, CLIENT_PORT).unwrap().deltas();
    assert!(deltas.is_some_and(|deltas| deltas != Deltas::default()));
}
