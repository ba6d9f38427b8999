//! What a group's holder does in doubt.

use serde::{Deserialize, Serialize};

/// What a holder does that no majority of the voters confirms.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// It keeps announcing until it hears a higher epoch.
    #[default]
    Available,
    /// It announces only while a majority of the voters has confirmed it: two announcers never
    /// overlap.
    Strict,
}

/// What a candidate does when the holder is gone and it hears no majority of the voters.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Alone {
    /// After a while it announces, if nobody answers for the addresses.
    #[default]
    Claim,
    /// It waits for a majority.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    #[test]
    fn a_group_is_available_unless_it_says_strict() {
        let text = "{apiVersion: steadfast/v1, groups: [{name: a, addresses: []}, {name: b, \
                    addresses: [], policy: strict}, {name: c, addresses: [], policy: available}]}";
        let document = Document::parse(text).unwrap();
        let policies: Vec<_> = document.groups.iter().map(|group| group.policy).collect();
        assert_eq!(policies, [Policy::Available, Policy::Strict, Policy::Available]);
        let wrong = Document::parse(&text.replace("strict", "careful")).unwrap_err();
        assert!(wrong.to_string().contains("careful"), "{wrong}");
    }
}
