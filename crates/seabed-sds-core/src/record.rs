//! The state of a channel as keyed rows: an operation returns exactly those that it changed, so what a store writes follows
//! the change and never the state.
//!
//! ```
//! use seabed_sds_core::{Key, Record};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let met = Record::Met { number: 7, message_id: "m1".into(), lost: false };
//! let (key, value) = (met.key().to_bytes(), met.to_bytes());
//! assert_eq!(Record::from_bytes(&key, &value)?, met);
//! assert_eq!(Key::from_bytes(&key)?, Key::Met(7));
//! # Ok(())
//! # }
//! ```

mod bytes;
mod field;
mod id;
mod message;
mod old;
mod rows;

use std::sync::Arc;

use crate::{HistoryEntry, Message, MessageId, ParticipantId};

pub use bytes::RECORD_VERSION;
pub(crate) use message::encoded_bytes;
pub use rows::{Row, Rows};

/// Names one row of a channel's state. In this order they are stored, so that what one operation changes lies close together: the newest id beside
/// the oldest message of the log, and the newest message beside the clock and the first of the unacknowledged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// An id that was received, by a running number: the oldest has the lowest.
    Seen(u64),
    /// A message of the log: its position, and its id.
    Log(u64, MessageId),
    /// The channel's clock and what else there is one of.
    Meta,
    /// An own message that is not acknowledged, by a running number: when it is sent again, and who has it.
    Outgoing(u64),
    /// That message itself, when the log has forgotten it.
    Kept(u64),
    /// A message that waits.
    Incoming(MessageId),
    /// That it waits for another one: the waiting message first.
    Waits(MessageId, MessageId),
    /// A message that somebody named and that is not here.
    Missing(MessageId),
    /// A message that somebody asked for and that we are going to send.
    Answer(MessageId),
    /// A sync message that was sent or received, by a running number.
    Sync(u64),
    /// A dependency that counts as met although it never came, likewise.
    Met(u64),
}

/// One row of a channel's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// See [`Meta`].
    Meta(Meta),
    /// A message of the log.
    Log(LogEntry),
    /// An own message that is not acknowledged. It is the one of the log, or else there is a row of kind [`Kept`](Self::Kept).
    Outgoing {
        /// Its running number.
        number: u64,
        /// Which message.
        message_id: MessageId,
        /// See [`Unacknowledged`].
        state: Unacknowledged,
    },
    /// An own message that is not acknowledged, and is not in the log any more.
    Kept {
        /// Its running number.
        number: u64,
        /// The message as it is sent, without filter and requests (profile `nim`: with them).
        message: Arc<Message>,
    },
    /// A message that waits.
    Incoming(IncomingEntry),
    /// That a message waits for another one.
    Waits {
        /// Which one waits.
        message_id: MessageId,
        /// For what.
        dependency_id: MessageId,
    },
    /// A message that is not here.
    Missing(MissingEntry),
    /// An answer that is going to be sent.
    Answer(AnswerEntry),
    /// An id that was received.
    Seen {
        /// Its running number.
        number: u64,
        /// See [`SeenEntry`].
        entry: SeenEntry,
    },
    /// A sync message that was sent or received.
    Sync {
        /// Its running number.
        number: u64,
        /// Its name.
        message_id: MessageId,
    },
    /// A dependency that counts as met.
    Met {
        /// Its running number.
        number: u64,
        /// Its name.
        message_id: MessageId,
        /// It was given up as lost, rather than declared met by the application.
        lost: bool,
    },
}

impl Record {
    /// The name of this row.
    pub fn key(&self) -> Key {
        match self {
            Self::Meta(_) => Key::Meta,
            Self::Log(entry) => Key::Log(entry.position, entry.message.message_id.clone()),
            Self::Outgoing { number, .. } => Key::Outgoing(*number),
            Self::Kept { number, .. } => Key::Kept(*number),
            Self::Incoming(entry) => Key::Incoming(entry.message.message_id.clone()),
            Self::Waits { message_id, dependency_id } => {
                Key::Waits(message_id.clone(), dependency_id.clone())
            }
            Self::Missing(entry) => Key::Missing(entry.entry.message_id.clone()),
            Self::Answer(entry) => Key::Answer(entry.entry.message_id.clone()),
            Self::Seen { number, .. } => Key::Seen(*number),
            Self::Sync { number, .. } => Key::Sync(*number),
            Self::Met { number, .. } => Key::Met(*number),
        }
    }
}

/// What there is one of in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta {
    /// The logical clock, in the channel's unit.
    pub lamport: u64,
    /// The number of the first seen id that our filter covers.
    pub filter_from: u64,
    /// How many ids our filter is sized for; 0 before the first.
    pub filter_ids: u64,
    /// When the next sync message is due, in milliseconds of Unix time; `None` when there is nothing to say. Profile `nim`,
    /// which sends none: when deliveries go on that were too many for one operation.
    pub sync_due_ms: Option<u64>,
    /// When this participant said something last, in milliseconds of Unix time.
    pub spoke_ms: u64,
    /// When repair requests may be answered again, in milliseconds of Unix time.
    pub answers_from_ms: u64,
}

/// A message of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The message, without filter and requests (profile `nim`: with them).
    pub message: Arc<Message>,
    /// What the log is ordered by, before the id: the Lamport value (profile `nim`: a running number).
    pub position: u64,
    /// Where it can be fetched again.
    pub retrieval_hint: Option<Arc<[u8]>>,
    /// Its time was beyond belief: it is never named in our messages and is evicted first.
    pub anomalous: bool,
}

/// How far an own message has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unacknowledged {
    /// When it was sent last, in milliseconds of Unix time.
    pub sent_ms: u64,
    /// When it is sent again or given up, likewise.
    pub due_ms: u64,
    /// How often it was sent again.
    pub attempts: u32,
    /// In whose filters it was.
    pub possible_by: Vec<ParticipantId>,
    /// In how many filters it was whose senders do not say who they are.
    pub possible_by_unnamed: u32,
}

impl Unacknowledged {
    /// In how many filters it was.
    pub fn possible_acks(&self) -> u32 {
        u32::try_from(self.possible_by.len()).unwrap_or(u32::MAX).saturating_add(self.possible_by_unnamed)
    }
}

/// A message that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingEntry {
    /// The message, without filter and requests (profile `nim`: with them).
    pub message: Arc<Message>,
    /// Where it can be fetched again.
    pub retrieval_hint: Option<Arc<[u8]>>,
    /// Its time was beyond belief.
    pub anomalous: bool,
    /// Something that it rests on was given up as lost.
    pub gap: bool,
}

/// A message that somebody named and that is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingEntry {
    /// What is known of it.
    pub entry: HistoryEntry,
    /// When it was missed first, in milliseconds of Unix time.
    pub first_missed_ms: u64,
    /// When it is asked for (`T_req` of sds.md section 17.1), likewise; `None` when repair is off.
    pub request_due_ms: Option<u64>,
    /// How often it was asked for, by us or by others.
    pub requests: u32,
}

/// An answer that is going to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerEntry {
    /// What was asked for.
    pub entry: HistoryEntry,
    /// When it is answered (`T_resp` of sds.md section 17.3), in milliseconds of Unix time.
    pub due_ms: u64,
    /// The message as it was when it was asked for: profile `nim` only, the other one takes it from the log.
    pub message: Option<Arc<Message>>,
}

/// An id that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenEntry {
    /// Which one.
    pub message_id: MessageId,
    /// When it was received, or received again, in milliseconds of Unix time.
    pub seen_ms: u64,
    /// It is our own.
    pub own: bool,
    /// It was delivered; else it waits, and satisfies nothing.
    pub delivered: bool,
}

/// A row that an operation changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The row has this value now.
    Put(Record),
    /// The row is gone. It may never have been stored.
    Delete(Key),
}

/// The rows that an operation changed, in ascending order of their keys, each once. To be applied as one batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes(pub(crate) Vec<Change>);

impl Changes {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many rows changed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The changes, in ascending order of their keys.
    pub fn iter(&self) -> std::slice::Iter<'_, Change> {
        self.0.iter()
    }
}

impl IntoIterator for Changes {
    type Item = Change;
    type IntoIter = std::vec::IntoIter<Change>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Changes {
    type Item = &'a Change;
    type IntoIter = std::slice::Iter<'a, Change>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
