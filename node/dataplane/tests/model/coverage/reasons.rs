//! Why packets were dropped: which reasons of the crate the model judges, and which it does not.

/// What can become of a packet in this world, in both families.
pub(super) const VERDICTS: [&str; 36] = [
    "table_full",
    "no_source",
    "unserved",
    "answered",
    "error_passed",
    "ethertype",
    "icmp_quote",
    "icmp_unknown",
    "followed",
    "forwarded",
    "fragment",
    "fragment_early",
    "fragment_overlap",
    "fragment_unknown",
    "by_hash",
    "relayed",
    "sent_once",
    "told_too_big",
    "held_back",
    "local_ports_exhausted",
    "malformed",
    "next_hop_unresolved",
    "no_holder",
    "no_route",
    "not_ours",
    "over_limit",
    "other_mac",
    "protocol",
    "rate_limited",
    "relay_loop",
    "reply_taken",
    "server_removed",
    "ttl_exceeded",
    "unknown_reset",
    "unknown_return",
    "vlan",
];

/// What only packets of one family can be dropped for; whether that is IPv6.
pub(super) const OF_ONE_FAMILY: [(bool, &str); 4] =
    [(false, "header_checksum"), (false, "ip_options"), (true, "extension"), (true, "too_big")];

/// What the model has no answer to, and what would have to be in this world for it.
const NOT_MODELLED: [(&str, &str); 8] = [
    ("arp_ignored", "questions for addresses"),
    ("arp_stale", "questions for addresses"),
    ("connection_gone", "a second worker"),
    ("handshake", "SYN cookies"),
    ("handshakes_full", "SYN cookies"),
    ("no_space", "a driver that leaves no room"),
    ("tcp_options", "SYN cookies"),
    ("unbound", "copies from peers"),
];

/// What becomes of packets that are not dropped.
const SENT: [&str; 8] = [
    "answered",
    "error_passed",
    "followed",
    "forwarded",
    "by_hash",
    "relayed",
    "sent_once",
    "told_too_big",
];

/// Each reason of the crate and how often the model said it, in IPv4 and IPv6; none where it never
/// does.
pub(super) fn table(
    hits: impl Fn(bool, &'static str) -> u64,
) -> Vec<(&'static str, Option<[u64; 2]>)> {
    let all = crate::plane::reasons();
    let hits = |reason| [false, true].map(|v6| hits(v6, reason));
    let is_judged = |reason| NOT_MODELLED.iter().all(|(other, _)| *other != reason);
    all.into_iter().map(|reason| (reason, is_judged(reason).then(|| hits(reason)))).collect()
}

/// What is not judged, and why.
pub(super) fn not_modelled() -> String {
    let all: Vec<String> =
        NOT_MODELLED.iter().map(|(reason, lacks)| format!("{reason} ({lacks})")).collect();
    all.join(", ")
}

/// A reason that the crate has stands in one list, and none that it has not.
pub(super) fn check() {
    let asked = VERDICTS.iter().chain(OF_ONE_FAMILY.iter().map(|(_, reason)| reason));
    let judged: Vec<&str> = asked.copied().filter(|verdict| !SENT.contains(verdict)).collect();
    let not = NOT_MODELLED.iter().map(|(reason, _)| *reason);
    let mut listed: Vec<&str> = judged.into_iter().chain(not).collect();
    let mut all = crate::plane::reasons();
    listed.sort_unstable();
    all.sort_unstable();
    assert_eq!(listed, all, "reasons that are asked for or not modelled, and those of the crate");
}
