//! Tunnels to real servers, and the segment sizes of TCP handshakes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Forwarding, ServiceSpec};

/// The port of GUE that IANA has registered.
pub const GUE_PORT: u16 = 6080;

/// How packets are carried to the servers under `forwarding: tun`. In LVS each server has its own
/// (`ipvsadm --tun-type --tun-port --tun-csum`), here a service has one for all.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunnelSpec {
    /// What stands between the two IP headers.
    #[serde(rename = "type")]
    pub kind: TunnelKind,
    /// The UDP port of GUE on the servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The checksum of GUE's UDP header or of GRE. Left out: GUE has one over IPv6 and none over
    /// IPv4 (RFC 8200 section 8.1), GRE has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<bool>,
}

/// Kinds of tunnels, by the names of `ipvsadm --tun-type`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelKind {
    /// Nothing: 4in4, 6in4, 4in6, 6in6.
    #[default]
    Ipip,
    /// UDP and four octets, which receive queues and routers spread by flow.
    Gue,
    /// Four octets, eight with the checksum.
    Gre,
}

impl TunnelKind {
    /// The name as the document spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::Gre => "gre",
        }
    }
}

impl TunnelSpec {
    /// The port of GUE; others have none.
    #[must_use]
    pub fn gue_port(&self) -> Option<u16> {
        (self.kind == TunnelKind::Gue).then(|| self.port.unwrap_or(GUE_PORT))
    }
}

impl fmt::Display for TunnelSpec {
    /// As keepalived writes it: `gue port 6080 csum`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if let Some(port) = self.gue_port() {
            write!(f, " port {port}")?;
        }
        match self.checksum {
            None => Ok(()),
            Some(true) => f.write_str(" csum"),
            Some(false) => f.write_str(" nocsum"),
        }
    }
}

impl ServiceSpec {
    /// The tunnel of a service with `forwarding: tun`; of another none.
    #[must_use]
    pub fn tunnel_options(&self) -> Option<TunnelSpec> {
        let written = self.tunnel.unwrap_or_default();
        let tunnel = TunnelSpec { port: written.gue_port(), ..written };
        (self.forwarding == Forwarding::Tun).then_some(tunnel)
    }
}

/// Up to which segment size TCP handshakes may announce (RFC 9293 section 3.7.1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MssClamp {
    /// Handshakes are left alone, as in LVS.
    #[default]
    Off,
    /// What fits the ways on both sides of the node.
    Auto,
    /// No more than this.
    At(u16),
}

impl fmt::Display for MssClamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Auto => f.write_str("auto"),
            Self::At(most) => most.fmt(f),
        }
    }
}

impl Serialize for MssClamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(most) => serializer.serialize_u16(*most),
            word => serializer.collect_str(word),
        }
    }
}

impl<'de> Deserialize<'de> for MssClamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl serde::de::Visitor<'_> for Words {
            type Value = MssClamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off`, `auto` or a number of octets up to 65535")
            }

            // Readers of YAML 1.1 take the word `off` for a truth value.
            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<MssClamp, E> {
                if on { self.visit_str("true") } else { Ok(MssClamp::Off) }
            }

            fn visit_u64<E: serde::de::Error>(self, most: u64) -> Result<MssClamp, E> {
                match u16::try_from(most) {
                    Ok(most) => Ok(MssClamp::At(most)),
                    Err(_) => self.visit_str(&most.to_string()),
                }
            }

            fn visit_i64<E: serde::de::Error>(self, most: i64) -> Result<MssClamp, E> {
                match u64::try_from(most) {
                    Ok(most) => self.visit_u64(most),
                    Err(_) => self.visit_str(&most.to_string()),
                }
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<MssClamp, E> {
                match word {
                    "off" => Ok(MssClamp::Off),
                    "auto" => Ok(MssClamp::Auto),
                    _ => match word.parse() {
                        Ok(most) => Ok(MssClamp::At(most)),
                        Err(_) => Err(E::custom(format_args!(
                            "`{word:.63}` is no segment size; write off, auto or a number up to \
                             65535"
                        ))),
                    },
                }
            }
        }

        deserializer.deserialize_any(Words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    fn service(settings: &str) -> Result<ServiceSpec, String> {
        let text = format!(
            "apiVersion: steadfast/v1\nservices:\n  - {{name: a, group: g, address: 198.18.0.1, \
             port: 80,\n     {settings}}}\n"
        );
        let document = Document::parse(&text).map_err(|error| error.to_string())?;
        Ok(document.services.into_iter().next().unwrap())
    }

    #[test]
    fn a_tunnel_is_shown_as_keepalived_writes_it() {
        let cases = [
            ("forwarding: tun", "ipip"),
            ("forwarding: tun, tunnel: {type: ipip}", "ipip"),
            ("forwarding: tun, tunnel: {type: gue}", "gue port 6080"),
            ("forwarding: tun, tunnel: {type: gue, port: 5555}", "gue port 5555"),
            ("forwarding: tun, tunnel: {type: gue, checksum: true}", "gue port 6080 csum"),
            ("forwarding: tun, tunnel: {type: gue, checksum: false}", "gue port 6080 nocsum"),
            ("forwarding: tun, tunnel: {type: gre}", "gre"),
            ("forwarding: tun, tunnel: {type: gre, checksum: true}", "gre csum"),
        ];
        for (written, shown) in cases {
            let tunnel = service(written).unwrap().tunnel_options().unwrap();
            assert_eq!(tunnel.to_string(), shown, "{written}");
        }
        assert_eq!(service("forwarding: dr").unwrap().tunnel_options(), None);
    }

    #[test]
    fn a_segment_size_is_a_word_or_a_number() {
        let cases = [
            ("port: 80", MssClamp::Off),
            ("mss_clamp: off", MssClamp::Off),
            ("mss_clamp: auto", MssClamp::Auto),
            ("mss_clamp: 1400", MssClamp::At(1400)),
        ];
        for (written, clamp) in cases {
            let written = written.replace("port: 80", "weightless: 0");
            let written = if written.contains("mss") { written } else { "scheduler: rr".into() };
            let found = service(&written).unwrap();
            assert_eq!(found.mss_clamp, clamp, "{written}");
            let again = serde_json::to_string(&found).unwrap();
            let again: ServiceSpec = serde_json::from_str(&again).unwrap();
            assert_eq!(again, found, "{written}");
        }
    }

    #[test]
    fn what_is_neither_is_refused_with_its_place() {
        let cases = [
            ("mss_clamp: on", "is no segment size; write off, auto or a number up to 65535"),
            ("mss_clamp: 70000", "`70000` is no segment size"),
            ("mss_clamp: -1", "`-1` is no segment size"),
            ("tunnel: {type: vxlan}", "vxlan"),
            ("tunnel: {type: gue, ports: 1}", "ports"),
            ("tunnel: {type: gue, port: 70000}", "0 to 65535"),
        ];
        for (written, expected) in cases {
            let error = service(written).unwrap_err();
            assert!(error.contains(expected), "{written}: {error}");
            assert!(error.contains("(line 4, column "), "{written}: {error}");
        }
    }
}
