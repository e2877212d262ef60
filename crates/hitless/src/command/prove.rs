//! `hitless prove`: brings the clusters for it, and shows the result.

use std::{io::IsTerminal, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use hitless_drivers::node::{clean, plan::ClusterPlan, slots};
use hitless_prove::{ClusterError, Clusters, Mode, OneCluster, Options, Report, Terminal};
use kube::Client;
use tokio_util::sync::CancellationToken;

use super::up::{Ends, STOP_GRACE};
use crate::{
    cli::{IngressPorts, Prove},
    cluster::{Claim, Cluster, Wanted, checks, forget_objects, paths},
    fault::Fault,
    steps::Quiet,
};

/// The name, unless another is asked for, of the cluster that `prove` and `bench` bring up for themselves, beside any other.
pub const OWN_CLUSTER: &str = "prove";

/// Clusters of this command's own, one at a time.
pub struct Own {
    wanted: Wanted,
    running: Option<Cluster>,
}

impl Own {
    /// None runs yet.
    pub fn new(name: &str, data_dir: &Path) -> Self {
        let wanted = Wanted {
            name: name.to_owned(),
            nodes: 2,
            port: 0,
            paths: paths(data_dir),
            loop_on: true,
            ingress_ports: IngressPorts::default(),
        };
        Self { wanted, running: None }
    }

    /// Ends the one that runs and starts the next.
    pub async fn restart(&mut self, loop_on: bool) -> Result<&Cluster> {
        let claim = self.end().await?;
        self.wanted.loop_on = loop_on;
        // Each run begins with an empty cluster; the images are kept.
        forget_objects(&self.wanted.paths.data_of(&self.wanted.name))?;
        Ok(self.running.insert(Cluster::start(&self.wanted, claim, &Quiet).await?))
    }

    /// Ends the one that runs, with all its objects.
    pub async fn stop(&mut self) -> Result<()> {
        self.end().await.map(drop)
    }

    /// Ends the one that runs and does `work` with the plan of its nodes, of which nothing is up. What it brings up is taken away again.
    pub async fn bare<T>(&mut self, work: impl AsyncFnOnce(&ClusterPlan) -> Result<T>) -> Result<T> {
        let _claim = self.end().await?;
        let (name, paths) = (&self.wanted.name, &self.wanted.paths);
        let plan = slots::claim(name, self.wanted.nodes, None, paths).await?;
        let result = work(&plan).await;
        clean::sweep(name, paths).await?;
        result
    }

    /// The same; and nobody else can begin one of this name until the claim is given back.
    async fn end(&mut self) -> Result<Claim> {
        checks::root()?;
        if let Some(cluster) = self.running.take() {
            cluster.stop(STOP_GRACE, &Quiet).await?;
        }
        let claim = Claim::take(&self.wanted.name, &self.wanted.paths)?;
        clean::sweep(&self.wanted.name, &self.wanted.paths).await?;
        Ok(claim)
    }
}

impl Clusters for Own {
    async fn client(&mut self, mode: Mode) -> Result<Client, ClusterError> {
        match self.restart(mode.loop_on()).await {
            Ok(cluster) => Ok(cluster.client.clone()),
            // Boxed by itself, it is still known as one when the exit code is chosen.
            Err(error) => Err(match error.downcast::<Fault>() {
                Ok(fault) => Box::new(fault),
                Err(error) => error.into(),
            }),
        }
    }
}

/// Runs the scenarios.
pub async fn prove(asked: &Prove) -> Result<ExitCode> {
    let mut options = Options {
        compare: asked.compare,
        rate_new: asked.rate_new,
        rate_keep_alive: asked.rate_keep_alive,
        requests: asked.requests,
        ..Options::default()
    };
    if !asked.scenarios.is_empty() {
        options.scenarios = asked.scenarios.clone();
    }
    let report = match &asked.kubeconfig {
        Some(path) => {
            let client = hitless_client::connect::from_kubeconfig(path)
                .await
                .map_err(|e| Fault::refused(hitless_base::chain(&e), ""))?;
            run(OneCluster(client), options).await.1?
        }
        None => {
            let (mut own, report) = run(Own::new(&asked.name, &asked.data_dir), options).await;
            let stopped = own.stop().await;
            let report = report?;
            stopped?;
            report
        }
    };
    show(&report, asked.json.as_deref())?;
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs until the end or a signal; gives the clusters back in either case.
async fn run<C: Clusters>(mut clusters: C, options: Options) -> (C, Result<Report>) {
    let mut ends = match Ends::new() {
        Ok(ends) => ends,
        Err(error) => return (clusters, Err(error)),
    };
    let cancel = CancellationToken::new();
    let report = {
        let run = hitless_prove::run(&mut clusters, &options, Arc::new(Terminal::new()), &cancel);
        tokio::pin!(run);
        tokio::select! {
            report = &mut run => report.map_err(refused_or_failed),
            () = ends.any() => {
                // What the scenario has done to the cluster is undone before the run ends.
                cancel.cancel();
                let _interrupted = run.await;
                Err(Fault { what: "interrupted".to_owned(), hint: String::new(), code: 130 }.into())
            }
        }
    };
    (clusters, report)
}

/// A fault of the machine that kept a cluster from starting keeps its own exit code.
fn refused_or_failed(error: hitless_prove::ProveError) -> anyhow::Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(fault) = cause.downcast_ref::<Fault>() {
            return Fault { what: fault.what.clone(), hint: fault.hint.clone(), code: fault.code }.into();
        }
        source = cause.source();
    }
    Fault::failed(hitless_base::chain(&error), "").into()
}

fn show(report: &Report, json: Option<&Path>) -> Result<()> {
    let to_stdout = json == Some(Path::new("-"));
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(report)?;
        if to_stdout {
            println!("{text}");
        } else {
            std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    let colour = std::io::stdout().is_terminal();
    if to_stdout {
        eprint!("{}", hitless_prove::render(report, false));
    } else {
        print!("{}", hitless_prove::render(report, colour));
    }
    Ok(())
}
