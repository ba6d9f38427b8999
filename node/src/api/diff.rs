//! What changes from one document to another, for a person before `apply`.
//!
//! Guarantees: every key whose value differs is named, as the document spells it, with both
//! values; defaults count as written. Works on the serialised form, so a new key of the document
//! is compared without a line here.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use serde_json::Value;
use steadfast_model::document::Document;

/// Settings that a running daemon does not change.
const AT_RESTART: [&str; 3] = ["connections_max", "half_open_max", "beacon"];

/// Kinds of things with a name, and the keys under which they stand.
const KINDS: [(&str, &str); 3] =
    [("segment", "segments"), ("group", "groups"), ("service", "services")];

/// One line for each thing that comes or goes and each value that changes.
pub(super) fn diff(before: &Document, after: &Document) -> Vec<String> {
    let (before, after) = (value(before), value(after));
    let mut lines = Vec::new();
    for (kind, key) in KINDS {
        compare(&mut lines, kind, &named(&before[key]), &named(&after[key]));
    }
    compare(&mut lines, "server", &servers(&before), &servers(&after));
    for (path, old, new) in changes(&before["settings"], &after["settings"]) {
        let first = path.split('.').next().unwrap_or_default();
        let note = if AT_RESTART.contains(&first) {
            " (takes effect at the next restart of each clusterd)"
        } else {
            ""
        };
        lines.push(format!("~ settings: {path} {old} -> {new}{note}"));
    }
    lines
}

fn value(document: &Document) -> Value {
    let mut document = document.clone();
    for service in &mut document.services {
        service.hash = service.hash_options();
        service.tunnel = service.tunnel_options();
        if service.matches.is_empty() {
            service.protocol.get_or_insert_default();
        }
        let ports: Vec<_> = service.servers.iter().map(|s| service.server_port(s)).collect();
        for config in &mut service.quic_lb {
            config.key = config.key.as_deref().map(sign);
        }
        for (server, port) in service.servers.iter_mut().zip(ports) {
            server.port = port;
        }
    }
    // A document holds nothing that JSON cannot: it came from YAML with text keys.
    serde_json::to_value(&document).unwrap_or_default()
}

/// Stands for a secret: another one has another sign, and the sign does not tell the secret.
fn sign(secret: &str) -> String {
    let mut hasher = DefaultHasher::new();
    secret.to_ascii_lowercase().hash(&mut hasher);
    format!("secret-{:04x}", hasher.finish() as u16)
}

/// A list of things by their names, without name and servers.
fn named(list: &Value) -> BTreeMap<String, Value> {
    let things = list.as_array().into_iter().flatten().map(|thing| {
        let mut thing = thing.clone();
        let mut name = String::new();
        if let Some(fields) = thing.as_object_mut() {
            fields.remove("servers");
            name = fields.remove("name").map(|name| text(&name)).unwrap_or_default();
        }
        (name, thing)
    });
    things.collect()
}

/// Every real server, by service, address and port.
fn servers(document: &Value) -> BTreeMap<String, Value> {
    let services = document["services"].as_array().into_iter().flatten();
    let servers = services.flat_map(|service| {
        let of = text(&service["name"]);
        service["servers"].as_array().into_iter().flatten().map(move |server| {
            let mut server = server.clone();
            let port = match &server["port"] {
                Value::Null => String::new(),
                port => format!(":{}", text(port)),
            };
            let place = format!("{of} {}{port}", text(&server["address"]));
            if let Some(fields) = server.as_object_mut() {
                fields.remove("address");
                fields.remove("port");
            }
            (place, server)
        })
    });
    servers.collect()
}

fn compare(
    lines: &mut Vec<String>,
    kind: &str,
    before: &BTreeMap<String, Value>,
    after: &BTreeMap<String, Value>,
) {
    for (name, old) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
        lines.push(format!("- {kind} {name}: {}", summary(old)));
    }
    for (name, new) in after {
        let Some(old) = before.get(name) else {
            lines.push(format!("+ {kind} {name}: {}", summary(new)));
            continue;
        };
        for (path, old, new) in changes(old, new) {
            lines.push(format!("~ {kind} {name}: {path} {old} -> {new}"));
        }
    }
}

/// Path, old and new text of each value that differs.
fn changes(old: &Value, new: &Value) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    descend("", old, new, &mut found);
    found
}

fn descend(path: &str, old: &Value, new: &Value, found: &mut Vec<(String, String, String)>) {
    let (Some(old_fields), Some(new_fields)) = (old.as_object(), new.as_object()) else {
        if old != new {
            found.push((path.to_owned(), text(old), text(new)));
        }
        return;
    };
    let keys: BTreeSet<&String> = old_fields.keys().chain(new_fields.keys()).collect();
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        descend(&path, &old[key.as_str()], &new[key.as_str()], found);
    }
}

/// The plain fields of a thing but switches that are off; what is nested has its defaults mostly.
fn summary(thing: &Value) -> String {
    let plain = |value: &Value| !value.is_object() && *value != Value::Bool(false);
    let fields = thing.as_object().into_iter().flatten().filter(|(_, value)| plain(value));
    let fields: Vec<String> = fields.map(|(key, value)| format!("{key} {}", text(value))).collect();
    fields.join(", ")
}

/// A value as the document would have it in one line.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| format!("{key}: {}", text(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
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

    /// The difference that replacing text in the document makes.
    fn changed(from: &str, to: &str) -> Vec<String> {
        assert!(TEXT.contains(from), "{from}");
        diff(&Document::parse(TEXT).unwrap(), &Document::parse(&TEXT.replace(from, to)).unwrap())
    }

    #[test]
    fn keys_are_no_part_of_a_difference() {
        let key = "8f95f09245765f80256934e50c66207f";
        let with = |key: &str| {
            let quic = "quic_lb: [{id: 0, server_id_length: 1, nonce_length: 7";
            TEXT.replace("scheduler: rr", &format!("{quic}, key: {key}}}], protocol: udp"))
        };
        let parse = |text: &str| Document::parse(text).unwrap();
        let lines = diff(&parse(TEXT), &parse(&with(key)));
        assert!(lines.iter().any(|line| line.contains("key: secret-")), "{lines:?}");
        let other = diff(&parse(&with(key)), &parse(&with(&key.replace("8f", "9f"))));
        assert!(matches!(other.as_slice(), [line] if line.contains(" -> ")), "{other:?}");
        for line in lines.iter().chain(&other) {
            assert!(!line.contains(&key[2..]), "{line}");
        }
        assert_eq!(diff(&parse(&with(key)), &parse(&with(&key.to_uppercase()))), [""; 0]);
    }

    #[test]
    fn each_value_that_changes_is_named_with_old_and_new() {
        assert_eq!(changed("port: 7", "port: 7"), Vec::<String>::new());
        let cases: [(&str, &str, &[&str]); 12] = [
            (
                "scheduler: rr,",
                "scheduler: rr, limits: {new_per_s: 500, over: refuse},",
                &[
                    "~ service echo: limits.new_per_s none -> 500",
                    "~ service echo: limits.over hash -> refuse",
                ],
            ),
            (
                "scheduler: rr,",
                "scheduler: rr, forwarding: full_nat, client_address: toa,",
                &[
                    "~ service echo: client_address none -> toa",
                    "~ service echo: forwarding dr -> full_nat",
                ],
            ),
            (
                "scheduler: rr,",
                "scheduler: rr, forwarding: tun, tunnel: {type: gue}, mss_clamp: 1400,",
                &[
                    "~ service echo: forwarding dr -> tun",
                    "~ service echo: mss_clamp off -> 1400",
                    "~ service echo: tunnel none -> {port: 6080, type: gue}",
                ],
            ),
            (
                "address: 198.18.0.100, port: 7",
                "protocol: tcp, address: 198.18.0.100, port: 7",
                &[],
            ),
            (
                "address: 198.18.0.100, port: 7,",
                "match: [{address: 198.18.0.100, port: 7}, {address: 198.18.0.100, port: 8-9}],",
                &[
                    "~ service echo: address 198.18.0.100 -> none",
                    "~ service echo: match none -> [{address: 198.18.0.100, port: 7, protocol: \
                     tcp}, {address: 198.18.0.100, port: 8-9, protocol: tcp}]",
                    "~ service echo: port 7 -> none",
                    "~ service echo: protocol tcp -> none",
                ],
            ),
            ("scheduler: rr", "scheduler: wlc", &["~ service echo: scheduler rr -> wlc"]),
            (
                "scheduler: rr,",
                "scheduler: sh, hash: {port: false}, server_order: newest_first,",
                &[
                    "~ service echo: hash none -> {fallback: true, port: false}",
                    "~ service echo: scheduler rr -> sh",
                    "~ service echo: server_order canonical -> newest_first",
                ],
            ),
            (
                "scheduler: rr,",
                "scheduler: rr, timeouts: {udp_s: 9}, sync: {period: 10, on_established: false},",
                &[
                    "~ service echo: sync.on_established true -> false",
                    "~ service echo: sync.period 50 -> 10",
                    "~ service echo: timeouts.udp_s 300 -> 9",
                ],
            ),
            (
                "scheduler: rr,",
                "scheduler: rr, check: {interval_ms: 500},",
                &["~ service echo: check none -> \
                   {fall: 3, interval_ms: 500, rise: 1, timeout_ms: 1000, type: tcp}"],
            ),
            (
                "[198.18.0.100]",
                "[198.18.0.100, 198.18.0.101]",
                &["~ group web: addresses [198.18.0.100] -> [198.18.0.100, 198.18.0.101]"],
            ),
            (
                "{address: 198.18.0.11, port: 7}, {address: 198.18.0.12, port: 7}",
                "{address: 198.18.0.12, port: 7, weight: 0, drain: true, upper: 9}",
                &[
                    "- server echo 198.18.0.11:7: weight 1",
                    "~ server echo 198.18.0.12:7: drain false -> true",
                    "~ server echo 198.18.0.12:7: upper none -> 9",
                    "~ server echo 198.18.0.12:7: weight 1 -> 0",
                ],
            ),
            (
                "198.18.0.0/24",
                "198.18.0.0/25",
                &["~ segment front: prefix 198.18.0.0/24 -> 198.18.0.0/25"],
            ),
        ];
        for (from, to, lines) in cases {
            assert_eq!(changed(from, to), lines);
        }
    }

    #[test]
    fn hash_options_that_are_the_default_are_no_change() {
        let with = |hash: &str| {
            let text = TEXT.replace("scheduler: rr,", &format!("scheduler: mh, {hash}"));
            Document::parse(&text).unwrap()
        };
        assert_eq!(diff(&with(""), &with("hash: {fallback: true},")), Vec::<String>::new());
        let lines = diff(&with(""), &with("hash: {fallback: false},"));
        assert_eq!(lines, ["~ service echo: hash.fallback true -> false"]);
    }

    #[test]
    fn a_check_that_changes_shows_only_what_changes() {
        let with = |check: &str| {
            let text = TEXT.replace("scheduler: rr,", &format!("scheduler: rr, check: {check},"));
            Document::parse(&text).unwrap()
        };
        let lines = diff(&with("{interval_ms: 1000}"), &with("{interval_ms: 2000, port: 8}"));
        assert_eq!(
            lines,
            [
                "~ service echo: check.interval_ms 1000 -> 2000",
                "~ service echo: check.port none -> 8",
            ]
        );
    }

    #[test]
    fn settings_that_wait_for_a_restart_say_so() {
        let lines = changed(
            "services:",
            "settings: {connections_max: 1024, half_open_max: 2048, unserved: drop, beacon: {interval_ms: 50}}\nservices:",
        );
        let wait = "(takes effect at the next restart of each clusterd)";
        assert_eq!(
            lines,
            [
                format!("~ settings: beacon.interval_ms 25 -> 50 {wait}"),
                format!("~ settings: connections_max 262144 -> 1024 {wait}"),
                format!("~ settings: half_open_max 65536 -> 2048 {wait}"),
                "~ settings: unserved reject -> drop".to_owned(),
            ]
        );
    }

    #[test]
    fn all_of_a_first_document_is_new() {
        let lines = diff(&Document::empty(), &Document::parse(TEXT).unwrap());
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert!(lines.iter().all(|line| line.starts_with("+ ")), "{lines:?}");
        assert_eq!(lines[0], "+ segment front: prefix 198.18.0.0/24");
        assert!(lines[2].contains("address 198.18.0.100"), "{lines:?}");
    }
}
