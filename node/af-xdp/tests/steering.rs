//! The steering program, packet by packet: description, packet in, verdict.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use af_xdp::{
    AddressRole, BindMode, Counters, Interface, NatSource, Socket, Steering, SteeringError, Umem,
    UmemConfig, boottime_ns,
    steering::{BPFFS, LOCAL_ADDRESSES_MAX, NAT_FRAGMENTS_MAX, VIPS_MAX},
};
use etherparse::{IpNumber, Ipv4Header, PacketBuilder};
use support::{CLIENT, CLIENT_MAC, Lab, arp, syn, udp};

const BROADCAST: [u8; 6] = [0xff; 6];
const VIRTUAL_MAC: [u8; 6] = [2, 0, 0x5e, 0, 1, 7];
const SOLICITED: [u8; 6] = [0x33, 0x33, 0xff, 0, 0, 1];
const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 100, 1);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 254);
const NODE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 80);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x80);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1);

/// What should become of a packet; the name is the counter that moves.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// To the kernel.
    Pass(&'static str),
    /// To the socket, or dropped when there is none.
    Take(&'static str),
    /// As `Take` while announcing, else dropped; the second name counts that.
    Announce(&'static str, &'static str),
}
use Verdict::{Announce, Pass, Take};

type Case = (&'static str, Vec<u8>, Verdict);

const PASS: Verdict = Pass("pass");
const VIP_TAKEN: Verdict = Take("vip");

fn arp_cases(own: [u8; 6]) -> Vec<Case> {
    let answered = Announce("arp", "arp_mute");
    let mut ipx = arp(BROADCAST, 1, CLIENT, VIP);
    ipx[16..18].copy_from_slice(&[0x81, 0x37]);
    let mut short = arp(BROADCAST, 1, CLIENT, VIP);
    short.truncate(40);
    vec![
        ("ARP request for a VIP, broadcast", arp(BROADCAST, 1, CLIENT, VIP), answered),
        ("ARP request for a VIP, unicast probe", arp(own, 1, CLIENT, VIP), answered),
        ("ARP request for a VIP to the virtual MAC", arp(VIRTUAL_MAC, 1, CLIENT, VIP), answered),
        ("ARP reply for a VIP", arp(own, 2, CLIENT, VIP), answered),
        ("gratuitous ARP of somebody else for a VIP", arp(BROADCAST, 1, VIP, VIP), answered),
        ("ARP request for a gateway address", arp(BROADCAST, 1, CLIENT, GATEWAY), answered),
        ("ARP request for the node's own address", arp(BROADCAST, 1, CLIENT, NODE), PASS),
        ("ARP request for a VIP to another MAC", arp(CLIENT_MAC, 1, CLIENT, VIP), OTHER),
        ("ARP for another protocol", ipx, PASS),
        ("ARP cut short", short, Pass("malformed")),
    ]
}
const OTHER: Verdict = Pass("other_mac");

/// An IPv4 packet of any protocol, with `words` of options.
fn ipv4(
    mac: [u8; 6],
    source: Ipv4Addr,
    target: Ipv4Addr,
    protocol: u8,
    words: usize,
    payload: &[u8],
) -> Vec<u8> {
    let mut header = Ipv4Header::new(
        payload.len() as u16,
        64,
        IpNumber(protocol),
        source.octets(),
        target.octets(),
    )
    .unwrap();
    header.options = [1u8; 40][..words * 4].try_into().unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut frame = Vec::new();
    frame.extend(mac);
    frame.extend(CLIENT_MAC);
    frame.extend([8, 0]);
    header.write(&mut frame).unwrap();
    frame.extend(payload);
    frame
}

fn ports(source: u16, target: u16) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(target.to_be_bytes());
    bytes.extend([0; 16]);
    bytes
}

fn vip_cases(own: [u8; 6]) -> Vec<Case> {
    let mut later_fragment = udp(own, VIP, 4000, &[0; 64]);
    later_fragment[20..22].copy_from_slice(&[0x00, 0xb9]);
    let mut first_fragment = udp(own, VIP, 4000, &[0; 64]);
    first_fragment[20..22].copy_from_slice(&[0x20, 0x00]);
    let mut odd_length = syn(own, VIP, 4000, 80);
    odd_length[14] = 0x43;
    let mut version_6 = syn(own, VIP, 4000, 80);
    version_6[14] = 0x65;
    let icmp = |target| ipv4(own, CLIENT, target, 1, 0, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    vec![
        ("TCP SYN to a VIP", syn(own, VIP, 4000, 80), VIP_TAKEN),
        ("TCP SYN to a VIP, ssh port", syn(own, VIP, 4000, 22), VIP_TAKEN),
        ("TCP SYN to a VIP by the virtual MAC", syn(VIRTUAL_MAC, VIP, 4000, 80), VIP_TAKEN),
        ("UDP to a VIP", udp(own, VIP, 4000, b"x"), VIP_TAKEN),
        ("ping to a VIP", icmp(VIP), VIP_TAKEN),
        ("an unknown protocol to a VIP", ipv4(own, CLIENT, VIP, 253, 0, &[]), VIP_TAKEN),
        ("IP options, to a VIP", ipv4(own, CLIENT, VIP, 6, 10, &ports(1, 80)), VIP_TAKEN),
        ("first fragment to a VIP", first_fragment, VIP_TAKEN),
        ("later fragment to a VIP", later_fragment, VIP_TAKEN),
        ("impossible header length, to a VIP", odd_length, VIP_TAKEN),
        ("flooded frame to a VIP for another MAC", syn(CLIENT_MAC, VIP, 4000, 80), OTHER),
        ("broadcast frame to a VIP", udp(BROADCAST, VIP, 4000, b"x"), OTHER),
        ("IPv6 version in an IPv4 frame", version_6, Pass("malformed")),
        ("ping to a gateway address", icmp(GATEWAY), Take("gateway_icmp")),
        ("TCP to a gateway address", syn(own, GATEWAY, 4000, 80), PASS),
        ("ssh to the node", syn(own, NODE, 4000, 22), PASS),
        ("ping to the node", icmp(NODE), PASS),
        ("routed through the node", syn(own, Ipv4Addr::new(198, 19, 0, 9), 4000, 80), PASS),
        ("IPv4 cut short", syn(own, VIP, 4000, 80)[..33].to_vec(), Pass("malformed")),
        ("no payload at all", syn(own, VIP, 4000, 80)[..14].to_vec(), Pass("malformed")),
        ("LLDP", [&own[..], &CLIENT_MAC, &[0x88, 0xcc], &[0; 40]].concat(), PASS),
    ]
}

/// An ICMP error of `kind` about a packet from `source` to `target`, ports 4000 to `port`.
fn icmp_error(
    own: [u8; 6],
    outer_target: Ipv4Addr,
    kind: u8,
    target: Ipv4Addr,
    port: u16,
) -> Vec<u8> {
    let inner = ipv4(own, CLIENT, target, 6, 1, &ports(4000, port));
    let payload = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &inner[14..]].concat();
    ipv4(own, SERVER, outer_target, 1, 0, &payload)
}

fn nat_cases(own: [u8; 6]) -> Vec<Case> {
    let from =
        |source, target, protocol, port| ipv4(own, source, target, protocol, 0, &ports(port, 4000));
    let returned = Take("nat_return");
    let with_options = ipv4(own, SERVER, CLIENT, 6, 5, &ports(8080, 4000));
    let client_server = Ipv4Addr::new(198, 18, 0, 81);
    vec![
        ("a server's answer to a client", from(SERVER, CLIENT, 6, 8080), returned),
        ("a server's answer, IP options", with_options, returned),
        ("a server's answer, UDP", from(SERVER, CLIENT, 17, 5353), returned),
        ("a server's answer to the node (health check)", from(SERVER, NODE, 6, 8080), PASS),
        ("a server's other traffic, other port", from(SERVER, CLIENT, 6, 22), PASS),
        ("a server's other traffic, other protocol", from(SERVER, CLIENT, 17, 8080), PASS),
        ("the first port of a range", from(SERVER, CLIENT, 6, 9000), returned),
        ("the last port of a range", from(SERVER, CLIENT, 6, 9009), returned),
        ("the port below a range", from(SERVER, CLIENT, 6, 8999), PASS),
        ("the port above a range", from(SERVER, CLIENT, 6, 9010), PASS),
        ("a port of a range, other protocol", from(SERVER, CLIENT, 17, 9001), PASS),
        ("a port of a range, no server", from(client_server, CLIENT, 6, 9001), PASS),
        ("ICMP error about a port of a range", icmp_error(own, CLIENT, 3, SERVER, 9003), NAT_ICMP),
        ("the same port of no server", from(client_server, CLIENT, 6, 8080), PASS),
        ("a server's port cut off", from(SERVER, CLIENT, 6, 8080)[..36].to_vec(), PASS),
        ("ICMP error about a NAT server", icmp_error(own, CLIENT, 3, SERVER, 8080), NAT_ICMP),
        ("ICMP source quench", icmp_error(own, CLIENT, 4, SERVER, 8080), NAT_ICMP),
        ("ICMP redirect", icmp_error(own, CLIENT, 5, SERVER, 8080), PASS),
        ("ICMP time exceeded", icmp_error(own, CLIENT, 11, SERVER, 8080), NAT_ICMP),
        ("ICMP error about another port", icmp_error(own, CLIENT, 3, SERVER, 22), PASS),
        ("ICMP echo that looks like it", icmp_error(own, CLIENT, 8, SERVER, 8080), PASS),
        ("ICMP error for the node itself", icmp_error(own, NODE, 3, SERVER, 8080), PASS),
    ]
}
const NAT_ICMP: Verdict = Take("nat_icmp");

/// The VLAN that a segment is on.
const VLAN: u16 = 0x107;

fn tagged(control: u16, mut frame: Vec<u8>) -> Vec<u8> {
    let [high, low] = control.to_be_bytes();
    frame.splice(12..12, [0x81, 0x00, high, low]);
    frame
}

/// What is tagged for our VLAN is what it would be without, whatever that is.
fn vlan_cases(own: [u8; 6]) -> Vec<Case> {
    let cases = [arp_cases(own), vip_cases(own), nat_cases(own), ipv6_cases(own)].concat();
    let cases =
        cases.into_iter().map(|(text, frame, verdict)| (text, tagged(VLAN, frame), verdict));
    let mut cases: Vec<Case> = cases.collect();
    let other = Pass("other_vlan");
    let to_vip = || syn(own, VIP, 4000, 80);
    let to_all = || arp(BROADCAST, 1, CLIENT, VIP);
    let solicited =
        || icmpv6(SOLICITED, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1), 135, VIP6);
    cases.extend([
        ("our VLAN with a priority", tagged(0xf000 | VLAN, to_vip()), VIP_TAKEN),
        ("a tag with a priority only", tagged(0xe000, to_vip()), VIP_TAKEN),
        ("ARP with a priority only", tagged(0xe000, to_all()), Announce("arp", "arp_mute")),
        ("another VLAN, to a VIP", tagged(VLAN + 1, to_vip()), other),
        ("the lower half of the number", tagged(VLAN & 0xff, to_vip()), other),
        ("another VLAN, ARP for a VIP", tagged(1, to_all()), other),
        ("another VLAN, NS for a VIP", tagged(4094, solicited()), other),
        ("two tags", tagged(VLAN, tagged(VLAN, to_vip())), PASS),
        ("cut in its tag", tagged(VLAN, to_vip())[..17].to_vec(), Pass("malformed")),
    ]);
    cases
}

fn ipv6(mac: [u8; 6], source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, mac)
        .ipv6(source.octets(), target.octets(), 64)
        .tcp(8080, 4000, 1, 1024);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

fn icmpv6(mac: [u8; 6], target: Ipv6Addr, kind: u8, about: Ipv6Addr) -> Vec<u8> {
    let body = [&[0; 4][..], &about.octets(), &[1, 1], &CLIENT_MAC].concat();
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, mac)
        .ipv6(CLIENT6.octets(), target.octets(), 255)
        .icmpv6_raw(kind, 0, body[..4].try_into().unwrap());
    let mut frame = Vec::new();
    builder.write(&mut frame, &body[4..]).unwrap();
    frame
}

fn ipv6_cases(own: [u8; 6]) -> Vec<Case> {
    let solicited = Announce("nd", "nd_mute");
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    let inner = ipv6(own, CLIENT6, SERVER6);
    let mut inner = inner[14..].to_vec();
    inner[40..44].copy_from_slice(&ports(4000, 8080)[..4]);
    let about = |inner: &[u8]| {
        let mut error = icmpv6(own, CLIENT6, 1, CLIENT6);
        error.truncate(62);
        error.extend(inner);
        error
    };
    let error = about(&inner);
    vec![
        ("IPv6 packet to a VIP", ipv6(own, CLIENT6, VIP6), VIP_TAKEN),
        ("IPv6 packet to the node", ipv6(own, CLIENT6, NODE6), PASS),
        ("IPv6 packet to a VIP for another MAC", ipv6(CLIENT_MAC, CLIENT6, VIP6), OTHER),
        ("IPv6 answer of a server", ipv6(own, SERVER6, CLIENT6), Take("nat_return")),
        ("IPv6 answer of a server to the node", ipv6(own, SERVER6, NODE6), PASS),
        ("ICMPv6 error about a NAT server", error, NAT_ICMP),
        ("ICMPv6 error about a first fragment", about(&in_part(&inner, 0, 1, 7)), NAT_ICMP),
        ("ICMPv6 error about a later one", about(&in_part(&inner, 0, 9, 7)), PASS),
        ("NS for a VIP, solicited node", icmpv6(SOLICITED, group, 135, VIP6), solicited),
        ("NS for a VIP, unicast", icmpv6(own, VIP6, 135, VIP6), solicited),
        ("NS for another of the group", icmpv6(SOLICITED, group, 135, NODE6), PASS),
        ("NA to the solicited node group", icmpv6(SOLICITED, group, 136, VIP6), PASS),
        ("ping to a VIP", icmpv6(own, VIP6, 128, VIP6), VIP_TAKEN),
        ("IPv6 cut short", ipv6(own, CLIENT6, VIP6)[..53].to_vec(), Pass("malformed")),
    ]
}

/// The packet whose IPv6 header is at `at`, with a fragment header.
fn in_part(packet: &[u8], at: usize, field: u16, id: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let protocol = std::mem::replace(&mut packet[at + 6], 44);
    let [high, low] = field.to_be_bytes();
    packet.splice(at + 40..at + 40, [protocol, 0, high, low, 0, 0, 0, id]);
    packet
}

/// One after the other: the first fragment of an answer decides about those that follow.
fn fragment_cases(own: [u8; 6]) -> Vec<Case> {
    let from =
        |source, target, protocol, port| ipv4(own, source, target, protocol, 0, &ports(port, 4000));
    let part = |field: u16, id: u8, mut frame: Vec<u8>| {
        frame[18..20].copy_from_slice(&[0, id]);
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        frame
    };
    let returned = Take("nat_return");
    let (answer, other) = (from(SERVER, CLIENT, 6, 8080), from(SERVER, CLIENT, 6, 22));
    let udp_answer = from(SERVER, CLIENT, 17, 5353);
    let to_node = from(SERVER, NODE, 6, 8080);
    let later = part(0x0010, 1, answer.clone());
    let mut cases = vec![
        ("a server's later fragment, before the first", later.clone(), PASS),
        ("the first fragment of its answer", part(0x2000, 1, answer.clone()), returned),
        ("the later fragment, after it", later, returned),
        ("the last one", part(0x0020, 1, answer.clone()), returned),
        ("one of another packet", part(0x0010, 2, answer.clone()), PASS),
        ("one of another protocol", part(0x0010, 1, udp_answer), PASS),
        ("one to another client", part(0x0010, 1, to_node.clone()), PASS),
        ("the first fragment of its other traffic", part(0x2000, 3, other.clone()), PASS),
        ("the later one of that", part(0x0010, 3, other), PASS),
        ("the first fragment to the node", part(0x2000, 4, to_node.clone()), PASS),
        ("the later one to the node", part(0x0010, 4, to_node), PASS),
        ("an answer that is whole", part(0x4000, 5, answer.clone()), returned),
        ("a later fragment with its identification", part(0x0010, 5, answer), PASS),
    ];
    let answer = ipv6(own, SERVER6, CLIENT6);
    let part = |field, id| in_part(&answer, 14, field, id);
    let to_node = |field| in_part(&ipv6(own, SERVER6, NODE6), 14, field, 9);
    cases.extend([
        ("IPv6 later fragment before the first", part(64, 1), PASS),
        ("IPv6 first fragment of an answer", part(1, 1), returned),
        ("IPv6 later fragment of it", part(65, 1), returned),
        ("IPv6 later fragment of another", part(65, 2), PASS),
        ("IPv6 answer in one fragment (RFC 6946)", part(0, 3), returned),
        ("IPv6 later fragment of that", part(65, 3), PASS),
        ("IPv6 first fragment to the node", to_node(1), PASS),
        ("IPv6 later fragment to the node", to_node(65), PASS),
        ("IPv6 fragment cut short", part(1, 4)[..60].to_vec(), PASS),
    ]);
    cases
}

/// Runs a packet through the program: its action and the one counter that moved.
fn outcome(steering: &mut Steering, packet: &[u8]) -> (u32, &'static str) {
    let before = steering.counters().unwrap().entries();
    let action = steering.test_run(packet).unwrap();
    let after = steering.counters().unwrap().entries();
    let moved: Vec<_> = (0..Counters::LEN).filter(|at| after[*at].1 != before[*at].1).collect();
    assert_eq!(moved.len(), 1, "one counter moves per packet: {before:?} {after:?}");
    (action, after[moved[0]].0)
}

/// A closed socket is gone after this at the latest.
const RELEASED_WITHIN: Duration = Duration::from_secs(5);

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

fn check(steering: &mut Steering, cases: &[Case], is_announcing: bool, has_socket: bool) {
    for (description, packet, verdict) in cases {
        let taken = |name| if has_socket { (XDP_REDIRECT, name) } else { (XDP_DROP, "no_socket") };
        let expected = match *verdict {
            Pass(name) => (XDP_PASS, name),
            Take(name) => taken(name),
            Announce(name, _) if is_announcing => taken(name),
            Announce(_, mute) => (XDP_DROP, mute),
        };
        let outcome = outcome(steering, packet);
        assert_eq!(
            outcome, expected,
            "{description}; announcing: {is_announcing}, socket: {has_socket}"
        );
    }
}

/// A socket is out of the program's map when its last descriptor is closed; a process that another
/// test has just forked has one of them until it calls `exec`.
fn await_release(steering: &mut Steering, cases: &[Case]) {
    let taken = cases.iter().find(|(.., verdict)| matches!(verdict, Take(_)));
    let (_, packet, _) = taken.expect("a packet that is for the socket");
    let deadline = Instant::now() + RELEASED_WITHIN;
    while outcome(steering, packet).0 == XDP_REDIRECT && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn prepare(steering: &mut Steering) {
    let own = steering.interface().mac;
    steering.set_macs(own, Some(VIRTUAL_MAC)).unwrap();
    steering
        .set_addresses([
            (VIP.into(), AddressRole::Vip),
            (VIP6.into(), AddressRole::Vip),
            (GATEWAY.into(), AddressRole::Gateway),
        ])
        .unwrap();
    let source = |address, protocol, port| NatSource { address, protocol, ports: (port, port) };
    let range = |protocol, ports| NatSource { address: SERVER.into(), protocol, ports };
    steering
        .set_nat_sources([
            source(SERVER.into(), 6, 8080),
            source(SERVER.into(), 17, 5353),
            source(SERVER6.into(), 6, 8080),
            // Two ranges are one that has both.
            range(6, (9000, 9005)),
            range(6, (9007, 9009)),
        ])
        .unwrap();
    steering.set_local_addresses([NODE.into(), NODE6.into()]).unwrap();
    steering.set_vlans([9, VLAN]).unwrap();
}

#[test]
fn every_packet_goes_where_the_table_says() {
    let mut lab = Lab::new(1, 1);
    let instance = lab.instance("a0");
    lab.in_node(|| {
        let mut steering = Steering::open(Path::new(BPFFS), &instance, "a0").unwrap();
        prepare(&mut steering);
        let own = steering.interface().mac;
        let cases = [arp_cases(own), vip_cases(own), nat_cases(own), ipv6_cases(own)].concat();
        let cases = [cases, vlan_cases(own)].concat();

        check(&mut steering, &cases, false, false);
        let soon = boottime_ns() + 600_000_000_000;
        steering.set_announce_until(soon).unwrap();
        check(&mut steering, &cases, true, false);

        let interface = Interface::by_name("a0").unwrap();
        let mut umem = Umem::new(UmemConfig::default()).unwrap();
        let socket = Socket::bind(&mut umem, interface.index, 0, BindMode::Auto).unwrap();
        steering.insert_socket(0, &socket).unwrap();
        check(&mut steering, &cases, true, true);
        steering.announcer().unwrap().set_announce_until(boottime_ns()).unwrap();
        check(&mut steering, &cases, false, true);
        drop(socket);
        await_release(&mut steering, &cases);
        check(&mut steering, &cases, false, false);
    });
}

#[test]
fn the_rest_of_an_answer_goes_where_its_first_fragment_went() {
    let mut lab = Lab::new(1, 1);
    let instance = lab.instance("a0");
    lab.in_node(|| {
        let mut steering = Steering::open(Path::new(BPFFS), &instance, "a0").unwrap();
        prepare(&mut steering);
        let own = steering.interface().mac;
        check(&mut steering, &fragment_cases(own), false, false);
        // More answers at once than the table has room for: the last ones are known.
        let answer = ipv4(own, SERVER, CLIENT, 6, 0, &ports(8080, 4000));
        let part = |field: u16, id: u32| {
            let mut frame = answer.clone();
            frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
            frame[20..22].copy_from_slice(&field.to_be_bytes());
            frame
        };
        let all = NAT_FRAGMENTS_MAX + NAT_FRAGMENTS_MAX / 2;
        for id in 0..all {
            assert_eq!(outcome(&mut steering, &part(0x2000, id)).1, "no_socket");
        }
        assert_eq!(outcome(&mut steering, &part(0x0010, all - 1)).1, "no_socket", "the last");
        assert_eq!(outcome(&mut steering, &part(0x0010, 0)).1, "pass", "the oldest gave way");
    });
}

/// As on a machine where nothing was prepared: the default of `bpffs` is a folder that does not
/// exist, on the file system that Debian mounts.
#[test]
fn the_folder_of_the_pins_is_made_on_the_first_use() {
    let lab = Lab::new(1, 1);
    let bpffs = Path::new(BPFFS).join(format!("afx-{}-first", std::process::id()));
    assert!(!bpffs.exists(), "{} is left from an earlier run", bpffs.display());
    let opened = lab.in_node(|| Steering::open(&bpffs, "steadfast", "a0").map(drop));
    let mode = fs::metadata(&bpffs).map(|folder| folder.permissions().mode() & 0o777);
    let _ = Steering::detach(&bpffs, "steadfast", "a0");
    let _ = fs::remove_dir(&bpffs);
    opened.unwrap();
    assert_eq!(mode.unwrap(), 0o700, "the mode of {}", bpffs.display());
    assert!(!bpffs.exists(), "{} stays", bpffs.display());
}

#[test]
fn sets_are_replaced_as_a_whole() {
    let mut lab = Lab::new(1, 1);
    let instance = lab.instance("a0");
    lab.in_node(|| {
        let mut steering = Steering::open(Path::new(BPFFS), &instance, "a0").unwrap();
        prepare(&mut steering);
        let own = steering.interface().mac;
        let other = Ipv4Addr::new(198, 18, 100, 2);
        let (to_vip, to_other) = (syn(own, VIP, 1, 80), syn(own, other, 1, 80));
        assert_eq!(outcome(&mut steering, &to_vip).1, "no_socket");
        assert_eq!(outcome(&mut steering, &to_other).1, "pass");
        steering
            .set_addresses([(other.into(), AddressRole::Vip), (VIP.into(), AddressRole::Gateway)])
            .unwrap();
        assert_eq!(outcome(&mut steering, &to_vip).1, "pass", "a gateway address now");
        assert_eq!(outcome(&mut steering, &to_other).1, "no_socket");
        steering.set_addresses([]).unwrap();
        assert_eq!(outcome(&mut steering, &to_other).1, "pass");

        let answer = ipv4(own, SERVER, CLIENT, 6, 0, &ports(8080, 4000));
        assert_eq!(outcome(&mut steering, &answer).1, "no_socket");
        steering.set_local_addresses([IpAddr::V4(CLIENT)]).unwrap();
        assert_eq!(outcome(&mut steering, &answer).1, "pass");
        steering.set_local_addresses([]).unwrap();
        steering.set_nat_sources([]).unwrap();
        assert_eq!(outcome(&mut steering, &answer).1, "pass");

        let virtual_frame = syn(VIRTUAL_MAC, VIP, 1, 80);
        assert_eq!(outcome(&mut steering, &virtual_frame).1, "pass");
        drop(steering);
        let mut steering = Steering::open(Path::new(BPFFS), &instance, "a0").unwrap();
        assert_eq!(outcome(&mut steering, &virtual_frame).1, "pass", "a restart keeps it");
        steering.set_macs(own, None).unwrap();
        assert_eq!(outcome(&mut steering, &virtual_frame).1, "other_mac");
    });
}

#[test]
fn a_table_that_is_too_small_is_named_and_left_as_it_was() {
    let mut lab = Lab::new(1, 1);
    let instance = lab.instance("a0");
    lab.in_node(|| {
        let mut steering = Steering::open(Path::new(BPFFS), &instance, "a0").unwrap();
        prepare(&mut steering);
        let many =
            |count: u32| (0..count).map(|number| IpAddr::V4(Ipv4Addr::from(0xc612_0000 + number)));
        let error = steering
            .set_addresses(many(VIPS_MAX + 1).map(|address| (address, AddressRole::Vip)))
            .unwrap_err();
        assert!(matches!(error, SteeringError::TableFull { table: "vips", .. }), "{error}");
        let error = steering.set_local_addresses(many(LOCAL_ADDRESSES_MAX + 1)).unwrap_err();
        assert!(error.to_string().contains("local_addresses"), "{error}");
        let own = steering.interface().mac;
        assert_eq!(outcome(&mut steering, &syn(own, VIP, 1, 80)).1, "no_socket");
        // A full table can be replaced by another full one.
        steering.set_local_addresses(many(LOCAL_ADDRESSES_MAX)).unwrap();
        steering
            .set_local_addresses(many(2 * LOCAL_ADDRESSES_MAX).skip(LOCAL_ADDRESSES_MAX as usize))
            .unwrap();
    });
}
