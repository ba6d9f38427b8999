//! Frames to bytes and back: versioned, compact, bounded, authenticated.
//!
//! ```text
//! version 1 | kind 1 | cluster 8 | path 2 | to 4 | from 4 | boot 8 | sequence 8 | body | tag 16
//! ```
//!
//! Integers are big-endian. The tag is HMAC-SHA256 over the full cluster id and everything before
//! the tag, cut to 16 bytes (RFC 2104 section 5 allows half the output). Nothing but the lengths,
//! the version and the cluster is looked at before the tag fits. The decoder accepts exactly what
//! the encoder makes: counts are bounded and no byte is left over.

use std::net::IpAddr;

use ring::hmac;
use steadfast_model::{BootId, Epoch, GroupId, NodeId};

use crate::wire::{Reader, Writer};
use crate::{
    Beacon, CLAIMS_MAX, ClaimAnswer, ClaimRequest, Completeness, Frame, GROUPS_PER_BEACON,
    GroupReport, Message, PATHS_MAX, PEERS_MAX, Path, PeerReport, Refusal, RejectReason, Resign,
    SEGMENTS_MAX, STALE_SENDERS_MAX, SegmentId, StaleSender, Stance,
};

/// The longest sealed frame: fits a QUIC datagram on a path with the smallest allowed MTU.
pub const FRAME_MAX: usize = 1_100;

const VERSION: u8 = 1;
const TAG_LEN: usize = 16;
const HEADER_LEN: usize = 1 + 1 + CLUSTER_PREFIX + 2 + 4 + 4 + 8 + 8;
/// How much of the cluster id is sent; all of it is sealed.
const CLUSTER_PREFIX: usize = 8;
const EPOCH_LEN: usize = 20;
const CLAIM_LEN: usize = 4 + EPOCH_LEN;
const REFUSAL_LEN: usize = 4 + 1 + EPOCH_LEN;
const BEACON_MAX: usize = 1
    + (1 + 2 * SEGMENTS_MAX)
    + (1 + 2 * PATHS_MAX)
    + (1 + PEERS_MAX * (21 + PATHS_MAX))
    + (1 + GROUPS_PER_BEACON * (5 + EPOCH_LEN));
const _: () = assert!(HEADER_LEN + BEACON_MAX + TAG_LEN <= FRAME_MAX);
const STALE_SENDER_LEN: usize = 4 + 2 + 6 + 1 + 16;
const _: () = assert!(HEADER_LEN + 1 + STALE_SENDERS_MAX * STALE_SENDER_LEN + TAG_LEN <= FRAME_MAX);
const _: () = assert!(HEADER_LEN + 6 + CLAIMS_MAX * REFUSAL_LEN + TAG_LEN <= FRAME_MAX);
const _: () = assert!(HEADER_LEN + 5 + CLAIMS_MAX * CLAIM_LEN + TAG_LEN <= FRAME_MAX);

/// Path of the control connection on the wire; every other number is a segment.
const PATH_PEER: u16 = u16::MAX;
/// For all nodes.
const TO_ALL: u32 = u32::MAX;
/// That run was never believed.
const AGE_NONE: u32 = u32::MAX;

const CORDONED: u8 = 1;
const LEAVING: u8 = 2;
const ABSTAINS: u8 = 4;
const MORE: u8 = 8;
const CLEAR: u8 = 0x80;
/// Beside a [`Completeness`]; never set while no group is strict.
const OWES: u8 = 0x80;

/// Seals and opens frames with the committed key of one cluster.
#[derive(Clone, Debug)]
pub struct Seal {
    key: hmac::Key,
    cluster: [u8; 16],
}

impl Seal {
    /// `cluster` is bound into every tag; `key` is the committed beacon key.
    pub fn new(cluster: [u8; 16], key: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), cluster }
    }

    /// The bytes of `frame`, at most [`FRAME_MAX`]. Lists longer than their bounds are cut; the
    /// core makes none.
    pub fn encode(&self, frame: &Frame) -> Vec<u8> {
        let mut out = Writer::with_capacity(FRAME_MAX);
        out.u8(VERSION);
        out.u8(kind(&frame.body));
        out.bytes(&self.cluster[..CLUSTER_PREFIX]);
        write_path(&mut out, frame.path);
        out.u32(frame.to.map_or(TO_ALL, |to| to.0));
        out.u32(frame.from.0);
        out.u64(frame.boot.0);
        out.u64(frame.sequence);
        match &frame.body {
            Message::Beacon(beacon) => write_beacon(&mut out, beacon),
            Message::ClaimRequest(request) => {
                out.u32(request.holder.0);
                write_claims(&mut out, &request.claims);
            }
            Message::ClaimAnswer(answer) => write_answer(&mut out, answer),
            Message::Resign(resign) => write_claims(&mut out, &resign.groups),
            Message::StaleSenders(senders) => {
                out.list(senders, STALE_SENDERS_MAX, write_stale_sender);
            }
        }
        let tag = self.tag(out.as_slice());
        out.bytes(&tag.as_ref()[..TAG_LEN]);
        out.into_vec()
    }

    /// The frame in `bytes`, if it is one of this cluster.
    pub fn decode(&self, bytes: &[u8]) -> Result<Frame, RejectReason> {
        if bytes.len() < HEADER_LEN + TAG_LEN || bytes.len() > FRAME_MAX {
            return Err(RejectReason::Length);
        }
        if bytes[0] != VERSION {
            return Err(RejectReason::Version);
        }
        if bytes[2..2 + CLUSTER_PREFIX] != self.cluster[..CLUSTER_PREFIX] {
            return Err(RejectReason::Cluster);
        }
        let (sealed, tag) = bytes.split_at(bytes.len() - TAG_LEN);
        if !equal(&self.tag(sealed).as_ref()[..TAG_LEN], tag) {
            return Err(RejectReason::Forged);
        }
        read_frame(sealed).ok_or(RejectReason::Malformed)
    }

    fn tag(&self, sealed: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&self.cluster);
        context.update(sealed);
        context.sign()
    }
}

/// In constant time: how many bytes of a guess fit must not be measurable.
fn equal(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).fold(0, |differ, (left, right)| differ | (left ^ right)) == 0
}

fn kind(body: &Message) -> u8 {
    match body {
        Message::Beacon(_) => 1,
        Message::ClaimRequest(_) => 2,
        Message::ClaimAnswer(_) => 3,
        Message::Resign(_) => 4,
        Message::StaleSenders(_) => 5,
    }
}

fn read_frame(sealed: &[u8]) -> Option<Frame> {
    let mut input = Reader::new(sealed);
    let _version = input.u8()?;
    let kind = input.u8()?;
    input.skip(CLUSTER_PREFIX)?;
    let path = read_path(&mut input)?;
    let to = input.u32()?;
    let from = NodeId(input.u32()?);
    let boot = BootId(input.u64()?);
    let sequence = input.u64()?;
    let body = match kind {
        1 => Message::Beacon(read_beacon(&mut input)?),
        2 => Message::ClaimRequest(ClaimRequest {
            holder: NodeId(input.u32()?),
            claims: read_claims(&mut input)?,
        }),
        3 => Message::ClaimAnswer(read_answer(&mut input)?),
        4 => Message::Resign(Resign { groups: read_claims(&mut input)? }),
        5 => Message::StaleSenders(input.list(STALE_SENDERS_MAX, read_stale_sender)?),
        _ => return None,
    };
    let to = (to != TO_ALL).then_some(NodeId(to));
    input.is_empty().then_some(Frame { from, boot, sequence, path, to, body })
}

fn write_path(out: &mut Writer, path: Path) {
    out.u16(match path {
        Path::Peer => PATH_PEER,
        Path::Segment(segment) => segment.0,
    });
}

fn read_path(input: &mut Reader<'_>) -> Option<Path> {
    Some(match input.u16()? {
        PATH_PEER => Path::Peer,
        segment => Path::Segment(SegmentId(segment)),
    })
}

fn write_epoch(out: &mut Writer, epoch: Epoch) {
    out.u32(epoch.generation);
    out.u64(epoch.grant_index);
    out.u32(epoch.claim);
    out.u32(epoch.node.0);
}

fn read_epoch(input: &mut Reader<'_>) -> Option<Epoch> {
    Some(Epoch {
        generation: input.u32()?,
        grant_index: input.u64()?,
        claim: input.u32()?,
        node: NodeId(input.u32()?),
    })
}

fn write_claims(out: &mut Writer, claims: &[(GroupId, Epoch)]) {
    out.list(claims, CLAIMS_MAX, |out, (group, epoch)| {
        out.u32(group.0);
        write_epoch(out, *epoch);
    });
}

fn read_claims(input: &mut Reader<'_>) -> Option<Vec<(GroupId, Epoch)>> {
    input.list(CLAIMS_MAX, |input| Some((GroupId(input.u32()?), read_epoch(input)?)))
}

fn write_stale_sender(out: &mut Writer, sender: &StaleSender) {
    out.u32(sender.group.0);
    out.u16(sender.segment.0);
    out.bytes(&sender.mac);
    match sender.vip {
        None => out.u8(0),
        Some(IpAddr::V4(vip)) => {
            out.u8(4);
            out.bytes(&vip.octets());
        }
        Some(IpAddr::V6(vip)) => {
            out.u8(6);
            out.bytes(&vip.octets());
        }
    }
}

fn read_stale_sender(input: &mut Reader<'_>) -> Option<StaleSender> {
    Some(StaleSender {
        group: GroupId(input.u32()?),
        segment: SegmentId(input.u16()?),
        mac: input.array()?,
        vip: match input.u8()? {
            0 => None,
            4 => Some(IpAddr::from(input.array::<4>()?)),
            6 => Some(IpAddr::from(input.array::<16>()?)),
            _ => return None,
        },
    })
}

fn write_answer(out: &mut Writer, answer: &ClaimAnswer) {
    out.u32(answer.echo);
    write_claims(out, &answer.consents);
    let room = CLAIMS_MAX.saturating_sub(answer.consents.len());
    out.list(&answer.refusals, room, |out, (group, refusal)| {
        out.u32(group.0);
        match refusal {
            Refusal::Behind(epoch) | Refusal::Promised(epoch) => {
                out.u8(if matches!(refusal, Refusal::Behind(_)) { 0 } else { 1 });
                write_epoch(out, *epoch);
            }
            Refusal::NotSilent(wait) | Refusal::Abstains(wait) => {
                out.u8(if matches!(refusal, Refusal::NotSilent(_)) { 2 } else { 3 });
                out.u32(*wait);
            }
            Refusal::Unknown => out.u8(4),
        }
    });
}

fn read_answer(input: &mut Reader<'_>) -> Option<ClaimAnswer> {
    let echo = input.u32()?;
    let consents = read_claims(input)?;
    let refusals = input.list(CLAIMS_MAX - consents.len(), |input| {
        let group = GroupId(input.u32()?);
        let refusal = match input.u8()? {
            0 => Refusal::Behind(read_epoch(input)?),
            1 => Refusal::Promised(read_epoch(input)?),
            2 => Refusal::NotSilent(input.u32()?),
            3 => Refusal::Abstains(input.u32()?),
            4 => Refusal::Unknown,
            _ => return None,
        };
        Some((group, refusal))
    })?;
    Some(ClaimAnswer { echo, consents, refusals })
}

fn write_beacon(out: &mut Writer, beacon: &Beacon) {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.u8(flag(beacon.cordoned, CORDONED)
        | flag(beacon.leaving, LEAVING)
        | flag(beacon.abstains, ABSTAINS)
        | flag(beacon.more, MORE));
    out.list(&beacon.segments, SEGMENTS_MAX, |out, segment| out.u16(segment.0));
    out.list(&beacon.paths, PATHS_MAX, |out, path| write_path(out, *path));
    let paths = beacon.paths.len().min(PATHS_MAX);
    out.list(&beacon.peers, PEERS_MAX, |out, report| {
        out.u32(report.node.0);
        out.u64(report.boot.0);
        out.u32(report.echo);
        out.u32(report.age.map_or(AGE_NONE, |age| age.min(AGE_NONE - 1)));
        let copy = match report.copy {
            Completeness::Complete => 0,
            Completeness::Stale => 1,
            Completeness::Empty => 2,
        };
        out.u8(copy | flag(report.owes, OWES));
        for column in 0..paths {
            out.u8(report.path_ages.get(column).copied().unwrap_or(u8::MAX));
        }
    });
    out.list(&beacon.groups, GROUPS_PER_BEACON, |out, report| {
        out.u32(report.group.0);
        write_epoch(out, report.epoch);
        let stance = match report.stance {
            Stance::Obeys => 0,
            Stance::Pending => 1,
            Stance::Holds => 2,
            Stance::Gone => 3,
            Stance::Shadows => 4,
        };
        out.u8(stance | flag(report.clear, CLEAR));
    });
}

fn read_beacon(input: &mut Reader<'_>) -> Option<Beacon> {
    let flags = input.u8()?;
    if flags > (CORDONED | LEAVING | ABSTAINS | MORE) {
        return None;
    }
    let segments = input.list(SEGMENTS_MAX, |input| input.u16().map(SegmentId))?;
    let paths = input.list(PATHS_MAX, read_path)?;
    let peers = input.list(PEERS_MAX, |input| {
        let node = NodeId(input.u32()?);
        let boot = BootId(input.u64()?);
        let echo = input.u32()?;
        let age = Some(input.u32()?).filter(|age| *age != AGE_NONE);
        let bits = input.u8()?;
        Some(PeerReport {
            node,
            boot,
            echo,
            age,
            copy: match bits & !OWES {
                0 => Completeness::Complete,
                1 => Completeness::Stale,
                2 => Completeness::Empty,
                _ => return None,
            },
            owes: bits & OWES != 0,
            path_ages: paths.iter().map(|_| input.u8()).collect::<Option<_>>()?,
        })
    })?;
    let groups = input.list(GROUPS_PER_BEACON, |input| {
        let group = GroupId(input.u32()?);
        let epoch = read_epoch(input)?;
        let bits = input.u8()?;
        let stance = match bits & !CLEAR {
            0 => Stance::Obeys,
            1 => Stance::Pending,
            2 => Stance::Holds,
            3 => Stance::Gone,
            4 => Stance::Shadows,
            _ => return None,
        };
        Some(GroupReport { group, epoch, stance, clear: bits & CLEAR != 0 })
    })?;
    Some(Beacon {
        cordoned: flags & CORDONED != 0,
        leaving: flags & LEAVING != 0,
        abstains: flags & ABSTAINS != 0,
        more: flags & MORE != 0,
        segments,
        paths,
        peers,
        groups,
    })
}
