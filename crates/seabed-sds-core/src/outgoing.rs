//! Own messages that nobody has acknowledged: who may have them, when they are sent again, and when that is given up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::bloom::{Filter, Hashed};
use crate::config::{BloomAckThreshold, Config};
use crate::record::Unacknowledged;
use crate::wire::Dialect;
use crate::{HistoryEntry, Message, MessageId, ParticipantId, hash};

/// How many messages one sweep sends again or gives up: what is left is due at once.
pub(crate) const RESENDS_PER_SWEEP_MAX: usize = 256;

/// How many rows that are one too many an operation deletes besides what it does.
const STRAYS_PER_OPERATION_MAX: usize = 256;

/// One of them.
#[derive(Debug)]
pub(crate) struct OutgoingEntry {
    pub(crate) message: Arc<Message>,
    pub(crate) state: Unacknowledged,
}

/// Own messages that nobody has acknowledged, by running numbers. (By numbers because profile `nim` lets an id be used twice.)
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    entries: BTreeMap<u64, OutgoingEntry>,
    by_id: BTreeSet<(MessageId, u64)>,
    due: BTreeSet<(u64, u64)>,
    /// The hashes of their ids by their numbers, in the order of these. Apart and close together, because every filter that is received is asked for
    /// all of them.
    hashes: VecDeque<(u64, Hashed)>,
    /// Numbers whose message is stored in a row of its own although the log has it, or although nothing of that number is here: what a commit in parts
    /// leaves that was cut off. The next operations delete these rows, and no number is given out again before.
    stray: BTreeSet<u64>,
}

/// What a received message says about own ones, by their numbers, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Review {
    /// These were received by somebody.
    pub(crate) acknowledged: BTreeSet<u64>,
    /// These are in one more filter.
    pub(crate) possibly: BTreeSet<u64>,
}

/// Who spoke, and what they say that they have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Testimony<'a> {
    pub(crate) sender: &'a ParticipantId,
    pub(crate) causal_history: &'a [HistoryEntry],
    pub(crate) filter: Option<&'a Filter>,
}

impl Outgoing {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, number: u64) -> Option<&OutgoingEntry> {
        self.entries.get(&number)
    }

    pub(crate) fn contains(&self, id: &MessageId) -> bool {
        self.numbers(id).next().is_some()
    }

    /// Which of them have that id: more than one only in profile `nim`.
    pub(crate) fn numbers(&self, id: &MessageId) -> impl Iterator<Item = u64> {
        self.by_id.range((id.clone(), 0)..=(id.clone(), u64::MAX)).map(|(_, number)| *number)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &OutgoingEntry)> {
        self.entries.iter().map(|(number, entry)| (*number, entry))
    }

    pub(crate) fn next_number(&self) -> u64 {
        let last = self.entries.last_key_value().map(|(number, _)| *number);
        last.max(self.stray.last().copied()).map_or(0, |number| number.saturating_add(1))
    }

    /// The row that has the message of that number is one too many.
    pub(crate) fn stray(&mut self, number: u64) {
        self.stray.insert(number);
    }

    /// The row that has the message of that number is written or deleted now.
    pub(crate) fn not_stray(&mut self, number: u64) {
        self.stray.remove(&number);
    }

    /// Some of those that are one too many, to be deleted now.
    pub(crate) fn take_stray(&mut self) -> BTreeSet<u64> {
        match self.stray.iter().nth(STRAYS_PER_OPERATION_MAX).copied() {
            Some(first) => {
                let left = self.stray.split_off(&first);
                std::mem::replace(&mut self.stray, left)
            }
            None => std::mem::take(&mut self.stray),
        }
    }

    pub(crate) fn insert(
        &mut self,
        number: u64,
        message: Arc<Message>,
        state: Unacknowledged,
        config: &Config,
    ) {
        let hashed = Hashed::new(config.dialect, message.message_id.as_bytes());
        self.by_id.insert((message.message_id.clone(), number));
        self.due.insert((state.due_ms, number));
        let index = self.hashes.partition_point(|(other, _)| *other < number);
        self.hashes.insert(index, (number, hashed));
        self.entries.insert(number, OutgoingEntry { message, state });
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<OutgoingEntry> {
        let entry = self.entries.remove(&number)?;
        self.by_id.remove(&(entry.message.message_id.clone(), number));
        self.due.remove(&(entry.state.due_ms, number));
        if let Ok(index) = self.hashes.binary_search_by_key(&number, |(number, _)| *number) {
            self.hashes.remove(index);
        }
        Some(entry)
    }

    /// When the next one is sent again or given up.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Those that are due, the longest due first, as many as one sweep may have.
    pub(crate) fn due(&self, now_ms: u64, count_max: usize) -> Vec<u64> {
        self.due.range(..=(now_ms, u64::MAX)).take(count_max).map(|(_, number)| *number).collect()
    }

    /// Changes how far one has got.
    pub(crate) fn update(&mut self, number: u64, change: impl FnOnce(&mut Unacknowledged)) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        self.due.remove(&(entry.state.due_ms, number));
        change(&mut entry.state);
        self.due.insert((entry.state.due_ms, number));
    }

    /// Which messages somebody says to have. What they name they have; what is in their filter they may have.
    pub(crate) fn review(&self, testimony: Testimony<'_>, dialect: Dialect, threshold: u32) -> Review {
        let mut review = Review::default();
        if self.entries.is_empty() {
            return review;
        }
        for cause in testimony.causal_history {
            review.acknowledged.extend(self.numbers(&cause.message_id));
        }
        let Some(filter) = testimony.filter else { return review };
        for number in self.held(filter, dialect) {
            let Some(entry) = self.entries.get(&number) else { continue };
            // Who said so before says nothing new.
            let heard = !testimony.sender.is_empty() && entry.state.possible_by.contains(testimony.sender);
            if heard || review.acknowledged.contains(&number) {
                continue;
            }
            if entry.state.possible_acks().saturating_add(1) >= threshold {
                review.acknowledged.insert(number);
            } else {
                review.possibly.insert(number);
            }
        }
        review
    }

    /// Which of them a filter holds.
    fn held(&self, filter: &Filter, dialect: Dialect) -> Vec<u64> {
        if filter.dialect() == dialect {
            let hashes = self.hashes.iter();
            return hashes
                .filter(|(_, hashed)| filter.contains_hashed(*hashed))
                .map(|(number, _)| *number)
                .collect();
        }
        // The hashes that are kept are not its.
        let entries = self.entries.iter();
        entries
            .filter(|(_, entry)| filter.contains(entry.message.message_id.as_bytes()))
            .map(|(number, _)| *number)
            .collect()
    }
}

/// How many filters acknowledge: two when two others could have them, else a conversation of two would never confirm.
pub(crate) fn threshold(config: &Config, other_senders: usize) -> u32 {
    match config.bloom_ack_threshold {
        BloomAckThreshold::Others => {
            if other_senders >= 2 {
                2
            } else {
                1
            }
        }
        BloomAckThreshold::Filters(count) => count,
    }
}

/// When a message that was sent at `sent_ms` for the `attempts`-th time again is due the next time.
pub(crate) fn due_ms(config: &Config, own: &ParticipantId, id: &MessageId, state: &Unacknowledged) -> u64 {
    if !config.rules().resends {
        // nim-sds asks whether more than the interval has passed.
        return state.sent_ms.saturating_add(config.resend_interval_ms).saturating_add(1);
    }
    let possibly = state.possible_acks() > 0;
    let interval_ms = if possibly { config.resend_interval_possible_ms } else { config.resend_interval_ms };
    let factor = u64::from(config.resend_factor).saturating_pow(state.attempts);
    let interval_ms = interval_ms.saturating_mul(factor);
    let jitter_ms_max =
        u64::try_from(u128::from(interval_ms) * u128::from(config.resend_jitter_percent) / 100)
            .unwrap_or(u64::MAX);
    let jitter_ms = chance(&[own.as_bytes(), id.as_bytes(), &state.attempts.to_be_bytes()], jitter_ms_max);
    state.sent_ms.saturating_add(interval_ms).saturating_add(jitter_ms)
}

/// A number up to `max` that follows from the parts: chance that a run can repeat, different for each participant.
pub(crate) fn chance(parts: &[&[u8]], max: u64) -> u64 {
    let hash = hash::nim(&parts.concat());
    match max.checked_add(1) {
        Some(bound) => hash % bound,
        None => hash,
    }
}
