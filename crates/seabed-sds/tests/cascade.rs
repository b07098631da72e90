//! A message that frees more than a batch of the kernel holds is committed, and so is all that it frees.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failure is the test's")]

mod common;

use std::sync::Arc;

use common::{START_MS, clock, manager};
use seabed_kv::Store;
use seabed_sds::core::wire::{self, Dialect};
use seabed_sds::core::{HistoryEntry, Message};
use seabed_sds::{KernelStore, SdsManager};

fn message(channel: &str, id: &str, lamport: u64, causes: &[String], content: Vec<u8>) -> Vec<u8> {
    let cause = |id: &String| HistoryEntry { message_id: id.as_str().into(), ..HistoryEntry::default() };
    let message = Message {
        sender_id: "bob".into(),
        message_id: id.into(),
        channel_id: channel.into(),
        lamport: Some(START_MS / 1_000 + lamport),
        causal_history: causes.iter().map(cause).collect(),
        content: Some(content.into()),
        ..Message::default()
    };
    wire::encode(&message, Dialect::Nim)
}

/// Does what is due at once.
fn go_on(alice: &SdsManager) {
    let mut ticks = 0;
    while alice.next_due_ms().is_some_and(|due_ms| due_ms <= START_MS) {
        alice.tick().wait().unwrap();
        ticks += 1;
        assert!(ticks < 100, "something is due for ever");
    }
}

#[test]
fn what_a_message_frees_may_be_more_than_a_batch() {
    let (store, clock) = (Store::memory(), clock());
    let alice = manager("alice", Arc::new(KernelStore::open(&store).wait().unwrap()), &clock);
    let root = ["root".to_owned()];
    for number in 0..14 {
        let waits = message("room", &format!("m{number:02}"), 1 + number, &root, vec![7; 1024 * 1024]);
        alice.receive(waits).wait().unwrap();
    }
    assert_eq!(alice.status("room").wait().unwrap().unwrap().waiting, 14);
    alice.receive(message("room", "root", 0, &[], b"x".to_vec())).wait().unwrap();
    let log = || alice.status("room").wait().unwrap().unwrap().log;
    assert!((2..14).contains(&log()), "{}", log());
    go_on(&alice);
    assert_eq!(log(), 15);
    assert_eq!(common::state(&alice, "room").unwrap().due_ms, None);
}

/// Ids of a kilobyte, the longest that are read: rows weigh ten times as much as usual.
#[test]
fn long_names_fill_a_batch_sooner() {
    let (store, clock) = (Store::memory(), clock());
    let alice = manager("alice", Arc::new(KernelStore::open(&store).wait().unwrap()), &clock);
    let room = format!("{:0>1024}", "room");
    let ghosts: Vec<String> = (0..20).map(|number| format!("{number:0>1024}")).collect();
    for number in 0..400 {
        let waits = message(&room, &format!("{number:m>1024}"), number, &ghosts, b"x".to_vec());
        alice.receive(waits).wait().unwrap();
    }
    for ghost in &ghosts {
        alice.receive(message(&room, ghost, 0, &[], b"x".to_vec())).wait().unwrap();
    }
    go_on(&alice);
    assert_eq!(alice.status(&*room).wait().unwrap().unwrap().log, 420);
}
