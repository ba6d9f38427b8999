//! Round trips, sizes and garbage.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use steadfast_dataplane::{Deltas, Grown, LongerReply};
use steadfast_model::{BootId, Epoch, GroupId, NodeId, ServerId, ServiceId};

use super::*;
use crate::{
    Key, PROTOCOL_TCP, PROTOCOL_UDP, Record,
    digest::{RANGES, Ranges},
};

const HEADER: GroupHeader = GroupHeader {
    group: GroupId(7),
    epoch: Epoch { generation: 1, grant_index: 1234, claim: 2, node: NodeId(3) },
    donated: false,
};

fn typical(n: u32) -> Record {
    Record {
        key: Key {
            protocol: PROTOCOL_TCP,
            client: IpAddr::from([198, 18, 0, 9]),
            client_port: 40_000 + n as u16,
            vip: IpAddr::from([198, 18, 0, 100]),
            vip_port: 443,
        },
        group: HEADER.group,
        service: ServiceId(12),
        server: ServerId(180),
        // Drawn from a clock in nanoseconds, hours apart: the dearest kind.
        incarnation: 3_600_000_000_000 * u64::from(n) + 1_234_567,
        state: 1,
        flags: 0,
        local: None,
        deltas: None,
    }
}

fn decode(frame: &[u8]) -> Batch {
    match Message::decode(frame) {
        Ok(Message::Batch(batch)) => batch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_typical_ipv4_record_takes_24_bytes_or_less() {
    let size = |records: u32| {
        let mut writer = BatchWriter::new(BATCH_BYTES_MAX);
        (0..records).for_each(|n| writer.record(HEADER, &typical(n)));
        writer.finish(1_000_000, 86_400_000, 3).len()
    };
    let (one, hundred) = (size(1), size(11));
    let each = (hundred - one) as f64 / 10.0;
    println!("{each} bytes per record, {one} for a batch of one");
    assert!(each <= 24.0, "{each}");
}

/// Each of its two addresses has twelve octets more.
#[test]
fn an_ipv6_record_takes_the_longer_addresses_and_nothing_else() {
    let six = |n: u32| {
        let mut record = typical(n);
        record.key.client = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9]);
        record.key.vip = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100]);
        record
    };
    let frame = |record: &dyn Fn(u32) -> Record, records: u32| {
        let mut writer = BatchWriter::new(BATCH_BYTES_MAX);
        (0..records).for_each(|n| writer.record(HEADER, &record(n)));
        (0..records).for_each(|n| writer.delete(HEADER, &record(n).key, 1));
        writer.finish(1_000_000, 86_400_000, 3)
    };
    let items = decode(&frame(&six, 11)).items;
    let keys: Vec<Key> = items
        .iter()
        .map(|item| match item {
            Item::Record { record, .. } => record.key,
            Item::Delete { key, .. } => *key,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(keys[..11].iter().copied().eq((0..11).map(|n| six(n).key)));
    assert!(keys[11..].iter().copied().eq((0..11).map(|n| six(n).key)));
    let size = |record: &dyn Fn(u32) -> Record| {
        let only = |records: u32| {
            let mut writer = BatchWriter::new(BATCH_BYTES_MAX);
            (0..records).for_each(|n| writer.record(HEADER, &record(n)));
            writer.finish(1_000_000, 86_400_000, 3).len()
        };
        (only(11) - only(1)) as f64 / 10.0
    };
    println!("{} bytes per IPv6 record", size(&six));
    assert_eq!(size(&six), size(&typical) + 24.0);
}

#[test]
fn the_bytes_of_a_record_are_what_the_module_says() {
    let mut writer = BatchWriter::new(BATCH_BYTES_MAX);
    writer.record(HEADER, &Record { incarnation: 300, ..typical(0) });
    writer.delete(HEADER, &typical(0).key, 299);
    let frame = writer.finish(5, 6, 0);
    #[rustfmt::skip]
    let expected = [
        2, 5, 6, 0, 0xac, 0x02, 1,
        7, 1, 0xd2, 0x09, 2, 3, 0,
        0, 0, 1, 198, 18, 0, 9, 0x9c, 0x40, 198, 18, 0, 100, 0x01, 0xbb, 12, 0xb4, 0x01, 0,
        0x81, 198, 18, 0, 9, 0x9c, 0x40, 198, 18, 0, 100, 0x01, 0xbb, 1,
    ];
    assert_eq!(frame, expected);
}

#[test]
fn a_local_address_follows_the_record_it_belongs_to() {
    let cases: [(IpAddr, &str, &[u8]); 2] = [
        ([198, 18, 0, 100].into(), "198.18.1.200:1024", &[1, 198, 18, 1, 200, 4, 0]),
        (
            "2001:db8::100".parse().unwrap(),
            "[2001:db8:0:1::200]:1024",
            &[1, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 4, 0],
        ),
    ];
    for (vip, local, bytes) in cases {
        let key = Key { vip, ..typical(0).key };
        let record = Record { key, local: Some(local.parse().unwrap()), ..typical(0) };
        let mut writer = BatchWriter::new(BATCH_BYTES_MAX);
        writer.record(HEADER, &record);
        writer.record(HEADER, &Record { local: None, ..record });
        let frame = writer.finish(1, 2, 0);
        let items = [record, Record { local: None, ..record }];
        let items = items.map(|record| Item::Record { header: 0, record });
        assert_eq!(decode(&frame).items, items);
        let at = frame.windows(bytes.len()).position(|window| window == bytes).unwrap();
        // More than this version knows; a header and a longer reply without numbers.
        for more in [17, 5, 9] {
            let mut unknown = frame.clone();
            unknown[at] = more;
            assert!(Message::decode(&unknown).is_err(), "{more}");
        }
    }
}

#[test]
fn deltas_follow_the_record_they_belong_to() {
    let deltas = Some(DELTAS);
    let under_way = Some(Deltas { header_at: Some(u32::MAX - 2), ..DELTAS });
    let longer = |is_heard| {
        let address = Grown { at: 0x8000_0002, len: 8, by: 7 };
        Some(Deltas { longer: Some(LongerReply { address, is_heard }), ..DELTAS })
    };
    let local = Some("198.18.1.200:1024".parse().unwrap());
    let numbers = [0x80, 0, 0, 1, 0, 0, 0, 28, 0xff, 0xff, 0xff, 0xfe, 7, 0xf9];
    let address = [198, 18, 1, 200, 4, 0];
    let cases = [
        (Record { deltas, ..typical(0) }, [&[2][..], &numbers].concat()),
        (Record { deltas, local, ..typical(0) }, [&[3][..], &address, &numbers].concat()),
        (
            Record { deltas: under_way, local, ..typical(0) },
            [&[7][..], &address, &numbers, &[0xff, 0xff, 0xff, 0xfd]].concat(),
        ),
        (
            Record { deltas: longer(false), ..typical(0) },
            [&[10][..], &numbers, &[0x80, 0, 0, 2, 8, 7]].concat(),
        ),
        (
            Record { deltas: longer(true), local, ..typical(0) },
            [&[11][..], &address, &numbers, &[0x80, 0, 0, 2, 8, 0x87]].concat(),
        ),
    ];
    for (record, bytes) in cases {
        let mut writer = BatchWriter::new(BATCH_BYTES_MAX);
        writer.record(HEADER, &record);
        let frame = writer.finish(1, 2, 0);
        assert_eq!(frame[frame.len() - bytes.len()..], bytes);
        assert_eq!(decode(&frame).items, [Item::Record { header: 0, record }]);
        if record.deltas.is_some_and(|deltas| deltas.longer.is_some()) {
            // No address is so long, and none grows by so much.
            for (from_end, long) in [(2, 16), (1, 0x10)] {
                let mut unknown = frame.clone();
                let at = unknown.len() - from_end;
                unknown[at] = long;
                assert!(Message::decode(&unknown).is_err());
            }
        }
        for cut in 1..=bytes.len() {
            assert!(Message::decode(&frame[..frame.len() - cut]).is_err(), "{cut} are missing");
        }
    }
}

#[test]
fn a_full_batch_keeps_to_its_bound() {
    let v6 = |n: u32| Key {
        protocol: 255,
        client: IpAddr::from([0xff; 16]),
        client_port: n as u16,
        vip: IpAddr::from([0xff; 16]),
        vip_port: 65535,
    };
    for room in [600, 1500, 9000, BATCH_BYTES_MAX, 1 << 20] {
        let mut writer = BatchWriter::new(room);
        let mut n = 0;
        while writer.has_room() {
            let epoch = Epoch {
                generation: u32::MAX,
                grant_index: u64::MAX,
                claim: u32::MAX,
                node: NodeId(u32::MAX),
            };
            let header = GroupHeader { group: GroupId(u32::MAX - n % 200), epoch, donated: true };
            let record = Record {
                key: v6(n),
                group: header.group,
                service: ServiceId(u32::MAX),
                server: ServerId(u32::MAX),
                incarnation: if n % 2 == 0 { 0 } else { u64::MAX / 2 + 1 },
                state: 15,
                flags: 15,
                local: Some(SocketAddr::new([0xff; 16].into(), 65535)),
                deltas: Some(DELTAS),
            };
            writer.delete(header, &record.key, record.incarnation);
            writer.record(header, &record);
            n += 1;
        }
        let items = writer.items();
        let frame = writer.finish(u64::MAX, u64::MAX, u64::MAX);
        assert!(frame.len() <= room.min(BATCH_BYTES_MAX), "{} > {room}", frame.len());
        assert_eq!(decode(&frame).items.len(), items);
    }
}

#[test]
fn releases_that_follow_each_other_understand_each_other() {
    let hello = Hello::new(1, NodeId(2), BootId(3), 0);
    assert_eq!(hello.agreed(), VERSION);
    let of = |version, oldest| Hello { version, oldest, ..hello };
    // The next release may say more, which this one does not read.
    let mut next = of(VERSION + 1, OLDEST_VERSION).encode();
    next.extend_from_slice(b"what this release does not know");
    let Ok(Message::Hello(next)) = Message::decode(&next) else { panic!("refused") };
    assert_eq!((next, next.agreed()), (of(VERSION + 1, OLDEST_VERSION), VERSION));
    let last = of(OLDEST_VERSION, OLDEST_VERSION);
    assert_eq!(Message::decode(&last.encode()), Ok(Message::Hello(last)));
    assert_eq!(last.agreed(), OLDEST_VERSION);
}

#[test]
fn what_does_not_belong_is_refused_with_a_reason() {
    let hello = Hello::new(1, NodeId(2), BootId(3), 0).encode();
    let newer = Hello { version: 9, oldest: 4, ..Hello::new(1, NodeId(2), BootId(3), 0) }.encode();
    let older = Hello { version: 0, oldest: 0, ..Hello::new(1, NodeId(2), BootId(3), 0) }.encode();
    let mut shards = hello.clone();
    *shards.last_mut().unwrap() = 64;
    let mut long = hello.clone();
    long.push(0);
    let cases: &[(&[u8], &str)] = &[
        (&[], "frame ends within message type"),
        (&[9], "unknown message type 9"),
        (
            &newer,
            "peer speaks replication versions 4 to 9, this node 1 to 2; upgrade the older one",
        ),
        (
            &older,
            "peer speaks replication versions 0 to 0, this node 1 to 2; upgrade the older one",
        ),
        (&shards, "stream for shard 0 of 64, this node has 4 shards"),
        (&long, "1 bytes after the end of the message"),
        (&hello[..11], "frame ends within node"),
        (&[2, 1, 0, 0, 0, 0, 0, 0], "header index out of range: 0"),
        (&[2, 1, 0, 0, 0, 0x81, 0x01], "group headers out of range: 129"),
        (&[2, 1, 0, 0, 0, 1, 7, 1, 1, 1, 1, 2], "group flags out of range: 2"),
        (&[2, 1, 0, 0, 0, 1, 7, 1, 1, 1, 1, 0, 7, 0], "unknown item 0x07 at byte 12"),
        (&[2, 1, 0, 0, 0, 1, 7, 1, 1, 1, 1, 0, 0x80], "unknown item 0x80 at byte 12"),
        (&[2, 1, 0, 0, 0, 1, 7, 1, 1, 1, 1, 0, 0x0a, 0], "unknown item 0x0a at byte 12"),
        (&[5, 1, 65], "keys out of range: 65"),
        (&[5, 1, 1, 0x20, 6], "unknown item 0x20 at byte 3"),
        (&[5, 1, 1, 8, 6, 0, 0], "frame ends within client"),
        (&[4, 1, 0, 0xff], "frame ends within known ranges"),
        (&[4, 1, 0x81, 0x01], "group headers out of range: 129"),
        (
            &[3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0],
            "seq is no 64-bit number",
        ),
    ];
    for (frame, expected) in cases {
        assert_eq!(Message::decode(frame).unwrap_err().to_string(), *expected, "{frame:?}");
    }
    let huge = vec![2; BATCH_BYTES_MAX + 1];
    assert!(matches!(Message::decode(&huge), Err(WireError::TooLong { .. })));
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn keys() -> impl Strategy<Value = Key> {
    let protocols = prop_oneof![Just(PROTOCOL_TCP), Just(PROTOCOL_UDP), any::<u8>()];
    (protocols, addresses(), any::<u16>(), addresses(), any::<u16>()).prop_map(
        |(protocol, client, client_port, vip, vip_port)| Key {
            protocol,
            client,
            client_port,
            vip,
            vip_port,
        },
    )
}

fn headers() -> impl Strategy<Value = GroupHeader> {
    (0_u32..5, any::<u32>(), any::<u64>(), any::<u32>(), any::<u32>(), any::<bool>()).prop_map(
        |(group, generation, grant_index, claim, node, donated)| GroupHeader {
            group: GroupId(group),
            epoch: Epoch { generation, grant_index, claim, node: NodeId(node) },
            donated,
        },
    )
}

/// Every other record is of full-NAT.
fn local_of(key: &Key, number: u64) -> Option<SocketAddr> {
    number.is_multiple_of(2).then(|| SocketAddr::new(key.vip, number as u16))
}

const DELTAS: Deltas = Deltas {
    to_client: 0x8000_0001,
    to_server: 28,
    timestamps: u32::MAX - 1,
    windows_to_client: 7,
    windows_to_server: -7,
    header_at: None,
    longer: None,
};

/// Every third record has some.
fn deltas_of(number: u64) -> Option<Deltas> {
    let low = number as u32;
    let windows = number.to_le_bytes().map(u8::cast_signed);
    number.is_multiple_of(3).then(|| Deltas {
        to_client: low,
        to_server: (number >> 32) as u32,
        timestamps: low.rotate_left(7),
        windows_to_client: windows[1],
        windows_to_server: windows[6],
        header_at: number.is_multiple_of(2).then_some(low),
        longer: number.is_multiple_of(5).then_some(LongerReply {
            address: Grown { at: low.rotate_left(3), len: (number % 16) as u8, by: 7 },
            is_heard: number.is_multiple_of(7),
        }),
    })
}

/// (kind, key, numbers, bits)
type Draft = (u8, Key, [u64; 3], u8);

fn write(writer: &mut BatchWriter, header: GroupHeader, draft: &Draft) {
    let (kind, key, [a, b, c], bits) = *draft;
    match kind {
        0 => writer.record(
            header,
            &Record {
                key,
                group: header.group,
                service: ServiceId(a as u32),
                server: ServerId(b as u32),
                incarnation: c,
                state: bits % 16,
                flags: bits / 16,
                local: local_of(&key, a),
                deltas: deltas_of(c),
            },
        ),
        1 => writer.delete(header, &key, c),
        2 => writer.begin(header, a),
        3 => writer.end(header, a),
        4 => writer.sweep(header, a),
        _ => writer.donation_end(header),
    }
}

/// The same thing, as it should come out.
fn item(header: u8, group: GroupId, draft: &Draft) -> Item {
    let (kind, key, [a, b, c], bits) = *draft;
    match kind {
        0 => {
            let (service, server) = (ServiceId(a as u32), ServerId(b as u32));
            let (state, flags) = (bits % 16, bits / 16);
            let local = local_of(&key, a);
            let deltas = deltas_of(c);
            let record =
                Record { key, group, service, server, incarnation: c, state, flags, local, deltas };
            Item::Record { header, record }
        }
        1 => Item::Delete { header, key, incarnation: c },
        2 => Item::Begin { header, snapshot: a },
        3 => Item::End { header, snapshot: a },
        4 => Item::Sweep { header, snapshot: a },
        _ => Item::DonationEnd { header },
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        pool in prop::collection::vec(headers(), 1..6),
        drafts in prop::collection::vec(
            (any::<prop::sample::Index>(), (0_u8..6, keys(), any::<[u64; 3]>(), any::<u8>())),
            0..80,
        ),
        seq in any::<u64>(),
        age_ms in any::<u64>(),
    ) {
        let mut writer = BatchWriter::new(BATCH_BYTES_MAX);
        for (index, draft) in &drafts {
            write(&mut writer, *index.get(&pool), draft);
        }
        let batch = decode(&writer.finish(seq, age_ms / 3, age_ms));
        prop_assert_eq!((batch.seq, batch.sent_ms, batch.age_ms), (seq, age_ms / 3, age_ms));
        prop_assert_eq!(batch.items.len(), drafts.len());
        for (got, (index, draft)) in batch.items.iter().zip(&drafts) {
            let header = batch.groups[usize::from(got.header())];
            prop_assert_eq!(header, *index.get(&pool));
            prop_assert_eq!(*got, item(got.header(), header.group, draft));
        }
    }

    #[test]
    fn hellos_and_acks_are_read_as_written(
        cluster in any::<u64>(), node in any::<u32>(), boot in any::<u64>(), shard in 0..SHARDS,
        seq in any::<u64>(), resync in prop::collection::vec(any::<u32>(), 0..ACK_GROUPS_MAX),
    ) {
        let hello = Hello::new(cluster, NodeId(node), BootId(boot), shard);
        prop_assert_eq!(Message::decode(&hello.encode()), Ok(Message::Hello(hello)));
        let ack = Ack { seq, fenced: resync.iter().rev().skip(3).copied().map(GroupId).collect(), resync: resync.into_iter().map(GroupId).collect() };
        prop_assert_eq!(Message::decode(&ack.encode()), Ok(Message::Ack(ack)));
    }

    #[test]
    fn questions_are_read_as_written(
        group in any::<u32>(), keys in prop::collection::vec(keys(), 0..=ASK_KEYS_MAX),
    ) {
        let ask = Ask { group: GroupId(group), keys };
        prop_assert_eq!(Message::decode(&ask.encode()), Ok(Message::Ask(ask)));
    }

    #[test]
    fn digests_are_read_as_written(
        seq in any::<u64>(), groups in prop::collection::vec(headers(), 0..20),
        known in prop::collection::vec(any::<Option<u64>>(), RANGES),
    ) {
        let mut ranges = Ranges::default();
        for (range, known) in known.iter().enumerate() {
            match known {
                Some(digest) => ranges.set(range, *digest),
                None => ranges.forget(range),
            }
        }
        let digest = Digest { seq, groups, ranges };
        let frame = digest.encode();
        prop_assert!(frame.len() <= DIGEST_BYTES_MAX);
        prop_assert_eq!(Message::decode(&frame), Ok(Message::Digest(digest)));
    }

    /// No panic, and memory in proportion: every item and header takes bytes of the frame.
    #[test]
    fn garbage_is_refused_or_read(mut bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0_u8..7) {
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        if let Ok(Message::Batch(batch)) = Message::decode(&bytes) {
            prop_assert!(batch.items.len() + batch.groups.len() * 6 <= bytes.len());
        }
    }

    /// A damaged batch: one byte changed, or the end cut off.
    #[test]
    fn damage_does_no_harm(
        drafts in prop::collection::vec((0_u8..6, keys(), any::<[u64; 3]>(), any::<u8>()), 1..20),
        at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let mut writer = BatchWriter::new(BATCH_BYTES_MAX);
        drafts.iter().for_each(|draft| write(&mut writer, HEADER, draft));
        let mut frame = writer.finish(1, 2, 0);
        let place = at.index(frame.len());
        frame[place] = byte;
        let _ = Message::decode(&frame);
        let _ = Message::decode(&frame[..cut.index(frame.len())]);
    }
}
