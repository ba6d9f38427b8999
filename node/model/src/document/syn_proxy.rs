//! When clients get a SYN cookie.

use serde::{Deserialize, Serialize, Serializer};

/// When a TCP client gets a cookie, and its server hears of it only once it has come back with that
/// (RFC 4987 section 3.6).
///
/// Off unless it is asked for: it changes what clients see. They are connected before a server was
/// asked, hear of one that refuses by a reset, and of the options of TCP only those that a cookie can
/// remember are left.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SynProxy {
    /// Never.
    #[default]
    Off,
    /// While a node's places for half-open connections are full.
    Auto,
    /// Always.
    Always,
}

impl SynProxy {
    /// The word of the document.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::Always => "always",
        }
    }
}

impl Serialize for SynProxy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for SynProxy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl serde::de::Visitor<'_> for Words {
            type Value = SynProxy;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`off`, `auto` or `always`")
            }

            // Readers of YAML 1.1 take the word `off` for a truth value.
            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<SynProxy, E> {
                self.visit_str(if on { "on" } else { "off" })
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<SynProxy, E> {
                let all = [SynProxy::Off, SynProxy::Auto, SynProxy::Always];
                all.into_iter().find(|found| found.name() == word).ok_or_else(|| {
                    E::custom(format_args!("`{word:.63}` is none of `off`, `auto` and `always`"))
                })
            }
        }

        deserializer.deserialize_any(Words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Document, ServiceSpec};

    #[test]
    fn words_are_read_and_written() {
        let read = |word: &str| {
            let text = format!(
                "apiVersion: steadfast/v1\nservices:\n  - {{name: a, group: g, address: \
                 198.18.0.1, port: 80,\n     {word}}}\n"
            );
            let document = Document::parse(&text).map_err(|error| error.to_string())?;
            Ok::<ServiceSpec, String>(document.services.into_iter().next().unwrap())
        };
        let words = [
            ("scheduler: rr", SynProxy::Off),
            ("syn_proxy: off", SynProxy::Off),
            ("syn_proxy: auto", SynProxy::Auto),
            ("syn_proxy: always", SynProxy::Always),
        ];
        for (word, expected) in words {
            let found = read(word).unwrap();
            assert_eq!(found.syn_proxy, expected, "{word}");
            let text = serde_json::to_string(&found).unwrap();
            assert_eq!(serde_json::from_str::<ServiceSpec>(&text).unwrap(), found);
        }
        for word in ["syn_proxy: on", "syn_proxy: sometimes", "syn_proxy: 3"] {
            let error = read(word).unwrap_err();
            let says = error.contains("`always`") && error.contains("(line 4, column ");
            assert!(says, "{word}: {error}");
        }
    }
}
