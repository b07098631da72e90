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
        let name = |id: &[u8]| REQUEST_BYTES + id.len();
        let beside = match self {
            Self::Wrap { channel, message_id, content } => {
                channel.as_bytes().len() + message_id.as_bytes().len() + content.len()
            }
            Self::Unwrap { wire } => wire.len(),
            Self::MarkDependenciesMet { channel, message_ids } => {
                channel.as_bytes().len() + message_ids.iter().map(|id| name(id.as_bytes())).sum::<usize>()
            }
            Self::SendSync { channel } | Self::Status { channel } | Self::RemoveChannel { channel } => {
                channel.as_bytes().len()
            }
            Self::Hopeless { failure, .. } => failure.text.len(),
            Self::New | Self::Reset | Self::StartPeriodicTasks | Self::Channels => 0,
        };
        REQUEST_BYTES + beside
    }
}

/// What a request counts for beside the bytes that it was given, and each id of a list: an allocation, and what refers to it.
pub(crate) const REQUEST_BYTES: usize = 64;

pub(crate) const WRAP: &str = "WRAP_MESSAGE";
pub(crate) const UNWRAP: &str = "UNWRAP_MESSAGE";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_waits_counts_also_what_has_no_bytes() {
        let empty_ids = vec![MessageId::default(); 10_000];
        let marked = Request::MarkDependenciesMet { channel: "room".into(), message_ids: empty_ids };
        assert_eq!(marked.bytes(), 64 + 4 + 10_000 * 64);
        let wrapped =
            Request::Wrap { channel: "room".into(), message_id: "m1".into(), content: vec![0; 100] };
        assert_eq!(wrapped.bytes(), 64 + 4 + 2 + 100);
        assert_eq!(Request::Status { channel: "room".into() }.bytes(), 64 + 4);
        assert_eq!(Request::Reset.bytes(), 64);
    }
}
