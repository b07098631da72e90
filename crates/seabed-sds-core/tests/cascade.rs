//! What waits may be more than a store takes in one batch: an operation delivers so much and the next ones the rest, in the same order.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a failure is the test's")]

mod common;

use std::sync::Arc;

use common::{Peer, START_MS, encode, message};
use seabed_sds_core::bloom::Filter;
use seabed_sds_core::wire::Dialect;
use seabed_sds_core::{Channel, Config, Error, Input, Message, MessageId, Reception};

const NOW_S: u64 = START_MS / 1_000;

/// What a batch of the kernel holds.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
const BATCH_ROWS_MAX: usize = 65_536;

/// Does what is due at once, and gives what was told, operation by operation. The participant ends and begins again before each.
fn go_on(peer: &mut Peer) -> Vec<Vec<String>> {
    let mut told = vec![peer.told()];
    assert_fits(peer);
    while peer.channel.next_due().is_some_and(|due_ms| due_ms <= peer.now_ms) {
        let due_ms = peer.channel.next_due();
        peer.restart();
        assert_eq!(peer.channel.next_due(), due_ms, "a restart changes nothing");
        peer.tick();
        assert_fits(peer);
        told.push(peer.told());
    }
    told
}

fn assert_fits(peer: &Peer) {
    assert!(peer.changes < BATCH_ROWS_MAX && peer.changed_bytes < BATCH_BYTES_MAX, "{}", peer.changed_bytes);
}

/// Two chains and some more, of which all wait for `root`.
fn waiting(content_bytes: usize) -> Vec<Message> {
    let causes = |number: u64| match number {
        0..4 => vec!["root".to_owned()],
        number => vec!["root".to_owned(), format!("m{}", number - 3)],
    };
    (0..12)
        .map(|number| {
            let causes = causes(number);
            let causes: Vec<&str> = causes.iter().map(String::as_str).collect();
            // Those that are free first are not the lowest.
            let stamp = NOW_S + (number * 7) % 12 + number / 4 * 20;
            let content = vec![u8::try_from(number).expect("few"); content_bytes];
            Message { content: Some(content.into()), ..message("bob", &format!("m{number}"), stamp, &causes) }
        })
        .collect()
}

fn delivered(mut peer: Peer, content_bytes: usize) -> (Vec<Vec<String>>, Peer) {
    for said in waiting(content_bytes) {
        assert_eq!(peer.hear(&encode(&said)), Reception::Buffered);
    }
    assert_eq!(peer.hear(&encode(&message("bob", "root", NOW_S, &[]))), Reception::Delivered);
    (go_on(&mut peer), peer)
}

#[test]
fn more_than_a_batch_is_delivered_in_the_order_of_one_operation() {
    let (at_once, small) = delivered(Peer::nim_dialect("alice"), 10);
    assert_eq!((at_once.len(), at_once[0].len()), (1, 13), "{at_once:?}");
    let (in_parts, large) = delivered(Peer::nim_dialect("alice"), 900 * 1024);
    assert!(in_parts.len() > 2, "{in_parts:?}");
    assert_eq!(in_parts.concat(), at_once.concat());
    assert_eq!(large.log(), small.log());
    assert_eq!((large.waiting(), large.channel.next_due()), (vec![], None));
}

#[test]
fn a_message_that_comes_in_between_is_delivered_and_the_rest_goes_on() {
    let mut alice = Peer::nim_dialect("alice");
    for said in waiting(900 * 1024) {
        alice.hear(&encode(&said));
    }
    alice.hear(&encode(&message("bob", "root", NOW_S, &[])));
    let before = alice.told().len();
    assert!(before < 13, "it was too much for one operation: {:?}", alice.told());
    assert_eq!(alice.hear(&encode(&message("carol", "c1", NOW_S, &[]))), Reception::Delivered);
    assert_eq!(alice.told()[0], "delivered c1");
    let after: usize = go_on(&mut alice).iter().map(Vec::len).sum();
    assert_eq!(before + after, 14);
    assert_eq!(alice.log().len(), 14);
}

#[test]
fn in_profile_nim_the_rest_goes_on_at_the_next_tick() {
    let (at_once, _) = delivered(Peer::new("alice", Config::nim()), 10);
    assert_eq!(at_once.len(), 1, "whole, as long as it is not too much: {at_once:?}");
    let (in_parts, alice) = delivered(Peer::new("alice", Config::nim()), 900 * 1024);
    assert!(in_parts.len() > 2, "{in_parts:?}");
    let sorted = |told: &[Vec<String>]| {
        let mut told = told.concat();
        told.sort();
        told
    };
    assert_eq!(sorted(&in_parts), sorted(&at_once));
    assert_eq!((alice.waiting(), alice.log().len()), (vec![], 13));
}

/// So many messages, which all wait for the same hundred others.
fn crowd(peer: &mut Peer, messages: u64) -> Vec<String> {
    let ghosts: Vec<String> = (0..100).map(|number| format!("ghost{number}")).collect();
    let causes: Vec<&str> = ghosts.iter().map(String::as_str).collect();
    for number in 0..messages {
        let said = message("mallory", &format!("m{number:03}"), NOW_S + number, &causes);
        assert_eq!(peer.hear(&encode(&said)), Reception::Buffered);
    }
    ghosts
}

#[test]
fn many_lost_dependencies_are_given_up_in_parts_and_then_all_is_delivered_in_order() {
    let mut alice =
        Peer::new("alice", Config { dependency_timeout_ms: Some(600_000), ..Config::seabed(Dialect::Nim) });
    crowd(&mut alice, 600);
    alice.now_ms += 600_000;
    alice.tick();
    let told = go_on(&mut alice);
    assert!(told.len() > 3, "sixty thousand rows: {}", told.len());
    let told: Vec<String> = told.concat();
    let lost: usize =
        told.iter().filter(|line| line.starts_with("lost")).map(|line| line.split(' ').count() - 1).sum();
    assert_eq!(lost, 100);
    let delivered: Vec<&String> = told.iter().filter(|line| line.starts_with("delivered")).collect();
    let expected: Vec<String> =
        (0..600).map(|number| format!("delivered m{number:03} after a gap")).collect();
    assert!(delivered.into_iter().eq(expected.iter()));
    assert_eq!((alice.waiting(), alice.missing()), (vec![], vec![]));
}

#[test]
fn marking_more_than_a_batch_holds_is_refused_and_in_parts_it_is_done() {
    let mut alice = Peer::nim_dialect("alice");
    let ghosts = crowd(&mut alice, 600);
    let ids: Vec<MessageId> = ghosts.iter().map(|ghost| ghost.as_str().into()).collect();
    let refused = alice.handle(Input::MarkDependenciesMet { message_ids: &ids });
    assert!(matches!(refused, Err(Error::TooMuch { count_max: 49_152, .. })), "{refused:?}");
    assert_eq!(alice.missing().len(), 100, "nothing has changed");
    for part in ghosts.chunks(50) {
        let part: Vec<&str> = part.iter().map(String::as_str).collect();
        alice.mark_met(&part);
        assert_fits(&alice);
    }
    go_on(&mut alice);
    assert_eq!((alice.waiting(), alice.log().len()), (vec![], 600));

    let long: Vec<MessageId> = (0..3_000).map(|number| format!("{number:0>1024}").as_str().into()).collect();
    let refused = alice.handle(Input::MarkDependenciesMet { message_ids: &long });
    assert!(matches!(refused, Err(Error::TooMuch { count_max: 5_242_880, .. })), "{refused:?}");
    let short: Vec<MessageId> = (0..10_000).map(|number| format!("{number:0>64}").as_str().into()).collect();
    assert!(alice.handle(Input::MarkDependenciesMet { message_ids: &short }).is_ok());
    assert_fits(&alice);
}

#[test]
fn more_acknowledgements_than_a_batch_holds_are_taken_from_several_messages() {
    let mut alice = Peer::nim_dialect("alice");
    let mut filter = Filter::sized_for(9_000, 0.001);
    for number in 0..9_000 {
        let id = format!("a{number}");
        alice.send(&id);
        filter.insert(id.as_bytes());
    }
    let bloom_filter: Option<Arc<[u8]>> = Some(filter.to_bytes().into());
    // Of 16,384 rows the 8,000 messages that the log has forgotten take two each, and those that it has one.
    for (id, left) in [("b1", 9_000 - 8_000 - 384), ("b2", 0)] {
        let said = Message { bloom_filter: bloom_filter.clone(), ..message("bob", id, NOW_S + 9_999, &[]) };
        assert_eq!(alice.hear(&encode(&said)), Reception::Delivered);
        assert_fits(&alice);
        assert_eq!(alice.unacknowledged().len(), left);
    }
}

#[test]
fn a_log_that_became_shorter_forgets_unacknowledged_messages_in_parts() {
    let mut alice = Peer::nim_dialect("alice");
    let content = vec![b'x'; 900 * 1024];
    let send = |alice: &mut Peer, id: &str, content: &[u8]| {
        alice.handle(Input::Send { message_id: &id.into(), content, hints: &[] }).expect("sent");
        assert_fits(alice);
    };
    for number in 0..12 {
        send(&mut alice, &format!("a{number}"), &content);
    }
    let mut config = alice.channel.config().clone();
    config.limits.log_messages_max = 3;
    config.causal_history = 2;
    let records: Vec<_> = alice.channel.records().collect();
    alice.channel =
        Channel::load("room".into(), "alice".into(), config, records, alice.now_ms).expect("a state");
    // Of 2 MiB a large message leaves room for two others, a small one for three.
    let mut lengths = Vec::new();
    while alice.log().len() > 3 {
        let number = lengths.len();
        send(&mut alice, &format!("short {number}"), if number == 0 { &content } else { b"x" });
        lengths.push(alice.log().len());
        alice.restart();
    }
    assert_eq!(lengths, [11, 9, 7, 5, 3]);
    assert_eq!(alice.unacknowledged().len(), 17);
}

#[test]
fn a_log_does_not_grow_when_an_operation_is_full() {
    let mut config = Config::seabed(Dialect::Nim);
    (config.limits.log_messages_max, config.causal_history) = (2, 1);
    let mut alice = Peer::new("alice", config);
    for said in waiting(900 * 1024) {
        alice.hear(&encode(&said));
    }
    alice.hear(&encode(&message("bob", "root", NOW_S, &[])));
    assert!(alice.channel.next_due() <= Some(alice.now_ms), "it was too much for one operation");
    assert_eq!(alice.log().len(), 2);
}
