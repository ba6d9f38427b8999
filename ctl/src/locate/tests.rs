use std::fmt::Write as _;

use steadfast_model::{document::Document, validate};

use super::*;

/// `line:column` of a path; empty when it has none.
fn at(text: &str, path: &str) -> String {
    Locator::read(text)
        .find(path)
        .map_or_else(String::new, |place| format!("{}:{}", place.line, place.column))
}

fn check(text: &str, cases: &[(&str, &str)]) {
    for (path, expected) in cases {
        assert_eq!(at(text, path), *expected, "{path} in\n{text}");
    }
}

#[test]
fn maps_and_lists_in_block_style() {
    let text = "\
# A comment: with a colon
a: 1   # and one behind
b:
  - n: x

    p: 2
  -
    n: 'y'
  # between
  - - 7
    - 8
";
    check(
        text,
        &[
            ("a", "2:4"),
            // The key, not the first entry below it.
            ("b", "3:1"),
            ("b[0]", "4:5"),
            ("b[0].n", "4:8"),
            ("b[0].p", "6:8"),
            ("b[1]", "8:5"),
            ("b[1].n", "8:8"),
            ("b[2][1]", "11:7"),
        ],
    );
}

#[test]
fn maps_and_lists_in_flow_style() {
    let text = "a: [1,\n  {b: 2, \"c\": [3,\n 4]}]\n";
    check(
        text,
        &[
            ("a", "1:1"),
            ("a[0]", "1:5"),
            ("a[1]", "2:3"),
            ("a[1].b", "2:7"),
            ("a[1].c", "2:10"),
            ("a[1].c[1]", "3:2"),
        ],
    );
    // JSON is YAML.
    check("{\"a\": [0, {\"b\": true}]}", &[("a", "1:2"), ("a[1].b", "1:17")]);
}

#[test]
fn strings_over_several_lines() {
    let text = "a: |\n  b: 9\n  - x\nb: >-\n  folded\n  twice\nc: \"one\n  b: two\"\nd: 4\n";
    check(text, &[("a", "2:3"), ("b", "5:3"), ("c", "7:4"), ("d", "9:4"), ("a.b", "2:3")]);
}

#[test]
fn other_ends_of_lines_and_other_letters() {
    check("\u{feff}a: 1\r\nb:\r\n- 1\r\n", &[("a", "1:4"), ("b[0]", "3:3")]);
    // Characters are counted, not bytes.
    check("x: {n: \"é\u{1f511}\", b: 1}", &[("x.b", "1:17")]);
}

/// The alias where it stands, what is inside it where it is written.
#[test]
fn aliases_and_merges() {
    let text = "\
base: &base {port: 1, list: [5, 6]}
pool: &pool
  - {port: 2}
address: &address 192.0.2.1
u:
  servers: *pool
  address: *address
  deep: {servers: *pool}
v:
  <<: *base
  name: v
w: [*address, *pool]
";
    check(
        text,
        &[
            ("u.servers", "6:3"),
            ("u.servers[0]", "3:5"),
            ("u.servers[0].port", "3:12"),
            ("u.address", "7:12"),
            ("u.deep.servers[0].port", "3:12"),
            ("v.name", "11:9"),
            ("v.port", "1:20"),
            ("v.list", "1:23"),
            ("v.list[1]", "1:33"),
            ("w[0]", "12:5"),
            ("w[1]", "12:15"),
            ("w[1][0].port", "3:12"),
        ],
    );
}

#[test]
fn a_path_that_ends_nowhere_gives_its_beginning() {
    let text = "a:\n  b:\n    - {c: 1}\nempty:\n  list: []\n  nothing:\n";
    check(
        text,
        &[
            ("a.b[0].d", "3:7"),
            ("a.b[0].c.d.e", "3:11"),
            ("a.b[1].c", "2:3"),
            ("a.x", "1:1"),
            // A list is no map.
            ("a[0]", "1:1"),
            ("a.b.c", "2:3"),
            ("empty.list[0]", "5:3"),
            ("empty.nothing", "6:3"),
            ("empty.nothing.x", "6:3"),
            ("a.b[0] (name).c", "3:7"),
        ],
    );
}

#[test]
fn a_path_without_a_beginning_has_no_place() {
    for path in ["x", "x.y", "[0]", "", "the document cannot be read"] {
        assert_eq!(at("a: 1\n", path), "", "{path}");
    }
}

/// Entries are told apart by number, not by name.
#[test]
fn equal_names_are_told_apart() {
    let text = "services:\n  - name: web\n    port: 80\n  - name: web\n    port: 80\n";
    check(text, &[("services[0].name", "2:11"), ("services[1].name", "4:11")]);
    check(text, &[("services[1].port", "5:11")]);
}

/// The reader guesses types; a name may look like anything.
#[test]
fn scalars_of_any_kind_are_scalars() {
    for value in
        ["y", ".nan", "-.inf", "1e999", "0x1F", "340282366920938463463374607431768211455", "1_000"]
    {
        assert_eq!(at(&format!("a: 1\nname: {value}\n"), "name"), "2:7", "{value}");
    }
    assert_eq!(at("a: !!binary aGk=\nb: !own 1\n", "b"), "2:9");
}

#[test]
fn what_is_no_document_has_no_places() {
    let deep = "[".repeat(100_000);
    let nested: String = (0..2_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    let wide = "a: [".to_owned() + &"1,".repeat(1_000_000) + "]";
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..20 {
        let before = i - 1;
        let _ = writeln!(bomb, "a{i}: &a{i} [{}]", format!("*a{before}, ").repeat(10));
    }
    let texts = [
        "a: [1",
        "a: 1\na: 2\n",
        "a: 1\n---\na: 2\n",
        "a: &a [*a]",
        "a: *nobody",
        "a: !!float x",
        "a: \u{0}",
        &deep,
        &nested,
        &wide,
        &bomb,
    ];
    for text in texts {
        let start: String = text.chars().take(40).collect();
        assert_eq!(at(text, "a"), "", "{start}");
    }
    check("", &[("a", "")]);
    check("# only this\n", &[("a", "")]);
}

/// Every truncation of a document, and every character taken out of it: no panic, and no place
/// beyond the text.
#[test]
fn damaged_documents_are_survived() {
    let text = WRONG;
    let ends = text.char_indices().map(|(i, _)| i);
    for end in ends.step_by(3) {
        let (before, after) = text.split_at(end);
        let without: String = before.chars().chain(after.chars().skip(1)).collect();
        for damaged in [before, &without] {
            let locator = Locator::read(damaged);
            for path in ["services[1].servers[0].port", "settings.beacon", "groups[0].addresses"] {
                let Some(place) = locator.find(path) else { continue };
                assert!((1..=super::lines(damaged).count() + 1).contains(&(place.line as usize)));
            }
        }
    }
}

/// A mistake of nearly every kind that a node finds.
const WRONG: &str = "\
# The network
apiVersion: steadfast/v1

segments:
  - name: front
    prefix: 198.18.0.0/24
  - name: back
    prefix: 198.18.0.128/25     # inside the other

groups:
  - name: web
    addresses: [198.18.0.100,
                192.0.2.1]      # in no segment
  - name: db
    addresses: []

services:
  - name: a
    group: wbe
    address: 198.18.0.100
    port: 80
  - name: b
    group: web
    address: 198.18.0.100
    port: 80
    servers: &pool
      - {address: 198.18.0.11, port: 80}
      - {address: 198.18.0.12, port: 81,
         weight: 70000}
    sync:
      period: 2
    check:
      interval_ms: 1
  - {name: b, group: web, address: 198.18.0.100, port: 81, servers: *pool}

settings: {beacon: {silent_after: 1}}
";

/// Model and locator agree on what a path is.
#[test]
fn every_problem_a_node_finds_has_its_line() {
    let locator = Locator::read(WRONG);
    let mut found = String::new();
    for problem in validate(&Document::parse(WRONG).unwrap()) {
        let place = locator.find(&problem.place).unwrap();
        let _ = writeln!(found, "{}:{}: {}", place.line, place.column, problem.place);
    }
    let wanted = "\
8:13: segments[1].prefix
13:17: groups[0].addresses[1]
15:5: groups[1].addresses
19:12: services[0].group
25:11: services[1].port
28:38: services[1].servers[1].port
29:18: services[1].servers[1].weight
30:5: services[1].sync.threshold
33:20: services[1].check.interval_ms
34:12: services[2].name
27:38: services[2].servers[0].port
29:18: services[2].servers[1].weight
36:35: settings.beacon.silent_after
";
    assert_eq!(found, wanted);
}
