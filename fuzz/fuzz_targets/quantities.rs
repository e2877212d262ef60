//! `cargo xtask fuzz quantities`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hitless_fuzz::quantities(data));
