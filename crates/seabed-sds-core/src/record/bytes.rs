//! Rows as bytes; `docs/formats/sds-rows.md` has them field by field.

use super::field::{Reader, Writer};
use super::id;
use super::message::{encoded_bytes, read_entry, read_message, write_entry, write_message};
use super::{AnswerEntry, IncomingEntry, LogEntry, Meta, MissingEntry, SeenEntry, Unacknowledged};
use crate::record::Record;
use crate::{Key, MessageId, RecordError};

/// The version of the layout of rows, the first byte of each value.
pub const RECORD_VERSION: u8 = 2;

// Kinds below 21 are those of layout 1.
const SEEN: u8 = 21;
const LOG: u8 = 22;
const META: u8 = 23;
const OUTGOING: u8 = 24;
const KEPT: u8 = 25;
const INCOMING: u8 = 26;
const WAITS: u8 = 27;
const MISSING: u8 = 28;
const ANSWER: u8 = 29;
const SYNC: u8 = 30;
const MET: u8 = 31;

impl Key {
    /// The key as bytes. They sort as keys do, but for ids.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes_after(&[])
    }

    /// The same after what a store puts before it.
    pub fn to_bytes_after(&self, prefix: &[u8]) -> Vec<u8> {
        // The longest of usual keys: a position and an id that is a hash.
        let mut key = Writer(Vec::with_capacity(prefix.len() + 48));
        key.rest(prefix);
        match self {
            Self::Seen(number) => drop(key.byte(SEEN).u64(*number)),
            Self::Log(position, message_id) => id::write(message_id, key.byte(LOG).u64(*position)),
            Self::Meta => drop(key.byte(META)),
            Self::Outgoing(number) => drop(key.byte(OUTGOING).u64(*number)),
            Self::Kept(number) => drop(key.byte(KEPT).u64(*number)),
            Self::Incoming(message_id) => id::write(message_id, key.byte(INCOMING)),
            Self::Waits(message_id, dependency_id) => {
                id::write(message_id, key.byte(WAITS));
                id::write(dependency_id, &mut key);
            }
            Self::Missing(message_id) => id::write(message_id, key.byte(MISSING)),
            Self::Answer(message_id) => id::write(message_id, key.byte(ANSWER)),
            Self::Sync(number) => drop(key.byte(SYNC).u64(*number)),
            Self::Met(number) => drop(key.byte(MET).u64(*number)),
        }
        key.0
    }

    /// How many bytes of it are ids.
    pub(crate) fn ids_bytes(&self) -> usize {
        match self {
            Self::Log(_, id) | Self::Incoming(id) | Self::Missing(id) | Self::Answer(id) => {
                id.as_bytes().len()
            }
            Self::Waits(id, dependency) => id.as_bytes().len() + dependency.as_bytes().len(),
            _ => 0,
        }
    }

    /// Reads a key.
    ///
    /// # Errors
    /// The bytes are not a key: the row was damaged, or a later version wrote it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut key = Reader(bytes);
        let read = match key.byte()? {
            SEEN => Self::Seen(key.u64()?),
            LOG => Self::Log(key.u64()?, id::read(&mut key)?),
            META => Self::Meta,
            OUTGOING => Self::Outgoing(key.u64()?),
            KEPT => Self::Kept(key.u64()?),
            INCOMING => Self::Incoming(id::read(&mut key)?),
            WAITS => Self::Waits(id::read(&mut key)?, id::read(&mut key)?),
            MISSING => Self::Missing(id::read(&mut key)?),
            ANSWER => Self::Answer(id::read(&mut key)?),
            SYNC => Self::Sync(key.u64()?),
            MET => Self::Met(key.u64()?),
            other => return Err(RecordError::Kind(other)),
        };
        key.end()?;
        Ok(read)
    }
}

impl Record {
    /// The value of the row, without its key.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut value = Writer(Vec::with_capacity(self.bytes_about()));
        value.byte(RECORD_VERSION);
        match self {
            Self::Seen { entry, .. } => {
                value.u64(entry.seen_ms).flag(entry.own).flag(entry.delivered);
                id::write(&entry.message_id, &mut value);
            }
            Self::Log(entry) => {
                value.flag(entry.anomalous).maybe_bytes(entry.retrieval_hint.as_deref());
                write_message(&mut value, &entry.message);
            }
            Self::Meta(meta) => write_meta(&mut value, meta),
            Self::Outgoing { message_id, state, .. } => write_outgoing(&mut value, message_id, state),
            Self::Kept { message, .. } => {
                id::write(&message.message_id, &mut value);
                write_message(&mut value, message);
            }
            Self::Incoming(entry) => {
                value.flag(entry.anomalous).flag(entry.gap).maybe_bytes(entry.retrieval_hint.as_deref());
                write_message(&mut value, &entry.message);
            }
            Self::Waits { .. } => {}
            Self::Missing(entry) => {
                value.u64(entry.first_missed_ms).maybe_u64(entry.request_due_ms).u32(entry.requests);
                write_entry(&mut value, &entry.entry, None);
            }
            Self::Answer(entry) => {
                value.u64(entry.due_ms).flag(entry.message.is_some());
                write_entry(&mut value, &entry.entry, None);
                if let Some(message) = &entry.message {
                    id::write(&message.message_id, &mut value);
                    write_message(&mut value, message);
                }
            }
            Self::Sync { message_id, .. } => id::write(message_id, &mut value),
            Self::Met { message_id, lost, .. } => id::write(message_id, value.flag(*lost)),
        }
        value.0
    }

    /// So that its bytes are allocated once, nearly always.
    fn bytes_about(&self) -> usize {
        match self {
            Self::Log(LogEntry { message, .. })
            | Self::Kept { message, .. }
            | Self::Incoming(IncomingEntry { message, .. }) => encoded_bytes(message),
            _ => 96,
        }
    }

    /// Reads a row.
    ///
    /// # Errors
    /// The bytes are not a row of this version: it was damaged, or a later version wrote it. Nothing of a state with such a row
    /// should be used.
    pub fn from_bytes(key: &[u8], value: &[u8]) -> Result<Self, RecordError> {
        let key = Key::from_bytes(key)?;
        let mut value = Reader(value);
        match value.byte()? {
            RECORD_VERSION => {}
            other => return Err(RecordError::Version(other)),
        }
        let read = read_value(&key, &mut value)?;
        value.end()?;
        if read.key() == key { Ok(read) } else { Err(RecordError::OtherKey) }
    }
}

fn read_value(key: &Key, value: &mut Reader<'_>) -> Result<Record, RecordError> {
    Ok(match key {
        Key::Seen(number) => Record::Seen {
            number: *number,
            entry: SeenEntry {
                seen_ms: value.u64()?,
                own: value.flag()?,
                delivered: value.flag()?,
                message_id: id::read(value)?,
            },
        },
        Key::Log(position, message_id) => Record::Log(LogEntry {
            position: *position,
            anomalous: value.flag()?,
            retrieval_hint: value.maybe_bytes()?,
            message: read_message(value, message_id)?,
        }),
        Key::Meta => Record::Meta(read_meta(value)?),
        Key::Outgoing(number) => {
            let (state, message_id) = read_outgoing(value)?;
            Record::Outgoing { number: *number, message_id, state }
        }
        Key::Kept(number) => {
            let message_id = id::read(value)?;
            Record::Kept { number: *number, message: read_message(value, &message_id)? }
        }
        Key::Incoming(message_id) => Record::Incoming(IncomingEntry {
            anomalous: value.flag()?,
            gap: value.flag()?,
            retrieval_hint: value.maybe_bytes()?,
            message: read_message(value, message_id)?,
        }),
        Key::Waits(message_id, dependency_id) => {
            Record::Waits { message_id: message_id.clone(), dependency_id: dependency_id.clone() }
        }
        Key::Missing(_) => Record::Missing(MissingEntry {
            first_missed_ms: value.u64()?,
            request_due_ms: value.maybe_u64()?,
            requests: value.u32()?,
            entry: read_entry(value, None)?,
        }),
        Key::Answer(_) => {
            let due_ms = value.u64()?;
            let cached = value.flag()?;
            let entry = read_entry(value, None)?;
            let mut message = None;
            if cached {
                let message_id = id::read(value)?;
                message = Some(read_message(value, &message_id)?);
            }
            Record::Answer(AnswerEntry { entry, due_ms, message })
        }
        Key::Sync(number) => Record::Sync { number: *number, message_id: id::read(value)? },
        Key::Met(number) => {
            Record::Met { number: *number, lost: value.flag()?, message_id: id::read(value)? }
        }
    })
}

fn write_meta(value: &mut Writer, meta: &Meta) {
    value.u64(meta.lamport).u64(meta.filter_from).u64(meta.filter_ids);
    value.maybe_u64(meta.sync_due_ms).u64(meta.spoke_ms).u64(meta.answers_from_ms);
}

pub(super) fn read_meta(value: &mut Reader<'_>) -> Result<Meta, RecordError> {
    Ok(Meta {
        lamport: value.u64()?,
        filter_from: value.u64()?,
        filter_ids: value.u64()?,
        sync_due_ms: value.maybe_u64()?,
        spoke_ms: value.u64()?,
        answers_from_ms: value.u64()?,
    })
}

fn write_outgoing(value: &mut Writer, message_id: &MessageId, state: &Unacknowledged) {
    value.u64(state.sent_ms).u64(state.due_ms).u32(state.attempts).u32(state.possible_by_unnamed);
    value.short(state.possible_by.len());
    for sender in &state.possible_by {
        value.bytes(sender.as_bytes());
    }
    id::write(message_id, value);
}

fn read_outgoing(value: &mut Reader<'_>) -> Result<(Unacknowledged, MessageId), RecordError> {
    let (sent_ms, due_ms, attempts) = (value.u64()?, value.u64()?, value.u32()?);
    let possible_by_unnamed = value.u32()?;
    let count = value.short()?;
    let possible_by = value.list(count, |value| Ok(value.bytes()?.into()))?;
    Ok((Unacknowledged { sent_ms, due_ms, attempts, possible_by, possible_by_unnamed }, id::read(value)?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{HistoryEntry, Message};

    fn message() -> Arc<Message> {
        let entry = |id: &str, hint: Option<&[u8]>| HistoryEntry {
            message_id: id.into(),
            retrieval_hint: hint.map(Arc::from),
            sender_id: Some(if id.is_empty() { "" } else { "bob" }.into()),
        };
        let nobodys = HistoryEntry { message_id: "m2".into(), ..HistoryEntry::default() };
        Arc::new(Message {
            sender_id: "alice".into(),
            message_id: "m1".into(),
            channel_id: "room".into(),
            lamport: Some(7),
            causal_history: vec![
                entry(&"ab".repeat(32), None),
                nobodys,
                entry("m0", Some(b"hint")),
                entry("", Some(b"")),
            ],
            bloom_filter: Some([1, 2].into()),
            repair_request: vec![entry("x", Some(b"hint"))],
            content: Some([].into()),
        })
    }

    fn one_of_each() -> Vec<Record> {
        let message = message();
        let entry = message.repair_request[0].clone();
        vec![
            Record::Meta(Meta {
                lamport: u64::MAX,
                filter_from: 1,
                filter_ids: 2,
                sync_due_ms: Some(3),
                spoke_ms: 5,
                answers_from_ms: 4,
            }),
            Record::Log(LogEntry {
                message: message.clone(),
                position: 7,
                retrieval_hint: None,
                anomalous: true,
            }),
            Record::Kept { number: 9, message: message.clone() },
            Record::Outgoing {
                number: 9,
                message_id: "m1".into(),
                state: Unacknowledged {
                    sent_ms: 1,
                    due_ms: 2,
                    attempts: 3,
                    possible_by: vec!["bob".into()],
                    possible_by_unnamed: 4,
                },
            },
            Record::Incoming(IncomingEntry {
                message: message.clone(),
                retrieval_hint: Some([5].into()),
                anomalous: false,
                gap: true,
            }),
            Record::Waits { message_id: "a".into(), dependency_id: "".into() },
            Record::Missing(MissingEntry {
                entry: entry.clone(),
                first_missed_ms: 1,
                request_due_ms: None,
                requests: 2,
            }),
            Record::Answer(AnswerEntry { entry: entry.clone(), due_ms: 3, message: None }),
            Record::Answer(AnswerEntry { entry, due_ms: 3, message: Some(message) }),
            Record::Seen {
                number: 1,
                entry: SeenEntry { message_id: "m".into(), seen_ms: 2, own: true, delivered: false },
            },
            Record::Sync { number: 4, message_id: "s".into() },
            Record::Met { number: 5, message_id: "l".into(), lost: true },
        ]
    }

    #[test]
    fn every_row_reads_back() {
        for record in one_of_each() {
            let read = Record::from_bytes(&record.key().to_bytes(), &record.to_bytes());
            assert_eq!(read.as_ref(), Ok(&record));
        }
    }

    #[test]
    fn a_row_cut_short_or_too_long_is_refused() {
        for record in one_of_each() {
            let (key, value) = (record.key().to_bytes(), record.to_bytes());
            for cut in 0..value.len() {
                let read = Record::from_bytes(&key, &value[..cut]);
                assert_eq!(read, Err(RecordError::Truncated), "{record:?} at {cut}");
            }
            let longer = [value.as_slice(), &[0]].concat();
            assert_eq!(Record::from_bytes(&key, &longer), Err(RecordError::TooLong(1)), "{record:?}");
            for cut in 1..key.len() {
                assert!(Key::from_bytes(&key[..cut]).is_err(), "{record:?} at {cut}");
            }
        }
    }

    #[test]
    fn a_message_takes_little_more_than_its_ids_and_content() {
        let cause = |number: u8| HistoryEntry {
            message_id: crate::derive_message_id(&"bob".into(), number.into(), b""),
            sender_id: Some("bob".into()),
            retrieval_hint: None,
        };
        let message = Message {
            causal_history: (0..10).map(cause).collect(),
            content: Some([7; 100].into()),
            repair_request: Vec::new(),
            bloom_filter: None,
            ..Message::clone(&message())
        };
        let entry = LogEntry { message: message.into(), position: 7, retrieval_hint: None, anomalous: false };
        assert_eq!(Record::Log(entry).to_bytes().len(), 10 * 33 + 4 + 100 + 28);
    }

    #[test]
    fn what_this_version_did_not_write_is_refused() {
        let record = &one_of_each()[6];
        let other = Key::Missing("y".into()).to_bytes();
        assert_eq!(Record::from_bytes(&other, &record.to_bytes()), Err(RecordError::OtherKey), "{record:?}");
        let record = &one_of_each()[1];
        let (key, mut value) = (record.key().to_bytes(), record.to_bytes());
        assert_eq!(Record::from_bytes(&[99], &value), Err(RecordError::Kind(99)));
        assert_eq!(Record::from_bytes(&[], &value), Err(RecordError::Truncated));
        value[0] = 3;
        assert_eq!(Record::from_bytes(&key, &value), Err(RecordError::Version(3)));
        value[0] = 2;
        value[1] = 7;
        assert_eq!(Record::from_bytes(&key, &value), Err(RecordError::Flag(7)));
    }
}
