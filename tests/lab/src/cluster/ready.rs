//! When a cluster is ready for a fault: everything is up, agreed and complete.

use super::api::{Epoch, NodeRef, Status};

/// What must be true beside what always must.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Connections are copied, so copies must be complete.
    pub replication: bool,
}

/// A cluster at rest.
#[derive(Clone, Debug, PartialEq)]
pub struct Ready {
    /// Who holds the group.
    pub holder: NodeRef,
    /// Under which epoch.
    pub epoch: Epoch,
    /// The Raft leader.
    pub leader: NodeRef,
    /// The configuration.
    pub revision: u64,
}

/// Whether the cluster is ready, judged by what each of its nodes says.
///
/// # Errors
/// What is missing.
pub fn readiness(views: &[Status], wanted: Wanted) -> Result<Ready, String> {
    if views.len() < wanted.nodes {
        return Err(format!("{} of {} nodes answer", views.len(), wanted.nodes));
    }
    let mut agreed: Option<Ready> = None;
    let mut announcers = 0;
    for view in views {
        let me = view.serving_node.clone().unwrap_or_default();
        let here = judge_one(view, wanted).map_err(|what| format!("{}: {what}", me.name))?;
        let group = view.group();
        let announces = group.is_some_and(|g| g.announcing_here);
        announcers += usize::from(announces);
        if announces != (here.holder.id == me.id) {
            return Err(format!(
                "{} {} but the holder is {}",
                me.name,
                if announces { "announces" } else { "does not announce" },
                here.holder.name
            ));
        }
        if me.id == here.holder.id && wanted.replication {
            copies_complete(view, here.holder.id)?;
        }
        match &agreed {
            Some(first) if *first != here => {
                return Err(format!(
                    "nodes differ: leader, holder, epoch, revision are {} and {}",
                    words(first),
                    words(&here)
                ));
            }
            _ => agreed = Some(here),
        }
    }
    if announcers != 1 {
        return Err(format!("{announcers} nodes announce the group"));
    }
    agreed.ok_or_else(|| "no node answers".to_owned())
}

fn words(ready: &Ready) -> String {
    format!("{} {} {} {}", ready.leader.name, ready.holder.name, ready.epoch, ready.revision)
}

fn judge_one(view: &Status, wanted: Wanted) -> Result<Ready, String> {
    if !view.has_quorum {
        return Err("no quorum".to_owned());
    }
    let leader = view.leader.clone().ok_or("no leader")?;
    if view.config_revision == 0 {
        return Err("no configuration applied".to_owned());
    }
    if view.nodes.len() != wanted.nodes {
        return Err(format!("{} members, not {}", view.nodes.len(), wanted.nodes));
    }
    if let Some(node) = view.nodes.iter().find(|n| !n.alive) {
        return Err(format!("{} is not heard", node.name));
    }
    if let Some(node) = view.nodes.iter().find(|n| !n.role.is("voter", 1)) {
        return Err(format!("{} is no voter", node.name));
    }
    if let Some(node) = view.nodes.iter().find(|n| n.cordoned) {
        return Err(format!("{} is cordoned", node.name));
    }
    if view.services.is_empty() {
        return Err("no service".to_owned());
    }
    for service in &view.services {
        if service.servers.is_empty() {
            return Err(format!("{} has no servers", service.name));
        }
        if let Some(server) = service.servers.iter().find(|s| !s.up) {
            return Err(format!("{} of {} is down", server.address, service.name));
        }
    }
    let group = view.group().ok_or("no group")?;
    let holder = group.holder.clone().ok_or("nobody holds the group")?;
    let epoch = group.epoch.clone().ok_or("the group has no epoch")?;
    Ok(Ready { holder, epoch, leader, revision: view.config_revision })
}

fn copies_complete(view: &Status, holder: u64) -> Result<(), String> {
    for node in view.nodes.iter().filter(|n| n.id != holder) {
        let copies = view.group().map_or(&[][..], |g| &g.copies);
        let copy = copies.iter().find(|c| c.node.as_ref().is_some_and(|r| r.id == node.id));
        match copy {
            Some(copy) if copy.state.is("complete", 2) => {}
            Some(copy) => return Err(format!("the copy of {} is {}", node.name, copy.state)),
            None => return Err(format!("nothing known of the copy of {}", node.name)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted { nodes: 3, replication: true };

    fn view(me: u64) -> Status {
        let text = format!(
            r#"{{"serving_node":{{"id":{me},"name":"n{me}"}},"leader":{{"id":1,"name":"n1"}},
            "has_quorum":true,"config_revision":1,
            "nodes":[{{"id":1,"name":"n1","role":"voter","alive":true}},
                     {{"id":2,"name":"n2","role":"voter","alive":true}},
                     {{"id":3,"name":"n3","role":"voter","alive":true}}],
            "groups":[{{"name":"web","holder":{{"id":2,"name":"n2"}},
              "epoch":{{"generation":1,"grant_index":5,"claim":0,"node":2}},
              "announcing_here":{},
              "copies":[{{"node":{{"id":1}},"state":"complete"}},
                        {{"node":{{"id":2}},"state":"holder"}},
                        {{"node":{{"id":3}},"state":"complete"}}]}}],
            "services":[{{"name":"echo","servers":[{{"address":"198.18.0.11","up":true}}]}}]}}"#,
            me == 2
        );
        serde_json::from_str(&text).unwrap()
    }

    fn views() -> Vec<Status> {
        vec![view(1), view(2), view(3)]
    }

    #[test]
    fn a_cluster_at_rest_is_ready() {
        let ready = readiness(&views(), WANTED).unwrap();
        assert_eq!((ready.holder.id, ready.leader.id), (2, 1));
    }

    #[test]
    fn each_thing_that_is_missing_is_named() {
        type Spoil = fn(&mut Vec<Status>);
        let cases: [(Spoil, &str); 14] = [
            (|v| drop(v.pop()), "2 of 3 nodes answer"),
            (|v| v[0].has_quorum = false, "n1: no quorum"),
            (|v| v[2].leader = None, "n3: no leader"),
            (|v| v[0].config_revision = 0, "n1: no configuration"),
            (|v| v[1].nodes[2].alive = false, "n2: n3 is not heard"),
            (|v| drop(v[1].nodes.pop()), "n2: 2 members"),
            (|v| v[0].nodes[1].cordoned = true, "n1: n2 is cordoned"),
            (|v| v[0].services[0].servers[0].up = false, "198.18.0.11 of echo is down"),
            (|v| v[2].services[0].servers.clear(), "n3: echo has no servers"),
            (|v| v[0].groups[0].holder = None, "nobody holds"),
            (|v| v[0].groups[0].announcing_here = true, "n1 announces but the holder is n2"),
            (|v| v[1].groups[0].announcing_here = false, "n2 does not announce"),
            (|v| v[0].config_revision = 2, "nodes differ"),
            (|v| drop(v[1].groups[0].copies.pop()), "nothing known of the copy of n3"),
        ];
        for (spoil, what) in cases {
            let mut views = views();
            spoil(&mut views);
            let error = readiness(&views, WANTED).unwrap_err();
            assert!(error.contains(what), "`{error}` does not say `{what}`");
        }
    }

    #[test]
    fn copies_count_only_with_replication() {
        let mut views = views();
        views[1].groups[0].copies.clear();
        assert!(readiness(&views, WANTED).is_err());
        assert!(readiness(&views, Wanted { replication: false, ..WANTED }).is_ok());
    }
}
