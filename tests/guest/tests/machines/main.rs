//! What runs in emulated machines, two at a time where there are two processors.
#![allow(clippy::unwrap_used)]

mod ipvs;
mod kernels;
mod script;
mod vlan;
