//! What is wrong with a document, as an operator reads it.
//!
//! Guarantees: one line of bounded length, whatever the document says; the place is a path of keys
//! and numbers that the document itself follows, so that whoever has the text finds the line.
//! Does not know lines: they are not part of the replicated state.

use std::fmt;

/// Problems that are reported of one document; the last one counts those left out.
pub const PROBLEMS_MAX: usize = 1_000;

/// Longest name of a segment, group or service.
pub(crate) const NAME_LENGTH_MAX: usize = 63;

/// Things that may stand instead of a wrong one; the operator knows where the others are.
const CHOICES_MAX: usize = 5;

/// One thing wrong with a document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Where, as a path such as `services[0].servers[2].port`; empty: the document as a whole.
    pub place: String,
    /// What is wrong there.
    pub what: String,
    /// What to write instead.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The API takes the path off again at the first `: `, which no path has.
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        write!(f, "{}; {}", self.what, self.fix)
    }
}

/// The problems of one document, up to [`PROBLEMS_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Problems {
    kept: Vec<Problem>,
    left_out: usize,
}

impl Problems {
    /// Notes a problem, or counts it when there are too many.
    pub(crate) fn add(
        &mut self,
        place: impl Into<String>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        if self.kept.len() + 1 < PROBLEMS_MAX {
            let (place, what, fix) = (place.into(), what.into(), fix.into());
            self.kept.push(Problem { place, what, fix });
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    /// All of them; the last one counts those left out.
    pub(crate) fn into_vec(mut self) -> Vec<Problem> {
        if self.left_out > 0 {
            self.kept.push(Problem {
                place: String::new(),
                what: format!("{} more are not listed", self.left_out),
                fix: "correct these and try again".to_owned(),
            });
        }
        self.kept
    }
}

/// Whether `byte` may be part of a name.
pub(crate) fn in_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// What the document gives as a name, fit for a message: quoted, cut, and without what no name
/// contains.
pub(crate) fn shown(name: &str) -> String {
    let fit = |c: char| match u8::try_from(c) {
        Ok(byte) if in_names(byte) => c,
        _ => '?',
    };
    let cut = if name.chars().nth(NAME_LENGTH_MAX).is_some() { "..." } else { "" };
    let name: String = name.chars().take(NAME_LENGTH_MAX).map(fit).collect();
    format!("`{name}{cut}`")
}

/// `write KIND A or B, or ADD`; only `ADD` when there is nothing to choose from.
pub(crate) fn choose_or(
    kind: &str,
    choices: impl IntoIterator<Item = String>,
    add: &str,
) -> String {
    let mut choices = choices.into_iter();
    let mut named: Vec<String> = choices.by_ref().take(CHOICES_MAX).collect();
    if named.is_empty() {
        return add.to_owned();
    }
    if choices.next().is_some() {
        named.push("another".to_owned());
    }
    format!("write {kind}{}, or {add}", named.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_on_one_short_line() {
        let cases = [
            ("web", "`web`"),
            ("a: b\nline 7", "`a??b?line?7`"),
            ("\u{1b}[31mé", "`??31m?`"),
            ("", "``"),
        ];
        for (name, expected) in cases {
            assert_eq!(shown(name), expected);
        }
        assert_eq!(shown(&"x".repeat(1 << 20)).len(), NAME_LENGTH_MAX + "`...`".len());
    }

    #[test]
    fn choices_are_few() {
        let names = |n: usize| (0..n).map(|i| i.to_string());
        assert_eq!(choose_or("", names(0), "add it"), "add it");
        assert_eq!(choose_or("", names(1), "add it"), "write 0, or add it");
        assert_eq!(choose_or("one of ", names(2), "add it"), "write one of 0 or 1, or add it");
        let many = choose_or("", names(9), "add it");
        assert_eq!(many, "write 0 or 1 or 2 or 3 or 4 or another, or add it");
    }

    #[test]
    fn beyond_the_bound_problems_are_counted() {
        let mut problems = Problems::default();
        for i in 0..PROBLEMS_MAX + 5 {
            problems.add(format!("services[{i}]"), "is wrong", "take it out");
        }
        let listed = problems.into_vec();
        assert_eq!(listed.len(), PROBLEMS_MAX);
        let last = listed.last().map(ToString::to_string);
        assert_eq!(last.as_deref(), Some("6 more are not listed; correct these and try again"));
    }
}
