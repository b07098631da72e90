//! The battery that each persister passes, ours or yours (feature `conformance`): crash points, two handles, ids that begin alike,
//! equivocation, torn and flipped values, failing writes.
//!
//! Implement [`Stage`] over your storage and call [`run`]: it panics with the rules that do not hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a battery of tests says what failed by panicking"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::transaction::Transactable as _;
use automerge::{ActorId, Automerge, AutomergeError, Change, ROOT, ReadDoc as _};

use crate::{PersistentAutoCommit, PersistentAutomerge, Persister};

/// A storage that goes wrong when it is told to.
pub trait Stage {
    /// What is tested.
    type Persister: Persister;

    /// A handle of the document of that name, in the same storage each time. Several may be open at once.
    fn open(&self, document: &str) -> Self::Persister;

    /// The machine loses power: what was not flushed may be gone. Handles that are open are not used any more.
    fn crash(&mut self);

    /// Lets so many writes of the storage succeed and fails those after them, with nothing written; `None` for none that fails.
    fn fail_after(&mut self, writes: Option<u64>);

    /// Alters the stored values of a document's changes.
    fn damage(&mut self, document: &str, alter: &mut dyn FnMut(&mut Vec<u8>));
}

/// A rule, and the function that checks it on an empty storage.
pub type Case<S> = (&'static str, fn(&mut S));

/// Every rule of the battery.
pub fn cases<S: Stage>() -> Vec<Case<S>> {
    vec![
        ("changes come back as they were given, until they are removed", changes_come_back),
        ("the same bytes again are nothing new, others under their address are an error", equivocation),
        ("a document is the bytes last set", document_last_set),
        ("peers come back as they were given, and can be removed by what came back", peers_come_back),
        ("documents and peers whose names begin alike do not see each other", names_that_begin_alike),
        ("sizes are those of what is stored", sizes),
        ("what was flushed survives a crash", flushed_survives),
        ("a write that failed leaves no hole", no_hole),
        ("a compaction that failed loses nothing", failed_compaction),
        ("a crash after any write loses nothing that was flushed", crash_points),
        ("two handles lose nothing of each other, whoever compacts", two_handles),
        ("a torn or flipped value costs that value alone, and is never removed", damaged_values),
        ("a sync state is never ahead of the changes it speaks of", sync_states_follow),
    ]
}

/// Runs every case on a storage of its own and panics with the list of those that failed.
///
/// # Panics
/// When a case fails.
pub fn run<S: Stage>(empty: impl Fn() -> S) {
    let failed = failures(empty);
    assert!(failed.is_empty(), "rules that do not hold: {failed:#?}");
}

/// The rules that do not hold.
pub fn failures<S: Stage>(empty: impl Fn() -> S) -> Vec<&'static str> {
    let fails = |case: fn(&mut S)| catch_unwind(AssertUnwindSafe(|| case(&mut empty()))).is_err();
    cases().into_iter().filter(|(_, case)| fails(*case)).map(|(name, _)| name).collect()
}

type Document<S> = PersistentAutomerge<<S as Stage>::Persister>;

fn load<S: Stage>(stage: &S, name: &str) -> Document<S> {
    PersistentAutomerge::load(stage.open(name)).expect("it loads")
}

/// Puts a key; answers whether it was stored.
fn put<P: Persister>(document: &mut PersistentAutomerge<P>, key: &str) -> bool {
    document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, key, key)).is_ok()
}

fn keys(document: &Automerge) -> Vec<String> {
    document.keys(ROOT).collect()
}

fn stored<S: Stage>(stage: &S, name: &str) -> Vec<String> {
    keys(load(stage, name).document())
}

/// Changes of one actor, one upon the other.
fn changes(actor: u8, count: usize) -> Vec<Change> {
    let mut document = Automerge::new().with_actor(ActorId::from([actor; 16]));
    for number in 0..count {
        document
            .transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, format!("{actor}-{number}"), number as u64))
            .expect("a plain put");
    }
    document.get_changes(&[])
}

fn addressed(changes: &[Change]) -> Vec<(ActorId, u64, Vec<u8>)> {
    let one = |change: &Change| (change.actor_id().clone(), change.seq(), change.raw_bytes().to_vec());
    changes.iter().map(one).collect()
}

fn sorted(mut values: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    values.sort();
    values
}

fn changes_come_back<S: Stage>(stage: &mut S) {
    let changes = changes(1, 5);
    let mut persister = stage.open("a");
    assert!(persister.get_changes().unwrap().is_empty());
    persister.insert_changes(addressed(&changes)).unwrap();
    let opaque = (ActorId::from([9]), 7, b"no change at all".to_vec());
    persister.insert_changes(vec![opaque.clone()]).unwrap();
    let mut expected: Vec<_> = changes.iter().map(|change| change.raw_bytes().to_vec()).collect();
    expected.push(opaque.2.clone());
    assert_eq!(sorted(stage.open("a").get_changes().unwrap()), sorted(expected.clone()));
    let gone = changes[2].actor_id();
    persister.remove_changes(vec![(gone, 3), (&opaque.0, 7), (gone, 99), (&opaque.0, 1)]).unwrap();
    expected.remove(5);
    expected.remove(2);
    assert_eq!(sorted(stage.open("a").get_changes().unwrap()), sorted(expected));
}

fn equivocation<S: Stage>(stage: &mut S) {
    let changes = addressed(&changes(1, 3));
    let mut persister = stage.open("a");
    persister.insert_changes(changes.clone()).unwrap();
    let opaque = (ActorId::from([9]), 1, b"bytes".to_vec());
    persister.insert_changes(vec![opaque.clone()]).unwrap();
    let before = persister.get_changes().unwrap();
    persister.insert_changes(changes.clone()).unwrap();
    persister.insert_changes(vec![opaque.clone()]).unwrap();
    assert_eq!(persister.get_changes().unwrap(), before);
    for (actor, seq, _) in [changes[1].clone(), opaque] {
        let others = vec![(ActorId::from([8]), 1, b"new".to_vec()), (actor, seq, b"others".to_vec())];
        assert!(persister.insert_changes(others).is_err());
        assert_eq!(persister.get_changes().unwrap(), before, "nothing was written");
    }
    let twice = |bytes: &[u8]| (ActorId::from([5]), 1, bytes.to_vec());
    assert!(persister.insert_changes(vec![twice(b"one"), twice(b"other")]).is_err());
    assert_eq!(persister.get_changes().unwrap(), before);
}

fn document_last_set<S: Stage>(stage: &mut S) {
    let mut persister = stage.open("a");
    assert_eq!(persister.get_document().unwrap(), None);
    let large = vec![7; 100_000];
    for bytes in [&b"first"[..], b"", &large, b"last"] {
        persister.set_document(bytes.to_vec()).unwrap();
        assert_eq!(persister.get_document().unwrap().as_deref(), Some(bytes));
        assert_eq!(stage.open("a").get_document().unwrap().as_deref(), Some(bytes));
    }
    let mut later = stage.open("a");
    later.set_document(b"of a later handle".to_vec()).unwrap();
    assert_eq!(later.get_document().unwrap().as_deref(), Some(&b"of a later handle"[..]));
}

fn peers_come_back<S: Stage>(stage: &mut S) {
    let mut persister = stage.open("a");
    let peers: [&[u8]; 4] = [b"", b"p", b"p\0", b"\xFF\xFF"];
    for (number, peer) in peers.iter().enumerate() {
        persister.set_sync_state(peer.to_vec(), vec![number as u8; number]).unwrap();
    }
    assert_eq!(sorted(persister.get_peer_ids().unwrap()), sorted(peers.map(<[u8]>::to_vec).to_vec()));
    for (number, peer) in peers.iter().enumerate() {
        assert_eq!(persister.get_sync_state(peer).unwrap(), Some(vec![number as u8; number]));
    }
    persister.set_sync_state(b"p".to_vec(), b"new".to_vec()).unwrap();
    assert_eq!(stage.open("a").get_sync_state(b"p").unwrap(), Some(b"new".to_vec()));
    let ids = persister.get_peer_ids().unwrap();
    let ids: Vec<&[u8]> = ids.iter().map(Vec::as_slice).chain([&b"unknown"[..]]).collect();
    persister.remove_sync_states(&ids).unwrap();
    assert!(persister.get_peer_ids().unwrap().is_empty());
    assert_eq!(persister.get_sync_state(b"p").unwrap(), None);
}

fn names_that_begin_alike<S: Stage>(stage: &mut S) {
    for (number, name) in ["1", "10", "100", "", "1/", "2"].into_iter().enumerate() {
        let mut persister = stage.open(name);
        persister.insert_changes(addressed(&changes(number as u8 + 1, 2))).unwrap();
        persister.set_document(name.as_bytes().to_vec()).unwrap();
        persister.set_sync_state(name.as_bytes().to_vec(), b"state".to_vec()).unwrap();
    }
    for name in ["1", "10", "100", "", "1/", "2"] {
        let persister = stage.open(name);
        assert_eq!(persister.get_changes().unwrap().len(), 2, "{name}");
        assert_eq!(persister.get_document().unwrap().as_deref(), Some(name.as_bytes()));
        assert_eq!(persister.get_peer_ids().unwrap(), [name.as_bytes()]);
    }
    let first = changes(1, 2);
    stage.open("1").remove_changes(vec![(first[0].actor_id(), 1), (first[0].actor_id(), 2)]).unwrap();
    assert_eq!(stage.open("10").get_changes().unwrap().len(), 2);
}

fn sizes<S: Stage>(stage: &mut S) {
    let changes = changes(1, 4);
    let mut persister = stage.open("a");
    let told = |persister: &S::Persister| {
        let sizes = persister.sizes();
        (sizes.changes, sizes.document, sizes.sync_states)
    };
    assert_eq!(told(&persister), (0, 0, 0));
    persister.insert_changes(addressed(&changes)).unwrap();
    persister.set_document(vec![7; 300]).unwrap();
    persister.set_sync_state(b"p".to_vec(), vec![7; 33]).unwrap();
    let bytes: usize = changes.iter().map(|change| change.raw_bytes().len()).sum();
    assert_eq!(told(&persister), (bytes, 300, 33));
    assert_eq!(told(&stage.open("a")), (bytes, 300, 33));
    persister.remove_changes(vec![(changes[0].actor_id(), 1)]).unwrap();
    persister.set_sync_state(b"p".to_vec(), vec![7; 3]).unwrap();
    persister.set_document(vec![7; 30]).unwrap();
    assert_eq!(told(&persister), (bytes - changes[0].raw_bytes().len(), 30, 3));
}

fn flushed_survives<S: Stage>(stage: &mut S) {
    let mut document = load(stage, "a");
    for key in ["1", "2", "3"] {
        assert!(put(&mut document, key));
    }
    document.flush().unwrap();
    stage.crash();
    assert_eq!(stored(stage, "a"), ["1", "2", "3"]);
}

fn no_hole<S: Stage>(stage: &mut S) {
    for (name, failing) in [("first", 0), ("fourth", 3)] {
        let mut document = load(stage, name);
        for number in 0..10 {
            if number == failing {
                stage.fail_after(Some(0));
                assert!(!put(&mut document, &number.to_string()), "a failure is told");
                stage.fail_after(None);
            } else {
                assert!(put(&mut document, &number.to_string()));
            }
        }
        assert_eq!(stored(stage, name).len(), 10, "{name}");
    }
    let mut document = PersistentAutoCommit::load(stage.open("auto")).unwrap();
    stage.fail_after(Some(0));
    assert!(document.transact::<_, _, AutomergeError>(|doc| doc.put(ROOT, "1", 1)).is_err());
    stage.fail_after(None);
    document.flush().unwrap();
    assert_eq!(stored(stage, "auto"), ["1"], "a flush stores what failed");
}

fn failed_compaction<S: Stage>(stage: &mut S) {
    for writes in 0..4 {
        let name = format!("{writes}");
        let mut document = PersistentAutoCommit::load(stage.open(&name)).unwrap();
        document.transact::<_, _, AutomergeError>(|doc| doc.put(ROOT, "1", 1)).unwrap();
        stage.fail_after(Some(writes));
        let compacted = document.compact(&[]);
        let stored_meanwhile = document.transact::<_, _, AutomergeError>(|doc| doc.put(ROOT, "2", 2)).is_ok();
        stage.fail_after(None);
        assert!(writes > 0 || (compacted.is_err() && !stored_meanwhile));
        document.flush().unwrap();
        assert_eq!(stored(stage, &name), ["1", "2"], "after {writes} writes");
    }
}

fn crash_points<S: Stage>(stage: &mut S) {
    for writes in 0..40 {
        let name = format!("{writes}");
        let mut told = Vec::new();
        stage.fail_after(Some(writes));
        if let Ok(mut document) = PersistentAutomerge::load(stage.open(&name)) {
            for number in 0..12 {
                let key = format!("{number:02}");
                let done = put(&mut document, &key) && document.flush().is_ok();
                if done {
                    told = keys(document.document());
                }
                if number % 4 == 3 {
                    // Whether it succeeds or not.
                    drop(document.compact(&[]));
                }
            }
        }
        stage.fail_after(None);
        stage.crash();
        let found = stored(stage, &name);
        assert!(told.iter().all(|key| found.contains(key)), "after {writes} writes: {told:?} of {found:?}");
    }
}

fn two_handles<S: Stage>(stage: &mut S) {
    let (mut one, mut two) = (load(stage, "a"), load(stage, "a"));
    assert!(put(&mut one, "1") && put(&mut two, "2"));
    one.compact(&[]).unwrap();
    two.compact(&[]).unwrap();
    assert_eq!(stored(stage, "a"), ["1", "2"]);
    assert!(put(&mut one, "3") && put(&mut two, "4"));
    two.compact(&[]).unwrap();
    assert!(put(&mut one, "5"));
    one.compact(&[]).unwrap();
    assert_eq!(stored(stage, "a"), ["1", "2", "3", "4", "5"]);
    // One actor in two programs: what was stored first stays, and the other is told.
    let actor = ActorId::from([7; 16]);
    let (mut one, mut two) = (load(stage, "b"), load(stage, "b"));
    one.set_actor(actor.clone());
    two.set_actor(actor);
    assert!(put(&mut one, "1"));
    assert!(!put(&mut two, "2"), "two changes of one actor and sequence number");
    assert_eq!(stored(stage, "b"), ["1"]);
}

fn damaged_values<S: Stage>(stage: &mut S) {
    type Alter = fn(&mut Vec<u8>);
    let alterations: [(&str, Alter); 3] = [
        ("torn", |bytes| bytes.truncate(bytes.len() / 2)),
        ("flipped", |bytes| *bytes.last_mut().unwrap() ^= 1),
        ("emptied", Vec::clear),
    ];
    for (name, alter) in alterations {
        let mut document = load(stage, name);
        for key in ["1", "2", "3", "4"] {
            assert!(put(&mut document, key));
        }
        document.flush().unwrap();
        drop(document);
        let (mut number, mut damaged) = (0, Vec::new());
        stage.damage(name, &mut |bytes| {
            number += 1;
            if number == 3 {
                alter(bytes);
                damaged.clone_from(bytes);
            }
        });
        assert!(number >= 4, "each transaction is a value: {number}");
        let mut document = load(stage, name);
        assert_eq!(keys(document.document()), ["1", "2"], "{name}: what came before it is there");
        assert!(damaged.is_empty() || !document.damaged().is_empty(), "{name}: it is told");
        document.compact(&[]).unwrap();
        assert!(put(&mut document, "5"));
        assert_eq!(stored(stage, name), ["1", "2", "5"], "{name}");
    }
}

fn sync_states_follow<S: Stage>(stage: &mut S) {
    let mut other = Automerge::new();
    for number in 0..20 {
        other.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, format!("{number}"), number)).unwrap();
    }
    for writes in 0..12 {
        let name = format!("{writes}");
        let mut theirs = automerge::sync::State::new();
        if let Ok(mut document) = PersistentAutomerge::load(stage.open(&name)) {
            stage.fail_after(Some(writes));
            for _ in 0..6 {
                if synchronise(&mut document, &mut other, &mut theirs).is_none() {
                    break;
                }
            }
        }
        stage.fail_after(None);
        stage.crash();
        // The peer remembers what both have, as it would after a reconnect.
        let mut theirs = automerge::sync::State::decode(&theirs.encode()).unwrap();
        let mut document = load(stage, &name);
        for _ in 0..12 {
            synchronise(&mut document, &mut other, &mut theirs).expect("no write fails");
        }
        assert_eq!(document.document().get_heads(), other.get_heads(), "after {writes} writes");
        assert_eq!(stored(stage, &name).len(), 20);
    }
}

/// A message each way; `None` when a call failed.
fn synchronise<P: Persister>(
    document: &mut PersistentAutomerge<P>,
    other: &mut Automerge,
    theirs: &mut automerge::sync::State,
) -> Option<()> {
    use automerge::sync::SyncDoc as _;
    if let Some(message) = other.generate_sync_message(theirs) {
        document.receive_sync_message(b"peer".to_vec(), message).ok()?;
    }
    if let Some(message) = document.generate_sync_message(b"peer".to_vec()).ok()? {
        other.receive_sync_message(theirs, message).expect("what we send is sound");
    }
    Some(())
}
