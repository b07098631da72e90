//! SDS, Scalable Data Sync, as a pure state machine: group messaging with causal order, acknowledgements and repair.
//!
//! Nothing in here knows a clock, a thread, a socket or a disk; time and randomness are arguments, and the same inputs give the same
//! outputs, to the byte.

pub mod bloom;
mod channel;
mod clock;
mod config;
mod deliver;
mod effect;
mod error;
mod filter;
pub mod hash;
mod history;
mod incoming;
pub mod limits;
pub mod message;
mod outgoing;
mod receive;
mod record;
mod repair;
mod ring;
pub mod schedule;
mod send;
pub mod snapshot;
mod state;
mod step;
mod sync;
pub mod wire;

pub use channel::Channel;
pub use config::{
    ANSWERS_PAUSE_MS, BloomAckThreshold, Config, LamportUnit, Limits, MARKED_IDS_MAX, MET_IDS_MAX, Profile,
    SYNC_IDS_MAX,
};
pub use effect::{
    Broadcast, Committed, Effects, Event, Handled, Input, Limit, Outcome, Output, Reason, Received,
    Reception, Released, Sweep, Uncommitted,
};
pub use error::{ConfigError, Error, LoadError, RecordError};
pub use limits::{CONTENT_BYTES_MAX, HINT_BYTES_MAX, ID_BYTES_MAX};
pub use message::{ChannelId, HistoryEntry, Message, MessageId, ParticipantId, derive_message_id};
pub use record::{
    AnswerEntry, Change, Changes, IncomingEntry, Key, LogEntry, Meta, MissingEntry, RECORD_VERSION, Record,
    SeenEntry, Unacknowledged,
};
pub use wire::DecodeError;
