//! Replies: what happened, and why something did not.

use seabed_sds::core::{Broadcast, Event, HistoryEntry};
use seabed_sds::{Error, ErrorKind, What};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Why a request was not done.
pub(super) struct Refusal {
    kind: &'static str,
    message: String,
}

impl Refusal {
    /// The request makes no sense.
    pub(super) fn request(message: impl Into<String>) -> Self {
        Self { kind: "invalid_argument", message: message.into() }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::MessageTooLarge => "message_too_large",
            ErrorKind::Deserialization => "deserialization",
            ErrorKind::Backpressure => "backpressure",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Persistence => "persistence",
            ErrorKind::Closed => "closed",
            _ => "invalid_argument",
        };
        Self { kind, message: error.to_string() }
    }
}

pub(super) fn refused(refusal: &Refusal) -> Value {
    json!({ "ok": false, "error": refusal.kind, "message": refusal.message })
}

/// The fields of a request; one that it does not have is an error that names it.
pub(super) fn fields<T: DeserializeOwned>(fields: Value) -> Result<T, Refusal> {
    serde_json::from_value(fields).map_err(|error| Refusal::request(error.to_string()))
}

/// A request without fields.
pub(super) fn nothing(fields_given: Value) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    fields::<Nothing>(fields_given).map(|Nothing {}| ())
}

pub(super) fn bytes(name: &str, text: &str) -> Result<Vec<u8>, Refusal> {
    hex::decode(text).map_err(|error| Refusal::request(format!("`{name}` is not hexadecimal: {error}")))
}

/// What is missing, with what helps to find it.
pub(super) fn entry(entry: &HistoryEntry) -> Value {
    let mut told = json!({ "message_id": entry.message_id.to_string() });
    if let Some(fields) = told.as_object_mut() {
        if let Some(sender) = entry.sender() {
            fields.insert("sender_id".to_owned(), sender.to_string().into());
        }
        if let Some(hint) = &entry.retrieval_hint {
            fields.insert("hint".to_owned(), hex::encode(hint).into());
        }
    }
    told
}

pub(super) fn broadcast(broadcast: &Broadcast) -> Value {
    let reason = format!("{:?}", broadcast.reason).to_lowercase();
    json!({ "reason": reason, "message_id": broadcast.message_id.to_string(), "wire": hex::encode(&broadcast.wire) })
}

/// What happened, apart from what is to be broadcast.
pub(super) fn event(what: &What) -> Option<Value> {
    Some(match what {
        What::Broadcast(_) => return None,
        What::Event(event) => of_channel(event),
        What::SyncDue => json!({ "event": "sync_due" }),
        What::PersistenceFailed(error) => {
            json!({ "event": "persistence_failed", "message": error.to_string() })
        }
        What::PersistenceRecovered => json!({ "event": "persistence_recovered" }),
        What::UnknownChannelIgnored { channels_max } => {
            json!({ "event": "limit_hit", "limit": "unknown_channels", "limit_max": channels_max })
        }
    })
}

fn of_channel(event: &Event) -> Value {
    let content =
        |content: &Option<std::sync::Arc<[u8]>>| hex::encode(content.as_deref().unwrap_or_default());
    let entries = |entries: &[HistoryEntry]| entries.iter().map(entry).collect::<Vec<_>>();
    match event {
        Event::Delivered { message, gap } => json!({
            "event": "delivered",
            "message_id": message.message_id.to_string(),
            "sender_id": message.sender_id.to_string(),
            "content": content(&message.content),
            "gap": gap,
        }),
        Event::EphemeralDelivered { message } => json!({
            "event": "ephemeral_delivered",
            "message_id": message.message_id.to_string(),
            "sender_id": message.sender_id.to_string(),
            "content": content(&message.content),
        }),
        Event::Buffered { message_id } => {
            json!({ "event": "buffered", "message_id": message_id.to_string() })
        }
        Event::MissingDependencies { message_id, entries: missing } => json!({
            "event": "missing_dependencies",
            "message_id": message_id.to_string(),
            "entries": entries(missing),
        }),
        Event::DependenciesLost { entries: lost } => {
            json!({ "event": "dependencies_lost", "entries": entries(lost) })
        }
        Event::Acknowledged { message_id } => {
            json!({ "event": "acknowledged", "message_id": message_id.to_string() })
        }
        Event::PossiblyAcknowledged { message_id, count } => json!({
            "event": "possibly_acknowledged",
            "message_id": message_id.to_string(),
            "count": count,
        }),
        Event::DeliveryUnconfirmed { message_id, possibly } => json!({
            "event": "delivery_unconfirmed",
            "message_id": message_id.to_string(),
            "possibly": possibly,
        }),
        Event::OwnRestored { message } => json!({
            "event": "own_restored",
            "message_id": message.message_id.to_string(),
            "content": content(&message.content),
        }),
        Event::ClockAnomaly { message_id, lamport, lamport_max } => json!({
            "event": "clock_anomaly",
            "message_id": message_id.to_string(),
            "lamport": lamport.to_string(),
            "lamport_max": lamport_max.to_string(),
        }),
        Event::LimitHit { limit, message_id } => json!({
            "event": "limit_hit",
            "limit": limit.name(),
            "message_id": message_id.to_string(),
        }),
    }
}
