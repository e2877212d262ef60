//! `cargo xtask fuzz archives`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hitless_fuzz::archives(data));
