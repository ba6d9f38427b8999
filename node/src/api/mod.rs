//! The control API: gRPC over mutual TLS and over a Unix socket on the node.

mod auth;
mod config;
mod connections;
pub(crate) mod copy;
mod diff;
pub(crate) mod error;
mod groups;
mod log_limit;
mod membership;
mod nodes;
pub(crate) mod pauses;
mod rebalance;
mod replace;
mod service;
mod set_otherwise;
mod status;
mod tls;
pub(crate) mod trace;
mod warnings;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use anyhow::Context;
use steadfast_proto::v1::control_server::ControlServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{service::Routes, transport::Server};

use self::service::ControlService;
pub(crate) use self::tls::TlsApi;
use crate::daemon::Node;

/// Requests of one connection that are worked on at a time.
const CONCURRENCY_MAX: usize = 32;

/// The largest request: a document, and some.
const REQUEST_BYTES_MAX: usize = steadfast_model::document::DOCUMENT_BYTES_MAX + (64 << 10);

async fn routes(node: Arc<Node>) -> anyhow::Result<Routes> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ControlServer<ControlService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(steadfast_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("reflection")?;
    let control =
        ControlServer::new(ControlService::new(node)).max_decoding_message_size(REQUEST_BYTES_MAX);
    Ok(Routes::new(control).add_service(health_service).add_service(reflection))
}

/// Serves the Unix socket until the daemon ends.
///
/// # Errors
/// When the socket cannot be made, or is somebody else's.
pub(crate) async fn serve_socket(node: Arc<Node>, path: &Path) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        anyhow::bail!("{} is served by another clusterd", path.display());
    }
    // Left by a daemon that was killed: nobody answers there, see above.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot restrict {}", path.display()))?;
    let routes = routes(node).await?;
    tokio::spawn(async move {
        let incoming = UnixListenerStream::new(listener);
        let mut server = Server::builder().concurrency_limit_per_connection(CONCURRENCY_MAX);
        if let Err(error) = server.add_routes(routes).serve_with_incoming(incoming).await {
            tracing::error!("the API on the Unix socket ended: {error}");
        }
    });
    Ok(())
}
