//! A store in ten lines: `cargo run -p seabed-kv --example ten_lines`.

use seabed_kv::{KeyRange, Result, ScanSpec, Store};

fn ten_lines(root: &std::path::Path) -> Result<()> {
    let store = Store::sqlite(root)?;
    let notes = store.open("notes").wait()?;
    notes.put("note", b"1", b"every call answers an Op: await it, or wait for it").wait()?;
    notes.put("note", b"2", b"when it has answered, this survives a power cut").wait()?;
    assert!(notes.get("note", b"2").wait()?.is_some());
    assert!(notes.delete("note", b"1").wait()?, "it was there");
    let rows = notes.scan(ScanSpec::new("note", KeyRange::all())).collect().wait()?;
    assert_eq!(rows.len(), 1);
    store.close().wait()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    ten_lines(directory.path())?;
    // What remains is plain files, a tenant each.
    assert!(directory.path().join("notes.db").exists());
    Ok(())
}

#[test]
fn shows_what_it_says() {
    main().unwrap();
}
