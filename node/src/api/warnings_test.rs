use steadfast_proto::v1::{NodePath, NodeRef};

use super::*;

fn node_ref(id: u32) -> NodeRef {
    NodeRef { id, name: format!("n{id}") }
}

/// A cluster as n1 sees it: `voters` of `nodes` vote, those in `silent` are not heard.
fn cluster(nodes: u32, voters: u32, silent: &[u32]) -> StatusReply {
    let node = |id: u32| {
        let (alive, role) =
            (!silent.contains(&id), if id <= voters { NodeRole::Voter } else { NodeRole::Learner });
        let heard = NodePath {
            name: "control".to_owned(),
            last_heard_ms: Some(if alive { 9 } else { 61_000 }),
            alive,
        };
        let paths = if id == 1 { Vec::new() } else { vec![heard] };
        Node { id, name: format!("n{id}"), role: role.into(), alive, paths, ..Node::default() }
    };
    let copy = |id: u32| GroupCopy {
        node: Some(node_ref(id)),
        state: if id == 1 { CopyState::Holder } else { CopyState::Complete }.into(),
        ..GroupCopy::default()
    };
    let heard = (1..=voters).filter(|id| !silent.contains(id)).count() as u32;
    let majority_heard = heard * 2 > voters;
    StatusReply {
        serving_node: Some(node_ref(1)),
        leader: majority_heard.then(|| node_ref(1)),
        has_quorum: majority_heard,
        majority_heard,
        voters_heard: heard,
        voters,
        nodes: (1..=nodes).map(node).collect(),
        groups: vec![Group {
            id: 1,
            name: "web".to_owned(),
            addresses: vec!["198.18.0.100".to_owned()],
            holder: Some(node_ref(1)),
            copies: (1..=nodes).map(copy).collect(),
            ..Group::default()
        }],
        ..StatusReply::default()
    }
}

fn judge(reply: &StatusReply) -> Vec<Warning> {
    let found = warnings(reply, &Facts::default());
    assert!(found.iter().all(|w| !w.fix.is_empty()), "a warning without a remedy: {found:?}");
    found
}

/// The texts, with `!! ` before the bad ones.
fn texts(found: &[Warning]) -> Vec<String> {
    let mark = |w: &Warning| if w.severity() == Severity::Bad { "!! " } else { "" };
    found.iter().map(|w| format!("{}{}", mark(w), w.what)).collect()
}

#[test]
fn three_voters_at_rest_are_fine_and_so_is_a_cluster_of_one() {
    for reply in [cluster(1, 1, &[]), cluster(3, 3, &[]), cluster(5, 5, &[]), cluster(4, 3, &[])] {
        assert_eq!(judge(&reply), []);
    }
}

#[test]
fn an_election_is_no_loss_of_the_quorum() {
    let mut reply = cluster(3, 3, &[3]);
    (reply.leader, reply.has_quorum) = (None, false);
    let found = judge(&reply);
    let election = "no leader, an election is running (2 of 3 voters heard); take-overs still \
                    work, writes wait";
    let down = "!! node n3: DOWN, last heard 1 min ago on any path";
    assert_eq!(texts(&found), [down, election]);

    let found = texts(&judge(&cluster(3, 3, &[2, 3])));
    assert!(found[0].starts_with("!! NO QUORUM: 1 of 3 voters heard, no leader"), "{found:?}");
    assert!(!found.iter().any(|text| text.contains("election")), "{found:?}");
}

#[test]
fn a_leader_without_answers_is_no_election() {
    let mut reply = cluster(3, 3, &[]);
    reply.has_quorum = false;
    let found = texts(&judge(&reply));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("the leader, n1, has no answers of a majority"), "{found:?}");
}

#[test]
fn a_path_that_is_silent_is_told_of_unless_all_are() {
    let mut reply = cluster(3, 3, &[]);
    let silent = NodePath { name: "front".to_owned(), last_heard_ms: Some(742), alive: false };
    reply.nodes[1].paths.push(silent);
    assert_eq!(texts(&judge(&reply)), ["node n2: not heard on front for 742 ms"]);
    reply.nodes[1].paths[0].alive = false;
    reply.nodes[1].paths[0].last_heard_ms = Some(700);
    assert_eq!(texts(&judge(&reply)), ["node n2: not heard for 700 ms"]);
}

#[test]
fn a_silent_node_is_told_of_once() {
    let found = judge(&cluster(3, 3, &[3]));
    assert_eq!(found.iter().filter(|w| w.what.contains("n3")).count(), 1, "{found:?}");
}

#[test]
fn numbers_of_voters_that_bear_less_than_they_seem_to() {
    let cases = [
        (cluster(2, 1, &[]), "one voter, n1, in a cluster of two", "join a third node"),
        (cluster(3, 1, &[]), "one voter, n1: its loss", "node promote"),
        (cluster(2, 2, &[]), "two voters: the loss of either", "token create"),
        (cluster(3, 2, &[]), "two voters: the loss of either", "clusterctl node promote n3"),
        (cluster(4, 4, &[]), "4 voters: they bear no more losses than 3", "token create"),
    ];
    for (reply, what, fix) in cases {
        let found = judge(&reply);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.starts_with(what), "{found:?}");
        assert!(found[0].fix.contains(fix), "{found:?}");
        assert_eq!(found[0].severity(), Severity::Warn);
    }
}

#[test]
fn a_removed_node_claims_nothing_about_the_cluster() {
    let mut reply = cluster(3, 3, &[1, 2]);
    (reply.groups[0].holder, reply.removed) = (None, true);
    let facts = Facts { disowned_by: vec!["n1".to_owned(), "n2".to_owned()], ..Facts::default() };
    let found = warnings(&reply, &facts);
    assert_eq!(found.len(), 1, "{found:?}");
    let what = &found[0].what;
    assert!(what.starts_with("THIS NODE WAS REMOVED from the cluster: n1 and n2 refuse"), "{what}");
    assert!(found[0].fix.contains("empty its data_dir"), "{found:?}");
}

#[test]
fn a_group_without_holder_or_copy_is_bad() {
    let mut reply = cluster(3, 3, &[]);
    reply.groups[0].holder = None;
    let found = judge(&reply);
    assert_eq!(texts(&found), ["!! group web: NO HOLDER, nobody answers for 198.18.0.100"]);

    let mut reply = cluster(3, 3, &[]);
    reply.groups[0].copies[1].state = CopyState::Stale.into();
    reply.groups[0].copies[1].lag_ms = Some(420);
    reply.groups[0].copies[2].state = CopyState::Empty.into();
    let wanted = [
        "!! group web: NO COMPLETE COPY on a live node, sessions break if n1 dies now",
        "group web: copy on n2 is STALE, 420 ms behind",
        "group web: copy on n3 is EMPTY",
    ];
    assert_eq!(texts(&judge(&reply)), wanted);

    let mut reply = cluster(3, 3, &[2]);
    reply.groups[0].holder = Some(node_ref(2));
    let found = texts(&judge(&reply));
    assert!(found[0].contains("holder n2 SILENT for 1 min, take-over not seen yet"), "{found:?}");
}

#[test]
fn a_cordon_on_all_that_could_take_over_is_bad() {
    let mut reply = cluster(3, 3, &[]);
    reply.nodes[1].cordoned = true;
    assert_eq!(texts(&judge(&reply)), [""; 0], "n3 is left");
    reply.nodes[2].cordoned = true;
    let nobody = "!! group web: NOBODY could take over, n2 and n3 cordoned";
    assert_eq!(texts(&judge(&reply)), [nobody]);
    let mut reply = cluster(3, 3, &[3]);
    reply.nodes[1].cordoned = true;
    let found = texts(&judge(&reply));
    assert!(found.contains(&"!! group web: NOBODY could take over, n2 cordoned".to_owned()));
}

#[test]
fn a_node_without_an_interface_says_that_it_forwards_nothing() {
    let mut reply = cluster(1, 1, &[]);
    reply.local = Some(LocalStatus::default());
    let wanted = "!! node n1: forwards NOTHING, no interface is attached";
    assert_eq!(texts(&judge(&reply)), [wanted]);
    reply.groups.clear();
    assert_eq!(texts(&judge(&reply)), [""; 0], "nothing is to be forwarded");
}

#[test]
fn servers_that_all_fail_are_told_of_with_what_is_done_about_it() {
    let mut reply = cluster(3, 3, &[]);
    let server = Server { address: "198.18.0.11".to_owned(), port: 7, ..Server::default() };
    reply.services =
        vec![Service { name: "echo".to_owned(), servers: vec![server], ..Service::default() }];
    let facts = Facts { panicking: ["echo".to_owned()].into(), ..Facts::default() };
    let wanted = [
        "!! service echo: ALL 1 real servers DOWN, the last good ones are used on",
        "!! service echo: real server 198.18.0.11:7 DOWN",
    ];
    let found = warnings(&reply, &facts);
    assert_eq!(texts(&found), wanted);
    assert!(found[1].fix.contains("new connections go on"), "{found:?}");
    let found = judge(&reply);
    assert!(found[1].fix.contains("gets no new connections"), "{found:?}");
}

#[test]
fn what_only_this_node_knows_is_told_with_a_remedy() {
    let facts = Facts {
        raft_ended: Some("I/O error".to_owned()),
        started_with: Some("connections_max 9".to_owned()),
        troubles: vec![("eth1".to_owned(), "no queue".to_owned())],
        ..Facts::default()
    };
    let found = warnings(&cluster(3, 3, &[]), &facts);
    let wanted = [
        "!! node n1: its Raft role has stopped: I/O error; forwarding goes on",
        "!! node n1: eth1: no queue",
        "node n1: still runs with connections_max 9",
    ];
    assert_eq!(texts(&found), wanted);
    assert!(found.iter().all(|w| !w.fix.is_empty()), "{found:?}");
}

#[test]
fn a_host_that_pauses_too_long_is_told_what_to_set() {
    let judge = |mutes, gaps, beacon| {
        let facts = Facts { pauses: Pauses { mutes, gaps }, beacon, ..Facts::default() };
        warnings(&cluster(3, 3, &[]), &facts)
    };
    let found = judge(3, 5, (25, 4));
    let wanted = "node n1: went mute 3 times in the last 10 minutes, its own loop stood still 5 \
                  times: this host pauses too long for beacons of 25 ms x 4";
    assert_eq!(texts(&found), [wanted]);
    assert!(found[0].fix.contains("interval_ms: 50, silent_after: 5"), "{found:?}");
    let found = judge(3, 5, (50, 5));
    assert!(!found[0].fix.contains("interval_ms"), "it has that already: {found:?}");
    // Mute because it was cut off, or late without consequences: not this.
    assert_eq!(judge(3, 0, (25, 4)), []);
    assert_eq!(judge(0, 5, (25, 4)), []);
}
