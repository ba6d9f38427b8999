//! The lines of a document, as the YAML reader counts them.

/// Line by line, without the breaks. YAML 1.2 section 5.4: a carriage return alone breaks a line, too.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (line, tail) = rest.split_once(['\r', '\n']).unwrap_or((rest, ""));
        let is_pair = rest.get(line.len()..).is_some_and(|tail| tail.starts_with("\r\n"));
        rest = if is_pair { tail.strip_prefix('\n').unwrap_or(tail) } else { tail };
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn each_kind_of_break_ends_a_line() {
        for (text, expected) in [
            ("", &[][..]),
            ("a", &["a"]),
            ("a\nb\n", &["a", "b"]),
            ("a\r\nb", &["a", "b"]),
            ("a\rb\r\rc", &["a", "b", "", "c"]),
            ("\n\r\n\r", &["", "", ""]),
        ] {
            assert_eq!(lines(text).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }
}
