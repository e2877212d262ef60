//! One list-and-watch for each kind, shared by all controllers: an object is decoded and held once.

use hitless_client::Reflector;
use hitless_types::EndpointConsumer;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    coordination::v1::Lease,
    core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
    policy::v1::PodDisruptionBudget,
};
use kube::{Api, Client};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::Context;

/// The reflectors, before they start: controllers take caches and add handlers.
#[expect(missing_docs, reason = "each field is the kind that it is named after")]
pub struct Informers {
    pub pods: Reflector<Pod>,
    pub services: Reflector<Service>,
    pub endpoints: Reflector<Endpoints>,
    pub endpointslices: Reflector<EndpointSlice>,
    pub consumers: Reflector<EndpointConsumer>,
    pub deployments: Reflector<Deployment>,
    pub replicasets: Reflector<ReplicaSet>,
    pub budgets: Reflector<PodDisruptionBudget>,
    pub nodes: Reflector<Node>,
    pub leases: Reflector<Lease>,
    pub namespaces: Reflector<Namespace>,
    pub serviceaccounts: Reflector<ServiceAccount>,
    pub configmaps: Reflector<ConfigMap>,
    pub ingresses: Reflector<Ingress>,
    pub classes: Reflector<IngressClass>,
}

impl Informers {
    /// Reflectors of everything that controllers look at, over `client`.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        let c = || client.clone();
        Self {
            pods: Reflector::new(Api::all(c())),
            services: Reflector::new(Api::all(c())),
            endpoints: Reflector::new(Api::all(c())),
            endpointslices: Reflector::new(Api::all(c())),
            consumers: Reflector::new(Api::all(c())),
            deployments: Reflector::new(Api::all(c())),
            replicasets: Reflector::new(Api::all(c())),
            budgets: Reflector::new(Api::all(c())),
            nodes: Reflector::new(Api::all(c())),
            leases: Reflector::new(Api::namespaced(c(), hitless_types::well_known::NAMESPACE_NODE_LEASE)),
            namespaces: Reflector::new(Api::all(c())),
            serviceaccounts: Reflector::new(Api::all(c())),
            // Only the root certificate's ConfigMap of each namespace is of interest to a controller.
            configmaps: Reflector::new(Api::all(c())).fields("metadata.name=kube-root-ca.crt"),
            ingresses: Reflector::new(Api::all(c())),
            classes: Reflector::new(Api::all(c())),
        }
    }

    /// Starts them all, and lets the controllers' workers begin when each has its first list.
    pub fn start(self, context: &Context) {
        let (tasks, cancel): (&TaskTracker, &CancellationToken) = (&context.tasks, &context.cancel);
        let pods = self.pods.start(tasks, cancel);
        let services = self.services.start(tasks, cancel);
        let endpoints = self.endpoints.start(tasks, cancel);
        let endpointslices = self.endpointslices.start(tasks, cancel);
        let consumers = self.consumers.start(tasks, cancel);
        let deployments = self.deployments.start(tasks, cancel);
        let replicasets = self.replicasets.start(tasks, cancel);
        let budgets = self.budgets.start(tasks, cancel);
        let nodes = self.nodes.start(tasks, cancel);
        let leases = self.leases.start(tasks, cancel);
        let namespaces = self.namespaces.start(tasks, cancel);
        let serviceaccounts = self.serviceaccounts.start(tasks, cancel);
        let configmaps = self.configmaps.start(tasks, cancel);
        let ingresses = self.ingresses.start(tasks, cancel);
        let classes = self.classes.start(tasks, cancel);
        let context = context.clone();
        context.tasks.clone().spawn(async move {
            let all = async {
                tokio::join!(
                    pods.synced(),
                    services.synced(),
                    endpoints.synced(),
                    endpointslices.synced(),
                    consumers.synced(),
                    deployments.synced(),
                    replicasets.synced(),
                    budgets.synced(),
                    nodes.synced(),
                    leases.synced(),
                    namespaces.synced(),
                    serviceaccounts.synced(),
                    configmaps.synced(),
                    ingresses.synced(),
                    classes.synced(),
                );
            };
            tokio::select! {
                () = context.cancel.cancelled() => {}
                () = all => context.caches_synced(),
            }
        });
    }
}
