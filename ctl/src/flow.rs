//! The packet of `trace`, as people write it: `tcp 198.51.100.7:4711 > 198.18.0.100:80`.

use std::net::SocketAddr;

use steadfast_proto::v1::Protocol;

/// Protocol and both ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Flow {
    pub(crate) protocol: Protocol,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// Reads one argument, or several that the shell has taken apart. The arrow may be left out.
///
/// # Errors
/// What is wrong and what to write.
pub(crate) fn parse(words: &[String]) -> Result<Flow, String> {
    let text = words.join(" ").replace("->", " ").replace('>', " ");
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [protocol, source, destination] = parts[..] else {
        return Err(match parts.len() {
            0..3 => "it needs protocol, source and destination: quote it, or the shell takes the \
                     part behind > for a file"
                .to_owned(),
            _ => format!("{} parts are too many: protocol, source, destination", parts.len()),
        });
    };
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => {
            return Err(format!("`{other}` is no protocol that is balanced: tcp, udp or sctp"));
        }
    };
    let address = |what: &str, text: &str| {
        text.parse::<SocketAddr>().map_err(|_| {
            format!("the {what} `{text}` is not ADDRESS:PORT, or for IPv6 [ADDRESS]:PORT")
        })
    };
    let (source, destination) = (address("source", source)?, address("destination", destination)?);
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(format!("{source} and {destination} are of two families"));
    }
    Ok(Flow { protocol, source, destination })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Flow, String> {
        parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_flow_is_read_however_the_shell_left_it() {
        let flow = Flow {
            protocol: Protocol::Tcp,
            source: "198.51.100.7:4711".parse().unwrap(),
            destination: "198.18.0.100:80".parse().unwrap(),
        };
        for words in [
            &["tcp 198.51.100.7:4711 > 198.18.0.100:80"][..],
            &["TCP 198.51.100.7:4711 -> 198.18.0.100:80"],
            &["tcp 198.51.100.7:4711>198.18.0.100:80"],
            &["tcp", "198.51.100.7:4711", "198.18.0.100:80"],
            &["tcp", "198.51.100.7:4711", ">", "198.18.0.100:80"],
        ] {
            assert_eq!(read(words), Ok(flow), "{words:?}");
        }
        let six = read(&["sctp [2001:db8::7]:1 > [2001:db8::100]:80"]).unwrap();
        assert!(six.protocol == Protocol::Sctp && six.source.is_ipv6());
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_what_to_write() {
        for (words, says) in [
            (&["tcp", "198.51.100.7:4711"][..], "quote it"),
            (&["tcp 1.2.3.4:1 > 5.6.7.8:2 9"], "4 parts are too many"),
            (&["icmp 1.2.3.4:1 > 5.6.7.8:2"], "`icmp` is no protocol"),
            (&["tcp 1.2.3.4 > 5.6.7.8:2"], "the source `1.2.3.4` is not ADDRESS:PORT"),
            (&["tcp 1.2.3.4:1 > 2001:db8::1:80"], "[ADDRESS]:PORT"),
            (&["tcp 1.2.3.4:1 > [2001:db8::1]:80"], "two families"),
        ] {
            let error = read(words).unwrap_err();
            assert!(error.contains(says), "{words:?}: {error}");
        }
    }
}
