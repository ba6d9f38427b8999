//! iperf3, one TCP stream each way at once: no error, and octets both ways up to the end.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Ask;
use crate::programs::{cell::Phase, document::IPERF, report::Seen};

/// At rest.
const STEADY_S: u64 = 2;

/// Each way, so that the machine has time for the rest.
const RATE: &str = "16M";

pub(super) async fn run(ask: &Ask) -> Result<Seen> {
    let seconds = match ask.phase {
        Phase::Steady => STEADY_S,
        Phase::Kill => ask.lasts.as_secs() + 1,
    };
    let (vip, port) = (ask.vip.to_string(), IPERF.to_string());
    let seconds = seconds.to_string();
    let args = ["--client", &vip, "--port", &port, "--time", &seconds, "--bitrate", RATE];
    let args = [&args[..], &["--bidir", "--json"]].concat();
    let ended = ask.client.run("iperf3", &args).await?;
    let json: Value = serde_json::from_str(&ended.out).with_context(|| ended.complaint())?;
    let mut seen = judge(&json);
    seen.must(ended.code == Some(0), || format!("exit {:?}", ended.code));
    Ok(seen)
}

/// What `--json` printed.
fn judge(json: &Value) -> Seen {
    let mut seen = Seen::default();
    seen.must(json["error"].is_null(), || json["error"].to_string());
    let octets = |name: &str| json["end"][name]["bytes"].as_u64().unwrap_or(0);
    let last = json["intervals"].as_array().and_then(|all| all.last());
    let mut figures = Vec::new();
    for (way, received, interval) in [
        ("to the server", "sum_received", "sum"),
        ("to the client", "sum_received_bidir_reverse", "sum_bidir_reverse"),
    ] {
        let in_the_end = last.and_then(|last| last[interval]["bytes"].as_u64()).unwrap_or(0);
        seen.must(octets(received) > 0, || format!("nothing came {way}"));
        seen.must(in_the_end > 0, || format!("nothing came {way} in the end"));
        figures.push(format!("{} KiB {way}", octets(received) / 1024));
    }
    seen.figures = figures.join(", ");
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(sum: u64, reverse: u64) -> Value {
        serde_json::json!({
            "intervals": [{"sum": {"bytes": 1}, "sum_bidir_reverse": {"bytes": 1}},
                          {"sum": {"bytes": sum}, "sum_bidir_reverse": {"bytes": reverse}}],
            "end": {"sum_received": {"bytes": 4096}, "sum_received_bidir_reverse": {"bytes": 2048}}
        })
    }

    #[test]
    fn an_error_or_a_silent_end_is_seen() {
        let good = judge(&json(5, 6));
        assert_eq!(good.figures, "4 KiB to the server, 2 KiB to the client");
        assert!(good.wrong.is_empty());
        assert_eq!(judge(&json(0, 6)).wrong, ["nothing came to the server in the end"]);
        assert_eq!(judge(&json(5, 0)).wrong, ["nothing came to the client in the end"]);
        let failed = serde_json::json!({"error": "Connection reset by peer", "end": {}});
        assert_eq!(judge(&failed).wrong.len(), 5);
    }
}
