//! A map whose copies share what they have in common: a change copies one part of many, and old copies stay as they were.
//!
//! It makes a zone of 10,000 Services immutable without copying all of it for each change.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

/// Parts. With 60,000 entries a change copies some 250 of them.
const SHARDS: usize = 256;

/// See the module. Cloning it costs one reference for each part.
#[derive(Clone, Debug)]
pub struct Shards<K, V> {
    hasher: RandomState,
    shards: Vec<Arc<HashMap<K, V>>>,
}

impl<K: Hash + Eq + Clone, V: Clone> Default for Shards<K, V> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: vec![Arc::default(); SHARDS] }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    fn index<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // The remainder of a division by SHARDS fits.
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0)
    }

    /// The value under the key.
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards.get(self.index(key))?.get(key)
    }

    /// Puts a value; `None` takes it away.
    pub fn set(&mut self, key: K, value: Option<V>) {
        let index = self.index(&key);
        let Some(shard) = self.shards.get_mut(index) else { return };
        match value {
            Some(value) => {
                Arc::make_mut(shard).insert(key, value);
            }
            None if shard.contains_key(&key) => {
                Arc::make_mut(shard).remove(&key);
            }
            None => {}
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// It is a map, and a copy does not see what comes after it.
        #[test]
        fn copies_stay_as_they_were(steps in prop::collection::vec((0_u16..40, prop::option::of(any::<u8>())), 0..80)) {
            let (mut map, mut model) = (Shards::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for (key, value) in steps {
                copies.push((map.clone(), model.clone()));
                map.set(key, value);
                match value {
                    Some(value) => _ = model.insert(key, value),
                    None => _ = model.remove(&key),
                }
            }
            copies.push((map, model));
            for (map, model) in copies {
                prop_assert_eq!(map.len(), model.len());
                for key in 0..40 {
                    prop_assert_eq!(map.get(&key), model.get(&key));
                }
            }
        }
    }
}
