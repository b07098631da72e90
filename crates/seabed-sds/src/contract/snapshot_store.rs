//! A backend of contract (B) as a store: each batch becomes at most one snapshot and one history update.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use seabed_sds_core::snapshot::HistoryUpdate;
use seabed_sds_core::{Change, ChannelId, Config, Key, Message, MessageId, ParticipantId, Record};

use super::mirror::{Mirror, Mirrors};
use super::snapshot::SnapshotPersistence;
use super::store::{ChannelBatch, ChannelStore, StoreResult};
use crate::Clock;

/// A [`SnapshotPersistence`] plugged in as a [`ChannelStore`].
///
/// It mirrors the channels that were loaded, because each snapshot is of the whole state. A history update that failed comes again with the
/// next batch: the manager keeps what could not be committed, the latest word on an id winning (sds.md section 22.4).
pub struct SnapshotStore {
    backend: Arc<dyn SnapshotPersistence>,
    mirrors: Mirrors,
}

impl SnapshotStore {
    /// The backend as a store, for a manager of this participant and configuration: they decide what is made of a loaded snapshot.
    pub fn new(backend: Arc<dyn SnapshotPersistence>, participant: ParticipantId, config: Config) -> Self {
        Self { backend, mirrors: Mirrors::new(participant, config) }
    }

    /// The clock of the manager, by default the system's: from its time on is missed what the backend cannot say since when.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { mirrors: self.mirrors.with_clock(clock), ..self }
    }
}

#[async_trait]
impl ChannelStore for SnapshotStore {
    async fn commit(&self, channel: &ChannelId, batch: &ChannelBatch) -> StoreResult<()> {
        for (message, hint) in &batch.hints {
            if let Err(error) = self.backend.set_retrieval_hint(message, hint).await {
                tracing::warn!(%channel, %message, %error, "a retrieval hint was not stored");
            }
        }
        let before = self.mirrors.get(channel);
        let changes = before.changes(batch);
        let mut after = Mirror::clone(&before);
        after.apply(&changes);
        let saved = self.backend.save_channel_meta(channel, &after.meta()).await;
        // A snapshot that was not saved does not keep the history from its place: the next one is complete.
        let update = history_update(&before, &changes);
        let updated = if update.append.is_empty() && update.evict.is_empty() {
            Ok(())
        } else {
            self.backend.update_history(channel, &update).await
        };
        saved.and(updated)?;
        // Not before: what failed comes again, and is then held against what the backend has for certain.
        self.mirrors.put(channel, after);
        Ok(())
    }

    async fn load(&self, channel: &ChannelId) -> StoreResult<Vec<Record>> {
        let data = self.backend.load_channel(channel).await?;
        self.mirrors.load(channel, data)
    }

    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        self.backend.drop_channel(channel).await?;
        self.mirrors.forget(channel);
        Ok(())
    }

    async fn list(&self) -> StoreResult<Vec<ChannelId>> {
        Ok(self.mirrors.ids())
    }

    fn forget(&self, channel: &ChannelId) {
        self.mirrors.forget(channel);
    }
}

/// What came into the log, in the order of the log, and what left it. A hint that became known is neither.
fn history_update(before: &Mirror, changes: &[Change]) -> HistoryUpdate {
    let mut appended = Vec::new();
    let mut update = HistoryUpdate::default();
    for change in changes {
        match change {
            Change::Put(Record::Log(entry)) => {
                let known = before.logged(&entry.message.message_id);
                if known.is_none_or(|known| known.message != entry.message) {
                    appended.push(entry);
                }
            }
            Change::Delete(Key::Log(_, id)) => update.evict.push(id.clone()),
            _ => {}
        }
    }
    // What failed may have left one place of the log before the same message came into another.
    let put: BTreeSet<&MessageId> = changes.iter().filter_map(logged).collect();
    update.evict.retain(|id| !put.contains(id));
    appended.sort_by_key(|entry| (entry.position, &entry.message.message_id));
    update.append = appended.into_iter().map(|entry| Message::clone(&entry.message)).collect();
    update
}

fn logged(change: &Change) -> Option<&MessageId> {
    match change {
        Change::Put(Record::Log(entry)) => Some(&entry.message.message_id),
        _ => None,
    }
}

impl fmt::Debug for SnapshotStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotStore").field("channels", &self.mirrors.ids().len()).finish_non_exhaustive()
    }
}
