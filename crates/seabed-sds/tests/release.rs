//! Commit, then release: what leaves, when, and what an operation that fails or is dropped leaves behind.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use common::{Faulty, best_effort, broadcasts, clock, delivered, drain, manager, state};
use seabed_sds::contract::{ChannelBatch, ChannelStore, MemoryStore, StoreResult, async_trait};
use seabed_sds::core::{ChannelId, Reception, Record};
use seabed_sds::{EVENTS_BYTES_MAX, ErrorKind, Receipt, What};
use tokio::sync::Notify;

#[test]
fn an_operation_is_one_commit_and_one_that_changes_nothing_is_none() {
    let (clock, store) = (clock(), Faulty::new());
    let (alice, bob) = (manager("alice", Faulty::new(), &clock), manager("bob", store.clone(), &clock));
    let first = alice.send("room", "m1", b"one").wait().unwrap().release().wire;
    let second = alice.send("room", "m2", b"two").wait().unwrap().release().wire;
    let third = alice.send("room", "m3", b"three").wait().unwrap().release().wire;

    bob.receive(third.clone()).wait().unwrap();
    assert_eq!(store.commits(), 1, "a message that waits");
    bob.receive(second).wait().unwrap();
    assert_eq!(store.commits(), 2);
    bob.receive(first).wait().unwrap();
    assert_eq!(store.commits(), 3, "three messages were delivered in one operation");
    assert_eq!(bob.status("room").wait().unwrap().unwrap().log, 3);

    for refused in [bob.send("room", "m4", b"").wait(), bob.send("room", "m1", b"again").wait()] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    assert_eq!(bob.receive(b"no message").wait().unwrap_err().kind(), ErrorKind::Deserialization);
    bob.ensure_channel("room").wait().unwrap();
    bob.status("room").wait().unwrap();
    bob.tick().wait().unwrap();
    assert_eq!(store.commits(), 3, "nothing of that changed anything");
}

#[test]
fn under_strict_nothing_leaves_when_the_commit_fails_and_the_channel_is_as_stored() {
    let (clock, store) = (clock(), Faulty::new());
    let bob = manager("bob", store.clone(), &clock);
    let alice = manager("alice", Faulty::new(), &clock);
    bob.send("room", "b1", b"stored").wait().unwrap();
    let before = state(&bob, "room");
    let wire = alice.send("room", "a1", b"hello").wait().unwrap().release().wire;

    let mut events = bob.events().unwrap();
    store.fail(true);
    assert_eq!(bob.send("room", "b2", b"not stored").wait().unwrap_err().kind(), ErrorKind::Persistence);
    assert_eq!(bob.receive(wire.clone()).wait().unwrap_err().kind(), ErrorKind::Persistence);
    assert_eq!(drain(&mut events), []);
    store.fail(false);
    assert_eq!(state(&bob, "room"), before);

    // And the same message is a new one.
    let Receipt::Message(received) = bob.receive(wire).wait().unwrap().release() else { panic!("known") };
    assert_eq!(received.reception, Reception::Delivered);
    assert_eq!(delivered(&drain(&mut events)), ["a1"]);
}

#[test]
fn under_strict_what_was_stored_without_an_answer_is_found_by_the_next_operation() {
    let (clock, store) = (clock(), Faulty::new());
    let alice = manager("alice", store.clone(), &clock);
    alice.ensure_channel("room").wait().unwrap();
    store.lies.store(true, Ordering::SeqCst);
    assert_eq!(alice.send("room", "m1", b"unknown").wait().unwrap_err().kind(), ErrorKind::Persistence);
    store.lies.store(false, Ordering::SeqCst);
    // It is there, so it is sent again when it is due.
    assert_eq!(alice.send("room", "m1", b"again").wait().unwrap_err().kind(), ErrorKind::InvalidArgument);
    let mut events = alice.events().unwrap();
    clock.advance(12_000);
    alice.tick().wait().unwrap();
    assert_eq!(broadcasts(&drain(&mut events)).len(), 1);
}

#[test]
fn under_best_effort_memory_wins_and_the_next_operation_writes_again() {
    let (clock, store) = (clock(), Faulty::new());
    let alice = best_effort("alice", store.clone(), &clock);
    let mut events = alice.events().unwrap();
    store.fail(true);
    // The channel cannot be loaded, and that is always told.
    assert_eq!(alice.send("room", "m0", b"x").wait().unwrap_err().kind(), ErrorKind::Persistence);
    store.fail(false);
    alice.ensure_channel("room").wait().unwrap();
    store.fail(true);
    for id in ["m1", "m2"] {
        assert!(!alice.send("room", id, b"goes out all the same").wait().unwrap().is_committed());
    }
    let happened = drain(&mut events);
    assert!(matches!(happened[0].what, What::PersistenceFailed(_)), "{happened:?}");
    assert!(happened.iter().all(|item| !item.committed));
    assert_eq!(broadcasts(&happened).len(), 2);
    assert_eq!(store.inner.list_now(), Vec::<ChannelId>::new());

    store.fail(false);
    // An operation that changes nothing itself.
    assert!(alice.mark_dependencies_met("room", Vec::new()).wait().unwrap().is_committed());
    assert!(matches!(drain(&mut events)[0].what, What::PersistenceRecovered));
    let restarted = manager("alice", store, &clock);
    assert_eq!(state(&restarted, "room"), state(&alice, "room"));
    assert_eq!(restarted.status("room").wait().unwrap().unwrap().unacknowledged, 2);
}

trait ListNow {
    fn list_now(&self) -> Vec<ChannelId>;
}

impl ListNow for MemoryStore {
    fn list_now(&self) -> Vec<ChannelId> {
        pollster::block_on(self.list()).unwrap()
    }
}

#[test]
fn under_best_effort_a_heap_of_failures_ends_in_the_whole_channel() {
    let (clock, store) = (clock(), Faulty::new());
    let alice = best_effort("alice", store.clone(), &clock);
    alice.send("room", "first", b"stored").wait().unwrap();
    store.fail(true);
    // Each is a row: more of them than are kept.
    let ids: Vec<_> = (0..=seabed_sds::UNSAVED_ROWS_MAX).map(|id| format!("x{id}").as_str().into()).collect();
    assert!(!alice.mark_dependencies_met("room", ids).wait().unwrap().is_committed());
    alice.send("room", "second", b"x").wait().unwrap();
    store.fail(false);
    assert!(alice.send("room", "last", b"x").wait().unwrap().is_committed());
    let restarted = manager("alice", store, &clock);
    assert_eq!(state(&restarted, "room"), state(&alice, "room"));
}

/// A store whose commits wait until they are let go.
struct Slow {
    inner: MemoryStore,
    go: Notify,
}

#[async_trait]
impl ChannelStore for Slow {
    async fn commit(&self, channel: &ChannelId, batch: &ChannelBatch) -> StoreResult<()> {
        if channel.as_bytes() == b"slow" {
            self.go.notified().await;
        }
        self.inner.commit(channel, batch).await
    }

    async fn load(&self, channel: &ChannelId) -> StoreResult<Vec<Record>> {
        self.inner.load(channel).await
    }

    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        self.inner.drop_channel(channel).await
    }

    async fn list(&self) -> StoreResult<Vec<ChannelId>> {
        self.inner.list().await
    }
}

fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn nothing_leaves_before_the_store_has_answered_and_a_slow_channel_holds_up_no_other() {
    let clock = clock();
    let store = Arc::new(Slow { inner: MemoryStore::default(), go: Notify::new() });
    let alice = manager("alice", store.clone(), &clock);
    let mut events = alice.events().unwrap();
    let mut slow = alice.send("slow", "m1", b"waits");
    assert!(poll_once(&mut slow).is_pending());
    assert_eq!(drain(&mut events), []);
    alice.send("fast", "m2", b"does not").wait().unwrap();
    assert_eq!(drain(&mut events).len(), 1);
    store.go.notify_one();
    assert!(slow.wait().unwrap().is_committed());
    assert_eq!(drain(&mut events).len(), 1);
}

#[test]
fn a_dropped_operation_is_ended_by_the_next_one_and_its_effects_leave() {
    let clock = clock();
    let store = Arc::new(Slow { inner: MemoryStore::default(), go: Notify::new() });
    let alice = manager("alice", store.clone(), &clock);
    let mut events = alice.events().unwrap();
    let mut dropped = alice.send("slow", "m1", b"its caller goes away");
    assert!(poll_once(&mut dropped).is_pending());
    drop(dropped);
    // Not begun, so not done.
    drop(alice.send("slow", "m0", b"never awaited"));
    store.go.notify_one();
    let status = alice.status("slow").wait().unwrap().unwrap();
    assert_eq!((status.log, status.unacknowledged), (1, 1));
    let happened = drain(&mut events);
    assert_eq!(broadcasts(&happened).len(), 1);
    assert!(happened[0].committed);
}

#[test]
fn operations_wait_while_the_stream_is_full_and_go_on_when_it_is_read_or_left() {
    let (clock, store) = (clock(), Faulty::new());
    let alice = manager("alice", store, &clock);
    let mut events = alice.events().unwrap();
    assert_eq!(alice.events().unwrap_err().kind(), ErrorKind::InvalidArgument);
    for number in 0..seabed_sds::EVENTS_MAX {
        alice.send("room", format!("m{number}").as_str(), b"x").wait().unwrap();
    }
    let mut waiting = alice.send("room", "one too many", b"x");
    assert!(poll_once(&mut waiting).is_pending());
    assert_eq!(events.try_next().unwrap().sequence, 0);
    waiting.wait().unwrap();
    let mut waiting = alice.send("room", "and another", b"x");
    assert!(poll_once(&mut waiting).is_pending());
    drop(events);
    waiting.wait().unwrap();
    // The next reader sees from the gap in the numbers what it has missed.
    let mut events = alice.events().unwrap();
    alice.send("room", "last", b"x").wait().unwrap();
    assert_eq!(events.try_next().unwrap().sequence, seabed_sds::EVENTS_MAX as u64 + 2);
}

#[test]
fn operations_wait_while_the_stream_holds_too_many_bytes() {
    let alice = manager("alice", Faulty::new(), &clock());
    let mut events = alice.events().unwrap();
    let large = vec![7; 1_000_000];
    let enough = EVENTS_BYTES_MAX / large.len() + 1;
    assert!(enough < seabed_sds::EVENTS_MAX);
    for number in 0..enough {
        alice.send("room", format!("m{number}").as_str(), large.clone()).wait().unwrap();
    }
    let mut waiting = alice.send("room", "one too many", b"x");
    assert!(poll_once(&mut waiting).is_pending());
    assert_eq!(events.try_next().unwrap().sequence, 0);
    waiting.wait().unwrap();
    // Small ones have room for as many as the stream may hold.
    drain(&mut events);
    for number in 0..seabed_sds::EVENTS_MAX {
        alice.send("room", format!("s{number}").as_str(), b"x").wait().unwrap();
    }
    assert!(poll_once(&mut alice.send("room", "one too many again", b"x")).is_pending());
}

#[test]
fn an_idle_hour_commits_nothing() {
    let (clock, store) = (clock(), Faulty::new());
    let (alice, bob) = (manager("alice", store.clone(), &clock), manager("bob", Faulty::new(), &clock));
    for channel in 0..10 {
        let wire = alice.send(format!("room {channel}").as_str(), "m1", b"x").wait().unwrap().release().wire;
        bob.receive(wire).wait().unwrap();
        let answer = bob.send(format!("room {channel}").as_str(), "b1", b"y").wait().unwrap().release().wire;
        alice.receive(answer).wait().unwrap();
    }
    // Everything of alice's is acknowledged, so nothing of hers is due.
    assert_eq!(alice.status("room 3").wait().unwrap().unwrap().unacknowledged, 0);
    let before = store.commits();
    for _ in 0..720 {
        clock.advance(5_000);
        alice.tick().wait().unwrap();
    }
    assert_eq!(store.commits(), before);

    // One of the ten has something to do: one commit.
    alice.send("room 7", "m2", b"x").wait().unwrap();
    let before = store.commits();
    clock.advance(12_000);
    assert_eq!(alice.tick().wait().unwrap(), 1);
    assert_eq!(store.commits(), before + 1);
}

#[test]
fn what_is_due_is_tried_again_when_the_store_fails() {
    let (clock, store) = (clock(), Faulty::new());
    let alice = manager("alice", store.clone(), &clock);
    let mut events = alice.events().unwrap();
    alice.send("room", "m1", b"x").wait().unwrap();
    drain(&mut events);
    clock.advance(12_000);
    store.fail(true);
    alice.tick().wait().unwrap();
    assert_eq!(broadcasts(&drain(&mut events)), Vec::<Vec<u8>>::new());
    store.fail(false);
    clock.advance(seabed_sds::RETRY_MS);
    alice.tick().wait().unwrap();
    assert_eq!(broadcasts(&drain(&mut events)).len(), 1);
}
