//! Implementations that keep nothing, or keep it until the process ends.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;
use seabed_sds_core::snapshot::{
    ChannelData, ChannelMeta, HistoryUpdate, IncomingMessage, IncomingRepairEntry, OutgoingRepairEntry,
    UnacknowledgedMessage,
};
use seabed_sds_core::{Change, ChannelId, Message, MessageId, Record};

use super::fine::FineGrainedPersistence;
use super::snapshot::SnapshotPersistence;
use super::store::{ChannelBatch, ChannelStore, StoreError, StoreResult};
use crate::lock::lock;

/// Accepts every write, keeps nothing, and loads an empty channel: what a manager has that was given no store.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPersistence;

#[async_trait]
impl ChannelStore for NoPersistence {
    async fn commit(&self, _: &ChannelId, _: &ChannelBatch) -> StoreResult<()> {
        Ok(())
    }

    async fn load(&self, _: &ChannelId) -> StoreResult<Vec<Record>> {
        Ok(Vec::new())
    }

    async fn drop_channel(&self, _: &ChannelId) -> StoreResult<()> {
        Ok(())
    }

    async fn list(&self) -> StoreResult<Vec<ChannelId>> {
        Ok(Vec::new())
    }
}

/// Contract (C) in memory, as the bytes that a file would hold.
#[derive(Default)]
pub struct MemoryStore(Mutex<BTreeMap<ChannelId, Rows>>);

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

#[async_trait]
impl ChannelStore for MemoryStore {
    async fn commit(&self, channel: &ChannelId, batch: &ChannelBatch) -> StoreResult<()> {
        let mut channels = lock(&self.0);
        let rows = channels.entry(channel.clone()).or_default();
        if batch.replaces {
            rows.clear();
        }
        for change in &batch.changes {
            match change {
                Change::Put(record) => rows.insert(record.key().to_bytes(), record.to_bytes()),
                Change::Delete(key) => rows.remove(&key.to_bytes()),
            };
        }
        Ok(())
    }

    async fn load(&self, channel: &ChannelId) -> StoreResult<Vec<Record>> {
        let channels = lock(&self.0);
        let rows = channels.get(channel).into_iter().flatten();
        rows.map(|(key, value)| Record::from_bytes(key, value).map_err(StoreError::from_source)).collect()
    }

    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        lock(&self.0).remove(channel);
        Ok(())
    }

    async fn list(&self) -> StoreResult<Vec<ChannelId>> {
        Ok(lock(&self.0).keys().cloned().collect())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("channels", &lock(&self.0).len()).finish()
    }
}

/// Contract (B) in memory, as the bytes that nim-sds' backends hold.
#[derive(Debug, Default)]
pub struct MemorySnapshots(Mutex<BTreeMap<ChannelId, Snapshot>>);

#[derive(Debug, Default)]
struct Snapshot {
    meta: Option<Vec<u8>>,
    /// In the order in which they came.
    history: Vec<Message>,
}

#[async_trait]
impl SnapshotPersistence for MemorySnapshots {
    async fn save_channel_meta(&self, channel: &ChannelId, meta: &ChannelMeta) -> StoreResult<()> {
        lock(&self.0).entry(channel.clone()).or_default().meta = Some(meta.encode());
        Ok(())
    }

    async fn update_history(&self, channel: &ChannelId, update: &HistoryUpdate) -> StoreResult<()> {
        let mut channels = lock(&self.0);
        let history = &mut channels.entry(channel.clone()).or_default().history;
        for message in &update.append {
            upsert(history, message);
        }
        history.retain(|message| !update.evict.contains(&message.message_id));
        Ok(())
    }

    async fn load_channel(&self, channel: &ChannelId) -> StoreResult<ChannelData> {
        let channels = lock(&self.0);
        let Some(Snapshot { meta, history }) = channels.get(channel) else {
            return Ok(ChannelData::default());
        };
        let meta = meta.as_deref().map(ChannelMeta::decode).transpose().map_err(StoreError::from_source)?;
        Ok(ChannelData { meta: meta.unwrap_or_default(), history: history.clone() })
    }

    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        lock(&self.0).remove(channel);
        Ok(())
    }
}

/// An append of what is there replaces it where it is.
fn upsert(history: &mut Vec<Message>, message: &Message) {
    match history.iter_mut().find(|there| there.message_id == message.message_id) {
        Some(there) => there.clone_from(message),
        None => history.push(message.clone()),
    }
}

/// Contract (A) in memory.
#[derive(Debug, Default)]
pub struct MemoryFineGrained(Mutex<BTreeMap<ChannelId, FineGrained>>);

#[derive(Debug, Default)]
struct FineGrained {
    lamport: u64,
    history: Vec<Message>,
    /// In the order in which they came.
    outgoing: Vec<UnacknowledgedMessage>,
    incoming: BTreeMap<MessageId, IncomingMessage>,
    outgoing_repair: BTreeMap<MessageId, OutgoingRepairEntry>,
    incoming_repair: BTreeMap<MessageId, IncomingRepairEntry>,
}

impl MemoryFineGrained {
    #[allow(clippy::unnecessary_wraps, reason = "the answer of each method of the contract")]
    fn change(&self, channel: &ChannelId, change: impl FnOnce(&mut FineGrained)) -> StoreResult<()> {
        change(lock(&self.0).entry(channel.clone()).or_default());
        Ok(())
    }
}

#[async_trait]
impl FineGrainedPersistence for MemoryFineGrained {
    async fn save_lamport(&self, channel: &ChannelId, lamport: u64) -> StoreResult<()> {
        self.change(channel, |rows| rows.lamport = lamport)
    }

    async fn append_log_entry(&self, channel: &ChannelId, message: &Message) -> StoreResult<()> {
        self.change(channel, |rows| upsert(&mut rows.history, message))
    }

    async fn remove_log_entry(&self, channel: &ChannelId, message: &MessageId) -> StoreResult<()> {
        self.change(channel, |rows| rows.history.retain(|entry| entry.message_id != *message))
    }

    async fn set_retrieval_hint(&self, _: &MessageId, _: &[u8]) -> StoreResult<()> {
        // Nothing reads it back: loading has no place for it.
        Ok(())
    }

    async fn save_outgoing(&self, channel: &ChannelId, entry: &UnacknowledgedMessage) -> StoreResult<()> {
        self.change(channel, |rows| {
            let id = &entry.message.message_id;
            match rows.outgoing.iter_mut().find(|there| there.message.message_id == *id) {
                Some(there) => there.clone_from(entry),
                None => rows.outgoing.push(entry.clone()),
            }
        })
    }

    async fn remove_outgoing(&self, channel: &ChannelId, message: &MessageId) -> StoreResult<()> {
        self.change(channel, |rows| rows.outgoing.retain(|entry| entry.message.message_id != *message))
    }

    async fn save_incoming(&self, channel: &ChannelId, entry: &IncomingMessage) -> StoreResult<()> {
        self.change(channel, |rows| {
            rows.incoming.insert(entry.message.message_id.clone(), entry.clone());
        })
    }

    async fn remove_incoming(&self, channel: &ChannelId, message: &MessageId) -> StoreResult<()> {
        self.change(channel, |rows| drop(rows.incoming.remove(message)))
    }

    async fn save_outgoing_repair(
        &self,
        channel: &ChannelId,
        message: &MessageId,
        entry: &OutgoingRepairEntry,
    ) -> StoreResult<()> {
        self.change(channel, |rows| drop(rows.outgoing_repair.insert(message.clone(), entry.clone())))
    }

    async fn remove_outgoing_repair(&self, channel: &ChannelId, message: &MessageId) -> StoreResult<()> {
        self.change(channel, |rows| drop(rows.outgoing_repair.remove(message)))
    }

    async fn save_incoming_repair(
        &self,
        channel: &ChannelId,
        message: &MessageId,
        entry: &IncomingRepairEntry,
    ) -> StoreResult<()> {
        self.change(channel, |rows| drop(rows.incoming_repair.insert(message.clone(), entry.clone())))
    }

    async fn remove_incoming_repair(&self, channel: &ChannelId, message: &MessageId) -> StoreResult<()> {
        self.change(channel, |rows| drop(rows.incoming_repair.remove(message)))
    }

    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        lock(&self.0).remove(channel);
        Ok(())
    }

    async fn load_all_for_channel(&self, channel: &ChannelId) -> StoreResult<ChannelData> {
        let channels = lock(&self.0);
        let Some(rows) = channels.get(channel) else { return Ok(ChannelData::default()) };
        let meta = ChannelMeta {
            lamport: rows.lamport,
            outgoing: rows.outgoing.clone(),
            incoming: rows.incoming.values().cloned().collect(),
            outgoing_repair: rows.outgoing_repair.clone().into_iter().collect(),
            incoming_repair: rows.incoming_repair.clone().into_iter().collect(),
        };
        Ok(ChannelData { meta, history: rows.history.clone() })
    }
}
