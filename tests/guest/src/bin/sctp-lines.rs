//! Lines by SCTP, with the sockets of the kernel (RFC 6458, one-to-one style): `sctp-lines serve
//! NAME ADDRESS:PORT` answers each with its name in front, `sctp-lines ask ADDRESS:PORT` sends some
//! and prints the answers, `sctp-lines keep ADDRESS:PORT` sends some as long as its input lasts.

use std::{io, net::SocketAddr, sync::mpsc, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, SocketType, accept, bind, connect, ipproto,
        listen, recv, send, shutdown, socket, sockopt,
    },
};

const LINES: usize = 3;
const LINE_LEN_MAX: usize = 100;
const WAITING_MAX: i32 = 8;
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Time between two lines of an association that is kept.
const TICK: Duration = Duration::from_millis(100);

/// An answer to such a line may be late by the time-outs of a few retransmissions, which SCTP makes a
/// second at least (RFC 9260 section 16).
const LATE_MAX: Duration = Duration::from_secs(20);

/// Lines by SCTP.
#[derive(Debug, Parser)]
enum Options {
    /// Answers lines.
    Serve {
        /// What stands in front of each answer.
        name: String,
        /// Where to listen.
        at: SocketAddr,
    },
    /// Sends lines and prints what comes back.
    Ask {
        /// Where to.
        at: SocketAddr,
    },
    /// Sends lines in one association until its input ends; then prints how many one server
    /// answered, or fails.
    Keep {
        /// Where to.
        at: SocketAddr,
    },
}

fn main() -> Result<()> {
    match Options::parse() {
        Options::Serve { name, at } => serve(&name, at),
        Options::Ask { at } => ask(at),
        Options::Keep { at } => keep(at),
    }
}

fn serve(name: &str, at: SocketAddr) -> Result<()> {
    let listener = open(at)?;
    // One address alone: what is in an INIT is looked at by no balancer.
    bind(&listener, &at).with_context(|| format!("cannot bind {at}"))?;
    listen(&listener, WAITING_MAX)?;
    loop {
        let socket = accept(&listener)?;
        let name = name.to_owned();
        thread::spawn(move || answer(&socket, &name));
    }
}

fn answer(socket: &OwnedFd, name: &str) {
    let mut buffer = [0; LINE_LEN_MAX];
    while let Ok((line, len)) = recv(socket, &mut buffer[..], RecvFlags::empty()) {
        let text = format!("{name} {}", String::from_utf8_lossy(&buffer[..line.min(len)]));
        if len == 0 || send(socket, text.as_bytes(), SendFlags::NOSIGNAL).is_err() {
            return;
        }
    }
}

fn ask(at: SocketAddr) -> Result<()> {
    let socket = associate(at, ANSWER_MAX)?;
    for number in 0..LINES {
        println!("{}", exchange(&socket, number)?);
    }
    Ok(shutdown(&socket, Shutdown::Both)?)
}

fn keep(at: SocketAddr) -> Result<()> {
    let socket = associate(at, LATE_MAX)?;
    let (ended, input) = mpsc::channel::<()>();
    thread::spawn(move || {
        // Whatever its end is like, it is over then.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        drop(ended);
    });
    let first = exchange(&socket, 0)?;
    let server = first.split(' ').next().unwrap_or_default().to_owned();
    println!("associated with {server}");
    let mut number = 0;
    // The last line is sent when the input has ended: what came before that is over.
    let mut last = false;
    while !last {
        last = input.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Disconnected);
        number += 1;
        let answer = exchange(&socket, number)?;
        if answer != format!("{server} line {number}") {
            bail!("line {number} to {server} was answered with `{answer}`");
        }
    }
    println!("kept by {server}");
    eprintln!("{} lines", number + 1);
    Ok(shutdown(&socket, Shutdown::Both)?)
}

fn associate(at: SocketAddr, patience: Duration) -> Result<OwnedFd> {
    let socket = open(at)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(patience))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
    connect(&socket, &at).with_context(|| format!("cannot connect to {at}"))?;
    Ok(socket)
}

/// One line there, and what comes back.
fn exchange(socket: &OwnedFd, number: usize) -> Result<String> {
    let mut buffer = [0; LINE_LEN_MAX];
    let answered = send(socket, format!("line {number}").as_bytes(), SendFlags::NOSIGNAL)
        .and_then(|_| recv(socket, &mut buffer[..], RecvFlags::empty()));
    let (_, len) = answered.with_context(|| format!("line {number}"))?;
    if len == 0 {
        bail!("the association ended before line {number}");
    }
    Ok(String::from_utf8_lossy(&buffer[..len.min(LINE_LEN_MAX)]).into_owned())
}

fn open(at: SocketAddr) -> Result<OwnedFd> {
    let family = if at.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    socket(family, SocketType::STREAM, Some(ipproto::SCTP)).context("the kernel has no SCTP")
}
