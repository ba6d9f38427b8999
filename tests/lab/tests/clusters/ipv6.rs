//! What a client, a switch and an operator see of a cluster with both families. The bridge asks for
//! memberships and snoops, so that a solicitation comes only to who has joined. One cluster, one
//! phase after the other. Needs root; fails without.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::common::{
    Lab, phase, until,
    wire::{self, IPV6, Mac, Wire},
};
use steadfast_lab::{
    host::{
        exec,
        family::Family,
        inside::inside,
        names::{Host, Mode, NODES, Network, VIP},
    },
    load::record,
};

const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// The others learn something by then.
const SOON: Duration = Duration::from_secs(10);

/// After a take-over or a move an address is announced at 0, 20, 100, 300 and 700 ms, then each 60 s.
const ROUNDS: Duration = Duration::from_millis(1500);

/// Ten seconds after a take-over, a second until it is reported, and time for the machine.
const STALE_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_client_a_switch_and_an_operator_see_both_families() {
    let mut lab = Lab::start_with("e2ev6", Mode::Dr, Family::V6).await;
    the_switch_knows_who_listens(&lab);
    the_vip_is_found_and_answers(&lab);
    a_session_goes_along_when_the_group_moves(&mut lab).await;
    a_stale_sender_is_relayed_and_told(&lab);
    an_address_on_an_interface_is_told(&lab);
    a_vip_that_goes_is_listened_for_no_more(&mut lab).await;
    phase("done");
}

/// The groups that the bridge in front knows, as `GROUP PORT`.
fn memberships(lab: &Lab) -> String {
    let text = exec::shell_in(&lab.namespace(Host::Switch), "bridge mdb show dev front").unwrap();
    let word_after = |line: &str, key: &str| {
        line.split_whitespace().skip_while(|w| *w != key).nth(1).unwrap_or_default().to_owned()
    };
    let lines = text
        .lines()
        .map(|line| format!("{} {}\n", word_after(line, "grp"), word_after(line, "port")));
    lines.collect()
}

fn the_switch_knows_who_listens(lab: &Lab) {
    phase("every node has joined the group of the VIP's solicitations, also who does not hold it");
    until("memberships on the bridge", SOON, || {
        let known = memberships(lab);
        let of = |n: &u8| format!("ff02::1:ff00:100 {}\n", Host::Node(*n).port(Network::Front));
        match NODES.into_iter().find(|n| !known.contains(&of(n))) {
            Some(n) => Err(format!("n{n} is missing in:\n{known}")),
            None => Ok(()),
        }
    });
}

fn the_vip_is_found_and_answers(lab: &Lab) {
    let (vip, client) = (Family::V6.vip(), lab.namespace(Host::Client));
    let (holder, _) = lab.holder().unwrap();
    phase("ping6 finds the VIP at its holder, and is answered");
    exec::shell_in(&client, "ip -6 neigh flush dev front").unwrap();
    let said = exec::shell_in(&client, &format!("ping -6 -n -c 3 -i 0.2 -W 2 {vip}")).unwrap();
    assert!(said.contains("3 received"), "{said}");
    assert!(entry(lab).contains(&text(mac_of(lab, holder))), "{}", entry(lab));
    assert!(!entry(lab).contains("router"), "a VIP is no router: {}", entry(lab));
    for n in NODES {
        let addresses = exec::shell_in(&lab.namespace(Host::Node(n)), "ip -o addr show").unwrap();
        assert!(!addresses.contains(&format!("{vip}/")), "n{n} has the VIP: {addresses}");
    }

    phase("ports without a service are refused");
    let unserved = SocketAddr::from((vip, 9));
    let (refused, unreachable) = inside(&client, || {
        let refused = TcpStream::connect_timeout(&unserved, Duration::from_secs(5)).unwrap_err();
        let socket = UdpSocket::bind("[::]:0").unwrap();
        socket.connect(unserved).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send(b"anybody?").unwrap();
        (refused.kind(), socket.recv(&mut [0; 16]).unwrap_err().kind())
    })
    .unwrap();
    assert_eq!(
        (refused, unreachable),
        (ErrorKind::ConnectionRefused, ErrorKind::ConnectionRefused)
    );
    assert!(ask(lab, Family::V4).starts_with('s'), "IPv4 beside it, at {VIP}");
}

async fn a_session_goes_along_when_the_group_moves(lab: &mut Lab) {
    phase("a move is announced for IPv6 too, and the session goes on");
    let (holder, _) = lab.holder().unwrap();
    let target = NODES.into_iter().find(|n| *n != holder).unwrap();
    let client = lab.namespace(Host::Client);
    let wire = Wire::open(&client, IPV6);
    let mut session = inside(&client, || connect(Family::V6)).unwrap();
    let server = exchange(&mut session, 1);
    lab.ctl(1, &["vip", "move", "web", "--to", &format!("n{target}")]).good();
    until("the move", SOON, || match lab.holder() {
        Some((now, _)) if now == target => Ok(()),
        now => Err(format!("{now:?}")),
    });
    let mac = mac_of(lab, target);
    until("the client knows the new holder", SOON, || {
        let now = entry(lab);
        if now.contains(&text(mac)) { Ok(()) } else { Err(now) }
    });
    assert_eq!(exchange(&mut session, 2), server, "the same server after the move");
    let frames = wire.receive(Duration::from_millis(200));
    let announced: Vec<_> = frames.iter().filter_map(|f| advertisement(f)).collect();
    let expected = Advertisement { to: ALL_NODES, from: mac, flags: 0x20 };
    assert!(announced.contains(&expected), "not announced to all: {announced:?}");
    lab.ready().await;
}

fn a_stale_sender_is_relayed_and_told(lab: &Lab) {
    phase("who goes on sending to another node is served, and told by the holder alone");
    let (holder, _) = lab.holder().unwrap();
    let (vip, client) = (Family::V6.vip(), lab.namespace(Host::Client));
    let other = NODES.into_iter().find(|n| *n != holder).unwrap();
    // Its own kernel must not find out by itself.
    let kept = "sysctl -qw net.ipv6.neigh.front.base_reachable_time_ms=3600000";
    exec::shell_in(&client, kept).unwrap();
    let stale = text(mac_of(lab, other));
    let replace = format!("ip -6 neigh replace {vip} lladdr {stale} dev front nud reachable");
    let wire = Wire::open(&client, IPV6);
    // The rounds of announcements after the move would correct it. Set once they are over, and once
    // only: set again, it might undo what the test waits for.
    std::thread::sleep(ROUNDS);
    exec::shell_in(&client, &replace).unwrap();
    let mut told = Vec::new();
    until("an advertisement of the holder for the client alone", STALE_WITHIN, || {
        ask(lab, Family::V6);
        let frames = wire.receive(Duration::from_millis(100));
        let alone = |f: &Advertisement| f.to == wire.mac && f.from == mac_of(lab, holder);
        told.extend(frames.iter().filter_map(|f| advertisement(f)).filter(alone));
        if told.is_empty() { Err("none came".to_owned()) } else { Ok(()) }
    });
    assert_eq!(told[0].flags, 0x20, "unsolicited, and it overrides");
    until("the client's kernel has taken it up", SOON, || {
        let now = entry(lab);
        if now.contains(&text(mac_of(lab, holder))) { Ok(()) } else { Err(now) }
    });
}

fn an_address_on_an_interface_is_told(lab: &Lab) {
    phase("a VIP that is left on an interface of a node is told");
    let (vip, node) = (Family::V6.vip(), lab.namespace(Host::Node(1)));
    let trouble = format!("group address {vip}");
    exec::shell_in(&node, &format!("ip addr add {vip}/128 dev lo nodad")).unwrap();
    until("a warning", SOON, || {
        let now = warnings(lab, 1);
        if now.contains(&trouble) { Ok(()) } else { Err(now) }
    });
    exec::shell_in(&node, &format!("ip addr del {vip}/128 dev lo")).unwrap();
    until("it is gone", SOON, || {
        let now = warnings(lab, 1);
        if now.contains(&trouble) { Err(now) } else { Ok(()) }
    });
}

async fn a_vip_that_goes_is_listened_for_no_more(lab: &mut Lab) {
    phase("another VIP: its group is joined, that of the former one is left");
    lab.apply(&[("2001:db8:18::100", "2001:db8:18::abcd")]).await;
    for n in NODES {
        until("the kernel's memberships", SOON, || {
            let all = exec::shell_in(&lab.namespace(Host::Node(n)), "cat /proc/self/net/igmp6");
            let all = all.unwrap();
            let has = |group: &str| all.contains(&format!("ff0200000000000000000001ff{group}"));
            let as_wanted = has("00abcd") && !has("000100");
            if as_wanted { Ok(()) } else { Err(format!("n{n}: {all}")) }
        });
    }
}

/// What matters of a neighbour advertisement for the VIP.
#[derive(Debug, PartialEq)]
struct Advertisement {
    to: Mac,
    from: Mac,
    flags: u8,
}

fn advertisement(frame: &[u8]) -> Option<Advertisement> {
    let is_one =
        frame.len() >= 78 && frame[20] == 58 && frame[54] == 136 && frame[62..78] == vip_octets();
    let to = frame[..6].try_into().unwrap();
    is_one.then(|| Advertisement { to, from: wire::source(frame), flags: frame[58] })
}

fn vip_octets() -> [u8; 16] {
    match Family::V6.vip() {
        std::net::IpAddr::V6(vip) => vip.octets(),
        std::net::IpAddr::V4(_) => unreachable!(),
    }
}

/// The client's neighbour entry for the VIP.
fn entry(lab: &Lab) -> String {
    let show = format!("ip -6 neigh show {} dev front", Family::V6.vip());
    exec::shell_in(&lab.namespace(Host::Client), &show).unwrap()
}

fn warnings(lab: &Lab, n: u8) -> String {
    lab.status_json(n)["warnings"].to_string()
}

fn mac_of(lab: &Lab, n: u8) -> Mac {
    Wire::open(&lab.namespace(Host::Node(n)), IPV6).mac
}

fn text(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

fn connect(family: Family) -> TcpStream {
    let stream = TcpStream::connect_timeout(&family.target(), Duration::from_secs(5)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// Says something and hears which server echoes it.
fn exchange(stream: &mut TcpStream, sequence: u64) -> String {
    stream.write_all(&record::record(1, sequence)).unwrap();
    let mut answer = Vec::new();
    BufReader::new(&*stream).read_until(b'\n', &mut answer).unwrap();
    record::split_answer(&answer).unwrap().0.to_owned()
}

/// Which server answers a new connection.
fn ask(lab: &Lab, family: Family) -> String {
    inside(&lab.namespace(Host::Client), || exchange(&mut connect(family), 1)).unwrap()
}
