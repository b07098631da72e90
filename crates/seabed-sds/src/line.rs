//! What stands in line for a listener, bounded by count and by bytes.

use std::collections::VecDeque;

use seabed_sds_core::{Event, HistoryEntry, Message};

use crate::events::{Happened, What};

/// Items in the order in which they happened.
#[derive(Debug, Default)]
pub(crate) struct Line {
    items: VecDeque<Happened>,
    bytes: usize,
}

impl Line {
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether the next operation has to wait until some of it is gone.
    pub(crate) fn is_full(&self, items_max: usize, bytes_max: usize) -> bool {
        self.items.len() >= items_max || self.bytes >= bytes_max
    }

    pub(crate) fn push(&mut self, item: Happened) {
        self.bytes += bytes(&item);
        self.items.push_back(item);
    }

    pub(crate) fn pop(&mut self) -> Option<Happened> {
        let item = self.items.pop_front()?;
        self.bytes -= bytes(&item);
        Some(item)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// About how much memory an item holds. A message that is in the log as well counts all the same: it may be forgotten there before it is read here.
fn bytes(item: &Happened) -> usize {
    let held = match &item.what {
        What::Broadcast(broadcast) => broadcast.wire.len(),
        What::Event(
            Event::Delivered { message, .. }
            | Event::EphemeralDelivered { message }
            | Event::OwnRestored { message },
        ) => of_message(message),
        What::Event(Event::MissingDependencies { entries, .. } | Event::DependenciesLost { entries }) => {
            of_entries(entries)
        }
        _ => 0,
    };
    size_of::<Happened>() + held
}

fn of_message(message: &Message) -> usize {
    size_of::<Message>()
        + of_entries(&message.causal_history)
        + of_entries(&message.repair_request)
        + message.bloom_filter.as_ref().map_or(0, |filter| filter.len())
        + message.content.as_ref().map_or(0, |content| content.len())
}

fn of_entries(entries: &[HistoryEntry]) -> usize {
    let one = |entry: &HistoryEntry| {
        size_of::<HistoryEntry>()
            + entry.message_id.as_bytes().len()
            + entry.sender_id.as_ref().map_or(0, |sender| sender.as_bytes().len())
            + entry.retrieval_hint.as_ref().map_or(0, |hint| hint.len())
    };
    entries.iter().map(one).sum()
}
