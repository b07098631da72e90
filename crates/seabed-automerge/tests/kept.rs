//! What was acknowledged stays, whatever is refused, damaged, large or hostile.
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
use automerge::{ActorId, Automerge, AutomergeError, Change, ROOT};
use common::*;
use pollster::block_on;
use seabed_automerge::{
    Append, Appended, CompactOptions, DocStore, DocumentPersister, PersistentAutomerge, Persister as _,
    Replace,
};
use seabed_kv::{ErrorKind, Store};
use seabed_testkit::Rng;

/// Changes of one actor, each putting one key to so many bytes that do not compress.
fn changes_of(actor: u8, keys: &[&str], bytes: usize) -> Vec<Change> {
    let mut document = Automerge::new().with_actor(ActorId::from([actor; 16]));
    for (number, key) in keys.iter().enumerate() {
        let mut rng = Rng::new(u64::from(actor) * 1_000 + number as u64);
        let noise: Vec<u8> = (0..bytes).map(|_| rng.next().to_be_bytes()[0]).collect();
        document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, *key, noise)).unwrap();
    }
    document.get_changes(&[])
}

/// Stores changes as they are, whether what they rest on is there or not.
fn store_changes(documents: &DocStore, number: u8, changes: &[&Change]) {
    let expected = block_on(documents.meta(id(number))).unwrap();
    let changes = changes.iter().map(|change| (*change).clone()).collect();
    let append = Append { changes, now_unix_ms: NOW_MS, staged_id: [9; 16], ..Append::default() };
    let appended = block_on(documents.append(id(number), expected.as_ref(), append, ())).unwrap();
    assert!(matches!(appended, Appended::Applied { .. }));
}

fn opaque(number: u64, bytes: usize) -> (ActorId, u64, Vec<u8>) {
    (ActorId::from([7]), number, vec![u8::try_from(number).unwrap(); bytes])
}

#[test]
fn a_commit_of_many_megabytes_with_a_flipped_bit_is_recovered() {
    let store = Store::memory();
    let documents = documents(&store);
    let names: Vec<_> = (0..40).map(|number| format!("{number:02}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    // Two actors: what does not rest on the damaged change is there still.
    let (first, second) = (changes_of(1, &names[..2], 300_000), changes_of(2, &names[2..], 300_000));
    load(&documents, id(1)).apply_changes(first.into_iter().chain(second)).unwrap();
    let ((category, key), mut chunk) =
        rows(&store).into_iter().filter(|((category, _), _)| category == "automerge.chunk").nth(1).unwrap();
    chunk[100] ^= 1;
    tenant(&store).put(&category, &key, chunk).wait().unwrap();
    let document = load(&documents, id(1));
    assert_eq!(document.damaged().len(), 1);
    assert_eq!(keys(document.document()), names[2..]);
    assert_sound(&store);
    assert!(load(&documents, id(1)).damaged().is_empty(), "once");
}

#[test]
fn a_refused_duplicate_costs_nothing_that_waits_for_others() {
    for by_the_store in [false, true] {
        let store = Store::memory();
        let documents = documents(&store);
        let theirs = changes_of(1, &["1", "2", "3"], 3);
        store_changes(&documents, 1, &[&theirs[0], &theirs[2]]);
        let mut document = load(&documents, id(1));
        assert!(put(&mut document, "ours"));
        // automerge refuses it, and drops what it has of that actor from there on.
        let twin = changes_of(1, &["another"], 3);
        assert!(document.apply_changes(twin).unwrap_err().to_string().contains("another change 1"));
        if by_the_store {
            let expected = block_on(documents.meta(id(1))).unwrap().unwrap();
            let snapshot = document.document().save();
            let replace = Replace { snapshot, now_unix_ms: NOW_MS, ..Replace::default() };
            let replaced = block_on(documents.replace(id(1), &expected, replace, ())).unwrap();
            assert!(matches!(replaced, Appended::Applied { .. }));
        } else {
            document.compact(&[]).unwrap();
        }
        assert_sound(&store);
        let mut document = load(&documents, id(1));
        document.apply_changes([theirs[1].clone()]).unwrap();
        assert_eq!(keys(document.document()), ["1", "2", "3", "ours"], "by the store: {by_the_store}");
        // A compaction that has them all makes one snapshot of it.
        document.compact(&[]).unwrap();
        let info = block_on(documents.document(id(1))).unwrap().unwrap();
        assert_eq!((info.changes, info.snapshots), (0, 1));
        assert_eq!(stored(&documents, id(1)).len(), 4);
        assert_sound(&store);
    }
}

#[test]
fn what_waits_in_a_snapshot_stays_when_a_later_one_does_not_have_it() {
    let store = Store::memory();
    let documents = documents(&store);
    let theirs = changes_of(1, &["1", "2", "3"], 3);
    store_changes(&documents, 1, &[&theirs[0], &theirs[2]]);
    load(&documents, id(1)).compact(&[]).unwrap();
    assert_eq!(block_on(documents.meta(id(1))).unwrap().unwrap().changes(), 0, "it is in the snapshot");
    // A program that lost it, as after a refusal.
    let mut lost = Automerge::new();
    lost.apply_changes([theirs[0].clone()]).unwrap();
    let expected = block_on(documents.meta(id(1))).unwrap().unwrap();
    let replace = Replace { snapshot: lost.save(), now_unix_ms: NOW_MS, ..Replace::default() };
    block_on(documents.replace(id(1), &expected, replace, ())).unwrap();
    assert_sound(&store);
    let mut document = load(&documents, id(1));
    document.apply_changes([theirs[1].clone()]).unwrap();
    assert_eq!(keys(document.document()), ["1", "2", "3"]);
}

#[test]
fn a_snapshot_that_lacks_a_stored_change_removes_what_it_has_and_no_more() {
    let store = Store::memory();
    let documents = documents(&store);
    let (ours, theirs) = (changes_of(1, &["1", "2"], 3), changes_of(2, &["3", "4"], 3));
    for change in [&ours[0], &theirs[0], &ours[1], &theirs[1]] {
        store_changes(&documents, 1, &[change]);
    }
    let mut partial = Automerge::new();
    partial.apply_changes(ours).unwrap();
    let expected = block_on(documents.meta(id(1))).unwrap().unwrap();
    let replace = Replace { snapshot: partial.save(), now_unix_ms: NOW_MS, ..Replace::default() };
    block_on(documents.replace(id(1), &expected, replace, ())).unwrap();
    assert_eq!(block_on(documents.meta(id(1))).unwrap().unwrap().changes(), 2);
    assert_eq!(stored(&documents, id(1)), ["1", "2", "3", "4"]);
    assert_sound(&store);
    let force = CompactOptions { force: true, ..CompactOptions::default() };
    block_on(documents.compact(id(1), force, NOW_MS, || [3; 16])).unwrap();
    assert_eq!(block_on(documents.meta(id(1))).unwrap().unwrap().changes(), 0);
    assert_eq!(stored(&documents, id(1)).len(), 4);
}

#[test]
fn no_snapshot_is_made_of_what_is_none() {
    let documents = documents(&Store::memory());
    store_changes(&documents, 1, &[&changes_of(1, &["1"], 3)[0]]);
    let expected = block_on(documents.meta(id(1))).unwrap().unwrap();
    for snapshot in [b"no document".to_vec(), plain(3).save()[..40].to_vec()] {
        let replace = Replace { snapshot, now_unix_ms: NOW_MS, ..Replace::default() };
        let refused = block_on(documents.replace(id(1), &expected, replace, ())).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
    }
    assert_eq!(stored(&documents, id(1)), ["1"]);
}

#[test]
fn what_nobody_stored_does_not_become_permanent_by_a_compaction() {
    let store = Store::memory();
    let documents = documents(&store);
    let mut document = load(&documents, id(1));
    assert!(put(&mut document, "ours"));
    let theirs = changes_of(1, &["1", "2"], 3);
    document.apply_changes([theirs[1].clone()]).unwrap();
    document.compact(&[]).unwrap();
    let mut again = load(&documents, id(1));
    again.apply_changes([theirs[0].clone()]).unwrap();
    assert_eq!(keys(again.document()), ["1", "ours"], "the peer sends it again");
    // Who has it in memory has it still.
    document.apply_changes([theirs[0].clone()]).unwrap();
    assert_eq!(keys(document.document()), ["1", "2", "ours"]);
    assert_eq!(stored(&documents, id(1)), ["1", "2", "ours"]);
    assert_sound(&store);
}

#[test]
fn what_waits_for_others_is_bounded_and_what_does_not_is_taken() {
    let documents = documents(&Store::memory());
    let mut document = load(&documents, id(1));
    let names: Vec<_> = (0..30).map(|number| format!("{number:02}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let theirs = changes_of(1, &names, 300_000);
    let mut taken = 0;
    let refused = theirs[1..].iter().find_map(|change| {
        let refused = document.apply_changes([change.clone()]).err();
        taken += 1;
        refused
    });
    let refused = refused.expect("9 MB wait").to_string();
    assert!(refused.contains("WAITING_BYTES_MAX"), "{refused}");
    assert!((10..20).contains(&taken), "{taken} of 300 KB each");
    // All of it at once rests on nothing that is not there.
    document.apply_changes(theirs).unwrap();
    assert_eq!(keys(document.document()), names);
    assert_eq!(stored(&documents, id(1)), names);
}

#[test]
fn a_damaged_row_that_a_removal_touches_goes_into_quarantine() {
    let store = Store::memory();
    let documents = documents(&store);
    let mut persister = DocumentPersister::open(&documents, id(1)).unwrap();
    let changes = changes_of(1, &["1", "2", "3"], 30);
    let address = |change: &Change| (change.actor_id().clone(), change.seq(), change.raw_bytes().to_vec());
    persister.insert_changes(changes.iter().map(address).collect()).unwrap();
    persister.set_sync_state(b"peer".to_vec(), b"state".to_vec()).unwrap();
    let ((category, key), row) =
        rows(&store).into_iter().find(|((category, _), _)| category == "automerge.change").unwrap();
    let mut altered = row;
    let second = 1 + changes[0].raw_bytes().len();
    altered[second + 60] ^= 1;
    tenant(&store).put(&category, &key, altered.clone()).wait().unwrap();
    persister.remove_changes(vec![(changes[2].actor_id(), 3)]).unwrap();
    let quarantined: Vec<_> =
        rows(&store).into_iter().filter(|((of, _), _)| of == "automerge.quarantine").collect();
    assert_eq!(quarantined.len(), 1);
    assert!(quarantined[0].1.ends_with(&altered), "as it was");
    assert_eq!(persister.get_changes().unwrap(), [changes[0].raw_bytes().to_vec()]);
    assert!(persister.get_peer_ids().unwrap().is_empty(), "so that peers send it again");
    assert_sound(&store);
}

#[test]
fn a_peer_whose_id_is_too_long_is_refused_and_the_document_goes_on() {
    let store = Store::memory();
    let documents = documents(&store);
    let mut document = load(&documents, id(1));
    assert!(put(&mut document, "1"));
    let long = vec![b'p'; 1_025];
    let refused = document.generate_sync_message(long.clone()).unwrap_err().to_string();
    assert!(refused.contains("PEER_BYTES_MAX"), "{refused}");
    let (mut other, mut state) = (plain(2), State::new());
    let message = other.generate_sync_message(&mut state).unwrap();
    let refused = document.receive_sync_message(long, message.clone()).unwrap_err().to_string();
    assert!(refused.contains("PEER_BYTES_MAX"), "{refused}");
    assert!(put(&mut document, "2"));
    let longest = vec![b'p'; 1_024];
    for _ in 0..3 {
        if let Some(message) = other.generate_sync_message(&mut state) {
            document.receive_sync_message(longest.clone(), message).unwrap();
        }
        if let Some(message) = document.generate_sync_message(longest.clone()).unwrap() {
            other.receive_sync_message(&mut state, message).unwrap();
        }
    }
    assert_eq!(document.document().get_heads(), other.get_heads());
    assert_eq!(document.persister().get_peer_ids().unwrap(), [longest]);
}

/// A peer's changes and, before anything was answered, a message that says its heads alone: automerge by itself takes those for heads that the
/// peer was told.
#[test]
fn what_arrives_before_an_answer_was_made_is_acknowledged() {
    let store = Store::memory();
    let documents = documents(&store);
    let mut document = load(&documents, id(1));
    let peer = || b"peer".to_vec();
    let (mut other, mut state) = (plain(2), State::new());
    let write = |other: &mut Automerge, state: &mut State, key: &str| {
        other.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, key, 1)).unwrap();
        other.generate_sync_message(state).unwrap()
    };
    let first = write(&mut other, &mut state, "first");
    document.receive_sync_message(peer(), first).unwrap();
    while let Some(message) = document.generate_sync_message(peer()).unwrap() {
        other.receive_sync_message(&mut state, message).unwrap();
        if let Some(message) = other.generate_sync_message(&mut state) {
            document.receive_sync_message(peer(), message).unwrap();
        }
    }
    let second = write(&mut other, &mut state, "second");
    let third = write(&mut other, &mut state, "third");
    document.receive_sync_message(peer(), second).unwrap();
    let told = document.generate_sync_message(peer()).unwrap().unwrap();
    other.receive_sync_message(&mut state, told).unwrap();
    let again = other.generate_sync_message(&mut state).unwrap();
    assert!(again.changes.is_empty());
    document.receive_sync_message(peer(), third).unwrap();
    document.receive_sync_message(peer(), again).unwrap();
    let told = document.generate_sync_message(peer()).unwrap().expect("an acknowledgement");
    other.receive_sync_message(&mut state, told).unwrap();
    assert_eq!(state.their_heads, Some(other.get_heads()));
    assert_eq!(document.generate_sync_message(peer()).unwrap(), None);
}

#[test]
fn what_a_relaxed_handle_has_stored_is_flushed_before_another_tells_of_it() {
    let (store, oddities) = Odd::store();
    let documents = documents(&store);
    let relaxed = DocumentPersister::open(&documents, id(1)).unwrap().relaxed();
    let mut one = PersistentAutomerge::load(relaxed).unwrap();
    assert!(put(&mut one, "1"));
    let mut two = load(&documents, id(1));
    let flushes = || oddities.lock().unwrap().flushes;
    assert_eq!(flushes(), 0);
    assert!(two.generate_sync_message(b"peer".to_vec()).unwrap().is_some());
    assert_eq!(flushes(), 1);
    // And what it hears of later.
    assert!(put(&mut one, "2"));
    oddities.lock().unwrap().writes_left = Some(1);
    assert!(two.compact(&[]).is_err(), "behind, and then the write fails");
    assert_eq!(keys(two.document()), ["1", "2"]);
    assert!(two.generate_sync_message(b"peer".to_vec()).is_err());
    oddities.lock().unwrap().writes_left = None;
    assert!(two.generate_sync_message(b"another".to_vec()).unwrap().is_some());
    assert_eq!(flushes(), 2);
}

#[test]
fn opaque_values_of_many_megabytes_are_stored_kept_and_removed() {
    let store = Store::memory();
    let documents = documents(&store);
    let mut persister = DocumentPersister::open(&documents, id(1)).unwrap();
    let values: Vec<_> = (0..20).map(|number| opaque(number, 900_000)).collect();
    persister.insert_changes(values.clone()).unwrap();
    assert_eq!(persister.sizes().changes, 18_000_000);
    assert_sound(&store);
    // Twenty small batches, so that each lies in its row.
    for number in 20..40 {
        persister.insert_changes(vec![opaque(number, 900_000)]).unwrap();
    }
    let mut document = PersistentAutomerge::load(persister).unwrap();
    for key in ["1", "2", "3"] {
        assert!(put(&mut document, key));
    }
    document.compact(&[]).unwrap();
    assert_sound(&store);
    let mut persister = document.close().unwrap();
    assert_eq!(persister.get_changes().unwrap().len(), 40);
    assert_eq!(stored(&documents, id(1)), ["1", "2", "3"]);
    let actor = ActorId::from([7]);
    persister.remove_changes((0..40).map(|number| (&actor, number)).collect()).unwrap();
    assert!(persister.get_changes().unwrap().is_empty());
    assert_sound(&store);
}

#[test]
fn a_removal_leaves_what_is_left_of_a_commit_of_many_megabytes() {
    let store = Store::memory();
    let documents = documents(&store);
    let names: Vec<_> = (0..40).map(|number| format!("{number:02}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let changes = changes_of(1, &names, 250_000);
    let mut persister = DocumentPersister::open(&documents, id(1)).unwrap();
    let address = |change: &Change| (change.actor_id().clone(), change.seq(), change.raw_bytes().to_vec());
    persister.insert_changes(changes.iter().map(address).collect()).unwrap();
    persister.remove_changes(vec![(changes[39].actor_id(), 40)]).unwrap();
    assert_eq!(persister.get_changes().unwrap().len(), 39);
    assert_eq!(stored(&documents, id(1)), names[..39]);
    assert_sound(&store);
}

#[test]
fn the_bound_of_a_document_holds_for_the_classic_operations_too() {
    let store = Store::memory();
    let documents = documents(&store);
    let mut persister = DocumentPersister::open(&documents, id(1)).unwrap();
    persister.insert_changes(vec![opaque(1, 10)]).unwrap();
    let mut row = vec![1, 0, 1, 1, 1, 1];
    // 1 GiB less 5 bytes, seven bits a byte.
    row.extend([0xFB, 0xFF, 0xFF, 0xFF, 0x03]);
    row.extend([0; 7]);
    tenant(&store).put("automerge.document", id(1).as_bytes(), row).wait().unwrap();
    let mut persister = DocumentPersister::open(&documents, id(1)).unwrap();
    assert_eq!(persister.sizes().changes, 1024 * 1024 * 1024 - 5);
    let inserted = persister.insert_changes(vec![opaque(2, 10)]).unwrap_err().to_string();
    let set = persister.set_document(vec![7; 10]).unwrap_err().to_string();
    for refused in [inserted, set] {
        assert!(refused.contains("DOCUMENT_BYTES_MAX"), "{refused}");
    }
    persister.set_document(vec![7; 5]).unwrap();
}

#[test]
fn a_change_that_a_snapshot_holds_keeps_its_address() {
    let store = Store::memory();
    let documents = documents(&store);
    let ours = changes_of(1, &["1", "2"], 3);
    let twin = changes_of(1, &["another"], 3);
    let mut document = load(&documents, id(1));
    document.apply_changes(ours.clone()).unwrap();
    document.compact(&[]).unwrap();
    let mut persister = document.close().unwrap();
    let address = |change: &Change| (change.actor_id().clone(), change.seq(), change.raw_bytes().to_vec());
    let before = rows(&store);
    let refused = persister.insert_changes(vec![address(&twin[0])]).unwrap_err().to_string();
    assert!(refused.contains("another change 1"), "{refused}");
    let opaque = (twin[0].actor_id().clone(), 2, b"no change".to_vec());
    assert!(persister.insert_changes(vec![opaque]).is_err());
    assert_eq!(rows(&store), before);
    // The same again is no error, and costs nothing that is loaded.
    persister.insert_changes(vec![address(&ours[0])]).unwrap();
    assert_eq!(stored(&documents, id(1)), ["1", "2"]);
    assert_sound(&store);
}
