//! `cargo xtask fuzz selectors`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hitless_fuzz::selectors(data));
