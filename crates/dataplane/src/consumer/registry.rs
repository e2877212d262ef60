//! What a consumer says to the API about itself: its registration, its watermark, its leave.

use std::time::Duration;

use hitless_base::{Clock, Revision};
use hitless_client::{is_code, is_conflict, is_not_found};
use hitless_types::{
    EndpointConsumer, SettleScope,
    consumer::{AckClass, EndpointConsumerSpec},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

/// Silence longer than this takes the consumer out of the required set.
pub const LEASE_S: u64 = 40;
/// A call that takes longer has failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts to register against others who change the same object.
const ATTEMPTS_MAX: u32 = 5;

/// Why the API did not take the consumer's word.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The word belongs to an incarnation that is not (or no longer) registered.
    #[error("the registration is gone or was taken over")]
    NotRegistered(#[source] kube::Error),
    /// The API refused, or could not be reached.
    #[error("the API did not take it")]
    Api(#[source] kube::Error),
    /// No answer in time.
    #[error("no answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
    /// Others changed the object each time.
    #[error("the registration was changed by others in each of {ATTEMPTS_MAX} attempts")]
    Contended,
}

/// Who a consumer is. All but its incarnation, which is new at every start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the object, by role and place: `service-proxy-node-1`.
    pub name: String,
    /// `ServiceProxy`, `Ingress`, `DNS`, ...
    pub type_: &'static str,
    /// The node that it serves, where it serves one.
    pub node_name: Option<String>,
    /// What its word rests on.
    pub ack_class: AckClass,
    /// Waited after its word, for what it cannot see. Milliseconds.
    pub settle_milliseconds: u64,
    /// Whose end that is waited for.
    pub settle_scope: SettleScope,
}

/// Registers a consumer under a new incarnation; what else the object carries (annotations) is kept.
pub async fn register(
    client: Client,
    identity: Identity,
    incarnation: String,
    clock: &dyn Clock,
) -> Result<EndpointConsumer, RegistryError> {
    let name = identity.name;
    let spec = EndpointConsumerSpec {
        type_: identity.type_.to_owned(),
        node_name: identity.node_name,
        incarnation,
        ack_class: identity.ack_class,
        settle_milliseconds: identity.settle_milliseconds,
        settle_scope: identity.settle_scope,
        lease_duration_seconds: LEASE_S,
    };
    let api: Api<EndpointConsumer> = Api::all(client);
    for _ in 0..ATTEMPTS_MAX {
        let present = in_time(clock, api.get_opt(&name)).await?;
        let written = match present {
            None => {
                in_time(
                    clock,
                    api.create(&PostParams::default(), &EndpointConsumer::new(&name, spec.clone())),
                )
                .await
            }
            Some(present) => {
                let object = EndpointConsumer { spec: spec.clone(), status: None, ..present };
                in_time(clock, api.replace(&name, &PostParams::default(), &object)).await
            }
        };
        match written {
            Err(RegistryError::Api(error)) if is_conflict(&error) || is_not_found(&error) => {}
            other => return other,
        }
    }
    Err(RegistryError::Contended)
}

/// Says the watermark.
pub async fn report(
    client: Client,
    name: &str,
    incarnation: &str,
    revision: Revision,
    clock: &dyn Clock,
) -> Result<(), RegistryError> {
    let api: Api<EndpointConsumer> = Api::all(client);
    let status = json!({"status": {"observedRevision": revision.0, "incarnation": incarnation}});
    let (params, patch) = (PatchParams::default(), Patch::Merge(&status));
    match in_time(clock, api.patch_status(name, &params, &patch)).await {
        Ok(_) => Ok(()),
        Err(RegistryError::Api(error))
            if is_not_found(&error) || is_conflict(&error) || is_code(&error, 422) =>
        {
            Err(RegistryError::NotRegistered(error))
        }
        Err(other) => Err(other),
    }
}

/// Takes a consumer out of the required set, for when it stops for good. Nothing to do if it is not registered.
pub async fn deregister(client: Client, name: &str) -> Result<(), kube::Error> {
    let api: Api<EndpointConsumer> = Api::all(client);
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn in_time<T>(
    clock: &dyn Clock,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, RegistryError> {
    tokio::select! {
        result = call => result.map_err(RegistryError::Api),
        () = clock.sleep(CALL_TIMEOUT) => Err(RegistryError::Timeout),
    }
}
