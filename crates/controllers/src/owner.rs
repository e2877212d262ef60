//! Owner references as controllers write them.

use hitless_client::Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// The reference that makes `owner` the controller of what carries it.
pub fn controller_reference<K: Object>(owner: &K) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
