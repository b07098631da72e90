//! One participant's view of one channel.

use crate::config::Config;
use crate::effect::{Effects, Handled, Input, Outcome};
use crate::error::{ConfigError, Error, LoadError};
use crate::record::{AnswerEntry, Changes, IncomingEntry, LogEntry, MissingEntry, Record, Unacknowledged};
use crate::{ChannelId, HistoryEntry, Message, MessageId, ParticipantId};

/// One participant's view of one channel.
#[derive(Debug)]
pub struct Channel {
    id: ChannelId,
    participant_id: ParticipantId,
    config: Config,
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
        let _ = now_ms;
        Ok(Self { id: channel_id, participant_id, config })
    }

    /// The channel as it was when it gave its last changes: `records` are all rows that were put and not deleted since, in any
    /// order. Without any it is a [new](Self::new) one.
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
        let channel = Self::new(channel_id, participant_id, config, now_ms)?;
        for _record in records {}
        Ok(channel)
    }

    /// Does one thing. `now_ms` is Unix time in milliseconds; it may go back.
    ///
    /// # Errors
    /// The input was refused, and nothing has changed.
    pub fn handle(&mut self, input: Input<'_>, now_ms: u64) -> Result<Handled, Error> {
        let _ = now_ms;
        match input {
            Input::Tick(_) => Ok(Handled {
                changes: Changes::default(),
                effects: Effects::new(Outcome::Ticked, Vec::new()),
            }),
            _ => Err(Error::Unsupported("the rules of a channel are not built yet")),
        }
    }

    /// When [`Input::Tick`] is wanted next, in milliseconds of Unix time; `None` when nothing is going to be due. May be in the past.
    pub fn next_due(&self) -> Option<u64> {
        None
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
        0
    }

    /// The messages of the log, in its order.
    pub fn log(&self) -> impl Iterator<Item = &LogEntry> {
        std::iter::empty()
    }

    /// The own messages that are not acknowledged, oldest first.
    pub fn outgoing(&self) -> impl Iterator<Item = (&Message, &Unacknowledged)> {
        std::iter::empty()
    }

    /// The messages that wait, by id, and for what.
    pub fn incoming(&self) -> impl Iterator<Item = (&IncomingEntry, Vec<&MessageId>)> {
        std::iter::empty()
    }

    /// What is missing, by id.
    pub fn missing(&self) -> impl Iterator<Item = &MissingEntry> {
        std::iter::empty()
    }

    /// The answers that are going to be sent, by id.
    pub fn answers(&self) -> impl Iterator<Item = &AnswerEntry> {
        std::iter::empty()
    }

    /// What the next message will name as its causes, with the hints that are stored: those without one are what a provider is asked for.
    pub fn causal_history(&self) -> Vec<HistoryEntry> {
        Vec::new()
    }

    /// Every row of the state, in ascending order of their keys.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        std::iter::empty()
    }
}
