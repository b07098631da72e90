//! Clients, for administrators: list, show, delete.

use std::collections::BTreeMap;

use seabed_kv::staged::Sweep;
use seabed_kv::{Batch, Durability, Key, KeyRange, Outcome, ScanSpec};
use serde::Serialize;
use uuid::Uuid;

use crate::TaskChampion;
use crate::error::{Error, ErrorKind, Result, busy, damaged};
use crate::keys::{
    CLIENT, ClientRow, DELETING, DROPPED, DroppedRow, IMPORTED, PARENT, SNAPSHOT, VERSION, VersionRow,
    client_key, deleting_from_bytes, deleting_to_bytes, pair_key, read_client_key, read_pair_key,
};
use crate::protocol::ATTEMPTS_MAX;
use crate::shard::Shard;

/// What a mark says in the place of a time once the client's rows are to go, in contrast to those of an import that is under way.
const REMOVING: u64 = 0;

/// How many versions one step of a deletion removes.
const DELETE_STEP_VERSIONS: usize = 256;

/// A client, as its row of counters tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientInfo {
    /// Its id, which is also its credential.
    pub client: Uuid,
    /// Its newest version; `None` when it has none.
    pub latest_version: Option<Uuid>,
    /// How many versions it has.
    pub versions: u64,
    /// How many bytes of versions it has.
    pub version_bytes: u64,
    /// Its snapshot.
    pub snapshot: Option<SnapshotInfo>,
    /// How many versions were dropped, because a snapshot covered them.
    pub dropped_versions: u64,
    /// How many bytes those had.
    pub dropped_bytes: u64,
    /// When it was created, in seconds since 1970.
    pub created_unix_s: u64,
    /// When its newest version came, in seconds since 1970.
    pub last_push_unix_s: u64,
    /// Why its row cannot be read; the numbers are zero then.
    pub error: Option<String>,
}

/// A client's snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotInfo {
    /// The version it was taken at.
    pub version: Uuid,
    /// How many bytes it has.
    pub bytes: u64,
    /// When it was uploaded, in seconds since 1970.
    pub received_unix_s: u64,
    /// How many versions came since it was uploaded.
    pub versions_since: u64,
}

/// A version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionInfo {
    /// Its id.
    pub version: Uuid,
    /// The version before it.
    pub parent: Uuid,
    /// How many bytes it has.
    pub bytes: u64,
    /// When it came, in seconds since 1970.
    pub received_unix_s: u64,
}

impl ClientInfo {
    fn new(client: Uuid, row: &ClientRow, dropped: Option<DroppedRow>) -> Self {
        Self {
            client,
            dropped_versions: dropped.map_or(0, |dropped| dropped.versions),
            dropped_bytes: dropped.map_or(0, |dropped| dropped.version_bytes),
            latest_version: Some(row.latest).filter(|latest| !latest.is_nil()),
            versions: row.versions,
            version_bytes: row.version_bytes,
            snapshot: row.snapshot.as_ref().map(|snapshot| SnapshotInfo {
                version: snapshot.version,
                bytes: snapshot.bytes,
                received_unix_s: snapshot.unix_s,
                versions_since: snapshot.versions_since,
            }),
            created_unix_s: row.created_unix_s,
            last_push_unix_s: row.last_push_unix_s,
            error: None,
        }
    }

    fn damaged(client: Uuid, error: &Error) -> Self {
        Self { error: Some(error.to_string()), ..Self::new(client, &ClientRow::new(0), None) }
    }
}

impl TaskChampion {
    /// How many clients there are. Reads none of their rows.
    ///
    /// # Errors
    /// Those of the store's reads.
    pub async fn client_count(&self) -> Result<u64> {
        let mut clients = 0;
        for shard in self.shards() {
            clients += shard.tenant.count(CLIENT, &KeyRange::all()).await?;
        }
        Ok(clients)
    }

    /// Every client, in the order of ids within each shard; one whose row is damaged with what is [wrong](ClientInfo::error). Reads two
    /// small rows a client.
    ///
    /// ```
    /// # pollster::block_on(async {
    /// use seabed_taskchampion::{Config, TaskChampion};
    /// use uuid::Uuid;
    ///
    /// let taskchampion = TaskChampion::open(&seabed_kv::Store::memory(), Config::default()).await?;
    /// let (client, version) = (Uuid::new_v4(), Uuid::new_v4());
    /// let upload = taskchampion.upload(client, Uuid::new_v4(), 0).finish().await?;
    /// let _added = taskchampion.add_version(upload, Uuid::nil(), version, 1_700_000_000).await?.release();
    ///
    /// let clients = taskchampion.clients().await?;
    /// assert_eq!((clients[0].client, clients[0].versions), (client, 1));
    /// assert_eq!(taskchampion.versions(client).await?[0].version, version);
    /// assert!(taskchampion.delete_client(client).await?);
    /// assert_eq!(taskchampion.client(client).await?, None);
    /// # Ok::<(), seabed_kv::Error>(())
    /// # })?;
    /// # Ok::<(), seabed_kv::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the store's reads.
    pub async fn clients(&self) -> Result<Vec<ClientInfo>> {
        let mut clients = Vec::new();
        for shard in self.shards() {
            let mut rows = shard.tenant.scan(ScanSpec::new(CLIENT, KeyRange::all()));
            while let Some(row) = rows.next().await {
                let row = row?;
                let error = || damaged(&shard.tenant, CLIENT, row.key.as_bytes());
                match (read_client_key(row.key.as_bytes()), ClientRow::from_bytes(&row.payload)) {
                    (Some(client), Some(row)) => match shard.dropped(client).await {
                        Ok(dropped) => clients.push(ClientInfo::new(client, &row, dropped)),
                        Err(error) if error.kind() == ErrorKind::Corrupt => {
                            clients.push(ClientInfo::damaged(client, &error));
                        }
                        Err(error) => return Err(error),
                    },
                    // One damaged row is no reason not to tell of the others.
                    (Some(client), None) => clients.push(ClientInfo::damaged(client, &error())),
                    // Nobody's id: `verify` names the row.
                    (None, _) => tracing::error!(error = %error()),
                }
            }
        }
        Ok(clients)
    }

    /// The id of every client. A row of nobody's id is for `verify` to name.
    pub(crate) async fn client_ids(&self) -> Result<Vec<Uuid>> {
        let mut ids = Vec::new();
        for shard in self.shards() {
            let mut rows = shard.tenant.scan(ScanSpec::new(CLIENT, KeyRange::all()).keys_only());
            while let Some(row) = rows.next().await {
                ids.extend(read_client_key(row?.key.as_bytes()));
            }
        }
        Ok(ids)
    }

    /// One client; `None` when there is none of that id.
    ///
    /// # Errors
    /// Those of the store's reads; `Corrupt` for a damaged row.
    pub async fn client(&self, client: Uuid) -> Result<Option<ClientInfo>> {
        let shard = self.shard(client);
        let Some(row) = shard.client_row(client).await? else { return Ok(None) };
        Ok(Some(ClientInfo::new(client, &row, shard.dropped(client).await?)))
    }

    /// The versions of a client, from its first to its latest; none for a client that does not exist. Reads every row of
    /// them, and holds about a hundred bytes a version.
    ///
    /// # Errors
    /// Those of the store's reads; `Corrupt` for a damaged row.
    pub async fn versions(&self, client: Uuid) -> Result<Vec<VersionInfo>> {
        let shard = self.shard(client);
        let Some(row) = shard.client_row(client).await? else { return Ok(Vec::new()) };
        let mut by_version = BTreeMap::new();
        let range = KeyRange::prefix(client_key(client));
        let mut rows = shard.tenant.scan(ScanSpec::new(VERSION, range));
        while let Some(row) = rows.next().await {
            let row = row?;
            let read = read_pair_key(row.key.as_bytes()).zip(VersionRow::from_bytes(&row.payload));
            let ((_, parent), row) =
                read.ok_or_else(|| damaged(&shard.tenant, VERSION, row.key.as_bytes()))?;
            let bytes = row.value.bytes();
            let version = row.version;
            by_version.insert(
                version,
                VersionInfo { version, parent, bytes, received_unix_s: row.received_unix_s },
            );
        }
        // From the latest that was read before the versions were: those that came meanwhile are left out as a whole.
        let mut chain = Vec::with_capacity(by_version.len());
        let mut next = by_version.remove(&row.latest);
        while let Some(version) = next {
            next = by_version.remove(&version.parent);
            chain.push(version);
        }
        chain.reverse();
        Ok(chain)
    }

    /// Deletes a client with everything it has, chunks too; answers whether it was there. Who is reading a large value of it is
    /// cut off.
    ///
    /// Its row goes first, in one durable batch, so nobody sees half a client; then the rest, in bounded steps. Until that is
    /// done a push that would create it anew is told Busy. Dropped in the middle, or cut off by a crash, the rest
    /// is removed by the next [`maintain`](Self::maintain) or [`open`](Self::open). A client whose rows are damaged is deleted
    /// too; chunks that no row names any more are then left for [`verify`](crate::verify()) to find.
    ///
    /// # Errors
    /// Those of the store; `Busy` when the client changed each of [`ATTEMPTS_MAX`] times. What was begun is completed
    /// later.
    pub async fn delete_client(&self, client: Uuid) -> Result<bool> {
        let shard = self.shard(client);
        let key = client_key(client);
        for _ in 0..ATTEMPTS_MAX {
            let Some(bytes) = shard.tenant.get(CLIENT, key).await? else { return Ok(false) };
            // A damaged row does not keep its client from being deleted; a staged snapshot that it names is then left.
            let row = ClientRow::from_bytes(&bytes);
            let mut batch = Batch::new();
            batch.check_equals(CLIENT, key, bytes).delete(CLIENT, key).delete(SNAPSHOT, key);
            batch.delete(DROPPED, key).delete(IMPORTED, key);
            batch.put(DELETING, key, deleting_to_bytes(REMOVING));
            if let Some(value) = row.and_then(|row| row.snapshot?.staged()) {
                shard.staging.discard(&mut batch, value, 0);
            }
            if shard.tenant.apply(batch, Durability::Durable).await?.is_applied() {
                shard.finish_deletion(client).await?;
                return Ok(true);
            }
        }
        Err(busy(&shard.tenant, "the client is being changed by too many at once; ask again"))
    }
}

impl Shard {
    /// Completes every deletion that was begun, and removes what imports left that began before this time.
    pub(crate) async fn finish_deletions(&self, begun_before_unix_s: u64) -> Result<()> {
        let mut rows = self.tenant.scan(ScanSpec::new(DELETING, KeyRange::all()));
        while let Some(row) = rows.next().await {
            let row = row?;
            // A mark that does not read is nobody's who is still at it.
            let begun_unix_s = deleting_from_bytes(&row.payload).unwrap_or(REMOVING);
            if let Some(client) = read_client_key(row.key.as_bytes()) {
                if begun_unix_s < begun_before_unix_s {
                    self.finish_deletion(client).await?;
                }
            } else {
                // A server that would not start for it helps nobody; `verify` names it too.
                tracing::error!(error = %damaged(&self.tenant, DELETING, row.key.as_bytes()));
            }
        }
        Ok(())
    }

    /// Removes what a client whose row is gone has left. Several may be at it at once: every step holds only while the
    /// client's mark says that its rows are to go, so none touches a client that was created anew or is being imported.
    pub(crate) async fn finish_deletion(&self, client: Uuid) -> Result<()> {
        let (key, mark) = (client_key(client), deleting_to_bytes(REMOVING));
        let Some(found) = self.tenant.get(DELETING, key).await? else { return Ok(()) };
        if found != mark {
            // From here on an import that is still at it is refused.
            let mut claim = Batch::new();
            claim.check_equals(DELETING, key, found).put(DELETING, key, mark.clone());
            if !self.tenant.apply(claim, Durability::Relaxed).await?.is_applied() {
                return Ok(());
            }
        }
        loop {
            let versions = ScanSpec::new(VERSION, KeyRange::prefix(key)).limit(DELETE_STEP_VERSIONS);
            let rows = self.tenant.scan(versions).collect().await?;
            let mut step = Batch::new();
            step.check_equals(DELETING, key, mark.clone());
            for row in &rows {
                self.delete_version(client, &row.key, &row.payload, &mut step);
            }
            // Relaxed: the mark stands until the last, durable step.
            let outcome = self.tenant.apply(step, Durability::Relaxed).await?;
            if let Outcome::Refused(_) = outcome {
                return Ok(());
            }
            if rows.len() < DELETE_STEP_VERSIONS {
                break;
            }
        }
        // Discarded at time 0, so that this takes them and leaves what others may still be reading.
        self.staging.sweep(Sweep::Before { discarded_ms: 1, writing_ms: 0 }).await?;
        let mut last = Batch::new();
        last.check_equals(DELETING, key, mark)
            .delete_prefix(VERSION, key)
            .delete_prefix(PARENT, key)
            .delete(SNAPSHOT, key)
            .delete(DELETING, key);
        self.tenant.apply(last, Durability::Durable).await?;
        Ok(())
    }

    fn delete_version(&self, client: Uuid, key: &Key, payload: &[u8], step: &mut Batch) {
        step.delete(VERSION, key);
        // A damaged row is removed all the same; what it referred to is left for `verify` to name.
        let Some(row) = VersionRow::from_bytes(payload) else { return };
        step.delete(PARENT, pair_key(client, row.version));
        if let Some(value) = row.value.staged() {
            self.staging.discard(step, value, 0);
        }
    }
}
