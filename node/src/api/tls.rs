//! The API over mutual TLS.
//!
//! Guarantees: a handshake takes [`HANDSHAKE_WITHIN`] at most and there are [`HANDSHAKES_MAX`] at a
//! time; who is refused is logged with the reason, [`LOG_BURST`](super::log_limit::LOG_BURST) times
//! in a row and then once a second. A client without certificate is let in for `Admit` alone, which
//! its token authorises.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use steadfast_peer::{api_server_config, explain_tls, pki};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{service::Routes, transport::Server};
use tracing::{debug, error, warn};

use super::{CONCURRENCY_MAX, log_limit::LogLimit};
use crate::daemon::Node;

/// A client that has not shaken hands by then is let go.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Handshakes at a time; further clients wait in the kernel.
const HANDSHAKES_MAX: usize = 64;

/// After a failure to accept, such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

type Shaken = io::Result<TlsStream<TcpStream>>;

/// The API, ready to be served to other machines.
pub(crate) struct TlsApi {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    routes: Routes,
}

impl TlsApi {
    /// Prepares everything that can fail.
    ///
    /// # Errors
    /// When the keys do not fit.
    pub(crate) async fn new(
        node: Arc<Node>,
        listener: TcpListener,
        identity: &pki::Identity,
    ) -> anyhow::Result<Self> {
        let config = api_server_config(identity).context("the certificate of the API")?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { listener, acceptor, routes: super::routes(node).await? })
    }

    /// Serves until the daemon ends.
    pub(crate) fn serve(self) {
        let Self { listener, acceptor, routes } = self;
        let (shaken, incoming) = mpsc::channel(HANDSHAKES_MAX);
        tokio::spawn(accept(listener, acceptor, shaken));
        tokio::spawn(async move {
            let mut server = Server::builder().concurrency_limit_per_connection(CONCURRENCY_MAX);
            let incoming = ReceiverStream::new(incoming);
            if let Err(error) = server.add_routes(routes).serve_with_incoming(incoming).await {
                error!("the API ended: {error}");
            }
        });
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shaken: mpsc::Sender<Shaken>) {
    let (places, refusals) = (Arc::new(Semaphore::new(HANDSHAKES_MAX)), Arc::new(LogLimit::new()));
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                refusals.pass(|more| warn!(more, "the API cannot accept: {error}"));
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let (acceptor, shaken) = (acceptor.clone(), shaken.clone());
        let refusals = Arc::clone(&refusals);
        tokio::spawn(async move {
            // Answers are small and awaited; without it they only come later.
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    // The server has ended, and says so.
                    let _ = shaken.send(Ok(stream)).await;
                }
                Ok(Err(error)) => refused(&refusals, from, &error),
                Err(_) => debug!(%from, "no TLS handshake within {HANDSHAKE_WITHIN:?}"),
            }
            drop(place);
        });
    }
}

fn refused(refusals: &LogLimit, from: SocketAddr, error: &io::Error) {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    // Port scanners and checks of a load balancer come and go: that is no refusal.
    let Some(tls) = tls else {
        debug!(%from, "TLS handshake: {error}");
        return;
    };
    let what = match tls {
        rustls::Error::InvalidCertificate(_) => "its certificate: ",
        _ => "",
    };
    let why = explain_tls(tls);
    refusals.pass(|more| warn!(target: "audit", %from, more, "TLS refused: {what}{why}"));
}
