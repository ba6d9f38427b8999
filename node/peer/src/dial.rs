//! Keeps one connection to a peer, for as long as it is wanted.

use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout};

use crate::{
    admission::admit,
    hello::{self, HelloError},
    limits::{DIAL_TIMEOUT, REDIAL_PAUSE, REFUSED_PAUSE},
    links::{Inner, Peer},
    pki::NODE_DNS_NAME,
    slots::{CLOSE_REFUSED, Live, Side},
    tls,
};

/// Dials, waits until the connection is gone, and dials again. One attempt at a time, with a fixed
/// short pause: a peer that comes back must be heard at once, and there are few peers.
pub(crate) async fn keep_dialed(inner: Arc<Inner>, peer: Peer) {
    loop {
        let pause = match timeout(DIAL_TIMEOUT, dial(&inner, &peer)).await {
            Ok(Ok(live)) => {
                let since = Instant::now();
                inner.adopt(peer.id, Side::Dialed, live.clone());
                live.connection.closed().await;
                // Dial at once, but not in a tight loop when it never lasts.
                REDIAL_PAUSE.saturating_sub(since.elapsed())
            }
            Ok(Err(failure)) => {
                let pause = if failure.refused { REFUSED_PAUSE } else { REDIAL_PAUSE };
                inner.note_failure(&peer, failure.why, failure.refused);
                pause
            }
            Err(_) => {
                inner.note_failure(&peer, format!("no answer from {}", peer.addr), false);
                REDIAL_PAUSE
            }
        };
        sleep(pause).await;
    }
}

struct Failure {
    why: String,
    refused: bool,
}

async fn dial(inner: &Inner, peer: &Peer) -> Result<Live, Failure> {
    let endpoint = &inner.endpoint;
    if !endpoint.membership.contains(peer.id) {
        return Err(Failure { why: "not a member of the cluster".into(), refused: true });
    }
    let connection = endpoint
        .quinn
        .connect_with(endpoint.client.clone(), peer.addr, NODE_DNS_NAME)
        .map_err(|error| Failure {
            why: format!("cannot dial {}: {error}", peer.addr),
            refused: false,
        })?
        .await
        .map_err(|error| Failure { why: tls::explain(&error), refused: tls::is_refusal(&error) })?;
    let refuse = |refusal: crate::Refusal| {
        let why = refusal.to_string();
        connection.close(CLOSE_REFUSED, why.as_bytes());
        Failure { why: format!("refused {}: {why}", peer.addr), refused: true }
    };
    admit(endpoint, &connection, Some(peer.id)).map_err(refuse)?;
    match hello::say(&connection, endpoint.instance).await {
        Ok(instance) => Ok(Live { connection, instance }),
        Err(HelloError::Refusal(refusal)) => Err(refuse(refusal)),
        Err(HelloError::Lost { why, refused }) => Err(Failure { why, refused }),
    }
}
