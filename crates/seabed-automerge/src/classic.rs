//! The classic operations over single values, one batch each.

use std::collections::BTreeSet;

use seabed_kv::{Batch, Durability};

use crate::append::{New, Written, put_row};
use crate::compact::Replace;
use crate::error::{Result, damaged};
use crate::keys::{Address, CHANGE, ChangeRow, SNAPSHOT, Stored, document_key, numbered_key};
use crate::limits::COMMIT_INLINE_BYTES_MAX;
use crate::meta::Meta;
use crate::{DocStore, DocumentId, chunks};

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
        let mut writers = Vec::new();
        for (number, (address, bytes)) in values.others.into_iter().enumerate() {
            meta.changes = meta.changes.saturating_add(1);
            meta.change_bytes = meta.change_bytes.saturating_add(bytes.len() as u64);
            let value = if bytes.len() > COMMIT_INLINE_BYTES_MAX {
                // Each under an id of its own, made from the one that came along.
                let id = (u128::from_be_bytes(new.staged_id) ^ (number as u128 + 1)).to_be_bytes();
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
        let written = shard.replace_meta(document, expected, meta, batch, durability).await?;
        // What was not attached is given up now.
        drop((writer, writers));
        Ok(written)
    }

    /// Takes the changes of these addresses out of their rows.
    pub(crate) async fn remove_values(
        &self,
        document: DocumentId,
        expected: Option<&Meta>,
        rows: Vec<(u64, BTreeSet<Address>)>,
        new: New,
        durability: Durability,
    ) -> Result<Written> {
        let shard = self.shard(document);
        let mut meta = begin(expected, new.now_unix_ms);
        meta.generation = meta.generation.saturating_add(1);
        let mut batch = Batch::new();
        for (number, gone) in rows {
            let key = numbered_key(document, number);
            let Some(payload) = shard.tenant.get(CHANGE, key).await? else { continue };
            let row = ChangeRow::from_bytes(&payload).ok_or_else(|| damaged(&shard.tenant, CHANGE, &key))?;
            let odd = u64::from(!row.is_plain());
            let staged = row.value.staged();
            let bytes = row.value.bytes();
            let mut left = Vec::new();
            let mut removed = 1;
            if let Some(address) = &row.address {
                if !gone.contains(address) {
                    continue;
                }
            } else {
                removed = 0;
                for chunk in chunks::sift(&shard.read(row.value).await?).whole {
                    let change = chunk.change();
                    let goes = change.is_some_and(|change| {
                        let actor = change.actor_id().to_bytes().to_vec();
                        gone.contains(&Address { actor, seq: change.seq() })
                    });
                    if goes {
                        removed += 1;
                    } else {
                        left.extend_from_slice(chunk.bytes);
                    }
                }
                if removed == 0 {
                    continue;
                }
            }
            meta.changes = meta.changes.saturating_sub(removed);
            meta.change_bytes = meta.change_bytes.saturating_sub(bytes).saturating_add(left.len() as u64);
            meta.odd_rows = meta.odd_rows.saturating_sub(odd);
            if let Some(value) = staged {
                shard.staging.discard(&mut batch, value, new.now_unix_ms);
            }
            if left.is_empty() {
                meta.rows = meta.rows.saturating_sub(1);
                batch.delete(CHANGE, key);
            } else {
                // Of a staged row as much may be left as one batch takes; more is refused by the kernel's own limit.
                let row = ChangeRow { address: None, value: Stored::Inline(left) };
                batch.put(CHANGE, key, row.to_bytes());
            }
        }
        shard.replace_meta(document, expected, meta, batch, durability).await
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

/// The state that a write begins with.
fn begin(expected: Option<&Meta>, now_unix_ms: u64) -> Meta {
    let now_unix_s = now_unix_ms / 1_000;
    Meta { written_unix_s: now_unix_s, ..expected.cloned().unwrap_or_else(|| Meta::new(now_unix_s)) }
}
