//! What was said: the log in its order, who spoke in it, and the ids that are remembered beyond it.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::LogEntry;
use crate::ring::Ring;
use crate::{HistoryEntry, MessageId, ParticipantId};

/// The messages of a channel, in order.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: BTreeMap<MessageId, LogEntry>,
    order: BTreeSet<(u64, MessageId)>,
    /// Those whose time is beyond belief: apart, so that they are never named and go first.
    anomalous: BTreeSet<(u64, MessageId)>,
    /// How many messages of the log name each message as a cause.
    named: BTreeMap<MessageId, u32>,
    /// The messages that none of them names. Whoever misses one hears of it only when somebody names it.
    heads: BTreeSet<(u64, MessageId)>,
    /// Of how many messages each participant is the sender.
    senders: BTreeMap<ParticipantId, usize>,
}

impl Log {
    #[cfg(feature = "sim")]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn contains(&self, id: &MessageId) -> bool {
        self.entries.contains_key(id)
    }

    pub(crate) fn get(&self, id: &MessageId) -> Option<&LogEntry> {
        self.entries.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &MessageId) -> Option<&mut LogEntry> {
        self.entries.get_mut(id)
    }

    /// The position after the last one.
    pub(crate) fn next_position(&self) -> u64 {
        self.order.last().map_or(0, |(position, _)| position.saturating_add(1))
    }

    /// Puts a message into its place; one of the same id, which only profile `nim` has, is replaced.
    pub(crate) fn insert(&mut self, entry: LogEntry) {
        let id = entry.message.message_id.clone();
        self.remove(&id);
        let place = (entry.position, id.clone());
        if entry.anomalous {
            self.anomalous.insert(place);
        } else {
            if !self.named.contains_key(&id) {
                self.heads.insert(place.clone());
            }
            self.order.insert(place);
            // Who names itself is as unnamed as before.
            for cause in entry.message.causal_history.iter().filter(|cause| cause.message_id != id) {
                self.name(&cause.message_id);
            }
        }
        let sender = &entry.message.sender_id;
        if !sender.is_empty() {
            // Not entry(): the key is cloned only for a new sender.
            match self.senders.get_mut(sender) {
                Some(count) => *count += 1,
                None => drop(self.senders.insert(sender.clone(), 1)),
            }
        }
        self.entries.insert(id, entry);
    }

    pub(crate) fn remove(&mut self, id: &MessageId) -> Option<LogEntry> {
        let entry = self.entries.remove(id)?;
        let place = (entry.position, id.clone());
        if entry.anomalous {
            self.anomalous.remove(&place);
        } else {
            self.heads.remove(&place);
            self.order.remove(&place);
            for cause in entry.message.causal_history.iter().filter(|cause| cause.message_id != *id) {
                self.unname(&cause.message_id);
            }
        }
        let sender = &entry.message.sender_id;
        if let Some(count) = self.senders.get_mut(sender) {
            *count -= 1;
            if *count == 0 {
                self.senders.remove(sender);
            }
        }
        Some(entry)
    }

    fn name(&mut self, cause: &MessageId) {
        if let Some(count) = self.named.get_mut(cause) {
            *count += 1;
            return;
        }
        self.named.insert(cause.clone(), 1);
        if let Some(entry) = self.entries.get(cause) {
            self.heads.remove(&(entry.position, cause.clone()));
        }
    }

    fn unname(&mut self, cause: &MessageId) {
        let Some(count) = self.named.get_mut(cause) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.named.remove(cause);
        if let Some(entry) = self.entries.get(cause).filter(|entry| !entry.anomalous) {
            self.heads.insert((entry.position, cause.clone()));
        }
    }

    /// Which message goes when there are too many: the first, but not the one that was just delivered.
    pub(crate) fn to_evict(&self, messages_max: usize, just_delivered: &MessageId) -> Option<MessageId> {
        if self.entries.len() <= messages_max {
            return None;
        }
        let mut all = self.anomalous.iter().chain(&self.order).map(|(_, id)| id);
        all.find(|id| *id != just_delivered).cloned()
    }

    /// The messages in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &LogEntry> {
        // Two runs, both in order: those beyond belief need not be the last.
        let (mut usual, mut anomalous) = (self.order.iter().peekable(), self.anomalous.iter().peekable());
        std::iter::from_fn(move || {
            let next = match (usual.peek(), anomalous.peek()) {
                (Some(one), Some(other)) if one < other => usual.next(),
                (_, Some(_)) => anomalous.next(),
                _ => usual.next(),
            };
            next.and_then(|(_, id)| self.entries.get(id))
        })
    }

    /// What the next message names as its causes: the last `count` messages, oldest first.
    pub(crate) fn causes(&self, count: usize) -> Vec<HistoryEntry> {
        let mut causes: Vec<HistoryEntry> = self.last(count).map(LogEntry::as_cause).collect();
        causes.reverse();
        causes
    }

    /// The same, except that messages which came late and which nobody has named take up to half of the places: else whoever misses
    /// them would never hear of them. When they are more than that, `turn` says with which to begin.
    pub(crate) fn causes_and_heads(&self, count: usize, turn: u64) -> Vec<HistoryEntry> {
        let first = self.order.iter().rev().nth(count.saturating_sub(1));
        // In a log that fits whole, and nearly always else, there are none.
        let Some(first) = first else { return self.causes(count) };
        let late: Vec<&MessageId> = self.heads.range(..first.clone()).map(|(_, id)| id).collect();
        if late.is_empty() {
            return self.causes(count);
        }
        let places = late.len().min(count / 2);
        let begin = usize::try_from(turn).unwrap_or(0) % late.len();
        let mut chosen: Vec<&LogEntry> = self.last(count - places).collect();
        let turned = late.iter().cycle().skip(begin).take(places);
        chosen.extend(turned.filter_map(|id| self.entries.get(*id)));
        chosen.sort_unstable_by(|one, other| one.place().cmp(&other.place()));
        chosen.into_iter().map(LogEntry::as_cause).collect()
    }

    /// The last `count` messages that may be named, newest first.
    pub(crate) fn last(&self, count: usize) -> impl Iterator<Item = &LogEntry> {
        self.order.iter().rev().take(count).filter_map(|(_, id)| self.entries.get(id))
    }

    /// How many participants other than `own` have a message in the log.
    pub(crate) fn other_senders(&self, own: &ParticipantId) -> usize {
        self.senders.len() - usize::from(self.senders.contains_key(own))
    }
}

impl LogEntry {
    fn place(&self) -> (u64, &MessageId) {
        (self.position, &self.message.message_id)
    }

    fn as_cause(&self) -> HistoryEntry {
        let sender = &self.message.sender_id;
        HistoryEntry {
            message_id: self.message.message_id.clone(),
            retrieval_hint: self.retrieval_hint.clone(),
            sender_id: (!sender.is_empty()).then(|| sender.clone()),
        }
    }
}

/// What is remembered of an id that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) at_ms: u64,
    pub(crate) own: bool,
    pub(crate) delivered: bool,
}

/// Everything that was said, or counts as said.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) log: Log,
    /// What was received; serves duplicates, dependencies and the filter.
    pub(crate) seen: Ring<Seen>,
    /// Sync messages, which peers may name as causes although nobody keeps them (sds.md section 14).
    pub(crate) syncs: Ring<()>,
    /// Dependencies that count as met; true for those that were given up as lost.
    pub(crate) met: Ring<bool>,
}

impl History {
    pub(crate) fn was_delivered(&self, id: &MessageId) -> bool {
        self.log.contains(id) || self.seen.get(id).is_some_and(|seen| seen.delivered)
    }

    /// Whether a message that rests on `id` need not wait for it.
    pub(crate) fn satisfies(&self, id: &MessageId) -> bool {
        self.was_delivered(id) || self.met.get(id).is_some() || self.syncs.get(id).is_some()
    }

    /// Whether `id` is only known because it was given up.
    pub(crate) fn is_lost(&self, id: &MessageId) -> bool {
        self.met.get(id) == Some(&true) && !self.was_delivered(id) && self.syncs.get(id).is_none()
    }
}
