//! The classic operations over single values, one batch each.

use std::collections::BTreeSet;

use seabed_kv::{Batch, Durability};

use crate::append::{New, Written, another_id, put_row};
use crate::compact::Replace;
use crate::error::{Result, damaged};
use crate::keys::{Address, CHANGE, ChangeRow, SNAPSHOT, Stored, document_key, numbered_key};
use crate::limits::COMMIT_INLINE_BYTES_MAX;
use crate::meta::Meta;
use crate::recover::{forget_all_peers, put_quarantined};
use crate::salvage::{Piece, change_count};
use crate::{DocStore, DocumentId, chunks};

/// How many writes one batch of a removal has.
const REMOVE_STEP_WRITES: usize = 4_096;

/// Values to be stored: changes that tell themselves, and other bytes under their addresses.
#[derive(Debug, Default)]
pub(crate) struct Values {
    pub(crate) changes: Vec<Vec<u8>>,
    pub(crate) others: Vec<(Address, Vec<u8>)>,
}

impl Values {
    pub(crate) fn bytes(&self) -> usize {
        self.changes.iter().chain(self.others.iter().map(|(_, bytes)| bytes)).map(Vec::len).sum()
    }
}

impl DocStore {
    pub(crate) async fn insert_values(
        &self,
        document: DocumentId,
        expected: Option<&Meta>,
        values: Values,
        new: New,
        durability: Durability,
    ) -> Result<Written> {
        let shard = self.shard(document);
        let mut meta = begin(expected, new.now_unix_ms);
        let mut batch = Batch::new();
        let changes = values.changes.iter().map(Vec::as_slice);
        let writer = shard.put_changes(document, changes, &new, &mut meta, &mut batch).await?;
        let (mut writers, mut inline_bytes) = (Vec::new(), 0_usize);
        for (number, (address, bytes)) in values.others.into_iter().enumerate() {
            meta.changes = meta.changes.saturating_add(1);
            meta.change_bytes = meta.change_bytes.saturating_add(bytes.len() as u64);
            inline_bytes = inline_bytes.saturating_add(bytes.len());
            let value = if inline_bytes > COMMIT_INLINE_BYTES_MAX {
                let id = another_id(new.staged_id, number as u128 + 1);
                let mut writer = shard.staging.writer(id, new.now_unix_ms);
                writer.write(&bytes).await?;
                let value = Stored::Staged(writer.finish().await?);
                writer.attach(&mut batch);
                writers.push(writer);
                value
            } else {
                Stored::Inline(bytes)
            };
            put_row(document, &ChangeRow { address: Some(address), value }, &mut meta, &mut batch);
        }
        shard.check_size(&meta)?;
        let written = shard.replace_meta(document, expected, meta, batch, durability).await?;
        // What was not attached is given up now.
        drop((writer, writers));
        Ok(written)
    }

    /// Takes the changes of these addresses out of their rows, of as many of those as one batch has room for; answers how many. A row that
    /// is damaged goes into quarantine as it is, and what of it is whole stays.
    pub(crate) async fn remove_values(
        &self,
        document: DocumentId,
        expected: Option<&Meta>,
        rows: &[(u64, BTreeSet<Address>)],
        new: New,
        durability: Durability,
    ) -> Result<(Written, usize)> {
        let shard = self.shard(document);
        let mut meta = begin(expected, new.now_unix_ms);
        meta.generation = meta.generation.saturating_add(1);
        let (mut batch, mut writers, mut done) = (Batch::new(), Vec::new(), 0);
        for (number, gone) in rows {
            if batch.bytes() > COMMIT_INLINE_BYTES_MAX || batch.writes().len() > REMOVE_STEP_WRITES {
                break;
            }
            let key = numbered_key(document, *number);
            let Some(payload) = shard.tenant.get(CHANGE, key).await? else {
                done += 1;
                continue;
            };
            let row = ChangeRow::from_bytes(&payload).ok_or_else(|| damaged(&shard.tenant, CHANGE, &key))?;
            let odd = u64::from(!row.is_plain());
            let (staged, bytes) = (row.value.staged(), row.value.bytes());
            let Remaining { left, removed, flaw } = match &row.address {
                Some(address) if gone.contains(address) => Remaining { removed: 1, ..Remaining::default() },
                Some(_) => Remaining::default(),
                None => remaining(&shard.read(row.value).await?, gone),
            };
            if flaw.is_some() && done > 0 {
                // Alone in a batch, because then all rows are counted again.
                break;
            }
            done += 1;
            if removed == 0 {
                continue;
            }
            meta.changes = meta.changes.saturating_sub(removed);
            meta.change_bytes = meta.change_bytes.saturating_sub(bytes).saturating_add(left.len() as u64);
            meta.odd_rows = meta.odd_rows.saturating_sub(odd);
            let alone = flaw.is_some();
            if let Some(flaw) = flaw {
                // How many changes it had does not read.
                meta.changes = self.changes_but(document, &key).await?.saturating_add(change_count(&left));
                put_quarantined(document, false, &key, &payload, &flaw, &mut meta, &mut batch);
                forget_all_peers(document, &mut meta, &mut batch);
            } else if let Some(value) = staged {
                shard.staging.discard(&mut batch, value, new.now_unix_ms);
            }
            if left.is_empty() {
                meta.rows = meta.rows.saturating_sub(1);
                batch.delete(CHANGE, key);
                if alone {
                    break;
                }
                continue;
            }
            let value = if left.len() > COMMIT_INLINE_BYTES_MAX {
                let id = another_id(new.staged_id, u128::from(*number) + 1);
                let mut writer = shard.staging.writer(id, new.now_unix_ms);
                writer.write(&left).await?;
                let value = Stored::Staged(writer.finish().await?);
                writer.attach(&mut batch);
                writers.push(writer);
                meta.odd_rows = meta.odd_rows.saturating_add(1);
                value
            } else {
                Stored::Inline(left)
            };
            batch.put(CHANGE, key, ChangeRow { address: None, value }.to_bytes());
            if alone {
                break;
            }
        }
        let written = shard.replace_meta(document, expected, meta, batch, durability).await?;
        drop(writers);
        Ok((written, done))
    }

    /// How many changes are stored one by one in all rows but that one.
    async fn changes_but(&self, document: DocumentId, key: &[u8]) -> Result<u64> {
        let pieces = self.pieces(document).await?.map(|(_, pieces)| pieces).unwrap_or_default();
        let others = pieces.iter().filter(|piece| !piece.snapshot && piece.key != key);
        let count = |piece: &Piece| match &piece.bytes {
            _ if piece.addressed => 1,
            Ok(bytes) => change_count(bytes),
            Err(_) => 0,
        };
        Ok(others.map(count).sum())
    }

    /// Stores a snapshot; with `instead` in the place of those that are there.
    pub(crate) async fn set_snapshot(
        &self,
        document: DocumentId,
        expected: Option<&Meta>,
        replace: Replace,
        instead: bool,
        durability: Durability,
    ) -> Result<Written> {
        let shard = self.shard(document);
        let mut meta = begin(expected, replace.now_unix_ms);
        meta.generation = meta.generation.saturating_add(1);
        let mut batch = Batch::new();
        if instead {
            shard.discard_snapshots(document, replace.now_unix_ms, &mut batch).await?;
            batch.delete_prefix(SNAPSHOT, document_key(document));
            (meta.snapshots, meta.snapshot_bytes) = (0, 0);
        } else if shard.has_snapshot(document, &replace.snapshot).await? {
            // The very bytes are there.
            return shard.replace_meta(document, expected, meta, batch, durability).await;
        }
        let writer = shard.put_snapshot(document, &replace, &mut meta, &mut batch).await?;
        shard.check_size(&meta)?;
        let written = shard.replace_meta(document, expected, meta, batch, durability).await?;
        drop(writer);
        Ok(written)
    }

    pub(crate) async fn forget_peers(
        &self,
        document: DocumentId,
        expected: Option<&Meta>,
        peers: Vec<Vec<u8>>,
        now_unix_ms: u64,
        durability: Durability,
    ) -> Result<Written> {
        let shard = self.shard(document);
        let mut meta = begin(expected, now_unix_ms);
        let mut batch = Batch::new();
        shard.delete_peers(document, &peers, &mut meta, &mut batch).await?;
        shard.replace_meta(document, expected, meta, batch, durability).await
    }
}

/// What a row has without some of its changes.
#[derive(Debug, Default)]
struct Remaining {
    left: Vec<u8>,
    removed: u64,
    /// What of it does not read.
    flaw: Option<String>,
}

fn remaining(bytes: &[u8], gone: &BTreeSet<Address>) -> Remaining {
    let sifted = chunks::sift(bytes);
    let mut remaining = Remaining { flaw: sifted.flaw, ..Remaining::default() };
    for chunk in sifted.whole {
        let goes = chunk.change().is_some_and(|change| {
            let actor = change.actor_id().to_bytes().to_vec();
            gone.contains(&Address { actor, seq: change.seq() })
        });
        if goes {
            remaining.removed += 1;
        } else {
            remaining.left.extend_from_slice(chunk.bytes);
        }
    }
    remaining
}

/// The state that a write begins with.
fn begin(expected: Option<&Meta>, now_unix_ms: u64) -> Meta {
    let now_unix_s = now_unix_ms / 1_000;
    Meta { written_unix_s: now_unix_s, ..expected.cloned().unwrap_or_else(|| Meta::new(now_unix_s)) }
}
