//! The connection table: against a naive model, and under two threads.

use std::{collections::HashSet, sync::Arc, thread};

use crate::lab::*;
use proptest::prelude::*;
use steadfast_dataplane::{
    Class, Groups, InsertError, NewConnection, Protocol, Provenance, State, Timeouts,
};

/// What the table should hold: a list in the order in which classes were entered.
#[derive(Default)]
struct Model {
    /// (client port, incarnation, state, last seen)
    entries: Vec<(u16, u64, State, u64)>,
    /// Until when the half-open ones that were pushed out are paid for.
    paid: u64,
}

/// What comes of an insertion.
#[derive(Debug)]
enum Comes {
    /// In the place of another, if there was no room.
    In(Option<usize>),
    TooManyHalfOpen,
    Full,
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16),
    Remove(u16, bool),
    Move(u16, u8),
    Replace(u16),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..16u16).prop_map(Step::Insert),
        1 => (0..16u16, any::<bool>()).prop_map(|(port, right)| Step::Remove(port, right)),
        4 => (0..16u16, 0..11u8).prop_map(|(port, state)| Step::Move(port, state)),
        1 => (0..16u16).prop_map(Step::Replace),
        3 => (0..200u64).prop_map(Step::Wait),
    ]
}

impl Model {
    fn at(&self, port: u16) -> Option<usize> {
        self.entries.iter().position(|entry| entry.0 == port)
    }

    fn first(&self, class: Class) -> Option<usize> {
        self.entries.iter().position(|entry| entry.2.class() == class)
    }

    fn half_open(&self) -> usize {
        self.entries.iter().filter(|entry| entry.2.class() == Class::HalfOpen).count()
    }

    /// What becomes of a new connection.
    fn comes(&mut self, max: usize, half_open_max: usize, now: u64) -> Comes {
        let half_open = self.half_open();
        if self.entries.len() - half_open >= max && self.first(Class::Closing).is_none() {
            return Comes::Full;
        }
        if half_open >= half_open_max {
            // As many a second as there are places, one at once where there are so few.
            let cost = SECOND / half_open_max as u64;
            if self.paid.max(now - cost) + cost > now {
                return Comes::TooManyHalfOpen;
            }
            self.paid = self.paid.max(now - cost) + cost;
            return Comes::In(self.first(Class::HalfOpen));
        }
        if self.entries.len() >= max + half_open_max {
            // More were established than there should be.
            return Comes::In(self.first(Class::HalfOpen).or_else(|| self.first(Class::Closing)));
        }
        Comes::In(None)
    }

    /// Ports due without fail at `now`, and ports that may be.
    fn expire(&mut self, now: u64, gone: &HashSet<u16>) {
        const LATE: u64 = SECOND;
        self.entries.retain(|(port, _, state, seen)| {
            let due = seen + Timeouts::default().of_ns(*state);
            if gone.contains(port) {
                assert!(due <= now, "{port} expired early");
                return false;
            }
            assert!(due + LATE > now, "{port} is late");
            true
        });
    }
}

proptest! {
    /// Insertion, eviction, replacement, expiry, look-ups both ways and walks against the model.
    #[test]
    fn behaves_like_a_list(
        max in 1..6usize,
        half_open_max in 1..6usize,
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let table = bounded_table(max, half_open_max);
        let (config, groups, timeouts) = (config(), Groups::new(), Timeouts::default());
        let (mut model, mut now, mut incarnation) = (Model::default(), START, 0);
        table.advance(now, usize::MAX >> 1, &config, &groups, &mut |_| {});
        for step in steps {
            incarnation += 1;
            match step {
                Step::Insert(port) => {
                    let new = NewConnection::new(
                        record(port, incarnation), State::None, Provenance::Local, now,
                    );
                    let mut evicted = Vec::new();
                    let result = table.insert(new, &timeouts, &mut evicted);
                    if model.at(port).is_some() {
                        prop_assert!(matches!(result, Err(InsertError::Exists(_))));
                    } else {
                        match model.comes(max, half_open_max, now) {
                            Comes::In(victim) => {
                                prop_assert!(result.is_ok());
                                let victim = victim.map(|at| model.entries.remove(at).0);
                                let went: Vec<_> =
                                    evicted.iter().map(|c| c.key().client_port).collect();
                                prop_assert_eq!(went, victim.into_iter().collect::<Vec<_>>());
                                model.entries.push((port, incarnation, State::None, now));
                            }
                            Comes::TooManyHalfOpen => {
                                prop_assert!(matches!(result, Err(InsertError::HalfOpenFull)));
                            }
                            Comes::Full => prop_assert!(matches!(result, Err(InsertError::Full))),
                        }
                    }
                }
                Step::Remove(port, right) => {
                    let at = model.at(port);
                    let known = at.map_or(0, |at| model.entries[at].1);
                    let named = if right { known } else { known + 1 };
                    let removed = table.remove(&flow(port), named);
                    prop_assert_eq!(removed.is_some(), at.is_some() && right);
                    if let (Some(at), true) = (at, right) {
                        model.entries.remove(at);
                    }
                }
                Step::Move(port, state) => {
                    let Some(at) = model.at(port) else { continue };
                    let state = State::from_u8(state).unwrap();
                    let connection = table.find(&flow(port)).unwrap();
                    connection.set_state(state);
                    connection.touch(now);
                    let gone = table.changed(&connection, &timeouts);
                    let mut entry = model.entries[at];
                    let (was, same) = (entry.2.class(), entry.2.class() == state.class());
                    (entry.2, entry.3) = (state, now);
                    if same {
                        model.entries[at] = entry;
                    } else {
                        model.entries.remove(at);
                        model.entries.push(entry);
                    }
                    let joins = was == Class::HalfOpen && !same;
                    let too_many = model.entries.len() - model.half_open() > max;
                    let victim = model.first(Class::Closing).filter(|_| joins && too_many);
                    let victim = victim.filter(|at| model.entries[*at].0 != port);
                    let victim = victim.map(|at| model.entries.remove(at).0);
                    prop_assert_eq!(gone.map(|gone| gone.key().client_port), victim);
                }
                Step::Replace(port) => {
                    let Some(at) = model.at(port) else { continue };
                    let old = table.find(&flow(port)).unwrap();
                    let new = NewConnection::new(
                        record(port, incarnation), State::None, Provenance::Local, now,
                    );
                    prop_assert!(table.replace(&old, new, &timeouts).is_ok());
                    prop_assert!(old.is_dead());
                    let again = NewConnection::new(
                        record(port, incarnation), State::None, Provenance::Local, now,
                    );
                    prop_assert!(matches!(
                        table.replace(&old, again, &timeouts), Err(InsertError::Gone)
                    ));
                    model.entries.remove(at);
                    model.entries.push((port, incarnation, State::None, now));
                }
                Step::Wait(seconds) => {
                    now += seconds * SECOND;
                    let mut gone = HashSet::new();
                    loop {
                        let advanced = table.advance(now, 50, &config, &groups, &mut |connection| {
                            gone.insert(connection.key().client_port);
                        });
                        if !advanced.more {
                            break;
                        }
                    }
                    model.expire(now, &gone);
                }
            }
            prop_assert_eq!(table.len(), model.entries.len());
            prop_assert!(table.len() <= max + half_open_max);
            prop_assert_eq!(table.half_open(), model.half_open());
            let mut held: Vec<_> = walk_all(&table, 2)
                .iter()
                .map(|c| (c.key().client_port, c.incarnation(), c.state()))
                .collect();
            held.sort();
            let mut expected: Vec<_> = model.entries.iter().map(|e| (e.0, e.1, e.2)).collect();
            expected.sort();
            prop_assert_eq!(held, expected);
            //= ip_vs_proto_tcp.c, tcp_state_active_table[]: states 1, 2, 3 and 10
            let is_active = |entry: &&(u16, u64, State, u64)| [1, 2, 3, 10].contains(&(entry.2 as u8));
            let active = model.entries.iter().filter(is_active).count();
            let load = table.load(record(1, 1).server);
            prop_assert_eq!(load.active() as usize, active);
            prop_assert_eq!(load.inactive() as usize, model.entries.len() - active);
            for port in 0..16 {
                let found = table.find(&flow(port));
                prop_assert_eq!(found.is_some(), model.at(port).is_some());
                let reply = flow(port).reply("198.18.1.21".parse().unwrap(), 80);
                let replied = table.find_reply(&reply);
                match (&found, &replied) {
                    (Some(found), Some(replied)) => prop_assert!(found == replied),
                    (None, None) => {}
                    _ => prop_assert!(false, "{} found one way only", port),
                }
            }
        }
    }
}

#[test]
fn a_single_datagram_is_worth_no_more_than_a_syn() {
    let mut lab = Lab::bounded(config_spec(1), 2, 1);
    let from =
        |port: u16| udp((CLIENT, FRONT), &format!("198.18.0.2:{port}"), "198.18.0.100:53", 64);
    lab.handle(0, &from(1));
    lab.handle(0, &from(1)); // a conversation
    lab.handle(0, &from(2));
    lab.handle(0, &from(3)); // pushes out 2, not 1
    let known: Vec<_> = (1..4)
        .filter(|port| {
            let client = format!("198.18.0.2:{port}");
            lab.find(Protocol::Udp, &client, "198.18.0.100:53").is_some()
        })
        .collect();
    assert_eq!(known, [1, 3]);
}

#[test]
fn two_threads_insert_find_and_remove() {
    const PORTS: u16 = 64;
    const ROUNDS: u64 = 4_000;
    // Less than the ports, so that eviction runs too.
    let table = Arc::new(bounded_table(40, 8));
    let timeouts = Timeouts::default();
    thread::scope(|scope| {
        for thread in 0..2u64 {
            let table = &table;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let port = ((round * 7 + thread * 13) % u64::from(PORTS)) as u16;
                    let incarnation = round * 2 + thread;
                    let new = NewConnection::new(
                        record(port, incarnation),
                        State::SynRecv,
                        Provenance::Local,
                        START,
                    );
                    match table.insert(new, &timeouts, &mut Vec::new()) {
                        Ok(connection) if round % 3 == 0 => {
                            // Another thread may have pushed it out, but not removed it twice.
                            table.remove(&flow(port), incarnation);
                            assert!(connection.is_dead());
                        }
                        Ok(connection) => {
                            connection.set_state(State::Established);
                            let _ = table.changed(&connection, &timeouts);
                        }
                        Err(InsertError::Exists(connection)) => {
                            let (key, incarnation) = (connection.key(), connection.incarnation());
                            assert!(key == flow(port) || connection.is_dead());
                            table.remove(&flow(port), incarnation);
                        }
                        Err(_) => {}
                    }
                    assert!(table.len() <= 48);
                }
            });
        }
    });
    let all = walk_all(&table, 7);
    assert_eq!(all.len(), table.len(), "the ledger and the map agree");
    for connection in &all {
        assert!(!connection.is_dead());
        assert!(table.find(&connection.key()).unwrap() == *connection);
        let reply = connection.reply_key().unwrap();
        assert!(table.find_reply(&reply).unwrap() == *connection);
    }
    for connection in all {
        table.remove(&connection.key(), connection.incarnation()).unwrap();
    }
    // Every slot is free again.
    assert_eq!(table.half_open(), 0);
    for port in 0..40 {
        let new = NewConnection::new(record(port, 1), State::Established, Provenance::Local, START);
        assert!(table.insert(new, &timeouts, &mut Vec::new()).is_ok());
    }
}
