//! Events are kept for an hour, as in Kubernetes: without that they would fill the store.
//!
//! Level, not edge: every few minutes whatever is too old is deleted, whoever wrote it and however often the server began
//! anew meanwhile.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hitless_base::Timestamp;
use hitless_store::{CommitError, Op};
use hitless_types::kinds;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{codec, codec::text, core::Core, fault::Fault, route};

/// How long an Event is kept after it was last seen.
const KEPT: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
const PERIOD: Duration = Duration::from_secs(300);
const PAGE_ENTRIES: usize = 500;
/// Deletions in one commit.
const BATCH_OPS: usize = 100;

/// A future that sweeps until `cancel`, if nobody does so yet.
pub(crate) fn keep_sweeping(
    core: &Arc<Core>,
    cancel: CancellationToken,
) -> Option<impl Future<Output = ()> + Send + 'static> {
    if core.swept.swap(true, Ordering::Relaxed) {
        return None;
    }
    let core = Arc::clone(core);
    Some(async move {
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                () = core.options.clock.sleep(PERIOD) => {}
            }
            if let Err(fault) = sweep(&core).await {
                tracing::warn!(%fault, "expired Events could not be deleted; the next round tries again");
            }
        }
        core.swept.store(false, Ordering::Relaxed);
    })
}

/// Deletes every Event that is too old. Gives how many there were.
pub(crate) async fn sweep(core: &Core) -> Result<usize, Fault> {
    let events = kinds::by_path("", "v1", "events").ok_or_else(Fault::no_resource)?;
    let (prefix, now) = (route::prefix(events, ""), core.now());
    let (mut after, mut count): (Option<String>, usize) = (None, 0);
    loop {
        let listing = core.store.list(&prefix, Some(PAGE_ENTRIES), after.as_deref()).await?;
        let mut old = Vec::new();
        for entry in &listing.entries {
            if is_expired(&codec::decode(events, entry)?, now) {
                old.push(Op::delete(entry.key.clone(), entry.modified));
            }
        }
        count += old.len();
        for batch in old.chunks(BATCH_OPS) {
            match core.store.commit(batch.to_vec()).await {
                // One of them was seen again meanwhile; the next round takes the others.
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match listing.entries.last() {
            Some(last) if listing.more => after = Some(last.key.as_str().to_owned()),
            _ => return Ok(count),
        }
    }
}

/// Whether the Event was last seen too long ago.
fn is_expired(event: &Value, now: Timestamp) -> bool {
    let times = ["/metadata/creationTimestamp", "/lastTimestamp", "/eventTime", "/series/lastObservedTime"];
    let last = times.iter().filter_map(|at| text(event, at).parse::<Timestamp>().ok()).max();
    last.is_some_and(|last| now.duration_since(last) > KEPT)
}

#[cfg(test)]
mod tests {
    use std::{pin::Pin, sync::atomic::AtomicI64};

    use hitless_base::Clock;
    use serde_json::json;

    use super::*;
    use crate::{
        Identity, Options,
        route::Place,
        strategy::FieldValidation,
        write::{How, create},
    };

    struct SetClock(AtomicI64);

    impl Clock for SetClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_second(self.0.load(Ordering::Relaxed)).unwrap()
        }
        fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(tokio::time::sleep(duration))
        }
    }

    #[tokio::test]
    async fn an_event_goes_an_hour_after_it_was_last_seen() {
        let directory = tempfile::tempdir().unwrap();
        let store =
            hitless_store::Embedded::open(directory.path(), hitless_store::Options::default()).unwrap();
        let clock = Arc::new(SetClock(AtomicI64::new(1_000_000_000)));
        let core = Core::new(Arc::new(store), Options { clock: clock.clone(), ..Options::default() });
        crate::bootstrap::run(&core).await.unwrap();
        let kind = kinds::by_path("", "v1", "events").unwrap();
        let identity = Identity::master("test");
        let how = How { validation: FieldValidation::Strict, ..How::server(&identity) };
        for (name, last) in [("old", "2001-09-09T01:46:40Z"), ("seen-again", "2001-09-09T02:46:40Z")] {
            let event = json!({
                "metadata": {"name": name}, "reason": "x", "lastTimestamp": last,
                "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
            });
            create(&core, &Place::object(kind, "default", ""), event, &how).await.unwrap();
        }
        assert_eq!(sweep(&core).await.unwrap(), 0);
        clock.0.fetch_add(3700, Ordering::Relaxed);
        assert_eq!(sweep(&core).await.unwrap(), 1);
        assert!(core.load(kind, "default", "seen-again").await.unwrap().is_some());
        assert!(core.load(kind, "default", "old").await.unwrap().is_none());
    }
}
