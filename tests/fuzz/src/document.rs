//! A configuration as an operator may write it: read, validated, applied to a cluster, and the
//! places of its parts told.

use steadfast_model::{ClusterState, Command, document::Document, validate};

#[path = "../../../ctl/src/locate/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "clusterctl uses all of it")]
mod locate;

/// Runs one input.
///
/// # Panics
/// When something is wrong.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let places = locate::Locator::read(text);
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            // Messages are made without a panic, too.
            let _ = error.to_string();
            return;
        }
    };
    let problems = validate(&document);
    for problem in &problems {
        if let Some(place) = places.find(&problem.place) {
            let lines = locate::lines(text).count().max(1);
            assert!(
                place.line as usize <= lines + 1,
                "{} is said to be behind the end",
                problem.place
            );
        }
        let _ = problem.to_string();
    }
    let mut state = ClusterState::default();
    let command = Command::Apply {
        text: text.to_owned(),
        expected_revision: None,
        source: String::new(),
        now_unix_s: 0,
    };
    let _ = state.apply(1, command);
}
