//! What peers say about connections: merging, deletes, sweeps, age and take-over.

use crate::lab::*;
use steadfast_dataplane::{
    Applied, Config, ConnectionTable, Cursor, FlowKey, Groups, NewConnection, Origin, Protocol,
    Provenance, Record, Replica, Role, ServerId, ServiceId, State, Sweep, Timeouts,
};

fn advance(table: &ConnectionTable, groups: &Groups, now: u64) -> usize {
    table.advance(now, usize::MAX >> 1, &config(), groups, &mut |_| {}).expired
}

#[test]
fn replicas_outlive_their_timeout_while_another_node_holds_the_group() {
    let (table, groups, config) = (table(10), Groups::new(), config());
    let group = groups.group(GROUP);
    group.set_role(Role::Other { relay: vec![] });
    table.apply_replica(&replica(1, 1, State::Established), &config, START);
    let own = NewConnection::new(record(2, 1), State::Established, Provenance::Local, START);
    table.insert(own, &Timeouts::default(), &mut Vec::new()).unwrap();
    let full = 900 * SECOND;
    assert_eq!(advance(&table, &groups, START + full - 1), 0);
    assert_eq!(advance(&table, &groups, START + full + SECOND), 1, "its own expires");
    assert_eq!(advance(&table, &groups, START + 10 * full), 0, "the replica does not");
    // The holder falls silent, and then this node takes over.
    let lost = START + 10 * full + 5 * SECOND;
    group.set_role(Role::NoHolder { since_ns: lost });
    assert_eq!(advance(&table, &groups, lost + 4 * SECOND), 0, "nor while nobody holds");
    let taken = lost + 200_000_000;
    group.set_role(Role::Holder { epoch: epoch(1), since_ns: taken, copy_complete: true });
    let mut now = taken;
    while now < taken + full {
        assert_eq!(
            advance(&table, &groups, now),
            0,
            "{} s after take-over",
            (now - taken) / SECOND
        );
        now += 7 * SECOND;
    }
    // It was last looked at up to a time-out before it was due.
    assert_eq!(advance(&table, &groups, taken + full + SECOND), 1, "the full time-out has passed");
    assert!(table.is_empty());
}

#[test]
fn replicas_that_nobody_tells_of_any_more_get_one_time_out() {
    let (table, groups, config) = (table(10), Groups::new(), config());
    let group = groups.group(GROUP);
    group.set_role(Role::Other { relay: vec![] });
    table.apply_replica(&replica(1, 1, State::Established), &config, START);
    let full = 900 * SECOND;
    let left = START + 5 * full;
    assert_eq!(advance(&table, &groups, left), 0);
    group.set_left_ns(Some(left));
    assert_eq!(advance(&table, &groups, left + full - SECOND), 0, "it may be needed yet");
    group.set_left_ns(None);
    assert_eq!(advance(&table, &groups, left + 3 * full), 0, "its copies are kept again");
    group.set_left_ns(Some(left + 3 * full));
    assert_eq!(advance(&table, &groups, left + 5 * full), 1);
    assert!(table.is_empty());
}

#[test]
fn merge_rules() {
    use State::{Established as Est, SynRecv as Half, TimeWait as Closing};
    #[derive(Clone, Copy)]
    struct Side(State, u64, u32, u32); // state, incarnation, claim, server
    // (description, here, from the peer, donated, expected)
    let cases = [
        (
            "same: state is taken over",
            Side(Half, 5, 0, 21),
            Side(Est, 5, 0, 21),
            false,
            Applied::Updated,
        ),
        (
            "same, back to half-open",
            Side(Est, 5, 0, 21),
            Side(Half, 5, 0, 21),
            false,
            Applied::Updated,
        ),
        ("higher incarnation", Side(Est, 5, 0, 21), Side(Half, 6, 0, 31), false, Applied::Replaced),
        ("lower incarnation", Side(Half, 5, 0, 21), Side(Est, 4, 0, 31), false, Applied::Kept),
        (
            "established beats half-open",
            Side(Half, 9, 2, 21),
            Side(Est, 4, 1, 31),
            false,
            Applied::Replaced,
        ),
        ("and keeps its place", Side(Est, 4, 1, 21), Side(Half, 9, 2, 31), false, Applied::Kept),
        (
            "both established: higher epoch",
            Side(Est, 9, 1, 21),
            Side(Est, 4, 2, 31),
            false,
            Applied::Replaced,
        ),
        (
            "both established: lower epoch",
            Side(Est, 4, 2, 21),
            Side(Est, 9, 1, 31),
            false,
            Applied::Kept,
        ),
        (
            "both half-open: higher epoch",
            Side(Half, 9, 1, 21),
            Side(Half, 4, 2, 31),
            false,
            Applied::Replaced,
        ),
        (
            "donated over half-open",
            Side(Half, 9, 2, 21),
            Side(Est, 4, 1, 31),
            true,
            Applied::Replaced,
        ),
        ("donated over established", Side(Est, 4, 1, 21), Side(Est, 9, 2, 31), true, Applied::Kept),
        ("donated over closing", Side(Closing, 4, 1, 21), Side(Est, 9, 2, 31), true, Applied::Kept),
        (
            "donated, both half-open",
            Side(Half, 4, 2, 21),
            Side(Half, 9, 1, 31),
            true,
            Applied::Kept,
        ),
        (
            "donated, same, half-open here",
            Side(Half, 4, 1, 21),
            Side(Est, 4, 1, 21),
            true,
            Applied::Updated,
        ),
        (
            "donated, same, established here",
            Side(Est, 4, 1, 21),
            Side(Closing, 4, 1, 21),
            true,
            Applied::Kept,
        ),
    ];
    let mut spec = config_spec(1);
    spec.services[1].servers.push(server(22, "198.18.1.22", 80));
    let config = Config::compile(spec, None).unwrap();
    let side = |side: Side| {
        let server = ServerId(if side.3 == 21 { 21 } else { 22 });
        let record = Record { server, origin: epoch(side.2), ..record(1, side.1) };
        Record { target: config.target(server, record.key.vip_port), ..record }
    };
    for (description, here, peer, donated, expected) in cases {
        let table = table(4);
        let local = NewConnection::new(side(here), here.0, Provenance::Local, START);
        let local = table.insert(local, &Timeouts::default(), &mut Vec::new()).unwrap();
        let replica = Replica { record: side(peer), donated, snapshot: 7, ..replica(1, 1, peer.0) };
        assert_eq!(table.apply_replica(&replica, &config, START + 1), expected, "{description}");
        let after = table.find(&flow(1)).unwrap();
        let (winner, state) = match expected {
            Applied::Kept => (side(here), here.0),
            _ => (side(peer), peer.0),
        };
        assert_eq!((after.record(), after.state()), (winner, state), "{description}");
        assert_eq!(local.is_dead(), expected == Applied::Replaced, "{description}");
        let reply = winner.reply_key().unwrap();
        assert!(table.find_reply(&reply).unwrap() == after, "{description}");
        assert_eq!(table.len(), 1, "{description}");
    }
}

#[test]
fn deletes_name_what_they_kill() {
    let (table, config) = (table(4), config());
    let apply = |incarnation| {
        table.apply_replica(&replica(1, incarnation, State::Established), &config, START)
    };
    assert_eq!(apply(5), Applied::Inserted);
    assert!(table.delete_replica(&flow(1), 4, epoch(0)).is_none(), "the one before");
    assert!(table.delete_replica(&flow(1), 5, Origin::default()).is_none(), "a lower epoch");
    let gone = table.delete_replica(&flow(1), 5, epoch(0)).unwrap();
    assert_eq!(gone.incarnation(), 5);
    assert!(table.is_empty());
    assert_eq!(apply(5), Applied::Inserted);
    assert!(table.delete_replica(&flow(1), 6, epoch(3)).is_some(), "one that was replaced unseen");
}

#[test]
fn a_sweep_takes_what_the_snapshot_did_not_confirm() {
    let (table, config) = (table(20), config());
    let apply = |port, snapshot, donated, claim| {
        let mut replica = replica(port, 1, State::Established);
        (replica.snapshot, replica.donated) = (snapshot, donated);
        replica.record.origin = epoch(claim);
        table.apply_replica(&replica, &config, START)
    };
    apply(1, 1, false, 0); // older
    apply(2, 2, false, 0); // confirmed
    apply(3, 1, true, 0); // donated
    apply(4, 1, false, 9); // of a higher epoch
    let own = NewConnection::new(record(5, 1), State::Established, Provenance::Local, START);
    table.insert(own, &Timeouts::default(), &mut Vec::new()).unwrap();
    apply(6, 1, false, 0); // older, but of another shard
    apply(7, 1, false, 0); // older, confirmed again
    assert_eq!(apply(7, 2, false, 0), Applied::Updated);
    let own = NewConnection::new(record(8, 1), State::Established, Provenance::Local, START);
    table.insert(own, &Timeouts::default(), &mut Vec::new()).unwrap();
    apply(8, 1, false, 0); // own once, but the holder vouched for it
    let sweep = Sweep { group: GROUP, snapshot: 2, epoch: epoch(5) };
    let of_shard = |key: &FlowKey| key.client_port != 6;
    let (mut removed, mut cursor) = (0, Some(Cursor::default()));
    while let Some(at) = cursor {
        let (count, next) = table.sweep(&sweep, &of_shard, at, 2);
        (removed, cursor) = (removed + count, next);
    }
    let mut left: Vec<_> = walk_all(&table, 3).iter().map(|c| c.key().client_port).collect();
    left.sort_unstable();
    assert_eq!((removed, left), (2, vec![2, 3, 4, 5, 6, 7]));
}

#[test]
fn records_of_unknown_servers_wait_for_the_configuration() {
    let mut lab = Lab::new();
    let mut unknown = replica(4000, 1, State::Established);
    unknown.record.server = ServerId(77);
    let apply = |lab: &Lab| {
        let config = lab.shared.config.load();
        lab.shared.table.apply_replica(&unknown, &config, START)
    };
    assert_eq!(apply(&lab), Applied::Inserted);
    assert_eq!((lab.shared.table.unbound(), lab.shared.table.len()), (1, 1));
    let ack = from_client(4000, 8080, ACK);
    let unbound = Outcome::Dropped(steadfast_dataplane::Reason::Unbound);
    assert_eq!(lab.handle(0, &ack), unbound);
    let mut spec = config_spec(2);
    spec.services[1].servers.push(server(77, "198.18.1.21", 7777));
    lab.set_config(spec);
    assert_eq!(lab.shared.table.unbound(), 0);
    let real = "198.18.1.21:7777";
    let reply = tcp((NAT_1, BACK), real, "198.18.0.2:4000", 64, ACK);
    let back = tcp((FRONT, CLIENT), "198.18.0.100:8080", "198.18.0.2:4000", 63, ACK);
    assert_eq!(lab.handle(1, &reply), Outcome::Sent(0, back), "the reply comes first");
    let there = tcp((BACK, NAT_1), "198.18.0.2:4000", real, 63, ACK);
    assert_eq!(lab.handle(0, &ack), Outcome::Sent(1, there));
    let connection = lab.find(Protocol::Tcp, "198.18.0.2:4000", "198.18.0.100:8080").unwrap();
    assert_eq!(connection.in_pkts(), 4, "counted on from the sync threshold");
}

#[test]
fn a_copy_that_does_not_fit_says_so() {
    let (table, config) = (bounded_table(2, 1), config());
    let apply = |port, state| table.apply_replica(&replica(port, 1, state), &config, START);
    assert_eq!(apply(1, State::CloseWait), Applied::Inserted);
    assert_eq!(apply(2, State::Established), Applied::Inserted);
    assert_eq!(apply(3, State::Established), Applied::Full, "nothing is pushed out");
    assert_eq!(apply(2, State::Established), Applied::Updated, "known ones still fit");
    assert_eq!(table.len(), 2);
    assert_eq!(apply(4, State::SynRecv), Applied::Inserted, "what is half-open has its own place");
    assert_eq!(apply(5, State::SynRecv), Applied::Full);
}

/// Otherwise forged datagrams, copied by the holder, would fill the table of its successor for good.
#[test]
fn the_copy_of_a_single_datagram_gives_way_as_the_original_does() {
    let (table, config) = (bounded_table(3, 1), config());
    let apply = |port, assured| {
        let replica = Replica { assured, ..replica(port, 1, State::Udp) };
        table.apply_replica(&replica, &config, START)
    };
    assert_eq!(apply(1, true), Applied::Inserted);
    assert_eq!([apply(2, false), apply(3, false)], [Applied::Inserted; 2]);
    assert_eq!(apply(3, true), Applied::Updated, "the holder has seen more of it");
    for port in 4..9 {
        let now = START + u64::from(port) * SECOND;
        let local = NewConnection::new(record(port, 1), State::Udp, Provenance::Local, now);
        table.insert(local, &Timeouts::default(), &mut Vec::new()).unwrap();
    }
    let kept: Vec<_> = (1..9).filter(|port| table.find(&flow(*port)).is_some()).collect();
    assert_eq!(kept, [1, 3, 8]);
}

#[test]
fn a_record_that_missed_the_new_configuration_is_bound_later() {
    let lab = Lab::new();
    let older = lab.shared.config.load_full();
    let mut spec = config_spec(2);
    spec.services[1].servers.push(server(77, "198.18.1.21", 7777));
    lab.set_config(spec);
    let mut late = replica(4000, 1, State::Established);
    late.record.server = ServerId(77);
    assert_eq!(lab.shared.table.apply_replica(&late, &older, START), Applied::Inserted);
    assert_eq!(lab.shared.table.unbound(), 1);
    lab.shared.advance(START, 100, &lab.log);
    assert_eq!(lab.shared.table.unbound(), 0);
}

#[test]
fn extreme_records_of_a_peer_do_no_harm() {
    let mut lab = Lab::new();
    let config = lab.shared.config.load_full();
    let mut extreme = replica(4000, u64::MAX, State::Close);
    (extreme.in_pkts, extreme.snapshot) = (u64::MAX, u64::MAX);
    lab.shared.table.apply_replica(&extreme, &config, START);
    assert!(matches!(lab.handle(0, &from_client(4000, 8080, ACK)), Outcome::Sent(..)));
    assert!(matches!(lab.handle(0, &from_client(4000, 8080, SYN)), Outcome::Sent(..)), "reopened");
    let mut other = replica(4001, 0, State::Udp);
    other.record.key.client = "2001:db8::1".parse().unwrap();
    other.record.key.vip = "198.18.0.100".parse().unwrap();
    (other.record.service, other.record.server) = (ServiceId(u32::MAX), ServerId(u32::MAX));
    assert_eq!(lab.shared.table.apply_replica(&other, &config, u64::MAX), Applied::Inserted);
    lab.shared.advance(u64::MAX, 100_000, &lab.log);
    lab.shared.advance(0, 100, &lab.log);
}
