//! Short texts that people and strangers give: the packet of a trace, durations, prefixes, join
//! tokens and fingerprints, paths in a document.

use std::str::FromStr;

use steadfast_model::document::Prefix;

use crate::pki;

/// `clusterctl` reads the packet of a trace; what it reads it into, without the crate that the API
/// is generated in.
#[path = "../../../ctl/src/flow.rs"]
#[allow(dead_code, unreachable_pub, reason = "clusterctl uses all of it")]
mod flow;

#[path = "../../../ctl/src/duration.rs"]
#[allow(dead_code, unreachable_pub, reason = "clusterctl uses all of it")]
mod duration;

/// Runs one input.
///
/// # Panics
/// When something is wrong.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let words: Vec<String> = text.split('\0').map(str::to_owned).collect();
    if let Ok(flow) = flow::parse(&words) {
        assert_eq!(flow.source.is_ipv4(), flow.destination.is_ipv4(), "of two families");
    }
    let _ = duration::parse(text).map(|found| duration::text_ms(found.as_millis() as u64));
    if let Ok(token) = pki::Token::from_str(text) {
        assert_eq!(token.encode().as_deref(), Ok(text.trim()), "a token has two spellings");
    }
    if let Ok(fingerprint) = pki::Fingerprint::from_str(text) {
        assert_eq!(fingerprint.to_string(), text.to_ascii_lowercase(), "another fingerprint");
    }
    if let Ok(prefix) = Prefix::from_str(text) {
        assert_eq!(Prefix::from_str(&prefix.to_string()), Ok(prefix), "another prefix");
        let _ = prefix.contains(std::net::Ipv4Addr::LOCALHOST.into());
        let _ = prefix.contains(std::net::Ipv6Addr::LOCALHOST.into());
    }
}
