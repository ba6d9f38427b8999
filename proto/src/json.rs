//! How messages look as JSON.
//!
//! Guarantees: field names are those of the .proto file (snake_case); every field is present,
//! absent ones as `null`; integers are JSON numbers; an enum is the name of its value without the
//! type's prefix, in lower case (`COPY_STATE_COMPLETE` is `"complete"`), `"unspecified"` when not
//! told. A value that a newer server knows and we do not is written as its number in text
//! (`"17"`). Unknown fields are ignored when reading, so an older reader understands a newer
//! writer.
//!
//! Not the canonical protobuf JSON mapping: that writes 64-bit integers as strings and leaves out
//! what is zero, both of which make scripts wrong in the rare case.

use std::fmt;

use crate::v1;

/// An enum of the API that has a name in JSON.
pub trait NamedEnum: Copy + Into<i32> + TryFrom<i32> {
    /// Prefix of the value names in the .proto file.
    const PREFIX: &'static str;

    /// Name of the value in the .proto file.
    fn proto_name(self) -> &'static str;

    /// The value of that name.
    fn from_proto_name(name: &str) -> Option<Self>;

    /// The name in JSON and in tables.
    fn json_name(self) -> String {
        let name = self.proto_name();
        name.strip_prefix(Self::PREFIX).unwrap_or(name).to_ascii_lowercase()
    }

    /// The value of a name in JSON.
    fn from_json_name(name: &str) -> Option<Self> {
        Self::from_proto_name(&format!("{}{}", Self::PREFIX, name.to_ascii_uppercase()))
    }
}

macro_rules! named_enum {
    ($($name:ident = $prefix:literal;)*) => {$(
        impl NamedEnum for v1::$name {
            const PREFIX: &'static str = $prefix;

            fn proto_name(self) -> &'static str {
                self.as_str_name()
            }

            fn from_proto_name(name: &str) -> Option<Self> {
                Self::from_str_name(name)
            }
        }
    )*};
}

// An enum that is used in a message and missing here does not compile.
named_enum! {
    AttachMode = "ATTACH_MODE_";
    BindMode = "BIND_MODE_";
    CheckState = "CHECK_STATE_";
    CopyState = "COPY_STATE_";
    Forwarding = "FORWARDING_";
    NodeRole = "NODE_ROLE_";
    Origin = "ORIGIN_";
    Protocol = "PROTOCOL_";
    Reason = "REASON_";
    ServerOrder = "SERVER_ORDER_";
    Severity = "SEVERITY_";
    TraceFate = "TRACE_FATE_";
    TraceStep = "TRACE_STEP_";
}

/// For `#[serde(with)]` on an enum field, which prost keeps as `i32`.
#[allow(non_camel_case_types)]
pub(crate) struct by_name<E>(std::marker::PhantomData<E>);

impl<E: NamedEnum> by_name<E> {
    /// Writes the name, or the number as text when this build does not know the value.
    pub(crate) fn serialize<S: serde::Serializer>(value: &i32, to: S) -> Result<S::Ok, S::Error> {
        match E::try_from(*value) {
            Ok(known) => to.serialize_str(&known.json_name()),
            Err(_) => to.collect_str(value),
        }
    }

    /// Reads what [`Self::serialize`] writes.
    pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
        from.deserialize_str(NameVisitor::<E>(std::marker::PhantomData))
    }
}

struct NameVisitor<E>(std::marker::PhantomData<E>);

impl<E: NamedEnum> serde::de::Visitor<'_> for NameVisitor<E> {
    type Value = i32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name of a {} value in lower case", E::PREFIX.trim_end_matches('_'))
    }

    fn visit_str<X: serde::de::Error>(self, name: &str) -> Result<i32, X> {
        if let Some(value) = E::from_json_name(name) {
            return Ok(value.into());
        }
        name.parse().map_err(|_| X::invalid_value(serde::de::Unexpected::Str(name), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enums_are_names() {
        let copy = v1::GroupCopy { state: v1::CopyState::Complete.into(), ..Default::default() };
        let json = serde_json::to_value(&copy).unwrap();
        let wanted = serde_json::json!(
            {"node": null, "state": "complete", "lag_ms": null, "unacked": null}
        );
        assert_eq!(json, wanted);
    }

    #[test]
    fn every_value_reads_back_by_name() {
        // The last value of each enum and one that nobody knows.
        for value in [0, 1, 2, 3, 4, 17] {
            let copy = v1::GroupCopy { state: value, ..Default::default() };
            let text = serde_json::to_string(&copy).unwrap();
            assert_eq!(serde_json::from_str::<v1::GroupCopy>(&text).unwrap(), copy, "{text}");
        }
    }

    #[test]
    fn no_name_keeps_its_prefix() {
        fn check<E: NamedEnum>() {
            for value in 0..64 {
                let Ok(known) = E::try_from(value) else { continue };
                assert!(known.proto_name().starts_with(E::PREFIX), "{}", known.proto_name());
                assert_eq!(E::from_json_name(&known.json_name()).map(Into::into), Some(value));
            }
        }
        check::<v1::AttachMode>();
        check::<v1::BindMode>();
        check::<v1::CheckState>();
        check::<v1::CopyState>();
        check::<v1::Forwarding>();
        check::<v1::NodeRole>();
        check::<v1::Origin>();
        check::<v1::Protocol>();
        check::<v1::Reason>();
        check::<v1::ServerOrder>();
        check::<v1::TraceFate>();
        check::<v1::TraceStep>();
        check::<v1::Severity>();
    }

    #[test]
    fn a_reader_ignores_what_is_newer_and_misses_nothing_older() {
        let text = r#"{"name": "n1", "colour": "green"}"#;
        let node: v1::NodeRef = serde_json::from_str(text).unwrap();
        assert_eq!(node, v1::NodeRef { id: 0, name: "n1".to_owned() });
    }

    #[test]
    fn a_wrong_name_is_refused() {
        let text = r#"{"state": "finished"}"#;
        let error = serde_json::from_str::<v1::GroupCopy>(text).expect_err("no such state");
        assert!(error.to_string().contains("COPY_STATE"), "{error}");
    }
}
