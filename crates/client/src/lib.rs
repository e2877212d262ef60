//! The Kubernetes client as the rooms above use it: list-and-watch with revisions, caches, work
//! queues and events, over HTTP or in process.
//!
//! Nothing here knows which API server answers.

pub mod cache;
pub mod connect;
pub mod events;
pub mod listwatch;
pub mod queue;

pub use cache::{Cache, Delta, Reflector};
pub use events::Recorder;
pub use listwatch::{Change, Selection};
pub use queue::{Outcome, Queue};

/// An object that caches, queues and reflectors can hold: every built-in type and [`hitless_types::EndpointConsumer`].
pub trait Object:
    k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>
    + Clone
    + std::fmt::Debug
    + serde::de::DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// Whether the API's answer has this HTTP code.
#[must_use]
pub fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Whether the object is not there (404).
#[must_use]
pub fn is_not_found(error: &kube::Error) -> bool {
    is_code(error, 404)
}

/// Whether the object is there already, or was changed meanwhile (409).
#[must_use]
pub fn is_conflict(error: &kube::Error) -> bool {
    is_code(error, 409)
}
