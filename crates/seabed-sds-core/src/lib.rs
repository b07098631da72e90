//! SDS, Scalable Data Sync, as a pure state machine: group messaging with causal order, acknowledgements and repair.
//!
//! Nothing in here knows a clock, a thread, a socket or a disk; time and randomness are arguments, and the same inputs give the same
//! outputs, to the byte.

pub mod bloom;
pub mod hash;
pub mod limits;
pub mod message;
pub mod schedule;
pub mod snapshot;
pub mod wire;

pub use message::{ChannelId, HistoryEntry, Message, MessageId, ParticipantId};
pub use wire::DecodeError;
