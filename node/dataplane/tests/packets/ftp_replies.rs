//! 227 replies that get longer: segments in, segments out, with loss, repetition, reordering and
//! take-over. What is expected is built by etherparse, checksums too, and at the end by putting the
//! stream together as a client does.

use std::collections::BTreeMap;

use crate::both::{
    at,
    cut::{cut, cut_into},
    ends::{Ends, Segment},
    error::Error,
    framed,
};
use crate::lab::{self, *};
use etherparse::{PacketHeaders, TransportHeader};
use proptest::prelude::*;
use steadfast_dataplane::{
    ConfigSpec, Connection, Deltas, Ftp, Grown, LongerReply, NextHops, Persistence, Ports,
    Protocol, Reason, Record, Replica, Route, ServiceSpec,
};

const CLIENT_END: &str = "198.18.0.2:4000";
const CONTROL: u16 = 21;
/// Of the client, whose numbers nobody changes.
const CLIENT_SEQ: u32 = 700;
/// Of the server: they are used up soon.
const ISN: u32 = u32::MAX - 20;
const FIRST: u32 = ISN.wrapping_add(1);
/// Whose address is longer by 7.
const SHORT: &str = "10.0.0.1";
const LONG: &str = "198.180.100.100";
const GREETING: &[u8] = b"220 hi\r\n";
/// 20 octets, the address is 5 to 13 of them; and what the client reads.
const TIGHT: &[u8] = b"227 (10,0,0,1,4,5)\r\n";
const TIGHT_LONGER: &[u8] = b"227 (198,180,100,100,4,5)\r\n";

fn node(real: &str, vip: &str) -> Lab {
    let base = config_spec(1);
    let mut groups = base.groups.clone();
    groups[0].vips = vec![vip.parse().unwrap()];
    let servers = vec![server(11, real, CONTROL)];
    let service = lab::service(1, Protocol::Tcp, CONTROL, servers);
    let mut service = ServiceSpec {
        ftp: Some(Ftp { data: Ports { first: 50_000, last: 50_099 } }),
        persistence: Some(Persistence {
            timeout_ns: 300 * SECOND,
            prefix_v4: 32,
            prefix_v6: 128,
            expire_quiescent_template: false,
        }),
        ..service
    };
    service.listen[0].vip = vip.parse().unwrap();
    let lab = Lab::with(ConfigSpec { groups, services: vec![service], ..base }, 1000);
    let mut hops = next_hops(2);
    let real = real.parse().unwrap();
    hops.routes.push(Route { prefix: real, prefix_len: 32, ..hops.routes[1] });
    hops.neighbours.push((1, real, NAT_1));
    lab.shared.set_next_hops(NextHops::new(hops));
    lab
}

/// A control connection whose handshake is over.
fn open(lab: &mut Lab, real: &str, vip: &str, isn: u32) -> Ends {
    let client = CLIENT_END.parse().unwrap();
    let ends = Ends { client, local: client, vip: at(vip, CONTROL), real: at(real, CONTROL) };
    let syn = Segment::new(SYN, CLIENT_SEQ - 1, 0, b"");
    arrives("SYN", (lab, &ends), (&syn, &syn));
    let answer = Segment::new(SYN_ACK, isn, CLIENT_SEQ, b"");
    returns("SYN-ACK", (lab, &ends), (&answer, &answer));
    let ack = Segment::new(ACK, CLIENT_SEQ, isn.wrapping_add(1), b"");
    arrives("ACK", (lab, &ends), (&ack, &ack));
    ends
}

fn connection(lab: &Lab, ends: &Ends) -> Connection {
    lab.find(Protocol::Tcp, CLIENT_END, &ends.vip.to_string()).unwrap()
}

/// A segment of the server, so many octets behind its first one.
fn server_says(behind: u32, data: &[u8]) -> Segment {
    Segment::new(ACK, FIRST.wrapping_add(behind), CLIENT_SEQ, data)
}

/// A segment of the client, which acknowledges so many octets.
fn client_acks(behind: u32) -> Segment {
    Segment::new(ACK, CLIENT_SEQ, FIRST.wrapping_add(behind), b"")
}

fn arrives(case: &str, (lab, ends): (&mut Lab, &Ends), (from, to): (&Segment, &Segment)) {
    let outcome = lab.handle(0, &ends.in_frame(from));
    assert_eq!(outcome, ends.in_sent(to), "{case}");
}

fn returns(case: &str, (lab, ends): (&mut Lab, &Ends), (from, to): (&Segment, &Segment)) {
    let outcome = lab.handle(1, &ends.out_frame(from));
    // What was cut is padded, as Ethernet wants it.
    let Outcome::Sent(port, mut expected) = ends.out_sent(to) else { unreachable!() };
    if to.data.len() < from.data.len() {
        expected.resize(expected.len().max(60), 0);
    }
    assert_eq!(outcome, Outcome::Sent(port, expected), "{case}");
}

/// What it is, a segment of the server by its place and data, and what its client gets.
type Case<'a> = (&'a str, (u32, &'a [u8]), (u32, &'a [u8]));

/// One after the other: a segment of the server by its place and data, and what its client gets.
fn all_return((lab, ends): (&mut Lab, &Ends), cases: &[Case<'_>]) {
    for (case, (from, data), (to, expected)) in cases {
        let (from, to) = (server_says(*from, data), server_says(*to, expected));
        returns(case, (&mut *lab, ends), (&from, &to));
    }
}

/// A server that has said its greeting and a reply that got longer.
fn after_a_longer_reply() -> (Lab, Ends) {
    let mut lab = node(SHORT, LONG);
    let ends = open(&mut lab, SHORT, LONG, ISN);
    let cases: [(&str, _, _); 2] = [
        ("a greeting", (0, GREETING), (0, GREETING)),
        ("a reply without room", (8, TIGHT), (8, TIGHT_LONGER)),
    ];
    all_return((&mut lab, &ends), &cases);
    (lab, ends)
}

#[test]
fn a_reply_without_room_gets_longer_however_it_is_sent() {
    let (mut lab, ends) = after_a_longer_reply();
    let log = lab.log.take();
    assert_eq!(log.iter().filter(|line| *line == "renumbered 4000").count(), 1, "{log:?}");
    let both = [GREETING, TIGHT].concat();
    let both_longer = [GREETING, TIGHT_LONGER].concat();
    let and_more = [TIGHT, b"200 ok\r\n"].concat();
    let and_more_longer = [TIGHT_LONGER, b"200 ok\r\n"].concat();
    let all_return_twice: [Case<'_>; 14] = [
        ("again", (8, TIGHT), (8, TIGHT_LONGER)),
        ("with what is before", (0, &both), (0, &both_longer)),
        ("with what is behind", (8, &and_more), (8, &and_more_longer)),
        ("from within its code", (10, &TIGHT[2..]), (10, &TIGHT_LONGER[2..])),
        ("from its address on", (13, &TIGHT[5..]), (13, &TIGHT_LONGER[5..])),
        ("from within its address", (15, &TIGHT[7..]), (13, &TIGHT_LONGER[5..])),
        ("from its last digit", (20, &TIGHT[12..]), (13, &TIGHT_LONGER[5..])),
        ("behind its address", (21, &TIGHT[13..]), (28, &TIGHT_LONGER[20..])),
        ("up to its address", (8, &TIGHT[..5]), (8, &TIGHT[..5])),
        ("up to within its address", (8, &TIGHT[..12]), (8, &TIGHT[..5])),
        ("up to the end of its address", (8, &TIGHT[..13]), (8, &TIGHT_LONGER[..20])),
        ("a part of its address", (15, &TIGHT[7..10]), (13, b"")),
        ("what is before", (0, GREETING), (0, GREETING)),
        ("what is behind", (28, b"200 ok\r\n"), (35, b"200 ok\r\n")),
    ];
    for _ in 0..2 {
        all_return((&mut lab, &ends), &all_return_twice);
    }
    let probe = Segment::new(ACK, FIRST.wrapping_add(27), CLIENT_SEQ, b"");
    let probed = Segment::new(ACK, FIRST.wrapping_add(34), CLIENT_SEQ, b"");
    returns("a keep-alive", (&mut lab, &ends), (&probe, &probed));
    assert!(!lab.log.take().contains(&"renumbered 4000".to_owned()), "told once");
    let counters = lab.worker.counters();
    assert_eq!((counters.longer_replies(), counters.unfit_replies()), (1, 0));
    let address = Grown { at: FIRST.wrapping_add(13), len: 8, by: 7 };
    let longer = Some(LongerReply { address, is_heard: false });
    let deltas = Deltas { to_client: 7, longer, ..Deltas::default() };
    assert_eq!(connection(&lab, &ends).deltas(), Some(deltas));
}

#[test]
fn the_server_hears_of_what_it_has_sent() {
    let (mut lab, ends) = after_a_longer_reply();
    // All of a longer address, or nothing of it.
    let cases = [(0, 0), (8, 8), (13, 13), (14, 13), (27, 13), (28, 21), (29, 22), (35, 28)];
    for (from, to) in cases.into_iter().chain(cases) {
        let (from, to) = (client_acks(from), client_acks(to));
        arrives(&format!("{from:?}"), (&mut lab, &ends), (&from, &to));
    }
    let block = |edges: [u32; 2]| {
        let edges = edges.map(|edge| FIRST.wrapping_add(edge).to_be_bytes()).concat();
        [&[1, 1, 5, 10][..], &edges].concat()
    };
    let cases = [
        ([0, 8], [0, 8]),
        ([8, 35], [8, 28]),
        ([28, 35], [21, 28]),
        ([14, 35], [21, 28]),
        ([8, 20], [8, 13]),
    ];
    for (from, to) in cases {
        let case = format!("{from:?}");
        let (from, to) =
            (client_acks(0).with_options(&block(from)), client_acks(0).with_options(&block(to)));
        arrives(&case, (&mut lab, &ends), (&from, &to));
    }
    // Half of all numbers later too.
    let far = (1 << 30) + 100;
    arrives("far", (&mut lab, &ends), (&client_acks(far + 7), &client_acks(far)));
    returns("far", (&mut lab, &ends), (&server_says(far, b"x"), &server_says(far + 7, b"x")));
    assert_eq!(
        connection(&lab, &ends).deltas(),
        Some(Deltas { to_client: 7, ..Deltas::default() })
    );
    for far in [1 << 31, (1 << 31) + 50, u32::MAX - 50] {
        let (from, to) = (client_acks(far), client_acks(far - 7));
        arrives("far", (&mut lab, &ends), (&from, &to));
    }
}

/// What the client has not acknowledged would stand elsewhere.
#[test]
fn the_next_reply_waits_until_the_client_has_the_one_before() {
    let (mut lab, ends) = after_a_longer_reply();
    let three = [b"200 ok\r\n", TIGHT, b"221 bye\r\n"].concat();
    let early: [Case<'_>; 4] = [
        ("with another before it", (28, &three), (35, b"200 ok\r\n")),
        ("alone", (36, TIGHT), (43, b"")),
        ("what is behind it", (56, b"221 bye\r\n"), (63, b"")),
        (
            "all of it again",
            (8, &[TIGHT, &three].concat()),
            (8, &[TIGHT_LONGER, b"200 ok\r\n"].concat()),
        ),
    ];
    all_return((&mut lab, &ends), &early);
    let not_yet = client_acks(27);
    arrives("not all of it", (&mut lab, &ends), (&not_yet, &client_acks(13)));
    all_return((&mut lab, &ends), &early);
    arrives("all of it", (&mut lab, &ends), (&client_acks(28), &client_acks(21)));
    let longer = [b"200 ok\r\n", TIGHT_LONGER, b"221 bye\r\n"].concat();
    let late: [Case<'_>; 4] = [
        ("now", (28, &three), (35, &longer)),
        ("again", (36, TIGHT), (43, TIGHT_LONGER)),
        ("what is behind", (56, b"221 bye\r\n"), (70, b"221 bye\r\n")),
        ("the first, which the client has", (8, TIGHT), (15, TIGHT)),
    ];
    all_return((&mut lab, &ends), &late);
    for (from, to) in [(43, 36), (48, 41), (62, 41), (63, 49), (79, 65)] {
        arrives("an ACK", (&mut lab, &ends), (&client_acks(from), &client_acks(to)));
    }
    assert_eq!(lab.worker.counters().longer_replies(), 2);
}

/// A reply before what overtook it may get longer, so that would have another place.
#[test]
fn what_overtakes_comes_again() {
    let mut lab = node(SHORT, LONG);
    let ends = open(&mut lab, SHORT, LONG, ISN);
    let cases: [Case<'_>; 5] = [
        ("too early", (8, b"200 ok\r\n"), (8, b"")),
        ("the greeting", (0, GREETING), (0, GREETING)),
        ("too early again", (28, b"200 ok\r\n"), (28, b"")),
        ("the reply", (8, TIGHT), (8, TIGHT_LONGER)),
        ("what overtook it", (28, b"200 ok\r\n"), (35, b"200 ok\r\n")),
    ];
    all_return((&mut lab, &ends), &cases);
    // What another node has carried meanwhile is in order too.
    arrives("an ACK", (&mut lab, &ends), (&client_acks(60), &client_acks(53)));
    all_return((&mut lab, &ends), &[("behind it", (53, b"x\r\n"), (60, b"x\r\n"))]);
    // Where replies cannot get longer, nothing waits.
    let mut lab = node(LONG, SHORT);
    let ends = open(&mut lab, LONG, SHORT, ISN);
    let reply = b"227 (198,180,100,100,4,5)\r\n";
    let shorter = b"227        (10,0,0,1,4,5)\r\n";
    let cases: [Case<'_>; 3] = [
        ("too early", (8, b"200 ok\r\n"), (8, b"200 ok\r\n")),
        ("a shorter address keeps the length", (16, reply), (16, shorter)),
        ("behind it", (43, b"200 ok\r\n"), (43, b"200 ok\r\n")),
    ];
    all_return((&mut lab, &ends), &cases);
    assert_eq!(connection(&lab, &ends).deltas(), None);
}

#[test]
fn a_reply_with_room_or_of_another_address_keeps_its_length() {
    let mut lab = node(SHORT, LONG);
    let ends = open(&mut lab, SHORT, LONG, ISN);
    let words: &[u8] = b"227 Entering Passive Mode (10,0,0,1,4,5)\r\n";
    let fewer: &[u8] = b"227 Entering      (198,180,100,100,4,5)\r\n";
    let other: &[u8] = b"227 (10,0,0,2,4,5)\r\n";
    let fewer = &[&fewer[..12], b" ", &fewer[12..]].concat();
    assert_eq!(words.len(), fewer.len());
    let cases: [Case<'_>; 3] = [
        ("words", (0, words), (0, fewer)),
        ("another address", (42, other), (42, other)),
        ("another port", (62, b"200 ok\r\n"), (62, b"200 ok\r\n")),
    ];
    all_return((&mut lab, &ends), &cases);
    assert_eq!(connection(&lab, &ends).deltas(), None);
}

/// The client has its beginning as it was, and has to get the rest so.
#[test]
fn a_reply_that_was_cut_in_two_stays_as_it_is() {
    let mut lab = node(SHORT, LONG);
    let ends = open(&mut lab, SHORT, LONG, ISN);
    let cases: [Case<'_>; 4] = [
        ("its beginning", (0, &TIGHT[..9]), (0, &TIGHT[..9])),
        ("its end", (9, &TIGHT[9..]), (9, &TIGHT[9..])),
        ("all of it", (0, TIGHT), (0, TIGHT)),
        ("the next one", (20, TIGHT), (20, TIGHT_LONGER)),
    ];
    all_return((&mut lab, &ends), &cases);
    let counters = lab.worker.counters();
    assert_eq!((counters.longer_replies(), counters.unfit_replies()), (1, 1));
}

#[test]
fn a_packet_with_a_longer_reply_is_small() {
    let mut lab = node(SHORT, LONG);
    let ends = open(&mut lab, SHORT, LONG, ISN);
    // Headers are 40 octets, and the longest address has 15.
    let fill = |len: usize| [&vec![b'x'; len - 2][..], b"\r\n"].concat();
    let most = 576 - 40 - 15 - 13;
    let (fits, too_long) = (fill(most), fill(most + 1));
    let sent = [&too_long, TIGHT].concat();
    let case = ("no room before it", (0, &sent[..]), (0, &too_long[..]));
    all_return((&mut lab, &ends), &[case]);
    assert_eq!(lab.worker.counters().longer_replies(), 0);

    let mut lab = node(SHORT, LONG);
    let ends = open(&mut lab, SHORT, LONG, ISN);
    let sent = [&fits, TIGHT, &fill(500)].concat();
    let got = [&fits[..], &TIGHT_LONGER[..20]].concat();
    let (at, len) = (most as u32 + 13, most as u32 + 20);
    let cases: [Case<'_>; 2] = [
        ("as much as fits", (0, &sent), (0, &got)),
        ("the rest", (at, &TIGHT[13..]), (len, &TIGHT_LONGER[20..])),
    ];
    all_return((&mut lab, &ends), &cases);
    assert_eq!(lab.worker.counters().longer_replies(), 1);
}

#[test]
fn longer_replies_in_fragments_are_dropped() {
    let mut lab = node(SHORT, LONG);
    let ends = open(&mut lab, SHORT, LONG, ISN);
    let text = [TIGHT, &[b'x'; 50]].concat();
    let first = |lab: &mut Lab, behind, data: &[u8], id| {
        let packet = server_says(behind, data).packet((ends.real, ends.local), 64);
        let parts = cut_into((NAT_1, BACK), &packet, id, 48);
        lab.handle(1, &parts[0])
    };
    assert_eq!(first(&mut lab, 0, &text, 7), dropped(Reason::Fragment), "a new one");
    all_return((&mut lab, &ends), &[("whole", (0, TIGHT), (0, TIGHT_LONGER))]);
    assert_eq!(first(&mut lab, 0, &text, 8), dropped(Reason::Fragment), "a known one");
    assert_eq!(first(&mut lab, 30, &text, 9), dropped(Reason::Fragment), "behind a gap");
    assert!(matches!(first(&mut lab, 20, &[b'x'; 60], 10), Outcome::Sent(0, _)), "no reply");
    let packet = server_says(0, b"x").packet((ends.real, ends.local), 64);
    assert_eq!(cut((NAT_1, BACK), &packet, 1).len(), 1);
}

/// Who hears of its own segment finds the number that it has sent.
#[test]
fn errors_quote_the_numbers_of_the_server() {
    let (mut lab, ends) = after_a_longer_reply();
    let deltas = connection(&lab, &ends).deltas().unwrap();
    // What is quoted has the number 1000.
    for (at, expected) in
        [(2000, 1000), (1000, 1000), (993, 993), (986, 986), (985, 993), (500, 993)]
    {
        let address = Grown { at, ..deltas.longer.unwrap().address };
        let longer = Some(LongerReply { address, is_heard: false });
        lab.shared.table.set_deltas(&connection(&lab, &ends), &Deltas { longer, ..deltas });
        let about = (Protocol::Tcp, ends.vip, ends.client);
        let (src, dst) = ("203.0.113.1".parse().unwrap(), ends.vip.ip());
        let error = Error { src, dst, ttl: 60, kind: [3, 4], about, quoted: 8 };
        let outcome = lab.handle(0, &error.telling(1400, (CLIENT, FRONT)));
        let Outcome::Sent(1, frame) = outcome else { panic!("{outcome:?}") };
        let seq = 14 + 20 + 8 + 20 + 4;
        let seq = u32::from_be_bytes(frame[seq..seq + 4].try_into().unwrap());
        assert_eq!(seq, expected, "a reply at {at}");
    }
}

fn copy_to(first: &Lab, second: &Lab, ends: &Ends) {
    let connection = connection(first, ends);
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
fn a_successor_goes_on_wherever_the_reply_is() {
    let (first, ends) = after_a_longer_reply();
    let mut second = node(SHORT, LONG);
    copy_to(&first, &second, &ends);
    let cases: [Case<'_>; 3] = [
        ("again", (8, TIGHT), (8, TIGHT_LONGER)),
        ("from within", (15, &TIGHT[7..]), (13, &TIGHT_LONGER[5..])),
        ("what is behind", (28, b"200 ok\r\n"), (35, b"200 ok\r\n")),
    ];
    all_return((&mut second, &ends), &cases);
    arrives("an ACK", (&mut second, &ends), (&client_acks(20), &client_acks(13)));
    arrives("an ACK", (&mut second, &ends), (&client_acks(43), &client_acks(36)));
    let cases: [Case<'_>; 2] = [
        ("the next one", (36, TIGHT), (43, TIGHT_LONGER)),
        ("what is behind", (56, b"200 ok\r\n"), (70, b"200 ok\r\n")),
    ];
    all_return((&mut second, &ends), &cases);
    // Back again, over an older copy.
    let mut first = first;
    copy_to(&second, &first, &ends);
    arrives("an ACK", (&mut first, &ends), (&client_acks(78), &client_acks(64)));
    all_return((&mut first, &ends), &[("and on", (64, b"221 bye\r\n"), (78, b"221 bye\r\n"))]);
}

/// What both sides count by already, since a handshake by cookie, stays.
#[test]
fn numbers_that_differ_already_differ_by_more() {
    let mut lab = node(SHORT, LONG);
    let ends = open(&mut lab, SHORT, LONG, ISN);
    let cookie = 0x9000_0000;
    let shaken =
        Deltas { to_client: cookie, timestamps: 5, windows_to_server: 2, ..Deltas::default() };
    lab.shared.table.set_deltas(&connection(&lab, &ends), &shaken);
    let cases: [Case<'_>; 3] = [
        ("a greeting", (0, GREETING), (cookie, GREETING)),
        ("a longer reply", (8, TIGHT), (cookie + 8, TIGHT_LONGER)),
        ("what is behind", (28, b"200 ok\r\n"), (cookie + 35, b"200 ok\r\n")),
    ];
    all_return((&mut lab, &ends), &cases);
    let Outcome::Sent(1, frame) = lab.handle(0, &ends.in_frame(&client_acks(cookie + 35))) else {
        panic!("dropped");
    };
    assert_eq!(frame[14 + 20 + 8..][..4], FIRST.wrapping_add(28).to_be_bytes());
    let deltas = connection(&lab, &ends).deltas().unwrap();
    let expected = Deltas { to_client: cookie + 7, ..shaken };
    assert_eq!(Deltas { longer: None, ..deltas }, expected);
}

/// What happens to a connection, for a property test. Places are shares of what there is.
#[derive(Clone, Debug)]
enum Event {
    /// The server sends octets of its stream, for the first time or again: from one that was not
    /// acknowledged on, to the end of a line or anywhere. They may be lost before the node, or after.
    Send { from: u16, lines: usize, whole: bool, lost: (bool, bool) },
    /// The client acknowledges what it has, or less, and says what it has behind a gap.
    Acknowledge { share: u16, lost: bool },
    /// Another node takes over, with the copy it was sent last, and hears of the client.
    TakeOver,
}

fn event() -> impl Strategy<Value = Event> {
    let mostly_not = || prop::bool::weighted(0.2);
    prop_oneof![
        6 => (any::<u16>(), 0..4_usize, prop::bool::weighted(0.7), (mostly_not(), mostly_not()))
            .prop_map(|(from, lines, whole, lost)| Event::Send { from, lines, whole, lost }),
        4 => (any::<u16>(), mostly_not())
            .prop_map(|(share, lost)| Event::Acknowledge { share, lost }),
        1 => Just(Event::TakeOver),
    ]
}

/// Both ends of a control connection, and what is between them.
struct World {
    lab: Lab,
    ends: Ends,
    first: u32,
    /// Added to numbers to the client before any reply.
    shaken: u32,
    /// What the server says, and what the client has to read.
    stream: Vec<u8>,
    wanted: Vec<u8>,
    /// Where each octet of the server comes to lie at the client; and the end.
    places: Vec<usize>,
    sent_until: usize,
    /// As the server has heard.
    acknowledged: usize,
    /// The most that the client has said that it has.
    said: usize,
    received: BTreeMap<usize, u8>,
}

impl World {
    fn new(lines: &[u8], isn: u32, shaken: u32) -> Self {
        let (mut stream, mut wanted, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (n, kind) in (0..).zip(lines) {
            let (line, read) = match kind {
                0 => (format!("200 ok {n}\r\n"), format!("200 ok {n}\r\n")),
                _ => (
                    format!("227 (10,0,0,1,{n},{kind})\r\n"),
                    format!("227 (198,180,100,100,{n},{kind})\r\n"),
                ),
            };
            let more = read.len() - line.len();
            // The address as a whole stands where it ends.
            places.extend((0..line.len()).map(|at| match at {
                0..=5 => wanted.len() + at,
                6..=12 if more > 0 => usize::MAX,
                _ => wanted.len() + at + more,
            }));
            stream.extend(line.as_bytes());
            wanted.extend(read.as_bytes());
        }
        places.push(wanted.len());
        let mut lab = node(SHORT, LONG);
        let ends = open(&mut lab, SHORT, LONG, isn);
        if shaken > 0 {
            let deltas = Deltas { to_client: shaken, ..Deltas::default() };
            lab.shared.table.set_deltas(&connection(&lab, &ends), &deltas);
        }
        let first = isn.wrapping_add(1);
        let received = BTreeMap::new();
        Self {
            lab,
            ends,
            first,
            shaken,
            stream,
            wanted,
            places,
            sent_until: 0,
            acknowledged: 0,
            said: 0,
            received,
        }
    }

    /// The end of the line that an octet is in.
    fn line_end(&self, at: usize) -> usize {
        let rest = &self.stream[at..];
        rest.iter().position(|octet| *octet == b'\n').map_or(self.stream.len(), |end| at + end + 1)
    }

    /// How many octets the client has without a gap.
    fn have(&self) -> usize {
        (0..).zip(self.received.keys()).take_while(|(n, at)| n == *at).count()
    }

    fn send(&mut self, from: usize, until: usize, (before, after): (bool, bool)) {
        self.sent_until = self.sent_until.max(until);
        if before {
            return;
        }
        let seq = self.first.wrapping_add(from as u32);
        let segment = Segment::new(ACK, seq, CLIENT_SEQ, &self.stream[from..until]);
        let outcome = self.lab.handle(1, &self.ends.out_frame(&segment));
        let Outcome::Sent(0, frame) = outcome else { panic!("{outcome:?}") };
        let read = PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let Some(TransportHeader::Tcp(tcp)) = &read.transport else { panic!("no TCP") };
        let Some(etherparse::NetHeaders::Ipv4(ip, _)) = &read.net else { panic!("no IPv4") };
        let data = read.payload.slice();
        assert_eq!(tcp.calc_checksum_ipv4(ip, data).unwrap(), tcp.checksum);
        if after {
            return;
        }
        let begin = self.first.wrapping_add(self.shaken);
        for (n, octet) in (0..).zip(data) {
            let at = tcp.sequence_number.wrapping_sub(begin).wrapping_add(n) as usize;
            // What it has acknowledged it does not look at.
            if at < self.said {
                continue;
            }
            let known = *self.received.entry(at).or_insert(*octet);
            assert_eq!(known, *octet, "another octet at {at} than before");
        }
    }

    /// The client acknowledges octets; what the server hears, and what it hears of those behind a gap.
    fn acknowledge(&mut self, until: usize, lost: bool) -> (usize, Option<(usize, usize)>) {
        let have = self.have();
        self.said = self.said.max(until);
        let theirs = self.first.wrapping_add(self.shaken);
        let beyond = self.received.keys().copied().find(|at| *at > have);
        let block = beyond.map(|from| {
            let behind = self.received.keys().skip_while(|at| **at < from);
            (from, from + (from..).zip(behind).take_while(|(n, at)| n == *at).count())
        });
        let options = block.map_or(vec![], |(from, until)| {
            let edge = |at: usize| theirs.wrapping_add(at as u32).to_be_bytes();
            [&[1, 1, 5, 10][..], &edge(from), &edge(until)].concat()
        });
        let ack = theirs.wrapping_add(until as u32);
        let segment = Segment::new(ACK, CLIENT_SEQ, ack, b"").with_options(&options);
        let outcome = self.lab.handle(0, &self.ends.in_frame(&segment));
        let Outcome::Sent(1, frame) = outcome else { panic!("{outcome:?}") };
        let read = PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let Some(TransportHeader::Tcp(tcp)) = &read.transport else { panic!("no TCP") };
        let ours = |number: u32| number.wrapping_sub(self.first) as usize;
        // What the server has heard long ago may be less than it was.
        let told = tcp.acknowledgment_number.wrapping_sub(self.first).cast_signed();
        let told = told.max(0) as usize;
        assert!(told <= self.sent_until, "{told} acknowledged of {}", self.sent_until);
        let block = tcp.options_iterator().find_map(|option| match option {
            Ok(etherparse::TcpOptionElement::SelectiveAcknowledgement((from, until), _)) => {
                Some((ours(from), ours(until)))
            }
            _ => None,
        });
        if !lost {
            self.acknowledged = self.acknowledged.max(told);
        }
        (told, block)
    }

    fn happen(&mut self, event: &Event, is_aligned: bool) {
        let share = |share: u16, of: usize| (usize::from(share) * (of + 1)) >> 16;
        match *event {
            Event::Send { from, lines, whole, lost } => {
                let unacknowledged = self.sent_until - self.acknowledged;
                let from = self.acknowledged + share(from, unacknowledged);
                let until = (0..=lines).fold(from, |at, _| self.line_end(at));
                let is_known = until <= self.have_sent();
                let until = match whole || is_aligned && !is_known {
                    true => until,
                    false => from + (until - from) / 2,
                };
                self.send(from, until, lost);
            }
            Event::Acknowledge { share: of, lost } => {
                let have = self.have();
                let (told, block) = self.acknowledge(share(of, have), lost);
                if is_aligned {
                    self.is_true(told, block);
                }
            }
            Event::TakeOver if is_aligned => {
                let second = node(SHORT, LONG);
                copy_to(&self.lab, &second, &self.ends);
                self.lab = second;
                let have = self.have();
                let (told, block) = self.acknowledge(have, false);
                self.is_true(told, block);
            }
            // How far replies were judged, whose beginning it may have sent as it was, is not copied.
            Event::TakeOver => {}
        }
    }

    /// Up to where the client has all, in octets of the server.
    fn have_sent(&self) -> usize {
        let have = self.have();
        self.places.iter().rposition(|at| *at <= have).unwrap_or(0)
    }

    /// Where the client has what the server says before an octet; all of a longer address.
    fn place(&self, at: usize) -> usize {
        self.places[at..].iter().copied().find(|place| *place < usize::MAX).unwrap()
    }

    /// The client has what the server is told that it has.
    fn is_true(&self, told: usize, block: Option<(usize, usize)>) {
        assert!(self.place(told) <= self.have(), "{told} acknowledged, {} there", self.have());
        if let Some((from, until)) = block.filter(|(from, until)| from < until) {
            let span = self.place(from)..self.place(until);
            let has_all = span.clone().all(|at| self.received.contains_key(&at));
            assert!(has_all, "{from} to {until} acknowledged, not all of {span:?} there");
        }
        for (at, octet) in &self.received {
            assert_eq!(*octet, self.wanted[*at], "at {at}");
        }
    }

    /// The server sends again until the client has all.
    fn finish(&mut self) {
        for _ in 0..10 * self.stream.len() {
            if self.acknowledged == self.stream.len() {
                break;
            }
            let until = self.line_end(self.acknowledged);
            self.send(self.acknowledged, until, (false, false));
            let have = self.have();
            self.acknowledge(have, false);
        }
        assert_eq!(self.acknowledged, self.stream.len(), "all is acknowledged");
    }

    fn read(&self) -> Vec<u8> {
        assert_eq!(self.have(), self.received.len(), "a gap");
        self.received.values().copied().collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A failure prints the events; PROPTEST_RNG_SEED replays a run.
    #[test]
    fn the_client_reads_what_the_server_says_with_the_vip_in_it(
        lines in prop::collection::vec(0..4_u8, 1..12),
        events in prop::collection::vec(event(), 1..60),
        isn in any::<u32>(),
        shaken in prop_oneof![Just(0), any::<u32>()],
    ) {
        let mut world = World::new(&lines, isn, shaken);
        for event in &events {
            world.happen(event, true);
        }
        world.finish();
        prop_assert_eq!(world.read(), world.wanted);
    }

    /// Wherever the server cuts: what it cuts within a reply may go on as it is, or not.
    #[test]
    fn the_client_reads_one_stream_wherever_it_is_cut(
        lines in prop::collection::vec(0..4_u8, 1..12),
        events in prop::collection::vec(event(), 1..60),
        isn in any::<u32>(),
    ) {
        let mut world = World::new(&lines, isn, 0);
        for event in &events {
            world.happen(event, false);
        }
        world.finish();
        let read = String::from_utf8(world.read()).unwrap();
        let with_vip = read.replace("10,0,0,1,", "198,180,100,100,");
        prop_assert_eq!(with_vip.as_bytes(), &world.wanted[..]);
    }
}

/// Nothing of the frame is the VIP's but what is its reply.
#[test]
fn other_ports_and_hosts_keep_their_octets() {
    let (mut lab, ends) = after_a_longer_reply();
    let other = Ends {
        client: "198.18.0.2:4001".parse().unwrap(),
        local: "198.18.0.2:4001".parse().unwrap(),
        ..ends
    };
    let syn = Segment::new(SYN, 1, 0, b"");
    arrives("another connection", (&mut lab, &other), (&syn, &syn));
    let said = server_says(28, b"200 ok\r\n");
    returns("whose numbers are its own", (&mut lab, &other), (&said, &said));
    let stranger =
        framed((NAT_1, BACK), &said.packet((ends.real, "198.18.0.3:4000".parse().unwrap()), 64));
    assert!(matches!(lab.handle(1, &stranger), Outcome::Dropped(_)));
}
