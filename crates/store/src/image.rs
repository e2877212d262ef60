//! The entries as they are in memory: what every read is answered from.
//!
//! Why all of it is in memory: the API's reads are many and must not wait for the disk or for the writer. What must
//! hold: nothing is here that is not durable, and the entries and the revision always belong together.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    ops::Bound,
};

use hitless_base::Revision;

use crate::api::{Entry, Key, Listing};

/// An entry that is found and ordered by its key, so that the key is held once.
#[derive(Clone, Debug)]
struct ByKey(Entry);

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}
impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}
impl Eq for ByKey {}
impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

/// All entries at one revision.
#[derive(Debug, Default)]
pub(crate) struct Image {
    entries: BTreeSet<ByKey>,
    revision: Revision,
}

impl Image {
    /// The image of `entries`, best given in the order of their keys.
    pub(crate) fn new(entries: Vec<Entry>, revision: Revision) -> Self {
        Self { entries: entries.into_iter().map(ByKey).collect(), revision }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key).map(|found| &found.0)
    }

    /// A page; see [`crate::Store::list`].
    pub(crate) fn list(&self, prefix: &str, limit: Option<usize>, continue_after: Option<&str>) -> Listing {
        let from = match continue_after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut rest = self
            .entries
            .range::<str, _>((from, Bound::Unbounded))
            .map(|found| &found.0)
            .take_while(|entry| entry.key.starts_with(prefix));
        let entries: Vec<Entry> = rest.by_ref().take(limit.unwrap_or(usize::MAX)).cloned().collect();
        let remaining = if limit.is_some() { rest.count() } else { 0 };
        Listing { entries, revision: self.revision, more: remaining > 0, remaining }
    }

    /// Takes over what a durable batch left of each key it touched; `None` is a removed key.
    pub(crate) fn apply(&mut self, changed: HashMap<Key, Option<Entry>>, revision: Revision) {
        for (key, after) in changed {
            match after {
                Some(entry) => {
                    self.entries.replace(ByKey(entry));
                }
                None => {
                    self.entries.remove(key.as_str());
                }
            }
        }
        self.revision = revision;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn image(keys: &[&str]) -> Image {
        let entry = |key: &&str| Entry {
            key: Key::from(*key),
            value: Bytes::from_static(b"v"),
            created: Revision(1),
            modified: Revision(1),
        };
        Image::new(keys.iter().map(entry).collect(), Revision(7))
    }

    fn page(
        image: &Image,
        prefix: &str,
        limit: Option<usize>,
        after: Option<&str>,
    ) -> (Vec<String>, bool, usize) {
        let listing = image.list(prefix, limit, after);
        assert_eq!(listing.revision, Revision(7));
        (listing.entries.iter().map(|e| e.key.to_string()).collect(), listing.more, listing.remaining)
    }

    fn strings(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|&key| key.to_owned()).collect()
    }

    #[test]
    fn a_list_has_the_keys_of_its_prefix_and_no_others() {
        let image = image(&["/a", "/b/1", "/b/2", "/b0", "/c"]);
        assert_eq!(page(&image, "/b/", None, None), (strings(&["/b/1", "/b/2"]), false, 0));
        assert_eq!(page(&image, "", None, None).0.len(), 5);
        assert_eq!(page(&image, "/d", None, None), (vec![], false, 0));
    }

    #[test]
    fn pages_continue_after_the_last_key_even_if_it_has_gone() {
        let image = image(&["/b/1", "/b/2", "/b/4", "/c"]);
        assert_eq!(page(&image, "/b/", Some(2), None), (strings(&["/b/1", "/b/2"]), true, 1));
        assert_eq!(page(&image, "/b/", Some(2), Some("/b/2")), (strings(&["/b/4"]), false, 0));
        assert_eq!(page(&image, "/b/", Some(2), Some("/b/3")), (strings(&["/b/4"]), false, 0));
        assert_eq!(page(&image, "/b/", Some(2), Some("/a")).0, strings(&["/b/1", "/b/2"]));
        assert_eq!(page(&image, "/b/", Some(2), Some("/z")).0, strings(&[]));
    }
}
