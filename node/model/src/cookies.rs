//! The keys of SYN cookies: the cluster agrees on them, so that any node knows a cookie of any other.
//!
//! Guarantees: the number of the slot goes up by one with each key; that before stays known for one
//! slot more, and without a leader both stay; keys are in no log line and no error. They are in the
//! replicated state, as those of the beacons are, and so on every node's disk (mode 0600).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The key of a slot.
#[derive(Clone, Copy, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct CookieSecret(pub [u64; 2]);

impl fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieSecret")
    }
}

/// The present slot and the one before.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Cookies {
    /// The number of the present slot.
    pub slot: u64,
    /// Its key.
    pub present: CookieSecret,
    /// That of the slot before.
    pub previous: Option<CookieSecret>,
}

impl Cookies {
    /// The next slot begins; none if `slot` is not its number.
    pub(crate) fn next(before: Option<Self>, slot: u64, secret: CookieSecret) -> Option<Self> {
        let expected = before.map_or(1, |before| before.slot.saturating_add(1));
        let previous = before.map(|before| before.present);
        (slot == expected).then_some(Self { slot, present: secret, previous })
    }
}
