//! What a snapshot holds of what is stored: nothing is removed before that is known.
//!
//! automerge drops changes that wait for others when it refuses a second change of one of their actors, so a document in memory may have
//! lost what was stored; and it keeps such changes that nobody stored. So a snapshot is not believed to hold what is stored, and not
//! everything that it holds is stored.

use std::collections::{BTreeMap, BTreeSet};

use automerge::ChangeHash;
use seabed_kv::staged::Staged;
use seabed_kv::{Batch, KeyRange, ScanSpec};

use crate::DocumentId;
use crate::chunks::{self, Kind, guarded, sift};
use crate::error::{Result, damaged, invalid};
use crate::keys::{
    CHANGE, ChangeRow, SNAPSHOT, document_key, numbered_key, read_numbered_key, snapshot_from_bytes,
};
use crate::salvage::load;
use crate::shard::Shard;

/// What of a document is stored change by change: in rows, and loose in its snapshots.
#[derive(Debug, Default)]
pub(crate) struct Single {
    pub(crate) rows: Vec<SingleRow>,
    /// Changes that wait in snapshots for others, and their bytes.
    loose: BTreeMap<ChangeHash, Vec<u8>>,
    deps: BTreeMap<ChangeHash, Vec<ChangeHash>>,
}

/// A row of changes.
#[derive(Debug)]
pub(crate) struct SingleRow {
    pub(crate) number: u64,
    /// Which changes it has; none when it is stored under an address, and so is no part of the document.
    hashes: Vec<ChangeHash>,
    pub(crate) addressed: bool,
    pub(crate) plain: bool,
    pub(crate) bytes: u64,
    pub(crate) staged: Option<Staged>,
}

impl SingleRow {
    /// How many changes it counts for.
    pub(crate) fn changes(&self) -> u64 {
        if self.addressed { 1 } else { self.hashes.len() as u64 }
    }
}

/// A snapshot as automerge saves it: the document, and loose changes that wait for others.
#[derive(Debug)]
pub(crate) struct Saved<'a> {
    bytes: &'a [u8],
    document: Vec<u8>,
    heads: Vec<ChangeHash>,
    loose: Vec<(ChangeHash, &'a [u8])>,
}

impl<'a> Saved<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self> {
        let none = |why: &str| invalid(format!("the snapshot is no document that automerge saved: {why}"));
        let sifted = sift(bytes);
        if let Some(flaw) = sifted.flaw {
            return Err(none(&flaw));
        }
        let mut saved = Self { bytes, document: Vec::new(), heads: Vec::new(), loose: Vec::new() };
        for chunk in sifted.whole {
            if let Some(change) = chunk.change() {
                saved.loose.push((change.hash(), chunk.bytes));
                continue;
            }
            // A bundle does not say what it has: then the snapshot is loaded when that matters.
            if chunk.kind == Kind::Document {
                saved.heads.extend(chunk.heads().ok_or_else(|| none("its heads do not read"))?);
            }
            saved.document.extend_from_slice(chunk.bytes);
        }
        Ok(saved)
    }

    /// Those stored changes that it does not hold. What its heads rest on by way of stored changes it holds; only for what is not found
    /// so is it loaded, which costs as much as the document.
    pub(crate) fn missing(&self, stored: &Single) -> Result<BTreeSet<ChangeHash>> {
        let mut missing: BTreeSet<_> = stored.deps.keys().copied().collect();
        for (hash, _) in &self.loose {
            missing.remove(hash);
        }
        let mut next = self.heads.clone();
        while let Some(hash) = next.pop() {
            if missing.remove(&hash)
                && let Some(deps) = stored.deps.get(&hash)
            {
                next.extend(deps);
            }
        }
        if !missing.is_empty() {
            let loaded = load(self.bytes)
                .map_err(|why| invalid(format!("the snapshot is no document that automerge saved: {why}")))?;
            guarded(|| missing.retain(|hash| loaded.get_change_meta_by_hash(hash).is_none()))
                .map_err(|panic| invalid(format!("automerge panicked over the snapshot: {panic}")))?;
        }
        Ok(missing)
    }

    /// The snapshot without what waits in it for others and was never stored.
    pub(crate) fn without_strangers(self, stored: &Single) -> Vec<u8> {
        let mut bytes = self.document;
        for (hash, change) in self.loose {
            if stored.deps.contains_key(&hash) {
                bytes.extend_from_slice(change);
            }
        }
        bytes
    }
}

impl Single {
    /// Rows of which something is missing in a snapshot, and such as are no part of it: they stay.
    pub(crate) fn rows_that_stay(&self, missing: &BTreeSet<ChangeHash>) -> Vec<&SingleRow> {
        let stays = |row: &&SingleRow| row.addressed || row.hashes.iter().any(|hash| missing.contains(hash));
        self.rows.iter().filter(stays).collect()
    }

    /// Changes that were loose in a snapshot and are in no row, of those that are missing.
    pub(crate) fn loose_that_stay(&self, missing: &BTreeSet<ChangeHash>) -> Vec<&[u8]> {
        let in_rows: BTreeSet<_> = self.rows.iter().flat_map(|row| &row.hashes).collect();
        let stays = |(hash, _): &(&ChangeHash, &Vec<u8>)| missing.contains(hash) && !in_rows.contains(hash);
        self.loose.iter().filter(stays).map(|(_, bytes)| bytes.as_slice()).collect()
    }

    fn add(&mut self, chunk: &chunks::Chunk<'_>) -> Option<ChangeHash> {
        let change = chunk.change()?;
        self.deps.insert(change.hash(), change.deps().to_vec());
        Some(change.hash())
    }
}

impl Shard {
    /// Everything of a document that is stored change by change. Reads its rows and its snapshots once.
    pub(crate) async fn single(&self, document: DocumentId, snapshots: bool) -> Result<Single> {
        let mut single = Single::default();
        let range = KeyRange::prefix(document_key(document));
        if snapshots {
            let mut rows = self.tenant.scan(ScanSpec::new(SNAPSHOT, range.clone()));
            while let Some(row) = rows.next().await {
                let row = row?;
                let wrong = || damaged(&self.tenant, SNAPSHOT, row.key.as_bytes());
                let stored = snapshot_from_bytes(&row.payload).ok_or_else(wrong)?;
                let bytes = self.read(stored).await?;
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    // Not looked at further than that: the snapshot was loaded, and goes.
                    let chunk = chunks::take(&mut rest).ok_or_else(wrong)?;
                    if matches!(chunk.kind, Kind::Change | Kind::Compressed) {
                        let hash = single.add(&chunk).ok_or_else(wrong)?;
                        single.loose.insert(hash, chunk.bytes.to_vec());
                    }
                }
            }
        }
        let mut rows = self.tenant.scan(ScanSpec::new(CHANGE, range));
        while let Some(row) = rows.next().await {
            let row = row?;
            let wrong = || damaged(&self.tenant, CHANGE, row.key.as_bytes());
            let read = read_numbered_key(row.key.as_bytes()).zip(ChangeRow::from_bytes(&row.payload));
            let ((_, number), change_row) = read.ok_or_else(wrong)?;
            let mut single_row = SingleRow {
                number,
                hashes: Vec::new(),
                addressed: change_row.address.is_some(),
                plain: change_row.is_plain(),
                bytes: change_row.value.bytes(),
                staged: change_row.value.staged(),
            };
            if !single_row.addressed {
                let bytes = self.read(change_row.value).await?;
                let sifted = sift(&bytes);
                for chunk in &sifted.whole {
                    match chunk.kind {
                        Kind::Change | Kind::Compressed => single_row.hashes.extend(single.add(chunk)),
                        // Nobody writes them here; who did must find them.
                        Kind::Document | Kind::Bundle => return Err(wrong()),
                    }
                }
                if sifted.flaw.is_some() {
                    return Err(wrong());
                }
            }
            single.rows.push(single_row);
        }
        Ok(single)
    }
}

/// Deletes the rows of a document's changes below `end`, but those of these numbers, in ascending order. Runs of rows go by what their
/// keys have in common, so that a batch has room for any number of them.
pub(crate) fn delete_rows_but(document: DocumentId, kept: &[u64], end: u64, batch: &mut Batch) {
    if kept.is_empty() {
        batch.delete_prefix(CHANGE, document_key(document));
        return;
    }
    let mut first = 0;
    for number in kept.iter().copied().chain([end]) {
        delete_run(document, first, number, batch);
        first = number.saturating_add(1);
    }
}

fn delete_run(document: DocumentId, mut first: u64, end: u64, batch: &mut Batch) {
    while first < end {
        // The longest run of 256 to some power that begins here and ends in time.
        let fits = |bytes: &u32| {
            let run = 1_u64 << (8 * bytes);
            first.is_multiple_of(run) && end - first >= run
        };
        let bytes = (1..8).take_while(fits).last().unwrap_or(0);
        let key = numbered_key(document, first);
        let shared = key.len() - bytes as usize;
        match key.get(..shared) {
            Some(prefix) if bytes > 0 => batch.delete_prefix(CHANGE, prefix),
            _ => batch.delete(CHANGE, key),
        };
        first += 1 << (8 * bytes);
    }
}

#[cfg(test)]
mod tests {
    use seabed_kv::Write;

    use super::*;

    #[test]
    fn all_rows_but_those_that_stay_are_deleted() {
        let document = DocumentId::from_bytes([7; 16]);
        for (kept, end) in [
            (vec![0], 1),
            (vec![3], 10),
            (vec![0, 1, 2], 3),
            (vec![255, 256, 1_000], 2_000),
            (vec![70_000], 140_000),
            (vec![1, 65_536], 65_537),
        ] {
            let mut batch = Batch::new();
            delete_rows_but(document, &kept, end, &mut batch);
            let deleted = |number: u64| {
                let key = numbered_key(document, number);
                batch.writes().iter().any(|write| match write {
                    Write::Delete { key: gone, .. } => gone.as_bytes() == key,
                    Write::DeletePrefix { prefix, .. } => key.starts_with(prefix.as_bytes()),
                    Write::Put { .. } => false,
                })
            };
            let step = if end > 10_000 { 37 } else { 1 };
            for number in (0..end).step_by(step).chain(kept.iter().copied()) {
                assert_eq!(deleted(number), !kept.contains(&number), "{number} of {kept:?}");
            }
            assert!(batch.writes().len() < 2_000, "{} deletions", batch.writes().len());
        }
    }
}
