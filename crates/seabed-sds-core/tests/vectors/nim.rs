//! Recorded from running nim-sds: messages and hashes.

use seabed_sds_core::wire::{self, Dialect, Layout, ReadDialect, WireLimits};
use seabed_sds_core::{DecodeError, hash};

use crate::fields::{self, has_empty_ids, is_text};
use crate::{bytes, list, number, read, signed, text};

const NIM: ReadDialect = ReadDialect::Strict(Dialect::Nim);

#[test]
fn messages_are_written_to_the_byte() {
    let vectors = read("sds/wire.json");
    for vector in list(&vectors, "encode") {
        let message = fields::nim(&vector["fields"]);
        assert_eq!(hex::encode(wire::encode(&message, Dialect::Nim)), text(vector, "bytes"));
    }
    assert_eq!(list(&vectors, "encode").len(), 137);
}

#[test]
fn messages_that_were_written_are_read() {
    for vector in list(&read("sds/wire.json"), "encode") {
        let message = fields::nim(&vector["fields"]);
        let read = wire::decode(&bytes(vector, "bytes"), ReadDialect::Auto, &WireLimits::OFF);
        let lamport = message.lamport.unwrap();
        if has_empty_ids(&message) {
            assert!(matches!(read, Err(DecodeError::Missing(_) | DecodeError::TooHigh { .. })), "{read:?}");
        } else if lamport > i64::MAX.cast_unsigned() {
            // nim writes negative values, and stops when it reads one.
            assert_eq!(read, Err(DecodeError::TooHigh { field: "lamport", value: lamport }));
        } else {
            let read = read.unwrap();
            assert_eq!((read.message, read.layout), (message, Layout::Nim));
        }
    }
}

#[test]
fn messages_are_read_as_nim_reads_them() {
    let vectors = read("sds/wire.json");
    let mut crashes = 0;
    for vector in list(&vectors, "decode") {
        let name = text(vector, "name");
        let wire = bytes(vector, "bytes");
        let read = wire::decode(&wire, NIM, &WireLimits::OFF).map(|decoded| decoded.message);
        if !vector["ok"].is_null() {
            let expected = fields::nim(&vector["ok"]);
            let default = wire::decode(&wire, NIM, &WireLimits::default());
            if has_empty_ids(&expected) {
                assert!(matches!(read, Err(DecodeError::Missing(_))), "{name}: {read:?}");
            } else if is_text(&expected) {
                assert_eq!(default.map(|decoded| decoded.message), Ok(expected.clone()), "{name}");
            } else {
                assert!(matches!(default, Err(DecodeError::NotUtf8(_))), "{name}: {default:?}");
            }
            if !has_empty_ids(&expected) {
                assert_eq!(read, Ok(expected), "{name}");
            }
        } else if !vector["upstream_crashes"].is_null() {
            crashes += 1;
            let calm = matches!(read, Err(DecodeError::TooHigh { .. } | DecodeError::Missing(_)));
            assert!(calm, "{name}: {read:?}");
        } else if let Some(field) = vector["field"].as_str() {
            match (field, read) {
                // What nim-sds 0.4 may leave out is accepted; a message without a Lamport value is an ephemeral one.
                ("lamportTimestamp", Ok(message)) => assert!(message.is_ephemeral(), "{name}"),
                ("content", Ok(message)) => assert!(message.is_sync(), "{name}"),
                (_, Err(DecodeError::Missing(_) | DecodeError::Meaningless)) => {}
                (_, read) => panic!("{name}: {field} is missing for nim, and we have {read:?}"),
            }
        } else {
            // Of two things that are wrong nim may find the other one first.
            use DecodeError::{Missing, Truncated, Varint, WireType};
            let malformed = matches!(read, Err(Truncated | Varint | WireType(_) | Missing(_)));
            assert!(malformed, "{name}: {} for nim, and we have {read:?}", vector["detail"]);
        }
    }
    assert_eq!((list(&vectors, "decode").len(), crashes), (177, 8));
}

#[test]
fn the_channel_is_found_where_nim_finds_it() {
    for vector in list(&read("sds/wire.json"), "decode") {
        let name = text(vector, "name");
        let wire = bytes(vector, "bytes");
        let found = wire::peek_channel_id(&wire, NIM).ok();
        if vector["extract_channel_id"].is_null() {
            // nim had stopped before it was asked.
            assert!(!vector["upstream_crashes"].is_null(), "{name}");
            continue;
        }
        let expected = vector["extract_channel_id"]["ok_hex"].as_str().map(|id| hex::decode(id).unwrap());
        // The empty one is refused, with the message.
        assert_eq!(found, expected.as_deref().filter(|id| !id.is_empty()), "{name}");
        if let Ok(decoded) = wire::decode(&wire, ReadDialect::Auto, &WireLimits::OFF) {
            let found = wire::peek_channel_id(&wire, ReadDialect::Auto);
            assert_eq!(found, Ok(decoded.message.channel_id.as_bytes()), "{name}");
        }
    }
}

#[test]
fn texts_hash_as_in_nim() {
    let vectors = read("sds/nim_hash.json");
    for vector in list(&vectors, "cases") {
        let hash = hash::nim(&bytes(vector, "bytes"));
        assert_eq!(i128::from(hash.cast_signed()), signed(vector, "hash_i64"), "{vector}");
        assert_eq!(hash::magnitude(hash), number(vector, "abs_i64"), "{vector}");
    }
    assert_eq!(list(&vectors, "cases").len(), 355);
}
