//! Each kind of record, from the holder's packets to the successor's.

use steadfast_dataplane::{Protocol, Role};
use steadfast_replication::GroupRole;

use crate::{
    both::NETS,
    kinds::{self, CLIENT_PORT, Kind},
    lab::Outcome,
    node::{Node, Streams, epoch},
};

/// How records come to the successor.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// As changes, while they happen.
    Changes,
    /// In the snapshot of one that joins later.
    Snapshot,
}

/// The holder with its record, and the successor that has taken over.
fn taken_over(kind: &Kind, way: Way) -> (Node, Node) {
    let (mut holder, mut next) = (Node::new(1, kind), Node::new(2, kind));
    let first = epoch(0, 1);
    holder.hold(first, true);
    next.follow(first);
    let send = GroupRole::Send { epoch: first };
    let mut streams = match way {
        Way::Changes => {
            let mut streams = Streams::new(&holder, &next, send);
            streams.carry(&mut holder, &mut next);
            (kind.open)(&mut holder.lab, CLIENT_PORT);
            streams
        }
        Way::Snapshot => {
            (kind.open)(&mut holder.lab, CLIENT_PORT);
            Streams::new(&holder, &next, send)
        }
    };
    let applied = streams.carry(&mut holder, &mut next);
    assert!(applied > 0, "{}: nothing was copied", kind.name);
    next.hold(epoch(1, 2), true);
    (holder, next)
}

#[test]
fn every_kind_of_record_is_carried_on_by_the_successor() {
    let kinds = kinds::all();
    assert_eq!(kinds.len(), 2 * (3 * 5 + 2 * 3 + 1) + 1);
    for kind in &kinds {
        for way in [Way::Changes, Way::Snapshot] {
            let case = format!("{} by {way:?}", kind.name);
            let (mut holder, mut next) = taken_over(kind, way);
            let mut bare = Node::new(3, kind);
            bare.lab.now = next.lab.now;
            bare.lab.set_role(crate::lab::holder());
            let mut differs = false;
            for (number, (port, frame)) in
                (kind.goes_on)(&holder.lab, CLIENT_PORT).iter().enumerate()
            {
                let expected = holder.lab.handle(*port, frame);
                assert!(matches!(expected, Outcome::Sent(..)), "{case}, {number}: {expected:?}");
                let found = next.lab.handle(*port, frame);
                assert_eq!(found, expected, "{case}, packet {number}");
                differs |= bare.lab.handle(*port, frame) != expected;
            }
            assert!(differs, "{case}: a node without a copy does the same");
        }
    }
}

/// What a successor tells the next one is what it was told.
#[test]
fn every_kind_of_record_is_carried_on_by_the_successors_successor() {
    for kind in &kinds::all() {
        let (mut holder, mut next) = taken_over(kind, Way::Changes);
        let mut third = Node::new(3, kind);
        let second = epoch(1, 2);
        third.follow(second);
        let mut streams = Streams::new(&next, &third, GroupRole::Send { epoch: second });
        assert!(streams.carry(&mut next, &mut third) > 0, "{}", kind.name);
        next.lab.set_role(Role::Other { relay: vec![] });
        third.hold(epoch(2, 3), true);
        for (port, frame) in (kind.goes_on)(&holder.lab, CLIENT_PORT) {
            let expected = holder.lab.handle(port, &frame);
            assert_eq!(third.lab.handle(port, &frame), expected, "{}", kind.name);
        }
    }
}

#[test]
fn with_persist_mode_templates_go_over_and_what_they_lead_does_not() {
    for net in NETS {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            for way in [Way::Changes, Way::Snapshot] {
                for persist_mode in [false, true] {
                    let kind = kinds::persistent(net, protocol, persist_mode);
                    let (mut holder, mut next) = taken_over(&kind, way);
                    let case = format!("{} by {way:?}, {persist_mode}", kind.name);
                    let copied = next.lab.shared.table.len();
                    assert_eq!(copied == 0, persist_mode, "{case}: {copied} connections");
                    assert!(!next.lab.shared.table.templates.is_empty(), "{case}");
                    for (port, frame) in (kind.goes_on)(&holder.lab, CLIENT_PORT) {
                        let expected = holder.lab.handle(port, &frame);
                        assert_eq!(next.lab.handle(port, &frame), expected, "{case}");
                    }
                }
            }
        }
    }
}
