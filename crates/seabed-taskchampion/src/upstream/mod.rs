//! The original server's storage traits over our rows, so that its own `Server`, and whatever else was written for them, runs on
//! Seabed.
//!
//! 1. `txn` takes the client's lock and holds it until the transaction is dropped.
//! 2. Reads go to the store; writes stay in the transaction, which alone sees them.
//! 3. `commit` stages what is too long for a row, then applies one durable batch, on condition that the client's row is still
//!    the one that was read: the lock keeps transactions in order, the condition keeps the chain whole whoever else writes.

mod locks;
mod txn;

use taskchampion_sync_server_core::{Storage, StorageTxn};
use uuid::Uuid;

use crate::TaskChampion;
use txn::Txn;

pub(crate) use locks::Locks;

/// The original's storage, for its `Server` and for programs written against its traits (feature `upstream`).
///
/// Rows are the same as those of this crate's own requests, so a client may be served by both. Transactions of one client wait
/// for each other, in the order of the calls, those of different clients never. One that is dropped without commit leaves
/// nothing; a commit that is dropped in the middle takes effect as a whole or not at all, before the client's next transaction
/// begins. Futures need no runtime.
///
/// - `commit` answers `Busy`, and nothing was changed, when this crate's own requests, an administrator or another process changed the client
///   since the transaction read it: they take no lock. Begin a new transaction.
/// - One transaction is one batch: at most 8 MiB of rows, where a value beyond the tenant's inline limit counts as little as its
///   reference. Until the commit all of it is in memory.
/// - Time is the system's. Snapshots keep the time they are given, in whole seconds, if it is not before 1970.
/// - `new_client` creates whatever [`Config::create_clients`](crate::Config) says: that is a rule of servers.
/// - What this crate refuses is an [`Error`](crate::Error), found by `downcast_ref`.
///
/// ```
/// use seabed_taskchampion::{Config, TaskChampion};
/// use taskchampion_sync_server_core::{AddVersionResult, Server, ServerConfig};
/// use uuid::Uuid;
///
/// # pollster::block_on(async {
/// let taskchampion = TaskChampion::open(&seabed_kv::Store::memory(), Config::default()).await?;
/// let server = Server::new(ServerConfig::default(), taskchampion.clone());
/// let client = Uuid::new_v4();
///
/// // The original's HTTP layer creates clients like this.
/// let mut txn = server.txn(client).await?;
/// txn.new_client(Uuid::nil()).await?;
/// txn.commit().await?;
/// drop(txn);
///
/// let (added, _) = server.add_version(client, Uuid::nil(), b"encrypted operations".to_vec()).await?;
/// let AddVersionResult::Ok(version) = added else { panic!("the first version") };
/// assert_eq!(taskchampion.versions(client).await?[0].version, version);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[async_trait::async_trait]
impl Storage for TaskChampion {
    async fn txn(&self, client_id: Uuid) -> anyhow::Result<Box<dyn StorageTxn + '_>> {
        let shard = self.shard(client_id).clone();
        let lock = shard.locks.lock(client_id).await;
        lock.settle(&shard.tenant).await?;
        Ok(Box::new(Txn::new(shard, client_id, lock)))
    }
}
