//! Which node to ask, and how: decided from flags, variables and files, in a documented order.

use std::path::{Path, PathBuf};

use steadfast_proto::DEFAULT_SOCKET;
use steadfast_proto::v1::AdminCredentials;

use crate::cli::Global;
use crate::credentials;
use crate::failure::{Exit, Failure};

/// Where credentials are when nobody says otherwise, below the home folder.
const CREDENTIALS_BELOW_HOME: &str = ".config/steadfast/credentials";

/// What of the process's surroundings matters.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    /// STEADFAST_SOCKET.
    pub(crate) socket: Option<PathBuf>,
    /// STEADFAST_CREDENTIALS.
    pub(crate) credentials: Option<PathBuf>,
    /// HOME.
    pub(crate) home: Option<PathBuf>,
    /// The socket that is tried last.
    pub(crate) default_socket: PathBuf,
    /// Colours are wanted where a terminal shows them (<https://no-color.org>).
    pub(crate) colour: bool,
}

impl Environment {
    /// Reads the variables. An empty variable is an absent one.
    pub(crate) fn from_process() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            socket: variable("STEADFAST_SOCKET").map(PathBuf::from),
            credentials: variable("STEADFAST_CREDENTIALS").map(PathBuf::from),
            home: variable("HOME").map(PathBuf::from),
            default_socket: PathBuf::from(DEFAULT_SOCKET),
            colour: variable("NO_COLOR").is_none()
                && variable("TERM").is_none_or(|term| term != "dumb"),
        }
    }

    fn default_credentials(&self) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(CREDENTIALS_BELOW_HOME))
    }

    /// Where `init` writes credentials.
    pub(crate) fn credentials_out(&self, global: &Global) -> Result<PathBuf, Failure> {
        let named = global.credentials.clone().or_else(|| self.credentials.clone());
        named.or_else(|| self.default_credentials()).ok_or_else(|| {
            Failure::new(Exit::Usage, "HOME is not set, so there is no place for credentials")
                .fix("say where to write them with --credentials FILE")
        })
    }
}

/// A way to the cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// The Unix socket of a node on this machine.
    Socket(PathBuf),
    /// Mutual TLS to the first endpoint that answers.
    Tls {
        /// CA, certificate and key.
        credentials: Box<AdminCredentials>,
        /// `HOST:PORT`, in the order to try.
        endpoints: Vec<String>,
        /// About the credentials file.
        warning: Option<String>,
    },
}

impl Target {
    /// For commands of the whole cluster: the first that applies of the list in `--help`.
    pub(crate) fn resolve(global: &Global, environment: &Environment) -> Result<Self, Failure> {
        if let Some(socket) = &global.socket {
            if global.credentials.is_some() {
                return Err(Failure::new(Exit::Usage, "--socket and --credentials contradict")
                    .fix("a Unix socket needs no credentials: give one of the two"));
            }
            return Ok(Self::Socket(socket.clone()));
        }
        if global.server.is_some() || global.credentials.is_some() {
            return Self::tls(global, environment);
        }
        if let Some(socket) = &environment.socket {
            return Ok(Self::Socket(socket.clone()));
        }
        if environment.credentials.is_some() {
            return Self::tls(global, environment);
        }
        if environment.default_socket.exists() {
            return Ok(Self::Socket(environment.default_socket.clone()));
        }
        if environment.default_credentials().is_some_and(|path| path.exists()) {
            return Self::tls(global, environment);
        }
        let socket = environment.default_socket.display();
        Err(Failure::new(Exit::Unreachable, format!("no socket at {socket} and no credentials"))
            .fix(
                "on a node: start clusterd, or give --socket; elsewhere: copy the credentials \
                 that `clusterctl init` wrote, and give --credentials FILE",
            ))
    }

    /// For commands that only the node itself takes: its Unix socket.
    pub(crate) fn resolve_local(
        global: &Global,
        environment: &Environment,
        command: &str,
    ) -> Result<Self, Failure> {
        if global.server.is_some() {
            return Err(Failure::new(Exit::Usage, format!("{command} does not take --server"))
                .fix(format!("run `clusterctl {command}` on the node itself")));
        }
        let named = global.socket.as_ref().or(environment.socket.as_ref());
        Ok(Self::Socket(named.unwrap_or(&environment.default_socket).clone()))
    }

    fn tls(global: &Global, environment: &Environment) -> Result<Self, Failure> {
        let path = global.credentials.clone().or_else(|| environment.credentials.clone());
        let path = path.or_else(|| environment.default_credentials()).ok_or_else(|| {
            Failure::new(Exit::Usage, "--server needs credentials").fix("give --credentials FILE")
        })?;
        let (credentials, warning) = credentials::read(&path)?;
        let endpoints = match &global.server {
            Some(server) => vec![server.clone()],
            None => credentials.endpoints.clone(),
        };
        check_endpoints(&endpoints, &path)?;
        Ok(Self::Tls { credentials: Box::new(credentials), endpoints, warning })
    }
}

/// `HOST:PORT` each; IPv6 in brackets.
fn check_endpoints(endpoints: &[String], path: &Path) -> Result<(), Failure> {
    if endpoints.is_empty() {
        return Err(Failure::new(Exit::Usage, format!("{} names no endpoints", path.display()))
            .fix("say which node to ask with --server HOST:PORT"));
    }
    for endpoint in endpoints {
        let parts = endpoint.rsplit_once(':');
        let good = parts.is_some_and(|(host, port)| {
            let bracketed = host.starts_with('[') && host.ends_with(']');
            !host.is_empty()
                && (bracketed || !host.contains(':'))
                && !host.contains('/')
                && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        if !good {
            return Err(Failure::new(Exit::Usage, format!("{endpoint:?} is not HOST:PORT")).fix(
                "write such as 198.18.255.1:7440, [2001:db8::1]:7440 or n1.example.net:7440",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "target_test.rs"]
mod tests;
