//! Where a service listens: addresses, protocols and ports.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Protocol, ServerSpec, ServiceSpec};

/// One port, a range of ports, or all ports.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ports {
    first: u16,
    last: u16,
}

/// A part of a match group.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MatchSpec {
    /// The VIP.
    pub address: IpAddr,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// The port, or several, on the VIP.
    #[serde(alias = "ports")]
    pub port: Ports,
}

/// An address, protocol and ports that a service listens on.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Listener {
    /// The VIP.
    pub address: IpAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Ports on it.
    pub ports: Ports,
}

impl Ports {
    /// All ports: what more specific services leave over. LVS writes it as port 0.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };

    /// What programs get that ask for no port.
    pub const UNPRIVILEGED: Self = Self { first: 1024, last: u16::MAX };

    /// Every port from `first` to `last`; `None` when there is none, or with port 0.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// The lowest; 0 for all ports.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }

    /// The port, if it is one.
    #[must_use]
    pub fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    /// Some port is in both. All ports meet only all ports: they leave the others theirs.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        match (self.single(), other.single()) {
            // A range leaves a single port to the service that has just this one.
            (Some(one), Some(two)) => one == two,
            (None, None) if self == Self::ANY || other == Self::ANY => self == other,
            (None, None) => self.meets(other),
            _ => false,
        }
    }

    /// Some port is in both, whoever would get it.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl ServiceSpec {
    /// Everything it listens on, in the order of the document.
    ///
    /// A service that says neither where nor what is no valid one, and listens on nothing.
    #[must_use]
    pub fn listeners(&self) -> Vec<Listener> {
        let own = self.address.zip(self.port).map(|(address, ports)| {
            let protocol = self.protocol.unwrap_or_default();
            Listener { address, protocol, ports }
        });
        let matches = self.matches.iter().map(|part| Listener {
            address: part.address,
            protocol: part.protocol,
            ports: part.port,
        });
        own.into_iter().chain(matches).collect()
    }

    /// Its one port, if there is just one, on whatever addresses.
    #[must_use]
    pub fn single_port(&self) -> Option<u16> {
        let mut ports = self.listeners().into_iter().map(|listener| listener.ports.single());
        let first = ports.next()??;
        ports.all(|port| port == Some(first)).then_some(first)
    }

    /// The port of one of its servers; none: the port that the packet was sent to.
    #[must_use]
    pub fn server_port(&self, server: &ServerSpec) -> Option<u16> {
        server.port.or_else(|| self.single_port())
    }
}

impl ServerSpec {
    /// Its address with the port, if it has one of its own, for people.
    #[must_use]
    pub fn place(&self) -> String {
        match (self.port, self.address) {
            (None, address) => address.to_string(),
            (Some(port), IpAddr::V4(address)) => format!("{address}:{port}"),
            (Some(port), IpAddr::V6(address)) => format!("[{address}]:{port}"),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ANY => f.write_str("any"),
            Self { first, last } if first == last => first.fmt(f),
            Self { first, last } => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.protocol.name();
        match self.address {
            IpAddr::V4(address) => write!(f, "{name} {address}:{}", self.ports),
            IpAddr::V6(address) => write!(f, "{name} [{address}]:{}", self.ports),
        }
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.single() {
            Some(port) => serializer.serialize_u16(port),
            None => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortsVisitor)
    }
}

/// What to write for ports.
const PORTS: &str = "no port; write 1 to 65535, a range such as 8000-8999, or any";

struct PortsVisitor;

impl de::Visitor<'_> for PortsVisitor {
    type Value = Ports;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port, a range such as 8000-8999, or any")
    }

    fn visit_u64<E: de::Error>(self, port: u64) -> Result<Ports, E> {
        match u16::try_from(port) {
            Ok(0) => Ok(Ports::ANY),
            Ok(port) => Ok(Ports { first: port, last: port }),
            Err(_) => Err(E::custom(format_args!("{port} is {PORTS}"))),
        }
    }

    fn visit_i64<E: de::Error>(self, port: i64) -> Result<Ports, E> {
        match u64::try_from(port) {
            Ok(port) => self.visit_u64(port),
            Err(_) => Err(E::custom(format_args!("{port} is {PORTS}"))),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Ports, E> {
        if text == "any" {
            return Ok(Ports::ANY);
        }
        let bad = || E::custom(format_args!("`{text:.63}` is {PORTS}"));
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| bad());
        match (port(first)?, port(last)?) {
            (0, 0) => Ok(Ports::ANY),
            (first, last) => Ports::new(first, last).ok_or_else(bad),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    fn service(fields: &str) -> ServiceSpec {
        let text = format!(
            "{{apiVersion: steadfast/v1, services: [{{name: a, group: g, {fields}, \
             servers: [{{address: 198.18.0.9}}, {{address: 198.18.0.8, port: 8080}}]}}]}}"
        );
        Document::parse(&text).unwrap().services.remove(0)
    }

    #[test]
    fn ports_are_read_and_written_as_people_write_them() {
        for (written, shown) in [
            ("80", "80"),
            ("'80'", "80"),
            ("8000-8999", "8000-8999"),
            ("8000 - 8999", "8000-8999"),
            ("7-7", "7"),
            ("any", "any"),
            ("0", "any"),
            ("1-65535", "1-65535"),
        ] {
            let service = service(&format!("address: 198.18.0.1, port: {written}"));
            let ports = service.port.unwrap();
            assert_eq!(ports.to_string(), shown);
            let json = serde_json::to_string(&ports).unwrap();
            assert_eq!(serde_json::from_str::<Ports>(&json).unwrap(), ports, "{json}");
            // The log of the cluster keeps the whole service.
            let json = serde_json::to_string(&service).unwrap();
            assert_eq!(serde_json::from_str::<ServiceSpec>(&json).unwrap(), service, "{json}");
        }
    }

    #[test]
    fn a_service_lists_what_it_listens_on() {
        let one = service("address: 198.18.0.1, protocol: udp, port: 53");
        assert_eq!(one.listeners()[0].to_string(), "udp 198.18.0.1:53");
        let ports = |service: &ServiceSpec| {
            let servers = service.servers.iter();
            servers.map(|server| service.server_port(server)).collect::<Vec<_>>()
        };
        assert_eq!(ports(&one), [Some(53), Some(8080)], "its own, or that of the service");
        let group = service(
            "match: [{address: 198.18.0.1, port: 80}, {address: '2001:db8::1', ports: 20-21}]",
        );
        let shown: Vec<_> = group.listeners().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["tcp 198.18.0.1:80", "tcp [2001:db8::1]:20-21"]);
        assert_eq!(ports(&group), [None, Some(8080)], "several: that of the packet");
        let same = "match: [{address: 198.18.0.1, port: 53}, \
                    {address: 198.18.0.1, protocol: udp, port: 53}]";
        assert_eq!(ports(&service(same))[0], Some(53));
    }

    /// The order of looking up: port, range, all ports.
    #[test]
    fn only_equally_specific_ports_overlap() {
        let ports =
            |text: &str| de::Visitor::visit_str::<de::value::Error>(PortsVisitor, text).unwrap();
        for (a, b, expected) in [
            ("80", "80", true),
            ("80", "81", false),
            ("80", "1-100", false),
            ("80", "any", false),
            ("1-100", "100-200", true),
            ("1-100", "101-200", false),
            ("1-65535", "any", false),
            ("any", "any", true),
        ] {
            assert_eq!(ports(a).overlaps(ports(b)), expected, "{a} {b}");
            assert_eq!(ports(b).overlaps(ports(a)), expected, "{b} {a}");
        }
        assert!(ports("any").meets(ports("80")) && !ports("80-90").meets(ports("91-92")));
    }
}
