//! What the connections of a document's clients, and the server itself, send to its actor.

use std::collections::BTreeMap;
use std::sync::Arc;

use automerge::sync::Message;
use tokio::sync::OwnedSemaphorePermit;

use super::Access;
use super::frame::{Ephemeral, RemoteHeads};
use super::room::SessionId;
use super::session::Session;

/// What arrives in a document's mailbox.
#[derive(Debug)]
pub(super) enum Mail {
    /// A connection speaks of the document for the first time.
    Open {
        session: Arc<Session>,
    },
    /// A sync message, decoded. Room for the next ones is made when it is done.
    Sync {
        from: SessionId,
        message: Message,
        request: bool,
        waiting: Waiting,
    },
    Ephemeral {
        from: SessionId,
        message: Ephemeral,
        waiting: Waiting,
    },
    Heads {
        from: SessionId,
        said: BTreeMap<String, RemoteHeads>,
        waiting: Waiting,
    },
    Unavailable {
        from: SessionId,
    },
    /// There were more answers than leave at once.
    More,
    /// More can be told to a connection, or it wants to hear more.
    Due {
        session: SessionId,
    },
    /// What a connection may do has changed.
    Access {
        session: SessionId,
        access: Access,
    },
    Leave {
        session: SessionId,
    },
    /// Somebody else may have stored something.
    Changed,
    /// The memory is wanted back.
    Evict,
}

/// A message's share of what its connection may have waiting.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) _messages: OwnedSemaphorePermit,
    pub(super) bytes: OwnedSemaphorePermit,
}
