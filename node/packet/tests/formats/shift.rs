//! Shifted segments against a second reader (etherparse) and full computation.

use etherparse::{
    IpHeaders, Ipv4Header, Ipv6Header, NetHeaders, PacketBuilder, PacketHeaders, TcpHeader,
    TcpOptionElement, TransportHeader, ip_number,
};
use proptest::prelude::*;
use steadfast_packet::{
    BadOptions, Content, Grown, Packet, SEGMENT_LEN_MAX, Segment, SegmentOptions, SeqShift,
    TcpFlags, parse, segment_options, shift_numbers, write_segment,
};

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 0xc], [2, 0, 0, 0, 0, 0xd]);
const ACK: u8 = TcpFlags::ACK;
/// Octets that are left of the longest header.
const OPTIONS_MAX: usize = 40;

/// A random segment with well-formed options.
#[derive(Clone, Debug)]
struct Sample {
    ipv6: bool,
    numbers: (u32, u32),
    window: u16,
    flags: u8,
    options: Vec<u8>,
    payload: Vec<u8>,
}

/// An option of each kind that matters, padding, and one that nobody knows.
fn option() -> impl Strategy<Value = Vec<u8>> {
    let of = |kind: u8, len: usize| {
        proptest::collection::vec(any::<u8>(), len)
            .prop_map(move |value| [&[kind, value.len() as u8 + 2][..], &value].concat())
    };
    prop_oneof![
        Just(vec![1]),
        of(2, 2),
        of(3, 1),
        Just(vec![4, 2]),
        of(5, 8),
        of(5, 16),
        of(5, 24),
        of(8, 8),
        of(30, 5),
    ]
}

/// As many of them as fit, and the end of the list.
fn options() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(option(), 0..6).prop_map(|all| {
        let mut options = Vec::new();
        for option in all {
            if options.len() + option.len() <= OPTIONS_MAX {
                options.extend(option);
            }
        }
        options.resize(options.len().next_multiple_of(4), 0);
        options
    })
}

fn sample() -> impl Strategy<Value = Sample> {
    let data = (options(), proptest::collection::vec(any::<u8>(), 0..40));
    (any::<bool>(), any::<(u32, u32)>(), any::<u16>(), any::<u8>(), data).prop_map(
        |(ipv6, numbers, window, flags, (options, payload))| {
            let flags = flags & (TcpFlags::FIN | TcpFlags::SYN | TcpFlags::RST | ACK);
            Sample { ipv6, numbers, window, flags, options, payload }
        },
    )
}

fn shift() -> impl Strategy<Value = SeqShift> {
    any::<(u32, u32, u32, u32)>().prop_map(|(seq, ack, ts_val, ts_ecr)| SeqShift {
        seq,
        ack,
        ts_val,
        ts_ecr,
        ..SeqShift::default()
    })
}

impl Sample {
    fn frame(&self) -> Vec<u8> {
        let headers = if self.ipv6 {
            let ip = Ipv6Header {
                hop_limit: 64,
                next_header: ip_number::TCP,
                source: [0x20; 16],
                destination: [0x26; 16],
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(ip, Default::default())
        } else {
            let ip = Ipv4Header::new(0, 64, ip_number::TCP, [198, 18, 0, 2], [198, 18, 0, 100]);
            IpHeaders::Ipv4(ip.unwrap(), Default::default())
        };
        let mut tcp = TcpHeader::new(4000, 80, self.numbers.0, self.window);
        tcp.acknowledgment_number = self.numbers.1;
        (tcp.fin, tcp.syn) = (self.flags & 1 != 0, self.flags & 2 != 0);
        (tcp.rst, tcp.ack) = (self.flags & 4 != 0, self.flags & ACK != 0);
        tcp.set_options_raw(&self.options).unwrap();
        let builder = PacketBuilder::ethernet2(MACS.0, MACS.1).ip(headers).tcp_header(tcp);
        let mut frame = Vec::new();
        builder.write(&mut frame, &self.payload).unwrap();
        frame
    }
}

fn packet(frame: &[u8]) -> Packet {
    match parse(frame).unwrap().content {
        Content::Ip(packet) => packet,
        other => panic!("not IP: {other:?}"),
    }
}

/// The segment as etherparse reads it, and the checksum that it should have.
fn read(frame: &[u8]) -> (TcpHeader, u16) {
    let read = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(TransportHeader::Tcp(tcp)) = read.transport else { panic!("no TCP") };
    let payload = read.payload.slice();
    let right = match read.net.unwrap() {
        NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(&ip, payload).unwrap(),
        NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(&ip, payload).unwrap(),
        NetHeaders::Arp(_) => panic!("ARP"),
    };
    (tcp, right)
}

/// What etherparse makes of the options, with the numbers in them shifted.
fn expected(tcp: &TcpHeader, shift: &SeqShift) -> Vec<TcpOptionElement> {
    let ack = |edge: u32| edge.wrapping_add(shift.ack);
    let block = |(left, right): (u32, u32)| (ack(left), ack(right));
    tcp.options_iterator()
        .map(|option| match option.unwrap() {
            TcpOptionElement::SelectiveAcknowledgement(first, rest) => {
                let rest = rest.map(|edges| edges.map(block));
                TcpOptionElement::SelectiveAcknowledgement(block(first), rest)
            }
            TcpOptionElement::Timestamp(value, echo) => {
                let by = if tcp.ack { shift.ts_ecr } else { 0 };
                let value = value.wrapping_add(shift.ts_val);
                TcpOptionElement::Timestamp(value, echo.wrapping_add(by))
            }
            other => other,
        })
        .collect()
}

/// etherparse stops at a kind that it does not know.
fn is_known(options: &[u8]) -> bool {
    let mut at = 0;
    while at < options.len() {
        match options[at] {
            0 => return true,
            1 => at += 1,
            30 => return false,
            _ => at += usize::from(options[at + 1]),
        }
    }
    true
}

fn back(shift: &SeqShift) -> SeqShift {
    SeqShift {
        seq: shift.seq.wrapping_neg(),
        ack: shift.ack.wrapping_neg(),
        ts_val: shift.ts_val.wrapping_neg(),
        ts_ecr: shift.ts_ecr.wrapping_neg(),
        ..SeqShift::default()
    }
}

proptest! {
    #[test]
    fn a_second_reader_finds_the_shifted_numbers(sample in sample(), shift in shift()) {
        let frame = sample.frame();
        let mut shifted = frame.clone();
        shift_numbers(&mut shifted, &packet(&frame), &shift).unwrap();
        let ((old, _), (new, right)) = (read(&frame), read(&shifted));
        prop_assert_eq!(new.checksum, right);
        prop_assert_eq!(new.sequence_number, old.sequence_number.wrapping_add(shift.seq));
        let by = if old.ack { shift.ack } else { 0 };
        prop_assert_eq!(new.acknowledgment_number, old.acknowledgment_number.wrapping_add(by));
        prop_assert_eq!(new.window_size, old.window_size);
        if is_known(&sample.options) {
            let found: Vec<_> = new.options_iterator().map(Result::unwrap).collect();
            prop_assert_eq!(found, expected(&old, &shift));
        }
    }

    #[test]
    fn the_opposite_shift_restores_every_octet(
        sample in sample(), shift in shift(), error in any::<u16>(),
    ) {
        let mut frame = sample.frame();
        // A wrong checksum stays as wrong as it was.
        let at = packet(&frame).l4 + 16;
        let wrong = u16::from_be_bytes([frame[at], frame[at + 1]]) ^ error;
        prop_assume!(wrong != 0xffff);
        frame[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
        let mut changed = frame.clone();
        shift_numbers(&mut changed, &packet(&frame), &shift).unwrap();
        shift_numbers(&mut changed, &packet(&frame), &back(&shift)).unwrap();
        prop_assert_eq!(changed, frame);
    }

    #[test]
    fn any_options_are_shifted_whole_or_not_at_all(
        sample in sample(), options in proptest::collection::vec(0..12u8, 0..=40), shift in shift(),
    ) {
        let mut options = options;
        options.resize(options.len().next_multiple_of(4).min(OPTIONS_MAX), 0);
        let frame = Sample { options, ..sample }.frame();
        let mut changed = frame.clone();
        match shift_numbers(&mut changed, &packet(&frame), &shift) {
            Err(BadOptions) => prop_assert_eq!(changed, frame),
            Ok(()) => {
                let (new, right) = read(&changed);
                prop_assert_eq!(new.checksum, right);
                prop_assert_eq!(new.sequence_number, sample.numbers.0.wrapping_add(shift.seq));
            }
        }
    }
}

#[test]
fn malformed_options_leave_the_segment_alone() {
    let shift = SeqShift { seq: 1, ack: 2, ts_val: 3, ts_ecr: 4, ..SeqShift::default() };
    let cases: [(&str, &[u8]); 9] = [
        ("a length of 0", &[8, 0, 1, 1]),
        ("a length of 1", &[8, 1, 1, 1]),
        ("no length", &[1, 1, 1, 8]),
        ("longer than the header", &[8, 10, 0, 0]),
        ("timestamps too short", &[8, 6, 0, 0, 0, 0, 1, 1]),
        ("timestamps too long", &[8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("SACK without a block", &[5, 2, 1, 1]),
        ("half a block", &[5, 6, 0, 0, 0, 0, 1, 1]),
        ("bad after good ones", &[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 5, 3]),
    ];
    for (what, options) in cases {
        let sample = Sample {
            ipv6: false,
            numbers: (1, 2),
            window: 3,
            flags: ACK,
            options: options.to_vec(),
            payload: Vec::new(),
        };
        let frame = sample.frame();
        let mut changed = frame.clone();
        let result = shift_numbers(&mut changed, &packet(&frame), &shift);
        assert_eq!((result, changed), (Err(BadOptions), frame), "{what}");
    }
}

#[test]
fn numbers_wrap_around_and_windows_fit_their_field() {
    let window = |by: i8| SeqShift { window: by, ..SeqShift::default() };
    let wrap = SeqShift { seq: 2, ack: u32::MAX, ..SeqShift::default() };
    let cases = [
        ("around the end", ACK, wrap, (1, u32::MAX, 512)),
        ("no ACK", 0, wrap, (1, 0, 512)),
        ("a larger scale", ACK, window(-7), (u32::MAX, 0, 4)),
        ("a smaller one", ACK, window(3), (u32::MAX, 0, 4096)),
        ("more than fits", ACK, window(8), (u32::MAX, 0, 65535)),
        ("more than is there", ACK, window(-14), (u32::MAX, 0, 0)),
        ("a shift without end", ACK, window(i8::MIN), (u32::MAX, 0, 0)),
        ("another", ACK, window(i8::MAX), (u32::MAX, 0, 65535)),
        ("never with SYN", ACK | TcpFlags::SYN, window(3), (u32::MAX, 0, 512)),
    ];
    for (what, flags, shift, expected) in cases {
        let sample = Sample {
            ipv6: true,
            numbers: (u32::MAX, 0),
            window: 512,
            flags,
            options: Vec::new(),
            payload: b"odd".to_vec(),
        };
        let mut frame = sample.frame();
        let packet = packet(&frame);
        shift_numbers(&mut frame, &packet, &shift).unwrap();
        let (tcp, right) = read(&frame);
        let found = (tcp.sequence_number, tcp.acknowledgment_number, tcp.window_size);
        assert_eq!((found, tcp.checksum), (expected, right), "{what}");
    }
}

fn offer() -> impl Strategy<Value = SegmentOptions> {
    let times = any::<Option<(u32, u32)>>();
    let scale = proptest::option::of(0..=14u8);
    (any::<Option<u16>>(), scale, any::<bool>(), times).prop_map(
        |(mss, window_scale, sack_permitted, timestamps)| SegmentOptions {
            mss,
            window_scale,
            sack_permitted,
            timestamps,
        },
    )
}

proptest! {
    #[test]
    fn a_second_reader_finds_the_segment_that_was_written(
        numbers in any::<(u32, u32)>(), window in any::<u16>(), flags in 0..0x20u8,
        ports in any::<(u16, u16)>(), v6 in any::<bool>(), options in offer(),
    ) {
        let (seq, ack) = numbers;
        let [src, dst] = match v6 {
            true => ["2001:db8::1", "2001:db8::2"],
            false => ["198.18.0.1", "198.18.0.2"],
        };
        let at = |addr: &str, port| std::net::SocketAddr::new(addr.parse().unwrap(), port);
        let (src, dst) = (at(src, ports.0), at(dst, ports.1));
        let segment = Segment { src, dst, seq, ack, flags, window, options };
        let mut buffer = [0xee; SEGMENT_LEN_MAX];
        let len = write_segment(&mut buffer, &segment).unwrap();
        let frame = &buffer[..len];
        let found = packet(frame);
        prop_assert_eq!((found.src, found.dst), (src.ip(), dst.ip()));
        let (tcp, right) = read(frame);
        prop_assert_eq!(tcp.checksum, right);
        prop_assert_eq!((tcp.source_port, tcp.destination_port), ports);
        prop_assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), numbers);
        prop_assert_eq!(tcp.window_size, window);
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let all = flag(tcp.fin, 1) | flag(tcp.syn, 2) | flag(tcp.rst, 4) | flag(tcp.psh, 8);
        prop_assert_eq!(all | flag(tcp.ack, ACK), flags);
        prop_assert_eq!(segment_options(frame, &found), Ok(options));
        let times = tcp.options_iterator().map(Result::unwrap).find_map(|option| match option {
            TcpOptionElement::Timestamp(value, echo) => Some((value, echo)),
            _ => None,
        });
        prop_assert_eq!(times, options.timestamps);
        for short in 0..found.end {
            prop_assert!(write_segment(&mut buffer[..short], &segment).is_err());
        }
    }
}

#[test]
fn offers_that_contradict_themselves_are_refused() {
    // RFC 7323 section 2.3: 14 is meant where more is written.
    let cases = [
        ([2, 3, 5, 0], Err(BadOptions)),
        ([3, 4, 5, 6], Err(BadOptions)),
        ([4, 3, 0, 0], Err(BadOptions)),
        ([8, 3, 0, 0], Err(BadOptions)),
        ([3, 3, 200, 1], Ok(Some(14))),
    ];
    for (options, expected) in cases {
        let options = options.to_vec();
        let (numbers, payload) = ((1, 2), Vec::new());
        let sample = Sample { ipv6: false, numbers, window: 3, flags: 2, options, payload };
        let frame = sample.frame();
        let found = segment_options(&frame, &packet(&frame)).map(|found| found.window_scale);
        assert_eq!(found, expected, "{:?}", sample.options);
    }
}

/// Eight octets that their receiver gets fifteen for, behind a whole shift of 7 more than 1000.
#[test]
fn what_lies_within_longer_octets_is_all_or_nothing() {
    for at in [5000_u32, u32::MAX - 3] {
        let grown = Grown { at, len: 8, by: 7 };
        assert_eq!(grown.end(), at.wrapping_add(8));
        let shift =
            SeqShift { ack: 0u32.wrapping_sub(1007), grown: Some(grown), ..SeqShift::default() };
        // The receiver's number, and what it is as an acknowledgement and as the start of a block; all
        // as seen from the first of these octets.
        let cases = [
            (-500, -500, -500),
            (-1, -1, -1),
            (0, 0, 0),
            (1, 0, 8),
            (7, 0, 8),
            (8, 0, 8),
            (14, 0, 8),
            (15, 8, 8),
            (16, 9, 9),
            (2000, 1993, 1993),
        ];
        for (number, ack, left) in cases {
            let theirs = |behind: i32| at.wrapping_add(1000).wrapping_add_signed(behind);
            let edges = [theirs(number), theirs(number)].map(u32::to_be_bytes).concat();
            let sample = Sample {
                ipv6: false,
                numbers: (1, theirs(number)),
                window: 3,
                flags: ACK,
                options: [&[1, 1, 5, 10][..], &edges].concat(),
                payload: Vec::new(),
            };
            let mut frame = sample.frame();
            let of = packet(&frame);
            shift_numbers(&mut frame, &of, &shift).unwrap();
            let (tcp, right) = read(&frame);
            let ours = |behind: i32| at.wrapping_add_signed(behind);
            assert_eq!(tcp.checksum, right);
            assert_eq!(tcp.acknowledgment_number, ours(ack), "{number}");
            let block =
                TcpOptionElement::SelectiveAcknowledgement((ours(left), ours(ack)), [None; 3]);
            assert_eq!(tcp.options_iterator().last(), Some(Ok(block)), "{number}");
        }
    }
}
