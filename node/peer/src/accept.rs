//! Lets peers in.

use std::{net::SocketAddr, sync::Arc};

use tokio::{sync::Semaphore, time::timeout};

use crate::{
    admission::admit,
    hello::{self, HelloError},
    limits::{ACCEPT_TIMEOUT, HANDSHAKES_MAX},
    links::Inner,
    slots::{Live, Side},
    tls,
};

/// Takes connections until the endpoint is closed.
pub(crate) async fn accept_all(inner: Arc<Inner>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = inner.endpoint.quinn.accept().await {
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.ignore();
            continue;
        };
        let inner = inner.clone();
        tokio::spawn(async move {
            let addr = incoming.remote_address();
            match timeout(ACCEPT_TIMEOUT, shake(&inner, incoming)).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => inner.note_refused(addr, why),
                // A packet lost or a peer gone: its next attempt is on the way.
                Err(_) => tracing::debug!(%addr, "handshake not finished in time"),
            }
            drop(permit);
        });
    }
}

async fn shake(inner: &Arc<Inner>, incoming: quinn::Incoming) -> Result<(), String> {
    let addr: SocketAddr = incoming.remote_address();
    let connection = incoming.await.map_err(|error| tls::explain(&error))?;
    let refuse = |refusal: crate::Refusal| {
        let why = refusal.to_string();
        connection.close(refusal.close_code(), why.as_bytes());
        why
    };
    let peer = admit(&inner.endpoint, &connection, None).map_err(refuse)?;
    match hello::answer(&connection, inner.endpoint.instance).await {
        Ok(instance) => {
            tracing::debug!(%peer, %addr, "peer admitted");
            inner.adopt(peer, Side::Accepted, Live { connection: connection.clone(), instance });
            Ok(())
        }
        Err(HelloError::Refusal(refusal)) => Err(refuse(refusal)),
        Err(HelloError::Lost { why, .. }) => Err(format!("node {peer}: {why}")),
    }
}
