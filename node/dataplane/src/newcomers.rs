//! Clients on a link of this node whose MAC address the kernel does not know yet.
//!
//! Their servers' first answer would be lost: the kernel asks for the address only when there is
//! something to send. Until it has answered, the sender of the frame that opened the connection is
//! believed. Guarantees: a fixed number of clients, each for a short time; looked at only when the
//! kernel knows nothing; who opens a connection never waits for a lock.

use std::{
    hash::{Hash as _, Hasher as _},
    net::IpAddr,
    sync::{
        Mutex, PoisonError, TryLockError,
        atomic::{AtomicUsize, Ordering},
    },
};

use siphasher::sip::SipHasher13;
use steadfast_packet::Mac;

use crate::{
    Action, Actions, Forwarding, Hop, SyncHook,
    cache::Way,
    frame::Frame,
    worker::{Core, View},
};

/// Clients at a time; of two that share a place the later one has it.
const NEWCOMERS_MAX: usize = 256;

/// How long the sender of a frame is believed. The kernel asks three times, a second apart
/// (`mcast_solicit`, `retrans_time_ms`).
const NEWCOMER_NS: u64 = 3_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Newcomer {
    port: u16,
    addr: IpAddr,
    mac: Mac,
    since_ns: u64,
}

/// Who is believed; shared by all workers.
#[derive(Debug)]
pub(crate) struct Newcomers {
    places: Box<[Mutex<Option<Newcomer>>]>,
    /// Places that are taken: most of the time none is.
    taken: AtomicUsize,
    hasher: SipHasher13,
}

impl Newcomers {
    /// `seed`: what hashes are keyed with.
    pub(crate) fn new(seed: [u64; 2]) -> Self {
        let places = (0..NEWCOMERS_MAX).map(|_| Mutex::default()).collect();
        let hasher = SipHasher13::new_with_keys(seed[0], seed[1]);
        Self { places, taken: AtomicUsize::new(0), hasher }
    }

    /// `addr` sent a frame from `mac` on this interface.
    pub(crate) fn note(&self, now_ns: u64, port: u16, addr: IpAddr, mac: Mac) {
        // A group address is nobody's.
        if mac[0] & 1 != 0 {
            return;
        }
        let mut place = match self.place(port, addr).map(Mutex::try_lock) {
            Some(Ok(place)) => place,
            Some(Err(TryLockError::Poisoned(place))) => place.into_inner(),
            // Another worker has a newcomer of its own: the next packet tries again.
            Some(Err(TryLockError::WouldBlock)) | None => return,
        };
        if place.replace(Newcomer { port, addr, mac, since_ns: now_ns }).is_none() {
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// From where `addr` sent.
    pub(crate) fn find(&self, port: u16, addr: IpAddr) -> Option<Mac> {
        if self.taken.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let place = self.place(port, addr)?.lock().unwrap_or_else(PoisonError::into_inner);
        place.filter(|known| (known.port, known.addr) == (port, addr)).map(|known| known.mac)
    }

    /// Forgets who came long ago.
    pub(crate) fn advance(&self, now_ns: u64) {
        if self.taken.load(Ordering::Relaxed) == 0 {
            return;
        }
        for place in &self.places {
            let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
            if place.is_some_and(|known| now_ns.saturating_sub(known.since_ns) >= NEWCOMER_NS) {
                *place = None;
                self.taken.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Knows what `other` knows.
    pub(crate) fn copy_in(&self, other: &Self) {
        for place in &other.places {
            if let Some(known) = *place.lock().unwrap_or_else(PoisonError::into_inner) {
                self.note(known.since_ns, known.port, known.addr, known.mac);
            }
        }
    }

    fn place(&self, port: u16, addr: IpAddr) -> Option<&Mutex<Option<Newcomer>>> {
        let mut hasher = self.hasher;
        (port, addr).hash(&mut hasher);
        self.places.get((hasher.finish() % NEWCOMERS_MAX as u64) as usize)
    }
}

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Notes the sender of a packet that may open a connection whose server answers through here,
    /// and has the kernel ask for it before the answer is there.
    pub(crate) fn note_newcomer(
        &self,
        frame: &Frame<'_>,
        forwarding: Forwarding,
        client: IpAddr,
        view: View<'_>,
        actions: &mut Actions,
    ) {
        if !matches!(forwarding, Forwarding::Nat | Forwarding::FullNat) {
            return;
        }
        // What another node relayed came from that node.
        if let Some(port) = view.hops.unknown_on_link(client)
            && port == frame.port
            && !view.hops.is_cluster_mac(port, frame.src_mac)
        {
            self.shared.newcomers.note(frame.now_ns, port, client, frame.src_mac);
            actions.push(Action::Probe { port, addr: client });
        }
    }

    /// How to reach a client that the kernel does not know yet.
    pub(crate) fn newcomer(&self, way: Way, client: IpAddr, view: View<'_>) -> Option<Hop> {
        let port = view.hops.unknown_on_link(client).filter(|_| way == Way::Out)?;
        let mac = self.shared.newcomers.find(port, client)?;
        view.hops.hop_if(client, mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    fn addr(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn a_newcomer_is_known_on_its_link_for_a_while() {
        let newcomers = Newcomers::new([1, 2]);
        newcomers.note(1000, 1, addr(7), MAC);
        assert_eq!(newcomers.find(1, addr(7)), Some(MAC));
        assert_eq!((newcomers.find(0, addr(7)), newcomers.find(1, addr(8))), (None, None));
        newcomers.advance(1000 + NEWCOMER_NS - 1);
        assert_eq!(newcomers.find(1, addr(7)), Some(MAC));
        newcomers.advance(1000 + NEWCOMER_NS);
        assert_eq!(newcomers.find(1, addr(7)), None);
        newcomers.note(0, 1, addr(7), [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(newcomers.find(1, addr(7)), None, "a group address");
    }

    #[test]
    fn a_flood_of_them_is_bounded_and_the_last_are_known() {
        let newcomers = Newcomers::new([1, 2]);
        for n in 0..100_000 {
            newcomers.note(0, 0, addr(n), MAC);
            assert_eq!(newcomers.find(0, addr(n)), Some(MAC));
        }
        assert_eq!(newcomers.taken.load(Ordering::Relaxed), NEWCOMERS_MAX);
        newcomers.advance(NEWCOMER_NS);
        assert_eq!(newcomers.taken.load(Ordering::Relaxed), 0);
    }
}
