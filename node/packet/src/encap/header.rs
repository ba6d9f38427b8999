//! Headers between two IP headers.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16,
};

/// GUE variant 0 without optional fields (draft-ietf-intarea-gue section 3.1; Linux
/// include/net/gue.h).
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Gue {
    /// Variant 0, no control message, no optional fields.
    pub(super) variant_control_hlen: u8,
    /// Number of the protocol that follows.
    pub(super) protocol: u8,
    pub(super) flags: U16,
}

/// The first four octets of GRE (RFC 2784 section 2.1).
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Gre {
    pub(super) flags: U16,
    /// EtherType of what follows.
    pub(super) protocol: U16,
}

/// The optional checksum of GRE.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct GreChecksum {
    pub(super) checksum: U16,
    pub(super) reserved: U16,
}

/// The flag that [`GreChecksum`] is present.
pub(super) const GRE_CHECKSUM: u16 = 0x8000;

const _: () = assert!(size_of::<Gue>() == 4 && size_of::<Gre>() == 4);
const _: () = assert!(size_of::<GreChecksum>() == 4);
