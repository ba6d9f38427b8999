//! Floods and limits: what they cost, whom they cost it, and that what goes by the hash arrives.

use crate::lab::*;
use steadfast_dataplane::{
    Applied, Class, ConfigSpec, Excess, HashOptions, Limits, Over, Protocol, Reason, Role,
    SchedulerKind, ServiceId, ServiceSpec, State, TableOptions,
};

const DR: u16 = 80;
const NAT: u16 = 8080;

fn sent(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Sent(..))
}

/// The server that a frame went to, by its MAC address.
fn server_of(outcome: &Outcome) -> Mac {
    match outcome {
        Outcome::Sent(_, frame) => frame[..6].try_into().unwrap(),
        Outcome::Dropped(reason) => panic!("dropped: {reason:?}"),
    }
}

/// A packet from any client address.
fn from(client: &str, port: u16, vip_port: u16, flags: u8) -> Vec<u8> {
    let (src, dst) = (format!("{client}:{port}"), format!("198.18.0.100:{vip_port}"));
    tcp((CLIENT, FRONT), &src, &dst, 64, flags)
}

/// What the NAT server says to a port of the client.
fn from_server(port: u16, flags: u8) -> Vec<u8> {
    tcp((NAT_1, BACK), "198.18.1.21:80", &format!("198.18.0.2:{port}"), 64, flags)
}

fn hashed(lab: &Lab, service: u32, excess: Excess) -> u64 {
    let config = lab.shared.config.load();
    config.service(ServiceId(service)).unwrap().excess().hashed[excess as usize]
}

fn refused(lab: &Lab, service: u32, excess: Excess) -> u64 {
    let config = lab.shared.config.load();
    config.service(ServiceId(service)).unwrap().excess().refused[excess as usize]
}

fn adopted(lab: &Lab, service: u32) -> u64 {
    lab.shared.config.load().service(ServiceId(service)).unwrap().excess().adopted
}

fn held(lab: &Lab, port: u16, vip_port: u16) -> bool {
    let (client, vip) = (format!("198.18.0.2:{port}"), format!("198.18.0.100:{vip_port}"));
    lab.find(Protocol::Tcp, &client, &vip).is_some()
}

/// The lab with limits on the services 1 (DR) and 2 (NAT).
fn limited(limits: Limits) -> ConfigSpec {
    let mut spec = config_spec(1);
    spec.services[..2].iter_mut().for_each(|service| service.limits = limits);
    spec
}

#[test]
fn a_flood_takes_its_own_places_and_nobody_elses() {
    let mut lab = Lab::bounded(config_spec(1), 4, 8);
    for port in 1..=3 {
        assert!(sent(&lab.handle(0, &from_client(port, DR, SYN))));
        assert!(sent(&lab.handle(0, &from_client(port, DR, ACK))));
    }
    for port in 1000..3000 {
        assert!(sent(&lab.handle(0, &from_client(port, DR, SYN))), "{port} is not refused");
        assert!(lab.shared.table.half_open() <= 8);
    }
    assert_eq!(lab.shared.table.len(), 3 + 8);
    // Eight came in, one took the place of the oldest, the others went by the hash.
    assert_eq!(hashed(&lab, 1, Excess::HalfOpen), 2000 - 8 - 1);
    for port in 1..=3 {
        let connection = lab.find(Protocol::Tcp, &format!("198.18.0.2:{port}"), "198.18.0.100:80");
        assert_eq!(connection.unwrap().state(), State::Established);
    }
    // A handshake that came before the flood has its time, and then a place.
    assert!(held(&lab, 1001, DR) && !held(&lab, 1000, DR));
    assert!(sent(&lab.handle(0, &from_client(1001, DR, ACK))));
    assert_eq!((lab.shared.table.len(), lab.shared.table.half_open()), (3 + 8, 7));
}

#[test]
fn each_half_open_connection_has_its_second() {
    let mut lab = Lab::bounded(config_spec(1), 1000, 64);
    let mut port = 10_000;
    let mut times = std::collections::VecDeque::new();
    // Ten times as many as there are places for, spread over three seconds.
    for step in 0..1920 {
        lab.now = START + step * SECOND / 640;
        port += 1;
        let before = lab.log.take().len();
        assert!(before < 100);
        lab.handle(0, &from_client(port, DR, SYN));
        let log = lab.log.take();
        if log.iter().any(|line| line.starts_with("created")) {
            times.push_back((port, lab.now));
        }
        if let Some(line) = log.iter().find(|line| line.starts_with("removed")) {
            let (oldest, since) = times.pop_front().unwrap();
            assert_eq!(*line, format!("removed {oldest} Evicted"));
            let age = lab.now - since;
            // The first eighth may go at once: so many are saved up.
            assert!(age >= SECOND * 7 / 8 || lab.now < START + SECOND, "{oldest}: {age} ns");
        }
    }
    assert!(times.back().unwrap().1 > START + SECOND * 29 / 10, "places go on changing hands");
}

#[test]
fn what_goes_by_the_hash_finds_the_same_server_with_each_packet() {
    let kinds = [
        SchedulerKind::Rr,
        SchedulerKind::Wlc,
        SchedulerKind::Mh(HashOptions { port: true, fallback: true }),
    ];
    for kind in kinds {
        let mut spec = config_spec(1);
        spec.services[0].scheduler = kind;
        let mut lab = Lab::bounded(spec.clone(), 100, 1);
        let mut other = Lab::bounded(spec, 100, 1);
        lab.handle(0, &from_client(1, DR, SYN));
        lab.handle(0, &from_client(2, DR, SYN));
        let mut servers = std::collections::BTreeSet::new();
        for port in 100..160 {
            let client = format!("10.0.0.{port}");
            let syn = lab.handle(0, &from(&client, port, DR, SYN));
            let server = server_of(&syn);
            servers.insert(server);
            for flags in [ACK, ACK, FIN_ACK, RST] {
                let next = lab.handle(0, &from(&client, port, DR, flags));
                assert_eq!(server_of(&next), server, "{kind:?}, {client}, {flags:#x}");
            }
        }
        assert_eq!(lab.shared.table.len(), 1, "nothing came into the table");
        assert_eq!(hashed(&lab, 1, Excess::HalfOpen), 60);
        if let SchedulerKind::Mh(_) = kind {
            // Its key is the address: sixty of one network are not spread evenly.
            assert!(!servers.is_empty());
        } else {
            assert_eq!(servers.len(), 2, "{kind:?}: both servers get some");
        }
        // Another node that holds the group by then finds the same ones.
        other.handle(0, &from_client(1, DR, SYN));
        other.handle(0, &from_client(2, DR, SYN));
        for port in 100..160 {
            let client = format!("10.0.0.{port}");
            let there = other.handle(0, &from(&client, port, DR, SYN));
            let here = lab.handle(0, &from(&client, port, DR, SYN));
            assert_eq!(server_of(&there), server_of(&here));
        }
    }
}

#[test]
fn nat_by_the_hash_goes_both_ways() {
    let mut lab = Lab::bounded(config_spec(1), 100, 1);
    lab.handle(0, &from_client(1, NAT, SYN));
    lab.handle(0, &from_client(2, NAT, SYN));
    assert_eq!(lab.handle(1, &from_server(7, SYN_ACK)), dropped(Reason::UnknownReturn));
    let syn = lab.handle(0, &from_client(7, NAT, SYN));
    let expected = tcp((BACK, NAT_1), "198.18.0.2:7", "198.18.1.21:80", 63, SYN);
    assert_eq!(syn, Outcome::Sent(1, expected));
    assert_eq!(lab.handle(1, &from_server(7, SYN_ACK)), sent_to_client(7, SYN_ACK));
    assert!(sent(&lab.handle(0, &from_client(7, NAT, ACK))));
    assert_eq!(lab.handle(1, &from_server(7, ACK)), sent_to_client(7, ACK));
    assert!(!held(&lab, 7, NAT));
    // When the last such packet is long ago, nobody is taken for one of them.
    lab.now += 61 * SECOND;
    assert_eq!(lab.handle(1, &from_server(7, ACK)), dropped(Reason::UnknownReturn));
    assert_eq!(lab.handle(0, &from_client(7, NAT, ACK)), reset(7, NAT));
}

fn sent_to_client(port: u16, flags: u8) -> Outcome {
    let to = format!("198.18.0.2:{port}");
    Outcome::Sent(0, tcp((FRONT, CLIENT), "198.18.0.100:8080", &to, 63, flags))
}

#[test]
fn nat_servers_that_two_services_share_do_without_the_hash() {
    let mut spec = config_spec(1);
    spec.services.push(service(6, Protocol::Tcp, 9090, vec![server(61, "198.18.1.21", 80)]));
    let mut lab = Lab::bounded(spec, 100, 1);
    assert!(sent(&lab.handle(0, &from_client(1, NAT, SYN))));
    assert!(sent(&lab.handle(0, &from_client(2, NAT, SYN)))); // in the place of 1
    assert_eq!(lab.handle(0, &from_client(3, NAT, SYN)), dropped(Reason::OverLimit));
    assert_eq!(refused(&lab, 2, Excess::HalfOpen), 1);
    assert_eq!(hashed(&lab, 2, Excess::HalfOpen), 0);
    assert_eq!(lab.handle(0, &from_client(3, NAT, ACK)), reset(3, NAT), "and nothing is adopted");
}

#[test]
fn what_went_by_the_hash_is_taken_in_and_proven_by_a_second_packet() {
    let mut lab = Lab::bounded(config_spec(1), 100, 2);
    for port in [1, 2, 3, 4] {
        lab.handle(0, &from_client(port, DR, SYN)); // 1 is pushed out by 3
    }
    assert!(held(&lab, 2, DR) && held(&lab, 3, DR) && !held(&lab, 4, DR));
    lab.log.take();
    let first = lab.handle(0, &from_client(4, DR, ACK));
    assert_eq!(lab.log.take(), Vec::<String>::new(), "no room yet");
    lab.now += SECOND / 2;
    let second = lab.handle(0, &from_client(4, DR, ACK));
    assert_eq!(server_of(&first), server_of(&second));
    // Peers are told of one that is pushed out and of one that is new, of no packet.
    let log = lab.log.take();
    assert_eq!(log[0], "removed 2 Evicted");
    assert!(log[1].starts_with("created 4 server"), "{log:?}");
    assert_eq!((log.len(), adopted(&lab, 1)), (2, 1));
    let found = lab.find(Protocol::Tcp, "198.18.0.2:4", "198.18.0.100:80").unwrap();
    assert_eq!((found.state(), found.class()), (State::Established, Class::HalfOpen));
    assert!(found.is_unproven());
    assert_eq!(server_of(&lab.handle(0, &from_client(4, DR, ACK))), server_of(&first));
    assert_eq!(lab.log.take(), ["forwarded 4 NONE>ESTABLISHED 2"]);
    assert_eq!(found.class(), Class::Established);
    assert_eq!(lab.shared.table.half_open(), 1);
    // Its packets are those of any other from here on.
    lab.handle(0, &from_client(4, DR, ACK));
    assert_eq!(lab.log.take(), ["forwarded 4 ESTABLISHED>ESTABLISHED 3"]);
}

/// A flood of ACKs while others go by the hash must not do what a flood of SYNs cannot.
#[test]
fn forged_acks_take_no_place_from_connections() {
    let mut lab = Lab::bounded(config_spec(1), 8, 4);
    for port in 1..=6 {
        lab.handle(0, &from_client(port, DR, SYN));
    }
    for port in 100..1100 {
        lab.now += SECOND / 100;
        assert!(sent(&lab.handle(0, &from_client(port, DR, ACK))));
    }
    assert!(adopted(&lab, 1) > 10, "some found a place");
    assert_eq!((lab.shared.table.len(), lab.shared.table.half_open()), (4, 4));
}

#[test]
fn new_connections_above_the_rate_go_by_the_hash() {
    let limits = Limits { new_per_s: 10, ..Limits::default() };
    let mut lab = Lab::with(limited(limits), 1000);
    for port in 1..=25 {
        assert!(sent(&lab.handle(0, &from_client(port, DR, SYN))));
    }
    assert_eq!((lab.shared.table.len(), hashed(&lab, 1, Excess::NewPerS)), (10, 15));
    lab.now += SECOND / 10;
    lab.handle(0, &from_client(26, DR, SYN));
    lab.handle(0, &from_client(27, DR, SYN));
    assert!(held(&lab, 26, DR) && !held(&lab, 27, DR));
    // A service without room is not the others' concern, and a known connection not the limit's.
    assert!(sent(&lab.handle(0, &from_client(1, NAT, SYN))) && held(&lab, 1, NAT));
    assert!(sent(&lab.handle(0, &from_client(1, DR, ACK))));
    // The limit is the same after a change that is none of it.
    lab.set_config(ConfigSpec { generation: 2, ..limited(limits) });
    lab.handle(0, &from_client(28, DR, SYN));
    assert!(!held(&lab, 28, DR));
    assert_eq!(hashed(&lab, 1, Excess::NewPerS), 17);
    // Another limit begins anew; what was counted stays.
    let more = Limits { new_per_s: 20, ..limits };
    lab.set_config(ConfigSpec { generation: 3, ..limited(more) });
    lab.handle(0, &from_client(29, DR, SYN));
    assert!(held(&lab, 29, DR));
    assert_eq!(hashed(&lab, 1, Excess::NewPerS), 17);
}

#[test]
fn who_is_above_a_limit_may_be_refused() {
    let limits = Limits { new_per_s: 2, over: Over::Refuse, ..Limits::default() };
    let mut lab = Lab::with(limited(limits), 1000);
    for port in [1, 2] {
        assert!(sent(&lab.handle(0, &from_client(port, DR, SYN))));
    }
    let refusal = lab.handle(0, &from_client(3, DR, SYN));
    let Outcome::Sent(0, frame) = &refusal else { panic!("{refusal:?}") };
    assert_eq!((&frame[..6], frame[47] & RST), (&CLIENT[..], RST), "a reset for the client");
    assert_eq!((refused(&lab, 1, Excess::NewPerS), hashed(&lab, 1, Excess::NewPerS)), (1, 0));
    assert_eq!(lab.handle(0, &from_client(3, DR, ACK)), reset(3, DR), "nothing goes by the hash");
}

#[test]
fn a_source_has_its_share() {
    let limits = Limits { per_source: 3, ..Limits::default() };
    let mut lab = Lab::with(limited(limits), 1000);
    for port in 1..=5 {
        assert!(sent(&lab.handle(0, &from_client(port, DR, SYN))));
    }
    assert_eq!((lab.shared.table.len(), hashed(&lab, 1, Excess::PerSource)), (3, 2));
    assert!(sent(&lab.handle(0, &from("198.18.0.3", 1, DR, SYN))), "another source");
    assert!(sent(&lab.handle(0, &from_client(1, NAT, SYN))), "another service");
    assert_eq!(lab.shared.table.len(), 5);
    let of =
        |lab: &Lab, client: &str| lab.shared.table.of_source(ServiceId(1), client.parse().unwrap());
    assert_eq!((of(&lab, "198.18.0.2"), of(&lab, "198.18.0.3")), (3, 1));
    // One that is replaced by its client's next counts once; one that goes makes room.
    lab.handle(0, &from_client(1, DR, ACK));
    lab.handle(0, &from_client(1, DR, RST));
    lab.handle(0, &from_client(1, DR, SYN));
    assert_eq!(of(&lab, "198.18.0.2"), 2, "at the limit nothing is replaced, and the old one went");
    lab.handle(0, &from_client(1, DR, SYN));
    assert_eq!(of(&lab, "198.18.0.2"), 3);
    for connection in walk_all(&lab.shared.table, 10) {
        lab.shared.table.remove(&connection.key(), connection.incarnation()).unwrap();
    }
    assert_eq!((of(&lab, "198.18.0.2"), of(&lab, "198.18.0.3")), (0, 0));
}

#[test]
fn a_source_of_ipv6_is_its_first_64_bits_and_copies_count() {
    let mut spec = limited(Limits { per_source: 2, ..Limits::default() });
    spec.services[0].id = ServiceId(7);
    let vip: std::net::IpAddr = "2001:db8::100".parse().unwrap();
    spec.groups[0].vips.push(vip);
    spec.services.push(ServiceSpec {
        listen: vec![steadfast_dataplane::Listen::new(Protocol::Tcp, vip, 8080)],
        limits: Limits { per_source: 2, ..Limits::default() },
        ..service(2, Protocol::Tcp, 8080, vec![server(22, "2001:db8::21", 80)])
    });
    spec.services.remove(1);
    let lab = Lab::with(spec, 1000);
    lab.set_role(Role::Other { relay: Vec::new() });
    let config = lab.shared.config.load_full();
    let apply = |client: &str, port| {
        let mut replica = replica(port, 1, State::Established);
        (replica.record.key.client, replica.record.key.vip) = (client.parse().unwrap(), vip);
        replica.record.server.0 = 22;
        assert_eq!(lab.shared.table.apply_replica(&replica, &config, START), Applied::Inserted);
    };
    apply("2001:db8:7::1", 1);
    apply("2001:db8:7::ffff:1", 2);
    apply("2001:db8:7:1::1", 3);
    let of = |client: &str| lab.shared.table.of_source(ServiceId(2), client.parse().unwrap());
    assert_eq!(of("2001:db8:7::9"), 2);
    assert_eq!(of("2001:db8:7:1::9"), 1);
    assert_eq!(of("2001:db8:7:2::9"), 0);
}

#[test]
fn a_flood_takes_no_place_from_copies() {
    let mut lab = Lab::bounded(config_spec(1), 50, 16);
    for port in 1000..2000 {
        lab.handle(0, &from_client(port, DR, SYN));
    }
    assert_eq!(lab.shared.table.half_open(), 16);
    let config = lab.shared.config.load_full();
    for port in 1..=50 {
        let copy = replica(port, 1, State::Established);
        assert_eq!(lab.shared.table.apply_replica(&copy, &config, START), Applied::Inserted);
    }
    let copy = replica(51, 1, State::Established);
    assert_eq!(lab.shared.table.apply_replica(&copy, &config, START), Applied::Full);
}

#[test]
fn datagrams_above_the_bound_go_by_the_hash_and_answers_come_back() {
    let mut lab = Lab::bounded(config_spec(1), 100, 1);
    let ask =
        |port: u16| udp((CLIENT, FRONT), &format!("198.18.0.2:{port}"), "198.18.0.100:53", 64);
    lab.handle(0, &ask(1));
    lab.handle(0, &ask(2));
    let query = lab.handle(0, &ask(3));
    let expected = udp((BACK, NAT_1), "198.18.0.2:3", "198.18.1.21:5353", 63);
    assert_eq!(query, Outcome::Sent(1, expected));
    let answer = udp((NAT_1, BACK), "198.18.1.21:5353", "198.18.0.2:3", 64);
    let expected = udp((FRONT, CLIENT), "198.18.0.100:53", "198.18.0.2:3", 63);
    assert_eq!(lab.handle(1, &answer), Outcome::Sent(0, expected));
    assert_eq!(hashed(&lab, 3, Excess::HalfOpen), 1);
    assert_eq!(lab.shared.table.len(), 1);
}

#[test]
fn nothing_goes_by_the_hash_that_the_holder_must_decide() {
    let mut lab = Lab::bounded(config_spec(1), 100, 1);
    for port in [1, 2, 3] {
        lab.handle(0, &from_client(port, DR, SYN));
    }
    assert!(sent(&lab.handle(0, &from_client(3, DR, ACK))));
    lab.set_role(Role::Holder { epoch: epoch(1), since_ns: START, copy_complete: false });
    assert_eq!(lab.handle(0, &from_client(3, DR, ACK)), dropped(Reason::HeldBack));
    lab.set_role(Role::NoHolder { since_ns: START });
    assert_eq!(lab.handle(0, &from_client(3, DR, ACK)), dropped(Reason::NoHolder));
    assert_eq!(lab.handle(0, &from_client(4, DR, SYN)), dropped(Reason::NoHolder));
}

#[test]
fn the_bounds_are_what_was_asked_for() {
    let options = TableOptions { connections_max: 0, half_open_max: 0, seed: [1, 2] };
    let table = steadfast_dataplane::ConnectionTable::new(options);
    assert_eq!((table.connections_max(), table.half_open_max()), (1, 1));
}

#[test]
fn a_rehearsal_knows_what_is_above_a_limit() {
    let limits = Limits { new_per_s: 10, per_source: 2, ..Limits::default() };
    let mut lab = Lab::bounded(limited(limits), 100, 5);
    for round in 0..60_u16 {
        lab.now += SECOND / 100;
        let client = format!("198.18.0.{}", if round % 3 == 0 { 2 } else { round });
        let flags = if round % 5 == 4 { ACK } else { SYN };
        let frame = from(&client, 100 + round, DR, flags);
        let told = lab.shared.rehearse(lab.now, 0, &frame);
        lab.log.take();
        let found = lab.handle(0, &frame);
        let opened = lab.log.take().iter().any(|line| line.starts_with("created"));
        let by_hash = !opened && [DR_1, DR_2].contains(&server_of(&found));
        assert_eq!((told.opened.is_some(), told.hashed.is_some()), (opened, by_hash), "{round}");
        let Outcome::Sent(_, sent) = found else { panic!("{round}: {found:?}") };
        assert_eq!(told.frame, sent, "{round}");
    }
    let counts = Excess::ALL.map(|excess| hashed(&lab, 1, excess));
    assert!(counts.iter().all(|count| *count > 0), "each limit was met: {counts:?}");
}

#[test]
fn a_template_is_not_overruled_by_the_hash() {
    let mut spec = limited(Limits { per_source: 1, ..Limits::default() });
    spec.services[0].persistence = Some(steadfast_dataplane::Persistence {
        timeout_ns: 300 * SECOND,
        prefix_v4: 32,
        prefix_v6: 128,
        expire_quiescent_template: false,
    });
    let mut lab = Lab::with(spec, 1000);
    assert!(sent(&lab.handle(0, &from_client(1, DR, SYN))));
    for port in 2..20 {
        let outcome = lab.handle(0, &from_client(port, DR, SYN));
        assert_eq!(outcome, dropped(Reason::OverLimit), "it could be another server's");
    }
    assert_eq!(refused(&lab, 1, Excess::PerSource), 18);
    // Nothing went by the hash, so nothing in the middle of unknown connections is taken for such.
    assert!(!held(&lab, 2, DR));
}
