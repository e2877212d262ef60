//! The API server's figures on this machine: `cargo run --release -p hitless-apiserver --example figures`.
//!
//! One client over TLS and HTTP/2: create, get and patch of 1 KiB ConfigMaps; then the time from the answer of a write to
//! the arrival of its event, for one watch and with 200 beside it; then what an idle watch costs.

use std::{sync::Arc, time::Instant};

use futures::StreamExt;
use hitless_apiserver::{ApiServer, Options, pki::Ca};
use hitless_store::Embedded;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const OBJECTS: usize = 500;
const WATCHES: usize = 200;

fn row(what: &str, mut micros: Vec<u128>) {
    micros.sort_unstable();
    let at = |part: usize| micros.get(micros.len() * part / 100).copied().unwrap_or_default();
    println!("{what:<44} p50 {:>6} us   p99 {:>6} us", at(50), at(99));
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or_default()
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let store = Embedded::open(directory.path(), hitless_store::Options::default())?;
    let server = ApiServer::new(Arc::new(store), Options::default()).await?;
    let ca = Ca::create()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let tls = ca.server_config(&ca.issue_server("kube-apiserver", &["127.0.0.1".to_owned()])?, false)?;
    let cancel = CancellationToken::new();
    let serving = tokio::spawn({
        let cancel = cancel.clone();
        async move { server.serve(listener, tls, cancel).await }
    });
    let admin = ca.issue_client("admin", &["system:masters"])?;
    let text = ca.kubeconfig("figures", &format!("https://{address}"), "admin", &admin);
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&text)?;
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
    config.read_timeout = None;
    let api: Api<ConfigMap> = Api::default_namespaced(Client::try_from(config)?);
    calls(&api).await?;
    watching(&api, "write answered to event, one watch").await?;
    let before = resident_kib();
    let others = idle(&api).await?;
    println!(
        "{:<44} {} KiB",
        "an idle watch, client's half included",
        (resident_kib() - before) / WATCHES as u64
    );
    watching(&api, "write answered to event, 200 watches beside").await?;
    drop(others);
    println!("{:<44} {} KiB", "resident", resident_kib());
    cancel.cancel();
    serving.await?;
    Ok(())
}

async fn calls(api: &Api<ConfigMap>) -> Result<(), Failure> {
    let (mut creates, mut gets, mut patches) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..OBJECTS {
        let object = serde_json::from_value(
            json!({"metadata": {"name": format!("c{i}")}, "data": {"k": "x".repeat(1024)}}),
        )?;
        let start = Instant::now();
        api.create(&PostParams::default(), &object).await?;
        creates.push(start.elapsed().as_micros());
        let start = Instant::now();
        api.get(&format!("c{i}")).await?;
        gets.push(start.elapsed().as_micros());
        let patch = Patch::Merge(json!({"data": {"n": i.to_string()}}));
        let start = Instant::now();
        api.patch(&format!("c{i}"), &PatchParams::default(), &patch).await?;
        patches.push(start.elapsed().as_micros());
    }
    row("create, one client", creates);
    row("get, one client", gets);
    row("merge patch, one client", patches);
    Ok(())
}

/// From the moment at which the writer has its answer (negative counts as nought) to the event's arrival.
async fn watching(api: &Api<ConfigMap>, what: &str) -> Result<(), Failure> {
    let from = api
        .list(&kube::api::ListParams::default().limit(1))
        .await?
        .metadata
        .resource_version
        .unwrap_or_default();
    let mut events = api.watch(&WatchParams::default(), &from).await?.boxed();
    let mut micros = Vec::new();
    for i in 0..OBJECTS {
        let patch = Patch::Merge(json!({"data": {"w": format!("{what}{i}")}}));
        let write = async {
            let written = api.patch("c0", &PatchParams::default(), &patch).await;
            (written, Instant::now())
        };
        let arrive = async {
            while let Some(event) = events.next().await {
                if let Ok(WatchEvent::Modified(_)) = event {
                    break;
                }
            }
            Instant::now()
        };
        let ((written, answered), arrived) = tokio::join!(write, arrive);
        written?;
        micros.push(arrived.saturating_duration_since(answered).as_micros());
    }
    row(what, micros);
    Ok(())
}

async fn idle(api: &Api<ConfigMap>) -> Result<Vec<tokio::task::JoinHandle<()>>, Failure> {
    let mut all = Vec::new();
    let from = api
        .list(&kube::api::ListParams::default().limit(1))
        .await?
        .metadata
        .resource_version
        .unwrap_or_default();
    for _ in 0..WATCHES {
        let mut events = api.watch(&WatchParams::default().timeout(290), &from).await?.boxed();
        all.push(tokio::spawn(async move { while events.next().await.is_some() {} }));
    }
    Ok(all)
}
