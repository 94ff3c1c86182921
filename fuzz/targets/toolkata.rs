//! `make fuzz`: see [`belljar_fuzz::toolkata`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| belljar_fuzz::toolkata::hold(bytes));
