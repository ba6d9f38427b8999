//! SYN cookies: sequence numbers that remember a SYN so that nobody else has to (RFC 4987 section
//! 3.6).
//!
//! ```text
//! bit 31     whether the number of the slot is odd
//! bits 28-30 index into a table of segment sizes
//! bits 24-27 who issued it, as far as four bits tell
//! bits 0-23  keyed hash of all of this, the two ends, the client's number, the slot, and what the
//!            timestamp says
//! ```
//!
//! A client that offers timestamps echoes ours, whose lowest six bits hold the window scale that it
//! offered (15: none) and whether it takes selective acknowledgements. Without timestamps it gets
//! neither.
//!
//! Guarantees: any node that has the keys knows what any other issued; a cookie is good in its slot
//! and the next, for the same two ends and the same number of the client; keys are in no output.
//! Not guaranteed: that one who sends 2^24 guesses does not hit once.

use std::{fmt, hash::Hasher, net::IpAddr};

use siphasher::sip::SipHasher24;
use steadfast_packet::SegmentOptions;

use crate::FlowKey;

/// The key of a slot: a stretch of time that the cluster agrees on.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct CookieKey {
    /// The number of the slot; they count up.
    pub slot: u64,
    /// Random.
    pub key: [u64; 2],
}

/// The keys that cookies are issued and accepted with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CookieKeys {
    /// That of the present slot.
    pub present: CookieKey,
    /// That of the slot before.
    pub previous: Option<CookieKey>,
}

/// The answer to a SYN.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Issued {
    /// The sequence number.
    pub(crate) cookie: u32,
    /// The timestamp, to a client that offers them.
    pub(crate) timestamp: Option<u32>,
}

/// What a cookie remembers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Remembered {
    /// The segment size that the client offered, or a smaller one.
    pub(crate) mss: u16,
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    /// See [`CookieKeys::issue`].
    pub(crate) issuer: u8,
}

/// Segment sizes that are told apart, by family; one in between counts as the next lower.
const SIZES_V4: [u16; 8] = [88, 536, 1200, 1300, 1400, 1440, 1460, 8960];
const SIZES_V6: [u16; 8] = [88, 1220, 1280, 1340, 1380, 1420, 1440, 8940];

/// Of a SYN that offers no segment size.
//= RFC 9293 section 3.7.1
const SIZE_V4: u16 = 536;
const SIZE_V6: u16 = 1220;

const ODD_SHIFT: u32 = 31;
const SIZE_SHIFT: u32 = 28;
const ISSUER_SHIFT: u32 = 24;
const HASH: u32 = (1 << ISSUER_SHIFT) - 1;
/// Issuers that can be told apart.
const ISSUER: u8 = 15;

/// The lowest bits of a timestamp.
const OFFER_BITS: u32 = 6;
const OFFER: u32 = (1 << OFFER_BITS) - 1;
const NO_SCALE: u8 = 15;
const NO_OFFER: u32 = NO_SCALE as u32;
const SACK: u32 = 1 << 4;

impl CookieKeys {
    /// The answer to a SYN with the number `isn` and this offer. Of `issuer` the cookie keeps four
    /// bits, of `now_ns` the timestamp its milliseconds.
    pub(crate) fn issue(
        &self,
        flow: &FlowKey,
        isn: u32,
        offered: &SegmentOptions,
        issuer: u8,
        now_ns: u64,
    ) -> Issued {
        let sizes = sizes(flow);
        let mss = offered.mss.unwrap_or_else(|| least_size(flow));
        let size = sizes.iter().rposition(|size| *size <= mss).unwrap_or(0) as u32;
        let offer = offered.timestamps.map_or(NO_OFFER, |_| {
            let sack = if offered.sack_permitted { SACK } else { 0 };
            u32::from(offered.window_scale.unwrap_or(NO_SCALE)) | sack
        });
        let slot = &self.present;
        let top = (slot.slot as u32 & 1) << ODD_SHIFT
            | size << SIZE_SHIFT
            | u32::from(issuer & ISSUER) << ISSUER_SHIFT;
        let timestamp = offered.timestamps.map(|_| {
            //= Linux syncookies.c, cookie_init_timestamp(): never ahead of the clock
            let now = (now_ns / 1_000_000) as u32;
            let stamp = now & !OFFER | offer;
            if stamp > now { stamp.wrapping_sub(1 << OFFER_BITS) } else { stamp }
        });
        Issued { cookie: top | slot.hash(flow, isn, top, offer), timestamp }
    }

    /// What a cookie that a client acknowledges remembers, if it was issued to this client and not
    /// too long ago; `isn` is the client's number, `echo` the timestamp that it echoes.
    pub(crate) fn accept(
        &self,
        flow: &FlowKey,
        isn: u32,
        cookie: u32,
        echo: Option<u32>,
    ) -> Option<Remembered> {
        let odd = u64::from(cookie >> ODD_SHIFT);
        let slots = [Some(self.present), self.previous];
        let slot = slots.into_iter().flatten().find(|slot| slot.slot & 1 == odd)?;
        let offer = echo.map_or(NO_OFFER, |echo| echo & OFFER);
        let top = cookie & !HASH;
        if top | slot.hash(flow, isn, top, offer) != cookie {
            return None;
        }
        let scale = (offer & NO_OFFER) as u8;
        Some(Remembered {
            mss: sizes(flow)[(cookie >> SIZE_SHIFT & 7) as usize],
            window_scale: (scale != NO_SCALE).then_some(scale),
            sack_permitted: offer & SACK != 0,
            issuer: (cookie >> ISSUER_SHIFT) as u8 & ISSUER,
        })
    }
}

impl CookieKey {
    /// The same on every node and in every release: octets, not what a language makes of types.
    fn hash(&self, flow: &FlowKey, isn: u32, top: u32, offer: u32) -> u32 {
        let octets = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
            IpAddr::V6(addr) => addr.octets(),
        };
        let mut hasher = SipHasher24::new_with_keys(self.key[0], self.key[1]);
        for addr in [flow.client, flow.vip] {
            hasher.write(&octets(addr));
        }
        for port in [flow.client_port, flow.vip_port] {
            hasher.write(&port.to_be_bytes());
        }
        hasher.write(&self.slot.to_be_bytes());
        for number in [isn, top, offer] {
            hasher.write(&number.to_be_bytes());
        }
        hasher.finish() as u32 & HASH
    }
}

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieKey").field("slot", &self.slot).finish_non_exhaustive()
    }
}

fn sizes(flow: &FlowKey) -> &'static [u16; 8] {
    if flow.vip.is_ipv4() { &SIZES_V4 } else { &SIZES_V6 }
}

fn least_size(flow: &FlowKey) -> u16 {
    if flow.vip.is_ipv4() { SIZE_V4 } else { SIZE_V6 }
}

#[cfg(test)]
#[path = "cookie_test.rs"]
mod tests;
