//! Sync messages: what a participant tells when it has nothing to say (sds.md section 14).
//!
//! Every participant has a time at which it speaks next, a random part of the interval away. Who speaks sets its own time anew, and who
//! hears a sync message, too: so of many silent participants one speaks an interval.

use crate::channel::Channel;
use crate::effect::{Outcome, Reason};
use crate::error::Error;
use crate::outgoing::chance;
use crate::record::Key;
use crate::step::Step;
use crate::{Message, MessageId, clock, hash};

impl Channel {
    pub(crate) fn send_sync(&mut self, step: &mut Step) -> Result<Outcome, Error> {
        if !self.config.rules().empty_is_sync {
            return Err(Error::Unsupported("profile nim has no sync messages"));
        }
        let asks = self.missing.next_due().is_some_and(|due_ms| due_ms <= step.now_ms);
        let causal_history = self.causal_history();
        if causal_history.is_empty() && !asks {
            self.meta.sync_due_ms = None;
            return Ok(Outcome::NothingToSay);
        }
        self.meta.lamport = clock::on_send(&self.config, self.meta.lamport, step.now_ms);
        let message_id = self.sync_id(step.now_ms);
        let bloom_filter = Some(self.filter_bytes(step));
        let message = Message {
            sender_id: self.participant_id.clone(),
            message_id: message_id.clone(),
            channel_id: self.id.clone(),
            lamport: Some(self.meta.lamport),
            causal_history,
            bloom_filter,
            repair_request: self.take_requests(step),
            // Readers of nim-sds 0.3 want the field: dialect N writes it with no bytes.
            content: None,
        };
        step.broadcast(&message, Reason::Sync, self.config.dialect);
        self.remember_sync(&message_id, step);
        self.drop_missing(&message_id, step);
        self.settle_all([message_id.clone()], step);
        self.spoke(step);
        Ok(Outcome::SyncSent { message_id })
    }

    /// A name that no other message has: the clock never shows the same again.
    fn sync_id(&self, now_ms: u64) -> MessageId {
        let parts = [
            self.participant_id.as_bytes(),
            self.id.as_bytes(),
            &self.meta.lamport.to_be_bytes(),
            &now_ms.to_be_bytes(),
        ];
        format!("sync-{:016x}", hash::nim(&parts.concat())).as_str().into()
    }

    pub(crate) fn remember_sync(&mut self, id: &MessageId, step: &mut Step) {
        let (number, before) = self.history.syncs.push(id.clone(), ());
        let forgotten = self.history.syncs.forget_oldest(crate::SYNC_IDS_MAX);
        for number in [Some(number), before, forgotten].into_iter().flatten() {
            step.touch(Key::Sync(number));
        }
    }

    /// This participant has told what it knows.
    pub(crate) fn spoke(&mut self, step: &mut Step) {
        self.meta.spoke_ms = step.now_ms;
        self.put_off_sync(step.now_ms);
    }

    /// Another participant has spoken. Its sync message says what ours would; anything else wants to be confirmed.
    pub(crate) fn heard(&mut self, is_sync: bool, step: &mut Step) {
        if is_sync || self.meta.sync_due_ms.is_none() {
            self.put_off_sync(step.now_ms);
        }
    }

    fn put_off_sync(&mut self, now_ms: u64) {
        let Some(interval_ms) = self.config.sync_interval_ms else { return };
        let parts = [self.participant_id.as_bytes(), self.id.as_bytes(), &now_ms.to_be_bytes()];
        let pause_ms = interval_ms / 4 * 3 + chance(&parts, interval_ms / 2);
        self.meta.sync_due_ms = Some(now_ms.saturating_add(pause_ms));
    }

    /// When the next sync message is due: its own time, or earlier when something is to be asked for. Requests may not follow
    /// one another closer than a third of the interval.
    pub(crate) fn sync_due(&self) -> Option<u64> {
        let pause_ms = self.config.sync_interval_ms? / 3;
        let asks_ms =
            self.missing.next_due().map(|due_ms| due_ms.max(self.meta.spoke_ms.saturating_add(pause_ms)));
        [self.meta.sync_due_ms, asks_ms].into_iter().flatten().min()
    }

    pub(crate) fn sweep_sync(&mut self, step: &mut Step) -> Result<(), Error> {
        if self.sync_due().is_some_and(|due_ms| due_ms <= step.now_ms) {
            self.send_sync(step)?;
        }
        Ok(())
    }
}
