//! Files by FTP with curl: over every kind of data connection at rest; through a fault two files in
//! one session, so that a new data connection comes after it.

use std::collections::BTreeSet;

use anyhow::Result;
use tokio::task::JoinSet;

use super::{Ask, same};
use crate::programs::{
    cell::Phase,
    client::Ended,
    report::Seen,
    server::{LARGE_BYTES, SMALL_BYTES},
};

/// A kind of data connection: the command that it comes from, and what curl does it for.
type Kind = (&'static str, &'static [&'static str]);

const EPSV: Kind = ("EPSV", &[]);
const EPRT: Kind = ("EPRT", &["--ftp-port", "-"]);
const PASV: Kind = ("PASV", &["--disable-epsv"]);
const PORT: Kind = ("PORT", &["--ftp-port", "-", "--disable-eprt"]);

/// What works: IPv6 has the extended commands alone (RFC 2428). Behind full-NAT a server knows
/// neither the client, whom it would have to connect to, nor the VIP, which it would have to name.
fn kinds(ask: &Ask) -> Vec<Kind> {
    let mut kinds = vec![EPSV];
    if ask.mode.forwarding != "full_nat" {
        kinds.push(EPRT);
        if ask.vip.is_ipv4() {
            kinds.extend([PASV, PORT]);
        }
    }
    kinds
}

pub(super) async fn run(ask: &Ask) -> Result<Seen> {
    match ask.phase {
        Phase::Steady => every_kind(ask).await,
        Phase::Kill => through(ask).await,
    }
}

async fn every_kind(ask: &Ask) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut servers = BTreeSet::new();
    let kinds = kinds(ask);
    for (command, options) in &kinds {
        let ended = fetch(ask, command, options, &["small"]).await?;
        judge(&mut seen, ask, command, &ended, &["small"]);
        servers.extend(greeting(&ended));
    }
    // They are of one client.
    seen.must(servers.len() == 1, || format!("not from one server: {servers:?}"));
    let kilobytes = kinds.len() * SMALL_BYTES / 1024;
    let names: Vec<&str> = kinds.iter().map(|(command, _)| *command).collect();
    seen.figures = format!("{} files, {kilobytes} KiB, {}", kinds.len(), names.join(" "));
    Ok(seen)
}

/// The first file takes its time, the second comes after it by a data connection of its own.
async fn through(ask: &Ask) -> Result<Seen> {
    let mut seen = Seen::default();
    let kinds = kinds(ask).into_iter().filter(|kind| [EPSV, EPRT].contains(kind));
    let mut sessions = JoinSet::new();
    for (command, options) in kinds {
        let ask = ask.clone();
        sessions.spawn(async move {
            let files = ["large", "small"];
            let ended = fetch(&ask, command, options, &files).await?;
            let mut seen = Seen::default();
            judge(&mut seen, &ask, command, &ended, &files);
            anyhow::Ok(seen)
        });
    }
    let count = sessions.len();
    while let Some(session) = sessions.join_next().await {
        seen.wrong.extend(session??.wrong);
    }
    let kilobytes = count * (LARGE_BYTES + SMALL_BYTES) / 1024;
    seen.figures = format!("{count} sessions of 2 files, {kilobytes} KiB");
    Ok(seen)
}

/// Fetches `files` in one session.
async fn fetch(ask: &Ask, command: &str, options: &[&str], files: &[&str]) -> Result<Ended> {
    let url = format!("ftp://{}/{{{}}}", ask.host(), files.join(","));
    let to = ask.dir.join(format!("{command}-#1")).display().to_string();
    let mut args = vec!["--disable", "--noproxy", "*", "--silent", "--show-error", "--verbose"];
    args.extend(["--output", &to]);
    args.extend(options);
    args.push(&url);
    ask.client.run("curl", &args).await
}

fn judge(seen: &mut Seen, ask: &Ask, command: &str, ended: &Ended, files: &[&str]) {
    seen.must(ended.code == Some(0), || {
        let said: Vec<&str> = ended.err.lines().filter(|line| is_told(line)).collect();
        format!("{command}: exit {:?}: {}", ended.code, said.join(" "))
    });
    let asked = ended.err.matches(&format!("> {command}")).count();
    seen.must(asked == files.len(), || format!("{asked} times {command}"));
    let greetings = ended.err.matches("< 220 ").count();
    seen.must(greetings == 1, || format!("{command}: {greetings} sessions in place of one"));
    for name in files {
        same(seen, &ask.dir.join(format!("{command}-{name}")), &ask.files.www().join(name));
    }
}

/// What client and server said, and errors.
fn is_told(line: &str) -> bool {
    ["< ", "> ", "curl: "].iter().any(|start| line.starts_with(start))
}

/// Which server it says it is.
fn greeting(ended: &Ended) -> Option<String> {
    ended.err.lines().find_map(|line| line.strip_prefix("< 220 ")).map(str::to_owned)
}
