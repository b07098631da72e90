//! Rows as JSON, for people.

use seabed_kv::KeyReader;
use seabed_sds_core::snapshot::ChannelMeta;
use seabed_sds_core::{HistoryEntry, Message, Record, Row, Unacknowledged};
use serde_json::{Value, json};

use crate::kernel::keys::{CHANNEL, FORMAT, FormatRow, LOG, META, read_key};
use crate::kernel::logos;

/// What a row says: a JSON object whose `row` is the kind of row, or, for one that does not read, with `damaged` and its length. `None` for
/// a category that is neither this layer's nor logos-delivery's. Never panics. Contents are told by their length.
///
/// ```
/// let row = seabed_sds::decode_row(b"sds.format", b"", b"\0\0\0\x01seabed 0.1.0").expect("a category of ours");
/// assert_eq!(row, serde_json::json!({ "row": "format", "version": 1, "writer": "seabed 0.1.0" }));
/// assert_eq!(seabed_sds::decode_row(b"taskchampion.client", b"", b""), None);
/// ```
pub fn decode_row(category: &[u8], key: &[u8], payload: &[u8]) -> Option<Value> {
    let category = std::str::from_utf8(category).ok()?;
    let read = match category {
        FORMAT => FormatRow::from_bytes(payload)
            .filter(|_| key.is_empty())
            .map(|row| json!({ "row": "format", "version": row.version, "writer": row.writer })),
        CHANNEL => read_key(key).and_then(|(channel, key)| {
            let mut row = match Row::from_bytes(key, payload).ok()? {
                Row::Record(read) => record(&read),
                Row::OldMessage { number, message } => kept(number, &message),
                Row::OldState { number, state } => outgoing(number, &state),
            };
            row.as_object_mut()?.insert("channel".to_owned(), json!(channel.to_string()));
            Some(row)
        }),
        META => logos_meta(key, payload),
        LOG => logos_message(key, payload),
        _ => return None,
    };
    let damaged = || {
        let kind = category.split_once('.').map_or(category, |(_, kind)| kind);
        json!({ "row": kind, "damaged": true, "payload_bytes": payload.len() })
    };
    Some(read.unwrap_or_else(damaged))
}

fn record(record: &Record) -> Value {
    match record {
        Record::Meta(meta) => json!({
            "row": "meta",
            "lamport": meta.lamport,
            "sync_due_ms": meta.sync_due_ms,
            "answers_from_ms": meta.answers_from_ms,
        }),
        Record::Log(entry) => with("log", &entry.message, json!({ "anomalous": entry.anomalous })),
        Record::Outgoing { number, message_id, state } => {
            let mut row = outgoing(*number, state);
            if let Some(row) = row.as_object_mut() {
                row.insert("message_id".to_owned(), json!(message_id.to_string()));
            }
            row
        }
        Record::Kept { number, message } => kept(*number, message),
        Record::Incoming(entry) => with("incoming", &entry.message, json!({ "gap": entry.gap })),
        Record::Waits { message_id, dependency_id } => json!({
            "row": "waits",
            "message_id": message_id.to_string(),
            "dependency_id": dependency_id.to_string(),
        }),
        Record::Missing(entry) => json!({
            "row": "missing",
            "message_id": entry.entry.message_id.to_string(),
            "first_missed_ms": entry.first_missed_ms,
            "request_due_ms": entry.request_due_ms,
            "requests": entry.requests,
        }),
        Record::Answer(entry) => json!({
            "row": "answer",
            "message_id": entry.entry.message_id.to_string(),
            "due_ms": entry.due_ms,
        }),
        Record::Seen { number, entry } => json!({
            "row": "seen",
            "number": number,
            "message_id": entry.message_id.to_string(),
            "seen_ms": entry.seen_ms,
            "own": entry.own,
            "delivered": entry.delivered,
        }),
        Record::Sync { number, message_id } => {
            json!({ "row": "sync", "number": number, "message_id": message_id.to_string() })
        }
        Record::Met { number, message_id, lost } => {
            json!({ "row": "met", "number": number, "message_id": message_id.to_string(), "lost": lost })
        }
    }
}

fn outgoing(number: u64, state: &Unacknowledged) -> Value {
    json!({
        "row": "unacknowledged",
        "number": number,
        "sent_ms": state.sent_ms,
        "due_ms": state.due_ms,
        "attempts": state.attempts,
        "possible_acks": state.possible_acks(),
    })
}

/// An own message, apart from the log.
fn kept(number: u64, message: &Message) -> Value {
    with("outgoing", message, json!({ "number": number }))
}

/// A message with what its row says besides.
fn with(row: &str, message: &Message, mut besides: Value) -> Value {
    let ids = |entries: &[HistoryEntry]| -> Vec<String> {
        entries.iter().map(|entry| entry.message_id.to_string()).collect()
    };
    let bytes = |part: &Option<std::sync::Arc<[u8]>>| part.as_ref().map_or(0, |bytes| bytes.len());
    let told = json!({
        "row": row,
        "message_id": message.message_id.to_string(),
        "sender_id": message.sender_id.to_string(),
        "lamport": message.lamport,
        "causal_history": ids(&message.causal_history),
        "content_bytes": bytes(&message.content),
        "bloom_filter_bytes": bytes(&message.bloom_filter),
    });
    if let (Some(besides), Value::Object(told)) = (besides.as_object_mut(), told) {
        besides.extend(told);
    }
    besides
}

fn logos_meta(key: &[u8], payload: &[u8]) -> Option<Value> {
    let mut key = KeyReader::new(key);
    let channel = String::from_utf8_lossy(key.bytes()?).into_owned();
    let meta = ChannelMeta::decode(payload).ok().filter(|_| key.rest().is_empty())?;
    Some(json!({
        "row": "logos-delivery snapshot",
        "channel": channel,
        "lamport": meta.lamport,
        "unacknowledged": meta.outgoing.len(),
        "waiting": meta.incoming.len(),
        "repairs_out": meta.outgoing_repair.len(),
        "repairs_in": meta.incoming_repair.len(),
    }))
}

fn logos_message(key: &[u8], payload: &[u8]) -> Option<Value> {
    let mut key = KeyReader::new(key);
    let channel = String::from_utf8_lossy(key.bytes()?).into_owned();
    let id = key.bytes().filter(|_| key.rest().is_empty())?;
    let message = logos::message(payload).ok().filter(|message| message.message_id.as_bytes() == id)?;
    Some(with("logos-delivery log", &message, json!({ "channel": channel })))
}
