//! A holder that comes back at once has lost its connections, and its copy is the worst of all.

use steadfast_ownership::{Action, Completeness};

use crate::common::*;

/// Who announces first after node 1, which holds, has died and come back 50 ms later.
fn first_after_return(copies: Completeness) -> u32 {
    let mut net = Net::running(3);
    if copies == Completeness::Stale {
        // Nobody says that the copies are complete any more.
        net.complete.clear();
        net.run(400 * MS);
    }
    net.kill(1);
    net.run(50 * MS);
    let returned = net.now;
    net.restart(1);
    net.lead(2);
    net.run(3_000 * MS);
    let mut events = net.events.iter().filter(|event| event.at >= returned);
    let first = events.find(|event| matches!(event.action, Action::StartAnnouncing { .. }));
    first.unwrap().node.0
}

#[test]
fn whoever_lost_its_connections_does_not_go_before_stale_copies() {
    assert_ne!(first_after_return(Completeness::Stale), 1);
}

#[test]
fn nor_before_complete_ones() {
    assert_ne!(first_after_return(Completeness::Complete), 1);
}
