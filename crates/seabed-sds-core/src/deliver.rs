//! Delivery: the order in which messages enter the log, those that waited for them, and what is waited for no more (sds.md sections
//! 10 and 13).

use std::collections::BTreeSet;

use crate::channel::Channel;
use crate::config::{MARKED_IDS_MAX, MET_IDS_MAX};
use crate::effect::{Event, Limit, Outcome};
use crate::error::Error;
use crate::filter::OwnFilter;
use crate::history::Seen;
use crate::limits::{MARKED_BYTES_MAX, MARKED_ROWS_MAX};
use crate::record::{IncomingEntry, Key, LogEntry};
use crate::step::{Step, row_bytes};
use crate::{HistoryEntry, MessageId, clock};

impl Channel {
    /// A message enters the log, and the application is told.
    pub(crate) fn deliver(&mut self, entry: IncomingEntry, step: &mut Step) {
        step.event(Event::Delivered { message: entry.message.clone(), gap: entry.gap });
        self.place(entry, step);
    }

    /// A message that waited is delivered. What was given up meanwhile is not noted with it when that happens: it would be writing every
    /// large message that waits once more.
    fn deliver_waiting(&mut self, mut entry: IncomingEntry, step: &mut Step) {
        let mut causes = entry.message.causal_history.iter();
        entry.gap |= causes.any(|cause| self.history.is_lost(&cause.message_id));
        self.deliver(entry, step);
    }

    /// A message enters the log.
    pub(crate) fn place(&mut self, entry: IncomingEntry, step: &mut Step) {
        let IncomingEntry { message, retrieval_hint, anomalous, .. } = entry;
        if self.config.rules().clock_at_delivery {
            let stamp = message.lamport.unwrap_or(0);
            let beyond_belief_at_ms = anomalous.then_some(step.now_ms);
            self.meta.lamport = clock::after(&self.config, self.meta.lamport, stamp, beyond_belief_at_ms);
        }
        self.keep_in_log(LogEntry { message, position: 0, retrieval_hint, anomalous }, step);
    }

    /// Puts a message into its place of the log, and forgets the first ones when there are too many.
    pub(crate) fn keep_in_log(&mut self, entry: LogEntry, step: &mut Step) {
        let id = entry.message.message_id.clone();
        step.weigh(&entry.message);
        let position = if self.config.rules().log_by_lamport {
            entry.message.lamport.unwrap_or(0)
        } else {
            // A message whose id was used before takes the place of that one.
            let before = self.history.log.get(&id).map(|before| before.position);
            before.unwrap_or_else(|| self.history.log.next_position())
        };
        if let Some(before) = self.history.log.get(&id).map(|before| before.position)
            && before != position
        {
            // Another message of that id, which was given out under its place.
            step.touch(Key::Log(before, id.clone()));
        }
        self.history.log.insert(LogEntry { position, ..entry });
        step.touch(Key::Log(position, id.clone()));
        self.touch_kept(&id, step);
        while let Some(evicted) = self.history.log.to_evict(self.config.limits.log_messages_max, &id) {
            let position = self.history.log.remove(&evicted).map_or(0, |entry| entry.position);
            step.touch(Key::Log(position, evicted.clone()));
            self.touch_kept(&evicted, step);
            // Profile nim answers with a copy.
            if self.config.rules().keeps_first_answer {
                self.drop_answer(&evicted, step);
            }
            // For each message that came one has gone. More of them, after the bound was lowered, go with the next ones.
            if self.config.rules().bounded && step.is_full() {
                break;
            }
        }
    }

    /// Something has changed about that message in the log: own ones which nobody has acknowledged are stored with it as long as it has them.
    fn touch_kept(&mut self, id: &MessageId, step: &mut Step) {
        for number in self.outgoing.numbers(id).collect::<Vec<_>>() {
            step.touch(Key::Kept(number));
            self.outgoing.not_stray(number);
            if let Some(entry) = self.outgoing.get(number) {
                step.weigh(&entry.message);
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
        step.weigh(&entry.message);
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
                ring.remove(number);
            }
        }
        self.miss_again(&entry.message, step);
    }

    /// These are waited for no more: delivers what waited for nothing else, and so on.
    pub(crate) fn settle_all(&mut self, causes: impl IntoIterator<Item = MessageId>, step: &mut Step) {
        for cause in causes {
            self.settle(&cause, step);
        }
        self.cascade(step);
    }

    /// Delivers what waits for nothing any more, and what waited for that, until there is no more or the operation is full.
    fn cascade(&mut self, step: &mut Step) {
        if self.config.rules().log_by_lamport {
            self.cascade_by_lamport(step);
        } else {
            self.cascade_depth_first(step);
        }
    }

    /// Of all messages that may be delivered, the one with the lowest (Lamport, id) is the next. So the order is the same when a full
    /// operation ends in between: what may be delivered shows in the rows, and so does, at [`rest_due`](Self::rest_due), that it was left.
    fn cascade_by_lamport(&mut self, step: &mut Step) {
        while !step.is_full() {
            let Some(id) = self.incoming.ready().next().cloned() else { return };
            let Some((entry, _)) = self.take_incoming(&id, step) else { return };
            self.mark_delivered(&id, step);
            self.deliver_waiting(entry, step);
            self.settle(&id, step);
        }
    }

    /// The order of nim-sds: whoever became free last goes first, of several the one with the lowest id. What was free before goes too. What a
    /// full operation leaves is free before the next one.
    fn cascade_depth_first(&mut self, step: &mut Step) {
        let mut stack: Vec<MessageId> = self.incoming.ready().cloned().collect();
        stack.sort_unstable_by(|one, other| other.cmp(one));
        self.meta.sync_due_ms = None;
        while let Some(id) = stack.pop() {
            if step.is_full() {
                // That something waits for nothing says nothing here: nim-sds leaves it so.
                self.meta.sync_due_ms = Some(step.now_ms);
                return;
            }
            let Some((entry, _)) = self.take_incoming(&id, step) else { continue };
            self.deliver_waiting(entry, step);
            let mut free = self.settle(&id, step);
            free.retain(|waiter| self.incoming.is_ready(waiter));
            free.sort_unstable_by(|one, other| other.cmp(one));
            stack.append(&mut free);
        }
    }

    /// Since when there is something to deliver that a full operation has left.
    pub(crate) fn rest_due(&self) -> Option<u64> {
        if !self.config.rules().log_by_lamport {
            return self.meta.sync_due_ms;
        }
        self.incoming.ready().next()?;
        Some(self.history.seen.newest().map_or(0, |seen| seen.at_ms))
    }

    /// Goes on where a full operation has ended.
    pub(crate) fn sweep_rest(&mut self, step: &mut Step) {
        if self.rest_due().is_some() {
            self.cascade(step);
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
        if self.config.rules().bounded {
            self.check_marked(ids)?;
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

    /// Whether a store can hold in one batch what marking these changes, before anything is delivered for it.
    fn check_marked(&self, ids: &[MessageId]) -> Result<(), Error> {
        let (mut rows, mut bytes) = (0, 0);
        let row_bytes = row_bytes(&self.id);
        for id in ids {
            // Received and met, with the id, and the oldest of each forgotten; no longer missing, no longer answered.
            rows += 4;
            bytes += 4 * row_bytes + 2 * id.as_bytes().len();
            if self.missing.get(id).is_some() || self.answers.get(id).is_some() {
                rows += 2;
                bytes += 2 * (row_bytes + id.as_bytes().len());
            }
            for waiter in self.incoming.waiters_of(id) {
                rows += 1;
                bytes += row_bytes + id.as_bytes().len() + waiter.as_bytes().len();
            }
        }
        for (what, count, count_max) in [
            ("what changes with the marked messages, in rows,", rows, MARKED_ROWS_MAX),
            ("what changes with the marked messages, in bytes,", bytes, MARKED_BYTES_MAX),
        ] {
            if count > count_max {
                return Err(Error::TooMuch { what, count, count_max });
            }
        }
        Ok(())
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
        let mut entries: Vec<HistoryEntry> = Vec::new();
        // When they are too many, the rest is still due, and nothing is delivered before all of them are settled: the order is that of one
        // operation.
        while let Some(missing) = self.missing.since(since_ms).cloned() {
            if step.is_full() && self.config.rules().bounded {
                break;
            }
            let id = missing.entry.message_id.clone();
            entries.push(missing.entry);
            self.drop_missing(&id, step);
            self.meet(&id, true, step);
            self.settle(&id, step);
        }
        if entries.is_empty() {
            return;
        }
        step.event(Event::DependenciesLost { entries });
        if self.missing.since(since_ms).is_none() {
            self.cascade(step);
        }
    }
}
