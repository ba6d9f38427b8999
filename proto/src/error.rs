//! Errors of the API: a gRPC status whose details say why, where and what to do.

use prost::Message;
use tonic::{Code, Status};

use crate::v1::{ErrorDetail, Reason};

/// `google.rpc.Status`, the standard envelope of status details: grpcurl and every other client
/// library find our message in it.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

const TYPE_URL: &str = "type.googleapis.com/steadfast.v1.ErrorDetail";

/// The gRPC code that goes with a reason, so that a client which does not read details still
/// knows whether to retry.
pub fn reason_code(reason: Reason) -> Code {
    match reason {
        Reason::Unspecified => Code::Unknown,
        Reason::InvalidDocument | Reason::InvalidArgument | Reason::AmbiguousName => {
            Code::InvalidArgument
        }
        Reason::RevisionConflict => Code::Aborted,
        Reason::NoQuorum => Code::Unavailable,
        Reason::OutcomeUnknown => Code::DeadlineExceeded,
        Reason::NotFound => Code::NotFound,
        Reason::Denied => Code::PermissionDenied,
        Reason::NotAMember
        | Reason::AlreadyMember
        | Reason::MoveRefused
        | Reason::NodeInUse
        | Reason::NotReady => Code::FailedPrecondition,
        Reason::BadToken => Code::Unauthenticated,
        Reason::LocalFailure => Code::Internal,
    }
}

/// Builds the status for `detail`; `message` says what is wrong and where, in one sentence.
pub fn error_status(message: impl Into<String>, detail: &ErrorDetail) -> Status {
    let message = message.into();
    let code = reason_code(detail.reason());
    let any = prost_types::Any { type_url: TYPE_URL.to_owned(), value: detail.encode_to_vec() };
    let envelope = RpcStatus { code: code.into(), message: message.clone(), details: vec![any] };
    Status::with_details(code, message, envelope.encode_to_vec().into())
}

/// The detail of a status made by [`error_status`]; `None` for statuses from elsewhere, such as
/// the transport, and for details that do not decode.
pub fn error_detail(status: &Status) -> Option<ErrorDetail> {
    let envelope = RpcStatus::decode(status.details()).ok()?;
    let any = envelope.details.iter().find(|any| any.type_url == TYPE_URL)?;
    ErrorDetail::decode(any.value.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::DocumentError;

    #[test]
    fn a_detail_survives_the_status() {
        let wrong = DocumentError { line: 3, column: 9, what: "x".into(), ..Default::default() };
        let detail = ErrorDetail {
            reason: Reason::InvalidDocument.into(),
            fix: "write a port".to_owned(),
            document_errors: vec![wrong],
            ..Default::default()
        };
        let status = error_status("refused", &detail);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "refused");
        assert_eq!(error_detail(&status), Some(detail));
    }

    #[test]
    fn foreign_details_are_none() {
        assert_eq!(error_detail(&Status::internal("x")), None);
        let garbage = Status::with_details(Code::Internal, "x", vec![0xff; 16].into());
        assert_eq!(error_detail(&garbage), None);
        let other = prost_types::Any { type_url: "other".to_owned(), value: vec![8, 1] };
        let envelope =
            RpcStatus { code: 13, message: String::new(), details: vec![other] }.encode_to_vec();
        let foreign = Status::with_details(Code::Internal, "x", envelope.into());
        assert_eq!(error_detail(&foreign), None);
    }

    #[test]
    fn only_refusals_that_pass_by_themselves_invite_a_retry() {
        for number in 0..64 {
            let Ok(reason) = Reason::try_from(number) else { continue };
            let retry = matches!(reason, Reason::NoQuorum);
            assert_eq!(reason_code(reason) == Code::Unavailable, retry, "{reason:?}");
            assert_ne!(reason_code(reason), Code::Ok, "{reason:?}");
        }
    }
}
