//! What `clusterctl -o json` prints: the messages of `proto/steadfast/v1/control.proto`, as far as
//! the lab reads them.
//!
//! Reads leniently: unknown fields are ignored, missing ones are empty, numbers may be strings
//! (as protobuf's JSON writes 64 bits) and enumerations may be words or numbers.

use std::{cmp::Ordering, fmt};

use serde::{Deserialize, Deserializer, Serialize, de};

/// `StatusReply`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The node that answers.
    pub serving_node: Option<NodeRef>,
    /// The Raft leader.
    pub leader: Option<NodeRef>,
    /// Whether anything can be decided.
    pub has_quorum: bool,
    /// Applied configuration.
    #[serde(deserialize_with = "number")]
    pub config_revision: u64,
    /// Members.
    pub nodes: Vec<Node>,
    /// VIP groups.
    pub groups: Vec<Group>,
    /// Services.
    pub services: Vec<Service>,
    /// The data plane of the answering node.
    pub local: Option<Local>,
}

impl Status {
    /// The only group of the lab.
    #[must_use]
    pub fn group(&self) -> Option<&Group> {
        self.groups.first()
    }

    /// Packets forwarded by the answering node since its start.
    #[must_use]
    pub fn forwarded(&self) -> u64 {
        self.local.as_ref().map_or(0, |l| l.forwarded_packets)
    }
}

/// `NodeRef`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct NodeRef {
    /// Committed id.
    #[serde(deserialize_with = "number")]
    pub id: u64,
    /// Name.
    pub name: String,
}

/// `Node`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Committed id.
    #[serde(deserialize_with = "number")]
    pub id: u64,
    /// Name.
    pub name: String,
    /// Voter or learner.
    pub role: Word,
    /// It may not claim.
    pub cordoned: bool,
    /// It failed again and again, and claims last.
    pub held_down: bool,
    /// It is heard.
    pub alive: bool,
}

/// `Group`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Who holds it.
    pub holder: Option<NodeRef>,
    /// Under which epoch.
    pub epoch: Option<Epoch>,
    /// The answering node answers for its addresses.
    pub announcing_here: bool,
    /// How good each node's copy is.
    pub copies: Vec<Copy>,
}

/// `GroupCopy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Copy {
    /// Whose.
    pub node: Option<NodeRef>,
    /// How good.
    pub state: Word,
}

/// `Service`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Name.
    pub name: String,
    /// Real servers.
    pub servers: Vec<Server>,
}

/// `Server`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Address.
    pub address: String,
    /// The majority sees it up.
    pub up: bool,
}

/// `LocalStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Local {
    /// Packets forwarded, both directions.
    #[serde(deserialize_with = "number")]
    pub forwarded_packets: u64,
    /// Its workers.
    pub workers: Vec<Worker>,
}

/// `Worker`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// Queue.
    #[serde(deserialize_with = "number")]
    pub queue: u64,
    /// Client to server.
    #[serde(deserialize_with = "number")]
    pub forwarded_in: u64,
    /// Server to client.
    #[serde(deserialize_with = "number")]
    pub forwarded_out: u64,
}

/// `Epoch`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Epoch {
    /// Generation of the cluster.
    #[serde(deserialize_with = "number")]
    pub generation: u64,
    /// Log index of the grant.
    #[serde(deserialize_with = "number")]
    pub grant_index: u64,
    /// Claims on it.
    #[serde(deserialize_with = "number")]
    pub claim: u64,
    /// The node that holds.
    #[serde(deserialize_with = "number")]
    pub node: u64,
}

impl Epoch {
    fn key(&self) -> (u64, u64, u64, u64) {
        (self.generation, self.grant_index, self.claim, self.node)
    }
}

impl Ord for Epoch {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Epoch {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (generation, grant, claim, node) = self.key();
        write!(f, "{generation}.{grant}.{claim}@{node}")
    }
}

/// `InitReply`, `JoinReply`, `CreateTokenReply`: what the lab needs of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Token {
    /// The token.
    pub token: String,
}

/// `ListConnectionsReply`; several of them may follow each other.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Connections {
    /// This batch.
    pub connections: Vec<Connection>,
}

/// `Connection`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// TCP or UDP.
    pub protocol: Word,
    /// Client.
    pub client: String,
    /// Virtual address.
    pub vip: String,
    /// Real server.
    pub server: String,
    /// Queue of the worker that carried its last packet, client to server.
    pub in_queue: Option<u32>,
    /// Queue of the worker that carried its last packet, server to client.
    pub out_queue: Option<u32>,
}

/// Every connection in what `clusterctl -o json conn list` printed.
///
/// # Errors
/// When it is not a sequence of such replies, or of arrays of connections.
pub fn connections(text: &str) -> Result<Vec<Connection>, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Batch {
        List(Vec<Connection>),
        Reply(Connections),
    }
    let mut all = Vec::new();
    for batch in serde_json::Deserializer::from_str(text).into_iter::<Batch>() {
        match batch? {
            Batch::List(list) => all.extend(list),
            Batch::Reply(reply) => all.extend(reply.connections),
        }
    }
    Ok(all)
}

/// A value of an enumeration: `tcp`, `PROTOCOL_TCP` or `1`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Word(String);

impl Word {
    /// Whether it is the value called `name` with this number.
    #[must_use]
    pub fn is(&self, name: &str, number: u64) -> bool {
        self.0 == name || self.0.ends_with(&format!("_{name}")) || self.0 == number.to_string()
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(s) => Ok(Self(s.to_lowercase())),
            serde_json::Value::Number(n) => Ok(Self(n.to_string())),
            serde_json::Value::Null => Ok(Self::default()),
            other => Err(de::Error::custom(format!("neither a word nor a number: {other}"))),
        }
    }
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Number(n) => {
            n.as_u64().ok_or_else(|| de::Error::custom(format!("not a whole number: {n}")))
        }
        serde_json::Value::String(s) => s.parse().map_err(de::Error::custom),
        serde_json::Value::Null => Ok(0),
        other => Err(de::Error::custom(format!("not a number: {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_are_read_in_both_spellings() {
        let text = r#"{"serving_node":{"id":1,"name":"n1"},"config_revision":"3","new_field":[1],
            "groups":[{"name":"web","holder":{"id":2},"epoch":{"generation":1,"grant_index":"12",
            "claim":0,"node":2,"text":"1.12.0@2"},"copies":[{"node":{"id":1},
            "state":"COPY_STATE_COMPLETE"},{"node":{"id":2},"state":"holder"},
            {"node":{"id":3},"state":4}]}],"local":{"forwarded_packets":"77"}}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!((status.config_revision, status.forwarded()), (3, 77));
        let group = status.group().unwrap();
        assert!(group.copies[0].state.is("complete", 2));
        assert!(group.copies[1].state.is("holder", 1));
        assert!(group.copies[2].state.is("empty", 4) && !group.copies[2].state.is("complete", 2));
        assert_eq!(group.epoch.as_ref().unwrap().to_string(), "1.12.0@2");
    }

    #[test]
    fn epochs_compare_field_by_field() {
        let epoch =
            |generation, grant_index, claim, node| Epoch { generation, grant_index, claim, node };
        let ascending =
            [epoch(1, 9, 9, 9), epoch(2, 1, 0, 1), epoch(2, 1, 1, 1), epoch(2, 1, 1, 2)];
        assert!(ascending.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn connection_lists_come_as_one_reply_several_or_an_array() {
        let one = r#"{"client":"198.18.0.200:40000","protocol":"tcp"}"#;
        for text in [
            format!(r#"{{"total":"2","connections":[{one},{one}]}}"#),
            format!(r#"{{"total":2,"connections":[{one}]}}{{"total":2,"connections":[{one}]}}"#),
            format!("[{one},{one}]"),
        ] {
            assert_eq!(connections(&text).unwrap().len(), 2, "{text}");
        }
        assert!(connections("").unwrap().is_empty());
        assert!(connections("error").is_err());
    }
}
