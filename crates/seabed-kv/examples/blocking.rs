//! The blocking face: plain threads, no runtime. `Op::wait` is all there is to it.
//! `cargo run -p seabed-kv --example blocking`.

#![allow(clippy::expect_used, reason = "a thread that panics ends the example")]

use seabed_kv::{Batch, Durability, Key, KeyRange, Result, ScanSpec, Store};

const WRITERS: u64 = 8;
const MESSAGES: u64 = 25;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::sqlite(directory.path())?;
    let inbox = store.open("inbox").wait()?;

    // Threads that wait share flushes: what gathers while one flush runs is served by the next.
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let inbox = &inbox;
                scope.spawn(move || -> Result<()> {
                    for number in 0..MESSAGES {
                        let key = Key::builder().uint(writer).uint(number).build()?;
                        inbox.put("message", key, b"hello").wait()?;
                    }
                    Ok(())
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("no thread panics"))
    })?;
    let stats = inbox.stats().wait()?;
    assert_eq!(stats.commits, WRITERS * MESSAGES);
    assert!(stats.groups <= stats.commits);

    // Fire and forget: the write is queued when the call returns. The next write that is awaited, or `flush`, comes after it.
    let mut seen = Batch::new();
    seen.put("cursor", b"", b"25");
    drop(inbox.apply(seen, Durability::Relaxed));
    inbox.flush().wait()?;
    assert_eq!(inbox.get("cursor", b"").wait()?, Some(b"25".to_vec()));

    // Large ranges page by page, so that memory stays bounded.
    let (mut next, mut rows) = (Some(ScanSpec::new("message", KeyRange::all()).limit(150)), 0);
    while let Some(spec) = next {
        let page = inbox.scan_page(spec).wait()?;
        rows += page.rows.len();
        next = page.next;
    }
    assert_eq!(rows, 150);
    store.close().wait()?;
    Ok(())
}

#[test]
fn shows_what_it_says() {
    main().unwrap();
}
