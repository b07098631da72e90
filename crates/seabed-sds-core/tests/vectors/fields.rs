//! Messages as the vectors write them.

use std::sync::Arc;

use seabed_sds_core::{HistoryEntry, Message, MessageId};
use serde_json::Value;

use crate::{bytes, list, signed, text};

/// A message of nim's vectors: ids in hexadecimal, what is not there as nothing.
pub(crate) fn nim(fields: &Value) -> Message {
    let lamport = i64::try_from(signed(fields, "lamport_timestamp")).unwrap();
    Message {
        sender_id: bytes(fields, "sender_id_hex").as_slice().into(),
        message_id: bytes(fields, "message_id_hex").as_slice().into(),
        channel_id: bytes(fields, "channel_id_hex").as_slice().into(),
        lamport: Some(lamport.cast_unsigned()),
        causal_history: list(fields, "causal_history").iter().map(nim_entry).collect(),
        bloom_filter: filled(bytes(fields, "bloom_filter")),
        repair_request: list(fields, "repair_request").iter().map(nim_entry).collect(),
        content: filled(bytes(fields, "content")),
    }
}

pub(crate) fn nim_entry(fields: &Value) -> HistoryEntry {
    let sender = bytes(fields, "sender_id_hex");
    HistoryEntry {
        message_id: bytes(fields, "message_id_hex").as_slice().into(),
        retrieval_hint: filled(bytes(fields, "retrieval_hint")),
        sender_id: (!sender.is_empty()).then(|| sender.as_slice().into()),
    }
}

fn filled(bytes: Vec<u8>) -> Option<Arc<[u8]>> {
    (!bytes.is_empty()).then(|| bytes.into())
}

/// A message of `@waku/sds`'s vectors: ids as text, what is not there null or left out.
pub(crate) fn spec(fields: &Value) -> Message {
    Message {
        sender_id: text(fields, "sender_id").into(),
        message_id: text(fields, "message_id").into(),
        channel_id: text(fields, "channel_id").into(),
        lamport: fields["lamport"].as_str().map(|lamport| lamport.parse().unwrap()),
        causal_history: list(fields, "causal_history").iter().map(spec_entry).collect(),
        bloom_filter: set(fields, "bloom"),
        repair_request: list(fields, "repair_request").iter().map(spec_entry).collect(),
        content: set(fields, "content"),
    }
}

fn spec_entry(fields: &Value) -> HistoryEntry {
    HistoryEntry {
        message_id: text(fields, "message_id").into(),
        retrieval_hint: set(fields, "retrieval_hint"),
        sender_id: fields["sender_id"].as_str().map(Into::into),
    }
}

fn set(fields: &Value, name: &str) -> Option<Arc<[u8]>> {
    fields[name].as_str().map(|bytes| hex::decode(bytes).unwrap().into())
}

/// Whether one of the ids that Seabed wants filled is empty.
pub(crate) fn has_empty_ids(message: &Message) -> bool {
    let entries = message.causal_history.iter().chain(&message.repair_request);
    message.message_id.is_empty()
        || message.channel_id.is_empty()
        || entries.map(|entry| &entry.message_id).any(MessageId::is_empty)
}

/// Whether all ids are UTF-8.
pub(crate) fn is_text(message: &Message) -> bool {
    let entries = message.causal_history.iter().chain(&message.repair_request);
    let of_entries = entries.flat_map(|entry| {
        [entry.message_id.as_bytes(), entry.sender_id.as_ref().map_or(b"", |sender| sender.as_bytes())]
    });
    let own = [message.message_id.as_bytes(), message.channel_id.as_bytes(), message.sender_id.as_bytes()];
    own.into_iter().chain(of_entries).all(|id| std::str::from_utf8(id).is_ok())
}
