//! What each word of the command line does.

mod agent;
mod bench;
mod down;
mod images;
mod prove;
mod trace;
mod up;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use hitless_drivers::node::priority;

use crate::{
    cli::{Cli, Command, Reach},
    cluster::Files,
    fault::Fault,
};

pub use prove::OWN_CLUSTER;

/// Does what was asked and gives the exit code.
pub fn run(cli: Cli) -> ExitCode {
    let filter = match &cli.command {
        Command::Engine(_) | Command::Node { .. } => "info",
        _ => "warn",
    };
    hitless_base::telemetry::init(filter);
    // The parts of the loop come before the containers that they start, see `priority`.
    priority::prefer();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(priority::prefer)
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(cli.command)),
        Err(error) => Err(error.into()),
    };
    result.unwrap_or_else(|error| {
        let fault = error.downcast::<Fault>().unwrap_or_else(|error| Fault::failed(format!("{error:#}"), ""));
        eprintln!("error: {fault}");
        ExitCode::from(fault.code)
    })
}

async fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(up) if up.detach => up::detached(&up).await,
        Command::Up(up) => up::foreground(&up).await,
        Command::Engine(up) => up::engine(&up).await,
        Command::Down(down) => down::down(&down).await,
        Command::Node { config } => agent::run(&config).await,
        Command::Images(images) => images::images(&images).await,
        Command::Trace(trace) => trace::trace(&trace).await,
        Command::Prove(prove) => prove::prove(&prove).await,
        Command::Bench(bench) => bench::bench(&bench).await,
    }
}

/// A client of the cluster that is meant: by `--kubeconfig`, `$KUBECONFIG`, or the cluster `hitless` of this machine.
async fn client(reach: &Reach) -> Result<kube::Client> {
    let default = Files::kubeconfig_of(&PathBuf::from("/var/lib/hitless/hitless"));
    let from_env = || std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
    let path = reach.kubeconfig.clone().or_else(from_env).unwrap_or(default);
    if !path.exists() {
        return Err(Fault::refused(
            format!("there is no kubeconfig {}", path.display()),
            "start a cluster with `hitless up`, or name one with --kubeconfig",
        )
        .into());
    }
    Ok(hitless_client::connect::from_kubeconfig(&path)
        .await
        .map_err(|e| Fault::refused(hitless_base::chain(&e), ""))?)
}
