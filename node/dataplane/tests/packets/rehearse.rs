//! Rehearsals: they tell what would happen and change nothing. That they tell the truth for a million
//! packets is shown by the comparison with the model.

use crate::lab::*;
use steadfast_dataplane::{
    ConfigSpec, Forwarding, Protocol, Question, Reason, Removal, Role, SchedulerKind, Sent,
    ServiceSpec, State, Step, Verdict,
};

#[test]
fn a_rehearsal_takes_no_turn_and_counts_nothing() {
    let mut lab = Lab::new();
    let before = lab.shared.config.load_full();
    let syn = from_client(4000, 80, SYN);
    let first = lab.shared.rehearse(lab.now, 0, &syn);
    for _ in 0..5 {
        let again = lab.shared.rehearse(lab.now, 0, &syn);
        assert_eq!(again, first, "the turn of `rr` did not move");
    }
    assert_eq!(first.sent, Some(Sent::Forwarded));
    assert!(lab.shared.table.is_empty() && lab.log.take().is_empty());
    let service = before.services().find(|service| service.spec.id.0 == 1).unwrap();
    assert_eq!(service.totals().conns, 0);
    let server = first.opened.unwrap().server;
    assert_eq!(service.spec.servers[0].id, server);
    // And then it happens.
    let Outcome::Sent(port, frame) = lab.handle(0, &syn) else { panic!() };
    assert!(matches!(first.verdict, Verdict::Transmit { port: told, .. } if told == port));
    assert_eq!(first.frame, frame);
    let connection = lab.find(Protocol::Tcp, "198.18.0.2:4000", "198.18.0.100:80").unwrap();
    assert_eq!(connection.server(), server);
    // The next packet of it, without the state moving.
    let told = lab.shared.rehearse(lab.now, 0, &from_client(4000, 80, ACK));
    let met = told.met.unwrap();
    assert_eq!((met.connection.clone(), met.next), (connection, State::Established));
    assert_ne!(met.connection.state(), State::Established);
    assert_eq!(met.connection.in_pkts(), 1);
}

#[test]
fn a_full_table_is_told() {
    let mut lab = Lab::bounded(config_spec(1), 2, 8);
    for port in [1, 2] {
        lab.handle(0, &from_client(port, 80, SYN));
        lab.handle(0, &from_client(port, 80, ACK));
    }
    let full = Verdict::Drop(Reason::TableFull);
    let syn = from_client(3, 80, SYN);
    assert_eq!(lab.shared.rehearse(lab.now, 0, &syn).verdict, full);
    assert_eq!(lab.handle(0, &syn), dropped(Reason::TableFull));
    // One that ends gives way.
    lab.handle(0, &from_client(1, 80, RST));
    assert_eq!(lab.shared.rehearse(lab.now, 0, &syn).sent, Some(Sent::Forwarded));
    assert!(matches!(lab.handle(0, &syn), Outcome::Sent(..)));
}

#[test]
fn every_stateful_scheduler_is_copied() {
    use SchedulerKind::*;
    for scheduler in [Rr, Wrr, Lc, Wlc, Sed, Nq, Fo, Ovf, Twos, Lblc, Lblcr] {
        let mut spec = config_spec(1);
        spec.services[0].scheduler = scheduler;
        for server in &mut spec.services[0].servers {
            server.weight = 3;
        }
        let mut lab = Lab::with(spec, 1000);
        for port in 4000..4040 {
            let syn = from_client(port, 80, SYN);
            let told = lab.shared.rehearse(lab.now, 0, &syn).opened.map(|record| record.server);
            assert!(matches!(lab.handle(0, &syn), Outcome::Sent(..)));
            let client = format!("198.18.0.2:{port}");
            let chosen = lab.find(Protocol::Tcp, &client, "198.18.0.100:80");
            let chosen = chosen.map(|connection| connection.server());
            assert!(chosen.is_some() || scheduler == Ovf, "{scheduler:?}: nobody is full");
            assert_eq!(told, chosen, "{scheduler:?}, connection {port}");
        }
    }
}

#[test]
fn an_init_to_a_port_without_a_service_is_answered() {
    let lab = Lab::new();
    let [client, vip] = ["198.18.0.2:4000", "198.18.0.100:9"].map(|addr| addr.parse().unwrap());
    let question = Question { protocol: Protocol::Sctp, src: client, dst: vip, step: Step::Open };
    let told = lab.shared.rehearse(lab.now, 0, &question.frame(CLIENT, FRONT).unwrap());
    assert!(matches!(told.verdict, Verdict::Transmit { .. }), "no ABORT: {:?}", told.verdict);
}

#[test]
fn a_connection_in_the_way_is_seen() {
    // Two services on the same NAT server: a client's port can be used with one of them only.
    let mut spec = config_spec(1);
    let other = service(9, Protocol::Tcp, 8081, vec![server(91, "198.18.1.21", 80)]);
    spec.services.push(ServiceSpec { forwarding: Forwarding::Nat, ..other });
    let mut lab = Lab::with(ConfigSpec { ..spec }, 1000);
    assert!(matches!(lab.handle(0, &from_client(4000, 8080, SYN)), Outcome::Sent(..)));
    let syn = from_client(4000, 8081, SYN);
    let told = lab.shared.rehearse(lab.now, 0, &syn);
    assert_eq!(told.verdict, Verdict::Drop(Reason::ReplyTaken));
    // A finished one gives way.
    for flags in [ACK, RST] {
        assert!(matches!(lab.handle(0, &from_client(4000, 8080, flags)), Outcome::Sent(..)));
    }
    let told = lab.shared.rehearse(lab.now, 0, &syn);
    assert_eq!(told.sent, Some(Sent::Forwarded));
    let removed: Vec<_> =
        told.removed.iter().map(|(gone, why)| (gone.key.vip_port, *why)).collect();
    assert_eq!(removed, [(8080, Removal::Reused)]);
    assert_eq!(lab.shared.table.len(), 1, "it only would");
}

#[test]
fn a_node_that_stands_by_hands_on() {
    let lab = Lab::new();
    lab.set_role(Role::Other { relay: vec![Some(PEER), None] });
    let told = lab.shared.rehearse(lab.now, 0, &from_client(4000, 80, SYN));
    assert_eq!((told.sent, &told.frame[..6]), (Some(Sent::Relayed), &PEER[..]));
    lab.set_role(Role::NoHolder { since_ns: 0 });
    let told = lab.shared.rehearse(lab.now, 0, &from_client(4000, 80, SYN));
    assert_eq!(told.verdict, Verdict::Drop(Reason::NoHolder));
    let told = lab.shared.rehearse(lab.now, 0, &[1, 2, 3]);
    assert_eq!(told.verdict, Verdict::Drop(Reason::Malformed));
}

#[test]
fn a_question_becomes_a_packet_that_others_can_read() {
    for (src, dst) in
        [("198.18.0.2:4000", "198.18.0.100:80"), ("[2001:db8::2]:4000", "[2001:db8::100]:80")]
    {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        for (step, flags) in [
            (Step::Open, (true, false, false, false)),
            (Step::Data, (false, true, false, false)),
            (Step::Close, (false, true, true, false)),
            (Step::Reset, (false, false, false, true)),
        ] {
            let question = Question { protocol: Protocol::Tcp, src, dst, step };
            let frame = question.frame(CLIENT, FRONT).unwrap();
            let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!() };
            assert_eq!((tcp.syn(), tcp.ack(), tcp.fin(), tcp.rst()), flags);
            assert_eq!((tcp.source_port(), tcp.destination_port()), (4000, 80));
            let sum = match sliced.net.unwrap() {
                etherparse::NetSlice::Ipv4(ip) => {
                    let header = ip.header().to_header();
                    assert_eq!(header.header_checksum, header.calc_header_checksum());
                    tcp.calc_checksum_ipv4(header.source, header.destination).unwrap()
                }
                etherparse::NetSlice::Ipv6(ip) => {
                    let header = ip.header().to_header();
                    tcp.calc_checksum_ipv6(header.source, header.destination).unwrap()
                }
                _ => panic!(),
            };
            assert_eq!(tcp.checksum(), sum);
        }
        let question = Question { protocol: Protocol::Udp, src, dst, step: Step::Open };
        let frame = question.frame(CLIENT, FRONT).unwrap();
        let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::TransportSlice::Udp(udp)) = sliced.transport else { panic!() };
        let sum = match sliced.net.unwrap() {
            etherparse::NetSlice::Ipv4(ip) => {
                udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap()
            }
            etherparse::NetSlice::Ipv6(ip) => {
                udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap()
            }
            _ => panic!(),
        };
        assert_eq!(udp.checksum(), sum);
        for step in [Step::Open, Step::Data, Step::Close, Step::Reset] {
            let question = Question { protocol: Protocol::Sctp, src, dst, step };
            let frame = question.frame(CLIENT, FRONT).unwrap();
            let at = if src.is_ipv4() { 34 } else { 54 };
            let mut packet = frame[at..].to_vec();
            let sum = u32::from_le_bytes(packet[8..12].try_into().unwrap());
            packet[8..12].fill(0);
            assert_eq!(steadfast_packet::crc32c(&packet), sum, "{step:?}");
            let parsed = steadfast_packet::parse(&frame).unwrap();
            assert!(matches!(parsed.content, steadfast_packet::Content::Ip(_)), "{step:?}");
        }
    }
    let mixed = Question {
        protocol: Protocol::Tcp,
        src: "198.18.0.2:1".parse().unwrap(),
        dst: "[2001:db8::1]:2".parse().unwrap(),
        step: Step::Open,
    };
    assert_eq!(mixed.frame(CLIENT, FRONT), None);
}
