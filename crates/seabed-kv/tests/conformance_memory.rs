//! The battery on the memory backend.

#[test]
fn the_memory_backend_passes_the_battery() {
    seabed_kv::conformance::run(seabed_kv::Store::memory);
}
