//! The allocator of the whole process.
//!
//! Objects are many small pieces: with the C library's allocator a fifth of the engine's time went into them. Huge pages are left out
//! (feature `no_thp`): with them an idle cluster held 108 MiB instead of 53.

#![allow(unsafe_code)] // one call into the allocator; see `give_back_soon`

use std::ffi::c_int;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay` of mimalloc 3; its crate names only the options that never change their number.
const PURGE_DELAY: c_int = 15;
/// Memory that is free for this long goes back to the system. The allocator's own default, a second, leaves what was needed at the
/// start with a process that has become idle: 10 MiB.
const PURGE_DELAY_MS: std::ffi::c_long = 10;

/// Gives memory back soon after it was freed. To be called once, before other threads run.
pub fn give_back_soon() {
    // SAFETY: sets one number in a table of the allocator's; a number that it does not know is ignored.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: reads one number of the allocator's.
        let read = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(read(), 1000, "the allocator's default");
        give_back_soon();
        assert_eq!(read(), PURGE_DELAY_MS);
    }
}
