//! `Trace`: what every node would do with a packet.

mod explain;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use prost::Message;
use steadfast_dataplane::{Protocol, Step};
use steadfast_model::{ClusterState, NodeId};
use steadfast_proto::v1::{self, Reason, TraceNode, TraceReply, TraceRequest, TraceStep};
use tokio::sync::Semaphore;
use tonic::Status;

use super::{error::refuse, nodes::node_ref};
use crate::member::{CALL_TRACE, Member};

/// A node that takes longer is named as one that did not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Rehearsals at a time, on each node: each copies the configuration.
const REHEARSALS_MAX: usize = 2;

static REHEARSALS: Semaphore = Semaphore::const_new(REHEARSALS_MAX);

/// Asks every member.
pub(crate) async fn trace(
    member: &Arc<Member>,
    request: TraceRequest,
) -> Result<TraceReply, Status> {
    // Once here, so that the caller hears what is wrong with it.
    let asked = Asked::read(&request)?;
    let state = member.state();
    let bytes = request.encode_to_vec();
    let nodes = state.nodes.keys().map(|id| {
        let (state, bytes) = (&state, &bytes);
        async move {
            if *id == member.id() {
                return rehearse(member, asked).await;
            }
            match member.owner.links.call(*id, CALL_TRACE, bytes, ANSWER_WITHIN).await {
                Ok(answer) => read_answer(state, *id, &answer),
                Err(error) => silent(state, *id, format!("it does not answer: {error}")),
            }
        }
    });
    Ok(TraceReply { nodes: join_all(nodes).await })
}

/// Answers a peer; an empty answer says that the question cannot be read.
pub(crate) async fn answer(member: &Arc<Member>, bytes: &[u8]) -> Vec<u8> {
    let request = TraceRequest::decode(bytes).ok();
    match request.and_then(|request| Asked::read(&request).ok()) {
        Some(asked) => rehearse(member, asked).await.encode_to_vec(),
        None => Vec::new(),
    }
}

/// What is asked, checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Asked {
    protocol: Protocol,
    src: SocketAddr,
    dst: SocketAddr,
    /// None: what would come next.
    step: Option<Step>,
}

impl Asked {
    fn read(request: &TraceRequest) -> Result<Self, Status> {
        let address = |what: &str, text: &str| {
            text.parse::<SocketAddr>().map_err(|_| {
                refuse(
                    Reason::InvalidArgument,
                    format!("the {what} `{text}` is no address with a port"),
                    "write 198.51.100.7:4711 or [2001:db8::7]:4711",
                )
            })
        };
        let (src, dst) =
            (address("source", &request.source)?, address("destination", &request.destination)?);
        if src.is_ipv4() != dst.is_ipv4() {
            return Err(refuse(
                Reason::InvalidArgument,
                format!("{src} and {dst} are of two families"),
                "write both as IPv4, or both as IPv6",
            ));
        }
        let protocol = match request.protocol() {
            v1::Protocol::Tcp => Protocol::Tcp,
            v1::Protocol::Udp => Protocol::Udp,
            v1::Protocol::Sctp => Protocol::Sctp,
            v1::Protocol::Unspecified => {
                let fix = "it is tcp, udp or sctp";
                return Err(refuse(Reason::InvalidArgument, "no protocol is named", fix));
            }
        };
        let step = match request.step() {
            TraceStep::Unspecified => None,
            TraceStep::Open => Some(Step::Open),
            TraceStep::Data => Some(Step::Data),
            TraceStep::Close => Some(Step::Close),
            TraceStep::Reset => Some(Step::Reset),
        };
        Ok(Self { protocol, src, dst, step })
    }
}

async fn rehearse(member: &Arc<Member>, asked: Asked) -> TraceNode {
    let here = Arc::clone(member);
    // Closed never, and who waits longer than the caller does is given up by it.
    let _turn = REHEARSALS.acquire().await;
    let done = tokio::task::spawn_blocking(move || here.rehearse(asked)).await;
    done.unwrap_or_else(|error| silent(&member.state(), member.id(), error.to_string()))
}

fn read_answer(state: &ClusterState, id: NodeId, answer: &[u8]) -> TraceNode {
    if answer.is_empty() {
        return silent(state, id, "it cannot trace: it may run an older version".to_owned());
    }
    let node = Some(node_ref(state, id));
    TraceNode::decode(answer).map_or_else(
        |error| silent(state, id, format!("its answer cannot be read: {error}")),
        |answer| TraceNode { node, ..answer },
    )
}

fn silent(state: &ClusterState, id: NodeId, error: String) -> TraceNode {
    TraceNode { node: Some(node_ref(state, id)), error, ..TraceNode::default() }
}

impl Member {
    fn rehearse(&self, asked: Asked) -> TraceNode {
        let state = self.state();
        let explained = explain::explain(&explain::Facts {
            asked,
            now_ns: crate::clock::now_ns(),
            shared: &self.plane.shared,
            state: &state,
            node: self.id(),
            holder: &|group| super::groups::role_of(self, group),
            interface: &|port| {
                let ports = self.plane.ports();
                let found = ports.iter().find(|found| found.number == port);
                found.map_or_else(|| format!("port {port}"), |found| found.name.clone())
            },
        });
        match explained {
            Ok(explained) => explained,
            Err(error) => silent(&state, self.id(), error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_or_refused_with_what_to_write() {
        let request = |source: &str, destination: &str, protocol| TraceRequest {
            protocol: i32::from(protocol),
            source: source.to_owned(),
            destination: destination.to_owned(),
            step: TraceStep::Close.into(),
        };
        let good = request("[2001:db8::7]:4711", "[2001:db8::100]:80", v1::Protocol::Sctp);
        let asked = Asked::read(&good).unwrap();
        assert_eq!((asked.protocol, asked.step), (Protocol::Sctp, Some(Step::Close)));
        assert_eq!(asked.src.port(), 4711);
        for (source, destination, protocol, says) in [
            ("198.51.100.7", "192.0.2.100:80", v1::Protocol::Tcp, "`198.51.100.7` is no address"),
            ("198.51.100.7:1", "x:80", v1::Protocol::Tcp, "`x:80` is no address"),
            ("198.51.100.7:1", "[2001:db8::1]:80", v1::Protocol::Tcp, "two families"),
            ("198.51.100.7:1", "192.0.2.100:80", v1::Protocol::Unspecified, "no protocol"),
        ] {
            let error = Asked::read(&request(source, destination, protocol)).unwrap_err();
            assert!(error.message().contains(says), "{}: {says}", error.message());
        }
    }
}
