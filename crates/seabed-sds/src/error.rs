//! What went wrong, and what to do about it.

use seabed_sds_core::{ChannelId, ConfigError};

use crate::contract::StoreError;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument makes no sense here. Fix the call; nothing was changed.
    #[error("{0}")]
    InvalidArgument(String),
    /// The channel refused the input, and says why. Nothing was changed.
    #[error("channel {channel}: {error}")]
    Refused {
        /// Which channel.
        channel: ChannelId,
        /// Why: too large, unreadable, too much unacknowledged.
        error: seabed_sds_core::Error,
    },
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store failed. Under [`Strict`](crate::ReleasePolicy::Strict) nothing was released, and the channel is loaded again by the next
    /// operation: try again. What was to be written may be there all the same. When the channel turns out to hold it, it counts, and what
    /// rests on it is told by the stream and the callbacks.
    #[error("channel {channel}: the store failed: {error}")]
    Persistence {
        /// Which channel.
        channel: ChannelId,
        /// In the store's words.
        error: StoreError,
    },
    /// The channel was removed while the operation stood in line for it. Nothing was changed: repeat it to begin the channel anew.
    #[error(
        "channel {channel} was removed before the operation's turn came; repeat it to begin the channel anew"
    )]
    Removed {
        /// Which channel.
        channel: ChannelId,
    },
    /// The manager has ended. Make a new one.
    #[error("the manager has ended; make a new one")]
    Closed,
}

/// What kind of failure it was, and so what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Fix the call; nothing was changed.
    InvalidArgument,
    /// Split the content.
    MessageTooLarge,
    /// The bytes are no message; their sender speaks another language.
    Deserialization,
    /// Wait for acknowledgements, then try again.
    Backpressure,
    /// The dialect or profile has no such thing.
    Unsupported,
    /// The store failed: try again, or look after it.
    Persistence,
    /// The channel was removed meanwhile: let it be, or begin it anew.
    Removed,
    /// Make a new manager.
    Closed,
}

impl Error {
    /// What kind of failure it was.
    pub fn kind(&self) -> ErrorKind {
        use seabed_sds_core::Error as Refusal;
        match self {
            Self::InvalidArgument(_) | Self::Config(_) => ErrorKind::InvalidArgument,
            Self::Persistence { .. } => ErrorKind::Persistence,
            Self::Removed { .. } => ErrorKind::Removed,
            Self::Closed => ErrorKind::Closed,
            Self::Refused { error, .. } => match error {
                Refusal::MessageTooLarge { .. } => ErrorKind::MessageTooLarge,
                Refusal::Deserialization(_) => ErrorKind::Deserialization,
                Refusal::Backpressure(_) => ErrorKind::Backpressure,
                Refusal::Unsupported(_) => ErrorKind::Unsupported,
                _ => ErrorKind::InvalidArgument,
            },
        }
    }

    pub(crate) fn refused(channel: &ChannelId) -> impl FnOnce(seabed_sds_core::Error) -> Self {
        let channel = channel.clone();
        move |error| Self::Refused { channel, error }
    }

    pub(crate) fn persistence(channel: &ChannelId) -> impl FnOnce(StoreError) -> Self {
        let channel = channel.clone();
        move |error| Self::Persistence { channel, error }
    }
}
