//! The fuzzer's way to `sapwood_fuzz_checks::hub`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sapwood_fuzz_checks::hub::check(bytes));
