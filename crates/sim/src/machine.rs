//! The machine under a simulated cluster: its random numbers and its clocks, in place of the real ones.
//!
//! Two functions of the C library are replaced for this program. Everything that is random in a Rust program (hash maps, uuids,
//! `rand`, tokio's choice between branches) comes from `getrandom`, and every reading of a clock goes through
//! `clock_gettime`; so production code runs as it is, and nobody can forget to pass a clock on. What must hold: on the thread that
//! called [`begin`], both depend on the seed and on tokio's paused clock alone; on any other thread they are the machine's own.

#![allow(unsafe_code, reason = "functions of the C library can be replaced in no other way")]

use std::{cell::Cell, time::Duration};

/// What the simulated machine's wall clock shows at the beginning: 2026-01-01T00:00:00Z, in seconds.
const BEGINNING_S: i64 = 1_767_225_600;
/// What its monotonic clock shows then, in seconds.
const UPTIME_S: i64 = 1_000_000;

/// How the clocks of this thread go.
#[derive(Clone, Copy)]
enum Clocks {
    /// As the machine's own.
    Real,
    /// They stand still: the runtime, whose clock they follow, is being built.
    Standing,
    /// With tokio's paused clock, since then.
    Virtual(tokio::time::Instant),
}

thread_local! {
    static CLOCKS: Cell<Clocks> = const { Cell::new(Clocks::Real) };
    /// The state of the generator; `None`: the machine's own numbers.
    static NUMBERS: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on this thread's random numbers come from `seed`, and its clocks stand still until [`follow_tokio`].
pub fn begin(seed: u64) {
    NUMBERS.set(Some(seed));
    CLOCKS.set(Clocks::Standing);
}

/// From now on this thread's clocks go with tokio's. To be called within a runtime whose clock is paused.
pub fn follow_tokio() {
    let now = tokio::time::Instant::now();
    CLOCKS.set(Clocks::Virtual(now));
}

/// From now on this thread's random numbers and clocks are the machine's own again. To be called before the runtime has gone.
pub fn end() {
    NUMBERS.set(None);
    CLOCKS.set(Clocks::Real);
}

/// Time since [`follow_tokio`].
#[must_use]
pub fn elapsed() -> Duration {
    match CLOCKS.get() {
        Clocks::Virtual(since) => since.elapsed(),
        Clocks::Real | Clocks::Standing => Duration::ZERO,
    }
}

/// Processor time that this thread has used: of the real machine, on any thread.
#[must_use]
pub fn cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(used.tv_sec), u32::try_from(used.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0))
}

/// The next number of this thread's generator (splitmix64), if it has one.
fn next_number() -> Option<u64> {
    let state = NUMBERS.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
    NUMBERS.set(Some(state));
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Some(mixed ^ (mixed >> 31))
}

/// Fills `buffer`; gives how many bytes were written.
fn fill(buffer: &mut [u8], flags: u32) -> isize {
    for chunk in buffer.chunks_mut(8) {
        let Some(number) = next_number() else {
            let flags = rustix::rand::GetRandomFlags::from_bits_retain(flags);
            return rustix::rand::getrandom(buffer, flags)
                .map_or(-1, |written| isize::try_from(written).unwrap_or(isize::MAX));
        };
        chunk.copy_from_slice(&number.to_le_bytes()[..chunk.len()]);
    }
    isize::try_from(buffer.len()).unwrap_or(isize::MAX)
}

/// What the clock of this number shows: seconds and nanoseconds. `None`: the machine's own.
fn reading(clock: libc::clockid_t) -> Option<(i64, i64)> {
    let since = match CLOCKS.get() {
        Clocks::Real => return None,
        Clocks::Standing => Duration::ZERO,
        Clocks::Virtual(since) => {
            // Should tokio ask for the real clock in the course of this, it gets a standing one instead of an endless recursion.
            CLOCKS.set(Clocks::Standing);
            let elapsed = since.elapsed();
            CLOCKS.set(Clocks::Virtual(since));
            elapsed
        }
    };
    let start_s = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => BEGINNING_S,
        libc::CLOCK_MONOTONIC | libc::CLOCK_MONOTONIC_COARSE | libc::CLOCK_BOOTTIME => UPTIME_S,
        _ => return None,
    };
    Some((start_s + i64::try_from(since.as_secs()).ok()?, i64::from(since.subsec_nanos())))
}

/// Stands in for the C library's function of this name.
#[unsafe(no_mangle)]
extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if buffer.is_null() || length == 0 {
        return 0;
    }
    // SAFETY: as with the function that this replaces, the caller owns `length` writable bytes at `buffer` for the time of the
    // call; they are zeroed first, so that the slice never covers memory without a value.
    let buffer = unsafe {
        buffer.write_bytes(0, length);
        std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length)
    };
    fill(buffer, flags)
}

/// Stands in for the C library's function of this name.
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: libc::clockid_t, into: *mut libc::timespec) -> libc::c_int {
    if into.is_null() {
        return -1;
    }
    let Some((tv_sec, tv_nsec)) = reading(clock) else {
        // SAFETY: the system call has the contract of the function that this replaces, with the caller's own arguments.
        let code = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, into) };
        return libc::c_int::try_from(code).unwrap_or(-1);
    };
    // SAFETY: as with the function that this replaces, `into` points to memory for one timespec, aligned and writable.
    unsafe { into.write(libc::timespec { tv_sec, tv_nsec }) };
    0
}
