//! Saying something: new messages (sds.md section 8), ephemeral ones (section 15), and the same again (section 12).

use std::sync::Arc;

use crate::channel::Channel;
use crate::effect::{Event, Outcome, Reason};
use crate::error::Error;
use crate::history::Seen;
use crate::limits::{CONTENT_BYTES_MAX, HINT_BYTES_MAX, ID_BYTES_MAX};
use crate::outgoing::{RESENDS_PER_SWEEP_MAX, due_ms};
use crate::record::{Key, LogEntry, Unacknowledged};
use crate::step::{Step, stripped};
use crate::wire::Dialect;
use crate::{HistoryEntry, Message, MessageId, clock};

impl Channel {
    pub(crate) fn send(
        &mut self,
        id: &MessageId,
        content: &[u8],
        hints: &[(MessageId, Arc<[u8]>)],
        step: &mut Step,
    ) -> Result<Outcome, Error> {
        check_content(content)?;
        self.check_new(id)?;
        for (_, hint) in hints {
            check_hint(hint)?;
        }
        let causal_history = with_hints(self.causal_history(), hints);
        self.meta.lamport = clock::on_send(&self.config, self.meta.lamport, step.now_ms);
        let bloom_filter = self.filter_bytes(step);
        let repair_request = self.take_requests(step);
        let message = Message {
            sender_id: self.participant_id.clone(),
            message_id: id.clone(),
            channel_id: self.id.clone(),
            lamport: Some(self.meta.lamport),
            causal_history,
            bloom_filter: Some(bloom_filter),
            repair_request,
            content: Some(content.into()),
        };
        step.broadcast(&message, Reason::Send, self.config.dialect);
        let message = stripped(message, self.config.rules().strips_messages);
        self.remember(id, Seen { at_ms: step.now_ms, own: true, delivered: true }, step);
        let entry =
            LogEntry { message: message.clone(), position: 0, retrieval_hint: None, anomalous: false };
        self.keep_in_log(entry, step);
        // After the log, which keeps it.
        self.keep_outgoing(message, step);
        if self.config.rules().remembers {
            // Whoever knew the id in advance may have named it.
            self.drop_missing(id, step);
            self.settle_all([id.clone()], step);
        }
        self.spoke(step);
        Ok(Outcome::Sent { message_id: id.clone() })
    }

    pub(crate) fn send_ephemeral(
        &mut self,
        id: &MessageId,
        content: &[u8],
        step: &mut Step,
    ) -> Result<Outcome, Error> {
        if self.config.dialect == Dialect::Nim {
            return Err(Error::Unsupported("dialect N has no ephemeral messages: send it in dialect S"));
        }
        check_content(content)?;
        self.check_id(id)?;
        let message = Message {
            sender_id: self.participant_id.clone(),
            message_id: id.clone(),
            channel_id: self.id.clone(),
            content: Some(content.into()),
            ..Message::default()
        };
        step.broadcast(&message, Reason::Send, self.config.dialect);
        Ok(Outcome::EphemeralSent { message_id: id.clone() })
    }

    /// An id is new, but profile `nim` takes one that was used.
    fn check_new(&self, id: &MessageId) -> Result<(), Error> {
        if !self.config.rules().refuses_reused_ids {
            return Ok(());
        }
        self.check_id(id)?;
        let (history, waiting) = (&self.history, &self.incoming);
        if history.satisfies(id) || waiting.contains(id) || self.outgoing.contains(id) {
            return Err(Error::ReusedMessageId(id.clone()));
        }
        let messages_max = self.config.limits.outgoing_messages_max;
        if self.outgoing.len() >= messages_max {
            return Err(Error::Backpressure(messages_max));
        }
        Ok(())
    }

    /// What others would not read is not sent.
    fn check_id(&self, id: &MessageId) -> Result<(), Error> {
        if id.is_empty() {
            return Err(Error::EmptyMessageId);
        }
        check_bytes("the message id", id.as_bytes(), ID_BYTES_MAX)?;
        if !self.config.accepts_any_id && std::str::from_utf8(id.as_bytes()).is_err() {
            return Err(Error::NotUtf8(id.clone()));
        }
        Ok(())
    }

    fn keep_outgoing(&mut self, message: Arc<Message>, step: &mut Step) {
        let number = self.outgoing.next_number();
        let mut state = Unacknowledged {
            sent_ms: step.now_ms,
            due_ms: 0,
            attempts: 0,
            possible_by: Vec::new(),
            possible_by_unnamed: 0,
        };
        state.due_ms = due_ms(&self.config, &self.participant_id, &message.message_id, &state);
        step.touch_outgoing(number, &message.message_id);
        self.outgoing.insert(number, message, state, &self.config);
    }

    /// Sends again what nobody has acknowledged in time, and gives up what was sent often enough.
    pub(crate) fn sweep_outgoing(&mut self, step: &mut Step) {
        let count_max = if self.config.rules().bounded { RESENDS_PER_SWEEP_MAX } else { usize::MAX };
        for number in self.outgoing.due(step.now_ms, count_max) {
            let Some(entry) = self.outgoing.get(number) else { continue };
            let message = entry.message.clone();
            if entry.state.attempts >= self.config.resend_attempts_max {
                let possibly = entry.state.possible_acks() > 0;
                self.forget_outgoing(number, step);
                step.event(Event::DeliveryUnconfirmed { message_id: message.message_id.clone(), possibly });
                continue;
            }
            let (config, own) = (&self.config, &self.participant_id);
            self.outgoing.update(number, |state| {
                state.attempts = state.attempts.saturating_add(1);
                state.sent_ms = step.now_ms;
                state.due_ms = due_ms(config, own, &message.message_id, state);
            });
            step.touch_outgoing(number, &message.message_id);
            if self.config.rules().resends {
                let bloom_filter = Some(self.filter_bytes(step));
                let again = Message { bloom_filter, ..Message::clone(&message) };
                step.broadcast(&again, Reason::Resend, self.config.dialect);
            }
        }
    }

    pub(crate) fn forget_outgoing(&mut self, number: u64, step: &mut Step) {
        if let Some(entry) = self.outgoing.remove(number) {
            step.touch(Key::Outgoing(number));
            if !self.is_logged(&entry.message) {
                step.touch(Key::Kept(number));
            }
        }
    }
}

/// Stored hints first; a provider's for what has none.
fn with_hints(mut causes: Vec<HistoryEntry>, hints: &[(MessageId, Arc<[u8]>)]) -> Vec<HistoryEntry> {
    for cause in causes.iter_mut().filter(|cause| cause.retrieval_hint.is_none()) {
        let hint = hints.iter().find(|(id, hint)| *id == cause.message_id && !hint.is_empty());
        cause.retrieval_hint = hint.map(|(_, hint)| hint.clone());
    }
    causes
}

fn check_content(content: &[u8]) -> Result<(), Error> {
    if content.is_empty() {
        return Err(Error::EmptyContent);
    }
    if content.len() > CONTENT_BYTES_MAX {
        return Err(Error::MessageTooLarge { bytes: content.len(), bytes_max: CONTENT_BYTES_MAX });
    }
    Ok(())
}

pub(crate) fn check_hint(hint: &[u8]) -> Result<(), Error> {
    check_bytes("the retrieval hint", hint, HINT_BYTES_MAX)
}

fn check_bytes(what: &'static str, bytes: &[u8], count_max: usize) -> Result<(), Error> {
    if bytes.len() > count_max {
        return Err(Error::TooMuch { what, count: bytes.len(), count_max });
    }
    Ok(())
}
