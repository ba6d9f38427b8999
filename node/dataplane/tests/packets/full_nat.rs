//! Full-NAT: frames in, verdicts and frames out; a table for both families, all protocols, both
//! directions, with the server behind the node and beside the client. What is expected is built by
//! etherparse, checksums too.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::both::{self, cut::cut, error::Error, *};
use crate::lab::{self, *};
use steadfast_dataplane::{
    Config, ConfigError, ConfigSpec, Connection, FlowKey, Forwarding, HashOptions, Local, NextHops,
    NoHook, PORTS_PER_SLOT, PortSlot, Protocol, Reason, Record, Replica, Role, SchedulerKind,
    ServiceSpec, State, Timeouts, Unserved, Worker,
};

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
/// The services with the server behind the node, and beside the client.
pub(crate) const PORT: u16 = 9090;
pub(crate) const ONE_ARM_PORT: u16 = 9091;
/// The slot of this node, and of another.
pub(crate) const SLOT: u16 = 2;
const OTHER_SLOT: u16 = 5;

fn local_of(net: Net) -> IpAddr {
    let text = if net.name == "IPv4" { "198.18.1.200" } else { "2001:db8:1::200" };
    text.parse().unwrap()
}

/// Services of all protocols, by full-NAT, beside those of `both`.
pub(crate) fn full_nat(generation: u64, slot: Option<u16>) -> ConfigSpec {
    let mut spec = both::spec(generation);
    spec.port_slot = slot.map(|slot| PortSlot::new(slot).unwrap());
    let mut id = 1000;
    for net in NETS {
        spec.groups[0].locals.push(local_of(net));
        let vip: IpAddr = net.vip.parse().unwrap();
        for protocol in PROTOCOLS {
            for (port, server) in [(PORT, net.nat), (ONE_ARM_PORT, net.dr)] {
                id += 1;
                let servers = vec![lab::server(id, server, REAL_PORT)];
                let service = lab::service(id, protocol, port, servers);
                let scheduler = SchedulerKind::Mh(HashOptions { port: true, fallback: true });
                let forwarding = Forwarding::FullNat;
                let mut service = ServiceSpec { forwarding, scheduler, ..service };
                service.listen[0].vip = vip;
                spec.services.push(service);
            }
        }
    }
    spec
}

fn lab_of(spec: ConfigSpec, connections_max: usize) -> Lab {
    let lab = Lab::with(spec, connections_max);
    lab.shared.set_next_hops(NextHops::new(both::next_hops()));
    lab
}

fn node() -> Lab {
    lab_of(full_nat(1, Some(SLOT)), 5000)
}

pub(crate) fn connection(lab: &Lab, net: Net, protocol: Protocol, ports: (u16, u16)) -> Connection {
    let (client, vip) = (net.client.parse().unwrap(), net.vip.parse().unwrap());
    let key = FlowKey { protocol, client, client_port: ports.0, vip, vip_port: ports.1 };
    lab.shared.table.find(&key).unwrap()
}

fn from_client(net: Net, protocol: Protocol, (from, to): (u16, u16), data: &[u8]) -> Vec<u8> {
    framed((CLIENT, FRONT), &packet(protocol, (at(net.client, from), at(net.vip, to)), 64, data))
}

/// Opens a connection; from where it goes to the server.
fn open(lab: &mut Lab, net: Net, protocol: Protocol, ports: (u16, u16)) -> SocketAddr {
    let outcome = lab.handle(0, &from_client(net, protocol, ports, b"open"));
    assert!(matches!(outcome, Outcome::Sent(..)), "{outcome:?}");
    let local = connection(lab, net, protocol, ports).local().unwrap();
    SocketAddr::new(local.addr, local.port)
}

#[test]
fn packets_go_out_from_a_local_address_and_come_back() {
    for net in NETS {
        for protocol in PROTOCOLS {
            // Two arms, and one.
            let arms =
                [(PORT, net.nat, 1, (BACK, NAT_1)), (ONE_ARM_PORT, net.dr, 0, (FRONT, DR_1))];
            for (port, server, out, macs) in arms {
                let case = format!("{} {protocol} {port}", net.name);
                let mut lab = node();
                let local = open(&mut lab, net, protocol, (CLIENT_PORT, port));
                assert_eq!(local.ip(), local_of(net), "{case}");
                let slot = PortSlot::of_port(local.port()).unwrap();
                assert_eq!(slot.number(), SLOT, "{case}");
                let (client, vip) = (at(net.client, CLIENT_PORT), at(net.vip, port));
                let real = at(server, REAL_PORT);
                for data in [&b""[..], b"odd", b"some data"] {
                    let received = from_client(net, protocol, (CLIENT_PORT, port), data);
                    let sent = framed(macs, &packet(protocol, (local, real), 63, data));
                    assert_eq!(lab.handle(0, &received), Outcome::Sent(out, sent), "{case}");

                    let back = (macs.1, macs.0);
                    let received = framed(back, &packet(protocol, (real, local), 64, data));
                    let sent = packet(protocol, (vip, client), 63, data);
                    let sent = framed((FRONT, CLIENT), &sent);
                    assert_eq!(lab.handle(out, &received), Outcome::Sent(0, sent), "{case}");
                }
            }
        }
    }
}

#[test]
fn fragments_follow_both_ways() {
    let data = [7; 100];
    for net in NETS {
        let mut lab = node();
        let local = open(&mut lab, net, Protocol::Udp, (CLIENT_PORT, PORT));
        let (client, vip) = (at(net.client, CLIENT_PORT), at(net.vip, PORT));
        let real = at(net.nat, REAL_PORT);
        let of = |macs, ends, ttl| cut(macs, &packet(Protocol::Udp, ends, ttl, &data), 7);
        let inbound = of((CLIENT, FRONT), (client, vip), 64).into_iter();
        for (received, sent) in inbound.zip(of((BACK, NAT_1), (local, real), 63)) {
            assert_eq!(lab.handle(0, &received), Outcome::Sent(1, sent), "{}", net.name);
        }
        let back = of((NAT_1, BACK), (real, local), 64).into_iter();
        for (received, sent) in back.zip(of((FRONT, CLIENT), (vip, client), 63)) {
            assert_eq!(lab.handle(1, &received), Outcome::Sent(0, sent), "{}", net.name);
        }
    }
}

/// A first fragment of SCTP shows too little to make its checksum right again.
#[test]
fn fragments_of_sctp_are_refused() {
    let net = NETS[0];
    let mut lab = node();
    open(&mut lab, net, Protocol::Sctp, (CLIENT_PORT, PORT));
    let ends = (at(net.client, CLIENT_PORT), at(net.vip, PORT));
    let parts = cut((CLIENT, FRONT), &packet(Protocol::Sctp, ends, 64, &[7; 100]), 9);
    assert_eq!(lab.handle(0, &parts[0]), dropped(Reason::Fragment));
}

#[test]
fn errors_are_told_in_the_terms_of_who_hears_them() {
    for net in NETS {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for quoted in [4, 8, 18, 20, 500] {
                let case = format!("{} {protocol} {quoted}", net.name);
                let mut lab = node();
                let local = open(&mut lab, net, protocol, (CLIENT_PORT, PORT));
                lab.log.take();
                let (client, vip) = (at(net.client, CLIENT_PORT), at(net.vip, PORT));
                let real = at(net.nat, REAL_PORT);
                let kind = if net.name == "IPv4" { [3, 4] } else { [2, 0] };

                // The server knows neither client nor VIP, nor routers on their side.
                let router: IpAddr = net.router.parse().unwrap();
                let about = (protocol, vip, client);
                let received = Error { src: router, dst: vip.ip(), ttl: 60, kind, about, quoted };
                let about = (protocol, real, local);
                let sent = Error { src: local.ip(), dst: real.ip(), ttl: 59, kind, about, quoted };
                let outcome = lab.handle(0, &received.frame((CLIENT, FRONT)));
                assert_eq!(outcome, Outcome::Sent(1, sent.frame((BACK, NAT_1))), "{case}");

                // The client knows the VIP alone.
                for teller in [real.ip(), router] {
                    let about = (protocol, local, real);
                    let received =
                        Error { src: teller, dst: local.ip(), ttl: 60, kind, about, quoted };
                    let about = (protocol, client, vip);
                    let sent =
                        Error { src: vip.ip(), dst: client.ip(), ttl: 59, kind, about, quoted };
                    let outcome = lab.handle(1, &received.frame((NAT_1, BACK)));
                    assert_eq!(outcome, Outcome::Sent(0, sent.frame((FRONT, CLIENT))), "{case}");
                }
                assert!(lab.log.take().is_empty(), "no state moves. {case}");
            }
        }
    }
}

/// Each client's packets to another server may come from the same place; to the same one never.
#[test]
fn no_two_connections_share_a_local_port_towards_a_server() {
    for net in NETS {
        let mut lab = node();
        let mut seen = BTreeSet::new();
        for from in 0..PORTS_PER_SLOT {
            assert!(seen.insert(open(&mut lab, net, Protocol::Tcp, (2000 + from, PORT))));
        }
        // Another server, another protocol: all ports again.
        open(&mut lab, net, Protocol::Tcp, (2000, ONE_ARM_PORT));
        open(&mut lab, net, Protocol::Udp, (2000, PORT));
    }
}

#[test]
fn exhaustion_is_counted_and_refused_as_what_nobody_serves() {
    for net in NETS {
        for unserved in [Unserved::Reject, Unserved::Drop] {
            let mut spec = full_nat(1, Some(SLOT));
            spec.groups[0].unserved = unserved;
            let mut lab = lab_of(spec, 5000);
            for from in 0..PORTS_PER_SLOT {
                open(&mut lab, net, Protocol::Tcp, (2000 + from, PORT));
            }
            let one_more = from_client(net, Protocol::Tcp, (9000, PORT), b"");
            let outcome = lab.handle(0, &one_more);
            match unserved {
                Unserved::Drop => assert_eq!(outcome, dropped(Reason::LocalPortsExhausted)),
                Unserved::Reject => {
                    let Outcome::Sent(0, frame) = outcome else { panic!("{outcome:?}") };
                    let flags = if net.name == "IPv4" { 14 + 20 + 13 } else { 14 + 40 + 13 };
                    assert_eq!(frame[flags] & RST, RST, "{frame:?}");
                }
            }
            assert_eq!(lab.worker.counters().dropped(Reason::LocalPortsExhausted), 1);
            // What has finished gives way to who comes after all ports were given.
            let finished = connection(&lab, net, Protocol::Tcp, (2500, PORT));
            finished.set_state(State::TimeWait);
            let local = finished.local();
            let given = (0..20).find_map(|n| {
                lab.handle(0, &from_client(net, Protocol::Tcp, (9100 + n, PORT), b""));
                let (client, vip) = (net.client.parse().unwrap(), net.vip.parse().unwrap());
                let (client_port, vip_port) = (9100 + n, PORT);
                let protocol = Protocol::Tcp;
                let key = FlowKey { protocol, client, client_port, vip, vip_port };
                lab.shared.table.find(&key).map(|connection| connection.local())
            });
            assert_eq!(given, Some(local));
            assert!(lab.log.take().contains(&"removed 2500 Reused".to_owned()));
        }
    }
}

/// One for one: nobody gives way in vain.
#[test]
fn who_is_given_the_port_of_a_finished_connection_gets_it() {
    const MORE: u16 = 50;
    for net in NETS {
        let mut lab = node();
        let before = 2000..2000 + PORTS_PER_SLOT;
        for from in before.clone() {
            open(&mut lab, net, Protocol::Tcp, (from, PORT));
        }
        for from in before {
            connection(&lab, net, Protocol::Tcp, (from, PORT)).set_state(State::TimeWait);
        }
        lab.log.take();
        for from in 9100..9100 + MORE {
            open(&mut lab, net, Protocol::Tcp, (from, PORT));
        }
        let gone = lab.log.take().iter().filter(|line| line.starts_with("removed ")).count();
        assert_eq!(gone, usize::from(MORE), "{}", net.name);
    }
}

/// Who is refused for another reason takes no port from what has finished.
#[test]
fn what_has_finished_stays_when_too_many_are_half_open() {
    const HALF_OPEN_MAX: u16 = 8;
    let tcp = Protocol::Tcp;
    for net in NETS {
        let mut lab = Lab::bounded(full_nat(1, Some(SLOT)), 5000, HALF_OPEN_MAX.into());
        lab.shared.set_next_hops(NextHops::new(both::next_hops()));
        for from in 2000..2000 + PORTS_PER_SLOT {
            open(&mut lab, net, tcp, (from, PORT));
            let finished = connection(&lab, net, tcp, (from, PORT));
            finished.set_state(State::TimeWait);
            assert!(lab.shared.table.changed(&finished, &Timeouts::default()).is_none());
        }
        // To another server, which has all ports. The last one has the place of the oldest.
        for from in 0..=HALF_OPEN_MAX {
            open(&mut lab, net, tcp, (2000 + from, ONE_ARM_PORT));
        }
        lab.log.take();
        let one_more = from_client(net, tcp, (9000, PORT), b"");
        assert_eq!(lab.handle(0, &one_more), dropped(Reason::OverLimit), "{}", net.name);
        assert!(lab.log.take().is_empty(), "{}", net.name);

        lab.now += SECOND;
        assert!(matches!(lab.handle(0, &one_more), Outcome::Sent(..)), "{}", net.name);
        let gone = lab.log.take();
        let count = |why: &str| gone.iter().filter(|line| line.ends_with(why)).count();
        assert_eq!((count("Evicted"), count("Reused")), (1, 1), "{}: {gone:?}", net.name);
    }
}

#[test]
fn without_a_slot_nothing_is_opened() {
    let mut lab = lab_of(full_nat(1, None), 100);
    lab.handle(0, &from_client(NETS[0], Protocol::Tcp, (CLIENT_PORT, PORT), b""));
    assert_eq!(lab.worker.counters().dropped(Reason::LocalPortsExhausted), 1);
    assert!(lab.shared.table.is_empty());
}

#[test]
fn a_service_needs_a_local_address_of_its_family() {
    let mut spec = full_nat(1, Some(SLOT));
    spec.groups[0].locals.retain(IpAddr::is_ipv6);
    let error = Config::compile(spec, None).unwrap_err();
    assert!(matches!(error, ConfigError::NoLocalAddress(_)), "{error}");
}

fn copy_of(connection: &Connection) -> Replica {
    let record = Record { target: None, ..connection.record() };
    let state = connection.state();
    Replica {
        record,
        state,
        in_pkts: 3,
        assured: true,
        donated: false,
        snapshot: 1,
        deltas: connection.deltas(),
    }
}

/// What a node opened goes on at its successor, which opens others in its own range.
#[test]
fn a_successor_goes_on_and_opens_in_its_own_range() {
    for net in NETS {
        for protocol in PROTOCOLS {
            let mut first = node();
            let local = open(&mut first, net, protocol, (CLIENT_PORT, PORT));
            let copy = copy_of(&connection(&first, net, protocol, (CLIENT_PORT, PORT)));
            let mut second = lab_of(full_nat(1, Some(OTHER_SLOT)), 5000);
            let config = second.shared.config.load_full();
            second.shared.table.apply_replica(&copy, &config, START);

            let received = from_client(net, protocol, (CLIENT_PORT, PORT), b"more");
            let real = at(net.nat, REAL_PORT);
            let sent = framed((BACK, NAT_1), &packet(protocol, (local, real), 63, b"more"));
            assert_eq!(second.handle(0, &received), Outcome::Sent(1, sent), "{protocol}");
            let received = framed((NAT_1, BACK), &packet(protocol, (real, local), 64, b"answer"));
            assert!(matches!(second.handle(1, &received), Outcome::Sent(0, _)), "{protocol}");

            let next = open(&mut second, net, protocol, (CLIENT_PORT + 1, PORT));
            assert_eq!(PortSlot::of_port(next.port()).unwrap().number(), OTHER_SLOT);
        }
    }
}

/// A node that starts again with a copy of what it opened before gives none of these ports again.
#[test]
fn what_a_copy_shows_is_not_given_again() {
    let net = NETS[0];
    let mut before = node();
    let mut taken = BTreeSet::new();
    let mut after = lab_of(full_nat(1, Some(SLOT)), 5000);
    let config = after.shared.config.load_full();
    for from in 0..PORTS_PER_SLOT - 8 {
        taken.insert(open(&mut before, net, Protocol::Tcp, (2000 + from, PORT)));
        let copy = copy_of(&connection(&before, net, Protocol::Tcp, (2000 + from, PORT)));
        after.shared.table.apply_replica(&copy, &config, START);
    }
    let mut opened = 0;
    for from in 0..200 {
        after.handle(0, &from_client(net, Protocol::Tcp, (9000 + from, PORT), b""));
        let (client, vip) = (net.client.parse().unwrap(), net.vip.parse().unwrap());
        let (client_port, vip_port, protocol) = (9000 + from, PORT, Protocol::Tcp);
        let key = FlowKey { protocol, client, client_port, vip, vip_port };
        if let Some(Local { addr, port }) =
            after.shared.table.find(&key).and_then(|connection| connection.local())
        {
            assert!(taken.insert(SocketAddr::new(addr, port)), "{port} was given before");
            opened += 1;
        }
    }
    assert_eq!(opened, 8, "what was free is found");
}

/// A record keeps its local address until its server is known.
#[test]
fn a_record_waits_for_its_server() {
    for net in NETS {
        let mut first = node();
        let local = open(&mut first, net, Protocol::Tcp, (CLIENT_PORT, PORT));
        let opened = connection(&first, net, Protocol::Tcp, (CLIENT_PORT, PORT));
        let mut second = lab_of(both::spec(1), 100);
        let empty = second.shared.config.load_full();
        second.shared.table.apply_replica(&copy_of(&opened), &empty, START);
        let unbound = connection(&second, net, Protocol::Tcp, (CLIENT_PORT, PORT));
        assert_eq!((unbound.target(), unbound.local()), (None, opened.local()));
        second.set_config(full_nat(2, Some(OTHER_SLOT)));
        let real = at(net.nat, REAL_PORT);
        let reply = packet(Protocol::Tcp, (real, local), 64, b"answer");
        let ends = (at(net.vip, PORT), at(net.client, CLIENT_PORT));
        let sent = framed((FRONT, CLIENT), &packet(Protocol::Tcp, ends, 63, b"answer"));
        let outcome = second.handle(1, &framed((NAT_1, BACK), &reply));
        assert_eq!(outcome, Outcome::Sent(0, sent), "{}", net.name);
    }
}

/// The holder answers for local addresses; what others get for them goes there.
#[test]
fn local_addresses_belong_to_the_holder() {
    for net in NETS {
        let mut lab = node();
        let known = open(&mut lab, net, Protocol::Udp, (CLIENT_PORT, PORT));
        let (real, local) = (at(net.nat, REAL_PORT), SocketAddr::new(local_of(net), 60_000));
        let answer = |to| framed((NAT_1, BACK), &packet(Protocol::Udp, (real, to), 64, b"answer"));
        assert_eq!(lab.handle(1, &answer(local)), dropped(Reason::UnknownReturn));

        let role = Role::Holder { epoch: epoch(1), since_ns: START, copy_complete: true };
        lab.set_role(role);
        assert_eq!(lab.handle(1, &answer(local)), dropped(Reason::HeldBack), "may become known");
        lab.set_role(Role::Other { relay: vec![Some(PEER), Some(PEER)] });
        // Senders are looked at now and then.
        lab.now += 2_000_000;
        let relayed = framed((BACK, PEER), &answer(local)[14..]);
        assert_eq!(lab.handle(1, &answer(local)), Outcome::Sent(1, relayed));
        let stale = lab.shared.stale_senders.take().into_iter().next();
        assert_eq!(stale.and_then(|stale| stale.vip), Some(local_of(net)), "told by address");
        assert!(matches!(lab.handle(1, &answer(known)), Outcome::Sent(0, _)), "known is known");
        let new = from_client(net, Protocol::Udp, (CLIENT_PORT + 1, PORT), b"");
        assert!(matches!(lab.handle(0, &new), Outcome::Sent(0, _)), "to the holder");
    }
    let mut lab = node();
    let request = arp_request([198, 18, 1, 200], BROADCAST);
    assert!(matches!(lab.handle(1, &request), Outcome::Sent(1, _)));
    let request = echo((CLIENT, FRONT), [198, 18, 0, 2], [198, 18, 1, 200], false);
    assert!(matches!(lab.handle(0, &request), Outcome::Sent(0, _)));
}

/// What does not fit the client's side is told to the server by who it talks to.
#[test]
fn too_big_is_told_in_the_name_of_the_local_address() {
    for net in NETS {
        let mut lab = node();
        let local = open(&mut lab, net, Protocol::Udp, (CLIENT_PORT, PORT));
        let mut hops = both::next_hops();
        hops.generation = 3;
        hops.routes.iter_mut().filter(|r| r.port == Some(0)).for_each(|r| r.mtu = Some(1280));
        lab.shared.set_next_hops(NextHops::new(hops));
        let real = at(net.nat, REAL_PORT);
        let mut large = packet(Protocol::Udp, (real, local), 64, &[1; 1300]);
        if net.name == "IPv4" {
            // Do not fragment.
            large[6] |= 0x40;
            large[10..12].fill(0);
            let checksum = steadfast_packet::internet_checksum(0, &large[..20]).to_be_bytes();
            large[10..12].copy_from_slice(&checksum);
        }
        let outcome = lab.handle(1, &framed((NAT_1, BACK), &large));
        let Outcome::Sent(1, frame) = outcome else { panic!("{}: {outcome:?}", net.name) };
        let (src, dst) = match (local.ip(), real.ip()) {
            (IpAddr::V4(local), IpAddr::V4(real)) => {
                (local.octets().to_vec(), real.octets().to_vec())
            }
            (IpAddr::V6(local), IpAddr::V6(real)) => {
                (local.octets().to_vec(), real.octets().to_vec())
            }
            _ => unreachable!(),
        };
        let at = if net.name == "IPv4" { 14 + 12 } else { 14 + 8 };
        assert_eq!(frame[at..at + 2 * src.len()], [src, dst].concat());
    }
}

/// Workers that open at the same time never give one port twice.
#[test]
fn two_workers_give_no_port_twice() {
    let net = NETS[0];
    let lab = node();
    let shared = &lab.shared;
    std::thread::scope(|scope| {
        for index in 0..2_u16 {
            scope.spawn(move || {
                let mut worker = Worker::new(usize::from(index), Arc::clone(shared), NoHook);
                let mut actions = steadfast_dataplane::Actions::new();
                for from in 0..480 {
                    let ports = (2000 + 10_000 * index + from, PORT);
                    let frame = from_client(net, Protocol::Tcp, ports, b"");
                    let mut buffer = [vec![0; 128], frame.clone(), vec![0; 700]].concat();
                    let range = (128, frame.len());
                    let _ = worker.handle_frame(START, 0, &mut buffer, range, &mut actions);
                }
            });
        }
    });
    let connections = walk_all(&lab.shared.table, 100);
    let locals: BTreeSet<_> = connections.iter().filter_map(Connection::local).collect();
    assert_eq!((connections.len(), locals.len()), (960, 960));
}

/// A service that becomes another keeps what it has; a record of full-NAT stays one.
#[test]
fn a_connection_stays_of_full_nat_whatever_its_service_becomes() {
    let net = NETS[0];
    let mut first = node();
    let local = open(&mut first, net, Protocol::Tcp, (CLIENT_PORT, PORT));
    let opened = connection(&first, net, Protocol::Tcp, (CLIENT_PORT, PORT));
    let mut spec = full_nat(2, Some(OTHER_SLOT));
    spec.services
        .iter_mut()
        .filter(|service| service.forwarding == Forwarding::FullNat)
        .for_each(|service| service.forwarding = Forwarding::Nat);
    let mut second = lab_of(spec, 100);
    let config = second.shared.config.load_full();
    second.shared.table.apply_replica(&copy_of(&opened), &config, START);
    let received = from_client(net, Protocol::Tcp, (CLIENT_PORT, PORT), b"more");
    let ends = (local, at(net.nat, REAL_PORT));
    let sent = framed((BACK, NAT_1), &packet(Protocol::Tcp, ends, 63, b"more"));
    assert_eq!(second.handle(0, &received), Outcome::Sent(1, sent));
    // And the other way round: where it came from cannot be known.
    let nat = Record { local: None, ..copy_of(&opened).record };
    let config = first.shared.config.load_full();
    assert_eq!(config.target_of(&nat), None);
    assert!(!config.is_derivable(opened.server(), &opened.key()), "nobody finds a port again");
    let config = second.shared.config.load_full();
    assert!(config.is_derivable(opened.server(), &opened.key()), "but a server of NAT");
}
