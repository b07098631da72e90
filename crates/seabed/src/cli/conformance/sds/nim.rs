//! nim-sds: messages, hashes, and when repairs are due.

use seabed_sds_core::wire::{self, Dialect, ReadDialect, WireLimits};
use seabed_sds_core::{DecodeError, hash, schedule};
use serde_json::Value;

use super::fields::{flag, has_empty_ids, member, nim_message, number};
use crate::cli::conformance::{hex_bytes, same, text};

const NIM: ReadDialect = ReadDialect::Strict(Dialect::Nim);

pub(super) fn encode(vector: &Value) -> Result<(), String> {
    let message = nim_message(member(vector, "fields")?)?;
    same(hex::encode(wire::encode(&message, Dialect::Nim)).as_str(), text(vector, "bytes")?)
}

pub(super) fn decode(vector: &Value) -> Result<(), String> {
    let bytes = hex_bytes(vector, "bytes")?;
    let read = wire::decode(&bytes, NIM, &WireLimits::OFF).map(|decoded| decoded.message);
    if let Ok(fields) = member(vector, "ok") {
        let expected = nim_message(fields)?;
        match &read {
            Err(DecodeError::Missing(_)) if has_empty_ids(&expected) => {}
            _ => same(&read, &Ok(expected))?,
        }
    } else {
        match (read, vector.get("field").and_then(Value::as_str)) {
            (Err(_), _) => {}
            // What nim-sds 0.4 leaves out, and what only an ephemeral message does not have.
            (Ok(message), Some("content")) if message.is_sync() => {}
            (Ok(message), Some("lamportTimestamp")) if message.is_ephemeral() => {}
            (Ok(message), _) => return Err(format!("read as {message:?}, and must not be")),
        }
    }
    let Ok(channel) = member(vector, "extract_channel_id") else { return Ok(()) };
    let expected = channel.get("ok_hex").and_then(Value::as_str).filter(|id| !id.is_empty());
    let found = wire::peek_channel_id(&bytes, NIM).ok().map(hex::encode);
    same(&found.as_deref(), &expected)
}

pub(super) fn hash(vector: &Value) -> Result<(), String> {
    let hash = hash::nim(&hex_bytes(vector, "bytes")?);
    same(&hash.cast_signed(), &number(vector, "hash_i64")?)?;
    same(&hash::magnitude(hash), &number(vector, "abs_i64")?)
}

/// A time as nim has it; below 0 is as 0.
fn ms(vector: &Value, name: &str) -> Result<u64, String> {
    Ok(number::<i64>(vector, name)?.try_into().unwrap_or(0))
}

pub(super) fn t_req(vector: &Value) -> Result<(), String> {
    let (me, id) = (text(vector, "participant_id")?.into(), text(vector, "message_id")?.into());
    let (min_ms, max_ms) = (ms(vector, "t_min_ms")?, ms(vector, "t_max_ms")?);
    same(&schedule::t_req(Dialect::Nim, &me, &id, min_ms, max_ms), &number(vector, "t_req_ms")?)
}

pub(super) fn t_resp(vector: &Value) -> Result<(), String> {
    let (me, sender) = (text(vector, "participant_id")?.into(), text(vector, "sender_id")?.into());
    let id = text(vector, "message_id")?.into();
    let found = schedule::t_resp(Dialect::Nim, &me, &sender, &id, ms(vector, "t_max_ms")?);
    same(&found, &number(vector, "t_resp_ms")?)
}

pub(super) fn in_group(vector: &Value) -> Result<(), String> {
    let (me, sender) = (text(vector, "participant_id")?.into(), text(vector, "sender_id")?.into());
    let (id, groups) = (text(vector, "message_id")?.into(), ms(vector, "num_response_groups")?);
    same(&schedule::in_response_group(Dialect::Nim, &me, &sender, &id, groups), &flag(vector, "in_group")?)
}
