//! One operation while it runs: what time it is, which rows it has touched, and what is going to be said.

use std::sync::Arc;

use crate::effect::{Broadcast, Event, Limit, Output, Reason};
use crate::record::{Key, Meta};
use crate::{Message, MessageId, wire};

/// What an operation gathers.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) now_ms: u64,
    /// How the meta row was before.
    pub(crate) before: Meta,
    /// Rows that may have changed: their values are read when the operation is over, so the last one counts.
    pub(crate) touched: Vec<Key>,
    pub(crate) outputs: Vec<Output>,
}

impl Step {
    pub(crate) fn new(now_ms: u64, before: Meta) -> Self {
        Self { now_ms, before, touched: Vec::new(), outputs: Vec::new() }
    }

    pub(crate) fn touch(&mut self, key: Key) {
        self.touched.push(key);
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

/// A message as it is kept: who gets it later has no use for what its sender had received then, or missed.
pub(crate) fn stripped(message: Message, strips: bool) -> Arc<Message> {
    if strips {
        return Arc::new(Message { bloom_filter: None, repair_request: Vec::new(), ..message });
    }
    Arc::new(message)
}
