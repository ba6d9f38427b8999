//! A question: what do you have of these connections?

use steadfast_model::GroupId;

use super::{
    TYPE_ASK, WireError,
    batch::{HEAD_CLIENT_V6, HEAD_VIP_V6, decode_key},
    cursor::{Reader, put_varint},
};
use crate::Key;

/// Keys of one question.
pub const ASK_KEYS_MAX: usize = 64;

/// Asks for connections of a group.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ask {
    /// The group.
    pub group: GroupId,
    /// The connections; at most [`ASK_KEYS_MAX`].
    pub keys: Vec<Key>,
}

impl Ask {
    /// The frame. At most [`ASK_KEYS_MAX`] keys are written.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let keys = &self.keys[..self.keys.len().min(ASK_KEYS_MAX)];
        let mut out = vec![TYPE_ASK];
        put_varint(&mut out, u64::from(self.group.0));
        put_varint(&mut out, keys.len() as u64);
        for key in keys {
            let client = if key.client.is_ipv6() { HEAD_CLIENT_V6 } else { 0 };
            let vip = if key.vip.is_ipv6() { HEAD_VIP_V6 } else { 0 };
            out.extend_from_slice(&[client | vip, key.protocol]);
            for (address, port) in [(key.client, key.client_port), (key.vip, key.vip_port)] {
                match address {
                    std::net::IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
                    std::net::IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
                }
                out.extend_from_slice(&port.to_be_bytes());
            }
        }
        out
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let group = GroupId(r.varint_u32("group")?);
        let count = r.count("keys", ASK_KEYS_MAX)?;
        let mut keys = Vec::with_capacity(count.min(r.remaining()));
        for _ in 0..count {
            let at = r.position();
            let head = r.u8("key")?;
            if head & !(HEAD_CLIENT_V6 | HEAD_VIP_V6) != 0 {
                return Err(WireError::Item { got: head, at });
            }
            let protocol = r.u8("protocol")?;
            keys.push(decode_key(r, head, protocol)?);
        }
        Ok(Self { group, keys })
    }
}
