//! What nobody honest sends: refused calmly, before it costs anything (sds.md section 24). Random bytes are in the testkit's fuzz functions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a test that fails")]

use seabed_sds_core::bloom::Filter;
use seabed_sds_core::limits::{CAUSAL_HISTORY_MAX, REPAIR_REQUEST_MAX, WIRE_BYTES_MAX};
use seabed_sds_core::wire::{self, Decoded, Dialect, Layout, ReadDialect, WireLimits};
use seabed_sds_core::{DecodeError, HINT_BYTES_MAX, HistoryEntry, ID_BYTES_MAX, Message};

const DIALECTS: [Dialect; 2] = [Dialect::Nim, Dialect::Spec];

fn message() -> Message {
    Message {
        message_id: "m".into(),
        channel_id: "c".into(),
        sender_id: "s".into(),
        lamport: Some(1),
        content: Some(b"x".as_slice().into()),
        ..Message::default()
    }
}

fn entry(id: &str) -> HistoryEntry {
    HistoryEntry { message_id: id.into(), ..HistoryEntry::default() }
}

fn read(message: &Message, dialect: Dialect) -> Result<Decoded, DecodeError> {
    wire::decode(&wire::encode(message, dialect), ReadDialect::Auto, &WireLimits::default())
}

/// At its bound the message is read, beyond it the error names the bound; without bounds it is read again.
fn bounded(at: &Message, beyond: &Message, error: &DecodeError) {
    for dialect in DIALECTS {
        assert_eq!(read(at, dialect).unwrap().message, *at);
        assert_eq!(read(beyond, dialect), Err(error.clone()));
        let bytes = wire::encode(beyond, dialect);
        let unbounded = wire::decode(&bytes, ReadDialect::Auto, &WireLimits::OFF).unwrap();
        assert_eq!(unbounded.message, *beyond);
    }
}

#[test]
fn ids_have_a_bound() {
    let long = "x".repeat(ID_BYTES_MAX + 1);
    let at = long.get(..ID_BYTES_MAX).unwrap();
    let error = |field| DecodeError::TooLong { field, length: ID_BYTES_MAX + 1, limit: ID_BYTES_MAX };
    let with = |edit: &dyn Fn(&mut Message, &str), field| {
        let [mut at_bound, mut beyond] = [message(), message()];
        edit(&mut at_bound, at);
        edit(&mut beyond, &long);
        bounded(&at_bound, &beyond, &error(field));
    };
    with(&|message, id| message.message_id = id.into(), "message_id");
    with(&|message, id| message.channel_id = id.into(), "channel_id");
    with(&|message, id| message.sender_id = id.into(), "sender_id");
    with(&|message, id| message.causal_history = vec![entry(id)], "message_id");
    with(&|message, id| message.repair_request = vec![entry(id)], "message_id");
    with(
        &|message, id| {
            message.causal_history = vec![HistoryEntry { sender_id: Some(id.into()), ..entry("d") }];
        },
        "sender_id",
    );
}

#[test]
fn hints_have_a_bound() {
    let with = |length: usize| {
        let hint = Some(vec![7; length].into());
        let history = vec![HistoryEntry { retrieval_hint: hint, ..entry("d") }];
        Message { causal_history: history, ..message() }
    };
    let error =
        DecodeError::TooLong { field: "retrieval_hint", length: HINT_BYTES_MAX + 1, limit: HINT_BYTES_MAX };
    bounded(&with(HINT_BYTES_MAX), &with(HINT_BYTES_MAX + 1), &error);
}

#[test]
fn lists_have_a_bound() {
    let history = |count| Message { causal_history: vec![entry("d"); count], ..message() };
    let error = DecodeError::TooMany { field: "causal_history", limit: CAUSAL_HISTORY_MAX };
    bounded(&history(CAUSAL_HISTORY_MAX), &history(CAUSAL_HISTORY_MAX + 1), &error);
    let request = |count| Message { repair_request: vec![entry("d"); count], ..message() };
    let error = DecodeError::TooMany { field: "repair_request", limit: REPAIR_REQUEST_MAX };
    bounded(&request(REPAIR_REQUEST_MAX), &request(REPAIR_REQUEST_MAX + 1), &error);
}

#[test]
fn messages_have_a_bound() {
    let with = |length: usize| Message { content: Some(vec![0; length].into()), ..message() };
    for dialect in DIALECTS {
        let around = wire::encode(&with(WIRE_BYTES_MAX), dialect).len() - WIRE_BYTES_MAX;
        let at = with(WIRE_BYTES_MAX - around);
        assert_eq!(read(&at, dialect).unwrap().message, at);
        let error = DecodeError::TooLarge { length: WIRE_BYTES_MAX + 1, limit: WIRE_BYTES_MAX };
        assert_eq!(read(&with(WIRE_BYTES_MAX - around + 1), dialect), Err(error));
    }
}

/// nim-sds stops at each of these.
#[test]
fn lamport_values_beyond_63_bits_are_refused_also_without_bounds() {
    for dialect in DIALECTS {
        let most = Message { lamport: Some(i64::MAX.cast_unsigned()), ..message() };
        assert_eq!(read(&most, dialect).unwrap().message, most);
        for value in [1 << 63, u64::MAX] {
            let bytes = wire::encode(&Message { lamport: Some(value), ..message() }, dialect);
            for limits in [WireLimits::default(), WireLimits::OFF] {
                let read = wire::decode(&bytes, ReadDialect::Auto, &limits);
                assert_eq!(read, Err(DecodeError::TooHigh { field: "lamport", value }));
            }
        }
    }
}

#[test]
fn ids_that_are_not_text_are_refused_unless_asked_for() {
    let odd: &[u8] = b"\xff\xfe";
    let messages = [
        (Message { message_id: odd.into(), ..message() }, "message_id"),
        (Message { channel_id: odd.into(), ..message() }, "channel_id"),
        (Message { sender_id: odd.into(), ..message() }, "sender_id"),
        (
            Message {
                repair_request: vec![HistoryEntry { sender_id: Some(odd.into()), ..entry("d") }],
                ..message()
            },
            "sender_id",
        ),
    ];
    for (message, field) in messages {
        for dialect in DIALECTS {
            assert_eq!(read(&message, dialect), Err(DecodeError::NotUtf8(field)));
            let bytes = wire::encode(&message, dialect);
            let limits = WireLimits { accept_non_utf8: true, ..WireLimits::default() };
            assert_eq!(wire::decode(&bytes, ReadDialect::Auto, &limits).unwrap().message, message);
        }
    }
}

#[test]
fn messages_without_ids_or_meaning_are_refused() {
    for dialect in DIALECTS {
        let strict = ReadDialect::Strict(dialect);
        let refused = |message: &Message| {
            wire::decode(&wire::encode(message, dialect), strict, &WireLimits::OFF).unwrap_err()
        };
        assert_eq!(
            refused(&Message { message_id: "".into(), ..message() }),
            DecodeError::Missing("message_id")
        );
        assert_eq!(
            refused(&Message { channel_id: "".into(), ..message() }),
            DecodeError::Missing("channel_id")
        );
        assert_eq!(refused(&Message { lamport: None, content: None, ..message() }), DecodeError::Meaningless);
        let nothing = Some(b"".as_slice().into());
        assert_eq!(
            refused(&Message { lamport: None, content: nothing, ..message() }),
            DecodeError::Meaningless
        );
    }
    let nameless = Message { causal_history: vec![entry("")], ..message() };
    assert!(matches!(read(&nameless, Dialect::Nim), Err(DecodeError::Missing(_))));
    // As for `@waku/sds`; nothing can be waited for by that name, because no message has it.
    assert_eq!(read(&nameless, Dialect::Spec).unwrap().message, nameless);
}

/// Bytes that are in no dialect, and those for which the first field 2 decides.
#[test]
fn bytes_of_no_dialect_are_refused() {
    let auto = |bytes: &[u8]| wire::decode(bytes, ReadDialect::Auto, &WireLimits::default());
    for bytes in [b"".as_slice(), b"\x0a\x01m", b"\x0a\x01m\x22\x01c", b"\x0a\x01m\x2a\x01x", b"\x18\x07"] {
        assert_eq!(auto(bytes).unwrap_err(), DecodeError::UnknownDialect, "{bytes:?}");
        assert_eq!(wire::peek_channel_id(bytes, ReadDialect::Auto), Err(DecodeError::UnknownDialect));
    }
    // Field 2 as a number, then as an id: nim's, whose reader passes the second over.
    let both = b"\x0a\x01m\x10\x07\x22\x01c\x2a\x01x\x32\x00\x12\x01i";
    assert_eq!(auto(both).unwrap().layout, Layout::Nim);
    // As an id, then as a number: the specification's.
    let both = b"\x12\x01i\x10\x07\x1a\x01c\x50\x01";
    assert_eq!(auto(both).unwrap().layout, Layout::Spec);
    // The same with a sender where the Logos chat library has it, and nowhere else.
    let logos = b"\x12\x01i\x1a\x01c\x3a\x01s\x50\x01";
    let read = auto(logos).unwrap();
    assert_eq!((read.layout, read.message.sender_id), (Layout::Logos, "s".into()));
    // A 32-bit number of that library that is below zero.
    let negative = b"\x12\x01i\x1a\x01c\x3a\x01s\x50\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    assert!(matches!(auto(negative), Err(DecodeError::TooHigh { .. })));
}

/// A filter of nim's with these parameters and so many words.
fn filter(words: usize, capacity: u64, error_ppm: u64, hashes: u64, bits: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |mut number: u64| {
        while number >= 0x80 {
            bytes.push(u8::try_from(number & 0x7F).unwrap() | 0x80);
            number >>= 7;
        }
        bytes.push(u8::try_from(number).unwrap());
    };
    for (key, value) in [(0x10, capacity), (0x18, error_ppm), (0x20, hashes), (0x28, bits)] {
        put(key);
        put(value);
    }
    put(0x0A);
    put(words as u64 * 8);
    bytes.extend(std::iter::repeat_n(0xFF, words * 8));
    bytes
}

#[test]
fn hostile_filters_are_ignored() {
    let usable = |words, capacity, error_ppm, hashes, bits| {
        Filter::read(Dialect::Nim, &filter(words, capacity, error_ppm, hashes, bits))
    };
    // The bounds themselves are usable, and these hold everything.
    for (words, hashes, bits) in [(2, 1, 64), (2, 64, 127), (3, 10, 128), (2_345, 10, 150_000)] {
        assert!(usable(words, 10, 1_000, hashes, bits).unwrap().contains(b"m"), "{hashes} in {bits}");
    }
    for (why, words, capacity, hashes, bits) in [
        ("without hashes everything is in it", 3, 10, 0, 100),
        ("it would take for ever", 3, 10, 65, 100),
        ("it would take for ever", 3, 10, 4_000_000_000, 100),
        ("nim stops", 3, 10, u64::MAX, 100),
        ("nim divides by zero", 3, 10, 3, 0),
        ("too small to be honest", 2, 10, 3, 63),
        ("beyond its words", 2, 10, 3, 128),
        ("beyond its words", 2, 10, 3, 100_000),
        ("beyond its words", 2, 10, 3, 80_000_000),
        ("nim stops", 2, 10, 3, 1 << 63),
        ("nim stops", 2, 1 << 63, 3, 100),
        ("no words", 0, 10, 3, 64),
    ] {
        let read = usable(words, capacity, 1_000, hashes, bits);
        assert!(matches!(read, Err(DecodeError::Filter(_))), "{why}: {read:?}");
    }
    assert!(matches!(usable(3, 10, u64::MAX, 3, 100), Err(DecodeError::Filter(_))));
    for bytes in [b"".as_slice(), b"\xff", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"] {
        assert!(Filter::read(Dialect::Nim, bytes).is_err());
        assert!(Filter::read(Dialect::Spec, bytes).is_err());
    }
}

/// A message with an unusable filter is a message.
#[test]
fn a_bad_filter_does_not_refuse_its_message() {
    let with = Message { bloom_filter: Some(filter(3, 10, 1_000, 0, 0).into()), ..message() };
    for dialect in DIALECTS {
        let read = read(&with, dialect).unwrap().message;
        assert!(Filter::read(dialect, read.bloom_filter.as_deref().unwrap()).is_err());
    }
}
