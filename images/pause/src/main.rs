//! The sandbox's first process: it holds the Pod's namespaces open and does nothing.
//!
//! It exits with 0 on SIGTERM and SIGINT. As pid 1 of a Pod that shares its pid namespace it becomes the parent of
//! orphans; ignoring SIGCHLD makes the kernel reap them.
//!
//! The standard library has no call for signals and this program has no dependencies, so it declares the five calls that it
//! needs of the C library, which is linked statically. `crates/images/build.rs` compiles it; it must stay one file.

use std::ffi::c_int;

/// glibc's `sigset_t` on Linux: 1024 bits.
#[repr(C)]
struct SignalSet([u64; 16]);

const SIG_BLOCK: c_int = 0;
const SIG_IGN: usize = 1;
const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;
const SIGCHLD: c_int = 17;

unsafe extern "C" {
    fn signal(signal: c_int, handler: usize) -> usize;
    fn sigemptyset(set: *mut SignalSet) -> c_int;
    fn sigaddset(set: *mut SignalSet, signal: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn sigwait(set: *const SignalSet, signal: *mut c_int) -> c_int;
}

fn main() {
    let mut set = SignalSet([0; 16]);
    let mut received: c_int = 0;
    // SAFETY: each pointer is to a live local of the C type's size (or null where the call allows it), and the program
    // has one thread. Blocked signals reach even pid 1, for which the kernel drops those with the default action.
    let status = unsafe {
        sigemptyset(&mut set);
        sigaddset(&mut set, SIGINT);
        sigaddset(&mut set, SIGTERM);
        sigprocmask(SIG_BLOCK, &set, std::ptr::null_mut());
        // Last, so that whoever sees it ignored knows that the others are blocked.
        signal(SIGCHLD, SIG_IGN);
        sigwait(&set, &mut received)
    };
    std::process::exit(if status == 0 { 0 } else { 1 });
}
