//! Packets in, verdicts and packets out: one file for each part of the data plane.
//!
//! One binary, for a test binary costs more to link than most of these files to compile.
#![allow(clippy::unwrap_used)]

mod attack;
#[path = "../both/mod.rs"]
mod both;
mod churn;
mod churn_kinds;
mod client_address;
mod defence;
mod deltas;
mod early;
mod express;
mod fragments;
mod ftp;
mod ftp_replies;
mod full_nat;
mod handles;
mod icmp;
mod ipv6;
#[path = "../lab/mod.rs"]
mod lab;
mod life;
mod newcomers;
mod once;
mod persistence;
mod pieces;
mod proxy_header;
mod quic;
mod rehearse;
mod replica;
mod roles;
mod sctp;
mod services;
mod specification;
mod syn_proxy;
mod table;
mod tunnel_mtu;
mod tunnels;
mod unknown;
mod vlan;
mod worker;
