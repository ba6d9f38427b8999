//! The fuzzer: libFuzzer's command line, with the target in the variable `TARGET`.
//!
//! One program for all targets: each would have to be linked by itself otherwise.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| (steadfast_fuzz::chosen().run)(input));
