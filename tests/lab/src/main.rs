//! The lab: a cluster in network namespaces, its sessions, its faults, its report.

fn main() {}
