//! Keeps one connection to a peer, for as long as it is wanted.

use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout};

use crate::{
    admission::admit,
    hello::{self, HelloError},
    limits::{DIAL_TIMEOUT, REDIAL_PAUSE, REFUSED_PAUSE},
    links::{Inner, Peer},
    pki::NODE_DNS_NAME,
    slots::{Live, Side},
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
                if failure.disowned {
                    inner.note_disowned(&peer);
                }
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
    /// The peer does not know us as a member.
    disowned: bool,
}

impl Failure {
    fn new(why: String, refused: bool) -> Self {
        Self { why, refused, disowned: false }
    }

    fn lost(error: &quinn::ConnectionError) -> Self {
        let (refused, disowned) = (tls::is_refusal(error), tls::is_disowned(error));
        Self { why: tls::explain(error), refused, disowned }
    }
}

async fn dial(inner: &Inner, peer: &Peer) -> Result<Live, Failure> {
    let endpoint = &inner.endpoint;
    if !endpoint.membership.contains(peer.id) {
        return Err(Failure::new("not a member of the cluster".into(), true));
    }
    let connection = endpoint
        .quinn
        .connect_with(endpoint.client.clone(), peer.addr, NODE_DNS_NAME)
        .map_err(|error| Failure::new(format!("cannot dial {}: {error}", peer.addr), false))?
        .await
        .map_err(|error| Failure::lost(&error))?;
    let refuse = |refusal: crate::Refusal| {
        let why = refusal.to_string();
        connection.close(refusal.close_code(), why.as_bytes());
        Failure::new(format!("refused {}: {why}", peer.addr), true)
    };
    admit(endpoint, &connection, Some(peer.id)).map_err(refuse)?;
    match hello::say(&connection, endpoint.instance).await {
        Ok(instance) => Ok(Live { connection, instance }),
        Err(HelloError::Refusal(refusal)) => Err(refuse(refusal)),
        Err(HelloError::Lost { why, refused, disowned }) => Err(Failure { why, refused, disowned }),
    }
}
