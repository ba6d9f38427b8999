//! Plain packets: read and rewritten at once as by the functions for all packets one by one.

use proptest::prelude::*;
use steadfast_packet::{
    Content, Plain, Rewrite, Transport, decrement_ttl, parse, plain, rewrite_destination,
    rewrite_source, set_macs,
};

use crate::frames::sample;

/// What [`plain`] should read of a frame, by what [`parse`] does.
fn expected(frame: &[u8]) -> Option<Plain> {
    let parsed = parse(frame).ok()?;
    let Content::Ip(packet) = parsed.content else { return None };
    let (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) = (packet.src, packet.dst) else {
        return None;
    };
    let is_tcp = match packet.transport {
        Transport::Tcp { flags, .. } => {
            let plain = flags.ack() && !flags.syn() && !flags.fin() && !flags.rst();
            plain.then_some(true)?
        }
        Transport::Udp { .. } => false,
        _ => return None,
    };
    let (_, src_port, dst_port) = packet.tuple()?;
    let is_simple =
        parsed.vlan.is_none() && packet.l4 == 34 && packet.fragment.is_none() && packet.ttl > 1;
    let len = packet.len() as u16;
    is_simple.then_some(Plain { is_tcp, src, src_port, dst, dst_port, len })
}

fn rewrite() -> impl Strategy<Value = Rewrite> {
    prop_oneof![
        Just(Rewrite::No),
        any::<(u32, u16)>().prop_map(|(addr, port)| Rewrite::Source(addr.into(), port)),
        any::<(u32, u16)>().prop_map(|(addr, port)| Rewrite::Destination(addr.into(), port)),
    ]
}

/// Octets that make a packet special, or broken: lengths, fragments, time to live, protocol, the
/// header of the transport.
fn telling() -> impl Strategy<Value = (usize, u8)> {
    let at = proptest::sample::select(vec![12, 13, 14, 16, 17, 20, 21, 22, 23, 38, 39, 46, 47]);
    (at, 0..8_u8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_is_plain_is_read_and_sent_as_any_other(
        sample in sample(),
        simple in proptest::bool::weighted(0.8),
        ttl in 0..4_u8,
        rewrite in rewrite(),
        macs in any::<([u8; 6], [u8; 6])>(),
        cut in proptest::option::weighted(0.1, any::<proptest::sample::Index>()),
        flips in proptest::collection::vec(telling(), 0..2),
    ) {
        let mut sample = sample;
        if simple {
            (sample.options, sample.ttl) = (0, ttl);
        }
        let mut frame = sample.frame();
        if simple && sample.src.is_ipv4() && sample.tcp {
            frame[47] = frame[47] & !7 | 0x10;
        }
        for (at, bit) in flips {
            let at = at.min(frame.len() - 1);
            frame[at] ^= 1 << bit;
        }
        if sample.src.is_ipv4() {
            frame[24..26].fill(0);
            let checksum = steadfast_packet::internet_checksum(0, &frame[14..34]);
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
            // One wrong in so many ways.
            frame[24] ^= u8::from(macs.0[0] < 8);
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len() + 1));
        }
        let read = plain(&frame);
        prop_assert_eq!(read, expected(&frame));
        let Some(read) = read else { return Ok(()) };
        let mut long = frame.clone();
        let packet = crate::frames::packet(&frame);
        prop_assert!(decrement_ttl(&mut long, &packet));
        match rewrite {
            Rewrite::No => {}
            Rewrite::Source(addr, port) => rewrite_source(&mut long, &packet, addr.into(), port),
            Rewrite::Destination(addr, port) => {
                rewrite_destination(&mut long, &packet, addr.into(), port);
            }
        }
        set_macs(&mut long, macs.0, macs.1);
        read.send_on(&mut frame, macs.0, macs.1, rewrite);
        prop_assert_eq!(frame, long);
    }
}
