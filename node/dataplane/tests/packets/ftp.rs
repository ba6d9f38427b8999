//! FTP through NAT, as a table of packets: data connections of either direction find the server of
//! their client, and nobody else's do.

use crate::lab::*;
use etherparse::PacketBuilder;
use steadfast_dataplane::{
    ConfigSpec, Ftp, NextHops, Origin, Persistence, Ports, Protocol, Reason, ServerSpec,
    ServiceSpec, State, TemplateKey, TemplateRecord, TemplateReplica, Unserved,
};

const VIP: &str = "198.18.0.100:21";
const CONTROL: &str = "198.18.0.2:4000";
const SERVER_2: [u8; 6] = [2, 0, 0, 0, 2, 22];

/// Two servers, round robin; the second takes commands on a port of its own.
fn spec() -> ConfigSpec {
    let servers = vec![server(11, "198.18.1.21", 21), server(12, "198.18.1.22", 2121)];
    let base = config_spec(1);
    let mut groups = base.groups.clone();
    groups[0].unserved = Unserved::Drop;
    let ftp = ServiceSpec {
        ftp: Some(Ftp { data: Ports { first: 50_000, last: 50_099 } }),
        persistence: Some(Persistence {
            timeout_ns: 300 * SECOND,
            prefix_v4: 32,
            prefix_v6: 128,
            expire_quiescent_template: false,
        }),
        ..service(1, Protocol::Tcp, 21, servers)
    };
    ConfigSpec { groups, services: vec![ftp], ..base }
}

fn lab() -> Lab {
    let lab = Lab::with(spec(), 1000);
    let mut hops = next_hops(2);
    hops.neighbours.push((1, "198.18.1.22".parse().unwrap(), SERVER_2));
    hops.neighbours.push((0, "198.18.0.3".parse().unwrap(), CLIENT));
    lab.shared.set_next_hops(NextHops::new(hops));
    lab
}

fn from(client: &str, vip: &str, flags: u8) -> Vec<u8> {
    tcp((CLIENT, FRONT), client, vip, 64, flags)
}

fn at(mac: [u8; 6], client: &str, server: &str, flags: u8) -> Outcome {
    Outcome::Sent(1, tcp((BACK, mac), client, server, 63, flags))
}

fn back(mac: [u8; 6], server: &str, client: &str, flags: u8) -> Vec<u8> {
    tcp((mac, BACK), server, client, 64, flags)
}

fn out(vip: &str, client: &str, flags: u8) -> Outcome {
    Outcome::Sent(0, tcp((FRONT, CLIENT), vip, client, 63, flags))
}

#[test]
fn passive_data_connections_go_to_the_server_of_the_session() {
    let (other, data) = ("198.18.0.3:4000", "198.18.0.100:50007");
    run(
        &mut lab(),
        &[
            (
                "no session, no data port",
                0,
                from("198.18.0.2:5000", data, SYN),
                dropped(Reason::Unserved),
            ),
            ("a session", 0, from(CONTROL, VIP, SYN), at(NAT_1, CONTROL, "198.18.1.21:21", SYN)),
            (
                "another client's",
                0,
                from(other, VIP, SYN),
                at(SERVER_2, other, "198.18.1.22:2121", SYN),
            ),
            (
                "the first one's data, though it were the other's turn",
                0,
                from("198.18.0.2:5001", data, SYN),
                at(NAT_1, "198.18.0.2:5001", "198.18.1.21:50007", SYN),
            ),
            (
                "its answer",
                1,
                back(NAT_1, "198.18.1.21:50007", "198.18.0.2:5001", SYN_ACK),
                out(data, "198.18.0.2:5001", SYN_ACK),
            ),
            (
                "and more",
                0,
                from("198.18.0.2:5002", "198.18.0.100:50099", SYN),
                at(NAT_1, "198.18.0.2:5002", "198.18.1.21:50099", SYN),
            ),
            (
                "the other one's data",
                0,
                from("198.18.0.3:5001", data, SYN),
                at(SERVER_2, "198.18.0.3:5001", "198.18.1.22:50007", SYN),
            ),
            ("a stranger", 0, from("198.18.0.4:5001", data, SYN), dropped(Reason::Unserved)),
            (
                "a port beside the data ports",
                0,
                from("198.18.0.2:5001", "198.18.0.100:50100", SYN),
                dropped(Reason::Unserved),
            ),
        ],
    );
}

#[test]
fn servers_open_data_connections_to_their_clients_alone() {
    let mut lab = lab();
    let (client, other) = ("198.18.0.2:5001", "198.18.0.3:5001");
    run(
        &mut lab,
        &[
            (
                "to nobody's client",
                1,
                back(NAT_1, "198.18.1.21:20", client, SYN),
                dropped(Reason::UnknownReturn),
            ),
            ("a session", 0, from(CONTROL, VIP, SYN), at(NAT_1, CONTROL, "198.18.1.21:21", SYN)),
            (
                "its data connection is the VIP's",
                1,
                back(NAT_1, "198.18.1.21:20", client, SYN),
                out("198.18.0.100:20", client, SYN),
            ),
            (
                "the client answers",
                0,
                from(client, "198.18.0.100:20", SYN_ACK),
                at(NAT_1, client, "198.18.1.21:20", SYN_ACK),
            ),
            (
                "and so on",
                1,
                back(NAT_1, "198.18.1.21:20", client, ACK),
                out("198.18.0.100:20", client, ACK),
            ),
            (
                "from a port that is no privileged one",
                1,
                back(NAT_1, "198.18.1.21:50001", client, SYN),
                out("198.18.0.100:50001", client, SYN),
            ),
            (
                "no data port",
                1,
                back(NAT_1, "198.18.1.21:50100", client, SYN),
                dropped(Reason::NotOurs),
            ),
            (
                "no opening packet",
                1,
                back(NAT_1, "198.18.1.21:20", "198.18.0.2:5009", ACK),
                dropped(Reason::UnknownReturn),
            ),
            (
                "another server, whose client it is not",
                1,
                back(SERVER_2, "198.18.1.22:2120", client, SYN),
                dropped(Reason::UnknownReturn),
            ),
            (
                "the other client's session",
                0,
                from("198.18.0.3:4000", VIP, SYN),
                at(SERVER_2, "198.18.0.3:4000", "198.18.1.22:2121", SYN),
            ),
            (
                "the port below its control port becomes 20",
                1,
                back(SERVER_2, "198.18.1.22:2120", other, SYN),
                out("198.18.0.100:20", other, SYN),
            ),
        ],
    );
    let connection = lab.find(Protocol::Tcp, client, "198.18.0.100:20").unwrap();
    assert_eq!(connection.state(), State::Established);
    let template = TemplateKey { service: 1.into(), client: "198.18.0.2".parse().unwrap() };
    let template = lab.shared.table.templates.find(&template).unwrap();
    assert_eq!(template.controls, 3, "control and two data connections");
}

/// A segment of a server to its client with text in it.
fn segment(from: &str, to: &str, text: &str) -> Vec<u8> {
    let (from, to): (std::net::SocketAddrV4, std::net::SocketAddrV4) =
        (from.parse().unwrap(), to.parse().unwrap());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(NAT_1, BACK)
        .ipv4(from.ip().octets(), to.ip().octets(), 64)
        .tcp(from.port(), to.port(), 1000, 8192)
        .ack(1)
        .write(&mut frame, text.as_bytes())
        .unwrap();
    frame
}

#[test]
fn replies_name_the_vip_on_the_control_connection_alone() {
    let mut lab = lab();
    let data = "198.18.0.2:5001";
    assert!(matches!(lab.handle(0, &from(CONTROL, VIP, SYN)), Outcome::Sent(..)));
    assert!(matches!(lab.handle(0, &from(data, "198.18.0.100:50000", SYN)), Outcome::Sent(..)));
    let reply = "227 Entering Passive Mode (198,18,1,21,195,80).\r\n";
    let mut said = |from, to, text: &str| match lab.handle(1, &segment(from, to, text)) {
        Outcome::Sent(0, frame) => {
            let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else { panic!() };
            let Some(etherparse::NetSlice::Ipv4(ip)) = sliced.net else { panic!() };
            assert_eq!(
                tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap(),
                tcp.checksum()
            );
            String::from_utf8(tcp.payload().to_vec()).unwrap()
        }
        other => panic!("{other:?}"),
    };
    let translated = "227 Entering Passive Mode(198,18,0,100,195,80).\r\n";
    let cut = &reply[..40];
    assert_eq!(said("198.18.1.21:21", CONTROL, cut), cut);
    assert_eq!(said("198.18.1.21:21", CONTROL, reply), translated);
    assert_eq!(said("198.18.1.21:21", CONTROL, reply), translated, "sent again");
    assert_eq!(said("198.18.1.21:50000", data, reply), reply, "what a file says");
    assert_eq!(lab.worker.counters().unfit_replies(), 1, "and counted");
}

/// The new holder has the template, and a copy of the data connection knows its ports.
#[test]
fn sessions_go_on_at_another_node() {
    let mut lab = lab();
    let client = "198.18.0.2:5001";
    let record = TemplateRecord {
        key: TemplateKey { service: 1.into(), client: "198.18.0.2".parse().unwrap() },
        server: 12.into(),
        group: GROUP,
        incarnation: 5,
        origin: Origin::default(),
        assured: true,
    };
    let replica = TemplateReplica { record, donated: false, snapshot: 0 };
    let _ = lab.shared.table.templates.apply(&replica, START);
    run(
        &mut lab,
        &[
            (
                "passive",
                0,
                from(client, "198.18.0.100:50003", SYN),
                at(SERVER_2, client, "198.18.1.22:50003", SYN),
            ),
            (
                "active",
                1,
                back(SERVER_2, "198.18.1.22:2120", "198.18.0.2:5002", SYN),
                out("198.18.0.100:20", "198.18.0.2:5002", SYN),
            ),
        ],
    );
    let config = lab.shared.config.load();
    for (vip_port, port) in [(21, 2121), (20, 2120), (50_003, 50_003)] {
        assert_eq!(config.target(12.into(), vip_port).unwrap().port, port);
    }
    // A server without a port has that of the service.
    let bare = ServerSpec { port: 0, ..config.server(11.into()).unwrap().0.spec.servers[0] };
    let spec = &config.server(11.into()).unwrap().0.spec;
    assert_eq!([21, 20, 50_003].map(|port| spec.server_port(&bare, port)), [21, 20, 50_003]);
}
