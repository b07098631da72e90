//! One operation while it runs: what time it is, which rows it has touched, and what is going to be said.

use std::sync::Arc;

use crate::effect::{Broadcast, Event, Limit, Output, Reason};
use crate::limits::{CASCADE_BYTES_MAX, CASCADE_ROWS_MAX};
use crate::record::{Key, Meta, encoded_bytes};
use crate::{ChannelId, Message, MessageId, wire};

/// What an operation gathers.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) now_ms: u64,
    /// How the meta row was before.
    pub(crate) before: Meta,
    /// Rows that may have changed: their values are read when the operation is over, so the last one counts.
    pub(crate) touched: Vec<Key>,
    pub(crate) outputs: Vec<Output>,
    /// About how many bytes those rows have.
    bytes: usize,
    /// How many bytes of each are not its own: a store puts the channel before it.
    row_bytes: usize,
}

/// What a row has apart from ids and messages, at most.
const ROW_BYTES: usize = 64;

impl Step {
    pub(crate) fn new(now_ms: u64, before: Meta, channel_id: &ChannelId) -> Self {
        let row_bytes = row_bytes(channel_id);
        Self { now_ms, before, touched: Vec::new(), outputs: Vec::new(), bytes: 0, row_bytes }
    }

    pub(crate) fn touch(&mut self, key: Key) {
        self.bytes += self.row_bytes + key.ids_bytes();
        self.touched.push(key);
    }

    /// The same of an own message that is not acknowledged: its id is in the row rather than in the key.
    pub(crate) fn touch_outgoing(&mut self, number: u64, message_id: &MessageId) {
        self.bytes += message_id.as_bytes().len();
        self.touch(Key::Outgoing(number));
    }

    /// A row that was touched holds a message, too.
    pub(crate) fn weigh(&mut self, message: &Message) {
        self.bytes += encoded_bytes(message);
    }

    /// Whether so much has changed that the rest has to wait for the next operation: a batch of a store has a bound.
    pub(crate) fn is_full(&self) -> bool {
        self.touched.len() >= CASCADE_ROWS_MAX || self.bytes >= CASCADE_BYTES_MAX
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push(Output::Event(event));
    }

    pub(crate) fn limit(&mut self, limit: Limit, message_id: &MessageId) {
        self.event(Event::LimitHit { limit, message_id: message_id.clone() });
    }

    pub(crate) fn broadcast(&mut self, message: &Message, reason: Reason, dialect: wire::Dialect) {
        let wire = wire::encode(message, dialect);
        let message_id = message.message_id.clone();
        self.outputs.push(Output::Broadcast(Broadcast { message_id, reason, wire }));
    }
}

/// What a row has apart from its ids and messages.
pub(crate) fn row_bytes(channel_id: &ChannelId) -> usize {
    ROW_BYTES + channel_id.as_bytes().len()
}

/// A message as it is kept: who gets it later has no use for what its sender had received then, or missed.
pub(crate) fn stripped(message: Message, strips: bool) -> Arc<Message> {
    if strips {
        return Arc::new(Message { bloom_filter: None, repair_request: Vec::new(), ..message });
    }
    Arc::new(message)
}
