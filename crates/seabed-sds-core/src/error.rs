//! What went wrong, and what the caller should do about it.

use crate::MessageId;
use crate::wire::DecodeError;

/// Why an input was refused. Nothing was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to say: an empty content means a sync message (sds.md section 14). Send at least one byte.
    #[error("the content is empty: say at least one byte")]
    EmptyContent,
    /// A message must have a name.
    #[error("the message id is empty: derive one with derive_message_id")]
    EmptyMessageId,
    /// A message id that is not text, which peers refuse. Make it text, or have all participants accept any id
    /// ([`Config::accepts_any_id`](crate::Config::accepts_any_id)).
    #[error("the message id {0} is not UTF-8: use text, or derive one with derive_message_id")]
    NotUtf8(MessageId),
    /// The id is in use. Ids are unique for ever: derive one that holds the time.
    #[error("the message id {0} was used before: derive a new one with derive_message_id")]
    ReusedMessageId(MessageId),
    /// Split the content: no participant takes such a message.
    #[error("the content has {bytes} bytes, more than {bytes_max}: split it")]
    MessageTooLarge {
        /// What it has.
        bytes: usize,
        /// [`CONTENT_BYTES_MAX`](crate::CONTENT_BYTES_MAX)
        bytes_max: usize,
    },
    /// An argument is longer than its bound.
    #[error("{what} has {count}, more than {count_max}")]
    TooMuch {
        /// Which argument.
        what: &'static str,
        /// What it has.
        count: usize,
        /// The bound.
        count_max: usize,
    },
    /// The bytes are not a message. Nothing can be done about it here; its sender speaks another language.
    #[error("these bytes are no message: {0}")]
    Deserialization(#[from] DecodeError),
    /// The message is one of another channel.
    #[error("the message is not one of this channel")]
    OtherChannel,
    /// Too many own messages are not acknowledged. Wait for acknowledgements, or for them to be given up.
    #[error("{0} own messages are not acknowledged: wait until some are, or are given up")]
    Backpressure(usize),
    /// The dialect or profile of the channel has no such thing.
    #[error("{0}")]
    Unsupported(&'static str),
    /// There is no such message in the log, and none that waits.
    #[error("the message {0} is neither in the log nor waiting")]
    UnknownMessage(MessageId),
}

/// A configuration that cannot work (sds.md section 18).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("impossible configuration: {0}")]
pub struct ConfigError(pub(crate) &'static str);

/// Why stored rows are not a state. Nothing of them should be used: restore them from a backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Two rows contradict each other, or one is missing.
    #[error("the stored rows contradict each other: {0}")]
    Contradiction(&'static str),
}

impl LoadError {
    pub(crate) const HALF: Self =
        Self::Contradiction("an own message is without its state, or the other way round");
}

/// Why bytes are not a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// They end too early.
    #[error("the row ends too early")]
    Truncated,
    /// They go on after the end.
    #[error("{0} bytes follow the end of the row")]
    TooLong(usize),
    /// A later version wrote it, or it is damaged.
    #[error("the row has version {0}, and this program reads 1 and 2")]
    Version(u8),
    /// A later version wrote it, or it is damaged.
    #[error("the row is of the unknown kind {0}")]
    Kind(u8),
    /// A flag is neither 0 nor 1.
    #[error("a flag of the row is {0}")]
    Flag(u8),
    /// A number is longer than needed, or too large.
    #[error("a number of the row is not in its shortest form")]
    Number,
    /// What it holds belongs under another key.
    #[error("the row stands under the key of another one")]
    OtherKey,
}
