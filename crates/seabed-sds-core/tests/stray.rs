//! Rows of own messages that a commit in parts has left behind, because it was cut off.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a failure is the test's")]

mod common;

use std::sync::Arc;

use common::{Peer, START_MS, encode, message};
use seabed_sds_core::{Key, Message, Record};

/// Puts a message into a row of its own, as if the log had forgotten it.
fn keep(peer: &mut Peer, number: u64, message: Message) {
    let row = Record::Kept { number, message: Arc::new(message) };
    peer.rows.insert(row.key().to_bytes(), row.to_bytes());
}

fn said(peer: &Peer, id: &str) -> Message {
    let found = peer.channel.log().find(|entry| entry.message.message_id == id.into());
    Message::clone(&found.expect("a message of the log").message)
}

fn kept(peer: &Peer) -> usize {
    peer.rows_of(|key| matches!(key, Key::Kept(_)))
}

#[test]
fn a_message_that_is_in_the_log_and_in_a_row_of_its_own_can_be_acknowledged_or_given_up() {
    for acknowledged in [true, false] {
        let mut alice = Peer::nim_dialect("alice");
        alice.send("a1");
        let twice = said(&alice, "a1");
        keep(&mut alice, 0, twice);
        alice.restart();
        if acknowledged {
            alice.hear(&encode(&message("bob", "b1", START_MS / 1_000, &["a1"])));
        } else {
            while !alice.unacknowledged().is_empty() {
                alice.tick_when_due();
            }
        }
        assert_eq!((alice.unacknowledged().len(), kept(&alice)), (0, 0));
        alice.restart();
        alice.send("a2");
        alice.restart();
        assert_eq!(alice.unacknowledged(), ["a2"]);
    }
}

#[test]
fn a_row_of_a_message_that_nobody_wants_any_more_is_deleted_and_its_number_not_used_before() {
    let mut alice = Peer::nim_dialect("alice");
    alice.send("a1");
    for number in 0..600 {
        keep(&mut alice, number, message("alice", "long ago", START_MS / 1_000, &[]));
    }
    alice.restart();
    assert_eq!(alice.unacknowledged(), ["a1"]);
    let mut left = Vec::new();
    while kept(&alice) > 0 {
        alice.send(&format!("a{}", left.len() + 2));
        assert!(alice.changes < 300, "a bounded part: {}", alice.changes);
        alice.restart();
        left.push(kept(&alice));
    }
    assert_eq!(left, [344, 88, 0]);
    assert_eq!(alice.unacknowledged(), ["a1", "a2", "a3", "a4"]);
    assert_eq!(alice.rows_of(|key| *key == Key::Outgoing(600)), 1);
}

#[test]
fn a_message_that_is_nowhere_is_missing() {
    let mut alice = Peer::nim_dialect("alice");
    alice.send("a1");
    alice.rows.retain(|key, _| !matches!(Key::from_bytes(key), Ok(Key::Log(..))));
    keep(&mut alice, 0, message("alice", "another", START_MS / 1_000, &[]));
    let records = alice.rows.iter().map(|(key, value)| Record::from_bytes(key, value).expect("a row"));
    let records: Vec<Record> = records.collect();
    let config = alice.channel.config().clone();
    let loaded = seabed_sds_core::Channel::load("room".into(), "alice".into(), config, records, START_MS);
    assert!(loaded.is_err_and(|error| error.to_string().contains("without its state")));
}
