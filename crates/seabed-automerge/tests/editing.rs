//! Days of editing by several programs on one document, with compaction at every moment: what is stored is what automerge makes of all of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use automerge::transaction::Transactable as _;
use automerge::{Automerge, AutomergeError, ObjId, ObjType, ROOT, ReadDoc as _, ScalarValue};
use common::*;
use pollster::block_on;
use seabed_automerge::{CompactOptions, DocStore};
use seabed_kv::Store;
use seabed_testkit::Rng;

/// A person's edit: text in the middle, a list, a counter, a key that others write too.
fn edit(document: &mut Document, rng: &mut Rng) {
    let text = document.document().get(ROOT, "text").unwrap().map(|(_, text)| text);
    let result = document.transact::<_, _, AutomergeError>(|tx| {
        let text: ObjId = match text {
            Some(text) => text,
            None => tx.put_object(ROOT, "text", ObjType::Text)?,
        };
        match rng.below(6) {
            0 | 1 => {
                let at = rng.below(tx.length(&text) + 1);
                let words: &str = rng.pick::<&str>(&["a", "some words ", "é", "🙂"]);
                tx.splice_text(&text, at, 0, words)
            }
            2 => {
                let length = tx.length(&text);
                let at = rng.below(length + 1);
                let deleted = rng.below(4).min(length - at);
                tx.splice_text(&text, at, isize::try_from(deleted).unwrap(), "")
            }
            3 => tx.put(ROOT, format!("key {}", rng.below(5)), rng.next()),
            4 => match tx.get(ROOT, "counter")? {
                Some(_) => tx.increment(ROOT, "counter", 1),
                None => tx.put(ROOT, "counter", ScalarValue::counter(0)),
            },
            _ => tx.delete(ROOT, format!("key {}", rng.below(5))),
        }
    });
    assert!(result.is_ok(), "{result:?}");
}

fn days(seed: u64, edits: usize) {
    let (store, oddities) = Odd::store();
    let documents = documents(&store);
    let mut rng = Rng::new(seed);
    let mut handles: Vec<_> = (0..3).map(|_| load(&documents, id(1))).collect();
    // All of it, by automerge alone.
    let mut everything = Automerge::new();
    for number in 0..edits {
        let who = rng.below(handles.len());
        let failing = rng.chance(1, 20);
        if failing {
            oddities.lock().unwrap().writes_left = Some(rng.below(2) as u64);
        }
        if failing {
            let _ = put(&mut handles[who], "failing");
        } else {
            edit(&mut handles[who], &mut rng);
        }
        oddities.lock().unwrap().writes_left = None;
        if rng.chance(1, 3) {
            let force = CompactOptions { force: true, verify: true, dry_run: false };
            if rng.chance(1, 4) {
                block_on(documents.compact(id(1), force, NOW_MS, || {
                    rng.next().to_be_bytes().repeat(2).try_into().unwrap()
                }))
                .unwrap();
            } else {
                assert!(handles[who].compact_with(&[], force).unwrap().compacted);
            }
        }
        handles[who].flush().unwrap();
        everything.merge(&mut handles[who].document().clone()).unwrap();
        if rng.chance(1, 15) {
            // The program ends, and another begins.
            handles[who] = load(&documents, id(1));
        }
        let stored = load(&documents, id(1));
        assert_eq!(stored.document().get_heads(), everything.get_heads(), "seed {seed}, edit {number}");
    }
    let stored = load(&documents, id(1));
    assert_eq!(stored.document().hydrate(None), everything.hydrate(None), "seed {seed}");
    assert_sound(&store);
}

#[test]
fn days_of_editing_with_compaction_at_every_moment() {
    for seed in 1..=6 {
        days(seed, 120);
    }
}

/// 10,000 edits compacted when it is worth it, as a server would: what is given to the kernel over the document's life.
#[test]
fn over_its_life_a_document_costs_at_most_four_times_its_changes() {
    let (store, oddities) = Odd::store();
    let documents = documents(&store);
    let mut document = load(&documents, id(1));
    let (mut raw, before) = (0, oddities.lock().unwrap().bytes);
    let mut compactions = 0;
    for number in 0..4_000_u64 {
        document
            .transact::<_, _, AutomergeError>(|tx| {
                tx.put(ROOT, format!("k{}", number % 1_000), "sixteen bytes ok")
            })
            .unwrap();
        raw += document.document().get_last_local_change().unwrap().raw_bytes().len() as u64;
        let options = CompactOptions::default();
        compactions += u64::from(document.compact_with(&[], options).unwrap().compacted);
    }
    let given = oddities.lock().unwrap().bytes - before;
    assert!(compactions > 5, "{compactions} compactions");
    assert!(given < 4 * raw, "{given} bytes given to the kernel for {raw} bytes of changes");
    let save = document.document().save().len();
    document.compact(&[]).unwrap();
    block_on(documents.maintain(u64::MAX)).unwrap();
    let bytes: usize =
        rows(&store).iter().map(|((category, key), row)| category.len() + key.len() + row.len()).sum();
    assert!(bytes * 10 < save * 13, "{bytes} bytes stored for a document that saves as {save}");
}

#[test]
fn one_document_for_many_programs_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::sqlite(directory.path()).unwrap();
    let documents: DocStore = documents(&store);
    std::thread::scope(|scope| {
        for program in 0..4 {
            let documents = documents.clone();
            scope.spawn(move || {
                let mut document = load(&documents, id(1));
                for number in 0..25 {
                    // Others may be quicker sixteen times in a row; nothing is lost then, and the next call stores it.
                    while !put(&mut document, &format!("{program}-{number:02}")) {}
                    if number % 10 == 9 {
                        drop(document.compact(&[]));
                    }
                }
                while document.flush().is_err() {}
            });
        }
    });
    assert_eq!(stored(&documents, id(1)).len(), 100);
    assert_sound(&store);
    store.close().wait().unwrap();
}
