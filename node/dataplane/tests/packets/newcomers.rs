//! Clients on a link of the node that the kernel does not know yet: the first answer reaches them.

use steadfast_dataplane::{Action, NextHops, NoHook, Reason, Role};

use crate::{
    both::{self, CLIENT_PORT, DR_PORT, NAT_PORT, NETS, Net, REAL_PORT, at, ends::Segment, framed},
    lab::{BACK, CLIENT, FRONT, Lab, NAT_1, Outcome, PEER, SECOND, SYN, SYN_ACK, dropped},
};

/// A node that knows everybody but the clients.
fn node() -> Lab {
    let lab = both::lab();
    let mut hops = both::next_hops();
    hops.neighbours.retain(|(_, _, mac)| *mac != CLIENT);
    lab.shared.set_next_hops(NextHops::new(hops));
    lab
}

fn opens(net: Net, port: u16, from: [u8; 6]) -> Vec<u8> {
    let ends = (at(net.client, CLIENT_PORT), at(net.vip, port));
    framed((from, FRONT), &Segment::new(SYN, 1, 0, b"").packet(ends, 64))
}

fn answer(net: Net) -> Vec<u8> {
    let ends = (at(net.nat, REAL_PORT), at(net.client, CLIENT_PORT));
    framed((NAT_1, BACK), &Segment::new(SYN_ACK, 7, 2, b"").packet(ends, 64))
}

fn answered(net: Net, to: [u8; 6]) -> Outcome {
    let ends = (at(net.vip, NAT_PORT), at(net.client, CLIENT_PORT));
    Outcome::Sent(0, framed((FRONT, to), &Segment::new(SYN_ACK, 7, 2, b"").packet(ends, 63)))
}

fn is_asked_for(lab: &Lab, net: Net) -> bool {
    lab.actions.contains(&Action::Probe { port: 0, addr: net.client.parse().unwrap() })
}

#[test]
fn the_first_answer_goes_where_the_opening_packet_came_from() {
    for net in NETS {
        let mut lab = node();
        let opened = lab.handle(0, &opens(net, NAT_PORT, CLIENT));
        assert!(matches!(opened, Outcome::Sent(1, _)), "{opened:?}");
        assert!(is_asked_for(&lab, net), "the kernel asks before the answer is there");
        assert_eq!(lab.handle(1, &answer(net)), answered(net, CLIENT), "{}", net.name);
        let told = lab.shared.rehearse(lab.now, 1, &answer(net));
        assert!(told.sent.is_some(), "a rehearsal knows it too");
        // What the kernel says counts from then on.
        lab.shared.set_next_hops(NextHops::new(both::next_hops()));
        assert_eq!(lab.handle(1, &answer(net)), answered(net, CLIENT));
    }
}

#[test]
fn a_sender_is_believed_for_three_seconds() {
    let (net, mut lab) = (NETS[0], node());
    lab.handle(0, &opens(net, NAT_PORT, CLIENT));
    lab.now += 3 * SECOND - 1;
    lab.shared.advance(lab.now, 100, &NoHook);
    assert_eq!(lab.handle(1, &answer(net)), answered(net, CLIENT));
    lab.now += 1;
    lab.shared.advance(lab.now, 100, &NoHook);
    assert_eq!(lab.handle(1, &answer(net)), dropped(Reason::NextHopUnresolved));
    assert!(is_asked_for(&lab, net));
}

#[test]
fn who_did_not_send_it_itself_teaches_nothing() {
    for net in NETS {
        // Another node passed it on, or its server answers it without us.
        for (port, from) in [(NAT_PORT, PEER), (DR_PORT, CLIENT)] {
            let mut lab = node();
            lab.handle(0, &opens(net, port, from));
            assert!(!is_asked_for(&lab, net), "{port}");
            lab.handle(0, &opens(net, NAT_PORT, PEER));
            assert_eq!(lab.handle(1, &answer(net)), dropped(Reason::NextHopUnresolved), "{port}");
        }
        // It came by another way than the one that leads to it.
        let mut lab = node();
        let mut frame = opens(net, NAT_PORT, CLIENT);
        frame[..6].copy_from_slice(&BACK);
        lab.handle(1, &frame);
        assert_eq!(lab.handle(1, &answer(net)), dropped(Reason::NextHopUnresolved));
        // Nothing was opened.
        let mut lab = node();
        lab.set_role(Role::NoHolder { since_ns: 0 });
        lab.handle(0, &opens(net, NAT_PORT, CLIENT));
        assert!(!is_asked_for(&lab, net));
    }
}
