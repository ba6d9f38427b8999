//! `clusterctl`, as an operator would call it on a node.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::process::Command;

use super::api::{self, Connection, Status, Token};

/// How long a call may take: longer than any time-out of `clusterctl` itself.
const CALL_TIMEOUT: Duration = Duration::from_secs(70);

/// A call that did not succeed.
#[derive(Debug, Error)]
pub enum CtlError {
    /// It could not be started.
    #[error("cannot start {program}: {source}; build it with `make`")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("clusterctl {call}: no answer within {CALL_TIMEOUT:?}")]
    Timeout {
        /// The arguments.
        call: String,
    },
    /// It said no.
    #[error("clusterctl {call}: {message}")]
    Refused {
        /// The arguments.
        call: String,
        /// What it said, standard output and standard error.
        message: String,
    },
    /// It said something else than was expected.
    #[error("clusterctl {call}: {source} in: {text}")]
    Unreadable {
        /// The arguments.
        call: String,
        /// What is wrong with it.
        source: serde_json::Error,
        /// The beginning of it.
        text: String,
    },
}

/// `clusterctl` for one node.
#[derive(Clone, Debug)]
pub struct Ctl {
    /// The program.
    pub program: PathBuf,
    /// The node's Unix socket.
    pub socket: PathBuf,
}

impl Ctl {
    /// `status`.
    ///
    /// # Errors
    /// See [`CtlError`], here and below.
    pub async fn status(&self) -> Result<Status, CtlError> {
        self.json(&["status"]).await
    }

    /// `status -o json`, as it is.
    ///
    /// # Errors
    /// See [`CtlError`].
    pub async fn status_text(&self) -> Result<String, CtlError> {
        self.text(&["status"]).await
    }

    /// `init --cluster-name NAME`; the administrator's credentials go to a file beside the socket.
    ///
    /// # Errors
    /// See [`CtlError`].
    pub async fn init(&self, name: &str) -> Result<(), CtlError> {
        let credentials = self.socket.with_extension("admin").display().to_string();
        let args = ["init", "--cluster-name", name, "--credentials", &credentials];
        self.text(&args).await.map(drop)
    }

    /// `token create`.
    ///
    /// # Errors
    /// See [`CtlError`].
    pub async fn create_token(&self) -> Result<String, CtlError> {
        self.json::<Token>(&["token", "create"]).await.map(|t| t.token)
    }

    /// `join TOKEN`.
    ///
    /// # Errors
    /// See [`CtlError`].
    pub async fn join(&self, token: &str) -> Result<(), CtlError> {
        self.text(&["join", token]).await.map(drop)
    }

    /// `apply -f FILE`.
    ///
    /// # Errors
    /// See [`CtlError`].
    pub async fn apply(&self, file: &Path) -> Result<(), CtlError> {
        self.text(&["apply", "-f", &file.display().to_string()]).await.map(drop)
    }

    /// `vip move GROUP --to NODE`.
    ///
    /// # Errors
    /// See [`CtlError`].
    pub async fn move_group(&self, group: &str, to_node: u64) -> Result<(), CtlError> {
        self.text(&["vip", "move", group, "--to", &to_node.to_string()]).await.map(drop)
    }

    /// `node VERB NODE`.
    ///
    /// # Errors
    /// See [`CtlError`].
    pub async fn node(&self, verb: &str, node: u64) -> Result<(), CtlError> {
        self.text(&["node", verb, &node.to_string()]).await.map(drop)
    }

    /// `conn list`, all of one service.
    ///
    /// # Errors
    /// See [`CtlError`].
    pub async fn connections(&self, service: &str) -> Result<Vec<Connection>, CtlError> {
        let args = ["conn", "list", "--service", service, "--limit", "0"];
        let text = self.text(&args).await?;
        api::connections(&text).map_err(|source| unreadable(&args, source, &text))
    }

    /// How long `apply -f FILE` takes, and how it ends.
    pub async fn time_apply(&self, file: &Path) -> (Duration, Result<(), CtlError>) {
        let started = Instant::now();
        let result = self.apply(file).await;
        (started.elapsed(), result)
    }

    async fn json<T: DeserializeOwned>(&self, args: &[&str]) -> Result<T, CtlError> {
        let text = self.text(args).await?;
        serde_json::from_str(&text).map_err(|source| unreadable(args, source, &text))
    }

    async fn text(&self, args: &[&str]) -> Result<String, CtlError> {
        let mut command = Command::new(&self.program);
        command
            .arg("--socket")
            .arg(&self.socket)
            .args(["-o", "json"])
            .args(args)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        let Output { status, stdout, stderr } =
            match tokio::time::timeout(CALL_TIMEOUT, command.output()).await {
                Ok(Ok(output)) => output,
                Ok(Err(source)) => {
                    return Err(CtlError::Start { program: self.program.clone(), source });
                }
                Err(_) => return Err(CtlError::Timeout { call: args.join(" ") }),
            };
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        if status.success() {
            return Ok(stdout);
        }
        let said = format!("{} {}", stdout.trim(), String::from_utf8_lossy(&stderr).trim());
        let said = said.trim();
        let message = if said.is_empty() { status.to_string() } else { said.to_owned() };
        Err(CtlError::Refused { call: args.join(" "), message })
    }
}

fn unreadable(args: &[&str], source: serde_json::Error, text: &str) -> CtlError {
    let text = text.chars().take(200).collect();
    CtlError::Unreadable { call: args.join(" "), source, text }
}
