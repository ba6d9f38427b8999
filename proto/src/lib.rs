//! The control API: .proto files and the code generated from them.
//!
//! Guarantees: [`v1`] is exactly `proto/steadfast/v1/control.proto`, and [`FILE_DESCRIPTOR_SET`]
//! describes the same file to reflection clients. Every message serialises to JSON with the field
//! names of the .proto file, all fields present, enums by name ([`json`]). Errors travel as
//! [`v1::ErrorDetail`] in the details of a gRPC status ([`error_status`], [`error_detail`]).
//!
//! Does not: open sockets, or judge what it carries.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
pub mod json;

pub use error::{error_detail, error_status, reason_code};

/// Package `steadfast.v1`.
///
/// Generated. Optional messages and `optional` scalars are `Option`s, enums are `i32` fields with
/// typed getters, maps are `BTreeMap`s.
// The lints ask for things only a person would write.
#[allow(missing_docs, unreachable_pub, clippy::use_self, clippy::or_fun_call)]
pub mod v1 {
    tonic::include_proto!("steadfast.v1");
}

/// The compiled .proto files with their imports, for tonic-reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/steadfast.bin"));

/// Full name of the service, as the health service reports it.
pub const SERVICE_NAME: &str = v1::control_server::SERVICE_NAME;

/// The DNS name every node certificate carries. Clients check this name, not an address: a node
/// keeps its certificate when its addresses change.
pub const NODE_TLS_NAME: &str = "steadfast.node";

/// Where a node's Unix socket is unless its local file says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/steadfast/clusterd.sock";

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    const SOURCE: &str = include_str!("../proto/steadfast/v1/control.proto");

    #[test]
    fn the_descriptor_set_describes_the_service() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let file = set.file.iter().find(|file| file.package() == "steadfast.v1").unwrap();
        let service = file.service.first().unwrap();
        assert_eq!(format!("{}.{}", file.package(), service.name()), SERVICE_NAME);
        let methods: Vec<_> = service.method.iter().map(|method| method.name()).collect();
        let wanted = [
            "Init",
            "Join",
            "CreateToken",
            "Admit",
            "Apply",
            "GetConfig",
            "Status",
            "MoveGroup",
            "PlanRebalance",
            "ListConnections",
            "Trace",
            "NodeRemove",
            "NodePromote",
            "NodeDemote",
            "NodeReplace",
            "NodeCordon",
            "Detach",
        ];
        assert_eq!(methods, wanted);
    }

    #[test]
    fn every_method_names_its_role_and_every_field_is_documented() {
        let mut above = String::new();
        for (index, line) in SOURCE.lines().enumerate() {
            let line = line.trim();
            if let Some(comment) = line.strip_prefix("//") {
                above.push_str(comment);
                continue;
            }
            if line.starts_with("rpc ") {
                // "Role:" may be broken over a line: the words are joined by the comment's blank.
                assert!(above.contains("Role:"), "line {}: {line}", index + 1);
            }
            if line.contains(" = ") && line.ends_with(';') && !line.starts_with("syntax") {
                assert!(!above.is_empty(), "line {}: {line}", index + 1);
            }
            above.clear();
        }
    }
}
