//! `make fuzz`: see [`belljar_fuzz::v1`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| belljar_fuzz::v1::hold(bytes));
