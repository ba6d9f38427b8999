//! Groups of which only some nodes keep copies.

use steadfast_model::NodeId;
use steadfast_ownership::{Completeness, MoveError, Settings};

use crate::common::{G, MS, Net, node};

/// As [`Net::running`], with copies at these nodes only.
fn running(nodes: u32, copies: &[u32]) -> Net {
    let mut net = Net::new(nodes, Settings::default());
    net.committed.groups[0].sync_group = Some(copies.iter().copied().map(NodeId).collect());
    for n in 1..=nodes {
        net.boot(node(n), 1);
    }
    net.lead(2);
    net.run(1_000 * MS);
    net
}

#[test]
fn the_first_grant_goes_to_the_sync_group() {
    let net = running(3, &[3]);
    assert_eq!(net.holders(G), vec![node(3)]);
}

#[test]
fn a_take_over_goes_to_a_node_that_has_copies_first() {
    let mut net = running(3, &[1, 3]);
    assert_eq!(net.holders(G), vec![node(1)]);
    let killed = net.now;
    net.kill(1);
    assert!(net.run_until(1_000 * MS, |net| !net.holders(G).is_empty()));
    assert_eq!(net.holders(G), vec![node(3)], "node 2 ranks before it and keeps none");
    let took = net.now.since(killed);
    assert!(took < 150 * MS, "{took} us: it does not wait for node 2");
}

#[test]
fn a_node_without_copies_takes_over_when_nobody_has_any() {
    let mut net = running(3, &[1]);
    let killed = net.now;
    net.kill(1);
    assert!(net.run_until(3_000 * MS, |net| !net.holders(G).is_empty()));
    let took = net.now.since(killed);
    assert!((1_075 * MS..1_160 * MS).contains(&took), "{took} us: late, not never");
}

#[test]
fn a_planned_move_goes_where_copies_are() {
    let mut net = running(3, &[1, 3]);
    let now = net.now;
    let refused = net.core(2).handle_move(now, G, Some(node(2)));
    assert_eq!(refused, Err(MoveError::NotComplete(node(2))));
    assert_eq!(net.core(2).handle_move(now, G, None), Ok(node(3)));
    net.run(500 * MS);
    assert_eq!(net.holders(G), vec![node(3)]);
}

#[test]
fn each_node_knows_who_has_copies() {
    let mut net = running(3, &[1, 3]);
    let now = net.now;
    let copy = |net: &mut Net, n| net.core(n).status(now).groups[0].copy;
    assert_eq!(copy(&mut net, 1), None, "the holder");
    assert_eq!(copy(&mut net, 2), Some(Completeness::Empty));
    assert_eq!(copy(&mut net, 3), Some(Completeness::Complete));
}
