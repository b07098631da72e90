//! What vectors of SDS are made of.

use std::sync::Arc;

use seabed_sds_core::{HistoryEntry, Message, MessageId};
use serde_json::Value;

use crate::cli::conformance::{hex_bytes, list, text};

/// A number, as such or as text.
pub(super) fn number<T: std::str::FromStr>(value: &Value, name: &str) -> Result<T, String> {
    let member = value.get(name).ok_or_else(|| format!("has no number '{name}'"))?;
    let number = member.as_str().map_or_else(|| member.to_string(), str::to_owned);
    number.parse().map_err(|_| format!("'{name}' is {number}, and no number of that kind"))
}

pub(super) fn rate(value: &Value, name: &str) -> Result<f64, String> {
    value.get(name).and_then(Value::as_f64).ok_or_else(|| format!("has no rate '{name}'"))
}

pub(super) fn flag(value: &Value, name: &str) -> Result<bool, String> {
    value.get(name).and_then(Value::as_bool).ok_or_else(|| format!("has no '{name}' that is true or false"))
}

pub(super) fn member<'a>(value: &'a Value, name: &str) -> Result<&'a Value, String> {
    value.get(name).filter(|member| !member.is_null()).ok_or_else(|| format!("has no '{name}'"))
}

/// A message of nim's vectors: ids in hexadecimal, what is not there as nothing.
pub(super) fn nim_message(fields: &Value) -> Result<Message, String> {
    Ok(Message {
        sender_id: hex_bytes(fields, "sender_id_hex")?.as_slice().into(),
        message_id: hex_bytes(fields, "message_id_hex")?.as_slice().into(),
        channel_id: hex_bytes(fields, "channel_id_hex")?.as_slice().into(),
        lamport: Some(number::<i64>(fields, "lamport_timestamp")?.cast_unsigned()),
        causal_history: all(fields, "causal_history", nim_entry)?,
        bloom_filter: filled(hex_bytes(fields, "bloom_filter")?),
        repair_request: all(fields, "repair_request", nim_entry)?,
        content: filled(hex_bytes(fields, "content")?),
    })
}

pub(super) fn nim_entry(fields: &Value) -> Result<HistoryEntry, String> {
    let sender = hex_bytes(fields, "sender_id_hex")?;
    Ok(HistoryEntry {
        message_id: hex_bytes(fields, "message_id_hex")?.as_slice().into(),
        retrieval_hint: filled(hex_bytes(fields, "retrieval_hint")?),
        sender_id: (!sender.is_empty()).then(|| sender.as_slice().into()),
    })
}

fn filled(bytes: Vec<u8>) -> Option<Arc<[u8]>> {
    (!bytes.is_empty()).then(|| bytes.into())
}

/// A message of `@waku/sds`'s vectors: ids as text, what is not there null or left out.
pub(super) fn spec_message(fields: &Value) -> Result<Message, String> {
    Ok(Message {
        sender_id: text(fields, "sender_id")?.into(),
        message_id: text(fields, "message_id")?.into(),
        channel_id: text(fields, "channel_id")?.into(),
        lamport: member(fields, "lamport").is_ok().then(|| number(fields, "lamport")).transpose()?,
        causal_history: all(fields, "causal_history", spec_entry)?,
        bloom_filter: set(fields, "bloom")?,
        repair_request: all(fields, "repair_request", spec_entry)?,
        content: set(fields, "content")?,
    })
}

fn spec_entry(fields: &Value) -> Result<HistoryEntry, String> {
    Ok(HistoryEntry {
        message_id: text(fields, "message_id")?.into(),
        retrieval_hint: set(fields, "retrieval_hint")?,
        sender_id: fields.get("sender_id").and_then(Value::as_str).map(Into::into),
    })
}

fn set(fields: &Value, name: &str) -> Result<Option<Arc<[u8]>>, String> {
    member(fields, name).is_ok().then(|| hex_bytes(fields, name).map(Into::into)).transpose()
}

/// Every item of a list that must be there.
pub(super) fn all<T>(
    value: &Value,
    name: &str,
    of: fn(&Value) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    member(value, name)?;
    list(value, name).iter().map(of).collect()
}

/// Whether an id that Seabed wants filled is empty.
pub(super) fn has_empty_ids(message: &Message) -> bool {
    let entries = message.causal_history.iter().chain(&message.repair_request);
    message.message_id.is_empty()
        || message.channel_id.is_empty()
        || entries.map(|entry| &entry.message_id).any(MessageId::is_empty)
}
