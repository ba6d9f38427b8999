//! When a connection is to be copied.
//!
//! [`needed`] is the predicate of IPVS, Linux `net/netfilter/ipvs/ip_vs_sync.c`,
//! `ip_vs_sync_conn_needed()`, for connections that are no persistence templates:
//!
//! - TCP only in ESTABLISHED, FIN_WAIT, CLOSE, CLOSE_WAIT and TIME_WAIT;
//! - SCTP only in ESTABLISHED, SHUTDOWN_SENT, SHUTDOWN_RECEIVED, SHUTDOWN_ACK_SENT and CLOSED;
//! - a change of state since the last copy, to anything but ESTABLISHED, is copied at once;
//! - with a refresh period, a timer that has moved less than it (and less than half the timeout or
//!   10 s, whichever is more) is left alone, but for `retries` repetitions an eighth of the period
//!   apart;
//! - with a period, packet numbers that leave `threshold` when divided by it; with neither, packet
//!   number `threshold` alone.
//!
//! [`wants`] adds what IPVS lacks: every packet for the careful, the packet that establishes a
//! connection, and at once what no other node could derive by hashing.
//!
//! Guarantees: no clock, no lock; of several threads that ask for one connection at the same time
//! one is told to copy it. Not here: deletes, which follow from [`crate::DirtySet`].

#[cfg(test)]
mod tests;

use steadfast_dataplane::{Connection, State, SyncSettings};

const NS_PER_MS: u64 = 1_000_000;
/// A timer that has moved so far is always worth a copy.
const REFRESH_MS_MAX: i64 = 10_000;
/// The lowest two bits of the time of the last copy count its repetitions.
const RETRY_BITS: i64 = 3;

/// A packet that went out to the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// State before it.
    pub old: State,
    /// State after it.
    pub new: State,
    /// Number of inbound packets, this one included.
    pub in_pkts: u64,
    /// Timeout of the connection in its new state.
    pub timeout_ns: u64,
    /// Now.
    pub now_ns: u64,
}

/// What is remembered of the last copy (IPVS `old_state` and `sync_endtime`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Memory {
    /// State that was copied last.
    pub state: State,
    /// When the copied timer would run out, in ms; retries in the lowest two bits.
    pub end_ms: i64,
}

/// The predicate of IPVS: what to remember if the connection is to be copied, and whether a change
/// of state forces that even when another thread is faster.
#[must_use]
#[inline]
pub fn needed(settings: &SyncSettings, packet: &Packet, memory: Memory) -> Option<(Memory, bool)> {
    if !is_copied(packet.new) {
        return None;
    }
    let forced = packet.new != State::Udp && packet.new != memory.state;
    let at_once = forced && !packet.new.is_established();
    // Most packets leave here.
    if !at_once && !is_counted(settings, packet.in_pkts) {
        return None;
    }
    let now = to_ms(packet.now_ns);
    let timeout = to_ms(packet.timeout_ns);
    let mut end = now.wrapping_add(timeout) & !RETRY_BITS;
    if at_once {
        return Some((Memory { state: packet.new, end_ms: end }, true));
    }
    let refresh = i64::from(settings.refresh_period_s) * 1000;
    if refresh > 0 {
        let moved = end.wrapping_sub(memory.end_ms).unsigned_abs();
        let least = refresh.min((timeout / 2).max(REFRESH_MS_MAX)).unsigned_abs();
        if moved < least {
            let retries = memory.end_ms & RETRY_BITS;
            if retries >= i64::from(settings.retries) {
                return None;
            }
            let due = memory.end_ms.wrapping_sub(timeout).wrapping_add(refresh / 8);
            if now < due {
                return None;
            }
            end |= retries + 1;
        }
    }
    Some((Memory { state: packet.new, end_ms: end }, forced))
}

/// Packet number `in_pkts` is one of those that are copied.
#[inline]
fn is_counted(settings: &SyncSettings, in_pkts: u64) -> bool {
    match settings.period {
        0 => settings.refresh_period_s > 0 || in_pkts == u64::from(settings.threshold),
        period => in_pkts % u64::from(period) == u64::from(settings.threshold),
    }
}

/// Whether this packet makes the connection one to be copied. `deviating` says that hashing alone
/// would not lead another node to the same server; it is asked only when that matters.
#[inline]
pub fn wants(
    settings: &SyncSettings,
    packet: &Packet,
    connection: &Connection,
    deviating: impl FnOnce() -> bool,
) -> bool {
    let by_packets = ask(settings, packet, connection);
    if by_packets || (settings.every_packet && is_copied(packet.new)) {
        return true;
    }
    match packet.new {
        // One-way flows have no handshake: their first packet is all there may ever be.
        State::Udp => packet.in_pkts == 1 && deviating(),
        new if new.is_established() && !packet.old.is_established() => {
            let wanted = settings.on_established || deviating();
            // A connection that ended and was opened anew ends with a change once more.
            if wanted {
                connection.set_synced_state(new);
            }
            wanted
        }
        _ => false,
    }
}

/// Asks the predicate and remembers its answer in the connection.
#[inline]
fn ask(settings: &SyncSettings, packet: &Packet, connection: &Connection) -> bool {
    let word = connection.sync_word();
    let memory = Memory { state: connection.synced_state(), end_ms: word.cast_signed() };
    let Some((new, forced)) = needed(settings, packet, memory) else { return false };
    connection.set_synced_state(new.state);
    let won = connection.swap_sync_word(word, new.end_ms.cast_unsigned());
    won || forced
}

/// States that IPVS copies.
#[inline]
fn is_copied(state: State) -> bool {
    matches!(
        state,
        State::Established
            | State::FinWait
            | State::Close
            | State::CloseWait
            | State::TimeWait
            | State::Udp
            | State::SctpEstablished
            | State::SctpShutdownSent
            | State::SctpShutdownReceived
            | State::SctpShutdownAckSent
            | State::SctpClosed
    )
}

fn to_ms(ns: u64) -> i64 {
    i64::try_from(ns / NS_PER_MS).unwrap_or(i64::MAX)
}
