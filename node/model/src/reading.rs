//! What the YAML reader says, in words for an operator.
//!
//! Guarantees: one line, which ends in `(line N, column M)`: the API finds the place in it. The reader's own words are for
//! programmers: they name types of Rust and its options.

use std::borrow::Cow;

use serde_saphyr::{Error, Localizer, Location, MessageFormatter, UserMessageFormatter};

/// Why the document cannot be read, where, and what to write instead.
pub(crate) fn told(error: &Error) -> String {
    // The excerpt is left to whoever shows it: it takes several lines.
    error.without_snippet().render_with_formatter(&Words)
}

struct Words;

impl Localizer for Words {
    fn attach_location<'a>(&self, message: Cow<'a, str>, at: Location) -> Cow<'a, str> {
        if at == Location::UNKNOWN {
            return message;
        }
        // Of an alias the reader adds both places itself, in the same form.
        Cow::Owned(format!("{message} (line {}, column {})", at.line(), at.column()))
    }
}

impl MessageFormatter for Words {
    fn localizer(&self) -> &dyn Localizer {
        self
    }

    fn format_message<'a>(&self, error: &'a Error) -> Cow<'a, str> {
        match error {
            Error::InvalidScalar { ty, .. } => match range(ty) {
                Some(range) => Cow::Owned(format!("not {range}; write one")),
                None => UserMessageFormatter.format_message(error),
            },
            // Of the standard library, by way of serde: it has no other mark than its text.
            Error::Message { msg, .. } if msg == "invalid IP address syntax" => {
                Cow::Borrowed("not an IP address; write one such as 192.0.2.1")
            }
            Error::SerdeMissingField { field, .. } => {
                Cow::Owned(format!("`{field}` is missing; add it"))
            }
            Error::DuplicateMappingKey { key: Some(key), .. } => {
                Cow::Owned(format!("`{key}` is given twice; take one of them out"))
            }
            Error::Eof { .. } => Cow::Borrowed("it is empty or breaks off; write the rest"),
            Error::MultipleDocuments { .. } => {
                Cow::Borrowed("a second document begins; put all into one, without `---`")
            }
            _ => UserMessageFormatter.format_message(error),
        }
    }
}

/// The values of the types that the document has.
fn range(ty: &str) -> Option<&'static str> {
    match ty {
        "u16" => Some("a whole number from 0 to 65535"),
        // Which values fit is said, key by key, when it is one.
        "u32" => Some("a whole number of 0 or more"),
        "boolean" => Some("`true` or `false`"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::document::Document;

    const GOOD: &str = "
apiVersion: steadfast/v1
groups: [{name: web, addresses: [198.18.0.100]}]
services:
  - {name: a, group: web, address: 198.18.0.100, port: 80, scheduler: rr}
";

    /// (what is put in place of what, what is said of it)
    const CASES: &[(&str, &str, &str)] = &[
        (
            "port: 80",
            "port: 70000",
            "70000 is no port; write 1 to 65535, a range such as 8000-8999, or any (line 5,",
        ),
        ("port: 80", "port: -1", "-1 is no port; write 1 to 65535, a range such as"),
        ("port: 80", "port: http", "`http` is no port; write 1 to 65535, a range such as"),
        ("port: 80", "port: 90-80", "`90-80` is no port; write 1 to 65535, a range such as"),
        ("port: 80", "port: 0-80", "`0-80` is no port; write 1 to 65535, a range such as"),
        ("port: 80", "port: [80, 81]", "(line 5,"),
        ("port: 80", "port: 80, port: 81", "`port` is given twice; take one of them out (line 5,"),
        ("address: 198.18.0.100, port: 80", "match: [{port: 80}]", "`address` is missing; add it"),
        ("scheduler: rr", "scheduler: wlcc", "expected one of rr, wrr, lc, wlc, sed, nq, lblc,"),
        (
            "scheduler: rr",
            "server_order: oldest",
            "unknown variant `oldest`, expected one of canonical, newest_first (line 5,",
        ),
        ("scheduler: rr", "hash: {ports: true}", "expected one of port, fallback (line 5,"),
        ("scheduler: rr", "on_server_gone: no", "expected one of drop, reset, reschedule (line 5,"),
        ("scheduler: rr", "conn_reuse: 1", "expected one of always, fin_wait, never (line 5,"),
        ("scheduler: rr", "timeouts: {tcp: 9}", "unknown field `tcp`, expected one of tcp_s,"),
        ("scheduler: rr", "hash: {port: 1}", "not `true` or `false`; write one (line 5,"),
        ("scheduler: rr", "sceduler: rr", "unknown field `sceduler`, expected one of name,"),
        ("scheduler: rr", "sync: {on_established: 2}", "not `true` or `false`; write one (line 5,"),
        (
            "[198.18.0.100]",
            "[198.18.0.300]",
            "not an IP address; write one such as 192.0.2.1 (line 3, column 34)",
        ),
        ("[198.18.0.100]", "198.18.0.100", "(line 3,"),
        ("[198.18.0.100]", "[198.18.0.100", "(line 3,"),
        ("services:", "---\nservices:", "put all into one, without `---` (line 5,"),
        ("group: web", "group: &g [*g]", "(line 5,"),
    ];

    #[test]
    fn each_mistake_is_told_in_one_line_with_its_place() {
        for (from, to, expected) in CASES {
            assert!(GOOD.contains(from), "the case `{from}` does not apply");
            let error = Document::parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(expected), "{to}: {error}");
            assert!(!error.contains('\n'), "not one line: {error}");
            assert!(
                !error.contains("Options") && !error.contains("u16"),
                "for programmers: {error}"
            );
        }
    }

    #[test]
    fn an_empty_document_is_told() {
        for text in ["", "# nothing\n", "\n\n"] {
            let error = Document::parse(text).unwrap_err().to_string();
            assert!(error.contains("(line "), "{text:?}: {error}");
        }
    }
}
