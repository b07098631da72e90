//! What a manager's owner decides, beside the behaviour of its channels.

use crate::limits::UNKNOWN_CHANNELS_MAX;

/// What leaves when the store has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReleasePolicy {
    /// Nothing: the operation is an error, and the channel is loaded again. The default on a store of contract (C) or (A).
    Strict,
    /// Everything: memory wins, the stream tells [`PersistenceFailed`](crate::What::PersistenceFailed), and the next operation writes
    /// again. nim-sds' way, and the default for contract (B) and without a store.
    BestEffort,
}

/// What is done with a message of a channel that is neither in memory nor in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnknownChannels {
    /// The channel is made, up to so many since the manager began; then they are ignored.
    Create {
        /// How many.
        channels_max: usize,
    },
    /// It is ignored: channels are made by [`ensure_channel`](crate::SdsManager::ensure_channel) and by sending.
    KnownOnly,
}

impl Default for UnknownChannels {
    fn default() -> Self {
        Self::Create { channels_max: UNKNOWN_CHANNELS_MAX }
    }
}

impl UnknownChannels {
    pub(crate) fn channels_max(self) -> usize {
        match self {
            Self::Create { channels_max } => channels_max,
            Self::KnownOnly => 0,
        }
    }
}
