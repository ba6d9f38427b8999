//! The life of a real server as packets see it.
#![allow(clippy::unwrap_used, missing_docs)]

use crate::lab::{self, *};
use steadfast_dataplane::{
    Applied, ConnReuse, HOLD_BACK_NS, OnServerGone, Policies, Protocol, Reason, Role,
    SchedulerKind, ServerId, ServiceId, State, Timeouts,
};

/// The server that a SYN from this client port gets.
fn server_of(lab: &mut Lab, port: u16) -> Option<ServerId> {
    lab.handle(0, &from_client(port, 80, SYN));
    let client = format!("198.18.0.2:{port}");
    lab.find(Protocol::Tcp, &client, "198.18.0.100:80").map(|c| c.server())
}

#[test]
fn a_full_server_gets_no_new_connections_until_enough_have_gone() {
    let mut spec = config_spec(1);
    spec.services[0].scheduler = SchedulerKind::Fo;
    let first = spec.services[0].servers.iter_mut().find(|s| s.id == ServerId(11)).unwrap();
    (first.weight, first.upper, first.lower) = (9, 3, 2);
    let mut lab = Lab::with(spec, 1000);
    let (eleven, twelve) = (Some(ServerId(11)), Some(ServerId(12)));
    for port in 4000..4003 {
        assert_eq!(server_of(&mut lab, port), eleven);
    }
    assert_eq!(server_of(&mut lab, 4003), twelve, "three is the bound");
    let remove = |lab: &Lab, port: u16| {
        let client = format!("198.18.0.2:{port}");
        let found = lab.find(Protocol::Tcp, &client, "198.18.0.100:80").unwrap();
        lab.shared.table.remove(&found.key(), found.incarnation()).unwrap();
    };
    remove(&lab, 4000);
    assert_eq!(server_of(&mut lab, 4004), twelve, "two are not below two");
    // A connection that becomes inactive is still there.
    lab.handle(0, &from_client(4001, 80, FIN_ACK));
    assert_eq!(server_of(&mut lab, 4005), twelve);
    remove(&lab, 4002);
    assert_eq!(server_of(&mut lab, 4006), eleven, "one is");
    let load = lab.shared.table.load(ServerId(11));
    assert_eq!((load.active(), load.inactive()), (1, 1));
}

// ---- Connections whose server is gone ----

/// A client of server 11 whose connection is established, and the configuration without that
/// server, with these policies.
fn without_its_server(policies: Policies) -> Lab {
    let with = |generation| {
        let mut spec = config_spec(generation);
        spec.services[0].policies = policies;
        spec
    };
    let mut lab = Lab::with(with(1), 1000);
    lab.handle(0, &from_client(4000, 80, SYN));
    lab.handle(0, &from_client(4000, 80, ACK));
    assert_eq!(known(&lab), Some(11));
    let mut spec = with(2);
    spec.services[0].servers.retain(|server| server.id != ServerId(11));
    lab.set_config(spec);
    lab.log.take();
    lab
}

/// The same connection as a copy that came after its server was gone: nobody here ever knew where
/// that is.
fn copied_without_its_server(policies: Policies, servers_given: u32) -> Lab {
    let mut spec = config_spec(1);
    spec.services[0].policies = policies;
    spec.services[0].servers.retain(|server| server.id != ServerId(11));
    spec.servers_given = ServerId(servers_given);
    let lab = Lab::with(spec, 1000);
    let mut copy = replica(4000, 1, State::Established);
    (copy.record.key.vip_port, copy.record.server) = (80, ServerId(11));
    copy.record.service = ServiceId(1);
    let config = lab.shared.config.load_full();
    assert_eq!(lab.shared.table.apply_replica(&copy, &config, lab.now), Applied::Inserted);
    assert_eq!((known(&lab), lab.shared.table.unbound()), (Some(11), 1));
    lab.log.take();
    lab
}

/// The server of the connection in the table.
fn known(lab: &Lab) -> Option<u32> {
    let found = lab.find(Protocol::Tcp, "198.18.0.2:4000", "198.18.0.100:80");
    found.map(|connection| connection.server().0)
}

fn to(mac: [u8; 6], flags: u8) -> Outcome {
    Outcome::Sent(0, tcp((FRONT, mac), "198.18.0.2:4000", "198.18.0.100:80", 63, flags))
}

#[test]
fn a_connection_whose_server_is_gone_is_treated_as_its_service_says() {
    use OnServerGone::{Drop, Reschedule, Reset};
    let gone = || dropped(Reason::ServerRemoved);
    // (policy, sloppy, flags of the packet, what becomes of it, server of the connection then)
    let table = [
        (Drop, false, SYN, gone(), Some(11)),
        (Drop, false, ACK, gone(), Some(11)),
        (Drop, false, RST, gone(), Some(11)),
        (Drop, true, ACK, gone(), Some(11)),
        (Reset, false, SYN, to(DR_2, SYN), Some(12)),
        (Reset, false, ACK, reset(4000, 80), None),
        (Reset, false, FIN_ACK, reset(4000, 80), None),
        (Reset, false, RST, dropped(Reason::UnknownReset), None),
        (Reset, true, ACK, reset(4000, 80), None),
        (Reschedule, false, SYN, to(DR_2, SYN), Some(12)),
        (Reschedule, false, ACK, reset(4000, 80), None),
        (Reschedule, false, RST, dropped(Reason::UnknownReset), None),
        (Reschedule, true, ACK, to(DR_2, ACK), Some(12)),
        (Reschedule, true, FIN_ACK, to(DR_2, FIN_ACK), Some(12)),
        (Reschedule, true, RST, dropped(Reason::UnknownReset), None),
    ];
    for (on_server_gone, sloppy_tcp, flags, expected, server) in table {
        let policies = Policies { on_server_gone, sloppy_tcp, ..Policies::default() };
        let labs = [without_its_server(policies), copied_without_its_server(policies, 50)];
        for (mut lab, which) in labs.into_iter().zip(["own", "copied"]) {
            let outcome = lab.handle(0, &from_client(4000, 80, flags));
            let case = format!("{which} {on_server_gone:?} sloppy {sloppy_tcp} flags {flags:#x}");
            assert_eq!(outcome, expected, "{case}");
            assert_eq!(known(&lab), server, "{case}");
            // Peers hear of a connection that was forgotten, and of one that took its place.
            let heard = lab.log.take().join("; ");
            assert_eq!(heard.contains("removed 4000"), server != Some(11), "{case}: {heard}");
            assert_eq!(lab.shared.table.unbound() > 0, which == "copied" && server == Some(11));
        }
    }
}

#[test]
fn a_copy_whose_server_is_still_to_come_waits() {
    let mut lab = copied_without_its_server(Policies::default(), 10);
    for flags in [SYN, ACK, RST] {
        let outcome = lab.handle(0, &from_client(4000, 80, flags));
        assert_eq!(outcome, dropped(Reason::Unbound), "flags {flags:#x}");
    }
    assert_eq!(known(&lab), Some(11));
}

#[test]
fn nobody_is_reset_before_all_is_known() {
    let mut lab = without_its_server(Policies::default());
    let since_ns = lab.now;
    lab.set_role(Role::Holder { epoch: epoch(1), since_ns, copy_complete: true });
    let ack = from_client(4000, 80, ACK);
    assert_eq!(lab.handle(0, &ack), dropped(Reason::HeldBack), "a late copy may know better");
    lab.now = since_ns + HOLD_BACK_NS;
    lab.set_role(Role::Holder { epoch: epoch(1), since_ns, copy_complete: false });
    assert_eq!(lab.handle(0, &ack), dropped(Reason::HeldBack), "the copy is not complete");
    assert_eq!(known(&lab), Some(11));
    lab.set_role(Role::Holder { epoch: epoch(1), since_ns, copy_complete: true });
    assert_eq!(lab.handle(0, &ack), reset(4000, 80));
}

#[test]
fn only_the_holder_decides_about_a_connection_whose_server_is_gone() {
    let mut lab = without_its_server(Policies::default());
    lab.set_role(Role::Other { relay: vec![Some(PEER)] });
    let (src, dst) = ("198.18.0.2:4000", "198.18.0.100:80");
    let relayed = |flags| Outcome::Sent(0, tcp((FRONT, PEER), src, dst, 64, flags));
    assert_eq!(lab.handle(0, &from_client(4000, 80, ACK)), relayed(ACK));
    let found = lab.find(Protocol::Tcp, src, dst).unwrap();
    assert!(!found.is_superseded(), "an ACK opens nothing");
    assert_eq!(lab.handle(0, &from_client(4000, 80, SYN)), relayed(SYN));
    assert!(found.is_superseded());
    lab.set_role(Role::NoHolder { since_ns: 0 });
    assert_eq!(lab.handle(0, &from_client(4000, 80, ACK)), dropped(Reason::NoHolder));
}

#[test]
fn a_datagram_of_a_flow_whose_server_is_gone_goes_to_another() {
    let frame = || udp((CLIENT, FRONT), "198.18.0.2:4000", "198.18.0.100:53", 64);
    for (on_server_gone, server) in
        [(OnServerGone::Drop, 31), (OnServerGone::Reset, 32), (OnServerGone::Reschedule, 32)]
    {
        let with = |generation, id| {
            let mut spec = config_spec(generation);
            spec.services[2].policies.on_server_gone = on_server_gone;
            spec.services[2].servers = vec![lab::server(id, "198.18.1.21", 5353)];
            spec
        };
        let mut lab = Lab::with(with(1, 31), 1000);
        lab.handle(0, &frame());
        lab.set_config(with(2, 32));
        let outcome = lab.handle(0, &frame());
        let kept = on_server_gone == OnServerGone::Drop;
        assert_eq!(outcome == dropped(Reason::ServerRemoved), kept, "{on_server_gone:?}");
        let found = lab.find(Protocol::Udp, "198.18.0.2:4000", "198.18.0.100:53").unwrap();
        assert_eq!(found.server(), ServerId(server), "{on_server_gone:?}");
    }
}

#[test]
fn a_client_of_a_drained_server_may_start_anew_where_lvs_lets_it() {
    for (on_server_gone, server) in
        [(OnServerGone::Drop, 11), (OnServerGone::Reset, 11), (OnServerGone::Reschedule, 12)]
    {
        let mut spec = config_spec(1);
        spec.services[0].policies.on_server_gone = on_server_gone;
        let mut lab = Lab::with(spec.clone(), 1000);
        lab.handle(0, &from_client(4000, 80, SYN));
        spec.generation = 2;
        spec.services[0].servers.iter_mut().find(|s| s.id == ServerId(11)).unwrap().weight = 0;
        lab.set_config(spec);
        assert_eq!(lab.handle(0, &from_client(4000, 80, ACK)), to(DR_1, ACK), "drains");
        // The flow is cached by now.
        lab.handle(0, &from_client(4000, 80, SYN));
        assert_eq!(known(&lab), Some(server), "{on_server_gone:?}");
    }
}

#[test]
fn a_finished_connection_is_reused_as_the_service_says() {
    let cases = [
        (ConnReuse::Always, RST, DR_2),
        (ConnReuse::FinWait, RST, DR_2),
        (ConnReuse::Never, RST, DR_1),
        (ConnReuse::Always, FIN_ACK, DR_1),
        (ConnReuse::FinWait, FIN_ACK, DR_2),
        (ConnReuse::Never, FIN_ACK, DR_1),
    ];
    for (reuse, last, mac) in cases {
        let mut spec = config_spec(1);
        spec.services[0].policies.reuse = reuse;
        let mut lab = Lab::with(spec, 1000);
        for flags in [SYN, ACK, last] {
            assert_eq!(lab.handle(0, &from_client(4000, 80, flags)), to(DR_1, flags));
        }
        assert_eq!(lab.handle(0, &from_client(4000, 80, SYN)), to(mac, SYN), "{reuse:?} {last}");
        let found = lab.find(Protocol::Tcp, "198.18.0.2:4000", "198.18.0.100:80").unwrap();
        assert_eq!(found.state(), State::SynRecv, "{reuse:?} {last}");
        let connections = lab.shared.table.len();
        assert_eq!(connections, 1, "the old one is gone: {reuse:?} {last}");
    }
}

#[test]
fn a_half_closed_connection_by_nat_is_not_reused() {
    let mut spec = config_spec(1);
    for service in &mut spec.services {
        service.policies.reuse = ConnReuse::FinWait;
    }
    let mut lab = Lab::with(spec, 1000);
    // By NAT the answers show when the server has closed, too.
    for flags in [SYN, ACK, FIN_ACK, SYN] {
        assert!(matches!(lab.handle(0, &from_client(4000, 8080, flags)), Outcome::Sent(1, _)));
    }
    let found = lab.find(Protocol::Tcp, "198.18.0.2:4000", "198.18.0.100:8080").unwrap();
    assert_eq!(found.in_pkts(), 4, "the SYN follows the old one");
}

#[test]
fn sloppy_tcp_opens_with_any_packet_but_a_reset() {
    for sloppy_tcp in [false, true] {
        let mut spec = config_spec(1);
        spec.services[0].policies.sloppy_tcp = sloppy_tcp;
        let mut lab = Lab::with(spec, 1000);
        assert_eq!(lab.handle(0, &from_client(4000, 80, RST)), dropped(Reason::UnknownReset));
        let expected = if sloppy_tcp { to(DR_1, ACK) } else { reset(4000, 80) };
        assert_eq!(lab.handle(0, &from_client(4000, 80, ACK)), expected);
        let found = lab.find(Protocol::Tcp, "198.18.0.2:4000", "198.18.0.100:80");
        //= tcp_states[], INPUT-ONLY: an ACK in NONE is ESTABLISHED
        assert_eq!(found.map(|c| c.state()), sloppy_tcp.then_some(State::Established));
    }
    // After a take-over a copy that is on its way comes first.
    let mut spec = config_spec(1);
    spec.services[0].policies.sloppy_tcp = true;
    let mut lab = Lab::with(spec, 1000);
    lab.set_role(Role::Holder { epoch: epoch(1), since_ns: lab.now, copy_complete: true });
    assert_eq!(lab.handle(0, &from_client(4000, 80, ACK)), dropped(Reason::HeldBack));
}

#[test]
fn a_service_has_its_own_timeouts() {
    let mut spec = config_spec(1);
    spec.services[0].timeouts = Timeouts::default().with(State::SynRecv, 5);
    let mut lab = Lab::with(spec, 1000);
    lab.handle(0, &from_client(4000, 80, SYN));
    lab.now += 5 * SECOND - 1;
    let expired = |lab: &Lab| {
        let mut expired = 0;
        loop {
            let advanced = lab.shared.advance(lab.now, 100_000, &lab.log);
            expired += advanced.expired;
            if !advanced.more {
                return expired;
            }
        }
    };
    assert_eq!(expired(&lab), 0);
    lab.now += SECOND;
    assert_eq!(expired(&lab), 1);
}
