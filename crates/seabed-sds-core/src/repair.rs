//! What is missing and asked for, and what others ask for (SDS-R, sds.md section 17).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::channel::Channel;
use crate::config::{ANSWERS_PAUSE_MS, Config};
use crate::effect::{Event, Limit, Reason};
use crate::record::{AnswerEntry, Key, MissingEntry};
use crate::step::Step;
use crate::{HistoryEntry, Message, MessageId, ParticipantId, schedule};

/// By how much the pause before a request grows at most.
const BACKOFF_FACTOR_MAX: u64 = 8;

/// What is missing, and when it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    entries: BTreeMap<MessageId, MissingEntry>,
    /// Those that are going to be asked for, by time.
    due: BTreeSet<(u64, MessageId)>,
    /// Those that are not, because too many are or repair is off, by the time since when they are missing.
    unasked: BTreeSet<(u64, MessageId)>,
    /// All of them, likewise.
    since: BTreeSet<(u64, MessageId)>,
}

impl Missing {
    #[cfg(feature = "sim")]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, id: &MessageId) -> Option<&MissingEntry> {
        self.entries.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &MissingEntry> {
        self.entries.values()
    }

    pub(crate) fn put(&mut self, entry: MissingEntry) {
        let id = entry.entry.message_id.clone();
        self.remove(&id);
        match entry.request_due_ms {
            Some(due_ms) => self.due.insert((due_ms, id.clone())),
            None => self.unasked.insert((entry.first_missed_ms, id.clone())),
        };
        self.since.insert((entry.first_missed_ms, id.clone()));
        self.entries.insert(id, entry);
    }

    pub(crate) fn remove(&mut self, id: &MessageId) -> Option<MissingEntry> {
        let entry = self.entries.remove(id)?;
        match entry.request_due_ms {
            Some(due_ms) => self.due.remove(&(due_ms, id.clone())),
            None => self.unasked.remove(&(entry.first_missed_ms, id.clone())),
        };
        self.since.remove(&(entry.first_missed_ms, id.clone()));
        Some(entry)
    }

    /// When the next request is due.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Those that are to be asked for now, the longest due first.
    pub(crate) fn due(&self, now_ms: u64, count_max: usize) -> Vec<MissingEntry> {
        let due = self.due.iter().take_while(|(due_ms, _)| *due_ms <= now_ms).take(count_max);
        due.filter_map(|(_, id)| self.entries.get(id)).cloned().collect()
    }

    /// Since when the one that is missing longest is missing.
    pub(crate) fn longest_ms(&self) -> Option<u64> {
        self.since.first().map(|(since_ms, _)| *since_ms)
    }

    /// The one that is missing longest, when that is since `since_ms` or longer.
    pub(crate) fn since(&self, since_ms: u64) -> Option<&MissingEntry> {
        let (_, id) = self.since.first().filter(|(since, _)| *since <= since_ms)?;
        self.entries.get(id)
    }

    /// How many are going to be asked for.
    pub(crate) fn asked(&self) -> usize {
        self.due.len()
    }

    /// The one that is asked for last.
    pub(crate) fn least_urgent(&self) -> Option<&MissingEntry> {
        self.due.last().and_then(|(_, id)| self.entries.get(id))
    }

    /// The one that is missing longest of those that are not going to be asked for.
    pub(crate) fn unasked(&self) -> Option<&MissingEntry> {
        self.unasked.first().and_then(|(_, id)| self.entries.get(id))
    }
}

/// What others ask for, and when it is sent.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    entries: BTreeMap<MessageId, AnswerEntry>,
    due: BTreeSet<(u64, MessageId)>,
}

impl Answers {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, id: &MessageId) -> Option<&AnswerEntry> {
        self.entries.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &AnswerEntry> {
        self.entries.values()
    }

    pub(crate) fn put(&mut self, entry: AnswerEntry) {
        let id = entry.entry.message_id.clone();
        self.remove(&id);
        self.due.insert((entry.due_ms, id.clone()));
        self.entries.insert(id, entry);
    }

    pub(crate) fn remove(&mut self, id: &MessageId) -> Option<AnswerEntry> {
        let entry = self.entries.remove(id)?;
        self.due.remove(&(entry.due_ms, id.clone()));
        Some(entry)
    }

    /// When the next answer is due.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Those that are due now, the longest due first.
    pub(crate) fn due(&self, now_ms: u64, count_max: usize) -> Vec<MessageId> {
        let due = self.due.iter().take_while(|(due_ms, _)| *due_ms <= now_ms);
        due.take(count_max).map(|(_, id)| id.clone()).collect()
    }

    /// The answer that is due last.
    pub(crate) fn last(&self) -> Option<MessageId> {
        self.due.last().map(|(_, id)| id.clone())
    }
}

/// Whether this participant asks and answers at all.
pub(crate) fn is_on(config: &Config, own: &ParticipantId) -> bool {
    config.repair && !own.is_empty()
}

/// When a message is asked for that was missed, or asked for, just now: `requests` times before. The pauses double, up to eightfold.
pub(crate) fn request_due_ms(
    config: &Config,
    own: &ParticipantId,
    id: &MessageId,
    requests: u32,
    now_ms: u64,
) -> u64 {
    let pause_ms = schedule::t_req(config.dialect, own, id, config.repair_t_min_ms, config.repair_t_max_ms);
    let factor = 2_u64.saturating_pow(requests).min(BACKOFF_FACTOR_MAX);
    now_ms.saturating_add(pause_ms.saturating_mul(factor))
}

/// When this participant answers a request that came just now; `None` when others do.
pub(crate) fn answer_due_ms(
    config: &Config,
    own: &ParticipantId,
    asked: &HistoryEntry,
    sender: &ParticipantId,
    now_ms: u64,
) -> Option<u64> {
    let id = &asked.message_id;
    if !is_on(config, own)
        || sender.is_empty()
        || !schedule::in_response_group(config.dialect, own, sender, id, config.response_groups)
    {
        return None;
    }
    let pause_ms = schedule::t_resp(config.dialect, own, sender, id, config.repair_t_max_ms);
    Some(now_ms.saturating_add(pause_ms))
}

impl Channel {
    /// Notes what a message names and is not here, and tells the application.
    pub(crate) fn missed(&mut self, by: &MessageId, entries: &[HistoryEntry], step: &mut Step) {
        if entries.is_empty() {
            return;
        }
        for entry in entries {
            self.miss(entry, step);
        }
        step.event(Event::MissingDependencies { message_id: by.clone(), entries: entries.to_vec() });
    }

    fn miss(&mut self, entry: &HistoryEntry, step: &mut Step) {
        let id = &entry.message_id;
        let rearms = self.config.rules().rearms_requests;
        let asks = is_on(&self.config, &self.participant_id);
        let missing = match self.missing.get(id) {
            Some(known) if rearms && tells_more(entry, &known.entry) => {
                MissingEntry { entry: merged(&known.entry, entry), ..known.clone() }
            }
            Some(_) => return,
            // Profile nim knows what is missing only in order to ask for it; the other one also in order to give it up, for what waits.
            None if !(asks || rearms && self.incoming.is_wanted(id)) => return,
            None => MissingEntry {
                entry: entry.clone(),
                first_missed_ms: step.now_ms,
                request_due_ms: asks
                    .then(|| request_due_ms(&self.config, &self.participant_id, id, 0, step.now_ms)),
                requests: 0,
            },
        };
        self.missing.put(missing);
        step.touch(Key::Missing(id.clone()));
        if self.config.rules().bounded {
            self.bound_requests(step);
        }
    }

    /// Of too many that are to be asked for, the one due last is not. What waits for it goes on waiting, and it is given up in time as any other.
    fn bound_requests(&mut self, step: &mut Step) {
        while self.missing.asked() > self.config.limits.repairs_out_max {
            let Some(last) = self.missing.least_urgent().cloned() else { return };
            let id = last.entry.message_id.clone();
            step.limit(Limit::RepairsOut, &id);
            if self.incoming.is_wanted(&id) {
                self.missing.put(MissingEntry { request_due_ms: None, ..last });
            } else {
                self.missing.remove(&id);
            }
            step.touch(Key::Missing(id));
        }
    }

    /// A message came and could not be kept: what waits for it goes on waiting, and it is asked for again.
    pub(crate) fn miss_again(&mut self, message: &Message, step: &mut Step) {
        if self.incoming.is_wanted(&message.message_id) {
            let sender = Some(message.sender_id.clone()).filter(|sender| !sender.is_empty());
            let message_id = message.message_id.clone();
            self.miss(&HistoryEntry { message_id, retrieval_hint: None, sender_id: sender }, step);
        }
    }

    pub(crate) fn drop_missing(&mut self, id: &MessageId, step: &mut Step) {
        let Some(removed) = self.missing.remove(id) else { return };
        step.touch(Key::Missing(id.clone()));
        if removed.request_due_ms.is_some() {
            self.ask_instead(step);
        }
    }

    /// There is room for a request: another one that is missing is asked for.
    fn ask_instead(&mut self, step: &mut Step) {
        if !is_on(&self.config, &self.participant_id)
            || self.missing.asked() >= self.config.limits.repairs_out_max
        {
            return;
        }
        let Some(missing) = self.missing.unasked().cloned() else { return };
        let id = missing.entry.message_id.clone();
        let due_ms = request_due_ms(&self.config, &self.participant_id, &id, missing.requests, step.now_ms);
        self.missing.put(MissingEntry { request_due_ms: Some(due_ms), ..missing });
        step.touch(Key::Missing(id));
    }

    pub(crate) fn drop_answer(&mut self, id: &MessageId, step: &mut Step) {
        if self.answers.remove(id).is_some() {
            step.touch(Key::Answer(id.clone()));
        }
    }

    /// What the message that is being sent asks for.
    pub(crate) fn take_requests(&mut self, step: &mut Step) -> Vec<HistoryEntry> {
        if !is_on(&self.config, &self.participant_id) {
            return Vec::new();
        }
        let due = self.missing.due(step.now_ms, self.config.repair_requests_max);
        let mut requests = Vec::with_capacity(due.len());
        for missing in due {
            requests.push(missing.entry.clone());
            if !self.config.rules().rearms_requests {
                self.drop_missing(&missing.entry.message_id, step);
                continue;
            }
            let asked = missing.requests.saturating_add(1);
            self.rearm(MissingEntry { requests: asked, ..missing }, asked, step);
        }
        requests
    }

    /// Asks again later, unless it was asked for often enough.
    fn rearm(&mut self, missing: MissingEntry, backoff: u32, step: &mut Step) {
        let id = missing.entry.message_id.clone();
        // What a message waits for is asked for until it comes or is given up as lost: else a log could stay different for ever.
        if missing.requests >= self.config.repair_attempts_max && !self.incoming.is_wanted(&id) {
            return self.drop_missing(&id, step);
        }
        let due_ms = request_due_ms(&self.config, &self.participant_id, &id, backoff, step.now_ms);
        self.missing.put(MissingEntry { request_due_ms: Some(due_ms), ..missing });
        step.touch(Key::Missing(id));
    }

    /// What somebody else asks for: we need not ask for the same now, and may have it.
    pub(crate) fn read_requests(&mut self, requests: &[HistoryEntry], step: &mut Step) {
        let count_max =
            if self.config.rules().bounded { self.config.limits.requests_read_max } else { usize::MAX };
        if let Some(passed_over) = requests.get(count_max) {
            step.limit(Limit::RequestsRead, &passed_over.message_id);
        }
        for asked in requests.iter().take(count_max) {
            self.asked_by_another(&asked.message_id, step);
            self.plan_answer(asked, step);
        }
    }

    fn asked_by_another(&mut self, id: &MessageId, step: &mut Step) {
        if !self.config.rules().rearms_requests {
            return self.drop_missing(id, step);
        }
        // As if we had asked, except that it does not count: else others could use up our attempts.
        if let Some(missing) =
            self.missing.get(id).filter(|missing| missing.request_due_ms.is_some()).cloned()
        {
            let backoff = missing.requests.saturating_add(1);
            self.rearm(missing, backoff, step);
        }
    }

    fn plan_answer(&mut self, asked: &HistoryEntry, step: &mut Step) {
        let keeps_first = self.config.rules().keeps_first_answer;
        let Some(logged) = self.history.log.get(&asked.message_id) else { return };
        let nobody = ParticipantId::default();
        // The request may lie about the sender; the log does not.
        let sender = if keeps_first { &logged.message.sender_id } else { asked.sender().unwrap_or(&nobody) };
        let due_ms = answer_due_ms(&self.config, &self.participant_id, asked, sender, step.now_ms);
        let Some(due_ms) = due_ms else { return };
        if keeps_first && self.answers.get(&asked.message_id).is_some_and(|answer| answer.due_ms <= due_ms) {
            return;
        }
        let message = (!keeps_first).then(|| logged.message.clone());
        self.answers.put(AnswerEntry { entry: asked.clone(), due_ms, message });
        step.touch(Key::Answer(asked.message_id.clone()));
        if self.config.rules().bounded
            && self.answers.len() > self.config.limits.repairs_in_max
            && let Some(last) = self.answers.last()
        {
            step.limit(Limit::RepairsIn, &last);
            self.drop_answer(&last, step);
        }
    }

    /// Sends the answers that are due, as many as one sweep may.
    pub(crate) fn sweep_answers(&mut self, step: &mut Step) {
        let bounded = self.config.rules().bounded;
        if bounded && step.now_ms < self.meta.answers_from_ms {
            return;
        }
        let count_max = if bounded { self.config.repair_answers_max } else { usize::MAX };
        let mut due = self.answers.due(step.now_ms, count_max);
        let all = due.len() < count_max;
        if !bounded {
            due.sort_unstable();
        }
        for id in due {
            let logged = self.history.log.get(&id).map(|entry| entry.message.clone());
            let cached = self.answers.get(&id).and_then(|answer| answer.message.clone());
            self.drop_answer(&id, step);
            if let Some(message) = cached.or(logged) {
                step.broadcast(&message, Reason::Repair, self.config.dialect);
            }
        }
        if bounded && !all {
            self.meta.answers_from_ms = step.now_ms.saturating_add(ANSWERS_PAUSE_MS);
        }
    }

    /// Forgets requests that nobody heard in time: profile `nim` only, the other one asks again.
    pub(crate) fn sweep_requests(&mut self, step: &mut Step) {
        if self.config.rules().rearms_requests {
            return;
        }
        let expired = step.now_ms.checked_sub(self.config.repair_t_max_ms.saturating_add(1));
        let Some(expired_ms) = expired else { return };
        for missing in self.missing.due(expired_ms, usize::MAX) {
            self.drop_missing(&missing.entry.message_id, step);
        }
    }

    /// When the next request is forgotten: profile `nim` only.
    pub(crate) fn requests_expire(&self) -> Option<u64> {
        if self.config.rules().rearms_requests {
            return None;
        }
        self.missing
            .next_due()
            .map(|due_ms| due_ms.saturating_add(self.config.repair_t_max_ms).saturating_add(1))
    }

    /// When the sweep of answers has something to do.
    pub(crate) fn answers_due(&self) -> Option<u64> {
        self.answers.next_due().map(|due_ms| due_ms.max(self.meta.answers_from_ms))
    }
}

/// Whether an entry tells something that is not known yet.
fn tells_more(entry: &HistoryEntry, known: &HistoryEntry) -> bool {
    (hint(entry).is_some() && hint(known).is_none()) || (entry.sender().is_some() && known.sender().is_none())
}

/// What is known, and what an entry tells besides.
fn merged(known: &HistoryEntry, entry: &HistoryEntry) -> HistoryEntry {
    HistoryEntry {
        message_id: known.message_id.clone(),
        retrieval_hint: hint(known).or_else(|| hint(entry)).cloned(),
        sender_id: known.sender().or_else(|| entry.sender()).cloned(),
    }
}

fn hint(entry: &HistoryEntry) -> Option<&Arc<[u8]>> {
    entry.retrieval_hint.as_ref().filter(|hint| !hint.is_empty())
}
