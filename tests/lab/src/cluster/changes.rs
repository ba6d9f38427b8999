//! What a lab changes in the example that it applies.

use anyhow::{Result, bail};
use clap::Args;

/// What every example says of its services, once for each.
const SCHEDULER: &str = "    scheduler: rr\n";

/// What every example says of its group.
const GROUP: &str = "  - name: web\n    addresses:";

/// Settings of the group and of every service; those not given are as in the example.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// Scheduler of the services, in place of rr.
    #[arg(long, value_parser = ["rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "mh"])]
    pub scheduler: Option<String>,
    /// As LVS copies connections: on packet THRESHOLD of each PERIOD, not when they are established.
    #[arg(long, value_name = "THRESHOLD/PERIOD", value_parser = sync)]
    pub sync: Option<(u32, u32)>,
    /// Seconds until a silent TCP connection is forgotten.
    #[arg(long, value_parser = clap::value_parser!(u32).range(10..=3600))]
    pub tcp_timeout: Option<u32>,
    /// The group waits rather than have two holders.
    #[arg(long)]
    pub strict: bool,
}

fn sync(text: &str) -> Result<(u32, u32), String> {
    let parsed = text
        .split_once('/')
        .and_then(|(threshold, period)| Some((threshold.parse().ok()?, period.parse().ok()?)));
    parsed.ok_or_else(|| format!("`{text}` is no THRESHOLD/PERIOD, as 3/50 is"))
}

impl Changes {
    /// The document with these settings.
    ///
    /// # Errors
    /// When it has no place for one.
    pub fn apply(&self, document: &str) -> Result<String> {
        let mut lines = String::new();
        if let Some(name) = &self.scheduler {
            lines.push_str(&format!("    scheduler: {name}\n"));
        } else {
            lines.push_str(SCHEDULER);
        }
        if let Some((threshold, period)) = self.sync {
            lines.push_str(&format!(
                "    sync: {{threshold: {threshold}, period: {period}, on_established: false}}\n"
            ));
        }
        if let Some(seconds) = self.tcp_timeout {
            lines.push_str(&format!("    timeouts: {{tcp_s: {seconds}}}\n"));
        }
        for (place, needed) in [(SCHEDULER, lines != SCHEDULER), (GROUP, self.strict)] {
            if needed && !document.contains(place) {
                bail!("the example has no place for a setting: {place:?} is not in it");
            }
        }
        let mut changed = document.replace(SCHEDULER, &lines);
        if self.strict {
            let strict = GROUP.replace("    addresses:", "    policy: strict\n    addresses:");
            changed = changed.replace(GROUP, &strict);
        }
        Ok(changed)
    }

    /// A word for each, for names.
    #[must_use]
    pub fn suffix(&self) -> String {
        let mut suffix = String::new();
        if let Some(scheduler) = &self.scheduler {
            suffix.push_str(&format!("-{scheduler}"));
        }
        if let Some((threshold, period)) = self.sync {
            suffix.push_str(&format!("-sync-{threshold}-{period}"));
        }
        if let Some(seconds) = self.tcp_timeout {
            suffix.push_str(&format!("-timeout-{seconds}"));
        }
        if self.strict {
            suffix.push_str("-strict");
        }
        suffix
    }

    /// The arguments that say the same.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(scheduler) = &self.scheduler {
            words.extend(["--scheduler".to_owned(), scheduler.clone()]);
        }
        if let Some((threshold, period)) = self.sync {
            words.extend(["--sync".to_owned(), format!("{threshold}/{period}")]);
        }
        if let Some(seconds) = self.tcp_timeout {
            words.extend(["--tcp-timeout".to_owned(), seconds.to_string()]);
        }
        if self.strict {
            words.push("--strict".to_owned());
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "groups:\n  - name: web\n    addresses: [198.18.0.100]\nservices:\n\
                            \x20 - name: a\n    scheduler: rr\n  - name: b\n    scheduler: rr\n";

    #[test]
    fn without_changes_a_document_stays_as_it_is() {
        assert_eq!(Changes::default().apply(DOCUMENT).unwrap(), DOCUMENT);
        assert_eq!(Changes::default().apply("").unwrap(), "");
        assert_eq!(Changes::default().suffix(), "");
        assert!(Changes::default().arguments().is_empty());
    }

    #[test]
    fn settings_are_made_for_each_service_and_the_group() {
        let changes = Changes {
            scheduler: Some("mh".to_owned()),
            sync: Some((3, 50)),
            tcp_timeout: Some(30),
            strict: true,
        };
        assert_eq!(
            changes.apply(DOCUMENT).unwrap(),
            "groups:\n  - name: web\n    policy: strict\n    addresses: [198.18.0.100]\nservices:\n\
             \x20 - name: a\n    scheduler: mh\n    \
             sync: {threshold: 3, period: 50, on_established: false}\n    timeouts: {tcp_s: 30}\n\
             \x20 - name: b\n    scheduler: mh\n    \
             sync: {threshold: 3, period: 50, on_established: false}\n    timeouts: {tcp_s: 30}\n"
        );
        assert!(changes.apply("services: []").is_err());
        assert_eq!(changes.suffix(), "-mh-sync-3-50-timeout-30-strict");
        assert_eq!(changes.arguments().len(), 7);
    }
}
