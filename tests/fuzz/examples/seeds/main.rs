//! Writes the first inputs of every target into a folder that is given, one below it for each:
//! packets and messages as they are meant to be, from which the fuzzer goes on.

mod streams;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use steadfast_dataplane::{Question, Step};
use steadfast_fuzz::{beacon, frame, packet, replication, wire};
use steadfast_health::{Target as Checked, View};
use steadfast_model::{
    BootId, ClusterState, Command, Epoch, GroupId, Initialise, NodeId, NodeSpec, ServerId,
    ServiceId, document::CheckKind,
};
use steadfast_ownership as ownership;
use steadfast_packet::{Protocol, gratuitous_arp, unsolicited_advertisement};
use steadfast_replication::{
    Key, Record,
    wire::{Ack, BatchWriter, Digest, GroupHeader, Hello},
};

const MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];
const ADDRESSES_LEN: usize = 12;
/// Two families: clients, VIPs, servers behind the node.
const CLIENTS: [&str; 2] = ["198.18.0.2", "2001:db8::2"];
const VIPS: [&str; 2] = ["198.18.0.100", "2001:db8::100"];
const SERVERS: [&str; 2] = ["198.18.1.21", "2001:db8:1::21"];
/// The node itself, next to the clients.
const NODES: [&str; 2] = ["198.18.0.11", "2001:db8::11"];
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
const BACK: u8 = 1;

fn main() -> io::Result<()> {
    let Some(corpus) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("a folder is missing: seeds FOLDER"));
    };
    let mut count = 0;
    for (target, inputs) in [
        ("packet", packets()),
        ("frame", sessions()),
        ("beacon", beacons()),
        ("replication", batches()),
        ("view", views()),
        ("raft", commands()),
        ("document", documents()?),
        ("text", texts()),
    ] {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        for (number, input) in inputs.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:03}")), input)?;
        }
        count += inputs.len();
    }
    println!("{count} inputs in {}", corpus.display());
    Ok(())
}

fn at(addr: &str, port: u16) -> SocketAddr {
    SocketAddr::new(addr.parse().expect("an address"), port)
}

fn asked(protocol: Protocol, src: SocketAddr, dst: SocketAddr, step: Step) -> Vec<u8> {
    Question { protocol, src, dst, step }.frame(MAC, MAC).expect("of one family")
}

/// A frame with this payload behind the IP header, between two addresses of one family.
fn framed(src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = asked(Protocol::Udp, at(src, 0), at(dst, 0), Step::Open);
    let (l4, next, len) = if src.contains(':') { (54, 20, 18) } else { (34, 23, 16) };
    frame.truncate(l4);
    frame[next] = protocol;
    frame.extend_from_slice(payload);
    let counted = if src.contains(':') { payload.len() } else { 20 + payload.len() };
    frame[len..len + 2].copy_from_slice(&(counted as u16).to_be_bytes());
    wire::repair(&mut frame);
    frame
}

fn ports(src: u16, dst: u16) -> Vec<u8> {
    [src.to_be_bytes(), dst.to_be_bytes()].concat()
}

/// A TCP segment with options (of a multiple of four octets) and data.
fn tcp(from: u16, to: u16, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    numbered(from, to, (1, 1, flags), options, data)
}

/// The same with a sequence number, what is acknowledged, and flags.
fn numbered(
    from: u16,
    to: u16,
    (seq, ack, flags): (u32, u32, u8),
    options: &[u8],
    data: &[u8],
) -> Vec<u8> {
    let offset = ((20 + options.len()) * 4) as u8;
    let (seq, ack) = (seq.to_be_bytes(), ack.to_be_bytes());
    let rest = [offset, flags, 0xff, 0xff, 0, 0, 0, 0];
    [&ports(from, to)[..], &seq, &ack, &rest, options, data].concat()
}

fn udp(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let len = (8 + data.len() as u16).to_be_bytes();
    [&ports(from, to)[..], &len, &[0, 0], data].concat()
}

/// A fragment of IPv6 in front of its payload.
fn fragment(next: u8, offset_and_more: u16, id: u8) -> Vec<u8> {
    [&[next, 0][..], &offset_and_more.to_be_bytes(), &[0, 0, 0, id]].concat()
}

/// Frames of all kinds, from the Ethernet addresses on.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for six in [0, 1] {
        let (client, vip, server) = (CLIENTS[six], VIPS[six], SERVERS[six]);
        for protocol in PROTOCOLS {
            for step in [Step::Open, Step::Data, Step::Close, Step::Reset] {
                frames.push(asked(protocol, at(client, 4000), at(vip, 2), step));
            }
        }
        let options =
            [&[1, 1, 1, 2, 4, 5, 0xb4, 5, 10][..], &[7; 8], &[8, 10], &[9; 8], &[0]].concat();
        frames.push(framed(client, vip, 6, &tcp(4000, 2, 2, &options, b"")));
        let reply = b"220 Hello\r\n227 Entering Passive Mode (198,18,1,21,195,80).\r\n";
        frames.push(framed(server, client, 6, &tcp(21, 4000, 0x18, &[], reply)));
        let long = [&[0xc3, 0, 0, 0, 1, 8][..], &[0xa1; 8], &[0, 0, 0]].concat();
        let short = [0x43, 0x45, 0xa1, 1, 2, 3, 4, 9, 9, 9];
        frames.push(framed(client, vip, 17, &udp(4000, 443, &long)));
        frames.push(framed(client, vip, 17, &udp(4000, 443, &short)));
        frames.push(framed(client, vip, 17, &udp(4000, 53, b"a question")));
        let data = framed(client, vip, 132, &ports(4000, 2));
        frames.push(data);
        let (icmp, echo, unreachable) = if six == 1 { (58, 128, 1) } else { (1, 8, 3) };
        frames.push(framed(client, vip, icmp, &[echo, 0, 0, 0, 0, 1, 0, 2, 1, 2, 3]));
        for protocol in PROTOCOLS {
            let quoted = asked(protocol, at(vip, 2), at(client, 4000), Step::Data);
            let error = [&[unreachable, 0, 0, 0, 0, 0, 0, 0][..], &quoted[14..]].concat();
            frames.push(framed(client, vip, icmp, &error));
            let quoted = asked(protocol, at(client, 4000), at(server, 8000), Step::Data);
            let error = [&[unreachable, 0, 0, 0, 0, 0, 0, 0][..], &quoted[14..]].concat();
            frames.push(framed(server, client, icmp, &error));
        }
    }
    // Fragments: the first, one behind it, the last.
    let whole = udp(4000, 2, &[7; 16]);
    for (part, offset_and_more) in [(0..8, 0x2000_u16), (8..16, 0x2001), (16..24, 2)] {
        let mut frame = framed(CLIENTS[0], VIPS[0], 17, &whole[part.clone()]);
        frame[20..22].copy_from_slice(&offset_and_more.to_be_bytes());
        wire::repair(&mut frame);
        frames.push(frame);
        let in_six = (offset_and_more & 0x1fff) << 3 | offset_and_more >> 13;
        let payload = [&fragment(17, in_six, 9)[..], &whole[part]].concat();
        frames.push(framed(CLIENTS[1], VIPS[1], 44, &payload));
    }
    // Hop-by-hop and destination options.
    let extended = [&[60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0][..], &whole].concat();
    frames.push(framed(CLIENTS[1], VIPS[1], 0, &extended));
    // Options of IPv4.
    let mut options = framed(CLIENTS[0], VIPS[0], 17, &[&[1, 1, 1, 0][..], &whole].concat());
    options[14] = 0x46;
    wire::repair(&mut options);
    frames.push(options);
    // A segment with a MAC address to ask for, and a tag.
    let mut arp = gratuitous_arp(MAC, [198, 18, 0, 100].into()).to_vec();
    arp[28..32].copy_from_slice(&[198, 18, 0, 2]);
    frames.push(arp);
    let vip: std::net::Ipv6Addr = VIPS[1].parse().expect("an address");
    let mut solicitation = unsolicited_advertisement(MAC, vip, false).to_vec();
    let client: std::net::Ipv6Addr = CLIENTS[1].parse().expect("an address");
    solicitation[22..38].copy_from_slice(&client.octets());
    (solicitation[54], solicitation[58], solicitation[78]) = (135, 0, 1);
    wire::repair(&mut solicitation);
    frames.push(solicitation);
    let tagged = |vlan: u8, frame: &Vec<u8>| {
        [&frame[..ADDRESSES_LEN], &[0x81, 0, 0, vlan], &frame[ADDRESSES_LEN..]].concat()
    };
    frames.extend([tagged(7, &frames[0]), tagged(9, &frames[1])]);
    frames
}

fn packets() -> Vec<Vec<u8>> {
    let frames = frames();
    let deeds = 0..packet::DEEDS;
    let mut inputs: Vec<_> = frames
        .iter()
        .zip(deeds.cycle())
        .map(|(frame, deed)| [&[deed, 0], &frame[..]].concat())
        .collect();
    // Each deed with the first of all, those it is for among them.
    for (deed, frame) in [
        (3, 12),
        (4, 13),
        (5, 19),
        (6, 20),
        (7, 1),
        (8, 8),
        (9, 18),
        (12, 0),
        (13, 12),
        (14, 12),
        (15, 12),
        (16, 12),
    ] {
        inputs.push([&[deed, 3], &frames[frame][..]].concat());
    }
    for six in [0, 1] {
        let (client, vip, node) = (CLIENTS[six], VIPS[six], NODES[six]);
        let offer = framed(client, vip, 6, &tcp(4000, 2, 2, &offer(7, 0), b""));
        inputs.push([&[16, 0], &offer[..]].concat());
        // Fragmentation needed and packet too big, about outer packets of GUE, IPIP and GRE.
        let (icmp, kind, ipip) = if six == 1 { (58, [2, 0], 41) } else { (1, [3, 4], 4) };
        for (protocol, mtu) in [(17, 1400_u16), (ipip, 1280), (47, 0)] {
            let outer = framed(node, SERVERS[six], protocol, &udp(50_000, 6080, &[7; 24]));
            let head = [&kind[..], &[0, 0, 0, 0], &mtu.to_be_bytes()].concat();
            let error = framed(client, node, icmp, &[&head, &outer[14..]].concat());
            inputs.push([&[0, 0], &error[..]].concat());
        }
    }
    inputs
}

/// What a SYN offers in 20 octets: segment size, SACK, timestamps, window scale.
fn offer(timestamp: u32, echo: u32) -> Vec<u8> {
    let (timestamp, echo) = (timestamp.to_be_bytes(), echo.to_be_bytes());
    [&[2, 4, 5, 0xb4, 4, 2, 8, 10][..], &timestamp, &echo, &[1, 3, 3, 7]].concat()
}

/// A step of the target `frame`.
fn step(how: u8, frame: &[u8]) -> Vec<u8> {
    let tail = &frame[ADDRESSES_LEN..];
    let len = tail.len().min(255);
    [&[how, len as u8], &tail[..len]].concat()
}

fn sessions() -> Vec<Vec<u8>> {
    let mut sessions = Vec::new();
    for six in [0, 1] {
        let (client, vip, server) = (CLIENTS[six], VIPS[six], SERVERS[six]);
        for protocol in PROTOCOLS {
            for port in 1..=8 {
                let from = at(client, 4000);
                let open = asked(protocol, from, at(vip, port), Step::Open);
                let data = asked(protocol, from, at(vip, port), Step::Data);
                let back = asked(protocol, at(server, 8000), from, Step::Data);
                let close = asked(protocol, from, at(vip, port), Step::Close);
                let steps = [step(0, &open), step(BACK, &back), step(0, &data), step(0, &close)];
                sessions.push(steps.concat());
            }
        }
        let ftp = [
            step(0, &framed(client, vip, 6, &tcp(4000, 21, 2, &[], b""))),
            step(BACK, &frames()[if six == 0 { 13 } else { 13 + 25 }]),
            step(0, &framed(client, vip, 6, &tcp(4001, 50_000, 2, &[], b""))),
            step(BACK, &framed(server, client, 6, &tcp(20, 4002, 2, &[], b""))),
        ];
        sessions.push(ftp.concat());
        sessions.extend(streams::all(six));
    }
    for (number, frame) in frames().iter().enumerate() {
        let how = if number % 25 > 18 { BACK } else { 0 };
        sessions.push(step(how, frame));
    }
    let parts = frames();
    let of = |six: usize| parts.iter().rev().skip(6).take(6).rev().skip(six).step_by(2);
    sessions.extend([0, 1].map(|six| of(six).flat_map(|frame| step(0, frame)).collect()));
    // Connection IDs under a key: of two halves, and of one block.
    for first in [0x65, 0x8f] {
        let short = [&[0x43, first][..], &[7; 16]].concat();
        sessions.push(step(0, &framed(CLIENTS[0], VIPS[0], 17, &udp(4000, 443, &short))));
    }
    // A packet of fragments with gaps between them, more than are kept account of.
    let gaps = (0..10_u16).flat_map(|number| {
        let part = if number == 0 { udp(4000, 2, &[7; 24]) } else { vec![7; 8] };
        let mut frame = framed(CLIENTS[0], VIPS[0], 17, &part);
        frame[20..22].copy_from_slice(&(0x2000 + number * 8).to_be_bytes());
        step(0, &frame)
    });
    sessions.push(gaps.collect());
    // A server goes, and comes back; a role goes.
    let open = asked(Protocol::Tcp, at(CLIENTS[0], 4000), at(VIPS[0], 2), Step::Open);
    let data = asked(Protocol::Tcp, at(CLIENTS[0], 4000), at(VIPS[0], 2), Step::Data);
    let change = [frame::EVENT, 1, frame::EVENT, 0, frame::EVENT, 2, frame::EVENT, 40].to_vec();
    let later = step(6 << frame::TIME_SHIFT | 2 << frame::ROLE_SHIFT, &data);
    sessions.push([step(0, &open), change, step(0, &data), later].concat());
    sessions
}

fn epoch() -> Epoch {
    Epoch { generation: 1, grant_index: 7, claim: 1, node: NodeId(2) }
}

fn beacons() -> Vec<Vec<u8>> {
    let seal = ownership::Seal::new(beacon::CLUSTER, &beacon::KEY);
    let groups = vec![(GroupId(1), epoch()), (GroupId(2), epoch())];
    let report = ownership::PeerReport {
        node: NodeId(3),
        boot: BootId(4),
        echo: 5,
        age: Some(6),
        copy: ownership::Completeness::Stale,
        owes: false,
        path_ages: vec![1, 2],
    };
    let group = ownership::GroupReport {
        group: GroupId(1),
        epoch: epoch(),
        stance: ownership::Stance::Holds,
        clear: true,
    };
    let paths = vec![ownership::Path::Peer, ownership::Path::Segment(ownership::SegmentId(1))];
    let full = ownership::Beacon {
        cordoned: false,
        leaving: true,
        abstains: false,
        more: true,
        segments: vec![ownership::SegmentId(1), ownership::SegmentId(2)],
        paths,
        peers: vec![report.clone(), report],
        groups: vec![group],
    };
    let refusal = ownership::Refusal::Behind(epoch());
    let bodies = vec![
        ownership::Message::Beacon(full),
        ownership::Message::ClaimRequest(ownership::ClaimRequest {
            holder: NodeId(1),
            claims: groups.clone(),
        }),
        ownership::Message::ClaimAnswer(ownership::ClaimAnswer {
            echo: 3,
            consents: vec![(GroupId(1), epoch())],
            refusals: vec![(GroupId(2), refusal), (GroupId(3), ownership::Refusal::NotSilent(9))],
        }),
        ownership::Message::Resign(ownership::Resign { groups }),
        ownership::Message::StaleSenders(vec![ownership::StaleSender {
            group: GroupId(1),
            segment: ownership::SegmentId(1),
            mac: MAC,
            vip: Some(VIPS[1].parse().expect("an address")),
        }]),
    ];
    let sealed = |body| {
        let bytes = seal.encode(&ownership::Frame {
            from: NodeId(2),
            boot: BootId(3),
            sequence: 4,
            path: ownership::Path::Peer,
            to: Some(NodeId(1)),
            body,
        });
        bytes[..bytes.len() - beacon::TAG_LEN].to_vec()
    };
    bodies.into_iter().map(sealed).collect()
}

fn record(number: u16, six: usize, local: bool) -> Record {
    Record {
        key: Key::new(6, at(CLIENTS[six], 4000 + number), at(VIPS[six], 80)),
        group: GroupId(1),
        service: ServiceId(1),
        server: ServerId(21),
        incarnation: u64::from(number),
        state: 1,
        flags: 0,
        local: local.then(|| at(SERVERS[six], 20_000 + number)),
        deltas: None,
    }
}

/// A frame of the target `replication`: a batch without its type and its sequence number.
fn batch(fill: impl FnOnce(&mut BatchWriter, GroupHeader)) -> Vec<u8> {
    let header = GroupHeader { group: GroupId(1), epoch: epoch(), donated: false };
    let mut writer = BatchWriter::new(4096);
    fill(&mut writer, header);
    let frame = writer.finish(1, 1000, 3);
    assert_eq!(frame[..2], [replication::BATCH, 1]);
    let body = &frame[2..];
    [&(body.len() as u16).to_be_bytes()[..], body].concat()
}

fn batches() -> Vec<Vec<u8>> {
    let fill = batch(|writer, header| {
        writer.begin(header, 5);
        for (number, six) in (0..6).zip([0, 0, 1].into_iter().cycle()) {
            writer.record(header, &record(number, six, number % 2 == 0));
        }
        let template = Key { protocol: 0, client_port: 0, vip_port: 0, ..record(0, 0, false).key };
        writer.record(header, &Record { key: template, ..record(9, 0, false) });
        writer.end(header, 5);
    });
    let change = batch(|writer, header| {
        writer.record(header, &Record { state: 4, flags: 1, ..record(1, 0, false) });
        writer.delete(header, &record(2, 1, false).key, 2);
        writer.sweep(header, 5);
    });
    let donated = batch(|writer, header| {
        let header = GroupHeader { donated: true, ..header };
        writer.record(header, &record(30, 0, false));
        writer.donation_end(header);
    });
    let digest = Digest {
        seq: 1,
        groups: vec![GroupHeader { group: GroupId(1), epoch: epoch(), donated: false }],
        ..Digest::default()
    };
    let digest = digest.encode();
    assert_eq!(digest[..2], [replication::DIGEST, 1]);
    let len = (digest.len() - 2) as u16 | replication::IS_DIGEST;
    let compared = [&fill[..], &len.to_be_bytes(), &digest[2..], &change].concat();
    let hello = Hello::new(7, NodeId(2), BootId(5), 0);
    let groups = vec![GroupId(1), GroupId(300)];
    let ack = Ack { seq: 3, resync: groups.clone(), fenced: groups };
    let all = [&fill[..], &change, &donated].concat();
    vec![all, fill, change, donated, compared, digest, hello.encode(), ack.encode()]
}

fn views() -> Vec<Vec<u8>> {
    let target = |addr: &str, port| Checked {
        addr: addr.parse().expect("an address"),
        port,
        kind: CheckKind::Tcp,
    };
    let up = [
        (target(SERVERS[0], 80), true),
        (target(SERVERS[0], 81), false),
        (target(SERVERS[1], 80), false),
    ];
    vec![View { boot: BootId(1), sequence: 2, up: up.into_iter().collect() }.encode()]
}

fn commands() -> Vec<Vec<u8>> {
    let node = NodeSpec {
        name: "n1".to_owned(),
        api: at("198.18.255.1", 7440),
        control: at("198.18.255.1", 7441),
        replication: at("198.18.255.1", 7442),
    };
    let start = Initialise {
        name: "demo".to_owned(),
        cluster: 7,
        ca_cert_pem: "-".to_owned(),
        ca_key_pem: "-".to_owned(),
        beacon_key: vec![9; 32],
        node: node.clone(),
    };
    let text = include_str!("../../../../deploy/examples/dr.yaml");
    let source = "admin".to_owned();
    let commands = [
        Command::Initialise(Box::new(start)),
        Command::CreateToken { hash: "ba78".to_owned(), expires_unix_s: 100 },
        Command::AdmitNode { token_hash: "ba78".to_owned(), now_unix_s: 1, node },
        Command::Apply { text: text.to_owned(), expected_revision: None, source, now_unix_s: 2 },
        Command::Cordon { node: NodeId(2), cordoned: true },
        Command::Grant {
            group: GroupId(1),
            expected: None,
            holder: NodeId(1),
            boot: BootId(3),
            candidates: vec![NodeId(1), NodeId(2)],
        },
    ];
    let mut state = ClusterState::default();
    let mut inputs: Vec<Vec<u8>> = Vec::new();
    for (command, index) in commands.into_iter().zip(1..) {
        let json = serde_json::to_vec(&command).expect("a command can be written");
        let header = [&b"SR\x01\x01"[..], &[7; 8], &[0, 0, 0, 1]].concat();
        let len = (json.len() as u32).to_be_bytes();
        inputs.push([&header[..], &len, &json].concat());
        state.apply(index, command);
    }
    inputs.push(serde_json::to_vec(&state).expect("a state can be written"));
    inputs.push([&b"SR\x01\x00"[..], &[7; 8], br#"{"Ok":7}"#].concat());
    inputs
}

fn documents() -> io::Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
    let mut files: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(fs::DirEntry::path);
    let mut documents = Vec::new();
    for file in files {
        // Comments teach the fuzzer nothing.
        let text = fs::read_to_string(file.path())?;
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        documents.push(lines.flat_map(|line| [line, "\n"]).collect::<String>().into_bytes());
    }
    Ok(documents)
}

fn texts() -> Vec<Vec<u8>> {
    [
        "tcp 198.51.100.7:4711 > 198.18.0.100:80",
        "udp\0[2001:db8::7]:1\0->\0[2001:db8::100]:80",
        "500ms",
        "99h",
        "198.18.0.0/24",
        "2001:db8::/64",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "sf1.BwcHBwcHBwcHBwcHBwcHB",
        "sf2.BwcH",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
