//! The steps of a path, from the root of the document down.

/// One step down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step<'a> {
    /// Into a map, by key.
    Key(&'a str),
    /// Into a list, by number.
    Index(usize),
}

/// The steps of `path`. They end at the first thing that is no step: what comes before leads to
/// the right neighbourhood, whatever a node of another version may have appended.
pub(super) fn steps(path: &str) -> Steps<'_> {
    Steps { rest: path, first: true }
}

/// Iterator over the steps of a path.
#[derive(Debug)]
pub(super) struct Steps<'a> {
    rest: &'a str,
    /// No `.` before the first key.
    first: bool,
}

impl<'a> Iterator for Steps<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        let first = std::mem::replace(&mut self.first, false);
        if let Some(rest) = self.rest.strip_prefix('[') {
            let (index, rest) = rest.split_once(']')?;
            self.rest = rest;
            return Some(Step::Index(index.parse().ok()?));
        }
        let key = if first { self.rest } else { self.rest.strip_prefix('.')? };
        let end = key.find(|c: char| !is_in_keys(c)).unwrap_or(key.len());
        let (key, rest) = key.split_at(end);
        self.rest = rest;
        (!key.is_empty()).then_some(Step::Key(key))
    }
}

/// Keys of a document are words such as `tcp_fin_s` and `apiVersion`.
fn is_in_keys(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_keys_and_numbers() {
        use Step::{Index, Key};
        let cases: [(&str, &[Step<'_>]); 12] = [
            ("settings", &[Key("settings")]),
            (
                "services[12].servers[0].port",
                &[Key("services"), Index(12), Key("servers"), Index(0), Key("port")],
            ),
            ("[3][4]", &[Index(3), Index(4)]),
            ("services[1] (web).servers[2]", &[Key("services"), Index(1)]),
            ("services[one]", &[Key("services")]),
            ("services[99999999999999999999]", &[Key("services")]),
            ("services[1", &[Key("services")]),
            ("services.", &[Key("services")]),
            (".services", &[]),
            ("a b", &[Key("a")]),
            ("é", &[]),
            ("", &[]),
        ];
        for (path, expected) in cases {
            assert_eq!(steps(path).take(10).collect::<Vec<_>>(), expected, "{path}");
        }
    }
}
