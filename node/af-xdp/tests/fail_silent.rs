//! Who dies leaves silence: the kernel never answers for a VIP, and a restart finds everything.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use af_xdp::{
    AddressRole, Attached, BindMode, Interface, Socket, Steering, SteeringError, Umem, UmemConfig,
    steering::BPFFS,
};
use support::{CLIENT, Lab, Tap, run, syn, sysctl, udp};

const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 100, 1);

/// Frames of a flood. Bounded: it takes well below a second.
const FLOOD: u16 = 20_000;

/// How long nothing may come before a capture counts as complete.
const QUIET: Duration = Duration::from_millis(300);

/// A node that would answer for the VIP if it only saw the packets: forwarding is on, the VIP is
/// on `lo`, and the client's MAC is known, so that no ARP is needed to answer.
fn tempting_lab() -> (Lab, Tap) {
    let lab = Lab::new(1, 2);
    lab.in_node(|| {
        sysctl("net/ipv4/ip_forward", "1");
        // The kernel's own limits on ICMP errors would hide leaks.
        sysctl("net/ipv4/icmp_ratelimit", "0");
    });
    run("ip", &["-n", lab.node(), "link", "set", "lo", "up"]);
    run("ip", &["-n", lab.node(), "address", "add", &format!("{VIP}/32"), "dev", "lo"]);
    let client = CLIENT.to_string();
    run(
        "ip",
        &[
            "-n",
            lab.node(),
            "neighbour",
            "replace",
            &client,
            "lladdr",
            "02:00:00:00:00:c1",
            "dev",
            "a0",
            "nud",
            "permanent",
        ],
    );
    let tap = lab.in_peer(|| Tap::new("b0"));
    (lab, tap)
}

fn node_mac(lab: &Lab) -> [u8; 6] {
    lab.in_node(|| Interface::by_name("a0").unwrap().mac)
}

/// Half TCP SYNs, half datagrams, from many ports so that both queues see some; some ARP.
fn flood(tap: &Tap, mac: [u8; 6], mut between: impl FnMut(u16)) {
    for number in 0..FLOOD {
        let port = 1024 + number;
        let frame = match number % 20 {
            0 => support::arp([0xff; 6], 1, CLIENT, VIP),
            odd if odd % 2 == 1 => syn(mac, VIP, port, 80),
            _ => udp(mac, VIP, port, b"flood"),
        };
        tap.send(&frame);
        between(number);
    }
}

/// Reflections come from the node's MAC with our own addresses inside, source and target as we
/// sent them; the kernel's answers come from the VIP.
fn is_reflection(frame: &[u8]) -> bool {
    let is_arp = frame[12..14] == [8, 6];
    let source = if is_arp { &frame[28..32] } else { &frame[26..30] };
    source == CLIENT.octets()
}

#[test]
fn without_the_program_the_kernel_answers_for_the_vip() {
    let (lab, tap) = tempting_lab();
    let mac = node_mac(&lab);
    tap.send(&syn(mac, VIP, 4000, 80));
    let answer = tap.next(Duration::from_secs(5)).expect("the kernel's RST");
    let answer = etherparse::SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(etherparse::TransportSlice::Tcp(tcp)) = answer.transport else {
        panic!("not TCP: {answer:?}")
    };
    assert!(tcp.rst());
    tap.send(&udp(mac, VIP, 4000, b"x"));
    let answer = tap.next(Duration::from_secs(5)).expect("the kernel's port unreachable");
    assert_eq!((answer[23], &answer[34..36]), (1, &[3u8, 3][..]), "ICMP port unreachable");
    tap.send(&support::arp([0xff; 6], 1, CLIENT, VIP));
    let answer = tap.next(Duration::from_secs(5)).expect("the kernel's ARP reply");
    assert_eq!(answer[12..14], [8, 6]);
}

#[test]
fn after_a_kill_nothing_leaves_the_interface_under_flood() {
    let (mut lab, tap) = tempting_lab();
    let mac = node_mac(&lab);
    let instance = lab.instance("a0");
    let (mut holder, how) = lab.hold(&instance, "a0", &VIP.to_string());
    assert_eq!(how, "New");
    tap.send(&syn(mac, VIP, 4000, 80));
    let reflected = tap.next(Duration::from_secs(5)).expect("the living holder reflects");
    assert!(is_reflection(&reflected));

    // The kill falls into the flood: what comes back is what the holder reflected, no answer.
    flood(&tap, mac, |number| {
        if number == FLOOD / 4 {
            holder.kill();
        }
    });
    let leaked: Vec<_> =
        tap.drain(QUIET).into_iter().filter(|frame| !is_reflection(frame)).collect();
    assert_eq!(leaked.len(), 0, "the first: {:02x?}", leaked.first());

    // And with the holder gone, nothing at all.
    let program = Steering::attached_program(Path::new(BPFFS), &instance, "a0").unwrap();
    assert!(program.is_some(), "the link went with its process");
    flood(&tap, mac, |_| {});
    let leaked = tap.drain(QUIET);
    assert_eq!(leaked.len(), 0, "the first: {:02x?}", leaked.first());
}

#[test]
fn a_restart_finds_the_pins_and_serves_again() {
    let (mut lab, tap) = tempting_lab();
    let mac = node_mac(&lab);
    let instance = lab.instance("a0");
    let bpffs = Path::new(BPFFS);
    let (mut first, how) = lab.hold(&instance, "a0", &VIP.to_string());
    assert_eq!(how, "New");
    let second_at_once =
        lab.in_node(|| Steering::open(bpffs, &instance, "a0")).expect_err("two at once");
    assert!(matches!(second_at_once, SteeringError::InUse { .. }), "{second_at_once}");
    let old_program = Steering::attached_program(bpffs, &instance, "a0").unwrap();
    first.kill();

    let (_second, how) = lab.hold(&instance, "a0", &VIP.to_string());
    assert_eq!(how, "Updated");
    let new_program = Steering::attached_program(bpffs, &instance, "a0").unwrap();
    assert!(new_program.is_some() && new_program != old_program, "the program was not replaced");
    for port in 4000..4100 {
        tap.send(&syn(mac, VIP, port, 80));
    }
    let reflected = tap.drain(QUIET);
    assert_eq!(reflected.len(), 100, "both queues reflect");
    assert!(reflected.iter().all(|frame| is_reflection(frame)));
}

#[test]
fn switching_programs_loses_no_socket_and_leaks_nothing() {
    const SWITCHES: usize = 20;
    let (mut lab, tap) = tempting_lab();
    let instance = lab.instance("a0");
    let bpffs = Path::new(BPFFS);
    lab.in_node(|| {
        let interface = Interface::by_name("a0").unwrap();
        let mut steering = Steering::open(bpffs, &instance, "a0").unwrap();
        steering.set_addresses([(VIP.into(), AddressRole::Vip)]).unwrap();
        let mut umem = Umem::new(UmemConfig::default()).unwrap();
        let mut sockets: Vec<Socket> = (0..2)
            .map(|queue| {
                let socket =
                    Socket::bind(&mut umem, interface.index, queue, BindMode::Auto).unwrap();
                steering.insert_socket(queue, &socket).unwrap();
                socket
            })
            .collect();
        assert_eq!(steering.attach().unwrap(), Attached::New);
        let mut frames = Vec::new();
        for switch in 0..SWITCHES {
            drop(steering);
            // Nobody holds the steering now; link, tables and sockets are still there.
            for port in 0..50 {
                tap.send(&syn(interface.mac, VIP, 4000 + port, 80));
            }
            steering = Steering::open(bpffs, &instance, "a0").unwrap();
            assert_eq!(steering.attach().unwrap(), Attached::Updated, "switch {switch}");
            assert!(steering.remade_tables().is_empty());
            for port in 0..50 {
                tap.send(&syn(interface.mac, VIP, 5000 + port, 80));
            }
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while frames.len() < 100 * SWITCHES && std::time::Instant::now() < deadline {
            for socket in &mut sockets {
                socket.receive(&mut frames);
            }
        }
        assert_eq!(frames.len(), 100 * SWITCHES);
        assert_eq!(steering.counters().unwrap().no_socket, 0);
    });
    assert_eq!(tap.drain(QUIET).len(), 0);
}

#[test]
fn detaching_needs_no_process_and_leaves_nothing() {
    let (mut lab, tap) = tempting_lab();
    let mac = node_mac(&lab);
    let instance = lab.instance("a0");
    let bpffs = Path::new(BPFFS);
    let (holder, _) = lab.hold(&instance, "a0", &VIP.to_string());
    let dir = bpffs.join(&instance).join("a0");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    Steering::detach(bpffs, &instance, "a0").unwrap();
    assert!(!dir.exists() && !bpffs.join(&instance).exists());
    assert_eq!(Steering::attached_program(bpffs, &instance, "a0").unwrap(), None);
    Steering::detach(bpffs, &instance, "a0").unwrap();
    // Off at once, although the holder still runs: the kernel sees the packet.
    tap.send(&syn(mac, VIP, 4000, 80));
    let answer = tap.next(Duration::from_secs(5)).expect("the kernel's RST");
    assert!(!is_reflection(&answer));
    drop(holder);
}

/// A bpffs takes no dots in names, so the pins of `eth0.7` are in another folder than one expects.
#[test]
fn what_is_pinned_is_found_under_the_name_of_its_interface() {
    let mut lab = Lab::new(2, 1);
    let names = ["a0.7", "a1"];
    run("ip", &["-n", lab.node(), "link", "set", "a0", "down"]);
    run("ip", &["-n", lab.node(), "link", "set", "a0", "name", names[0]]);
    run("ip", &["-n", lab.node(), "link", "set", names[0], "up"]);
    let (bpffs, instance) = (Path::new(BPFFS), lab.instance(names[0]));
    lab.instance(names[1]);
    assert_eq!(Steering::pinned(bpffs, &instance).unwrap(), [""; 0]);
    for name in names {
        lab.in_node(|| Steering::open(bpffs, &instance, name).unwrap().attach().unwrap());
    }
    assert_eq!(Steering::pinned(bpffs, &instance).unwrap(), names);
    for name in names {
        assert!(Steering::attached_program(bpffs, &instance, name).unwrap().is_some());
    }
    for name in Steering::pinned(bpffs, &instance).unwrap() {
        Steering::detach(bpffs, &instance, &name).unwrap();
        assert_eq!(Steering::attached_program(bpffs, &instance, &name).unwrap(), None);
    }
    assert_eq!(Steering::pinned(bpffs, &instance).unwrap(), [""; 0]);
}

#[test]
fn an_interface_made_again_gets_a_new_link() {
    let (mut lab, _) = tempting_lab();
    let instance = lab.instance("a0");
    let bpffs = Path::new(BPFFS);
    let attach_over = |ours: bool| {
        let mut steering = Steering::open(bpffs, &instance, "a0").unwrap();
        steering.set_addresses([(VIP.into(), AddressRole::Vip)]).unwrap();
        assert_eq!(steering.is_attached().unwrap(), ours, "before");
        let how = steering.attach().unwrap();
        assert!(steering.is_attached().unwrap(), "after");
        how
    };
    let attach = || attach_over(false);
    assert_eq!(lab.in_node(attach), Attached::New);
    run("ip", &["-n", lab.node(), "link", "delete", "a0"]);
    assert_eq!(Steering::attached_program(bpffs, &instance, "a0").unwrap(), None);
    lab.add_link(0, 2);
    assert_eq!(lab.in_node(attach), Attached::Recreated);
    assert_eq!(lab.in_node(|| attach_over(true)), Attached::Updated);
    assert!(Steering::attached_program(bpffs, &instance, "a0").unwrap().is_some());
    let tap = lab.in_peer(|| Tap::new("b0"));
    tap.send(&syn(node_mac(&lab), VIP, 4000, 80));
    assert_eq!(tap.next(QUIET), None);
}

#[test]
fn a_foreign_program_and_a_foreign_link_are_refused() {
    let mut lab = Lab::new(2, 1);
    let (ours, theirs) = (lab.instance("a0"), format!("{}-other", lab.node()));
    let bpffs = Path::new(BPFFS);
    let _other_pins = Pins { instance: theirs.clone(), interface: "a0" };
    lab.in_node(|| {
        let mut foreign = Steering::open(bpffs, &theirs, "a0").unwrap();
        foreign.attach().unwrap();
        let mut steering = Steering::open(bpffs, &ours, "a0").unwrap();
        let error = steering.attach().unwrap_err();
        assert!(matches!(error, SteeringError::ForeignProgram { .. }), "{error}");
        drop(steering);
        // As after a rename: the link of a0 lies where a1's should be.
        let moved = bpffs.join(&ours).join("a1");
        fs::rename(bpffs.join(&theirs).join("a0"), &moved).unwrap();
        drop(foreign);
        let _moved_pins = Pins { instance: ours.clone(), interface: "a1" };
        let mut steering = Steering::open(bpffs, &ours, "a1").unwrap();
        let error = steering.attach().unwrap_err();
        assert!(matches!(error, SteeringError::LinkElsewhere { .. }), "{error}");
    });
}

#[test]
fn tables_of_another_shape_are_made_anew() {
    let mut lab = Lab::new(1, 1);
    let instance = lab.instance("a0");
    let bpffs = Path::new(BPFFS);
    lab.in_node(|| {
        let mut steering = Steering::open(bpffs, &instance, "a0").unwrap();
        steering.set_addresses([(VIP.into(), AddressRole::Vip)]).unwrap();
        steering.attach().unwrap();
        let dir: PathBuf = steering.dir().to_owned();
        drop(steering);
        // A table with keys of another size in the place of the VIPs.
        fs::remove_file(dir.join("vips")).unwrap();
        fs::rename(dir.join("nat_sources"), dir.join("vips")).unwrap();
        let mut steering = Steering::open(bpffs, &instance, "a0").unwrap();
        assert_eq!(steering.remade_tables(), ["vips"]);
        steering.set_addresses([(VIP.into(), AddressRole::Vip)]).unwrap();
        assert_eq!(steering.attach().unwrap(), Attached::Updated);
    });
}

#[test]
fn an_mtu_beyond_native_xdp_is_named() {
    let mut lab = Lab::new(1, 1);
    let instance = lab.instance("a0");
    run("ip", &["-n", lab.node(), "link", "set", "a0", "mtu", "4000"]);
    lab.in_node(|| {
        let mut steering = Steering::open(Path::new(BPFFS), &instance, "a0").unwrap();
        let error = steering.attach().unwrap_err();
        assert!(matches!(error, SteeringError::Mtu { mtu: 4000, .. }), "{error}");
    });
    run("ip", &["-n", lab.node(), "link", "set", "a0", "mtu", "1500"]);
    lab.in_peer(|| run("ip", &["link", "set", "b0", "mtu", "9000"]));
    lab.in_node(|| {
        let mut steering = Steering::open(Path::new(BPFFS), &instance, "a0").unwrap();
        let error = steering.attach().unwrap_err();
        assert!(error.to_string().contains("peer's MTU"), "{error}");
    });
}

/// Pins that go when the test ends, besides the lab's.
struct Pins {
    instance: String,
    interface: &'static str,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = Steering::detach(Path::new(BPFFS), &self.instance, self.interface);
    }
}
