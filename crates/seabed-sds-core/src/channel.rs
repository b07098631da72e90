//! One participant's view of one channel.

use std::sync::Arc;

use crate::config::Config;
use crate::effect::{Effects, Handled, Input, Outcome, Sweep};
use crate::error::{ConfigError, Error, LoadError};
use crate::filter::OwnFilter;
use crate::history::History;
use crate::incoming::Incoming;
use crate::outgoing::Outgoing;
use crate::record::{AnswerEntry, IncomingEntry, Key, LogEntry, Meta, MissingEntry, Record, Unacknowledged};
use crate::repair::{Answers, Missing};
use crate::send::check_hint;
use crate::step::Step;
use crate::wire::WireLimits;
use crate::{ChannelId, HistoryEntry, Message, MessageId, ParticipantId};

/// One participant's view of one channel: a state machine that is told what happens and says what follows.
///
/// The same inputs at the same times give the same outputs, to the byte. What it holds is bounded by its [`Config`].
///
/// ```
/// use seabed_sds_core::{Channel, Config, Input, Output, wire::Dialect};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut channel = Channel::new("room".into(), "alice".into(), Config::seabed(Dialect::Nim), 1_000)?;
/// let send = Input::Send { message_id: &"m1".into(), content: b"hello", hints: &[] };
/// let handled = channel.handle(send, 1_000)?;
/// // Here the caller stores handled.changes.
/// let released = handled.effects.committed().release();
/// assert!(matches!(&released.outputs[0], Output::Broadcast(_)));
/// assert_eq!(channel.outgoing().count(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Channel {
    pub(crate) id: ChannelId,
    pub(crate) participant_id: ParticipantId,
    pub(crate) config: Config,
    pub(crate) wire_limits: WireLimits,
    pub(crate) meta: Meta,
    /// Whether its row was ever given out to be stored: a clock that has not moved yet must come back all the same.
    pub(crate) is_meta_stored: bool,
    pub(crate) history: History,
    pub(crate) outgoing: Outgoing,
    pub(crate) incoming: Incoming,
    pub(crate) missing: Missing,
    pub(crate) answers: Answers,
    pub(crate) filter: OwnFilter,
}

impl Channel {
    /// A channel that nothing is known of. Nothing of it needs to be stored before the first input.
    ///
    /// # Errors
    /// The configuration cannot work.
    pub fn new(
        channel_id: ChannelId,
        participant_id: ParticipantId,
        config: Config,
        now_ms: u64,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let lamport = if config.rules().clock_at_delivery { config.in_unit(now_ms) } else { 0 };
        Ok(Self {
            id: channel_id,
            participant_id,
            wire_limits: config.wire_limits(),
            meta: Meta { lamport, ..Meta::default() },
            is_meta_stored: false,
            history: History::default(),
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            missing: Missing::default(),
            answers: Answers::default(),
            filter: OwnFilter::new(&config),
            config,
        })
    }

    /// The channel as it was when it gave its last changes: `records` are all rows that were put and not deleted since, in any
    /// order. Without any it is a [new](Self::new) one.
    ///
    /// In profile `nim` the filter is made anew of the log, as nim-sds does; all else, and in profile `seabed` that too, is
    /// as it was, due times included.
    ///
    /// # Errors
    /// The configuration cannot work, or the rows are not a state.
    pub fn load(
        channel_id: ChannelId,
        participant_id: ParticipantId,
        config: Config,
        records: impl IntoIterator<Item = Record>,
        now_ms: u64,
    ) -> Result<Self, LoadError> {
        let mut channel = Self::new(channel_id, participant_id, config, now_ms)?;
        channel.restore(records)?;
        Ok(channel)
    }

    /// Does one thing. `now_ms` is Unix time in milliseconds; it may go back.
    ///
    /// # Errors
    /// The input was refused, and nothing has changed.
    pub fn handle(&mut self, input: Input<'_>, now_ms: u64) -> Result<Handled, Error> {
        let mut step = Step::new(now_ms, self.meta, &self.id);
        let outcome = match input {
            Input::Send { message_id, content, hints } => self.send(message_id, content, hints, &mut step),
            Input::SendEphemeral { message_id, content } => {
                self.send_ephemeral(message_id, content, &mut step)
            }
            Input::SendSync => self.send_sync(&mut step),
            Input::Receive { wire, retrieval_hint } => self.receive(wire, retrieval_hint, &mut step),
            Input::MarkDependenciesMet { message_ids } => self.mark_met(message_ids, &mut step),
            Input::SetRetrievalHint { message_id, hint } => self.set_hint(message_id, hint, &mut step),
            Input::Tick(sweep) => self.tick(sweep, &mut step),
        }?;
        if self.meta != step.before || (!self.is_meta_stored && !step.touched.is_empty()) {
            self.is_meta_stored = true;
            step.touch(Key::Meta);
        }
        if !step.touched.is_empty() {
            for number in self.outgoing.take_stray() {
                step.touch(Key::Kept(number));
            }
        }
        let changes = self.changes(step.touched);
        Ok(Handled { changes, effects: Effects::new(outcome, step.outputs) })
    }

    fn tick(&mut self, sweep: Sweep, step: &mut Step) -> Result<Outcome, Error> {
        if sweep != Sweep::Repairs {
            self.sweep_rest(step);
            self.sweep_missing(step);
            self.sweep_outgoing(step);
        }
        if sweep != Sweep::Buffers {
            self.sweep_answers(step);
            self.sweep_requests(step);
        }
        if sweep == Sweep::All {
            self.sweep_sync(step)?;
        }
        Ok(Outcome::Ticked)
    }

    /// When [`Input::Tick`] is wanted next, in milliseconds of Unix time; `None` when nothing is going to be due. May be in the past.
    pub fn next_due(&self) -> Option<u64> {
        let timeout_ms = self.config.dependency_timeout_ms;
        let lost_ms = timeout_ms.and_then(|timeout_ms| {
            self.missing.longest_ms().map(|since_ms| since_ms.saturating_add(timeout_ms))
        });
        let expires_ms = self.requests_expire();
        let due = [
            self.rest_due(),
            self.outgoing.next_due(),
            self.answers_due(),
            self.sync_due(),
            lost_ms,
            expires_ms,
        ];
        due.into_iter().flatten().min()
    }

    fn set_hint(&mut self, id: &MessageId, hint: &[u8], step: &mut Step) -> Result<Outcome, Error> {
        check_hint(hint)?;
        let hint = (!hint.is_empty()).then(|| Arc::from(hint));
        if let Some(entry) = self.history.log.get_mut(id) {
            entry.retrieval_hint = hint;
            step.touch(Key::Log(entry.position, id.clone()));
        } else if let Some(entry) = self.incoming.get_mut(id) {
            entry.retrieval_hint = hint;
            step.touch(Key::Incoming(id.clone()));
        } else {
            return Err(Error::UnknownMessage(id.clone()));
        }
        Ok(Outcome::HintSet)
    }

    /// The filter as it is sent now.
    pub(crate) fn filter_bytes(&mut self, step: &mut Step) -> Arc<[u8]> {
        self.renew_filter(step);
        self.filter.encode(&self.config, &self.meta)
    }

    /// Builds the filter anew when it is full or far too large.
    pub(crate) fn renew_filter(&mut self, step: &mut Step) {
        let OwnFilter::Ring(ring) = &mut self.filter else { return };
        if !ring.is_unfit(&self.config, &self.meta, step.now_ms) {
            return;
        }
        // What our messages name is covered as long as they name it, however old it is.
        let named: Vec<MessageId> = self
            .history
            .log
            .last(self.config.causal_history)
            .map(|entry| entry.message.message_id.clone())
            .collect();
        for id in named {
            let seen = self.history.seen.get(&id).copied();
            let horizon_ms = self.config.filter_horizon_ms;
            let Some(mut seen) = seen.filter(|seen| {
                ring.covers(seen) && !seen.own && seen.at_ms.saturating_add(horizon_ms) < step.now_ms
            }) else {
                continue;
            };
            seen.at_ms = step.now_ms;
            let (number, before) = self.history.seen.push(id.clone(), seen);
            step.touch(Key::Seen(number));
            if let Some(before) = before {
                step.touch(Key::Seen(before));
                ring.renumbered(before);
            }
            ring.add(number, seen.at_ms, &id);
        }
        ring.renew(&self.config, &mut self.meta, step.now_ms, self.history.seen.next_number());
    }

    /// The channel's id.
    pub fn channel_id(&self) -> &ChannelId {
        &self.id
    }

    /// The participant's id.
    pub fn participant_id(&self) -> &ParticipantId {
        &self.participant_id
    }

    /// How it behaves.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The logical clock, in the channel's unit.
    pub fn lamport(&self) -> u64 {
        self.meta.lamport
    }

    /// The messages of the log, in its order.
    pub fn log(&self) -> impl Iterator<Item = &LogEntry> {
        self.history.log.iter()
    }

    /// The own messages that are not acknowledged, oldest first.
    pub fn outgoing(&self) -> impl Iterator<Item = (&Message, &Unacknowledged)> {
        self.outgoing.iter().map(|(_, entry)| (&*entry.message, &entry.state))
    }

    /// The messages that wait, by id, and for what.
    pub fn incoming(&self) -> impl Iterator<Item = (&IncomingEntry, Vec<&MessageId>)> {
        self.incoming
            .iter()
            .map(|entry| (entry, self.incoming.waits_for(&entry.message.message_id).collect()))
    }

    /// What is missing, by id.
    pub fn missing(&self) -> impl Iterator<Item = &MissingEntry> {
        self.missing.iter()
    }

    /// The answers that are going to be sent, by id.
    pub fn answers(&self) -> impl Iterator<Item = &AnswerEntry> {
        self.answers.iter()
    }

    /// What the next message will name as its causes, with the hints that are stored: those without one are what a provider is
    /// asked for.
    pub fn causal_history(&self) -> Vec<HistoryEntry> {
        let count = self.config.causal_history;
        if self.config.rules().log_by_lamport {
            self.history.log.causes_and_heads(count, self.meta.lamport)
        } else {
            self.history.log.causes(count)
        }
    }
}
