//! Rows as bytes; `docs/formats/sds.md` has them field by field.

use std::sync::Arc;

use super::field::{Reader, Writer};
use super::{AnswerEntry, IncomingEntry, LogEntry, Meta, MissingEntry, SeenEntry, Unacknowledged};
use crate::record::Record;
use crate::{HistoryEntry, Key, Message, ParticipantId, RecordError};

/// The version of the layout of rows, their first byte.
pub const RECORD_VERSION: u8 = 1;

const META: u8 = 1;
const LOG: u8 = 2;
const OUTGOING: u8 = 3;
const UNACKNOWLEDGED: u8 = 4;
const INCOMING: u8 = 5;
const WAITS: u8 = 6;
const MISSING: u8 = 7;
const ANSWER: u8 = 8;
const SEEN: u8 = 9;
const SYNC: u8 = 10;
const MET: u8 = 11;

impl Key {
    /// The key as bytes that sort as keys do within one kind.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut key = Writer::default();
        match self {
            Self::Meta => key.byte(META),
            Self::Log(id) => key.byte(LOG).rest(id.as_bytes()),
            Self::Outgoing(number) => key.byte(OUTGOING).u64(*number),
            Self::Unacknowledged(number) => key.byte(UNACKNOWLEDGED).u64(*number),
            Self::Incoming(id) => key.byte(INCOMING).rest(id.as_bytes()),
            Self::Waits(id, dependency) => key.byte(WAITS).bytes(id.as_bytes()).rest(dependency.as_bytes()),
            Self::Missing(id) => key.byte(MISSING).rest(id.as_bytes()),
            Self::Answer(id) => key.byte(ANSWER).rest(id.as_bytes()),
            Self::Seen(number) => key.byte(SEEN).u64(*number),
            Self::Sync(number) => key.byte(SYNC).u64(*number),
            Self::Met(number) => key.byte(MET).u64(*number),
        };
        key.0
    }

    /// How many bytes of it are ids.
    pub(crate) fn ids_bytes(&self) -> usize {
        match self {
            Self::Log(id) | Self::Incoming(id) | Self::Missing(id) | Self::Answer(id) => id.as_bytes().len(),
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
            META => Self::Meta,
            LOG => Self::Log(key.rest().into()),
            OUTGOING => Self::Outgoing(key.u64()?),
            UNACKNOWLEDGED => Self::Unacknowledged(key.u64()?),
            INCOMING => Self::Incoming(key.rest().into()),
            WAITS => Self::Waits(key.bytes()?.into(), key.rest().into()),
            MISSING => Self::Missing(key.rest().into()),
            ANSWER => Self::Answer(key.rest().into()),
            SEEN => Self::Seen(key.u64()?),
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
        let mut value = Writer::default();
        value.byte(RECORD_VERSION);
        match self {
            Self::Meta(meta) => write_meta(&mut value, meta),
            Self::Log(entry) => {
                value.u64(entry.position).flag(entry.anomalous).maybe_bytes(entry.retrieval_hint.as_deref());
                write_message(&mut value, &entry.message);
            }
            Self::Outgoing { message, .. } => write_message(&mut value, message),
            Self::Unacknowledged { state, .. } => write_unacknowledged(&mut value, state),
            Self::Incoming(entry) => {
                value.flag(entry.anomalous).flag(entry.gap).maybe_bytes(entry.retrieval_hint.as_deref());
                write_message(&mut value, &entry.message);
            }
            Self::Waits { .. } => {}
            Self::Missing(entry) => {
                value.u64(entry.first_missed_ms).maybe_u64(entry.request_due_ms).u32(entry.requests);
                write_entry(&mut value, &entry.entry);
            }
            Self::Answer(entry) => {
                value.u64(entry.due_ms).flag(entry.message.is_some());
                write_entry(&mut value, &entry.entry);
                if let Some(message) = &entry.message {
                    write_message(&mut value, message);
                }
            }
            Self::Seen { entry, .. } => {
                value.u64(entry.seen_ms).flag(entry.own).flag(entry.delivered);
                value.rest(entry.message_id.as_bytes());
            }
            Self::Sync { message_id, .. } => {
                value.rest(message_id.as_bytes());
            }
            Self::Met { message_id, lost, .. } => {
                value.flag(*lost).rest(message_id.as_bytes());
            }
        }
        value.0
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
        Key::Meta => Record::Meta(read_meta(value)?),
        Key::Log(_) => Record::Log(LogEntry {
            position: value.u64()?,
            anomalous: value.flag()?,
            retrieval_hint: value.maybe_bytes()?,
            message: read_message(value)?,
        }),
        Key::Outgoing(number) => Record::Outgoing { number: *number, message: read_message(value)? },
        Key::Unacknowledged(number) => {
            Record::Unacknowledged { number: *number, state: read_unacknowledged(value)? }
        }
        Key::Incoming(_) => Record::Incoming(IncomingEntry {
            anomalous: value.flag()?,
            gap: value.flag()?,
            retrieval_hint: value.maybe_bytes()?,
            message: read_message(value)?,
        }),
        Key::Waits(id, dependency) => {
            Record::Waits { message_id: id.clone(), dependency_id: dependency.clone() }
        }
        Key::Missing(_) => Record::Missing(MissingEntry {
            first_missed_ms: value.u64()?,
            request_due_ms: value.maybe_u64()?,
            requests: value.u32()?,
            entry: read_entry(value)?,
        }),
        Key::Answer(_) => {
            let due_ms = value.u64()?;
            let cached = value.flag()?;
            let entry = read_entry(value)?;
            let message = if cached { Some(read_message(value)?) } else { None };
            Record::Answer(AnswerEntry { entry, due_ms, message })
        }
        Key::Seen(number) => Record::Seen {
            number: *number,
            entry: SeenEntry {
                seen_ms: value.u64()?,
                own: value.flag()?,
                delivered: value.flag()?,
                message_id: value.rest().into(),
            },
        },
        Key::Sync(number) => Record::Sync { number: *number, message_id: value.rest().into() },
        Key::Met(number) => {
            Record::Met { number: *number, lost: value.flag()?, message_id: value.rest().into() }
        }
    })
}

fn write_meta(value: &mut Writer, meta: &Meta) {
    value.u64(meta.lamport).u64(meta.filter_from).u64(meta.filter_ids);
    value.maybe_u64(meta.sync_due_ms).u64(meta.spoke_ms).u64(meta.answers_from_ms);
}

fn read_meta(value: &mut Reader<'_>) -> Result<Meta, RecordError> {
    Ok(Meta {
        lamport: value.u64()?,
        filter_from: value.u64()?,
        filter_ids: value.u64()?,
        sync_due_ms: value.maybe_u64()?,
        spoke_ms: value.u64()?,
        answers_from_ms: value.u64()?,
    })
}

fn write_unacknowledged(value: &mut Writer, state: &Unacknowledged) {
    value.u64(state.sent_ms).u64(state.due_ms).u32(state.attempts).u32(state.possible_by_unnamed);
    value.count(state.possible_by.len());
    for sender in &state.possible_by {
        value.bytes(sender.as_bytes());
    }
}

fn read_unacknowledged(value: &mut Reader<'_>) -> Result<Unacknowledged, RecordError> {
    Ok(Unacknowledged {
        sent_ms: value.u64()?,
        due_ms: value.u64()?,
        attempts: value.u32()?,
        possible_by_unnamed: value.u32()?,
        possible_by: value.list(|value| Ok(value.bytes()?.into()))?,
    })
}

fn write_entry(value: &mut Writer, entry: &HistoryEntry) {
    value
        .bytes(entry.message_id.as_bytes())
        .maybe_bytes(entry.sender_id.as_ref().map(ParticipantId::as_bytes))
        .maybe_bytes(entry.retrieval_hint.as_deref());
}

fn read_entry(value: &mut Reader<'_>) -> Result<HistoryEntry, RecordError> {
    Ok(HistoryEntry {
        message_id: value.bytes()?.into(),
        sender_id: value.maybe_bytes()?.map(|bytes| (*bytes).into()),
        retrieval_hint: value.maybe_bytes()?,
    })
}

fn write_message(value: &mut Writer, message: &Message) {
    value.bytes(message.message_id.as_bytes()).bytes(message.channel_id.as_bytes());
    value.bytes(message.sender_id.as_bytes()).maybe_u64(message.lamport);
    for list in [&message.causal_history, &message.repair_request] {
        value.count(list.len());
        for entry in list {
            write_entry(value, entry);
        }
    }
    value.maybe_bytes(message.bloom_filter.as_deref()).maybe_bytes(message.content.as_deref());
}

fn read_message(value: &mut Reader<'_>) -> Result<Arc<Message>, RecordError> {
    Ok(Arc::new(Message {
        message_id: value.bytes()?.into(),
        channel_id: value.bytes()?.into(),
        sender_id: value.bytes()?.into(),
        lamport: value.maybe_u64()?,
        causal_history: value.list(read_entry)?,
        repair_request: value.list(read_entry)?,
        bloom_filter: value.maybe_bytes()?,
        content: value.maybe_bytes()?,
    }))
}

/// How many bytes a message takes in a row, about: what the bound on waiting bytes counts.
pub(crate) fn encoded_bytes(message: &Message) -> usize {
    let entry = |entry: &HistoryEntry| {
        entry.message_id.as_bytes().len()
            + entry.sender_id.as_ref().map_or(0, |sender| sender.as_bytes().len())
            + entry.retrieval_hint.as_ref().map_or(0, |hint| hint.len())
            + 16
    };
    message.message_id.as_bytes().len()
        + message.sender_id.as_bytes().len()
        + message.causal_history.iter().chain(&message.repair_request).map(entry).sum::<usize>()
        + message.bloom_filter.as_ref().map_or(0, |filter| filter.len())
        + message.content.as_ref().map_or(0, |content| content.len())
        + 64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Arc<Message> {
        let entry = |id: &str, hint: Option<&[u8]>| HistoryEntry {
            message_id: id.into(),
            retrieval_hint: hint.map(Arc::from),
            sender_id: Some("bob".into()),
        };
        Arc::new(Message {
            sender_id: "alice".into(),
            message_id: "m1".into(),
            channel_id: "room".into(),
            lamport: Some(7),
            causal_history: vec![entry("m0", None), entry("", Some(b""))],
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
            Record::Outgoing { number: 9, message: message.clone() },
            Record::Unacknowledged {
                number: 9,
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
            // Three kinds end in an id without a length: a shorter one is another id, and only what stands before it can be missing.
            let fixed = match &record {
                Record::Seen { .. } => 11,
                Record::Sync { .. } => 1,
                Record::Met { .. } => 2,
                _ => value.len(),
            };
            for cut in 0..fixed {
                let read = Record::from_bytes(&key, &value[..cut]);
                assert_eq!(read, Err(RecordError::Truncated), "{record:?} at {cut}");
            }
            if fixed == value.len() {
                let longer = [value.as_slice(), &[0]].concat();
                assert_eq!(Record::from_bytes(&key, &longer), Err(RecordError::TooLong(1)), "{record:?}");
            }
        }
    }

    #[test]
    fn what_this_version_did_not_write_is_refused() {
        let record = &one_of_each()[1];
        let (key, mut value) = (record.key().to_bytes(), record.to_bytes());
        assert_eq!(Record::from_bytes(&[LOG, b'x'], &value), Err(RecordError::OtherKey));
        assert_eq!(Record::from_bytes(&[99], &value), Err(RecordError::Kind(99)));
        assert_eq!(Record::from_bytes(&[], &value), Err(RecordError::Truncated));
        value[0] = 2;
        assert_eq!(Record::from_bytes(&key, &value), Err(RecordError::Version(2)));
        value[0] = 1;
        value[9] = 7;
        assert_eq!(Record::from_bytes(&key, &value), Err(RecordError::Flag(7)));
    }
}
