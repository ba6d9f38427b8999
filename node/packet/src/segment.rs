//! TCP segments that this node sends by itself, and what a handshake offers.
//!
//! Guarantees: what is written is a whole frame with right checksums, and reads back as what was
//! asked for; malformed options are refused.

use std::net::{IpAddr, SocketAddr};

use zerocopy::IntoBytes;

use crate::{
    Ethernet, Ipv4, Ipv6, NoSpace, Packet, Protocol, Tcp,
    answer::{pad, put_ip_between},
    checksum::{internet_checksum, pseudo_sum},
    header::{ether_type, view_mut},
    options::{BadOptions, MSS, NO_OPERATION, SACK_PERMITTED, TIMESTAMPS, WINDOW_SCALE, options},
};

/// What a segment says in its options; of these a SYN and its answer make an offer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SegmentOptions {
    /// The largest segment that its sender takes.
    pub mss: Option<u16>,
    /// The power of two that its sender's windows are to be multiplied by.
    pub window_scale: Option<u8>,
    /// Selective acknowledgements may be sent.
    pub sack_permitted: bool,
    /// Its sender's timestamp, and the one that it echoes.
    pub timestamps: Option<(u32, u32)>,
}

/// A segment without data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment {
    /// From where.
    pub src: SocketAddr,
    /// Where to; of the same family.
    pub dst: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Window, as it stands in the header.
    pub window: u16,
    /// Options.
    pub options: SegmentOptions,
}

/// The longest frame that [`write_segment`] makes.
pub const SEGMENT_LEN_MAX: usize =
    size_of::<Ethernet>() + size_of::<Ipv6>() + size_of::<Tcp>() + OPTIONS_MAX;

/// All four options, padded: 4 + 2 + 10 + 3 octets.
const OPTIONS_MAX: usize = 20;

/// The largest scale that there is; a larger one means this.
//= RFC 7323 section 2.3
const WINDOW_SCALE_MAX: u8 = 14;

/// Reads the options of a TCP segment.
///
/// # Errors
/// When they are malformed, or the packet is no TCP segment in `frame`.
pub fn segment_options(frame: &[u8], packet: &Packet) -> Result<SegmentOptions, BadOptions> {
    let mut found = SegmentOptions::default();
    for option in options(frame, packet).ok_or(BadOptions)? {
        let option = option?;
        let value = frame.get(option.value).ok_or(BadOptions)?;
        match (option.kind, value) {
            (MSS, [a, b]) => found.mss = Some(u16::from_be_bytes([*a, *b])),
            (WINDOW_SCALE, [scale]) => found.window_scale = Some((*scale).min(WINDOW_SCALE_MAX)),
            (SACK_PERMITTED, []) => found.sack_permitted = true,
            (TIMESTAMPS, [a, b, c, d, e, f, g, h]) => {
                let number = |octets: [&u8; 4]| u32::from_be_bytes(octets.map(|octet| *octet));
                found.timestamps = Some((number([a, b, c, d]), number([e, f, g, h])));
            }
            (MSS | WINDOW_SCALE | SACK_PERMITTED | TIMESTAMPS, _) => return Err(BadOptions),
            _ => {}
        }
    }
    Ok(found)
}

/// Writes a segment as a frame at the start of `buffer`; both Ethernet addresses are left as they
/// are there. Returns the frame's length.
///
/// # Errors
/// When the buffer is too small, or the addresses are of two families.
pub fn write_segment(buffer: &mut [u8], segment: &Segment) -> Result<usize, NoSpace> {
    const PROTOCOL: u8 = Protocol::Tcp as u8;
    let Segment { src, dst, .. } = *segment;
    let (kind, ip_len) = match src.ip() {
        IpAddr::V4(_) => (ether_type::IPV4, size_of::<Ipv4>()),
        IpAddr::V6(_) => (ether_type::IPV6, size_of::<Ipv6>()),
    };
    let mut options = [NO_OPERATION; OPTIONS_MAX];
    let options_len = segment.options.write(&mut options);
    let l3 = size_of::<Ethernet>();
    let l4 = l3 + ip_len;
    let header_len = size_of::<Tcp>() + options_len;
    let end = l4 + header_len;
    let mut tcp = Tcp {
        src_port: src.port().into(),
        dst_port: dst.port().into(),
        seq: segment.seq.into(),
        ack: segment.ack.into(),
        offset: (header_len as u8 / 4) << 4,
        flags: segment.flags,
        window: segment.window.into(),
        checksum: 0.into(),
        urgent: 0.into(),
    };
    let options = &options[..options_len];
    let sum = pseudo_sum(src.ip(), dst.ip(), PROTOCOL, header_len as u32);
    let sum = u32::from(!internet_checksum(sum, tcp.as_bytes()));
    tcp.checksum.set(internet_checksum(sum, options));
    let place = buffer.get_mut(l4..end).ok_or(NoSpace)?;
    place[..size_of::<Tcp>()].copy_from_slice(tcp.as_bytes());
    place[size_of::<Tcp>()..].copy_from_slice(options);
    put_ip_between(buffer, l3, (src.ip(), dst.ip()), PROTOCOL, end)?;
    view_mut::<Ethernet>(buffer, 0).ok_or(NoSpace)?.ether_type.set(kind);
    Ok(pad(buffer, end))
}

impl SegmentOptions {
    /// Writes them one after the other; their length, in whole words.
    fn write(&self, buffer: &mut [u8; OPTIONS_MAX]) -> usize {
        let mut len = 0;
        let mut put = |octets: &[u8]| {
            buffer[len..len + octets.len()].copy_from_slice(octets);
            len += octets.len();
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            put(&[MSS, 4, a, b]);
        }
        if self.sack_permitted {
            put(&[SACK_PERMITTED, 2]);
        }
        if let Some((value, echo)) = self.timestamps {
            put(&[TIMESTAMPS, 10]);
            put(&value.to_be_bytes());
            put(&echo.to_be_bytes());
        }
        if let Some(scale) = self.window_scale {
            put(&[WINDOW_SCALE, 3, scale]);
        }
        len.next_multiple_of(4)
    }
}
