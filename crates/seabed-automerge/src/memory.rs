//! The persister that keeps a document in memory: for tests, and as the model of all others.

use std::collections::BTreeMap;

use automerge::ActorId;

use crate::{DocumentError, Persister, StoredSizes};

/// Keeps a document in memory, in the order in which it came. Fails for an equivocation, and for nothing else. For one handle at a time.
///
/// ```
/// use automerge::{AutomergeError, ROOT, ReadDoc, transaction::Transactable};
/// use seabed_automerge::{MemoryPersister, PersistentAutomerge};
///
/// let mut document = PersistentAutomerge::load(MemoryPersister::default())?;
/// document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", "value")).expect("stored");
/// let document = PersistentAutomerge::load(document.close()?)?;
/// assert_eq!(document.document().get(ROOT, "key").unwrap().unwrap().0.to_str(), Some("value"));
/// # Ok::<(), seabed_automerge::PersistError<seabed_automerge::DocumentError>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryPersister {
    /// By number, in the order in which they came.
    changes: BTreeMap<u64, Vec<u8>>,
    numbers: BTreeMap<(ActorId, u64), u64>,
    document: Option<Vec<u8>>,
    sync_states: BTreeMap<Vec<u8>, Vec<u8>>,
    next: u64,
}

impl MemoryPersister {
    /// Alters the stored bytes of each change, in the order in which they came: damage, for tests.
    pub fn alter_changes(&mut self, alter: &mut dyn FnMut(&mut Vec<u8>)) {
        self.changes.values_mut().for_each(alter);
    }
}

impl Persister for MemoryPersister {
    type Error = DocumentError;

    fn get_changes(&self) -> Result<Vec<Vec<u8>>, DocumentError> {
        Ok(self.changes.values().cloned().collect())
    }

    fn insert_changes(&mut self, changes: Vec<(ActorId, u64, Vec<u8>)>) -> Result<(), DocumentError> {
        let before = self.clone();
        for (actor, seq, bytes) in changes {
            match self.numbers.get(&(actor.clone(), seq)).and_then(|number| self.changes.get(number)) {
                Some(found) if *found == bytes => {}
                Some(_) => {
                    *self = before;
                    return Err(DocumentError::Equivocation { actor, seq });
                }
                None => {
                    self.numbers.insert((actor, seq), self.next);
                    self.changes.insert(self.next, bytes);
                    self.next = self.next.saturating_add(1);
                }
            }
        }
        Ok(())
    }

    fn remove_changes(&mut self, changes: Vec<(&ActorId, u64)>) -> Result<(), DocumentError> {
        for (actor, seq) in changes {
            if let Some(number) = self.numbers.remove(&(actor.clone(), seq)) {
                self.changes.remove(&number);
            }
        }
        Ok(())
    }

    fn get_document(&self) -> Result<Option<Vec<u8>>, DocumentError> {
        Ok(self.document.clone())
    }

    fn set_document(&mut self, data: Vec<u8>) -> Result<(), DocumentError> {
        self.document = Some(data);
        Ok(())
    }

    fn get_sync_state(&self, peer_id: &[u8]) -> Result<Option<Vec<u8>>, DocumentError> {
        Ok(self.sync_states.get(peer_id).cloned())
    }

    fn set_sync_state(&mut self, peer_id: Vec<u8>, sync_state: Vec<u8>) -> Result<(), DocumentError> {
        self.sync_states.insert(peer_id, sync_state);
        Ok(())
    }

    fn remove_sync_states(&mut self, peer_ids: &[&[u8]]) -> Result<(), DocumentError> {
        self.sync_states.retain(|peer, _| !peer_ids.contains(&peer.as_slice()));
        Ok(())
    }

    fn get_peer_ids(&self) -> Result<Vec<Vec<u8>>, DocumentError> {
        Ok(self.sync_states.keys().cloned().collect())
    }

    fn sizes(&self) -> StoredSizes {
        StoredSizes {
            changes: self.changes.values().map(Vec::len).sum(),
            document: self.document.as_ref().map_or(0, Vec::len),
            sync_states: self.sync_states.values().map(Vec::len).sum(),
        }
    }

    fn flush(&mut self) -> Result<usize, DocumentError> {
        Ok(0)
    }
}
