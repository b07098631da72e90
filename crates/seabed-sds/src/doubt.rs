//! A batch whose commit had no answer: whether it has arrived all the same, and what is committed again when it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use seabed_sds_core::{Change, IncomingEntry, Key, LogEntry, MessageId, Record};

use crate::contract::ChannelBatch;

/// What to commit again of a batch that has arrived; `None` when it has not. Its messages tell: they are what every contract carries. One without any
/// has to be there row by row.
pub(crate) fn arrived(batch: &Arc<ChannelBatch>, records: &[Record]) -> Option<Arc<ChannelBatch>> {
    let rows: BTreeMap<Key, &Record> = records.iter().map(|record| (record.key(), record)).collect();
    let is_there = |change: &Change| match change {
        Change::Put(record) => rows.get(&record.key()).is_some_and(|there| *there == record),
        Change::Delete(key) => !rows.contains_key(key),
    };
    if batch.changes.iter().all(is_there) {
        return Some(batch.clone());
    }
    let found = Found::new(records);
    let mut messages = batch.changes.iter().filter(|change| is_message(change)).peekable();
    messages.peek()?;
    let arrived = messages.all(|change| found.has_message(change))
        && batch.changes.iter().all(|change| found.has_unacknowledged(change));
    arrived.then(|| {
        let changes = batch.changes.iter().filter_map(|change| found.renumbered(change)).collect();
        Arc::new(ChannelBatch { changes, ..ChannelBatch::clone(batch) })
    })
}

/// The messages of a channel that was loaded, under the numbers that they have now: a backend of contract (A) or (B) keeps none, and its adapter counts
/// anew at each load.
struct Found<'a> {
    log: BTreeMap<&'a MessageId, &'a LogEntry>,
    incoming: BTreeMap<&'a MessageId, &'a IncomingEntry>,
    outgoing: BTreeMap<&'a MessageId, u64>,
}

impl<'a> Found<'a> {
    fn new(records: &'a [Record]) -> Self {
        let mut found = Self { log: BTreeMap::new(), incoming: BTreeMap::new(), outgoing: BTreeMap::new() };
        for record in records {
            match record {
                Record::Log(entry) => drop(found.log.insert(&entry.message.message_id, entry)),
                Record::Incoming(entry) => drop(found.incoming.insert(&entry.message.message_id, entry)),
                // Of several, which only profile `nim` has, the one that was said last.
                Record::Outgoing { number, message_id, .. } => {
                    let last = found.outgoing.entry(message_id).or_insert(*number);
                    *last = (*last).max(*number);
                }
                _ => {}
            }
        }
        found
    }

    /// Whether that message is there and the same, but for what a snapshot does not carry.
    fn has_message(&self, change: &Change) -> bool {
        match change {
            Change::Put(Record::Log(entry)) => self.log.get(&entry.message.message_id).is_some_and(|there| {
                there.message == entry.message && there.retrieval_hint == entry.retrieval_hint
            }),
            Change::Put(Record::Incoming(entry)) => {
                self.incoming.get(&entry.message.message_id).is_some_and(|there| {
                    there.message == entry.message && there.retrieval_hint == entry.retrieval_hint
                })
            }
            _ => false,
        }
    }

    /// Whether what must be sent again until it is acknowledged will be.
    fn has_unacknowledged(&self, change: &Change) -> bool {
        match change {
            Change::Put(Record::Outgoing { message_id, .. }) => self.outgoing.contains_key(message_id),
            _ => true,
        }
    }

    /// The change of the row that has that message now. What goes by an old number, which may be another one's now, is left: it has happened, or the channel
    /// does it again.
    fn renumbered(&self, change: &Change) -> Option<Change> {
        match change {
            Change::Put(Record::Log(entry)) => {
                let position = self.log.get(&entry.message.message_id)?.position;
                Some(Change::Put(Record::Log(LogEntry { position, ..entry.clone() })))
            }
            Change::Put(Record::Outgoing { message_id, state, .. }) => {
                let number = *self.outgoing.get(message_id)?;
                let (message_id, state) = (message_id.clone(), state.clone());
                Some(Change::Put(Record::Outgoing { number, message_id, state }))
            }
            Change::Put(Record::Kept { .. })
            | Change::Delete(Key::Log(..) | Key::Outgoing(_) | Key::Kept(_)) => None,
            _ => Some(change.clone()),
        }
    }
}

fn is_message(change: &Change) -> bool {
    matches!(change, Change::Put(Record::Log(_) | Record::Incoming(_)))
}
