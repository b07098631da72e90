//! Retention: the oldest versions go once a snapshot covers them and they are old enough. Whoever still needed one is told that it
//! is gone, and begins from the snapshot.

use seabed_kv::staged::Staged;
use seabed_kv::{Durability, Error, ErrorKind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Result, damaged};
use crate::keys::{
    ClientRow, DROPPED, DroppedRow, PARENT, SNAPSHOT, SnapshotMeta, Stored, VERSION, VersionRow, client_key,
    pair_key, parent_from_bytes, snapshot_from_bytes,
};
use crate::protocol::ATTEMPTS_MAX;
use crate::rules;
use crate::shard::Shard;
use crate::value::Value;
use crate::{DISCARDED_MS_MAX, TaskChampion};

/// How often [`maintain`](TaskChampion::maintain) looks for versions to drop, in milliseconds.
pub const RETENTION_MS: u64 = 60 * 60 * 1_000;

/// How many versions one batch drops.
const DROP_STEP_VERSIONS: usize = 256;

const DAY_S: u64 = 86_400;

/// What was dropped, or could be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneReport {
    /// How many versions, of all clients.
    pub versions: u64,
    /// How many bytes they have.
    pub version_bytes: u64,
    /// The clients that have any.
    pub clients: Vec<Pruned>,
    /// Clients whose rows are damaged; nothing more of them is dropped.
    pub skipped: Vec<Skipped>,
    /// Why it ended before the last client, when the store failed after something was dropped; the rest is to be done again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// What was dropped of one client, or could be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Its id.
    pub client: Uuid,
    /// How many versions.
    pub versions: u64,
    /// How many bytes they have.
    pub version_bytes: u64,
}

/// A client that was left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its id.
    pub client: Uuid,
    /// Why.
    pub why: String,
}

/// A version that a snapshot covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Covered {
    pub(crate) version: Uuid,
    pub(crate) parent: Uuid,
    pub(crate) bytes: u64,
    pub(crate) staged: Option<Staged>,
}

/// What is due: versions that came before the one time, as it is at the other.
#[derive(Debug, Clone, Copy)]
struct Due {
    before_unix_s: u64,
    now_unix_ms: u64,
}

impl Due {
    /// Whether nobody can be reading the snapshot before this one any more: what was replaced is swept as late.
    fn covers(self, snapshot: &SnapshotMeta) -> bool {
        let replaced_unix_ms = snapshot.unix_s.saturating_mul(1_000);
        replaced_unix_ms < self.now_unix_ms.saturating_sub(DISCARDED_MS_MAX)
    }
}

/// Up to when a version must have come to be older than that many days.
pub(crate) fn before(now_unix_s: u64, days: u32) -> u64 {
    now_unix_s.saturating_sub(u64::from(days) * DAY_S)
}

impl TaskChampion {
    /// What [`prune`](Self::prune) would drop at that time, of one client or of all. Changes nothing.
    ///
    /// # Errors
    /// Those of the store's reads.
    pub async fn prunable(
        &self,
        only: Option<Uuid>,
        before_unix_s: u64,
        now_unix_ms: u64,
    ) -> Result<PruneReport> {
        self.each_client(only, Due { before_unix_s, now_unix_ms }, false).await
    }

    /// Drops the versions that came before `before_unix_s` and that the snapshot of their client covers, of one client or of
    /// all; oldest first, in bounded batches. The snapshot's own version stays, and everything after it; a client without a
    /// snapshot loses nothing, and neither does one whose snapshot came less than [`DISCARDED_MS_MAX`] ago,
    /// because somebody may still be reading the one before it and then ask for what follows that. The snapshot is read through
    /// before anything is dropped. Asked for the child of a version that is gone, the server answers that it is
    /// gone, as it does for one it never knew.
    ///
    /// ```
    /// # pollster::block_on(async {
    /// use seabed_taskchampion::{Config, TaskChampion};
    ///
    /// let taskchampion = TaskChampion::open(&seabed_kv::Store::memory(), Config::default()).await?;
    /// let (now_unix_s, days) = (1_700_000_000, 180);
    /// let report = taskchampion.prune(None, now_unix_s - days * 86_400, now_unix_s * 1_000).await?;
    /// assert_eq!(report.versions, 0);
    /// # Ok::<(), seabed_kv::Error>(())
    /// # })?;
    /// # Ok::<(), seabed_kv::Error>(())
    /// ```
    ///
    /// May run beside a server, and be dropped at any await: each batch leaves a whole chain behind. The bytes of large
    /// versions stay readable for fifteen minutes, for those who are reading them.
    ///
    /// # Errors
    /// Those of the store, while nothing was dropped yet; after that the report says what was, and why it stopped. A client whose rows or
    /// snapshot are damaged is skipped, and named in the report.
    pub async fn prune(
        &self,
        only: Option<Uuid>,
        before_unix_s: u64,
        now_unix_ms: u64,
    ) -> Result<PruneReport> {
        self.each_client(only, Due { before_unix_s, now_unix_ms }, true).await
    }

    async fn each_client(&self, only: Option<Uuid>, due: Due, drops: bool) -> Result<PruneReport> {
        let clients = match only {
            Some(client) => vec![client],
            None => self.client_ids().await?,
        };
        let mut report = PruneReport::default();
        for client in clients {
            let shard = self.shard(client);
            let mut pruned = Pruned { client, ..Pruned::default() };
            let ended = if drops {
                shard.prune(&mut pruned, due).await
            } else {
                shard.prunable(client, due).await.map(|found| pruned = found)
            };
            // Also what was dropped before something failed.
            if pruned.versions > 0 {
                report.versions += pruned.versions;
                report.version_bytes += pruned.version_bytes;
                report.clients.push(pruned);
            }
            match ended {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    report.skipped.push(Skipped { client, why: error.to_string() });
                }
                Err(error) if report.versions > 0 && drops => {
                    report.stopped = Some(error.to_string());
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }
}

impl Pruned {
    fn of(client: Uuid, covered: &[Covered]) -> Self {
        let version_bytes = covered.iter().map(|version| version.bytes).sum();
        Self { client, versions: covered.len() as u64, version_bytes }
    }

    fn add(&mut self, covered: &[Covered]) {
        let more = Self::of(self.client, covered);
        self.versions += more.versions;
        self.version_bytes += more.version_bytes;
    }
}

impl Shard {
    /// What was dropped of a client so far.
    pub(crate) async fn dropped(&self, client: Uuid) -> Result<Option<DroppedRow>> {
        let key = client_key(client);
        let Some(row) = self.tenant.get(DROPPED, key).await? else { return Ok(None) };
        DroppedRow::from_bytes(&row).map(Some).ok_or_else(|| damaged(&self.tenant, DROPPED, &key))
    }

    async fn prunable(&self, client: Uuid, due: Due) -> Result<Pruned> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(row) = self.client_row(client).await? else { break };
            if let Some(covered) = self.covered(client, &row, due).await? {
                return Ok(Pruned::of(client, &covered));
            }
        }
        Ok(Pruned::default())
    }

    /// Drops what is due of a client, and counts it batch by batch: it is gone whatever happens to the next one.
    async fn prune(&self, pruned: &mut Pruned, due: Due) -> Result<()> {
        let client = pruned.client;
        // Every push begins it anew; who pushes without a pause is pruned another time.
        'changed: for _ in 0..ATTEMPTS_MAX {
            let Some(mut row) = self.client_row(client).await? else { break };
            let Some(covered) = self.covered(client, &row, due).await? else { continue };
            let mut dropped = self.dropped(client).await?;
            for step in covered.chunks(DROP_STEP_VERSIONS) {
                let mut decision = rules::drop_versions(client, &row, dropped, step);
                for value in step.iter().filter_map(|version| version.staged) {
                    self.staging.discard(&mut decision.batch, value, due.now_unix_ms);
                }
                if !self.tenant.apply(decision.batch, Durability::Durable).await?.is_applied() {
                    continue 'changed;
                }
                pruned.add(step);
                (row, dropped) = (decision.row, Some(decision.dropped));
            }
            break;
        }
        Ok(())
    }

    /// The versions that the client's snapshot covers and that are due, oldest first; `None` when the client changed meanwhile.
    /// `row` is what was read of the client.
    async fn covered(&self, client: Uuid, row: &ClientRow, due: Due) -> Result<Option<Vec<Covered>>> {
        let before_unix_s = due.before_unix_s;
        let Some(snapshot) = row.snapshot.filter(|snapshot| due.covers(snapshot)) else {
            return Ok(Some(Vec::new()));
        };
        let dropped = self.dropped(client).await?;
        if !self.first_is_due(client, snapshot.version, dropped, before_unix_s).await? {
            return Ok(Some(Vec::new()));
        }
        // Walked from the latest version to the first one, because only what lies on the way from the snapshot's version back is known to
        // be covered, and only a chain that is whole may lose its beginning: a gap would look like one that was dropped.
        let (mut before_snapshot, mut passed, mut walked) = (Vec::new(), false, 0_u64);
        let mut version = row.latest;
        while walked <= row.versions {
            let key = pair_key(client, version);
            let Some(parent) = self.tenant.get(PARENT, key).await? else { break };
            let parent = parent_from_bytes(&parent).ok_or_else(|| damaged(&self.tenant, PARENT, &key))?;
            if passed {
                before_snapshot.push((version, parent));
            }
            passed |= version == snapshot.version;
            walked += 1;
            version = parent;
        }
        let ends_right = dropped.is_none_or(|dropped| dropped.last == version);
        let mut covered = Vec::new();
        let mut whole = walked == row.versions && ends_right;
        for (version, parent) in before_snapshot.into_iter().rev() {
            let key = pair_key(client, parent);
            let Some(found) = self.tenant.get(VERSION, key).await? else {
                whole = false;
                break;
            };
            let found = VersionRow::from_bytes(&found).filter(|found| found.version == version);
            let found = found.ok_or_else(|| damaged(&self.tenant, VERSION, &key))?;
            if found.received_unix_s >= before_unix_s {
                break;
            }
            covered.push(Covered {
                version,
                parent,
                bytes: found.value.bytes(),
                staged: found.value.staged(),
            });
        }
        let damage = if whole {
            // What is dropped is nowhere but in the snapshot afterwards.
            let read = if covered.is_empty() { Ok(()) } else { self.read_through(client, &snapshot).await };
            match read {
                Ok(()) => return Ok(Some(covered)),
                Err(error) if error.kind() == ErrorKind::Corrupt => error,
                Err(error) => return Err(error),
            }
        } else {
            let message = "a client's chain is not whole; run `seabed verify`";
            Error::new(ErrorKind::Corrupt, message).in_tenant(self.tenant.id())
        };
        if self.client_row(client).await?.as_ref() != Some(row) {
            return Ok(None);
        }
        Err(damage)
    }

    /// Reads a snapshot from its beginning to its end, part by part.
    ///
    /// # Errors
    /// `Corrupt` when it is not all there, or is of another version, as also when it was replaced meanwhile.
    async fn read_through(&self, client: Uuid, snapshot: &SnapshotMeta) -> Result<()> {
        let Some(value) = snapshot.staged() else {
            let row = self.tenant.get(SNAPSHOT, client_key(client)).await?;
            return match row.as_deref().and_then(snapshot_from_bytes) {
                Some((version, bytes))
                    if version == snapshot.version && bytes.len() as u64 == snapshot.bytes =>
                {
                    Ok(())
                }
                _ => Err(self.unreadable_snapshot()),
            };
        };
        let mut value = Value::new(Stored::Staged(value), &self.staging);
        let mut bytes = 0_u64;
        loop {
            match value.next().await {
                Ok(Some(part)) => bytes = bytes.saturating_add(part.len() as u64),
                Ok(None) if bytes == snapshot.bytes => return Ok(()),
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                Ok(None) | Err(_) => return Err(self.unreadable_snapshot()),
            }
        }
    }

    fn unreadable_snapshot(&self) -> Error {
        let message = "a client's snapshot cannot be read whole; run `seabed verify`";
        Error::new(ErrorKind::Corrupt, message).in_tenant(self.tenant.id())
    }

    /// Whether there may be something to drop, from a look at the first version alone: most clients, most of the time, have nothing.
    async fn first_is_due(
        &self,
        client: Uuid,
        snapshot: Uuid,
        dropped: Option<DroppedRow>,
        before_unix_s: u64,
    ) -> Result<bool> {
        let key = pair_key(client, dropped.map_or(Uuid::nil(), |dropped| dropped.last));
        let Some(first) = self.tenant.get(VERSION, key).await? else {
            // A chain may also begin elsewhere, where a replica moved here from another server.
            return Ok(true);
        };
        let first = VersionRow::from_bytes(&first).ok_or_else(|| damaged(&self.tenant, VERSION, &key))?;
        Ok(first.received_unix_s < before_unix_s && first.version != snapshot)
    }
}
