//! A node's containerd: started in the node's network namespace and cgroup, watched, started again when it dies.
//!
//! Containers do not depend on it: their shims live on, and the next containerd (or the next engine) finds them. So
//! dropping the supervisor ends the watching and nothing else; `stop` ends containerd.

use std::{fs, io, path::PathBuf, process::Child, sync::Arc, time::Duration};

use hitless_base::Backoff;
use hitless_kubelet::ports::Runtime;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{
    cgroup::Cgroups,
    config::{self, Files},
    machine,
    plan::NodePlan,
    process::{Identity, Launch, ProcessError},
    programs::Programs,
};
use crate::{cri::Containerd, pidfd::WatchedPidfd};

/// How long containerd may take until it and the Pod network are ready. Measured: 50 ms; with many containers to load, more.
const READY_BOUND: Duration = Duration::from_secs(30);
/// What containerd gets to end by itself.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Lines of its log that an error shows.
const LOG_LINES: usize = 5;

/// containerd does not run as it should.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// Its files cannot be written.
    #[error("cannot write {path:?}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// It cannot be started or found.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It ended before it was ready.
    #[error("containerd of {node} ended at once; the last lines of {log:?}: {words}")]
    Ended {
        /// The node.
        node: String,
        /// Its log.
        log: PathBuf,
        /// The last lines.
        words: String,
    },
    /// It runs and does not become ready.
    #[error("containerd of {node} is not ready after {bound_s} s ({why}); see {log:?}")]
    NotReady {
        /// The node.
        node: String,
        /// What it says.
        why: String,
        /// The bound in seconds.
        bound_s: u64,
        /// Its log.
        log: PathBuf,
    },
}

/// Owns the watching of one containerd.
pub struct Supervisor {
    current: Arc<Mutex<Current>>,
    watching: AbortOnDropHandle<()>,
}

/// The containerd of now: started by this process, or found.
struct Current {
    identity: Identity,
    /// To be waited for when it has ended, if it is a child.
    child: Option<Child>,
}

impl Current {
    /// At once, for one that has ended.
    fn reap(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }
}

type Running = (Current, WatchedPidfd);

impl Supervisor {
    /// Adopts the node's containerd if one runs, else starts one, and watches it from then on. Does not wait until it is ready.
    pub fn start(node: &NodePlan, programs: &Programs, cgroups: &Cgroups) -> Result<Self, ContainerdError> {
        let running = match found(node)? {
            Some(running) => running,
            None => {
                write_files(node, programs)?;
                launch(node, programs, cgroups)?
            }
        };
        let (current, process) = running;
        let current = Arc::new(Mutex::new(current));
        let watch = watch(process, current.clone(), node.clone(), programs.clone(), cgroups.clone());
        Ok(Self { current, watching: AbortOnDropHandle::new(tokio::spawn(watch)) })
    }

    /// Who containerd is now.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.current.lock().identity.clone()
    }

    /// Ends containerd. Its containers run on.
    pub async fn stop(self) -> Result<(), ContainerdError> {
        self.watching.abort();
        // Afterwards nobody starts another one.
        let _aborted = self.watching.await;
        let identity = self.current.lock().identity.clone();
        identity.stop(STOP_GRACE).await?;
        self.current.lock().reap();
        Ok(())
    }
}

fn found(node: &NodePlan) -> Result<Option<Running>, ContainerdError> {
    let Some(identity) = Identity::load(&Files::of(node).identity) else { return Ok(None) };
    let Some(process) = identity.open()? else { return Ok(None) };
    let process = process.watch().map_err(|source| ProcessError::Reach { pid: identity.pid, source })?;
    Ok(Some((Current { identity, child: None }, process)))
}

fn write_files(node: &NodePlan, programs: &Programs) -> Result<(), ContainerdError> {
    let files = Files::of(node);
    let make = |path: &PathBuf| {
        fs::create_dir_all(path).map_err(|source| ContainerdError::File { path: path.clone(), source })
    };
    for directory in [&node.run_dir, &files.root, &files.state, &files.registries, &files.cni] {
        make(directory)?;
    }
    let machine = machine::detect(&files.root)
        .map_err(|source| ContainerdError::File { path: files.root.clone(), source })?;
    let write = |path: &PathBuf, text: io::Result<String>| {
        let written = text.and_then(|text| fs::write(path, text));
        written.map_err(|source| ContainerdError::File { path: path.clone(), source })
    };
    write(&files.config, config::containerd(node, programs, machine))?;
    write(&files.conflist, Ok(config::conflist(node, machine)))
}

fn launch(node: &NodePlan, programs: &Programs, cgroups: &Cgroups) -> Result<Running, ContainerdError> {
    let files = Files::of(node);
    let launch = Launch {
        program: programs.containerd.clone(),
        args: vec!["--config".into(), files.config.clone().into(), "--log-level".into(), "warn".into()],
        // The plugins of CNI and runc look for `iptables` and others by name.
        envs: vec![("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())],
        netns: Some(node.netns.clone()),
        cgroup: node.containerd_cgroup.clone(),
        log: node.containerd_log(),
    };
    let child = launch.spawn(cgroups)?;
    let pid = child.id().cast_signed();
    let failed = |source| ProcessError::Reach { pid, source };
    let ended = || ContainerdError::Ended {
        node: node.name.clone(),
        log: node.containerd_log(),
        words: last_words(node),
    };
    let identity = Identity::of(pid)?.ok_or_else(ended)?;
    let process = crate::pidfd::Pidfd::open(pid).map_err(failed)?.ok_or_else(ended)?;
    identity.store(&files.identity)?;
    Ok((Current { identity, child: Some(child) }, process.watch().map_err(failed)?))
}

/// Waits for containerd's end and starts it again, for ever: more and more slowly, if it keeps ending.
async fn watch(
    mut process: WatchedPidfd,
    current: Arc<Mutex<Current>>,
    node: NodePlan,
    programs: Programs,
    cgroups: Cgroups,
) {
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(10));
    loop {
        let since = Instant::now();
        if let Err(error) = process.ended().await {
            tracing::error!(node = node.name, %error, "containerd cannot be watched");
            return;
        }
        let status = current.lock().reap();
        tracing::warn!(node = node.name, status = ?status, "containerd has ended; starting it again");
        if since.elapsed() > Duration::from_secs(60) {
            backoff.reset();
        }
        process = loop {
            tokio::time::sleep(backoff.step()).await;
            match launch(&node, &programs, &cgroups) {
                Ok((next, process)) => {
                    *current.lock() = next;
                    break process;
                }
                Err(error) => {
                    let error = hitless_base::chain(&error);
                    tracing::error!(node = node.name, error, "containerd does not start");
                }
            }
        };
    }
}

/// Waits until containerd answers and says that it and the Pod network are ready.
pub(super) async fn ready(
    node: &NodePlan,
    runtime: &Containerd,
    supervisor: &Supervisor,
) -> Result<(), ContainerdError> {
    let first = supervisor.identity();
    let end = Instant::now() + READY_BOUND;
    let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(20));
    loop {
        let why = match runtime.ready().await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(error) => hitless_base::chain(&error),
        };
        let log = node.containerd_log();
        if !first.is_alive() {
            return Err(ContainerdError::Ended { node: node.name.clone(), log, words: last_words(node) });
        }
        if Instant::now() >= end {
            let bound_s = READY_BOUND.as_secs();
            return Err(ContainerdError::NotReady { node: node.name.clone(), why, bound_s, log });
        }
        tokio::time::sleep(backoff.step()).await;
    }
}

fn last_words(node: &NodePlan) -> String {
    let text = fs::read(node.containerd_log()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().rev().take(LOG_LINES).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
