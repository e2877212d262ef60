//! `hitless down`: asks the engine to end, and takes away whatever is left, whether an engine runs or not.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use hitless_drivers::node::clean;
use tokio::time::Instant;

use super::up::STOP_GRACE;
use crate::{
    cli::Down,
    cluster::{Claim, engine_of, paths},
    fault::Fault,
    steps::{Lines, Steps, say},
};

/// Beyond what the Pods get, the engine may take this long.
const MARGIN: Duration = Duration::from_secs(20);
/// How long somebody else may still be busy with the cluster.
const CLAIM_BOUND: Duration = Duration::from_secs(10);

/// Stops the cluster.
pub async fn down(down: &Down) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        return Err(Fault::refused("hitless needs root to take a cluster away", "run it with sudo").into());
    }
    let (name, paths) = (&down.which.name, paths(&down.which.data_dir));
    let began = Instant::now();
    let refused = |e: hitless_drivers::node::plan::PlanError| Fault::refused(e.to_string(), "");
    let before = clean::survey(name, &paths).await.map_err(refused)?;
    if let Some(engine) = engine_of(name, &paths) {
        say(&format!("stopping cluster {name:?}"));
        engine.stop(STOP_GRACE + MARGIN).await?;
        Lines.done("engine, Pods and nodes stopped", began.elapsed());
    } else if before.is_empty() {
        say(&format!("there is no cluster {name:?} on this machine"));
    } else {
        say(&format!("cluster {name:?} has no engine any more; taking away what it has left"));
    }
    let began = Instant::now();
    let _claim = Claim::wait(name, &paths, CLAIM_BOUND).await?;
    let report = clean::sweep(name, &paths).await.map_err(refused)?;
    if !report.left.is_empty() {
        return Err(Fault::failed(report.left.join("\n"), "`hitless down` once more may succeed").into());
    }
    if !report.is_empty() {
        Lines.done("leftovers taken away", began.elapsed());
    }
    if down.purge {
        clean::purge(name, &paths)?;
        Lines.done("data directory removed", began.elapsed());
    }
    Ok(ExitCode::SUCCESS)
}
