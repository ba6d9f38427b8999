//! Routing by QUIC connection ID (draft-ietf-quic-load-balancers).

use std::fmt;

use serde::{Deserialize, Serialize};

/// How servers make connection IDs: the parameters that they are given, too.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct QuicLbSpec {
    /// The config rotation bits, 0 to 6.
    pub id: u32,
    /// Octets of a server ID, 1 to 15.
    pub server_id_length: u32,
    /// Octets of a nonce, 4 to 18; with the server ID 19 at most.
    pub nonce_length: u32,
    /// 16 octets as 32 hexadecimal digits; none: everybody can read which server an ID names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl QuicLbSpec {
    /// The key; none too when it is not 32 hexadecimal digits.
    #[must_use]
    pub fn key_octets(&self) -> Option<[u8; 16]> {
        octets(self.key.as_ref()?)?.try_into().ok()
    }
}

impl fmt::Display for QuicLbSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, server_id_length, nonce_length, key } = self;
        let key = if key.is_some() { "keyed" } else { "not encrypted" };
        write!(f, "id {id}: {server_id_length}+{nonce_length} octets, {key}")
    }
}

/// Octets written in hexadecimal digits, two each.
#[must_use]
pub fn octets(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| !digits.is_empty() && digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_two_digits_each() {
        assert_eq!(octets("0aFf"), Some(vec![0x0a, 0xff]));
        for bad in ["", "a", "0x0a", "0g", "ä0"] {
            assert_eq!(octets(bad), None, "{bad}");
        }
        let spec = |key: &str| QuicLbSpec {
            id: 0,
            server_id_length: 1,
            nonce_length: 4,
            key: Some(key.to_owned()),
        };
        assert_eq!(spec(&"0f".repeat(16)).key_octets(), Some([0x0f; 16]));
        assert_eq!(spec(&"0f".repeat(15)).key_octets(), None);
        assert_eq!(spec("secret").to_string(), "id 0: 1+4 octets, keyed");
    }
}
