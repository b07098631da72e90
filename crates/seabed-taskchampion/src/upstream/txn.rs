//! One transaction: reads of the store, writes of its own, and the one batch that they become.

use std::fmt;

use chrono::DateTime;
use seabed_kv::staged::StagedWriter;
use seabed_kv::{Batch, Error, ErrorKind};
use taskchampion_sync_server_core::{Client, Snapshot, StorageTxn, Version};
use uuid::Uuid;

use super::locks::ClientLock;
use crate::clock::now_unix_ms;
use crate::error::{Result, busy, damaged};
use crate::keys::{
    CLIENT, ClientRow, DELETING, PARENT, SNAPSHOT, SnapshotMeta, Stored, VERSION, VersionRow, client_key,
    pair_key, parent_from_bytes, snapshot_from_bytes,
};
use crate::rules;
use crate::shard::Shard;
use crate::value::Value;

/// A transaction over one client. Its rows change when it is committed, and not before.
pub(super) struct Txn {
    shard: Shard,
    client: Uuid,
    /// Held until the transaction is dropped.
    lock: ClientLock,
    /// It was committed, or that failed, or was dropped in the middle.
    over: bool,
    /// The client's row, once it was asked for.
    row: Option<Row>,
    added: Vec<Added>,
    /// The bytes of a new snapshot; all else of it is in the row.
    snapshot: Option<Vec<u8>>,
}

/// The client's row; `None` where there is no client.
#[derive(Debug, Clone)]
struct Row {
    /// As the store has it, and as it must be still at the commit.
    read: Option<ClientRow>,
    /// With this transaction's changes.
    now: Option<ClientRow>,
}

/// A version of this transaction's own.
struct Added {
    version: Uuid,
    parent: Uuid,
    bytes: Vec<u8>,
}

impl Added {
    fn to_version(&self) -> Version {
        Version {
            version_id: self.version,
            parent_version_id: self.parent,
            history_segment: self.bytes.clone(),
        }
    }
}

impl Txn {
    pub(super) fn new(shard: Shard, client: Uuid, lock: ClientLock) -> Self {
        Self { shard, client, lock, over: false, row: None, added: Vec::new(), snapshot: None }
    }

    fn check_open(&self) -> Result<()> {
        if self.over {
            return Err(self.invalid("the transaction was committed; begin a new one"));
        }
        Ok(())
    }

    /// The client's row, as it was and with this transaction's changes.
    async fn row(&mut self) -> Result<&mut Row> {
        self.check_open()?;
        // Read once: all that follows rests on the same row, and so does the commit.
        let row = if let Some(row) = self.row.take() {
            row
        } else {
            let read = self.shard.client_row(self.client).await?;
            Row { now: read.clone(), read }
        };
        Ok(self.row.insert(row))
    }

    /// The client's row with this transaction's changes; `None` where there is no client.
    async fn client(&mut self) -> Result<Option<ClientRow>> {
        Ok(self.row().await?.now.clone())
    }

    fn invalid(&self, message: impl fmt::Display) -> Error {
        Error::new(ErrorKind::InvalidArgument, message.to_string()).in_tenant(self.shard.tenant.id())
    }

    fn changed_beside(&self) -> Error {
        busy(&self.shard.tenant, "the client was changed beside the transaction; begin a new one")
    }

    /// The error of a row that does not go with the client's: damaged, unless the client was changed since it was read.
    async fn torn<T>(&self, category: &str, key: &[u8]) -> Result<T> {
        let read = self.row.as_ref().and_then(|row| row.read.as_ref());
        if self.shard.client_row(self.client).await?.as_ref() == read {
            return Err(damaged(&self.shard.tenant, category, key));
        }
        Err(self.changed_beside())
    }

    /// The version whose parent is `parent`.
    async fn child(&self, parent: Uuid) -> Result<Option<Version>> {
        if let Some(added) = self.added.iter().find(|added| added.parent == parent) {
            return Ok(Some(added.to_version()));
        }
        let key = pair_key(self.client, parent);
        let Some(bytes) = self.shard.tenant.get(VERSION, key).await? else { return Ok(None) };
        let row = VersionRow::from_bytes(&bytes).ok_or_else(|| damaged(&self.shard.tenant, VERSION, &key))?;
        Ok(Some(Version {
            version_id: row.version,
            parent_version_id: parent,
            history_segment: Value::new(row.value, &self.shard.staging).collect().await?,
        }))
    }

    /// The version of that id.
    async fn version(&self, version: Uuid) -> Result<Option<Version>> {
        if let Some(added) = self.added.iter().find(|added| added.version == version) {
            return Ok(Some(added.to_version()));
        }
        let key = pair_key(self.client, version);
        let Some(bytes) = self.shard.tenant.get(PARENT, key).await? else { return Ok(None) };
        let parent = parent_from_bytes(&bytes).ok_or_else(|| damaged(&self.shard.tenant, PARENT, &key))?;
        match self.child(parent).await? {
            Some(found) if found.version_id == version => Ok(Some(found)),
            _ => self.torn(VERSION, &pair_key(self.client, parent)).await,
        }
    }

    /// The bytes of the snapshot that the client's row tells of.
    async fn snapshot(&self, meta: &SnapshotMeta) -> Result<Vec<u8>> {
        if let Some(bytes) = &self.snapshot {
            return Ok(bytes.clone());
        }
        if let Some(value) = meta.staged() {
            return Value::new(Stored::Staged(value), &self.shard.staging).collect().await;
        }
        let key = client_key(self.client);
        let row = self.shard.tenant.get(SNAPSHOT, key).await?;
        match row.as_deref().and_then(snapshot_from_bytes) {
            Some((version, bytes)) if version == meta.version => Ok(bytes),
            _ => self.torn(SNAPSHOT, &key).await,
        }
    }

    async fn add(&mut self, version: Uuid, parent: Uuid, bytes: Vec<u8>) -> Result<()> {
        let Some(mut row) = self.client().await? else {
            return Err(self.invalid("a version of a client that does not exist; create it first"));
        };
        if !row.latest.is_nil() && row.latest != parent {
            let message = format_args!("the latest version is {}, not the parent {parent}", row.latest);
            return Err(self.invalid(message));
        }
        if version.is_nil() || version == parent {
            return Err(self.invalid("a new version's id is neither nil nor its parent's"));
        }
        let key = pair_key(self.client, version);
        if self.added.iter().any(|added| added.version == version)
            || self.shard.tenant.exists(PARENT, key).await?
        {
            return Err(self.invalid(format_args!("the version {version} exists")));
        }
        rules::count_version(&mut row, version, bytes.len() as u64, now_unix_ms() / 1_000);
        self.row().await?.now = Some(row);
        self.added.push(Added { version, parent, bytes });
        Ok(())
    }

    async fn replace_snapshot(&mut self, snapshot: &Snapshot, bytes: Vec<u8>) -> Result<()> {
        let Ok(unix_s) = u64::try_from(snapshot.timestamp.timestamp()) else {
            return Err(self.invalid("a snapshot from before 1970"));
        };
        let meta = SnapshotMeta {
            version: snapshot.version_id,
            unix_s,
            versions_since: snapshot.versions_since.into(),
            bytes: bytes.len() as u64,
            // Known at the commit.
            staged: None,
        };
        let Some(client) = &mut self.row().await?.now else {
            return Err(self.invalid("a snapshot of a client that does not exist; create it first"));
        };
        client.snapshot = Some(meta);
        self.snapshot = Some(bytes);
        Ok(())
    }

    /// Makes everything one batch and applies it. Whatever happens, the transaction is over.
    async fn finish(&mut self) -> Result<()> {
        self.check_open()?;
        self.over = true;
        // What never asked for the row has changed nothing, and what asked for that of no client has not, either.
        let Some(Row { read, now: Some(mut row) }) = self.row.take() else { return Ok(()) };
        let (added, snapshot) = (std::mem::take(&mut self.added), self.snapshot.take());
        if read.as_ref() == Some(&row) && snapshot.is_none() {
            return Ok(());
        }
        let mut staging = Staging { shard: &self.shard, now_ms: now_unix_ms(), writers: Vec::new() };
        let (mut batch, key) = (Batch::new(), client_key(self.client));
        match &read {
            Some(read) => batch.check_equals(CLIENT, key, read.to_bytes()),
            // Rows of a client that was deleted under the same id may still be on their way out.
            None => batch.check_absent(CLIENT, key).check_absent(DELETING, key),
        };
        let received_unix_s = staging.now_ms / 1_000;
        for Added { version, parent, bytes } in added {
            let value = staging.place(bytes, &mut batch).await?;
            rules::put_version(
                &mut batch,
                self.client,
                parent,
                &VersionRow { version, received_unix_s, value },
            );
        }
        let mut discard = None;
        if let (Some(bytes), Some(meta)) = (snapshot, &mut row.snapshot) {
            let value = staging.place(bytes, &mut batch).await?;
            meta.staged = value.staged().map(|value| value.id);
            rules::put_snapshot(&mut batch, self.client, meta.version, &value);
            discard = read.and_then(|read| read.snapshot?.staged());
        }
        batch.put(CLIENT, key, row.to_bytes());
        self.lock.commit_begins();
        let applied = self.shard.apply(batch, discard, received_unix_s).await;
        self.lock.commit_ends();
        applied?.map(drop).ok_or_else(|| self.changed_beside())
    }
}

/// Where the values of one commit go. Dropped before the batch was applied, it discards their chunks.
struct Staging<'a> {
    shard: &'a Shard,
    now_ms: u64,
    writers: Vec<StagedWriter>,
}

impl Staging<'_> {
    /// Keeps a value for its row, or stores it in chunks that stay when the batch is applied.
    async fn place(&mut self, bytes: Vec<u8>, batch: &mut Batch) -> Result<Stored> {
        if bytes.len() <= self.shard.inline_max() {
            return Ok(Stored::Inline(bytes));
        }
        let mut writer = self.shard.staging.writer(Uuid::new_v4().into_bytes(), self.now_ms);
        writer.write(&bytes).await?;
        let value = writer.finish().await?;
        writer.attach(batch);
        self.writers.push(writer);
        Ok(Stored::Staged(value))
    }
}

#[async_trait::async_trait(?Send)]
impl StorageTxn for Txn {
    async fn get_client(&mut self) -> anyhow::Result<Option<Client>> {
        let Some(row) = self.client().await? else { return Ok(None) };
        let Some(meta) = row.snapshot else {
            return Ok(Some(Client { latest_version_id: row.latest, snapshot: None }));
        };
        let timestamp = i64::try_from(meta.unix_s).ok().and_then(|s| DateTime::from_timestamp(s, 0));
        let snapshot = Snapshot {
            version_id: meta.version,
            timestamp: timestamp
                .ok_or_else(|| damaged(&self.shard.tenant, CLIENT, self.client.as_bytes()))?,
            versions_since: u32::try_from(meta.versions_since).unwrap_or(u32::MAX),
        };
        Ok(Some(Client { latest_version_id: row.latest, snapshot: Some(snapshot) }))
    }

    async fn new_client(&mut self, latest_version_id: Uuid) -> anyhow::Result<()> {
        let row = self.row().await?;
        if row.now.is_some() {
            return Err(self.invalid("the client exists").into());
        }
        row.now = Some(ClientRow { latest: latest_version_id, ..ClientRow::new(now_unix_ms() / 1_000) });
        Ok(())
    }

    async fn set_snapshot(&mut self, snapshot: Snapshot, data: Vec<u8>) -> anyhow::Result<()> {
        Ok(self.replace_snapshot(&snapshot, data).await?)
    }

    async fn get_snapshot_data(&mut self, version_id: Uuid) -> anyhow::Result<Option<Vec<u8>>> {
        let Some(meta) = self.client().await?.and_then(|row| row.snapshot) else { return Ok(None) };
        if meta.version != version_id {
            let message = format_args!("the snapshot is of {}, not of {version_id}", meta.version);
            return Err(self.invalid(message).into());
        }
        Ok(Some(self.snapshot(&meta).await?))
    }

    async fn get_version_by_parent(&mut self, parent_version_id: Uuid) -> anyhow::Result<Option<Version>> {
        // Rows of a client that is being deleted are nobody's.
        match self.client().await? {
            Some(_) => Ok(self.child(parent_version_id).await?),
            None => Ok(None),
        }
    }

    async fn get_version(&mut self, version_id: Uuid) -> anyhow::Result<Option<Version>> {
        match self.client().await? {
            Some(_) => Ok(self.version(version_id).await?),
            None => Ok(None),
        }
    }

    async fn add_version(
        &mut self,
        version_id: Uuid,
        parent_version_id: Uuid,
        history_segment: Vec<u8>,
    ) -> anyhow::Result<()> {
        Ok(self.add(version_id, parent_version_id, history_segment).await?)
    }

    async fn commit(&mut self) -> anyhow::Result<()> {
        Ok(self.finish().await?)
    }
}
