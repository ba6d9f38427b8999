//! Connections whose two sides count differently: frames in, frames out, for both families and both
//! ways of NAT. What is expected is built by etherparse, checksums too.

use std::net::{IpAddr, SocketAddr};

use crate::both::{self, *};
use crate::lab::{self, *};
use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement::*};
use proptest::prelude::*;
use steadfast_dataplane::{
    ConfigSpec, Connection, Deltas, FlowKey, Forwarding, Grown, LongerReply, MssClamp, NextHops,
    PortSlot, Protocol, Reason, Record, Replica, ServiceSpec, State,
};
use steadfast_packet::{internet_checksum, pseudo_sum};

const PORT: u16 = 9090;
const FORWARDINGS: [Forwarding; 2] = [Forwarding::Nat, Forwarding::FullNat];

/// The server counts far ahead of what its client is told, and has heard 28 octets more.
const DELTAS: Deltas = Deltas {
    to_client: 0x9000_0000,
    to_server: 28,
    timestamps: 0u32.wrapping_sub(1000),
    windows_to_client: -2,
    windows_to_server: 3,
    header_at: None,
    longer: None,
};

/// A TCP service on one port in each family.
fn spec(forwarding: Forwarding, change: impl Fn(&mut ServiceSpec)) -> ConfigSpec {
    let mut spec = both::spec(1);
    spec.port_slot = PortSlot::new(3);
    for (id, net) in (900..).zip(NETS) {
        let local = if net.name == "IPv4" { "198.18.1.200" } else { "2001:db8:1::200" };
        spec.groups[0].locals.push(local.parse().unwrap());
        let service = lab::service(id, Protocol::Tcp, PORT, vec![server(id, net.nat, REAL_PORT)]);
        let mut service = ServiceSpec { forwarding, ..service };
        service.listen[0].vip = net.vip.parse().unwrap();
        change(&mut service);
        spec.services.push(service);
    }
    spec
}

fn node(forwarding: Forwarding) -> Lab {
    node_with(spec(forwarding, |_| ()))
}

fn node_with(spec: ConfigSpec) -> Lab {
    let lab = Lab::with(spec, 1000);
    lab.shared.set_next_hops(NextHops::new(both::next_hops()));
    lab
}

/// A segment; whatever matters of it.
#[derive(Clone, Copy, Debug)]
struct Segment {
    ends: (SocketAddr, SocketAddr),
    flags: u8,
    seq: u32,
    ack: u32,
    window: u16,
    /// The edges of one block, and timestamps.
    sack: Option<(u32, u32)>,
    times: Option<(u32, u32)>,
    data: &'static [u8],
}

impl Segment {
    fn frame(&self, macs: (Mac, Mac), ttl: u8) -> Vec<u8> {
        let (src, dst) = self.ends;
        let mut header = TcpHeader::new(src.port(), dst.port(), self.seq, self.window);
        header.acknowledgment_number = self.ack;
        (header.syn, header.ack) = (self.flags & 2 != 0, self.flags & 0x10 != 0);
        let sack = self.sack.map(|block| SelectiveAcknowledgement(block, [None; 3]));
        let times = self.times.map(|(value, echo)| Timestamp(value, echo));
        let options: Vec<_> = [Some(Noop), times, sack].into_iter().flatten().collect();
        header.set_options(&options).unwrap();
        let builder = PacketBuilder::ip(ip(src.ip(), dst.ip(), ttl, Protocol::Tcp));
        let mut packet = Vec::new();
        builder.tcp_header(header).write(&mut packet, self.data).unwrap();
        framed(macs, &packet)
    }
}

/// A connection that is open, and who its server takes for the client.
struct Open {
    net: Net,
    connection: Connection,
    local: SocketAddr,
}

impl Open {
    fn new(lab: &mut Lab, net: Net, port: u16) -> Self {
        let ends = (at(net.client, port), at(net.vip, PORT));
        let syn = Segment {
            ends,
            flags: SYN,
            seq: 1,
            ack: 0,
            window: 512,
            sack: None,
            times: None,
            data: b"",
        };
        let outcome = lab.handle(0, &syn.frame((CLIENT, FRONT), 64));
        assert!(matches!(outcome, Outcome::Sent(1, _)), "{outcome:?}");
        Self::find(lab, net, port)
    }

    fn find(lab: &Lab, net: Net, client_port: u16) -> Self {
        let (client, vip) = (net.client.parse().unwrap(), net.vip.parse().unwrap());
        let key = FlowKey { protocol: Protocol::Tcp, client, client_port, vip, vip_port: PORT };
        let connection = lab.shared.table.find(&key).unwrap();
        let local = connection.local();
        let local = local
            .map_or_else(|| at(net.client, client_port), |local| (local.addr, local.port).into());
        Self { net, connection, local }
    }

    /// One segment each way through the node, and what has to come out.
    fn exchange(&self, lab: &mut Lab, deltas: &Deltas, times: Option<(u32, u32)>, case: &str) {
        let client =
            SocketAddr::new(self.net.client.parse().unwrap(), self.connection.key().client_port);
        let (vip, real) = (at(self.net.vip, PORT), at(self.net.nat, REAL_PORT));
        let Deltas { to_client, to_server, timestamps, .. } = *deltas;
        let scaled = |window: u16, by: i8| match by {
            0.. => u16::try_from(u32::from(window) << by).unwrap_or(u16::MAX),
            _ => window >> -by,
        };
        let received = Segment {
            ends: (client, vip),
            flags: ACK,
            seq: u32::MAX - 3,
            ack: 0x7000,
            window: 1024,
            sack: Some((0xffff_fff0, 5)),
            times,
            data: b"a request",
        };
        let sent = Segment {
            ends: (self.local, real),
            seq: received.seq.wrapping_add(to_server),
            ack: received.ack.wrapping_sub(to_client),
            window: scaled(1024, deltas.windows_to_server),
            sack: received
                .sack
                .map(|(left, right)| (left.wrapping_sub(to_client), right.wrapping_sub(to_client))),
            times: times.map(|(value, echo)| (value, echo.wrapping_sub(timestamps))),
            ..received
        };
        let outcome = lab.handle(0, &received.frame((CLIENT, FRONT), 64));
        assert_eq!(
            outcome,
            Outcome::Sent(1, sent.frame((BACK, NAT_1), 63)),
            "{case}: to the server"
        );

        let received = Segment {
            ends: (real, self.local),
            seq: 0x7fff_ffff,
            ack: sent.seq.wrapping_add(9),
            sack: Some((40, 10)),
            data: b"an answer",
            ..received
        };
        let sent = Segment {
            ends: (vip, client),
            seq: received.seq.wrapping_add(to_client),
            ack: received.ack.wrapping_sub(to_server),
            window: scaled(1024, deltas.windows_to_client),
            sack: received
                .sack
                .map(|(left, right)| (left.wrapping_sub(to_server), right.wrapping_sub(to_server))),
            times: times.map(|(value, echo)| (value.wrapping_add(timestamps), echo)),
            ..received
        };
        let outcome = lab.handle(1, &received.frame((NAT_1, BACK), 64));
        assert_eq!(
            outcome,
            Outcome::Sent(0, sent.frame((FRONT, CLIENT), 63)),
            "{case}: to the client"
        );
    }
}

#[test]
fn segments_are_shifted_both_ways() {
    for forwarding in FORWARDINGS {
        for net in NETS {
            let mut lab = node(forwarding);
            let open = Open::new(&mut lab, net, CLIENT_PORT);
            let case = format!("{} {forwarding:?}", net.name);
            open.exchange(&mut lab, &Deltas::default(), Some((7, 9)), &format!("{case}, none yet"));
            lab.shared.table.set_deltas(&open.connection, &DELTAS);
            for times in [None, Some((7, 9)), Some((u32::MAX, 0))] {
                open.exchange(&mut lab, &DELTAS, times, &case);
            }
        }
    }
}

/// Its copy holds all that its packets need: the successor goes on where the holder was.
#[test]
fn a_successor_shifts_as_the_holder_did() {
    for forwarding in FORWARDINGS {
        for net in NETS {
            let case = format!("{} {forwarding:?}", net.name);
            let mut first = node(forwarding);
            let open = Open::new(&mut first, net, CLIENT_PORT);
            first.shared.table.set_deltas(&open.connection, &DELTAS);
            open.exchange(&mut first, &DELTAS, Some((7, 9)), &case);
            let mut second = node(forwarding);
            let config = second.shared.config.load_full();
            let copy = |deltas| Replica {
                record: Record { target: None, ..open.connection.record() },
                state: State::Established,
                in_pkts: 3,
                assured: true,
                donated: false,
                snapshot: 1,
                deltas,
            };
            // Told again, with what was not known at first; and by one who does not know.
            for deltas in [None, Some(DELTAS), None] {
                second.shared.table.apply_replica(&copy(deltas), &config, START);
            }
            let copied = Open::find(&second, net, CLIENT_PORT);
            assert_eq!(copied.connection.deltas(), Some(DELTAS), "{case}");
            copied.exchange(&mut second, &DELTAS, Some((7, 9)), &case);
        }
    }
}

/// A copy that waits for its server keeps its numbers; whoever comes into its place has none.
#[test]
fn numbers_stay_with_their_connection() {
    let mut first = node(Forwarding::Nat);
    let open = Open::new(&mut first, NETS[0], CLIENT_PORT);
    let mut second = node_with(both::spec(1));
    let empty = second.shared.config.load_full();
    let record = Record { target: None, ..open.connection.record() };
    let copy = Replica {
        record,
        state: State::Established,
        in_pkts: 3,
        assured: true,
        donated: false,
        snapshot: 1,
        deltas: Some(DELTAS),
    };
    second.shared.table.apply_replica(&copy, &empty, START);
    assert_eq!(Open::find(&second, NETS[0], CLIENT_PORT).connection.target(), None);
    second.set_config(ConfigSpec { generation: 2, ..spec(Forwarding::Nat, |_| ()) });
    second.shared.set_next_hops(NextHops::new(both::next_hops()));
    Open::find(&second, NETS[0], CLIENT_PORT);
    let client = at(NETS[0].client, CLIENT_PORT);
    let ends = (client, at(NETS[0].vip, PORT));
    let ack =
        Segment { ends, flags: ACK, seq: 1, ack: 1, window: 1, sack: None, times: None, data: b"" };
    second.handle(0, &ack.frame((CLIENT, FRONT), 64));
    let bound = Open::find(&second, NETS[0], CLIENT_PORT);
    assert!(bound.connection.target().is_some());
    bound.exchange(&mut second, &DELTAS, None, "bound");

    let (key, incarnation) = (bound.connection.key(), bound.connection.incarnation());
    assert!(second.shared.table.remove(&key, incarnation).is_some());
    let next = Open::new(&mut second, NETS[0], CLIENT_PORT);
    assert_eq!(next.connection.deltas(), None);
    next.exchange(&mut second, &Deltas::default(), None, "the next one");
    let own = Deltas { to_client: 1, ..DELTAS };
    second.shared.table.set_deltas(&next.connection, &own);
    second.shared.table.set_deltas(&bound.connection, &DELTAS);
    assert_eq!(next.connection.deltas(), Some(own), "a dead handle changes nothing");
}

/// Who hears of its own packet finds the number that it has sent.
#[test]
fn errors_quote_what_their_receiver_sent() {
    const SEQ: u32 = 1000;
    for net in NETS {
        let mut lab = node(Forwarding::Nat);
        let open = Open::new(&mut lab, net, CLIENT_PORT);
        lab.shared.table.set_deltas(&open.connection, &DELTAS);
        let (client, vip) = (at(net.client, CLIENT_PORT), at(net.vip, PORT));
        let real = at(net.nat, REAL_PORT);
        // Where the error comes in, the quoted segment as it left here and as it came here, and what
        // it was shifted by.
        let cases = [
            (0, (vip, client), (real, client), DELTAS.to_client),
            (1, (client, real), (client, vip), DELTAS.to_server),
        ];
        for (port, quoted, original, delta) in cases {
            let router: IpAddr = net.router.parse().unwrap();
            let macs = if port == 0 { (CLIENT, FRONT) } else { (NAT_1, BACK) };
            let received = error_about(router, quoted, SEQ.wrapping_add(delta));
            let outcome = lab.handle(port, &framed(macs, &received));
            let Outcome::Sent(_, frame) = outcome else { panic!("{outcome:?}") };
            let from = if port == 0 { router } else { vip.ip() };
            let expected = error_about(from, original, SEQ);
            let at = 14 + if router.is_ipv4() { 20 } else { 40 };
            assert_eq!(frame[at..], expected[at - 14..], "{} from port {port}", net.name);
        }
    }
}

/// "Packet too big" to the sender of this segment.
fn error_about(from: IpAddr, ends: (SocketAddr, SocketAddr), seq: u32) -> Vec<u8> {
    let segment =
        Segment { ends, flags: ACK, seq, ack: 5, window: 6, sack: None, times: None, data: b"abc" };
    let quoted = segment.frame((CLIENT, FRONT), 1).split_off(14);
    let to = ends.0.ip();
    let (kind, protocol) = if from.is_ipv4() { ([3, 4], 1) } else { ([2, 0], 58) };
    let mut message = vec![kind[0], kind[1], 0, 0, 0, 0, 5, 0];
    message.extend(&quoted);
    let sum = match from.is_ipv4() {
        true => 0,
        false => pseudo_sum(from, to, protocol, message.len() as u32),
    };
    let checksum = internet_checksum(sum, &message).to_be_bytes();
    message[2..4].copy_from_slice(&checksum);
    let mut bytes = Vec::new();
    let headers = ip(from, to, 64, Protocol::Udp);
    PacketBuilder::ip(headers).write(&mut bytes, etherparse::IpNumber(protocol), &message).unwrap();
    bytes
}

#[test]
fn options_that_cannot_be_read_are_dropped_and_counted() {
    let mut lab = node(Forwarding::Nat);
    let open = Open::new(&mut lab, NETS[0], CLIENT_PORT);
    let mut header = TcpHeader::new(CLIENT_PORT, PORT, 5, 6);
    header.ack = true;
    header.set_options_raw(&[8, 9, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]).unwrap();
    let (client, vip) = (NETS[0].client.parse().unwrap(), NETS[0].vip.parse().unwrap());
    let builder = PacketBuilder::ip(ip(client, vip, 64, Protocol::Tcp)).tcp_header(header);
    let mut packet = Vec::new();
    builder.write(&mut packet, b"").unwrap();
    let frame = framed((CLIENT, FRONT), &packet);
    assert!(matches!(lab.handle(0, &frame), Outcome::Sent(1, _)), "it is nobody's business");
    lab.shared.table.set_deltas(&open.connection, &DELTAS);
    assert_eq!(lab.handle(0, &frame), dropped(Reason::TcpOptions));
    assert_eq!(lab.worker.counters().dropped(Reason::TcpOptions), 1);
}

/// The segment size is clamped whether or not the numbers are shifted.
#[test]
fn handshakes_are_clamped_and_shifted() {
    let spec = spec(Forwarding::Nat, |service| service.mss_clamp = MssClamp::At(1200));
    let mut lab = node_with(spec);
    let open = Open::new(&mut lab, NETS[0], CLIENT_PORT);
    let deltas = Deltas { windows_to_server: 2, ..DELTAS };
    lab.shared.table.set_deltas(&open.connection, &deltas);
    let frame = |(src, dst): (SocketAddr, SocketAddr), macs, ttl, seq, mss| {
        let mut header = TcpHeader::new(src.port(), dst.port(), seq, 512);
        header.syn = true;
        header.set_options(&[MaximumSegmentSize(mss)]).unwrap();
        let builder = PacketBuilder::ip(ip(src.ip(), dst.ip(), ttl, Protocol::Tcp));
        let mut packet = Vec::new();
        builder.tcp_header(header).write(&mut packet, b"").unwrap();
        framed(macs, &packet)
    };
    let (client, vip) = (at(NETS[0].client, CLIENT_PORT), at(NETS[0].vip, PORT));
    let real = at(NETS[0].nat, REAL_PORT);
    let received = frame((client, vip), (CLIENT, FRONT), 64, 1, 1460);
    let sent = frame((client, real), (BACK, NAT_1), 63, 29, 1200);
    assert_eq!(lab.handle(0, &received), Outcome::Sent(1, sent), "its window is not scaled");
}

/// What `clusterctl trace` shows is what would be sent.
#[test]
fn a_rehearsal_shifts_too() {
    let mut lab = node(Forwarding::FullNat);
    let open = Open::new(&mut lab, NETS[1], CLIENT_PORT);
    lab.shared.table.set_deltas(&open.connection, &DELTAS);
    let ends = (at(NETS[1].client, CLIENT_PORT), at(NETS[1].vip, PORT));
    let segment =
        Segment { ends, flags: ACK, seq: 1, ack: 1, window: 1, sack: None, times: None, data: b"" };
    let frame = segment.frame((CLIENT, FRONT), 64);
    let rehearsed = lab.shared.rehearse(lab.now, 0, &frame).frame;
    assert_eq!(lab.handle(0, &frame), Outcome::Sent(1, rehearsed));
}

proptest! {
    #[test]
    fn any_numbers_are_kept(
        numbers in any::<(u32, u32, u32)>(), windows in any::<(i8, i8)>(), v6 in any::<bool>(),
    ) {
        let (to_client, to_server, timestamps) = numbers;
        let deltas = Deltas {
            to_client,
            to_server,
            timestamps,
            windows_to_client: windows.0 % 15,
            windows_to_server: windows.1 % 15,
            ..Deltas::default()
        };
        let mut lab = node(Forwarding::FullNat);
        let open = Open::new(&mut lab, NETS[usize::from(v6)], CLIENT_PORT);
        lab.shared.table.set_deltas(&open.connection, &deltas);
        let kept = open.connection.deltas();
        prop_assert_eq!(kept, (!deltas.is_none()).then_some(deltas));
        open.exchange(&mut lab, &deltas, Some((1, 2)), "");
    }

    #[test]
    fn where_a_header_or_a_longer_reply_is_is_kept(
        header_at in any::<Option<u32>>(), at in any::<u32>(), numbers in (1..15_u8, 1..9_u8),
        is_heard in any::<bool>(), has_longer in any::<bool>(),
    ) {
        let mut lab = node(Forwarding::Nat);
        let open = Open::new(&mut lab, NETS[0], CLIENT_PORT);
        lab.shared.table.set_deltas(&open.connection, &DELTAS);
        let address = Grown { at, len: numbers.0, by: numbers.1 };
        let longer = has_longer.then_some(LongerReply { address, is_heard });
        let deltas = Deltas { header_at, longer, ..DELTAS };
        for deltas in [deltas, DELTAS, deltas, Deltas::default()] {
            lab.shared.table.set_deltas(&open.connection, &deltas);
            prop_assert_eq!(open.connection.deltas(), Some(deltas));
        }
    }
}

/// A reader finds the numbers of one time, never some of two.
#[test]
fn numbers_are_never_a_mixture() {
    let mut lab = node(Forwarding::Nat);
    let open = Open::new(&mut lab, NETS[0], CLIENT_PORT);
    let of = |n: u32| {
        let address = Grown { at: n, len: (n % 15) as u8, by: (n % 9) as u8 };
        let longer = Some(LongerReply { address, is_heard: n.is_multiple_of(2) });
        Deltas { to_client: n, to_server: n, longer, ..Deltas::default() }
    };
    lab.shared.table.set_deltas(&open.connection, &of(1));
    let table = &lab.shared.table;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (1..200_000).for_each(|n| table.set_deltas(&open.connection, &of(n)));
        });
        while !writer.is_finished() {
            let found = open.connection.deltas().unwrap();
            assert_eq!(found, of(found.to_client));
        }
    });
}
