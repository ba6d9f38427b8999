//! One check's opinion of its target: rise and fall.

use crate::Settings;

/// What a probe found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The target answered.
    Up,
    /// It did not.
    Down {
        /// Why, for a person.
        why: String,
    },
    /// This node could not probe: out of sockets, no route at all. Says nothing of the target.
    Unable {
        /// Why, for a person.
        why: String,
    },
}

/// What this node thinks of a target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Opinion {
    /// Not probed often enough yet, or not able to.
    Unknown,
    /// Takes connections.
    Up,
    /// Does not.
    Down {
        /// What the last probe said.
        why: String,
    },
}

/// Counts results in a row.
///
/// ```text
///              rise x Up                fall x Down
///   Unknown ---------------> Up ------------------------> Down
///      |  \                  ^                              |
///      |   '-- fall x Down --|----------------------------> |
///      |                     '--------- rise x Up ----------'
///      '<---- fall x Unable, from Up or Down
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CheckState {
    opinion: Opinion,
    up_in_a_row: u32,
    down_in_a_row: u32,
    unable_in_a_row: u32,
}

impl CheckState {
    /// A check that knows nothing.
    pub fn new() -> Self {
        Self { opinion: Opinion::Unknown, up_in_a_row: 0, down_in_a_row: 0, unable_in_a_row: 0 }
    }

    /// Takes a result in. Returns whether the opinion has changed (a new reason is no change).
    pub fn handle_result(&mut self, settings: &Settings, outcome: Outcome) -> bool {
        let before = std::mem::discriminant(&self.opinion);
        match outcome {
            Outcome::Up => {
                self.up_in_a_row = self.up_in_a_row.saturating_add(1);
                (self.down_in_a_row, self.unable_in_a_row) = (0, 0);
                if self.up_in_a_row >= settings.rise {
                    self.opinion = Opinion::Up;
                }
            }
            Outcome::Down { why } => {
                self.down_in_a_row = self.down_in_a_row.saturating_add(1);
                (self.up_in_a_row, self.unable_in_a_row) = (0, 0);
                let down = matches!(self.opinion, Opinion::Down { .. });
                if down || self.down_in_a_row >= settings.fall {
                    self.opinion = Opinion::Down { why };
                }
            }
            // Neither breaks nor continues a row: this node's trouble is not the target's.
            Outcome::Unable { .. } => {
                self.unable_in_a_row = self.unable_in_a_row.saturating_add(1);
                if self.unable_in_a_row >= settings.fall {
                    *self = Self { unable_in_a_row: self.unable_in_a_row, ..Self::new() };
                }
            }
        }
        before != std::mem::discriminant(&self.opinion)
    }

    /// What this node thinks now.
    pub fn opinion(&self) -> &Opinion {
        &self.opinion
    }
}

impl Default for CheckState {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn letter(opinion: &Opinion) -> char {
        match opinion {
            Opinion::Unknown => '?',
            Opinion::Up => 'U',
            Opinion::Down { .. } => 'D',
        }
    }

    #[test]
    fn rise_and_fall_table() {
        // Results (u up, d down, x unable) and the opinion after each.
        let table = [
            ("one success is enough", 1, 3, "u", "U"),
            ("below fall nothing happens", 1, 3, "udd", "UUU"),
            ("fall failures in a row", 1, 3, "uddd", "UUUD"),
            ("a success breaks the row", 1, 3, "uddudd", "UUUUUU"),
            ("down, and up by one success", 1, 3, "uddduu", "UUUDUU"),
            ("down, and up by two", 2, 2, "uuddudduu", "?UUDDDDDU"),
            ("unknown goes down as well", 1, 3, "ddd", "??D"),
            ("unknown needs the whole row", 2, 2, "ududuu", "?????U"),
            ("a sick node's probes say nothing", 1, 2, "uxddxuxd", "UUUDDUUU"),
            ("a node that cannot probe has no opinion", 1, 3, "uxxx", "UUU?"),
            ("from down, too, and then it counts anew", 1, 2, "ddxxdd", "?DD??D"),
            ("an unable probe between failures does not hide them", 1, 3, "uddxd", "UUUUD"),
        ];
        for (name, rise, fall, results, expected) in table {
            let second = Duration::from_secs(1);
            let settings = Settings { interval: second, timeout: second, rise, fall };
            let mut state = CheckState::new();
            let mut seen = String::new();
            for result in results.chars() {
                let before = letter(state.opinion());
                let why = String::from("x");
                let changed = state.handle_result(
                    &settings,
                    match result {
                        'u' => Outcome::Up,
                        'd' => Outcome::Down { why },
                        _ => Outcome::Unable { why },
                    },
                );
                seen.push(letter(state.opinion()));
                assert_eq!(changed, before != letter(state.opinion()), "{name}: {seen}");
            }
            assert_eq!(seen, expected, "{name}");
        }
    }

    #[test]
    fn the_reason_is_the_latest() {
        let second = Duration::from_secs(1);
        let settings = Settings { interval: second, timeout: second, rise: 1, fall: 1 };
        let mut state = CheckState::new();
        assert!(state.handle_result(&settings, Outcome::Down { why: "refused".into() }));
        assert!(!state.handle_result(&settings, Outcome::Down { why: "no answer".into() }));
        assert_eq!(state.opinion(), &Opinion::Down { why: "no answer".into() });
    }
}
