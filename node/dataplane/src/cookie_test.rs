use proptest::prelude::*;

use super::*;
use crate::Protocol;

const NOW: u64 = 5_000_000_000_000;

fn key(slot: u64) -> CookieKey {
    CookieKey { slot, key: [slot.wrapping_mul(0x9e37_79b9_7f4a_7c15), !slot] }
}

/// The keys of a cluster in this slot.
fn keys(slot: u64) -> CookieKeys {
    CookieKeys { present: key(slot), previous: slot.checked_sub(1).map(key) }
}

fn flow(port: u16, v6: bool) -> FlowKey {
    let (client, vip) =
        if v6 { ("2001:db8::2", "2001:db8::100") } else { ("198.18.0.2", "198.18.0.100") };
    FlowKey {
        protocol: Protocol::Tcp,
        client: client.parse().unwrap(),
        client_port: port,
        vip: vip.parse().unwrap(),
        vip_port: 80,
    }
}

fn offer() -> impl Strategy<Value = SegmentOptions> {
    let scale = proptest::option::of(0..=14u8);
    (any::<Option<u16>>(), scale, any::<bool>(), any::<Option<(u32, u32)>>()).prop_map(
        |(mss, window_scale, sack_permitted, timestamps)| SegmentOptions {
            mss,
            window_scale,
            sack_permitted,
            timestamps,
        },
    )
}

proptest! {
    #[test]
    fn what_was_offered_comes_back(
        port in any::<u16>(), v6 in any::<bool>(), isn in any::<u32>(), offered in offer(),
        slot in 1..u64::MAX, issuer in 0..16u8, now_ns in any::<u64>(),
    ) {
        let flow = flow(port, v6);
        let Issued { cookie, timestamp } = keys(slot).issue(&flow, isn, &offered, issuer, now_ns);
        prop_assert_eq!(timestamp.is_some(), offered.timestamps.is_some());
        for now in [slot, slot.saturating_add(1)] {
            let found = keys(now).accept(&flow, isn, cookie, timestamp).unwrap();
            let with_times = offered.timestamps.is_some();
            prop_assert_eq!(found.window_scale, offered.window_scale.filter(|_| with_times));
            prop_assert_eq!(found.sack_permitted, offered.sack_permitted && with_times);
            prop_assert_eq!(found.issuer, issuer);
            let mss = offered.mss.unwrap_or(if v6 { 1220 } else { 536 });
            prop_assert!(found.mss <= mss.max(88), "{} of {}", found.mss, mss);
            prop_assert!(mss < 88 || found.mss >= 88);
        }
        let clock = (now_ns / 1_000_000) as u32;
        if let Some(stamp) = timestamp.filter(|_| clock >= 64) {
            prop_assert!(stamp <= clock && clock - stamp < 128, "{} at {}", stamp, clock);
        }
    }
}

#[test]
fn sizes_are_rounded_down_to_common_ones() {
    for (mss, v4, v6) in [
        (Some(1), 88, 88),
        (None, 536, 1220),
        (Some(1399), 1300, 1380),
        (Some(1460), 1460, 1440),
        (Some(9000), 8960, 8940),
    ] {
        for (v6, expected) in [(false, v4), (true, v6)] {
            let offered = SegmentOptions { mss, ..SegmentOptions::default() };
            let Issued { cookie, .. } = keys(7).issue(&flow(1, v6), 5, &offered, 0, NOW);
            let found = keys(7).accept(&flow(1, v6), 5, cookie, None).unwrap();
            assert_eq!(found.mss, expected, "{mss:?}");
        }
    }
}

#[test]
fn whatever_differs_is_refused() {
    let offered = SegmentOptions {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some((1, 0)),
    };
    let (slot, isn, own) = (10, 1000, flow(4000, false));
    let Issued { cookie, timestamp } = keys(slot).issue(&own, isn, &offered, 3, NOW);
    let echo = timestamp.unwrap();
    let accepts = |keys: CookieKeys, flow: &FlowKey, isn, cookie, echo| {
        keys.accept(flow, isn, cookie, echo).is_some()
    };
    assert!(accepts(keys(slot), &own, isn, cookie, Some(echo)));
    assert!(accepts(keys(slot), &own, isn, cookie, Some(echo ^ 0x40)), "a clock is not covered");
    let server = FlowKey { vip: [198, 18, 0, 101].into(), ..own };
    let other_client = FlowKey { client: [198, 18, 0, 3].into(), ..own };
    let cases = [
        ("two slots later", keys(slot + 2), own, isn, cookie, Some(echo)),
        ("a slot before", keys(slot - 1), own, isn, cookie, Some(echo)),
        ("another port", keys(slot), flow(4001, false), isn, cookie, Some(echo)),
        ("another client", keys(slot), other_client, isn, cookie, Some(echo)),
        ("another VIP", keys(slot), server, isn, cookie, Some(echo)),
        ("another service", keys(slot), FlowKey { vip_port: 81, ..own }, isn, cookie, Some(echo)),
        ("another number", keys(slot), own, isn + 1, cookie, Some(echo)),
        ("a larger segment", keys(slot), own, isn, cookie ^ 1 << 28, Some(echo)),
        ("another issuer", keys(slot), own, isn, cookie ^ 1 << 24, Some(echo)),
        ("another slot", keys(slot), own, isn, cookie ^ 1 << 31, Some(echo)),
        ("a larger scale", keys(slot), own, isn, cookie, Some(echo ^ 1)),
        ("no SACK", keys(slot), own, isn, cookie, Some(echo ^ 1 << 4)),
        ("no timestamp", keys(slot), own, isn, cookie, None),
    ];
    for (what, keys, flow, isn, cookie, echo) in cases {
        assert!(!accepts(keys, &flow, isn, cookie, echo), "{what}");
    }
    let alone = CookieKeys { previous: None, ..keys(slot + 1) };
    assert!(!accepts(alone, &own, isn, cookie, Some(echo)), "its key is gone");
    let other = CookieKey { key: [1, 2], ..key(slot) };
    let stranger = CookieKeys { present: other, previous: None };
    assert!(!accepts(stranger, &own, isn, cookie, Some(echo)), "another cluster");
    let guessed = (0..1u32 << 16).filter(|n| accepts(keys(slot), &own, isn, n << 8, Some(echo)));
    assert!(guessed.count() <= 2, "a guess hits once in 2^24");
}

#[test]
fn keys_are_not_shown() {
    let shown = format!("{:?}", keys(3));
    assert!(!shown.contains(&key(3).key[0].to_string()) && shown.contains("slot: 3"), "{shown}");
}

/// Nodes of another release, or another kind of machine, must issue the same.
#[test]
fn cookies_are_what_they_always_were() {
    let offered = SegmentOptions { mss: Some(1460), ..SegmentOptions::default() };
    let keys = CookieKeys { present: CookieKey { slot: 3, key: [1, 2] }, previous: None };
    let cookie = |v6| keys.issue(&flow(4000, v6), 5, &offered, 9, NOW).cookie;
    assert_eq!([cookie(false), cookie(true)], [3_918_185_648, 3_919_820_762]);
}
