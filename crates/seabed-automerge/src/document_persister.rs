//! The persister over a `DocStore`: one document, one batch a call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use automerge::{ActorId, Change, ChangeHash};
use seabed_kv::{Durability, Op};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use uuid::Uuid;

use crate::append::{Append, New, Written};
use crate::classic::Values;
use crate::clock::now_unix_ms;
use crate::compact::Replace;
use crate::documents::deleted;
use crate::error::{Error, ErrorKind, busy};
use crate::keys::{Address, ChangeRow, read_numbered_key};
use crate::limits::ATTEMPTS_MAX;
use crate::meta::Meta;
use crate::persister::{Commit, Persister, Progress, Recovery};
use crate::salvage::Piece;
use crate::{DocStore, DocumentId, StoredSizes, chunks, salvage};

/// Keeps one document in a [`DocStore`]. Any number of them, and of clones of the store, may work on one document: a commit that does not
/// know what another has stored is told what that is, and nothing is overwritten.
///
/// Durable unless [`relaxed`](Self::relaxed): then each call survives a crash of the process, and [`flush`](Persister::flush) makes all of
/// them survive a power cut, which [`PersistentAutomerge`](crate::PersistentAutomerge) does before it tells a peer anything. Blocks its
/// thread; a server uses the store itself.
///
/// ```
/// use automerge::{AutomergeError, ROOT, transaction::Transactable};
/// use seabed_automerge::{DocStore, DocumentId, DocumentPersister, PersistentAutomerge};
///
/// let store = seabed_kv::Store::memory();
/// let store = pollster::block_on(DocStore::open(&store))?;
/// let id = DocumentId::from_bytes([7; 16]);
/// let mut document = PersistentAutomerge::load(DocumentPersister::open(&store, id)?)?;
/// document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", "value")).expect("stored");
///
/// let again = PersistentAutomerge::load(DocumentPersister::open(&store, id)?)?;
/// assert_eq!(again.document().get_heads(), document.document().get_heads());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DocumentPersister {
    store: DocStore,
    document: DocumentId,
    durability: Durability,
    /// The last state of the document that this handle knows all of.
    seen: Option<Meta>,
    /// The generation whose snapshots it knows; `None` when there was no document yet.
    known: Option<u64>,
    /// How many bytes were stored that may not survive a power cut.
    unflushed: usize,
    /// Where single changes are: built when somebody stores or removes them by address.
    addresses: Addresses,
}

/// Why a document could not be stored or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Another change is stored under this actor and sequence number. Nothing was written. Two programs were given one actor id, or one
    /// lost a change that it had told others of: load the document again, with a fresh actor.
    #[error(
        "another change {seq} of actor {actor} is stored already; load the document again, with a fresh actor"
    )]
    Equivocation {
        /// The actor.
        actor: ActorId,
        /// Its sequence number.
        seq: u64,
    },
    /// The store's error: its kind says what to do.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Which changes are stored, and where, up to some commit.
#[derive(Debug, Default)]
struct Addresses {
    generation: u64,
    /// The first row that has not been looked at.
    next: u64,
    by_address: BTreeMap<Address, Place>,
    /// Those that snapshots hold.
    in_snapshots: BTreeMap<Address, ChangeHash>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    row: u64,
    digest: [u8; 32],
}

type Result<T, E = DocumentError> = std::result::Result<T, E>;

impl DocumentPersister {
    /// The persister of a document, which need not exist yet. One small read.
    ///
    /// # Errors
    /// Those of the store's reads; `InvalidArgument` for a document that was deleted.
    pub fn open(store: &DocStore, document: DocumentId) -> Result<Self> {
        let seen = wait(store, move |store| async move { store.meta(document).await })?;
        let persister = Self {
            known: generation(seen.as_ref()),
            seen,
            store: store.clone(),
            document,
            durability: Durability::Durable,
            unflushed: 0,
            addresses: Addresses::default(),
        };
        if persister.seen.is_none()
            && wait(store, move |store| async move { store.is_deleted(document).await })?
        {
            return Err(deleted(document).into());
        }
        Ok(persister)
    }

    /// The same, with calls that survive a crash of the process at once and a power cut after a flush. Compactions are durable all the same.
    #[must_use]
    pub fn relaxed(mut self) -> Self {
        self.durability = Durability::Relaxed;
        self
    }

    /// Which document it keeps.
    pub fn document_id(&self) -> DocumentId {
        self.document
    }

    /// Runs a call of the store on this thread.
    fn run<T, F>(&self, call: impl FnOnce(DocStore, DocumentId) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = seabed_kv::Result<T>> + Send + 'static,
    {
        let document = self.document;
        wait(&self.store, move |store| call(store, document))
    }

    fn pieces(&self) -> Result<Vec<Piece>> {
        let pieces = self.run(|store, document| async move { store.pieces(document).await })?;
        Ok(pieces.map(|(_, pieces)| pieces).unwrap_or_default())
    }

    /// What others have stored since this handle looked.
    fn behind(&mut self) -> Result<Progress> {
        let seen = self.seen.clone();
        let loaded = self.run(|store, document| async move {
            match seen {
                Some(seen) => store.since(document, &seen).await,
                None => store.load(document).await,
            }
        })?;
        let loaded = loaded.ok_or_else(|| deleted(self.document))?;
        self.see(Some(loaded.meta));
        Ok(Progress::Behind(loaded.bytes))
    }

    fn written(&mut self, written: Written, bytes: usize) -> Result<Progress> {
        match written {
            Written::Applied(meta) => {
                self.see(Some(meta));
                self.count(bytes);
                Ok(Progress::Stored)
            }
            Written::Behind => self.behind(),
            Written::Deleted => Err(deleted(self.document).into()),
        }
    }

    fn see(&mut self, meta: Option<Meta>) {
        self.known = generation(meta.as_ref());
        self.seen = meta;
    }

    fn count(&mut self, bytes: usize) {
        if self.durability == Durability::Relaxed {
            self.unflushed = self.unflushed.saturating_add(bytes);
        }
    }

    /// Writes onto the document as it is now, again when others were quicker. An attempt answers what it was made for, and how it went.
    fn attempts(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<(Option<Meta>, Written)>,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            match attempt(self)? {
                (expected, Written::Applied(meta)) => {
                    // What this handle had not seen before it has not seen now.
                    if self.known == generation(expected.as_ref()) {
                        self.known = Some(meta.generation);
                    }
                    if self.seen == expected {
                        self.seen = Some(meta);
                    }
                    return Ok(());
                }
                (_, Written::Behind) => {}
                (_, Written::Deleted) => return Err(deleted(self.document).into()),
            }
        }
        let tenant = &self.store.shard(self.document).tenant;
        Err(busy(tenant, "the document is being written by too many at once; ask again").into())
    }

    fn meta(&self) -> Result<Option<Meta>> {
        self.run(|store, document| async move { store.meta(document).await })
    }

    /// Brings the addresses up to date: reads what is new, or everything after a compaction. Answers the state that they are of.
    fn look_up(&mut self) -> Result<Option<Meta>> {
        let Addresses { generation, next, .. } = self.addresses;
        let found = self
            .run(move |store, document| async move { store.pieces_from(document, generation, next).await })?;
        let Some((meta, first, pieces)) = found else {
            self.addresses = Addresses::default();
            return Ok(None);
        };
        if first == 0 {
            self.addresses.by_address.clear();
            self.addresses.in_snapshots.clear();
        }
        for piece in &pieces {
            if piece.snapshot {
                self.addresses.in_snapshots.extend(held(piece));
                continue;
            }
            let Some((_, row)) = read_numbered_key(&piece.key) else { continue };
            for (address, bytes) in addressed(piece) {
                let digest = Sha256::digest(bytes).into();
                self.addresses.by_address.insert(address, Place { row, digest });
            }
        }
        (self.addresses.generation, self.addresses.next) = (meta.generation, meta.next);
        Ok(Some(meta))
    }
}

/// Runs a call of a store on this thread.
fn wait<T, F>(store: &DocStore, call: impl FnOnce(DocStore) -> F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = seabed_kv::Result<T>> + Send + 'static,
{
    Ok(Op::from_future(call(store.clone())).wait()?)
}

fn generation(meta: Option<&Meta>) -> Option<u64> {
    meta.map(|meta| meta.generation)
}

fn fresh() -> New {
    New { now_unix_ms: now_unix_ms(), staged_id: Uuid::new_v4().into_bytes() }
}

fn address(change: &Change) -> Address {
    Address { actor: change.actor_id().to_bytes().to_vec(), seq: change.seq() }
}

/// The changes of a row, each with its address; what does not read has none.
fn addressed(piece: &Piece) -> Vec<(Address, &[u8])> {
    let Ok(bytes) = &piece.bytes else { return Vec::new() };
    if let Some(address) = ChangeRow::from_bytes(&piece.payload).and_then(|row| row.address) {
        return vec![(address, bytes)];
    }
    let whole = chunks::sift(bytes).whole;
    whole.iter().filter_map(|chunk| Some((address(&chunk.change()?), chunk.bytes))).collect()
}

/// The change of that address, where these bytes are nothing else.
fn change_at(bytes: &[u8], expected: &Address) -> Option<Change> {
    let mut rest = bytes;
    let change = chunks::take(&mut rest).and_then(|chunk| chunk.change())?;
    (rest.is_empty() && address(&change) == *expected).then_some(change)
}

/// The changes that a snapshot holds; none of one that automerge does not load, whose bytes are the caller's own.
fn held(piece: &Piece) -> Vec<(Address, ChangeHash)> {
    let loaded = piece.bytes.as_ref().ok().and_then(|bytes| salvage::load(bytes).ok());
    let Some(document) = loaded else { return Vec::new() };
    let changes = chunks::guarded(|| {
        document
            .get_changes_meta(&[])
            .into_iter()
            .map(|change| (Address { actor: change.actor.to_bytes().to_vec(), seq: change.seq }, change.hash))
            .collect()
    });
    changes.unwrap_or_default()
}

impl Persister for DocumentPersister {
    type Error = DocumentError;

    fn get_changes(&self) -> Result<Vec<Vec<u8>>> {
        let mut changes = Vec::new();
        for piece in self.pieces()?.into_iter().filter(|piece| !piece.snapshot) {
            let addressed = piece.addressed;
            let bytes = piece.bytes.map_err(|reason| Error::new(ErrorKind::Corrupt, reason))?;
            let sifted = chunks::sift(&bytes);
            if addressed || sifted.flaw.is_some() {
                changes.push(bytes);
            } else {
                changes.extend(sifted.whole.iter().map(|chunk| chunk.bytes.to_vec()));
            }
        }
        Ok(changes)
    }

    /// Bytes that are not the change of their address are kept under it all the same.
    fn insert_changes(&mut self, changes: Vec<(ActorId, u64, Vec<u8>)>) -> Result<()> {
        let changes: Vec<_> = changes
            .into_iter()
            .map(|(actor, seq, bytes)| (Address { actor: actor.to_bytes().to_vec(), seq }, bytes))
            .collect();
        let mut stored = 0;
        self.attempts(|this| {
            let expected = this.look_up()?;
            let mut values = Values::default();
            let mut new: BTreeMap<&Address, [u8; 32]> = BTreeMap::new();
            for (address, bytes) in &changes {
                let digest: [u8; 32] = Sha256::digest(bytes).into();
                let found = this.addresses.by_address.get(address).map(|place| place.digest);
                match found.or_else(|| new.get(address).copied()) {
                    Some(found) if found == digest => continue,
                    Some(_) => {
                        let actor = ActorId::from(&address.actor);
                        return Err(DocumentError::Equivocation { actor, seq: address.seq });
                    }
                    None => new.insert(address, digest),
                };
                let change = change_at(bytes, address);
                let in_snapshot = this.addresses.in_snapshots.get(address);
                if in_snapshot.is_some_and(|held| change.as_ref().map(Change::hash) != Some(*held)) {
                    let actor = ActorId::from(&address.actor);
                    return Err(DocumentError::Equivocation { actor, seq: address.seq });
                }
                if change.is_some() {
                    values.changes.push(bytes.clone());
                } else {
                    values.others.push((address.clone(), bytes.clone()));
                }
            }
            stored = values.bytes();
            let (before, durability) = (expected.clone(), this.durability);
            let written = this.run(|store, document| async move {
                store.insert_values(document, before.as_ref(), values, fresh(), durability).await
            })?;
            Ok((expected, written))
        })?;
        self.count(stored);
        Ok(())
    }

    fn remove_changes(&mut self, changes: Vec<(&ActorId, u64)>) -> Result<()> {
        let gone: Vec<_> = changes
            .into_iter()
            .map(|(actor, seq)| Address { actor: actor.to_bytes().to_vec(), seq })
            .collect();
        self.look_up()?;
        let mut rows: BTreeMap<u64, BTreeSet<Address>> = BTreeMap::new();
        for address in gone {
            if let Some(place) = self.addresses.by_address.get(&address) {
                rows.entry(place.row).or_default().insert(address);
            }
        }
        let rows = Arc::new(rows.into_iter().collect::<Vec<_>>());
        let mut first = 0;
        while first < rows.len() {
            let mut done = 0;
            self.attempts(|this| {
                let (expected, durability) = (this.meta()?, this.durability);
                let (before, step) = (expected.clone(), Arc::clone(&rows));
                let (written, removed) = this.run(move |store, document| async move {
                    let step = step.get(first..).unwrap_or_default();
                    store.remove_values(document, before.as_ref(), step, fresh(), durability).await
                })?;
                done = removed;
                Ok((expected, written))
            })?;
            // Each step takes at least one.
            first += done.max(1);
        }
        Ok(())
    }

    fn get_document(&self) -> Result<Option<Vec<u8>>> {
        let mut document = None;
        for piece in self.pieces()?.into_iter().filter(|piece| piece.snapshot) {
            let bytes = piece.bytes.map_err(|reason| Error::new(ErrorKind::Corrupt, reason))?;
            document.get_or_insert_with(Vec::new).extend_from_slice(&bytes);
        }
        Ok(document)
    }

    /// Replaces the snapshots that this handle knew; one that another has stored since stays beside it.
    fn set_document(&mut self, data: Vec<u8>) -> Result<()> {
        let bytes = data.len();
        self.attempts(|this| {
            let (expected, durability) = (this.meta()?, this.durability);
            let known = this.known == generation(expected.as_ref());
            let (before, snapshot) = (expected.clone(), data.clone());
            let written = this.run(move |store, document| async move {
                let New { now_unix_ms, staged_id } = fresh();
                let replace = Replace { snapshot, now_unix_ms, staged_id, old_peers: Vec::new() };
                store.set_snapshot(document, before.as_ref(), replace, known, durability).await
            })?;
            Ok((expected, written))
        })?;
        self.count(bytes);
        Ok(())
    }

    fn get_sync_state(&self, peer_id: &[u8]) -> Result<Option<Vec<u8>>> {
        let peer = peer_id.to_vec();
        self.run(|store, document| async move { store.sync_state(document, &peer).await })
    }

    fn set_sync_state(&mut self, peer_id: Vec<u8>, sync_state: Vec<u8>) -> Result<()> {
        if self.get_sync_state(&peer_id)?.as_ref() == Some(&sync_state) {
            return Ok(());
        }
        let bytes = sync_state.len();
        self.attempts(|this| {
            let (expected, durability) = (this.meta()?, this.durability);
            let (before, sync_states) = (expected.clone(), vec![(peer_id.clone(), sync_state.clone())]);
            let written = this.run(move |store, document| async move {
                let append = Append { sync_states, now_unix_ms: now_unix_ms(), ..Append::default() };
                store.write(document, before.as_ref(), append, durability).await
            })?;
            Ok((expected, written))
        })?;
        self.count(bytes);
        Ok(())
    }

    fn remove_sync_states(&mut self, peer_ids: &[&[u8]]) -> Result<()> {
        let mut peers = Vec::new();
        for peer in peer_ids {
            if self.get_sync_state(peer)?.is_some() {
                peers.push(peer.to_vec());
            }
        }
        if peers.is_empty() {
            return Ok(());
        }
        self.attempts(|this| {
            let (expected, durability) = (this.meta()?, this.durability);
            let (before, peers) = (expected.clone(), peers.clone());
            let written = this.run(move |store, document| async move {
                store.forget_peers(document, before.as_ref(), peers, now_unix_ms(), durability).await
            })?;
            Ok((expected, written))
        })
    }

    fn get_peer_ids(&self) -> Result<Vec<Vec<u8>>> {
        let peers = self.run(|store, document| async move { store.peers(document).await })?;
        Ok(peers.into_iter().map(|(peer, _)| peer).collect())
    }

    fn sizes(&self) -> StoredSizes {
        match self.run(|store, document| async move { store.meta(document).await }) {
            Ok(meta) => meta.map(|meta| meta.sizes()).unwrap_or_default(),
            Err(error) => {
                tracing::error!(document = ?self.document, %error, "the sizes are those that were last known");
                self.seen.as_ref().map(Meta::sizes).unwrap_or_default()
            }
        }
    }

    fn flush(&mut self) -> Result<usize> {
        // Whatever this handle has stored: it may have read what another has, and not flushed.
        self.run(|store, document| async move { store.shard(document).tenant.flush().await })?;
        Ok(std::mem::take(&mut self.unflushed))
    }

    fn load(&mut self) -> Result<Option<Vec<u8>>> {
        match self.run(|store, document| async move { store.load(document).await }) {
            Ok(None) => {
                self.see(None);
                Ok(Some(Vec::new()))
            }
            Ok(Some(loaded)) => {
                self.see(Some(loaded.meta));
                Ok(Some(loaded.bytes))
            }
            Err(DocumentError::Store(error)) if error.kind() == ErrorKind::Corrupt => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Moves what cannot be read into quarantine.
    fn recover(&mut self) -> Result<Recovery> {
        let recovered =
            self.run(|store, document| async move { store.recover(document, now_unix_ms()).await })?;
        let recovered = recovered.ok_or_else(|| deleted(self.document))?;
        self.see(Some(recovered.meta));
        Ok(Recovery { document: recovered.document, damaged: recovered.damaged })
    }

    fn commit(&mut self, commit: Commit) -> Result<Progress> {
        let changes: usize = commit.changes.iter().map(|change| change.raw_bytes().len()).sum();
        let bytes = changes + commit.sync_states.iter().map(|(_, state)| state.len()).sum::<usize>();
        let (seen, durability) = (self.seen.clone(), self.durability);
        let written = self.run(|store, document| async move {
            let New { now_unix_ms, staged_id } = fresh();
            let Commit { changes, sync_states } = commit;
            let append = Append { changes, sync_states, now_unix_ms, staged_id };
            store.write(document, seen.as_ref(), append, durability).await
        })?;
        self.written(written, bytes)
    }

    fn replace(
        &mut self,
        document: Vec<u8>,
        _changes: &mut dyn FnMut() -> Vec<(ActorId, u64)>,
        old_peer_ids: &[&[u8]],
    ) -> Result<Progress> {
        let Some(seen) = self.seen.clone() else {
            // Nothing is stored, unless by others.
            return if self.meta()?.is_some() { self.behind() } else { Ok(Progress::Stored) };
        };
        let old_peers = old_peer_ids.iter().map(|peer| peer.to_vec()).collect();
        let written = self.run(|store, id| async move {
            let New { now_unix_ms, staged_id } = fresh();
            let replace = Replace { snapshot: document, old_peers, now_unix_ms, staged_id };
            store.write_snapshot(id, &seen, replace).await
        })?;
        // Durable whatever else is, and with it everything before it.
        self.unflushed = 0;
        self.written(written, 0)
    }
}
