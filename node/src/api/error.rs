//! How failures inside the daemon look to a client.

use steadfast_model::Rejection;
use steadfast_proto::{
    error_status,
    v1::{DocumentError, ErrorDetail, Reason},
};
use tonic::Status;

use crate::propose::ProposeError;

/// A status with a reason and what to do.
pub(crate) fn refuse(reason: Reason, what: impl Into<String>, fix: impl Into<String>) -> Status {
    let detail = ErrorDetail { reason: reason.into(), fix: fix.into(), ..ErrorDetail::default() };
    error_status(what, &detail)
}

/// This node belongs to no cluster.
pub(crate) fn not_a_member() -> Status {
    refuse(
        Reason::NotAMember,
        "this node belongs to no cluster yet",
        "run `clusterctl init` for a new cluster, or `clusterctl join TOKEN`",
    )
}

/// A local failure, with its causes.
pub(crate) fn local_failure(error: &anyhow::Error) -> Status {
    refuse(Reason::LocalFailure, format!("{error:#}"), "the daemon's log on this node says more")
}

/// Why a command was not committed.
pub(crate) fn propose_failure(error: &ProposeError) -> Status {
    let (reason, fix) = match error {
        ProposeError::NoQuorum(_) => (
            Reason::NoQuorum,
            "nothing was changed; `clusterctl status` shows which voters are missing",
        ),
        ProposeError::Unknown(_) => (
            Reason::OutcomeUnknown,
            "it may or may not take effect; look with `clusterctl status` before trying again",
        ),
        ProposeError::Refused(_) => {
            (Reason::NotReady, "nothing was changed; `clusterctl status` shows what there is")
        }
        ProposeError::Stopped(_) => (
            Reason::LocalFailure,
            "the Raft role of a node has stopped; its log says why. Forwarding goes on",
        ),
    };
    refuse(reason, error.to_string(), fix)
}

/// Why a command changed nothing.
pub(crate) fn rejected(rejection: &Rejection, source: &str) -> Status {
    let reason = match rejection {
        Rejection::AlreadyInitialised => Reason::AlreadyMember,
        Rejection::NotInitialised => Reason::NotAMember,
        Rejection::Token => Reason::BadToken,
        Rejection::TooManyNodes(_) => Reason::InvalidArgument,
        Rejection::NoSuchNode(_) | Rejection::NoSuchGroup(_) => Reason::NotFound,
        Rejection::Revision { .. } => Reason::RevisionConflict,
        Rejection::Document(_) => Reason::InvalidDocument,
        Rejection::EpochConflict { .. } => Reason::MoveRefused,
        // Only the leader's steward begins slots: nobody asks through the API.
        Rejection::CookieSlot { .. } => Reason::InvalidArgument,
    };
    let mut detail = ErrorDetail { reason: reason.into(), ..ErrorDetail::default() };
    if let Rejection::Revision { current, .. } = rejection {
        detail.current_revision = Some(*current);
    }
    if let Rejection::Document(problems) = rejection {
        detail.document_errors = problems.iter().map(|p| document_error(source, p)).collect();
        let what = format!("the document has {} error(s); nothing was changed", problems.len());
        return error_status(what, &detail);
    }
    error_status(rejection.to_string(), &detail)
}

/// Splits `path: message` and finds `line N column M` in what the YAML reader says.
fn document_error(source: &str, problem: &str) -> DocumentError {
    let number_after = |word: &str| -> u32 {
        problem
            .split(word)
            .nth(1)
            .and_then(|rest| {
                let digits: String =
                    rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
                digits.parse().ok()
            })
            .unwrap_or(0)
    };
    let (line, column) = (number_after("line "), number_after("column "));
    let (path, what) = match problem.split_once(": ") {
        Some((path, what)) if line == 0 => (path.to_owned(), what.to_owned()),
        _ => (String::new(), problem.to_owned()),
    };
    DocumentError { source: source.to_owned(), line, column, path, what, fix: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_a_document_are_found() {
        let at =
            document_error("f", "the document cannot be read: unknown field at line 3 column 7");
        assert_eq!((at.line, at.column, at.path.as_str()), (3, 7, ""));
        let at = document_error("f", "services[0] (a): port 0 is no port");
        assert_eq!(
            (at.line, at.path.as_str(), at.what.as_str()),
            (0, "services[0] (a)", "port 0 is no port")
        );
    }
}
