//! `PersistentAutomerge` and `PersistentAutoCommit`: a document of automerge's whose every change is stored before anybody is told.
//!
//! 1. A call changes the document in memory: a transaction, changes or a sync message from elsewhere.
//! 2. What is stored is not what the call changed, but everything since the heads that are known to be stored: after a failed write
//!    the next call stores the gap too.
//! 3. One commit stores the changes and the sync states that they make true. When others have stored something meanwhile, theirs is merged
//!    first, and everything begins at step 2.
//! 4. Now the call answers, and messages to peers are made.

mod error;
mod transact;

use std::collections::{BTreeMap, BTreeSet};

use automerge::sync::{Message, State};
use automerge::{ActorId, AutoCommit, Automerge, AutomergeError, Change, ChangeHash, PatchLog};

use self::error::refused;
pub use self::error::{PersistError, TransactError};
use crate::chunks::{self, Kind, guarded};
use crate::compact::{CompactOptions, CompactReport, verify_snapshot};
use crate::engine::Engine;
use crate::limits::{ATTEMPTS_MAX, COMMIT_INLINE_BYTES_MAX, PEER_BYTES_MAX, PEERS_MAX};
use crate::persister::{Commit, Persister, Progress};
use crate::salvage::Damaged;
use crate::waiting::{self, Waiting};

/// A document whose transactions are closures.
///
/// ```
/// use automerge::{AutomergeError, ROOT, transaction::Transactable};
/// use seabed_automerge::{MemoryPersister, PersistentAutomerge};
///
/// let mut document = PersistentAutomerge::load(MemoryPersister::default())?;
/// let done = document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", "value")).expect("stored");
/// assert_eq!(document.document().get_heads(), [done.hash.expect("one operation")]);
/// document.compact(&[])?;
/// # Ok::<(), seabed_automerge::PersistError<seabed_automerge::DocumentError>>(())
/// ```
pub type PersistentAutomerge<P> = Persistent<Automerge, P>;

/// A document that commits by itself.
///
/// ```
/// use automerge::{AutomergeError, ROOT, transaction::Transactable};
/// use seabed_automerge::{MemoryPersister, PersistentAutoCommit};
///
/// let mut document = PersistentAutoCommit::load(MemoryPersister::default())?;
/// document.transact::<_, _, AutomergeError>(|doc| doc.put(ROOT, "key", "value")).expect("stored");
/// assert_eq!(document.document().get_heads().len(), 1);
/// # Ok::<(), seabed_automerge::PersistError<seabed_automerge::DocumentError>>(())
/// ```
pub type PersistentAutoCommit<P> = Persistent<AutoCommit, P>;

/// A document and what keeps it. What others see of it, by the end of a call that succeeded or by a message to a peer, is stored; durably so
/// where the persister is durable or was flushed.
///
/// A call that fails to store leaves the document as it is in memory, and the next one stores the whole gap. A panic inside automerge is
/// answered as an error, and the document is loaded again from what is stored.
#[derive(Debug)]
pub struct Persistent<D, P> {
    document: D,
    persister: P,
    /// Heads of what is known to be stored.
    persisted: Vec<ChangeHash>,
    /// What others have stored and is not in the document yet.
    others: Vec<Vec<u8>>,
    peers: BTreeMap<Vec<u8>, Peer>,
    /// Peers whose states are not as they are stored.
    dirty: BTreeSet<Vec<u8>>,
    damaged: Vec<Damaged>,
    /// Whether something is stored that a power cut may take.
    unflushed: bool,
    /// Whether automerge may have dropped changes that are stored and wait for others, because it refused a second change of their actor.
    dropped: bool,
    waiting: Waiting,
    /// Whether automerge was entered and did not come back.
    entered: bool,
}

/// The session with a peer.
#[derive(Debug, Clone, Default)]
struct Peer {
    state: State,
    /// What is stored of it.
    stored: Option<Vec<u8>>,
}

impl<D: Engine, P: Persister> Persistent<D, P> {
    /// Loads what is stored; an empty document when nothing is. Writes nothing, unless something is damaged: see
    /// [`damaged`](Self::damaged). The document gets a fresh random actor.
    ///
    /// # Errors
    /// The persister's.
    pub fn load(persister: P) -> Result<Self, PersistError<P::Error>> {
        let mut this = Self {
            document: D::empty(),
            persister,
            persisted: Vec::new(),
            others: Vec::new(),
            peers: BTreeMap::new(),
            dirty: BTreeSet::new(),
            damaged: Vec::new(),
            unflushed: false,
            dropped: false,
            waiting: Waiting::default(),
            entered: false,
        };
        this.reload()?;
        Ok(this)
    }

    fn reload(&mut self) -> Result<(), PersistError<P::Error>> {
        self.entered = true;
        self.peers.clear();
        self.dirty.clear();
        self.others.clear();
        let buffer = self.persister.load().map_err(PersistError::Persister)?;
        let loaded = buffer.and_then(|buffer| guarded(|| D::load(&buffer).ok()).ok().flatten());
        self.document = if let Some(document) = loaded {
            document
        } else {
            let recovery = self.persister.recover().map_err(PersistError::Persister)?;
            for damaged in &recovery.damaged {
                tracing::error!(reason = damaged.reason(), "a part of a document could not be read");
            }
            self.damaged.extend(recovery.damaged);
            let buffer = guarded(|| recovery.document.save()).map_err(PersistError::Panicked)?;
            guarded(|| D::load(&buffer)).map_err(PersistError::Panicked)?.map_err(refused)?
        };
        self.persisted = self.document.heads();
        // Who stored it may not have flushed it.
        (self.unflushed, self.dropped, self.waiting) = (true, false, Waiting::default());
        self.entered = false;
        Ok(())
    }

    /// What could not be read when the document was loaded, and is in quarantine or where it was. Its sync states are forgotten then, so
    /// that peers send again what is missing.
    pub fn damaged(&self) -> &[Damaged] {
        &self.damaged
    }

    /// The persister.
    pub fn persister(&self) -> &P {
        &self.persister
    }

    /// Gives the document another actor. Only for one that no other program uses, and that has told nobody of a change that is not stored:
    /// a change of the same actor and sequence number splits a document for ever. The fresh actor that it has is safe.
    pub fn set_actor(&mut self, actor: ActorId) -> &mut Self {
        self.document.set_actor_id(actor);
        self
    }

    /// Applies changes from elsewhere and stores them. Changes whose dependencies are not there wait in memory, and are stored with those.
    ///
    /// # Errors
    /// See [`PersistError`].
    pub fn apply_changes(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<(), PersistError<P::Error>> {
        let changes: Vec<_> = changes.into_iter().collect();
        let bytes = changes.iter().map(|change| change.raw_bytes().len()).sum();
        self.admit(bytes, || changes.clone())?;
        self.apply(changes)?;
        self.waiting.taken(&mut self.document, bytes);
        self.persist()
    }

    /// The next message to a peer; `None` when there is nothing to tell now. Everything it says is stored before, and flushed.
    ///
    /// # Errors
    /// See [`PersistError`].
    pub fn generate_sync_message(
        &mut self,
        peer_id: Vec<u8>,
    ) -> Result<Option<Message>, PersistError<P::Error>> {
        self.persist()?;
        if self.unflushed {
            self.flush()?;
        }
        let mut peer = self.peer(&peer_id)?;
        let message = self.enter(|this| this.document.generate(&mut peer.state))?;
        self.peers.insert(peer_id, peer);
        Ok(message)
    }

    /// Takes a message from a peer, and stores what it brought.
    ///
    /// # Errors
    /// See [`PersistError`].
    pub fn receive_sync_message(
        &mut self,
        peer_id: Vec<u8>,
        message: Message,
    ) -> Result<(), PersistError<P::Error>> {
        self.receive(peer_id, message, None)
    }

    fn receive(
        &mut self,
        peer_id: Vec<u8>,
        message: Message,
        log: Option<&mut PatchLog>,
    ) -> Result<(), PersistError<P::Error>> {
        self.sound()?;
        let mut peer = self.peer(&peer_id)?;
        let bytes = message.changes.iter().map(waiting::weight).fold(0, usize::saturating_add);
        self.admit(bytes, || waiting::changes_of(message.changes.iter()))?;
        let received = self.enter(|this| this.document.receive(&mut peer.state, message, log))?;
        received.map_err(|error| self.refused(error))?;
        self.waiting.taken(&mut self.document, bytes);
        if peer.stored.as_ref() != Some(&peer.state.encode()) {
            self.dirty.insert(peer_id.clone());
        }
        self.peers.insert(peer_id, peer);
        self.persist()
    }

    fn apply(&mut self, changes: Vec<Change>) -> Result<(), PersistError<P::Error>> {
        self.enter(|this| this.document.apply(changes))?.map_err(|error| self.refused(error))
    }

    /// Whether what comes from elsewhere is taken, as far as it waits for what does not.
    fn admit(
        &mut self,
        bytes: usize,
        changes: impl FnOnce() -> Vec<Change>,
    ) -> Result<(), PersistError<P::Error>> {
        self.enter(|this| this.waiting.admit(&mut this.document, bytes, changes))?
            .map_err(|bytes| PersistError::TooMuchWaits { bytes })
    }

    fn refused(&mut self, error: AutomergeError) -> PersistError<P::Error> {
        let error = refused(error);
        self.dropped |= matches!(error, PersistError::Equivocation { .. });
        error
    }

    /// Ends the session with a peer, as when its connection is gone: what was in flight is forgotten, what both have is remembered.
    pub fn end_session(&mut self, peer_id: &[u8]) {
        self.peers.remove(peer_id);
        self.dirty.remove(peer_id);
    }

    /// Forgets all about a peer, what is stored too: the next sync begins from nothing.
    ///
    /// # Errors
    /// The persister's.
    pub fn reset_sync_state(&mut self, peer_id: &[u8]) -> Result<(), PersistError<P::Error>> {
        self.end_session(peer_id);
        self.unflushed = true;
        self.persister.remove_sync_states(&[peer_id]).map_err(PersistError::Persister)
    }

    /// Makes one snapshot of everything stored, and forgets the states of old peers.
    ///
    /// # Errors
    /// See [`PersistError`]. Nothing is lost then.
    pub fn compact(&mut self, old_peer_ids: &[&[u8]]) -> Result<(), PersistError<P::Error>> {
        let options = CompactOptions { force: true, ..CompactOptions::default() };
        self.compact_with(old_peer_ids, options).map(drop)
    }

    /// The same, by choice only [when it is worth it](crate::StoredSizes::compaction_is_due), with the snapshot loaded before anything
    /// is removed, or only told what would come of it.
    ///
    /// # Errors
    /// See [`PersistError`]. Nothing is lost then.
    pub fn compact_with(
        &mut self,
        old_peer_ids: &[&[u8]],
        options: CompactOptions,
    ) -> Result<CompactReport, PersistError<P::Error>> {
        self.regain_dropped()?;
        for _ in 0..ATTEMPTS_MAX {
            self.persist()?;
            let sizes = self.persister.sizes();
            let mut report = CompactReport::before(sizes);
            if !(options.force || sizes.compaction_is_due()) {
                return Ok(report);
            }
            let snapshot = self.enter(|this| this.document.save())?;
            report.compacted_bytes = snapshot.len() as u64;
            if options.verify {
                let heads = self.document.heads();
                verify_snapshot(&snapshot, &heads)
                    .map_err(|error| PersistError::Damaged(error.to_string()))?;
            }
            if options.dry_run {
                return Ok(report);
            }
            let (persister, document) = (&mut self.persister, &mut self.document);
            let progress = persister.replace(snapshot, &mut || document.addresses(), old_peer_ids);
            match progress.map_err(PersistError::Persister)? {
                Progress::Stored => {
                    for peer in old_peer_ids {
                        self.end_session(peer);
                    }
                    self.unflushed = true;
                    return Ok(CompactReport { compacted: true, ..report });
                }
                Progress::Behind(others) => self.others.push(others),
            }
        }
        Err(PersistError::Contended)
    }

    /// Takes into the document again what automerge dropped of what is stored, without ending sessions.
    fn regain_dropped(&mut self) -> Result<(), PersistError<P::Error>> {
        if !self.dropped {
            return Ok(());
        }
        self.persist()?;
        match self.persister.load().map_err(PersistError::Persister)? {
            Some(stored) => self.others.push(stored),
            None => self.reload()?,
        }
        self.persist()?;
        self.dropped = false;
        Ok(())
    }

    /// Stores what is not stored yet, and makes everything survive a power loss. Answers how many bytes did not before.
    ///
    /// # Errors
    /// See [`PersistError`].
    pub fn flush(&mut self) -> Result<usize, PersistError<P::Error>> {
        self.persist()?;
        let flushed = self.persister.flush().map_err(PersistError::Persister)?;
        self.unflushed = false;
        Ok(flushed)
    }

    /// Flushes, and gives the persister back for another use. A document that cannot be stored is gone with the error: [`flush`](Self::flush)
    /// first where that matters.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn close(mut self) -> Result<P, PersistError<P::Error>> {
        self.flush()?;
        Ok(self.persister)
    }

    /// Ends a transaction that is open, and stores what is not stored yet. Every other call does.
    ///
    /// # Errors
    /// See [`PersistError`].
    pub fn close_transaction(&mut self) -> Result<(), PersistError<P::Error>> {
        self.persist()
    }

    /// Everything since the heads that are known to be stored.
    fn persist(&mut self) -> Result<(), PersistError<P::Error>> {
        self.sound()?;
        for _ in 0..ATTEMPTS_MAX {
            self.merge_others()?;
            let persisted = std::mem::take(&mut self.persisted);
            let changes = self.enter(|this| this.document.changes_since(&persisted));
            // After a panic the heads are those that were loaded.
            let changes = changes?;
            self.persisted = persisted;
            let state = |peer: &Vec<u8>| Some((peer.clone(), self.peers.get(peer)?.state.encode()));
            // As many as one batch has room for: after failures there may be more, which the calls that follow store.
            let mut bytes = 0_usize;
            let fits = |(_, state): &(Vec<u8>, Vec<u8>)| {
                let first = bytes == 0;
                bytes = bytes.saturating_add(state.len() + PEER_BYTES_MAX);
                first || bytes <= COMMIT_INLINE_BYTES_MAX
            };
            let sync_states: Vec<_> = self.dirty.iter().filter_map(state).take_while(fits).collect();
            if changes.is_empty() && sync_states.is_empty() {
                self.persisted = self.document.heads();
                return Ok(());
            }
            let commit = Commit { changes, sync_states: sync_states.clone() };
            match self.persister.commit(commit).map_err(PersistError::Persister)? {
                Progress::Stored => {
                    self.persisted = self.document.heads();
                    self.unflushed = true;
                    for (peer, stored) in sync_states {
                        self.dirty.remove(&peer);
                        if let Some(peer) = self.peers.get_mut(&peer) {
                            peer.stored = Some(stored);
                        }
                    }
                    if self.dirty.is_empty() {
                        return Ok(());
                    }
                }
                Progress::Behind(others) => self.others.push(others),
            }
        }
        Err(PersistError::Contended)
    }

    /// Takes what others have stored into the document. What fails to be taken is tried again by the next call: before that nothing
    /// is stored, so an equivocation never is.
    fn merge_others(&mut self) -> Result<(), PersistError<P::Error>> {
        while let Some(stream) = self.others.first().cloned() {
            let (changes, tips) = read_stream(&stream).map_err(PersistError::Damaged)?;
            let deps: BTreeMap<_, _> =
                changes.iter().map(|change| (change.hash(), change.deps().to_vec())).collect();
            self.apply(changes)?;
            // What a stored change rests on is no head of what is stored.
            let document = &mut self.document;
            let known = deps.iter().filter(|(hash, _)| document.has(hash));
            let covered: BTreeSet<_> = known.flat_map(|(_, deps)| deps).collect();
            self.persisted.retain(|head| !covered.contains(head));
            self.persisted.extend(tips.into_iter().filter(|tip| document.has(tip)));
            self.persisted.sort_unstable();
            self.persisted.dedup();
            self.unflushed = true;
            self.others.remove(0);
        }
        Ok(())
    }

    /// The session with a peer, or a new one from what is stored.
    fn peer(&mut self, peer_id: &[u8]) -> Result<Peer, PersistError<P::Error>> {
        if let Some(peer) = self.peers.get(peer_id) {
            return Ok(peer.clone());
        }
        if peer_id.len() > PEER_BYTES_MAX {
            return Err(PersistError::PeerTooLong { bytes: peer_id.len() });
        }
        if self.peers.len() >= PEERS_MAX {
            return Err(PersistError::TooManyPeers);
        }
        let stored = self.persister.get_sync_state(peer_id).map_err(PersistError::Persister)?;
        // One that does not read costs round trips, and no data.
        let state = stored.as_deref().and_then(|stored| State::decode(stored).ok()).unwrap_or_default();
        Ok(Peer { state, stored })
    }

    /// Loads the document again when automerge panicked in it.
    fn sound(&mut self) -> Result<(), PersistError<P::Error>> {
        if self.entered { self.reload() } else { Ok(()) }
    }

    /// Runs what automerge does with bytes from elsewhere.
    fn enter<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Result<T, PersistError<P::Error>> {
        self.sound()?;
        self.entered = true;
        match guarded(|| work(self)) {
            Ok(done) => {
                self.entered = false;
                Ok(done)
            }
            Err(panic) => {
                tracing::error!(panic, "automerge panicked; the document is loaded again");
                self.reload()?;
                Err(PersistError::Panicked(panic))
            }
        }
    }
}

/// The changes of a stored stream, and hashes that cover them all.
fn read_stream(stream: &[u8]) -> Result<(Vec<Change>, Vec<ChangeHash>), String> {
    let sifted = chunks::sift(stream);
    if let Some(flaw) = sifted.flaw {
        return Err(flaw);
    }
    let mut changes = Vec::new();
    for chunk in sifted.whole {
        match chunk.kind {
            Kind::Change | Kind::Compressed => changes.extend(chunk.change()),
            Kind::Document | Kind::Bundle => {
                let document = crate::salvage::load(chunk.bytes)?;
                changes.extend(guarded(|| document.get_changes(&[]))?);
            }
        }
    }
    let covered: BTreeSet<_> = changes.iter().flat_map(|change| change.deps().iter().copied()).collect();
    let tips = changes.iter().map(Change::hash).filter(|hash| !covered.contains(hash)).collect();
    Ok((changes, tips))
}

#[cfg(test)]
mod tests {
    use automerge::ROOT;
    use automerge::transaction::Transactable as _;

    use super::*;
    use crate::{DocStore, DocumentId, DocumentPersister};

    /// Two handles that take turns, one of which only compacts: what each knows to be stored is told by as many heads as there are.
    #[test]
    fn what_is_known_to_be_stored_does_not_grow() {
        let store = pollster::block_on(DocStore::open(&seabed_kv::Store::memory())).unwrap();
        let open = || {
            let persister = DocumentPersister::open(&store, DocumentId::from_bytes([7; 16])).unwrap();
            PersistentAutomerge::load(persister).unwrap()
        };
        let (mut one, mut two) = (open(), open());
        for number in 0..50 {
            one.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", number)).unwrap();
            two.compact(&[]).unwrap();
            assert_eq!(two.persisted, one.document.get_heads());
        }
        // And while it cannot store anything of its own.
        two.document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "two", 2)).unwrap();
        for number in 0..50 {
            one.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", number)).unwrap();
            let Progress::Behind(others) = two.persister.commit(Commit::default()).unwrap() else {
                panic!("the other was quicker");
            };
            two.others.push(others);
            two.merge_others().unwrap();
            assert_eq!(two.persisted, one.document.get_heads());
        }
        two.flush().unwrap();
        assert_eq!(open().document().get_heads(), two.document.get_heads());
    }
}
