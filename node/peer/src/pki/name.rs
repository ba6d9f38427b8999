//! Who a certificate speaks for.

use std::fmt;

use serde::{Deserialize, Serialize};
use steadfast_model::NodeId;
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use super::PkiError;

/// The DNS name in every node's certificate. Clients of the API expect it whatever address they
/// dial, because any node can answer and addresses change.
pub const NODE_DNS_NAME: &str = "steadfast.node";

/// RFC 1035 section 2.3.4: a label has 63 bytes at most.
const NAME_BYTES_MAX: usize = 63;

/// What a person or a program may do with the API.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Moves groups, drains and weights servers.
    Operator,
    /// Everything: configuration, membership, certificates.
    Admin,
}

impl Role {
    /// All roles, least right first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The role's name in certificates and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who a certificate speaks for. Means nothing before the certificate has been verified.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PeerIdentity {
    /// A member of a cluster.
    Node {
        /// The cluster's name.
        cluster: String,
        /// The node.
        id: NodeId,
    },
    /// A person or a program that uses the API.
    User {
        /// The cluster's name.
        cluster: String,
        /// Who.
        name: String,
        /// With which rights.
        role: Role,
    },
}

impl PeerIdentity {
    /// Reads the identity out of a certificate that TLS has verified.
    ///
    /// The certificate must carry exactly one URI, of a form this crate issues.
    pub fn from_cert_der(cert_der: &[u8]) -> Result<Self, PkiError> {
        let uris = uris(cert_der)?;
        match uris.as_slice() {
            [uri] => Self::from_uri(uri),
            uris => Err(PkiError::Certificate(format!(
                "names {} identities (spiffe://...), must name one",
                uris.len()
            ))),
        }
    }

    /// Reads `spiffe://CLUSTER/node/ID` or `spiffe://CLUSTER/ROLE/NAME`.
    pub fn from_uri(uri: &str) -> Result<Self, PkiError> {
        let unknown = || {
            PkiError::Certificate(format!(
                "`{}` is no identity (spiffe://CLUSTER/node/ID or spiffe://CLUSTER/ROLE/NAME)",
                uri.chars().take(120).collect::<String>().escape_debug()
            ))
        };
        let path = uri.strip_prefix("spiffe://").ok_or_else(unknown)?;
        let mut parts = path.split('/');
        let (Some(cluster), Some(kind), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(unknown());
        };
        check_cluster_name(cluster)?;
        let cluster = cluster.to_owned();
        if kind == "node" {
            let id = NodeId(name.parse().map_err(|_| unknown())?);
            // "+7" and "007" parse as well: one node has one name.
            return if id.to_string() == name {
                Ok(Self::Node { cluster, id })
            } else {
                Err(unknown())
            };
        }
        let role = Role::from_name(kind).ok_or_else(unknown)?;
        check_user_name(name)?;
        Ok(Self::User { cluster, name: name.to_owned(), role })
    }

    /// The URI that stands for this identity in a certificate.
    pub fn uri(&self) -> String {
        match self {
            Self::Node { cluster, id } => format!("spiffe://{cluster}/node/{id}"),
            Self::User { cluster, name, role } => format!("spiffe://{cluster}/{role}/{name}"),
        }
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        match self {
            Self::Node { cluster, .. } | Self::User { cluster, .. } => cluster,
        }
    }

    pub(super) fn check(&self) -> Result<(), PkiError> {
        check_cluster_name(self.cluster())?;
        match self {
            Self::Node { .. } => Ok(()),
            Self::User { name, .. } => check_user_name(name),
        }
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { cluster, id } => write!(f, "node {id} of cluster `{cluster}`"),
            Self::User { cluster, name, role } => {
                write!(f, "{role} `{name}` of cluster `{cluster}`")
            }
        }
    }
}

/// A cluster's name: 1 to 63 of a-z, 0-9, `-`, `.`, `_` (SPIFFE trust domain, section 2.1).
pub fn check_cluster_name(name: &str) -> Result<(), PkiError> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    check_name(name, good, "the name of a cluster", "use 1 to 63 of a-z, 0-9, `-`, `.` and `_`")
}

/// A user's name: 1 to 63 of A-Z, a-z, 0-9, `-`, `.`, `_`.
pub fn check_user_name(name: &str) -> Result<(), PkiError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    check_name(name, good, "the name of a user", "use 1 to 63 of A-Z, a-z, 0-9, `-`, `.` and `_`")
}

fn check_name(
    name: &str,
    good: impl Fn(u8) -> bool,
    what: &'static str,
    rule: &'static str,
) -> Result<(), PkiError> {
    // "." and ".." are path segments with a meaning of their own in a URI (RFC 3986, 3.3).
    let dots = name == "." || name == "..";
    if name.is_empty() || name.len() > NAME_BYTES_MAX || dots || !name.bytes().all(good) {
        let name = name.chars().take(80).collect::<String>().escape_debug().to_string();
        return Err(PkiError::Name { name, what, rule });
    }
    Ok(())
}

/// The URI names of a certificate.
pub(super) fn uris(cert_der: &[u8]) -> Result<Vec<String>, PkiError> {
    let bad = |what: &str| PkiError::Certificate(format!("cannot be read: {what}"));
    let (rest, cert) = x509_parser::certificate::X509Certificate::from_der(cert_der)
        .map_err(|error| bad(&error.to_string()))?;
    if !rest.is_empty() {
        return Err(bad("bytes after its end"));
    }
    let names = cert.subject_alternative_name().map_err(|error| bad(&error.to_string()))?;
    let Some(names) = names else { return Ok(Vec::new()) };
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    Ok(names.value.general_names.iter().filter_map(uri).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_have_one_spelling() {
        let node = PeerIdentity::Node { cluster: "edge-1.fra".into(), id: NodeId(4_294_967_295) };
        assert_eq!(node.uri(), "spiffe://edge-1.fra/node/4294967295");
        assert_eq!(PeerIdentity::from_uri(&node.uri()).unwrap(), node);
        for role in Role::ALL {
            let user =
                PeerIdentity::User { cluster: "prod".into(), name: "Anna.B-1_x".into(), role };
            assert_eq!(PeerIdentity::from_uri(&user.uri()).unwrap(), user);
        }
        for bad in [
            "",
            "spiffe://",
            "spiffe://prod",
            "spiffe://prod/node",
            "spiffe://prod/node/",
            "spiffe://prod/node/1/2",
            "spiffe://prod/node/01",
            "spiffe://prod/node/+1",
            "spiffe://prod/node/-1",
            "spiffe://prod/node/4294967296",
            "spiffe://prod/Node/1",
            "spiffe://PROD/node/1",
            "spiffe:///node/1",
            "spiffe://prod/root/anna",
            "spiffe://prod/admin/",
            "spiffe://prod/admin/..",
            "spiffe://prod/admin/anna?x",
            "spiffe://prod/admin/a b",
            "https://prod/node/1",
        ] {
            assert!(PeerIdentity::from_uri(bad).is_err(), "{bad}");
        }
        assert!(check_cluster_name(&"a".repeat(63)).is_ok());
        assert!(check_cluster_name(&"a".repeat(64)).is_err());
    }
}
