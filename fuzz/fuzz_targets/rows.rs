#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seabed_taskchampion::fuzz_rows(data));
