//! Status that lives in memory only: the watermarks of EndpointConsumers (ARCHITECTURE.md, "The closed loop, as built").
//!
//! Watermarks do not pass through the store one by one (closed-loop.md, rule 7). A word here has a sequence number of
//! its own; a watch remembers the last one that it has shown and asks for what came later. So a watch is never behind
//! by more than one round, however many words came meanwhile, and nothing queues up: only the latest word of each
//! consumer is shown.
//!
//! Invariant: within one incarnation a watermark never falls (rule 2). A word belongs to one object (by uid) and
//! one incarnation; it is shown with no other.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use crate::codec::text;

/// The last word of one object.
#[derive(Clone, Debug)]
struct Word {
    uid: String,
    incarnation: String,
    observed: u64,
    status: Value,
    sequence: u64,
}

#[derive(Default)]
struct Words {
    by_key: HashMap<String, Word>,
    by_sequence: BTreeMap<u64, String>,
    sequence: u64,
}

/// Why a word is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WordError {
    /// It falls behind an earlier one.
    #[error("observedRevision {new} is lower than {held}, which this incarnation has already reported")]
    Falls {
        /// What was said.
        new: u64,
        /// What had been said.
        held: u64,
    },
}

/// All that is known.
pub(crate) struct Volatile {
    words: Mutex<Words>,
    news: watch::Sender<u64>,
}

impl Volatile {
    pub(crate) fn new() -> Self {
        Self { words: Mutex::new(Words::default()), news: watch::Sender::new(0) }
    }

    /// Takes a word about the object under `key`. Who calls has checked that the incarnation is the registered one.
    ///
    /// # Errors
    /// The watermark would fall.
    pub(crate) fn put(&self, key: &str, object: &Value, status: Value) -> Result<(), WordError> {
        let uid = text(object, "/metadata/uid");
        let incarnation = text(object, "/spec/incarnation");
        let observed = status.get("observedRevision").and_then(Value::as_u64).unwrap_or_default();
        let mut words = self.words.lock();
        let held = words.by_key.get(key).filter(|w| w.uid == uid && w.incarnation == incarnation);
        if let Some(held) = held.map(|w| w.observed).filter(|held| *held > observed) {
            return Err(WordError::Falls { new: observed, held });
        }
        words.sequence += 1;
        let sequence = words.sequence;
        let word =
            Word { uid: uid.to_owned(), incarnation: incarnation.to_owned(), observed, status, sequence };
        if let Some(old) = words.by_key.insert(key.to_owned(), word) {
            words.by_sequence.remove(&old.sequence);
        }
        words.by_sequence.insert(sequence, key.to_owned());
        // Under the lock, so that the number that watches see never falls.
        self.news.send_replace(sequence);
        Ok(())
    }

    /// Forgets the object under `key`: it has gone.
    pub(crate) fn forget(&self, key: &str) {
        let mut words = self.words.lock();
        if let Some(word) = words.by_key.remove(key) {
            words.by_sequence.remove(&word.sequence);
        }
    }

    /// Puts the known status into the object. What is known of another object or incarnation is not shown.
    pub(crate) fn show(&self, key: &str, object: &mut Value) {
        let words = self.words.lock();
        let word = words.by_key.get(key).filter(|word| {
            word.uid == text(object, "/metadata/uid") && word.incarnation == text(object, "/spec/incarnation")
        });
        if let (Some(word), Value::Object(map)) = (word, object) {
            map.insert("status".into(), word.status.clone());
        }
    }

    /// A cursor at the beginning: it has shown nothing yet.
    pub(crate) fn cursor(&self) -> Cursor {
        let mut news = self.news.subscribe();
        news.mark_changed();
        Cursor { news, shown: 0 }
    }

    /// The keys that begin with `prefix` whose word came after the cursor, oldest first. Moves the cursor.
    pub(crate) fn after(&self, cursor: &mut Cursor, prefix: &str) -> Vec<String> {
        let words = self.words.lock();
        let later = words.by_sequence.range(cursor.shown.saturating_add(1)..);
        let keys = later.map(|(_, key)| key).filter(|key| key.starts_with(prefix)).cloned().collect();
        cursor.shown = words.sequence;
        keys
    }
}

/// How far a watch has shown what is known.
pub(crate) struct Cursor {
    news: watch::Receiver<u64>,
    shown: u64,
}

impl Cursor {
    /// Waits until there is something that the cursor has not shown. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if self.news.changed().await.is_err() {
            // The server has gone; the watch's other branches end it.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn consumer(uid: &str, incarnation: &str) -> Value {
        json!({"metadata": {"name": "p", "uid": uid}, "spec": {"incarnation": incarnation}})
    }

    #[test]
    fn a_watermark_never_falls_within_one_incarnation() {
        let volatile = Volatile::new();
        let first = consumer("u", "one");
        volatile.put("k", &first, json!({"observedRevision": 7})).unwrap();
        volatile.put("k", &first, json!({"observedRevision": 7})).unwrap();
        let fall = volatile.put("k", &first, json!({"observedRevision": 6}));
        assert_eq!(fall, Err(WordError::Falls { new: 6, held: 7 }));
        volatile.put("k", &consumer("u", "two"), json!({"observedRevision": 1})).unwrap();
    }

    #[test]
    fn a_word_is_shown_only_with_its_object_and_incarnation() {
        let volatile = Volatile::new();
        volatile.put("k", &consumer("u", "one"), json!({"observedRevision": 7})).unwrap();
        let seen = |mut object: Value| {
            volatile.show("k", &mut object);
            object.get("status").cloned()
        };
        assert_eq!(seen(consumer("u", "one")), Some(json!({"observedRevision": 7})));
        assert_eq!(seen(consumer("u", "two")), None);
        assert_eq!(seen(consumer("v", "one")), None);
        volatile.forget("k");
        assert_eq!(seen(consumer("u", "one")), None);
    }

    #[tokio::test]
    async fn a_cursor_shows_the_latest_word_of_each_once() {
        let volatile = Volatile::new();
        let mut cursor = volatile.cursor();
        volatile.put("/a", &consumer("u", "one"), json!({"observedRevision": 1})).unwrap();
        volatile.put("/b", &consumer("v", "one"), json!({"observedRevision": 1})).unwrap();
        volatile.put("/a", &consumer("u", "one"), json!({"observedRevision": 2})).unwrap();
        cursor.changed().await;
        assert_eq!(volatile.after(&mut cursor, "/"), ["/b", "/a"]);
        assert!(volatile.after(&mut cursor, "/").is_empty());
        volatile.put("/b", &consumer("v", "one"), json!({"observedRevision": 3})).unwrap();
        cursor.changed().await;
        assert_eq!(volatile.after(&mut cursor, "/"), ["/b"]);
    }
}
