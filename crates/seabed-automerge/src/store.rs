//! `DocStore`: documents over the kernel. Reads are bounded by the document, writes by the change.

use std::fmt;
use std::sync::Arc;

use seabed_kv::staged::Sweep;
use seabed_kv::{KeyRange, ScanSpec, Store};

use crate::DocumentId;
use crate::error::{ErrorKind, Result, busy, damaged, too_large};
use crate::keys::{
    CHANGE, ChangeRow, DELETED, PEER, PeerRow, SNAPSHOT, document_key, numbered_key, peer_key, read_peer_key,
    snapshot_from_bytes,
};
use crate::limits::{ATTEMPTS_MAX, DISCARDED_MS_MAX, DOCUMENT_BYTES_MAX, WRITING_MS_MAX};
use crate::meta::Meta;
use crate::salvage::Piece;
use crate::shard::{self, Shard};

/// Every document of a store. Cheap to clone; every clone is the same. It knows nothing of what automerge makes of the bytes: that is
/// [`PersistentAutomerge`](crate::PersistentAutomerge)'s, or a server's.
///
/// Whoever writes says what it expects to find ([`Meta`]): who is not up to date is told so, and nothing is written. Its futures are
/// `Send`, need no runtime, take no lock that they wait for, and may be dropped at any await: a write takes effect as a whole or not
/// at all.
///
/// ```
/// use automerge::{Automerge, AutomergeError, ROOT, transaction::Transactable};
/// use seabed_automerge::{Append, Appended, DocStore, DocumentId};
///
/// # pollster::block_on(async {
/// let store = DocStore::open(&seabed_kv::Store::memory()).await?;
/// let id = DocumentId::from_bytes([7; 16]);
/// let mut document = Automerge::new();
/// document.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, "key", "value")).unwrap();
///
/// let append = Append { changes: document.get_changes(&[]), ..Append::default() };
/// let appended = store.append(id, None, append, "an acknowledgement").await?;
/// let Appended::Applied { meta, effects } = appended else { panic!("nobody else was there") };
/// assert_eq!((meta.changes(), effects.release()), (1, "an acknowledgement"));
///
/// let loaded = store.load(id).await?.expect("just stored");
/// assert_eq!(Automerge::load(&loaded.bytes).unwrap().get_heads(), document.get_heads());
/// # Ok::<(), seabed_kv::Error>(())
/// # })?;
/// # Ok::<(), seabed_kv::Error>(())
/// ```
#[derive(Clone)]
pub struct DocStore(Arc<[Shard]>);

/// A document as it is stored at one of its commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Which commit: what to expect when writing next.
    pub meta: Meta,
    /// Snapshots and changes in the order in which they came, as one buffer: what `automerge::Automerge::load` takes, in one go and not
    /// change by change.
    pub bytes: Vec<u8>,
}

impl DocStore {
    /// Opens the layer's tenants in `store`, creating them in a new one; removes large values that were never finished and completes
    /// deletions that were cut off; on a full disk [`maintain`](Self::maintain) does that later. A store is opened once: a second opening would remove what the first one is writing. Where several
    /// processes [share](Store::is_shared) it that is left to [`maintain`](Self::maintain), and any number of processes open it.
    ///
    /// # Errors
    /// Those of the store; `Unsupported` for data of a later version, naming both versions; `Corrupt` for a damaged row.
    pub async fn open(store: &Store) -> Result<Self> {
        let shards = shard::open(store).await?;
        // In a shared one they may be another's that goes on.
        if !store.is_shared() {
            for shard in &shards {
                match shard.tidy().await {
                    // What nobody refers to takes room, and no more: without room to remove it, reads are served all the same.
                    Err(error) if error.is_disk_full() => tracing::error!(
                        %error,
                        tenant = %shard.tenant.id(),
                        "what writers and deletions have left is not removed; it is tried again each minute"
                    ),
                    tidied => tidied?,
                }
            }
        }
        Ok(Self(shards.into()))
    }

    /// Removes large values that were replaced fifteen minutes ago or whose writing ended in the middle, and completes deletions that
    /// were cut off, in bounded steps. Answers how many values it removed. To be called each minute; may be dropped at any await.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn maintain(&self, now_unix_ms: u64) -> Result<u64> {
        let due = Sweep::Before {
            discarded_ms: now_unix_ms.saturating_sub(DISCARDED_MS_MAX),
            writing_ms: now_unix_ms.saturating_sub(WRITING_MS_MAX),
        };
        let mut removed = 0;
        for shard in self.shards() {
            removed += shard.staging.sweep(due).await?;
            shard.finish_deletions().await?;
        }
        Ok(removed)
    }

    /// The state of a document; `None` when there is none of that id. One small read.
    ///
    /// # Errors
    /// Those of the store's reads; `Corrupt` for a damaged row.
    pub async fn meta(&self, document: DocumentId) -> Result<Option<Meta>> {
        self.shard(document).meta(document).await
    }

    /// Until everything that was written of a document, by whomever in this process, is durable.
    #[cfg(feature = "http")]
    pub(crate) async fn flush(&self, document: DocumentId) -> Result<()> {
        self.shard(document).tenant.flush().await
    }

    /// Whether the document was deleted here, so that nobody brings it back.
    ///
    /// # Errors
    /// Those of the store's reads.
    pub async fn is_deleted(&self, document: DocumentId) -> Result<bool> {
        self.shard(document).tenant.exists(DELETED, document_key(document)).await
    }

    /// The document as one buffer; `None` when there is none of that id. Writes nothing.
    ///
    /// # Errors
    /// Those of the store's reads; `Corrupt` when something of it cannot be read: [`pieces`](Self::pieces) has the rest.
    pub async fn load(&self, document: DocumentId) -> Result<Option<Loaded>> {
        let shard = self.shard(document);
        for _ in 0..ATTEMPTS_MAX {
            let Some(meta) = shard.meta(document).await? else { return Ok(None) };
            let stored = meta.change_bytes.saturating_add(meta.snapshot_bytes);
            if stored > DOCUMENT_BYTES_MAX {
                return Err(too_large(&shard.tenant, stored));
            }
            let mut bytes = Vec::with_capacity(usize::try_from(stored).unwrap_or(0));
            let read = async {
                if meta.snapshots > 0 {
                    shard.append_snapshots(document, &mut bytes).await?;
                }
                if meta.rows > 0 {
                    shard.append_changes(document, 0, meta.next, &mut bytes).await?;
                }
                Ok(())
            };
            let read = read.await;
            // Rows are only added, but for what counts as a generation: then what was read is of two moments.
            match shard.meta(document).await? {
                Some(now) if now.generation == meta.generation => {
                    return read.map(|()| Some(Loaded { meta, bytes }));
                }
                _ => {}
            }
        }
        Err(busy(&shard.tenant, "the document was compacted each time it was read; ask again"))
    }

    /// What was stored of the document after `seen`: further changes, or all of it when it was compacted since. `None` when there is
    /// no such document any more.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn since(&self, document: DocumentId, seen: &Meta) -> Result<Option<Loaded>> {
        let shard = self.shard(document);
        let Some(meta) = shard.meta(document).await? else { return Ok(None) };
        if meta.generation == seen.generation {
            let mut bytes = Vec::new();
            let read = shard.append_changes(document, seen.next, meta.next, &mut bytes).await;
            if shard.meta(document).await?.is_some_and(|now| now.generation == seen.generation) {
                return read.map(|()| Some(Loaded { meta, bytes }));
            }
        }
        self.load(document).await
    }

    /// The document's stored values one by one, with why some could not be read: for a document that [`load`](Self::load) or automerge
    /// refuses. `None` when there is none.
    ///
    /// # Errors
    /// Those of the store's reads, but not damage.
    pub async fn pieces(&self, document: DocumentId) -> Result<Option<(Meta, Vec<Piece>)>> {
        Ok(self.pieces_from(document, 0, 0).await?.map(|(meta, _, pieces)| (meta, pieces)))
    }

    /// The values from the row `next` on, when that row is of this generation, or else all of them; with the first row that was read.
    pub(crate) async fn pieces_from(
        &self,
        document: DocumentId,
        generation: u64,
        next: u64,
    ) -> Result<Option<(Meta, u64, Vec<Piece>)>> {
        let shard = self.shard(document);
        for _ in 0..ATTEMPTS_MAX {
            let Some(meta) = shard.meta(document).await? else { return Ok(None) };
            let first = if meta.generation == generation { next } else { 0 };
            let pieces = shard.pieces(document, first, meta.next).await?;
            if shard.meta(document).await?.is_some_and(|now| now.generation == meta.generation) {
                return Ok(Some((meta, first, pieces)));
            }
        }
        Err(busy(&shard.tenant, "the document was compacted each time it was read; ask again"))
    }

    /// The state of synchronisation with a peer, as it was stored.
    ///
    /// # Errors
    /// Those of the store's reads; `Corrupt` for a damaged row.
    pub async fn sync_state(&self, document: DocumentId, peer: &[u8]) -> Result<Option<Vec<u8>>> {
        let shard = self.shard(document);
        let key = peer_key(document, peer);
        let Some(row) = shard.tenant.get(PEER, &key).await? else { return Ok(None) };
        let row = PeerRow::from_bytes(&row).ok_or_else(|| damaged(&shard.tenant, PEER, &key))?;
        Ok(Some(row.state))
    }

    /// The peers whose states are stored, with the second since 1970 in which each was last written. Memory is the caller's bound: some
    /// tens of bytes a peer.
    ///
    /// # Errors
    /// Those of the store's reads; `Corrupt` for a damaged row.
    pub async fn peers(&self, document: DocumentId) -> Result<Vec<(Vec<u8>, u64)>> {
        let shard = self.shard(document);
        let mut peers = Vec::new();
        let mut rows = shard.tenant.scan(ScanSpec::new(PEER, KeyRange::prefix(document_key(document))));
        while let Some(row) = rows.next().await {
            let row = row?;
            let read = read_peer_key(row.key.as_bytes()).zip(PeerRow::from_bytes(&row.payload));
            let ((_, peer), row) = read.ok_or_else(|| damaged(&shard.tenant, PEER, row.key.as_bytes()))?;
            peers.push((peer.to_vec(), row.written_unix_s));
        }
        Ok(peers)
    }

    pub(crate) fn shards(&self) -> &[Shard] {
        &self.0
    }

    /// Where the rows are that are the store's, and no document's.
    pub(crate) fn first_shard(&self) -> &Shard {
        #[allow(clippy::indexing_slicing, reason = "open makes at least one shard")]
        &self.0[0]
    }

    pub(crate) fn shard(&self, document: DocumentId) -> &Shard {
        let number = shard::shard_of(document, self.0.len());
        #[allow(
            clippy::indexing_slicing,
            reason = "a hash modulo the length, and open makes at least one shard"
        )]
        &self.0[number]
    }
}

impl fmt::Debug for DocStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocStore").field("shards", &self.0.len()).finish()
    }
}

impl Shard {
    async fn append_snapshots(&self, document: DocumentId, bytes: &mut Vec<u8>) -> Result<()> {
        let mut rows = self.tenant.scan(ScanSpec::new(SNAPSHOT, KeyRange::prefix(document_key(document))));
        while let Some(row) = rows.next().await {
            let row = row?;
            let stored = snapshot_from_bytes(&row.payload)
                .ok_or_else(|| damaged(&self.tenant, SNAPSHOT, row.key.as_bytes()))?;
            bytes.extend_from_slice(&self.read(stored).await?);
        }
        Ok(())
    }

    /// The changes of the rows from `first` up to, not including, `end`, without what was stored under an address: that need not be
    /// changes.
    async fn append_changes(
        &self,
        document: DocumentId,
        first: u64,
        end: u64,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        if first >= end {
            return Ok(());
        }
        let mut rows = self.tenant.scan(ScanSpec::new(CHANGE, change_range(document, first, end)));
        while let Some(row) = rows.next().await {
            let row = row?;
            // The usual row, without a copy.
            if let Some((1, changes)) = row.payload.split_first() {
                bytes.extend_from_slice(changes);
                continue;
            }
            let change = ChangeRow::from_bytes(&row.payload)
                .ok_or_else(|| damaged(&self.tenant, CHANGE, row.key.as_bytes()))?;
            if change.address.is_none() {
                bytes.extend_from_slice(&self.read(change.value).await?);
            }
        }
        Ok(())
    }

    async fn pieces(&self, document: DocumentId, first: u64, end: u64) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        for (category, range) in [
            (SNAPSHOT, KeyRange::prefix(document_key(document))),
            (CHANGE, change_range(document, first, end)),
        ] {
            if first > 0 && category == SNAPSHOT || range.is_empty() {
                continue;
            }
            let mut rows = self.tenant.scan(ScanSpec::new(category, range));
            while let Some(row) = rows.next().await {
                let row = row?;
                let snapshot = category == SNAPSHOT;
                let (stored, addressed) = if snapshot {
                    (snapshot_from_bytes(&row.payload), false)
                } else {
                    let change = ChangeRow::from_bytes(&row.payload);
                    let addressed = change.as_ref().is_some_and(|change| change.address.is_some());
                    (change.map(|change| change.value), addressed)
                };
                let bytes = match stored {
                    None => Err("the row does not read".to_owned()),
                    Some(stored) => match self.read(stored).await {
                        Ok(bytes) => Ok(bytes),
                        Err(error) if error.kind() == ErrorKind::Corrupt => Err(error.to_string()),
                        Err(error) => return Err(error),
                    },
                };
                pieces.push(Piece {
                    snapshot,
                    addressed,
                    key: row.key.into_bytes(),
                    payload: row.payload,
                    bytes,
                });
            }
        }
        Ok(pieces)
    }
}

fn change_range(document: DocumentId, first: u64, end: u64) -> KeyRange {
    KeyRange::new(numbered_key(document, first), numbered_key(document, end))
}
