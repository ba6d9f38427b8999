//! Frames survive the wire; anything else is refused with its reason and never panics.

use proptest::collection::vec;
use proptest::prelude::*;
use steadfast_model::{BootId, Epoch, GroupId, NodeId};
use steadfast_ownership::*;

fn seal() -> Seal {
    Seal::new(*b"cluster-number-1", b"the committed key of 32 bytes...")
}

fn epochs() -> impl Strategy<Value = Epoch> + Clone {
    (any::<u32>(), any::<u64>(), any::<u32>(), any::<u32>()).prop_map(
        |(generation, grant_index, claim, node)| Epoch {
            generation,
            grant_index,
            claim,
            node: NodeId(node),
        },
    )
}

fn pairs(max: usize) -> impl Strategy<Value = Vec<(GroupId, Epoch)>> {
    vec((any::<u32>().prop_map(GroupId), epochs()), 0..=max)
}

fn paths() -> impl Strategy<Value = Path> {
    prop_oneof![Just(Path::Peer), (0..u16::MAX).prop_map(|s| Path::Segment(SegmentId(s)))]
}

fn beacons() -> impl Strategy<Value = Beacon> {
    let copy = prop_oneof![
        Just(Completeness::Complete),
        Just(Completeness::Stale),
        Just(Completeness::Empty)
    ];
    let age = prop::option::of(0..u32::MAX);
    let stance = prop_oneof![
        Just(Stance::Obeys),
        Just(Stance::Pending),
        Just(Stance::Holds),
        Just(Stance::Gone),
        Just(Stance::Shadows)
    ];
    let group = (any::<u32>(), epochs(), stance, any::<bool>()).prop_map(
        |(group, epoch, stance, clear)| GroupReport { group: GroupId(group), epoch, stance, clear },
    );
    (any::<[bool; 4]>(), vec(any::<u16>(), 0..=SEGMENTS_MAX), vec(paths(), 0..=PATHS_MAX))
        .prop_flat_map(move |(flags, segments, paths)| {
            let ages = vec(any::<u8>(), paths.len());
            let peer = (
                any::<u32>(),
                any::<u64>(),
                any::<u32>(),
                age.clone(),
                copy.clone(),
                any::<bool>(),
                ages,
            )
                .prop_map(|(node, boot, echo, age, copy, owes, path_ages)| {
                    PeerReport {
                        node: NodeId(node),
                        boot: BootId(boot),
                        echo,
                        age,
                        copy,
                        owes,
                        path_ages,
                    }
                });
            (vec(peer, 0..=PEERS_MAX), vec(group.clone(), 0..=GROUPS_PER_BEACON)).prop_map(
                move |(peers, groups)| Beacon {
                    cordoned: flags[0],
                    leaving: flags[1],
                    abstains: flags[2],
                    more: flags[3],
                    segments: segments.iter().copied().map(SegmentId).collect(),
                    paths: paths.clone(),
                    peers,
                    groups,
                },
            )
        })
}

fn refusals() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        epochs().prop_map(Refusal::Behind),
        epochs().prop_map(Refusal::Promised),
        any::<u32>().prop_map(Refusal::NotSilent),
        any::<u32>().prop_map(Refusal::Abstains),
        Just(Refusal::Unknown),
    ]
}

fn stale_senders() -> impl Strategy<Value = StaleSender> {
    let vip = prop::option::of(any::<std::net::IpAddr>());
    (any::<u32>(), any::<u16>(), any::<[u8; 6]>(), vip).prop_map(|(group, segment, mac, vip)| {
        StaleSender { group: GroupId(group), segment: SegmentId(segment), mac, vip }
    })
}

fn messages() -> impl Strategy<Value = Message> {
    let half = CLAIMS_MAX / 2;
    let refused = vec((any::<u32>().prop_map(GroupId), refusals()), 0..=half);
    prop_oneof![
        beacons().prop_map(Message::Beacon),
        (any::<u32>(), pairs(CLAIMS_MAX)).prop_map(|(holder, claims)| {
            Message::ClaimRequest(ClaimRequest { holder: NodeId(holder), claims })
        }),
        (any::<u32>(), pairs(half), refused).prop_map(|(echo, consents, refusals)| {
            Message::ClaimAnswer(ClaimAnswer { echo, consents, refusals })
        }),
        pairs(CLAIMS_MAX).prop_map(|groups| Message::Resign(Resign { groups })),
        vec(stale_senders(), 0..=STALE_SENDERS_MAX).prop_map(Message::StaleSenders),
    ]
}

fn frames() -> impl Strategy<Value = Frame> {
    let to = prop::option::of((0..u32::MAX).prop_map(NodeId));
    (any::<u32>(), any::<u64>(), any::<u64>(), paths(), to, messages()).prop_map(
        |(from, boot, sequence, path, to, body)| Frame {
            from: NodeId(from),
            boot: BootId(boot),
            sequence,
            path,
            to,
            body,
        },
    )
}

proptest! {
    #[test]
    fn every_frame_survives_the_wire(frame in frames()) {
        let bytes = seal().encode(&frame);
        prop_assert!(bytes.len() <= FRAME_MAX, "{} bytes", bytes.len());
        prop_assert_eq!(seal().decode(&bytes), Ok(frame));
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in vec(any::<u8>(), 0..1_400)) {
        prop_assert!(seal().decode(&bytes).is_err());
    }

    /// Garbage behind a valid tag: what a broken peer of the same cluster would send.
    #[test]
    fn sealed_garbage_does_not_panic(kind in 0u8..8, body in vec(any::<u8>(), 0..600)) {
        let cluster = *b"cluster-number-1";
        let mut bytes = vec![1, kind];
        bytes.extend_from_slice(&cluster[..8]);
        bytes.extend_from_slice(&[0; 26]);
        bytes.extend_from_slice(&body);
        let key = ring::hmac::Key::new(
            ring::hmac::HMAC_SHA256,
            b"the committed key of 32 bytes...",
        );
        let sealed = [&cluster[..], &bytes].concat();
        bytes.extend_from_slice(&ring::hmac::sign(&key, &sealed).as_ref()[..16]);
        match seal().decode(&bytes) {
            Ok(frame) => prop_assert_eq!(seal().encode(&frame), bytes),
            Err(reason) => prop_assert_eq!(reason, RejectReason::Malformed),
        }
    }

    #[test]
    fn a_flipped_bit_is_refused(frame in frames(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = seal().encode(&frame);
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        let expected = match at {
            0 => RejectReason::Version,
            2..10 => RejectReason::Cluster,
            _ => RejectReason::Forged,
        };
        prop_assert_eq!(seal().decode(&bytes), Err(expected));
    }

    #[test]
    fn a_cut_frame_is_refused(frame in frames(), at in any::<prop::sample::Index>()) {
        let bytes = seal().encode(&frame);
        prop_assert!(seal().decode(&bytes[..at.index(bytes.len())]).is_err());
    }
}

#[test]
fn another_key_or_cluster_is_refused() {
    let body = Message::Resign(Resign::default());
    let frame =
        Frame { from: NodeId(1), boot: BootId(7), sequence: 9, path: Path::Peer, to: None, body };
    let bytes = seal().encode(&frame);
    let other_key = Seal::new(*b"cluster-number-1", b"another key");
    assert_eq!(other_key.decode(&bytes), Err(RejectReason::Forged));
    let other_cluster = Seal::new(*b"another-cluster!", b"the committed key of 32 bytes...");
    assert_eq!(other_cluster.decode(&bytes), Err(RejectReason::Cluster));
    // Clusters whose ids begin alike are told apart by the tag.
    let twin = Seal::new(*b"cluster-number-2", b"the committed key of 32 bytes...");
    assert_eq!(twin.decode(&bytes), Err(RejectReason::Forged));
}

#[test]
fn the_fullest_beacon_fits_a_datagram() {
    let beacon = Beacon {
        segments: vec![SegmentId(1); SEGMENTS_MAX],
        paths: vec![Path::Peer; PATHS_MAX],
        peers: vec![
            PeerReport {
                node: NodeId(1),
                boot: BootId(1),
                echo: 1,
                age: None,
                copy: Completeness::Stale,
                owes: true,
                path_ages: vec![1; PATHS_MAX],
            };
            PEERS_MAX
        ],
        groups: vec![
            GroupReport {
                group: GroupId(1),
                epoch: Epoch::default(),
                stance: Stance::Gone,
                clear: true,
            };
            GROUPS_PER_BEACON
        ],
        ..Beacon::default()
    };
    let frame = Frame {
        from: NodeId(1),
        boot: BootId(7),
        sequence: 9,
        path: Path::Peer,
        to: None,
        body: Message::Beacon(beacon),
    };
    let bytes = seal().encode(&frame);
    assert!(bytes.len() > FRAME_MAX - 32 && bytes.len() <= FRAME_MAX, "{}", bytes.len());
    assert_eq!(seal().decode(&bytes), Ok(frame));
}
