//! Header views, in-place rewriting and checksums; pure.
//!
//! [`parse`] checks a frame once and says where its headers are; the functions of `rewrite` and
//! `answer` then change the frame in place.
//!
//! Guarantees: no input makes anything here panic; checksums are updated incrementally
//! (RFC 1624), so an error in what was received stays an error for who checks it at the end.
//! Not here: IPv6 beyond recognising it, VLAN tags, ICMP errors to the right server.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod checksum;
mod header;
mod parse;
mod rewrite;

pub use answer::{
    ANSWER_LEN_MAX, ARP_FRAME_LEN, FRAME_LEN_MIN, NoSpace, arp_reply, echo_reply, gratuitous_arp,
    port_unreachable, tcp_reset,
};
pub use checksum::{internet_checksum, update16, update32};
pub use header::{Arp, Ethernet, Icmp, Ipv4, Mac, Protocol, Tcp, TcpFlags, Udp, ether_type};
pub use parse::{ArpRequest, Content, Ipv4Packet, ParseError, Parsed, Transport, parse};
pub use rewrite::{decrement_ttl, rewrite_destination, rewrite_source, set_macs};
