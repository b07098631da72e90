//! What memory has and the store has not: under `BestEffort` what failed, merged with what came later, the latest word on a row winning.

use std::collections::BTreeMap;

use seabed_sds_core::{Change, Changes, Channel, Key};

use crate::contract::ChannelBatch;
use crate::limits::UNSAVED_ROWS_MAX;

#[derive(Debug, Default)]
pub(crate) struct Unsaved {
    changes: Vec<Change>,
    /// Too much to keep: only the whole channel will do.
    everything: bool,
}

impl Unsaved {
    /// Only the whole channel will do from now on.
    pub(crate) fn everything() -> Self {
        Self { changes: Vec::new(), everything: true }
    }

    /// What is left of a batch that failed.
    pub(crate) fn of(batch: &ChannelBatch) -> Self {
        if batch.replaces || batch.changes.len() > UNSAVED_ROWS_MAX {
            return Self::everything();
        }
        Self { changes: batch.changes.clone(), everything: false }
    }

    /// What the next commit writes, now that this has changed as well; none when there is nothing to write.
    pub(crate) fn with(self, changes: Changes, channel: &Channel) -> Option<ChannelBatch> {
        let (replaces, changes): (bool, Vec<Change>) = if self.everything {
            (true, channel.records().map(Change::Put).collect())
        } else if self.changes.is_empty() {
            (false, changes.into_iter().collect())
        } else {
            let mut merged: BTreeMap<Key, Change> = BTreeMap::new();
            for change in self.changes.into_iter().chain(changes) {
                merged.insert(key(&change), change);
            }
            (false, merged.into_values().collect())
        };
        let nothing = changes.is_empty() && !replaces;
        (!nothing).then(|| ChannelBatch { replaces, changes, ..ChannelBatch::default() })
    }
}

fn key(change: &Change) -> Key {
    match change {
        Change::Put(record) => record.key(),
        Change::Delete(key) => key.clone(),
    }
}
