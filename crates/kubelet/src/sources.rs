//! ConfigMaps and Secrets that a Pod names, fetched when needed.
//!
//! Fetched, not watched: a node sees only what its Pods name, and only when a container starts or volumes are refreshed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Secret, Volume};
use kube::{Api, Client};

/// Kind and name of an object in the Pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// A ConfigMap.
    ConfigMap(String),
    /// A Secret.
    Secret(String),
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ConfigMap(name) => write!(f, "configmap {name:?}"),
            Self::Secret(name) => write!(f, "secret {name:?}"),
        }
    }
}

/// An object could not be fetched (other than that it is not there).
#[derive(Debug, thiserror::Error)]
#[error("failed to fetch {reference}")]
pub struct SourceError {
    /// Which.
    pub reference: Reference,
    /// Why.
    #[source]
    pub source: Box<kube::Error>,
}

/// The data of one object.
pub type Data = BTreeMap<String, Vec<u8>>;

/// What was found, by reference; `None`: it is not there.
#[derive(Clone, Debug, Default)]
pub struct Sources(pub HashMap<Reference, Option<Data>>);

impl Sources {
    /// Data of the object; `None`: it is not there (or was not asked for).
    #[must_use]
    pub fn data(&self, reference: &Reference) -> Option<&Data> {
        self.0.get(reference)?.as_ref()
    }
}

/// What the container's environment names.
#[must_use]
pub fn of_container(container: &Container) -> BTreeSet<Reference> {
    let mut all = BTreeSet::new();
    for source in container.env_from.iter().flatten() {
        all.extend(source.config_map_ref.as_ref().map(|r| Reference::ConfigMap(r.name.clone())));
        all.extend(source.secret_ref.as_ref().map(|r| Reference::Secret(r.name.clone())));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        all.extend(source.config_map_key_ref.as_ref().map(|r| Reference::ConfigMap(r.name.clone())));
        all.extend(source.secret_key_ref.as_ref().map(|r| Reference::Secret(r.name.clone())));
    }
    all
}

/// What the volume names.
#[must_use]
pub fn of_volume(volume: &Volume) -> BTreeSet<Reference> {
    let mut all = BTreeSet::new();
    all.extend(volume.config_map.as_ref().map(|c| Reference::ConfigMap(c.name.clone())));
    let secret_name = volume.secret.as_ref().and_then(|s| s.secret_name.clone());
    all.extend(secret_name.map(Reference::Secret));
    for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
        all.extend(source.config_map.as_ref().map(|c| Reference::ConfigMap(c.name.clone())));
        all.extend(source.secret.as_ref().map(|s| Reference::Secret(s.name.clone())));
    }
    all
}

/// What all volumes of the Pod name.
#[must_use]
pub fn of_volumes(spec: &PodSpec) -> BTreeSet<Reference> {
    spec.volumes.iter().flatten().flat_map(of_volume).collect()
}

/// Fetches each of `references`.
///
/// # Errors
/// The API's error for the first that could not be fetched; one that is not there is no error.
pub async fn fetch(
    client: &Client,
    namespace: &str,
    references: BTreeSet<Reference>,
) -> Result<Sources, SourceError> {
    let mut found = HashMap::new();
    for reference in references {
        let data = match &reference {
            Reference::ConfigMap(name) => Api::<ConfigMap>::namespaced(client.clone(), namespace)
                .get_opt(name)
                .await
                .map(|o| o.map(config_data)),
            Reference::Secret(name) => Api::<Secret>::namespaced(client.clone(), namespace)
                .get_opt(name)
                .await
                .map(|o| o.map(secret_data)),
        };
        match data {
            Ok(data) => found.insert(reference, data),
            Err(source) => return Err(SourceError { reference, source: Box::new(source) }),
        };
    }
    Ok(Sources(found))
}

fn config_data(object: ConfigMap) -> Data {
    let text = object.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes()));
    let bytes = object.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0));
    text.chain(bytes).collect()
}

fn secret_data(object: Secret) -> Data {
    object.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect()
}
