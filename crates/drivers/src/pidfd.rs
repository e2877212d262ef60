//! A process held by file descriptor: what is sent through it can never reach another process that got the same pid later.
//!
//! It also tells of the end of a process that is not a child: of a container, or of an agent that outlived its parent.

#![allow(unsafe_code, reason = "two calls that are unsafe by their contract only; see there")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::io::{Interest, unix::AsyncFd};

/// One process that runs, or that ran.
#[derive(Debug)]
pub struct Pidfd {
    pid: i32,
    fd: OwnedFd,
}

impl Pidfd {
    /// Opens the process that has this pid now; `None`: there is none. Whether it is the process that was meant, the
    /// caller has to check *after* this, and then that it has not `ended`.
    pub fn open(pid: i32) -> io::Result<Option<Self>> {
        let Some(raw) = Pid::from_raw(pid).filter(|_| pid > 0) else { return Ok(None) };
        match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(fd) => Ok(Some(Self { pid, fd })),
            Err(Errno::SRCH | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether the process has ended; a zombie has.
    pub fn ended(&self) -> io::Result<bool> {
        // The kernel makes a pidfd readable when its process ends, and it stays so.
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
    }

    /// Sends the signal with this number; `false`: the process has ended.
    pub fn send(&self, number: i32) -> io::Result<bool> {
        // A zombie would take the signal without an error.
        if self.ended()? {
            return Ok(false);
        }
        let signal = match Signal::from_named_raw(number) {
            Some(signal) => signal,
            None if (1..=64).contains(&number) => {
                // SAFETY: the rule is that a process must not use for itself the numbers that its C library keeps; this
                // is for another process, where the number is the kernel's affair.
                unsafe { Signal::from_raw_unchecked(number) }
            }
            None => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// For waiting without a thread. Must be called within a tokio runtime.
    pub fn watch(self) -> io::Result<WatchedPidfd> {
        // SAFETY: `Pidfd` owns its descriptor, never hands it out but borrowed, and has no way to exchange it; so it stays
        // open and the same until the `AsyncFd` drops it.
        let fd = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(WatchedPidfd(fd))
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Pidfd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// A process whose end can be awaited.
#[derive(Debug)]
pub struct WatchedPidfd(AsyncFd<Pidfd>);

impl WatchedPidfd {
    /// The process.
    #[must_use]
    pub fn process(&self) -> &Pidfd {
        self.0.get_ref()
    }

    /// Resolves when the process has ended; at once if it had. May be dropped and called again.
    pub async fn ended(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            if self.process().ended()? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}
