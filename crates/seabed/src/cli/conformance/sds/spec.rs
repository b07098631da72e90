//! `@waku/sds`: messages, and when repairs are due. Messages of all layouts.

use seabed_sds_core::wire::{self, Dialect, Layout, ReadDialect, WireLimits};
use seabed_sds_core::{DecodeError, Message, hash, schedule};
use serde_json::Value;

use super::fields::{flag, member, number, spec_message};
use crate::cli::conformance::{hex_bytes, same, text};

const SPEC: ReadDialect = ReadDialect::Strict(Dialect::Spec);

fn read(wire: &[u8], read: ReadDialect) -> Result<Message, DecodeError> {
    wire::decode(wire, read, &WireLimits::default()).map(|decoded| decoded.message)
}

pub(super) fn encode(vector: &Value) -> Result<(), String> {
    let message = spec_message(member(vector, "fields")?)?;
    let written = wire::encode(&message, Dialect::Spec);
    // It writes other numbers than it is given from 2^31 on, up to 2^32.
    if vector.get("js_bug").and_then(Value::as_bool) == Some(true) {
        return same(&read(&written, SPEC), &Ok(message));
    }
    same(hex::encode(written).as_str(), text(vector, "hex")?)
}

pub(super) fn decode(vector: &Value) -> Result<(), String> {
    let found = read(&hex_bytes(vector, "hex")?, SPEC);
    let Ok(fields) = member(vector, "decode") else {
        return match found {
            Err(_) => Ok(()),
            // A field of another wire type is passed over here; there the reader loses its place.
            Ok(_) if text(vector, "name")?.starts_with("wrong_wire_type") => Ok(()),
            Ok(message) => Err(format!("read as {message:?}, and must not be")),
        };
    };
    let expected = spec_message(fields)?;
    match found {
        Err(DecodeError::Missing("message_id")) if expected.message_id.is_empty() => Ok(()),
        Err(DecodeError::Missing("channel_id")) if expected.channel_id.is_empty() => Ok(()),
        // There halves of characters, which the vectors cannot show.
        Err(DecodeError::NotUtf8(_)) if format!("{fields}").contains('\u{FFFD}') => Ok(()),
        // There a sync message has no content, here also an empty one.
        Ok(message) if message.is_sync() && expected.is_sync() => {
            same(&Message { content: None, ..message }, &Message { content: None, ..expected })
        }
        found => same(&found, &Ok(expected)),
    }
}

/// A message in one of three layouts: recognised, read, refused by the other dialect, and read by `@waku/sds` as it was recorded.
pub(super) fn crossed(vector: &Value) -> Result<(), String> {
    let wire = hex_bytes(vector, "hex")?;
    let layout = match text(vector, "dialect")? {
        "nim" => Layout::Nim,
        "spec" => Layout::Spec,
        "logos_chat" => Layout::Logos,
        other => return Err(format!("the layout '{other}' is not known here")),
    };
    let decoded = wire::decode(&wire, ReadDialect::Auto, &WireLimits::default());
    let decoded = decoded.map_err(|error| error.to_string())?;
    same(&decoded.layout, &layout)?;
    let mut expected = spec_message(member(vector, "fields")?)?;
    if layout == Layout::Logos {
        expected.repair_request.clear();
    }
    let theirs = member(vector, "js_decode").ok();
    let spec = read(&wire, SPEC);
    match (theirs, &spec) {
        (None, read) => same(&read.is_ok(), &false)?,
        (Some(theirs), _) => {
            same(&spec.as_ref().map(without_empty), &Ok(without_empty(&spec_message(theirs)?)))?;
        }
    }
    let channel = wire::peek_channel_id(&wire, ReadDialect::Auto).map_err(|error| error.to_string())?;
    same(channel, expected.channel_id.as_bytes())?;
    same(&without_empty(&decoded.message), &without_empty(&expected))?;
    for length in 0..wire.len() {
        let cut = wire.get(..length).unwrap_or_default();
        if let Ok(decoded) = wire::decode(cut, ReadDialect::Auto, &WireLimits::default()) {
            same(&decoded.layout, &layout).map_err(|why| format!("cut off at {length}: {why}"))?;
        }
    }
    Ok(())
}

/// The model that wrote these bytes left empty filters out of some layouts and wrote them in others.
fn without_empty(message: &Message) -> Message {
    let mut message = message.clone();
    message.bloom_filter = message.bloom_filter.filter(|filter| !filter.is_empty());
    message
}

pub(super) fn repair(vector: &Value) -> Result<(), String> {
    let [participant, sender, message] =
        ["participant", "sender", "message"].map(|name| text(vector, name).unwrap_or_default());
    let combined = format!("{participant}{message}");
    for (hashed, name) in
        [(participant, "hash_participant"), (message, "hash_message"), (&combined, "hash_combined")]
    {
        same(&hash::spec_repair(hashed.as_bytes()), &number(vector, name)?)?;
    }
    let (me, sender, id) = (participant.into(), sender.into(), message.into());
    let (min_ms, max_ms) = (number(vector, "t_min_ms")?, number(vector, "t_max_ms")?);
    let dialect = Dialect::Spec;
    same(&schedule::t_req(dialect, &me, &id, min_ms, max_ms), &number(vector, "t_req_offset_ms")?)?;
    same(&schedule::t_resp(dialect, &me, &sender, &id, max_ms), &number(vector, "t_resp_offset_ms")?)?;
    let groups = number(vector, "groups")?;
    same(&schedule::in_response_group(dialect, &me, &sender, &id, groups), &flag(vector, "in_group")?)
}

/// The specification's formula; `@waku/sds` has one group less from 128 participants on.
pub(super) fn groups(vector: &Value) -> Result<(), String> {
    let (participants, theirs) = (number::<u64>(vector, "participants")?, number::<u64>(vector, "groups")?);
    let expected = if participants < 128 { theirs } else { theirs + 1 };
    same(&schedule::groups_for(participants), &expected)
}
