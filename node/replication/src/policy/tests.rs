//! The predicate against a second transcription of the kernel's, and literal cases.

use proptest::prelude::*;
use steadfast_dataplane::{
    Connection, ConnectionTable, NewConnection, Protocol, Provenance, State, SyncSettings,
    TableOptions, Timeouts,
};

use super::*;

const MS: u64 = NS_PER_MS;

fn settings(threshold: u32, period: u32, refresh_period_s: u32, retries: u8) -> SyncSettings {
    SyncSettings {
        threshold,
        period,
        refresh_period_s,
        retries,
        on_established: false,
        every_packet: false,
        persist_mode: false,
    }
}

fn connection() -> Connection {
    let record = steadfast_dataplane::Record {
        key: steadfast_dataplane::FlowKey {
            protocol: steadfast_dataplane::Protocol::Tcp,
            client: [198, 18, 0, 1].into(),
            client_port: 1,
            vip: [198, 18, 0, 100].into(),
            vip_port: 80,
        },
        server: 1.into(),
        target: None,
        local: None,
        service: 1.into(),
        group: 1.into(),
        incarnation: 1,
        origin: steadfast_dataplane::Origin::default(),
    };
    let table =
        ConnectionTable::new(TableOptions { connections_max: 1, half_open_max: 1, seed: [1, 2] });
    let new = NewConnection::new(record, State::None, Provenance::Local, 0);
    table.insert(new, &Timeouts::default(), &mut Vec::new()).unwrap()
}

/// Numbers of the packets on which an established connection is copied.
fn copied(settings: &SyncSettings, packets: u64, ms_between: u64) -> Vec<u64> {
    let connection = connection();
    (1..=packets)
        .filter(|number| {
            let packet = Packet {
                old: State::Established,
                new: State::Established,
                in_pkts: *number,
                timeout_ns: 900_000 * MS,
                now_ns: (1_000_000 + number * ms_between) * MS,
            };
            wants(settings, &packet, &connection, || false)
        })
        .collect()
}

#[test]
fn the_default_3_50_copies_packets_3_53_103() {
    assert_eq!(copied(&settings(3, 50, 0, 0), 160, 1), [3, 53, 103, 153]);
}

#[test]
fn zero_and_one_copies_every_packet() {
    assert_eq!(copied(&settings(0, 1, 0, 0), 5, 1), [1, 2, 3, 4, 5]);
}

#[test]
fn without_periods_only_the_packet_of_the_threshold_is_copied() {
    assert_eq!(copied(&settings(3, 0, 0, 0), 200, 1), [3]);
}

#[test]
fn a_refresh_period_alone_copies_when_the_timer_has_moved_by_it() {
    // 8 s (below half the timeout), a packet per second.
    assert_eq!(copied(&settings(3, 0, 8, 0), 20, 1000), [1, 9, 17]);
}

#[test]
fn retries_come_an_eighth_of_the_period_apart() {
    // 8 s: a second apart, twice, then again when the timer has moved by 8 s since the last. The
    // count of retries stands in the low bits of the time, so 1 ms is missing for packet 3 and
    // 2 ms for packet 12: just so in the kernel.
    assert_eq!(copied(&settings(3, 0, 8, 2), 13, 1000), [1, 2, 4, 13]);
    assert_eq!(copied(&settings(3, 0, 8, 2), 12, 1010), [1, 2, 3, 11, 12]);
}

/// Which of these states, one after the other, are copied.
fn copied_states(states: &[State]) -> Vec<bool> {
    let settings = settings(3, 50, 0, 0);
    let connection = connection();
    let mut old = State::None;
    let mut log = Vec::new();
    for new in states.iter().copied() {
        let packet =
            Packet { old, new, in_pkts: 7, timeout_ns: 60_000 * MS, now_ns: 5_000_000 * MS };
        log.push(wants(&settings, &packet, &connection, || false));
        old = new;
    }
    log
}

#[test]
fn each_change_of_state_is_copied_at_once_except_to_established() {
    let tcp = [
        State::SynRecv,
        State::Established,
        State::FinWait,
        State::FinWait,
        State::TimeWait,
        State::LastAck,
        State::Close,
    ];
    assert_eq!(copied_states(&tcp), [false, false, true, false, true, false, true]);
    let sctp = [
        State::SctpInit1,
        State::SctpCookieReplied,
        State::SctpEstablished,
        State::SctpShutdownReceived,
        State::SctpShutdownAckSent,
        State::SctpShutdownSent,
        State::SctpRejected,
        State::SctpClosed,
        State::SctpClosed,
    ];
    let expected = [false, false, false, true, true, true, false, true, false];
    assert_eq!(copied_states(&sctp), expected);
}

/// (what, settings change, old, new, packet number, deviating, expected)
type Case = (&'static str, fn(&mut SyncSettings), State, State, u64, bool, bool);

const CASES: &[Case] = &[
    ("derivable, not yet 3", |_| (), State::SynRecv, State::Established, 2, false, false),
    ("deviating becomes established", |_| (), State::SynRecv, State::Established, 2, true, true),
    ("deviating stays established", |_| (), State::Established, State::Established, 4, true, false),
    ("deviating half-open", |_| (), State::None, State::SynRecv, 1, true, false),
    (
        "on_established",
        |s| s.on_established = true,
        State::SynRecv,
        State::Established,
        2,
        false,
        true,
    ),
    (
        "on_established, later packet",
        |s| s.on_established = true,
        State::Established,
        State::Established,
        4,
        false,
        false,
    ),
    (
        "every_packet",
        |s| s.every_packet = true,
        State::Established,
        State::Established,
        4,
        false,
        true,
    ),
    (
        "every_packet, half-open",
        |s| s.every_packet = true,
        State::None,
        State::SynRecv,
        1,
        true,
        false,
    ),
    (
        "SCTP, deviating becomes established",
        |_| (),
        State::SctpCookieReplied,
        State::SctpEstablished,
        2,
        true,
        true,
    ),
    (
        "SCTP, deviating stays established",
        |_| (),
        State::SctpEstablished,
        State::SctpEstablished,
        4,
        true,
        false,
    ),
    ("UDP, first, derivable", |_| (), State::Udp, State::Udp, 1, false, false),
    ("UDP, first, deviating", |_| (), State::Udp, State::Udp, 1, true, true),
    ("UDP, second, deviating", |_| (), State::Udp, State::Udp, 2, true, false),
    ("UDP, third", |_| (), State::Udp, State::Udp, 3, false, true),
];

#[test]
fn what_ipvs_lacks() {
    for (what, change, old, new, in_pkts, deviating, expected) in CASES {
        let mut settings = settings(3, 50, 0, 0);
        change(&mut settings);
        let connection = connection();
        // As if the state were known to the peers: only the new rules are looked at.
        connection.set_synced_state(*new);
        let packet = Packet {
            old: *old,
            new: *new,
            in_pkts: *in_pkts,
            timeout_ns: 60_000 * MS,
            now_ns: 5_000_000 * MS,
        };
        assert_eq!(wants(&settings, &packet, &connection, || *deviating), *expected, "{what}");
    }
}

/// `ip_vs_sync_conn_needed()` once more, statement by statement with the kernel's types, for a
/// connection without control and not racing; returns (answer, old_state, sync_endtime).
fn kernel(settings: &SyncSettings, packet: &Packet, old_state: u8, orig: i64) -> (bool, u8, i64) {
    const HZ: i64 = 1000;
    let pkts = i32::try_from(packet.in_pkts).unwrap();
    let state = packet.new.number();
    let (threshold, period) = (settings.threshold as i32, settings.period as i32);
    let now = (packet.now_ns / MS) as i64;
    let timeout = (packet.timeout_ns / MS) as i64;
    let mut n = (now + timeout) & !3;
    let refresh = i64::from(settings.refresh_period_s) * HZ;
    let sctp = packet.new as u8 > State::Udp as u8;
    let tcp = !sctp && packet.new != State::Udp;
    let mut set = false;
    if sctp {
        // IP_VS_SCTP_S_*: ESTABLISHED 8, SHUTDOWN_SENT 9, SHUTDOWN_RECEIVED 10,
        // SHUTDOWN_ACK_SENT 11, CLOSED 13
        if (1_u32 << state) & ((1 << 8) | (1 << 9) | (1 << 10) | (1 << 11) | (1 << 13)) == 0 {
            return (false, old_state, orig);
        }
        set = state != old_state && state != 8;
    }
    if tcp {
        // IP_VS_TCP_S_*: ESTABLISHED 1, FIN_WAIT 4, TIME_WAIT 5, CLOSE 6, CLOSE_WAIT 7
        if (1_u32 << state) & ((1 << 1) | (1 << 4) | (1 << 6) | (1 << 7) | (1 << 5)) == 0 {
            return (false, old_state, orig);
        }
        set = state != old_state && state != 1;
    }
    if !set {
        if refresh > 0 {
            let diff = n - orig;
            let min_diff = std::cmp::max(timeout >> 1, 10 * HZ);
            if diff.abs() < std::cmp::min(refresh, min_diff) {
                let retries = orig & 3;
                if retries >= i64::from(settings.retries) {
                    return (false, old_state, orig);
                }
                // time_before(now, orig - timeout + (refresh >> 3))
                if now - (orig - timeout + (refresh >> 3)) < 0 {
                    return (false, old_state, orig);
                }
                n |= retries + 1;
            }
        }
        if period > 0 {
            if pkts % period != threshold {
                return (false, old_state, orig);
            }
        } else if refresh == 0 && pkts != threshold {
            return (false, old_state, orig);
        }
    }
    (true, state, n)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A failure prints the case; set PROPTEST_RNG_SEED to replay a run.
    #[test]
    fn equals_the_kernels_predicate(
        threshold in 0_u32..6,
        period in prop_oneof![Just(0_u32), 1_u32..8],
        refresh in prop_oneof![Just(0_u32), 1_u32..40],
        retries in 0_u8..4,
        timeout_ms in prop_oneof![Just(2_000_u64), Just(60_000), Just(900_000)],
        sctp in any::<bool>(),
        walk in prop::collection::vec((0_u8..14, 0_u64..12_000), 1..40),
    ) {
        let settings = settings(threshold, period, refresh, retries);
        let mut memory = Memory { state: State::None, end_ms: 0 };
        let (mut old_state, mut endtime) = (0_u8, 0_i64);
        let mut now_ms = 10_000_000;
        for (number, (state, pause_ms)) in walk.into_iter().enumerate() {
            now_ms += pause_ms;
            let of_sctp = State::of_number(Protocol::Sctp, state);
            let new = of_sctp.filter(|_| sctp).or_else(|| State::from_u8(state.min(11))).unwrap();
            let packet = Packet {
                old: new,
                new,
                in_pkts: number as u64 + 1,
                timeout_ns: timeout_ms * MS,
                now_ns: now_ms * MS,
            };
            let ours = needed(&settings, &packet, memory);
            let (theirs, s, e) = kernel(&settings, &packet, old_state, endtime);
            (old_state, endtime) = (s, e);
            prop_assert_eq!(ours.is_some(), theirs);
            if let Some((new, _)) = ours {
                memory = new;
            }
            prop_assert_eq!((memory.state.number(), memory.end_ms), (old_state, endtime));
        }
    }
}

#[test]
fn what_was_opened_anew_ends_with_a_copy_again() {
    let settings = SyncSettings { on_established: true, ..settings(0, 0, 0, 0) };
    let connection = connection();
    let mut in_pkts = 10;
    let mut step = |old, new| {
        in_pkts += 1;
        let packet = Packet { old, new, in_pkts, timeout_ns: 900_000 * MS, now_ns: in_pkts * MS };
        wants(&settings, &packet, &connection, || false)
    };
    for life in 0..3 {
        assert!(step(State::SynRecv, State::Established), "life {life} begins");
        assert!(!step(State::Established, State::Established), "life {life} goes on");
        assert!(step(State::Established, State::FinWait), "life {life} ends");
        assert!(!step(State::FinWait, State::FinWait), "life {life} has ended");
    }
}
