//! The connection to a node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use steadfast_proto::NODE_TLS_NAME;
use steadfast_proto::v1::control_client::ControlClient;
use steadfast_proto::v1::{AdminCredentials, ListConnectionsReply, ListConnectionsRequest};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Request, Response, Status};

use crate::failure::{Exit, Failure, root_cause, tls_fix};
use crate::refusal;
use crate::target::Target;

/// Bound on one endpoint that does not answer, so that the next one gets its turn.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The status of thousands of groups is some megabytes.
const REPLY_BYTES_MAX: usize = 64 << 20;
/// A refusal travels in the header of the answer. One of a document lists every error in it, a
/// thousand at most: some hundred KiB, which with the usual bound of 16 KiB end the connection.
const HEADER_BYTES_MAX: u32 = 16 << 20;

/// A connected client with the deadline of its command.
#[derive(Debug)]
pub(crate) struct Client {
    control: ControlClient<Channel>,
    /// Where the node was reached, for messages.
    peer: String,
    /// Over TLS: what the node was shown.
    credentials: Option<Box<AdminCredentials>>,
    timeout: Duration,
    deadline: Instant,
}

impl Client {
    /// Connects; endpoints are tried in order.
    pub(crate) async fn connect(target: &Target, timeout: Duration) -> Result<Self, Failure> {
        let deadline = Instant::now() + timeout;
        let (channel, peer, credentials) = match target {
            Target::Socket(path) => (connect_socket(path).await?, path.display().to_string(), None),
            Target::Tls { credentials, endpoints, .. } => {
                let (channel, peer) = connect_first(credentials, endpoints, timeout).await?;
                (channel, peer, Some(credentials.clone()))
            }
        };
        let control = ControlClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
        Ok(Self { control, peer, credentials, timeout, deadline })
    }

    /// Makes one call that only reads.
    pub(crate) async fn read<Q, R, F>(&mut self, message: Q, call: F) -> Result<R, Failure>
    where
        F: AsyncFnOnce(&mut ControlClient<Channel>, Request<Q>) -> Result<Response<R>, Status>,
    {
        self.call(message, call, false).await
    }

    /// Makes one call that changes something.
    pub(crate) async fn change<Q, R, F>(&mut self, message: Q, call: F) -> Result<R, Failure>
    where
        F: AsyncFnOnce(&mut ControlClient<Channel>, Request<Q>) -> Result<Response<R>, Status>,
    {
        self.call(message, call, true).await
    }

    /// Reads all batches of the connection table into one.
    pub(crate) async fn list_connections(
        &mut self,
        message: ListConnectionsRequest,
    ) -> Result<ListConnectionsReply, Failure> {
        let deadline = self.deadline;
        let peer = self.peer.clone();
        let timeout = self.timeout;
        let mut batches = self
            .read(message, async |control, request| control.list_connections(request).await)
            .await?;
        let mut all = ListConnectionsReply::default();
        loop {
            let next = tokio::time::timeout_at(deadline, batches.message()).await;
            let next = next.map_err(|_| Failure::timeout(&peer, timeout, false))?;
            match next.map_err(|status| Failure::from_status(&status, &peer, false))? {
                None => return Ok(all),
                Some(batch) => {
                    all.total = batch.total;
                    all.connections.extend(batch.connections);
                }
            }
        }
    }

    async fn call<Q, R, F>(&mut self, message: Q, call: F, changing: bool) -> Result<R, Failure>
    where
        F: AsyncFnOnce(&mut ControlClient<Channel>, Request<Q>) -> Result<Response<R>, Status>,
    {
        // The header lets the node give up in time; the timeout here holds when it does not.
        let mut request = Request::new(message);
        request.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        let answer = tokio::time::timeout_at(self.deadline, call(&mut self.control, request));
        match answer.await {
            Err(_) => Err(Failure::timeout(&self.peer, self.timeout, changing)),
            Ok(Err(_)) if Instant::now() >= self.deadline => {
                Err(Failure::timeout(&self.peer, self.timeout, changing))
            }
            Ok(Err(status)) => Err(self.explain(&status, changing).await),
            Ok(Ok(response)) => Ok(response.into_inner()),
        }
    }

    /// The failure a status means; for a lost TLS connection the node is asked why.
    async fn explain(&self, status: &Status, changing: bool) -> Failure {
        let failure = Failure::from_status(status, &self.peer, changing);
        let (Exit::Unreachable, Some(credentials)) = (failure.exit, self.credentials.clone())
        else {
            return failure;
        };
        let address = self.peer.clone();
        let probe = tokio::task::spawn_blocking(move || refusal::cause(&credentials, &address));
        let Ok(Some(cause)) = probe.await else { return failure };
        let fix = tls_fix(&cause).unwrap_or("the node's log says why it refused the connection");
        Failure::new(Exit::Unreachable, format!("{} closed the connection: {cause}", self.peer))
            .fix(fix)
    }
}

async fn connect_socket(path: &Path) -> Result<Channel, Failure> {
    // Tried by itself first: the kernel's own error is clearer than what a channel makes of it.
    if let Err(error) = UnixStream::connect(path).await {
        let shown = path.display();
        let fix = match error.kind() {
            std::io::ErrorKind::NotFound => "start clusterd, or give its socket with --socket PATH",
            std::io::ErrorKind::PermissionDenied => "run clusterctl as root",
            std::io::ErrorKind::ConnectionRefused => {
                "clusterd has ended and left its socket behind: start it, its log says why it ended"
            }
            _ => "give the socket of a running clusterd with --socket PATH",
        };
        let message = format!("cannot connect to {shown}: {error}");
        return Err(Failure::new(Exit::Unreachable, message).fix(fix));
    }
    let socket: PathBuf = path.to_owned();
    // The name is never resolved: it only fills the :authority header.
    let endpoint =
        Endpoint::from_static("http://clusterd.local").http2_max_header_list_size(HEADER_BYTES_MAX);
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| {
        let message = format!("cannot connect to {}: {}", path.display(), root_cause(&error));
        Failure::new(Exit::Unreachable, message)
    })
}

async fn connect_first(
    credentials: &AdminCredentials,
    endpoints: &[String],
    timeout: Duration,
) -> Result<(Channel, String), Failure> {
    let mut refusals = Vec::new();
    for address in endpoints {
        match connect_tls(credentials, address, timeout.min(CONNECT_TIMEOUT)).await {
            Ok(channel) => return Ok((channel, address.clone())),
            Err(cause) => refusals.push((address, cause)),
        }
    }
    let causes: Vec<String> =
        refusals.iter().map(|(address, cause)| format!("{address}: {cause}")).collect();
    let fix = refusals.iter().find_map(|(_, cause)| tls_fix(cause)).unwrap_or(
        "are the nodes running, and is their API port open from here? On a node, use --socket",
    );
    let message = match causes.len() {
        1 => format!("cannot connect to {}", causes.concat()),
        n => format!("cannot connect to any of {n} nodes: {}", causes.join("; ")),
    };
    Err(Failure::new(Exit::Unreachable, message).fix(fix))
}

async fn connect_tls(
    credentials: &AdminCredentials,
    address: &str,
    timeout: Duration,
) -> Result<Channel, String> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&credentials.ca_pem))
        .identity(Identity::from_pem(&credentials.cert_pem, &credentials.key_pem))
        .domain_name(NODE_TLS_NAME);
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(|error| format!("these credentials do not work: {}", root_cause(&error)))?
        .http2_max_header_list_size(HEADER_BYTES_MAX);
    match tokio::time::timeout(timeout, endpoint.connect()).await {
        Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
        Ok(Err(error)) => Err(root_cause(&error)),
        Ok(Ok(channel)) => Ok(channel),
    }
}
