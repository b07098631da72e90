//! Documents, for administrators: list, show, delete.

use seabed_kv::staged::Sweep;
use seabed_kv::{Batch, Durability, KeyRange, Outcome, ScanSpec};
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result, busy, damaged};
use crate::keys::{
    CHANGE, ChangeRow, DELETED, DOCUMENT, DeletedRow, PEER, QUARANTINE, QuarantineRow, SNAPSHOT,
    document_key, read_document_key,
};
use crate::limits::ATTEMPTS_MAX;
use crate::meta::Meta;
use crate::shard::Shard;
use crate::{DocStore, DocumentId};

/// How many rows one step of a deletion removes.
const DELETE_STEP_ROWS: usize = 256;

/// A document, as its row of counters tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DocumentInfo {
    /// Its id, as automerge-repo writes it. Whoever knows it may ask for the document.
    pub document: String,
    /// How many changes are stored one by one.
    pub changes: u64,
    /// How many bytes they have.
    pub change_bytes: u64,
    /// How many snapshots are stored: one, unless several programs keep the document.
    pub snapshots: u64,
    /// How many bytes they have.
    pub snapshot_bytes: u64,
    /// Of how many peers the state of synchronisation is stored.
    pub peers: u64,
    /// How many bytes those states have.
    pub peer_bytes: u64,
    /// How many rows could not be read and are in quarantine.
    pub quarantined: u64,
    /// When it was created, in seconds since 1970.
    pub created_unix_s: u64,
    /// When it was last written, in seconds since 1970.
    pub written_unix_s: u64,
    /// Why its row cannot be read; the numbers are zero then.
    pub error: Option<String>,
}

impl DocumentInfo {
    fn new(document: DocumentId, meta: &Meta) -> Self {
        Self {
            document: document.to_string(),
            changes: meta.changes,
            change_bytes: meta.change_bytes,
            snapshots: meta.snapshots,
            snapshot_bytes: meta.snapshot_bytes,
            peers: meta.peers,
            peer_bytes: meta.peer_bytes,
            quarantined: meta.quarantined,
            created_unix_s: meta.created_unix_s,
            written_unix_s: meta.written_unix_s,
            error: None,
        }
    }
}

impl DocStore {
    /// How many documents there are. Reads none of their rows.
    ///
    /// # Errors
    /// Those of the store's reads.
    pub async fn document_count(&self) -> Result<u64> {
        let mut documents = 0;
        for shard in self.shards() {
            documents += shard.tenant.count(DOCUMENT, &KeyRange::all()).await?;
        }
        Ok(documents)
    }

    /// Every document, in the order of ids within each shard; one whose row is damaged with what is [wrong](DocumentInfo::error). Reads
    /// one small row a document.
    ///
    /// # Errors
    /// Those of the store's reads.
    pub async fn documents(&self) -> Result<Vec<DocumentInfo>> {
        let mut documents = Vec::new();
        for shard in self.shards() {
            let mut rows = shard.tenant.scan(ScanSpec::new(DOCUMENT, KeyRange::all()));
            while let Some(row) = rows.next().await {
                let row = row?;
                let error = || damaged(&shard.tenant, DOCUMENT, row.key.as_bytes());
                match (read_document_key(row.key.as_bytes()), Meta::from_bytes(&row.payload)) {
                    (Some(document), Some(meta)) => documents.push(DocumentInfo::new(document, &meta)),
                    // One damaged row is no reason not to tell of the others.
                    (Some(document), None) => documents.push(DocumentInfo {
                        error: Some(error().to_string()),
                        ..DocumentInfo::new(document, &Meta::default())
                    }),
                    // Nobody's id: `verify` names the row.
                    (None, _) => tracing::error!(error = %error()),
                }
            }
        }
        Ok(documents)
    }

    /// One document; `None` when there is none of that id.
    ///
    /// # Errors
    /// Those of the store's reads; `Corrupt` for a damaged row.
    pub async fn document(&self, document: DocumentId) -> Result<Option<DocumentInfo>> {
        Ok(self.meta(document).await?.map(|meta| DocumentInfo::new(document, &meta)))
    }

    /// Deletes a document with everything it has, what is in quarantine too, and leaves a mark: who brings it back by a sync is told that
    /// it was deleted. Answers whether it was there. A document that was never here can be marked as well.
    ///
    /// Its row goes and the mark comes in one durable batch; then the rest, in bounded steps. Dropped in the middle, or cut off by a
    /// crash, the rest is removed by the next [`maintain`](Self::maintain) or [`open`](Self::open).
    ///
    /// # Errors
    /// Those of the store; `Busy` when the document changed each of [`ATTEMPTS_MAX`] times.
    ///
    /// ```
    /// use seabed_automerge::{Append, Appended, DocStore, DocumentId};
    ///
    /// # pollster::block_on(async {
    /// let store = DocStore::open(&seabed_kv::Store::memory()).await?;
    /// let id = DocumentId::from_bytes([7; 16]);
    /// store.append(id, None, Append::default(), ()).await?;
    /// assert_eq!(store.documents().await?.len(), 1);
    /// assert!(store.delete(id, 1_700_000_000).await?);
    /// assert_eq!(store.append(id, None, Append::default(), ()).await?, Appended::Deleted);
    /// # Ok::<(), seabed_kv::Error>(())
    /// # })?;
    /// # Ok::<(), seabed_kv::Error>(())
    /// ```
    pub async fn delete(&self, document: DocumentId, now_unix_s: u64) -> Result<bool> {
        let shard = self.shard(document);
        let key = document_key(document);
        for _ in 0..ATTEMPTS_MAX {
            let row = shard.tenant.get(DOCUMENT, key).await?;
            if row.is_none() && shard.tenant.exists(DELETED, key).await? {
                return Ok(false);
            }
            let there = row.is_some();
            let mut batch = Batch::new();
            match row {
                Some(row) => batch.check_equals(DOCUMENT, key, row).delete(DOCUMENT, key),
                None => batch.check_absent(DOCUMENT, key).check_absent(DELETED, key),
            };
            batch.put(DELETED, key, DeletedRow { removing: true, since_unix_s: now_unix_s }.to_bytes());
            if shard.tenant.apply(batch, Durability::Durable).await?.is_applied() {
                shard.finish_deletion(document, now_unix_s).await?;
                return Ok(there);
            }
        }
        Err(busy(&shard.tenant, "the document is being changed by too many at once; ask again"))
    }
}

impl Shard {
    /// Completes every deletion that was begun.
    pub(crate) async fn finish_deletions(&self) -> Result<()> {
        let mut rows = self.tenant.scan(ScanSpec::new(DELETED, KeyRange::all()));
        while let Some(row) = rows.next().await {
            let row = row?;
            match (read_document_key(row.key.as_bytes()), DeletedRow::from_bytes(&row.payload)) {
                (Some(document), Some(row)) if row.removing => {
                    self.finish_deletion(document, row.since_unix_s).await?;
                }
                (Some(_), Some(_)) => {}
                // A server that would not start for it helps nobody; `verify` names it too.
                _ => tracing::error!(error = %damaged(&self.tenant, DELETED, row.key.as_bytes())),
            }
        }
        Ok(())
    }

    /// Removes what a document whose row is gone has left. Several may be at it at once.
    async fn finish_deletion(&self, document: DocumentId, since_unix_s: u64) -> Result<()> {
        let key = document_key(document);
        let mark = DeletedRow { removing: true, since_unix_s }.to_bytes();
        for category in [CHANGE, SNAPSHOT, QUARANTINE] {
            loop {
                let spec = ScanSpec::new(category, KeyRange::prefix(key)).limit(DELETE_STEP_ROWS);
                let rows = self.tenant.scan(spec).collect().await?;
                let mut step = Batch::new();
                step.check_equals(DELETED, key, mark.clone());
                for row in &rows {
                    step.delete(category, &row.key);
                    // A damaged row is removed all the same; what it referred to is left for `verify` to name.
                    let staged = match category {
                        CHANGE => ChangeRow::from_bytes(&row.payload).and_then(|row| row.value.staged()),
                        SNAPSHOT => {
                            crate::keys::snapshot_from_bytes(&row.payload).and_then(|row| row.staged())
                        }
                        _ => QuarantineRow::from_bytes(&row.payload).and_then(|row| row.staged()),
                    };
                    if let Some(value) = staged {
                        self.staging.discard(&mut step, value, 0);
                    }
                }
                // Relaxed: the mark stands until the last, durable step.
                if let Outcome::Refused(_) = self.tenant.apply(step, Durability::Relaxed).await? {
                    return Ok(());
                }
                if rows.len() < DELETE_STEP_ROWS {
                    break;
                }
            }
        }
        // Discarded at time 0, so that this takes them and leaves what others may still be reading.
        self.staging.sweep(Sweep::Before { discarded_ms: 1, writing_ms: 0 }).await?;
        let mut last = Batch::new();
        last.check_equals(DELETED, key, mark).delete_prefix(PEER, key).put(
            DELETED,
            key,
            DeletedRow { removing: false, since_unix_s }.to_bytes(),
        );
        self.tenant.apply(last, Durability::Durable).await?;
        Ok(())
    }
}

/// What is said of a document that was deleted.
pub(crate) fn deleted(document: DocumentId) -> Error {
    let message = format!("{document:?} was deleted here and is not brought back; nothing was stored");
    Error::new(ErrorKind::InvalidArgument, message)
}
