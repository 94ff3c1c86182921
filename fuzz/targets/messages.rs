//! `make fuzz`: see [`belljar_fuzz::messages`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| belljar_fuzz::messages::hold(bytes));
