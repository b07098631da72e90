#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seabed_testkit::fuzz::sds::wire(data));
