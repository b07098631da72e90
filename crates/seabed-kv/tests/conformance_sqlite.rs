//! The battery on the SQLite backend, each case in a directory of its own.

use std::cell::RefCell;

#[test]
fn the_sqlite_backend_passes_the_battery() {
    let directories = RefCell::new(Vec::new());
    seabed_kv::conformance::run(|| {
        let directory = tempfile::tempdir().unwrap();
        let store = seabed_kv::Store::sqlite(directory.path().join("root")).unwrap();
        directories.borrow_mut().push(directory);
        store
    });
}
