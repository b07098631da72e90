//! Why a persistent document could not be read, changed or stored.

use automerge::transaction::Failure;
use automerge::{ActorId, AutomergeError};
use thiserror::Error;

use crate::limits::{PEER_BYTES_MAX, PEERS_MAX, WAITING_BYTES_MAX};

/// Why a document could not be read, changed or stored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PersistError<E: std::error::Error + 'static> {
    /// The persister failed. What was not stored is stored by the next call.
    #[error("the document could not be stored or read: {0}")]
    Persister(#[source] E),
    /// Two changes have one actor and sequence number, here and in what came or was stored by others. Nothing was stored. Two programs were
    /// given one actor id, or one lost a change that it had told others of: load the document again, with a fresh actor.
    #[error(
        "another change {seq} of actor {actor} is known already; load the document again, with a fresh actor"
    )]
    Equivocation {
        /// The actor.
        actor: ActorId,
        /// Its sequence number.
        seq: u64,
    },
    /// automerge refused what came from elsewhere. The document is as it was.
    #[error("automerge refused it: {0}")]
    Automerge(#[source] Box<AutomergeError>),
    /// automerge panicked. The document was loaded again, without what had not been stored; end the session with that peer.
    #[error("automerge panicked ({0}); the document was loaded again from what is stored")]
    Panicked(String),
    /// What others have stored does not read. Load the document again: what is damaged goes into quarantine.
    #[error("what others have stored of the document does not read: {0}")]
    Damaged(String),
    /// Others wrote it each of [`ATTEMPTS_MAX`](crate::limits::ATTEMPTS_MAX) times. Try again.
    #[error("the document is being written by too many at once; try again")]
    Contended,
    /// More than [`PEERS_MAX`] peers at once. End sessions.
    #[error("more than {PEERS_MAX} peers at once (PEERS_MAX); end sessions with end_session")]
    TooManyPeers,
    /// A peer's id is longer than [`PEER_BYTES_MAX`]. End its session.
    #[error("the peer's id has {bytes} bytes, more than the {PEER_BYTES_MAX} allowed (PEER_BYTES_MAX)")]
    PeerTooLong {
        /// How long it is.
        bytes: usize,
    },
    /// More than [`WAITING_BYTES_MAX`] would wait in the document for changes that did not come. Nothing of it was taken: what it rests on
    /// comes first, or in one go with it.
    #[error(
        "changes of {bytes} bytes would wait for others that are not here, more than the {WAITING_BYTES_MAX} allowed (WAITING_BYTES_MAX); \
         send first what they rest on"
    )]
    TooMuchWaits {
        /// How much would.
        bytes: usize,
    },
    /// The closure put another document in the place of this one. The document was loaded again.
    #[error("the document was replaced by another one; it was loaded again from what is stored")]
    Replaced,
}

/// Why a transaction did not succeed.
#[derive(Debug, Error)]
pub enum TransactError<T, E: std::error::Error + 'static> {
    /// The closure failed, and its operations were rolled back.
    #[error("the transaction was rolled back")]
    Cancelled(Failure<T>),
    /// The transaction took place and could not be stored. It is in the document, and the next call stores it.
    #[error(transparent)]
    Persist(#[from] PersistError<E>),
}

pub(super) fn refused<E: std::error::Error + 'static>(error: AutomergeError) -> PersistError<E> {
    match error {
        AutomergeError::DuplicateSeqNumber(seq, actor) => PersistError::Equivocation { actor, seq },
        error => PersistError::Automerge(Box::new(error)),
    }
}
