//! The async face, here on tokio: an `Op` is a future that needs no particular runtime.
//! `cargo run -p seabed-kv --example on_tokio`.

use std::time::Duration;

use seabed_kv::{Batch, Durability, Key, KeyRange, ScanSpec, Store};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::sqlite(directory.path())?;
    let log = store.open("log").await?;

    // Tasks that await share flushes, as threads do.
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8_u64 {
        let log = log.clone();
        tasks.spawn(async move { log.put("entry", Key::of(task)?, b"x").await });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }

    // Cancelling is safe: a call queues its write, so a timeout ends the waiting and not the write.
    let mut batch = Batch::new();
    batch.put("entry", Key::of(8_u64)?, b"x");
    let _ = tokio::time::timeout(Duration::ZERO, log.apply(batch, Durability::Durable)).await;
    log.flush().await?;
    assert!(log.exists("entry", Key::of(8_u64)?).await?);

    // Relaxed is acknowledged at once; before telling anybody else, wait until a power cut cannot take it back.
    let mut batch = Batch::new();
    batch.put("entry", Key::of(9_u64)?, b"x");
    let outcome = log.apply(batch, Durability::Relaxed).await?;
    let commit = outcome.applied().map_err(|refusal| format!("refused by check {}", refusal.check))?;
    commit.wait_durable().await?;

    // A scan is a stream of rows; `next` reads it without further crates.
    let mut scan = log.scan(ScanSpec::new("entry", KeyRange::all()));
    let mut rows = 0;
    while let Some(row) = scan.next().await {
        assert_eq!(row?.payload, b"x");
        rows += 1;
    }
    assert_eq!(rows, 10);
    store.close().await?;
    Ok(())
}

#[test]
fn shows_what_it_says() {
    main().unwrap();
}
