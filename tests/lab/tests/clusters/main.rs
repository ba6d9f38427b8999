//! What a client, a program and an operator see of running clusters, each test in namespaces of its
//! own, one after the other. Needs root; fails without.
//!
//! One binary, for a test binary costs more to link than most of these files to compile.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod client_address;
mod counting;
mod disk;
mod ftp;
mod full_nat;
mod interfaces;
mod ipv6;
mod lifecycle;
mod operator;
mod paths;
mod persistence;
mod quic;
mod service;
mod syn_proxy;
mod tunnels;
mod tunnels_v6;
mod unknown;
