//! What a scenario has done to the cluster outside its namespace, so that it can be undone however the scenario ends.
//!
//! Each entry is made before the deed, so a scenario that is dropped in the middle of a request leaves nothing behind.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use hitless_types::{EndpointConsumer, well_known};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

/// A deed to undo.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Undo {
    /// Make the node schedulable again.
    Uncordon(String),
    /// Take the lag from the consumer.
    RemoveLag(String),
}

/// Every deed that is not undone yet.
#[derive(Default)]
pub(crate) struct Undos(Mutex<BTreeSet<Undo>>);

impl Undos {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<Undo>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before the deed.
    pub fn add(&self, undo: Undo) {
        self.lock().insert(undo);
    }

    /// Undoes one deed.
    pub async fn run(&self, client: &Client, undo: &Undo) -> Result<(), kube::Error> {
        let done = match undo {
            Undo::Uncordon(node) => Api::<Node>::all(client.clone()).uncordon(node).await.map(drop),
            Undo::RemoveLag(consumer) => set_lag(client, consumer, None).await,
        };
        match done {
            Err(error) if !hitless_client::is_not_found(&error) => Err(error),
            _ => {
                self.lock().remove(undo);
                Ok(())
            }
        }
    }

    /// Undoes what is left; returns what could not be undone.
    pub async fn run_all(&self, client: &Client) -> Vec<String> {
        let left: Vec<Undo> = self.lock().iter().cloned().collect();
        let mut problems = Vec::new();
        for undo in left {
            if let Err(error) = self.run(client, &undo).await {
                problems.push(format!("could not undo {undo:?}: {}", hitless_base::chain(&error)));
            }
        }
        problems
    }
}

/// Makes a service proxy take each change so much later, or none later.
pub(crate) async fn set_lag(client: &Client, consumer: &str, lag_ms: Option<u64>) -> Result<(), kube::Error> {
    let lag = lag_ms.map(|ms| format!("{ms}ms"));
    let patch = json!({"metadata": {"annotations": {well_known::ANNOTATION_FAULT_LAG: lag}}});
    let consumers: Api<EndpointConsumer> = Api::all(client.clone());
    consumers.patch(consumer, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}
