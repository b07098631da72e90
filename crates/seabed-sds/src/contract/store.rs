//! Contract (C): one batch of small changes an operation.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use seabed_sds_core::{Change, ChannelId, MessageId, Record};

/// A store of channels. Ours is [`KernelStore`](crate::KernelStore).
///
/// The manager makes at most one [`commit`](ChannelStore::commit) an operation, none when nothing changed and none on a channel where
/// nothing happens. What it releases rests on the commit's answer.
///
/// The general obligations are those of [`contract`](super); besides:
///
/// 1. A batch is applied whole or not at all. Its size follows the change, never the state, except one that
///    [replaces](ChannelBatch::replaces) the channel.
/// 2. [`load`](ChannelStore::load) gives every row that was put and not deleted since, in any order.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::Mutex;
///
/// use seabed_sds::contract::{ChannelBatch, ChannelStore, StoreResult, async_trait};
/// use seabed_sds::core::{Change, ChannelId, Key, Record};
///
/// #[derive(Debug, Default)]
/// struct Shelf(Mutex<BTreeMap<ChannelId, BTreeMap<Key, Record>>>);
///
/// #[async_trait]
/// impl ChannelStore for Shelf {
///     async fn commit(&self, channel: &ChannelId, batch: &ChannelBatch) -> StoreResult<()> {
///         let mut shelf = self.0.lock().unwrap();
///         let rows = shelf.entry(channel.clone()).or_default();
///         if batch.replaces {
///             rows.clear();
///         }
///         for change in &batch.changes {
///             match change {
///                 Change::Put(record) => drop(rows.insert(record.key(), record.clone())),
///                 Change::Delete(key) => drop(rows.remove(key)),
///             }
///         }
///         Ok(())
///     }
///     async fn load(&self, channel: &ChannelId) -> StoreResult<Vec<Record>> {
///         Ok(self.0.lock().unwrap().get(channel).into_iter().flat_map(|rows| rows.values().cloned()).collect())
///     }
///     async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
///         self.0.lock().unwrap().remove(channel);
///         Ok(())
///     }
///     async fn list(&self) -> StoreResult<Vec<ChannelId>> {
///         Ok(self.0.lock().unwrap().keys().cloned().collect())
///     }
/// }
/// ```
#[async_trait]
pub trait ChannelStore: Send + Sync {
    /// Applies a batch to a channel, whole or not at all, making the channel when it is not there.
    ///
    /// # Errors
    /// The store's, in its words. Whether the batch was applied may be unknown; the manager then loads the channel again, and when it finds
    /// the batch there commits it once more (Strict), or commits the same rows again (`BestEffort`).
    async fn commit(&self, channel: &ChannelId, batch: &ChannelBatch) -> StoreResult<()>;

    /// Every row of a channel; none when it is not there.
    ///
    /// # Errors
    /// The store's, in its words. A row that does not read is one.
    async fn load(&self, channel: &ChannelId) -> StoreResult<Vec<Record>>;

    /// Removes every row of a channel, all or none; Ok when there is none.
    ///
    /// # Errors
    /// The store's, in its words.
    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()>;

    /// The channels that have rows, in ascending order. A backend of another contract knows only those that it was asked for.
    ///
    /// # Errors
    /// The store's, in its words.
    async fn list(&self) -> StoreResult<Vec<ChannelId>>;

    /// The manager has the channel in memory no more, and loads it before it commits to it again: what is remembered of it beside its
    /// rows can go. Nothing by default.
    fn forget(&self, channel: &ChannelId) {
        let _ = channel;
    }
}

/// What one operation changed in a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelBatch {
    /// Which operation of the manager this is; rises with each.
    pub operation: u64,
    /// Whether the channel's rows are these and no others: written when too much had piled up behind a store that failed.
    pub replaces: bool,
    /// The rows that changed, each once.
    pub changes: Vec<Change>,
    /// Hints that the application gave for the causal history of the message that is being sent. They are in `changes` too; the other
    /// contracts have a call of their own for them.
    pub hints: Vec<(MessageId, Arc<[u8]>)>,
}

/// The result of a store's calls.
pub type StoreResult<T> = Result<T, StoreError>;

/// What a store says went wrong, in its own words. Cheap to clone.
///
/// ```
/// use seabed_sds::contract::StoreError;
///
/// let error = StoreError::new("the shelf is full");
/// assert_eq!(error.to_string(), "the shelf is full");
/// ```
#[derive(Debug, Clone)]
pub struct StoreError(Arc<Detail>);

#[derive(Debug)]
struct Detail {
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    not_applied: bool,
}

impl StoreError {
    /// An error with a sentence that says what was wrong and what to do.
    pub fn new(message: impl Into<String>) -> Self {
        Self(Arc::new(Detail { message: message.into(), source: None, not_applied: false }))
    }

    /// The same with its cause, whose words are the message.
    pub fn from_source(source: impl StdError + Send + Sync + 'static) -> Self {
        let (message, source) = (source.to_string(), Some(Box::new(source) as _));
        Self(Arc::new(Detail { message, source, not_applied: false }))
    }

    /// The same of a batch of which certainly nothing was applied, and never will be. Of any other the manager finds out.
    pub fn not_applied(message: impl Into<String>) -> Self {
        Self(Arc::new(Detail { message: message.into(), source: None, not_applied: true }))
    }

    /// Whether what was to be stored may be there all the same.
    pub(crate) fn may_be_applied(&self) -> bool {
        let kernel = self.kernel().is_none_or(|error| error.applied() != seabed_kv::Applied::No);
        kernel && !self.0.not_applied
    }

    /// The kernel's error, when it came from there: with its kind, and whether anything was applied.
    pub fn kernel(&self) -> Option<&seabed_kv::Error> {
        self.0.source.as_deref()?.downcast_ref()
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // Its words are ours already.
        self.0.source.as_deref().and_then(StdError::source)
    }
}

impl PartialEq for StoreError {
    fn eq(&self, other: &Self) -> bool {
        self.0.message == other.0.message
    }
}

impl Eq for StoreError {}

impl From<seabed_kv::Error> for StoreError {
    fn from(error: seabed_kv::Error) -> Self {
        Self::from_source(error)
    }
}
