//! `Apply` and `GetConfig`.

use steadfast_model::{ClusterState, Command, Rejection, Response, document::Document};
use steadfast_proto::v1::{ApplyReply, ApplyRequest, GetConfigReply, GetConfigRequest, Reason};
use tonic::Status;

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
                format!("kept are {oldest} to {}", state.config.revision),
            )
        })?;
    Ok(GetConfigReply { revision: config.revision, document: config.text.clone() })
}

/// What changes from one document to the other, one line each.
fn diff(before: &Document, after: &Document) -> Vec<String> {
    let mut lines = Vec::new();
    compare(&mut lines, "segment", &before.segments, &after.segments, |s| {
        (s.name.clone(), s.prefix.to_string())
    });
    compare(&mut lines, "group", &before.groups, &after.groups, |g| {
        (g.name.clone(), format!("{:?} gateways {:?}", g.addresses, g.gateways))
    });
    compare(&mut lines, "service", &before.services, &after.services, |s| {
        let mut bare = s.clone();
        bare.servers.clear();
        let text = format!(
            "{} {}:{} {} {}",
            s.protocol.name(),
            s.address,
            s.port,
            s.scheduler.name(),
            s.forwarding.name()
        );
        // Everything else that may differ is in the debug text, which is compared, not shown.
        (s.name.clone(), format!("{text}\u{0}{bare:?}"))
    });
    let servers = |document: &Document| -> Vec<(String, u32)> {
        let of = document.services.iter().flat_map(|s| {
            let named = |r: &steadfast_model::document::ServerSpec| {
                (format!("{} {}:{}", s.name, r.address, r.port), r.weight)
            };
            s.servers.iter().map(named).collect::<Vec<_>>()
        });
        of.collect()
    };
    compare(&mut lines, "server", &servers(before), &servers(after), |(name, weight)| {
        (name.clone(), format!("weight {weight}"))
    });
    if before.settings != after.settings {
        lines.push("~ settings".to_owned());
    }
    lines
}

fn compare<T>(
    lines: &mut Vec<String>,
    kind: &str,
    before: &[T],
    after: &[T],
    describe: impl Fn(&T) -> (String, String),
) {
    let shown = |text: &str| text.split('\u{0}').next().unwrap_or_default().to_owned();
    let old: std::collections::BTreeMap<_, _> = before.iter().map(&describe).collect();
    let new: std::collections::BTreeMap<_, _> = after.iter().map(&describe).collect();
    for (name, text) in &old {
        if !new.contains_key(name) {
            lines.push(format!("- {kind} {name} {}", shown(text)));
        }
    }
    for (name, text) in &new {
        match old.get(name) {
            None => lines.push(format!("+ {kind} {name} {}", shown(text))),
            Some(was) if was == text => {}
            Some(was) if shown(was) == shown(text) => lines.push(format!("~ {kind} {name}")),
            Some(was) => lines.push(format!("~ {kind} {name} {} -> {}", shown(was), shown(text))),
        }
    }
}

/// Accepted, but doubtful.
fn warnings(document: &Document) -> Vec<String> {
    let mut warnings = Vec::new();
    for service in &document.services {
        if service.servers.iter().all(|s| s.weight == 0) {
            warnings.push(format!("service {} has no server with a weight above 0", service.name));
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
    fn a_diff_names_what_changes_and_nothing_else() {
        let before = Document::parse(TEXT).unwrap();
        assert_eq!(diff(&before, &before), Vec::<String>::new());
        let text = TEXT
            .replace("{address: 198.18.0.11, port: 7}, ", "")
            .replace("198.18.0.12, port: 7", "198.18.0.12, port: 7, weight: 0")
            .replace("scheduler: rr", "scheduler: mh");
        assert_eq!(
            diff(&before, &Document::parse(&text).unwrap()),
            [
                "~ service echo tcp 198.18.0.100:7 rr dr -> tcp 198.18.0.100:7 mh dr",
                "- server echo 198.18.0.11:7 weight 1",
                "~ server echo 198.18.0.12:7 weight 1 -> weight 0",
            ]
        );
        let text = TEXT.replace("scheduler: rr,", "scheduler: rr, timeouts: {udp_s: 9},");
        assert_eq!(diff(&before, &Document::parse(&text).unwrap()), ["~ service echo"]);
        assert_eq!(diff(&Document::empty(), &before).len(), 5);
    }

    #[test]
    fn a_drained_service_and_missing_checks_are_warned_of() {
        let text = TEXT.replace("port: 7}", "port: 7, weight: 0}");
        assert_eq!(warnings(&Document::parse(&text).unwrap()).len(), 2);
    }
}
