//! The contract of the store facade, rule by rule: writes, reads, keys and errors. Each test is named after its rule and runs on
//! SQLite and in memory. What the battery of `seabed_kv::conformance` holds already is run from there, under the name of the rule.
//! `docs/features.md` lists all of them.

#![allow(clippy::unwrap_used, reason = "helpers of tests say what failed by panicking")]

mod facade;

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use facade::{battery, everywhere, open, relaxed};
use seabed_kv::{Applied, Batch, Durability, Error, ErrorKind, Key, KeyBuilder, KeyPart, KeyReader};

// Writes

#[test]
fn put_inserts_and_replaces() {
    battery("a row is put, read and replaced");
}

#[test]
fn delete_answers_whether_the_row_existed() {
    battery("a delete says whether the row was there");
}

#[test]
fn delete_prefix_removes_exactly_what_begins_with_it() {
    battery("a prefix delete removes exactly what begins with it");
}

#[test]
fn a_batch_is_all_or_nothing() {
    battery("a batch is all or nothing");
}

#[test]
fn writes_of_a_batch_take_effect_in_order_and_the_last_on_a_key_wins() {
    battery("writes of a batch take effect in the order given");
}

#[test]
fn empty_payloads_keys_and_categories_are_values() {
    battery("empty keys, payloads and categories are values");
}

#[test]
fn a_dropped_op_writes_all_the_same_in_call_order() {
    battery("dropped writes happen, in the order of the calls");
}

#[test]
fn a_dropped_write_is_seen_from_the_next_awaited_write_on() {
    everywhere(|store| {
        let tenant = open(store);
        for round in 0..50_u8 {
            drop(relaxed(&tenant, b"dropped", &[round]));
            drop(tenant.put("c", b"durable", [round]));
            // Of another row, and relaxed: only the order of the calls makes them visible.
            relaxed(&tenant, b"awaited", &[round]).wait().unwrap();
            for key in [&b"dropped"[..], b"durable", b"awaited"] {
                assert_eq!(tenant.get("c", key).wait().unwrap(), Some(vec![round]));
            }
        }
    });
}

#[test]
fn an_awaited_write_is_seen_by_every_later_read() {
    battery("an acknowledged write is seen by every later read");
}

/// Notes what is logged on this thread.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<String>>);

impl tracing::Subscriber for Logged {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut lines = self.0.lock().unwrap();
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            write!(lines, "{field}={value:?} ").unwrap();
        });
        lines.push('\n');
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_failed_write_that_nobody_awaits_is_logged_with_tenant_and_key_and_counted() {
    everywhere(|store| {
        let logged = Logged::default();
        let tenant = open(store);
        tracing::subscriber::with_default(logged.clone(), || {
            drop(tenant.put("c", b"large", vec![0; seabed_kv::limits::PAYLOAD_BYTES_MAX + 1]));
            drop(tenant.put_encoded("c", b"long", "x".repeat(65_536)));
            assert_eq!(tenant.stats().wait().unwrap().unobserved_failures, 2);
            drop(store.put("other", "c", b"elsewhere", b"x"));
            drop(store.delete("other", "c", b"gone"));
        });
        let lines = logged.0.lock().unwrap();
        let expected = [("t", "large"), ("t", "long"), ("other", "elsewhere"), ("other", "gone")];
        assert_eq!(lines.lines().count(), expected.len(), "{lines}");
        for ((tenant, key), line) in expected.into_iter().zip(lines.lines()) {
            assert!(line.contains(&format!("tenant {tenant}:")), "{line}");
            assert!(line.contains(&format!("category \"c\", key \"{key}\"")), "{line}");
        }
    });
}

// Reads

#[test]
fn scans_go_both_ways_over_half_open_open_ended_and_prefix_ranges() {
    battery("scans go both ways over half-open, open-ended and prefix ranges");
}

#[test]
fn count_and_lookups_agree_with_the_scan() {
    battery("scans, counts and lookups agree over rows of any size");
}

#[test]
fn categories_and_tenants_never_see_each_other() {
    battery("categories and tenants do not see each other");
}

// Keys and payloads

/// A structure, field by field.
struct Entry {
    sender: String,
    lamport: i64,
    digest: Vec<u8>,
}

impl KeyPart for Entry {
    fn append_to(&self, key: &mut KeyBuilder) {
        (&self.sender, self.lamport, &self.digest).append_to(key);
    }
}

impl Entry {
    fn read(payload: &[u8]) -> Option<Self> {
        let mut fields = KeyReader::new(payload);
        let entry =
            Self { sender: fields.str()?.into(), lamport: fields.int()?, digest: fields.bytes()?.into() };
        fields.rest().is_empty().then_some(entry)
    }
}

#[test]
fn payloads_use_the_encoders_of_keys() {
    everywhere(|store| {
        let tenant = open(store);
        let entry = Entry { sender: "alice".into(), lamport: -7, digest: vec![0, 255] };
        tenant.put_encoded("c", b"entry", &entry).wait().unwrap();
        let payload = tenant.get("c", b"entry").wait().unwrap().unwrap();
        assert_eq!(payload, b"\x00\x05alice\x7f\xff\xff\xff\xff\xff\xff\xf9\x00\x02\x00\xff");
        let read = Entry::read(&payload).unwrap();
        assert_eq!((read.sender, read.lamport, read.digest), (entry.sender, entry.lamport, entry.digest));

        let embedded = Key::of(("id", true)).unwrap();
        let mut batch = Batch::new();
        batch.put_encoded("c", b"number", 1_u32).unwrap().put_encoded("c", b"key", &embedded).unwrap();
        assert!(tenant.apply(batch, Durability::Durable).wait().unwrap().is_applied());
        assert_eq!(tenant.get("c", b"number").wait().unwrap(), Some(vec![0, 0, 0, 0, 0, 0, 0, 1]));
        assert_eq!(tenant.get("c", b"key").wait().unwrap(), Some(embedded.into_bytes()));
        // A number is eight bytes whatever its type, so what one machine wrote another reads.
        store.put_encoded("t", "c", b"number", 1_u64).wait().unwrap();
        assert_eq!(KeyReader::new(&tenant.get("c", b"number").wait().unwrap().unwrap()).uint(), Some(1));
    });
}

#[test]
fn a_component_longer_than_its_length_can_say_is_refused_and_nothing_is_written() {
    everywhere(|store| {
        let tenant = open(store);
        let long = "x".repeat(65_536);
        let mut batch = Batch::new();
        batch.put("c", b"before", b"x");
        let before = batch.clone();
        let errors: [Error; 3] = [
            tenant.put_encoded("c", b"k", &long).wait().unwrap_err(),
            store.put_encoded("t", "c", b"k", ("a", long.as_bytes())).wait().unwrap_err(),
            batch.put_encoded("c", b"k", &long).unwrap_err(),
        ];
        for error in errors {
            assert_eq!((error.kind(), error.applied()), (ErrorKind::InvalidArgument, Applied::No));
            assert!(
                error.to_string().contains("key \"k\"") && error.to_string().contains("65535"),
                "{error}"
            );
        }
        assert_eq!(batch, before);
        assert!(tenant.categories().wait().unwrap().is_empty());
        tenant.put_encoded("c", b"k", &long[1..]).wait().unwrap();
        assert_eq!(tenant.get("c", b"k").wait().unwrap().unwrap().len(), 65_537);
    });
}

// Errors

#[test]
fn there_are_eight_kinds_of_error() {
    let kinds = [
        (ErrorKind::InvalidArgument, "invalid argument", false),
        (ErrorKind::TenantNotFound, "tenant not found", false),
        (ErrorKind::Closed, "closed", false),
        (ErrorKind::Busy, "busy", true),
        (ErrorKind::Timeout, "timeout", true),
        (ErrorKind::Unsupported, "unsupported", false),
        (ErrorKind::Corrupt, "corrupt", false),
        (ErrorKind::Backend, "backend failure", false),
    ];
    for (kind, text, retryable) in kinds {
        let error = Error::new(kind, "why");
        assert_eq!((kind.to_string().as_str(), error.is_retryable()), (text, retryable));
        assert!(!error.unknown().is_retryable(), "what may have been applied is not simply tried again");
    }
    let source = include_str!("../src/error.rs");
    let listed = source.split("pub enum ErrorKind {").nth(1).unwrap().split("\n}").next().unwrap();
    assert_eq!(listed.lines().filter(|line| line.ends_with(',')).count(), kinds.len());
}
