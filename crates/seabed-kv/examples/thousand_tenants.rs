//! A thousand tenants, each an isolated map in a file of its own, written by four threads.
//! `cargo run -p seabed-kv --example thousand_tenants`.

use seabed_kv::{Batch, Durability, Op, Outcome, Result, Store};

const TENANTS: usize = 1_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::sqlite(directory.path())?;
    // Any text is an id: what file names cannot hold is escaped.
    let ids: Vec<String> = (0..TENANTS).map(|number| format!("user/{number:04}")).collect();
    for id in &ids {
        store.open(id).wait()?;
    }

    // By id, without a handle. Every call queues its write at once; the answers are awaited afterwards.
    let writes: Vec<Op<Outcome>> = ids
        .iter()
        .map(|id| {
            let mut batch = Batch::new();
            batch.put("profile", b"name", id.as_str());
            store.apply(id, batch, Durability::Relaxed)
        })
        .collect();
    for write in writes {
        assert!(write.wait()?.is_applied());
    }

    // Nobody sees another's rows, and one of them can go while the others stay.
    assert_eq!(store.get("user/0007", "profile", b"name").wait()?, Some(b"user/0007".to_vec()));
    store.drop_tenant("user/0007").wait()?;
    assert!(!store.has("user/0007"));
    store.close().wait()?; // makes everything durable

    let again = Store::sqlite(directory.path())?;
    let left = again.list().wait()?;
    assert_eq!(left.len(), TENANTS - 1, "they are listed without being opened");
    for id in left.iter().step_by(100) {
        let tenant = again.open(id.as_str()).wait()?;
        assert_eq!(tenant.get("profile", b"name").wait()?, Some(id.as_str().into()));
    }
    again.close().wait()?;
    Ok(())
}

#[test]
fn shows_what_it_says() {
    main().unwrap();
}
