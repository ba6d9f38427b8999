//! Downloads with curl: several at once at rest, one that takes its time through a fault.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Ask, same};
use crate::programs::{
    cell::Phase,
    report::Seen,
    server::{LARGE_BYTES, SMALL_BYTES},
};

/// Downloads at the same time.
const DOWNLOADS: usize = 9;

pub(super) async fn run(ask: &Ask) -> Result<Seen> {
    match ask.phase {
        Phase::Steady => several(ask).await,
        Phase::Kill => long(ask).await,
    }
}

async fn several(ask: &Ask) -> Result<Seen> {
    let url = format!("http://{}/small?[1-{DOWNLOADS}]", ask.host());
    let to = ask.dir.join("#1").display().to_string();
    let mut args = vec!["--parallel", "--parallel-immediate", "--write-out"];
    args.extend(["%{http_code} %header{x-server}\\n", "--output", &to]);
    let ended = ask.client.run("curl", &with(&args, &url)).await?;
    let mut seen = Seen::default();
    seen.must(ended.code == Some(0), || ended.complaint());
    let answers: Vec<&str> = ended.out.lines().collect();
    seen.must(answers.len() == DOWNLOADS, || format!("{} answers", answers.len()));
    seen.must(answers.iter().all(|a| a.starts_with("200 s")), || ended.complaint());
    for n in 1..=DOWNLOADS {
        same(&mut seen, &ask.dir.join(n.to_string()), &ask.files.www().join("small"));
    }
    let servers: BTreeSet<&&str> = answers.iter().collect();
    seen.must(servers.len() > 1, || "all from one server".to_owned());
    let kilobytes = DOWNLOADS * SMALL_BYTES / 1024;
    seen.figures = format!("{DOWNLOADS} downloads, {kilobytes} KiB, {} servers", servers.len());
    Ok(seen)
}

async fn long(ask: &Ask) -> Result<Seen> {
    let url = format!("http://{}/large", ask.host());
    let to = ask.dir.join("large");
    let path = to.display().to_string();
    let args = ["--output", &path, "--write-out", "%{time_total}"];
    let ended = ask.client.run("curl", &with(&args, &url)).await?;
    let mut seen = Seen::default();
    seen.must(ended.code == Some(0), || ended.complaint());
    same(&mut seen, &to, &ask.files.www().join("large"));
    let seconds = ended.out.trim().to_owned();
    seen.figures = format!("1 download, {} KiB in {seconds} s", LARGE_BYTES / 1024);
    Ok(seen)
}

/// No file of the user, no proxy, and an error for what HTTP calls one.
fn with<'a>(args: &[&'a str], url: &'a str) -> Vec<&'a str> {
    let mut all = vec!["--disable", "--noproxy", "*", "--silent", "--show-error", "--fail"];
    all.extend(args);
    all.push(url);
    all
}
