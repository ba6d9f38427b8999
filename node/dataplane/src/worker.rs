//! A worker: frames of one queue in, verdicts out.
//!
//! Guarantees: a frame is either transmitted or dropped for a counted reason; no packet follows a
//! dead connection, one of a removed server, or one found under an older configuration; ARP,
//! neighbour solicitations and echo are answered only while this node holds the group; nothing is
//! created for a group that another node holds; inside, a frame has no tag: that of a VLAN is taken
//! off first and put on last.

use std::{net::IpAddr, sync::Arc};

use arc_swap::{ArcSwap, Cache};

use steadfast_packet::{Content, Mac, Packet, ParseError, Untagged, parse, set_macs, tag, untag};

use crate::{
    Actions, Config, Connection, GroupId, Hop, NextHops, Reason, Resolved, Role, Sent, Shared,
    SyncHook, Tagged, Verdict, WorkerCounters,
    bucket::TokenBucket,
    cache::{Servers, Tuple, Way},
    early::Early,
    forward::{Hot, reopens},
    frame::Frame,
    pending::Handshakes,
    prepare::{Prepared, Trail},
    slab::Place,
    stale::{Lookout, StaleSender},
};

/// Resets and port unreachables per second and worker, and at once; as many again of packet too
/// big.
const ANSWERS_PER_SECOND: u64 = 1000;
const ANSWERS_BURST: u64 = 100;

/// How far apart the identifications of outer packets start from worker to worker.
const OUTER_ID_STEP: u16 = (u16::MAX as usize / crate::WORKERS_MAX) as u16;

/// Decides what happens to the frames of one queue. Owns its cache of servers; shares the rest.
#[derive(Debug)]
pub struct Worker<H> {
    // Their handles cost a look at one pointer as long as nothing was replaced.
    config: Cache<Arc<ArcSwap<Config>>, Arc<Config>>,
    hops: Cache<Arc<ArcSwap<NextHops>>, Arc<NextHops>>,
    desk: Desk<H>,
}

/// A worker without what it sees.
#[derive(Debug)]
pub(crate) struct Desk<H> {
    prepared: Prepared,
    /// What was prepared for the packet at hand.
    pub(crate) trail: Option<Trail>,
    pub(crate) servers: Servers,
    /// Points at the connection of the packet at hand.
    pub(crate) connection: Connection,
    pub(crate) core: Core<H>,
}

/// A worker without what it knows of the packet at hand.
#[derive(Debug)]
pub(crate) struct Core<H> {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) hook: H,
    pub(crate) answers: TokenBucket,
    /// What is left of the answers that packets are too big: a flood for closed ports must not keep
    /// senders from learning their path MTU.
    pub(crate) too_big: TokenBucket,
    /// The last identification given to an outer IPv4 packet.
    pub(crate) outer_id: u16,
    pub(crate) lookout: Lookout,
    /// Frames that waited for the one at hand.
    pub(crate) released: Vec<Early>,
    /// Servers that have not answered yet.
    pub(crate) handshakes: Handshakes,
    /// Questions for addresses that came before are not answered.
    pub(crate) discard_questions_until_ns: u64,
    pub(crate) counters: Arc<WorkerCounters>,
}

/// What one frame sees of what others may replace at any time.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) config: &'a Config,
    pub(crate) hops: &'a NextHops,
}

impl<H> Worker<H>
where
    H: SyncHook,
{
    /// Worker number `index` (below `ConfigSpec::workers`).
    #[must_use]
    pub fn new(index: usize, shared: Arc<Shared>, hook: H) -> Self {
        let connection = shared.table.at(Place::default());
        let core = Core {
            index,
            shared,
            hook,
            answers: TokenBucket::new(ANSWERS_PER_SECOND, ANSWERS_BURST),
            too_big: TokenBucket::new(ANSWERS_PER_SECOND, ANSWERS_BURST),
            // Workers that start apart give the same number less often in a short time.
            outer_id: (index as u16).wrapping_mul(OUTER_ID_STEP),
            lookout: Lookout::default(),
            released: Vec::new(),
            handshakes: Handshakes::new(),
            discard_questions_until_ns: 0,
            counters: Arc::default(),
        };
        let (config, hops) = (Arc::clone(&core.shared.config), Arc::clone(&core.shared.next_hops));
        let (prepared, servers) = (Prepared::new(), Servers::new());
        let desk = Desk { prepared, trail: None, servers, connection, core };
        Self { config: Cache::new(config), hops: Cache::new(hops), desk }
    }

    /// After a gap in the driver's loop: ARP and neighbour solicitations handed in before `until_ns`
    /// are not answered, because they may have waited while another node took over.
    pub fn discard_questions_until(&mut self, until_ns: u64) {
        self.desk.core.discard_questions_until_ns = until_ns;
    }

    /// Handles the frame of `len` bytes at `start` of `buffer`, received on interface `port`.
    ///
    /// The frame is rewritten in place, and may grow at both ends: answers use what comes after it
    /// (with [`steadfast_packet::ANSWER_LEN_MAX`] bytes from `start` on they always fit), tunnel
    /// headers what comes before it.
    pub fn handle_frame(
        &mut self,
        now_ns: u64,
        port: u16,
        buffer: &mut [u8],
        (start, len): (usize, usize),
        actions: &mut Actions,
    ) -> Verdict {
        let Self { config, hops, desk } = self;
        let view = View { config: config.load(), hops: hops.load() };
        desk.core.counters.count_received();
        desk.trail = desk.prepared.next();
        let verdict = match received(view.hops, port, buffer, (start, len)) {
            Ok((port, start, len)) => {
                let mut frame = Frame::new(now_ns, port, buffer, start, len);
                let verdict = match desk.express(&mut frame, view) {
                    Some(verdict) => verdict,
                    None => desk.decide(&mut frame, view, actions),
                };
                match verdict {
                    Verdict::Transmit { port, start, len } => {
                        to_send(view.hops, port, buffer, (start, len))
                    }
                    dropped @ Verdict::Drop(_) => dropped,
                }
            }
            Err(reason) => Verdict::Drop(reason),
        };
        if let Verdict::Drop(reason) = verdict {
            desk.core.counters.count_dropped(reason);
        }
        if !desk.core.released.is_empty() {
            desk.release(now_ns, view, actions);
        }
        verdict
    }

    /// Does what is due by now without a packet: servers that did not answer a handshake by cookie
    /// are asked again. Call it at least as often as in [`crate::WAITS_MS`] the first.
    pub fn advance(&mut self, now_ns: u64, actions: &mut Actions) {
        let Self { config, hops, desk } = self;
        if !desk.core.handshakes.is_empty() {
            let view = View { config: config.load(), hops: hops.load() };
            desk.core.ask_again(now_ns, view, actions);
        }
    }

    /// Brings near what the frames of a burst will need, before they are handled one by one: what
    /// each waits for in memory is fetched for all of them at the same time.
    ///
    /// Handle them in this order. Only reads; a frame that is left out, or is another by the time it
    /// is handled, costs time.
    pub fn prepare<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) {
        let Desk { prepared, core, .. } = &mut self.desk;
        prepared.prepare(frames, self.config.load(), &core.shared.table);
    }

    /// Counters of this worker, for whoever reads them.
    #[must_use]
    pub fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.desk.core.counters)
    }
}

impl<H> Desk<H>
where
    H: SyncHook,
{
    pub(crate) fn decide(
        &mut self,
        frame: &mut Frame<'_>,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let parsed = match parse(frame.received()) {
            Ok(parsed) => parsed,
            Err(error) => return Verdict::Drop(reason_of(error)),
        };
        if parsed.vlan.is_some() {
            return Verdict::Drop(Reason::EtherType);
        }
        frame.src_mac = parsed.src_mac;
        let own_mac = view.hops.port_mac(frame.port);
        match parsed.content {
            Content::ArpRequest(request) => {
                self.core.answer_arp(frame, parsed.dst_mac, request, view)
            }
            Content::Solicitation(solicitation) => {
                self.core.answer_solicitation(frame, parsed.dst_mac, solicitation, view)
            }
            Content::ArpOther => Verdict::Drop(Reason::ArpIgnored),
            _ if own_mac != Some(parsed.dst_mac) => Verdict::Drop(Reason::OtherMac),
            Content::Ip(packet) => self.handle_packet(frame, &packet, view, actions),
            Content::Other(_) => Verdict::Drop(Reason::EtherType),
        }
    }

    fn handle_packet(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        if let Some(fragment) = &packet.fragment
            && let Some(verdict) = self.core.handle_fragment(frame, packet, fragment, view, actions)
        {
            return verdict;
        }
        let Some(tuple) = Tuple::of_packet(packet) else {
            return self.core.handle_other(frame, packet, view, actions);
        };
        let found = self.find(&tuple, packet, view);
        let connection = &mut self.connection;
        let known = found.and_then(|_| self.servers.find(connection.server(), view.config));
        let (way, mut server) = match (found, known) {
            (Some(way), Some(server)) => (way, Some(server)),
            _ => match self.core.look_up(frame, packet, tuple, view, connection, actions) {
                Ok(way) => (way, self.servers.find(connection.server(), view.config)),
                Err(verdict) => return verdict,
            },
        };
        if way == Way::In
            && server.as_ref().is_some_and(|s| s.is_for_another(frame.received(), packet))
        {
            let old = connection.clone();
            *connection =
                match self.core.admit(frame, packet, tuple.key(), Some(old), view, actions) {
                    Ok(connection) => connection,
                    Err(verdict) => return verdict,
                };
            server = self.servers.find(connection.server(), view.config);
        }
        let Some(server) = server else {
            return Verdict::Drop(Reason::ServerRemoved);
        };
        self.core.carry(frame, packet, Hot { way, connection, server }, view, actions)
    }

    /// Points at the connection that a packet follows without a question if its server is known: an
    /// open one, not to be replaced by what the packet opens. All others are looked up by the rules.
    fn find(&mut self, tuple: &Tuple, packet: &Packet, view: View<'_>) -> Option<Way> {
        let table = &self.core.shared.table;
        let of_tuple = || Trail::of(tuple, view.config, table);
        let Trail { way, hash, .. } = self.trail.or_else(of_tuple)?;
        if reopens(way, packet) {
            return None;
        }
        let place = match way {
            Way::In => table.locate_at(hash, &tuple.key()),
            Way::Out => table.locate_reply_at(hash, &tuple.reply_key()),
        };
        self.connection.point_at(place?);
        self.connection.is_to_follow().then_some(way)
    }
}

/// The port that a frame came in on, and where it is without its tag.
#[inline]
fn received(
    hops: &NextHops,
    port: u16,
    buffer: &mut [u8],
    (start, len): (usize, usize),
) -> Result<(u16, usize, usize), Reason> {
    let Some(Untagged { vlan, start, len }) = untag(buffer, start, len) else {
        return Ok((port, start, len));
    };
    //= IEEE 802.1Q-2018 section 9.6: number 0 is no VLAN, the tag has a priority only
    if vlan == 0 {
        return Ok((port, start, len));
    }
    let port = hops.port_of(Tagged { trunk: port, vlan }).ok_or(Reason::Vlan)?;
    Ok((port, start, len))
}

/// A frame that leaves by `port`, with its tag if that is a VLAN.
#[inline]
fn to_send(hops: &NextHops, port: u16, buffer: &mut [u8], (start, len): (usize, usize)) -> Verdict {
    let Some(Tagged { trunk, vlan }) = hops.tagged(port) else {
        return Verdict::Transmit { port, start, len };
    };
    match tag(buffer, start, len, vlan) {
        Ok((start, len)) => Verdict::Transmit { port: trunk, start, len },
        Err(_) => Verdict::Drop(Reason::NoSpace),
    }
}

pub(crate) fn reason_of(error: ParseError) -> Reason {
    match error {
        ParseError::HeaderChecksum => Reason::HeaderChecksum,
        ParseError::Options => Reason::IpOptions,
        ParseError::Extension => Reason::Extension,
        ParseError::Fragment => Reason::Fragment,
        ParseError::Quote => Reason::Quote,
        ParseError::Truncated(_)
        | ParseError::Length(_)
        | ParseError::Version
        | ParseError::Solicitation => Reason::Malformed,
    }
}

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Notes the sender of a frame if it should have sent it to another node.
    pub(crate) fn look(
        &mut self,
        frame: &Frame<'_>,
        group: GroupId,
        vip: Option<IpAddr>,
        view: View<'_>,
    ) {
        let stale = matches!(&*self.shared.groups.role(group), Role::Other { .. })
            && !view.hops.is_cluster_mac(frame.port, frame.src_mac);
        let sender = StaleSender { group, port: frame.port, mac: frame.src_mac, vip };
        self.lookout.looked(frame.now_ns, stale.then_some(sender), &self.shared.stale_senders);
    }

    /// Hands a frame unchanged to the node that holds the group; `vip` as in [`StaleSender`].
    pub(crate) fn relay(
        &mut self,
        frame: &mut Frame<'_>,
        relay: &[Option<Mac>],
        group: GroupId,
        vip: Option<IpAddr>,
        view: View<'_>,
    ) -> Verdict {
        // Two nodes that each take the other for the holder must not play ping-pong.
        if view.hops.is_cluster_mac(frame.port, frame.src_mac) {
            return Verdict::Drop(Reason::RelayLoop);
        }
        let holder = relay.get(usize::from(frame.port)).copied().flatten();
        let (Some(holder), Some(own)) = (holder, view.hops.port_mac(frame.port)) else {
            return Verdict::Drop(Reason::NoHolder);
        };
        if self.lookout.is_due(frame.now_ns) {
            self.look(frame, group, vip, view);
        }
        set_macs(frame.bytes(), own, holder);
        self.transmit(Sent::Relayed, frame.port, frame.start(), frame.len())
    }

    /// Sends an answer to `client`: by its route if that is known, else to whom the frame came from.
    pub(crate) fn send_back(
        &self,
        frame: &mut Frame<'_>,
        client: IpAddr,
        len: usize,
        view: View<'_>,
    ) -> Verdict {
        match view.hops.resolve(client) {
            Resolved::Hop(Hop { port, src_mac, dst_mac, .. }) => {
                set_macs(frame.bytes(), src_mac, dst_mac);
                self.transmit(Sent::Answered, port, frame.start(), len)
            }
            // A relayed frame came from a node of the cluster, which is nobody to answer to.
            _ if view.hops.is_cluster_mac(frame.port, frame.src_mac) => {
                Verdict::Drop(Reason::NextHopUnresolved)
            }
            _ => self.transmit(Sent::Answered, frame.port, frame.start(), len),
        }
    }

    pub(crate) fn transmit(&self, sent: Sent, port: u16, start: usize, len: usize) -> Verdict {
        self.counters.count_sent(sent);
        Verdict::Transmit { port, start, len }
    }
}
