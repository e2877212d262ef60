//! Read your own writes: a controller that has written something looks at a key again only when its cache
//! has come as far as that write, so that a cache that lags behind never makes it act twice.
//!
//! This replaces Kubernetes' expectations: with one ordered counter for all kinds a revision is enough.

use std::{collections::HashMap, sync::Arc};

use hitless_base::Revision;
use parking_lot::Mutex;

/// For each key the highest revision that its controller has written.
#[derive(Clone, Default)]
pub struct Fence {
    written: Arc<Mutex<HashMap<String, Revision>>>,
}

impl Fence {
    /// Notes that a write for `key` got `revision`.
    pub fn wrote(&self, key: &str, revision: Revision) {
        let mut written = self.written.lock();
        let highest = written.entry(key.to_owned()).or_default();
        *highest = (*highest).max(revision);
    }

    /// Whether a cache at `seen` shows every write noted for `key`. What has been passed is forgotten.
    #[must_use]
    pub fn passed(&self, key: &str, seen: Revision) -> bool {
        let mut written = self.written.lock();
        match written.get(key) {
            Some(highest) if *highest > seen => false,
            Some(_) => {
                written.remove(key);
                true
            }
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_until_the_cache_has_come_as_far() {
        let fence = Fence::default();
        fence.wrote("a", Revision(7));
        fence.wrote("a", Revision(5));
        assert!(!fence.passed("a", Revision(6)));
        assert!(fence.passed("b", Revision::ZERO));
        assert!(fence.passed("a", Revision(7)));
        assert!(fence.passed("a", Revision(1)), "passed once, forgotten");
    }
}
