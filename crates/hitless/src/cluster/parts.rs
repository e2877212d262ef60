//! The control plane in this process: store, API server, controllers, scheduler.

use std::sync::Arc;

use anyhow::{Context, Result};
use hitless_apiserver::{ApiServer, Identity, TokenKey, pki};
use hitless_base::SystemClock;
use hitless_client::Reflector;
use hitless_drivers::node::{import::Archive, plan::ClusterPlan};
use hitless_images::ImageArchive;
use hitless_store::{Embedded, OpenError};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::{net::TcpListener, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Files;
use crate::{fault::Fault, steps::Steps};

/// The control plane, running.
pub struct Control {
    /// Who may do everything, in this process.
    pub client: Client,
    ca: Arc<pki::Ca>,
    store: Embedded,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Control {
    /// Starts it; the API answers when this returns.
    pub async fn start(
        plan: &ClusterPlan,
        files: &Files,
        loop_on: bool,
        local: TcpListener,
        steps: &dyn Steps,
    ) -> Result<Self> {
        let began = Instant::now();
        let port = local.local_addr()?.port();
        let store = open_store(files).await?;
        let ca = Arc::new(pki::Ca::load_or_create(&files.pki())?);
        let kubelets = ca.issue_client("kube-apiserver-kubelet-client", &["system:masters"])?;
        let options = hitless_apiserver::Options {
            clock: Arc::new(SystemClock),
            service_cidr: plan.service_net,
            cluster_dns: Some(plan.dns_address),
            advertise: Some((plan.machine_address, port).into()),
            loop_on,
            kubelet_client: Some(ca.client_config(&kubelets)?),
            token_key: Some(Arc::new(TokenKey::load_or_create(&files.pki())?)),
            ..hitless_apiserver::Options::default()
        };
        let api = ApiServer::new(Arc::new(store.clone()), options).await?;
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        serve(&api, &ca, plan, local, &tasks, &cancel).await?;
        let admin = ca.issue_client("kubernetes-admin", &["system:masters"])?;
        let server = format!("https://127.0.0.1:{port}");
        pki::write_kubeconfig(
            &files.kubeconfig(),
            &ca.kubeconfig(&plan.name, &server, "kubernetes-admin", &admin),
        )?;
        steps.done(&format!("API server at {server}"), began.elapsed());

        let as_who = |name: &str| hitless_client::connect::in_process(api.in_process(Identity::master(name)));
        let options = hitless_controllers::context::Options {
            loop_on,
            root_ca_pem: Some(ca.cert_pem().to_owned()),
            ..hitless_controllers::context::Options::default()
        };
        hitless_controllers::start(&as_who("system:kube-controller-manager"), options, &tasks, &cancel);
        let (scheduler, ends) = (as_who("system:kube-scheduler"), cancel.clone());
        tasks.spawn(async move { hitless_scheduler::run(scheduler, Arc::new(SystemClock), ends).await });
        Ok(Self { client: as_who("kubernetes-admin"), ca, store, tasks, cancel })
    }

    /// The cluster's certificate authority.
    pub fn ca(&self) -> &pki::Ca {
        &self.ca
    }

    /// Ends it; what was acknowledged is on the disk.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(std::time::Duration::from_secs(5), self.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks of the control plane did not end within 5 s");
        }
        self.store.close().await;
    }
}

async fn open_store(files: &Files) -> Result<Embedded> {
    let directory = files.store();
    let shown = directory.display().to_string();
    let options = hitless_store::Options {
        on_writer_start: Some(hitless_drivers::node::priority::prefer_over_all),
        ..hitless_store::Options::default()
    };
    let opened = tokio::task::spawn_blocking(move || Embedded::open(directory, options)).await?;
    opened.map_err(|error| {
        let hint = match error {
            OpenError::AlreadyOpen { .. } => "another cluster uses this data directory: choose another one with --data-dir",
            _ => "the data directory cannot be used as it is: `hitless down --purge` removes it, with all objects",
        };
        Fault::refused(format!("cannot open the store in {shown}: {}", hitless_base::chain(&error)), hint).into()
    })
}

/// Serves the API on 127.0.0.1 for people and on the machine's link address for nodes and Pods.
async fn serve(
    api: &ApiServer,
    ca: &pki::Ca,
    plan: &ClusterPlan,
    local: TcpListener,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<()> {
    let port = local.local_addr()?.port();
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let mut sans: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    sans.extend([
        "127.0.0.1".to_owned(),
        plan.machine_address.to_string(),
        plan.api_service_address.to_string(),
    ]);
    let tls = ca.server_config(&ca.issue_server("kube-apiserver", &sans)?, false)?;
    let link = TcpListener::bind((plan.machine_address, port))
        .await
        .with_context(|| format!("cannot listen on {}:{port}", plan.machine_address))?;
    for listener in [local, link] {
        let (api, tls, cancel) = (api.clone(), tls.clone(), cancel.clone());
        tasks.spawn(async move { api.serve(listener, tls, cancel).await });
    }
    Ok(())
}

/// An image of the project's own, as the import takes it.
pub fn archive(image: &ImageArchive) -> Archive<'_> {
    Archive { reference: image.reference, id: &image.id, tar: &image.tar }
}

/// Resolves when all nodes of the plan are Ready.
pub async fn all_ready(client: &Client, plan: &ClusterPlan) -> Result<()> {
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let guard = cancel.clone().drop_guard();
    let nodes = Reflector::<Node>::new(Api::all(client.clone())).start(&tasks, &cancel);
    let mut version = nodes.subscribe();
    loop {
        let ready = |name: &str| nodes.get(name).is_some_and(|node| is_ready(&node));
        if plan.nodes.iter().all(|node| ready(&node.name)) {
            drop(guard);
            return Ok(());
        }
        version.changed().await.context("the watch of the nodes ended")?;
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}
