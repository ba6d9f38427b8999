//! Where in the text of a document a path such as `services[1].group` lies: a node says what is
//! wrong by path, an operator looks for it by line.
//!
//! Guarantees: a path of which only the beginning exists gives the place of that beginning, so that
//! a setting that was left out is found where it would stand; what an alias or a merge brings in is
//! found where it is written; nothing in the text can panic, and work and memory are bounded by the
//! YAML reader's limits, which are those a node reads by.
//!
//! Does not judge: text that is no YAML has no places, and the node's own error says why.

mod lines;
mod path;
mod tree;

pub(crate) use self::lines::lines;
use self::path::{Step, steps};
use self::tree::{Node, Value};

/// A place in a text, counted from 1 as editors do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    /// Line.
    pub(crate) line: u32,
    /// Column in characters.
    pub(crate) column: u32,
}

/// The places of one document.
#[derive(Debug)]
pub(crate) struct Locator {
    root: Option<Node>,
}

impl Locator {
    /// Reads a document.
    pub(crate) fn read(text: &str) -> Self {
        Self { root: tree::read(text) }
    }

    /// The place of the deepest part of `path` that the document has; `None` when it has not even
    /// the first.
    ///
    /// For a scalar that is the value, which is what has to be changed; for a list or a map it is
    /// the key, because its first entry may stand lines below.
    pub(crate) fn find(&self, path: &str) -> Option<Place> {
        let mut node = self.root.as_ref()?;
        let mut place = None;
        for step in steps(path) {
            let Some((child, at)) = descend(node, step) else { break };
            (node, place) = (child, Some(at));
        }
        place
    }
}

/// The child of `node` one step down, and its place.
fn descend<'a>(node: &'a Node, step: Step<'_>) -> Option<(&'a Node, Place)> {
    match (step, &node.value) {
        (Step::Index(index), Value::List(items)) => {
            let item = items.get(index)?;
            // All that is inside an aliased list is used where the alias stands.
            let brought_in = node.at.elsewhere() && item.at.used == node.at.used;
            Some((item, item.at.place(brought_in)))
        }
        (Step::Key(key), Value::Map(entries)) => {
            let entry = entries.iter().find(|entry| entry.key == key)?;
            // A key is an alias only in theory: it came with an aliased map, or by `<<`.
            let brought_in = entry.key_at.elsewhere();
            let at = match entry.node.value {
                Value::Scalar => entry.node.at,
                Value::Null | Value::List(_) | Value::Map(_) => entry.key_at,
            };
            Some((&entry.node, at.place(brought_in)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
