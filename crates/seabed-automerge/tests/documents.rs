//! `DocStore`: one batch a commit, nothing over what was not seen, nothing written by reading, deletion that stays.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use automerge::transaction::Transactable as _;
use automerge::{Automerge, AutomergeError, ROOT};
use common::*;
use pollster::block_on;
use seabed_automerge::{
    Append, Appended, CompactOptions, DocStore, DocumentPersister, Meta, PersistentAutomerge, Persister as _,
    Replace,
};
use seabed_kv::{ErrorKind, Store};

fn append(store: &DocStore, document: u8, expected: Option<&Meta>, append: Append) -> Appended<&'static str> {
    block_on(store.append(id(document), expected, append, "told")).unwrap()
}

fn applied(appended: Appended<&'static str>) -> Meta {
    match appended {
        Appended::Applied { meta, effects } => {
            assert_eq!(effects.release(), "told");
            meta
        }
        other => panic!("{other:?}"),
    }
}

fn of(document: &Automerge) -> Append {
    Append {
        changes: document.get_changes(&[]),
        now_unix_ms: NOW_MS,
        staged_id: [1; 16],
        ..Append::default()
    }
}

#[test]
fn a_commit_is_one_durable_batch_as_large_as_its_changes() {
    let (store, oddities) = Odd::store();
    let documents = documents(&store);
    let mut document = load(&documents, id(1));
    document.apply_changes(plain(3_000).get_changes(&[])).unwrap();
    let before = oddities.lock().unwrap().written;
    let counted = oddities.lock().unwrap().applied;
    assert!(put(&mut document, "key"));
    let (written, batches) = {
        let oddities = oddities.lock().unwrap();
        (oddities.written - before, oddities.applied - counted)
    };
    assert_eq!(batches, 1);
    assert!(written < 400, "{written} bytes for a change of a hundred, in a document of 3,000");
    let oddities = oddities.lock().unwrap();
    assert_eq!(oddities.durable, oddities.applied);
}

#[test]
fn changes_come_back_in_the_order_in_which_they_came_as_one_buffer() {
    let store = Store::memory();
    let documents = documents(&store);
    let document = plain(500);
    let changes = document.get_changes(&[]);
    let mut meta = None;
    for part in changes.chunks(7) {
        let part = Append { changes: part.to_vec(), now_unix_ms: NOW_MS, ..Append::default() };
        meta = Some(applied(append(&documents, 1, meta.as_ref(), part)));
    }
    let loaded = block_on(documents.load(id(1))).unwrap().unwrap();
    assert_eq!(loaded.bytes, document.save_after(&[]));
    assert_eq!(Some(&loaded.meta), meta.as_ref());
    assert_eq!(loaded.meta.changes(), 500);
    assert_eq!(loaded.meta.sizes().changes, loaded.bytes.len());
    assert_sound(&store);
}

#[test]
fn who_has_not_seen_what_others_stored_is_told_and_stores_nothing() {
    let store = Store::memory();
    let documents = documents(&store);
    let (one, two) = (plain(2), plain(3));
    let first = applied(append(&documents, 1, None, of(&one)));
    let before = rows(&store);
    for expected in [None, Some(Meta::default())] {
        let appended = append(&documents, 1, expected.as_ref(), of(&two));
        assert_eq!(appended, Appended::Behind { effects: "told" });
        assert_eq!(rows(&store), before);
    }
    let second = applied(append(&documents, 1, Some(&first), of(&two)));
    assert_eq!(append(&documents, 1, Some(&first), of(&two)), Appended::Behind { effects: "told" });
    let since = block_on(documents.since(id(1), &first)).unwrap().unwrap();
    assert_eq!((since.bytes, since.meta), (two.save_after(&[]), second.clone()));
    // After a compaction it is everything.
    let mut all = one.clone();
    all.merge(&mut two.clone()).unwrap();
    let replace = Replace { snapshot: all.save(), now_unix_ms: NOW_MS, ..Replace::default() };
    let stale = block_on(documents.replace(id(1), &first, replace.clone(), ())).unwrap();
    assert_eq!(stale, Appended::Behind { effects: () });
    let replaced = block_on(documents.replace(id(1), &second, replace, ())).unwrap();
    assert!(matches!(replaced, Appended::Applied { .. }));
    let since = block_on(documents.since(id(1), &first)).unwrap().unwrap();
    assert_eq!(since.bytes, all.save());
}

#[test]
fn reading_writes_nothing() {
    let (store, oddities) = Odd::store();
    let documents = documents(&store);
    let mut document = load(&documents, id(1));
    for number in 0..20 {
        assert!(put(&mut document, &number.to_string()));
    }
    let before = (rows(&store), oddities.lock().unwrap().applied);
    for _ in 0..3 {
        let mut again = load(&documents, id(1));
        assert_eq!(again.flush().unwrap(), 0);
        let none = load(&documents, id(2));
        assert!(none.close().is_ok());
    }
    block_on(documents.pieces(id(1))).unwrap();
    block_on(documents.documents()).unwrap();
    let dry = CompactOptions { force: true, verify: true, dry_run: true };
    let report = block_on(documents.compact(id(1), dry, NOW_MS, || [1; 16])).unwrap().unwrap();
    assert!(!report.compacted && report.compacted_bytes > 0);
    assert_eq!((rows(&store), oddities.lock().unwrap().applied), before);
}

#[test]
fn a_sync_state_that_did_not_change_is_not_written() {
    use automerge::sync::{State, SyncDoc as _};

    let (store, oddities) = Odd::store();
    let documents = documents(&store);
    let (mut document, mut other) = (load(&documents, id(1)), plain(3));
    let mut session = |document: &mut Document| {
        let mut theirs = State::new();
        let mut messages = 0;
        for _ in 0..6 {
            if let Some(message) = other.generate_sync_message(&mut theirs) {
                document.receive_sync_message(b"peer".to_vec(), message).unwrap();
                messages += 1;
            }
            if let Some(message) = document.generate_sync_message(b"peer".to_vec()).unwrap() {
                other.receive_sync_message(&mut theirs, message).unwrap();
                messages += 1;
            }
        }
        assert!(messages >= 2, "{messages} messages");
        document.end_session(b"peer");
    };
    session(&mut document);
    assert_eq!(document.persister().get_peer_ids().unwrap(), [b"peer"]);
    let before = oddities.lock().unwrap().applied;
    for _ in 0..3 {
        session(&mut document);
    }
    assert_eq!(oddities.lock().unwrap().applied, before);
}

#[test]
fn large_commits_and_snapshots_are_staged_and_what_they_replace_is_swept() {
    let store = Store::memory();
    let documents = documents(&store);
    let mut document = Automerge::new();
    let noise: Vec<u8> =
        (0..3_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "noise", noise)).unwrap();
    applied(append(&documents, 1, None, of(&document)));
    let loaded = block_on(documents.load(id(1))).unwrap().unwrap();
    assert!(loaded.bytes == document.save_after(&[]));
    let force = CompactOptions { force: true, verify: true, dry_run: false };
    for number in 2..4 {
        let report = block_on(documents.compact(id(1), force, NOW_MS, || [number; 16])).unwrap().unwrap();
        assert!(report.compacted);
        assert_sound(&store);
    }
    let chunks =
        |store: &Store| rows(store).keys().filter(|(category, _)| category == "automerge.chunk").count();
    let before = chunks(&store);
    assert_eq!(block_on(documents.maintain(NOW_MS + 15 * 60_000)).unwrap(), 0, "who reads it may go on");
    assert_eq!(block_on(documents.maintain(NOW_MS + 15 * 60_000 + 1)).unwrap(), 2);
    assert!(chunks(&store) * 2 < before);
    assert_eq!(load(&documents, id(1)).document().get_heads(), document.get_heads());
    assert_sound(&store);
    assert!(block_on(documents.delete(id(1), 9)).unwrap());
    assert_eq!(chunks(&store), 0);
}

#[test]
fn a_deleted_document_is_gone_whole_and_nobody_brings_it_back() {
    let store = Store::memory();
    let documents = documents(&store);
    let mut document = load(&documents, id(1));
    assert!(put(&mut document, "1"));
    let meta = block_on(documents.meta(id(1))).unwrap().unwrap();
    assert!(block_on(documents.delete(id(1), 9)).unwrap());
    assert!(!block_on(documents.delete(id(1), 9)).unwrap());
    assert!(!put(&mut document, "2"));
    assert_eq!(append(&documents, 1, Some(&meta), of(&plain(1))), Appended::Deleted);
    assert_eq!(append(&documents, 1, None, of(&plain(1))), Appended::Deleted);
    assert_eq!(block_on(documents.load(id(1))).unwrap(), None);
    assert!(block_on(documents.is_deleted(id(1))).unwrap());
    let refused = DocumentPersister::open(&documents, id(1)).unwrap_err();
    assert!(refused.to_string().contains("deleted"), "{refused}");
    assert_eq!(categories(&store), ["automerge.deleted", "automerge.format", "automerge.shards"]);
    assert_sound(&store);
}

#[test]
fn a_deletion_that_was_cut_off_is_completed_by_the_next_opening() {
    for writes in 0..8 {
        let (store, oddities) = Odd::store();
        let documents = documents(&store);
        let mut document = load(&documents, id(1));
        for number in 0..600 {
            assert!(put(&mut document, &number.to_string()));
        }
        let before = rows(&store);
        oddities.lock().unwrap().writes_left = Some(writes);
        let deleted = block_on(documents.delete(id(1), 9));
        oddities.lock().unwrap().writes_left = None;
        assert_sound(&store);
        if rows(&store) == before {
            assert!(writes == 0 && deleted.is_err());
            continue;
        }
        assert_eq!(block_on(documents.load(id(1))).unwrap(), None, "nobody sees half a document");
        let documents = block_on(DocStore::open(&store)).unwrap();
        assert_eq!(categories(&store), ["automerge.deleted", "automerge.format", "automerge.shards"]);
        assert_eq!(append(&documents, 1, None, Append::default()), Appended::Deleted);
    }
}

#[test]
fn an_unknown_outcome_is_found_out_by_the_next_call() {
    for fault in [Fault::AppliedUnknown, Fault::NotAppliedUnknown, Fault::NotApplied] {
        let (store, oddities) = Odd::store();
        let documents = documents(&store);
        let mut document = load(&documents, id(1));
        assert!(put(&mut document, "1"));
        oddities.lock().unwrap().fault = Some(fault);
        assert!(!put(&mut document, "2"));
        document.flush().unwrap();
        assert!(put(&mut document, "3"));
        assert_eq!(stored(&documents, id(1)), ["1", "2", "3"], "{fault:?}");
        let meta = block_on(documents.meta(id(1))).unwrap().unwrap();
        assert_eq!(meta.changes(), 3, "{fault:?}: nothing is stored twice");
        assert_sound(&store);
    }
}

#[test]
fn bounds_are_named() {
    let documents = documents(&Store::memory());
    let long = Append { sync_states: vec![(vec![b'p'; 1_025], Vec::new())], ..Append::default() };
    let many = Append { sync_states: vec![(Vec::new(), Vec::new()); 4_097], ..Append::default() };
    for (append, bound) in [(long, "PEER_BYTES_MAX"), (many, "COMMIT_PEERS_MAX")] {
        let error = block_on(documents.append(id(1), None, append, ())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(bound), "{error}");
    }
    assert_eq!(block_on(documents.meta(id(1))).unwrap(), None);
}

#[test]
fn a_store_of_a_later_version_is_refused_naming_both() {
    let store = Store::memory();
    documents(&store);
    tenant(&store)
        .put("automerge.format", b"", [&[0, 0, 0, 7], &b"seabed 9.9.9"[..]].concat())
        .wait()
        .unwrap();
    let error = block_on(DocStore::open(&store)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    for part in ["format 7", "seabed 9.9.9", "format 1", env!("CARGO_PKG_VERSION")] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}

#[test]
fn a_panic_of_the_caller_is_passed_on_and_the_document_is_loaded_again() {
    let documents = documents(&Store::memory());
    let mut document = load(&documents, id(1));
    assert!(put(&mut document, "1"));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let done = document.transact::<_, (), AutomergeError>(|tx| {
            tx.put(ROOT, "2", 2)?;
            panic!("the caller's own")
        });
        done.is_ok()
    }));
    assert!(panicked.is_err());
    assert!(put(&mut document, "3"));
    assert_eq!(keys(document.document()), ["1", "3"]);
    assert_eq!(stored(&documents, id(1)), ["1", "3"]);
}

#[test]
fn a_relaxed_handle_flushes_before_it_tells_a_peer_anything() {
    let (store, oddities) = Odd::store();
    let documents = documents(&store);
    let persister = DocumentPersister::open(&documents, id(1)).unwrap().relaxed();
    let mut document = PersistentAutomerge::load(persister).unwrap();
    let counts = || {
        let oddities = oddities.lock().unwrap();
        (oddities.durable, oddities.flushes)
    };
    let (durable, _) = counts();
    assert!(put(&mut document, "1"));
    assert_eq!(counts(), (durable, 0));
    assert!(document.generate_sync_message(b"peer".to_vec()).unwrap().is_some());
    assert_eq!(counts(), (durable, 1));
    assert!(put(&mut document, "2"));
    assert!(document.flush().unwrap() > 50, "as many bytes as were not durable");
    assert_eq!(document.flush().unwrap(), 0);
    // What cannot be flushed is not told.
    assert!(put(&mut document, "3"));
    oddities.lock().unwrap().writes_left = Some(0);
    assert!(document.generate_sync_message(b"peer".to_vec()).is_err());
}
