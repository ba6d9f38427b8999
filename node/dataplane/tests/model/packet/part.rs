//! Parts of packets (RFC 791 section 3.2, RFC 8200 section 4.5).

use super::{Body, Pkt, Proto};

/// Which part of the payload that its packet describes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Part {
    pub(crate) offset: usize,
    pub(crate) len: usize,
    /// More follow.
    pub(crate) more: bool,
}

/// Length of the header that says so in IPv6.
pub(super) const HEADER: usize = 8;

/// The longest payload.
const WHOLE_MAX: usize = 65_535;

impl Part {
    /// These octets of a whole payload; behind its end something else.
    pub(super) fn of(self, mut payload: Vec<u8>) -> Vec<u8> {
        let end = self.offset + self.len;
        payload.resize(payload.len().max(end), 0xaa);
        payload[self.offset..end].to_vec()
    }

    /// The field of both families: offset in units of eight octets, and flags.
    pub(super) fn offset_field(self) -> u16 {
        (self.offset / 8) as u16
    }
}

impl Pkt {
    /// An IPv6 packet that says which part it is may be whole (RFC 6946).
    pub(crate) fn fragment(&self) -> Option<Part> {
        self.part.filter(|part| part.offset > 0 || part.more)
    }

    /// A part that shows no ports.
    pub(crate) fn is_later(&self) -> bool {
        self.fragment().is_some_and(|part| part.offset > 0)
    }

    /// In 32 bits, as IPv6 has it.
    pub(crate) fn wide_id(&self) -> u32 {
        u32::from(self.id) << 16 | u32::from(self.id)
    }

    /// Why no honest sender made this part, or why it cannot be read.
    pub(crate) fn unfit(&self) -> Option<&'static str> {
        let Part { offset, len, more } = self.fragment()?;
        let is_tcp = self.proto() == Some(Proto::Tcp);
        if len == 0
            || (more && len % 8 != 0)
            || (is_tcp && (1..20).contains(&offset))
            || offset + len > WHOLE_MAX
        {
            return Some("fragment");
        }
        let header = match &self.body {
            Body::Tcp { options, .. } => 20 + options.len(),
            Body::Udp { .. } => 8,
            // The first chunk says what the packet is.
            Body::Sctp(_) => 12 + 4,
            _ => 4,
        };
        (offset == 0 && len < header).then_some("malformed")
    }
}
