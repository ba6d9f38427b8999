//! What becomes of packets, line by line: every way of forwarding, each protocol, both families.
//!
//! The lines of a table are of one node, one after the other: it has the group, and nothing has
//! happened before the first. `notation.rs` says how to read them.

mod notation;
mod world;

use notation::Notation;
use steadfast_dataplane::{NextHops, Role};
use world::{addresses, next_hops, spec};

use crate::{
    both::{NETS, Net},
    lab::{Lab, PEER},
};

/// What is said of a packet, the packet, and what leaves.
type Line = (&'static str, &'static str, &'static str);

/// Runs the lines on a node of their own for each family.
fn holds(role: Option<Role>, lines: &[Line]) {
    for net in NETS {
        let mut lab = Lab::with(spec(), 1000);
        lab.shared.set_next_hops(NextHops::new(next_hops()));
        if let Some(role) = &role {
            lab.set_role(role.clone());
        }
        each(&mut lab, net, lines);
    }
}

fn each(lab: &mut Lab, net: Net, lines: &[Line]) {
    let mut notation = Notation::new(net, &addresses(net.name == "IPv6"));
    let mut wrong = Vec::new();
    for (description, received, expected) in lines {
        let (port, frame) = notation.frame(received);
        let told = notation.told(&lab.handle(port, &frame));
        if told != *expected {
            wrong.push(format!(
                "{description}\n  in        {received}\n  expected  {expected}\n  was       {told}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", net.name, wrong.join("\n"));
}

#[test]
fn by_direct_routing() {
    holds(
        None,
        &[
            (
                "a SYN goes to the server as it is, one hop further",
                "front tcp client:4000 > vip:80 S",
                "front>dr tcp client:4000 > vip:80 S ttl=63",
            ),
            (
                "what follows goes there too",
                "front tcp client:4000 > vip:80 A",
                "front>dr tcp client:4000 > vip:80 A ttl=63",
            ),
            (
                "and the end",
                "front tcp client:4000 > vip:80 FA",
                "front>dr tcp client:4000 > vip:80 FA ttl=63",
            ),
            (
                "a datagram",
                "front udp client:4000 > vip:80",
                "front>dr udp client:4000 > vip:80 ttl=63",
            ),
            (
                "an INIT",
                "front sctp client:4000 > vip:80",
                "front>dr sctp client:4000 > vip:80 ttl=63",
            ),
            (
                "what belongs to no connection is refused",
                "front tcp client:4001 > vip:80 A",
                "front>client tcp vip:80 > client:4001 R ttl=64",
            ),
            (
                "a RST of no connection is not answered",
                "front tcp client:4001 > vip:80 R",
                "dropped: unknown_reset",
            ),
            (
                "on its last hop a packet ends here, and its sender hears of it",
                "front tcp client:4000 > vip:80 A ttl=1",
                "front>client time-exceeded node > client of tcp client:4000 > vip:80 ttl=64",
            ),
            (
                "an error about an answer is for the server",
                "front<router port-unreachable router > vip of udp vip:80 > client:4000",
                "front>dr port-unreachable router > vip of udp vip:80 > client:4000 ttl=63",
            ),
            (
                "one about no connection is nobody's",
                "front<router port-unreachable router > vip of udp vip:80 > client:4009",
                "dropped: icmp_unknown",
            ),
        ],
    );
}

#[test]
fn where_packets_do_not_fit() {
    holds(
        None,
        &[
            (
                "a SYN to a server behind a smaller MTU",
                "front tcp client:4000 > vip:81 S",
                "front>narrow tcp client:4000 > vip:81 S ttl=63",
            ),
            (
                "a segment that fits",
                "front tcp client:4000 > vip:81 PA len=1240",
                "front>narrow tcp client:4000 > vip:81 PA ttl=63",
            ),
            (
                "one that does not: its sender hears of it",
                "front tcp client:4000 > vip:81 PA len=1261",
                "front>client too-big vip > client of tcp client:4000 > vip:81 ttl=64",
            ),
        ],
    );
}

#[test]
fn on_a_vlan() {
    holds(
        None,
        &[
            (
                "a server on a VLAN gets its tag",
                "front tcp client:4000 > vip:8082 S",
                "front.7>tagged tcp client:4000 > tagged:8083 S ttl=63",
            ),
            (
                "its answer loses it",
                "front.7 tcp tagged:8083 > client:4000 SA",
                "front>client tcp vip:8082 > client:4000 SA ttl=63",
            ),
            (
                "a client on the VLAN gets in, too",
                "front.7<tagged tcp far:4000 > vip:80 S",
                "front>dr tcp far:4000 > vip:80 S ttl=63",
            ),
            (
                "a VLAN that no segment is on",
                "front.8<client tcp client:4001 > vip:80 S",
                "dropped: vlan",
            ),
        ],
    );
}

#[test]
fn in_one_segment() {
    holds(
        None,
        &[
            (
                "NAT to a server in the segment that the packet came from",
                "front tcp far:4000 > vip:8084 S",
                "front>arm tcp far:4000 > arm:8085 S ttl=63",
            ),
            (
                "its answer comes by the same interface",
                "front tcp arm:8085 > far:4000 SA",
                "front>router tcp vip:8084 > far:4000 SA ttl=63",
            ),
        ],
    );
}

#[test]
fn in_parts() {
    holds(
        None,
        &[
            (
                "DR: the first part decides",
                "front udp client:4000 > vip:80 first",
                "front>dr udp client:4000 > vip:80 first ttl=63",
            ),
            (
                "the others follow it",
                "front udp client:4000 > vip:80 last",
                "front>dr udp client > vip last ttl=63",
            ),
            (
                "NAT: the first part",
                "front udp client:4001 > vip:8080 first id=2",
                "back>nat udp client:4001 > nat:8081 first ttl=63",
            ),
            (
                "the others have no ports, and go to the same server",
                "front udp client:4001 > vip:8080 last id=2",
                "back>nat udp client > nat last ttl=63",
            ),
            (
                "an answer in parts",
                "back udp nat:8081 > client:4001 first id=3",
                "front>client udp vip:8080 > client:4001 first ttl=63",
            ),
            (
                "its rest",
                "back udp nat:8081 > client:4001 last id=3",
                "front>client udp vip > client last ttl=63",
            ),
            (
                "a tunnel",
                "front udp client:4002 > vip:90 first id=4",
                "front>router ipip node > tun ttl=63 | udp client:4002 > vip:90 first ttl=63",
            ),
            (
                "its rest",
                "front udp client:4002 > vip:90 last id=4",
                "front>router ipip node > tun ttl=63 | udp client > vip last ttl=63",
            ),
            (
                "a later part before its first one waits",
                "front udp client:4003 > vip:80 last id=5",
                "dropped: fragment_early",
            ),
        ],
    );
}

#[test]
fn one_by_one() {
    holds(
        None,
        &[
            (
                "one-packet scheduling: a datagram",
                "front udp client:4000 > vip:8086",
                "front>arm udp client:4000 > arm:8087 ttl=63",
            ),
            (
                "the next one of the same port goes to the next server",
                "front udp client:4000 > vip:8086",
                "back>nat udp client:4000 > nat:8087 ttl=63",
            ),
            (
                "an answer comes from the VIP",
                "back udp nat:8087 > client:4000",
                "front>client udp vip:8086 > client:4000 ttl=63",
            ),
        ],
    );
}

#[test]
fn with_the_clients_address() {
    holds(
        None,
        &[
            (
                "TOA: the SYN has the option",
                "front tcp client:4000 > vip:9092 S",
                "back>nat tcp local:* > nat:9093 S toa=client:4000 ttl=63",
            ),
            (
                "and what the client sends then",
                "front tcp client:4000 > vip:9092 PA",
                "back>nat tcp local:* > nat:9093 PA toa=client:4000 ttl=63",
            ),
            (
                "the answer has none",
                "back tcp nat:9093 > local:* SA",
                "front>client tcp vip:9092 > client:4000 SA ttl=63",
            ),
            (
                "PROXY: the SYN goes without the header",
                "front tcp client:4000 > vip:8088 S seq=1000",
                "back>nat tcp client:4000 > nat:8089 S ttl=63",
            ),
            (
                "the server's answer too",
                "back tcp nat:8089 > client:4000 SA seq=1999 ack=1001",
                "front>client tcp vip:8088 > client:4000 SA ttl=63",
            ),
            (
                "the ACK of the handshake brings it",
                "front tcp client:4000 > vip:8088 A seq=1001 ack=2000 len=0",
                "back>nat tcp client:4000 > nat:8089 A proxy=client:4000>vip:8088 ttl=63",
            ),
            (
                "and so do the first data while the server has not acknowledged it",
                "front tcp client:4000 > vip:8088 PA seq=1001 ack=2000",
                "back>nat tcp client:4000 > nat:8089 PA proxy=client:4000>vip:8088 ttl=63",
            ),
            (
                "what follows has none",
                "front tcp client:4000 > vip:8088 PA seq=1008 ack=2000",
                "back>nat tcp client:4000 > nat:8089 PA ttl=63",
            ),
        ],
    );
}

#[test]
fn by_nat() {
    holds(
        None,
        &[
            (
                "a SYN goes to the server's address and port",
                "front tcp client:4000 > vip:8080 S",
                "back>nat tcp client:4000 > nat:8081 S ttl=63",
            ),
            (
                "its answer comes from the VIP",
                "back tcp nat:8081 > client:4000 SA",
                "front>client tcp vip:8080 > client:4000 SA ttl=63",
            ),
            (
                "data in",
                "front tcp client:4000 > vip:8080 PA",
                "back>nat tcp client:4000 > nat:8081 PA ttl=63",
            ),
            (
                "data out",
                "back tcp nat:8081 > client:4000 PA",
                "front>client tcp vip:8080 > client:4000 PA ttl=63",
            ),
            (
                "a datagram in",
                "front udp client:4000 > vip:8080",
                "back>nat udp client:4000 > nat:8081 ttl=63",
            ),
            (
                "and out",
                "back udp nat:8081 > client:4000",
                "front>client udp vip:8080 > client:4000 ttl=63",
            ),
            (
                "an INIT",
                "front sctp client:4000 > vip:8080",
                "back>nat sctp client:4000 > nat:8081 ttl=63",
            ),
            (
                "and back",
                "back sctp nat:8081 > client:4000",
                "front>client sctp vip:8080 > client:4000 ttl=63",
            ),
            (
                "what a server sends to whom it has no connection with is none of ours",
                "back tcp nat:8081 > client:4005 PA",
                "dropped: unknown_return",
            ),
            (
                "an error about an answer goes to the server, in its terms",
                "front<router port-unreachable router > vip of udp vip:8080 > client:4000",
                "back>nat port-unreachable router > nat of udp nat:8081 > client:4000 ttl=63",
            ),
            (
                "a server's error goes to the client, in its terms",
                "back port-unreachable nat > client of udp client:4000 > nat:8081",
                "front>client port-unreachable vip > client of udp client:4000 > vip:8080 ttl=63",
            ),
            (
                "packet too big",
                "front<router too-big router > vip of tcp vip:8080 > client:4000",
                "back>nat too-big router > nat of tcp nat:8081 > client:4000 ttl=63",
            ),
            (
                "on its last hop an answer ends here; without an own address there, the VIP says so",
                "back tcp nat:8081 > client:4000 PA ttl=1",
                "back>nat time-exceeded vip > nat of tcp nat:8081 > client:4000 ttl=64",
            ),
        ],
    );
}

#[test]
fn by_full_nat() {
    holds(
        None,
        &[
            (
                "a SYN comes from a local address",
                "front tcp client:4000 > vip:9090 S",
                "back>nat tcp local:* > nat:9091 S ttl=63",
            ),
            (
                "its answer goes to the client, from the VIP",
                "back tcp nat:9091 > local:* SA",
                "front>client tcp vip:9090 > client:4000 SA ttl=63",
            ),
            (
                "data in",
                "front tcp client:4000 > vip:9090 PA",
                "back>nat tcp local:* > nat:9091 PA ttl=63",
            ),
            (
                "data out",
                "back tcp nat:9091 > local:* PA",
                "front>client tcp vip:9090 > client:4000 PA ttl=63",
            ),
            (
                "a datagram in",
                "front udp client:4000 > vip:9090",
                "back>nat udp local:* > nat:9091 ttl=63",
            ),
            (
                "and out",
                "back udp nat:9091 > local:*",
                "front>client udp vip:9090 > client:4000 ttl=63",
            ),
            (
                "a server's error, in the client's terms",
                "back port-unreachable nat > local of udp local:* > nat:9091",
                "front>client port-unreachable vip > client of udp client:4000 > vip:9090 ttl=63",
            ),
            (
                "an error about an answer, in the server's terms",
                "front<router port-unreachable router > vip of udp vip:9090 > client:4000",
                "back>nat port-unreachable local > nat of udp nat:9091 > local:* ttl=63",
            ),
            (
                "an INIT",
                "front sctp client:4000 > vip:9090",
                "back>nat sctp local:* > nat:9091 ttl=63",
            ),
            (
                "and back",
                "back sctp nat:9091 > local:*",
                "front>client sctp vip:9090 > client:4000 ttl=63",
            ),
        ],
    );
}

#[test]
fn by_tunnels() {
    holds(
        None,
        &[
            (
                "IPIP",
                "front tcp client:4000 > vip:90 S",
                "front>router ipip node > tun ttl=63 | tcp client:4000 > vip:90 S ttl=63",
            ),
            (
                "what follows takes the same way",
                "front tcp client:4000 > vip:90 A",
                "front>router ipip node > tun ttl=63 | tcp client:4000 > vip:90 A ttl=63",
            ),
            (
                "GUE",
                "front tcp client:4000 > vip:91 S",
                "front>router gue node > tun:6080 ttl=63 | tcp client:4000 > vip:91 S ttl=63",
            ),
            (
                "GRE",
                "front tcp client:4000 > vip:92 S",
                "front>router gre+sum node > tun ttl=63 | tcp client:4000 > vip:92 S ttl=63",
            ),
            (
                "GRE without checksum",
                "front tcp client:4000 > vip:93 S",
                "front>router gre node > tun ttl=63 | tcp client:4000 > vip:93 S ttl=63",
            ),
            (
                "GUE of the other family",
                "front tcp client:4000 > vip:96 S",
                "front>router gue node-other > tun-other:6080 ttl=63 | tcp client:4000 > vip:96 S ttl=63",
            ),
            (
                "GRE of the other family",
                "front tcp client:4000 > vip:97 S",
                "front>router gre+sum node-other > tun-other ttl=63 | tcp client:4000 > vip:97 S ttl=63",
            ),
            (
                "a packet that does not fit with the outer header: its sender hears of it",
                "front tcp client:4000 > vip:90 A len=1441",
                "front>client too-big vip > client of tcp client:4000 > vip:90 ttl=64",
            ),
            (
                "IPIP of the other family",
                "front tcp client:4000 > vip:95 S",
                "front>router ipip node-other > tun-other ttl=63 | tcp client:4000 > vip:95 S ttl=63",
            ),
            (
                "datagrams",
                "front udp client:4000 > vip:90",
                "front>router ipip node > tun ttl=63 | udp client:4000 > vip:90 ttl=63",
            ),
            (
                "by GUE",
                "front udp client:4000 > vip:91",
                "front>router gue node > tun:6080 ttl=63 | udp client:4000 > vip:91 ttl=63",
            ),
            (
                "by GRE",
                "front udp client:4000 > vip:92",
                "front>router gre+sum node > tun ttl=63 | udp client:4000 > vip:92 ttl=63",
            ),
            (
                "associations",
                "front sctp client:4000 > vip:90",
                "front>router ipip node > tun ttl=63 | sctp client:4000 > vip:90 ttl=63",
            ),
            (
                "an error about an answer goes through the tunnel",
                "front<router port-unreachable router > vip of udp vip:90 > client:4000",
                "front>router ipip node > tun ttl=63 | port-unreachable router > vip of udp vip:90 > client:4000 ttl=63",
            ),
            (
                "on its last hop a packet ends here, and its sender hears of it",
                "front udp client:4000 > vip:90 ttl=1",
                "front>client time-exceeded node > client of udp client:4000 > vip:90 ttl=64",
            ),
        ],
    );
}

#[test]
fn without_a_server_or_a_service() {
    holds(
        None,
        &[
            (
                "nobody serves: refused",
                "front tcp client:4000 > vip:82 S",
                "front>client tcp vip:82 > client:4000 RA ttl=64",
            ),
            (
                "a datagram too",
                "front udp client:4000 > vip:82",
                "front>client port-unreachable vip > client of udp client:4000 > vip:82 ttl=64",
            ),
            (
                "an INIT too",
                "front sctp client:4000 > vip:82",
                "front>client sctp vip:82 > client:4000 ABORT ttl=64",
            ),
            (
                "a port that nobody has",
                "front tcp client:4000 > vip:83 S",
                "front>client tcp vip:83 > client:4000 RA ttl=64",
            ),
            (
                "by UDP",
                "front udp client:4000 > vip:83",
                "front>client port-unreachable vip > client of udp client:4000 > vip:83 ttl=64",
            ),
            (
                "by SCTP",
                "front sctp client:4000 > vip:83",
                "front>client sctp vip:83 > client:4000 ABORT ttl=64",
            ),
            (
                "the VIP answers echo",
                "front echo client > vip",
                "front>client echo-reply vip > client ttl=64",
            ),
            (
                "who asks for another is none of ours",
                "front tcp client:4000 > dr:80 S",
                "dropped: not_ours",
            ),
        ],
    );
}

#[test]
fn by_who_does_not_hold_the_group() {
    let relay = vec![Some(PEER), Some(PEER)];
    holds(
        Some(Role::Other { relay }),
        &[
            (
                "what is for the VIP goes to the holder as it came",
                "front tcp client:4000 > vip:8080 S",
                "front>peer tcp client:4000 > vip:8080 S ttl=64",
            ),
            (
                "what the holder sent on does not go back",
                "front<peer tcp client:4000 > vip:8080 S",
                "dropped: relay_loop",
            ),
            (
                "so does an answer that came here",
                "back tcp nat:8081 > client:4000 SA",
                "back>peer tcp nat:8081 > client:4000 SA ttl=64",
            ),
        ],
    );
    holds(
        Some(Role::NoHolder { since_ns: 0 }),
        &[(
            "while nobody holds it nothing is opened",
            "front tcp client:4000 > vip:8080 S",
            "dropped: no_holder",
        )],
    );
}
