//! SDS, Scalable Data Sync, as a pure state machine: group messaging with causal order, acknowledgements and repair.
//!
//! Nothing in here knows a clock, a thread, a socket or a disk; time and randomness are arguments, and the same inputs give the same
//! outputs, to the byte.

pub mod message;

pub use message::{ChannelId, HistoryEntry, Message, MessageId, ParticipantId};
