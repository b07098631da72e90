//! Recovery: what cannot be read of a document goes into quarantine, never away.

use automerge::Automerge;
use seabed_kv::staged::StagedWriter;
use seabed_kv::{Batch, Durability};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::append::Written;
use crate::error::{Result, busy};
use crate::keys::{
    CHANGE, ChangeRow, PEER, QUARANTINE, QuarantineRow, SNAPSHOT, Stored, document_key, numbered_key,
    snapshot_key, snapshot_to_bytes,
};
use crate::limits::{ATTEMPTS_MAX, COMMIT_INLINE_BYTES_MAX};
use crate::meta::Meta;
use crate::salvage::{Damaged, Piece, Salvaged, change_count, salvage};
use crate::shard::Shard;
use crate::{DocStore, DocumentId};

/// How many bytes of rows one batch moves.
const STEP_BYTES: usize = 2 * 1024 * 1024;

/// How many rows one batch moves.
const STEP_ROWS: usize = 4_096;

/// A document of which something was damaged, as far as it could be read.
#[derive(Debug)]
pub struct Recovered {
    /// Its state now.
    pub meta: Meta,
    /// What there is of it. Changes that rest on damaged ones wait in it until those come from a peer.
    pub document: Automerge,
    /// What is in quarantine now; empty when all was well.
    pub damaged: Vec<Damaged>,
}

impl DocStore {
    /// Loads a document that does not load otherwise: rows that cannot be read are moved into quarantine, with why, in durable batches.
    /// Of a damaged row the chunks that are whole stay. With the first of them all sync states go: peers must send again what they
    /// believe to be here. `None` when there is no such document. May be dropped at any await.
    ///
    /// # Errors
    /// Those of the store, and `Corrupt` when the document's own row is damaged: restore from a backup; `Busy` when others wrote the
    /// document each of [`ATTEMPTS_MAX`] times.
    pub async fn recover(&self, document: DocumentId, now_unix_ms: u64) -> Result<Option<Recovered>> {
        let shard = self.shard(document);
        let (mut attempts, mut all) = (0, Vec::new());
        while attempts < ATTEMPTS_MAX {
            let Some((meta, pieces)) = self.pieces(document).await? else { return Ok(None) };
            let Salvaged { document: salvaged, damaged } = salvage(&pieces);
            if damaged.is_empty() {
                return Ok(Some(Recovered { meta, document: salvaged, damaged: all }));
            }
            let step = step(damaged);
            let (next, batch, writers) =
                shard.quarantine(document, &meta, &pieces, &step, now_unix_ms).await?;
            let written = shard.replace_meta(document, Some(&meta), next, batch, Durability::Durable).await?;
            drop(writers);
            match written {
                Written::Applied(_) => {
                    for damaged in &step {
                        let bytes = damaged.piece.payload.len();
                        tracing::error!(?document, tenant = %shard.tenant.id(), bytes, reason = damaged.reason(), "moved into quarantine");
                    }
                    all.extend(step);
                }
                Written::Behind => attempts += 1,
                Written::Deleted => return Ok(None),
            }
        }
        Err(busy(&shard.tenant, "the document is being written by too many at once; ask again"))
    }
}

/// As much as one batch moves.
fn step(damaged: Vec<Damaged>) -> Vec<Damaged> {
    let mut bytes = 0;
    let mut step = Vec::new();
    for damaged in damaged.into_iter().take(STEP_ROWS) {
        bytes += damaged.piece.payload.len() + damaged.whole.len();
        if bytes > STEP_BYTES && !step.is_empty() {
            break;
        }
        step.push(damaged);
    }
    step
}

impl Shard {
    /// The batch that moves these rows, the counters of what is left, and what writes values of that which are too large for the batch.
    async fn quarantine(
        &self,
        document: DocumentId,
        meta: &Meta,
        pieces: &[Piece],
        damaged: &[Damaged],
        now_unix_ms: u64,
    ) -> Result<(Meta, Batch, Vec<StagedWriter>)> {
        let (mut batch, mut writers) = (Batch::new(), Vec::new());
        let mut next = Meta {
            generation: meta.generation.saturating_add(1),
            written_unix_s: now_unix_ms / 1_000,
            ..meta.clone().emptied()
        };
        for Damaged { piece, whole, reason } in damaged {
            put_quarantined(
                document,
                piece.snapshot,
                &piece.key,
                &piece.payload,
                reason,
                &mut next,
                &mut batch,
            );
            let category = if piece.snapshot { SNAPSHOT } else { CHANGE };
            batch.delete(category, &piece.key);
            if whole.is_empty() {
                continue;
            }
            let value = if whole.len() > COMMIT_INLINE_BYTES_MAX {
                let mut writer = self.staging.writer(Uuid::new_v4().into_bytes(), now_unix_ms);
                writer.write(whole).await?;
                let value = Stored::Staged(writer.finish().await?);
                writer.attach(&mut batch);
                writers.push(writer);
                value
            } else {
                Stored::Inline(whole.clone())
            };
            if piece.snapshot {
                let key = snapshot_key(document, Sha256::digest(whole).into());
                batch.put(SNAPSHOT, key, snapshot_to_bytes(&value));
            } else {
                batch.put(CHANGE, &piece.key, ChangeRow { address: None, value }.to_bytes());
            }
        }
        forget_all_peers(document, &mut next, &mut batch);
        for piece in pieces {
            let moved = damaged.iter().find(|damaged| damaged.piece == *piece);
            let whole = match moved {
                Some(damaged) if damaged.whole.is_empty() => continue,
                Some(damaged) => &damaged.whole,
                // Not readable, and not moved by this batch.
                None => piece.bytes.as_ref().map_or(&piece.payload, |bytes| bytes),
            };
            let bytes = whole.len() as u64;
            if piece.snapshot {
                next.snapshots += 1;
                next.snapshot_bytes += bytes;
            } else {
                let plain = match moved {
                    Some(_) => whole.len() <= COMMIT_INLINE_BYTES_MAX,
                    None => ChangeRow::from_bytes(&piece.payload).is_some_and(|row| row.is_plain()),
                };
                next.rows += 1;
                next.odd_rows += u64::from(!plain);
                next.changes += if piece.addressed { 1 } else { change_count(whole) };
                next.change_bytes += bytes;
            }
        }
        Ok((next, batch, writers))
    }
}

/// With damage all sync states go: a peer whose state says that we have what was damaged would never send it again.
pub(crate) fn forget_all_peers(document: DocumentId, meta: &mut Meta, batch: &mut Batch) {
    (meta.peers, meta.peer_bytes) = (0, 0);
    batch.delete_prefix(PEER, document_key(document));
}

/// Puts a row that cannot be read, as it is, where nothing removes it but the deletion of its document.
pub(crate) fn put_quarantined(
    document: DocumentId,
    snapshot: bool,
    key: &[u8],
    payload: &[u8],
    reason: &str,
    meta: &mut Meta,
    batch: &mut Batch,
) {
    let row = QuarantineRow {
        since_unix_s: meta.written_unix_s,
        snapshot,
        key: key.to_vec(),
        reason: reason.to_owned(),
        payload: payload.to_vec(),
    };
    batch.put(QUARANTINE, numbered_key(document, meta.quarantined), row.to_bytes());
    meta.quarantined = meta.quarantined.saturating_add(1);
}
