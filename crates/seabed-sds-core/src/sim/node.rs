//! One simulated participant: a channel, the disk that its rows are on, and what its application has seen.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::{
    Change, Channel, Config, Event, Input, Key, MessageId, Outcome, Output, ParticipantId, Profile, Record,
    Released,
};

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    /// It is durable, and the effects leave.
    Applied,
    /// It failed: nothing leaves, and the channel is loaded again.
    Failed,
    /// It is durable, but the process ended before the effects left.
    AppliedThenCrashed,
}

/// A participant.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: ParticipantId,
    channel: Channel,
    /// The rows, as bytes.
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    /// How far its clock is off, in milliseconds.
    pub(super) clock_ms: i64,
    /// The messages that are durably in its log, or were.
    pub(super) held: BTreeSet<MessageId>,
    /// Own messages that somebody acknowledged.
    pub(super) acknowledged: BTreeSet<MessageId>,
    /// Something was delivered since this was asked last.
    delivered: bool,
}

impl Node {
    pub(super) fn new(name: ParticipantId, config: Config, now_ms: u64) -> Result<Self, Violation> {
        let channel = Channel::new("room".into(), name.clone(), config, now_ms)
            .map_err(|error| Violation(error.to_string()))?;
        Ok(Self {
            name,
            channel,
            disk: BTreeMap::new(),
            clock_ms: 0,
            held: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            delivered: false,
        })
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) fn take_delivered(&mut self) -> bool {
        std::mem::take(&mut self.delivered)
    }

    /// What its clock shows.
    pub(super) fn now_ms(&self, time_ms: u64) -> u64 {
        time_ms.saturating_add_signed(self.clock_ms)
    }

    /// When it wants a tick, in the time of the world.
    pub(super) fn wakes_ms(&self) -> Option<u64> {
        Some(self.channel.next_due()?.saturating_add_signed(-self.clock_ms))
    }

    /// Does one thing, and commits it. Gives what leaves.
    pub(super) fn handle(
        &mut self,
        input: Input<'_>,
        time_ms: u64,
        commit: Commit,
    ) -> Result<Option<Released>, Violation> {
        let now_ms = self.now_ms(time_ms);
        let handled = match self.channel.handle(input, now_ms) {
            Ok(handled) => handled,
            // Too much is outstanding: the application tries again later.
            Err(crate::Error::Backpressure(_)) => return Ok(None),
            Err(error) => return Err(self.wrong(&format!("refused an input: {error}"))),
        };
        self.check_bounds()?;
        if commit == Commit::Failed {
            self.reload(now_ms)?;
            return Ok(None);
        }
        for change in &handled.changes {
            match change {
                Change::Put(record) => self.disk.insert(record.key().to_bytes(), record.to_bytes()),
                Change::Delete(key) => self.disk.remove(&key.to_bytes()),
            };
        }
        let released = handled.effects.committed().release();
        self.note(&released)?;
        if commit == Commit::AppliedThenCrashed {
            self.restart(time_ms)?;
            return Ok(None);
        }
        Ok(Some(released))
    }

    /// What its application has durably got.
    fn note(&mut self, released: &Released) -> Result<(), Violation> {
        if let Outcome::Sent { message_id } = &released.outcome {
            self.held.insert(message_id.clone());
        }
        let seabed = self.channel.config().profile == Profile::Seabed;
        for output in &released.outputs {
            match output {
                Output::Event(Event::Delivered { message, gap }) => {
                    self.delivered = true;
                    let new = self.held.insert(message.message_id.clone());
                    if seabed && !new {
                        return Err(self.wrong(&format!("{} was delivered twice", message.message_id)));
                    }
                    let causes = message.causal_history.iter().map(|cause| &cause.message_id);
                    let unmet = causes.clone().find(|cause| !self.held.contains(*cause) && !is_sync(cause));
                    if let Some(cause) = unmet.filter(|_| seabed && !gap) {
                        let (early, late) = (&message.message_id, cause);
                        return Err(self.wrong(&format!("{early} was delivered before its cause {late}")));
                    }
                }
                Output::Event(Event::Acknowledged { message_id }) => {
                    self.acknowledged.insert(message_id.clone());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends and begins again: the state must be the same, due times included.
    pub(super) fn restart(&mut self, time_ms: u64) -> Result<(), Violation> {
        let before: Vec<Record> = self.channel.records().collect();
        let due_ms = self.channel.next_due();
        self.reload(self.now_ms(time_ms))?;
        // A channel that has stored nothing is a new one, whose clock is the time.
        if !self.disk.is_empty() {
            let after: Vec<Record> = self.channel.records().collect();
            if after != before {
                let odd =
                    |one: &[Record], other: &[Record]| one.iter().find(|row| !other.contains(row)).cloned();
                let (lost, new) = (odd(&before, &after), odd(&after, &before));
                return Err(self.wrong(&format!("came back with another state: {lost:?}, then {new:?}")));
            }
            if self.channel.next_due() != due_ms {
                return Err(self.wrong("came back with another due time"));
            }
        }
        Ok(())
    }

    fn reload(&mut self, now_ms: u64) -> Result<(), Violation> {
        let records: Result<Vec<Record>, _> =
            self.disk.iter().map(|(key, value)| Record::from_bytes(key, value)).collect();
        let records = records.map_err(|error| self.wrong(&format!("cannot read a row: {error}")))?;
        let (id, config) = (self.channel.channel_id().clone(), self.channel.config().clone());
        self.channel = Channel::load(id, self.name.clone(), config, records, now_ms)
            .map_err(|error| self.wrong(&format!("cannot be loaded: {error}")))?;
        Ok(())
    }

    /// No buffer grows beyond its bound, on disk as in memory.
    fn check_bounds(&self) -> Result<(), Violation> {
        let config = self.channel.config();
        if config.profile == Profile::Nim {
            return Ok(());
        }
        let limits = &config.limits;
        for (what, count, count_max) in [
            ("log", self.channel.history.log.len(), limits.log_messages_max),
            ("seen", self.channel.history.seen.len(), limits.seen_ids_max),
            ("outgoing", self.channel.outgoing.len(), limits.outgoing_messages_max),
            ("incoming", self.channel.incoming.len(), limits.incoming_messages_max),
            ("requests", self.channel.missing.asked(), limits.repairs_out_max),
            (
                "missing",
                self.channel.missing.len(),
                limits.repairs_out_max + limits.incoming_messages_max * limits.missing_ids_max,
            ),
            ("waiting bytes", self.channel.incoming.bytes(), limits.incoming_bytes_max),
            ("sync messages", self.channel.history.syncs.len(), crate::SYNC_IDS_MAX),
            ("met dependencies", self.channel.history.met.len(), crate::MET_IDS_MAX),
            ("answers", self.channel.answers.len(), limits.repairs_in_max),
        ] {
            if count > count_max {
                return Err(self.wrong(&format!("holds {count} in {what}, more than {count_max}")));
            }
        }
        Ok(())
    }

    /// How many rows of a kind are on the disk.
    pub(super) fn rows(&self) -> usize {
        self.disk.len()
    }

    /// The rows of the disk are those of the state: none is left behind.
    pub(super) fn check_disk(&self) -> Result<(), Violation> {
        let keys = self.channel.records().map(|record| record.key()).filter(|key| *key != Key::Meta);
        let mut keys: Vec<Vec<u8>> = keys.map(|key| key.to_bytes()).collect();
        keys.sort_unstable();
        let meta = Key::Meta.to_bytes();
        if !self.disk.keys().filter(|key| **key != meta).eq(keys.iter()) {
            return Err(self.wrong("has rows on disk that are not in its state, or the other way round"));
        }
        Ok(())
    }

    pub(super) fn wrong(&self, what: &str) -> Violation {
        Violation(format!("{} {what}", self.name))
    }
}

/// Sync messages are in nobody's log, though profile `nim` names them.
pub(super) fn is_sync(id: &MessageId) -> bool {
    id.as_bytes().starts_with(b"sync-")
}
