//! The benchmarks run; what they say at these sizes means nothing.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn every_part_that_is_quick_prints_its_rows() {
    // (part, beginnings of rows)
    let parts = [
        ("size", &["| 1000 | DR |", "| 1000 | NAT in |", "| 1000 | NAT out |"][..]),
        ("services", &["| 10 | DR |", "| 100 | DR |"]),
        ("servers", &["| 10 | DR |", "| 100 | DR |"]),
        ("copies", &["| DR |", "| NAT in |", "| full-NAT in |", "| DR, IPv6 |"]),
        ("instructions", &["| 1000 | DR |"]),
        ("forward", &["| 1000 | XDP_TX", "| 1000 | bare AF_XDP |", "| 1000 | the data plane |"]),
    ];
    for (part, rows) in parts {
        let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast-bench"));
        let output = command.args(["--quick", "--part", part]).output().unwrap();
        let (text, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{part}: {text}{error}");
        for row in rows {
            assert!(
                text.lines().any(|line| line.starts_with(row)),
                "{part}: no `{row}` in\n{text}"
            );
        }
    }
}
