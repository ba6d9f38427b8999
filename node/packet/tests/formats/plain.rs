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
    let (dst_mac, src_mac, len) = (parsed.dst_mac, parsed.src_mac, packet.len() as u16);
    is_simple.then_some(Plain { dst_mac, src_mac, is_tcp, src, src_port, dst, dst_port, len })
}

fn rewrite() -> impl Strategy<Value = Rewrite> {
    prop_oneof![
        Just(Rewrite::No),
        any::<(u32, u16)>().prop_map(|(addr, port)| Rewrite::Source(addr.into(), port)),
        any::<(u32, u16)>().prop_map(|(addr, port)| Rewrite::Destination(addr.into(), port)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_plain_is_read_and_sent_as_any_other(
        sample in sample(),
        simple in any::<bool>(),
        rewrite in rewrite(),
        macs in any::<([u8; 6], [u8; 6])>(),
        cut in proptest::option::weighted(0.2, any::<proptest::sample::Index>()),
        flips in proptest::collection::vec(any::<(proptest::sample::Index, u8)>(), 0..3),
        fix_checksum in any::<bool>(),
    ) {
        let mut frame = sample.frame();
        if simple && sample.src.is_ipv4() && sample.tcp {
            let at = frame.len().min(14 + usize::from(frame[14] & 15) * 4 + 13);
            frame[at] = frame[at] & !7 | 0x10;
        }
        for (at, bit) in flips {
            let at = at.index(frame.len().min(54));
            frame[at] ^= 1 << (bit % 8);
        }
        if fix_checksum {
            frame[24..26].fill(0);
            let checksum = steadfast_packet::internet_checksum(0, &frame[14..34]);
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
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
