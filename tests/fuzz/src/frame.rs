//! Frames to a worker that holds its group, relays, or knows nobody, with every way of forwarding.
//!
//! An input is a list of steps: an octet that says how, and one that says how much. `how & 3` is the
//! port that a frame comes to, of so many octets, from its EtherType on: the Ethernet addresses are
//! put in front, and its checksums are set right unless `how` has [`AS_IT_IS`], otherwise nothing
//! would ever come past them. Nor past a cookie: where a frame has the octets of [`COOKIE`] or
//! [`TIMESTAMP`], those come in their place that the last cookie asks for ([`handshakes`] says how far
//! an input comes so). Where `how & 3` is [`EVENT`] something else happens, and the second octet says
//! what.

use std::sync::Arc;

use steadfast_dataplane::{
    Action, Actions, Config, CookieEvent, CookieKey, CookieKeys, Cursor, FlowKey, NextHops, NoHook,
    Origin, Role, Shared, TableOptions, Verdict, Worker,
};
use steadfast_packet::{ANSWER_LEN_MAX, Content, Parsed, parse, segment_options, tcp_header};

use crate::{
    wire,
    world::{self, BACK, CLIENT, FRONT, GROUP, PEER, SERVER},
};

/// No frame: an event.
pub const EVENT: u8 = 3;
/// The checksums are those of the input.
pub const AS_IT_IS: u8 = 4;
/// Where in `how` the role of the node is: of two bits.
pub const ROLE_SHIFT: u8 = 3;
/// Where in `how` the time is that has gone by: of three bits, in [`TIME_STEPS_NS`].
pub const TIME_SHIFT: u8 = 5;

/// The services of the world that give cookies, and that tell who the client is by a PROXY header.
pub const PORTS: [u16; 2] = [world::COOKIE_PORT, world::PROXY_PORT];
/// Stands for the number that acknowledges the last cookie.
pub const COOKIE: u32 = 0xc00c_1e01;
/// Stands for the timestamp that came with it.
pub const TIMESTAMP: u32 = 0xc00c_1e02;

/// How much later a frame comes.
pub const TIME_STEPS_NS: [u64; 8] = {
    const MS: u64 = 1_000_000;
    [0, 1, MS, 20 * MS, 1_000 * MS, 6_000 * MS, 70_000 * MS, 1_000_000 * MS]
};

const CONNECTIONS_MAX: usize = 24;
const HALF_OPEN_MAX: usize = 16;
const STEPS_MAX: usize = 64;
/// Room in front of a frame, as in packet memory.
const HEADROOM: usize = 256;
/// Some time after start, but not long: timers are looked at from 0 on.
const START_NS: u64 = 10_000_000_000;
/// Timers looked at after each step.
const TIMERS_MAX: usize = 1000;

struct Node {
    shared: Arc<Shared>,
    worker: Worker<NoHook>,
    actions: Actions,
    now_ns: u64,
    /// What stands for what: the number that acknowledges the last cookie, and its timestamp.
    learnt: [(u32, u32); 2],
}

/// How far an input comes with cookies.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Handshakes {
    /// SYNs that were answered with a cookie.
    pub asked: u64,
    /// Clients that came back with it: connections were opened.
    pub accepted: u64,
    /// Servers that refused them, or did not answer.
    pub given_up: u64,
    /// Connections whose server has answered, so that both sides' numbers differ; the most at once.
    pub joined: u64,
}

/// Runs one input.
///
/// # Panics
/// When something is wrong.
pub fn run(input: &[u8]) {
    run_through(input, |_| {});
}

/// Runs one input, and says how far it comes with cookies, in IPv4 and in IPv6.
///
/// # Panics
/// When something is wrong.
#[must_use]
pub fn handshakes(input: &[u8]) -> [Handshakes; 2] {
    let mut joined = [0; 2];
    let node = run_through(input, |node| {
        let (connections, _) = node.shared.table.walk(Cursor::default(), CONNECTIONS_MAX);
        let mut now = [0; 2];
        for connection in connections {
            let FlowKey { vip, vip_port, .. } = connection.key();
            let shifted = vip_port == world::COOKIE_PORT && connection.deltas().is_some();
            now[usize::from(vip.is_ipv6())] += u64::from(shifted);
        }
        joined = std::array::from_fn(|at| joined[at].max(now[at]));
    });
    let mut found = joined.map(|joined| Handshakes { joined, ..Handshakes::default() });
    for service in node.shared.config.load().services() {
        let Some(listen) = service.spec.listen.first() else { continue };
        let family = &mut found[usize::from(listen.vip.is_ipv6())];
        let cookies = service.excess().cookies;
        family.asked += cookies[CookieEvent::Sent as usize];
        family.accepted += cookies[CookieEvent::Accepted as usize];
        family.given_up += cookies[CookieEvent::GivenUp as usize];
    }
    found
}

fn run_through(input: &[u8], mut after_step: impl FnMut(&Node)) -> Node {
    let mut node = Node::new();
    let mut rest = input;
    for _ in 0..STEPS_MAX {
        let [how, much, after @ ..] = rest else { break };
        node.now_ns += TIME_STEPS_NS[usize::from(how >> TIME_SHIFT)];
        node.set_role(how >> ROLE_SHIFT & 3);
        if how & 3 == EVENT {
            node.event(*much);
            rest = after;
        } else {
            let (tail, after) = after.split_at(usize::from(*much).min(after.len()));
            node.receive(*how, tail);
            rest = after;
        }
        node.advance();
        let (len, half_open) = (node.shared.table.len(), node.shared.table.half_open());
        assert!(len <= CONNECTIONS_MAX + HALF_OPEN_MAX, "more connections than there may be");
        assert!(half_open <= HALF_OPEN_MAX, "more half-open connections than there may be");
        after_step(&node);
    }
    node
}

impl Node {
    fn new() -> Self {
        let options = TableOptions {
            connections_max: CONNECTIONS_MAX,
            half_open_max: HALF_OPEN_MAX,
            seed: [1, 2],
        };
        let shared = Arc::new(Shared::new(options));
        shared.set_config(Config::compile(world::config(false), None).expect("a configuration"));
        shared.set_next_hops(NextHops::new(world::next_hops()));
        let present = CookieKey { slot: 7, key: [1, 2] };
        let keys = CookieKeys { present, previous: Some(CookieKey { slot: 6, key: [3, 4] }) };
        shared.cookie_keys.store(Some(Arc::new(keys)));
        let worker = Worker::new(0, Arc::clone(&shared), NoHook);
        let learnt = [(COOKIE, 0), (TIMESTAMP, 0)];
        Self { shared, worker, actions: Actions::new(), now_ns: START_NS, learnt }
    }

    fn set_role(&self, role: u8) {
        let epoch = Origin { generation: 1, grant_index: 7, claim: 0, node: 1 };
        let group = self.shared.groups.group(GROUP);
        group.set_announce_until_ns(self.now_ns + 1);
        group.set_role(match role {
            0 | 1 => Role::Holder { epoch, since_ns: 1, copy_complete: role == 0 },
            2 => Role::Other { relay: vec![Some(PEER)] },
            _ => Role::NoHolder { since_ns: 0 },
        });
    }

    fn event(&mut self, event: u8) {
        let few = match event {
            0 => false,
            1 => true,
            2 => return self.worker.discard_questions_until(self.now_ns),
            more => return self.flood(more),
        };
        let previous = self.shared.config.load_full();
        let config = Config::compile(world::config(few), Some(&previous));
        self.shared.set_config(config.expect("a configuration"));
    }

    /// So many clients open connections, a few more than there is room for at most.
    fn flood(&mut self, clients: u8) {
        for client in 0..clients.min((HALF_OPEN_MAX + 8) as u8) {
            let mut tail = world::SYN.to_vec();
            tail[world::SYN_CLIENT_PORT] = client;
            self.receive(0, &tail);
        }
    }

    fn receive(&mut self, how: u8, tail: &[u8]) {
        let port = how & 3;
        // The third port is the VLAN, whose frames come with a tag to the first.
        let (port, own, from) = match port {
            1 => (1, BACK, SERVER),
            2 => (0, FRONT, PEER),
            _ => (0, FRONT, CLIENT),
        };
        let mut frame = [&own[..], &from, tail].concat();
        for (mark, number) in self.learnt {
            let place = frame.windows(4).position(|octets| octets == mark.to_be_bytes());
            if let Some(at) = place {
                frame[at..at + 4].copy_from_slice(&number.to_be_bytes());
            }
        }
        if how & AS_IT_IS == 0 {
            wire::repair(&mut frame);
        }
        if let Ok(parsed) = parse(&frame)
            && let Content::Ip(packet) = parsed.content
        {
            assert!(packet.l3 < packet.l4 && packet.l4 <= packet.end && packet.end <= frame.len());
        }
        let (len, was_right) = (frame.len(), wire::is_right(&frame));
        let mut buffer = vec![0xee; HEADROOM];
        buffer.extend(&frame);
        buffer.resize(HEADROOM + len.max(ANSWER_LEN_MAX), 0xee);
        let (now_ns, actions) = (self.now_ns, &mut self.actions);
        self.worker.prepare(std::iter::once(&frame[..]));
        let verdict = self.worker.handle_frame(now_ns, port, &mut buffer, (HEADROOM, len), actions);
        if let Verdict::Transmit { port, start, len } = verdict {
            assert!(port < 2, "sent from a port that is none, or from a VLAN without its tag");
            let sent = buffer.get(start..start + len).expect("what is sent lies in the buffer");
            judge(&frame, was_right, sent);
            self.learn(sent);
        }
        self.act();
    }

    /// What is done without a frame: servers are asked again, and what is over goes.
    fn advance(&mut self) {
        self.worker.advance(self.now_ns, &mut self.actions);
        self.act();
        self.shared.advance(self.now_ns, TIMERS_MAX, &NoHook);
    }

    fn act(&mut self) {
        for action in self.actions.drain() {
            if let Action::Send { port, frame } = action {
                assert!(port < 2, "sent from a port that is none, or from a VLAN without its tag");
                judge(&[], Some(true), frame.bytes());
            }
        }
    }

    /// Remembers what a client would take from an answer to its SYN.
    fn learn(&mut self, sent: &[u8]) {
        const SYN_ACK: u8 = 0x12;
        let Ok(Parsed { content: Content::Ip(packet), .. }) = parse(sent) else { return };
        let Some(tcp) = tcp_header(sent, &packet).filter(|tcp| tcp.flags == SYN_ACK) else {
            return;
        };
        let options = segment_options(sent, &packet).unwrap_or_default();
        let (timestamp, _) = options.timestamps.unwrap_or_default();
        self.learnt = [(COOKIE, tcp.seq.get().wrapping_add(1)), (TIMESTAMP, timestamp)];
    }
}

/// What is sent can be read again, goes to somebody who is there, and is right where what came in
/// was.
fn judge(received: &[u8], was_right: Option<bool>, sent: &[u8]) {
    let parsed = parse(sent).unwrap_or_else(|error| panic!("{error} in what is sent: {sent:02x?}"));
    let known = [CLIENT, SERVER, PEER].contains(&parsed.dst_mac);
    let multicast = parsed.dst_mac[0] & 1 == 1;
    assert!(known || multicast, "sent to {:02x?}", parsed.dst_mac);
    assert_ne!(parsed.dst_mac, parsed.src_mac, "sent to ourselves");
    assert!(
        was_right != Some(true) || wire::is_right(sent) != Some(false),
        "a checksum that was right is wrong:\n{received:02x?}\n{sent:02x?}"
    );
}
