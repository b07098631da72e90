//! SDS, Scalable Data Sync, as a pure state machine: group messaging with causal order, acknowledgements and repair.
//!
//! Nothing in here knows a clock, a thread, a socket or a disk; time and randomness are arguments, and the same inputs give the same
//! outputs, to the byte. Who wants a store, timers and many channels as well uses `seabed-sds`, which is built around this crate.
//!
//! # The loop
//!
//! 1. Make a [`Channel`], or [`load`](Channel::load) it from the rows that were stored.
//! 2. Give it what happens: [`Input::Send`], [`Input::Receive`], and [`Input::Tick`] at [`Channel::next_due`].
//! 3. Store the [`Changes`] that come back, as one batch. There may be none.
//! 4. When they are durable, turn the [`Effects`] into [`Committed`] ones. Not before: others would know what a crash makes us forget.
//! 5. Release them: send each [`Broadcast`], and tell the application each [`Event`].
//! 6. When storing failed, drop the channel and begin at 1: nothing is undone by hand.
//!
//! ```
//! use seabed_sds_core::{Channel, Config, Event, Handled, Input, Outcome, Output, Reception, wire::Dialect};
//!
//! /// Steps 3 to 5, with nothing to store in.
//! fn release(handled: Handled) -> (Outcome, Vec<Output>) {
//!     let released = handled.effects.committed().release();
//!     (released.outcome, released.outputs)
//! }
//!
//! fn bytes(outputs: &[Output]) -> Vec<u8> {
//!     outputs.iter().find_map(|output| if let Output::Broadcast(out) = output { Some(out.wire.clone()) } else { None }).unwrap()
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now_ms = 1_700_000_000_000;
//! let mut alice = Channel::new("room".into(), "alice".into(), Config::seabed(Dialect::Nim), now_ms)?;
//! let mut bob = Channel::new("room".into(), "bob".into(), Config::seabed(Dialect::Nim), now_ms)?;
//!
//! let send = Input::Send { message_id: &"a1".into(), content: b"hello", hints: &[] };
//! let (_, outputs) = release(alice.handle(send, now_ms)?);
//! let (outcome, _) = release(bob.handle(Input::Receive { wire: &bytes(&outputs), retrieval_hint: None }, now_ms + 20)?);
//! assert!(matches!(outcome, Outcome::Received(received) if received.reception == Reception::Delivered));
//!
//! // What bob says next names what he has delivered, and so acknowledges it.
//! let send = Input::Send { message_id: &"b1".into(), content: b"hello yourself", hints: &[] };
//! let (_, outputs) = release(bob.handle(send, now_ms + 500)?);
//! let (_, outputs) = release(alice.handle(Input::Receive { wire: &bytes(&outputs), retrieval_hint: None }, now_ms + 520)?);
//! assert_eq!(outputs[0], Output::Event(Event::Acknowledged { message_id: "a1".into() }));
//! assert!(alice.log().map(|entry| &entry.message.message_id).eq(bob.log().map(|entry| &entry.message.message_id)));
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! `sim`: the module `sim`, participants on a bad network in virtual time.
//!
//! # Guarantees
//!
//! - A message is delivered once, after everything that it names, and in the order of (Lamport, id) among what could be delivered.
//! - A state that is loaded again is the same to the byte of every message that it sends, due times included.
//! - An operation changes rows in proportion to what happened, never to what is held.
//! - Every buffer has a bound ([`Limits`]); what is left out for it is told ([`Event::LimitHit`]).

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
#[cfg(feature = "sim")]
pub mod sim;
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
    Row, Rows, SeenEntry, Unacknowledged,
};
pub use wire::DecodeError;
