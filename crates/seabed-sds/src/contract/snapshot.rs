//! Contract (B): snapshots and history updates, as nim-sds has them since 0.3.

use async_trait::async_trait;
use seabed_sds_core::snapshot::{ChannelData, ChannelMeta, HistoryUpdate};
use seabed_sds_core::{ChannelId, MessageId};

use super::store::StoreResult;

/// A backend of five operations; one written for nim-sds' later form of four implements those.
///
/// At the end of an operation the manager calls [`save_channel_meta`](SnapshotPersistence::save_channel_meta) with the complete
/// fast-changing state, and then, when there is something in it, [`update_history`](SnapshotPersistence::update_history) with what came
/// into the log and what left it. At most one of each an operation; none when nothing changed. A backend may join the two in one
/// transaction: they are for one channel, and the second follows at once or never.
///
/// # What it cannot promise
///
/// - *Two writes without a joint commit.* A crash between them after a delivery loses a message: the snapshot has it waiting no
///   longer, the history does not have it yet. [`ChannelStore`](super::ChannelStore) has no such gap.
/// - *Less is kept.* The ids that were ever delivered, those that were marked as met, the ids of sync messages, first-missed times, counts
///   of possible acknowledgements and of repair requests, and hints of received messages are not part of a snapshot. After a restart
///   ids and filter are rebuilt from the history.
/// - *Its cost is the state's.* Each operation writes every message that is not acknowledged.
///
/// # Failures
///
/// Memory wins ([`BestEffort`](crate::ReleasePolicy::BestEffort), the default for this contract): a snapshot that could not be saved is
/// made up for by the next one; a history update that failed is merged with the next, the latest word on an id winning, and the next
/// operation calls again even when it changed nothing itself. Failures of load and drop surface.
///
/// The general obligations are those of [`contract`](super).
///
/// ```
/// use seabed_sds::contract::{SnapshotPersistence, StoreResult, async_trait};
/// use seabed_sds::core::ChannelId;
/// use seabed_sds::core::snapshot::{ChannelData, ChannelMeta, HistoryUpdate};
///
/// #[derive(Debug)]
/// struct Nowhere;
///
/// #[async_trait]
/// impl SnapshotPersistence for Nowhere {
///     async fn save_channel_meta(&self, _: &ChannelId, _: &ChannelMeta) -> StoreResult<()> {
///         Ok(())
///     }
///     async fn update_history(&self, _: &ChannelId, _: &HistoryUpdate) -> StoreResult<()> {
///         Ok(())
///     }
///     async fn load_channel(&self, _: &ChannelId) -> StoreResult<ChannelData> {
///         Ok(ChannelData::default())
///     }
///     async fn drop_channel(&self, _: &ChannelId) -> StoreResult<()> {
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait SnapshotPersistence: Send + Sync {
    /// Replaces the snapshot of a channel, whole.
    ///
    /// # Errors
    /// The backend's, in its words.
    async fn save_channel_meta(&self, channel: &ChannelId, meta: &ChannelMeta) -> StoreResult<()>;

    /// Puts messages into the history of a channel and takes others out, all of it or nothing.
    ///
    /// # Errors
    /// The backend's, in its words.
    async fn update_history(&self, channel: &ChannelId, update: &HistoryUpdate) -> StoreResult<()>;

    /// The snapshot and the history, oldest first; of a channel that is not there both empty.
    ///
    /// # Errors
    /// The backend's, in its words. A row that does not read is one.
    async fn load_channel(&self, channel: &ChannelId) -> StoreResult<ChannelData>;

    /// Removes everything of a channel; Ok when there is nothing.
    ///
    /// # Errors
    /// The backend's, in its words.
    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()>;

    /// Notes what helps to fetch a message from elsewhere: called at a send, before the snapshot is saved, once for each entry of the
    /// causal history for which the application gave a hint. A failure is logged and nothing more.
    ///
    /// # Errors
    /// The backend's, in its words.
    async fn set_retrieval_hint(&self, message: &MessageId, hint: &[u8]) -> StoreResult<()> {
        let _ = (message, hint);
        Ok(())
    }
}
