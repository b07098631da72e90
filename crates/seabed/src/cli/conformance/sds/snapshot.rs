//! nim-sds: stored states.

use seabed_sds_core::snapshot::{
    ChannelData, ChannelMeta, HistoryUpdate, IncomingMessage, IncomingRepairEntry, OutgoingRepairEntry,
    UnacknowledgedMessage,
};
use seabed_sds_core::{DecodeError, MessageId};
use serde_json::Value;

use super::fields::{all, member, nim_entry, nim_message, number};
use crate::cli::conformance::{hex_bytes, same, text};

/// A state of any of the three kinds.
#[derive(Debug, PartialEq)]
enum State {
    Meta(ChannelMeta),
    Data(ChannelData),
    History(HistoryUpdate),
}

impl State {
    fn read(vector: &Value) -> Result<Result<Self, DecodeError>, String> {
        let bytes = hex_bytes(vector, "bytes")?;
        Ok(match text(vector, "type")? {
            "meta" => ChannelMeta::decode(&bytes).map(Self::Meta),
            "data" => ChannelData::decode(&bytes).map(Self::Data),
            "hist" => HistoryUpdate::decode(&bytes).map(Self::History),
            other => return Err(format!("the kind '{other}' is not known here")),
        })
    }

    fn expected(vector: &Value, value: &Value) -> Result<Self, String> {
        Ok(match text(vector, "type")? {
            "meta" => Self::Meta(meta(value)?),
            "data" => Self::Data(ChannelData {
                meta: meta(member(value, "meta")?)?,
                history: all(value, "message_history", nim_message)?,
            }),
            _ => Self::History(HistoryUpdate {
                append: all(value, "append", nim_message)?,
                evict: all(value, "evict", id)?,
            }),
        })
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Meta(meta) => meta.encode(),
            Self::Data(data) => data.encode(),
            Self::History(update) => update.encode(),
        }
    }

    /// Sorted where the order is that of a hash table.
    fn sorted(mut self) -> Self {
        if let Self::Meta(meta) | Self::Data(ChannelData { meta, .. }) = &mut self {
            for incoming in &mut meta.incoming {
                incoming.missing.sort();
            }
            meta.incoming.sort_by(|a, b| a.message.message_id.cmp(&b.message.message_id));
            meta.outgoing_repair.sort_by(|(a, _), (b, _)| a.cmp(b));
            meta.incoming_repair.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        self
    }
}

fn id(value: &Value) -> Result<MessageId, String> {
    Ok(hex_bytes(value, "id_hex")?.as_slice().into())
}

fn meta(value: &Value) -> Result<ChannelMeta, String> {
    Ok(ChannelMeta {
        lamport: number::<i64>(value, "lamport_timestamp")?.cast_unsigned(),
        outgoing: all(value, "outgoing_buffer", |value| {
            Ok(UnacknowledgedMessage {
                message: nim_message(member(value, "message")?)?,
                send_time_ms: number(value, "send_time_ms")?,
                resend_attempts: number(value, "resend_attempts")?,
            })
        })?,
        incoming: all(value, "incoming_buffer", |value| {
            Ok(IncomingMessage {
                message: nim_message(member(value, "message")?)?,
                missing: all(value, "missing_deps_sorted", id)?,
            })
        })?,
        outgoing_repair: all(value, "outgoing_repair_buffer", |value| {
            let entry = nim_entry(member(value, "history_entry")?)?;
            let entry = OutgoingRepairEntry { entry, t_req_ms: number(value, "min_time_repair_req_ms")? };
            Ok((hex_bytes(value, "message_id_hex")?.as_slice().into(), entry))
        })?,
        incoming_repair: all(value, "incoming_repair_buffer", |value| {
            let entry = IncomingRepairEntry {
                entry: nim_entry(member(value, "history_entry")?)?,
                cached_message: hex_bytes(value, "cached_message")?.into(),
                t_resp_ms: number(value, "min_time_repair_resp_ms")?,
            };
            Ok((hex_bytes(value, "message_id_hex")?.as_slice().into(), entry))
        })?,
    })
}

pub(super) fn encode(vector: &Value) -> Result<(), String> {
    let expected = State::expected(vector, member(vector, "value")?)?;
    let bytes = text(vector, "bytes")?;
    match State::read(vector)? {
        Ok(found) => {
            // In the order in which nim had it.
            same(hex::encode(found.encode()).as_str(), bytes)?;
            same(&found.sorted(), &expected.sorted())
        }
        // nim writes values below 0, and stops at them when it reads.
        Err(DecodeError::TooHigh { .. }) => same(hex::encode(expected.encode()).as_str(), bytes),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn decode(vector: &Value) -> Result<(), String> {
    let found = State::read(vector)?;
    let Ok(value) = member(vector, "ok") else {
        return found.map_or_else(|_| Ok(()), |found| Err(format!("read as {found:?}, and must not be")));
    };
    let expected = State::expected(vector, value)?;
    match found {
        Ok(found) => same(&found.sorted(), &expected.sorted()),
        // nim takes a log's update that it cannot read for an empty one, and so forgets it.
        Err(_) if expected == State::History(HistoryUpdate::default()) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
