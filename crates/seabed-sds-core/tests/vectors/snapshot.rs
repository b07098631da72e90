//! Recorded from running nim-sds: stored states.

use seabed_sds_core::snapshot::{
    ChannelData, ChannelMeta, HistoryUpdate, IncomingMessage, IncomingRepairEntry, OutgoingRepairEntry,
    UnacknowledgedMessage,
};
use seabed_sds_core::{DecodeError, MessageId};
use serde_json::Value;

use crate::fields::{nim, nim_entry};
use crate::{bytes, list, number, read, signed, text};

/// A state of any of the three kinds.
#[derive(Debug, PartialEq)]
enum State {
    Meta(ChannelMeta),
    Data(ChannelData),
    History(HistoryUpdate),
}

impl State {
    fn decode(kind: &str, bytes: &[u8]) -> Result<Self, DecodeError> {
        match kind {
            "meta" => ChannelMeta::decode(bytes).map(Self::Meta),
            "data" => ChannelData::decode(bytes).map(Self::Data),
            _ => HistoryUpdate::decode(bytes).map(Self::History),
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Meta(meta) => meta.encode(),
            Self::Data(data) => data.encode(),
            Self::History(update) => update.encode(),
        }
    }

    /// What the vectors say it is, with everything whose order is that of a hash table sorted.
    fn expected(kind: &str, value: &Value) -> Self {
        match kind {
            "meta" => Self::Meta(meta(value)),
            "data" => Self::Data(ChannelData {
                meta: meta(&value["meta"]),
                history: list(value, "message_history").iter().map(nim).collect(),
            }),
            _ => Self::History(HistoryUpdate {
                append: list(value, "append").iter().map(nim).collect(),
                evict: list(value, "evict").iter().map(|id| bytes(id, "id_hex").as_slice().into()).collect(),
            }),
        }
    }

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

fn meta(value: &Value) -> ChannelMeta {
    ChannelMeta {
        lamport: i64::try_from(signed(value, "lamport_timestamp")).unwrap().cast_unsigned(),
        outgoing: list(value, "outgoing_buffer").iter().map(unacknowledged).collect(),
        incoming: list(value, "incoming_buffer").iter().map(incoming).collect(),
        outgoing_repair: list(value, "outgoing_repair_buffer").iter().map(outgoing_repair).collect(),
        incoming_repair: list(value, "incoming_repair_buffer").iter().map(incoming_repair).collect(),
    }
}

fn unacknowledged(value: &Value) -> UnacknowledgedMessage {
    UnacknowledgedMessage {
        message: nim(&value["message"]),
        send_time_ms: number(value, "send_time_ms"),
        resend_attempts: number(value, "resend_attempts").try_into().unwrap(),
    }
}

fn incoming(value: &Value) -> IncomingMessage {
    let missing = list(value, "missing_deps_sorted").iter().map(|id| bytes(id, "id_hex").as_slice().into());
    IncomingMessage { message: nim(&value["message"]), missing: missing.collect() }
}

fn outgoing_repair(value: &Value) -> (MessageId, OutgoingRepairEntry) {
    let entry = OutgoingRepairEntry {
        entry: nim_entry(&value["history_entry"]),
        t_req_ms: number(value, "min_time_repair_req_ms"),
    };
    (bytes(value, "message_id_hex").as_slice().into(), entry)
}

fn incoming_repair(value: &Value) -> (MessageId, IncomingRepairEntry) {
    let entry = IncomingRepairEntry {
        entry: nim_entry(&value["history_entry"]),
        cached_message: bytes(value, "cached_message").into(),
        t_resp_ms: number(value, "min_time_repair_resp_ms"),
    };
    (bytes(value, "message_id_hex").as_slice().into(), entry)
}

#[test]
fn states_are_written_to_the_byte() {
    let vectors = read("sds/snapshot.json");
    let mut negative = 0;
    for vector in list(&vectors, "encode") {
        let (kind, written) = (text(vector, "type"), bytes(vector, "bytes"));
        let expected = State::expected(kind, &vector["value"]);
        match State::decode(kind, &written) {
            Ok(found) => {
                // In the order in which nim had it.
                assert_eq!(hex::encode(found.encode()), text(vector, "bytes"));
                assert_eq!(found.sorted(), expected.sorted());
            }
            // Two are of values that nim writes and stops at when it reads them.
            Err(error) => {
                negative += 1;
                assert!(matches!(error, DecodeError::TooHigh { field: "lamport", .. }), "{error}");
                assert_eq!(hex::encode(expected.encode()), text(vector, "bytes"));
            }
        }
    }
    assert_eq!((list(&vectors, "encode").len(), negative), (73, 2));
}

#[test]
fn states_are_read_as_nim_reads_them() {
    let vectors = read("sds/snapshot.json");
    let (mut crashes, mut refused) = (0, 0);
    for vector in list(&vectors, "decode") {
        let (name, kind) = (text(vector, "name"), text(vector, "type"));
        let found = State::decode(kind, &bytes(vector, "bytes"));
        if !vector["upstream_crashes"].is_null() {
            crashes += 1;
            assert!(matches!(found, Err(DecodeError::TooHigh { .. })), "{name}: {found:?}");
        } else if vector["ok"].is_null() {
            assert!(found.is_err(), "{name}: {found:?}");
        } else {
            let expected = State::expected(kind, &vector["ok"]);
            match found {
                Ok(found) => assert_eq!(found.sorted(), expected.sorted(), "{name}"),
                // nim takes a log's update that it cannot read for an empty one, and so forgets it.
                Err(error) => {
                    refused += 1;
                    assert_eq!(expected, State::History(HistoryUpdate::default()), "{name}: {error}");
                }
            }
        }
    }
    assert_eq!((list(&vectors, "decode").len(), crashes), (111, 3));
    assert!(refused >= 2, "two of the named ones are broken");
}

/// Each element alone reads as it does in the whole.
#[test]
fn elements_alone_are_the_same() {
    let vectors = read("sds/snapshot.json");
    let metas = list(&vectors, "encode").iter().filter(|vector| vector["type"] == "meta");
    let mut elements = 0;
    for vector in metas {
        let Ok(meta) = ChannelMeta::decode(&bytes(vector, "bytes")) else { continue };
        for outgoing in meta.outgoing {
            assert_eq!(UnacknowledgedMessage::decode(&outgoing.encode()), Ok(outgoing));
            elements += 1;
        }
        for incoming in meta.incoming {
            assert_eq!(IncomingMessage::decode(&incoming.encode()), Ok(incoming));
            elements += 1;
        }
        for (_, entry) in meta.outgoing_repair {
            assert_eq!(OutgoingRepairEntry::decode(&entry.encode()), Ok(entry));
            elements += 1;
        }
        for (_, entry) in meta.incoming_repair {
            assert_eq!(IncomingRepairEntry::decode(&entry.encode()), Ok(entry));
            elements += 1;
        }
    }
    assert!(elements > 50, "{elements} elements");
}
