//! What an operation asks of a channel, owned, so that it can wait in line.

use std::sync::Arc;

use seabed_sds_core::{Input, MessageId, Released};

use crate::Answer;

pub(crate) enum Request {
    Send { message_id: MessageId, content: Vec<u8> },
    SendEphemeral { message_id: MessageId, content: Vec<u8> },
    SendSync,
    Receive { wire: Vec<u8>, hint: Option<Vec<u8>> },
    MarkDependenciesMet { message_ids: Vec<MessageId> },
    SetRetrievalHint { message_id: MessageId, hint: Vec<u8> },
}

/// What became of it.
pub(crate) enum Performed {
    Done(Answer<Released>),
    /// There is no such channel, and this request may not make it.
    UnknownChannel,
}

impl Request {
    /// Whether it makes a channel that is not there.
    pub(crate) fn makes_channel(&self) -> bool {
        matches!(self, Self::Send { .. } | Self::SendEphemeral { .. } | Self::SendSync)
    }

    pub(crate) fn input<'a>(&'a self, hints: &'a [(MessageId, Arc<[u8]>)]) -> Input<'a> {
        match self {
            Self::Send { message_id, content } => Input::Send { message_id, content, hints },
            Self::SendEphemeral { message_id, content } => Input::SendEphemeral { message_id, content },
            Self::SendSync => Input::SendSync,
            Self::Receive { wire, hint } => Input::Receive { wire, retrieval_hint: hint.as_deref() },
            Self::MarkDependenciesMet { message_ids } => Input::MarkDependenciesMet { message_ids },
            Self::SetRetrievalHint { message_id, hint } => Input::SetRetrievalHint { message_id, hint },
        }
    }
}
