//! The embedded store as its users see it: refusals, shared flushes, history, slow watches, damaged files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::{fs, sync::Arc, time::Duration};

use hitless_store::{
    CommitError, Embedded, Entry, EventKind, Op, OpenError, Options, Precondition, Revision, Store, Watch,
    WatchEnd, WatchError, WatchEvent,
};
use tokio::{task::JoinSet, time::timeout};

const PATIENCE: Duration = Duration::from_secs(10);

async fn put(store: &Embedded, key: &str, value: &str) -> Entry {
    let op = Op::Put { key: key.into(), value: value.to_owned().into(), expect: Precondition::None };
    store.commit(vec![op]).await.unwrap().into_entry().unwrap()
}

async fn next(watch: &mut Watch) -> Result<Vec<Arc<WatchEvent>>, WatchEnd> {
    timeout(PATIENCE, watch.next()).await.expect("the watch says something in time")
}

fn open(directory: &tempfile::TempDir) -> Embedded {
    Embedded::open(directory.path(), Options::default()).unwrap()
}

#[tokio::test]
async fn an_entry_keeps_its_creation_and_is_found_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let made = put(&store, "/registry/pods/a/web", "1").await;
    let stored = put(&store, "/registry/pods/a/web", "2").await;
    assert_eq!((stored.created, stored.modified), (made.created, made.modified.next()));
    store.close().await;
    assert!(matches!(store.commit(vec![Op::create("/x", "1")]).await, Err(CommitError::Closed)));
    let again = open(&directory);
    assert_eq!(again.revision(), Revision(2));
    assert_eq!(again.get("/registry/pods/a/web").await.unwrap(), Some(stored));
    assert_eq!(put(&again, "/registry/pods/a/other", "1").await.modified, Revision(3));
}

#[tokio::test]
async fn a_directory_that_is_open_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    match Embedded::open(directory.path(), Options::default()) {
        Err(OpenError::AlreadyOpen { path }) => assert!(path.starts_with(directory.path())),
        other => panic!("opened twice: {:?}", other.err()),
    }
    drop(store);
    open(&directory);
}

#[tokio::test]
async fn what_is_too_large_or_ambiguous_is_refused_before_anything_is_done() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { value_bytes_max: 10, key_bytes_max: 10, commit_ops_max: 2, ..Options::default() };
    let store = Embedded::open(directory.path(), options).unwrap();
    let large = store.commit(vec![Op::create("/a", "12345678901")]).await;
    assert!(matches!(large, Err(CommitError::TooLarge { size: 11, limit: 10, .. })), "{large:?}");
    assert!(matches!(
        store.commit(vec![Op::create("/a/long/key", "1")]).await,
        Err(CommitError::TooLarge { size: 11, .. })
    ));
    let three = ["/a", "/b", "/c"].map(|key| Op::create(key, "1")).to_vec();
    assert!(matches!(store.commit(three).await, Err(CommitError::TooLarge { size: 3, limit: 2, .. })));
    let twice = vec![Op::create("/a", "1"), Op::create("/a", "2")];
    assert!(matches!(store.commit(twice).await, Err(CommitError::DuplicateKey { .. })));
    assert_eq!((store.revision(), store.stats().entries), (Revision::ZERO, 0));
    store.commit(vec![Op::create("/a", "1234567890")]).await.unwrap();
}

#[tokio::test]
async fn a_refusal_costs_no_flush_and_shows_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let there = put(&store, "/a", "1").await;
    let syncs = store.stats().syncs;
    match store.commit(vec![Op::update("/a", "2", Revision(9))]).await {
        Err(CommitError::Conflict { key, current }) => assert_eq!((&*key, current), ("/a", Some(there))),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.stats().syncs, syncs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_share_flushes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let alone = store.stats().syncs;
    put(&store, "/first", "1").await;
    let for_one = store.stats().syncs - alone;
    assert!(for_one >= 1, "an acknowledged commit was not flushed");
    let before = store.stats();
    let mut writers = JoinSet::new();
    for writer in 0..64 {
        let store = store.clone();
        writers.spawn(async move {
            for round in 0..20 {
                put(&store, &format!("/w/{writer}/{round}"), "1").await;
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let after = store.stats();
    assert_eq!(after.commits - before.commits, 1280);
    assert_eq!(store.revision(), Revision(1281), "each commit has its own revision");
    let flushes = (after.syncs - before.syncs) / for_one;
    assert!(flushes < 1280 / 4, "{flushes} times the flushes of one commit for 1280 commits");
}

#[tokio::test]
async fn a_watch_starts_where_a_list_ends_and_sees_only_its_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let first = put(&store, "/registry/pods/a/1", "1").await;
    let listing = store.list("/registry/pods/", None, None).await.unwrap();
    let mut watch = store.watch("/registry/pods/", listing.revision).await.unwrap();
    put(&store, "/registry/nodes/n", "1").await;
    let second = put(&store, "/registry/pods/a/1", "2").await;
    store.commit(vec![Op::delete("/registry/pods/a/1", second.modified)]).await.unwrap();
    let mut events = next(&mut watch).await.unwrap();
    while events.len() < 2 {
        events.extend(next(&mut watch).await.unwrap());
    }
    let [updated, deleted] = &events[..] else { panic!("{events:?}") };
    assert_eq!(updated.entry, second);
    assert_eq!(updated.kind, EventKind::Put { previous: Some(first) });
    assert_eq!(deleted.revision, Revision(4));
    assert_eq!((&deleted.entry.value[..], deleted.entry.modified), (&b"2"[..], Revision(4)));
    assert_eq!(deleted.kind, EventKind::Delete { previous: second });
}

#[tokio::test]
async fn progress_is_never_ahead_of_what_was_returned_and_follows_other_keys() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let mut watch = store.watch("/registry/pods/", Revision::ZERO).await.unwrap();
    put(&store, "/registry/nodes/n", "1").await;
    put(&store, "/registry/nodes/n", "2").await;
    assert_eq!(watch.progress().await.unwrap(), Revision(2));
    put(&store, "/registry/pods/a/1", "1").await;
    put(&store, "/registry/nodes/n", "3").await;
    assert_eq!(watch.progress().await.unwrap(), Revision(2), "the Pod's event has not been returned");
    assert_eq!(next(&mut watch).await.unwrap().len(), 1);
    assert_eq!(watch.progress().await.unwrap(), Revision(4));
}

#[tokio::test]
async fn a_watch_cannot_start_in_the_future_or_before_what_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    for value in ["1", "2", "3", "4"] {
        put(&store, "/a", value).await;
    }
    assert!(matches!(store.watch("/", Revision(5)).await, Err(WatchError::Future { current: Revision(4) })));
    store.compact(Revision(3)).await.unwrap();
    assert!(matches!(
        store.watch("/", Revision(1)).await,
        Err(WatchError::Compacted { oldest: Revision(2) })
    ));
    let kept = next(&mut store.watch("/", Revision(2)).await.unwrap()).await.unwrap();
    assert_eq!(kept.iter().map(|e| e.revision.0).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "4", "entries stay");
    store.close().await;
    drop(store);
    // History is not kept over a restart: a watch must begin from a list.
    let again = open(&directory);
    assert!(matches!(
        again.watch("/", Revision(3)).await,
        Err(WatchError::Compacted { oldest: Revision(4) })
    ));
    again.watch("/", Revision(4)).await.unwrap();
}

#[tokio::test]
async fn a_slow_watch_ends_and_delays_neither_writers_nor_others() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { history_events_max: 64, ..Options::default() };
    let store = Embedded::open(directory.path(), options).unwrap();
    let mut slow = store.watch("/registry/pods/", Revision::ZERO).await.unwrap();
    let mut idle = store.watch("/registry/nodes/", Revision::ZERO).await.unwrap();
    let idle = tokio::spawn(async move { idle.next().await.map(|events| events.len()) });
    let mut quick = store.watch("/registry/pods/", Revision::ZERO).await.unwrap();
    for count in 1..=200 {
        put(&store, "/registry/pods/a/1", "1").await;
        assert_eq!(next(&mut quick).await.unwrap().len(), 1);
        assert_eq!(quick.progress().await.unwrap(), Revision(count));
    }
    assert!(matches!(next(&mut slow).await, Err(WatchEnd::Compacted { oldest: Revision(136) })));
    assert!(matches!(next(&mut slow).await, Err(WatchEnd::Compacted { .. })), "an ended watch stays ended");
    // The idle one has seen the ring pass by three times without an event of its own, and has missed nothing.
    put(&store, "/registry/nodes/n", "1").await;
    assert_eq!(timeout(PATIENCE, idle).await.unwrap().unwrap().unwrap(), 1);
}

#[tokio::test]
async fn history_is_bounded_in_bytes_too() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { history_bytes_max: 100_000, ..Options::default() };
    let store = Embedded::open(directory.path(), options).unwrap();
    let value = "x".repeat(30_000);
    for _ in 0..10 {
        put(&store, "/a", &value).await;
    }
    assert!(matches!(store.watch("/", Revision::ZERO).await, Err(WatchError::Compacted { .. })));
    assert_eq!(next(&mut store.watch("/", Revision(9)).await.unwrap()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn watches_return_what_is_there_and_end_when_the_store_closes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let mut watch = store.watch("/", Revision::ZERO).await.unwrap();
    let mut waiting = store.watch("/other", Revision::ZERO).await.unwrap();
    let waiting = tokio::spawn(async move { waiting.next().await.map(|events| events.len()) });
    put(&store, "/a", "1").await;
    store.close().await;
    assert_eq!(next(&mut watch).await.unwrap().len(), 1);
    assert!(matches!(next(&mut watch).await, Err(WatchEnd::Closed)));
    assert!(matches!(timeout(PATIENCE, waiting).await.unwrap().unwrap(), Err(WatchEnd::Closed)));
    assert!(matches!(store.watch("/", Revision(1)).await, Err(WatchError::Closed)));
}

#[tokio::test]
async fn a_damaged_file_is_an_error_or_harmless_but_never_a_panic_or_a_wrong_answer() {
    let original = tempfile::tempdir().unwrap();
    let store = open(&original);
    for number in 0..150 {
        put(&store, &format!("/registry/configmaps/a/{number}"), &"value ".repeat(number * 2)).await;
    }
    // As a crash leaves it: copied while open.
    let crashed = fs::read(original.path().join("store.redb")).unwrap();
    let whole = store.list("", None, None).await.unwrap();
    store.close().await;
    let closed = fs::read(original.path().join("store.redb")).unwrap();
    let mut refused = 0;
    // Damage to the last batch before a crash looks like a batch that was never acknowledged, in any log that is flushed once.
    let last = whole.entries.iter().max_by_key(|entry| entry.modified).unwrap();
    let but_last: Vec<Entry> = whole.entries.iter().filter(|entry| *entry != last).cloned().collect();
    for (image, sound) in [(crashed, vec![&whole.entries, &but_last]), (closed, vec![&whole.entries])] {
        let step = (image.len() / 80).max(1) | 1;
        let flips =
            (0..64).step_by(3).chain((64..image.len()).step_by(step)).map(|place| (place, image.len()));
        let cuts = (0..20).map(|part| (image.len(), image.len() * part / 20 + part));
        for (place, length) in flips.chain(cuts) {
            let mut damaged = image.clone();
            if let Some(byte) = damaged.get_mut(place) {
                *byte ^= 0x5a;
            }
            damaged.truncate(length);
            refused += usize::from(!sound_or_refused(&damaged, &sound, (place, length)).await);
        }
    }
    assert!(refused > 20, "only {refused} of the damaged files were refused");
}

/// True if the file could be opened; then it must hold one of `sound` and take a write.
async fn sound_or_refused(file: &[u8], sound: &[&Vec<Entry>], place: (usize, usize)) -> bool {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("store.redb"), file).unwrap();
    match Embedded::open(directory.path(), Options::default()) {
        // An empty file is a new store: nothing was there to be lost.
        Ok(store) if file.is_empty() => store.revision() == Revision::ZERO,
        Ok(store) => {
            let found = store.list("", None, None).await.unwrap().entries;
            assert!(sound.contains(&&found), "damage at {place:?}: {} entries", found.len());
            put(&store, "/after", "1").await;
            true
        }
        Err(OpenError::Corrupt { .. } | OpenError::Format { .. }) => false,
        Err(other) => panic!("damage at {place:?}: {other:?}"),
    }
}
