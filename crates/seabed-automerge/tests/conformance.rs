//! The battery of persisters on ours; and that it catches those with the faults of the published one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what the helpers of a test cannot have fails the test"
)]

mod common;

use std::sync::{Arc, Mutex};

use automerge::ActorId;
use common::*;
use seabed_automerge::conformance::{Stage, failures, run};
use seabed_automerge::{
    DocStore, DocumentError, DocumentId, DocumentPersister, MemoryPersister, Persister, StoredSizes,
};
use seabed_kv::{KeyRange, ScanSpec, Store};

struct Ours {
    store: Store,
    documents: DocStore,
    oddities: Arc<Mutex<Oddities>>,
    relaxed: bool,
}

impl Ours {
    fn new(relaxed: bool) -> Self {
        let (store, oddities) = Odd::store();
        Self { documents: documents(&store), store, oddities, relaxed }
    }
}

fn named(name: &str) -> DocumentId {
    let mut bytes = [0; 16];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    // Names of different lengths are different.
    bytes[15] = u8::try_from(name.len()).unwrap();
    DocumentId::from_bytes(bytes)
}

impl Stage for Ours {
    type Persister = DocumentPersister;

    fn open(&self, document: &str) -> DocumentPersister {
        let persister = DocumentPersister::open(&self.documents, named(document)).unwrap();
        if self.relaxed { persister.relaxed() } else { persister }
    }

    fn crash(&mut self) {
        // Memory has no power to lose: the tests of power cuts have. Opened anew, as after a crash, chunks that nothing refers to go.
        self.documents = documents(&self.store);
    }

    fn fail_after(&mut self, writes: Option<u64>) {
        self.oddities.lock().unwrap().writes_left = writes;
    }

    fn damage(&mut self, document: &str, alter: &mut dyn FnMut(&mut Vec<u8>)) {
        let tenant = tenant(&self.store);
        let range = KeyRange::prefix(named(document).as_bytes());
        for row in tenant.scan(ScanSpec::new("automerge.change", range)).collect().wait().unwrap() {
            let mut bytes = row.payload[1..].to_vec();
            alter(&mut bytes);
            tenant.put("automerge.change", row.key, [&[1], bytes.as_slice()].concat()).wait().unwrap();
        }
    }
}

#[test]
fn ours_passes_the_battery() {
    run(|| Ours::new(false));
}

#[test]
fn ours_passes_the_battery_relaxed() {
    run(|| Ours::new(true));
}

/// What the published persisters do wrong, one fault each, over a model in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wrong {
    /// One slot for the document, and the classic operations alone: right for one handle.
    Nothing,
    /// Peers come back with a prefix.
    PrefixedPeers,
    /// A change replaces another of the same address.
    Upsert,
    /// A compaction removes first and stores last.
    RemovesFirst,
    /// A failed write is not told.
    Swallows,
}

#[derive(Debug, Default)]
struct Slot {
    model: MemoryPersister,
    writes_left: Option<u64>,
}

#[derive(Debug, Clone)]
struct Classic {
    slots: Arc<Mutex<std::collections::BTreeMap<String, Arc<Mutex<Slot>>>>>,
    writes_left: Option<u64>,
    wrong: Wrong,
}

#[derive(Debug)]
struct Handle {
    slot: Arc<Mutex<Slot>>,
    wrong: Wrong,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("a fault that the test planted")]
    Planted,
    #[error(transparent)]
    Model(#[from] DocumentError),
}

impl Handle {
    fn write(&self) -> Result<(), Failed> {
        let mut slot = self.slot.lock().unwrap();
        match &mut slot.writes_left {
            Some(0) => Err(Failed::Planted),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn model<T>(
        &self,
        with: impl FnOnce(&mut MemoryPersister) -> Result<T, DocumentError>,
    ) -> Result<T, Failed> {
        Ok(with(&mut self.slot.lock().unwrap().model)?)
    }
}

impl Persister for Handle {
    type Error = Failed;

    fn get_changes(&self) -> Result<Vec<Vec<u8>>, Failed> {
        self.model(|model| model.get_changes())
    }

    fn insert_changes(&mut self, changes: Vec<(ActorId, u64, Vec<u8>)>) -> Result<(), Failed> {
        if let Err(error) = self.write() {
            return if self.wrong == Wrong::Swallows { Ok(()) } else { Err(error) };
        }
        if self.wrong == Wrong::Upsert {
            let gone: Vec<_> = changes.iter().map(|(actor, seq, _)| (actor, *seq)).collect();
            self.model(|model| model.remove_changes(gone))?;
        }
        self.model(|model| model.insert_changes(changes))
    }

    fn remove_changes(&mut self, changes: Vec<(&ActorId, u64)>) -> Result<(), Failed> {
        self.write()?;
        self.model(|model| model.remove_changes(changes))
    }

    fn get_document(&self) -> Result<Option<Vec<u8>>, Failed> {
        self.model(|model| model.get_document())
    }

    fn set_document(&mut self, data: Vec<u8>) -> Result<(), Failed> {
        self.write()?;
        self.model(|model| model.set_document(data))
    }

    fn get_sync_state(&self, peer_id: &[u8]) -> Result<Option<Vec<u8>>, Failed> {
        self.model(|model| model.get_sync_state(peer_id))
    }

    fn set_sync_state(&mut self, peer_id: Vec<u8>, sync_state: Vec<u8>) -> Result<(), Failed> {
        self.write()?;
        self.model(|model| model.set_sync_state(peer_id, sync_state))
    }

    fn remove_sync_states(&mut self, peer_ids: &[&[u8]]) -> Result<(), Failed> {
        self.write()?;
        self.model(|model| model.remove_sync_states(peer_ids))
    }

    fn get_peer_ids(&self) -> Result<Vec<Vec<u8>>, Failed> {
        let prefix: &[u8] = if self.wrong == Wrong::PrefixedPeers { b"prefix" } else { b"" };
        let peers = self.model(|model| model.get_peer_ids())?;
        Ok(peers.into_iter().map(|peer| [prefix, &peer].concat()).collect())
    }

    fn sizes(&self) -> StoredSizes {
        self.slot.lock().unwrap().model.sizes()
    }

    fn flush(&mut self) -> Result<usize, Failed> {
        Ok(0)
    }

    fn replace(
        &mut self,
        document: Vec<u8>,
        changes: &mut dyn FnMut() -> Vec<(ActorId, u64)>,
        old_peer_ids: &[&[u8]],
    ) -> Result<seabed_automerge::Progress, Failed> {
        let changes = changes();
        let gone = || changes.iter().map(|(actor, seq)| (actor, *seq)).collect();
        if self.wrong == Wrong::RemovesFirst {
            self.remove_changes(gone())?;
            self.set_document(document)?;
        } else {
            self.set_document(document)?;
            self.remove_changes(gone())?;
        }
        self.remove_sync_states(old_peer_ids)?;
        Ok(seabed_automerge::Progress::Stored)
    }
}

impl Classic {
    fn new(wrong: Wrong) -> Self {
        Self { slots: Arc::default(), writes_left: None, wrong }
    }
}

impl Stage for Classic {
    type Persister = Handle;

    fn open(&self, document: &str) -> Handle {
        let slot = self.slots.lock().unwrap().entry(document.to_owned()).or_default().clone();
        slot.lock().unwrap().writes_left = self.writes_left;
        Handle { slot, wrong: self.wrong }
    }

    fn crash(&mut self) {}

    fn fail_after(&mut self, writes: Option<u64>) {
        self.writes_left = writes;
        for slot in self.slots.lock().unwrap().values() {
            slot.lock().unwrap().writes_left = writes;
        }
    }

    fn damage(&mut self, document: &str, alter: &mut dyn FnMut(&mut Vec<u8>)) {
        let slot = self.slots.lock().unwrap()[document].clone();
        slot.lock().unwrap().model.alter_changes(alter);
    }
}

#[test]
fn the_eleven_operations_alone_are_sound_for_one_handle() {
    assert_eq!(
        failures(|| Classic::new(Wrong::Nothing)),
        ["two handles lose nothing of each other, whoever compacts"]
    );
}

#[test]
fn the_battery_catches_the_faults_of_the_published_persisters() {
    for (wrong, rule) in [
        (Wrong::PrefixedPeers, "peers come back as they were given"),
        (Wrong::Upsert, "the same bytes again are nothing new"),
        (Wrong::RemovesFirst, "a crash after any write"),
        (Wrong::Swallows, "a write that failed leaves no hole"),
    ] {
        let failed = failures(|| Classic::new(wrong));
        assert!(failed.iter().any(|name| name.starts_with(rule)), "{wrong:?}: {failed:?}");
    }
}
