//! Packets of connections that a new holder does not know: asked for, adopted where the hash decides,
//! held back otherwise.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use steadfast_dataplane::{
    ADOPT_AFTER_TAKE_OVER_NS, Class, Config, ConfigSpec, HOLD_BACK_NS, HashOptions, Protocol,
    Reason, Role, SchedulerKind, SynProxy, Wanted,
};

use crate::lab::{
    ACK, DR_1, DR_2, GROUP, Lab, Outcome, RST, SECOND, START, SYN, config_spec, dropped, epoch,
    from_client, key, replica, reset,
};

const DR: u16 = 80;

/// Services by hash.
fn spec() -> ConfigSpec {
    let mut spec = config_spec(1);
    for service in &mut spec.services {
        service.scheduler = SchedulerKind::Mh(HashOptions { port: true, fallback: true });
    }
    spec
}

/// A node that takes the group over now, with a driver that asks.
fn successor(spec: ConfigSpec, copy_complete: bool) -> (Lab, Arc<AtomicUsize>) {
    let lab = Lab::with(spec, 1000);
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    lab.shared.unknown.set_waker(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    lab.set_role(Role::Holder { epoch: epoch(1), since_ns: START, copy_complete });
    lab.shared.groups.group(GROUP).set_adopt_until_ns(START + ADOPT_AFTER_TAKE_OVER_NS);
    (lab, woken)
}

fn wanted(port: u16, vip_port: u16) -> Wanted {
    let key =
        key(Protocol::Tcp, &format!("198.18.0.2:{port}"), &format!("198.18.0.100:{vip_port}"));
    Wanted { key, group: GROUP, epoch: epoch(1) }
}

/// The server's MAC address that a frame goes to.
fn to(outcome: &Outcome) -> Option<[u8; 6]> {
    let Outcome::Sent(_, frame) = outcome else { return None };
    frame.first_chunk().copied()
}

#[test]
fn what_nobody_knows_goes_where_the_former_holder_sent_it() {
    let mut former = Lab::with(spec(), 1000);
    let (mut lab, woken) = successor(spec(), false);
    let mut servers = [0; 2];
    for port in 4000..4040 {
        let server = to(&former.handle(0, &from_client(port, DR, SYN))).unwrap();
        servers[usize::from(server == DR_2)] += 1;
        let ack = from_client(port, DR, ACK);
        assert_eq!(lab.handle(0, &ack), dropped(Reason::HeldBack), "it is asked for first");
        assert_eq!(lab.shared.unknown.take(), [wanted(port, DR)]);
        assert_eq!(lab.handle(0, &ack), dropped(Reason::HeldBack), "no answer yet");
        lab.shared.unknown.nobody_knows(lab.now, &wanted(port, DR));
        assert_eq!(to(&lab.handle(0, &ack)), Some(server), "port {port}");
        assert_eq!(lab.handle(0, &ack), former.handle(0, &ack), "and so do the next ones");
    }
    assert!(servers.iter().all(|count| *count > 5), "both servers: {servers:?}");
    assert_eq!((woken.load(Ordering::Relaxed), lab.shared.table.len()), (40, 40));
}

#[test]
fn one_packet_proves_nothing() {
    let (mut lab, _) = successor(spec(), true);
    lab.now = START + HOLD_BACK_NS;
    assert!(to(&lab.handle(0, &from_client(4000, DR, ACK))).is_some());
    let found = lab.find(Protocol::Tcp, "198.18.0.2:4000", "198.18.0.100:80").unwrap();
    assert_eq!((found.class(), found.is_unproven()), (Class::HalfOpen, true));
    lab.handle(0, &from_client(4000, DR, ACK));
    assert_eq!((found.class(), found.is_unproven()), (Class::Established, false));
}

#[test]
fn what_a_peer_knows_goes_where_the_peer_says() {
    let (mut lab, _) = successor(spec(), false);
    let ack = from_client(4000, 8080, ACK);
    assert_eq!(lab.handle(0, &ack), dropped(Reason::HeldBack));
    assert_eq!(lab.shared.unknown.take(), [wanted(4000, 8080)]);
    let config = lab.shared.config.load_full();
    let known = replica(4000, 1, steadfast_dataplane::State::Established);
    lab.shared.table.apply_replica(&known, &config, lab.now);
    assert!(matches!(lab.handle(0, &ack), Outcome::Sent(1, _)));
    assert!(lab.shared.unknown.take().is_empty());
}

/// What a service must not have, for the hash to be all there is to know.
type Change = fn(&mut ConfigSpec);

#[test]
fn what_the_hash_does_not_decide_is_held_back_and_then_reset() {
    let changes: [(&str, u16, Change); 3] = [
        ("another scheduler", DR, |spec| spec.services[0].scheduler = SchedulerKind::Wlc),
        ("persistence", DR, |spec| {
            spec.services[0].persistence = Some(steadfast_dataplane::Persistence {
                timeout_ns: 300 * SECOND,
                prefix_v4: 32,
                prefix_v6: 128,
                expire_quiescent_template: false,
            });
        }),
        ("cookies", 8080, |spec| spec.services[1].syn_proxy = SynProxy::Auto),
    ];
    for (why, port, change) in changes {
        let mut spec = spec();
        change(&mut spec);
        if Config::compile(spec.clone(), None).is_err() {
            panic!("{why}: such a service cannot be");
        }
        let (mut lab, _) = successor(spec, true);
        let ack = from_client(4000, port, ACK);
        assert_eq!(lab.handle(0, &ack), dropped(Reason::HeldBack));
        lab.shared.unknown.nobody_knows(lab.now, &wanted(4000, port));
        assert_eq!(lab.handle(0, &ack), dropped(Reason::HeldBack), "{why}");
        lab.now = START + HOLD_BACK_NS;
        assert_eq!(lab.handle(0, &ack), reset(4000, port), "{why}");
        assert!(lab.shared.table.is_empty(), "{why}");
    }
}

#[test]
fn only_after_a_take_over_and_for_a_while_and_for_no_reset() {
    let (mut lab, _) = successor(spec(), true);
    let (ack, rst) = (from_client(4000, DR, ACK), from_client(4000, DR, RST));
    assert_eq!(lab.handle(0, &rst), dropped(Reason::HeldBack));
    assert!(lab.shared.unknown.take().is_empty(), "nobody is asked for a reset");
    lab.now = START + HOLD_BACK_NS;
    assert_eq!(lab.handle(0, &rst), dropped(Reason::UnknownReset));
    lab.now = START + ADOPT_AFTER_TAKE_OVER_NS;
    assert_eq!(lab.handle(0, &ack), reset(4000, DR), "too late");
    lab.now -= 1;
    assert!([Some(DR_1), Some(DR_2)].contains(&to(&lab.handle(0, &ack))));
    let mut first = Lab::with(spec(), 1000);
    assert_eq!(first.handle(0, &ack), reset(4000, DR), "it has taken over from nobody");
}
