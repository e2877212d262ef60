//! The first process of each running container, held by pidfd.
//!
//! A signal through a pidfd is one system call, where the way through runc costs tens of milliseconds; and it can never reach
//! another process that got the same pid later. Invariant: a pidfd in the table was checked to be its container's.

use std::{collections::HashMap, fs, io, sync::Arc};

use parking_lot::Mutex;

use crate::pidfd::{Pidfd, WatchedPidfd};

/// By container id. As large as the number of containers that run or have not been removed.
#[derive(Default)]
pub(super) struct Processes(Mutex<HashMap<String, Arc<WatchedPidfd>>>);

impl Processes {
    pub(super) fn get(&self, id: &str) -> Option<Arc<WatchedPidfd>> {
        self.0.lock().get(id).cloned()
    }

    /// Opens and keeps the process, if it belongs to the container `id`: its cgroup bears the container's id.
    /// `None`: the container's process has ended.
    pub(super) fn adopt(&self, id: &str, pid: i32) -> io::Result<Option<Arc<WatchedPidfd>>> {
        let Some(process) = Pidfd::open(pid)? else { return Ok(None) };
        let Ok(cgroup) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return Ok(None) };
        // If the process has not ended by now, then what was read was of the process that the pidfd names.
        if !cgroup.contains(id) || process.ended()? {
            return Ok(None);
        }
        let process = Arc::new(process.watch()?);
        self.0.lock().insert(id.to_owned(), process.clone());
        Ok(Some(process))
    }

    pub(super) fn forget(&self, id: &str) {
        self.0.lock().remove(id);
    }

    /// Drops what `wanted` does not name: containers that someone else removed.
    pub(super) fn keep(&self, wanted: impl Fn(&str) -> bool) {
        self.0.lock().retain(|id, _| wanted(id));
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("sleep").arg("60").spawn().unwrap())
        }
        fn pid(&self) -> i32 {
            self.0.id() as i32
        }
        /// A piece of its cgroup's path, as a container's id is.
        fn cgroup(&self) -> String {
            let all = fs::read_to_string(format!("/proc/{}/cgroup", self.pid())).unwrap();
            all.lines().next().unwrap().to_owned()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _gone = self.0.kill();
            let _reaped = self.0.wait();
        }
    }

    #[tokio::test]
    async fn a_process_of_another_cgroup_is_not_the_containers() {
        let sleeper = Sleeper::start();
        assert!(Processes::default().adopt("0123456789abcdef", sleeper.pid()).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_signal_reaches_the_process_once_and_a_zombie_never() {
        let mut sleeper = Sleeper::start();
        let (processes, cgroup) = (Processes::default(), sleeper.cgroup());
        let process = processes.adopt(&cgroup, sleeper.pid()).unwrap().unwrap();
        assert!(process.process().send(libc::SIGTERM).unwrap());
        tokio::time::timeout(std::time::Duration::from_secs(10), process.ended()).await.unwrap().unwrap();
        assert!(!process.process().send(libc::SIGTERM).unwrap(), "it has ended, though nobody has reaped it");
        sleeper.0.wait().unwrap();
        assert!(!process.process().send(libc::SIGTERM).unwrap());
        assert!(processes.adopt(&cgroup, sleeper.pid()).unwrap().is_none());
    }
}
