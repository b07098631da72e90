//! Contract (C) on the kernel: a row a record, a batch an operation.

pub(crate) mod keys;
pub(crate) mod logos;
mod pieces;
mod upgrade;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use seabed_kv::limits::{BATCH_BYTES_MAX, BATCH_STEPS_MAX};
use seabed_kv::{Applied, Batch, Durability, KeyRange, Op, ScanSpec, Store, Tenant};
use seabed_sds_core::{Change, ChannelId, Key, Record, Rows};

use crate::contract::{ChannelBatch, ChannelStore, StoreError, StoreResult};
use crate::lock::lock;
use keys::{CHANNEL, FORMAT, FormatRow, channel_prefix, read_key};

pub use keys::TENANT;
pub use logos::LogosRows;

/// The channels of a [`seabed_kv::Store`], in its tenant [`sds`](TENANT): a row for each record of a channel's state, so that an
/// operation writes what it changed and no more (`docs/formats/sds.md`).
///
/// Channels that logos-delivery's persistency keeps in the same tenant are left as they are: [`LogosRows`] reads and goes on with them
/// in place, [`migrate`](KernelStore::migrate) makes them channels of this store, [`export`](KernelStore::export) leads back.
///
/// An operation is a batch. Only what [`BestEffort`](crate::ReleasePolicy::BestEffort) has heaped up behind a failing store can be more than the kernel takes
/// at once: it is applied in several, each of which leaves a channel that can go on.
///
/// One manager at a time works on a channel: another one's commit is refused by its clock's row, and that manager loads the channel again.
///
/// A channel in the rows of an earlier version is rewritten as it is loaded, before anything else happens to it; the program that wrote them reads the
/// store no more from then on.
///
/// ```
/// use std::sync::Arc;
/// use seabed_sds::{KernelStore, SdsManager};
///
/// # let directory = tempfile::tempdir()?;
/// # let root = directory.path();
/// let store = seabed_kv::Store::sqlite(root)?;
/// let manager = SdsManager::builder("alice").store(Arc::new(KernelStore::open(&store).wait()?)).build()?;
/// manager.send("room", "m1", b"on disk before it is said").wait()?;
/// drop(manager);
///
/// let again = SdsManager::builder("alice").store(Arc::new(KernelStore::open(&store).wait()?)).build()?;
/// assert_eq!(again.restore().wait()?, 1);
/// assert_eq!(again.status("room").wait()?.unwrap().unacknowledged, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct KernelStore {
    tenant: Tenant,
    durability: Durability,
    /// Whether the row that names the version is there, and names the one that is written.
    formatted: AtomicBool,
    /// What the row of the clock of each channel in use holds, as far as this store has read or written it.
    expected: Mutex<BTreeMap<ChannelId, Option<Vec<u8>>>>,
}

impl KernelStore {
    /// Opens the tenant of this layer in a store, making it when it is not there.
    ///
    /// # Errors
    /// Those of the store; `Unsupported` for data of a later version, naming both; `Corrupt` when the row that names it does not read.
    pub fn open(store: &Store) -> Op<Self> {
        let store = store.clone();
        Op::from_future(async move { Self::on(store.open(TENANT).await?).await })
    }

    /// The same on a tenant of any name.
    ///
    /// # Errors
    /// As [`open`](KernelStore::open).
    pub async fn on(tenant: Tenant) -> seabed_kv::Result<Self> {
        let row = tenant.get(FORMAT, b"").await?;
        let formatted = match &row {
            Some(row) => FormatRow::check(row, &tenant)?,
            None => false,
        };
        Ok(Self {
            tenant,
            durability: Durability::Durable,
            formatted: AtomicBool::new(formatted),
            expected: Mutex::default(),
        })
    }

    /// What an acknowledgement means; by default that it survives a power cut. With `Relaxed` what a channel has said may be forgotten by
    /// a power cut, the last of it first: its peers then know more of it than itself.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The tenant that it writes.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// An empty batch, but for the row that names the version when it is not there.
    fn new_batch(&self) -> Batch {
        let mut batch = Batch::new();
        if !self.formatted.load(Ordering::SeqCst) {
            batch.put(FORMAT, b"", FormatRow::ours().to_bytes());
        }
        batch
    }

    /// The batch of a channel's changes, with what it rests on, and what the row of its clock holds afterwards.
    fn batch(&self, channel: &ChannelId, changes: &ChannelBatch) -> (Batch, Option<Vec<u8>>) {
        let mut batch = self.new_batch();
        let prefix = channel_prefix(channel);
        let row = |key: &Key| key.to_bytes_after(&prefix);
        let mut first = lock(&self.expected).get(channel).cloned();
        match &first {
            Some(Some(meta)) => drop(batch.check_equals(CHANNEL, row(&Key::Meta), meta.clone())),
            // A program of an earlier version may still run.
            Some(None) => {
                for clock in keys::clock_keys() {
                    batch.check_absent(CHANNEL, [prefix.as_slice(), &clock].concat());
                }
            }
            None => {}
        }
        if changes.replaces {
            batch.delete_prefix(CHANNEL, &prefix);
            first = Some(None);
        }
        for change in &changes.changes {
            match change {
                Change::Put(record) => {
                    let payload = record.to_bytes();
                    if matches!(record, Record::Meta(_)) {
                        first = Some(Some(payload.clone()));
                    }
                    batch.put(CHANNEL, row(&record.key()), payload);
                }
                Change::Delete(key) => drop(batch.delete(CHANNEL, row(key))),
            }
        }
        (batch, first.flatten())
    }

    /// The rows of a channel, read page by page.
    async fn rows(&self, channel: &ChannelId) -> seabed_kv::Result<ChannelRows> {
        let prefix = channel_prefix(channel);
        let mut scan = self.tenant.scan(ScanSpec::new(CHANNEL, KeyRange::prefix(&prefix)));
        let (mut rows, mut clock, clock_keys) = (Rows::default(), None, keys::clock_keys());
        while let Some(row) = scan.next().await {
            let row = row?;
            let key = row.key.as_bytes().get(prefix.len()..).unwrap_or_default();
            rows.add(key, &row.payload).map_err(|error| keys::damaged(&self.tenant, channel, key, &error))?;
            if clock_keys.iter().any(|clock| clock == key) {
                clock = Some((row.key.into_bytes(), row.payload));
            }
        }
        let old = rows.are_old();
        let records = rows
            .into_records()
            .map_err(|error| keys::corrupt(&self.tenant, &format!("channel {channel}: {error}")))?;
        Ok(ChannelRows { records, clock, old })
    }

    async fn records(&self, channel: &ChannelId) -> seabed_kv::Result<Vec<Record>> {
        Ok(self.rows(channel).await?.records)
    }

    async fn apply(&self, channel: &ChannelId, batch: Batch, first: Option<Vec<u8>>) -> StoreResult<()> {
        // Known again only when this has ended.
        let expected = lock(&self.expected).remove(channel);
        let remember = |first| drop(lock(&self.expected).insert(channel.clone(), first));
        let outcome = match self.tenant.apply(batch, self.durability).await {
            Ok(outcome) => outcome,
            Err(error) => {
                if let (Some(expected), Applied::No) = (expected, error.applied()) {
                    remember(expected);
                }
                return Err(error.into());
            }
        };
        if outcome.is_applied() {
            self.formatted.store(true, Ordering::SeqCst);
            if expected.is_some() || first.is_some() {
                remember(first);
            }
            return Ok(());
        }
        // Also of a manager whose memory wins, until it loads the channel again.
        if let Some(expected) = expected {
            remember(expected);
        }
        Err(StoreError::not_applied(format!(
            "somebody else has written the channel {channel} in {}; one manager at a time works on a channel",
            self.tenant.id()
        )))
    }
}

#[async_trait]
impl ChannelStore for KernelStore {
    async fn commit(&self, channel: &ChannelId, batch: &ChannelBatch) -> StoreResult<()> {
        let (whole, first) = self.batch(channel, batch);
        if whole.bytes() <= BATCH_BYTES_MAX && whole.checks().len() + whole.writes().len() <= BATCH_STEPS_MAX
        {
            return self.apply(channel, whole, first).await;
        }
        drop(whole);
        let changes = if batch.replaces {
            pieces::replacing(&batch.changes, &self.records(channel).await?)
        } else {
            batch.changes.clone()
        };
        for changes in pieces::pieces(changes, pieces::PIECE_BYTES) {
            let piece = ChannelBatch { changes, ..ChannelBatch::default() };
            let (piece, first) = self.batch(channel, &piece);
            self.apply(channel, piece, first).await?;
        }
        Ok(())
    }

    async fn load(&self, channel: &ChannelId) -> StoreResult<Vec<Record>> {
        let rows = self.rows(channel).await?;
        if rows.records.is_empty() && logos::has(&self.tenant, channel).await? {
            return Err(logos::not_migrated(&self.tenant, channel).into());
        }
        if rows.old {
            self.upgrade(channel, &rows).await?;
        }
        let meta = rows.records.iter().find(|record| matches!(record, Record::Meta(_)));
        lock(&self.expected).insert(channel.clone(), meta.map(Record::to_bytes));
        Ok(rows.records)
    }

    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        let mut batch = Batch::new();
        batch.delete_prefix(CHANNEL, channel_prefix(channel));
        logos::delete_rows(&mut batch, channel)?;
        self.forget(channel);
        self.tenant.apply(batch, self.durability).await?;
        Ok(())
    }

    async fn list(&self) -> StoreResult<Vec<ChannelId>> {
        Ok(channels(&self.tenant).await?)
    }

    fn forget(&self, channel: &ChannelId) {
        lock(&self.expected).remove(channel);
    }
}

/// What is stored of a channel.
struct ChannelRows {
    records: Vec<Record>,
    /// The row of its clock, key and payload, which every commit rests on.
    clock: Option<(Vec<u8>, Vec<u8>)>,
    /// Whether some are of an earlier layout.
    old: bool,
}

/// The channels that have rows of this layer, in ascending order. One seek a channel: its rows are skipped.
pub(crate) async fn channels(tenant: &Tenant) -> seabed_kv::Result<Vec<ChannelId>> {
    let mut channels = Vec::new();
    let mut range = KeyRange::all();
    loop {
        let first = ScanSpec::new(CHANNEL, range).keys_only().limit(1);
        let Some(row) = tenant.scan_page(first).await?.rows.pop() else { return Ok(channels) };
        let Some((channel, _)) = read_key(row.key.as_bytes()) else {
            return Err(keys::strange_key(tenant, row.key.as_bytes()));
        };
        range = KeyRange::new(KeyRange::prefix(channel_prefix(&channel)).stop, b"");
        channels.push(channel);
    }
}

impl fmt::Debug for KernelStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelStore")
            .field("tenant", &self.tenant)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{SdsManager, UnknownChannels};

    #[test]
    fn ids_of_channels_that_nobody_has_are_not_remembered() {
        let store = Store::memory();
        let kept = Arc::new(KernelStore::open(&store).wait().unwrap());
        let in_use = || lock(&kept.expected).len();
        let alice = SdsManager::builder("alice").build().unwrap();
        let builder = SdsManager::builder("bob").store(kept.clone());
        let bob = builder.unknown_channels(UnknownChannels::KnownOnly).build().unwrap();
        for number in 0..100 {
            let channel = format!("hostile {number}");
            let wire = alice.send(channel.as_str(), "m1", b"x").wait().unwrap().release().wire;
            assert!(bob.receive(wire).wait().unwrap().message().is_none());
            assert_eq!(bob.status(channel.as_str()).wait().unwrap(), None);
            bob.mark_dependencies_met(channel.as_str(), Vec::new()).wait().unwrap_err();
            bob.remove_channel(channel.as_str()).wait().unwrap();
        }
        assert_eq!((bob.channels().len(), in_use()), (0, 0));
        bob.ensure_channel("room").wait().unwrap();
        assert_eq!(in_use(), 1);
        bob.cleanup().wait().unwrap();
        assert_eq!(in_use(), 0);
    }
}
