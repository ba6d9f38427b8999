//! The replicated state and how commands change it.
//!
//! Guarantees: ids grow and are never reused; a configuration is taken whole or not at all; a
//! grant replaces exactly the grant its sender saw. `apply` never panics and never fails half way.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::{
    BootId, Command, CookieSecret, Cookies, Epoch, GroupId, Initialise, NodeId, NodeSpec,
    Rejection, Response, ServerId, ServiceId,
    document::{Document, GroupSpec, SegmentSpec, ServiceSpec, Settings},
    validate,
};
use steadfast_known_bugs::{Bug, is_on};

/// Nodes of one cluster.
pub const NODES_MAX: usize = 32;
/// Ranges of local ports; more than [`NODES_MAX`], so that each member has its own.
pub const PORT_SLOTS: u16 = 64;
const _: () = assert!(NODES_MAX < PORT_SLOTS as usize);
/// Configurations kept for `get config --revision`.
pub const HISTORY_MAX: usize = 50;
/// Unspent join tokens.
pub const TOKENS_MAX: usize = 64;

/// Everything the cluster agrees on.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ClusterState {
    /// Set by the first entry.
    pub cluster: Option<Cluster>,
    /// Members by id.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Join tokens that are not spent: hash to expiry, Unix seconds.
    pub tokens: BTreeMap<String, u64>,
    /// The current configuration.
    pub config: Config,
    /// Configurations before it, oldest first.
    pub history: VecDeque<Config>,
    /// Segments of the configuration by their committed number.
    pub segments: BTreeMap<u16, SegmentSpec>,
    /// Which range of local ports each member gives to full-NAT connections; see
    /// [`Self::port_slot`].
    #[serde(default)]
    port_slots: BTreeMap<NodeId, u16>,
    /// Keys of SYN cookies, once a service has needed some.
    #[serde(default)]
    pub cookies: Option<Cookies>,
    /// VIP groups of the configuration.
    pub groups: BTreeMap<GroupId, Group>,
    /// Services of the configuration.
    pub services: BTreeMap<ServiceId, Service>,
    counters: Counters,
}

/// Identity and keys of the cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Its random number.
    pub id: u64,
    /// Raised by a restore from backup; first field of every epoch.
    pub generation: u32,
    /// Certificate of its authority.
    pub ca_cert_pem: String,
    /// Key of its authority.
    pub ca_key_pem: String,
    /// Key of the beacons' HMAC.
    pub beacon_key: Vec<u8>,
}

/// A member.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Instance name; not necessarily unique.
    pub name: String,
    /// gRPC address.
    pub api: SocketAddr,
    /// QUIC address for Raft, consent and beacons.
    pub control: SocketAddr,
    /// QUIC address for connection records.
    pub replication: SocketAddr,
    /// Whether it may claim or be granted groups.
    pub cordoned: bool,
    /// It failed again and again: it gets no groups, and claims after all others.
    #[serde(default)]
    pub held_down: bool,
}

/// One revision of the configuration.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Config {
    /// Grows by one with each change.
    pub revision: u64,
    /// The text as it was sent.
    pub text: String,
    /// Who sent it.
    pub source: String,
    /// When, in Unix seconds at the node that proposed it.
    pub unix_s: u64,
    /// The text, read.
    pub document: Document,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            revision: 0,
            text: String::new(),
            source: String::new(),
            unix_s: 0,
            document: Document::empty(),
        }
    }
}

/// A VIP group with the grant that is committed for it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// What the document says.
    pub spec: GroupSpec,
    /// Numbers of the segments its addresses lie in.
    pub segments: Vec<u16>,
    /// Who holds it.
    pub grant: Option<Grant>,
}

/// A committed grant.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Grant {
    /// The fencing token.
    pub epoch: Epoch,
    /// The run of the holder's daemon.
    pub boot: BootId,
    /// The order in which its proposer saw the nodes stand by. Who claims first is dealt out anew
    /// from all grants and members (`ownership::rank`): one that joined later stands by as well.
    pub candidates: Vec<NodeId>,
}

/// A service with committed ids.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// Id of its group.
    pub group: GroupId,
    /// What the document says; its server list is in the order of `servers`.
    pub spec: ServiceSpec,
    /// Ids of its servers, parallel to `spec.servers`.
    pub servers: Vec<ServerId>,
    /// The last weight above 0 of each, parallel too; 0: it never had one. A hash table of a node
    /// that starts must be that of a node which saw the weight go.
    #[serde(default)]
    pub last_weights: Vec<u32>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Counters {
    segment: u16,
    node: u32,
    group: u32,
    service: u32,
    server: u32,
}

/// The range that a node would have if no other had it: ids are counted up from 1.
fn port_slot_of(node: NodeId) -> u16 {
    (node.0.saturating_sub(1) % u32::from(PORT_SLOTS)) as u16
}

/// Id and last weight of a service's servers.
type KnownServers = BTreeMap<(IpAddr, Option<u16>), (ServerId, u32)>;

impl ClusterState {
    /// Applies the entry at `index` of the log.
    pub fn apply(&mut self, index: u64, command: Command) -> Response {
        let result = match command {
            Command::Initialise(start) => self.initialise(*start),
            Command::CreateToken { hash, expires_unix_s } => self.token(hash, expires_unix_s),
            Command::AdmitNode { token_hash, now_unix_s, node } => {
                self.admit(&token_hash, now_unix_s, node)
            }
            Command::RemoveNode { node } => self.remove(node),
            Command::Cordon { node, cordoned } => match self.nodes.get_mut(&node) {
                Some(entry) => {
                    entry.cordoned = cordoned;
                    // Who lets it go trusts it.
                    entry.held_down &= cordoned;
                    Ok(Response::Done)
                }
                None => Err(Rejection::NoSuchNode(node)),
            },
            Command::HoldDown { node, held } => match self.nodes.get_mut(&node) {
                Some(entry) => {
                    entry.held_down = held;
                    Ok(Response::Done)
                }
                None => Err(Rejection::NoSuchNode(node)),
            },
            Command::Apply { text, expected_revision, source, now_unix_s } => {
                self.configure(text, expected_revision, source, now_unix_s)
            }
            Command::Grant { group, expected, holder, boot, candidates } => {
                self.grant(index, group, expected, holder, boot, candidates)
            }
            Command::RotateCookieKey { slot, secret } => self.rotate(slot, secret),
        };
        result.unwrap_or_else(Response::Rejected)
    }

    /// What `apply` would say to this document, without changing anything.
    ///
    /// # Errors
    /// Every problem, each with its place.
    pub fn check(text: &str) -> Result<Document, Vec<String>> {
        let document = Document::parse(text).map_err(|e| vec![e.to_string()])?;
        let problems = validate(&document);
        if problems.is_empty() {
            Ok(document)
        } else {
            Err(problems.iter().map(ToString::to_string).collect())
        }
    }

    /// Whether a node that shows the token with this hash would be admitted, without changing
    /// anything.
    ///
    /// # Errors
    /// Why not.
    pub fn check_admission(&self, token_hash: &str, now_unix_s: u64) -> Result<(), Rejection> {
        if self.nodes.len() >= NODES_MAX {
            return Err(Rejection::TooManyNodes(NODES_MAX));
        }
        let valid = self.tokens.get(token_hash).is_some_and(|expiry| now_unix_s < *expiry);
        if valid { Ok(()) } else { Err(Rejection::Token) }
    }

    /// Settings of the current configuration.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.config.document.settings
    }

    /// A node by id or, where only one bears it, by name.
    ///
    /// # Errors
    /// Says which nodes there are.
    pub fn find_node(&self, reference: &str) -> Result<NodeId, String> {
        let named: Vec<NodeId> =
            self.nodes.values().filter(|n| n.name == reference).map(|n| n.id).collect();
        match (named.as_slice(), reference.parse().map(NodeId)) {
            ([one], _) => Ok(*one),
            ([], Ok(id)) if self.nodes.contains_key(&id) => Ok(id),
            ([], _) => {
                let known: Vec<String> =
                    self.nodes.values().map(|n| format!("{} ({})", n.name, n.id)).collect();
                Err(format!("there is no node `{reference}`; known: {}", known.join(", ")))
            }
            (several, _) => {
                let ids: Vec<String> = several.iter().map(ToString::to_string).collect();
                Err(format!(
                    "{} nodes are called `{reference}`: name one by id: {}",
                    several.len(),
                    ids.join(", ")
                ))
            }
        }
    }

    /// A group by name.
    #[must_use]
    pub fn find_group(&self, name: &str) -> Option<&Group> {
        self.groups.values().find(|g| g.spec.name == name)
    }

    /// The highest id that any server was given: one that is not among the services and has no higher
    /// id was removed.
    #[must_use]
    pub fn servers_given(&self) -> ServerId {
        ServerId(self.counters.server)
    }

    /// Which range of local ports a member gives to full-NAT connections: its own, as long as it is a
    /// member. That of a removed one is given again as late as can be: what it opened may live on.
    #[must_use]
    pub fn port_slot(&self, node: NodeId) -> Option<u16> {
        let known = self.port_slots.get(&node).copied();
        self.nodes.contains_key(&node).then(|| known.unwrap_or_else(|| port_slot_of(node)))
    }

    fn free_port_slot(&self, node: NodeId) -> u16 {
        let taken: BTreeSet<u16> = self.nodes.keys().filter_map(|n| self.port_slot(*n)).collect();
        let first = port_slot_of(node);
        let all = (0..PORT_SLOTS).map(|n| (first + n) % PORT_SLOTS);
        all.into_iter().find(|slot| !taken.contains(slot)).unwrap_or(first)
    }

    fn initialise(&mut self, start: Initialise) -> Result<Response, Rejection> {
        if self.cluster.is_some() {
            return Err(Rejection::AlreadyInitialised);
        }
        self.cluster = Some(Cluster {
            name: start.name,
            id: start.cluster,
            generation: 1,
            ca_cert_pem: start.ca_cert_pem,
            ca_key_pem: start.ca_key_pem,
            beacon_key: start.beacon_key,
        });
        Ok(Response::Admitted(self.add_node(start.node)))
    }

    fn token(&mut self, hash: String, expires_unix_s: u64) -> Result<Response, Rejection> {
        if self.cluster.is_none() {
            return Err(Rejection::NotInitialised);
        }
        while self.tokens.len() >= TOKENS_MAX {
            let oldest = self.tokens.iter().min_by_key(|(_, expiry)| **expiry);
            let Some(hash) = oldest.map(|(hash, _)| hash.clone()) else { break };
            self.tokens.remove(&hash);
        }
        self.tokens.insert(hash, expires_unix_s);
        Ok(Response::Done)
    }

    fn admit(&mut self, hash: &str, now: u64, node: NodeSpec) -> Result<Response, Rejection> {
        self.check_admission(hash, now)?;
        self.tokens.remove(hash);
        Ok(Response::Admitted(self.add_node(node)))
    }

    fn add_node(&mut self, spec: NodeSpec) -> NodeId {
        self.counters.node += 1;
        let id = NodeId(self.counters.node);
        let slot = self.free_port_slot(id);
        self.port_slots.insert(id, slot);
        let NodeSpec { name, api, control, replication } = spec;
        let (cordoned, held_down) = (false, false);
        let node = Node { id, name, api, control, replication, cordoned, held_down };
        self.nodes.insert(id, node);
        id
    }

    fn remove(&mut self, node: NodeId) -> Result<Response, Rejection> {
        self.nodes.remove(&node).ok_or(Rejection::NoSuchNode(node))?;
        self.port_slots.remove(&node);
        for group in self.groups.values_mut() {
            if let Some(grant) = &mut group.grant {
                grant.candidates.retain(|c| *c != node);
            }
        }
        Ok(Response::Done)
    }

    fn configure(
        &mut self,
        text: String,
        expected: Option<u64>,
        source: String,
        unix_s: u64,
    ) -> Result<Response, Rejection> {
        let current = self.config.revision;
        if let Some(expected) = expected
            && expected != current
        {
            return Err(Rejection::Revision { expected, current });
        }
        let document = Self::check(&text).map_err(Rejection::Document)?;
        if document == self.config.document && current > 0 {
            return Ok(Response::Applied { revision: current, changed: false });
        }
        self.resegment(&document);
        self.regroup(&document);
        self.reserve(&document);
        let config = Config { revision: current + 1, text, source, unix_s, document };
        let before = std::mem::replace(&mut self.config, config);
        self.history.push_back(before);
        while self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
        Ok(Response::Applied { revision: current + 1, changed: true })
    }

    /// Segments keep their number as long as their name stays.
    fn resegment(&mut self, document: &Document) {
        let before: BTreeMap<String, u16> =
            self.segments.iter().map(|(number, s)| (s.name.clone(), *number)).collect();
        self.segments.clear();
        for spec in &document.segments {
            let number = before.get(&spec.name).copied().unwrap_or_else(|| {
                self.counters.segment = self.counters.segment.saturating_add(1);
                self.counters.segment
            });
            self.segments.insert(number, spec.clone());
        }
    }

    /// Groups keep their id and their grant as long as their name stays.
    fn regroup(&mut self, document: &Document) {
        let mut before: BTreeMap<String, Group> = std::mem::take(&mut self.groups)
            .into_values()
            .map(|g| (g.spec.name.clone(), g))
            .collect();
        for spec in &document.groups {
            let lies_in = |a: &IpAddr| document.segment_of(*a).map(|s| s.name.as_str());
            let names: BTreeSet<&str> = spec.all_addresses().filter_map(lies_in).collect();
            let numbers = self.segments.iter().filter(|(_, s)| names.contains(s.name.as_str()));
            let segments: Vec<u16> = numbers.map(|(number, _)| *number).collect();
            let (id, grant) = match before.remove(&spec.name) {
                Some(group) => (group.id, group.grant),
                None => {
                    self.counters.group += 1;
                    (GroupId(self.counters.group), None)
                }
            };
            self.groups.insert(id, Group { id, spec: spec.clone(), segments, grant });
        }
    }

    /// Services keep their id by name, servers theirs by service, address and port.
    fn reserve(&mut self, document: &Document) {
        let groups: BTreeMap<String, GroupId> =
            self.groups.values().map(|g| (g.spec.name.clone(), g.id)).collect();
        let mut before: BTreeMap<String, Service> = std::mem::take(&mut self.services)
            .into_values()
            .map(|s| (s.spec.name.clone(), s))
            .collect();
        for spec in &document.services {
            let Some(group) = groups.get(&spec.group).copied() else { continue };
            let (id, old): (ServiceId, KnownServers) = match before.remove(&spec.name) {
                Some(s) => {
                    let known = s.spec.servers.iter().enumerate().zip(&s.servers);
                    let known = known.map(|((i, server), id)| {
                        // A state of an older version has none.
                        let last = s.last_weights.get(i).copied().unwrap_or(server.weight);
                        ((server.address, s.spec.server_port(server)), (*id, last))
                    });
                    (s.id, known.collect())
                }
                None => {
                    self.counters.service += 1;
                    (ServiceId(self.counters.service), BTreeMap::new())
                }
            };
            let mut servers = Vec::with_capacity(spec.servers.len());
            let mut last_weights = Vec::with_capacity(spec.servers.len());
            for server in &spec.servers {
                let known = old.get(&(server.address, spec.server_port(server))).copied();
                let (server_id, last_weight) = known.unwrap_or_else(|| {
                    self.counters.server += 1;
                    (ServerId(self.counters.server), 0)
                });
                servers.push(server_id);
                last_weights.push(if server.weight > 0 { server.weight } else { last_weight });
            }
            let spec = spec.clone();
            self.services.insert(id, Service { id, group, spec, servers, last_weights });
        }
    }

    fn rotate(&mut self, slot: u64, secret: CookieSecret) -> Result<Response, Rejection> {
        if self.cluster.is_none() {
            return Err(Rejection::NotInitialised);
        }
        let current = self.cookies.map_or(0, |cookies| cookies.slot);
        let next = Cookies::next(self.cookies, slot, secret);
        self.cookies = Some(next.ok_or(Rejection::CookieSlot { current })?);
        Ok(Response::Done)
    }

    fn grant(
        &mut self,
        index: u64,
        group: GroupId,
        expected: Option<Epoch>,
        holder: NodeId,
        boot: BootId,
        candidates: Vec<NodeId>,
    ) -> Result<Response, Rejection> {
        let generation =
            self.cluster.as_ref().map(|c| c.generation).ok_or(Rejection::NotInitialised)?;
        if !self.nodes.contains_key(&holder) {
            return Err(Rejection::NoSuchNode(holder));
        }
        let known = &self.nodes;
        let entry = self.groups.get_mut(&group).ok_or(Rejection::NoSuchGroup(group))?;
        let current = entry.grant.as_ref().map(|g| g.epoch);
        // A claim builds on a grant and shares its index, so it passes this comparison: what the
        // sender must have seen is the grant.
        let base = |e: Epoch| (e.generation, e.grant_index);
        if expected.map(base) != current.map(base) && !is_on(Bug::CompareAndSetIgnored) {
            return Err(Rejection::EpochConflict { current });
        }
        let epoch = Epoch { generation, grant_index: index, claim: 0, node: holder };
        let candidates = candidates.into_iter().filter(|c| known.contains_key(c)).collect();
        entry.grant = Some(Grant { epoch, boot, candidates });
        Ok(Response::Granted(epoch))
    }
}

#[cfg(test)]
mod tests;
