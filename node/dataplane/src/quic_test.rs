use super::*;

fn octets(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn config(id: u8, server_id: &str, nonce: &str, key: Option<&str>) -> QuicConfig {
    let key = key.map(|key| <[u8; 16]>::try_from(octets(key)).unwrap());
    QuicConfig {
        id,
        server_id_len: (server_id.len() / 2) as u8,
        nonce_len: (nonce.len() / 2) as u8,
        key,
    }
}

/// What a server does: the inverse of what is tested, by the steps of the draft.
fn encrypt(config: &QuicConfig, server_id: &[u8], nonce: &[u8]) -> Vec<u8> {
    let plain = [server_id, nonce].concat();
    let first = config.id << 5 | plain.len() as u8;
    let Some(key) = config.key else { return [&[first][..], &plain].concat() };
    let cipher = Aes128::new(&key.into());
    if let Ok(block) = <[u8; 16]>::try_from(plain.as_slice()) {
        let mut block = block.into();
        cipher.encrypt_block(&mut block);
        return [&[first][..], &block].concat();
    }
    let mut halves = Halves::split(&plain);
    halves.change_right(&cipher, 1);
    halves.change_left(&cipher, 2);
    halves.change_right(&cipher, 3);
    halves.change_left(&cipher, 4);
    [&[first][..], &halves.join()[..plain.len()]].concat()
}

const KEY: &str = "8f95f09245765f80256934e50c66207f";

/// draft-ietf-quic-load-balancers-21, appendix B and the example of section 5.4.2.4. Not here: the
/// second vector without a key, whose nonce has half an octet too many.
const VECTORS: [(u8, &str, &str, Option<&str>, &str); 6] = [
    (0, "c4605e", "4504cc4f", None, "07c4605e4504cc4f"),
    (0, "ed793a", "ee080dbf", Some(KEY), "0720b1d07b359d3c"),
    (1, "ed793a51d49b8f5fab65", "ee080dbf48", Some(KEY), "2fcc381bc74cb4fbad2823a3d1f8fed2"),
    (2, "ed793a51d49b8f5f", "ee080dbf48c0d1e5", Some(KEY), "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
    (
        3,
        "ed793a51d49b8f5fab",
        "ee080dbf48c0d1e55d",
        Some(KEY),
        "125779c9cc86beb3a3a4a3ca96fce4bfe0cdbc",
    ),
    (0, "31441a", "9c69c275", Some("fdf726a9893ec05c0632d3956680baf0"), "0767947d29be054a"),
];

#[test]
fn the_vectors_of_the_draft_are_decoded() {
    for (id, server_id, nonce, key, cid) in VECTORS {
        let config = config(id, server_id, nonce, key);
        assert!(config.is_valid());
        let decoded = Codec::new(&config).server_id(&octets(cid)[1..]).unwrap();
        assert_eq!(decoded.octets(), octets(server_id), "{cid}");
        let encrypted = encrypt(&config, &octets(server_id), &octets(nonce));
        assert_eq!(encrypted[1..], octets(cid)[1..], "{cid}");
    }
}

#[test]
fn every_length_is_decoded_as_it_was_encrypted() {
    for server_id_len in 1..=QUIC_SERVER_ID_LEN_MAX {
        for nonce_len in NONCE_LEN_MIN..=BLOCK_LEN_MAX - server_id_len {
            for key in [None, Some([7; 16])] {
                let config = QuicConfig {
                    id: 5,
                    server_id_len: server_id_len as u8,
                    nonce_len: nonce_len as u8,
                    key,
                };
                let server_id: Vec<u8> = (0..server_id_len as u8).map(|at| 0xe1 ^ at).collect();
                let nonce: Vec<u8> = (0..nonce_len as u8).map(|at| 0x5c ^ at).collect();
                let cid = encrypt(&config, &server_id, &nonce);
                let codec = Codec::new(&config);
                assert_eq!(codec.server_id(&cid[1..]).unwrap().octets(), server_id);
                // What a server appends for itself changes nothing; what is cut off names nobody.
                let longer = [&cid[1..], &[9; 30]].concat();
                assert_eq!(codec.server_id(&longer).unwrap().octets(), server_id);
                assert_eq!(codec.server_id(&cid[1..cid.len() - 1]), None);
            }
        }
    }
}

#[test]
fn limits_of_the_draft_hold() {
    let good = QuicConfig { id: 6, server_id_len: 15, nonce_len: 4, key: None };
    assert!(good.is_valid());
    for bad in [
        QuicConfig { id: 7, ..good },
        QuicConfig { server_id_len: 0, ..good },
        QuicConfig { nonce_len: 3, ..good },
        QuicConfig { server_id_len: 16, ..good },
        QuicConfig { nonce_len: 5, ..good },
    ] {
        assert!(!bad.is_valid(), "{bad:?}");
    }
    assert_eq!(QuicServerId::new(&[]), None);
    assert_eq!(QuicServerId::new(&[0; QUIC_SERVER_ID_LEN_MAX + 1]), None);
    assert_ne!(QuicServerId::new(&[0]), QuicServerId::new(&[0, 0]), "zeroes count");
    let secret = QuicConfig { key: Some([0xab; 16]), ..good };
    assert!(!format!("{secret:?}").contains("171"), "keys stay out of logs: {secret:?}");
}

#[test]
fn packets_find_the_server_that_gave_out_their_connection_id() {
    let server = |id| ServerSpec { id: ServerId(id), up: true, ..ServerSpec::default() };
    let servers = [server(8), server(9), ServerSpec { up: false, ..server(7) }];
    let plain = config(0, "c4605e", "4504cc4f", None);
    let keyed = config(2, "ed793a", "ee080dbf", Some(KEY));
    let id = |text: &str| QuicServerId::new(&octets(text)).unwrap();
    let spec = QuicSpec {
        configs: vec![plain, keyed],
        servers: vec![
            (id("c4605e"), ServerId(8)),
            (id("ed793a51"), ServerId(8)),
            (id("ed793a"), ServerId(9)),
            (id("c46061"), ServerId(99)),
            (id("c46062"), ServerId(7)),
        ],
    };
    let router = QuicRouter::compile(&spec, &servers).unwrap();
    let short = |cid: &[u8]| [&[0x43][..], cid, &[1; 40]].concat();
    let long =
        |cid: &[u8]| [&[0xe3, 0, 0, 0, 1, cid.len() as u8][..], cid, &[0], &[1; 40]].concat();
    let of_first = octets("07c4605e4504cc4f");
    let of_second = encrypt(&keyed, &octets("ed793a"), &octets("ee080dbf"));
    for (cid, expected) in [
        (of_first.clone(), Routed::To(0)),
        (of_second, Routed::To(1)),
        // Of a server that is not here, of no configuration, of none by intent, too short.
        (octets("07c4605f4504cc4f"), Routed::Unroutable),
        (octets("07c460614504cc4f"), Routed::Unroutable),
        (octets("07c460624504cc4f"), Routed::Unroutable),
        (octets("27c4605e4504cc4f"), Routed::Unroutable),
        (octets("e7c4605e4504cc4f"), Routed::Unroutable),
    ] {
        assert_eq!(router.route_payload(&short(&cid)), expected, "{cid:02x?}");
        assert_eq!(router.route_payload(&long(&cid)), expected, "{cid:02x?}");
    }
    assert_eq!(
        router.route_payload(&long(&of_first[..7])),
        Routed::Unroutable,
        "an ID that is cut"
    );
    assert_eq!(router.route_payload(&[0x43, 7, 0xc4]), Routed::Unroutable);
    assert_eq!(router.route_payload(&[]), Routed::Unroutable);
    assert!(QuicRouter::compile(&QuicSpec::default(), &servers).is_none());
}
