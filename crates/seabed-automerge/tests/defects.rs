//! The seven defects of the published persistence of automerge documents, each reproduced there, and none here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use automerge::sync::{State, SyncDoc as _};
use automerge::transaction::Transactable as _;
use automerge::{AutomergeError, ROOT, ReadDoc as _};
use common::*;
use seabed_automerge::{DocumentPersister, PersistentAutoCommit, Persister as _};
use seabed_kv::Store;

#[test]
fn defect_1_a_failed_insert_leaves_no_hole() {
    let (store, oddities) = Odd::store();
    let documents = documents(&store);
    let mut document = load(&documents, id(1));
    for number in 0..10 {
        oddities.lock().unwrap().writes_left = (number == 3).then_some(0);
        assert_eq!(put(&mut document, &number.to_string()), number != 3);
    }
    assert_eq!(stored(&documents, id(1)).len(), 10);
    assert_sound(&store);
}

#[test]
fn defect_2_no_edit_goes_around_the_persister() {
    // There is no access that could; and whatever a closure does to its document is stored from the heads that are known to be.
    let store = Store::memory();
    let documents = documents(&store);
    let open = || DocumentPersister::open(&documents, id(1)).unwrap();
    let mut document = PersistentAutoCommit::load(open()).unwrap();
    document
        .transact::<_, _, AutomergeError>(|doc| {
            doc.put(ROOT, "1", 1)?;
            doc.commit();
            // Moves a cursor of automerge's, on which nothing rests.
            doc.save_incremental();
            doc.put(ROOT, "2", 2)
        })
        .unwrap();
    document.transact::<_, _, AutomergeError>(|doc| doc.put(ROOT, "3", 3)).unwrap();
    assert_eq!(stored(&documents, id(1)), ["1", "2", "3"]);
    // Another document in its place is noticed.
    let replaced = document.transact::<_, _, AutomergeError>(|doc| {
        *doc = automerge::AutoCommit::new();
        doc.put(ROOT, "4", 4)
    });
    assert!(replaced.is_err());
    assert_eq!(keys(document.document()), ["1", "2", "3"]);
    assert_eq!(stored(&documents, id(1)), ["1", "2", "3"]);
}

#[test]
fn defect_3_a_failed_compaction_moves_nothing_and_received_changes_are_stored_once() {
    let (store, oddities) = Odd::store();
    let documents = documents(&store);
    let mut document =
        PersistentAutoCommit::load(DocumentPersister::open(&documents, id(1)).unwrap()).unwrap();
    oddities.lock().unwrap().writes_left = Some(0);
    assert!(document.transact::<_, _, AutomergeError>(|doc| doc.put(ROOT, "1", 1)).is_err());
    assert!(document.compact(&[]).is_err());
    oddities.lock().unwrap().writes_left = None;
    document.flush().unwrap();
    assert_eq!(stored(&documents, id(1)), ["1"]);

    document.apply_changes(plain(10).get_changes(&[])).unwrap();
    document.transact::<_, _, AutomergeError>(|doc| doc.put(ROOT, "2", 2)).unwrap();
    document.flush().unwrap();
    assert_eq!(document.persister().get_changes().unwrap().len(), 12);
}

#[test]
fn defect_4_a_crash_before_a_flush_keeps_what_a_compaction_would_have_replaced() {
    let (store, oddities) = Odd::store();
    let documents = documents(&store);
    for writes in 0..6 {
        let document_id = id(writes);
        let mut document = load(&documents, document_id);
        for number in 0..50 {
            assert!(put(&mut document, &format!("{number:050}")));
        }
        oddities.lock().unwrap().writes_left = Some(u64::from(writes));
        let compacted = document.compact(&[]).is_ok();
        oddities.lock().unwrap().writes_left = None;
        drop(document);
        assert_eq!(
            stored(&documents, document_id).len(),
            50,
            "after {writes} writes, compacted: {compacted}"
        );
    }
    assert_sound(&store);
}

#[test]
fn defect_5_two_handles_keep_what_each_other_has_stored() {
    let store = Store::memory();
    let documents = documents(&store);
    let (mut one, mut two) = (load(&documents, id(1)), load(&documents, id(1)));
    assert!(put(&mut one, "1") && put(&mut two, "2"));
    one.compact(&[]).unwrap();
    two.compact(&[]).unwrap();
    assert_eq!(stored(&documents, id(1)), ["1", "2"]);
    assert_sound(&store);
}

#[test]
fn defect_6_a_document_does_not_read_the_changes_of_one_whose_id_begins_alike() {
    // Ids have one length; and peers, which have not, stand at the end of their keys.
    let store = Store::memory();
    let documents = documents(&store);
    let mut first = load(&documents, id(1));
    let mut second = load(&documents, id(10));
    assert!(put(&mut first, "of 1") && put(&mut second, "of 10"));
    assert_eq!(stored(&documents, id(1)), ["of 1"]);
    let mut persister = first.close().unwrap();
    persister.set_sync_state(b"1".to_vec(), b"of 1".to_vec()).unwrap();
    persister.set_sync_state(b"10".to_vec(), b"of 10".to_vec()).unwrap();
    persister.remove_sync_states(&[b"1"]).unwrap();
    assert_eq!(persister.get_sync_state(b"10").unwrap(), Some(b"of 10".to_vec()));
    assert!(second.persister().get_peer_ids().unwrap().is_empty());
}

#[test]
fn defect_7_the_ids_of_peers_come_back_as_they_were_given() {
    let store = Store::memory();
    let documents = documents(&store);
    let mut document = load(&documents, id(1));
    let (mut other, mut theirs) = (plain(3), State::new());
    for _ in 0..4 {
        if let Some(message) = other.generate_sync_message(&mut theirs) {
            document.receive_sync_message(b"a peer".to_vec(), message).unwrap();
        }
        if let Some(message) = document.generate_sync_message(b"a peer".to_vec()).unwrap() {
            other.receive_sync_message(&mut theirs, message).unwrap();
        }
    }
    let peers = document.persister().get_peer_ids().unwrap();
    assert_eq!(peers, [b"a peer"]);
    let peers: Vec<&[u8]> = peers.iter().map(Vec::as_slice).collect();
    document.compact(&peers).unwrap();
    assert!(document.persister().get_peer_ids().unwrap().is_empty());
    assert_eq!(document.document().keys(ROOT).count(), 3);
    assert_sound(&store);
}
