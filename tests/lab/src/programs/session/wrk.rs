//! Connections that are kept, with wrk: no error, no wrong answer, and as many connections as were
//! opened in the beginning. wrk opens a lost one again without a word; the servers know.

use std::{
    collections::BTreeMap,
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};

use super::{Ask, TAKEN_OVER_WITHIN};
use crate::{
    host::names::SERVERS,
    programs::{cell::Phase, report::Seen, server::kept_body},
};

/// Connections.
const CONNECTIONS: usize = 9;

/// Between an answer and the next request, in milliseconds.
const PAUSE_MS: u32 = 5;

/// At rest.
const STEADY_S: u64 = 2;

pub(super) async fn run(ask: &Ask) -> Result<Seen> {
    let script = ask.dir.join("wrk.lua");
    let body = kept_body();
    let text = format!(
        "function delay() return {PAUSE_MS} end\n\
         function response(status, headers, body)\n\
         if status ~= 200 or body ~= '{body}' then print('WRONG', status, body) end\nend\n"
    );
    fs::write(&script, text)?;
    let script = script.display().to_string();
    let seconds = match ask.phase {
        Phase::Steady => STEADY_S,
        Phase::Kill => ask.lasts.as_secs() + 1,
    };
    let (lasts, connections) = (format!("{seconds}s"), CONNECTIONS.to_string());
    let url = format!("http://{}/kept/{}", ask.host(), ask.cell);
    let args = ["-t", "1", "-c", &connections, "-d", &lasts, "-s", &script, &url];
    let ended = ask.client.run("wrk", &args).await?;
    let mut seen = judge(&ended.out);
    seen.must(ended.code == Some(0), || ended.complaint());
    let last = last_requests(ask)?;
    let used = last.len();
    seen.must(used == CONNECTIONS, || format!("{used} connections, not {CONNECTIONS}"));
    // wrk has nothing to say of a connection that is silent up to the end.
    let fault = *ask.fault.borrow();
    if let Some(fault) = fault {
        let over = SystemTime::now() - fault.elapsed() + TAKEN_OVER_WITHIN;
        let over = over.duration_since(UNIX_EPOCH)?.as_secs_f64();
        let silent = last.values().filter(|&&last| last < over).count();
        seen.must(silent == 0, || format!("{silent} connections silent after the fault"));
    }
    seen.figures = format!("{}, {used} connections", seen.figures);
    Ok(seen)
}

/// What wrk printed.
fn judge(out: &str) -> Seen {
    let mut seen = Seen::default();
    let line = |with: &str| out.lines().map(str::trim).find(|line| line.contains(with));
    for bad in ["Socket errors", "Non-2xx", "WRONG", "unable to connect"] {
        if let Some(line) = line(bad) {
            seen.wrong.push(line.to_owned());
        }
    }
    let requests = line("requests in").and_then(|l| l.split(' ').next()).unwrap_or("0").to_owned();
    seen.must(requests != "0", || format!("no requests: {}", out.trim()));
    seen.figures = format!("{requests} requests");
    seen
}

/// Connections that the servers saw requests of this cell on, and when the last was, in seconds
/// since the epoch.
fn last_requests(ask: &Ask) -> Result<BTreeMap<(u8, String), f64>> {
    let (mut last, wanted) = (BTreeMap::new(), format!("/kept/{}", ask.cell));
    for n in SERVERS {
        let path = ask.files.requests(n);
        let log = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for line in log.lines() {
            let mut words = line.split(' ');
            let (Some(connection), Some(at), Some(path)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if path == wanted {
                last.insert((n, connection.to_owned()), at.parse()?);
            }
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Running 2s test @ http://198.18.0.101/\n  1 threads and 9 connections\n  \
                        Thread Stats   Avg      Stdev     Max   +/- Stdev\n  \
                        2950 requests in 2.00s, 2.11MB read\nRequests/sec:   1473.80\n";

    #[test]
    fn what_wrk_says_is_understood() {
        let good = judge(GOOD);
        assert_eq!((good.wrong.len(), good.figures.as_str()), (0, "2950 requests"));
        for bad in [
            "  Socket errors: connect 0, read 1, write 0, timeout 0\n",
            "  Non-2xx or 3xx responses: 3\n",
            "WRONG\t200\tother\n",
        ] {
            assert_eq!(judge(&format!("{GOOD}{bad}")).wrong, [bad.trim()]);
        }
        assert_eq!(judge("").wrong.len(), 1);
        assert_eq!(judge(&GOOD.replace("2950", "0")).wrong.len(), 1);
    }
}
