#![doc = include_str!("crate.md")]

mod clients;
#[cfg(any(feature = "http", feature = "upstream"))]
mod clock;
mod error;
#[cfg(feature = "http")]
mod http;
mod inspect;
mod keys;
#[cfg(feature = "move")]
mod original;
mod placement;
mod protocol;
mod retention;
mod rules;
mod shard;
mod snapshot;
#[cfg(feature = "upstream")]
mod upstream;
mod value;
mod verify;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seabed_kv::Store;
use seabed_kv::staged::Sweep;
use uuid::Uuid;

use shard::Shard;

pub use clients::{ClientInfo, SnapshotInfo, VersionInfo};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "http")]
pub use http::{Environment, router, router_with};
pub use inspect::decode_row;
#[cfg(feature = "move")]
pub use original::{
    ExportReport, ImportReport, ORIGINAL_FILE, Progress, REFUSED_MAX, Refused, Totals, check_original,
    check_original_postgres, original_file,
};
pub use placement::{CHUNK_CATEGORY, Placement, is_bookkeeping, place};
pub use protocol::{ATTEMPTS_MAX, ChildVersion, GetSnapshot};
pub use retention::{PruneReport, Pruned, RETENTION_MS, Skipped};
pub use rules::{AddSnapshot, AddVersion, Committed};
pub use shard::{SPREAD, is_ours, shard_count};
pub use snapshot::{Ignored, Urgency};
pub use value::{Upload, UploadWriter, Value};
pub use verify::{FINDINGS_MAX, VerifyReport, verify, verify_in};

#[cfg(feature = "http")]
#[doc(hidden)]
pub use http::fuzz_headers;
#[doc(hidden)]
pub use keys::fuzz_rows;

/// How long a snapshot that was replaced stays for those who are reading it, in milliseconds.
pub const DISCARDED_MS_MAX: u64 = 15 * 60 * 1_000;

/// How long an upload may take before what has arrived of it is removed, in milliseconds.
pub const WRITING_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// How long the import of one client may take before what it left is removed, in milliseconds, where several processes share a store.
pub const IMPORTING_MS_MAX: u64 = 60 * 60 * 1_000;

/// What the server's owner decides. The defaults are the original server's.
///
/// ```
/// use seabed_taskchampion::Config;
///
/// let config = Config { create_clients: false, ..Config::default() };
/// assert_eq!((config.snapshot_versions, config.snapshot_days), (100, 14));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// After how many versions since the last one a snapshot is asked for.
    pub snapshot_versions: u32,
    /// After how many days since the last one a snapshot is asked for.
    pub snapshot_days: u32,
    /// Whether a push under an unknown client id creates the client.
    pub create_clients: bool,
    /// Which client ids are let in over HTTP; `None` for all.
    pub allowed_clients: Option<BTreeSet<Uuid>>,
    /// The longest version or snapshot taken over HTTP, decoded, in bytes; exactly that is taken.
    pub body_bytes_max: u64,
    /// How many days a version is kept once its client's snapshot covers it; `None` for ever, as the original does.
    pub retention_days: Option<u32>,
    /// How long a client may be silent in the middle of a body, in milliseconds. The whole body may take any time.
    pub silence_ms_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            snapshot_versions: 100,
            snapshot_days: 14,
            create_clients: true,
            allowed_clients: None,
            body_bytes_max: 100 * 1024 * 1024,
            retention_days: None,
            silence_ms_max: 60_000,
        }
    }
}

/// Every client's history and snapshot, in a store. Cheap to clone; every clone is the same.
///
/// Its futures are `Send`, need no runtime, and may be dropped at any await: a write takes effect as a whole or not at all.
#[derive(Clone)]
pub struct TaskChampion(Arc<Inner>);

struct Inner {
    config: Config,
    shards: Vec<Shard>,
    /// Whether other processes use the same tenants.
    shared: bool,
    /// When versions are to be dropped next.
    retention_due_unix_ms: AtomicU64,
}

impl TaskChampion {
    /// Opens the layer's tenants in `store`, creating them in a new one: one, or sixty-four where several processes
    /// [share](Store::is_shared) it. Removes uploads that never ended and completes deletions that were cut off, so a store is opened
    /// once: a second opening would remove the first one's uploads in progress. On a full disk [`maintain`](Self::maintain) does it later. In a shared store that is left to
    /// [`maintain`](Self::maintain), because they may be another's that goes on; any number of processes open it.
    ///
    /// # Errors
    /// Those of the store; `Unsupported` for data of a later version, naming both versions; `Corrupt` for a damaged row.
    pub async fn open(store: &Store, config: Config) -> Result<Self, Error> {
        let shards = shard::open(store).await?;
        let shared = store.is_shared();
        if !shared {
            for shard in &shards {
                match shard.tidy().await {
                    // What nobody refers to takes room, and no more: without room to remove it, reads are served all the same.
                    Err(error) if error.is_disk_full() => tracing::error!(
                        %error,
                        tenant = %shard.tenant.id(),
                        "what uploads and deletions have left is not removed; it is tried again each minute"
                    ),
                    tidied => tidied?,
                }
            }
        }
        Ok(Self(Arc::new(Inner { config, shards, shared, retention_due_unix_ms: AtomicU64::new(0) })))
    }

    /// Removes snapshots that were replaced fifteen minutes ago, uploads that were given up, and those that began a day ago and never
    /// ended, in bounded steps, and completes deletions that were cut off. With [`Config::retention_days`] it also drops, once an hour, the
    /// versions that are older and that a snapshot covers. Answers how many values it removed. To be called each minute; costs
    /// a look at the list of such values. May be dropped at any await; the next call goes on.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn maintain(&self, now_unix_ms: u64) -> Result<u64, Error> {
        let due = Sweep::Before {
            discarded_ms: now_unix_ms.saturating_sub(DISCARDED_MS_MAX),
            writing_ms: now_unix_ms.saturating_sub(WRITING_MS_MAX),
        };
        // Another process may be in the middle of an import.
        let begun_before_unix_s =
            if self.0.shared { now_unix_ms.saturating_sub(IMPORTING_MS_MAX) / 1_000 } else { u64::MAX };
        let mut removed = 0;
        for shard in self.shards() {
            removed += shard.staging.sweep(due).await?;
            shard.finish_deletions(begun_before_unix_s).await?;
        }
        self.retain(now_unix_ms).await?;
        Ok(removed)
    }

    /// Drops what is to be dropped, when it is time for that.
    async fn retain(&self, now_unix_ms: u64) -> Result<(), Error> {
        let Some(days) = self.config().retention_days else { return Ok(()) };
        let due = &self.0.retention_due_unix_ms;
        if now_unix_ms < due.load(Ordering::Relaxed) {
            return Ok(());
        }
        let before = retention::before(now_unix_ms / 1_000, days);
        let report = self.prune(None, before, now_unix_ms).await?;
        // Only now: what was cut off goes on at the next call.
        match &report.stopped {
            None => due.store(now_unix_ms.saturating_add(RETENTION_MS), Ordering::Relaxed),
            Some(error) => tracing::warn!(error, "dropping versions stopped, and goes on in a minute"),
        }
        if report.versions > 0 {
            let (versions, bytes) = (report.versions, report.version_bytes);
            tracing::info!(
                versions,
                bytes,
                clients = report.clients.len(),
                "dropped versions that snapshots cover"
            );
        }
        for skipped in report.skipped {
            // An id is a credential: eight characters tell one client from another.
            let client: String = skipped.client.simple().to_string().chars().take(8).collect();
            tracing::error!(client, error = skipped.why, "no more versions are dropped of a damaged client");
        }
        Ok(())
    }

    /// What it was opened with.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn shards(&self) -> &[Shard] {
        &self.0.shards
    }

    pub(crate) fn shard(&self, client: Uuid) -> &Shard {
        let number = shard::shard_of(client, self.0.shards.len());
        #[allow(
            clippy::indexing_slicing,
            reason = "a hash modulo the length, and open makes at least one shard"
        )]
        &self.0.shards[number]
    }
}

impl fmt::Debug for TaskChampion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskChampion")
            .field("config", &self.0.config)
            .field("shards", &self.0.shards.len())
            .finish()
    }
}
