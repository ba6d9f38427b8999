//! One TCP session: the driver around [`Judge`].
//!
//! Guarantees: it connects once and never again; it sends on time whatever the network does (the
//! kernel keeps and retransmits what was written), so a silent VIP never makes it lose track.

use std::{cell::RefCell, io, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    net::{TcpSocket, TcpStream},
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    judge::{Judge, Kind},
    now_ns,
};

/// Time between two records of a talker.
pub const TICK: Duration = Duration::from_millis(100);

/// A connection that is not up by then has failed: room for a SYN to be sent four times.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the silent sessions have been told to speak, and whether anybody still sends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Orders {
    /// Silent sessions speak once each time this rises.
    pub speak: u32,
    /// Nobody sends any more.
    pub quiet: bool,
    /// Everybody closes.
    pub close: bool,
}

/// A session that is up, shared between its task and the client's main loop.
#[derive(Debug)]
pub struct Session {
    /// Its number.
    pub id: u32,
    /// Its own address.
    pub local: SocketAddr,
    /// Its judge.
    pub judge: RefCell<Judge>,
}

/// Connects to `target`.
///
/// # Errors
/// What the kernel said, or that it took too long.
pub async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = match target {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_nodelay(true)?;
    tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(target))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Runs the session until it is told to close or is broken. `first_tick` spreads the talkers over
/// a tick.
pub async fn run(
    session: Rc<Session>,
    stream: TcpStream,
    first_tick: Duration,
    mut orders: watch::Receiver<Orders>,
) {
    let talker = session.judge.borrow().kind() == Kind::Talker;
    let mut next_tick = Instant::now() + first_tick;
    let mut unsent: Vec<u8> = Vec::new();
    let mut now = *orders.borrow_and_update();
    loop {
        tokio::select! {
            () = sleep_until(next_tick), if talker && !now.quiet => {
                next_tick += TICK;
                unsent.extend(session.judge.borrow_mut().handle_tick(now_ns()));
            }
            changed = orders.changed() => {
                let new = *orders.borrow_and_update();
                if changed.is_err() || new.close {
                    return;
                }
                if !talker && new.speak > now.speak {
                    unsent.extend(session.judge.borrow_mut().handle_tick(now_ns()));
                }
                now = new;
            }
            ready = stream.readable() => {
                if let Err(error) = ready {
                    session.judge.borrow_mut().handle_error(&error, now_ns());
                } else {
                    read(&session, &stream);
                }
            }
            ready = stream.writable(), if !unsent.is_empty() => {
                if let Err(error) = ready {
                    session.judge.borrow_mut().handle_error(&error, now_ns());
                } else {
                    write(&session, &stream, &mut unsent);
                }
            }
        }
        if session.judge.borrow().broken().is_some() {
            return;
        }
    }
}

fn read(session: &Session, stream: &TcpStream) {
    let mut buffer = [0; 4096];
    loop {
        let result = stream.try_read(&mut buffer);
        let mut judge = session.judge.borrow_mut();
        match result {
            Ok(0) => return judge.handle_eof(now_ns()),
            Ok(n) => judge.handle_bytes(&buffer[..n], now_ns()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return judge.handle_error(&error, now_ns()),
        }
    }
}

fn write(session: &Session, stream: &TcpStream, unsent: &mut Vec<u8>) {
    match stream.try_write(unsent) {
        Ok(n) => drop(unsent.drain(..n)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => session.judge.borrow_mut().handle_error(&error, now_ns()),
    }
}
