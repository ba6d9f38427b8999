//! Which nodes keep copies of a group's connections.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The only word that may stand here.
const ALL: &str = "all";

/// Who keeps copies of a group's connections beside its holder.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub enum SyncGroup {
    /// Every node.
    #[default]
    All,
    /// So many nodes. Which ones follows from the members and the group, see [`crate::sync_group`].
    Count(u32),
    /// The nodes of these names.
    Named(Vec<String>),
}

impl SyncGroup {
    /// Every node keeps copies.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::All
    }
}

impl fmt::Display for SyncGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str(ALL),
            Self::Count(count) => write!(f, "{count}"),
            Self::Named(names) => f.write_str(&names.join(", ")),
        }
    }
}

impl Serialize for SyncGroup {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str(ALL),
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for SyncGroup {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl<'de> de::Visitor<'de> for Visitor {
    type Value = SyncGroup;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`all`, a number of nodes, or a list of names of nodes")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<SyncGroup, E> {
        match word {
            ALL => Ok(SyncGroup::All),
            _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
        }
    }

    fn visit_u64<E: de::Error>(self, count: u64) -> Result<SyncGroup, E> {
        let wrong = || E::invalid_value(de::Unexpected::Unsigned(count), &self);
        u32::try_from(count).map(SyncGroup::Count).map_err(|_| wrong())
    }

    fn visit_i64<E: de::Error>(self, count: i64) -> Result<SyncGroup, E> {
        let wrong = || E::invalid_value(de::Unexpected::Signed(count), &self);
        u32::try_from(count).map(SyncGroup::Count).map_err(|_| wrong())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut names: A) -> Result<SyncGroup, A::Error> {
        let mut found = Vec::new();
        while let Some(name) = names.next_element()? {
            found.push(name);
        }
        Ok(SyncGroup::Named(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    fn of(text: &str) -> Result<SyncGroup, String> {
        let text = format!(
            "{{apiVersion: steadfast/v1, groups: [{{name: a, addresses: [], sync_group: {text}}}]}}"
        );
        let document = Document::parse(&text).map_err(|error| error.to_string())?;
        Ok(document.groups[0].sync_group.clone())
    }

    #[test]
    fn it_is_all_or_a_number_or_names() {
        let named = SyncGroup::Named(vec!["lb1".to_owned(), "lb2".to_owned()]);
        for (text, expected) in
            [("all", SyncGroup::All), ("2", SyncGroup::Count(2)), ("[lb1, lb2]", named)]
        {
            let read = of(text).unwrap();
            assert_eq!(read, expected);
            let json = serde_json::to_string(&read).unwrap();
            assert_eq!(serde_json::from_str::<SyncGroup>(&json).unwrap(), expected, "{json}");
        }
        for wrong in ["some", "-1", "1.5", "{a: b}", "99999999999", "[1, [2]]"] {
            let error = of(wrong).unwrap_err();
            assert!(error.contains("line 1"), "{wrong}: {error}");
        }
    }
}
