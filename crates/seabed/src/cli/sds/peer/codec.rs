//! Requests that touch no channel: messages, hashes and filters.

use seabed_sds::core::bloom::Filter;
use seabed_sds::core::wire::{self, Dialect, ReadDialect, WireLimits};
use seabed_sds::core::{ChannelId, hash};
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{self, Refusal};
use crate::cli::sds::message::MessageJson;

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

pub(super) fn decode(request: &Decode) -> Result<Value, Refusal> {
    let read = match request.read {
        ReadName::Auto => ReadDialect::Auto,
        ReadName::Nim => ReadDialect::Strict(Dialect::Nim),
        ReadName::Spec => ReadDialect::Strict(Dialect::Spec),
    };
    let wire = reply::bytes("wire", &request.wire)?;
    let decoded = wire::decode(&wire, read, &WireLimits::default()).map_err(|error| {
        Refusal::from(seabed_sds::Error::Refused { channel: ChannelId::default(), error: error.into() })
    })?;
    serde_json::to_value(MessageJson::from(&decoded)).map_err(|error| Refusal::request(error.to_string()))
}

pub(super) fn encode(request: &MessageJson) -> Result<Value, Refusal> {
    let dialect = match request.dialect.as_str() {
        "nim" => Dialect::Nim,
        "spec" => Dialect::Spec,
        other => return Err(Refusal::request(format!("`dialect` is nim or spec, and not {other:?}"))),
    };
    let message = request.message().map_err(Refusal::request)?;
    Ok(json!({ "wire": hex::encode(wire::encode(&message, dialect)) }))
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
