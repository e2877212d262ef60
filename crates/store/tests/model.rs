//! The store against a model: whatever several tasks do at once, and over restarts, there is one order of commits, by
//! revision, that explains every answer, every listing and every watch.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hitless_store::{
    CommitError, Committed, Embedded, Entry, EventKind, Op, Options, Precondition, Revision, Store, Watch,
    WatchError, WatchEvent,
};
use proptest::prelude::*;
use tokio::{task::JoinSet, time::timeout};

/// What a task intends; the revision for an optimistic change is read when its turn comes.
#[derive(Clone, Debug)]
struct Intent {
    changes: Vec<(u8, Action)>,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Put(Expect),
    Delete(Expect),
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    None,
    Absent,
    Exists,
    Seen,
    Stale,
}

fn intents() -> impl Strategy<Value = Vec<Vec<Vec<Intent>>>> {
    let expect = prop_oneof![
        3 => Just(Expect::None), 2 => Just(Expect::Absent), 1 => Just(Expect::Exists),
        4 => Just(Expect::Seen), 1 => Just(Expect::Stale)
    ];
    let action = (expect, prop::bool::weighted(0.3))
        .prop_map(|(expect, delete)| if delete { Action::Delete(expect) } else { Action::Put(expect) });
    let intent = prop::collection::btree_map(0..6_u8, action, 1..3)
        .prop_map(|changes| Intent { changes: changes.into_iter().collect() });
    let task = prop::collection::vec(intent, 1..12);
    // Rounds, each after a restart; tasks of a round; commits of a task.
    prop::collection::vec(prop::collection::vec(task, 1..5), 1..4)
}

fn key(number: u8) -> String {
    format!("/registry/{}/{number}", if number.is_multiple_of(2) { "pods" } else { "nodes" })
}

async fn perform(
    store: Embedded,
    intents: Vec<Intent>,
    task: usize,
) -> Vec<(Vec<Op>, Result<Committed, CommitError>)> {
    let mut done = Vec::new();
    for (turn, intent) in intents.into_iter().enumerate() {
        let mut ops = Vec::new();
        for (number, action) in intent.changes {
            let key = key(number);
            let (Action::Put(expect) | Action::Delete(expect)) = action;
            let expect = match expect {
                Expect::None => Precondition::None,
                Expect::Absent => Precondition::Absent,
                Expect::Exists => Precondition::Exists,
                Expect::Seen => match store.get(&key).await.unwrap() {
                    Some(entry) => Precondition::ModifiedAt(entry.modified),
                    None => Precondition::Absent,
                },
                Expect::Stale => Precondition::ModifiedAt(Revision(turn as u64)),
            };
            let key = key.into();
            ops.push(match action {
                Action::Put(_) => Op::Put { key, value: format!("{task}.{turn}").into(), expect },
                Action::Delete(_) => Op::Delete { key, expect },
            });
        }
        let result = store.commit(ops.clone()).await;
        if let Ok(committed) = &result {
            assert!(store.revision() >= committed.revision, "answered before it is shown");
        }
        done.push((ops, result));
    }
    done
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<String, Entry>,
    revision: Revision,
    events: Vec<WatchEvent>,
}

impl Model {
    /// Does an accepted commit, and checks that it could be accepted here and was answered rightly.
    fn commit(&mut self, ops: &[Op], committed: &Committed) {
        for op in ops {
            let there = self.entries.get(&**op.key());
            let holds = match op.expect() {
                Precondition::None => true,
                Precondition::Absent => there.is_none(),
                Precondition::Exists => there.is_some(),
                Precondition::ModifiedAt(seen) => there.is_some_and(|entry| entry.modified == seen),
            };
            assert!(holds, "{op:?} was accepted over {there:?}");
        }
        let revision = committed.revision;
        assert_eq!(revision, self.revision.next(), "revisions are contiguous");
        self.revision = revision;
        for (op, answered) in ops.iter().zip(&committed.entries) {
            let previous = self.entries.get(&**op.key()).cloned();
            let (entry, kind) = match (op, previous) {
                (Op::Delete { .. }, None) => {
                    assert_eq!(*answered, None);
                    continue;
                }
                (Op::Delete { key, .. }, Some(previous)) => {
                    self.entries.remove(&**key);
                    (Entry { modified: revision, ..previous.clone() }, EventKind::Delete { previous })
                }
                (Op::Put { key, value, .. }, previous) => {
                    let created = previous.as_ref().map_or(revision, |entry| entry.created);
                    let entry = Entry { key: key.clone(), value: value.clone(), created, modified: revision };
                    self.entries.insert(key.to_string(), entry.clone());
                    (entry, EventKind::Put { previous })
                }
            };
            assert_eq!(answered.as_ref(), Some(&entry));
            self.events.push(WatchEvent { revision, kind, entry });
        }
    }
}

async fn read(watch: &mut Watch, count: usize) -> Vec<Arc<WatchEvent>> {
    let mut events = Vec::new();
    while events.len() < count {
        let more =
            timeout(Duration::from_secs(10), watch.next()).await.expect("events come in time").unwrap();
        assert!(!more.is_empty());
        events.extend(more);
    }
    events
}

async fn round(store: &Embedded, tasks: Vec<Vec<Intent>>, model: &mut Model) {
    let start = store.revision();
    let mut live = store.watch("/registry/", start).await.unwrap();
    let mut running = JoinSet::new();
    for (number, intents) in tasks.into_iter().enumerate() {
        running.spawn(perform(store.clone(), intents, number));
    }
    let mut accepted = BTreeMap::new();
    while let Some(done) = running.join_next().await {
        for (ops, result) in done.unwrap() {
            match result {
                Ok(committed) if committed.entries.iter().any(Option::is_some) => {
                    assert!(
                        accepted.insert(committed.revision, (ops, committed)).is_none(),
                        "one revision twice"
                    );
                }
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    let first_event = model.events.len();
    for (ops, committed) in accepted.values() {
        model.commit(ops, committed);
    }
    let expected = &model.events[first_event..];
    let seen = read(&mut live, expected.len()).await;
    assert!(seen.iter().map(AsRef::as_ref).eq(expected), "a live watch shows the history");
    assert_eq!(live.progress().await.unwrap(), model.revision);
    // A watch from any revision of this round replays what came after it.
    for after in start.0..=model.revision.0 {
        let expected: Vec<_> = expected
            .iter()
            .filter(|event| event.revision.0 > after && event.entry.key.starts_with("/registry/pods/"))
            .collect();
        let mut replay = store.watch("/registry/pods/", Revision(after)).await.unwrap();
        assert_eq!(
            read(&mut replay, expected.len()).await.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
            expected
        );
        assert_eq!(replay.progress().await.unwrap(), model.revision);
    }
}

async fn check(store: &Embedded, model: &Model) {
    let listing = store.list("", None, None).await.unwrap();
    assert_eq!(listing.revision, model.revision);
    assert!(listing.entries.iter().eq(model.entries.values()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn every_answer_and_watch_is_explained_by_one_order(rounds in intents()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async move {
            let directory = tempfile::tempdir().unwrap();
            let mut model = Model::default();
            for tasks in rounds {
                let store = Embedded::open(directory.path(), Options::default()).unwrap();
                check(&store, &model).await;
                if model.revision > Revision::ZERO {
                    let before = store.watch("", Revision(model.revision.0 - 1)).await;
                    assert!(matches!(before, Err(WatchError::Compacted { .. })));
                }
                round(&store, tasks, &mut model).await;
                check(&store, &model).await;
                store.close().await;
            }
        });
    }
}
