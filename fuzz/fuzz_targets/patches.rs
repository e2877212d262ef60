//! `cargo xtask fuzz patches`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hitless_fuzz::patches(data));
