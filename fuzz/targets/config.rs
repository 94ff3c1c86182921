//! `make fuzz`: see [`belljar_fuzz::config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| belljar_fuzz::config::hold(bytes));
