//! Frames in, verdicts and frames out: the packet path as a table of cases.

use crate::lab::*;
use etherparse::PacketBuilder;
use steadfast_dataplane::{
    Action, ConfigSpec, NextHops, OnServerGone, Protocol, Reason, Role, Sent, State, Unserved,
};
use steadfast_packet::internet_checksum;

#[test]
fn dr_rewrites_macs_and_ttl_only() {
    let mut lab = Lab::new();
    let to = |mac, client: &str, ttl, flags| {
        Outcome::Sent(0, tcp((FRONT, mac), client, "198.18.0.100:80", ttl, flags))
    };
    let (a, b) = ("198.18.0.2:4000", "198.18.0.2:4001");
    run(
        &mut lab,
        &[
            ("SYN goes to the first server", 0, from_client(4000, 80, SYN), to(DR_1, a, 63, SYN)),
            ("ACK follows it", 0, from_client(4000, 80, ACK), to(DR_1, a, 63, ACK)),
            (
                "the next SYN goes to the second",
                0,
                from_client(4001, 80, SYN),
                to(DR_2, b, 63, SYN),
            ),
            ("the first stays where it is", 0, from_client(4000, 80, ACK), to(DR_1, a, 63, ACK)),
            ("FIN follows too", 0, from_client(4000, 80, FIN_ACK), to(DR_1, a, 63, FIN_ACK)),
        ],
    );
    let connection = lab.find(Protocol::Tcp, a, "198.18.0.100:80").unwrap();
    assert_eq!(connection.state(), State::FinWait, "replies do not pass: INPUT_ONLY");
    assert_eq!(connection.in_pkts(), 4);
    assert_eq!(
        lab.log.take(),
        [
            "created 4000 server 11",
            "forwarded 4000 NONE>SYN_RECV 1",
            "forwarded 4000 SYN_RECV>ESTABLISHED 2",
            "created 4001 server 12",
            "forwarded 4001 NONE>SYN_RECV 1",
            "forwarded 4000 ESTABLISHED>ESTABLISHED 3",
            "forwarded 4000 ESTABLISHED>FIN_WAIT 4",
        ]
    );
    let config = lab.shared.config.load();
    let totals = config.server(11.into()).unwrap().0.totals();
    assert_eq!((totals.conns, totals.in_pkts, totals.out_pkts), (2, 5, 0));
    assert_eq!(totals.in_bytes, 5 * 47);
    assert_eq!(lab.worker.counters().sent(Sent::Forwarded), 5);
}

#[test]
fn nat_rewrites_both_directions() {
    let mut lab = Lab::new();
    let (client, vip, real) = ("198.18.0.2:4000", "198.18.0.100:8080", "198.18.1.21:80");
    let there = |flags| Outcome::Sent(1, tcp((BACK, NAT_1), client, real, 63, flags));
    let reply = |flags| tcp((NAT_1, BACK), real, client, 64, flags);
    let back = |flags| Outcome::Sent(0, tcp((FRONT, CLIENT), vip, client, 63, flags));
    run(
        &mut lab,
        &[
            ("SYN", 0, from_client(4000, 8080, SYN), there(SYN)),
            ("SYN-ACK", 1, reply(SYN_ACK), back(SYN_ACK)),
            ("ACK", 0, from_client(4000, 8080, ACK), there(ACK)),
            ("data back", 1, reply(ACK), back(ACK)),
            ("FIN of the server", 1, reply(FIN_ACK), back(FIN_ACK)),
            ("FIN of the client", 0, from_client(4000, 8080, FIN_ACK), there(FIN_ACK)),
        ],
    );
    let connection = lab.find(Protocol::Tcp, client, vip).unwrap();
    assert_eq!(connection.state(), State::TimeWait);
    assert_eq!((connection.in_pkts(), connection.out_pkts()), (3, 3));
    assert_eq!(
        lab.log.take(),
        [
            "created 4000 server 21",
            "forwarded 4000 NONE>SYN_RECV 1",
            "replied 4000 SYN_RECV>SYN_RECV",
            "forwarded 4000 SYN_RECV>ESTABLISHED 2",
            "replied 4000 ESTABLISHED>ESTABLISHED",
            "replied 4000 ESTABLISHED>FIN_WAIT",
            "forwarded 4000 FIN_WAIT>TIME_WAIT 3",
        ]
    );
}

#[test]
fn a_finished_connection_goes_when_its_client_finds_no_server() {
    let mut lab = Lab::new();
    let (client, vip) = ("198.18.0.2:4000", "198.18.0.100:8080");
    lab.handle(0, &from_client(4000, 8080, SYN));
    lab.handle(0, &tcp((CLIENT, FRONT), client, vip, 64, 0));
    assert_eq!(lab.find(Protocol::Tcp, client, vip).unwrap().state(), State::Close);
    let mut none = config_spec(2);
    none.services[1].servers[0].weight = 0;
    lab.set_config(none);
    lab.log.take();
    lab.handle(0, &from_client(4000, 8080, SYN));
    assert!(lab.find(Protocol::Tcp, client, vip).is_none());
    assert_eq!(lab.log.take(), ["removed 4000 Reused"]);
    let load = |lab: &Lab| {
        let config = lab.shared.config.load();
        let (service, index) = config.server(21.into()).unwrap();
        service.load(index).map(|load| (load.active(), load.inactive()))
    };
    assert_eq!(load(&lab), Some((0, 0)));
}

#[test]
fn nat_of_udp_keeps_a_missing_checksum() {
    let mut lab = Lab::new();
    let (client, vip, real) = ("198.18.0.2:4000", "198.18.0.100:53", "198.18.1.21:5353");
    let without = |mut frame: Vec<u8>| {
        frame[40..42].fill(0);
        frame
    };
    let there = udp((BACK, NAT_1), client, real, 63);
    let back = udp((FRONT, CLIENT), vip, client, 63);
    let request = udp((CLIENT, FRONT), client, vip, 64);
    let reply = udp((NAT_1, BACK), real, client, 64);
    run(
        &mut lab,
        &[
            ("with checksum", 0, request.clone(), Outcome::Sent(1, there.clone())),
            ("back", 1, reply.clone(), Outcome::Sent(0, back.clone())),
            ("without", 0, without(request), Outcome::Sent(1, without(there))),
            ("back without", 1, without(reply), Outcome::Sent(0, without(back))),
        ],
    );
    assert_eq!(lab.find(Protocol::Udp, client, vip).unwrap().state(), State::Udp);
}

#[test]
fn ip_options_go_along() {
    let mut lab = Lab::new();
    let frame = |macs: ([u8; 6], [u8; 6]), dst: [u8; 4], port, ttl| {
        let protocol = etherparse::ip_number::TCP;
        let mut ip = etherparse::Ipv4Header::new(0, ttl, protocol, [198, 18, 0, 2], dst).unwrap();
        ip.options = [1, 1, 1, 0].into();
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(macs.0, macs.1)
            .ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
            .tcp(4000, port, 1, 1)
            .syn()
            .write(&mut frame, b"")
            .unwrap();
        frame
    };
    let expected = Outcome::Sent(1, frame((BACK, NAT_1), [198, 18, 1, 21], 80, 63));
    assert_eq!(lab.handle(0, &frame((CLIENT, FRONT), [198, 18, 0, 100], 8080, 64)), expected);
}

#[test]
fn ports_without_service_or_server_are_refused() {
    let mut lab = Lab::new();
    for (description, vip_port) in [("no service", 9), ("no server up", 81)] {
        // SYN: RST, ACK with SEQ=0 and ACK=SEG.SEQ+SEG.LEN (7 octets and the SYN).
        let Outcome::Sent(0, frame) = lab.handle(0, &from_client(4000, vip_port, SYN)) else {
            panic!("{description}: no answer");
        };
        assert_eq!(frame[47], 0x14, "{description}: RST and ACK");
        assert_eq!(frame[38..46], [0, 0, 0, 0, 0, 0, 3, 0xf0], "{description}: 0 and 1008");
        let dst = format!("198.18.0.100:{vip_port}");
        let datagram = udp((CLIENT, FRONT), "198.18.0.2:7", &dst, 64);
        let Outcome::Sent(0, frame) = lab.handle(0, &datagram) else {
            panic!("{description}: no answer");
        };
        assert_eq!(frame[34..36], [3, 3], "{description}: port unreachable");
        assert_eq!(frame[42..70], datagram[14..42], "{description}: quotes the datagram");
    }
    let answered = (0..1000)
        .filter(|_| matches!(lab.handle(0, &from_client(1, 9, SYN)), Outcome::Sent(..)))
        .count();
    assert_eq!(answered, 96, "100 at once, 4 of them above");
    assert_eq!(lab.handle(0, &from_client(1, 9, SYN)), dropped(Reason::RateLimited));
    assert!(lab.shared.table.is_empty());

    let mut spec = ConfigSpec { generation: 2, ..config_spec(2) };
    spec.groups[0].unserved = Unserved::Drop;
    lab.set_config(spec);
    assert_eq!(lab.handle(0, &from_client(1, 9, SYN)), dropped(Reason::Unserved));
}

#[test]
fn what_is_not_forwarded_is_counted_by_reason() {
    let fragment = {
        let mut frame = from_client(4000, 80, SYN);
        frame[20] = 0x20;
        frame[24..26].fill(0);
        let sum = steadfast_packet::internet_checksum(0, &frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let mangled = |at: usize, value: u8| {
        let mut frame = from_client(4000, 80, SYN);
        frame[at] = value;
        frame
    };
    // A routing header that names one more stop than the VIP.
    let routed = {
        let mut frame = vec![0; 14 + 40 + 24 + 20];
        frame[..6].copy_from_slice(&FRONT);
        frame[12..21].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 44, 43]);
        frame[54..58].copy_from_slice(&[6, 2, 0, 1]);
        frame
    };
    // A stop that the packet is to make after the VIP, and a list of options that goes along.
    let loose = with_options(&from_client(4000, 80, SYN), &[131, 7, 4, 198, 18, 0, 9, 0]);
    let endless = with_options(&from_client(4000, 80, SYN), &[7, 0, 0, 0]);
    let alert = with_options(&from_client(4001, 8080, SYN), &[148, 4, 0, 0]);
    let with_alert = tcp((BACK, NAT_1), "198.18.0.2:4001", "198.18.1.21:80", 63, SYN);
    let with_alert = with_options(&with_alert, &[148, 4, 0, 0]);
    let mut tagged = from_client(4000, 80, SYN);
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    let macs = (CLIENT, FRONT);
    let other = tcp((CLIENT, FRONT), "198.18.0.2:1", "198.18.0.9:80", 64, SYN);
    let to_gateway = tcp((CLIENT, FRONT), "198.18.0.2:1", "198.18.1.1:80", 64, SYN);
    let stray = tcp((NAT_1, BACK), "198.18.1.21:80", "198.18.0.2:4000", 64, ACK);
    let echo_reply = echo((CLIENT, FRONT), [198, 18, 0, 2], [198, 18, 0, 100], true);
    let nobody = tcp(macs, "224.0.0.1:1", "198.18.0.100:80", 64, SYN);
    let unreachable = tcp(macs, "10.0.0.1:1", "198.18.0.100:8080", 64, SYN);
    let to_server = tcp((BACK, NAT_1), "10.0.0.1:1", "198.18.1.21:80", 63, SYN);
    let to_nowhere = tcp((NAT_1, BACK), "198.18.1.21:80", "10.0.0.1:1", 64, SYN_ACK);
    let mut lab = Lab::new();
    run(
        &mut lab,
        &[
            ("cut", 0, from_client(4000, 80, SYN)[..40].to_vec(), dropped(Reason::Malformed)),
            ("header checksum", 0, mangled(22, 9), dropped(Reason::HeaderChecksum)),
            ("EtherType", 0, mangled(12, 9), dropped(Reason::EtherType)),
            ("another MAC", 0, mangled(0, 4), dropped(Reason::OtherMac)),
            ("IPv6 source route", 0, routed, dropped(Reason::Extension)),
            ("IPv4 source route", 0, loose, dropped(Reason::IpOptions)),
            ("options of no length", 0, endless, dropped(Reason::IpOptions)),
            ("router alert", 0, alert, Outcome::Sent(1, with_alert)),
            ("VLAN", 0, tagged, dropped(Reason::Vlan)),
            ("fragment", 0, fragment, dropped(Reason::Fragment)),
            ("another address", 0, other, dropped(Reason::NotOurs)),
            ("TCP to the gateway address", 0, to_gateway, dropped(Reason::NotOurs)),
            ("echo reply", 0, echo_reply, dropped(Reason::Protocol)),
            ("reply of no connection", 1, stray, dropped(Reason::UnknownReturn)),
            ("impossible client", 0, nobody, dropped(Reason::Malformed)),
            ("client behind no route", 0, unreachable, Outcome::Sent(1, to_server)),
            ("its reply", 1, to_nowhere, dropped(Reason::NoRoute)),
        ],
    );
    let counters = lab.worker.counters();
    assert_eq!(counters.dropped(Reason::Malformed), 2);
    assert_eq!(counters.dropped(Reason::NotOurs), 2);
    assert_eq!((counters.received(), counters.sent(Sent::Forwarded)), (17, 2));
    assert_eq!(counters.dropped(Reason::IpOptions), 2);
}

/// A frame of IPv4 without options, with these; shorter ones are not padded any more.
fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let len = usize::from(u16::from_be_bytes([frame[16], frame[17]])) + 14;
    let mut frame = [&frame[..34], options, &frame[34..len]].concat();
    frame[14] += options.len() as u8 / 4;
    frame[16..18].copy_from_slice(&((len - 14 + options.len()) as u16).to_be_bytes());
    frame[24..26].fill(0);
    let sum = internet_checksum(0, &frame[14..34 + options.len()]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn an_unresolved_server_is_probed_and_then_reached() {
    let mut lab = Lab::new();
    let mut spec = next_hops(2);
    let gone = spec.neighbours.iter().position(|(_, _, mac)| *mac == DR_1).unwrap();
    let neighbour = spec.neighbours.remove(gone);
    lab.shared.set_next_hops(NextHops::new(spec.clone()));
    let syn = from_client(4000, 80, SYN);
    assert_eq!(lab.handle(0, &syn), dropped(Reason::NextHopUnresolved));
    assert_eq!(lab.actions, [Action::Probe { port: 0, addr: neighbour.1 }]);
    spec.neighbours.push(neighbour);
    lab.shared.set_next_hops(NextHops::new(steadfast_dataplane::NextHopsSpec {
        generation: 3,
        ..spec.clone()
    }));
    let (src, dst) = ("198.18.0.2:4000", "198.18.0.100:80");
    let expected = |mac| Outcome::Sent(0, tcp((FRONT, mac), src, dst, 63, SYN));
    assert_eq!(lab.handle(0, &syn), expected(DR_1), "the retransmission");
    // The neighbour's address changes under a cached flow.
    spec.generation = 4;
    spec.neighbours.last_mut().unwrap().2 = DR_2;
    lab.shared.set_next_hops(NextHops::new(spec));
    assert_eq!(lab.handle(0, &syn), expected(DR_2), "no stale cache");
}

#[test]
fn a_syn_on_a_finished_connection_opens_a_new_one() {
    let mut lab = Lab::new();
    let (src, dst) = ("198.18.0.2:4000", "198.18.0.100:80");
    let to = |mac, flags| Outcome::Sent(0, tcp((FRONT, mac), src, dst, 63, flags));
    assert_eq!(lab.handle(0, &from_client(4000, 80, SYN)), to(DR_1, SYN));
    assert_eq!(lab.handle(0, &from_client(4000, 80, SYN)), to(DR_1, SYN), "a retransmission");
    assert_eq!(lab.handle(0, &from_client(4000, 80, ACK)), to(DR_1, ACK));
    assert_eq!(lab.handle(0, &from_client(4000, 80, SYN)), to(DR_1, SYN), "not when established");
    assert_eq!(lab.handle(0, &from_client(4000, 80, RST)), to(DR_1, RST));
    let old = lab.find(Protocol::Tcp, src, dst).unwrap();
    let incarnation = old.incarnation();
    assert_eq!(old.state(), State::Close);
    lab.log.take();
    assert_eq!(lab.handle(0, &from_client(4000, 80, SYN)), to(DR_2, SYN), "scheduled anew");
    let new = lab.find(Protocol::Tcp, src, dst).unwrap();
    assert!(old.is_dead() && new.incarnation() > incarnation);
    assert_eq!(
        lab.log.take(),
        ["removed 4000 Reused", "created 4000 server 12", "forwarded 4000 NONE>SYN_RECV 1"]
    );
    // The same at a node that does not hold the group: the holder decides.
    assert_eq!(lab.handle(0, &from_client(4000, 80, ACK)), to(DR_2, ACK));
    assert_eq!(lab.handle(0, &from_client(4000, 80, RST)), to(DR_2, RST));
    assert_eq!(lab.handle(0, &from_client(4000, 80, ACK)), to(DR_2, ACK), "CLOSE stays CLOSE");
    lab.set_role(Role::Other { relay: vec![Some(PEER)] });
    let relayed = Outcome::Sent(0, tcp((FRONT, PEER), src, dst, 64, SYN));
    assert_eq!(lab.handle(0, &from_client(4000, 80, SYN)), relayed);
}

#[test]
fn nothing_goes_to_a_removed_server() {
    let mut lab = Lab::new();
    lab.handle(0, &from_client(4000, 80, SYN));
    lab.handle(0, &from_client(4000, 80, ACK));
    let mut spec = config_spec(2);
    spec.services[0].servers.retain(|server| server.id.0 != 11);
    spec.services[0].policies.on_server_gone = OnServerGone::Drop;
    lab.set_config(spec);
    let ack = from_client(4000, 80, ACK);
    assert_eq!(lab.handle(0, &ack), dropped(Reason::ServerRemoved), "cached or not");
    lab.set_config(config_spec(3));
    let (src, dst) = ("198.18.0.2:4000", "198.18.0.100:80");
    let to = |mac, flags| Outcome::Sent(0, tcp((FRONT, mac), src, dst, 63, flags));
    assert_eq!(lab.handle(0, &ack), to(DR_1, ACK), "it came back");
    let mut spec = config_spec(4);
    spec.services[0].servers.retain(|server| server.id.0 != 11);
    lab.set_config(spec);
    assert_eq!(lab.handle(0, &from_client(4000, 80, SYN)), to(DR_2, SYN), "a SYN starts anew");
}

#[test]
fn a_server_that_is_down_keeps_its_connections_and_gets_no_new_ones() {
    let mut lab = Lab::new();
    lab.handle(0, &from_client(4000, 80, SYN));
    let mut spec = config_spec(2);
    spec.services[0].servers[1].up = false;
    lab.set_config(spec);
    let to = |mac, port: u16, flags| {
        let src = format!("198.18.0.2:{port}");
        Outcome::Sent(0, tcp((FRONT, mac), &src, "198.18.0.100:80", 63, flags))
    };
    assert_eq!(lab.handle(0, &from_client(4000, 80, ACK)), to(DR_1, 4000, ACK));
    for port in 4001..4004 {
        assert_eq!(lab.handle(0, &from_client(port, 80, SYN)), to(DR_2, port, SYN));
    }
}

#[test]
fn a_full_table_gives_up_half_open_then_closing_never_established() {
    let mut lab = Lab::bounded(config_spec(1), 3, 1);
    lab.handle(0, &from_client(1, 80, SYN));
    lab.handle(0, &from_client(1, 80, ACK)); // established
    lab.handle(0, &from_client(2, 80, SYN));
    lab.handle(0, &from_client(2, 80, ACK));
    lab.handle(0, &from_client(2, 80, RST)); // closing
    lab.handle(0, &from_client(3, 80, SYN)); // half-open
    lab.log.take();
    let sent = |outcome| matches!(outcome, Outcome::Sent(..));
    assert!(sent(lab.handle(0, &from_client(4, 80, SYN))));
    assert_eq!(lab.log.take()[..2], ["removed 3 Evicted", "created 4 server 12"]);
    assert!(sent(lab.handle(0, &from_client(4, 80, ACK)))); // established
    lab.log.take();
    assert!(sent(lab.handle(0, &from_client(5, 80, SYN))));
    assert_eq!(lab.log.take()[0], "created 5 server 11");
    assert!(sent(lab.handle(0, &from_client(5, 80, ACK)))); // established: the table is full of them
    assert_eq!(lab.log.take()[0], "removed 2 Evicted");
    assert_eq!(lab.handle(0, &from_client(6, 80, SYN)), dropped(Reason::TableFull));
    assert!(sent(lab.handle(0, &from_client(1, 80, ACK))), "the old ones go on");
}

#[test]
fn two_vips_cannot_share_a_servers_port_and_a_finished_one_gives_way() {
    let mut spec = config_spec(1);
    spec.services.push(service(6, Protocol::Tcp, 9090, vec![server(61, "198.18.1.21", 80)]));
    let mut lab = Lab::with(spec, 100);
    let sent = |outcome| matches!(outcome, Outcome::Sent(1, _));
    assert!(sent(lab.handle(0, &from_client(4000, 8080, SYN))));
    assert_eq!(lab.handle(0, &from_client(4000, 9090, SYN)), dropped(Reason::ReplyTaken));
    assert!(sent(lab.handle(0, &from_client(4000, 8080, ACK))));
    assert!(sent(lab.handle(0, &from_client(4000, 8080, RST))));
    assert!(sent(lab.handle(0, &from_client(4000, 9090, SYN))), "the first is finished");
    assert_eq!(lab.shared.table.len(), 1);
}

#[test]
fn two_workers_share_a_nat_connection() {
    let mut lab = Lab::new();
    let (client, real) = ("198.18.0.2:4000", "198.18.1.21:80");
    lab.handle(0, &from_client(4000, 8080, SYN));
    let mut first = std::mem::replace(
        &mut lab.worker,
        steadfast_dataplane::Worker::new(1, lab.shared.clone(), lab.log.clone()),
    );
    let back = tcp((FRONT, CLIENT), "198.18.0.100:8080", client, 63, SYN_ACK);
    assert_eq!(
        lab.handle(1, &tcp((NAT_1, BACK), real, client, 64, SYN_ACK)),
        Outcome::Sent(0, back)
    );
    std::mem::swap(&mut first, &mut lab.worker);
    assert!(matches!(lab.handle(0, &from_client(4000, 8080, ACK)), Outcome::Sent(1, _)));
    assert_eq!(first.counters().sent(Sent::Returned), 1);
    assert_eq!(lab.worker.counters().sent(Sent::Forwarded), 2);
    let connection = lab.find(Protocol::Tcp, client, "198.18.0.100:8080").unwrap();
    assert_eq!(connection.workers(), (Some(0), Some(1)));
    assert_eq!((connection.in_pkts(), connection.out_pkts()), (2, 1));
    // A count that starts anew leaves the other alone.
    connection.set_in_pkts(u32::MAX.into());
    assert!(matches!(lab.handle(0, &from_client(4000, 8080, ACK)), Outcome::Sent(1, _)));
    assert_eq!((connection.in_pkts(), connection.out_pkts()), (0, 1));
    // A connection that is removed under a worker's cache is gone for both.
    lab.shared.table.remove(&connection.key(), connection.incarnation()).unwrap();
    assert_eq!(lab.handle(0, &from_client(4000, 8080, ACK)), reset(4000, 8080));
    std::mem::swap(&mut first, &mut lab.worker);
    let reply = tcp((NAT_1, BACK), real, client, 64, ACK);
    assert_eq!(lab.handle(1, &reply), dropped(Reason::UnknownReturn));
}

proptest::proptest! {
    /// Frames of a session, mangled: no panic, and each is counted once.
    #[test]
    fn mangled_frames_never_panic(
        changes in proptest::collection::vec(
            (0..6usize, 0..80usize, proptest::prelude::any::<u8>(), 0..80usize), 1..60,
        ),
    ) {
        let mut lab = Lab::new();
        let frames = [
            from_client(4000, 8080, SYN),
            from_client(4000, 8080, ACK),
            tcp((NAT_1, BACK), "198.18.1.21:80", "198.18.0.2:4000", 64, SYN_ACK),
            udp((CLIENT, FRONT), "198.18.0.2:4000", "198.18.0.100:53", 64),
            arp_request([198, 18, 0, 100], BROADCAST),
            echo((CLIENT, FRONT), [198, 18, 0, 2], [198, 18, 0, 100], false),
        ];
        let count = changes.len() as u64;
        for (frame, at, value, cut) in changes {
            let mut frame = frames[frame].clone();
            let at = at.min(frame.len() - 1);
            frame[at] = value;
            if cut > 40 {
                frame.truncate(cut);
            }
            if frame.len() >= 34 && frame[12..15] == [8, 0, 0x45] {
                // A right header checksum lets more of them through to the inner parts.
                frame[24..26].fill(0);
                let sum = steadfast_packet::internet_checksum(0, &frame[14..34]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            lab.handle((cut % 3) as u16, &frame);
        }
        let counters = lab.worker.counters();
        let sent = [Sent::Forwarded, Sent::Returned, Sent::Relayed, Sent::Answered];
        let sent: u64 = sent.iter().map(|kind| counters.sent(*kind)).sum();
        let dropped: u64 = Reason::ALL.iter().map(|reason| counters.dropped(*reason)).sum();
        proptest::prop_assert_eq!((counters.received(), sent + dropped), (count, count));
    }
}

/// Frames of a burst are what the driver saw in shared memory: what was prepared is a hint.
#[test]
fn what_was_prepared_never_decides_where_a_packet_goes() {
    let answer = |flags| tcp((NAT_1, BACK), "198.18.1.21:80", "198.18.0.2:4001", 64, flags);
    let burst = [
        (0, from_client(4000, 80, SYN)),
        (0, from_client(4001, 8080, SYN)),
        (1, answer(SYN_ACK)),
        (0, from_client(4002, 80, SYN)),
        (0, from_client(4000, 80, ACK)),
        (0, vec![0; 20]),
        (0, from_client(4001, 8080, ACK)),
        (0, from_client(4002, 80, ACK)),
        (0, from_client(4003, 80, ACK)),
    ];
    let frames: Vec<&[u8]> = burst.iter().map(|(_, frame)| &frame[..]).collect();
    let mut backwards = frames.clone();
    backwards.reverse();
    let same = vec![frames[4]; 64];
    let mut first = None;
    for prepared in [&[][..], &frames[..], &backwards[..], &frames[1..], &same[..]] {
        let mut lab = Lab { prepares: false, ..Lab::new() };
        let mut outcomes = Vec::new();
        for _ in 0..3 {
            lab.worker.prepare(prepared.iter().copied());
            outcomes.extend(burst.iter().map(|(port, frame)| lab.handle(*port, frame)));
        }
        let seen = (outcomes, lab.log.take());
        assert_eq!(first.get_or_insert_with(|| seen.clone()), &seen, "{} prepared", prepared.len());
    }
}
