//! The Steadfast command line.

fn main() {}
