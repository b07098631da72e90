//! The storage id: under which name this store is known to the clients of automerge-repo.

use seabed_kv::{Batch, Durability};

use crate::DocStore;
use crate::error::{Result, busy, damaged};
use crate::keys::{IDENTITY, identity_from_bytes, identity_to_bytes};
use crate::limits::ATTEMPTS_MAX;

impl DocStore {
    /// The sixteen bytes of the store's storage id. The first call makes them, of what `fresh` gives, and stores them durably; then
    /// they stay. They go along with backups and copies: what clients remember of this store is true of those too.
    ///
    /// # Errors
    /// Those of the store; `Corrupt` for a damaged row.
    ///
    /// ```
    /// use seabed_automerge::DocStore;
    ///
    /// # pollster::block_on(async {
    /// let store = DocStore::open(&seabed_kv::Store::memory()).await?;
    /// assert_eq!(store.storage_id(|| [7; 16]).await?, [7; 16]);
    /// assert_eq!(store.storage_id(|| [8; 16]).await?, [7; 16]);
    /// # Ok::<(), seabed_kv::Error>(())
    /// # })?;
    /// # Ok::<(), seabed_kv::Error>(())
    /// ```
    pub async fn storage_id(&self, fresh: impl FnOnce() -> [u8; 16]) -> Result<[u8; 16]> {
        let tenant = &self.first_shard().tenant;
        let mut fresh = Some(fresh);
        for _ in 0..ATTEMPTS_MAX {
            if let Some(row) = tenant.get(IDENTITY, b"").await? {
                return identity_from_bytes(&row).ok_or_else(|| damaged(tenant, IDENTITY, b""));
            }
            let Some(fresh) = fresh.take() else { continue };
            let mut batch = Batch::new();
            batch.check_absent(IDENTITY, b"").put(IDENTITY, b"", identity_to_bytes(fresh()));
            // Refused when another has been quicker: then the row is read.
            tenant.apply(batch, Durability::Durable).await?;
        }
        Err(busy(tenant, "the storage id keeps changing; open the store again"))
    }
}
