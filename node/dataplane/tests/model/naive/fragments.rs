//! Packets that come in parts (README, "Limits"): the first decides, the others follow it, and what
//! overtakes it waits.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{Hash as _, Hasher as _},
    net::IpAddr,
};

use siphasher::sip::SipHasher13;

use super::{Fate, Mode, Naive, Role, SECOND};
use crate::packet::{Body, Part, Pkt, Proto};

/// What the table of packets under way is hashed with; that it is known here makes its bounds easy
/// to meet.
pub(crate) const SEED: [u64; 2] = [1, 2];

/// Sets, and packets under way in each.
const SETS: u64 = 512;
const PLACES: usize = 8;
/// Stretches of a packet that have passed, with gaps between them.
const RUNS_MAX: usize = 8;
/// How long the next part is followed, and the first one waited for.
const FOLLOWED: u64 = 5 * SECOND;
const AWAITED: u64 = SECOND / 5;
/// Frames that wait in a set, of one packet, and their octets.
const WAITING_MAX: usize = 16;
const WAITING_OCTETS_MAX: usize = 32 << 10;
const WAITING_OF_PACKET_MAX: usize = 8;
const WAITING_OCTETS_OF_PACKET_MAX: usize = 24 << 10;
/// What a waiting frame takes beside itself: outer headers of a tunnel and a tag; and the least that
/// an answer in its place needs.
const ROOM_BEFORE: usize = 14 + 40 + 8 + 4 + 4;
const ANSWER: usize = 14 + 4 + 1280;

/// Addresses, identification, and in IPv4 the protocol.
type Key = (IpAddr, IpAddr, u32, u8);

/// Where the parts of a packet go.
struct Way {
    key: Key,
    until: u64,
    /// Which connection, and whether to its server.
    conn: u64,
    inbound: bool,
    /// Octets that have passed, and where the packet ends if that is known.
    passed: Vec<bool>,
    end: Option<usize>,
}

struct Early {
    key: Key,
    until: u64,
    octets: usize,
    pkt: Pkt,
}

#[derive(Default)]
struct Set {
    ways: [Option<Way>; PLACES],
    early: Vec<Early>,
}

/// What became of parts, beside their fates.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Parted {
    /// The last one of a packet passed.
    Whole,
    /// Too much time between two.
    Late,
    /// Too many gaps.
    Gaps,
    /// A packet gave way to another one.
    PushedOut,
    /// One waited, and was sent; or for too long, gave way to another, or had no room.
    Released,
    Forgotten,
    EarlyPushedOut,
    NoRoom,
}

/// Parts that followed their first one: of IPv6, of a mode and a protocol, to a server.
pub(crate) type Followed = (bool, Mode, Proto, bool);

#[derive(Default)]
pub(crate) struct Fragments {
    sets: HashMap<u64, Set>,
    pub(crate) followed: BTreeMap<Followed, u64>,
    pub(crate) parted: BTreeMap<Parted, u64>,
}

fn key(pkt: &Pkt) -> Key {
    let protocol = match pkt.body {
        _ if pkt.src.is_ipv6() => 0,
        Body::Tcp { .. } => 6,
        Body::Udp { .. } => 17,
        Body::Sctp(_) => 132,
        _ => 1,
    };
    let id = if pkt.src.is_ipv6() { pkt.wide_id() } else { u32::from(pkt.id) };
    (pkt.src, pkt.dst, id, protocol)
}

/// The set that the parts of a packet share with others.
pub(crate) fn set(pkt: &Pkt) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(SEED[0], SEED[1]);
    key(pkt).hash(&mut hasher);
    hasher.finish() % SETS
}

impl Fragments {
    fn note(&mut self, parted: Parted) {
        *self.parted.entry(parted).or_default() += 1;
    }

    /// Forgets what waited for too long; gives the set of a packet.
    fn look(&mut self, now: u64, pkt: &Pkt) -> &mut Set {
        let set = self.sets.entry(set(pkt)).or_default();
        let before = set.early.len();
        set.early.retain(|early| now < early.until);
        let forgotten = (before - set.early.len()) as u64;
        *self.parted.entry(Parted::Forgotten).or_default() += forgotten;
        set
    }

    /// The way of a packet under way.
    fn way(&mut self, now: u64, pkt: &Pkt) -> Option<&mut Way> {
        let key = key(pkt);
        let known: Vec<usize> = (0..PLACES)
            .filter(|at| {
                let way = &self.look(now, pkt).ways[*at];
                way.as_ref().is_some_and(|way| way.key == key)
            })
            .collect();
        let lives = |way: &Way| now < way.until;
        let ways = &mut self.look(now, pkt).ways;
        let at = known.iter().copied().find(|at| ways[*at].as_ref().is_some_and(lives));
        if at.is_none() && !known.is_empty() {
            self.note(Parted::Late);
        }
        self.look(now, pkt).ways[at?].as_mut()
    }

    /// Notes where a first part goes; gives those that waited for it.
    fn open(
        &mut self,
        now: u64,
        pkt: &Pkt,
        part: Part,
        (conn, inbound): (u64, bool),
    ) -> Result<Vec<Pkt>, &'static str> {
        if let Some(way) = self.way(now, pkt) {
            return way.pass(part).map(|()| Vec::new()).map_err(|_| "fragment_overlap");
        }
        let (until, key) = (now + FOLLOWED, key(pkt));
        let mut way = Way { key, until, conn, inbound, passed: Vec::new(), end: None };
        way.pass(part).map_err(|_| "fragment_overlap")?;
        let set = self.look(now, pkt);
        // The oldest gives way; an empty place is older than all.
        let age = |place: usize| set.ways[place].as_ref().map_or(0, |way| way.until);
        let place = (0..PLACES).min_by_key(|place| age(*place)).unwrap();
        let lives = set.ways[place].as_ref().is_some_and(|way| now < way.until);
        set.ways[place] = Some(way);
        let all = std::mem::take(&mut set.early);
        let mut released = Vec::new();
        for early in all {
            if early.key == key { released.push(early.pkt) } else { set.early.push(early) }
        }
        if lives {
            self.note(Parted::PushedOut);
        }
        Ok(released)
    }

    /// Where a later part goes.
    fn follow(&mut self, now: u64, pkt: &Pkt, part: Part) -> Option<Result<(u64, bool), ()>> {
        let way = self.way(now, pkt)?;
        let (conn, key) = ((way.conn, way.inbound), key(pkt));
        if let Err(gaps) = way.pass(part) {
            if gaps {
                self.note(Parted::Gaps);
            }
            return Some(Err(()));
        }
        way.until = now + FOLLOWED;
        let is_whole = way.end.is_some_and(|end| (0..end).all(|octet| way.passed[octet]));
        if is_whole {
            for place in &mut self.look(now, pkt).ways {
                if place.as_ref().is_some_and(|way| way.key == key) {
                    *place = None;
                    break;
                }
            }
            self.note(Parted::Whole);
        }
        Some(Ok(conn))
    }

    /// Whether a part waits for its first one.
    fn wait(&mut self, now: u64, pkt: &Pkt) -> bool {
        let (key, octets) = (key(pkt), ROOM_BEFORE + pkt.frame().len().max(ANSWER));
        let early = &mut self.look(now, pkt).early;
        let of_packet: Vec<usize> =
            early.iter().filter(|early| early.key == key).map(|early| early.octets).collect();
        if of_packet.len() >= WAITING_OF_PACKET_MAX
            || of_packet.iter().sum::<usize>() + octets > WAITING_OCTETS_OF_PACKET_MAX
        {
            self.note(Parted::NoRoom);
            return false;
        }
        let mut pushed = 0;
        while early.len() + 1 > WAITING_MAX
            || early.iter().map(|early| early.octets).sum::<usize>() + octets > WAITING_OCTETS_MAX
        {
            early.remove(0);
            pushed += 1;
        }
        early.push(Early { key, until: now + AWAITED, octets, pkt: pkt.clone() });
        *self.parted.entry(Parted::EarlyPushedOut).or_default() += pushed;
        true
    }
}

impl Way {
    /// Lets a part pass of which nothing has passed. The error says whether only gaps forbid it.
    fn pass(&mut self, part: Part) -> Result<(), bool> {
        let Part { offset, len, more } = part;
        let end = offset + len;
        let furthest = self.passed.iter().rposition(|passed| *passed).map_or(0, |last| last + 1);
        let overlaps = self.passed.iter().take(end).skip(offset).any(|passed| *passed);
        if overlaps || self.end.is_some_and(|last| end > last) || (!more && end < furthest) {
            return Err(false);
        }
        let mut passed = self.passed.clone();
        passed.resize(passed.len().max(end), false);
        passed[offset..end].fill(true);
        let starts = |at: usize| passed[at] && (at == 0 || !passed[at - 1]);
        if (0..passed.len()).filter(|at| starts(*at)).count() > RUNS_MAX {
            return Err(true);
        }
        self.passed = passed;
        if !more {
            self.end = Some(end);
        }
        Ok(())
    }
}

impl Naive {
    /// What becomes of a part; none of a first one that shows its ports.
    pub(super) fn part(&mut self, pkt: &Pkt) -> Option<Fate> {
        let (now, part) = (self.now, pkt.fragment()?);
        let is_own = self.vips.contains(&pkt.dst) || self.locals.contains(&pkt.dst);
        let group = self.group_of_server(pkt).filter(|_| !is_own);
        let asked = group.unwrap_or_else(|| self.group(pkt.dst));
        let is_elsewhere = self.role(asked) == Role::Other;
        if is_own && is_elsewhere {
            return Some(self.relay(pkt));
        }
        if part.offset == 0 {
            return pkt.proto().is_none().then_some(Fate::Dropped("fragment"));
        }
        let is_answer = group.is_some();
        let reason = match self.fragments.follow(now, pkt, part) {
            Some(Ok((conn, inbound))) => return Some(self.follow_first(pkt, conn, inbound)),
            Some(Err(())) => "fragment_overlap",
            None if (is_own || is_answer && !is_elsewhere) && self.fragments.wait(now, pkt) => {
                "fragment_early"
            }
            None => "fragment_unknown",
        };
        // Its server has not heard yet who answers for the gateway now.
        Some(if is_answer && is_elsewhere { self.relay(pkt) } else { Fate::Dropped(reason) })
    }

    /// Shows the others where a first part goes; they may be there already. The error: it may not
    /// pass.
    pub(super) fn lead(&mut self, pkt: &Pkt, at: usize, inbound: bool) -> Result<(), &'static str> {
        let Some(part) = pkt.fragment() else { return Ok(()) };
        let conn = &self.conns[at];
        // The checksum of SCTP is over what is not here, and ports are under it.
        let is_same = conn.mode == Mode::Nat && conn.port == conn.vport;
        if conn.proto == Proto::Sctp && conn.mode.returns() && !is_same {
            return Err("fragment");
        }
        self.released = self.fragments.open(self.now, pkt, part, (conn.serial, inbound))?;
        Ok(())
    }

    fn follow_first(&mut self, pkt: &Pkt, conn: u64, inbound: bool) -> Fate {
        let found = self.conns.iter().position(|held| held.serial == conn && !held.superseded);
        let Some(at) = found.filter(|at| self.is_known(&self.conns[*at])) else {
            return Fate::Dropped("server_removed");
        };
        let path = self.path(at, inbound);
        match self.on_way(pkt, &path) {
            Ok(sent) => {
                let conn = &mut self.conns[at];
                conn.seen = self.now;
                let followed = (pkt.src.is_ipv6(), conn.mode, conn.proto, inbound);
                *self.fragments.followed.entry(followed).or_default() += 1;
                self.is_following = true;
                Fate::Sent(sent)
            }
            Err(fate) => *fate,
        }
    }

    /// What waited for the packet at hand comes now.
    pub(super) fn release_parts(&mut self) {
        let was = (self.met, self.passed, self.passed_once, self.is_following);
        for early in std::mem::take(&mut self.released) {
            let before = std::mem::take(&mut self.rest);
            self.seen = self.seen_rest.get(before.len()).cloned().unwrap_or_default();
            let fate = self.decide(&early);
            let pieces = std::mem::replace(&mut self.rest, before);
            if let Fate::Sent(sent) = fate {
                self.fragments.note(Parted::Released);
                self.rest.push(sent);
                self.rest.extend(pieces);
            }
        }
        (self.met, self.passed, self.passed_once, self.is_following) = was;
    }
}
