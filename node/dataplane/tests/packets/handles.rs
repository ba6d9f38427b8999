//! Handles of connections: what they say and do once the slot belongs to another.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::lab::*;
use steadfast_dataplane::{Forwarding, NewConnection, Provenance, Record, State, Target, Timeouts};

fn new(record: Record) -> NewConnection {
    NewConnection::new(record, State::Established, Provenance::Local, START)
}

#[test]
fn a_dead_handle_changes_nothing_of_the_successor() {
    let (table, timeouts) = (table(1), Timeouts::default());
    let old = table.insert(new(record(1, 1)), &timeouts, &mut Vec::new()).unwrap();
    let (same, _) = table.replace(&old, new(record(1, 2)), &timeouts).unwrap();
    assert!(old.is_dead() && !same.is_dead() && old != same);
    table.remove(&flow(1), 2).unwrap();
    let next = table.insert(new(record(2, 3)), &timeouts, &mut Vec::new()).unwrap();
    for dead in [&old, &same] {
        assert!(dead.is_dead() && *dead != next);
        dead.set_state(State::Close);
        assert!(!dead.swap_state(State::Established, State::FinWait));
        dead.set_synced_state(State::Close);
        assert!(table.changed(dead, &timeouts).is_none());
        assert!(table.replace(dead, new(record(1, 9)), &timeouts).is_err());
        assert!(!dead.is_superseded());
    }
    assert_eq!((next.state(), next.synced_state()), (State::Established, State::None));
    assert_eq!((next.record(), next.is_dead()), (record(2, 3), false));
    let gone = table.remove(&flow(2), 3).unwrap();
    assert_eq!((gone.record(), gone.state()), (record(2, 3), State::Established));
}

#[test]
fn a_removal_knows_the_peers_and_a_new_life_forgets_them() {
    let (table, timeouts) = (table(1), Timeouts::default());
    let old = table.insert(new(record(1, 1)), &timeouts, &mut Vec::new()).unwrap();
    old.note_sent_to(0b101);
    let (same, gone) = table.replace(&old, new(record(1, 1)), &timeouts).unwrap();
    assert_eq!((gone.sent_to(), same.sent_to()), (0b101, 0b101), "the same life");
    let (next, _) = table.replace(&same, new(record(1, 2)), &timeouts).unwrap();
    assert_eq!(next.sent_to(), 0, "another one");
    next.note_sent_to(2);
    assert_eq!(table.remove(&flow(1), 2).unwrap().sent_to(), 2);
}

#[test]
fn records_of_every_family_come_back_as_they_were() {
    let addrs: [IpAddr; 4] =
        ["198.18.0.1", "2001:db8::1", "::ffff:198.18.0.1", "::"].map(|addr| addr.parse().unwrap());
    let (table, timeouts) = (table(200), Timeouts::default());
    let mut records = Vec::new();
    for client in addrs {
        for vip in addrs {
            for server in addrs.map(Some).into_iter().chain([None]) {
                let mut record = record(records.len() as u16, u64::MAX);
                (record.key.client, record.key.vip) = (client, vip);
                let port = 80 + records.len() as u16;
                let forwarding =
                    if records.len() % 2 == 0 { Forwarding::Nat } else { Forwarding::Dr };
                record.target = server.map(|addr| Target { addr, port, forwarding });
                record.origin = epoch(records.len() as u32 % 7);
                records.push(record);
            }
        }
    }
    for record in &records {
        table.insert(new(*record), &timeouts, &mut Vec::new()).unwrap();
    }
    for record in &records {
        let found = table.find(&record.key).unwrap();
        assert_eq!(found.record(), *record);
        if let Some(reply) = record.reply_key() {
            assert!(table.find_reply(&reply).unwrap() == found);
        }
    }
    for record in &records {
        assert_eq!(table.remove(&record.key, u64::MAX).unwrap().record(), *record);
    }
    assert!(table.is_empty());
}

/// A look-up meets a connection that is being replaced: it finds the old or the new one, whole.
#[test]
fn what_is_replaced_is_found_all_the_time() {
    const ROUNDS: u64 = 100_000;
    let (table, timeouts) = (table(4), Timeouts::default());
    let life = |incarnation: u64| {
        let mut record = record(1, incarnation);
        let port = (incarnation % 50_000) as u16;
        record.target.as_mut().unwrap().port = port;
        record.server.0 = u32::from(port);
        record
    };
    let mut held = table.insert(new(life(0)), &timeouts, &mut Vec::new()).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let (table, done) = (&table, &done);
        let reader = scope.spawn(move || {
            let mut whole = 0_u64;
            while !done.load(Ordering::Relaxed) || whole == 0 {
                let found = table.find(&flow(1)).expect("it is there all the time");
                let record = found.record();
                if !found.is_dead() {
                    assert_eq!(record, life(record.incarnation), "two lives in one");
                    whole += 1;
                }
            }
            whole
        });
        for incarnation in 1..ROUNDS {
            held = table.replace(&held, new(life(incarnation)), &timeouts).unwrap().0;
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}
