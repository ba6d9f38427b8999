//! What the document says of a service otherwise than by default, in the words of the document.
//!
//! Guarantees: a key that is added to the document and gets no field of its own in the API is
//! shown, without a change here.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use steadfast_model::document::ServiceSpec;

/// Keys of the document that [`steadfast_proto::v1::Service`] has fields for.
const WITH_FIELDS: [&str; 20] = [
    "name",
    "group",
    "address",
    "port",
    "protocol",
    "match",
    "scheduler",
    "hash",
    "server_order",
    "forwarding",
    "tunnel",
    "client_address",
    "mss_clamp",
    "syn_proxy",
    "servers",
    "persistence",
    "quic_lb",
    "ftp",
    "one_packet",
    "limits",
];

/// Shown in full: who reads it asks how, not how else.
const IN_FULL: &str = "check";

/// What is set otherwise, such as `slow_start_s: 30`; and how servers are checked, always.
pub(super) fn set_otherwise(spec: &ServiceSpec) -> Vec<String> {
    static DEFAULT: LazyLock<Map<String, Value>> = LazyLock::new(|| {
        let spec = serde_json::from_value::<ServiceSpec>(json!({ "name": "", "group": "" }));
        object(spec.ok().as_ref())
    });
    let given = object(Some(spec));
    let mut set: Vec<_> = given
        .iter()
        .filter(|(key, _)| !WITH_FIELDS.contains(&key.as_str()))
        .filter_map(|(key, value)| {
            let value = match DEFAULT.get(key) {
                _ if key == IN_FULL => value.clone(),
                Some(usual) => difference(value, usual)?,
                None => value.clone(),
            };
            Some(format!("{key}: {}", flow(&value)))
        })
        .collect();
    if !given.contains_key(IN_FULL) {
        set.push("check: none, servers count as up".to_owned());
    }
    set.sort_by_key(|line| !line.starts_with(IN_FULL));
    set
}

fn object(spec: Option<&ServiceSpec>) -> Map<String, Value> {
    match serde_json::to_value(spec) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// What of a value is not as usual; of a mapping the keys that differ.
fn difference(value: &Value, usual: &Value) -> Option<Value> {
    if value == usual {
        return None;
    }
    let (Value::Object(value), Value::Object(usual)) = (value, usual) else {
        return Some(value.clone());
    };
    let other = value.iter().filter(|(key, value)| usual.get(*key) != Some(value));
    Some(Value::Object(other.map(|(key, value)| (key.clone(), value.clone())).collect()))
}

/// As YAML writes it in one line.
fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let pairs: Vec<_> =
                map.iter().map(|(key, value)| format!("{key}: {}", flow(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use steadfast_model::document::Document;

    use super::*;

    /// (keys of a service, what is said of it)
    const CASES: &[(&str, &[&str])] = &[
        ("", &["check: none, servers count as up"]),
        (
            "check: {interval_ms: 500}",
            &["check: {fall: 3, interval_ms: 500, rise: 1, timeout_ms: 1000, type: tcp}"],
        ),
        (
            "slow_start_s: 30, scheduler: wrr, conn_reuse: fin_wait, sloppy_tcp: true",
            &[
                "check: none, servers count as up",
                "conn_reuse: fin_wait",
                "sloppy_tcp: true",
                "slow_start_s: 30",
            ],
        ),
        (
            "timeouts: {tcp_s: 60, udp_s: 300}, sync: {threshold: 1, period: 0}",
            &[
                "check: none, servers count as up",
                "sync: {period: 0, threshold: 1}",
                "timeouts: {tcp_s: 60}",
            ],
        ),
        (
            "on_server_gone: drop, sync: {threshold: 3}",
            &["check: none, servers count as up", "on_server_gone: drop"],
        ),
    ];

    #[test]
    fn what_differs_from_the_defaults_is_told_in_the_words_of_the_document() {
        for (keys, expected) in CASES {
            let text = format!(
                "{{apiVersion: steadfast/v1, groups: [{{name: g, addresses: [198.18.0.9]}}], \
                 services: [{{name: a, group: g, address: 198.18.0.9, port: 80, {keys}}}]}}"
            );
            let document = Document::parse(&text).unwrap();
            assert_eq!(&set_otherwise(&document.services[0]), expected, "{keys}");
        }
    }

    #[test]
    fn the_keys_that_have_fields_are_keys_of_the_document() {
        for key in WITH_FIELDS {
            let text = format!("{{apiVersion: steadfast/v1, services: [{{{key}: }}]}}");
            let said = Document::parse(&text).map(|_| ()).map_err(|error| error.to_string());
            assert!(!said.is_err_and(|said| said.contains("unknown field")), "{key}");
        }
    }
}
