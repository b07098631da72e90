//! Hearing something: the procedure of sds.md section 9, and acknowledgements (section 11).

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::bloom::Filter;
use crate::channel::Channel;
use crate::effect::{Event, Limit, Outcome, Received, Reception};
use crate::error::Error;
use crate::history::Seen;
use crate::outgoing::{Testimony, due_ms, threshold};
use crate::record::IncomingEntry;
use crate::send::check_hint;
use crate::step::{Step, stripped};
use crate::wire::{self, Dialect, Layout};
use crate::{HistoryEntry, Message, MessageId, clock};

/// Which causes of a message are not settled.
#[derive(Debug, Default)]
struct Unmet {
    /// Everything that it has to wait for.
    waits: BTreeSet<MessageId>,
    /// The part of it that is not here at all.
    missing: Vec<HistoryEntry>,
    /// Something was given up as lost, and is waited for no more.
    gap: bool,
    /// Something waits here itself.
    buffered: bool,
}

impl Channel {
    pub(crate) fn receive(
        &mut self,
        wire: &[u8],
        hint: Option<&[u8]>,
        step: &mut Step,
    ) -> Result<Outcome, Error> {
        check_hint(hint.unwrap_or_default())?;
        let decoded = wire::decode(wire, self.config.read, &self.wire_limits)?;
        let (message, layout) = (decoded.message, decoded.layout);
        if message.channel_id != self.id {
            return Err(Error::OtherChannel);
        }
        let rules = self.config.rules();
        let own =
            rules.knows_itself && !self.participant_id.is_empty() && message.sender_id == self.participant_id;
        let duplicate = self.is_duplicate(&message.message_id);
        if message.is_ephemeral() {
            return Ok(self.receive_ephemeral(message, own || duplicate, step));
        }
        // Somebody has answered.
        self.drop_answer(&message.message_id, step);
        if duplicate {
            self.drop_missing(&message.message_id, step);
            self.heard_again(&message, own, step);
            let message = stripped(message, rules.strips_messages);
            return Ok(self.received(Reception::Duplicate, message, Vec::new()));
        }
        Ok(if own {
            self.receive_own(message, hint, step)
        } else {
            self.receive_new(message, layout, hint, step)
        })
    }

    /// A message that nobody remembers changes nothing here, whatever its id is.
    fn receive_ephemeral(&self, message: Message, known: bool, step: &mut Step) -> Outcome {
        let message = stripped(message, self.config.rules().strips_messages);
        if known {
            return self.received(Reception::Duplicate, message, Vec::new());
        }
        step.event(Event::EphemeralDelivered { message: message.clone() });
        self.received(Reception::Ephemeral, message, Vec::new())
    }

    fn received(&self, reception: Reception, message: Arc<Message>, missing: Vec<HistoryEntry>) -> Outcome {
        Outcome::Received(Received { channel_id: self.id.clone(), reception, message, missing })
    }

    fn is_duplicate(&self, id: &MessageId) -> bool {
        if self.config.rules().remembers {
            self.history.was_delivered(id) || self.history.syncs.get(id).is_some()
        } else {
            self.history.log.contains(id)
        }
    }

    /// Somebody sends a message again: perhaps its sender, who has not heard that it arrived. So the filter is to name it again.
    fn heard_again(&mut self, message: &Message, own: bool, step: &mut Step) {
        if own || !self.config.rules().filter_of_ring {
            return;
        }
        let half_ms = self.config.filter_horizon_ms / 2;
        let seen = self.history.seen.get(&message.message_id).copied();
        if let Some(seen) = seen.filter(|seen| !seen.own && seen.at_ms.saturating_add(half_ms) < step.now_ms)
        {
            self.remember(&message.message_id, Seen { at_ms: step.now_ms, ..seen }, step);
        }
        self.heard(message.is_sync(), step);
    }

    /// An own message that is not known here any more: what was lost comes back. It never acknowledges anything.
    fn receive_own(&mut self, message: Message, hint: Option<&[u8]>, step: &mut Step) -> Outcome {
        self.drop_missing(&message.message_id, step);
        if message.is_sync() {
            let id = message.message_id.clone();
            self.remember_sync(&id, step);
            // Peers that know no sync messages name them as causes.
            self.settle_all([id], step);
            return self.received(Reception::Duplicate, stripped(message, true), Vec::new());
        }
        let anomalous = self.is_anomalous(&message, step);
        let message = stripped(message, true);
        self.remember(&message.message_id, Seen { at_ms: step.now_ms, own: true, delivered: true }, step);
        step.event(Event::OwnRestored { message: message.clone() });
        let retrieval_hint = hint.map(Arc::from);
        self.place(IncomingEntry { message: message.clone(), retrieval_hint, anomalous, gap: false }, step);
        self.settle_all([message.message_id.clone()], step);
        self.received(Reception::OwnRestored, message, Vec::new())
    }

    fn receive_new(
        &mut self,
        message: Message,
        layout: Layout,
        hint: Option<&[u8]>,
        step: &mut Step,
    ) -> Outcome {
        let rules = self.config.rules();
        if !rules.clock_at_delivery {
            let stamp = message.lamport.unwrap_or(0);
            self.meta.lamport = clock::after(&self.config, self.meta.lamport, stamp, None);
        }
        let is_sync = rules.empty_is_sync && message.is_sync();
        let again = !is_sync && rules.waits_silently && self.incoming.contains(&message.message_id);
        self.review(&message, layout, again, step);
        self.read_requests(&message.repair_request, step);
        self.heard(is_sync, step);
        let message = stripped(message, rules.strips_messages);
        let id = message.message_id.clone();
        if again {
            let missing = self.still_missing(&message);
            return self.received(Reception::AlreadyBuffered, message, missing);
        }
        let unmet = self.unmet(&message);
        let names_too_many = rules.bounded && unmet.waits.len() > self.config.limits.missing_ids_max;
        if names_too_many {
            step.limit(Limit::MissingIds, &id);
        }
        if is_sync {
            self.drop_missing(&id, step);
            self.remember_sync(&id, step);
            if !names_too_many {
                self.missed(&id, &unmet.missing, step);
            }
            // Somebody may wait for it: peers that know no sync messages name them as causes.
            self.settle_all([id], step);
            return self.received(Reception::SyncProcessed, message, unmet.missing);
        }
        if names_too_many {
            self.miss_again(&message, step);
            return self.received(Reception::Dropped, message, unmet.missing);
        }
        let anomalous = self.is_anomalous(&message, step);
        let retrieval_hint = hint.map(Arc::from);
        let entry = IncomingEntry { message: message.clone(), retrieval_hint, anomalous, gap: unmet.gap };
        let delivered = unmet.waits.is_empty() && (rules.waits_silently || !unmet.buffered);
        self.remember(&id, Seen { at_ms: step.now_ms, own: false, delivered }, step);
        if delivered {
            self.drop_missing(&id, step);
            self.deliver(entry, step);
            self.settle_all([id], step);
            return self.received(Reception::Delivered, message, Vec::new());
        }
        if !self.buffer(entry, &unmet.waits, step) {
            return self.received(Reception::Dropped, message, unmet.missing);
        }
        // Not before it is kept: what is missing again would be missing from now on.
        self.drop_missing(&id, step);
        if rules.waits_silently {
            step.event(Event::Buffered { message_id: id.clone() });
        }
        self.missed(&id, &unmet.missing, step);
        self.received(Reception::Buffered, message, unmet.missing)
    }

    fn is_anomalous(&self, message: &Message, step: &mut Step) -> bool {
        let lamport_max = clock::believed_max(&self.config, self.meta.lamport, step.now_ms);
        let lamport = message.lamport.unwrap_or(0);
        let anomalous = lamport > lamport_max;
        let other_unit =
            self.config.rules().bounded && clock::is_other_unit(&self.config, lamport, step.now_ms);
        if anomalous || other_unit {
            step.event(Event::ClockAnomaly { message_id: message.message_id.clone(), lamport, lamport_max });
        }
        anomalous
    }

    fn unmet(&self, message: &Message) -> Unmet {
        let rules = self.config.rules();
        let mut unmet = Unmet::default();
        for cause in &message.causal_history {
            let id = &cause.message_id;
            let met = if rules.remembers {
                // Nobody can wait for itself, or for nothing.
                id.is_empty() || *id == message.message_id || self.history.satisfies(id)
            } else {
                self.history.log.contains(id)
            };
            let buffered = self.incoming.contains(id);
            unmet.buffered |= buffered;
            if met {
                unmet.gap |= rules.remembers && self.history.is_lost(id);
                continue;
            }
            let new = unmet.waits.insert(id.clone());
            if !rules.waits_silently || (new && !buffered) {
                unmet.missing.push(cause.clone());
            }
        }
        unmet
    }

    /// What a message that waits already waits for and is not here.
    fn still_missing(&self, message: &Message) -> Vec<HistoryEntry> {
        let causes = message.causal_history.iter();
        let waits = |cause: &&HistoryEntry| self.incoming.does_wait(&message.message_id, &cause.message_id);
        causes.filter(waits).filter(|cause| !self.incoming.contains(&cause.message_id)).cloned().collect()
    }

    /// Who speaks tells what it has: named messages are acknowledged, those in its filter possibly. The copy of a message that waits says
    /// nothing new; where its sender does not say who it is, that shows in nothing else.
    fn review(&mut self, message: &Message, layout: Layout, again: bool, step: &mut Step) {
        if self.outgoing.len() == 0 {
            return;
        }
        let filter = message.bloom_filter.as_deref().filter(|_| !(again && message.sender_id.is_empty()));
        let filter = filter.and_then(|bytes| self.read_filter(bytes, layout));
        let testimony = Testimony {
            sender: &message.sender_id,
            causal_history: &message.causal_history,
            filter: filter.as_ref(),
        };
        let threshold = threshold(&self.config, self.history.log.other_senders(&self.participant_id));
        let review = self.outgoing.review(testimony, self.config.dialect, threshold);
        // What is too much for one operation is left: whoever has it says so again.
        let bounded = self.config.rules().bounded;
        for number in review.acknowledged {
            if bounded && step.is_full() {
                break;
            }
            let Some(entry) = self.outgoing.get(number) else { continue };
            step.event(Event::Acknowledged { message_id: entry.message.message_id.clone() });
            self.forget_outgoing(number, step);
        }
        for number in review.possibly {
            if bounded && step.is_full() {
                break;
            }
            self.possibly_acknowledged(number, message, step);
        }
    }

    fn possibly_acknowledged(&mut self, number: u64, by: &Message, step: &mut Step) {
        let Some(entry) = self.outgoing.get(number) else { return };
        let message_id = entry.message.message_id.clone();
        let mut count = 0;
        let (config, own) = (&self.config, &self.participant_id);
        self.outgoing.update(number, |state| {
            if by.sender_id.is_empty() {
                state.possible_by_unnamed = state.possible_by_unnamed.saturating_add(1);
            } else {
                state.possible_by.push(by.sender_id.clone());
            }
            count = state.possible_acks();
            // It is less urgent from the first of them on.
            if count == 1 {
                state.due_ms = due_ms(config, own, &message_id, state);
            }
        });
        step.touch_outgoing(number, &message_id);
        step.event(Event::PossiblyAcknowledged { message_id, count });
    }

    /// A malformed filter is none (sds.md section 5.4); one of another dialect has other hashes than those that are kept.
    fn read_filter(&self, bytes: &[u8], layout: Layout) -> Option<Filter> {
        if bytes.is_empty() {
            return None;
        }
        match layout.dialect() {
            Dialect::Nim => Filter::read(Dialect::Nim, bytes).ok(),
            Dialect::Spec => {
                Filter::read_spec(bytes, self.config.bloom_capacity, self.config.bloom_error_rate).ok()
            }
        }
    }
}
