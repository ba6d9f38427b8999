//! Real programs through the VIP: each in every way of forwarding, over IPv4 and IPv6, at rest and
//! while the holder is killed.
//!
//! Guarantees: a cell is good only if the program itself saw no error *and* what it got or
//! delivered is what was sent, byte for byte. What a program does over again by itself (`dig` asks
//! again) is allowed and told; nothing else is tried twice.
//!
//! One cluster does all: the servers are in the front *and* behind the nodes, each way of
//! forwarding has VIPs of its own in the same group, and each program serves all of them. A way
//! of forwarding is a row of [`mode::MODES`], a program one of [`cell::Program`].

pub mod cell;
pub mod client;
pub mod document;
pub mod mode;
pub mod report;
pub mod round;
pub mod server;
pub mod session;
pub mod stage;
pub mod suite;
