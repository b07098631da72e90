//! Writing: one batch a commit, conditional on what was seen.

use automerge::Change;
use seabed_kv::staged::StagedWriter;
use seabed_kv::{Batch, Durability, Outcome};

use crate::committed::Committed;
use crate::error::{Result, invalid, too_large};
use crate::keys::{
    CHANGE, ChangeRow, DELETED, DOCUMENT, PEER, PeerRow, Stored, document_key, numbered_key, peer_key,
};
use crate::limits::{COMMIT_INLINE_BYTES_MAX, COMMIT_PEERS_MAX, DOCUMENT_BYTES_MAX, PEER_BYTES_MAX};
use crate::meta::Meta;
use crate::shard::Shard;
use crate::{DocStore, DocumentId};

/// What one commit stores of a document: changes, and the states of synchronisation that they make true.
#[derive(Debug, Clone, Default)]
pub struct Append {
    /// In causal order, as automerge gives them. Not stored before, and of no (actor, sequence number) that was: a document that has
    /// taken them, and everything up to the expected [`Meta`], has seen to that.
    pub changes: Vec<Change>,
    /// Peers and their encoded states (`automerge::sync::State::encode`). Those that are stored already cost a read.
    pub sync_states: Vec<(Vec<u8>, Vec<u8>)>,
    /// The time, in milliseconds since 1970.
    pub now_unix_ms: u64,
    /// Sixteen fresh random bytes, for changes of more than [`COMMIT_INLINE_BYTES_MAX`] together.
    pub staged_id: [u8; 16],
}

/// What a write brings with it from outside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct New {
    pub(crate) now_unix_ms: u64,
    pub(crate) staged_id: [u8; 16],
}

/// What became of a commit or a compaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended<E> {
    /// It is stored and durable, and what rests on it may leave.
    Applied {
        /// What to expect when writing next.
        meta: Meta,
        /// What may be told now.
        effects: Committed<E>,
    },
    /// Others have written meanwhile, and nothing was stored: take what they wrote ([`DocStore::since`]) into the document, and try again.
    Behind {
        /// What was to be told.
        effects: E,
    },
    /// The document was deleted, and stays so.
    Deleted,
}

/// The same within this crate, at either durability.
#[derive(Debug)]
pub(crate) enum Written {
    Applied(Meta),
    Behind,
    Deleted,
}

impl Written {
    /// Of a batch that was Durable.
    pub(crate) fn durable<E>(self, effects: E) -> Appended<E> {
        match self {
            Self::Applied(meta) => Appended::Applied { meta, effects: Committed::durable(effects) },
            Self::Behind => Appended::Behind { effects },
            Self::Deleted => Appended::Deleted,
        }
    }
}

impl DocStore {
    /// Stores changes and sync states in one durable batch, on condition that the document is as `expected` says: `None` creates it. Then,
    /// and not before, `effects` are handed over to be told to others. Costs one batch as large as the changes, whatever the document.
    /// May be dropped at any await: the batch is then applied or not.
    ///
    /// # Errors
    /// `InvalidArgument` beyond a [limit](crate::limits); those of the store. After an error whose outcome is
    /// [unknown](seabed_kv::Applied::Unknown) read the document again.
    pub async fn append<E>(
        &self,
        document: DocumentId,
        expected: Option<&Meta>,
        append: Append,
        effects: E,
    ) -> Result<Appended<E>> {
        let written = self.write(document, expected, append, Durability::Durable).await?;
        Ok(written.durable(effects))
    }

    pub(crate) async fn write(
        &self,
        document: DocumentId,
        expected: Option<&Meta>,
        append: Append,
        durability: Durability,
    ) -> Result<Written> {
        let shard = self.shard(document);
        let now_unix_s = append.now_unix_ms / 1_000;
        let mut meta = expected.cloned().unwrap_or_else(|| Meta::new(now_unix_s));
        meta.written_unix_s = now_unix_s;
        let mut batch = Batch::new();
        let new = New { now_unix_ms: append.now_unix_ms, staged_id: append.staged_id };
        let changes = append.changes.iter().map(Change::raw_bytes);
        let writer = shard.put_changes(document, changes, &new, &mut meta, &mut batch).await?;
        shard.check_size(&meta)?;
        shard.put_peers(document, &append.sync_states, &mut meta, &mut batch).await?;
        let written = shard.replace_meta(document, expected, meta, batch, durability).await?;
        // Unless it was attached, its chunks are given up now.
        drop(writer);
        Ok(written)
    }
}

/// A further id for a further staged value of one write, made from the one that came along.
pub(crate) fn another_id(id: [u8; 16], number: u128) -> [u8; 16] {
    (u128::from_be_bytes(id) ^ number).to_be_bytes()
}

impl Shard {
    /// A document that is larger could not be loaded.
    pub(crate) fn check_size(&self, meta: &Meta) -> Result<()> {
        let stored = meta.change_bytes.saturating_add(meta.snapshot_bytes);
        if stored > DOCUMENT_BYTES_MAX { Err(too_large(&self.tenant, stored)) } else { Ok(()) }
    }

    /// Applies what a batch does to a document's rows, on condition that the document is the one that was read.
    pub(crate) async fn replace_meta(
        &self,
        document: DocumentId,
        expected: Option<&Meta>,
        meta: Meta,
        mut batch: Batch,
        durability: Durability,
    ) -> Result<Written> {
        let key = document_key(document);
        match expected {
            Some(expected) => batch.check_equals(DOCUMENT, key, expected.to_bytes()),
            None => batch.check_absent(DOCUMENT, key).check_absent(DELETED, key),
        };
        batch.put(DOCUMENT, key, meta.to_bytes());
        match self.tenant.apply(batch, durability).await? {
            Outcome::Applied(_) => Ok(Written::Applied(meta)),
            Outcome::Refused(_) if self.tenant.exists(DELETED, key).await? => Ok(Written::Deleted),
            Outcome::Refused(_) => Ok(Written::Behind),
        }
    }

    /// As many changes a row as lie beside its key; a large commit as one staged value.
    pub(crate) async fn put_changes<'a>(
        &self,
        document: DocumentId,
        changes: impl Iterator<Item = &'a [u8]> + Clone,
        new: &New,
        meta: &mut Meta,
        batch: &mut Batch,
    ) -> Result<Option<StagedWriter>> {
        let bytes: usize = changes.clone().map(<[u8]>::len).sum();
        meta.changes = meta.changes.saturating_add(changes.clone().count() as u64);
        meta.change_bytes = meta.change_bytes.saturating_add(bytes as u64);
        if bytes > COMMIT_INLINE_BYTES_MAX {
            let mut writer = self.staging.writer(new.staged_id, new.now_unix_ms);
            for change in changes {
                writer.write(change).await?;
            }
            let value = Stored::Staged(writer.finish().await?);
            put_row(document, &ChangeRow { address: None, value }, meta, batch);
            writer.attach(batch);
            return Ok(Some(writer));
        }
        let mut row = Vec::new();
        let mut end_row = |row: &mut Vec<u8>| {
            let value = Stored::Inline(std::mem::take(row));
            put_row(document, &ChangeRow { address: None, value }, meta, batch);
        };
        for change in changes {
            if !row.is_empty() && row.len() + change.len() > self.inline_max() {
                end_row(&mut row);
            }
            row.extend_from_slice(change);
        }
        if !row.is_empty() {
            end_row(&mut row);
        }
        Ok(None)
    }

    /// Only those that are not stored already.
    async fn put_peers(
        &self,
        document: DocumentId,
        states: &[(Vec<u8>, Vec<u8>)],
        meta: &mut Meta,
        batch: &mut Batch,
    ) -> Result<()> {
        if states.len() > COMMIT_PEERS_MAX {
            return Err(invalid(format!(
                "{} sync states in one commit, more than the {COMMIT_PEERS_MAX} allowed (COMMIT_PEERS_MAX)",
                states.len()
            )));
        }
        for (peer, state) in states {
            if peer.len() > PEER_BYTES_MAX {
                return Err(invalid(format!(
                    "the peer's id has {} bytes, more than the {PEER_BYTES_MAX} allowed (PEER_BYTES_MAX)",
                    peer.len()
                )));
            }
            let key = peer_key(document, peer);
            let found = self.tenant.get(PEER, &key).await?;
            let found = found.map(|row| PeerRow::from_bytes(&row).map_or(row.len(), |row| row.state.len()));
            meta.peers = meta.peers.saturating_add(u64::from(found.is_none()));
            meta.peer_bytes =
                meta.peer_bytes.saturating_sub(found.unwrap_or(0) as u64).saturating_add(state.len() as u64);
            let row = PeerRow { written_unix_s: meta.written_unix_s, state: state.clone() };
            batch.put(PEER, key, row.to_bytes());
        }
        Ok(())
    }

    /// Takes peers' states away.
    pub(crate) async fn delete_peers(
        &self,
        document: DocumentId,
        peers: &[Vec<u8>],
        meta: &mut Meta,
        batch: &mut Batch,
    ) -> Result<()> {
        let peers: std::collections::BTreeSet<_> = peers.iter().collect();
        for peer in peers {
            let key = peer_key(document, peer);
            if let Some(row) = self.tenant.get(PEER, &key).await? {
                let bytes = PeerRow::from_bytes(&row).map_or(row.len(), |row| row.state.len());
                meta.peers = meta.peers.saturating_sub(1);
                meta.peer_bytes = meta.peer_bytes.saturating_sub(bytes as u64);
                batch.delete(PEER, key);
            }
        }
        Ok(())
    }
}

/// Puts the next row of a document's changes.
pub(crate) fn put_row(document: DocumentId, row: &ChangeRow, meta: &mut Meta, batch: &mut Batch) {
    batch.put(CHANGE, numbered_key(document, meta.next), row.to_bytes());
    meta.next = meta.next.saturating_add(1);
    meta.rows = meta.rows.saturating_add(1);
    meta.odd_rows = meta.odd_rows.saturating_add(u64::from(!row.is_plain()));
}
