//! Recorded from running `@waku/sds`, and messages of all layouts.

use seabed_sds_core::wire::{self, Dialect, Layout, ReadDialect, WireLimits};
use seabed_sds_core::{DecodeError, Message};
use serde_json::Value;

use crate::fields::{self, is_text};
use crate::{bytes, list, read, text};

const SPEC: ReadDialect = ReadDialect::Strict(Dialect::Spec);

fn decode(wire: &[u8], read: ReadDialect) -> Result<Message, DecodeError> {
    wire::decode(wire, read, &WireLimits::default()).map(|decoded| decoded.message)
}

#[test]
fn messages_are_written_to_the_byte() {
    let vectors = read("sds-js/wire.json");
    let mut bugs = 0;
    for vector in list(&vectors, "encode") {
        let name = text(vector, "name");
        let message = fields::spec(&vector["fields"]);
        let written = wire::encode(&message, Dialect::Spec);
        if vector["js_bug"] == true {
            // It writes other numbers than it is given from 2^31 on, up to 2^32: ours is the number.
            bugs += 1;
            assert_ne!(hex::encode(&written), text(vector, "hex"), "{name}");
            assert_eq!(decode(&written, SPEC), Ok(message), "{name}");
        } else {
            assert_eq!(hex::encode(&written), text(vector, "hex"), "{name}");
        }
    }
    assert_eq!((list(&vectors, "encode").len(), bugs), (28, 1));
}

#[test]
fn messages_that_were_written_are_read() {
    for vector in list(&read("sds-js/wire.json"), "encode") {
        let (name, wire) = (text(vector, "name"), bytes(vector, "hex"));
        let expected = match name {
            "content_empty_ids" => Err(DecodeError::Missing("message_id")),
            "lamport_u64max" => Err(DecodeError::TooHigh { field: "lamport", value: u64::MAX }),
            // An overlong number that is not the one that was meant.
            "lamport_u32max" => Err(DecodeError::Truncated),
            _ => Ok(fields::spec(&vector["fields"])),
        };
        match expected {
            Err(DecodeError::Truncated) => assert!(decode(&wire, SPEC).is_err(), "{name}"),
            expected => assert_eq!(decode(&wire, SPEC), expected, "{name}"),
        }
    }
}

#[test]
fn odd_bytes_are_read_as_the_specifications_readers_do() {
    let vectors = read("sds-js/wire.json");
    assert_eq!(list(&vectors, "decode_only").len(), 21);
    for vector in list(&vectors, "decode_only") {
        let (name, wire) = (text(vector, "name"), bytes(vector, "hex"));
        let read = decode(&wire, SPEC);
        let theirs = &vector["decode"];
        match name {
            // Seabed wants both ids.
            "missing_message_id" => assert_eq!(read, Err(DecodeError::Missing("message_id"))),
            "missing_channel" => assert_eq!(read, Err(DecodeError::Missing("channel_id"))),
            // Theirs loses its place in the message; ours passes the field over, and so there is no Lamport value.
            "wrong_wire_type_lamport_bytes" => assert!(read.unwrap().is_ephemeral()),
            // Theirs are halves of characters.
            "invalid_utf8_message_id" => {
                assert_eq!(read, Err(DecodeError::NotUtf8("message_id")));
                let any = wire::decode(&wire, SPEC, &WireLimits::OFF).unwrap();
                assert_eq!(any.message.message_id.as_bytes(), b"\xff\xfeA");
            }
            // Theirs has no content then.
            "empty_content_is_sync" => {
                let read = read.unwrap();
                assert!(read.is_sync() && read.content.is_some_and(|content| content.is_empty()));
            }
            _ if theirs.is_null() => assert!(read.is_err(), "{name}: {read:?}"),
            _ => {
                let expected = fields::spec(theirs);
                assert_eq!(read.as_ref(), Ok(&expected), "{name}");
                assert_eq!(kind(&expected), text(theirs, "kind"), "{name}");
            }
        }
    }
}

fn kind(message: &Message) -> &'static str {
    match (message.is_sync(), message.is_ephemeral()) {
        (true, _) => "sync",
        (_, true) => "ephemeral",
        _ => "content",
    }
}

/// A message of the file of all layouts: what a layout cannot say is not there.
fn crossed(vector: &Value) -> (Message, Layout) {
    let fields = &vector["fields"];
    let layout = match text(vector, "dialect") {
        "nim" => Layout::Nim,
        "spec" => Layout::Spec,
        _ => Layout::Logos,
    };
    let mut fields = fields.clone();
    // Numbers there, texts elsewhere.
    fields["lamport"] = fields["lamport"].to_string().trim_matches('"').into();
    let mut message = fields::spec(&fields);
    if layout == Layout::Logos {
        message.repair_request.clear();
    }
    if layout == Layout::Nim {
        message.bloom_filter = message.bloom_filter.filter(|filter| !filter.is_empty());
    }
    (message, layout)
}

#[test]
fn every_layout_is_recognised() {
    let vectors = read("sds-js/cross_dialect.json");
    assert_eq!(list(&vectors, "items").len(), 24);
    for vector in list(&vectors, "items") {
        let wire = bytes(vector, "hex");
        let (mut message, layout) = crossed(vector);
        let decoded = wire::decode(&wire, ReadDialect::Auto, &WireLimits::default()).unwrap();
        assert!(is_text(&decoded.message));
        // The model that wrote these bytes left empty filters out of some layouts and wrote them in others.
        let filter = decoded.message.bloom_filter.clone();
        assert_eq!(
            filter.as_deref().unwrap_or_default(),
            message.bloom_filter.as_deref().unwrap_or_default()
        );
        message.bloom_filter = filter;
        assert_eq!((&decoded.message, decoded.layout), (&message, layout), "{vector}");
        assert_eq!(wire::peek_channel_id(&wire, ReadDialect::Auto), Ok(message.channel_id.as_bytes()));
        let other = match layout {
            Layout::Nim => Dialect::Spec,
            Layout::Spec | Layout::Logos => Dialect::Nim,
        };
        assert!(decode(&wire, ReadDialect::Strict(other)).is_err(), "{vector}");
        // What the specification's own reader makes of it.
        let theirs = &vector["js_decode"];
        match layout {
            Layout::Nim => assert!(theirs.is_null()),
            Layout::Spec => assert_eq!(decode(&wire, SPEC), Ok(fields::spec(theirs))),
            Layout::Logos => {
                let read = decode(&wire, SPEC).unwrap();
                assert!(
                    read.sender_id.is_empty(),
                    "its sender is a field that the specification does not know"
                );
                assert_eq!(read, fields::spec(theirs));
            }
        }
    }
}

#[test]
fn a_message_that_is_cut_off_is_never_taken_for_one_of_another_layout() {
    for vector in list(&read("sds-js/cross_dialect.json"), "items") {
        let wire = bytes(vector, "hex");
        let (whole, layout) = crossed(vector);
        for length in 0..wire.len() {
            let Ok(decoded) = wire::decode(&wire[..length], ReadDialect::Auto, &WireLimits::default()) else {
                continue;
            };
            assert_eq!(decoded.layout, layout, "cut off at {length}: {vector}");
            assert_eq!(decoded.message.message_id, whole.message_id);
            assert_eq!(decoded.message.channel_id, whole.channel_id);
            assert_eq!(decoded.message.lamport, whole.lamport);
        }
    }
}
