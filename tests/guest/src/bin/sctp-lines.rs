//! Lines by SCTP, with the sockets of the kernel (RFC 6458, one-to-one style): `sctp-lines serve
//! NAME ADDRESS:PORT` answers each with its name in front, `sctp-lines ask ADDRESS:PORT` sends some
//! and prints the answers.

use std::{net::SocketAddr, thread, time::Duration};

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
}

fn main() -> Result<()> {
    match Options::parse() {
        Options::Serve { name, at } => serve(&name, at),
        Options::Ask { at } => ask(at),
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
    let socket = open(at)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_MAX))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(ANSWER_MAX))?;
    connect(&socket, &at).with_context(|| format!("cannot connect to {at}"))?;
    let mut buffer = [0; LINE_LEN_MAX];
    for number in 0..LINES {
        send(&socket, format!("line {number}").as_bytes(), SendFlags::NOSIGNAL)?;
        let (_, len) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if len == 0 {
            bail!("the association ended before line {number}");
        }
        println!("{}", String::from_utf8_lossy(&buffer[..len.min(LINE_LEN_MAX)]));
    }
    Ok(shutdown(&socket, Shutdown::Both)?)
}

fn open(at: SocketAddr) -> Result<OwnedFd> {
    let family = if at.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    socket(family, SocketType::STREAM, Some(ipproto::SCTP)).context("the kernel has no SCTP")
}
