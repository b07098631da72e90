//! Messages that wait for their causes.

use std::collections::{BTreeMap, BTreeSet};

use crate::MessageId;
use crate::record::{IncomingEntry, encoded_bytes};

/// The messages that wait, and for what.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    entries: BTreeMap<MessageId, IncomingEntry>,
    /// What each waits for.
    waits: BTreeMap<MessageId, BTreeSet<MessageId>>,
    /// The same pairs, the cause first.
    waiters: BTreeSet<(MessageId, MessageId)>,
    /// By Lamport value: the highest goes when there are too many.
    by_lamport: BTreeSet<(u64, MessageId)>,
    /// Those that wait for nothing any more, by Lamport value.
    ready: BTreeSet<(u64, MessageId)>,
    bytes: usize,
}

impl Incoming {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// About how many bytes the waiting messages take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn contains(&self, id: &MessageId) -> bool {
        self.entries.contains_key(id)
    }

    pub(crate) fn get(&self, id: &MessageId) -> Option<&IncomingEntry> {
        self.entries.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &MessageId) -> Option<&mut IncomingEntry> {
        self.entries.get_mut(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &IncomingEntry> {
        self.entries.values()
    }

    /// What a message waits for.
    pub(crate) fn waits_for(&self, id: &MessageId) -> impl Iterator<Item = &MessageId> {
        self.waits.get(id).into_iter().flatten()
    }

    pub(crate) fn does_wait(&self, id: &MessageId, cause: &MessageId) -> bool {
        self.waits.get(id).is_some_and(|causes| causes.contains(cause))
    }

    /// Whether anything waits for `cause`.
    pub(crate) fn is_wanted(&self, cause: &MessageId) -> bool {
        self.waiters_of(cause).next().is_some()
    }

    pub(crate) fn waiters_of(&self, cause: &MessageId) -> impl Iterator<Item = &MessageId> {
        let first = (cause.clone(), MessageId::default());
        self.waiters.range(first..).take_while(move |(other, _)| other == cause).map(|(_, waiter)| waiter)
    }

    /// Adds a message without anything to wait for; [`add_wait`](Self::add_wait) adds that.
    pub(crate) fn insert(&mut self, entry: IncomingEntry) {
        let id = entry.message.message_id.clone();
        self.remove(&id);
        self.bytes += encoded_bytes(&entry.message);
        self.by_lamport.insert(place(&entry));
        self.ready.insert(place(&entry));
        self.waits.insert(id.clone(), BTreeSet::new());
        self.entries.insert(id, entry);
    }

    /// Notes that a message waits for a cause; false when there is no such message.
    pub(crate) fn add_wait(&mut self, id: &MessageId, cause: &MessageId) -> bool {
        let (Some(causes), Some(entry)) = (self.waits.get_mut(id), self.entries.get(id)) else {
            return false;
        };
        if causes.is_empty() {
            self.ready.remove(&place(entry));
        }
        causes.insert(cause.clone());
        self.waiters.insert((cause.clone(), id.clone()));
        true
    }

    /// Takes a message out, with all that it waited for.
    pub(crate) fn remove(&mut self, id: &MessageId) -> Option<(IncomingEntry, BTreeSet<MessageId>)> {
        let entry = self.entries.remove(id)?;
        let causes = self.waits.remove(id).unwrap_or_default();
        for cause in &causes {
            self.waiters.remove(&(cause.clone(), id.clone()));
        }
        self.by_lamport.remove(&place(&entry));
        self.ready.remove(&place(&entry));
        self.bytes = self.bytes.saturating_sub(encoded_bytes(&entry.message));
        Some((entry, causes))
    }

    /// Nothing waits for `cause` any more. Tells who did.
    pub(crate) fn settle(&mut self, cause: &MessageId) -> Vec<MessageId> {
        let waiters: Vec<MessageId> = self.waiters_of(cause).cloned().collect();
        for waiter in &waiters {
            self.waiters.remove(&(cause.clone(), waiter.clone()));
            if let (Some(causes), Some(entry)) = (self.waits.get_mut(waiter), self.entries.get(waiter)) {
                causes.remove(cause);
                if causes.is_empty() {
                    self.ready.insert(place(entry));
                }
            }
        }
        waiters
    }

    /// Whether a message waits here and for nothing any more.
    pub(crate) fn is_ready(&self, id: &MessageId) -> bool {
        self.waits.get(id).is_some_and(BTreeSet::is_empty)
    }

    /// The messages that wait for nothing any more, in the order of (Lamport, id).
    pub(crate) fn ready(&self) -> impl Iterator<Item = &MessageId> {
        self.ready.iter().map(|(_, id)| id)
    }

    /// The message that is furthest from being delivered.
    pub(crate) fn furthest(&self) -> Option<&MessageId> {
        self.by_lamport.last().map(|(_, id)| id)
    }
}

fn place(entry: &IncomingEntry) -> (u64, MessageId) {
    (entry.message.lamport.unwrap_or(0), entry.message.message_id.clone())
}
