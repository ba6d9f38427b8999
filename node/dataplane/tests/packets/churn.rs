//! P19: servers come, go, change weight and health, ten times a second for ten minutes. No connection
//! whose server is in the configuration moves, and new ones go where `mh` says.
//!
//! `STEADFAST_SEED=n` replays a run;
//! `cargo test -p steadfast-dataplane --test packets churn -- --nocapture` prints its table.

use std::{collections::BTreeMap, net::IpAddr};

use crate::lab::*;
use steadfast_dataplane::{
    Asked, ConfigSpec, Forwarding, HashOptions, NextHops, Protocol, Scheduler, SchedulerKind,
    ServerId, ServerSpec, ServiceSpec,
};

const CHANGES: u64 = 6_000;
/// Connections that there are most of the time.
const CONNECTIONS: usize = 1_000;
/// Addresses that servers may have.
const SERVERS: usize = 40;
/// The kernel's `mh` with port and fallback.
const MH: SchedulerKind = SchedulerKind::Mh(HashOptions { port: true, fallback: true });

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// The servers of the service, and what happens to them.
struct World {
    random: Random,
    servers: Vec<ServerSpec>,
    next_id: u32,
    changes: BTreeMap<&'static str, u64>,
}

impl World {
    fn add(&mut self) -> bool {
        let addr = address(self.random.below(SERVERS));
        if self.servers.iter().any(|server| server.addr == addr) {
            return false;
        }
        let weight = 1 + self.random.below(5) as u16;
        // Ids are never used again, addresses are.
        self.next_id += 1;
        let id = ServerId(self.next_id);
        self.servers.push(ServerSpec { id, addr, port: 80, weight, ..ServerSpec::default() });
        true
    }

    /// One of them; false when it could not be.
    fn change(&mut self) -> bool {
        let place = self.random.below(self.servers.len());
        let many = self.servers.len() > 3;
        let (what, done) = match self.random.below(10) {
            0 => ("a server comes", self.servers.len() < SERVERS && self.add()),
            1 if many => {
                self.servers.swap_remove(place);
                ("a server goes", true)
            }
            2..4 => {
                let server = &mut self.servers[place];
                // As the control side keeps it, so that going to 0 moves nobody else.
                server.last_weight = server.table_weight();
                server.weight = [0, 1, 2, 3, 9][self.random.below(5)];
                ("a weight changes", true)
            }
            4 => {
                self.servers[place].drained = self.random.below(4) == 0;
                ("drain, or its end", true)
            }
            5..10 => {
                self.servers[place].up = self.random.below(4) != 0;
                ("health", true)
            }
            _ => ("", false),
        };
        if done {
            *self.changes.entry(what).or_default() += 1;
        }
        done
    }

    fn spec(&mut self, generation: u64) -> ConfigSpec {
        let mut spec = config_spec(generation);
        // The order in which they are given must not matter.
        let mut servers = self.servers.clone();
        let turn = self.random.below(servers.len());
        servers.rotate_left(turn);
        spec.services = vec![ServiceSpec {
            scheduler: MH,
            forwarding: Forwarding::Dr,
            ..service(1, Protocol::Tcp, 80, servers)
        }];
        spec
    }

    fn server(&self, id: ServerId) -> Option<&ServerSpec> {
        self.servers.iter().find(|server| server.id == id)
    }

    /// `mh` without any connection.
    fn hash(&self) -> Hash {
        let mut servers = self.servers.clone();
        servers.sort_by_key(|server| server.addr);
        Hash { table: Scheduler::compile(MH, &servers, None), servers }
    }
}

/// What hashing alone says.
struct Hash {
    table: Scheduler,
    servers: Vec<ServerSpec>,
}

impl Hash {
    fn of(&self, port: u16) -> Option<IpAddr> {
        let asked = Asked {
            client: "198.18.0.2".parse().unwrap(),
            client_port: port,
            vip: "198.18.0.100".parse().unwrap(),
            now_ns: 0,
        };
        self.table.pick(&self.servers, &[], &asked).map(|index| self.servers[index].addr)
    }
}

fn address(number: usize) -> IpAddr {
    format!("198.18.0.{}", 20 + number).parse().unwrap()
}

fn mac(number: usize) -> Mac {
    [2, 0, 0, 0, 9, number as u8]
}

/// A connection as its client sees it.
struct Session {
    port: u16,
    server: ServerId,
    addr: IpAddr,
}

/// The server that a packet went to; none when it was answered instead.
fn went_to(outcome: &Outcome) -> Option<IpAddr> {
    match outcome {
        Outcome::Sent(_, frame) if frame[..6] == CLIENT => None,
        Outcome::Sent(_, frame) => Some(address(usize::from(frame[5]))),
        Outcome::Dropped(reason) => panic!("dropped: {reason:?}"),
    }
}

#[test]
fn churn_moves_no_connection_whose_server_lives() {
    let seed = std::env::var("STEADFAST_SEED").map_or(20_261_123, |text| text.parse().unwrap());
    println!(
        "replay: STEADFAST_SEED={seed} cargo test -p steadfast-dataplane --test packets churn"
    );
    let changes = BTreeMap::new();
    let mut world = World { random: Random(seed), servers: Vec::new(), next_id: 0, changes };
    while world.servers.len() < 12 {
        world.add();
    }
    let spec = world.spec(1);
    let mut lab = Lab::with(spec, 10_000);
    let mut hops = next_hops(2);
    hops.neighbours.extend((0..SERVERS).map(|n| (0, address(n), mac(n))));
    hops.neighbours.retain(|(_, addr, mac)| mac[4] == 9 || *addr == IpAddr::from([198, 18, 0, 2]));
    lab.shared.set_next_hops(NextHops::new(hops));
    let (mut sessions, mut port) = (Vec::<Session>::new(), 1024_u16);
    let (mut opened, mut refused, mut carried, mut ended, mut rehashed) = (0, 0, 0, 0, 0);
    let mut moved = 0;
    for round in 0..CHANGES {
        lab.now += SECOND / 10;
        while !world.change() {}
        let spec = world.spec(round + 2);
        lab.set_config(spec);
        let hash = world.hash();
        // New connections go where the hash says, and to nobody who takes none.
        while sessions.len() < CONNECTIONS {
            port = if port == u16::MAX { 1024 } else { port + 1 };
            let expected = hash.of(port);
            let syn = lab.handle(0, &from_client(port, 80, SYN));
            if matches!(syn, Outcome::Dropped(_)) || expected.is_none() {
                assert!(world.servers.iter().all(|server| !server.is_available()), "seed {seed}");
                refused += 1;
                break;
            }
            let addr = went_to(&syn);
            assert_eq!(addr, expected, "round {round}, seed {seed}, port {port}");
            assert_eq!(went_to(&lab.handle(0, &from_client(port, 80, ACK))), addr);
            let client = format!("198.18.0.2:{port}");
            let known = lab.find(Protocol::Tcp, &client, "198.18.0.100:80").unwrap();
            sessions.push(Session { port, server: known.server(), addr: addr.unwrap() });
            opened += 1;
        }
        // Each connection says something now and then; all do at the end.
        let some = if round + 1 == CHANGES { sessions.len() } else { 40.min(sessions.len()) };
        let mut left = Vec::new();
        for _ in 0..some {
            let at = world.random.below(sessions.len());
            let session = sessions.swap_remove(at);
            let data = lab.handle(0, &from_client(session.port, 80, ACK));
            match world.server(session.server) {
                Some(_) => {
                    if went_to(&data) != Some(session.addr) {
                        println!("round {round}: port {} left {}", session.port, session.addr);
                        moved += 1;
                    }
                    carried += 1;
                    // What a director without a table would have done to it.
                    rehashed += u64::from(hash.of(session.port) != Some(session.addr));
                    left.push(session);
                }
                // Its client is told, within the rate limit, and connects again.
                None => {
                    assert!(matches!(data, Outcome::Dropped(_)) || went_to(&data).is_none());
                    ended += 1;
                }
            }
        }
        sessions.append(&mut left);
        if round % 50 == 0 && !sessions.is_empty() {
            let done = sessions.swap_remove(world.random.below(sessions.len()));
            lab.handle(0, &from_client(done.port, 80, RST));
        }
        lab.log.take();
        lab.shared.advance(lab.now, 1_000, &lab.log);
    }
    for (what, count) in &world.changes {
        println!("{count:>8}  {what}");
    }
    println!("{opened:>8}  connections opened, each where `mh` says");
    println!("{refused:>8}  refused: no server took any");
    println!("{carried:>8}  packets of connections whose server lives");
    println!("{moved:>8}  of those went to another server");
    println!("{rehashed:>8}  of those would have, by hashing alone");
    println!("{ended:>8}  connections whose server went, and whose client was told");
    assert_eq!(moved, 0, "seed {seed}");
    assert!(carried > 150_000 && opened > CONNECTIONS as u64 && ended > 500, "too little happened");
    assert!(rehashed * 20 > carried, "and of little consequence");
}
