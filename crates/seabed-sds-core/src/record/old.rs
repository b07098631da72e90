//! Layout 1, which is read and written no more: ids as they are, four bytes before everything that has a length, an own message beside the log's,
//! and its state in a row of its own.

use std::sync::Arc;

use super::bytes::read_meta;
use super::field::Reader;
use super::{AnswerEntry, IncomingEntry, LogEntry, MissingEntry, Record, Row, SeenEntry, Unacknowledged};
use crate::{HistoryEntry, Message, MessageId, RecordError};

const VERSION: u8 = 1;

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

/// Whether a key is one of this layout.
pub(super) fn is_key(key: &[u8]) -> bool {
    key.first().is_some_and(|kind| (META..=MET).contains(kind))
}

/// Where this layout had what is in that record now.
pub(super) fn keys(record: &Record) -> Vec<Vec<u8>> {
    let number = |kind: u8, number: &u64| [&[kind], number.to_be_bytes().as_slice()].concat();
    let id = |kind: u8, id: &MessageId| [&[kind], id.as_bytes()].concat();
    match record {
        Record::Meta(_) => vec![vec![META]],
        Record::Log(entry) => vec![id(LOG, &entry.message.message_id)],
        Record::Outgoing { number: at, .. } => vec![number(OUTGOING, at), number(UNACKNOWLEDGED, at)],
        // Goes with the row before.
        Record::Kept { .. } => Vec::new(),
        Record::Incoming(entry) => vec![id(INCOMING, &entry.message.message_id)],
        Record::Waits { message_id, dependency_id } => {
            let length = u32::try_from(message_id.as_bytes().len()).unwrap_or(u32::MAX).to_be_bytes();
            vec![[&[WAITS], length.as_slice(), message_id.as_bytes(), dependency_id.as_bytes()].concat()]
        }
        Record::Missing(entry) => vec![id(MISSING, &entry.entry.message_id)],
        Record::Answer(entry) => vec![id(ANSWER, &entry.entry.message_id)],
        Record::Seen { number: at, .. } => vec![number(SEEN, at)],
        Record::Sync { number: at, .. } => vec![number(SYNC, at)],
        Record::Met { number: at, .. } => vec![number(MET, at)],
    }
}

pub(super) fn read(key: &[u8], value: &[u8]) -> Result<Row, RecordError> {
    let (mut key, mut value) = (Reader(key), Reader(value));
    match value.byte()? {
        VERSION => {}
        other => return Err(RecordError::Version(other)),
    }
    let row = read_row(&mut key, &mut value)?;
    key.end()?;
    value.end()?;
    Ok(row)
}

fn read_row(key: &mut Reader<'_>, value: &mut Reader<'_>) -> Result<Row, RecordError> {
    Ok(Row::Record(match key.byte()? {
        META => Record::Meta(read_meta(value)?),
        LOG => {
            let id = key.rest();
            Record::Log(LogEntry {
                position: value.u64()?,
                anomalous: value.flag()?,
                retrieval_hint: maybe_bytes(value)?,
                message: read_message(value).and_then(|message| named(message, id))?,
            })
        }
        OUTGOING => return Ok(Row::OldMessage { number: key.u64()?, message: read_message(value)? }),
        UNACKNOWLEDGED => {
            return Ok(Row::OldState { number: key.u64()?, state: read_unacknowledged(value)? });
        }
        INCOMING => {
            let id = key.rest();
            Record::Incoming(IncomingEntry {
                anomalous: value.flag()?,
                gap: value.flag()?,
                retrieval_hint: maybe_bytes(value)?,
                message: read_message(value).and_then(|message| named(message, id))?,
            })
        }
        WAITS => Record::Waits { message_id: bytes(key)?.into(), dependency_id: key.rest().into() },
        MISSING => {
            let entry = MissingEntry {
                first_missed_ms: value.u64()?,
                request_due_ms: value.maybe_u64()?,
                requests: value.u32()?,
                entry: read_entry(value)?,
            };
            check(&entry.entry.message_id, key.rest())?;
            Record::Missing(entry)
        }
        ANSWER => {
            let due_ms = value.u64()?;
            let cached = value.flag()?;
            let entry = read_entry(value)?;
            check(&entry.message_id, key.rest())?;
            let message = if cached { Some(read_message(value)?) } else { None };
            Record::Answer(AnswerEntry { entry, due_ms, message })
        }
        SEEN => Record::Seen {
            number: key.u64()?,
            entry: SeenEntry {
                seen_ms: value.u64()?,
                own: value.flag()?,
                delivered: value.flag()?,
                message_id: value.rest().into(),
            },
        },
        SYNC => Record::Sync { number: key.u64()?, message_id: value.rest().into() },
        MET => Record::Met { number: key.u64()?, lost: value.flag()?, message_id: value.rest().into() },
        other => return Err(RecordError::Kind(other)),
    }))
}

fn named(message: Arc<Message>, id: &[u8]) -> Result<Arc<Message>, RecordError> {
    check(&message.message_id, id)?;
    Ok(message)
}

fn check(id: &MessageId, key: &[u8]) -> Result<(), RecordError> {
    if id.as_bytes() == key { Ok(()) } else { Err(RecordError::OtherKey) }
}

fn read_unacknowledged(value: &mut Reader<'_>) -> Result<Unacknowledged, RecordError> {
    Ok(Unacknowledged {
        sent_ms: value.u64()?,
        due_ms: value.u64()?,
        attempts: value.u32()?,
        possible_by_unnamed: value.u32()?,
        possible_by: list(value, |value| Ok(bytes(value)?.into()))?,
    })
}

fn read_entry(value: &mut Reader<'_>) -> Result<HistoryEntry, RecordError> {
    Ok(HistoryEntry {
        message_id: bytes(value)?.into(),
        sender_id: maybe_bytes(value)?.map(|bytes| (*bytes).into()),
        retrieval_hint: maybe_bytes(value)?,
    })
}

fn read_message(value: &mut Reader<'_>) -> Result<Arc<Message>, RecordError> {
    Ok(Arc::new(Message {
        message_id: bytes(value)?.into(),
        channel_id: bytes(value)?.into(),
        sender_id: bytes(value)?.into(),
        lamport: value.maybe_u64()?,
        causal_history: list(value, read_entry)?,
        repair_request: list(value, read_entry)?,
        bloom_filter: maybe_bytes(value)?,
        content: maybe_bytes(value)?,
    }))
}

fn bytes<'a>(value: &mut Reader<'a>) -> Result<&'a [u8], RecordError> {
    let count = usize::try_from(value.u32()?).map_err(|_| RecordError::Truncated)?;
    value.take(count)
}

fn maybe_bytes(value: &mut Reader<'_>) -> Result<Option<Arc<[u8]>>, RecordError> {
    if value.flag()? { Ok(Some(bytes(value)?.into())) } else { Ok(None) }
}

fn list<T>(
    value: &mut Reader<'_>,
    item: impl Fn(&mut Reader<'_>) -> Result<T, RecordError>,
) -> Result<Vec<T>, RecordError> {
    let count = usize::try_from(value.u32()?).map_err(|_| RecordError::Truncated)?;
    value.list(count, item)
}
