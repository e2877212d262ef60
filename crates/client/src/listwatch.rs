//! List, then watch from there, for ever: the one way in which a room follows the API.
//!
//! Unlike the usual watchers it hands the revision through: a consumer's watermark is the position of its
//! stream, so the position after a list, an event or a bookmark must be known exactly.
//!
//! Invariant: revisions handed out rise, but for a new list after a 410 of an API server that was restored.

use std::time::Duration;

use futures::StreamExt;
use hitless_base::{Backoff, Revision};
use hitless_types::meta;
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio_util::sync::CancellationToken;

use crate::Object;

/// Which objects of a kind.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// A label selector, as kubectl writes it.
    pub labels: Option<String>,
    /// A field selector, as kubectl writes it.
    pub fields: Option<String>,
}

/// What the stream says. Each is true as of its revision.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// Everything there is, as of `revision`. Comes first, and again when the watch had to start anew.
    Listed {
        /// All objects.
        objects: Vec<K>,
        /// The list's position.
        revision: Revision,
    },
    /// Added or modified; the object carries its revision.
    Applied(K),
    /// Deleted; the object carries the deletion's revision.
    Deleted(K),
    /// A bookmark: nothing else changed up to here.
    Reached(Revision),
}

/// Pages of a list.
const PAGE_OBJECTS: u32 = 1000;

/// Longest life of one watch call; the server may end it sooner.
const WATCH_TIMEOUT_S: u32 = 290;

/// Lists, then watches, and gives each change to `sink`, until `cancel`.
pub async fn list_watch<K: Object>(
    api: Api<K>,
    selection: Selection,
    cancel: CancellationToken,
    mut sink: impl FnMut(Change<K>) + Send,
) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
    let mut position: Option<Revision> = None;
    while !cancel.is_cancelled() {
        let round = tokio::select! {
            () = cancel.cancelled() => return,
            round = round(&api, &selection, &mut position, &mut sink) => round,
        };
        match round {
            Ok(()) => backoff.reset(),
            Err(error) => {
                if gone(&error) {
                    position = None;
                }
                tracing::debug!(kind = K::KIND, error = %hitless_base::chain(&error), "watch ended, will go on");
                let pause = backoff.step_with_jitter();
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

/// One list (if there is no position yet) and one watch call to its end.
async fn round<K: Object>(
    api: &Api<K>,
    selection: &Selection,
    position: &mut Option<Revision>,
    sink: &mut (impl FnMut(Change<K>) + Send),
) -> Result<(), kube::Error> {
    let from = match *position {
        Some(revision) => revision,
        None => {
            let (objects, revision) = list(api, selection).await?;
            sink(Change::Listed { objects, revision });
            *position = Some(revision);
            revision
        }
    };
    let params = WatchParams {
        label_selector: selection.labels.clone(),
        field_selector: selection.fields.clone(),
        timeout: Some(WATCH_TIMEOUT_S),
        bookmarks: true,
        ..WatchParams::default()
    };
    let mut stream = api.watch(&params, &from.to_string()).await?.boxed();
    while let Some(event) = stream.next().await {
        let (revision, change) = match event? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                (meta::revision(object.metadata()), Change::Applied(light(object)))
            }
            WatchEvent::Deleted(object) => {
                (meta::revision(object.metadata()), Change::Deleted(light(object)))
            }
            WatchEvent::Bookmark(mark) => {
                let revision = mark.metadata.resource_version.parse().unwrap_or_default();
                (revision, Change::Reached(revision))
            }
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        };
        // A volatile status comes with its object's old revision: the position does not fall.
        *position = (*position).max(Some(revision));
        sink(change);
    }
    Ok(())
}

async fn list<K: Object>(api: &Api<K>, selection: &Selection) -> Result<(Vec<K>, Revision), kube::Error> {
    let mut params = ListParams {
        label_selector: selection.labels.clone(),
        field_selector: selection.fields.clone(),
        limit: Some(PAGE_OBJECTS),
        ..ListParams::default()
    };
    let mut objects = Vec::new();
    loop {
        let page = api.list(&params).await?;
        objects.extend(page.items.into_iter().map(light));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => {
                let revision =
                    Revision::from_field(page.metadata.resource_version.as_deref()).unwrap_or_default();
                return Ok((objects, revision));
            }
        }
    }
}

/// The object without the record of who wrote what: nobody here reads it, and it is as large as the object. Whoever
/// writes the object back loses nothing by that.
fn light<K: Object>(mut object: K) -> K {
    object.metadata_mut().managed_fields = None;
    object
}

/// Whether the position is no longer to be had, so that a new list is due.
fn gone(error: &kube::Error) -> bool {
    crate::is_code(error, 410)
}
