//! ICMP errors: whose they are, and how they are translated; a table for both families, both
//! forwarding methods, both protocols, both directions.

use std::net::IpAddr;

use crate::both::{error::Error, *};
use crate::lab::*;
use steadfast_dataplane::{ConfigSpec, Forwarding, Protocol, Reason, Role, Sent};

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// (description, type and code for IPv4, for IPv6)
const ERRORS: [(&str, [u8; 2], [u8; 2]); 4] = [
    ("port unreachable", [3, 3], [1, 4]),
    ("too big", [3, 4], [2, 0]),
    ("time exceeded", [11, 0], [3, 0]),
    ("parameter problem", [12, 0], [4, 0]),
];

fn kind(net: Net, (_, v4, v6): (&str, [u8; 2], [u8; 2])) -> [u8; 2] {
    if net.name == "IPv4" { v4 } else { v6 }
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Opens the client's connection to the VIP.
fn open(lab: &mut Lab, net: Net, protocol: Protocol, port: u16) {
    let between = (at(net.client, CLIENT_PORT), at(net.vip, port));
    let frame = framed((CLIENT, FRONT), &packet(protocol, between, 64, b"open"));
    assert!(matches!(lab.handle(0, &frame), Outcome::Sent(..)));
    lab.log.take();
}

/// An error from a router on the client's side, about a packet from the VIP.
fn to_vip(net: Net, protocol: Protocol, port: u16, kind: [u8; 2], quoted: usize) -> Error {
    let about = (protocol, at(net.vip, port), at(net.client, CLIENT_PORT));
    Error { src: addr(net.router), dst: addr(net.vip), ttl: 60, kind, about, quoted }
}

/// An error from a server's side, about a packet to it.
fn to_client(net: Net, protocol: Protocol, src: &str, kind: [u8; 2], quoted: usize) -> Error {
    let about = (protocol, at(net.client, CLIENT_PORT), at(net.nat, REAL_PORT));
    Error { src: addr(src), dst: addr(net.client), ttl: 60, kind, about, quoted }
}

#[test]
fn errors_from_the_clients_side_reach_the_server() {
    for net in NETS {
        for protocol in PROTOCOLS {
            for error in ERRORS {
                // Ports alone, what RFC 792 promises, up to the TCP checksum, everything.
                for quoted in [4, 8, 16, 18, 20, 500] {
                    let case = format!("{} {protocol} {} {quoted}", net.name, error.0);
                    let kind = kind(net, error);
                    let mut lab = lab();
                    open(&mut lab, net, protocol, DR_PORT);
                    open(&mut lab, net, protocol, NAT_PORT);

                    let received = to_vip(net, protocol, DR_PORT, kind, quoted);
                    let sent = Error { ttl: 59, ..received.clone() }.frame((FRONT, DR_1));
                    let outcome = lab.handle(0, &received.frame((CLIENT, FRONT)));
                    assert_eq!(outcome, Outcome::Sent(0, sent), "DR: as it is. {case}");

                    let received = to_vip(net, protocol, NAT_PORT, kind, quoted);
                    let real = at(net.nat, REAL_PORT);
                    let about = (protocol, real, at(net.client, CLIENT_PORT));
                    let sent = Error { dst: addr(net.nat), ttl: 59, about, ..received.clone() };
                    let sent = sent.frame((BACK, NAT_1));
                    let outcome = lab.handle(0, &received.frame((CLIENT, FRONT)));
                    assert_eq!(outcome, Outcome::Sent(1, sent), "NAT: as the server's. {case}");
                    assert!(lab.log.take().is_empty(), "no state moves. {case}");
                }
            }
        }
    }
}

#[test]
fn errors_from_the_servers_side_reach_the_client() {
    for net in NETS {
        for protocol in PROTOCOLS {
            for error in ERRORS {
                for quoted in [4, 8, 16, 18, 20, 500] {
                    for sender in [net.nat, net.router] {
                        let case = format!("{} {protocol} {} {quoted} {sender}", net.name, error.0);
                        let mut lab = lab();
                        open(&mut lab, net, protocol, NAT_PORT);
                        let received = to_client(net, protocol, sender, kind(net, error), quoted);
                        let vip = at(net.vip, NAT_PORT);
                        let about = (protocol, at(net.client, CLIENT_PORT), vip);
                        let sent = Error { src: vip.ip(), ttl: 59, about, ..received.clone() };
                        let sent = sent.frame((FRONT, CLIENT));
                        let outcome = lab.handle(1, &received.frame((NAT_1, BACK)));
                        assert_eq!(outcome, Outcome::Sent(0, sent), "{case}");
                        assert!(lab.log.take().is_empty(), "no state moves. {case}");
                    }
                }
            }
        }
    }
}

/// Neither time-outs nor counters of a connection know of errors.
#[test]
fn errors_are_rehearsed_as_they_are_handled() {
    for (net, protocol) in NETS.into_iter().flat_map(|net| PROTOCOLS.map(|of| (net, of))) {
        let kind = kind(net, ERRORS[0]);
        let mut lab = lab();
        open(&mut lab, net, protocol, NAT_PORT);
        let inwards = to_vip(net, protocol, NAT_PORT, kind, 20).frame((CLIENT, FRONT));
        let outwards = to_client(net, protocol, net.nat, kind, 20).frame((NAT_1, BACK));
        for (port, received) in [(0, inwards), (1, outwards)] {
            let told = lab.shared.rehearse(lab.now, port, &received);
            let Outcome::Sent(_, sent) = lab.handle(port, &received) else { panic!() };
            assert_eq!(told.frame, sent, "{} {protocol} from {port}", net.name);
            assert!(told.met.is_some());
        }
    }
}

#[test]
fn errors_keep_nothing_alive() {
    for net in NETS {
        let mut lab = lab();
        open(&mut lab, net, Protocol::Udp, NAT_PORT);
        let key = steadfast_dataplane::FlowKey {
            protocol: Protocol::Udp,
            client: addr(net.client),
            client_port: CLIENT_PORT,
            vip: addr(net.vip),
            vip_port: NAT_PORT,
        };
        let connection = lab.shared.table.find(&key).unwrap();
        let before = (connection.last_seen_ns(), connection.in_pkts());
        lab.now += 100 * SECOND;
        let kind = kind(net, ERRORS[0]);
        let there = to_vip(net, Protocol::Udp, NAT_PORT, kind, 8).frame((CLIENT, FRONT));
        let back = to_client(net, Protocol::Udp, net.nat, kind, 8).frame((NAT_1, BACK));
        for (port, frame) in [(0, &there), (1, &back)] {
            assert!(matches!(lab.handle(port, frame), Outcome::Sent(..)), "{}", net.name);
        }
        assert_eq!((connection.last_seen_ns(), connection.in_pkts()), before);
        assert_eq!(connection.out_pkts(), 0);
        assert!(!connection.is_assured(), "an error makes no conversation");
        let counters = lab.worker.counters();
        assert_eq!((counters.sent(Sent::Forwarded), counters.sent(Sent::Returned)), (2, 1));
    }
}

#[test]
fn what_is_no_error_of_ours_goes_nowhere() {
    for net in NETS {
        let mut lab = lab();
        let kind = kind(net, ERRORS[0]);
        open(&mut lab, net, Protocol::Udp, NAT_PORT);
        open(&mut lab, net, Protocol::Udp, DR_PORT);
        let of = |port| to_vip(net, Protocol::Udp, port, kind, 8);
        let client = |error: Error| error.frame((CLIENT, FRONT));
        let server = |error: Error| error.frame((NAT_1, BACK));
        let back = || to_client(net, Protocol::Udp, net.nat, kind, 8);
        let other_port = (Protocol::Udp, at(net.vip, NAT_PORT), at(net.client, 4001));
        let other_vip = (Protocol::Udp, at(net.nat, REAL_PORT), at(net.client, CLIENT_PORT));
        let of_tcp = (Protocol::Tcp, at(net.vip, NAT_PORT), at(net.client, CLIENT_PORT));
        let unpooled = (Protocol::Udp, at(net.client, CLIENT_PORT), at(net.nat, 9));
        let gateway = addr(net.gateway);
        let mut redirect = of(DR_PORT);
        redirect.kind = if net.name == "IPv4" { [5, 0] } else { [137, 0] };
        let unknown = || dropped(Reason::UnknownError);
        run(
            &mut lab,
            &[
                (
                    "another client port",
                    0,
                    client(Error { about: other_port, ..of(NAT_PORT) }),
                    unknown(),
                ),
                ("another protocol", 0, client(Error { about: of_tcp, ..of(NAT_PORT) }), unknown()),
                (
                    "a packet that another one sent",
                    0,
                    client(Error { about: other_vip, ..of(NAT_PORT) }),
                    dropped(Reason::Quote),
                ),
                (
                    "of a connection, but to a third",
                    1,
                    server(Error { dst: addr(net.router), ..back() }),
                    dropped(Reason::Quote),
                ),
                (
                    "to no pool",
                    1,
                    server(Error { about: unpooled, ..back() }),
                    dropped(Reason::NotOurs),
                ),
                (
                    "to a gateway address",
                    1,
                    server(Error { dst: gateway, ..back() }),
                    dropped(Reason::NotOurs),
                ),
                (
                    "two octets quoted",
                    0,
                    client(Error { quoted: 2, ..of(NAT_PORT) }),
                    dropped(Reason::Quote),
                ),
                ("a redirect", 0, client(redirect), dropped(Reason::Protocol)),
                (
                    "TTL 1",
                    0,
                    client(Error { ttl: 1, ..of(NAT_PORT) }),
                    dropped(Reason::TtlExceeded),
                ),
            ],
        );
        let returned = Error { about: (Protocol::Tcp, back().about.1, back().about.2), ..back() };
        assert_eq!(lab.handle(1, &server(returned)), unknown(), "{}", net.name);
    }
}

#[test]
fn unknown_errors_go_to_the_holder_once() {
    for net in NETS {
        let mut lab = lab();
        let kind = kind(net, ERRORS[1]);
        let there = to_vip(net, Protocol::Tcp, DR_PORT, kind, 20);
        let back = to_client(net, Protocol::Tcp, net.nat, kind, 20);
        let stale = |frame: &Error, from, own| frame.frame((from, own));
        lab.set_role(Role::Other { relay: vec![Some(PEER), Some(PEER)] });
        let relayed = |error: &Error, port, own| Outcome::Sent(port, error.frame((own, PEER)));
        run(
            &mut lab,
            &[
                ("to the VIP", 0, stale(&there, CLIENT, FRONT), relayed(&there, 0, FRONT)),
                ("to a client", 1, stale(&back, NAT_1, BACK), relayed(&back, 1, BACK)),
                ("relayed already", 0, stale(&there, PEER, FRONT), dropped(Reason::RelayLoop)),
                ("relayed back", 1, stale(&back, PEER, BACK), dropped(Reason::RelayLoop)),
            ],
        );
        lab.set_role(Role::NoHolder { since_ns: 0 });
        let outcome = lab.handle(0, &stale(&there, CLIENT, FRONT));
        assert_eq!(outcome, dropped(Reason::UnknownError), "{}", net.name);
        // A node that knows the connection needs no holder.
        lab.set_role(holder());
        open(&mut lab, net, Protocol::Tcp, DR_PORT);
        lab.set_role(Role::Other { relay: vec![Some(PEER), Some(PEER)] });
        let sent = Outcome::Sent(0, Error { ttl: 59, ..there.clone() }.frame((FRONT, DR_1)));
        assert_eq!(lab.handle(0, &stale(&there, CLIENT, FRONT)), sent, "{}", net.name);
    }
}

#[test]
fn no_error_goes_to_a_removed_server() {
    for net in NETS {
        let mut lab = lab();
        open(&mut lab, net, Protocol::Tcp, DR_PORT);
        let error = to_vip(net, Protocol::Tcp, DR_PORT, kind(net, ERRORS[1]), 20);
        let mut without: ConfigSpec = spec(2);
        for service in &mut without.services {
            if service.forwarding == Forwarding::Dr {
                service.servers.clear();
            }
        }
        lab.set_config(without);
        let outcome = lab.handle(0, &error.frame((CLIENT, FRONT)));
        assert_eq!(outcome, dropped(Reason::UnknownError), "{}", net.name);
    }
}

/// The client of one service is a server of another: the error goes by what it quotes.
#[test]
fn a_client_that_is_also_a_server_gets_its_errors() {
    for net in NETS {
        let mut lab = lab();
        // The real server of NAT is a client of the VIP by DR.
        let client = at(net.nat, 5000);
        let between = (client, at(net.vip, DR_PORT));
        let frame = framed((NAT_1, BACK), &packet(Protocol::Udp, between, 64, b"open"));
        assert!(matches!(lab.handle(1, &frame), Outcome::Sent(0, _)), "{}", net.name);
        let about = (Protocol::Udp, at(net.vip, DR_PORT), client);
        let kind = kind(net, ERRORS[0]);
        let (src, dst) = (client.ip(), addr(net.vip));
        let error = Error { src, dst, ttl: 60, kind, about, quoted: 8 };
        let sent = Outcome::Sent(0, Error { ttl: 59, ..error.clone() }.frame((FRONT, DR_1)));
        assert_eq!(lab.handle(1, &error.frame((NAT_1, BACK))), sent, "{}", net.name);
    }
}
