//! The holder A dies; B has all it said, C is short of the last batch, and C takes over.

use steadfast_dataplane::{HOLD_BACK_NS, Reason};
use steadfast_replication::GroupRole;

use crate::{
    kinds::{self, Kind},
    lab::Outcome,
    node::{Node, Streams, epoch},
};

/// Sessions that both have, and those of the last batch.
const KNOWN: u16 = 40;
const LAST: u16 = 20;
const FIRST_PORT: u16 = 4100;

/// What became of each session's next packet at C.
#[derive(Debug, Default, Eq, PartialEq)]
struct Tally {
    carried_on: u16,
    held_back: u16,
    broken: u16,
}

fn tally(kind: &Kind, holder: &mut Node, next: &mut Node, ports: std::ops::Range<u16>) -> Tally {
    let mut tally = Tally::default();
    for port in ports {
        let frames = (kind.goes_on)(&holder.lab, port);
        let (by, frame) = &frames[0];
        let expected = holder.lab.handle(*by, frame);
        match next.lab.handle(*by, frame) {
            got if got == expected => tally.carried_on += 1,
            Outcome::Dropped(Reason::HeldBack) => tally.held_back += 1,
            _ => tally.broken += 1,
        }
    }
    tally
}

/// Both survivors follow A; C stopped hearing it before the last batch.
fn survivors(kind: &Kind) -> (Node, Node, Node) {
    let [mut a, mut b, mut c] = [1, 2, 3].map(|id| Node::new(id, kind));
    let first = epoch(0, 1);
    a.hold(first, true);
    b.follow(first);
    c.follow(first);
    let send = GroupRole::Send { epoch: first };
    let mut to_b = Streams::new(&a, &b, send);
    let mut to_c = Streams::new(&a, &c, send);
    for port in FIRST_PORT..FIRST_PORT + KNOWN {
        (kind.open)(&mut a.lab, port);
    }
    to_b.carry(&mut a, &mut b);
    to_c.carry(&mut a, &mut c);
    for port in FIRST_PORT + KNOWN..FIRST_PORT + KNOWN + LAST {
        (kind.open)(&mut a.lab, port);
    }
    assert!(to_b.carry(&mut a, &mut b) >= LAST.into(), "B has the last batch");
    (a, b, c)
}

/// TCP in both families, by NAT and DR; sessions that nobody's hash could find.
fn kinds_of_tcp() -> Vec<Kind> {
    let wanted = ["IPv4 TCP Nat", "IPv4 TCP Dr", "IPv6 TCP Nat", "IPv6 TCP Dr"];
    let mut kinds = kinds::all();
    kinds.retain(|kind| wanted.iter().any(|name| kind.name.eq_ignore_ascii_case(name)));
    assert_eq!(kinds.len(), wanted.len());
    kinds
}

#[test]
fn nothing_breaks_when_the_successor_lacks_the_last_batch() {
    for kind in &kinds_of_tcp() {
        let (mut a, mut b, mut c) = survivors(kind);
        let all = FIRST_PORT..FIRST_PORT + KNOWN + LAST;
        c.hold(epoch(1, 3), false);
        let at_once = tally(kind, &mut a, &mut c, all.clone());
        let expected = Tally { carried_on: KNOWN, held_back: LAST, broken: 0 };
        assert_eq!(at_once, expected, "{}: before the donation", kind.name);
        let donate = GroupRole::Donate { epoch: epoch(0, 1), everything: true };
        b.follow(epoch(1, 3));
        let given = Streams::new(&b, &c, donate).carry(&mut b, &mut c);
        assert!(given >= LAST.into(), "{}: {given} were donated", kind.name);
        let after = tally(kind, &mut a, &mut c, all);
        let expected = Tally { carried_on: KNOWN + LAST, ..Tally::default() };
        assert_eq!(after, expected, "{}: after the donation", kind.name);
    }
}

/// The control: without B's donation those of the last batch are lost when the patience is over.
#[test]
fn without_a_donation_the_last_batch_breaks() {
    for kind in &kinds_of_tcp() {
        let (mut a, _b, mut c) = survivors(kind);
        c.hold(epoch(1, 3), true);
        c.lab.now += HOLD_BACK_NS + 1;
        let tally = tally(kind, &mut a, &mut c, FIRST_PORT..FIRST_PORT + KNOWN + LAST);
        let expected = Tally { carried_on: KNOWN, held_back: 0, broken: LAST };
        assert_eq!(tally, expected, "{}", kind.name);
    }
}
