//! The memory of all connections: words in two arrays, made at start.
//!
//! A connection's *hot* words fill one cache line and are all that its packets need; its *cold*
//! words say what only a change needs. Addresses of IPv6, the local ones of full-NAT, and how the
//! numbers of the two sides differ, lie in chunks of their own, so that a node without them pays
//! nothing.
//!
//! Guarantees: every word is atomic, so a reader of a slot that changes hands under it reads
//! nonsense but nothing worse; [`Slab::word`] names the occupant, and whoever finds the same
//! generation after reading as before has read one connection. Slots are written under the table's
//! lock alone, but for what packets change.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
};

use steadfast_packet::{Grown, Plain, Rewrite};
use steadfast_pages::{Pages, prefetch};
use zerocopy::FromZeros;

use crate::{
    Deltas, FlowKey, Forwarding, Local, LongerReply, Origin, Protocol, Record, ReplyKey, State,
    Target, Tunnel, UdpChecksum,
    cache::Way,
    deltas::{Handshake, Numbers},
    express::PlainEnds,
};

const RELAXED: Ordering = Ordering::Relaxed;

/// Words of a cache line.
pub(crate) const LINE: usize = 8;
/// Slots whose words of these kinds are made at once.
const CHUNK: usize = 1024;
/// Words of IPv6 addresses of a slot: client, VIP, server.
const ADDR_WORDS: usize = 6;
/// Words of the local address of a slot.
const LOCAL_WORDS: usize = 2;
/// Words of the deltas of a slot: to client 32, to server 32; timestamps 32, changes 4, length and
/// growth of a reply 4 and 4, flags 4, windows 8 and 8; where the reply is 32, where the header is 32.
/// Then of its handshake: cookie 32, the client's number 32; timestamps 32 and 32; window 16, segment
/// size 16, scale 8, flags 8. In place of the cookie, once it has led to something: whose generation it
/// is 32, and up to which number replies were judged 32.
const DELTA_WORDS: usize = 6;
const JUDGED: usize = 3;
const HEADER_UNDER_WAY: u64 = 1 << 16;
const HAS_LONGER: u64 = 1 << 17;
const LONGER_IS_HEARD: u64 = 1 << 18;
/// They are being written.
const CHANGING: u64 = 1 << 19;
const GROWTH_SHIFT: u32 = 20;
const LENGTH_SHIFT: u32 = 24;
/// Counts changes, so that a reader notices one.
const CHANGES_SHIFT: u32 = 28;
const NIBBLE: u64 = 0xf;
/// Times deltas are read again that change meanwhile; after some of them the reader lets others run, for
/// the writer may have lost its processor.
const READS_MAX: usize = 200;
const READS_AT_ONCE: usize = 100;
/// Flags of a handshake.
const HAS_TIMES: u8 = 1;
const HAS_SACK: u8 = 2;
/// The number of a scale that was not offered.
const NO_SCALE: u8 = 0xff;

/// Hot words: generation 32, families and more flags 8, synced state 8, flags 8, state 8.
pub(crate) const WORD: usize = 0;
/// IPv4 client 32, VIP 32.
const ADDRS: usize = 1;
/// Client port 16, VIP port 16, server id 32.
const PORTS: usize = 2;
/// IPv4 server 32, port 16, forwarding 8, protocol 8.
const TARGET: usize = 3;
/// When a packet was seen last, in ns.
pub(crate) const SEEN: usize = 4;
/// Return packets 32, inbound packets 32.
pub(crate) const PKTS: usize = 5;
/// Of the replication policy.
pub(crate) const SYNC: usize = 6;
/// Peers 32, port of the tunnel or the local one 16, last worker out 8 and in 8, each plus one.
pub(crate) const PEERS: usize = 7;
const OTHER_PORT_SHIFT: u32 = 16;
const OTHER_PORT: u64 = 0xffff << OTHER_PORT_SHIFT;

/// Cold words: incarnation.
pub(crate) const INCARNATION: usize = 0;
/// Service 32, group 32.
pub(crate) const IDS: usize = 1;
/// Snapshot 32, number of the origin 32.
pub(crate) const SNAPSHOT: usize = 2;
const COLD: usize = 3;

/// Flags in [`WORD`]: packets may follow it.
pub(crate) const OPEN: u64 = 1 << 8;
/// See `Connection::is_superseded`.
pub(crate) const SUPERSEDED: u64 = 1 << 9;
/// Scheduled by this node.
pub(crate) const LOCAL: u64 = 1 << 10;
/// Given by a deposed holder: a sweep leaves it alone.
pub(crate) const DONATED: u64 = 1 << 11;
/// More than one packet was seen, or a reply: a conversation even without a handshake.
pub(crate) const ASSURED: u64 = 1 << 12;
/// Its server is known.
pub(crate) const BOUND: u64 = 1 << 13;
/// It counts as one of its source.
pub(crate) const COUNTED: u64 = 1 << 14;
/// Opened in its middle, where the hash said, and nothing proves yet that it is a conversation.
pub(crate) const ADOPTED: u64 = 1 << 15;
/// The addresses that are IPv6.
const CLIENT6: u64 = 1 << 24;
const VIP6: u64 = 1 << 25;
const SERVER6: u64 = 1 << 26;
const LOCAL6: u64 = 1 << 27;
/// It has a local address.
const HAS_LOCAL: u64 = 1 << 28;
/// A template counts it.
pub(crate) const CONTROLLED: u64 = 1 << 29;
/// Its two sides count differently.
pub(crate) const HAS_DELTAS: u64 = 1 << 30;

/// Where the synced state is in [`WORD`].
pub(crate) const SYNCED_SHIFT: u32 = 16;

/// The server has not answered yet: its deltas are not known. Always with [`HAS_DELTAS`].
pub(crate) const SHAKING: u64 = 1 << 31;

/// What stays of [`WORD`] when a connection learns its server: all but generation and addresses.
pub(crate) const KEPT: u64 = 0xff_ffff & !SUPERSEDED | CONTROLLED | HAS_DELTAS | SHAKING;

/// A slot and who was in it: what it says is nonsense once the generation has moved on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

#[derive(Debug)]
pub(crate) struct Slab {
    hot: Pages<Line>,
    cold: Pages<Cold>,
    addrs: Chunks<ADDR_WORDS>,
    locals: Chunks<LOCAL_WORDS>,
    deltas: Chunks<DELTA_WORDS>,
    origins: Mutex<Origins>,
}

/// The words of a cache line.
#[derive(Debug, FromZeros)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [AtomicU64; LINE]);

/// The cold words of a slot.
#[derive(Debug, FromZeros)]
#[repr(C)]
struct Cold([AtomicU64; COLD]);

/// Words of each slot that few slots need.
#[derive(Debug)]
struct Chunks<const WORDS: usize> {
    chunks: Box<[OnceLock<Box<[AtomicU64]>>]>,
    /// There is a chunk.
    is_used: AtomicBool,
}

impl<const WORDS: usize> Chunks<WORDS> {
    fn new(slots: usize) -> Self {
        let chunks = (0..slots.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect();
        Self { chunks, is_used: AtomicBool::new(false) }
    }

    /// Has the processor fetch the words of a slot, if its chunk is there.
    #[inline]
    fn fetch(&self, slot: u32) {
        if !self.is_used.load(RELAXED) {
            return;
        }
        let (chunk, within) = (slot as usize / CHUNK, slot as usize % CHUNK);
        if let Some(words) = self.chunks.get(chunk).and_then(OnceLock::get) {
            // They may lie across the end of a line.
            [within * WORDS, within * WORDS + WORDS - 1]
                .iter()
                .filter_map(|at| words.get(*at))
                .for_each(prefetch);
        }
    }

    /// Two words of a slot, from `at` on.
    fn pair(&self, slot: u32, at: usize) -> &[AtomicU64] {
        &self.all(slot)[at..][..2]
    }

    /// The words of a slot; memory for its chunk is made here.
    fn all(&self, slot: u32) -> &[AtomicU64] {
        let (chunk, within) = (slot as usize / CHUNK, slot as usize % CHUNK);
        let words = self.chunks[chunk].get_or_init(|| {
            self.is_used.store(true, RELAXED);
            (0..CHUNK * WORDS).map(|_| AtomicU64::new(0)).collect()
        });
        &words[within * WORDS..][..WORDS]
    }

    fn address(&self, slot: u32, at: usize) -> Ipv6Addr {
        let cells = self.pair(slot, at);
        let (high, low) = (cells[0].load(RELAXED), cells[1].load(RELAXED));
        Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))
    }

    fn set_address(&self, slot: u32, at: usize, addr: Ipv6Addr) {
        let cells = self.pair(slot, at);
        cells[0].store((addr.to_bits() >> 64) as u64, RELAXED);
        cells[1].store(addr.to_bits() as u64, RELAXED);
    }
}

/// The epochs that connections are of, each with how many are: they are few.
#[derive(Debug, Default)]
struct Origins {
    entries: Vec<(Origin, u32)>,
    numbers: HashMap<Origin, u32>,
    free: Vec<u32>,
}

impl Slab {
    pub(crate) fn new(slots: u32) -> Self {
        let slots = slots as usize;
        Self {
            hot: Pages::new(slots),
            cold: Pages::new(slots),
            addrs: Chunks::new(slots),
            locals: Chunks::new(slots),
            deltas: Chunks::new(slots),
            origins: Mutex::default(),
        }
    }

    #[inline]
    pub(crate) fn hot(&self, slot: u32) -> &[AtomicU64; LINE] {
        &self.hot[slot as usize].0
    }

    /// Has the processor fetch what packets need of a slot.
    pub(crate) fn fetch(&self, slot: u32) {
        self.hot.prefetch(slot as usize);
        self.addrs.fetch(slot);
        self.locals.fetch(slot);
    }

    pub(crate) fn cold(&self, slot: u32) -> &[AtomicU64; COLD] {
        &self.cold[slot as usize].0
    }

    /// Generation, state and flags.
    #[inline]
    pub(crate) fn word(&self, slot: u32) -> u64 {
        self.hot(slot)[WORD].load(Ordering::Acquire)
    }

    /// The open connection in `slot`.
    pub(crate) fn occupant(&self, slot: u32) -> Option<Place> {
        let word = self.word(slot);
        (word & OPEN != 0).then_some(Place { slot, generation: generation(word) })
    }

    /// `place` still holds the same connection, and it is in the table. What was read before this
    /// is true then.
    #[inline]
    pub(crate) fn is_live(&self, place: Place) -> bool {
        fence(Ordering::Acquire);
        let word = self.hot(place.slot)[WORD].load(RELAXED);
        generation(word) == place.generation && word & OPEN != 0
    }

    /// Changes state and flags of the connection in `place`, as long as it is there; `change` gives
    /// `None` to leave it. The word before the change.
    pub(crate) fn update(&self, place: Place, change: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let cell = &self.hot(place.slot)[WORD];
        let result = cell.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            (generation(word) == place.generation && word & OPEN != 0).then(|| change(word))?
        });
        result.ok()
    }

    /// What whoever is in `slot` says of itself.
    pub(crate) fn ends(&self, slot: u32) -> Ends<'_> {
        let hot = self.hot(slot);
        Ends {
            slab: self,
            slot,
            word: hot[WORD].load(RELAXED),
            addrs: hot[ADDRS].load(RELAXED),
            ports: hot[PORTS].load(RELAXED),
            target: hot[TARGET].load(RELAXED),
            other_port: (hot[PEERS].load(RELAXED) >> OTHER_PORT_SHIFT) as u16,
        }
    }

    /// The key of whoever is in `slot`.
    pub(crate) fn key(&self, slot: u32) -> FlowKey {
        self.ends(slot).key()
    }

    /// The key of whoever is in `slot` is this one.
    pub(crate) fn has_key(&self, slot: u32, key: &FlowKey) -> bool {
        if let (IpAddr::V4(client), IpAddr::V4(vip)) = (key.client, key.vip) {
            let hot = self.hot(slot);
            let addrs = u64::from(client.to_bits()) << 32 | u64::from(vip.to_bits());
            let ports = u64::from(key.client_port) << 16 | u64::from(key.vip_port);
            return hot[ADDRS].load(RELAXED) == addrs
                && hot[PORTS].load(RELAXED) >> 32 == ports
                && hot[TARGET].load(RELAXED) & 0xff == u64::from(number(key.protocol))
                && hot[WORD].load(RELAXED) & (CLIENT6 | VIP6) == 0;
        }
        self.key(slot) == *key
    }

    /// Where a packet goes, if it is one of the connection in `slot` and that has nothing special:
    /// established, known to be a conversation, by DR or NAT over IPv4, and its two sides count alike.
    #[inline(always)]
    pub(crate) fn follow_plain(&self, slot: u32, way: Way, packet: &Plain) -> Option<PlainEnds> {
        const NEEDED: u64 = OPEN | ASSURED | BOUND;
        const SPECIAL: u64 = SUPERSEDED | CLIENT6 | VIP6 | SERVER6 | HAS_DELTAS | SHAKING;
        let word = self.word(slot);
        let (state, protocol) = match packet.is_tcp {
            true => (State::Established, Protocol::Tcp),
            false => (State::Udp, Protocol::Udp),
        };
        if word & (NEEDED | SPECIAL) != NEEDED || word as u8 != state as u8 {
            return None;
        }
        let hot = self.hot(slot);
        let (addrs, ports) = (hot[ADDRS].load(RELAXED), hot[PORTS].load(RELAXED));
        let target = hot[TARGET].load(RELAXED);
        let (src, dst) = (packet.src.to_bits(), packet.dst.to_bits());
        let two = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let pair = |high: u16, low: u16| u64::from(high) << 16 | u64::from(low);
        let addr = |bits: u64| Ipv4Addr::from_bits(bits as u32);
        let by = |method: u8| u64::from(method) << 8 | u64::from(number(protocol));
        let is_nat = target & 0xffff == by(NAT);
        let (is_its, towards, rewrite) = match way {
            Way::In => {
                let is_its = addrs == two(src, dst)
                    && ports >> 32 == pair(packet.src_port, packet.dst_port)
                    && (is_nat || target & 0xffff == by(DR));
                let server = addr(target >> 32);
                let rewrite = Rewrite::Destination(server, (target >> 16) as u16);
                (is_its, server, if is_nat { rewrite } else { Rewrite::No })
            }
            Way::Out => {
                let is_its = is_nat
                    && target >> 16 == u64::from(src) << 16 | u64::from(packet.src_port)
                    && addrs >> 32 == u64::from(dst)
                    && ports >> 48 == u64::from(packet.dst_port);
                let rewrite = Rewrite::Source(addr(addrs), (ports >> 32) as u16);
                (is_its, addr(addrs >> 32), rewrite)
            }
        };
        let place = Place { slot, generation: generation(word) };
        is_its.then_some(PlainEnds { place, server: ports as u32, towards, rewrite })
    }

    /// The real server's id.
    pub(crate) fn server(&self, slot: u32) -> u32 {
        self.hot(slot)[PORTS].load(RELAXED) as u32
    }

    /// Where the real server is.
    pub(crate) fn target(&self, slot: u32) -> Option<Target> {
        self.ends(slot).target()
    }

    /// From where packets go to the real server, if not from the client's address.
    pub(crate) fn local(&self, slot: u32) -> Option<Local> {
        self.ends(slot).local()
    }

    /// How the numbers of its sides differ, of a connection that has [`HAS_DELTAS`]; none: they were
    /// changing all the time.
    fn deltas(&self, slot: u32) -> Option<Deltas> {
        let [numbers, rest, places] = self.delta_words(slot)?;
        let nibble = |shift: u32| (rest >> shift & NIBBLE) as u8;
        let (at, len, by) = ((places >> 32) as u32, nibble(LENGTH_SHIFT), nibble(GROWTH_SHIFT));
        Some(Deltas {
            to_client: (numbers >> 32) as u32,
            to_server: numbers as u32,
            timestamps: (rest >> 32) as u32,
            windows_to_client: (rest >> 8) as i8,
            windows_to_server: rest as i8,
            header_at: (rest & HEADER_UNDER_WAY != 0).then_some(places as u32),
            longer: (rest & HAS_LONGER != 0).then_some(LongerReply {
                address: Grown { at, len, by },
                is_heard: rest & LONGER_IS_HEARD != 0,
            }),
        })
    }

    /// Its words, all of one time: a mixture would lead octets to another place in the stream.
    fn delta_words(&self, slot: u32) -> Option<[u64; 3]> {
        let cells = self.deltas.all(slot);
        for read_before in 0..READS_MAX {
            let rest = cells[1].load(Ordering::Acquire);
            let read = [cells[0].load(RELAXED), rest, cells[2].load(RELAXED)];
            fence(Ordering::Acquire);
            if rest & CHANGING == 0 && cells[1].load(RELAXED) == rest {
                return Some(read);
            }
            match read_before {
                0..READS_AT_ONCE => std::hint::spin_loop(),
                _ => std::thread::yield_now(),
            }
        }
        None
    }

    /// Writes them, under the table's lock; [`HAS_DELTAS`] is set afterwards.
    pub(crate) fn write_deltas(&self, slot: u32, deltas: &Deltas) {
        let cells = self.deltas.all(slot);
        let windows = [deltas.windows_to_client, deltas.windows_to_server];
        let windows = u64::from(u16::from_be_bytes(windows.map(i8::cast_unsigned)));
        let numbers = u64::from(deltas.to_client) << 32 | u64::from(deltas.to_server);
        let under_way = deltas.header_at.map_or(0, |_| HEADER_UNDER_WAY);
        let LongerReply { address: Grown { at, len, by }, is_heard } =
            deltas.longer.unwrap_or_default();
        let nibble = |number: u8, shift: u32| (u64::from(number) & NIBBLE) << shift;
        let longer = deltas.longer.map_or(0, |_| HAS_LONGER)
            | if is_heard { LONGER_IS_HEARD } else { 0 }
            | nibble(len, LENGTH_SHIFT)
            | nibble(by, GROWTH_SHIFT);
        let old = cells[1].load(RELAXED);
        cells[1].store(old | CHANGING, RELAXED);
        fence(Ordering::Release);
        cells[0].store(numbers, RELAXED);
        cells[2]
            .store(u64::from(at) << 32 | u64::from(deltas.header_at.unwrap_or_default()), RELAXED);
        let changes = nibble(((old >> CHANGES_SHIFT) as u8).wrapping_add(1), CHANGES_SHIFT);
        let rest = u64::from(deltas.timestamps) << 32 | under_way | windows | longer | changes;
        cells[1].store(rest, Ordering::Release);
    }

    /// What is known of a handshake by cookie, of a connection that was opened by one.
    pub(crate) fn handshake(&self, slot: u32) -> Handshake {
        let cells = self.deltas.all(slot);
        let [numbers, times, rest] = [3, 4, 5].map(|at| cells[at].load(RELAXED));
        let [_, _, flags, scale, a, b, c, d] = rest.to_be_bytes();
        Handshake {
            cookie: (numbers >> 32) as u32,
            isn: numbers as u32,
            times: (flags & HAS_TIMES != 0).then_some(((times >> 32) as u32, times as u32)),
            sack_permitted: flags & HAS_SACK != 0,
            window_scale: (scale != NO_SCALE).then_some(scale),
            mss: u16::from_be_bytes([a, b]),
            window: u16::from_be_bytes([c, d]),
        }
    }

    /// Notes it.
    pub(crate) fn write_handshake(&self, slot: u32, handshake: &Handshake) {
        let cells = self.deltas.all(slot);
        let (own, client) = handshake.times.unwrap_or_default();
        let flags = [(handshake.times.is_some(), HAS_TIMES), (handshake.sack_permitted, HAS_SACK)];
        let flags = flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit);
        let scale = handshake.window_scale.unwrap_or(NO_SCALE);
        let ([a, b], [c, d]) = (handshake.mss.to_be_bytes(), handshake.window.to_be_bytes());
        let numbers = u64::from(handshake.cookie) << 32 | u64::from(handshake.isn);
        cells[3].store(numbers, RELAXED);
        cells[4].store(u64::from(own) << 32 | u64::from(client), RELAXED);
        cells[5].store(u64::from_be_bytes([0, 0, flags, scale, a, b, c, d]), RELAXED);
    }

    /// The server has answered: what was kept until then is worth nothing.
    pub(crate) fn forget_handshake(&self, slot: u32) {
        self.deltas.all(slot)[JUDGED].store(0, RELAXED);
    }

    /// Up to which number of its server the replies of the connection in `place` were judged, if that
    /// is known; not while it has [`SHAKING`].
    pub(crate) fn judged(&self, place: Place) -> Option<u32> {
        let word = self.deltas.all(place.slot)[JUDGED].load(RELAXED);
        (generation(word) == place.generation).then_some(word as u32)
    }

    /// Notes that; never goes back.
    pub(crate) fn note_judged(&self, place: Place, until: u32) {
        let change = |word: u64| {
            let is_known = generation(word) == place.generation;
            let is_ahead = until.wrapping_sub(word as u32).cast_signed() > 0;
            let new = u64::from(place.generation) << 32 | u64::from(until);
            (is_ahead || !is_known).then_some(new)
        };
        let _ = self.deltas.all(place.slot)[JUDGED].fetch_update(RELAXED, RELAXED, change);
    }

    /// The key of what its server answers, if that comes back here.
    pub(crate) fn reply_key(&self, slot: u32) -> Option<ReplyKey> {
        let ends = self.ends(slot);
        let target = ends.target().filter(|target| target.forwarding.is_nat())?;
        target.reply_key(&ends.key(), ends.local())
    }

    /// Writes key, server, target and local address; returns the bits of [`WORD`] that belong to
    /// them.
    pub(crate) fn write(&self, slot: u32, record: &Record) -> u64 {
        let Record { key, target, .. } = record;
        let hot = self.hot(slot);
        let mut bits = 0;
        let mut put = |addr: IpAddr, at: usize, bit: u64| match addr {
            IpAddr::V4(addr) => u64::from(addr.to_bits()),
            IpAddr::V6(addr) => {
                bits |= bit;
                self.addrs.set_address(slot, at, addr);
                0
            }
        };
        let (client, vip) = (put(key.client, 0, CLIENT6), put(key.vip, 2, VIP6));
        let addr = target.map_or(0, |target| put(target.addr, 4, SERVER6));
        hot[ADDRS].store(client << 32 | vip, RELAXED);
        let ports = u64::from(key.client_port) << 48 | u64::from(key.vip_port) << 32;
        hot[PORTS].store(ports | u64::from(record.server.0), RELAXED);
        let mut other_port = 0;
        let way = target.map_or(0, |target| {
            bits |= BOUND;
            let (method, tunnel_port) = number_of(target.forwarding);
            other_port = tunnel_port;
            u64::from(target.port) << 16 | u64::from(method) << 8
        });
        let is_full_nat = target.is_none_or(|target| target.forwarding == Forwarding::FullNat);
        if let Some(local) = record.local.filter(|_| is_full_nat) {
            bits |= HAS_LOCAL | if local.addr.is_ipv6() { LOCAL6 } else { 0 };
            let addr = match local.addr {
                IpAddr::V4(addr) => addr.to_ipv6_mapped(),
                IpAddr::V6(addr) => addr,
            };
            self.locals.set_address(slot, 0, addr);
            other_port = local.port;
        }
        hot[PEERS].fetch_and(!OTHER_PORT, RELAXED);
        hot[PEERS].fetch_or(u64::from(other_port) << OTHER_PORT_SHIFT, RELAXED);
        hot[TARGET].store(addr << 32 | way | u64::from(number(key.protocol)), RELAXED);
        bits
    }

    /// The epoch with this number.
    pub(crate) fn origin(&self, number: u32) -> Origin {
        self.origins().entries.get(number as usize).map(|entry| entry.0).unwrap_or_default()
    }

    /// The number of an epoch, for one more connection.
    pub(crate) fn take_origin(&self, origin: Origin) -> u32 {
        let mut origins = self.origins();
        let Origins { entries, numbers, free } = &mut *origins;
        let number = *numbers.entry(origin).or_insert_with(|| match free.pop() {
            Some(number) => number,
            None => {
                entries.push((origin, 0));
                entries.len() as u32 - 1
            }
        });
        let entry = &mut entries[number as usize];
        *entry = (origin, entry.1 + 1);
        number
    }

    /// One connection fewer is of that epoch.
    pub(crate) fn give_origin(&self, number: u32) {
        let mut origins = self.origins();
        let Some(entry) = origins.entries.get_mut(number as usize) else { return };
        entry.1 = entry.1.saturating_sub(1);
        if let (origin, 0) = *entry {
            origins.numbers.remove(&origin);
            origins.free.push(number);
        }
    }

    fn origins(&self) -> MutexGuard<'_, Origins> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Client, server and what is between them, as read from a slot.
pub(crate) struct Ends<'a> {
    slab: &'a Slab,
    slot: u32,
    word: u64,
    addrs: u64,
    ports: u64,
    target: u64,
    other_port: u16,
}

impl Ends<'_> {
    pub(crate) fn key(&self) -> FlowKey {
        FlowKey {
            protocol: protocol(self.target),
            client: self.addr(CLIENT6, 0, (self.addrs >> 32) as u32),
            client_port: (self.ports >> 48) as u16,
            vip: self.addr(VIP6, 2, self.addrs as u32),
            vip_port: (self.ports >> 32) as u16,
        }
    }

    pub(crate) fn target(&self) -> Option<Target> {
        (self.word & BOUND != 0).then(|| Target {
            addr: self.addr(SERVER6, 4, (self.target >> 32) as u32),
            port: (self.target >> 16) as u16,
            forwarding: forwarding((self.target >> 8) as u8, self.other_port),
        })
    }

    pub(crate) fn numbers(&self) -> Numbers {
        match self.word & (HAS_DELTAS | SHAKING) {
            0 => Numbers::Same,
            HAS_DELTAS => self.slab.deltas(self.slot).map_or(Numbers::Unknown, Numbers::Shifted),
            _ => Numbers::Unknown,
        }
    }

    pub(crate) fn local(&self) -> Option<Local> {
        (self.word & HAS_LOCAL != 0).then(|| {
            let addr = self.slab.locals.address(self.slot, 0);
            // An IPv4 address is kept as an IPv6 one that is mapped.
            let is_v6 = self.word & LOCAL6 != 0;
            let addr = if is_v6 { addr.into() } else { addr.to_canonical() };
            Local { addr, port: self.other_port }
        })
    }

    fn addr(&self, v6: u64, at: usize, v4: u32) -> IpAddr {
        if self.word & v6 == 0 {
            return Ipv4Addr::from_bits(v4).into();
        }
        self.slab.addrs.address(self.slot, at).into()
    }
}

/// The generation in a [`WORD`].
pub(crate) fn generation(word: u64) -> u32 {
    (word >> 32) as u32
}

fn number(protocol: Protocol) -> u8 {
    protocol as u8
}

fn protocol(word: u64) -> Protocol {
    const UDP: u64 = Protocol::Udp as u64;
    const SCTP: u64 = Protocol::Sctp as u64;
    match word & 0xff {
        UDP => Protocol::Udp,
        SCTP => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

/// Forwarding methods as numbers.
const DR: u8 = 0;
const NAT: u8 = 1;

/// A forwarding method as a number, and the port of its tunnel.
fn number_of(forwarding: Forwarding) -> (u8, u16) {
    match forwarding {
        Forwarding::Dr => (DR, 0),
        Forwarding::Nat => (NAT, 0),
        Forwarding::FullNat => (8, 0),
        Forwarding::Tunnel(Tunnel::IpIp) => (2, 0),
        Forwarding::Tunnel(Tunnel::Gre { checksum }) => (3 + u8::from(checksum), 0),
        Forwarding::Tunnel(Tunnel::Gue { port, checksum }) => match checksum {
            UdpChecksum::ByFamily => (5, port),
            UdpChecksum::On => (6, port),
            UdpChecksum::Off => (7, port),
        },
    }
}

fn forwarding(number: u8, port: u16) -> Forwarding {
    let gue = |checksum| Forwarding::Tunnel(Tunnel::Gue { port, checksum });
    match number {
        NAT => Forwarding::Nat,
        2 => Forwarding::Tunnel(Tunnel::IpIp),
        3 => Forwarding::Tunnel(Tunnel::Gre { checksum: false }),
        4 => Forwarding::Tunnel(Tunnel::Gre { checksum: true }),
        5 => gue(UdpChecksum::ByFamily),
        6 => gue(UdpChecksum::On),
        7 => gue(UdpChecksum::Off),
        8 => Forwarding::FullNat,
        _ => Forwarding::Dr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_whose_writer_stands_still_are_not_known() {
        let slab = Slab::new(1);
        slab.hot(0)[WORD].store(OPEN | HAS_DELTAS, RELAXED);
        let deltas = Deltas { to_client: 7, ..Deltas::default() };
        slab.write_deltas(0, &deltas);
        assert_eq!(slab.ends(0).numbers(), Numbers::Shifted(deltas));
        slab.deltas.all(0)[1].fetch_or(CHANGING, RELAXED);
        assert_eq!(slab.ends(0).numbers(), Numbers::Unknown);
    }

    #[test]
    fn what_is_kept_as_numbers_comes_back() {
        for kept in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            assert_eq!(protocol(0xff00 | u64::from(number(kept))), kept);
        }
        let gue = |checksum| Tunnel::Gue { port: 6080, checksum };
        let tunnels = [
            Tunnel::IpIp,
            Tunnel::Gre { checksum: false },
            Tunnel::Gre { checksum: true },
            gue(UdpChecksum::ByFamily),
            gue(UdpChecksum::On),
            gue(UdpChecksum::Off),
        ];
        let slab = Slab::new(1);
        let methods = tunnels.map(Forwarding::Tunnel).into_iter();
        let locals = ["198.18.1.200", "2001:db8:0:1::200", "::ffff:198.18.1.200"];
        let local = |addr: &str| Some(Local { addr: addr.parse().unwrap(), port: 1024 });
        let methods = methods.chain([Forwarding::Dr, Forwarding::Nat]).map(|way| (way, None));
        let full_nat = locals.map(|addr| (Forwarding::FullNat, local(addr)));
        for (method, local) in methods.chain(full_nat) {
            let (addr, port) = ([198, 18, 1, 21].into(), 80);
            let target = Target { addr, port, forwarding: method };
            let key = FlowKey {
                protocol: Protocol::Sctp,
                client: [198, 18, 0, 2].into(),
                client_port: 4000,
                vip: [198, 18, 0, 100].into(),
                vip_port: 80,
            };
            let record = Record {
                key,
                server: 7.into(),
                target: Some(target),
                local,
                service: 1.into(),
                group: 1.into(),
                incarnation: 1,
                origin: Origin::default(),
            };
            for target in [Some(target), None] {
                let bits = slab.write(0, &Record { target, ..record });
                slab.hot(0)[WORD].store(bits, RELAXED);
                assert_eq!((slab.key(0), slab.server(0)), (key, 7));
                assert_eq!((slab.target(0), slab.local(0)), (target, local));
            }
        }
    }
}
