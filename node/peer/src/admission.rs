//! Whether a peer whose certificate is good may talk to us. Every connection, dialed or accepted,
//! passes here before a byte of it is used.

use quinn::Connection;
use rustls::pki_types::CertificateDer;
use steadfast_model::NodeId;

use crate::{Endpoint, Membership, Refusal, pki::PeerIdentity};

/// The node at the other end, if it is a member and, when we dialed, the one we meant.
pub(crate) fn admit(
    endpoint: &Endpoint,
    connection: &Connection,
    dialed: Option<NodeId>,
) -> Result<NodeId, Refusal> {
    let certs = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .unwrap_or_default();
    let cert = certs.first().ok_or_else(|| Refusal::Identity("none was sent".into()))?;
    let identity =
        PeerIdentity::from_cert_der(cert).map_err(|error| Refusal::Identity(error.to_string()))?;
    Gate { node: endpoint.node, cluster: &endpoint.cluster, membership: &endpoint.membership }
        .judge(identity, dialed)
}

/// What the decision depends on.
struct Gate<'a> {
    node: NodeId,
    cluster: &'a str,
    membership: &'a Membership,
}

impl Gate<'_> {
    fn judge(&self, peer: PeerIdentity, dialed: Option<NodeId>) -> Result<NodeId, Refusal> {
        let (cluster, id) = match peer {
            PeerIdentity::Node { cluster, id } => (cluster, id),
            user @ PeerIdentity::User { .. } => return Err(Refusal::NotANode(user.to_string())),
        };
        if cluster != self.cluster {
            let ours = self.cluster.to_owned();
            return Err(Refusal::OtherCluster { node: id, theirs: cluster, ours });
        }
        if let Some(dialed) = dialed.filter(|dialed| *dialed != id) {
            return Err(Refusal::OtherNode { dialed, found: id });
        }
        if id == self.node {
            return Err(Refusal::Ourselves(id));
        }
        if !self.membership.contains(id) {
            return Err(Refusal::NotAMember { node: id, cluster });
        }
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Role;

    #[test]
    fn decision_table() {
        let membership = Membership::new([1, 2, 3].map(NodeId));
        let gate = Gate { node: NodeId(1), cluster: "prod", membership: &membership };
        let node =
            |cluster: &str, id| PeerIdentity::Node { cluster: cluster.into(), id: NodeId(id) };
        let user =
            PeerIdentity::User { cluster: "prod".into(), name: "anna".into(), role: Role::Admin };
        let not_a_member = |id| Refusal::NotAMember { node: NodeId(id), cluster: "prod".into() };
        let other_node =
            |dialed, found| Refusal::OtherNode { dialed: NodeId(dialed), found: NodeId(found) };
        let other_cluster =
            Refusal::OtherCluster { node: NodeId(2), theirs: "test".into(), ours: "prod".into() };
        let table = [
            ("a member calls", node("prod", 2), None, Ok(NodeId(2))),
            ("the dialed member answers", node("prod", 2), Some(2), Ok(NodeId(2))),
            ("a stranger calls", node("prod", 4), None, Err(not_a_member(4))),
            ("a stranger answers", node("prod", 4), Some(4), Err(not_a_member(4))),
            ("another member answers", node("prod", 3), Some(2), Err(other_node(2, 3))),
            ("our own id calls", node("prod", 1), None, Err(Refusal::Ourselves(NodeId(1)))),
            ("our own id answers", node("prod", 1), Some(2), Err(other_node(2, 1))),
            ("another cluster's node calls", node("test", 2), None, Err(other_cluster)),
            ("a user calls", user.clone(), None, Err(Refusal::NotANode(user.to_string()))),
        ];
        for (name, peer, dialed, expected) in table {
            assert_eq!(gate.judge(peer, dialed.map(NodeId)), expected, "{name}");
        }
    }
}
