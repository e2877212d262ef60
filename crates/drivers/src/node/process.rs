//! Starting processes in a node, and knowing them again.
//!
//! What a node runs must outlive the engine that started it (after a kill -9 the next engine adopts it), so a process gets a
//! session of its own and no parent-death signal. It is remembered by pid, start time and boot, so a stale file never
//! names a stranger.

#![allow(unsafe_code, reason = "`pre_exec`, see `Launch::spawn`")]

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::{
    cgroup::{CgroupPath, Cgroups},
    netns,
};
use crate::pidfd::Pidfd;

/// A process could not be started or found.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It did not start.
    #[error("cannot start {program:?}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file that it needs cannot be opened or written.
    #[error("cannot use {path:?}")]
    File {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Its network namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] netns::NetnsError),
    /// It cannot be asked about or signalled.
    #[error("cannot reach process {pid}")]
    Reach {
        /// Its pid.
        pid: i32,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// One process of one boot of the machine: its pid alone may come to mean another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its pid.
    pub pid: i32,
    /// When it started, in the kernel's clock ticks since boot.
    pub start_ticks: u64,
    /// Which boot that was.
    pub boot: String,
}

impl Identity {
    /// The process that has this pid now; `None`: there is none that runs.
    pub fn of(pid: i32) -> Result<Option<Self>, ProcessError> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|source| ProcessError::Reach { pid, source })?;
        let Some(start_ticks) = start_ticks(pid) else { return Ok(None) };
        Ok(Some(Self { pid, start_ticks, boot: boot.trim().to_owned() }))
    }

    /// Reads what `store` has written; `None`: there is nothing, or nothing that can be read so.
    #[must_use]
    pub fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Writes it to a file, whole or not at all.
    pub fn store(&self, path: &Path) -> Result<(), ProcessError> {
        let failed = |source| ProcessError::File { path: path.to_owned(), source };
        let text = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        let new = path.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, path)).map_err(failed)
    }

    /// Opens the process; `None`: it has ended.
    pub fn open(&self) -> Result<Option<Pidfd>, ProcessError> {
        let failed = |source| ProcessError::Reach { pid: self.pid, source };
        let Some(process) = Pidfd::open(self.pid).map_err(failed)? else { return Ok(None) };
        // Asked after the opening: if it is the same process now, then the descriptor is of it.
        let same = Self::of(self.pid)?.as_ref() == Some(self);
        Ok((same && !process.ended().map_err(failed)?).then_some(process))
    }

    /// Whether the process runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.open(), Ok(Some(_)))
    }

    /// Sends a signal by number; `false`: the process has ended.
    pub fn signal(&self, number: i32) -> Result<bool, ProcessError> {
        match self.open()? {
            Some(process) => {
                process.send(number).map_err(|source| ProcessError::Reach { pid: self.pid, source })
            }
            None => Ok(false),
        }
    }

    /// SIGTERM, and SIGKILL to what runs after `grace`. Resolves when the process has ended, or fails some seconds after SIGKILL.
    /// Again is no error.
    pub async fn stop(&self, grace: Duration) -> Result<(), ProcessError> {
        const AFTER_KILL: Duration = Duration::from_secs(5);
        let failed = |source| ProcessError::Reach { pid: self.pid, source };
        let Some(process) = self.open()? else { return Ok(()) };
        let process = process.watch().map_err(failed)?;
        for (signal, bound) in [(libc::SIGTERM, grace), (libc::SIGKILL, AFTER_KILL)] {
            process.process().send(signal).map_err(failed)?;
            match tokio::time::timeout(bound, process.ended()).await {
                Ok(ended) => return ended.map_err(failed),
                Err(_) => tracing::debug!(pid = self.pid, signal, "has not ended in its time"),
            }
        }
        Err(failed(io::Error::from(io::ErrorKind::TimedOut)))
    }
}

/// Field 22 of `/proc/PID/stat`, counted from behind the command's name, which may hold blanks. `None`: no such process, or a zombie.
fn start_ticks(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18)?.parse().ok() }
}

/// A process to start in a node. Not started by a shell; standard input is empty.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to the environment.
    pub envs: Vec<(String, OsString)>,
    /// Name of the network namespace to enter; `None`: the caller's own.
    pub netns: Option<String>,
    /// The cgroup to enter. It must exist.
    pub cgroup: CgroupPath,
    /// Where standard output and standard error are appended to.
    pub log: PathBuf,
}

impl Launch {
    /// Starts it. The caller must wait for the child some time, or a zombie stays until the caller ends; dropping
    /// the handle ends nothing.
    ///
    /// The way in is that of `nsenter --net`: only the network namespace changes. `ip netns exec` also puts a fresh `/sys` over the
    /// cgroup mounts, and then runc finds no cgroups.
    pub fn spawn(&self, cgroups: &Cgroups) -> Result<Child, ProcessError> {
        let open = |path: &Path, options: &OpenOptions| {
            options.open(path).map_err(|source| ProcessError::File { path: path.to_owned(), source })
        };
        let log = open(&self.log, OpenOptions::new().create(true).append(true))?;
        let errors =
            log.try_clone().map_err(|source| ProcessError::File { path: self.log.clone(), source })?;
        let namespace = self.netns.as_deref().map(netns::open).transpose()?;
        let groups: Vec<File> = cgroups
            .entrances(&self.cgroup)
            .iter()
            .map(|path| open(path, OpenOptions::new().write(true)))
            .collect::<Result<_, _>>()?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.envs.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir("/");
        let enter = move || {
            rustix::process::setsid()?;
            for mut group in &groups {
                // Zero stands for the writer itself.
                group.write_all(b"0")?;
            }
            if let Some(namespace) = &namespace {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls only (setsid, write, setns) on descriptors opened
        // before; it takes no lock and allocates nothing, also when one of them fails.
        unsafe { command.pre_exec(enter) };
        command.spawn().map_err(|source| ProcessError::Start { program: self.program.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _gone = self.0.kill();
            let _reaped = self.0.wait();
        }
    }

    fn sleeper() -> Sleeper {
        Sleeper(Command::new("sleep").arg("60").spawn().unwrap())
    }

    #[test]
    fn a_process_is_known_again_and_a_stranger_with_its_pid_is_not_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.pid");
        let child = sleeper();
        let identity = Identity::of(child.0.id().cast_signed()).unwrap().unwrap();
        identity.store(&file).unwrap();
        assert_eq!(Identity::load(&file), Some(identity.clone()));
        assert!(identity.is_alive());
        let stranger = Identity { start_ticks: identity.start_ticks + 1, ..identity.clone() };
        assert!(!stranger.is_alive());
        assert!(!stranger.signal(libc::SIGKILL).unwrap());
        let earlier = Identity { boot: "another".into(), ..identity.clone() };
        assert!(!earlier.signal(libc::SIGKILL).unwrap());
        assert!(identity.is_alive(), "a signal for a stranger has hit it");
        fs::write(&file, "17").unwrap();
        assert_eq!(Identity::load(&file), None);
    }

    #[tokio::test]
    async fn a_process_is_stopped_with_sigkill_if_it_must_be() {
        let mut child = Sleeper(
            Command::new("sh")
                .args(["-c", "trap '' TERM; echo; while :; do sleep 0.05; done"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        // The line says that the trap is set.
        io::Read::read_exact(child.0.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let identity = Identity::of(child.0.id().cast_signed()).unwrap().unwrap();
        identity.stop(Duration::from_millis(50)).await.unwrap();
        assert!(!identity.is_alive(), "a zombie is not alive");
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.0.wait().unwrap().signal(), Some(libc::SIGKILL));
        identity.stop(Duration::ZERO).await.unwrap();
    }
}
