//! The listen addresses of the local file, opened.
//!
//! Guarantees: all three are open or none is, so that an address that is taken shows before a node
//! makes a cluster, spends a token or votes.

use anyhow::Context;
use steadfast_peer::{OpenSocket, Purpose};
use tokio::net::TcpListener;

use crate::local_file::Listen;

/// One open socket for each address of [`Listen`].
pub(crate) struct Listeners {
    pub(crate) api: TcpListener,
    pub(crate) control: OpenSocket,
    pub(crate) replication: OpenSocket,
}

impl Listeners {
    /// Opens them.
    ///
    /// # Errors
    /// Names the address that is taken or not ours, and its key in the local file.
    pub(crate) async fn open(listen: &Listen) -> anyhow::Result<Self> {
        let address = listen.api;
        let api = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address} (listen.api of the local file)")
        })?;
        let control = OpenSocket::bind(Purpose::Control, listen.control)
            .context("listen.control of the local file")?;
        let replication = OpenSocket::bind(Purpose::Replication, listen.replication)
            .context("listen.replication of the local file")?;
        Ok(Self { api, control, replication })
    }
}
