//! Each namespace has a ServiceAccount `default` and the ConfigMap `kube-root-ca.crt` with the cluster's root certificate.
//!
//! <https://kubernetes.io/docs/concepts/security/service-accounts/>

use std::collections::BTreeMap;

use hitless_client::{Cache, Outcome, Queue};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};

use crate::{Context, Informers};

const ROOT_CA: &str = "kube-root-ca.crt";

/// What is missing in a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    account: bool,
    root_ca: bool,
}

/// Pure: an active namespace has both; a terminating one gets nothing any more.
fn decide(
    namespace: &Namespace,
    has_account: bool,
    root_ca: Option<&ConfigMap>,
    wanted_ca: Option<&str>,
) -> Plan {
    if namespace.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    let have = root_ca.and_then(|map| map.data.as_ref()).and_then(|data| data.get("ca.crt"));
    Plan {
        account: !has_account,
        root_ca: wanted_ca.is_some_and(|wanted| have.map(String::as_str) != Some(wanted)),
    }
}

/// Starts it.
pub fn start(context: &Context, informers: &mut Informers) {
    let queue = Queue::new();
    let (namespaces, accounts, configmaps) =
        (informers.namespaces.cache(), informers.serviceaccounts.cache(), informers.configmaps.cache());
    let ask = queue.clone();
    informers.namespaces.on_change(move |delta| ask.add(delta.key.clone()));
    let ask = queue.clone();
    informers.serviceaccounts.on_change(move |delta| ask.add(namespace_of(&delta.key)));
    let ask = queue.clone();
    informers.configmaps.on_change(move |delta| ask.add(namespace_of(&delta.key)));
    let (client, root_ca) = (context.client.clone(), context.options.root_ca_pem.clone());
    context.work(&queue, 1, move |name| {
        let (namespaces, accounts, configmaps): (Cache<Namespace>, Cache<ServiceAccount>, Cache<ConfigMap>) =
            (namespaces.clone(), accounts.clone(), configmaps.clone());
        let (client, root_ca) = (client.clone(), root_ca.clone());
        async move {
            let Some(namespace) = namespaces.get(&name) else { return Outcome::Done };
            let map = configmaps.get(&format!("{name}/{ROOT_CA}"));
            let has_account = accounts.get(&format!("{name}/default")).is_some();
            let plan = decide(&namespace, has_account, map.as_deref(), root_ca.as_deref());
            match apply(&client, &name, &plan, map.is_some(), root_ca.as_deref()).await {
                Ok(()) => Outcome::Done,
                Err(error)
                    if hitless_client::is_not_found(&error) || hitless_client::is_code(&error, 403) =>
                {
                    Outcome::Done
                }
                Err(_) => Outcome::Retry,
            }
        }
    });
}

fn namespace_of(key: &str) -> String {
    hitless_types::meta::split_key(key).0.to_owned()
}

async fn apply(
    client: &Client,
    namespace: &str,
    plan: &Plan,
    map_exists: bool,
    root_ca: Option<&str>,
) -> Result<(), kube::Error> {
    let meta = |name: &str| ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    };
    // The account comes last: a Pod that runs as it finds the certificate in place.
    if let (true, Some(pem)) = (plan.root_ca, root_ca) {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let data = BTreeMap::from([("ca.crt".to_owned(), pem.to_owned())]);
        let mut metadata = meta(ROOT_CA);
        let words = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
                     internal service IP or kubernetes.default.svc.";
        let annotation = ("kubernetes.io/description".to_owned(), words.to_owned());
        metadata.annotations = Some(BTreeMap::from([annotation]));
        let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
        if map_exists {
            api.replace(ROOT_CA, &PostParams::default(), &map).await?;
        } else {
            there(api.create(&PostParams::default(), &map).await)?;
        }
    }
    if plan.account {
        let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        let account = ServiceAccount { metadata: meta("default"), ..ServiceAccount::default() };
        there(api.create(&PostParams::default(), &account).await)?;
    }
    Ok(())
}

/// Made now or by somebody else before: both are as wanted.
fn there<K>(answer: Result<K, kube::Error>) -> Result<(), kube::Error> {
    match answer {
        Err(error) if !hitless_client::is_conflict(&error) => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_namespace_gets_what_it_lacks_and_a_terminating_one_nothing() {
        let mut namespace = Namespace::default();
        assert_eq!(decide(&namespace, false, None, Some("pem")), Plan { account: true, root_ca: true });
        let old = ConfigMap {
            data: Some(BTreeMap::from([("ca.crt".into(), "old".into())])),
            ..ConfigMap::default()
        };
        assert_eq!(decide(&namespace, true, Some(&old), Some("pem")), Plan { account: false, root_ca: true });
        assert_eq!(decide(&namespace, true, Some(&old), Some("old")), Plan::default());
        namespace.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(hitless_base::Timestamp::UNIX_EPOCH));
        assert_eq!(decide(&namespace, false, None, Some("pem")), Plan::default());
    }
}
