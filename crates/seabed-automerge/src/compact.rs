//! Compaction: changes and snapshots become one snapshot, in one batch.

use seabed_kv::{Batch, Durability, KeyRange, ScanSpec};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::append::{Appended, New, Written, another_id};
use crate::error::{Error, ErrorKind, Result, busy, too_large};
use crate::held::{Saved, delete_rows_but};
use crate::keys::{SNAPSHOT, Stored, document_key, snapshot_from_bytes, snapshot_key, snapshot_to_bytes};
use crate::limits::{ATTEMPTS_MAX, COMPACT_BYTES_MIN, COMPACT_CHANGES, DOCUMENT_BYTES_MAX};
use crate::meta::Meta;
use crate::shard::Shard;
use crate::{DocStore, DocumentId, StoredSizes, salvage};

/// A snapshot that is to take the place of everything that is stored.
#[derive(Debug, Clone, Default)]
pub struct Replace {
    /// The document as `automerge::Automerge::save` writes it, with its orphans. It should contain everything up to the expected
    /// [`Meta`], and must contain no change that is not to be stored, but for orphans.
    pub snapshot: Vec<u8>,
    /// Peers whose states are to be forgotten.
    pub old_peers: Vec<Vec<u8>>,
    /// The time, in milliseconds since 1970.
    pub now_unix_ms: u64,
    /// Sixteen fresh random bytes, for a snapshot that is too large for a row.
    pub staged_id: [u8; 16],
}

/// How a document is compacted.
///
/// ```
/// use seabed_automerge::CompactOptions;
///
/// let careful = CompactOptions { verify: true, ..CompactOptions::default() };
/// assert!(!careful.force && !careful.dry_run);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactOptions {
    /// Also when it is not worth it.
    pub force: bool,
    /// Load the snapshot once more before anything is removed, and compare.
    pub verify: bool,
    /// Only tell what would come of it.
    pub dry_run: bool,
}

/// What a compaction did, or would have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CompactReport {
    /// Whether the document is compacted now.
    pub compacted: bool,
    /// How many bytes of changes were stored before.
    pub change_bytes: u64,
    /// How many bytes of snapshots were stored before.
    pub snapshot_bytes: u64,
    /// How many bytes the new snapshot takes; zero when none was made.
    pub compacted_bytes: u64,
}

impl CompactReport {
    pub(crate) fn before(sizes: StoredSizes) -> Self {
        Self { change_bytes: sizes.changes as u64, snapshot_bytes: sizes.document as u64, ..Self::default() }
    }
}

impl StoredSizes {
    /// Whether compacting is worth it: the changes take as much as the snapshot, and at least
    /// [`COMPACT_BYTES_MIN`]. What is written over a document's life stays below a few times its changes that way.
    ///
    /// ```
    /// use seabed_automerge::StoredSizes;
    ///
    /// let sizes = |changes, document| StoredSizes { changes, document, sync_states: 0 };
    /// assert!(sizes(16 * 1024, 0).compaction_is_due());
    /// assert!(!sizes(20_000, 30_000).compaction_is_due());
    /// ```
    pub fn compaction_is_due(&self) -> bool {
        self.changes as u64 >= COMPACT_BYTES_MIN.max(self.document as u64)
    }
}

impl Meta {
    /// Whether compacting is worth it: [by size](StoredSizes::compaction_is_due), or because there are more than
    /// [`COMPACT_CHANGES`] single changes to load. Best done when the document has been quiet for a while, and never because it was opened.
    pub fn compaction_is_due(&self) -> bool {
        self.sizes().compaction_is_due() || self.changes > COMPACT_CHANGES
    }
}

/// Whether a snapshot loads, and has the heads that it should have.
pub(crate) fn verify_snapshot(snapshot: &[u8], heads: &[automerge::ChangeHash]) -> Result<()> {
    let wrong = |why: &str| {
        let message = format!("the new snapshot {why}; nothing was removed, report this");
        Error::new(ErrorKind::Corrupt, message)
    };
    let loaded = salvage::load(snapshot).map_err(|error| wrong(&format!("does not load ({error})")))?;
    if loaded.get_heads() == heads { Ok(()) } else { Err(wrong("is of another state of the document")) }
}

impl DocStore {
    /// Puts one snapshot in the place of all snapshots and changes, in one durable batch, on condition that the document is as `expected`
    /// says. A stored change that the snapshot does not hold stays where it is, and one that waits in it for others and was never stored
    /// is left out. What was stored under an [address](crate::Persister::insert_changes) without being a change stays. May be dropped at
    /// any await.
    ///
    /// # Errors
    /// `InvalidArgument` beyond a [limit](crate::limits), and for a snapshot that is none; those of the store; `Corrupt` for a damaged row: [`recover`](Self::recover) first.
    pub async fn replace<E>(
        &self,
        document: DocumentId,
        expected: &Meta,
        replace: Replace,
        effects: E,
    ) -> Result<Appended<E>> {
        Ok(self.write_snapshot(document, expected, replace).await?.durable(effects))
    }

    pub(crate) async fn write_snapshot(
        &self,
        document: DocumentId,
        expected: &Meta,
        replace: Replace,
    ) -> Result<Written> {
        let shard = self.shard(document);
        let (key, bytes) = (document_key(document), replace.snapshot.len() as u64);
        if bytes > DOCUMENT_BYTES_MAX {
            return Err(too_large(&shard.tenant, bytes));
        }
        let saved = Saved::read(&replace.snapshot).map_err(|error| error.in_tenant(shard.tenant.id()))?;
        let single = shard.single(document, expected.snapshots > 0).await?;
        let missing = saved.missing(&single).map_err(|error| error.in_tenant(shard.tenant.id()))?;
        if !missing.is_empty() {
            let changes = missing.len();
            tracing::warn!(?document, tenant = %shard.tenant.id(), changes, "a snapshot lacks stored changes, which stay beside it");
        }
        let snapshot = saved.without_strangers(&single);
        let mut batch = Batch::new();
        let mut meta = Meta {
            generation: expected.generation.saturating_add(1),
            written_unix_s: replace.now_unix_ms / 1_000,
            ..expected.clone().emptied()
        };
        shard.discard_snapshots(document, replace.now_unix_ms, &mut batch).await?;
        batch.delete_prefix(SNAPSHOT, key);
        let staying = single.rows_that_stay(&missing);
        for row in &staying {
            meta.rows += 1;
            meta.odd_rows += u64::from(!row.plain);
            meta.changes += row.changes();
            meta.change_bytes = meta.change_bytes.saturating_add(row.bytes);
        }
        let kept: Vec<_> = staying.iter().map(|row| row.number).collect();
        delete_rows_but(document, &kept, expected.next, &mut batch);
        for row in single.rows.iter().filter(|row| kept.binary_search(&row.number).is_err()) {
            if let Some(value) = row.staged {
                shard.staging.discard(&mut batch, value, replace.now_unix_ms);
            }
        }
        let new = New { now_unix_ms: replace.now_unix_ms, staged_id: another_id(replace.staged_id, 1) };
        let loose = single.loose_that_stay(&missing);
        let changes = shard.put_changes(document, loose.into_iter(), &new, &mut meta, &mut batch).await?;
        let replace = Replace { snapshot, ..replace };
        let writer = shard.put_snapshot(document, &replace, &mut meta, &mut batch).await?;
        shard.delete_peers(document, &replace.old_peers, &mut meta, &mut batch).await?;
        let written = shard.replace_meta(document, Some(expected), meta, batch, Durability::Durable).await?;
        drop((writer, changes));
        Ok(written)
    }

    /// Compacts a document that nobody has in memory: loads it, and stores it as one snapshot. What of it cannot be read is put into
    /// quarantine first. Answers `None` when there is no such document.
    ///
    /// # Errors
    /// Those of the store; `Busy` when others wrote it each of [`ATTEMPTS_MAX`] times; `Corrupt` when the snapshot does
    /// not verify.
    pub async fn compact(
        &self,
        document: DocumentId,
        options: CompactOptions,
        now_unix_ms: u64,
        mut staged_id: impl FnMut() -> [u8; 16],
    ) -> Result<Option<CompactReport>> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(meta) = self.meta(document).await? else { return Ok(None) };
            let mut report = CompactReport::before(meta.sizes());
            if !(options.force || meta.compaction_is_due()) {
                return Ok(Some(report));
            }
            let Some((meta, loaded)) = self.load_whole(document, options.dry_run, now_unix_ms).await? else {
                return Ok(None);
            };
            let snapshot = crate::chunks::guarded(|| loaded.save())
                .map_err(|panic| Error::new(ErrorKind::Corrupt, format!("automerge panicked: {panic}")))?;
            if options.verify {
                verify_snapshot(&snapshot, &loaded.get_heads())?;
            }
            report.compacted_bytes = snapshot.len() as u64;
            if options.dry_run {
                return Ok(Some(report));
            }
            let replace = Replace { snapshot, old_peers: Vec::new(), now_unix_ms, staged_id: staged_id() };
            match self.write_snapshot(document, &meta, replace).await? {
                Written::Applied(_) => return Ok(Some(CompactReport { compacted: true, ..report })),
                Written::Behind => {}
                Written::Deleted => return Ok(None),
            }
        }
        Err(busy(
            &self.shard(document).tenant,
            "the document is being written by too many at once; ask again",
        ))
    }

    /// The document as automerge has it. With `look` alone nothing is written, and what does not read is left out.
    async fn load_whole(
        &self,
        document: DocumentId,
        look: bool,
        now_unix_ms: u64,
    ) -> Result<Option<(Meta, automerge::Automerge)>> {
        match self.load(document).await {
            Ok(None) => return Ok(None),
            Ok(Some(loaded)) => {
                if let Ok(whole) = salvage::load(&loaded.bytes) {
                    return Ok(Some((loaded.meta, whole)));
                }
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(error),
        }
        if look {
            let pieces = self.pieces(document).await?;
            return Ok(pieces.map(|(meta, pieces)| (meta, salvage::salvage(&pieces).document)));
        }
        Ok(self.recover(document, now_unix_ms).await?.map(|recovered| (recovered.meta, recovered.document)))
    }
}

impl Shard {
    /// Lets a sweep remove what the document's snapshots take beyond their rows.
    pub(crate) async fn discard_snapshots(
        &self,
        document: DocumentId,
        now_unix_ms: u64,
        batch: &mut Batch,
    ) -> Result<()> {
        let range = KeyRange::prefix(document_key(document));
        let mut rows = self.tenant.scan(ScanSpec::new(SNAPSHOT, range));
        while let Some(row) = rows.next().await {
            if let Some(value) = snapshot_from_bytes(&row?.payload).and_then(|stored| stored.staged()) {
                self.staging.discard(batch, value, now_unix_ms);
            }
        }
        Ok(())
    }

    /// Whether this very snapshot is there.
    pub(crate) async fn has_snapshot(&self, document: DocumentId, snapshot: &[u8]) -> Result<bool> {
        self.tenant.exists(SNAPSHOT, snapshot_key(document, Sha256::digest(snapshot).into())).await
    }

    pub(crate) async fn put_snapshot(
        &self,
        document: DocumentId,
        replace: &Replace,
        meta: &mut Meta,
        batch: &mut Batch,
    ) -> Result<Option<seabed_kv::staged::StagedWriter>> {
        let snapshot = &replace.snapshot;
        let key = snapshot_key(document, Sha256::digest(snapshot).into());
        meta.snapshots = meta.snapshots.saturating_add(1);
        meta.snapshot_bytes = meta.snapshot_bytes.saturating_add(snapshot.len() as u64);
        if snapshot.len() <= self.inline_max() {
            batch.put(SNAPSHOT, key, snapshot_to_bytes(&Stored::Inline(snapshot.clone())));
            return Ok(None);
        }
        let mut writer = self.staging.writer(replace.staged_id, replace.now_unix_ms);
        writer.write(snapshot).await?;
        batch.put(SNAPSHOT, key, snapshot_to_bytes(&Stored::Staged(writer.finish().await?)));
        writer.attach(batch);
        Ok(Some(writer))
    }
}
