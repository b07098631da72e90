//! A message as JSON: the same members that `decode` prints and `encode` takes.

use std::sync::Arc;

use seabed_sds_core::wire::{Decoded, Layout};
use seabed_sds_core::{HistoryEntry, Message};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A message. Bytes are in lower-case hexadecimal; what is not there is `""`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageJson {
    /// `nim`, `spec`, or `logos`, which is only read.
    #[serde(default)]
    pub(super) dialect: String,
    message_id: String,
    channel_id: String,
    #[serde(default)]
    sender_id: String,
    /// A decimal text, because JSON's numbers lose digits in many readers; null when there is none.
    #[serde(default)]
    lamport: Value,
    #[serde(default)]
    causal_history: Vec<EntryJson>,
    #[serde(default)]
    repair_request: Vec<EntryJson>,
    #[serde(default)]
    content: String,
    #[serde(default)]
    bloom: String,
}

/// An entry of a causal history or a repair request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryJson {
    message_id: String,
    #[serde(default)]
    hint: String,
    #[serde(default)]
    sender_id: String,
}

impl From<&Decoded> for MessageJson {
    fn from(decoded: &Decoded) -> Self {
        let message = &decoded.message;
        let entries = |entries: &[HistoryEntry]| entries.iter().map(EntryJson::from).collect();
        Self {
            dialect: name(decoded.layout).to_owned(),
            message_id: message.message_id.to_string(),
            channel_id: message.channel_id.to_string(),
            sender_id: message.sender_id.to_string(),
            lamport: message.lamport.map_or(Value::Null, |lamport| lamport.to_string().into()),
            causal_history: entries(&message.causal_history),
            repair_request: entries(&message.repair_request),
            content: hex::encode(message.content.as_deref().unwrap_or_default()),
            bloom: hex::encode(message.bloom_filter.as_deref().unwrap_or_default()),
        }
    }
}

impl From<&HistoryEntry> for EntryJson {
    fn from(entry: &HistoryEntry) -> Self {
        Self {
            message_id: entry.message_id.to_string(),
            hint: hex::encode(entry.retrieval_hint.as_deref().unwrap_or_default()),
            sender_id: entry.sender_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

/// What a layout is called.
pub(super) fn name(layout: Layout) -> &'static str {
    match layout {
        Layout::Nim => "nim",
        Layout::Spec => "spec",
        Layout::Logos => "logos",
    }
}

impl MessageJson {
    /// The message.
    ///
    /// # Errors
    /// A sentence that names the member that is none.
    pub(super) fn message(&self) -> Result<Message, String> {
        let entries = |name, entries: &[EntryJson]| {
            let entries = entries.iter().map(EntryJson::entry).collect::<Result<Vec<_>, _>>();
            entries.map_err(|why| format!("{name}: {why}"))
        };
        Ok(Message {
            sender_id: self.sender_id.as_str().into(),
            message_id: self.message_id.as_str().into(),
            channel_id: self.channel_id.as_str().into(),
            lamport: lamport(&self.lamport)?,
            causal_history: entries("causal_history", &self.causal_history)?,
            repair_request: entries("repair_request", &self.repair_request)?,
            bloom_filter: filled(bytes("bloom", &self.bloom)?),
            content: filled(bytes("content", &self.content)?),
        })
    }
}

impl EntryJson {
    fn entry(&self) -> Result<HistoryEntry, String> {
        Ok(HistoryEntry {
            message_id: self.message_id.as_str().into(),
            retrieval_hint: filled(bytes("hint", &self.hint)?),
            sender_id: (!self.sender_id.is_empty()).then(|| self.sender_id.as_str().into()),
        })
    }
}

fn filled(bytes: Vec<u8>) -> Option<Arc<[u8]>> {
    (!bytes.is_empty()).then(|| bytes.into())
}

fn bytes(name: &str, text: &str) -> Result<Vec<u8>, String> {
    hex::decode(text).map_err(|error| format!("'{name}' is not hexadecimal: {error}"))
}

fn lamport(value: &Value) -> Result<Option<u64>, String> {
    let number = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    number.map(Some).ok_or_else(|| format!("'lamport' is {value}, and not a number of 64 bits"))
}
