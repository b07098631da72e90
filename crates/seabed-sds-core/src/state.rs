//! A channel's state as rows: those that an operation changed, all of them, and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Message;
use crate::bloom::RollingFilter;
use crate::channel::Channel;
use crate::error::LoadError;
use crate::filter::OwnFilter;
use crate::history::Seen;
use crate::record::{Change, Changes, Key, Record, SeenEntry};

impl Channel {
    /// The rows that were touched, as they are now.
    pub(crate) fn changes(&self, mut touched: Vec<Key>) -> Changes {
        touched.sort_unstable();
        touched.dedup();
        let change = |key| match self.row(&key) {
            Some(record) => Change::Put(record),
            None => Change::Delete(key),
        };
        Changes(touched.into_iter().map(change).collect())
    }

    /// A row of the state as it is now.
    fn row(&self, key: &Key) -> Option<Record> {
        Some(match key {
            Key::Meta => Record::Meta(self.meta),
            Key::Log(position, id) => {
                Record::Log(self.history.log.get(id).filter(|entry| entry.position == *position)?.clone())
            }
            Key::Outgoing(number) => {
                let entry = self.outgoing.get(*number)?;
                let message_id = entry.message.message_id.clone();
                Record::Outgoing { number: *number, message_id, state: entry.state.clone() }
            }
            Key::Kept(number) => {
                let entry = self.outgoing.get(*number).filter(|entry| !self.is_logged(&entry.message))?;
                Record::Kept { number: *number, message: entry.message.clone() }
            }
            Key::Incoming(id) => Record::Incoming(self.incoming.get(id)?.clone()),
            Key::Waits(id, dependency) => {
                if !self.incoming.does_wait(id, dependency) {
                    return None;
                }
                Record::Waits { message_id: id.clone(), dependency_id: dependency.clone() }
            }
            Key::Missing(id) => Record::Missing(self.missing.get(id)?.clone()),
            Key::Answer(id) => Record::Answer(self.answers.get(id)?.clone()),
            Key::Seen(number) => {
                let (message_id, seen) = self.history.seen.row(*number)?;
                Record::Seen { number: *number, entry: seen.to_entry(message_id.clone()) }
            }
            Key::Sync(number) => {
                Record::Sync { number: *number, message_id: self.history.syncs.row(*number)?.0.clone() }
            }
            Key::Met(number) => {
                let (message_id, lost) = self.history.met.row(*number)?;
                Record::Met { number: *number, message_id: message_id.clone(), lost: *lost }
            }
        })
    }

    /// Whether the log has just that message: profile `nim` may have another one of the same id.
    pub(crate) fn is_logged(&self, message: &Arc<Message>) -> bool {
        self.history.log.get(&message.message_id).is_some_and(|entry| entry.message == *message)
    }

    /// Every row of the state, in ascending order of their keys.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        self.keys().into_iter().filter_map(|key| self.row(&key))
    }

    fn keys(&self) -> Vec<Key> {
        let mut keys = vec![Key::Meta];
        let logged = self.history.log.iter();
        keys.extend(logged.map(|entry| Key::Log(entry.position, entry.message.message_id.clone())));
        for (number, _) in self.outgoing.iter() {
            keys.extend([Key::Outgoing(number), Key::Kept(number)]);
        }
        for entry in self.incoming.iter() {
            let id = &entry.message.message_id;
            keys.push(Key::Incoming(id.clone()));
            keys.extend(self.incoming.waits_for(id).map(|cause| Key::Waits(id.clone(), cause.clone())));
        }
        keys.extend(self.missing.iter().map(|missing| Key::Missing(missing.entry.message_id.clone())));
        keys.extend(self.answers.iter().map(|answer| Key::Answer(answer.entry.message_id.clone())));
        keys.extend(self.history.seen.from(0).map(|(number, ..)| Key::Seen(number)));
        keys.extend(self.history.syncs.from(0).map(|(number, ..)| Key::Sync(number)));
        keys.extend(self.history.met.from(0).map(|(number, ..)| Key::Met(number)));
        keys.sort_unstable();
        keys
    }

    /// Takes the rows of a stored state into a new channel.
    pub(crate) fn restore(&mut self, records: impl IntoIterator<Item = Record>) -> Result<(), LoadError> {
        // Some rows belong to others, and may come before them.
        let (mut outgoing, mut kept, mut waits) = (Vec::new(), BTreeMap::new(), Vec::new());
        for record in records {
            match record {
                Record::Meta(meta) => {
                    self.meta = meta;
                    self.is_meta_stored = true;
                }
                Record::Log(entry) => self.history.log.insert(entry),
                Record::Outgoing { number, message_id, state } => outgoing.push((number, message_id, state)),
                Record::Kept { number, message } => drop(kept.insert(number, message)),
                Record::Incoming(entry) => self.incoming.insert(entry),
                Record::Waits { message_id, dependency_id } => waits.push((message_id, dependency_id)),
                Record::Missing(entry) => self.missing.put(entry),
                Record::Answer(entry) => self.answers.put(entry),
                Record::Seen { number, entry } => {
                    let seen = Seen::from_entry(&entry);
                    check(
                        self.history.seen.restore(number, entry.message_id, seen),
                        "an id was received twice",
                    )?;
                }
                Record::Sync { number, message_id } => {
                    check(
                        self.history.syncs.restore(number, message_id, ()),
                        "a sync message is there twice",
                    )?;
                }
                Record::Met { number, message_id, lost } => {
                    check(self.history.met.restore(number, message_id, lost), "a dependency is met twice")?;
                }
            }
        }
        for (number, message_id, state) in outgoing {
            let logged = self.history.log.get(&message_id).map(|entry| &entry.message);
            let message = match (kept.get(&number), logged) {
                (Some(own), logged) if own.message_id == message_id && logged != Some(own) => {
                    kept.remove(&number)
                }
                (_, logged) => logged.cloned(),
            };
            let Some(message) = message else { return Err(LoadError::HALF) };
            check(self.outgoing.get(number).is_none(), "an own message is there twice")?;
            self.outgoing.insert(number, message, state, &self.config);
        }
        // The log has them, or nobody wants them any more.
        for number in kept.into_keys() {
            self.outgoing.stray(number);
        }
        for (id, dependency) in waits {
            check(self.incoming.add_wait(&id, &dependency), "a message that is not there waits")?;
        }
        self.restore_filter();
        Ok(())
    }

    fn restore_filter(&mut self) {
        match &mut self.filter {
            OwnFilter::Ring(ring) => ring.restore(&self.config, &self.meta, &self.history.seen),
            OwnFilter::Rolling(rolling) => {
                let mut anew = RollingFilter::new(self.config.bloom_capacity, self.config.bloom_error_rate);
                for entry in self.history.log.iter() {
                    anew.add(&entry.message.message_id);
                }
                *rolling = anew;
            }
        }
    }
}

fn check(holds: bool, otherwise: &'static str) -> Result<(), LoadError> {
    if holds { Ok(()) } else { Err(LoadError::Contradiction(otherwise)) }
}

impl Seen {
    fn to_entry(self, message_id: crate::MessageId) -> SeenEntry {
        SeenEntry { message_id, seen_ms: self.at_ms, own: self.own, delivered: self.delivered }
    }

    fn from_entry(entry: &SeenEntry) -> Self {
        Self { at_ms: entry.seen_ms, own: entry.own, delivered: entry.delivered }
    }
}
