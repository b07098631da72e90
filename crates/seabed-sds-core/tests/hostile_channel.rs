//! Messages that are made to harm a channel (sds.md section 24): each is refused or bounded, and the bound is named.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a failure is the test's")]

mod common;

use common::{Peer, START_MS, encode, entry, message};
use seabed_sds_core::bloom::Filter;
use seabed_sds_core::wire::{Dialect, encode as encode_in};
use seabed_sds_core::{Config, Error, Event, Input, Limit, Message, Reception};

const NOW_S: u64 = START_MS / 1_000;

fn limits(peer: &Peer) -> Vec<Limit> {
    let events = peer.events().into_iter();
    events
        .filter_map(|event| if let Event::LimitHit { limit, .. } = event { Some(limit) } else { None })
        .collect()
}

#[test]
fn a_lamport_value_at_the_end_of_time_stops_nobody() {
    for profile in [Config::seabed(Dialect::Nim), Config::nim()] {
        let mut alice = Peer::new("alice", profile);
        for lamport in [u64::MAX, 1 << 63] {
            let wire = encode(&message("mallory", "m", lamport, &[]));
            let refused = alice.handle(Input::Receive { wire: &wire, retrieval_hint: None });
            assert!(matches!(refused, Err(Error::Deserialization(_))), "{refused:?}");
        }
        let last = (1 << 63) - 1;
        assert_eq!(alice.hear(&encode(&message("mallory", "m", last, &[]))), Reception::Delivered);
        alice.send("a1");
        assert!(alice.channel.lamport() <= last);
        alice.send("a2");
    }
}

#[test]
fn a_filter_made_to_acknowledge_everything_acknowledges_nothing() {
    // Field by field: words, capacity, error rate, hashes, bits.
    let filter = |hashes: &[u8], bits: &[u8], words: usize| {
        let mut bytes = vec![0x0a, u8::try_from(words * 8).expect("short")];
        bytes.resize(2 + words * 8, 0xff);
        bytes.extend([0x10, 1, 0x18, 1, 0x20]);
        bytes.extend(hashes);
        bytes.push(0x28);
        bytes.extend(bits);
        bytes
    };
    let mut alice = Peer::nim_dialect("alice");
    alice.send("a1");
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for (number, bytes) in [
        filter(&[0], &[64], 2),
        filter(&huge, &[64], 2),
        filter(&[10], &[0], 2),
        filter(&[10], &huge, 2),
        filter(&[10], &[100], 1),
        filter(&[10], &[100], 0),
        b"nonsense".to_vec(),
    ]
    .into_iter()
    .enumerate()
    {
        let said = message("mallory", &format!("m{number}"), NOW_S, &[]);
        assert_eq!(
            alice.hear(&encode(&Message { bloom_filter: Some(bytes.into()), ..said })),
            Reception::Delivered
        );
        assert_eq!(alice.unacknowledged(), ["a1"], "filter {number}");
    }
}

#[test]
fn messages_that_wait_for_ghosts_are_bounded() {
    let mut config = Config::seabed(Dialect::Nim);
    config.limits.incoming_messages_max = 50;
    config.limits.repairs_out_max = 30;
    let mut alice = Peer::new("alice", config);
    for number in 0..500_u64 {
        let ghost = format!("ghost{number}");
        alice.hear(&encode(&message("mallory", &format!("m{number}"), NOW_S + number, &[&ghost])));
    }
    assert_eq!((alice.channel.incoming().count(), alice.missing().len()), (50, 50));
    let asked = alice.channel.missing().filter(|missing| missing.request_due_ms.is_some());
    assert_eq!(asked.count(), 30);
    assert_eq!(limits(&alice), [Limit::IncomingMessages]);
    assert_eq!(
        alice.hear(&encode(&message("mallory", "m499", NOW_S, &["ghost499"]))),
        Reception::Buffered,
        "it was not kept"
    );
    assert_eq!(alice.hear(&encode(&message("mallory", "high", NOW_S + 900, &["ghost"]))), Reception::Dropped);
    assert!(alice.waiting().contains(&"m0".to_owned()), "the one nearest to delivery stays");
    assert!(alice.rows.len() < 250, "{} rows", alice.rows.len());
}

#[test]
fn a_message_that_names_too_many_ghosts_is_dropped() {
    let mut alice = Peer::nim_dialect("alice");
    let ghosts: Vec<String> = (0..257).map(|number| format!("ghost{number}")).collect();
    let ghosts: Vec<&str> = ghosts.iter().map(String::as_str).collect();
    assert_eq!(alice.hear(&encode(&message("mallory", "m1", NOW_S, &ghosts))), Reception::Dropped);
    assert_eq!(limits(&alice), [Limit::MissingIds]);
    assert_eq!((alice.waiting(), alice.missing(), alice.changes), (vec![], vec![], 0));
    assert_eq!(alice.hear(&encode(&message("mallory", "m1", NOW_S, &ghosts[1..]))), Reception::Buffered);
}

#[test]
fn large_waiting_messages_are_bounded_by_bytes() {
    let mut config = Config::seabed(Dialect::Nim);
    config.limits.incoming_bytes_max = 100_000;
    let mut alice = Peer::new("alice", config);
    for number in 0..20_u64 {
        let said = message("mallory", &format!("m{number}"), NOW_S + number, &["ghost"]);
        alice.hear(&encode(&Message { content: Some(vec![1; 20_000].into()), ..said }));
    }
    assert_eq!(alice.waiting().len(), 4);
    assert_eq!(limits(&alice), [Limit::IncomingBytes]);
}

#[test]
fn requests_are_read_up_to_a_bound_and_answers_kept_up_to_another() {
    let mut config = Config::seabed(Dialect::Nim);
    config.limits.repairs_in_max = 3;
    let mut alice = Peer::new("alice", config);
    let ids: Vec<String> = (0..20).map(|number| format!("a{number}")).collect();
    for id in &ids {
        alice.send(id);
    }
    let repair_request = ids.iter().map(|id| entry(id)).collect();
    alice.hear(&encode(&Message { repair_request, ..message("mallory", "m1", NOW_S, &[]) }));
    assert_eq!(limits(&alice)[0], Limit::RequestsRead);
    assert_eq!(limits(&alice)[1..].len(), 13, "sixteen were read, three are kept");
    assert_eq!(alice.channel.answers().count(), 3);
}

#[test]
fn unacknowledged_messages_are_bounded() {
    let mut config = Config::seabed(Dialect::Nim);
    config.limits.outgoing_messages_max = 2;
    let mut alice = Peer::new("alice", config);
    alice.send("a1");
    alice.send("a2");
    assert_eq!(alice.try_send("a3"), Err(Error::Backpressure(2)));
    alice.hear(&encode(&message("bob", "b1", NOW_S, &["a1"])));
    alice.send("a3");
}

#[test]
fn messages_that_wait_for_each_other_or_for_themselves_harm_nobody() {
    let mut alice = Peer::nim_dialect("alice");
    assert_eq!(alice.hear(&encode(&message("mallory", "self", NOW_S, &["self"]))), Reception::Delivered);
    assert_eq!(alice.hear(&encode(&message("mallory", "one", NOW_S, &["other"]))), Reception::Buffered);
    assert_eq!(alice.hear(&encode(&message("mallory", "other", NOW_S, &["one"]))), Reception::Buffered);
    assert_eq!(alice.missing(), Vec::<String>::new());
    alice.restart();
    assert_eq!(alice.hear(&encode(&message("bob", "b1", NOW_S, &[]))), Reception::Delivered);
    alice.mark_met(&["one"]);
    assert_eq!(alice.told(), ["delivered other", "delivered one"]);
}

#[test]
fn the_dialect_of_others_is_read_with_its_own_hashes() {
    let mut alice = Peer::nim_dialect("alice");
    alice.send("a1");
    let mut filter = Filter::new(Dialect::Spec, 10_000, 0.001);
    filter.insert(b"a1");
    let said = Message { bloom_filter: Some(filter.to_bytes().into()), ..message("js", "j1", NOW_S, &[]) };
    assert_eq!(alice.hear(&encode_in(&said, Dialect::Spec)), Reception::Delivered);
    assert_eq!(alice.told(), ["acknowledged a1", "delivered j1"]);
}
