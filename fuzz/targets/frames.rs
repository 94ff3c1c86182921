//! `make fuzz`: see [`belljar_fuzz::frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| belljar_fuzz::frames::hold(bytes));
