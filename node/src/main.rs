//! The Steadfast daemon.

fn main() {}
