//! The PROXY header before a client's stream: segments in, segments out, both ways, both families, by
//! NAT and full-NAT, with loss, repetition and take-over. What is expected is built by etherparse,
//! checksums too, and at the end by putting the stream together as a server does.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crate::both::{
    cut::cut,
    ends::{Ends, MTU, PORT, Segment, key, node_of, told},
    error::Error,
    *,
};
use crate::lab::*;
use etherparse::{PacketHeaders, TransportHeader};
use proptest::prelude::*;
use steadfast_dataplane::{
    ClientAddress, Deltas, Forwarding, Limits, Over, Protocol, Reason, Record, Replica,
};

const FORWARDINGS: [Forwarding; 2] = [Forwarding::Nat, Forwarding::FullNat];
const PSH_ACK: u8 = 0x18;
const RST_ACK: u8 = 0x14;
/// Of the server.
const OTHER: u32 = 2000;
/// Of the client: its first octet has the number after it, and soon they are used up.
const INITIAL: u32 = u32::MAX - 20;
const FIRST: u32 = INITIAL.wrapping_add(1);

fn node(forwarding: Forwarding) -> Lab {
    node_of(told(forwarding, ClientAddress::ProxyV2))
}

/// haproxy, proxy-protocol.txt, section 2.2.
fn header_of(ends: &Ends) -> Vec<u8> {
    let mut header = b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A\x21".to_vec();
    header.extend(if ends.client.is_ipv4() { [0x11, 0, 12] } else { [0x21, 0, 36] });
    for addr in [ends.client.ip(), ends.vip.ip()] {
        match addr {
            IpAddr::V4(addr) => header.extend(addr.octets()),
            IpAddr::V6(addr) => header.extend(addr.octets()),
        }
    }
    header.extend(ends.client.port().to_be_bytes());
    header.extend(ends.vip.port().to_be_bytes());
    header
}

/// A segment of the client: so many octets behind its first one.
fn client(flags: u8, behind: u32, data: &[u8]) -> Segment {
    Segment::new(flags, FIRST.wrapping_add(behind), OTHER, data)
}

/// A segment of the server that acknowledges so many octets.
fn server(flags: u8, acknowledged: u32, data: &[u8]) -> Segment {
    Segment::new(flags, OTHER, FIRST.wrapping_add(acknowledged), data)
}

fn syn() -> Segment {
    Segment::new(SYN, INITIAL, 0, b"")
}

/// Each family and way of forwarding, with a connection whose handshake the server has answered.
fn for_each(mut check: impl FnMut(&str, &mut Lab, Net, Ends, &[u8])) {
    for net in NETS {
        for forwarding in FORWARDINGS {
            let case = format!("{} {forwarding:?}", net.name);
            let mut lab = node(forwarding);
            let (ends, sent) = Ends::open(&mut lab, net, PORT, &syn());
            assert_eq!(sent, ends.in_sent(&syn()), "{case}: a SYN is as it was");
            let answer = server(SYN_ACK, 0, b"");
            let outcome = lab.handle(1, &ends.out_frame(&answer));
            assert_eq!(outcome, ends.out_sent(&answer), "{case}: and so is its answer");
            let header = header_of(&ends);
            check(&case, &mut lab, net, ends, &header);
        }
    }
}

/// What the server gets of a segment.
fn arrives(case: &str, (lab, ends): (&mut Lab, &Ends), (from, to): (&Segment, &Segment)) {
    let outcome = lab.handle(0, &ends.in_frame(from));
    assert_eq!(outcome, ends.in_sent(to), "{case}");
}

fn returns(case: &str, (lab, ends): (&mut Lab, &Ends), (from, to): (&Segment, &Segment)) {
    let outcome = lab.handle(1, &ends.out_frame(from));
    assert_eq!(outcome, ends.out_sent(to), "{case}");
}

#[test]
fn the_header_comes_before_all_else_until_the_server_has_it() {
    for_each(|case, lab, net, ends, header| {
        let len = header.len() as u32;
        let with = |data: &[u8]| [header, data].concat();
        let to_server = [
            ("the ACK that ends the handshake", client(ACK, 0, b""), client(ACK, 0, &with(b""))),
            (
                "data under the first number",
                client(PSH_ACK, 0, b"abc"),
                client(PSH_ACK, 0, &with(b"abc")),
            ),
            ("what follows", client(PSH_ACK, 3, b"def"), client(PSH_ACK, 3 + len, b"def")),
            ("after the numbers are used up", client(ACK, 30, b"g"), client(ACK, 30 + len, b"g")),
            ("the first again", client(PSH_ACK, 0, b"abc"), client(PSH_ACK, 0, &with(b"abc"))),
            (
                "a FIN with all before it",
                client(FIN_ACK, 0, b"abc"),
                client(FIN_ACK, 0, &with(b"abc")),
            ),
            ("a FIN behind", client(FIN_ACK, 31, b""), client(FIN_ACK, 31 + len, b"")),
        ];
        for (description, from, to) in &to_server {
            arrives(&format!("{case}: {description}"), (lab, &ends), (from, to));
        }
        let to_client = [
            ("nothing yet", server(ACK, 0, b""), server(ACK, 0, b"")),
            ("half of the header", server(ACK, len / 2, b""), server(ACK, 0, b"")),
            ("the handshake again", server(SYN_ACK, 0, b""), server(SYN_ACK, 0, b"")),
        ];
        for (description, from, to) in &to_client {
            returns(&format!("{case}: {description}"), (lab, &ends), (from, to));
        }
        let (from, to) = (client(ACK, 0, b""), client(ACK, 0, &with(b"")));
        arrives(&format!("{case}: still under way"), (lab, &ends), (&from, &to));

        let (from, to) = (server(ACK, len, b"hello"), server(ACK, 0, b"hello"));
        lab.log.take();
        for _ in 0..2 {
            returns(&format!("{case}: the header is heard"), (lab, &ends), (&from, &to));
        }
        let heard = lab.log.take().into_iter().filter(|line| line.starts_with("renumbered"));
        assert_eq!(heard.collect::<Vec<_>>(), [format!("renumbered {CLIENT_PORT}")], "{case}");
        let connection = lab.shared.table.find(&key(net, PORT)).unwrap();
        let deltas = Deltas { to_server: len, ..Deltas::default() };
        assert_eq!(connection.deltas(), Some(deltas), "{case}");
        let (from, to) = (client(PSH_ACK, 0, b"abc"), client(PSH_ACK, len, b"abc"));
        arrives(&format!("{case}: no more headers"), (lab, &ends), (&from, &to));
        // Half of all numbers later it is not before the first.
        for behind in [3, 1 << 31, (1 << 31) + 5, u32::MAX - 100] {
            let (from, to) =
                (client(ACK, behind, b"x"), client(ACK, behind.wrapping_add(len), b"x"));
            arrives(&format!("{case}: {behind} behind"), (lab, &ends), (&from, &to));
            let (from, to) =
                (server(ACK, behind.wrapping_add(len), b"y"), server(ACK, behind, b"y"));
            returns(&format!("{case}: {behind} acknowledged"), (lab, &ends), (&from, &to));
        }
    });
}

#[test]
fn a_server_that_has_data_behind_a_gap_says_so_in_the_clients_numbers() {
    for_each(|case, lab, _, ends, header| {
        let len = header.len() as u32;
        let block = |from: u32, until: u32| {
            let edges = [FIRST.wrapping_add(from), FIRST.wrapping_add(until)];
            [&[1, 1, 5, 10][..], &edges[0].to_be_bytes(), &edges[1].to_be_bytes()].concat()
        };
        let from = server(ACK, 0, b"").with_options(&block(len + 100, len + 300));
        let to = server(ACK, 0, b"").with_options(&block(100, 300));
        returns(case, (lab, &ends), (&from, &to));
    });
}

/// Nothing that the client sends can come before the header, or be taken for one.
#[test]
fn data_in_or_before_the_place_of_the_syn_are_cut_off() {
    for_each(|case, lab, _, ends, header| {
        let forged = header_of(&Ends { client: "192.0.2.1:1".parse().unwrap(), ..ends });
        let cookie = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
        let fast_open = |data: &[u8]| Segment::new(SYN, INITIAL, 0, data).with_options(&cookie);
        let cases = [
            ("TCP fast open", fast_open(b"GET /"), fast_open(b"")),
            ("a SYN with a FIN", Segment::new(3, INITIAL, 0, b"x"), syn()),
            ("one octet before", client(ACK, u32::MAX, &forged), client(ACK, u32::MAX, b"")),
            ("far before", client(ACK, 1 << 31, &forged), client(ACK, 1 << 31, b"")),
            ("a keep-alive", client(ACK, u32::MAX, b""), client(ACK, u32::MAX, b"")),
        ];
        for (description, from, to) in &cases {
            let case = format!("{case}: {description}");
            let Outcome::Sent(1, frame) = lab.handle(0, &ends.in_frame(from)) else {
                panic!("{case}");
            };
            // Padded, as Ethernet wants it.
            let Outcome::Sent(1, mut expected) = ends.in_sent(to) else { unreachable!() };
            if !from.data.is_empty() {
                expected.resize(expected.len().max(60), 0);
            }
            assert_eq!(frame, expected, "{case}");
        }
        let (from, to) = (client(ACK, 0, b"data"), client(ACK, 0, &[header, b"data"].concat()));
        arrives(case, (lab, &ends), (&from, &to));
    });
}

#[test]
fn what_does_not_fit_with_the_header_makes_room_for_it() {
    for_each(|case, lab, net, ends, header| {
        let headers = if net.name == "IPv4" { 40 } else { 60 };
        let whole = usize::from(MTU) - headers;
        let fits = vec![7; whole - header.len()];
        let cases = [
            (&fits[..], [header, &fits[..]].concat(), FIN_ACK),
            (&vec![7; fits.len() + 1][..], header.to_vec(), ACK),
            (&vec![7; whole], header.to_vec(), ACK),
        ];
        for (data, expected, flags) in cases {
            // The FIN comes behind what is missing.
            let (from, to) = (client(FIN_ACK, 0, data), client(flags, 0, &expected));
            arrives(&format!("{case}: {}", data.len()), (lab, &ends), (&from, &to));
        }
        let rest = vec![7; whole];
        let len = header.len() as u32;
        let (from, to) = (client(ACK, 1, &rest), client(ACK, 1 + len, &rest));
        arrives(case, (lab, &ends), (&from, &to));
    });
}

#[test]
fn urgent_data_stay_where_they_are() {
    for_each(|case, lab, _, ends, header| {
        let from = Segment { urgent: 3, ..client(0x38, 0, b"abcd") };
        let to = client(0x38, 0, &[header, b"abcd"].concat());
        let to = Segment { urgent: 3 + header.len() as u16, ..to };
        arrives(case, (lab, &ends), (&from, &to));
    });
}

#[test]
fn a_reset_has_the_number_that_its_receiver_waits_for() {
    for_each(|case, lab, _, ends, _| {
        // The server has not the header yet.
        let (from, to) = (client(RST, 0, b""), client(RST, 0, b""));
        arrives(&format!("{case}: before the header"), (lab, &ends), (&from, &to));
    });
    for_each(|case, lab, _, ends, header| {
        let len = header.len() as u32;
        arrives(case, (lab, &ends), (&client(ACK, 0, b""), &client(ACK, 0, header)));
        let (from, to) = (client(RST_ACK, 40, b""), client(RST_ACK, 40 + len, b""));
        arrives(&format!("{case}: in the middle"), (lab, &ends), (&from, &to));
    });
    for_each(|case, lab, _, ends, header| {
        let len = header.len() as u32;
        returns(case, (lab, &ends), (&server(ACK, len, b""), &server(ACK, 0, b"")));
        let (from, to) = (client(RST, 0, b""), client(RST, len, b""));
        arrives(&format!("{case}: behind the header"), (lab, &ends), (&from, &to));
        let (from, to) = (server(RST_ACK, 9 + len, b""), server(RST_ACK, 9, b""));
        returns(&format!("{case}: of the server"), (lab, &ends), (&from, &to));
    });
    // Nobody listens there.
    for_each(|case, lab, _, ends, _| {
        let refused = server(RST_ACK, 0, b"");
        returns(&format!("{case}: refused"), (lab, &ends), (&refused, &refused));
    });
}

/// Before its server has answered a client may begin anew, with the same ports.
#[test]
fn a_client_that_begins_anew_has_its_header_at_its_new_number() {
    for_each(|case, lab, net, ends, header| {
        let again = Segment::new(SYN, 77, 0, b"");
        arrives(case, (lab, &ends), (&again, &again));
        let (from, to) = (Segment::new(ACK, 78, OTHER, b"x"), [header, b"x"].concat());
        let to = Segment::new(ACK, 78, OTHER, &to);
        arrives(case, (lab, &ends), (&from, &to));
        // Afterwards it is somebody else who says so.
        for number in [INITIAL, 77, 1000] {
            let other = Segment::new(SYN, number, 0, b"");
            arrives(case, (lab, &ends), (&other, &other));
        }
        arrives(case, (lab, &ends), (&from, &to));
        let connection = lab.shared.table.find(&key(net, PORT)).unwrap();
        assert_eq!(connection.deltas().unwrap().header_at, Some(78), "{case}");
    });
}

#[test]
fn first_octets_in_fragments_are_dropped() {
    for_each(|case, lab, _, ends, _| {
        let mut first = |behind, id| {
            let packet = client(ACK, behind, &[7; 100]).packet((ends.client, ends.vip), 64);
            lab.handle(0, &cut((CLIENT, FRONT), &packet, id)[0])
        };
        assert_eq!(first(0, 7), dropped(Reason::Fragment), "{case}");
        assert_eq!(first(u32::MAX, 8), dropped(Reason::Fragment), "{case}");
        assert!(matches!(first(1, 9), Outcome::Sent(1, _)), "{case}");
    });
}

/// A client takes an error for its own only if it has sent the number, and shrinks to what it says.
#[test]
fn errors_quote_the_numbers_of_the_client() {
    for_each(|case, lab, net, ends, header| {
        let (len, ip) = (header.len() as u32, if net.name == "IPv4" { 20 } else { 40 });
        let kind = if net.name == "IPv4" { [3, 4] } else { [2, 0] };
        let about = (Protocol::Tcp, ends.local, ends.real);
        let (src, dst) = (ends.real.ip(), ends.local.ip());
        let error = Error { src, dst, ttl: 60, kind, about, quoted: 8 };
        let error = error.telling(1400, (NAT_1, BACK));
        let connection = lab.shared.table.find(&key(net, PORT)).unwrap();
        // What is quoted has the number 1000.
        let less = 1400 - header.len() as u16;
        let cases = [
            ("with the header", Some(1000), (less, 1000)),
            ("behind the header", Some(1000 - len), (less, 1000 - len)),
            ("the header is there", None, (1400, 1000 - len)),
        ];
        for (description, header_at, expected) in cases {
            let deltas = Deltas { to_server: len, header_at, ..Deltas::default() };
            lab.shared.table.set_deltas(&connection, &deltas);
            let Outcome::Sent(0, frame) = lab.handle(1, &error) else { panic!("{case}") };
            let (mtu, seq) = (14 + ip + 6, 14 + ip + 8 + ip + 4);
            let mtu = u16::from_be_bytes([frame[mtu], frame[mtu + 1]]);
            let seq = u32::from_be_bytes(frame[seq..seq + 4].try_into().unwrap());
            assert_eq!((mtu, seq), expected, "{case}: {description}");
        }
    });
}

fn copy_to(first: &Lab, second: &Lab, net: Net) {
    let connection = first.shared.table.find(&key(net, PORT)).unwrap();
    let copy = Replica {
        record: Record { target: None, ..connection.record() },
        state: connection.state(),
        in_pkts: 3,
        assured: true,
        donated: false,
        snapshot: 1,
        deltas: connection.deltas(),
    };
    let config = second.shared.config.load_full();
    second.shared.table.apply_replica(&copy, &config, START);
}

#[test]
fn a_successor_goes_on_wherever_the_header_is() {
    for net in NETS {
        for forwarding in FORWARDINGS {
            let mut first = node(forwarding);
            let (ends, _) = Ends::open(&mut first, net, PORT, &syn());
            let header = header_of(&ends);
            let len = header.len() as u32;
            first.handle(0, &ends.in_frame(&client(ACK, 0, b"")));
            let mut second = node(forwarding);
            copy_to(&first, &second, net);
            let case = format!("{} {forwarding:?}", net.name);
            let (from, to) =
                (client(ACK, 0, b"ab"), client(ACK, 0, &[&header[..], b"ab"].concat()));
            arrives(&format!("{case}: under way"), (&mut second, &ends), (&from, &to));
            // The former holder hears that it has arrived, and says so to its copy.
            returns(&case, (&mut first, &ends), (&server(ACK, len, b""), &server(ACK, 0, b"")));
            copy_to(&first, &second, net);
            let (from, to) = (client(ACK, 0, b"ab"), client(ACK, len, b"ab"));
            arrives(&format!("{case}: there"), (&mut second, &ends), (&from, &to));
        }
    }
}

/// No other node could find the numbers, so none may be taken to know them.
#[test]
fn nothing_goes_by_the_hash() {
    for net in NETS {
        for client_address in [ClientAddress::None, ClientAddress::ProxyV2] {
            let case = format!("{} {client_address:?}", net.name);
            let has_header = client_address == ClientAddress::ProxyV2;
            let mut spec = told(Forwarding::Nat, client_address);
            for service in spec.services.iter_mut().filter(|s| s.single_port() == Some(PORT)) {
                service.limits = Limits { per_source: 1, over: Over::Hash, ..Limits::default() };
                // Of no other service.
                service.servers[0].port = REAL_PORT + 1;
            }
            let mut lab = node_of(spec);
            let (_, sent) = Ends::open(&mut lab, net, PORT, &syn());
            assert!(matches!(sent, Outcome::Sent(1, _)), "{case}");
            let connection = lab.shared.table.find(&key(net, PORT)).unwrap();
            let config = lab.shared.config.load_full();
            let is_derivable = config.is_derivable(connection.server(), &connection.key());
            assert_eq!(is_derivable, !has_header, "{case}");
            let other = (at(net.client, CLIENT_PORT + 1), at(net.vip, PORT));
            let outcome = lab.handle(0, &framed((CLIENT, FRONT), &syn().packet(other, 64)));
            assert_eq!(outcome == dropped(Reason::OverLimit), has_header, "{case}: {outcome:?}");
        }
    }
}

/// Who was there before the service wanted headers goes on without.
#[test]
fn known_connections_get_no_header_when_their_service_changes() {
    for net in NETS {
        let mut lab = node_of(told(Forwarding::FullNat, ClientAddress::None));
        let (ends, _) = Ends::open(&mut lab, net, PORT, &syn());
        let mut changed = told(Forwarding::FullNat, ClientAddress::ProxyV2);
        changed.generation = 2;
        lab.set_config(changed);
        let data = client(ACK, 0, b"data");
        arrives(net.name, (&mut lab, &ends), (&data, &data));
    }
}

/// What happens to a connection, for a property test.
#[derive(Clone, Debug)]
enum Event {
    /// The client sends octets of its stream, for the first time or again; it may be lost after the
    /// node.
    Send { from: usize, len: usize, lost: bool },
    /// The server acknowledges what it has; it may be lost after the node.
    Acknowledge { lost: bool },
    /// Another node takes over, with the copy it was sent last.
    TakeOver,
}

const STREAM: usize = 400;

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..STREAM, 0..120_usize, any::<bool>())
            .prop_map(|(from, len, lost)| Event::Send { from, len, lost }),
        3 => (0..40_usize, any::<bool>())
            .prop_map(|(len, lost)| Event::Send { from: 0, len, lost }),
        4 => any::<bool>().prop_map(|lost| Event::Acknowledge { lost }),
        1 => Just(Event::TakeOver),
    ]
}

/// A server: what it has received, by number behind the first.
#[derive(Default)]
struct Received(BTreeMap<u32, u8>);

impl Received {
    fn take(&mut self, frame: &[u8], first: u32) {
        let read = PacketHeaders::from_ethernet_slice(frame).unwrap();
        let Some(TransportHeader::Tcp(tcp)) = &read.transport else { panic!("no TCP") };
        for (n, octet) in (0..).zip(read.payload.slice()) {
            let at = tcp.sequence_number.wrapping_sub(first).wrapping_add(n);
            let known = *self.0.entry(at).or_insert(*octet);
            assert_eq!(known, *octet, "another octet at {at} than before");
        }
    }

    /// How many octets it has without a gap.
    fn have(&self) -> u32 {
        (0..).zip(self.0.keys()).take_while(|(n, at)| n == *at).count() as u32
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A failure prints the events; PROPTEST_RNG_SEED replays a run.
    #[test]
    fn the_server_reads_the_header_and_then_the_stream(
        events in prop::collection::vec(event(), 1..40),
        initial in any::<u32>(),
        v6 in any::<bool>(),
        full in any::<bool>(),
    ) {
        let net = NETS[usize::from(v6)];
        let forwarding = FORWARDINGS[usize::from(full)];
        let first = initial.wrapping_add(1);
        let stream: Vec<u8> = (0..STREAM).map(|n| (n * 7 % 251) as u8).collect();
        let mut lab = node(forwarding);
        let (ends, _) = Ends::open(&mut lab, net, PORT, &Segment::new(SYN, initial, 0, b""));
        let header = header_of(&ends);
        let whole = [&header[..], &stream].concat();
        let mut received = Received::default();
        let (mut sent_until, mut acknowledged) = (0_u32, 0_u32);
        // An ACK of the client ends the handshake, and a copy goes out.
        lab.handle(0, &ends.in_frame(&Segment::new(ACK, first, OTHER, b"")));
        for event in events {
            match event {
                Event::Send { from, len, lost } => {
                    // Nobody sends again what was acknowledged, nor leaves gaps.
                    let from = from.clamp(acknowledged as usize, sent_until as usize);
                    let until = (from + len).min(STREAM);
                    let data = &stream[from..until];
                    let segment = Segment::new(ACK, first.wrapping_add(from as u32), OTHER, data);
                    let outcome = lab.handle(0, &ends.in_frame(&segment));
                    let Outcome::Sent(1, frame) = outcome else { panic!("{outcome:?}") };
                    sent_until = sent_until.max(until as u32);
                    if !lost {
                        received.take(&frame, first);
                    }
                }
                Event::Acknowledge { lost } => {
                    let segment =
                        Segment::new(ACK, OTHER, first.wrapping_add(received.have()), b"");
                    let outcome = lab.handle(1, &ends.out_frame(&segment));
                    let Outcome::Sent(0, frame) = outcome else { panic!("{outcome:?}") };
                    let read = PacketHeaders::from_ethernet_slice(&frame).unwrap();
                    let Some(TransportHeader::Tcp(tcp)) = &read.transport else { panic!() };
                    let told = tcp.acknowledgment_number.wrapping_sub(first);
                    let right = received.have().saturating_sub(header.len() as u32);
                    prop_assert_eq!(told, right, "what the client hears");
                    prop_assert!(told <= sent_until);
                    if !lost {
                        acknowledged = acknowledged.max(told);
                    }
                }
                Event::TakeOver => {
                    let second = node(forwarding);
                    copy_to(&lab, &second, net);
                    lab = second;
                }
            }
            for (at, octet) in &received.0 {
                prop_assert_eq!(*octet, whole[*at as usize], "at {}", at);
            }
        }
    }
}

#[test]
fn services_without_it_leave_streams_alone() {
    for net in NETS {
        let mut lab = node_of(told(Forwarding::FullNat, ClientAddress::None));
        let fast_open = Segment::new(SYN, INITIAL, 0, b"data");
        let (ends, sent) = Ends::open(&mut lab, net, PORT, &fast_open);
        assert_eq!(sent, ends.in_sent(&fast_open));
        let client: SocketAddr = ends.client;
        assert_eq!(client, at(net.client, CLIENT_PORT));
        assert_eq!(lab.shared.table.find(&key(net, PORT)).unwrap().deltas(), None);
    }
}
