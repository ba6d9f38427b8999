//! What could not be set up, for `clusterctl status` and the log.

use std::{collections::BTreeMap, sync::Mutex};

use tracing::{error, info};

use super::port::lock;

/// Who found it: each looks after its own.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Area {
    /// What the cluster has committed.
    Configuration,
    /// What the kernel tells.
    Kernel,
    /// Attaching interfaces.
    Interfaces,
    /// What steering programs are told.
    Tables,
}

/// Troubles by what they concern. Each is logged once when it comes and once when it goes.
#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<BTreeMap<(Area, String), String>>);

impl Troubles {
    /// The troubles of an area: these and no others.
    pub(crate) fn replace(&self, area: Area, new: BTreeMap<String, String>) {
        let mut all = lock(&self.0);
        all.retain(|(of, what), _| {
            let stays = *of != area || new.contains_key(what);
            if !stays {
                info!("{what}: works now");
            }
            stays
        });
        for (what, why) in new {
            let old = all.insert((area, what.clone()), why.clone());
            if old.as_ref() != Some(&why) {
                error!("{what}: {why}");
            }
        }
    }

    /// What there is, by what it concerns.
    pub(crate) fn all(&self) -> BTreeMap<String, String> {
        let mut shown: BTreeMap<String, String> = BTreeMap::new();
        for ((_, what), why) in &*lock(&self.0) {
            let entry = shown.entry(what.clone()).or_default();
            if !entry.is_empty() {
                entry.push_str("; ");
            }
            entry.push_str(why);
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_area_looks_after_its_own() {
        let troubles = Troubles::default();
        let one = |why: &str| BTreeMap::from([("eth0".to_owned(), why.to_owned())]);
        troubles.replace(Area::Interfaces, one("busy"));
        troubles.replace(Area::Tables, one("full"));
        assert_eq!(troubles.all()["eth0"], "busy; full");
        troubles.replace(Area::Interfaces, BTreeMap::new());
        assert_eq!(troubles.all()["eth0"], "full");
        troubles.replace(Area::Tables, BTreeMap::new());
        assert!(troubles.all().is_empty());
    }
}
