use super::*;

fn spec(name: &str, n: u16) -> NodeSpec {
    let at = |port: u16| SocketAddr::from(([198, 18, 2, 1], port + n));
    NodeSpec { name: name.to_owned(), api: at(7000), control: at(8000), replication: at(9000) }
}

fn started() -> ClusterState {
    let mut state = ClusterState::default();
    let start = Initialise {
        name: "test".to_owned(),
        cluster: 7,
        ca_cert_pem: String::new(),
        ca_key_pem: String::new(),
        beacon_key: vec![1; 32],
        node: spec("n1", 1),
    };
    assert_eq!(
        state.apply(1, Command::Initialise(Box::new(start.clone()))),
        Response::Admitted(NodeId(1))
    );
    assert_eq!(
        state.apply(2, Command::Initialise(Box::new(start))),
        Response::Rejected(Rejection::AlreadyInitialised)
    );
    state
}

fn admit(state: &mut ClusterState, hash: &str, now_unix_s: u64, name: &str) -> Response {
    let node = spec(name, 2);
    state.apply(3, Command::AdmitNode { token_hash: hash.to_owned(), now_unix_s, node })
}

fn apply(state: &mut ClusterState, text: &str, expected_revision: Option<u64>) -> Response {
    let command = Command::Apply {
        text: text.to_owned(),
        expected_revision,
        source: "test".to_owned(),
        now_unix_s: 0,
    };
    state.apply(4, command)
}

#[test]
fn an_uncordoned_node_is_held_down_no_more() {
    let mut state = started();
    let node = NodeId(1);
    let held = |state: &ClusterState| {
        let node = &state.nodes[&node];
        (node.cordoned, node.held_down)
    };
    assert_eq!(state.apply(2, Command::HoldDown { node, held: true }), Response::Done);
    assert_eq!(held(&state), (false, true));
    state.apply(3, Command::Cordon { node, cordoned: true });
    assert_eq!(held(&state), (true, true), "a cordon says nothing about trust");
    state.apply(4, Command::Cordon { node, cordoned: false });
    assert_eq!(held(&state), (false, false));
    let nobody = state.apply(5, Command::HoldDown { node: NodeId(9), held: true });
    assert_eq!(nobody, Response::Rejected(Rejection::NoSuchNode(NodeId(9))));
}

/// A state that an older version wrote says of nobody that it is held down.
#[test]
fn a_node_of_an_older_state_is_trusted() {
    let state = started();
    let mut value = serde_json::to_value(&state.nodes[&NodeId(1)]).unwrap();
    value.as_object_mut().unwrap().remove("held_down").unwrap();
    let node: Node = serde_json::from_value(value).unwrap();
    assert!(!node.held_down);
}

/// Two members never give a local port of full-NAT, whoever came and went before.
#[test]
fn no_two_members_have_one_port_slot() {
    let mut state = started();
    let mut random = 7_u64;
    for round in 0..2_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        let members: Vec<NodeId> = state.nodes.keys().copied().collect();
        let before: BTreeMap<NodeId, Option<u16>> =
            members.iter().map(|node| (*node, state.port_slot(*node))).collect();
        if members.len() > 1 && (random >> 33).is_multiple_of(2) {
            let node = members[(random >> 40) as usize % members.len()];
            state.apply(5, Command::RemoveNode { node });
            assert_eq!(state.port_slot(node), None);
        } else {
            let hash = format!("{round}");
            state.apply(2, Command::CreateToken { hash: hash.clone(), expires_unix_s: 100 });
            admit(&mut state, &hash, 50, "n");
        }
        let slots: Vec<u16> = state.nodes.keys().filter_map(|n| state.port_slot(*n)).collect();
        let different: BTreeSet<u16> = slots.iter().copied().collect();
        assert_eq!((slots.len(), different.len()), (state.nodes.len(), state.nodes.len()));
        assert!(slots.iter().all(|slot| *slot < PORT_SLOTS));
        for (node, slot) in before {
            assert!([slot, None].contains(&state.port_slot(node)), "a member keeps its slot");
        }
    }
    // A state of before there were slots.
    let mut old = state.clone();
    old.port_slots.clear();
    let last = old.nodes.keys().next_back().copied().unwrap();
    assert_eq!(old.port_slot(last), Some(((last.0 - 1) % 64) as u16));
}

const TEXT: &str = "
apiVersion: steadfast/v1
segments: [{name: front, prefix: 198.18.0.0/24}]
groups: [{name: web, addresses: [198.18.0.100]}]
services:
  - {name: echo, group: web, address: 198.18.0.100, port: 7,
     servers: [{address: 198.18.0.11, port: 7}, {address: 198.18.0.12, port: 7}]}
";

#[test]
fn a_token_is_good_once_and_not_for_ever() {
    let mut state = started();
    let token = Command::CreateToken { hash: "h".to_owned(), expires_unix_s: 100 };
    state.apply(2, token.clone());
    assert_eq!(admit(&mut state, "other", 50, "n2"), Response::Rejected(Rejection::Token));
    assert_eq!(admit(&mut state, "h", 100, "n2"), Response::Rejected(Rejection::Token));
    assert_eq!(admit(&mut state, "h", 50, "n2"), Response::Admitted(NodeId(2)));
    assert_eq!(admit(&mut state, "h", 50, "n2"), Response::Rejected(Rejection::Token));
}

#[test]
fn a_removed_nodes_id_is_never_used_again() {
    let mut state = started();
    for (i, hash) in ["a", "b"].iter().enumerate() {
        let hash = (*hash).to_owned();
        state.apply(2, Command::CreateToken { hash: hash.clone(), expires_unix_s: 100 });
        let id = NodeId(2 + u32::try_from(i).unwrap());
        assert_eq!(admit(&mut state, &hash, 1, "n2"), Response::Admitted(id));
        assert_eq!(state.find_node("n2"), Ok(id));
        assert_eq!(state.apply(9, Command::RemoveNode { node: id }), Response::Done);
        assert_eq!(
            state.apply(9, Command::RemoveNode { node: id }),
            Response::Rejected(Rejection::NoSuchNode(id))
        );
    }
}

#[test]
fn a_configuration_is_taken_whole_or_not_at_all() {
    let mut state = started();
    let before = state.clone();
    let bad = TEXT.replace("198.18.0.12, port: 7", "198.18.0.12, port: 8");
    assert!(matches!(
        apply(&mut state, &bad, None),
        Response::Rejected(Rejection::Document(problems)) if problems.len() == 1
    ));
    assert_eq!(state, before);
    assert_eq!(apply(&mut state, TEXT, Some(0)), Response::Applied { revision: 1, changed: true });
    assert_eq!(apply(&mut state, TEXT, None), Response::Applied { revision: 1, changed: false });
    assert_eq!(
        apply(&mut state, TEXT, Some(0)),
        Response::Rejected(Rejection::Revision { expected: 0, current: 1 })
    );
}

#[test]
fn server_ids_stay_with_their_server_and_are_never_reused() {
    let mut state = started();
    apply(&mut state, TEXT, None);
    let ids = |state: &ClusterState| state.services[&ServiceId(1)].servers.clone();
    assert_eq!(ids(&state), [ServerId(1), ServerId(2)]);
    apply(&mut state, &TEXT.replace("{address: 198.18.0.11, port: 7}, ", ""), None);
    assert_eq!(ids(&state), [ServerId(2)]);
    apply(&mut state, TEXT, None);
    assert_eq!(ids(&state), [ServerId(3), ServerId(2)]);
    assert_eq!(state.groups.keys().copied().collect::<Vec<_>>(), [GroupId(1)]);
}

#[test]
fn the_weight_before_0_is_known_to_all() {
    let mut state = started();
    let weights = |state: &ClusterState| state.services[&ServiceId(1)].last_weights.clone();
    let first = |fields: &str| TEXT.replacen("port: 7}", &format!("port: 7, {fields}}}"), 1);
    apply(&mut state, &first("weight: 0"), None);
    assert_eq!(weights(&state), [0, 1], "it never had one");
    apply(&mut state, &first("weight: 9"), None);
    apply(&mut state, &first("weight: 0"), None);
    assert_eq!(weights(&state), [9, 1]);
    apply(&mut state, &first("weight: 0, drain: true"), None);
    assert_eq!(weights(&state), [9, 1]);
    // A state of a version that did not keep them.
    state.services.get_mut(&ServiceId(1)).unwrap().last_weights.clear();
    apply(&mut state, &first("weight: 4"), None);
    assert_eq!(weights(&state), [4, 1]);
}

#[test]
fn a_grant_replaces_only_the_grant_its_sender_saw() {
    let mut state = started();
    apply(&mut state, TEXT, None);
    let grant = |expected| Command::Grant {
        group: GroupId(1),
        expected,
        holder: NodeId(1),
        boot: BootId(5),
        candidates: vec![NodeId(1), NodeId(99)],
    };
    let Response::Granted(first) = state.apply(10, grant(None)) else { panic!("not granted") };
    assert_eq!(first, Epoch { generation: 1, grant_index: 10, claim: 0, node: NodeId(1) });
    assert_eq!(state.groups[&GroupId(1)].grant.as_ref().unwrap().candidates, [NodeId(1)]);
    assert_eq!(
        state.apply(11, grant(None)),
        Response::Rejected(Rejection::EpochConflict { current: Some(first) })
    );
    let claim = Epoch { claim: 1, node: NodeId(2), ..first };
    let Response::Granted(second) = state.apply(12, grant(Some(claim))) else { panic!("refused") };
    assert!(second > claim);
    let text = TEXT.replace("port: 7,", "port: 9,").replace("port: 7}", "port: 9}");
    apply(&mut state, &text, None);
    assert_eq!(state.groups[&GroupId(1)].grant.as_ref().unwrap().epoch, second);
}

#[test]
fn history_is_bounded() {
    let mut state = started();
    for i in 0..(HISTORY_MAX as u32 + 10) {
        let text =
            TEXT.replace("198.18.0.12, port: 7", &format!("198.18.0.12, port: 7, weight: {i}"));
        apply(&mut state, &text, None);
    }
    assert_eq!(state.history.len(), HISTORY_MAX);
}

#[test]
fn the_state_survives_its_snapshot() {
    let mut state = started();
    apply(&mut state, TEXT, None);
    let bytes = serde_json::to_vec(&state).unwrap();
    assert_eq!(serde_json::from_slice::<ClusterState>(&bytes).unwrap(), state);
}

#[test]
fn slots_of_cookies_follow_each_other_and_their_keys_are_not_shown() {
    let secret = |n| CookieSecret([0x5ec2_e700_0000 + n, n]);
    let rotate = |slot, n| Command::RotateCookieKey { slot, secret: secret(n) };
    let mut state = ClusterState::default();
    assert_eq!(state.apply(1, rotate(1, 1)), Response::Rejected(Rejection::NotInitialised));
    let mut state = started();
    assert_eq!(state.cookies, None);
    for slot in 1..=3 {
        assert_eq!(state.apply(10 + slot, rotate(slot, slot)), Response::Done);
    }
    let expected = Cookies { slot: 3, present: secret(3), previous: Some(secret(2)) };
    assert_eq!(state.cookies, Some(expected));
    for slot in [0, 2, 3, 5, u64::MAX] {
        let rejection = Rejection::CookieSlot { current: 3 };
        assert_eq!(state.apply(20, rotate(slot, 9)), Response::Rejected(rejection), "{slot}");
    }
    assert_eq!(state.cookies, Some(expected), "whoever was late changed nothing");
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<ClusterState>(&text).unwrap(), state);
    let shown = format!("{:?} {:?}", state.cookies, rotate(4, 4));
    let hidden = secret(3).0.map(|half| half.to_string());
    assert!(hidden.iter().all(|half| half.len() < 2 || !shown.contains(half)), "{shown}");
    // A state of an older version.
    let mut older: serde_json::Value = serde_json::from_str(&text).unwrap();
    older.as_object_mut().unwrap().remove("cookies");
    let older: ClusterState = serde_json::from_value(older).unwrap();
    assert_eq!(older.cookies, None);
}
