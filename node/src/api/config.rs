//! `Apply` and `GetConfig`.

use steadfast_model::{ClusterState, Command, Rejection, Response, document::Document};
use steadfast_proto::v1::{ApplyReply, ApplyRequest, GetConfigReply, GetConfigRequest, Reason};
use tonic::Status;

use super::diff::diff;
use super::{
    auth::Caller,
    error::{propose_failure, refuse, rejected},
};
use crate::{clock, member::Member};

/// Validates, compares and, unless it is a dry run, commits a document.
pub(crate) async fn apply(
    member: &Member,
    caller: &Caller,
    request: ApplyRequest,
) -> Result<ApplyReply, Status> {
    let before = member.state();
    let document = ClusterState::check(&request.document)
        .map_err(|problems| rejected(&Rejection::Document(problems), &request.source))?;
    let current = before.config.revision;
    if let Some(expected) = request.expected_revision
        && expected != current
        && request.dry_run
    {
        return Err(rejected(&Rejection::Revision { expected, current }, &request.source));
    }
    judge_emptiness(&before.config.document, &document, &request.document)?;
    let diff = diff(&before.config.document, &document);
    let warnings = warnings(&document);
    if request.dry_run {
        return Ok(ApplyReply { revision: current, changed: !diff.is_empty(), diff, warnings });
    }
    let command = Command::Apply {
        text: request.document,
        expected_revision: request.expected_revision,
        source: caller.to_string(),
        now_unix_s: clock::unix_s(),
    };
    match member.propose(command).await.map_err(|e| propose_failure(&e))? {
        Response::Applied { revision, changed } => {
            Ok(ApplyReply { revision, changed, diff, warnings })
        }
        Response::Rejected(rejection) => Err(rejected(&rejection, &request.source)),
        other => Err(Status::internal(format!("unexpected answer {other:?}"))),
    }
}

/// A document that lost its content must not take a cluster out of service.
fn judge_emptiness(before: &Document, after: &Document, text: &str) -> Result<(), Status> {
    let empty = |document: &Document| document.groups.is_empty() && document.services.is_empty();
    if empty(before) || !empty(after) || Document::says_it_is_empty(text) {
        return Ok(());
    }
    Err(refuse(
        Reason::InvalidArgument,
        format!(
            "the document has neither groups nor services: it would remove all {} groups and {} \
             services",
            before.groups.len(),
            before.services.len()
        ),
        "a document is the whole of what is wanted; if nothing is, write `groups: []` and \
         `services: []`",
    ))
}

/// The document as it was applied.
pub(crate) fn get(member: &Member, request: &GetConfigRequest) -> Result<GetConfigReply, Status> {
    let state = member.state();
    let wanted = request.revision.unwrap_or(state.config.revision);
    let config = std::iter::once(&state.config)
        .chain(&state.history)
        .find(|c| c.revision == wanted)
        .ok_or_else(|| {
            let oldest = state.history.front().map_or(state.config.revision, |c| c.revision);
            refuse(
                Reason::NotFound,
                format!("revision {wanted} is not kept"),
                match state.config.revision {
                    0 => "nothing was applied yet: clusterctl config apply -f FILE".to_owned(),
                    newest => format!("kept are {oldest} to {newest}"),
                },
            )
        })?;
    Ok(GetConfigReply { revision: config.revision, document: config.text.clone() })
}

/// Accepted, but doubtful.
fn warnings(document: &Document) -> Vec<String> {
    let mut warnings = Vec::new();
    for service in &document.services {
        if service.servers.iter().all(|s| s.weight == 0 || s.drain) {
            warnings.push(format!(
                "service {} has no server that may get connections: all drain",
                service.name
            ));
        }
        if service.check.is_none() && service.servers.len() > 1 {
            warnings.push(format!(
                "service {} has no check: a dead server keeps getting connections",
                service.name
            ));
        }
    }
    if document.settings.replication == steadfast_model::document::Switch::Off {
        warnings.push(
            "replication is off: every session breaks when its group's holder dies".to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
apiVersion: steadfast/v1
segments: [{name: front, prefix: 198.18.0.0/24}]
groups: [{name: web, addresses: [198.18.0.100]}]
services:
  - {name: echo, group: web, address: 198.18.0.100, port: 7, scheduler: rr,
     servers: [{address: 198.18.0.11, port: 7}, {address: 198.18.0.12, port: 7}]}
";

    #[test]
    fn a_document_that_lost_its_content_is_refused() {
        let (full, empty) = (Document::parse(TEXT).unwrap(), Document::empty());
        let judge = |before, text: &str| {
            let after = Document::parse(text).unwrap();
            let judged = judge_emptiness(before, &after, text);
            judged.map_err(|status| status.message().to_owned())
        };
        let bare = "apiVersion: steadfast/v1";
        assert!(judge(&full, bare).unwrap_err().contains("all 1 groups and 1 services"));
        assert!(judge(&full, &format!("{bare}\nservices: []")).is_err());
        assert_eq!(judge(&full, &format!("{bare}\nservices: []\ngroups: []")), Ok(()));
        assert_eq!(judge(&full, TEXT), Ok(()));
        assert_eq!(judge(&empty, bare), Ok(()), "nothing is lost");
    }

    #[test]
    fn a_drained_service_and_missing_checks_are_warned_of() {
        let text = TEXT.replace("port: 7}", "port: 7, weight: 0}");
        assert_eq!(warnings(&Document::parse(&text).unwrap()).len(), 2);
    }
}
