//! A message's fields, in the order in which the dialect's own implementation writes them (sds.md sections 3.1 and 3.3).

use super::Dialect;
use super::layout::{ENTRY_MESSAGE_ID, ENTRY_RETRIEVAL_HINT, ENTRY_SENDER_ID, NIM, SPEC};
use super::protobuf::{bytes_len, put_bytes, put_head, put_number, varint_len};
use crate::{HistoryEntry, Message, ParticipantId};

pub(crate) fn nim(message: &Message, out: &mut Vec<u8>) {
    put_bytes(out, NIM.message_id, message.message_id.as_bytes());
    if let Some(lamport) = message.lamport {
        put_number(out, NIM.lamport, lamport);
    }
    put_entries(out, NIM.causal_history, &message.causal_history, Dialect::Nim);
    put_bytes(out, NIM.channel_id, message.channel_id.as_bytes());
    put_bytes(out, NIM.content, message.content.as_deref().unwrap_or_default());
    put_bytes(out, NIM.bloom_filter, message.bloom_filter.as_deref().unwrap_or_default());
    put_unless_empty(out, NIM.sender_id, message.sender_id.as_bytes());
    put_entries(out, NIM.repair_request, &message.repair_request, Dialect::Nim);
}

pub(crate) fn spec(message: &Message, out: &mut Vec<u8>) {
    put_unless_empty(out, SPEC.sender_id, message.sender_id.as_bytes());
    put_unless_empty(out, SPEC.message_id, message.message_id.as_bytes());
    put_unless_empty(out, SPEC.channel_id, message.channel_id.as_bytes());
    if let Some(lamport) = message.lamport {
        put_number(out, SPEC.lamport, lamport);
    }
    put_entries(out, SPEC.causal_history, &message.causal_history, Dialect::Spec);
    put_when_set(out, SPEC.bloom_filter, message.bloom_filter.as_deref());
    put_entries(out, SPEC.repair_request, &message.repair_request, Dialect::Spec);
    put_when_set(out, SPEC.content, message.content.as_deref());
}

/// No less than the bytes that [`encode`](super::encode) writes, and not much more: fields that are left out are counted.
pub(crate) fn len_max(message: &Message, dialect: Dialect) -> usize {
    let ids = [message.sender_id.as_bytes(), message.message_id.as_bytes(), message.channel_id.as_bytes()];
    let values = [message.bloom_filter.as_deref(), message.content.as_deref()].map(Option::unwrap_or_default);
    let bytes: usize = ids.iter().chain(&values).map(|bytes| bytes_len(SPEC.content, bytes.len())).sum();
    let entries = message.causal_history.iter().chain(&message.repair_request);
    let entries: usize = entries.map(|entry| bytes_len(SPEC.content, entry_len(entry, dialect))).sum();
    bytes + 1 + varint_len(message.lamport.unwrap_or_default()) + entries
}

/// Appends a history entry as a field of its own.
pub(crate) fn put_entry(out: &mut Vec<u8>, field: u64, entry: &HistoryEntry, dialect: Dialect) {
    put_head(out, field, entry_len(entry, dialect));
    let (hint, sender) = optional(entry);
    match dialect {
        Dialect::Nim => {
            put_bytes(out, ENTRY_MESSAGE_ID, entry.message_id.as_bytes());
            put_unless_empty(out, ENTRY_RETRIEVAL_HINT, hint.unwrap_or_default());
            put_unless_empty(out, ENTRY_SENDER_ID, sender.unwrap_or_default());
        }
        Dialect::Spec => {
            put_unless_empty(out, ENTRY_MESSAGE_ID, entry.message_id.as_bytes());
            put_when_set(out, ENTRY_RETRIEVAL_HINT, hint);
            put_when_set(out, ENTRY_SENDER_ID, sender);
        }
    }
}

fn put_entries(out: &mut Vec<u8>, field: u64, entries: &[HistoryEntry], dialect: Dialect) {
    for entry in entries {
        put_entry(out, field, entry, dialect);
    }
}

/// How many bytes an entry has, without its key and length.
pub(crate) fn entry_len(entry: &HistoryEntry, dialect: Dialect) -> usize {
    let (hint, sender) = optional(entry);
    let set = |value: Option<&[u8]>| value.map_or(0, |bytes| bytes_len(ENTRY_RETRIEVAL_HINT, bytes.len()));
    let filled = |value: Option<&[u8]>| set(value.filter(|bytes| !bytes.is_empty()));
    let id = entry.message_id.as_bytes();
    match dialect {
        Dialect::Nim => set(Some(id)) + filled(hint) + filled(sender),
        Dialect::Spec => filled(Some(id)) + set(hint) + set(sender),
    }
}

fn optional(entry: &HistoryEntry) -> (Option<&[u8]>, Option<&[u8]>) {
    (entry.retrieval_hint.as_deref(), entry.sender_id.as_ref().map(ParticipantId::as_bytes))
}

fn put_unless_empty(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    if !value.is_empty() {
        put_bytes(out, field, value);
    }
}

fn put_when_set(out: &mut Vec<u8>, field: u64, value: Option<&[u8]>) {
    if let Some(value) = value {
        put_bytes(out, field, value);
    }
}
