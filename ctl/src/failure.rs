//! Why a command failed, in words for a person and a number for a script.

use std::error::Error;
use std::fmt::Write as _;

use steadfast_proto::error_detail;
use steadfast_proto::v1::{DocumentError, Reason};
use tonic::{Code, Status};

use crate::locate::{Locator, lines};
use crate::render::{Paint, Tone, printable};

/// The exit codes; `clusterctl --help` prints this table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// The cluster or this machine refused; trying again unchanged fails again.
    Refused = 1,
    /// The command line is wrong. clap uses the same number.
    Usage = 2,
    /// The node answered but cannot do it now: no quorum, or no outcome in time.
    Unavailable = 3,
    /// No node answered.
    Unreachable = 4,
}

/// A failed command.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// What the process exits with.
    pub(crate) exit: Exit,
    /// What is wrong and where; one sentence without a full stop.
    pub(crate) message: String,
    /// What to do about it; may be empty.
    pub(crate) fix: String,
    /// Errors in a configuration document.
    pub(crate) document_errors: Vec<DocumentError>,
    /// The document they are in, to show the lines.
    pub(crate) document: String,
}

impl Failure {
    /// A failure nothing more is known about.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            fix: String::new(),
            document_errors: Vec::new(),
            document: String::new(),
        }
    }

    /// Adds what to do.
    pub(crate) fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: fix.into(), ..self }
    }

    /// Adds the document that was refused. A node tells by path what does not fit together; this
    /// finds the lines, and puts the errors in their order.
    pub(crate) fn in_document(mut self, document: String) -> Self {
        let by_path = |wrong: &DocumentError| wrong.line == 0 && !wrong.path.is_empty();
        if self.document_errors.iter().any(by_path) {
            let locator = Locator::read(&document);
            for wrong in self.document_errors.iter_mut().filter(|wrong| by_path(wrong)) {
                let Some(place) = locator.find(&wrong.path) else { continue };
                (wrong.line, wrong.column) = (place.line, place.column);
            }
        }
        // Stable: keeps the node's order in one place. Those without a place come last.
        self.document_errors.sort_by_key(|wrong| (wrong.line == 0, wrong.line, wrong.column));
        Self { document, ..self }
    }

    /// What a node answered. `peer` is where it was asked, `changing` whether the call may have
    /// changed something.
    pub(crate) fn from_status(status: &Status, peer: &str, changing: bool) -> Self {
        // Only errors made on this side have a source: the connection broke.
        if status.source().is_some() {
            let cause = root_cause(status);
            let failure =
                Self::new(Exit::Unreachable, format!("lost the connection to {peer}: {cause}"));
            return failure.fix(lost_fix(&cause, changing));
        }
        let message = match status.message() {
            "" => format!("{peer} answered {:?} without a reason", status.code()),
            told => told.to_owned(),
        };
        let Some(detail) = error_detail(status) else {
            return Self::new(exit_of_code(status.code()), message).fix(fix_of_code(status.code()));
        };
        let exit = match detail.reason() {
            Reason::NoQuorum | Reason::OutcomeUnknown => Exit::Unavailable,
            Reason::Unspecified => exit_of_code(status.code()),
            _ => Exit::Refused,
        };
        let mut fix = detail.fix;
        if let (true, Some(revision)) = (fix.is_empty(), detail.current_revision) {
            fix = format!("look at revision {revision} with `clusterctl get config`, then retry");
        }
        Self { document_errors: detail.document_errors, ..Self::new(exit, message).fix(fix) }
    }

    /// Nothing was heard in time.
    pub(crate) fn timeout(peer: &str, after: std::time::Duration, changing: bool) -> Self {
        let after = crate::duration::text_ms(after.as_millis().try_into().unwrap_or(u64::MAX));
        let message = format!("no answer from {peer} within {after}");
        let fix = if changing {
            "the change may or may not have been made: look with `clusterctl status`"
        } else {
            "is the daemon stopped or paused? Ask another node, or give more --timeout"
        };
        Self::new(Exit::Unreachable, message).fix(fix)
    }

    /// The text for stderr, ending in a newline.
    pub(crate) fn render(&self, paint: Paint) -> String {
        let mut text = String::new();
        let error = paint.text(Tone::Bad, "error:");
        for wrong in &self.document_errors {
            let place = place(wrong);
            let _ = writeln!(text, "{error} {place}{}", printable(&wrong.what));
            text.push_str(&excerpt(&self.document, wrong));
            if !wrong.fix.is_empty() {
                let _ = writeln!(text, "  {}", printable(&wrong.fix));
            }
        }
        let _ = writeln!(text, "{error} {}", printable(&self.message));
        if !self.fix.is_empty() {
            let _ = writeln!(text, "  {}", printable(&self.fix));
        }
        text
    }
}

/// Characters of a line of the document that are shown; of a longer one those around the error.
const EXCERPT_CHARS_MAX: usize = 160;

/// TLS alerts (RFC 8446, section 6.2) by which a server refuses a client's certificate.
/// DecryptError: the authority has the right name but another key, as two clusters' may.
const REFUSALS: [&str; 6] = [
    "AccessDenied",
    "BadCertificate",
    "CertificateRequired",
    "CertificateUnknown",
    "DecryptError",
    "UnknownCA",
];

/// The innermost error of a chain: the outer ones say only "transport error".
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn lost_fix(cause: &str, changing: bool) -> String {
    if let Some(fix) = tls_fix(cause) {
        return fix.to_owned();
    }
    let text = if changing {
        "the change may or may not have been made: look with `clusterctl status`"
    } else {
        "the daemon may have stopped: look at its log, or ask another node"
    };
    text.to_owned()
}

/// What to do about an error of rustls, which is told by its text only: the chain hides the type.
pub(crate) fn tls_fix(cause: &str) -> Option<&'static str> {
    if cause.contains("invalid peer certificate") {
        return Some(
            "that node is not of the cluster these credentials are for: check --server and \
             --credentials",
        );
    }
    if REFUSALS.iter().any(|alert| cause.contains(alert)) {
        return Some(
            "the node refused these credentials: they are of another cluster, or revoked; the \
             node's log says which",
        );
    }
    if cause.contains("CertificateExpired") {
        return Some("the certificate in the credentials has expired: make new credentials");
    }
    None
}

fn exit_of_code(code: Code) -> Exit {
    match code {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Exit::Unavailable,
        _ => Exit::Refused,
    }
}

fn fix_of_code(code: Code) -> &'static str {
    match code {
        Code::Unimplemented => {
            "that daemon does not know this call: use the clusterctl of its version"
        }
        Code::PermissionDenied => "use credentials with a higher role",
        _ => "",
    }
}

/// `FILE:LINE:COLUMN: PATH: `, as editors and people click it.
fn place(wrong: &DocumentError) -> String {
    let source = if wrong.source.is_empty() { "-" } else { &wrong.source };
    let mut text = printable(source);
    if wrong.line > 0 {
        let _ = write!(text, ":{}", wrong.line);
        if wrong.column > 0 {
            let _ = write!(text, ":{}", wrong.column);
        }
    }
    text.push_str(": ");
    if !wrong.path.is_empty() {
        let _ = write!(text, "{}: ", printable(&wrong.path));
    }
    text
}

/// The line of the document with a mark under the column.
fn excerpt(document: &str, wrong: &DocumentError) -> String {
    let Some(index) = (wrong.line as usize).checked_sub(1) else { return String::new() };
    let Some(line) = lines(document).nth(index) else { return String::new() };
    let column = (wrong.column as usize).checked_sub(1);
    // A document in one line, as programs write it, must not be printed for every error in it.
    let skipped = match column {
        Some(column) if line.chars().nth(EXCERPT_CHARS_MAX).is_some() => {
            column.saturating_sub(EXCERPT_CHARS_MAX / 2)
        }
        _ => 0,
    };
    let shown: String = line.chars().skip(skipped).take(EXCERPT_CHARS_MAX).collect();
    let mut text = format!("{:>5} | {}\n", wrong.line, printable(&shown));
    if let Some(column) = column {
        // Not longer than the line: a column past its end marks the end.
        let before = (column - skipped).min(shown.chars().count());
        let _ = writeln!(text, "      | {}^", " ".repeat(before));
    }
    text
}

#[cfg(test)]
#[path = "failure_test.rs"]
mod tests;
