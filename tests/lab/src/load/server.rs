//! The real server: echoes lines over TCP and datagrams over UDP, its name in front.
//!
//! Guarantees: every complete line is answered in order, byte for byte. Keeps no state beside the
//! connections; a line longer than [`LINE_BYTES_MAX`] ends its connection.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
};

use super::record::{self, LINE_BYTES_MAX};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// Largest datagram that is echoed.
const DATAGRAM_BYTES_MAX: usize = 8192;

/// Serves TCP and UDP on each of `addresses` until the process ends.
///
/// # Errors
/// When an address cannot be bound, or a listening socket fails for good.
pub async fn serve(name: String, addresses: &[SocketAddr]) -> io::Result<()> {
    let name: Arc<str> = name.into();
    let mut tasks = tokio::task::JoinSet::new();
    for &address in addresses {
        let listener = listen(address)?;
        let socket = UdpSocket::bind(address).await?;
        tasks.spawn(accept(Arc::clone(&name), listener));
        tasks.spawn(echo_datagrams(Arc::clone(&name), socket));
    }
    match tasks.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(io::Error::other(error)),
        None => Ok(()),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(name: Arc<str>, listener: TcpListener) -> io::Result<()> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A connection that fails concerns only its client, who will see it.
                tokio::spawn(echo_lines(Arc::clone(&name), stream));
            }
            // The client was gone before it was accepted, or file descriptors ran out for now.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
        }
    }
}

async fn echo_lines(name: Arc<str>, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut pending: Vec<u8> = Vec::new();
    let mut buffer = [0; LINE_BYTES_MAX];
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        pending.extend_from_slice(&buffer[..n]);
        let Some(end) = pending.iter().rposition(|&b| b == b'\n') else {
            if pending.len() > LINE_BYTES_MAX {
                return Ok(());
            }
            continue;
        };
        let rest = pending.split_off(end + 1);
        let mut out = Vec::with_capacity(pending.len() * 2);
        for line in pending.split_inclusive(|&b| b == b'\n') {
            out.extend_from_slice(&record::answer(&name, line));
        }
        stream.write_all(&out).await?;
        pending = rest;
    }
}

async fn echo_datagrams(name: Arc<str>, socket: UdpSocket) -> io::Result<()> {
    let mut buffer = [0; DATAGRAM_BYTES_MAX];
    loop {
        // Errors here are those of earlier answers (ICMP): nobody waits for them.
        if let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&record::answer(&name, &buffer[..n]), from).await;
        }
    }
}
