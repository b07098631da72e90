//! Delivery: the order in which messages enter the log, those that waited for them, and what is waited for no more (sds.md sections
//! 10 and 13).

use std::collections::{BTreeSet, VecDeque};

use crate::channel::Channel;
use crate::config::{MARKED_IDS_MAX, MET_IDS_MAX};
use crate::effect::{Event, Limit, Outcome};
use crate::error::Error;
use crate::filter::OwnFilter;
use crate::history::Seen;
use crate::record::{IncomingEntry, Key, LogEntry};
use crate::step::Step;
use crate::{HistoryEntry, MessageId, clock};

impl Channel {
    /// A message enters the log, and the application is told.
    pub(crate) fn deliver(&mut self, entry: IncomingEntry, step: &mut Step) {
        step.event(Event::Delivered { message: entry.message.clone(), gap: entry.gap });
        self.place(entry, step);
    }

    /// A message enters the log.
    pub(crate) fn place(&mut self, entry: IncomingEntry, step: &mut Step) {
        let IncomingEntry { message, retrieval_hint, anomalous, .. } = entry;
        if self.config.rules().clock_at_delivery {
            let stamp = message.lamport.unwrap_or(0);
            self.meta.lamport = clock::after(&self.config, self.meta.lamport, stamp, step.now_ms);
        }
        self.keep_in_log(LogEntry { message, position: 0, retrieval_hint, anomalous }, step);
    }

    /// Puts a message into its place of the log, and forgets the first one when there are too many.
    pub(crate) fn keep_in_log(&mut self, entry: LogEntry, step: &mut Step) {
        let id = entry.message.message_id.clone();
        let position = if self.config.rules().log_by_lamport {
            entry.message.lamport.unwrap_or(0)
        } else {
            // A message whose id was used before takes the place of that one.
            let before = self.history.log.get(&id).map(|before| before.position);
            before.unwrap_or_else(|| self.history.log.next_position())
        };
        self.history.log.insert(LogEntry { position, ..entry });
        step.touch(Key::Log(id.clone()));
        while let Some(evicted) = self.history.log.to_evict(self.config.limits.log_messages_max, &id) {
            self.history.log.remove(&evicted);
            step.touch(Key::Log(evicted.clone()));
            // Profile nim answers with a copy.
            if self.config.rules().keeps_first_answer {
                self.drop_answer(&evicted, step);
            }
        }
    }

    /// Remembers an id as the newest, and puts it into the filter.
    pub(crate) fn remember(&mut self, id: &MessageId, seen: Seen, step: &mut Step) {
        let ring = match &mut self.filter {
            OwnFilter::Rolling(rolling) => return rolling.add(id),
            OwnFilter::Ring(ring) => ring,
        };
        let (number, before) = self.history.seen.push(id.clone(), seen);
        step.touch(Key::Seen(number));
        if let Some(before) = before {
            step.touch(Key::Seen(before));
            ring.renumbered(before);
        }
        if ring.covers(&seen) {
            ring.add(number, seen.at_ms, id);
        }
        if let Some(forgotten) = self.history.seen.forget_oldest(self.config.limits.seen_ids_max) {
            step.touch(Key::Seen(forgotten));
            ring.forgotten(&self.config, &mut self.meta, forgotten);
        }
        self.renew_filter(step);
    }

    /// Keeps a message that waits; false when it was dropped for want of room.
    pub(crate) fn buffer(
        &mut self,
        entry: IncomingEntry,
        waits: &BTreeSet<MessageId>,
        step: &mut Step,
    ) -> bool {
        let id = entry.message.message_id.clone();
        self.take_incoming(&id, step);
        self.incoming.insert(entry);
        step.touch(Key::Incoming(id.clone()));
        for cause in waits {
            self.incoming.add_wait(&id, cause);
            step.touch(Key::Waits(id.clone(), cause.clone()));
        }
        let limits = self.config.limits.clone();
        while self.config.rules().bounded {
            let limit = if self.incoming.len() > limits.incoming_messages_max {
                Limit::IncomingMessages
            } else if self.incoming.bytes() > limits.incoming_bytes_max {
                Limit::IncomingBytes
            } else {
                break;
            };
            let Some(furthest) = self.incoming.furthest().cloned() else { break };
            step.limit(limit, &furthest);
            self.drop_incoming(&furthest, step);
        }
        self.incoming.contains(&id)
    }

    /// Takes a waiting message out.
    fn take_incoming(
        &mut self,
        id: &MessageId,
        step: &mut Step,
    ) -> Option<(IncomingEntry, BTreeSet<MessageId>)> {
        let (entry, causes) = self.incoming.remove(id)?;
        step.touch(Key::Incoming(id.clone()));
        for cause in &causes {
            step.touch(Key::Waits(id.clone(), cause.clone()));
        }
        Some((entry, causes))
    }

    /// Forgets a waiting message as if it had never come.
    fn drop_incoming(&mut self, id: &MessageId, step: &mut Step) {
        let Some((entry, causes)) = self.take_incoming(id, step) else { return };
        for cause in
            causes.iter().filter(|cause| !self.incoming.is_wanted(cause)).cloned().collect::<Vec<_>>()
        {
            self.drop_missing(&cause, step);
        }
        if let Some(number) = self.history.seen.remove(id) {
            step.touch(Key::Seen(number));
            if let OwnFilter::Ring(ring) = &mut self.filter {
                ring.remove(&self.config, &mut self.meta, number);
            }
        }
        self.miss_again(&entry.message, step);
    }

    /// These are waited for no more: delivers what waited for nothing else, and so on.
    pub(crate) fn settle_all(&mut self, causes: impl IntoIterator<Item = MessageId>, step: &mut Step) {
        if self.config.rules().log_by_lamport {
            self.cascade_by_lamport(causes.into_iter().collect(), step);
        } else {
            self.cascade_depth_first(causes, step);
        }
    }

    /// Of all messages that may be delivered, the one with the lowest (Lamport, id) is the next.
    fn cascade_by_lamport(&mut self, mut settled: VecDeque<MessageId>, step: &mut Step) {
        let mut ready = BTreeSet::new();
        loop {
            while let Some(cause) = settled.pop_front() {
                for waiter in self.settle(&cause, step) {
                    if let Some(entry) =
                        self.incoming.get(&waiter).filter(|_| self.incoming.is_ready(&waiter))
                    {
                        ready.insert((entry.message.lamport.unwrap_or(0), waiter));
                    }
                }
            }
            let Some((_, id)) = ready.pop_first() else { return };
            let Some((entry, _)) = self.take_incoming(&id, step) else { continue };
            self.mark_delivered(&id, step);
            self.deliver(entry, step);
            settled.push_back(id);
        }
    }

    /// The order of nim-sds: whoever became free last goes first, of several the one with the lowest id. What was free before goes too.
    fn cascade_depth_first(&mut self, settled: impl IntoIterator<Item = MessageId>, step: &mut Step) {
        for cause in settled {
            self.settle(&cause, step);
        }
        let mut stack: Vec<MessageId> = self.incoming.ready().rev().cloned().collect();
        while let Some(id) = stack.pop() {
            let Some((entry, _)) = self.take_incoming(&id, step) else { continue };
            self.deliver(entry, step);
            let mut free = self.settle(&id, step);
            free.retain(|waiter| self.incoming.is_ready(waiter));
            free.sort_unstable_by(|one, other| other.cmp(one));
            stack.append(&mut free);
        }
    }

    fn settle(&mut self, cause: &MessageId, step: &mut Step) -> Vec<MessageId> {
        let waiters = self.incoming.settle(cause);
        for waiter in &waiters {
            step.touch(Key::Waits(waiter.clone(), cause.clone()));
        }
        waiters
    }

    /// A message that waited is delivered now, which is when it satisfies others. One that waited so long that the filter does not cover it
    /// any more is put into it again: the next message may name it.
    fn mark_delivered(&mut self, id: &MessageId, step: &mut Step) {
        let Some(number) = self.history.seen.number(id) else {
            return self.remember(id, Seen { at_ms: step.now_ms, own: false, delivered: true }, step);
        };
        if number < self.meta.filter_from {
            return self.remember(id, Seen { at_ms: step.now_ms, own: false, delivered: true }, step);
        }
        if let Some(seen) = self.history.seen.value_mut(number) {
            seen.delivered = true;
            step.touch(Key::Seen(number));
        }
    }

    pub(crate) fn mark_met(&mut self, ids: &[MessageId], step: &mut Step) -> Result<Outcome, Error> {
        if ids.len() > MARKED_IDS_MAX {
            let (what, count, count_max) = ("the list of ids", ids.len(), MARKED_IDS_MAX);
            return Err(Error::TooMuch { what, count, count_max });
        }
        for id in ids {
            self.drop_missing(id, step);
            self.drop_answer(id, step);
            let known = match &self.filter {
                OwnFilter::Rolling(rolling) => rolling.contains(id.as_bytes()),
                OwnFilter::Ring(_) => self.history.seen.get(id).is_some(),
            };
            if !known {
                self.remember(id, Seen { at_ms: step.now_ms, own: false, delivered: false }, step);
            }
            if self.config.rules().remembers && !self.history.was_delivered(id) {
                self.meet(id, false, step);
            }
        }
        self.settle_all(ids.iter().cloned(), step);
        Ok(Outcome::Marked)
    }

    fn meet(&mut self, id: &MessageId, lost: bool, step: &mut Step) {
        if self.history.met.get(id) == Some(&lost) {
            return;
        }
        let (number, before) = self.history.met.push(id.clone(), lost);
        for number in
            [Some(number), before, self.history.met.forget_oldest(MET_IDS_MAX)].into_iter().flatten()
        {
            step.touch(Key::Met(number));
        }
    }

    /// Gives up what is missing for too long.
    pub(crate) fn sweep_missing(&mut self, step: &mut Step) {
        let Some(timeout_ms) = self.config.dependency_timeout_ms else { return };
        let Some(since_ms) = step.now_ms.checked_sub(timeout_ms) else { return };
        let lost = self.missing.since(since_ms);
        if lost.is_empty() {
            return;
        }
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for id in &lost {
            entries.extend(self.missing.get(id).map(|missing| missing.entry.clone()));
            self.drop_missing(id, step);
            self.meet(id, true, step);
            for waiter in self.incoming.mark_gaps(id) {
                step.touch(Key::Incoming(waiter));
            }
        }
        step.event(Event::DependenciesLost { entries });
        self.settle_all(lost, step);
    }
}
