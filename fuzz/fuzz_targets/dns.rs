//! `cargo xtask fuzz dns`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hitless_fuzz::dns(data));
