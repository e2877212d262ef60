//! Decides a batch of commits, one after another, without doing any of them: pure.
//!
//! Why: commits that wait at the same moment share one flush, yet each must find the state that the ones before it
//! in the batch left, and have a revision of its own. What must hold: revisions are contiguous, and a commit that is
//! refused leaves no trace in those after it.

use std::{collections::HashMap, sync::Arc};

use hitless_base::Revision;

use crate::{
    api::{Committed, Entry, EventKind, Key, Op, Precondition, WatchEvent},
    errors::CommitError,
    image::Image,
};

/// What a batch comes to so far.
pub(crate) struct Batch<'a> {
    base: &'a Image,
    /// What the batch leaves of each key it touched; `None` is a removed key.
    changed: HashMap<Key, Option<Entry>>,
    events: Vec<Arc<WatchEvent>>,
    revision: Revision,
}

/// A decided batch, to be made durable and then shown.
pub(crate) struct Plan {
    pub(crate) changed: HashMap<Key, Option<Entry>>,
    pub(crate) events: Vec<Arc<WatchEvent>>,
    pub(crate) revision: Revision,
}

impl<'a> Batch<'a> {
    /// An empty batch on top of `base`.
    pub(crate) fn new(base: &'a Image) -> Self {
        Self { base, changed: HashMap::new(), events: Vec::new(), revision: base.revision() }
    }

    /// What is to be written, once every commit has been added.
    pub(crate) fn into_plan(self) -> Plan {
        Plan { changed: self.changed, events: self.events, revision: self.revision }
    }

    fn current(&self, key: &Key) -> Option<&Entry> {
        match self.changed.get(key) {
            Some(after) => after.as_ref(),
            None => self.base.get(key),
        }
    }

    /// Adds one commit. The answer is true only once the batch is durable: also a refusal, for it may tell of an
    /// entry that this batch writes.
    pub(crate) fn add(&mut self, ops: Vec<Op>) -> Result<Committed, CommitError> {
        for op in &ops {
            let current = self.current(op.key());
            if !holds(op.expect(), current) {
                return Err(CommitError::Conflict { key: op.key().clone(), current: current.cloned() });
            }
        }
        let changes = ops.iter().any(|op| matches!(op, Op::Put { .. }) || self.current(op.key()).is_some());
        if changes {
            self.revision = self.revision.next();
        }
        let entries = ops.into_iter().map(|op| self.change(op)).collect();
        Ok(Committed { revision: self.revision, entries })
    }

    fn change(&mut self, op: Op) -> Option<Entry> {
        let revision = self.revision;
        let (entry, kind) = match op {
            Op::Put { key, value, .. } => {
                let previous = self.current(&key).cloned();
                // The key that is there already is kept, so that an entry's text is in memory once.
                let key = previous.as_ref().map_or(key, |entry| entry.key.clone());
                let created = previous.as_ref().map_or(revision, |entry| entry.created);
                let entry = Entry { key: key.clone(), value, created, modified: revision };
                self.changed.insert(key, Some(entry.clone()));
                (entry, EventKind::Put { previous })
            }
            Op::Delete { key, .. } => {
                let previous = self.current(&key).cloned()?;
                self.changed.insert(key, None);
                (Entry { modified: revision, ..previous.clone() }, EventKind::Delete { previous })
            }
        };
        self.events.push(Arc::new(WatchEvent { revision, kind, entry: entry.clone() }));
        Some(entry)
    }
}

fn holds(expect: Precondition, current: Option<&Entry>) -> bool {
    match expect {
        Precondition::None => true,
        Precondition::Absent => current.is_none(),
        Precondition::Exists => current.is_some(),
        Precondition::ModifiedAt(seen) => current.is_some_and(|entry| entry.modified == seen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &'static str, expect: Precondition) -> Op {
        Op::Put { key: key.into(), value: value.into(), expect }
    }

    #[test]
    fn a_commit_finds_what_the_one_before_it_in_the_batch_left() {
        let base = Image::default();
        let mut batch = Batch::new(&base);
        let made = batch.add(vec![Op::create("/a", "1")]).unwrap();
        assert_eq!(made.revision, Revision(1));
        assert!(matches!(
            batch.add(vec![Op::create("/a", "2")]),
            Err(CommitError::Conflict { current: Some(entry), .. }) if entry.value == "1"
        ));
        let updated = batch.add(vec![Op::update("/a", "3", Revision(1))]).unwrap().into_entry().unwrap();
        assert_eq!((updated.created, updated.modified), (Revision(1), Revision(2)));
        let gone = batch.add(vec![Op::delete("/a", Revision(2))]).unwrap().into_entry().unwrap();
        assert_eq!((gone.value, gone.modified), ("3".into(), Revision(3)));
        let again = batch.add(vec![Op::create("/a", "4")]).unwrap().into_entry().unwrap();
        assert_eq!((again.created, again.modified), (Revision(4), Revision(4)));
        let plan = batch.into_plan();
        assert_eq!(plan.revision, Revision(4));
        assert_eq!(plan.events.iter().map(|e| e.revision.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(plan.changed.len(), 1);
    }

    #[test]
    fn one_failing_operation_undoes_its_whole_commit_and_takes_no_revision() {
        let base = Image::default();
        let mut batch = Batch::new(&base);
        let both = vec![put("/a", "1", Precondition::Absent), put("/b", "1", Precondition::Exists)];
        assert!(matches!(
            batch.add(both),
            Err(CommitError::Conflict { key, current: None }) if key.as_str() == "/b"
        ));
        let plan = batch.into_plan();
        assert_eq!((plan.revision, plan.events.len(), plan.changed.len()), (Revision::ZERO, 0, 0));
    }

    #[test]
    fn all_operations_of_a_commit_have_one_revision() {
        let base = Image::default();
        let mut batch = Batch::new(&base);
        batch.add(vec![put("/a", "1", Precondition::None), put("/b", "1", Precondition::None)]).unwrap();
        let plan = batch.into_plan();
        assert_eq!(plan.events.iter().map(|e| e.revision.0).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn deleting_what_is_not_there_is_no_change() {
        let base = Image::default();
        let mut batch = Batch::new(&base);
        let op = Op::Delete { key: "/a".into(), expect: Precondition::None };
        assert_eq!(batch.add(vec![op]).unwrap(), Committed { revision: Revision::ZERO, entries: vec![None] });
        assert!(batch.into_plan().events.is_empty());
    }
}
