//! Contract (A): many small calls, as nim-sds 0.2.4 had them.

use async_trait::async_trait;
use seabed_sds_core::snapshot::{
    ChannelData, IncomingMessage, IncomingRepairEntry, OutgoingRepairEntry, UnacknowledgedMessage,
};
use seabed_sds_core::{ChannelId, Message, MessageId};

use super::store::StoreResult;

/// A backend of thirteen small writes and a loader. One of the old form, whose calls returned nothing, answers Ok.
///
/// Each record that an operation changed is one call. Nothing groups the calls of one operation: a failure or a crash among them
/// leaves the channel torn, which is why contract (B), and then (C), replaced this one. What (B) cannot carry, this cannot either
/// ([`SnapshotPersistence`](super::SnapshotPersistence)).
///
/// A failure ends the operation at that call: send, receive, mark met, ensure, remove and reset answer
/// [`Persistence`](crate::Error::Persistence) with the backend's words; what is done periodically is logged and tried again.
///
/// The general obligations are those of [`contract`](super).
#[async_trait]
pub trait FineGrainedPersistence: Send + Sync {
    /// The channel's logical clock has moved.
    ///
    /// # Errors
    /// The backend's, in its words; so for every method.
    async fn save_lamport(&self, channel: &ChannelId, lamport: u64) -> StoreResult<()>;

    /// A message was delivered or sent.
    ///
    /// # Errors
    /// As [`save_lamport`](FineGrainedPersistence::save_lamport).
    async fn append_log_entry(&self, channel: &ChannelId, message: &Message) -> StoreResult<()>;

    /// A message has left the log.
    ///
    /// # Errors
    /// As [`save_lamport`](FineGrainedPersistence::save_lamport).
    async fn remove_log_entry(&self, channel: &ChannelId, message: &MessageId) -> StoreResult<()>;

    /// What helps to fetch a message from elsewhere, as the application said at a send.
    ///
    /// # Errors
    /// As [`save_lamport`](FineGrainedPersistence::save_lamport).
    async fn set_retrieval_hint(&self, message: &MessageId, hint: &[u8]) -> StoreResult<()>;

    /// A message was sent, or sent again.
    ///
    /// # Errors
    /// As [`save_lamport`](FineGrainedPersistence::save_lamport).
    async fn save_outgoing(&self, channel: &ChannelId, entry: &UnacknowledgedMessage) -> StoreResult<()>;

    /// A message was acknowledged, or given up.
    ///
    /// # Errors
    /// As [`save_lamport`](FineGrainedPersistence::save_lamport).
    async fn remove_outgoing(&self, channel: &ChannelId, message: &MessageId) -> StoreResult<()>;

    /// A message waits for others, or for fewer than before.
    ///
    /// # Errors
    /// As [`save_lamport`](FineGrainedPersistence::save_lamport).
    async fn save_incoming(&self, channel: &ChannelId, entry: &IncomingMessage) -> StoreResult<()>;

    /// A message waits no longer.
    ///
    /// # Errors
    /// As [`save_lamport`](FineGrainedPersistence::save_lamport).
    async fn remove_incoming(&self, channel: &ChannelId, message: &MessageId) -> StoreResult<()>;

    /// A message is missing and will be asked for.
    ///
    /// # Errors
    /// As [`save_lamport`](FineGrainedPersistence::save_lamport).
    async fn save_outgoing_repair(
        &self,
        channel: &ChannelId,
        message: &MessageId,
        entry: &OutgoingRepairEntry,
    ) -> StoreResult<()>;

    /// A message is missing no longer, or was given up.
    ///
    /// # Errors
    /// As [`save_lamport`](FineGrainedPersistence::save_lamport).
    async fn remove_outgoing_repair(&self, channel: &ChannelId, message: &MessageId) -> StoreResult<()>;

    /// Somebody misses a message that is here.
    ///
    /// # Errors
    /// As [`save_lamport`](FineGrainedPersistence::save_lamport).
    async fn save_incoming_repair(
        &self,
        channel: &ChannelId,
        message: &MessageId,
        entry: &IncomingRepairEntry,
    ) -> StoreResult<()>;

    /// That request was answered, by us or by others.
    ///
    /// # Errors
    /// As [`save_lamport`](FineGrainedPersistence::save_lamport).
    async fn remove_incoming_repair(&self, channel: &ChannelId, message: &MessageId) -> StoreResult<()>;

    /// Removes everything of a channel, in one transaction; Ok when there is nothing.
    ///
    /// # Errors
    /// As [`save_lamport`](FineGrainedPersistence::save_lamport).
    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()>;

    /// Everything of a channel, its history oldest first; of one that is not there nothing.
    ///
    /// # Errors
    /// As [`save_lamport`](FineGrainedPersistence::save_lamport). A row that does not read is one.
    async fn load_all_for_channel(&self, channel: &ChannelId) -> StoreResult<ChannelData>;
}
