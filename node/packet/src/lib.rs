//! Header views, in-place rewriting and checksums; pure.
//!
//! [`parse`] checks a frame once and says where its headers are; the functions of `rewrite` and
//! `answer` then change the frame in place. IPv4 and IPv6 are one [`Packet`] with addresses of one
//! family. [`encapsulate`] puts a packet into another one.
//!
//! Guarantees: no input makes anything here panic; checksums are updated incrementally
//! (RFC 1624, and the CRC of SCTP by its linearity), so an error in what was received stays an error for who checks it at the end.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod checksum;
mod crc32c;
mod encap;
mod ftp;
mod header;
mod insert;
mod ipv4;
mod ipv6;
mod mss;
mod options;
mod parse;
mod pieces;
mod plain;
mod proxy;
mod quic;
mod quote;
mod rewrite;
mod sctp;
mod segment;
mod shift;
mod splice;
mod toa;
mod transport;
mod tunnel_error;
mod vlan;

pub use answer::{
    ADVERTISEMENT_LEN, ANSWER_LEN_MAX, ARP_FRAME_LEN, FRAME_LEN_MIN, NoSpace, advertisement,
    arp_reply, echo_reply, gratuitous_arp, packet_too_big, port_unreachable, sctp_abort, tcp_reset,
    time_exceeded, unsolicited_advertisement,
};
pub use checksum::{internet_checksum, pseudo_sum, update_bytes, update16, update32};
pub use crc32c::{crc32c, update_crc32c};
pub use encap::{Encapsulated, OUTER_LEN_MAX, Outer, Tunnel, UdpChecksum, encapsulate};
pub use ftp::{PassiveReply, passive_text, rewrite_passive_reply, tcp_payload};
pub use header::{Arp, Ethernet, Icmp, Ipv4, Ipv6, Mac, Protocol, Tcp, TcpFlags, Udp, ether_type};
pub use mss::{clamp_mss, lower_mss};
pub use options::BadOptions;
pub use parse::{
    ArpRequest, Content, Fragment, Packet, ParseError, Parsed, Solicitation, Transport, parse,
};
pub use pieces::{PIECES_MAX, Pieces};
pub use plain::{Plain, Rewrite, plain};
pub use proxy::{add_proxy, proxy_len, set_acknowledged};
pub use quic::{DestinationCid, destination_cid};
pub use quote::{
    IcmpError, Quoted, lower_told_mtu, parse_error, quoted_seq, rewrite_error_destination,
    rewrite_error_source, shift_quoted_seq,
};
pub use rewrite::{decrement_ttl, rewrite_destination, rewrite_source, set_macs};
pub use sctp::{Chunk, Sctp};
pub use segment::{SEGMENT_LEN_MAX, Segment, SegmentOptions, segment_options, write_segment};
pub use shift::{Grown, SeqShift, shift_numbers, tcp_header};
pub use splice::{cut, cut_payload, splice};
pub use toa::{TOA_KIND, add_toa, erase_toa, toa_len};
pub use tunnel_error::{TunnelError, tunnel_error_v4, tunnel_error_v6};
pub use vlan::{TAG_LEN, Untagged, tag, untag, vlan_of};
