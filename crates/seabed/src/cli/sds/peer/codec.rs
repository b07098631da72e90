//! Requests that touch no channel: messages, hashes and filters.

use std::sync::Arc;

use seabed_sds::core::bloom::Filter;
use seabed_sds::core::wire::{self, Dialect, Layout, ReadDialect, WireLimits};
use seabed_sds::core::{HistoryEntry, Message, hash};
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{self, Refusal};

/// A dialect that is written.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DialectName {
    Nim,
    Spec,
}

impl From<DialectName> for Dialect {
    fn from(name: DialectName) -> Self {
        match name {
            DialectName::Nim => Self::Nim,
            DialectName::Spec => Self::Spec,
        }
    }
}

/// What is read.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ReadName {
    #[default]
    Auto,
    Nim,
    Spec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Decode {
    wire: String,
    #[serde(default)]
    read: ReadName,
}

pub(super) fn decode(request: Decode) -> Result<Value, Refusal> {
    let read = match request.read {
        ReadName::Auto => ReadDialect::Auto,
        ReadName::Nim => ReadDialect::Strict(Dialect::Nim),
        ReadName::Spec => ReadDialect::Strict(Dialect::Spec),
    };
    let wire = reply::bytes("wire", &request.wire)?;
    let decoded = wire::decode(&wire, read, &WireLimits::default()).map_err(|error| {
        Refusal::from(seabed_sds::Error::Refused { channel: Default::default(), error: error.into() })
    })?;
    let message = decoded.message;
    let dialect = match decoded.layout {
        Layout::Nim => "nim",
        Layout::Spec => "spec",
        Layout::Logos => "logos",
    };
    let entries = |entries: &[HistoryEntry]| -> Vec<Value> {
        let entry = |entry: &HistoryEntry| {
            json!({
                "message_id": entry.message_id.to_string(),
                "hint": bytes(&entry.retrieval_hint),
                "sender_id": entry.sender().map(ToString::to_string).unwrap_or_default(),
            })
        };
        entries.iter().map(entry).collect()
    };
    Ok(json!({
        "dialect": dialect,
        "message_id": message.message_id.to_string(),
        "channel_id": message.channel_id.to_string(),
        "sender_id": message.sender_id.to_string(),
        "lamport": message.lamport.map(|lamport| lamport.to_string()),
        "causal_history": entries(&message.causal_history),
        "repair_request": entries(&message.repair_request),
        "content": bytes(&message.content),
        "bloom": bytes(&message.bloom_filter),
    }))
}

fn bytes(bytes: &Option<Arc<[u8]>>) -> String {
    hex::encode(bytes.as_deref().unwrap_or_default())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Encode {
    dialect: DialectName,
    message_id: String,
    channel_id: String,
    #[serde(default)]
    sender_id: String,
    lamport: Option<String>,
    #[serde(default)]
    causal_history: Vec<Entry>,
    #[serde(default)]
    repair_request: Vec<Entry>,
    #[serde(default)]
    content: String,
    #[serde(default)]
    bloom: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    message_id: String,
    #[serde(default)]
    hint: String,
    #[serde(default)]
    sender_id: String,
}

pub(super) fn encode(request: Encode) -> Result<Value, Refusal> {
    let lamport = request.lamport.as_deref().map(str::parse).transpose();
    let some = |name, text: &str| -> Result<Option<Arc<[u8]>>, Refusal> {
        let bytes = reply::bytes(name, text)?;
        Ok((!bytes.is_empty()).then(|| bytes.into()))
    };
    let entries = |entries: Vec<Entry>| -> Result<Vec<HistoryEntry>, Refusal> {
        let entry = |entry: Entry| {
            Ok(HistoryEntry {
                message_id: entry.message_id.as_str().into(),
                retrieval_hint: some("hint", &entry.hint)?,
                sender_id: (!entry.sender_id.is_empty()).then(|| entry.sender_id.as_str().into()),
            })
        };
        entries.into_iter().map(entry).collect()
    };
    let message = Message {
        sender_id: request.sender_id.as_str().into(),
        message_id: request.message_id.as_str().into(),
        channel_id: request.channel_id.as_str().into(),
        lamport: lamport.map_err(|error| Refusal::request(format!("`lamport` is no number: {error}")))?,
        causal_history: entries(request.causal_history)?,
        bloom_filter: some("bloom", &request.bloom)?,
        repair_request: entries(request.repair_request)?,
        content: some("content", &request.content)?,
    };
    Ok(json!({ "wire": hex::encode(wire::encode(&message, request.dialect.into())) }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hash {
    dialect: DialectName,
    text: String,
}

pub(super) fn hash(request: &Hash) -> Result<Value, Refusal> {
    let value = match request.dialect {
        DialectName::Nim => hash::nim(request.text.as_bytes()).cast_signed(),
        DialectName::Spec => hash::spec(request.text.as_bytes())
            .map(|hash| i64::from(hash.cast_signed()))
            .ok_or_else(|| Refusal::request("dialect spec hashes ASCII alone"))?,
    };
    Ok(json!({ "value": value.to_string() }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bloom {
    dialect: DialectName,
    capacity: usize,
    error_rate: f64,
    ids: Vec<String>,
    #[serde(default)]
    lookup: Vec<String>,
}

/// The most ids that a filter is made for.
const CAPACITY_MAX: usize = 1_000_000;

pub(super) fn bloom(request: &Bloom) -> Result<Value, Refusal> {
    if request.capacity > CAPACITY_MAX || !(1e-9..1.0).contains(&request.error_rate) {
        let message = format!("a filter is for at most {CAPACITY_MAX} ids, its error rate from 1e-9 to 1");
        return Err(Refusal::request(message));
    }
    let mut filter = Filter::new(request.dialect.into(), request.capacity, request.error_rate);
    for id in &request.ids {
        filter.insert(id.as_bytes());
    }
    let hits: Vec<_> = request.lookup.iter().map(|id| filter.contains(id.as_bytes())).collect();
    let sizing = filter.sizing();
    Ok(
        json!({ "bits": sizing.bits, "k": sizing.hashes, "serialized": hex::encode(filter.to_bytes()), "hits": hits }),
    )
}
