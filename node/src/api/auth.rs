//! Who calls, and what they may call. Default deny; every denied or changing call is audited.

use std::fmt;

use steadfast_peer::pki::{PeerIdentity, Role};
use steadfast_proto::{
    error_status,
    v1::{ErrorDetail, Reason},
};
use tonic::{
    Request, Status,
    transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo},
};
use tracing::{info, warn};

/// The methods of the control API.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Method {
    Init,
    Join,
    CreateToken,
    Admit,
    Apply,
    GetConfig,
    Status,
    MoveGroup,
    PlanRebalance,
    ListConnections,
    Trace,
    NodeRemove,
    NodePromote,
    NodeDemote,
    NodeReplace,
    NodeCordon,
    Detach,
}

/// What a method asks of its caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Need {
    /// The node's own Unix socket, which only its owner can open.
    LocalSocket,
    /// A role at least as high.
    Role(Role),
    /// Nothing: a token inside the request decides.
    Nothing,
}

impl Method {
    fn need(self) -> Need {
        match self {
            Self::Init | Self::Join => Need::LocalSocket,
            Self::Admit => Need::Nothing,
            Self::GetConfig
            | Self::Status
            | Self::PlanRebalance
            | Self::ListConnections
            | Self::Trace => Need::Role(Role::Viewer),
            Self::Apply | Self::MoveGroup | Self::NodeCordon => Need::Role(Role::Operator),
            Self::CreateToken
            | Self::NodeRemove
            | Self::NodePromote
            | Self::NodeDemote
            | Self::NodeReplace
            | Self::Detach => Need::Role(Role::Admin),
        }
    }

    fn changes(self) -> bool {
        self.need() != Need::Role(Role::Viewer)
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Somebody who can open the Unix socket: admin.
    Local,
    /// The holder of a client certificate.
    Certified(PeerIdentity),
    /// Over TLS without a client certificate.
    Anonymous,
}

impl Caller {
    fn of<T>(request: &Request<T>) -> Self {
        if request.extensions().get::<UdsConnectInfo>().is_some() {
            return Self::Local;
        }
        let certificate = request
            .extensions()
            .get::<TlsConnectInfo<TcpConnectInfo>>()
            .and_then(TlsConnectInfo::peer_certs)
            .and_then(|chain| chain.first().cloned());
        match certificate.map(|c| PeerIdentity::from_cert_der(&c)) {
            Some(Ok(identity)) => Self::Certified(identity),
            _ => Self::Anonymous,
        }
    }

    fn may(&self, need: Need) -> bool {
        match (self, need) {
            (_, Need::Nothing) | (Self::Local, _) => true,
            (Self::Certified(PeerIdentity::User { role, .. }), Need::Role(least)) => *role >= least,
            _ => false,
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local socket"),
            Self::Certified(identity) => f.write_str(&identity.uri()),
            Self::Anonymous => f.write_str("anonymous"),
        }
    }
}

/// Lets the call pass or says why not.
pub(crate) fn authorise<T>(method: Method, request: &Request<T>) -> Result<Caller, Status> {
    let caller = Caller::of(request);
    let from = request.remote_addr().map(|a| a.to_string()).unwrap_or_default();
    if caller.may(method.need()) {
        // Anybody may call what needs nothing, so that is logged where it is decided.
        if method.changes() && method.need() != Need::Nothing {
            info!(target: "audit", ?method, %caller, from, "allowed");
        }
        return Ok(caller);
    }
    warn!(target: "audit", ?method, %caller, from, "denied");
    let fix = match method.need() {
        Need::LocalSocket => "run it on the node itself, over its Unix socket".to_owned(),
        Need::Role(role) => format!("use credentials with the role {role} or higher"),
        Need::Nothing => String::new(),
    };
    let detail = ErrorDetail { reason: Reason::Denied.into(), fix, ..ErrorDetail::default() };
    Err(error_status(format!("{caller} may not call {method:?}"), &detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: &[Method] = &[
        Method::Init,
        Method::Join,
        Method::CreateToken,
        Method::Admit,
        Method::Apply,
        Method::GetConfig,
        Method::Status,
        Method::MoveGroup,
        Method::PlanRebalance,
        Method::ListConnections,
        Method::Trace,
        Method::NodeRemove,
        Method::NodePromote,
        Method::NodeDemote,
        Method::NodeReplace,
        Method::NodeCordon,
        Method::Detach,
    ];

    /// Every method of the .proto file has an entry here: a new one must be thought about.
    #[test]
    fn the_table_names_every_method_of_the_service() {
        for method in METHODS {
            let path = format!("{method:?}");
            let name = path.as_bytes();
            assert!(
                steadfast_proto::FILE_DESCRIPTOR_SET.windows(name.len()).any(|w| w == name),
                "{method:?} is not in the .proto file"
            );
        }
        let descriptor = include_str!("../../../proto/proto/steadfast/v1/control.proto");
        let declared = descriptor.lines().filter(|l| l.trim_start().starts_with("rpc ")).count();
        assert_eq!(declared, METHODS.len());
    }

    #[test]
    fn roles_are_denied_by_default() {
        let user = |role| {
            Caller::Certified(PeerIdentity::User {
                cluster: "c".to_owned(),
                name: "u".to_owned(),
                role,
            })
        };
        let node = Caller::Certified(PeerIdentity::Node {
            cluster: "c".to_owned(),
            id: steadfast_model::NodeId(1),
        });
        // How many methods each caller may call, of all.
        for (caller, allowed) in [
            (Caller::Anonymous, 1),
            (node, 1),
            (user(Role::Viewer), 6),
            (user(Role::Operator), 9),
            (user(Role::Admin), 15),
            (Caller::Local, 17),
        ] {
            let count = METHODS.iter().filter(|m| caller.may(m.need())).count();
            assert_eq!(count, allowed, "{caller}");
        }
    }
}
