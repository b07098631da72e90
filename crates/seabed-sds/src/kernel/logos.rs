//! logos-delivery's persistency: its rows in the same tenant, read, written, migrated and exported (sds.md section 21).

use async_trait::async_trait;
use seabed_kv::{
    Batch, Durability, Error, ErrorKind, Key, KeyRange, KeyReader, Outcome, Result, ScanSpec, Tenant,
};
use seabed_sds_core::snapshot::{ChannelData, ChannelMeta, HistoryUpdate};
use seabed_sds_core::wire::{self, Dialect, ReadDialect, WireLimits};
use seabed_sds_core::{Change, Channel, ChannelId, Config, DecodeError, Message, ParticipantId, Record};

use super::keys::{CHANNEL, LOG, META, channel_prefix, clock_keys, corrupt};
use super::{ChannelRows, KernelStore};
use crate::contract::mirror::{self, Mirror};
use crate::contract::{ChannelBatch, ChannelStore, SnapshotPersistence, StoreResult};
use crate::{Clock, SystemClock};

/// Contract (B) on the rows of logos-delivery's persistency, so that its database is used as it lies, and it reads what was written here.
///
/// ```no_run
/// use std::sync::Arc;
/// use seabed_sds::{LogosRows, SdsManager, TENANT};
///
/// let store = seabed_kv::Store::sqlite("the directory with sds.db")?;
/// let rows = LogosRows::new(store.open(TENANT).wait()?);
/// for channel in rows.channels().wait()? {
///     println!("{channel}");
/// }
/// let manager = SdsManager::builder("alice").snapshots(Arc::new(rows)).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct LogosRows {
    tenant: Tenant,
    durability: Durability,
}

impl LogosRows {
    /// The rows in this tenant.
    pub fn new(tenant: Tenant) -> Self {
        Self { tenant, durability: Durability::Durable }
    }

    /// What an acknowledgement means; by default that it survives a power cut.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The channels that have a snapshot, in ascending order of their lengths and ids, as upstream's keys have it.
    ///
    /// # Errors
    /// Those of the store; `Corrupt` for a key that names no channel.
    pub fn channels(&self) -> seabed_kv::Op<Vec<ChannelId>> {
        let tenant = self.tenant.clone();
        seabed_kv::Op::from_future(async move { channels(&tenant).await })
    }

    async fn apply(&self, batch: Batch) -> StoreResult<()> {
        self.tenant.apply(batch, self.durability).await?;
        Ok(())
    }
}

#[async_trait]
impl SnapshotPersistence for LogosRows {
    async fn save_channel_meta(&self, channel: &ChannelId, meta: &ChannelMeta) -> StoreResult<()> {
        let mut batch = Batch::new();
        batch.put(META, meta_key(channel)?, meta.encode());
        self.apply(batch).await
    }

    async fn update_history(&self, channel: &ChannelId, update: &HistoryUpdate) -> StoreResult<()> {
        let mut batch = Batch::new();
        for message in &update.append {
            batch.put(
                LOG,
                log_key(channel, message.message_id.as_bytes())?,
                wire::encode(message, Dialect::Nim),
            );
        }
        for id in &update.evict {
            batch.delete(LOG, log_key(channel, id.as_bytes())?);
        }
        self.apply(batch).await
    }

    async fn load_channel(&self, channel: &ChannelId) -> StoreResult<ChannelData> {
        Ok(read(&self.tenant, channel).await?.unwrap_or_default())
    }

    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        let mut batch = Batch::new();
        delete_rows(&mut batch, channel)?;
        self.apply(batch).await
    }
}

impl KernelStore {
    /// Makes a channel of logos-delivery's one of this store, and removes its old rows, in one batch. Upstream reads it no more until it is
    /// [exported](KernelStore::export). What a snapshot does not carry begins anew.
    ///
    /// # Errors
    /// Those of the store; `InvalidArgument` when there is no such channel there, when this store has one of that name, or when it is larger
    /// than a batch; `Corrupt` for a row that does not read.
    pub async fn migrate(
        &self,
        channel: &ChannelId,
        participant: &ParticipantId,
        config: &Config,
    ) -> Result<()> {
        let tenant = &self.tenant;
        let Some(data) = read(tenant, channel).await? else {
            return Err(invalid(tenant, format!("logos-delivery has no channel {channel} here")));
        };
        let now_ms = SystemClock.now_ms();
        let records = mirror::records(data, participant, config, now_ms).map_err(|error| {
            corrupt(tenant, &format!("a cached answer of channel {channel} does not read: {error}"))
        })?;
        // What a channel makes of them is what it would write.
        let loaded = Channel::load(channel.clone(), participant.clone(), config.clone(), records, now_ms)
            .map_err(|error| corrupt(tenant, &format!("channel {channel}: {error}")))?;
        let changes = loaded.records().map(Change::Put).collect();
        let (mut batch, _) = self.batch(channel, &ChannelBatch { changes, ..ChannelBatch::default() });
        batch.check_exists(META, meta_key(channel)?);
        for key in clock_keys() {
            batch.check_absent(CHANNEL, [channel_prefix(channel), key].concat());
        }
        delete_rows(&mut batch, channel)?;
        self.applied(batch, channel).await
    }

    /// Writes a channel as logos-delivery keeps it, and removes its rows of this store, in one batch. What a snapshot cannot carry is lost:
    /// ids that were seen beyond the log, marked and given-up dependencies, counts, stored hints.
    ///
    /// # Errors
    /// Those of the store; `InvalidArgument` when there is no such channel, or it is larger than a batch; `Corrupt` for a row that does
    /// not read.
    pub async fn export(&self, channel: &ChannelId) -> Result<()> {
        let batch = self.export_batch(channel).await?;
        self.applied(batch, channel).await
    }

    /// Whether a channel can be [exported](KernelStore::export) as it is now. Changes nothing.
    ///
    /// # Errors
    /// Those of [`export`](KernelStore::export).
    pub async fn check_export(&self, channel: &ChannelId) -> Result<()> {
        self.export_batch(channel).await?.validate()
    }

    async fn export_batch(&self, channel: &ChannelId) -> Result<Batch> {
        let tenant = &self.tenant;
        let ChannelRows { records, clock, .. } = self.rows(channel).await?;
        if records.is_empty() {
            return Err(invalid(tenant, format!("there is no channel {channel} to export")));
        }
        let mut batch = Batch::new();
        if let Some((key, payload)) = clock {
            batch.check_equals(CHANNEL, key, payload);
        }
        for record in &records {
            if let Record::Log(entry) = record {
                let key = log_key(channel, entry.message.message_id.as_bytes())?;
                batch.put(LOG, key, wire::encode(&entry.message, Dialect::Nim));
            }
        }
        batch.put(META, meta_key(channel)?, Mirror::new(&records).meta().encode());
        batch.delete_prefix(CHANNEL, channel_prefix(channel));
        Ok(batch)
    }

    async fn applied(&self, batch: Batch, channel: &ChannelId) -> Result<()> {
        self.forget(channel);
        match self.tenant.apply(batch, self.durability).await? {
            Outcome::Applied(_) => Ok(()),
            Outcome::Refused(_) => Err(invalid(
                &self.tenant,
                format!("channel {channel} was written meanwhile; stop its manager and try again"),
            )),
        }
    }
}

/// Whether logos-delivery has that channel here.
pub(crate) async fn has(tenant: &Tenant, channel: &ChannelId) -> Result<bool> {
    tenant.exists(META, meta_key(channel)?).await
}

pub(crate) fn not_migrated(tenant: &Tenant, channel: &ChannelId) -> Error {
    let message = format!(
        "channel {channel} is in the form of logos-delivery: go on in that form with LogosRows, or migrate it with \
         KernelStore::migrate"
    );
    Error::new(ErrorKind::Unsupported, message).in_tenant(tenant.id())
}

/// The channels that have a snapshot.
pub(crate) async fn channels(tenant: &Tenant) -> Result<Vec<ChannelId>> {
    let mut rows = tenant.scan(ScanSpec::new(META, KeyRange::all()).keys_only());
    let mut channels = Vec::new();
    while let Some(row) = rows.next().await {
        let row = row?;
        let mut key = KeyReader::new(&row.key);
        match (key.bytes(), key.rest()) {
            (Some(channel), []) => channels.push(channel.into()),
            _ => return Err(corrupt(tenant, &format!("{META}: the key {:?} names no channel", row.key))),
        }
    }
    Ok(channels)
}

/// A channel as upstream's loader gives it: the log by (Lamport, id). `None` when there is none.
pub(crate) async fn read(tenant: &Tenant, channel: &ChannelId) -> Result<Option<ChannelData>> {
    let Some(meta) = tenant.get(META, meta_key(channel)?).await? else { return Ok(None) };
    let meta = ChannelMeta::decode(&meta).map_err(|error| {
        corrupt(tenant, &format!("the row of channel {channel} in {META} does not read: {error}"))
    })?;
    let mut rows = tenant.scan(ScanSpec::new(LOG, KeyRange::prefix(meta_key(channel)?)));
    let mut history = Vec::new();
    while let Some(row) = rows.next().await {
        let row = row?;
        let message = message(&row.payload).map_err(|error| {
            corrupt(tenant, &format!("the row {:?} of {LOG} does not read: {error}", row.key))
        })?;
        history.push(message);
    }
    history.sort_by(|one, other| (one.lamport, &one.message_id).cmp(&(other.lamport, &other.message_id)));
    Ok(Some(ChannelData { meta, history }))
}

/// A message as upstream stores it.
pub(crate) fn message(bytes: &[u8]) -> Result<Message, DecodeError> {
    wire::decode(bytes, ReadDialect::Strict(Dialect::Nim), &WireLimits::OFF).map(|decoded| decoded.message)
}

/// Adds the removal of everything that logos-delivery has of a channel.
pub(crate) fn delete_rows(batch: &mut Batch, channel: &ChannelId) -> Result<()> {
    let key = meta_key(channel)?;
    batch.delete(META, &key).delete_prefix(LOG, &key);
    Ok(())
}

/// The key of a channel's snapshot, and what the keys of its messages begin with.
pub(crate) fn meta_key(channel: &ChannelId) -> Result<Key> {
    Key::builder().bytes(channel.as_bytes()).build()
}

fn log_key(channel: &ChannelId, message: &[u8]) -> Result<Key> {
    Key::builder().bytes(channel.as_bytes()).bytes(message).build()
}

fn invalid(tenant: &Tenant, message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message).in_tenant(tenant.id())
}
