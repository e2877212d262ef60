//! The loop's own threads come first: between "every consumer has let go" and the stop signal lie a few short pieces of work in three
//! processes, and each must not wait behind a container that is being started.
//!
//! What must hold: only threads that mostly sleep are preferred, and nothing that they start inherits it.

#![allow(unsafe_code, reason = "one system call that libc does not wrap; see `set`")]

use std::io;

/// Nice value of preferred threads: about ten times the weight of others.
const NICE: i32 = -10;
/// The slice that they ask for: the shorter it is, the sooner the scheduler runs them after a wake-up (Linux 6.12 and newer; older
/// kernels ignore it).
const SLICE_NS: u64 = 100_000;
/// The lowest real-time priority.
const REALTIME: u32 = 1;

/// Prefers the calling thread. What it starts later (threads, processes) is ordinary again. Without the right to it nothing changes.
pub fn prefer() {
    let attributes = attributes(libc::SCHED_OTHER.cast_unsigned(), NICE, 0, SLICE_NS);
    if let Err(error) = set(&attributes) {
        tracing::debug!(%error, "this thread gets no preference");
    }
}

/// Lets the calling thread run as soon as it can, for one that does next to nothing but wait for the disk: else each wait for it
/// ends with a wait for a processor. Where real time is refused, the thread is preferred as by [`prefer`].
pub fn prefer_over_all() {
    let attributes = attributes(libc::SCHED_FIFO.cast_unsigned(), 0, REALTIME, 0);
    if set(&attributes).is_err() {
        prefer();
    }
}

fn attributes(policy: u32, nice: i32, priority: u32, slice_ns: u64) -> libc::sched_attr {
    libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0),
        sched_policy: policy,
        sched_flags: u64::from(libc::SCHED_FLAG_RESET_ON_FORK.cast_unsigned()),
        sched_nice: nice,
        sched_priority: priority,
        sched_runtime: slice_ns,
        sched_deadline: 0,
        sched_period: 0,
    }
}

fn set(attributes: &libc::sched_attr) -> io::Result<()> {
    // SAFETY: `sched_setattr(0, attr, 0)` reads `attr.size` bytes behind a pointer that is valid for that many and
    // for the whole call, and changes nothing but the calling thread's scheduling.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attributes), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field 19 of the thread's `stat`: its nice value.
    fn nice() -> i64 {
        let text = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        text.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap()
    }

    #[test]
    fn a_preferred_thread_is_so_itself_and_nothing_that_it_starts() {
        let seen = std::thread::spawn(|| {
            prefer();
            (nice(), std::thread::spawn(nice).join().unwrap())
        });
        assert_eq!(seen.join().unwrap(), (i64::from(NICE), 0));
    }
}
