//! What a worker says about a frame.

use std::net::IpAddr;

use steadfast_packet::{NoSpace, SEGMENT_LEN_MAX, TAG_LEN, tag};

use crate::{NextHops, Tagged, outbox::Outbox};

/// What to do with a frame.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[must_use]
pub enum Verdict {
    /// Send `len` bytes of the buffer, from `start` on, from interface `port`.
    Transmit {
        /// Index of the interface; never that of a VLAN, whose tag is in the frame.
        port: u16,
        /// Where the frame starts now.
        start: usize,
        /// Its length now.
        len: usize,
    },
    /// Forget it.
    Drop(Reason),
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident => $text:literal,)*) => {
        /// Why a frame was dropped; each is counted apart.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $doc])* $name,)* }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// A label for metrics.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it means, in words.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)*).trim_ascii(),)* }
            }
        }
    };
}

reasons! {
    /// Shorter than its headers say, or a header that contradicts itself.
    Malformed => "malformed",
    /// TCP options that cannot be told apart, of a connection whose numbers are shifted.
    TcpOptions => "tcp_options",
    /// The IPv4 header checksum is wrong.
    HeaderChecksum => "header_checksum",
    /// Neither IPv4, IPv6 nor ARP, or with two tags.
    EtherType => "ethertype",
    /// Of a VLAN that no segment is on.
    Vlan => "vlan",
    /// IPv4 options with a source route, or that cannot be told apart.
    IpOptions => "ip_options",
    /// IPv6 extension headers that are not followed: too many, out of place, or a source route.
    Extension => "extension",
    /// A fragment of neither TCP, UDP nor SCTP, of SCTP that would need another checksum, or one that
    /// no honest sender makes.
    Fragment => "fragment",
    /// A later fragment of a packet whose first one is not known, and no room to wait for it.
    FragmentUnknown => "fragment_unknown",
    /// A later fragment that came before its first one. A copy waits for that, a fifth of a second;
    /// what is sent after it is counted as released.
    FragmentEarly => "fragment_early",
    /// A fragment of what has passed already, or with too many gaps before it.
    FragmentOverlap => "fragment_overlap",
    /// To a VIP, but neither TCP, UDP, SCTP, echo nor an ICMP error.
    Protocol => "protocol",
    /// Neither to an address of a group nor from a NAT pool.
    NotOurs => "not_ours",
    /// For another MAC address.
    OtherMac => "other_mac",
    /// ARP or a neighbour solicitation that asks for nothing of ours, or not now.
    ArpIgnored => "arp_ignored",
    /// ARP, or a neighbour solicitation, that waited while this node was paused.
    ArpStale => "arp_stale",
    /// The TTL ran out.
    TtlExceeded => "ttl_exceeded",
    /// No neighbour entry for the next hop yet.
    NextHopUnresolved => "next_hop_unresolved",
    /// Larger than the way to the next hop takes, and its sender cannot be told: a way below the
    /// least MTU of the family, a later fragment, or one that would take too many pieces.
    TooBig => "too_big",
    /// A tunnel, and no address of this node on the way to the server to send from.
    NoSource => "no_source",
    /// No route to the next hop over a data interface.
    NoRoute => "no_route",
    /// Mid-connection packet that is unknown while the copy may still bring it.
    HeldBack => "held_back",
    /// Nobody holds the group, or its MAC address is not known here.
    NoHolder => "no_holder",
    /// To be relayed, but it came from a node of the cluster.
    RelayLoop => "relay_loop",
    /// The connection's server is not in the configuration any more.
    ServerRemoved => "server_removed",
    /// The connection's server is not in the configuration yet.
    Unbound => "unbound",
    /// No service on this port, and settings.unserved is to say nothing.
    Unserved => "unserved",
    /// A reset, or an SCTP packet that is to be discarded in silence, of no connection.
    UnknownReset => "unknown_reset",
    /// An answer was due but for the rate limit.
    RateLimited => "rate_limited",
    /// An answer was due but does not fit the buffer.
    NoSpace => "no_space",
    /// Its connection left the table while the packet was looked at.
    ConnectionGone => "connection_gone",
    /// From a NAT pool, but of no connection.
    UnknownReturn => "unknown_return",
    /// An ICMP error whose quoted packet cannot be read, or that is not for who sent that packet.
    Quote => "icmp_quote",
    /// An ICMP error about a packet of no connection.
    UnknownError => "icmp_unknown",
    /// Above `half_open_max`, `new_per_s` or `per_source`, and the hash is not enough to forward it.
    OverLimit => "over_limit",
    /// Of a connection whose client came with a cookie and whose server has not answered yet.
    Shaking => "handshake",
    /// An acknowledged cookie, but too many servers are being asked already.
    ShakingFull => "handshakes_full",
    /// The table is full of established connections.
    TableFull => "table_full",
    /// The server has a connection from this client port through another VIP.
    ReplyTaken => "reply_taken",
    /// A new full-NAT connection, but no local port of this node is free towards its server. Counted
    /// also where its client was told.
    LocalPortsExhausted => "local_ports_exhausted",
}

/// What a worker asks its driver to do, beside the verdict.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// Let the kernel resolve this neighbour.
    Probe {
        /// The interface it is on.
        port: u16,
        /// The neighbour.
        addr: IpAddr,
    },
    /// Send a frame that answers none.
    Send {
        /// Index of the interface; never that of a VLAN.
        port: u16,
        /// The frame.
        frame: SmallFrame,
    },
}

/// A frame of few octets, by itself.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SmallFrame {
    bytes: [u8; SMALL_FRAME_MAX],
    start: u8,
    len: u8,
}

/// Room for a segment and a VLAN tag.
const SMALL_FRAME_MAX: usize = SEGMENT_LEN_MAX + TAG_LEN;
const _: () = assert!(SMALL_FRAME_MAX <= u8::MAX as usize);

impl SmallFrame {
    /// A frame that `write` puts at the start of its buffer, to be sent by `port`, which may be that
    /// of a VLAN; gives the port that it leaves by.
    pub(crate) fn new(
        hops: &NextHops,
        port: u16,
        write: impl FnOnce(&mut [u8]) -> Result<usize, NoSpace>,
    ) -> Option<(u16, Self)> {
        let mut bytes = [0; SMALL_FRAME_MAX];
        let len = write(&mut bytes[TAG_LEN..]).ok()?;
        let (port, start, len) = match hops.tagged(port) {
            Some(Tagged { trunk, vlan }) => {
                let (start, len) = tag(&mut bytes, TAG_LEN, len, vlan).ok()?;
                (trunk, start, len)
            }
            None => (port, TAG_LEN, len),
        };
        Some((port, Self { bytes, start: start as u8, len: len as u8 }))
    }

    /// Its octets.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes
            .get(usize::from(self.start)..)
            .map_or(&[], |from| from.get(..usize::from(self.len)).unwrap_or_default())
    }
}

/// Actions asked for and not yet taken; the driver drains it after a batch.
#[derive(Debug)]
pub struct Actions {
    actions: Vec<Action>,
    pub(crate) outbox: Outbox,
}

/// Actions kept between two drains; more are forgotten: a dropped packet's sender tries again.
pub const ACTIONS_MAX: usize = 128;

/// Actions that one packet, or one timer, may ask for.
const ROOM_MIN: usize = 2;

impl Actions {
    /// Empty, with its memory reserved.
    #[must_use]
    pub fn new() -> Self {
        Self { actions: Vec::with_capacity(ACTIONS_MAX), outbox: Outbox::default() }
    }

    /// Nothing is kept: for what is not worth it.
    pub(crate) fn none() -> Self {
        Self { actions: Vec::new(), outbox: Outbox::default() }
    }

    /// One more is not forgotten.
    pub(crate) fn has_room(&self) -> bool {
        self.actions.len() + ROOM_MIN <= ACTIONS_MAX
    }

    /// Takes all actions out.
    pub fn drain(&mut self) -> impl Iterator<Item = Action> + '_ {
        self.actions.drain(..)
    }

    /// There are frames to be sent beside that of the verdict.
    #[must_use]
    pub fn has_frames(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Gives the frames that go out after that of the verdict, in order, each with the index of its
    /// interface (never that of a VLAN), and forgets them. Do it after each frame that is handled.
    pub fn send_frames(&mut self, send: impl FnMut(u16, &[u8])) {
        self.outbox.send(send);
    }

    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.outbox.is_empty()
    }

    pub(crate) fn push(&mut self, action: Action) {
        if self.actions.len() < ACTIONS_MAX && !self.actions.contains(&action) {
            self.actions.push(action);
        }
    }
}

impl Default for Actions {
    fn default() -> Self {
        Self::new()
    }
}
