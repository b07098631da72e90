//! The whole vocabulary of a channel: what goes in, what comes out, and what may be said when.

use std::sync::Arc;

use crate::record::Changes;
use crate::{ChannelId, HistoryEntry, Message, MessageId};

/// What a channel is told.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// The application says something.
    Send {
        /// Its name, unique in the channel for ever ([`derive_message_id`](crate::derive_message_id) makes one).
        message_id: &'a MessageId,
        /// At least one byte, at most [`CONTENT_BYTES_MAX`](crate::CONTENT_BYTES_MAX).
        content: &'a [u8],
        /// Hints from a provider, for entries of [`Channel::causal_history`](crate::Channel::causal_history) that have none stored.
        hints: &'a [(MessageId, Arc<[u8]>)],
    },
    /// The application says something that nobody has to remember. Dialect S only (sds.md section 15).
    SendEphemeral {
        /// Its name.
        message_id: &'a MessageId,
        /// At least one byte, at most [`CONTENT_BYTES_MAX`](crate::CONTENT_BYTES_MAX).
        content: &'a [u8],
    },
    /// Tell the others what this participant knows, now (sds.md section 14).
    SendSync,
    /// Bytes came from the network.
    Receive {
        /// One message, in any dialect that the channel reads.
        wire: &'a [u8],
        /// Where these bytes can be fetched again, when the transport knows it.
        retrieval_hint: Option<&'a [u8]>,
    },
    /// The application has got these messages by other means, or does without them (sds.md section 13).
    MarkDependenciesMet {
        /// At most [`MARKED_IDS_MAX`](crate::MARKED_IDS_MAX).
        message_ids: &'a [MessageId],
    },
    /// Where a message of the log can be fetched again (sds.md section 16).
    SetRetrievalHint {
        /// A message of the log, or one that waits.
        message_id: &'a MessageId,
        /// At most [`HINT_BYTES_MAX`](crate::HINT_BYTES_MAX).
        hint: &'a [u8],
    },
    /// Time has passed: whatever is due happens. Nothing is lost when it comes late, and nothing happens when it comes early.
    Tick(Sweep),
}

/// Which due work a [`Input::Tick`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sweep {
    /// All of it: what a manager asks for at [`Channel::next_due`](crate::Channel::next_due).
    #[default]
    All,
    /// Resends and dependencies that are given up: nim's buffer sweep.
    Buffers,
    /// Answers to repair requests, and requests that expire: nim's repair sweep.
    Repairs,
}

/// What an operation did: the rows that it changed, and what may be said once they are durable.
#[derive(Debug)]
#[must_use = "changes that are not stored and effects that are not released are lost"]
pub struct Handled {
    /// To be applied as one batch; empty when nothing changed.
    pub changes: Changes,
    /// To be released when that batch is durable.
    pub effects: Effects,
}

/// What others may see of an operation, sealed until the batch that makes it true is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "effects that are not released tell nobody anything"]
pub struct Effects(Released);

impl Effects {
    pub(crate) fn new(outcome: Outcome, outputs: Vec<Output>) -> Self {
        Self(Released { outcome, outputs })
    }

    /// The batch of changes that came with these effects is durable, or there was none and all before it are.
    pub fn committed(self) -> Committed<Released> {
        Committed(self.0)
    }

    /// The batch is not durable and they are to leave all the same: release policy `BestEffort` (contracts.md section 2).
    pub fn uncommitted(self) -> Uncommitted<Released> {
        Uncommitted(self.0)
    }
}

/// What rests on durable data, and so may leave.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an answer that is not released tells nobody anything"]
pub struct Committed<E>(E);

impl<E> Committed<E> {
    /// The effects, to be told.
    pub fn release(self) -> E {
        self.0
    }
}

/// What may leave although its batch is not durable, because somebody chose so.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an answer that is not released tells nobody anything"]
pub struct Uncommitted<E>(E);

impl<E> Uncommitted<E> {
    /// The effects, to be told.
    pub fn release(self) -> E {
        self.0
    }
}

/// What an operation tells its caller and the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// For the caller.
    pub outcome: Outcome,
    /// For everybody, in the order in which they happened.
    pub outputs: Vec<Output>,
}

/// The answer to an [`Input`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The message is in the log and waits to be acknowledged. Its bytes are among the outputs.
    Sent {
        /// Its name.
        message_id: MessageId,
    },
    /// The ephemeral message is among the outputs; nothing remembers it.
    EphemeralSent {
        /// Its name.
        message_id: MessageId,
    },
    /// The sync message is among the outputs.
    SyncSent {
        /// Its name, which this participant made.
        message_id: MessageId,
    },
    /// There is neither a history nor a request to tell of, so no sync was sent.
    NothingToSay,
    /// What became of received bytes.
    Received(Received),
    /// The dependencies are met.
    Marked,
    /// The hint is stored.
    HintSet,
    /// What was due has happened.
    Ticked,
}

/// What became of a message that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The channel that it belongs to.
    pub channel_id: ChannelId,
    /// What happened to it.
    pub reception: Reception,
    /// The message as it was read; its content also when it waits or was known.
    pub message: Arc<Message>,
    /// What it waits for and is not here: empty when it was delivered.
    pub missing: Vec<HistoryEntry>,
}

/// What happened to a received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reception {
    /// It is in the log now, and perhaps others that waited for it.
    Delivered,
    /// It waits for messages that it rests on.
    Buffered,
    /// It was delivered before, or is a sync message that was read before.
    Duplicate,
    /// It waits already.
    AlreadyBuffered,
    /// It only told what its sender knows.
    SyncProcessed,
    /// It is this participant's own, and was forgotten; now it is in the log again.
    OwnRestored,
    /// It was delivered and is not remembered.
    Ephemeral,
    /// A bound was reached and it was not kept: [`Event::LimitHit`] names the bound. A later copy is a new message.
    Dropped,
}

/// One thing that leaves a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Bytes for every other participant.
    Broadcast(Broadcast),
    /// Something for the application.
    Event(Event),
}

/// Bytes for every other participant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcast {
    /// Which message they are.
    pub message_id: MessageId,
    /// Why they are sent.
    pub reason: Reason,
    /// The message, encoded in the channel's dialect.
    pub wire: Vec<u8>,
}

/// Why a message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The application said so.
    Send,
    /// Nobody has acknowledged it in time (sds.md section 12).
    Resend,
    /// Somebody misses it (sds.md section 17.4).
    Repair,
    /// It tells what this participant knows (sds.md section 14).
    Sync,
}

/// Something for the application (sds.md section 19).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message of another participant is in the log; all that it rests on came before.
    Delivered {
        /// The message, with its content.
        message: Arc<Message>,
        /// Something that it rests on was given up as lost.
        gap: bool,
    },
    /// A message that nobody remembers.
    EphemeralDelivered {
        /// The message, with its content.
        message: Arc<Message>,
    },
    /// A message waits.
    Buffered {
        /// Which one.
        message_id: MessageId,
    },
    /// A message names others that are not here.
    MissingDependencies {
        /// The message that names them.
        message_id: MessageId,
        /// What is missing, with hints for fetching it.
        entries: Vec<HistoryEntry>,
    },
    /// These were waited for in vain, and are waited for no more.
    DependenciesLost {
        /// What was given up.
        entries: Vec<HistoryEntry>,
    },
    /// An own message was received by somebody.
    Acknowledged {
        /// Which one.
        message_id: MessageId,
    },
    /// An own message is in somebody's filter, which may be wrong.
    PossiblyAcknowledged {
        /// Which one.
        message_id: MessageId,
        /// By how many filters so far.
        count: u32,
    },
    /// An own message was sent as often as the configuration says, and nobody has acknowledged it. It is not sent again.
    DeliveryUnconfirmed {
        /// Which one.
        message_id: MessageId,
        /// Whether it was in a filter at least.
        possibly: bool,
    },
    /// An own message came back that had been forgotten.
    OwnRestored {
        /// The message, with its content.
        message: Arc<Message>,
    },
    /// A message claims a time that nobody should be at: it is delivered, but never named in our messages (DESIGN section 4).
    ClockAnomaly {
        /// Which one.
        message_id: MessageId,
        /// The time that it claims, in the channel's unit.
        lamport: u64,
        /// The latest time that would have been believed.
        lamport_max: u64,
    },
    /// A bound was reached, and something was left out because of it.
    LimitHit {
        /// Which bound.
        limit: Limit,
        /// What was left out.
        message_id: MessageId,
    },
}

/// The bounds of a channel that its inputs can reach (sds.md section 24). Each is a value of [`Limits`](crate::Limits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// [`Limits::incoming_messages_max`](crate::Limits::incoming_messages_max)
    IncomingMessages,
    /// [`Limits::incoming_bytes_max`](crate::Limits::incoming_bytes_max)
    IncomingBytes,
    /// [`Limits::missing_ids_max`](crate::Limits::missing_ids_max)
    MissingIds,
    /// [`Limits::requests_read_max`](crate::Limits::requests_read_max)
    RequestsRead,
    /// [`Limits::repairs_out_max`](crate::Limits::repairs_out_max)
    RepairsOut,
    /// [`Limits::repairs_in_max`](crate::Limits::repairs_in_max)
    RepairsIn,
}

impl Limit {
    /// The name of the value in [`Limits`](crate::Limits), as configurations and events have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::IncomingMessages => "incoming_messages_max",
            Self::IncomingBytes => "incoming_bytes_max",
            Self::MissingIds => "missing_ids_max",
            Self::RequestsRead => "requests_read_max",
            Self::RepairsOut => "repairs_out_max",
            Self::RepairsIn => "repairs_in_max",
        }
    }
}
