//! Frames of automerge-repo's protocol, and the sync messages in them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seabed_automerge::fuzz_frames(data));
