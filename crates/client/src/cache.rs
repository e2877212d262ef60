//! What is, kept up to date by a list-and-watch: the state that decisions are made from.
//!
//! A cache is read as a level. Handlers only say which objects are worth another look.

use std::{collections::HashMap, sync::Arc};

use hitless_base::Revision;
use hitless_types::meta;
use kube::Api;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Change, Object, Selection, listwatch::list_watch};

/// One object's step from one state to the next.
#[derive(Clone, Debug)]
pub struct Delta<K> {
    /// `namespace/name`, or `name`.
    pub key: String,
    /// State before; `None`: it is new.
    pub before: Option<Arc<K>>,
    /// State now; `None`: it is gone.
    pub after: Option<Arc<K>>,
    /// It came with a list: steps in between may have gone unseen. Otherwise it is exactly one step of the stream.
    pub listed: bool,
}

impl<K> Delta<K> {
    /// The state now, or the last one of what is gone.
    pub fn latest(&self) -> Option<&Arc<K>> {
        self.after.as_ref().or(self.before.as_ref())
    }
}

struct State<K> {
    objects: HashMap<String, Arc<K>>,
    revision: Revision,
    synced: bool,
}

/// All objects of a selection, by key. Cheap to clone; all clones see the same.
pub struct Cache<K> {
    state: Arc<RwLock<State<K>>>,
    version: watch::Receiver<u64>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), version: self.version.clone() }
    }
}

impl<K> Cache<K> {
    /// The object under `namespace/name` (or `name`).
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<K>> {
        self.state.read().objects.get(key).cloned()
    }

    /// All objects, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// All objects and the position of the stream that they are true at, read together.
    #[must_use]
    pub fn snapshot(&self) -> (Vec<Arc<K>>, Revision) {
        let state = self.state.read();
        (state.objects.values().cloned().collect(), state.revision)
    }

    /// How far the stream has come: the cache holds every change of its selection up to here.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.state.read().revision
    }

    /// Whether the first list has arrived.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.state.read().synced
    }

    /// Resolves when the first list has arrived and every handler has seen it.
    pub async fn synced(&self) {
        let mut version = self.version.clone();
        // The first change is the list, and the number moves after the handlers have run: what they build is complete then.
        while *version.borrow_and_update() == 0 {
            if version.changed().await.is_err() {
                // The reflector has ended, so this will never resolve: its owner is ending too.
                std::future::pending::<()>().await;
            }
        }
    }

    /// A receiver that sees a new number after each change (and bookmark). Read the level after it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }
}

type Handler<K> = Box<dyn FnMut(&Delta<K>) + Send>;

/// Builds a [`Cache`]: which objects, and who is told of each step.
pub struct Reflector<K> {
    api: Api<K>,
    selection: Selection,
    handlers: Vec<Handler<K>>,
    cache: Cache<K>,
    tell: watch::Sender<u64>,
}

impl<K: Object> Reflector<K> {
    /// All objects behind `api`.
    #[must_use]
    pub fn new(api: Api<K>) -> Self {
        let state =
            Arc::new(RwLock::new(State { objects: HashMap::new(), revision: Revision::ZERO, synced: false }));
        let (tell, version) = watch::channel(0_u64);
        Self {
            api,
            selection: Selection::default(),
            handlers: Vec::new(),
            cache: Cache { state, version },
            tell,
        }
    }

    /// Only objects that the field selector matches.
    #[must_use]
    pub fn fields(mut self, selector: &str) -> Self {
        self.selection.fields = Some(selector.to_owned());
        self
    }

    /// Only objects that the label selector matches.
    #[must_use]
    pub fn labels(mut self, selector: &str) -> Self {
        self.selection.labels = Some(selector.to_owned());
        self
    }

    /// Calls `handler` for each step, after the cache shows it. It must not block.
    pub fn on_change(&mut self, handler: impl FnMut(&Delta<K>) + Send + 'static) {
        self.handlers.push(Box::new(handler));
    }

    /// The cache that [`Reflector::start`] will fill; empty and not synced before.
    #[must_use]
    pub fn cache(&self) -> Cache<K> {
        self.cache.clone()
    }

    /// Starts the list-and-watch as a task of `tasks` that ends with `cancel`.
    pub fn start(self, tasks: &TaskTracker, cancel: &CancellationToken) -> Cache<K> {
        let Self { api, selection, mut handlers, cache, tell } = self;
        let (state, cancel) = (cache.state.clone(), cancel.clone());
        tasks.spawn(async move {
            list_watch(api, selection, cancel, move |change| {
                for delta in take(&state, change) {
                    for handler in &mut handlers {
                        handler(&delta);
                    }
                }
                tell.send_modify(|n| *n = n.wrapping_add(1));
            })
            .await;
        });
        cache
    }
}

/// Puts a change into the state and gives the steps that it means.
fn take<K: Object>(state: &RwLock<State<K>>, change: Change<K>) -> Vec<Delta<K>> {
    let mut state = state.write();
    match change {
        Change::Listed { objects, revision } => {
            let mut before = std::mem::take(&mut state.objects);
            let mut deltas = Vec::new();
            for object in objects {
                let key = meta::key(object.metadata());
                let after = Arc::new(object);
                let old = before.remove(&key);
                state.objects.insert(key.clone(), after.clone());
                deltas.push(Delta { key, before: old, after: Some(after), listed: true });
            }
            let gone = |(key, old)| Delta { key, before: Some(old), after: None, listed: true };
            deltas.extend(before.into_iter().map(gone));
            state.revision = revision;
            state.synced = true;
            deltas
        }
        Change::Applied(object) => {
            let key = meta::key(object.metadata());
            state.revision = state.revision.max(meta::revision(object.metadata()));
            let after = Arc::new(object);
            let before = state.objects.insert(key.clone(), after.clone());
            vec![Delta { key, before, after: Some(after), listed: false }]
        }
        Change::Deleted(object) => {
            let key = meta::key(object.metadata());
            state.revision = state.revision.max(meta::revision(object.metadata()));
            state.objects.remove(&key);
            vec![Delta { key, before: Some(Arc::new(object)), after: None, listed: false }]
        }
        Change::Reached(revision) => {
            state.revision = state.revision.max(revision);
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    use super::*;

    fn object(name: &str, revision: u64) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                resource_version: Some(revision.to_string()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        }
    }

    #[test]
    fn a_new_list_tells_of_what_went_unseen() {
        let state = RwLock::new(State { objects: HashMap::new(), revision: Revision::ZERO, synced: false });
        take(&state, Change::Listed { objects: vec![object("a", 1), object("b", 2)], revision: Revision(2) });
        let deltas = take(&state, Change::Listed { objects: vec![object("b", 2)], revision: Revision(9) });
        let gone: Vec<_> = deltas.iter().filter(|d| d.after.is_none()).map(|d| d.key.as_str()).collect();
        assert_eq!(gone, ["ns/a"]);
        assert!(deltas.iter().all(|d| d.listed));
        assert!(take(&state, Change::Applied(object("b", 10))).iter().all(|d| !d.listed));
        assert_eq!(state.read().revision, Revision(10));
    }

    #[test]
    fn a_volatile_change_does_not_move_the_position_back() {
        let state = RwLock::new(State { objects: HashMap::new(), revision: Revision::ZERO, synced: false });
        take(&state, Change::Listed { objects: vec![object("a", 1)], revision: Revision(5) });
        take(&state, Change::Applied(object("a", 1)));
        assert_eq!(state.read().revision, Revision(5));
    }
}
