//! Parsers and writers of packets, each against a second reader of the same bytes.
//!
//! One binary, for a test binary costs more to link than most of these files to compile.
#![allow(clippy::unwrap_used)]

mod errors;
mod frames;
mod ftp;
mod pieces;
mod plain;
mod proxy;
mod sctp;
mod shift;
mod splice;
mod toa;
mod tunnels;
