//! Verification, quarantine, and rows for people.
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
use seabed_automerge::{DocStore, Persister as _, decode_row, verify, verify_in};
use seabed_kv::{Batch, Durability, Store};

/// A store with a compacted document, one with single changes, one with staged values, one with bytes under an address.
fn filled() -> (Store, DocStore) {
    let store = Store::memory();
    let documents = documents(&store);
    let mut compacted = load(&documents, id(1));
    let mut changes = load(&documents, id(2));
    for number in 0..10 {
        assert!(put(&mut compacted, &number.to_string()) && put(&mut changes, &number.to_string()));
    }
    compacted.compact(&[]).unwrap();
    let noise: Vec<u8> =
        (0..1_500_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut staged = load(&documents, id(3));
    staged.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "noise", noise)).unwrap();
    let mut classic = load(&documents, id(4)).close().unwrap();
    classic.insert_changes(vec![(automerge::ActorId::from([7]), 1, b"opaque".to_vec())]).unwrap();
    classic.set_sync_state(b"peer".to_vec(), b"state".to_vec()).unwrap();
    assert_sound(&store);
    (store, documents)
}

fn findings(store: &Store) -> Vec<String> {
    block_on(verify_in(store, &tenant(store))).unwrap().findings
}

#[test]
fn a_sound_store_is_counted() {
    let (store, _) = filled();
    let report = block_on(verify(&tenant(&store))).unwrap();
    assert_eq!((report.documents, report.changes, report.snapshots), (4, 12, 1));
    assert!(report.bytes > 1_500_000);
}

#[test]
fn whatever_row_is_missing_or_altered_is_found() {
    let (store, _) = filled();
    let tenant = tenant(&store);
    let mut missed = Vec::new();
    for ((category, key), payload) in rows(&store) {
        // One chunk of many is as good as all.
        if category == "automerge.chunk" && !key.ends_with(&[0, 0, 0, 5]) {
            continue;
        }
        tenant.delete(&category, &key).wait().unwrap();
        if findings(&store).is_empty() {
            missed.push(format!("{category} {} is gone", hex::encode(&key)));
        }
        let mut altered = payload.clone();
        *altered.last_mut().unwrap() ^= 1;
        tenant.put(&category, &key, altered).wait().unwrap();
        // When a peer's state was written, and what it is, nobody else knows; and so it is with bytes of any kind, and with times.
        let opaque = ["automerge.peer", "automerge.document"].contains(&category.as_str());
        let free = opaque || payload.first() == Some(&3) || category == "automerge.format";
        if findings(&store).is_empty() && !free {
            missed.push(format!("{category} {} is altered", hex::encode(&key)));
        }
        tenant.put(&category, &key, payload).wait().unwrap();
    }
    assert_eq!(missed, Vec::<String>::new());
    assert_sound(&store);
}

#[test]
fn what_belongs_to_nobody_is_found() {
    let (store, _) = filled();
    let stray = id(9);
    let mut key = stray.as_bytes().to_vec();
    key.extend([0; 8]);
    for (category, key) in [
        ("automerge.change", key.clone()),
        ("automerge.change", b"short".to_vec()),
        ("automerge.snapshot", [stray.as_bytes(), &[0; 32][..]].concat()),
        ("automerge.peer", key.clone()),
        ("automerge.quarantine", key),
        ("automerge.chunk", vec![9; 20]),
        ("automerge.document", b"short".to_vec()),
        ("automerge.deleted", b"short".to_vec()),
    ] {
        tenant(&store).put(category, &key, [1]).wait().unwrap();
        assert_eq!(findings(&store).len(), 1, "{category}");
        assert!(tenant(&store).delete(category, &key).wait().unwrap());
    }
    assert_sound(&store);
}

#[test]
fn damage_goes_into_quarantine_once_and_is_never_removed() {
    for category in ["automerge.change", "automerge.snapshot", "automerge.chunk"] {
        let (store, documents) = filled();
        let (key, payload) = rows(&store)
            .into_iter()
            .filter(|((of, key), _)| {
                of == category && (category != "automerge.change" || key.starts_with(&[2; 16]))
            })
            .map(|((_, key), payload)| (key, payload))
            .nth(3.min(usize::from(category != "automerge.snapshot") * 3))
            .unwrap();
        let mut altered = payload.clone();
        let middle = altered.len() / 2;
        altered[middle] ^= 1;
        tenant(&store).put(category, &key, altered.clone()).wait().unwrap();
        assert!(!findings(&store).is_empty(), "{category}");
        let damaged = match category {
            "automerge.change" => id(2),
            "automerge.snapshot" => id(1),
            _ => id(3),
        };
        let mut document = load(&documents, damaged);
        assert_eq!(document.damaged().len(), 1, "{category}");
        assert_sound(&store);
        let quarantined: Vec<_> =
            rows(&store).into_iter().filter(|((of, _), _)| of == "automerge.quarantine").collect();
        assert_eq!(quarantined.len(), 1);
        let ((of, key), row) = &quarantined[0];
        assert_eq!(decode_row(of.as_bytes(), key, row).unwrap()["document"], damaged.to_string());
        if category != "automerge.chunk" {
            assert!(row.ends_with(&altered), "{category}: as it was");
        }
        // The next load finds nothing more, and a compaction leaves it.
        assert!(put(&mut document, "after"));
        document.compact(&[]).unwrap();
        assert!(load(&documents, damaged).damaged().is_empty());
        assert_eq!(block_on(documents.document(damaged)).unwrap().unwrap().quarantined, 1);
        assert!(rows(&store).contains_key(&quarantined[0].0));
        block_on(documents.maintain(u64::MAX)).unwrap();
        assert_sound(&store);
        // With the document it goes.
        assert!(block_on(documents.delete(damaged, 9)).unwrap());
        assert!(!categories(&store).contains(&"automerge.quarantine".to_owned()));
        assert_sound(&store);
    }
}

#[test]
fn a_peer_sends_again_what_was_damaged() {
    use automerge::sync::{State, SyncDoc as _};
    let store = Store::memory();
    let documents = documents(&store);
    let (mut peer, mut theirs) = (plain(30), State::new());
    let mut exchange = |document: &mut Document, theirs: &mut State| {
        for _ in 0..6 {
            if let Some(message) = peer.generate_sync_message(theirs) {
                document.receive_sync_message(b"peer".to_vec(), message).unwrap();
            }
            if let Some(message) = document.generate_sync_message(b"peer".to_vec()).unwrap() {
                peer.receive_sync_message(theirs, message).unwrap();
            }
        }
        peer.get_heads()
    };
    let mut document = load(&documents, id(1));
    assert_eq!(exchange(&mut document, &mut theirs), document.document().get_heads());
    drop(document);
    let ((_, key), mut row) =
        rows(&store).into_iter().find(|((category, _), _)| category == "automerge.change").unwrap();
    row[20] ^= 1;
    tenant(&store).put("automerge.change", key, row).wait().unwrap();
    let mut document = load(&documents, id(1));
    assert!(!document.damaged().is_empty());
    // The peer comes back with what it remembers.
    let mut theirs = State::decode(&theirs.encode()).unwrap();
    let heads = exchange(&mut document, &mut theirs);
    assert_eq!(document.document().get_heads(), heads);
    assert_sound(&store);
}

#[test]
fn every_row_is_told() {
    let (store, documents) = filled();
    block_on(documents.delete(id(1), 9)).unwrap();
    for ((category, key), payload) in rows(&store) {
        let row = decode_row(category.as_bytes(), &key, &payload).unwrap();
        assert_eq!(row.get("damaged"), None, "{category}: {row}");
        assert_eq!(format!("automerge.{}", row["row"].as_str().unwrap()), category);
    }
    assert_eq!(decode_row(b"other", b"", b""), None);
}

#[test]
fn shards_that_are_missing_or_hold_others_documents_are_found() {
    let store = Store::memory();
    let documents = documents(&store);
    assert!(put(&mut load(&documents, id(1)), "1"));
    let mut batch = Batch::new();
    batch.put("automerge.shards", b"", [1, 0, 64]);
    tenant(&store).apply(batch, Durability::Durable).wait().unwrap();
    let findings = findings(&store);
    assert!(findings.iter().filter(|finding| finding.contains("is missing")).count() == 63, "{findings:?}");
    assert!(findings.iter().any(|finding| finding.contains("belongs in shard")), "{findings:?}");
    assert!(block_on(DocStore::open(&store)).unwrap_err().to_string().contains("automerge-01"));
}

#[test]
fn a_document_of_orphans_alone_is_loaded() {
    let (store, documents) = filled();
    let mut document = load(&documents, id(5));
    let changes = plain(5).get_changes(&[]);
    let mut persister = {
        assert!(put(&mut document, "1"));
        document.close().unwrap()
    };
    let orphan = &changes[3];
    persister
        .insert_changes(vec![(orphan.actor_id().clone(), orphan.seq(), orphan.raw_bytes().to_vec())])
        .unwrap();
    let mut document = load(&documents, id(5));
    assert!(document.damaged().is_empty());
    // A compaction keeps what waits for others.
    document.compact(&[]).unwrap();
    document.apply_changes(changes[..3].to_vec()).unwrap();
    let mut again = load(&documents, id(5));
    assert!(again.document().get_change_meta_by_hash(&orphan.hash()).is_some());
    again.compact(&[]).unwrap();
    assert_sound(&store);
    let _: &Automerge = again.document();
}
