//! A participant with a disk of rows, for tests that tell a story.
#![allow(
    dead_code,
    clippy::expect_used,
    reason = "helpers of tests: each uses some, and a failure is the test's"
)]

use std::collections::BTreeMap;

use seabed_sds_core::wire::{self, Dialect, ReadDialect, WireLimits};
use seabed_sds_core::{
    Broadcast, Change, Channel, Config, Error, Event, HistoryEntry, Input, Key, Message, MessageId, Outcome,
    Output, Reason, Received, Reception, Record, Released, Sweep,
};

/// When the stories begin, in milliseconds.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// A participant of channel `room`.
pub(crate) struct Peer {
    pub(crate) channel: Channel,
    pub(crate) rows: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) now_ms: u64,
    pub(crate) outputs: Vec<Output>,
    /// How many rows the last operation changed.
    pub(crate) changes: usize,
    /// How many bytes these had, keys and channel included.
    pub(crate) changed_bytes: usize,
}

fn key(change: &Change) -> Key {
    match change {
        Change::Put(record) => record.key(),
        Change::Delete(key) => key.clone(),
    }
}

impl Peer {
    pub(crate) fn new(name: &str, config: Config) -> Self {
        let channel = Channel::new("room".into(), name.into(), config, START_MS).expect("a configuration");
        Self {
            channel,
            rows: BTreeMap::new(),
            now_ms: START_MS,
            outputs: Vec::new(),
            changes: 0,
            changed_bytes: 0,
        }
    }

    pub(crate) fn nim_dialect(name: &str) -> Self {
        Self::new(name, Config::seabed(Dialect::Nim))
    }

    /// Does one thing and stores it.
    pub(crate) fn handle(&mut self, input: Input<'_>) -> Result<Outcome, Error> {
        let handled = self.channel.handle(input, self.now_ms)?;
        self.changes = handled.changes.len();
        self.changed_bytes = 0;
        let keys: Vec<Key> = handled.changes.iter().map(key).collect();
        assert!(keys.is_sorted_by(|one, other| one < other), "a row twice, or out of order: {keys:?}");
        for change in &handled.changes {
            let (key, value) = match change {
                Change::Put(record) => (record.key().to_bytes(), Some(record.to_bytes())),
                Change::Delete(key) => (key.to_bytes(), None),
            };
            self.changed_bytes += "room".len() + key.len() + value.as_ref().map_or(0, Vec::len);
            match value {
                Some(value) => drop(self.rows.insert(key, value)),
                None => drop(self.rows.remove(&key)),
            }
        }
        let Released { outcome, outputs } = handled.effects.committed().release();
        self.outputs = outputs;
        Ok(outcome)
    }

    /// Ends, and begins again with what was stored.
    pub(crate) fn restart(&mut self) {
        let rows = self.rows.iter();
        let records: Vec<Record> =
            rows.map(|(key, value)| Record::from_bytes(key, value).expect("a row")).collect();
        let (id, name) = (self.channel.channel_id().clone(), self.channel.participant_id().clone());
        let config = self.channel.config().clone();
        self.channel = Channel::load(id, name, config, records, self.now_ms).expect("a state");
    }

    pub(crate) fn try_send(&mut self, id: &str) -> Result<Outcome, Error> {
        let content = format!("content of {id}");
        self.handle(Input::Send { message_id: &id.into(), content: content.as_bytes(), hints: &[] })
    }

    /// Says something, and gives its bytes.
    pub(crate) fn send(&mut self, id: &str) -> Vec<u8> {
        self.try_send(id).expect("sent");
        self.broadcasts().pop().expect("bytes").wire
    }

    pub(crate) fn sync(&mut self) -> Vec<u8> {
        self.handle(Input::SendSync).expect("sent");
        self.broadcasts().pop().expect("bytes").wire
    }

    pub(crate) fn receive(&mut self, wire: &[u8]) -> Received {
        match self.handle(Input::Receive { wire, retrieval_hint: None }) {
            Ok(Outcome::Received(received)) => received,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn hear(&mut self, wire: &[u8]) -> Reception {
        self.receive(wire).reception
    }

    pub(crate) fn mark_met(&mut self, ids: &[&str]) {
        let ids: Vec<MessageId> = ids.iter().map(|id| (*id).into()).collect();
        self.handle(Input::MarkDependenciesMet { message_ids: &ids }).expect("marked");
    }

    pub(crate) fn tick(&mut self) -> Vec<Broadcast> {
        self.handle(Input::Tick(Sweep::All)).expect("ticked");
        self.broadcasts()
    }

    /// Lets time pass to the next due time, and does what is due.
    pub(crate) fn tick_when_due(&mut self) -> Vec<Broadcast> {
        self.now_ms = self.channel.next_due().expect("something is due").max(self.now_ms);
        self.tick()
    }

    pub(crate) fn broadcasts(&self) -> Vec<Broadcast> {
        let outputs = self.outputs.iter();
        outputs
            .filter_map(|output| match output {
                Output::Broadcast(broadcast) => Some(broadcast.clone()),
                Output::Event(_) => None,
            })
            .collect()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        let outputs = self.outputs.iter();
        outputs
            .filter_map(|output| match output {
                Output::Event(event) => Some(event.clone()),
                Output::Broadcast(_) => None,
            })
            .collect()
    }

    /// The events of the last operation, a word each.
    pub(crate) fn told(&self) -> Vec<String> {
        self.events().iter().map(word).collect()
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.channel.log().map(|entry| entry.message.message_id.to_string()).collect()
    }

    pub(crate) fn waiting(&self) -> Vec<String> {
        self.channel.incoming().map(|(entry, _)| entry.message.message_id.to_string()).collect()
    }

    pub(crate) fn missing(&self) -> Vec<String> {
        self.channel.missing().map(|missing| missing.entry.message_id.to_string()).collect()
    }

    pub(crate) fn unacknowledged(&self) -> Vec<String> {
        self.channel.outgoing().map(|(message, _)| message.message_id.to_string()).collect()
    }

    /// How many rows of a kind are stored.
    pub(crate) fn rows_of(&self, kind: impl Fn(&Key) -> bool) -> usize {
        self.rows.keys().filter(|key| Key::from_bytes(key).is_ok_and(|key| kind(&key))).count()
    }
}

/// An event as one line.
pub(crate) fn word(event: &Event) -> String {
    let names = |entries: &[HistoryEntry]| {
        entries.iter().map(|entry| entry.message_id.to_string()).collect::<Vec<_>>().join(" ")
    };
    match event {
        Event::Delivered { message, gap: false } => format!("delivered {}", message.message_id),
        Event::Delivered { message, gap: true } => format!("delivered {} after a gap", message.message_id),
        Event::EphemeralDelivered { message } => format!("ephemeral {}", message.message_id),
        Event::Buffered { message_id } => format!("buffered {message_id}"),
        Event::MissingDependencies { message_id, entries } => {
            format!("{message_id} misses {}", names(entries))
        }
        Event::DependenciesLost { entries } => format!("lost {}", names(entries)),
        Event::Acknowledged { message_id } => format!("acknowledged {message_id}"),
        Event::PossiblyAcknowledged { message_id, count } => format!("possibly {message_id} {count}"),
        Event::DeliveryUnconfirmed { message_id, possibly } => {
            format!("unconfirmed {message_id}{}", if *possibly { " possibly" } else { "" })
        }
        Event::OwnRestored { message } => format!("restored {}", message.message_id),
        Event::ClockAnomaly { message_id, .. } => format!("anomaly {message_id}"),
        Event::LimitHit { limit, message_id } => format!("limit {limit:?} {message_id}"),
    }
}

pub(crate) fn decode(wire: &[u8]) -> Message {
    wire::decode(wire, ReadDialect::Auto, &WireLimits::default()).expect("a message").message
}

/// A message of somebody who need not follow any rule.
pub(crate) fn message(sender: &str, id: &str, lamport: u64, causes: &[&str]) -> Message {
    Message {
        sender_id: sender.into(),
        message_id: id.into(),
        channel_id: "room".into(),
        lamport: Some(lamport),
        causal_history: causes.iter().map(|cause| entry(cause)).collect(),
        content: Some(b"x".as_slice().into()),
        ..Message::default()
    }
}

pub(crate) fn entry(id: &str) -> HistoryEntry {
    HistoryEntry { message_id: id.into(), ..HistoryEntry::default() }
}

pub(crate) fn encode(message: &Message) -> Vec<u8> {
    wire::encode(message, Dialect::Nim)
}

/// The broadcasts of one reason.
pub(crate) fn of_reason(broadcasts: Vec<Broadcast>, reason: Reason) -> Vec<Broadcast> {
    broadcasts.into_iter().filter(|broadcast| broadcast.reason == reason).collect()
}
