//! Shards: the tenants among which clients are spread.

#[cfg(feature = "upstream")]
use std::sync::Arc;

use seabed_kv::spread::Spread;
use seabed_kv::staged::{Staging, Sweep};
use seabed_kv::{Store, Tenant};
use uuid::Uuid;

use crate::error::{Result, damaged};
use crate::keys::{CLIENT, ClientRow, FORMAT_VERSION, INLINE_RESERVE_BYTES, LAYER, client_key};
#[cfg(feature = "upstream")]
use crate::upstream::Locks;

/// The layer, as its tenants show it.
pub const SPREAD: Spread =
    Spread { layer: LAYER, version: FORMAT_VERSION, data: "TaskChampion data", item: "client" };

/// One tenant of clients.
#[derive(Debug, Clone)]
pub(crate) struct Shard {
    pub(crate) tenant: Tenant,
    pub(crate) staging: Staging,
    #[cfg(feature = "upstream")]
    pub(crate) locks: Arc<Locks>,
}

impl Shard {
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self {
            staging: Staging::new(tenant.clone(), LAYER),
            tenant,
            #[cfg(feature = "upstream")]
            locks: Arc::default(),
        }
    }

    /// Removes what uploads have left, and completes deletions: while nobody else is at it.
    pub(crate) async fn tidy(&self) -> Result<()> {
        self.staging.sweep(Sweep::Everything).await?;
        self.finish_deletions(u64::MAX).await
    }

    /// The longest value that is kept in a row.
    pub(crate) fn inline_max(&self) -> usize {
        self.tenant.inline_limit().saturating_sub(INLINE_RESERVE_BYTES)
    }

    /// The row of a client.
    pub(crate) async fn client_row(&self, client: Uuid) -> Result<Option<ClientRow>> {
        let key = client_key(client);
        let Some(row) = self.tenant.get(CLIENT, key).await? else { return Ok(None) };
        ClientRow::from_bytes(&row).map(Some).ok_or_else(|| damaged(&self.tenant, CLIENT, &key))
    }
}

/// Opens every shard of the store, making those of a new store.
pub(crate) async fn open(store: &Store) -> Result<Vec<Shard>> {
    Ok(SPREAD.open(store).await?.into_iter().map(Shard::new).collect())
}

/// How many shards the store has; `None` when it holds nothing of this layer. Makes nothing.
///
/// # Errors
/// Those of the store; `Unsupported` for data of a later version; `Corrupt` when the first shard is missing or does not say.
pub async fn shard_count(store: &Store) -> Result<Option<u16>> {
    SPREAD.count(store).await
}

/// Whether this layer keeps its data in the tenant of that id: `taskchampion-` and two digits.
///
/// ```
/// assert!(seabed_taskchampion::is_ours("taskchampion-00"));
/// assert!(!seabed_taskchampion::is_ours("taskchampion-0") && !seabed_taskchampion::is_ours("sds"));
/// ```
pub fn is_ours(tenant_id: &str) -> bool {
    SPREAD.number(tenant_id).is_some()
}

/// Which of `shards` a client's rows are in.
pub(crate) fn shard_of(client: Uuid, shards: usize) -> usize {
    seabed_kv::spread::shard_of(client.as_bytes(), shards)
}
