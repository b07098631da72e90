//! The `Persister` contract: what keeps one document, in eleven classic operations and three that make them sound.

use std::collections::BTreeSet;

use automerge::{ActorId, Automerge, Change};

use crate::chunks::{Kind, sift};
use crate::salvage::{Damaged, Piece, Salvaged, salvage};

/// Bytes stored of a document, and so whether compacting is worth it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredSizes {
    /// Bytes of changes.
    pub changes: usize,
    /// Bytes of snapshots.
    pub document: usize,
    /// Bytes of sync states.
    pub sync_states: usize,
}

/// What one commit stores.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Commit {
    /// Changes in causal order.
    pub changes: Vec<Change>,
    /// Peers and their encoded sync states, which the changes make true.
    pub sync_states: Vec<(Vec<u8>, Vec<u8>)>,
}

/// How a commit or a compaction went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It is stored.
    Stored,
    /// Others have stored this meanwhile, and of this call nothing was: take it into the document, and call again.
    Behind(Vec<u8>),
}

/// What could be read of a document that does not load.
#[derive(Debug)]
pub struct Recovery {
    /// What there is.
    pub document: Automerge,
    /// What could not be read, and still is where it was, or in quarantine.
    pub damaged: Vec<Damaged>,
}

/// Keeps one document. The first eleven operations are those of `automerge-persistent`, and an implementation of them compiles; the others
/// have bodies made of them, which a store that can write several things at once replaces.
///
/// Bytes are opaque: what was stored is given back as it was. A change is identified by actor and sequence number. Blocking.
///
/// [`DocumentPersister`](crate::DocumentPersister) is the one over a [`DocStore`](crate::DocStore), [`MemoryPersister`](crate::MemoryPersister)
/// the model; `conformance` (a feature) holds any other against the rules.
pub trait Persister {
    /// What goes wrong.
    type Error: std::error::Error + 'static;

    /// Every stored change.
    ///
    /// # Errors
    /// When one cannot be read.
    fn get_changes(&self) -> Result<Vec<Vec<u8>>, Self::Error>;

    /// Stores changes under (actor, sequence number). The same bytes again are nothing new.
    ///
    /// # Errors
    /// When they could not be stored; none was.
    fn insert_changes(&mut self, changes: Vec<(ActorId, u64, Vec<u8>)>) -> Result<(), Self::Error>;

    /// Removes changes; one that is not there is no error.
    ///
    /// # Errors
    /// When they could not be removed.
    fn remove_changes(&mut self, changes: Vec<(&ActorId, u64)>) -> Result<(), Self::Error>;

    /// The bytes last set; those of several handles one after the other, which automerge loads.
    ///
    /// # Errors
    /// When they cannot be read.
    fn get_document(&self) -> Result<Option<Vec<u8>>, Self::Error>;

    /// Stores the compacted document.
    ///
    /// # Errors
    /// When it could not be stored; the one before is there still.
    fn set_document(&mut self, data: Vec<u8>) -> Result<(), Self::Error>;

    /// The state of synchronisation with a peer.
    ///
    /// # Errors
    /// When it cannot be read.
    fn get_sync_state(&self, peer_id: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;

    /// Stores the state of synchronisation with a peer.
    ///
    /// # Errors
    /// When it could not be stored.
    fn set_sync_state(&mut self, peer_id: Vec<u8>, sync_state: Vec<u8>) -> Result<(), Self::Error>;

    /// Forgets the states of these peers; one that is not there is no error.
    ///
    /// # Errors
    /// When they could not be removed.
    fn remove_sync_states(&mut self, peer_ids: &[&[u8]]) -> Result<(), Self::Error>;

    /// The peers whose states are stored, as `set_sync_state` was given them.
    ///
    /// # Errors
    /// When they cannot be read.
    fn get_peer_ids(&self) -> Result<Vec<Vec<u8>>, Self::Error>;

    /// How many bytes are stored.
    fn sizes(&self) -> StoredSizes;

    /// Makes everything stored so far survive a power loss; answers how many bytes it was that did not before.
    ///
    /// # Errors
    /// When that is not known.
    fn flush(&mut self) -> Result<usize, Self::Error>;

    /// Everything as one buffer, snapshots first; `None` when it cannot be read as a whole and is to be [recovered](Self::recover).
    ///
    /// # Errors
    /// When it cannot be read at all.
    fn load(&mut self) -> Result<Option<Vec<u8>>, Self::Error> {
        let mut buffer = self.get_document()?.unwrap_or_default();
        for change in self.get_changes()? {
            buffer.extend_from_slice(&change);
        }
        Ok(Some(buffer))
    }

    /// What can be read of a document that does not load. What cannot is never removed.
    ///
    /// # Errors
    /// When nothing can be read.
    fn recover(&mut self) -> Result<Recovery, Self::Error> {
        let snapshot =
            self.get_document()?.into_iter().map(|bytes| Piece { snapshot: true, ..Piece::of(bytes) });
        let mut pieces: Vec<_> = snapshot.collect();
        pieces.extend(self.get_changes()?.into_iter().map(Piece::of));
        let Salvaged { document, damaged } = salvage(&pieces);
        Ok(Recovery { document, damaged })
    }

    /// Stores changes, then the sync states that rest on them; at once where that can be done.
    ///
    /// # Errors
    /// When it could not be stored. The caller stores all of it again: whatever part of it was stored is stored twice then.
    fn commit(&mut self, commit: Commit) -> Result<Progress, Self::Error> {
        let address =
            |change: &Change| (change.actor_id().clone(), change.seq(), change.raw_bytes().to_vec());
        if !commit.changes.is_empty() {
            self.insert_changes(commit.changes.iter().map(address).collect())?;
        }
        for (peer_id, sync_state) in commit.sync_states {
            self.set_sync_state(peer_id, sync_state)?;
        }
        Ok(Progress::Stored)
    }

    /// Puts a snapshot in the place of everything stored, and forgets the states of old peers; at once where that can be done.
    /// `changes` tells what the snapshot contains, to whom it matters. A stored change that it does not contain stays. What waits in it for
    /// others was not stored by that: it is left out, unless it is stored.
    ///
    /// # Errors
    /// When that could not be done; nothing is lost, and it may be done again.
    fn replace(
        &mut self,
        document: Vec<u8>,
        changes: &mut dyn FnMut() -> Vec<(ActorId, u64)>,
        old_peer_ids: &[&[u8]],
    ) -> Result<Progress, Self::Error> {
        let changes = changes();
        let before = self.get_document()?.unwrap_or_default();
        self.set_document(carry_over(&document, &changes, &before))?;
        self.remove_changes(changes.iter().map(|(actor, seq)| (actor, *seq)).collect())?;
        self.remove_sync_states(old_peer_ids)?;
        Ok(Progress::Stored)
    }
}

/// A snapshot with those changes waiting for others that the one before it had, and no more: others are in rows of their own, or were never
/// stored.
fn carry_over(snapshot: &[u8], held: &[(ActorId, u64)], before: &[u8]) -> Vec<u8> {
    let held: BTreeSet<_> = held.iter().map(|(actor, seq)| (actor, *seq)).collect();
    let mut bytes = Vec::with_capacity(snapshot.len());
    for chunk in sift(snapshot).whole {
        if matches!(chunk.kind, Kind::Document | Kind::Bundle) {
            bytes.extend_from_slice(chunk.bytes);
        }
    }
    for chunk in sift(before).whole {
        if chunk.change().is_some_and(|change| !held.contains(&(change.actor_id(), change.seq()))) {
            bytes.extend_from_slice(chunk.bytes);
        }
    }
    bytes
}
