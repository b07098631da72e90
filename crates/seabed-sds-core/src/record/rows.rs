//! Rows as they are stored, in whichever layout: reading them into records.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Record, Unacknowledged, old};
use crate::{LoadError, Message, MessageId, RecordError};

/// A row of any layout that was ever written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A record.
    Record(Record),
    /// Layout 1: an own message that is not acknowledged, without its state.
    OldMessage {
        /// Its running number.
        number: u64,
        /// The message.
        message: Arc<Message>,
    },
    /// Layout 1: the state of that message.
    OldState {
        /// Its running number.
        number: u64,
        /// How far it has got.
        state: Unacknowledged,
    },
}

impl Row {
    /// Reads a row.
    ///
    /// # Errors
    /// As [`Record::from_bytes`], for what no layout has.
    pub fn from_bytes(key: &[u8], value: &[u8]) -> Result<Self, RecordError> {
        if old::is_key(key) {
            return old::read(key, value);
        }
        Record::from_bytes(key, value).map(Self::Record)
    }
}

/// The rows of one channel, while they are read.
///
/// ```
/// use seabed_sds_core::{Record, Rows};
///
/// let met = Record::Met { number: 7, message_id: "m1".into(), lost: false };
/// let mut rows = Rows::default();
/// rows.add(&met.key().to_bytes(), &met.to_bytes())?;
/// // The same in layout 1.
/// rows.add(&[11, 0, 0, 0, 0, 0, 0, 0, 8], b"\x01\0m2")?;
/// assert!(rows.are_old());
/// let old = Record::Met { number: 8, message_id: "m2".into(), lost: false };
/// assert_eq!(rows.into_records()?, [met, old]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Rows {
    records: Vec<Record>,
    messages: BTreeMap<u64, Arc<Message>>,
    states: BTreeMap<u64, Unacknowledged>,
    old: bool,
}

impl Rows {
    /// Reads one more.
    ///
    /// # Errors
    /// As [`Row::from_bytes`].
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordError> {
        self.old |= old::is_key(key);
        match Row::from_bytes(key, value)? {
            Row::Record(record) => self.records.push(record),
            Row::OldMessage { number, message } => drop(self.messages.insert(number, message)),
            Row::OldState { number, state } => drop(self.states.insert(number, state)),
        }
        Ok(())
    }

    /// Whether any of them is of an earlier layout: then the records are to be written anew, and [their old keys](Record::old_keys) deleted, before
    /// anything else is written.
    pub fn are_old(&self) -> bool {
        self.old
    }

    /// The records, in the order of their rows.
    ///
    /// # Errors
    /// Of an own message there is one half.
    pub fn into_records(self) -> Result<Vec<Record>, LoadError> {
        let Self { mut records, messages, mut states, .. } = self;
        let mut joined = Vec::with_capacity(messages.len());
        if !messages.is_empty() {
            let logged: BTreeMap<&MessageId, &Arc<Message>> = records
                .iter()
                .filter_map(|record| match record {
                    Record::Log(entry) => Some((&entry.message.message_id, &entry.message)),
                    _ => None,
                })
                .collect();
            for (number, message) in messages {
                let Some(state) = states.remove(&number) else { return Err(LoadError::HALF) };
                let message_id = message.message_id.clone();
                let is_logged = logged.get(&message_id).is_some_and(|logged| **logged == message);
                // First the message: whoever moves the rows in parts may not leave its state alone.
                if !is_logged {
                    joined.push(Record::Kept { number, message });
                }
                joined.push(Record::Outgoing { number, message_id, state });
            }
        }
        if !states.is_empty() {
            return Err(LoadError::HALF);
        }
        records.extend(joined);
        Ok(records)
    }
}

impl Record {
    /// Where earlier layouts had what this record holds: what moves to its [key](Record::key) leaves these.
    pub fn old_keys(&self) -> Vec<Vec<u8>> {
        old::keys(self)
    }
}
