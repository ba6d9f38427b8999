use super::*;

const DOCUMENT: &str = "\
# Three mistakes
services:
  - name: a
    group: wbe
    port: 0
settings: {beacon: {silent_after: 1}}
";

fn wrong(line: u32, path: &str, what: &str) -> DocumentError {
    let (path, what) = (path.to_owned(), what.to_owned());
    DocumentError { source: "c.yaml".to_owned(), line, path, what, ..DocumentError::default() }
}

fn rendered(document: &str, errors: Vec<DocumentError>) -> String {
    let failure = Failure::new(Exit::Refused, "the document was refused");
    let failure = Failure { document_errors: errors, ..failure }.in_document(document.to_owned());
    failure.render(Paint::new(false))
}

#[test]
fn errors_told_by_path_are_shown_by_line_and_in_order() {
    let text = rendered(
        DOCUMENT,
        vec![
            wrong(0, "", "3 more are not listed; correct these"),
            wrong(0, "settings.beacon.silent_after", "1 is out of range; write 2 to 20"),
            wrong(0, "services[0].port", "0 is no port; write 1 to 65535"),
            wrong(0, "services[0].group", "there is no `wbe`; write `web`"),
        ],
    );
    let wanted = "\
error: c.yaml:4:12: services[0].group: there is no `wbe`; write `web`
    4 |     group: wbe
      |            ^
error: c.yaml:5:11: services[0].port: 0 is no port; write 1 to 65535
    5 |     port: 0
      |           ^
error: c.yaml:6:35: settings.beacon.silent_after: 1 is out of range; write 2 to 20
    6 | settings: {beacon: {silent_after: 1}}
      |                                   ^
error: c.yaml: 3 more are not listed; correct these
error: the document was refused
";
    assert_eq!(text, wanted);
}

/// The node read the very text; its line counts also where there is a path.
#[test]
fn a_line_the_node_gives_stays() {
    let text = rendered(DOCUMENT, vec![wrong(1, "services[0].port", "no")]);
    assert!(text.starts_with("error: c.yaml:1: services[0].port: no\n    1 | # Three"), "{text}");
}

#[test]
fn errors_without_a_place_are_shown_without() {
    for document in [DOCUMENT, "", "a: [", "\u{0}"] {
        let text = rendered(document, vec![wrong(0, "nowhere", "no"), wrong(9_999, "", "no")]);
        let wanted = "\
error: c.yaml:9999: no
error: c.yaml: nowhere: no
error: the document was refused
";
        assert_eq!(text, wanted);
    }
}

/// Documents that programs write are often one line.
#[test]
fn of_a_long_line_only_the_part_around_the_error_is_shown() {
    let servers = "{\"port\": 1}, ".repeat(1_000);
    let document = format!("{{\"servers\": [{servers}{{\"port\": 70000}}, {servers}]}}");
    let text = rendered(&document, vec![wrong(0, "servers[1000].port", "no")]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].chars().count() <= EXCERPT_CHARS_MAX + "    1 | ".len(), "{text}");
    let mark = lines[2].chars().position(|c| c == '^').unwrap();
    assert!(lines[1][mark..].starts_with("70000}, "), "{text}");
}
