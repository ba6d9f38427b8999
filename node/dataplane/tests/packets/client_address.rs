//! Who the client is, told as a TCP option: segments in, segments out, both ways, both families. What
//! is expected is built by etherparse, checksums too.

use std::net::{IpAddr, SocketAddr};

use crate::both::{
    ends::{Ends, MTU, PORT, Segment, key, node_of, told},
    error::Error,
    *,
};
use crate::lab::*;
use steadfast_dataplane::{ClientAddress, Forwarding, Protocol, Record, Replica};

const PSH_ACK: u8 = 0x18;
/// Packets from the server until which it is told.
const REPLIES: usize = 8;

const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];

fn node(client_address: ClientAddress) -> Lab {
    node_of(told(Forwarding::FullNat, client_address))
}

fn option_of(client: SocketAddr) -> Vec<u8> {
    let mut option = vec![254, if client.is_ipv4() { 8 } else { 20 }];
    option.extend(client.port().to_be_bytes());
    match client.ip() {
        IpAddr::V4(addr) => option.extend(addr.octets()),
        IpAddr::V6(addr) => option.extend(addr.octets()),
    }
    option
}

fn mss(announced: u16) -> [u8; 4] {
    let [high, low] = announced.to_be_bytes();
    [2, 4, high, low]
}

/// A segment whose numbers do not matter.
fn segment(flags: u8, options: &[u8], data: &[u8]) -> Segment {
    let ack = if flags & ACK != 0 { 2000 } else { 0 };
    Segment::new(flags, 1000, ack, data).with_options(options)
}

/// Opens a connection with a SYN of these options.
fn open(lab: &mut Lab, net: Net, options: &[u8]) -> (Ends, Outcome) {
    Ends::open(lab, net, PORT, &segment(SYN, options, b""))
}

fn counted(lab: &Lab) -> (u64, u64) {
    let counters = lab.worker.counters();
    (counters.told(), counters.untold())
}

#[test]
fn a_handshake_and_what_follows_tell_who_the_client_is() {
    for net in NETS {
        let mut lab = node(ClientAddress::Toa);
        let syn_options = [&mss(1460)[..], &[4, 2], &TIMESTAMPS[2..], &[1, 3, 3, 7]].concat();
        let (ends, sent) = open(&mut lab, net, &syn_options);
        let option = option_of(ends.client);
        let with = |options: &[u8]| [&option, options].concat();
        assert_eq!(sent, ends.in_sent(&segment(SYN, &with(&syn_options), b"")), "a SYN");
        let lowered = 1440 - option.len() as u16;
        lab.handle(1, &ends.out_frame(&segment(SYN_ACK, &mss(1440), b"")));
        let cases = [
            ("the ACK that ends it", ACK, &TIMESTAMPS[..], &b""[..]),
            ("without options", ACK, &[], b""),
            ("the first data", PSH_ACK, &TIMESTAMPS, b"GET / HTTP/1.1\r\n\r\n"),
            ("an odd number of octets", PSH_ACK, &TIMESTAMPS, b"abc"),
            ("a FIN", FIN_ACK, &TIMESTAMPS, b""),
        ];
        for (description, flags, options, data) in cases {
            let outcome = lab.handle(0, &ends.in_frame(&segment(flags, options, data)));
            let expected = ends.in_sent(&segment(flags, &with(options), data));
            assert_eq!(outcome, expected, "{} {description}", net.name);
        }
        let outcome = lab.handle(1, &ends.out_frame(&segment(SYN_ACK, &mss(1440), b"")));
        assert_eq!(outcome, ends.out_sent(&segment(SYN_ACK, &mss(lowered), b"")), "{}", net.name);
        assert_eq!(counted(&lab), (6, 0));
    }
}

#[test]
fn nothing_is_told_where_nobody_asked() {
    for net in NETS {
        let mut lab = node(ClientAddress::None);
        let (ends, sent) = open(&mut lab, net, &mss(1460));
        assert_eq!(sent, ends.in_sent(&segment(SYN, &mss(1460), b"")));
        let outcome = lab.handle(1, &ends.out_frame(&segment(SYN_ACK, &mss(1460), b"")));
        assert_eq!(outcome, ends.out_sent(&segment(SYN_ACK, &mss(1460), b"")));
        let forged = option_of("192.0.2.1:1".parse().unwrap());
        let outcome = lab.handle(0, &ends.in_frame(&segment(ACK, &forged, b"")));
        assert_eq!(
            outcome,
            ends.in_sent(&segment(ACK, &forged, b"")),
            "options are the client's business"
        );
        assert_eq!(counted(&lab), (0, 0));
    }
}

#[test]
fn a_server_that_has_answered_often_is_told_no_more() {
    for net in NETS {
        let mut lab = node(ClientAddress::Toa);
        let (ends, _) = open(&mut lab, net, &[]);
        let option = option_of(ends.client);
        for reply in 0..REPLIES {
            let outcome = lab.handle(0, &ends.in_frame(&segment(ACK, &[], b"")));
            assert_eq!(outcome, ends.in_sent(&segment(ACK, &option, b"")), "after {reply}");
            lab.handle(1, &ends.out_frame(&segment(ACK, &[], b"answer")));
        }
        let outcome = lab.handle(0, &ends.in_frame(&segment(ACK, &[], b"")));
        assert_eq!(outcome, ends.in_sent(&segment(ACK, &[], b"")), "{}", net.name);
        // A client cannot make up for that.
        let forged = option_of("192.0.2.1:1".parse().unwrap());
        let outcome = lab.handle(0, &ends.in_frame(&segment(PSH_ACK, &forged, b"data")));
        assert_eq!(outcome, ends.in_sent(&segment(PSH_ACK, &vec![1; forged.len()], b"data")));
    }
}

/// The new holder knows neither how much the server said nor what it read.
#[test]
fn a_successor_tells_again() {
    for net in NETS {
        let mut first = node(ClientAddress::Toa);
        let (ends, _) = open(&mut first, net, &[]);
        for _ in 0..REPLIES {
            first.handle(1, &ends.out_frame(&segment(ACK, &[], b"answer")));
        }
        let connection = first.shared.table.find(&key(net, PORT)).unwrap();
        let record = Record { target: None, ..connection.record() };
        let state = connection.state();
        let copy = Replica {
            deltas: None,
            record,
            state,
            in_pkts: 3,
            assured: true,
            donated: false,
            snapshot: 1,
        };
        let mut second = node(ClientAddress::Toa);
        let config = second.shared.config.load_full();
        second.shared.table.apply_replica(&copy, &config, START);
        let option = option_of(ends.client);
        for _ in 0..REPLIES {
            let outcome = second.handle(0, &ends.in_frame(&segment(PSH_ACK, &TIMESTAMPS, b"more")));
            let options = [&option, &TIMESTAMPS[..]].concat();
            assert_eq!(outcome, ends.in_sent(&segment(PSH_ACK, &options, b"more")), "{}", net.name);
            second.handle(1, &ends.out_frame(&segment(ACK, &[], b"")));
        }
        let outcome = second.handle(0, &ends.in_frame(&segment(ACK, &[], b"")));
        assert_eq!(outcome, ends.in_sent(&segment(ACK, &[], b"")), "{}", net.name);
    }
}

#[test]
fn what_a_client_says_of_itself_is_erased() {
    let net = NETS[0];
    let own = option_of(at(net.client, CLIENT_PORT));
    let forged = option_of("192.0.2.1:1".parse().unwrap());
    let erased = vec![1; forged.len()];
    let full = [&forged[..], &[1; 32]].concat();
    let malformed = [&[77, 0, 1, 1][..], &forged].concat();
    let twice = [&forged[..], &forged].concat();
    let cases: [(&str, u8, &[u8], Vec<u8>); 6] = [
        ("in a SYN", SYN, &forged, [&own, &erased[..]].concat()),
        ("in the ACK", ACK, &forged, [&own, &erased[..]].concat()),
        ("twice", ACK, &twice, [&own, &erased[..], &erased].concat()),
        ("so that no other one has room", ACK, &full, vec![1; 40]),
        ("behind what ends all reading", ACK, &malformed, [&own, &malformed[..]].concat()),
        ("in a reset", RST, &forged, erased.clone()),
    ];
    for (description, flags, options, expected) in cases {
        let mut lab = node(ClientAddress::Toa);
        let (ends, _) = open(&mut lab, net, &[]);
        let outcome = lab.handle(0, &ends.in_frame(&segment(flags, options, b"")));
        assert_eq!(outcome, ends.in_sent(&segment(flags, &expected, b"")), "{description}");
    }
}

#[test]
fn what_has_no_room_goes_without_and_is_counted() {
    for net in NETS {
        let headers = if net.name == "IPv4" { 40 } else { 60 };
        let whole = usize::from(MTU) - headers;
        let mut lab = node(ClientAddress::Toa);
        let (ends, _) = open(&mut lab, net, &[]);
        let option = option_of(ends.client);
        let fitting = vec![7; whole - option.len()];
        let filled = vec![1; 40 - option.len() + 4];
        let cases = [
            ("just fits", &[][..], &fitting[..], true),
            ("one octet too many", &[], &vec![7; whole - option.len() + 1], false),
            ("as large as the way", &[], &vec![7; whole], false),
            ("options up to the end", &vec![1; 40 - option.len()], b"", true),
            ("options beyond", &filled, b"", false),
        ];
        for (description, options, data, fits) in cases {
            let (told, untold) = counted(&lab);
            let outcome = lab.handle(0, &ends.in_frame(&segment(ACK, options, data)));
            let with = if fits { [&option, options].concat() } else { options.to_vec() };
            assert_eq!(
                outcome,
                ends.in_sent(&segment(ACK, &with, data)),
                "{} {description}",
                net.name
            );
            let expected = if fits { (told + 1, untold) } else { (told, untold + 1) };
            assert_eq!(counted(&lab), expected, "{description}");
        }
    }
}

/// Clients obey the server's half of the handshake.
#[test]
fn handshakes_leave_room() {
    for net in NETS {
        let mut lab = node(ClientAddress::Toa);
        let (ends, _) = open(&mut lab, net, &[]);
        let (headers, least) = if net.name == "IPv4" { (40, 536) } else { (60, 1220) };
        let len = option_of(ends.client).len() as u16;
        let whole = MTU - headers;
        let cases = [
            (whole, whole - len),
            (whole - 12, whole - 12 - len),
            // More than the way takes.
            (8960, whole - len),
            (least + 1, least),
            (least - 1, least - 1),
        ];
        for (announced, expected) in cases {
            let outcome = lab.handle(1, &ends.out_frame(&segment(SYN_ACK, &mss(announced), b"")));
            let sent = ends.out_sent(&segment(SYN_ACK, &mss(expected), b""));
            assert_eq!(outcome, sent, "{} {announced}", net.name);
        }
        // What the client announces is about packets that do not grow.
        let again = ends.in_frame(&segment(SYN, &mss(whole), b""));
        let option = option_of(ends.client);
        let sent = ends.in_sent(&segment(SYN, &[&option, &mss(whole)[..]].concat(), b""));
        assert_eq!(lab.handle(0, &again), sent);
    }
}

/// A client that is told the MTU of the server's side would send what grows beyond it.
#[test]
fn errors_tell_an_mtu_that_leaves_room() {
    for (net, kind, tells) in
        [(NETS[0], [3, 4], true), (NETS[1], [2, 0], true), (NETS[0], [3, 1], false)]
    {
        for client_address in [ClientAddress::None, ClientAddress::Toa] {
            let mut lab = node(client_address);
            let (ends, _) = open(&mut lab, net, &[]);
            let grows = tells && client_address == ClientAddress::Toa;
            let less = if grows { option_of(ends.client).len() as u16 } else { 0 };
            let router: IpAddr = net.router.parse().unwrap();
            let about = (Protocol::Tcp, ends.local, ends.real);
            let received =
                Error { src: router, dst: ends.local.ip(), ttl: 60, kind, about, quoted: 20 };
            let about = (Protocol::Tcp, ends.client, ends.vip);
            let (src, dst) = (ends.vip.ip(), ends.client.ip());
            let sent = Error { src, dst, ttl: 59, kind, about, quoted: 20 };
            let outcome = lab.handle(1, &received.telling(1400, (NAT_1, BACK)));
            let sent = sent.telling(1400 - less, (FRONT, CLIENT));
            assert_eq!(outcome, Outcome::Sent(0, sent), "{} {kind:?}", net.name);
        }
    }
}
