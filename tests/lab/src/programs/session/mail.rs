//! Mail by SMTP: in the mailbox exactly once, with every octet. Through a fault, a session is in
//! the middle of DATA when it happens.

use std::{fs, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use tokio::{io::AsyncWriteExt as _, process::Child, time::sleep};

use super::Ask;
use crate::{
    host::names::SERVERS,
    programs::{
        cell::Phase,
        client::finish,
        document::SMTP,
        report::Seen,
        server::{DOMAIN, noise},
    },
};

/// Mails of a cell, each in a session of its own.
const MAILS: usize = 3;

/// Octets of each.
const MAIL_BYTES: usize = 200_000;

/// Until a queue is empty and a mail is where it belongs.
const DELIVERED_WITHIN: Duration = Duration::from_secs(8);

/// After the fault the session is silent for this long: the other node is asked for a connection
/// that says nothing while it takes over.
const SILENCE: Duration = Duration::from_millis(1500);

pub(super) async fn run(mut ask: Ask) -> Result<Seen> {
    let mut seen = Seen::default();
    let mails: Vec<Vec<u8>> = (0..MAILS).map(|n| mail(&ask.cell, n)).collect();
    let mut clients = Vec::new();
    for _ in &mails {
        clients.push(start(&ask)?);
    }
    // The first half of each is on its way before the second half of any.
    for (client, mail) in clients.iter_mut().zip(&mails) {
        say(client, &mail[..mail.len() / 2]).await?;
    }
    if ask.phase == Phase::Kill {
        ask.faulted().await?;
        sleep(SILENCE).await;
    }
    for (mut client, mail) in clients.into_iter().zip(&mails) {
        say(&mut client, &mail[mail.len() / 2..]).await?;
        drop(client.stdin.take());
        let ended = finish("curl", client).await?;
        seen.must(ended.code == Some(0), || ended.complaint());
    }
    for (n, mail) in mails.iter().enumerate() {
        delivered(&ask, n, mail, &mut seen).await?;
    }
    seen.figures = format!("{MAILS} mails of {MAIL_BYTES} octets, each delivered once");
    Ok(seen)
}

/// Lines of all lengths, some of which begin with the dot that ends a mail when it is alone
/// (RFC 5321 section 4.5.2).
fn mail(cell: &str, n: usize) -> Vec<u8> {
    let mut mail =
        format!("From: lab@{DOMAIN}\r\nSubject: {}\r\n\r\n", subject(cell, n)).into_bytes();
    let mut random = noise(n as u64 + 1, MAIL_BYTES).into_iter();
    while mail.len() < MAIL_BYTES {
        let len = usize::from(random.next().unwrap_or(1)) % 70;
        if len % 5 == 0 {
            mail.push(b'.');
        }
        mail.extend(random.by_ref().take(len).map(|b| b'a' + b % 26));
        mail.extend(b"\r\n");
    }
    mail
}

fn subject(cell: &str, n: usize) -> String {
    format!("mail {n} of {cell}")
}

fn start(ask: &Ask) -> Result<Child> {
    let url = format!("smtp://{}:{SMTP}", ask.host());
    let rcpt = format!("box@{DOMAIN}");
    let mut command = ask.client.command("curl");
    command.args(["--disable", "--noproxy", "*", "--silent", "--show-error"]);
    // The sender of a bounce: servers look for nobody's records in a DNS that is not there.
    command.args(["--mail-from", "", "--mail-rcpt", &rcpt, "--upload-file", "-", &url]);
    command.stdin(Stdio::piped()).spawn().context("cannot start curl")
}

async fn say(client: &mut Child, part: &[u8]) -> Result<()> {
    let pipe = client.stdin.as_mut().ok_or_else(|| anyhow!("curl has no input"))?;
    // One that ended early says why.
    let _ = pipe.write_all(part).await;
    let _ = pipe.flush().await;
    Ok(())
}

/// Waits until the mail is there, then looks for a second one.
async fn delivered(ask: &Ask, n: usize, mail: &[u8], seen: &mut Seen) -> Result<()> {
    let line = format!("Subject: {}\n", subject(&ask.cell, n));
    let step = Duration::from_millis(50);
    let mut found = Vec::new();
    for _ in 0..DELIVERED_WITHIN.as_millis() / step.as_millis() {
        found = with_line(ask, &line)?;
        if !found.is_empty() {
            break;
        }
        sleep(step).await;
    }
    sleep(4 * step).await;
    found = if found.is_empty() { found } else { with_line(ask, &line)? };
    seen.must(found.len() == 1, || format!("mail {n} was delivered {} times", found.len()));
    let sent = String::from_utf8_lossy(mail).replace("\r\n", "\n");
    // Servers write their own lines in front.
    let intact = found.iter().all(|got| got.ends_with(&sent));
    seen.must(intact, || format!("mail {n} is not what was sent"));
    Ok(())
}

/// Every mail with this line, of all servers.
fn with_line(ask: &Ask, line: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for server in SERVERS {
        let dir = ask.files.mailbox(server);
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            let whole = path.file_stem().is_some_and(|stem| stem == "mail");
            let bytes = if whole { fs::read(&path)? } else { Vec::new() };
            let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
            if text.contains(line) {
                found.push(text);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_has_lines_that_begin_with_a_dot_and_ends_with_one_that_does_not_end_it() {
        let text = String::from_utf8(mail("cell", 2)).unwrap();
        assert!(text.contains("Subject: mail 2 of cell\r\n\r\n"));
        assert!(text.contains("\r\n.\r\n") && text.contains("\r\n.a"));
        assert!(text.ends_with("\r\n") && text.len() >= MAIL_BYTES);
        assert_ne!(mail("cell", 1), mail("cell", 2));
    }
}
