//! Questions with dig. Every answer is exactly what was asked for; a question that is lost is
//! asked again by dig itself, five times at most.

use std::{collections::BTreeSet, fmt::Write as _, fs, time::Instant};

use anyhow::Result;

use super::{Ask, target};
use crate::programs::{
    cell::Phase,
    document::DNS,
    report::Seen,
    server::{DOMAIN, NAMES, addresses_of, texts},
};

/// Between two questions while a fault is waited for.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(40);

pub(super) async fn run(ask: &Ask) -> Result<Seen> {
    match ask.phase {
        Phase::Steady => at_rest(ask).await,
        Phase::Kill => all_the_time(ask).await,
    }
}

/// Every name in one go, then an answer in several fragments, then the same over TCP.
async fn at_rest(ask: &Ask) -> Result<Seen> {
    let mut seen = Seen::default();
    let list = ask.dir.join("names");
    let mut questions = String::new();
    for n in 0..NAMES {
        // Writing to a String cannot fail.
        let _ = writeln!(questions, "n{n}.{DOMAIN} {}", kind(n));
    }
    fs::write(&list, questions)?;
    let list = list.display().to_string();
    let answers = dig(ask, &["-f", &list], &mut seen).await?;
    let wanted: Vec<String> = (0..NAMES).map(address).collect();
    seen.must(answers == wanted, || format!("answers: {answers:?}"));
    let large = format!("large.{DOMAIN}");
    let wanted: BTreeSet<String> = texts().iter().map(|text| format!("\"{text}\"")).collect();
    for way in [&["+notcp", "+ignore", "+bufsize=4096"][..], &["+tcp"]] {
        let args = [&["TXT", &large], way].concat();
        let answers = dig(ask, &args, &mut seen).await?;
        let found: BTreeSet<String> = answers.iter().cloned().collect();
        let exact = found == wanted && answers.len() == wanted.len();
        seen.must(exact, || format!("{way:?}: {answers:?}"));
    }
    seen.figures = format!("{NAMES} names, a large answer by UDP and TCP");
    Ok(seen)
}

/// A process for each question, so that each is a flow of its own.
async fn all_the_time(ask: &Ask) -> Result<Seen> {
    let mut seen = Seen::default();
    let (began, mut asked, mut slowest) = (Instant::now(), 0_u32, 0);
    while began.elapsed() < ask.lasts {
        let n = (asked % u32::from(NAMES)) as u8;
        let name = format!("n{n}.{DOMAIN}");
        let question = Instant::now();
        let answers = dig(ask, &[&name, kind(n)], &mut seen).await?;
        slowest = slowest.max(question.elapsed().as_millis());
        seen.must(answers == [address(n)], || format!("{name}: {answers:?}"));
        asked += 1;
        tokio::time::sleep(PAUSE).await;
    }
    seen.figures = format!("{asked} questions, the slowest {slowest} ms");
    Ok(seen)
}

/// The lines of the answer.
async fn dig(ask: &Ask, question: &[&str], seen: &mut Seen) -> Result<Vec<String>> {
    let at = target(ask, DNS);
    let at = at.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']).to_owned();
    let server = format!("@{at}");
    let mut args = vec!["-r", &server, "+short", "+tries=5", "+time=1"];
    args.extend(question);
    let ended = ask.client.run("dig", &args).await?;
    seen.must(ended.code == Some(0), || ended.complaint());
    // A question that is asked again is told of in a comment.
    let answers = ended.out.lines().filter(|line| !line.starts_with(';'));
    Ok(answers.map(str::to_owned).collect())
}

/// Names take turns.
fn kind(n: u8) -> &'static str {
    if n.is_multiple_of(2) { "A" } else { "AAAA" }
}

fn address(n: u8) -> String {
    let (v4, v6) = addresses_of(n);
    if n.is_multiple_of(2) { v4.to_string() } else { v6.to_string() }
}
