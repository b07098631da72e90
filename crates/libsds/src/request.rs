//! What a program asks of a context, copied, so that it can wait in line.

use seabed_sds::core::{ChannelId, MessageId};

use crate::error::Failure;

pub(crate) enum Request {
    /// The manager is there: the first one of every context.
    New,
    Wrap {
        channel: ChannelId,
        message_id: MessageId,
        content: Vec<u8>,
    },
    Unwrap {
        wire: Vec<u8>,
    },
    MarkDependenciesMet {
        channel: ChannelId,
        message_ids: Vec<MessageId>,
    },
    Reset,
    StartPeriodicTasks,
    SendSync {
        channel: ChannelId,
    },
    Status {
        channel: ChannelId,
    },
    Channels,
    RemoveChannel {
        channel: ChannelId,
    },
    /// One that cannot succeed, and is told so in its turn, as nim-sds does.
    Hopeless {
        of: &'static str,
        failure: Failure,
    },
}

impl Request {
    /// What nim-sds calls it in the texts of failures.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::New => "CREATE_RELIABILITY_MANAGER",
            Self::Wrap { .. } => WRAP,
            Self::Unwrap { .. } => UNWRAP,
            Self::MarkDependenciesMet { .. } => "MARK_DEPENDENCIES_MET",
            Self::Reset => "RESET_RELIABILITY_MANAGER",
            Self::StartPeriodicTasks => "START_PERIODIC_TASKS",
            Self::SendSync { .. } => "SEND_SYNC",
            Self::Status { .. } => "STATUS",
            Self::Channels => "CHANNELS",
            Self::RemoveChannel { .. } => "REMOVE_CHANNEL",
            Self::Hopeless { of, .. } => of,
        }
    }

    /// How much of the queue's room it takes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Wrap { content: bytes, .. } | Self::Unwrap { wire: bytes } => bytes.len(),
            Self::MarkDependenciesMet { message_ids, .. } => {
                message_ids.iter().map(|id| id.as_bytes().len()).sum()
            }
            _ => 0,
        }
    }
}

pub(crate) const WRAP: &str = "WRAP_MESSAGE";
pub(crate) const UNWRAP: &str = "UNWRAP_MESSAGE";
