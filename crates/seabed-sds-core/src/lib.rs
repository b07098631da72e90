//! SDS, Scalable Data Sync, as a pure state machine: group messaging with causal order, acknowledgements and repair.
//!
//! Nothing in here knows a clock, a thread, a socket or a disk; time and randomness are arguments, and the same inputs give the same
//! outputs, to the byte.

pub mod bloom;
mod channel;
mod config;
mod effect;
mod error;
pub mod hash;
pub mod limits;
pub mod message;
mod record;
pub mod schedule;
pub mod snapshot;
pub mod wire;

pub use channel::Channel;
pub use config::{
    ANSWERS_PAUSE_MS, BloomAckThreshold, CONTENT_BYTES_MAX, Config, HINT_BYTES_MAX, ID_BYTES_MAX,
    LamportUnit, Limits, MARKED_IDS_MAX, MET_IDS_MAX, Profile, SYNC_IDS_MAX,
};
pub use effect::{
    Broadcast, Committed, Effects, Event, Handled, Input, Limit, Outcome, Output, Reason, Received,
    Reception, Released, Sweep, Uncommitted,
};
pub use error::{ConfigError, Error, LoadError, RecordError};
pub use message::{ChannelId, HistoryEntry, Message, MessageId, ParticipantId, derive_message_id};
pub use record::{
    AnswerEntry, Change, Changes, IncomingEntry, Key, LogEntry, Meta, MissingEntry, RECORD_VERSION, Record,
    SeenEntry, Unacknowledged,
};
pub use wire::DecodeError;
