//! The shape of a document: which maps and lists it has, and where everything stands.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::NonFiniteFloatPolicy;
use serde_saphyr::{Location, Spanned};

use super::Place;

/// Reads `text`; `None` when it is no YAML, or beyond the reader's limits.
pub(super) fn read(text: &str) -> Option<Node> {
    // Scalars are looked at by nobody here: one that is no number is no obstacle.
    let non_finite_float_policy = NonFiniteFloatPolicy::PassThrough;
    let options = serde_saphyr::options! { non_finite_float_policy: non_finite_float_policy };
    serde_saphyr::from_str_with_options(text, options).ok()
}

/// A part of a document.
#[derive(Debug)]
pub(super) struct Node {
    /// Where it stands.
    pub(super) at: Spot,
    /// What it is.
    pub(super) value: Value,
}

/// What a part of a document is.
#[derive(Debug)]
pub(super) enum Value {
    /// Nothing at all.
    Null,
    /// A string, number or the like.
    Scalar,
    /// A list.
    List(Vec<Node>),
    /// A map.
    Map(Vec<Entry>),
}

/// An entry of a map.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its key.
    pub(super) key: String,
    /// Where the key stands.
    pub(super) key_at: Spot,
    /// Its value.
    pub(super) node: Node,
}

/// Where something stands: in two places if an alias or a merge brings it in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    /// Where it has its effect: at the alias.
    pub(super) used: Place,
    /// Where its text is: at the anchor.
    pub(super) written: Place,
}

impl Spot {
    fn of<T>(spanned: &Spanned<T>) -> Self {
        Self { used: place(&spanned.referenced), written: place(&spanned.defined) }
    }

    /// Whether it has its effect elsewhere than where its text is.
    pub(super) fn elsewhere(self) -> bool {
        self.used != self.written
    }

    /// Where an operator changes it: an alias where it stands, what is inside it at its text.
    pub(super) fn place(self, brought_in: bool) -> Place {
        if brought_in { self.written } else { self.used }
    }
}

fn place(location: &Location) -> Place {
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: number(location.line()), column: number(location.column()) }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { at: Spot::of(&spanned), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Recursion ends at the reader's limit of depth.
        deserializer.deserialize_any(Shape)
    }
}

struct Shape;

impl<'de> Visitor<'de> for Shape {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Value, E> {
        Ok(Value::Scalar)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, node)) = map.next_entry::<Spanned<String>, Node>()? {
            entries.push(Entry { key_at: Spot::of(&key), key: key.value, node });
        }
        Ok(Value::Map(entries))
    }
}
