//! `hitless up`: in the foreground until Ctrl-C, or detached.

use std::{
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    signal::unix::{SignalKind, signal},
};

use crate::{
    cli::{Loop, Up},
    cluster::{Claim, Cluster, Wanted, checks},
    fault::Fault,
    steps::{Lines, Quiet, Steps, say, shown},
};

/// What Pods get to end when the whole cluster goes.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

/// The line by which a detached engine says that the cluster is ready.
const READY: &str = "READY";
/// The line by which it says that it is not, and why.
const FAILED: &str = "FAILED";

/// Starts the cluster in this process and stays until Ctrl-C or SIGTERM.
pub async fn foreground(up: &Up) -> Result<ExitCode> {
    let mut ends = Ends::new()?;
    say(&format!("starting cluster {:?} with {} nodes", up.which.name, up.nodes));
    let wanted = Wanted::from(up);
    let cluster = start_or_end(&wanted, &Lines, &mut ends).await?;
    greet(&cluster, up);
    say("Ctrl-C stops it.");
    ends.any().await;
    say("stopping");
    cluster.stop(STOP_GRACE, &Lines).await?;
    Ok(ExitCode::SUCCESS)
}

/// Starts an engine in the background, shows its steps, and returns when the cluster is ready.
pub async fn detached(up: &Up) -> Result<ExitCode> {
    let mut ends = Ends::new()?;
    say(&format!("starting cluster {:?} with {} nodes", up.which.name, up.nodes));
    let log_dir = up.which.data_dir.join(&up.which.name);
    checks::root()?;
    checks::name(&up.which.name)?;
    checks::data_dir(&log_dir)?;
    let log_path = log_dir.join("engine.log");
    let log =
        std::fs::File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(up.engine_arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start the engine")?;
    let output = child.stdout.take().context("the engine has no output")?;
    let mut lines = BufReader::new(output).lines();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            () = ends.any() => {
                // The engine takes back what it has made so far.
                stop_child(&child);
                let _ended = tokio::time::timeout(Duration::from_secs(30), child.wait()).await;
                return Ok(ExitCode::from(130));
            }
        };
        match line {
            Some(line) if line == READY => return Ok(ExitCode::SUCCESS),
            Some(line) => match line.strip_prefix(FAILED) {
                None => say(&line),
                Some(fault) => {
                    let (code, what) = fault.trim().split_once(' ').unwrap_or(("1", fault));
                    let what = what.replace('\u{1f}', "\n");
                    return Err(Fault { what, hint: String::new(), code: code.parse().unwrap_or(1) }.into());
                }
            },
            None => {
                return Err(Fault::failed(
                    "the engine ended before the cluster was ready",
                    format!("see {}", log_path.display()),
                )
                .into());
            }
        }
    }
}

fn stop_child(child: &tokio::process::Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// The engine of a detached cluster: says its steps on standard output until it is ready, then only logs.
pub async fn engine(up: &Up) -> Result<ExitCode> {
    let mut ends = Ends::new()?;
    let wanted = Wanted::from(up);
    let cluster = match start_or_end(&wanted, &Lines, &mut ends).await {
        Ok(cluster) => cluster,
        Err(error) => {
            let fault = error.downcast::<Fault>().unwrap_or_else(|e| Fault::failed(format!("{e:#}"), ""));
            say(&format!("{FAILED} {} {}", fault.code, fault.to_string().replace('\n', "\u{1f}")));
            return Ok(ExitCode::from(fault.code));
        }
    };
    greet(&cluster, up);
    say(&format!("`hitless down{}` stops it.", name_flag(up)));
    say(READY);
    ends.any().await;
    cluster.stop(STOP_GRACE, &Quiet).await?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the cluster; a signal meanwhile ends the start, and what it has made is taken away.
async fn start_or_end(wanted: &Wanted, steps: &dyn Steps, ends: &mut Ends) -> Result<Cluster> {
    checks::root()?;
    checks::name(&wanted.name)?;
    checks::not_running(&wanted.name, &wanted.paths).await?;
    let claim = Claim::wait(&wanted.name, &wanted.paths, checks::DYING).await?;
    tokio::select! {
        started = Cluster::start(wanted, claim, steps) => started,
        () = ends.any() => {
            let _claim = Claim::take(&wanted.name, &wanted.paths)?;
            let report = hitless_drivers::node::clean::sweep(&wanted.name, &wanted.paths).await?;
            let left = report.left.join("\n");
            Err(Fault { what: format!("interrupted; what was begun has been taken away{left}"), hint: String::new(), code: 130 }.into())
        }
    }
}

fn greet(cluster: &Cluster, up: &Up) {
    say(&format!("cluster {:?} is ready after {}", up.which.name, shown(cluster.took)));
    if up.loop_ == Loop::Off {
        say("the loop is off: Pods are stopped in plain Kubernetes' order, and requests will be lost");
    }
    say("");
    say(&format!("  export KUBECONFIG={}", cluster.kubeconfig.display()));
    say("  kubectl get nodes");
    say("");
}

fn name_flag(up: &Up) -> String {
    if up.which.name == "hitless" { String::new() } else { format!(" --name {}", up.which.name) }
}

/// The signals that end a cluster.
pub struct Ends {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

impl Ends {
    /// Takes them from now on.
    pub fn new() -> Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// Resolves when one has come.
    pub async fn any(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
            _ = self.hup.recv() => {}
        }
    }
}
