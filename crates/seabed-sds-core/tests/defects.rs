//! What a review has found, each by a test that shows it.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a failure is the test's")]

mod common;

use common::{Peer, START_MS, decode, encode, entry, message};
use seabed_sds_core::bloom::Filter;
use seabed_sds_core::wire::{self, Dialect, ReadDialect, encode as encode_in};
use seabed_sds_core::{
    BloomAckThreshold, Config, DecodeError, Error, HistoryEntry, Input, Message, MessageId, Reception,
};

const NOW_S: u64 = START_MS / 1_000;

fn seabed() -> Config {
    Config::seabed(Dialect::Nim)
}

/// Section 14: an own sync message that was forgotten satisfies those that wait for it.
#[test]
fn an_own_sync_message_that_comes_back_settles_what_waits_for_it() {
    let mut alice = Peer::nim_dialect("alice");
    assert_eq!(alice.hear(&encode(&message("nim", "n1", NOW_S, &["sync-1"]))), Reception::Buffered);
    let sync = Message { content: None, ..message("alice", "sync-1", NOW_S, &[]) };
    assert_eq!(alice.hear(&encode(&sync)), Reception::Duplicate);
    assert_eq!(alice.told(), ["delivered n1"]);
    assert_eq!((alice.waiting(), alice.missing()), (vec![], vec![]));
}

/// Section 15: whatever id an ephemeral message has.
#[test]
fn an_ephemeral_message_changes_nothing() {
    let mut alice = Peer::nim_dialect("alice");
    alice.hear(&encode(&message("bob", "b2", NOW_S, &["b1"])));
    alice.hear(&encode(&message("bob", "known", NOW_S, &[])));
    let asks = Message { repair_request: vec![entry("known")], ..message("dave", "d1", NOW_S, &[]) };
    alice.hear(&encode(&asks));
    assert_eq!(alice.channel.answers().count(), 1);
    alice.now_ms += 60 * 60_000;
    let before = (alice.missing(), alice.channel.next_due(), alice.rows.clone());
    for (id, reception) in [("b1", Reception::Ephemeral), ("known", Reception::Duplicate)] {
        let ephemeral = Message { lamport: None, ..message("bob", id, 0, &[]) };
        assert_eq!(alice.hear(&encode(&ephemeral)), reception);
        assert_eq!(alice.changes, 0, "{id}");
    }
    assert_eq!((alice.missing(), alice.channel.next_due(), alice.rows.clone()), before);
}

/// Section 13: a message that came and could not be kept is missing since it was missed first.
#[test]
fn a_message_that_was_dropped_is_given_up_in_time() {
    let config = Config { dependency_timeout_ms: Some(600_000), ..seabed() };
    let mut alice = Peer::new("alice", config);
    alice.hear(&encode(&message("bob", "b2", NOW_S, &["b1"])));
    let ghosts: Vec<String> = (0..257).map(|number| format!("ghost{number}")).collect();
    let ghosts: Vec<&str> = ghosts.iter().map(String::as_str).collect();
    alice.now_ms += 500_000;
    assert_eq!(alice.hear(&encode(&message("bob", "b1", NOW_S, &ghosts))), Reception::Dropped);
    alice.restart();
    alice.now_ms = START_MS + 600_000;
    alice.tick();
    assert_eq!(alice.told(), ["lost b1", "delivered b2 after a gap"]);
}

/// Sections 13 and 24: of too many requests the last is not made, and what it was for is given up in time like the others.
#[test]
fn what_is_not_asked_for_is_given_up_in_time() {
    let mut config = Config { dependency_timeout_ms: Some(600_000), ..seabed() };
    config.limits.repairs_out_max = 2;
    let mut alice = Peer::new("alice", config);
    alice.hear(&encode(&message("bob", "b1", NOW_S, &["x1", "x2", "x3", "x4", "x5"])));
    assert_eq!(alice.told().iter().filter(|told| told.starts_with("limit RepairsOut")).count(), 3);
    let asked =
        |alice: &Peer| alice.channel.missing().filter(|missing| missing.request_due_ms.is_some()).count();
    assert_eq!((asked(&alice), alice.missing().len()), (2, 5));
    alice.restart();
    alice.now_ms += 600_000;
    alice.tick();
    assert_eq!(alice.told(), ["lost x1 x2 x3 x4 x5", "delivered b1 after a gap"]);
}

/// Sections 17.1 and 27.8: else what was not asked for would be missing for ever.
#[test]
fn what_was_not_asked_for_is_asked_for_when_there_is_room() {
    let mut config = seabed();
    config.limits.repairs_out_max = 1;
    let mut alice = Peer::new("alice", config);
    alice.hear(&encode(&message("bob", "b1", NOW_S, &["x1", "x2", "x3"])));
    for left in [2, 1, 0] {
        alice.restart();
        alice.now_ms += 1_000_000;
        let asked = decode(&alice.send(&format!("a{left}"))).repair_request;
        assert_eq!(asked.len(), 1, "{left} left");
        alice.hear(&encode(&message("bob", &asked[0].message_id.to_string(), NOW_S, &[])));
        assert_eq!(alice.missing().len(), left);
    }
    assert!(alice.told().contains(&"delivered b1".to_owned()), "{:?}", alice.told());
}

/// Section 24: the bound on missing messages holds for sync messages, whose other news is taken all the same.
#[test]
fn a_sync_message_that_names_too_many_ghosts_makes_nothing_missing() {
    let mut alice = Peer::nim_dialect("alice");
    alice.send("a1");
    let ghosts: Vec<String> = (0..257).map(|number| format!("ghost{number}")).collect();
    let mut causes: Vec<&str> = ghosts.iter().map(String::as_str).collect();
    causes.push("a1");
    let sync =
        |id: &str, causes: &[&str]| encode(&Message { content: None, ..message("bob", id, NOW_S, causes) });
    assert_eq!(alice.hear(&sync("s1", &causes)), Reception::SyncProcessed);
    assert_eq!(alice.told(), ["acknowledged a1", "limit MissingIds s1"]);
    assert_eq!(alice.missing().len(), 0);
    assert_eq!(alice.hear(&sync("s2", &causes[1..257])), Reception::SyncProcessed);
    assert_eq!(alice.missing().len(), 256);
}

/// Section 11: an empty sender counts once per message, not once per copy of it.
#[test]
fn copies_of_a_message_without_a_sender_count_once() {
    let config = Config { bloom_ack_threshold: BloomAckThreshold::Filters(2), ..seabed() };
    let mut alice = Peer::new("alice", config);
    alice.send("a1");
    let mut filter = Filter::sized_for(1, 0.001);
    filter.insert(b"a1");
    let said = |id: &str| {
        let bloom_filter = Some(filter.to_bytes().into());
        encode(&Message { bloom_filter, ..message("", id, NOW_S, &["ghost"]) })
    };
    assert_eq!(alice.hear(&said("u1")), Reception::Buffered);
    assert_eq!(alice.told()[0], "possibly a1 1");
    assert_eq!(alice.hear(&said("u1")), Reception::AlreadyBuffered);
    assert_eq!((alice.told(), alice.changes), (vec![], 0));
    assert_eq!(alice.hear(&said("u2")), Reception::Buffered);
    assert_eq!(alice.told()[0], "acknowledged a1");
}

/// Section 10: what waits for an own message is delivered when that is sent.
#[test]
fn a_message_that_names_what_is_sent_later_is_delivered_then() {
    let mut alice = Peer::nim_dialect("alice");
    assert_eq!(alice.hear(&encode(&message("bob", "b1", NOW_S, &["a1"]))), Reception::Buffered);
    alice.send("a1");
    assert_eq!(alice.told(), ["delivered b1"]);
    assert_eq!((alice.waiting(), alice.missing()), (vec![], vec![]));
    assert_eq!(alice.log(), ["b1", "a1"]);
}

/// Section 24: a manager keeps something for each channel id that it peeks.
#[test]
fn a_channel_id_that_is_peeked_is_bounded_as_one_that_is_read() {
    for dialect in [Dialect::Nim, Dialect::Spec] {
        for (bytes, fits) in [(1_024, true), (1_025, false)] {
            let id = "x".repeat(bytes);
            let said = Message { channel_id: id.as_str().into(), ..message("bob", "b1", NOW_S, &[]) };
            let peeked = encode_in(&said, dialect);
            let peeked = wire::peek_channel_id(&peeked, ReadDialect::Auto);
            if fits {
                assert_eq!(peeked, Ok(id.as_bytes()));
            } else {
                assert_eq!(
                    peeked,
                    Err(DecodeError::TooLong { field: "channel_id", length: 1_025, limit: 1_024 })
                );
            }
        }
    }
}

/// Section 3.2: an id that others refuse is not sent.
#[test]
fn an_id_that_is_not_text_is_not_sent() {
    let id = MessageId::from(b"\xff\xfe".as_slice());
    let send = Input::Send { message_id: &id, content: b"x", hints: &[] };
    let ephemeral = Input::SendEphemeral { message_id: &id, content: b"x" };
    let mut alice = Peer::new("alice", Config::seabed(Dialect::Spec));
    assert_eq!(alice.handle(send), Err(Error::NotUtf8(id.clone())));
    assert_eq!(alice.handle(ephemeral), Err(Error::NotUtf8(id.clone())));
    let mut alice = Peer::new("alice", Config { accepts_any_id: true, ..seabed() });
    assert!(alice.handle(send).is_ok());
}

/// Section 7: what is believed may be named, so the clock follows it all the way; else whatever names it would be sorted before it.
#[test]
fn a_message_that_is_believed_is_older_than_what_names_it() {
    let mut alice = Peer::nim_dialect("alice");
    for (id, hours) in [("c1", 20), ("d1", 40)] {
        let said = message("carol", id, NOW_S + hours * 3_600, &[]);
        assert_eq!(alice.hear(&encode(&said)), Reception::Delivered);
        assert_eq!(alice.told(), [format!("delivered {id}")]);
    }
    let own = decode(&alice.send("a1"));
    assert_eq!(own.causal_history.len(), 2);
    assert!(own.lamport > Some(NOW_S + 40 * 3_600), "{:?}", own.lamport);
    assert_eq!(alice.log(), ["c1", "d1", "a1"]);
}

/// Section 7: a stamp that looks like the other unit is told of.
#[test]
fn a_stamp_of_the_other_unit_is_told_of() {
    let mut spec = Peer::new("alice", Config::seabed(Dialect::Spec));
    let seconds = message("bob", "b1", NOW_S, &[]);
    assert_eq!(spec.hear(&encode_in(&seconds, Dialect::Spec)), Reception::Delivered);
    assert_eq!(spec.told(), ["anomaly b1", "delivered b1"]);
    let mut nim = Peer::new("alice", Config { lamport_ahead_ms_max: None, ..seabed() });
    assert_eq!(nim.hear(&encode(&message("bob", "b1", START_MS, &[]))), Reception::Delivered);
    assert_eq!(nim.told(), ["anomaly b1", "delivered b1"]);
    let mut profile = Peer::new("alice", Config::nim());
    profile.hear(&encode(&message("bob", "b1", START_MS, &[])));
    assert_eq!(profile.told(), ["delivered b1"]);
}

/// Section 17.1: what one message tells of a missing one and another does not is not forgotten for what the other tells.
#[test]
fn what_is_known_of_a_missing_message_adds_up() {
    let mut alice = Peer::nim_dialect("alice");
    let names = |id: &str, cause: HistoryEntry| {
        encode(&Message { causal_history: vec![cause], ..message("bob", id, NOW_S, &[]) })
    };
    alice.hear(&names("b1", HistoryEntry { sender_id: Some("carol".into()), ..entry("x") }));
    alice.hear(&names("b2", HistoryEntry { retrieval_hint: Some(b"where".as_slice().into()), ..entry("x") }));
    let missing: Vec<HistoryEntry> = alice.channel.missing().map(|missing| missing.entry.clone()).collect();
    let all = HistoryEntry {
        message_id: "x".into(),
        retrieval_hint: Some(b"where".as_slice().into()),
        sender_id: Some("carol".into()),
    };
    assert_eq!(missing, [all]);
}

/// Section 5: a message that was dropped is in no filter that is sent, before and after a restart.
#[test]
fn a_dropped_message_is_not_in_the_filter() {
    let mut config = seabed();
    config.limits.incoming_messages_max = 1;
    let mut alice = Peer::new("alice", config);
    alice.hear(&encode(&message("bob", "high", NOW_S + 9, &["x"])));
    alice.hear(&encode(&message("bob", "low", NOW_S, &["x"])));
    assert_eq!(alice.waiting(), ["low"]);
    let rows = alice.rows.clone();
    let filter = |peer: &mut Peer| {
        let bytes = decode(&peer.sync()).bloom_filter.expect("a filter");
        Filter::read(Dialect::Nim, &bytes).expect("a filter")
    };
    alice.hear(&encode(&message("bob", "b0", NOW_S, &[])));
    let sent = filter(&mut alice);
    assert!(sent.contains(b"low") && !sent.contains(b"high"));
    alice.rows = rows;
    alice.restart();
    alice.hear(&encode(&message("bob", "b0", NOW_S, &[])));
    assert_eq!(filter(&mut alice), sent);
}
