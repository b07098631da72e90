//! How operations end whose caller went away, whose channel was removed, or whose commit has no answer.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{
    Faulty, Gated, best_effort, broadcasts, clock, config, delivered, drain, manager, poll_once, state,
};
use seabed_sds::contract::{ChannelStore, MemoryStore};
use seabed_sds::{ErrorKind, RETRY_MS, Receipt, SdsManager, UnknownChannels};

fn sent(manager: &SdsManager, id: &str) -> Vec<u8> {
    manager.send("room", id, b"content").wait().unwrap().release().wire
}

#[test]
fn a_dropped_operation_is_ended_by_the_timer_and_nobody_else_needs_to_come() {
    let alice = SdsManager::builder("alice").config(config()).build().unwrap();
    let store = Gated::new(MemoryStore::default());
    let bob = SdsManager::builder("bob").config(config()).store(store.clone()).build().unwrap();
    let mut events = bob.events().unwrap();
    bob.start().unwrap();
    let mut dropped = bob.receive(sent(&alice, "a1"));
    assert!(poll_once(&mut dropped).is_pending());
    drop(dropped);
    store.open_for(usize::MAX);
    // An idle channel, that nothing would ever be due in.
    let told = std::iter::from_fn(|| events.wait_next())
        .find(|item| !delivered(std::slice::from_ref(item)).is_empty());
    assert!(told.unwrap().committed);
    bob.cleanup().wait().unwrap();
}

#[test]
fn a_dropped_operation_is_ended_by_a_tick_too_and_a_dropped_removal_removes() {
    let clock = clock();
    let store = Gated::new(MemoryStore::default());
    let alice = manager("alice", store.clone(), &clock);
    alice.tick().wait().unwrap();
    let mut events = alice.events().unwrap();
    let mut dropped = alice.send("room", "m1", b"x");
    assert!(poll_once(&mut dropped).is_pending());
    drop(dropped);
    assert_eq!(alice.next_due_ms(), Some(0));
    store.open_for(1);
    alice.tick().wait().unwrap();
    assert_eq!(broadcasts(&drain(&mut events)).len(), 1);
    assert_ne!(alice.next_due_ms(), Some(0));

    let mut dropped = alice.remove_channel("room");
    assert!(poll_once(&mut dropped).is_pending());
    drop(dropped);
    store.open_for(1);
    alice.tick().wait().unwrap();
    assert_eq!(alice.channels(), []);
    assert_eq!(pollster::block_on(store.list()).unwrap(), []);
}

#[test]
fn a_delivery_whose_commit_has_no_answer_is_told_when_it_turns_out_to_be_stored() {
    let (clock, store) = (clock(), Faulty::new());
    let (alice, bob) = (manager("alice", Faulty::new(), &clock), manager("bob", store.clone(), &clock));
    let mut events = bob.events().unwrap();
    let wire = sent(&alice, "a1");
    store.lies.store(true, Ordering::SeqCst);
    assert_eq!(bob.receive(wire.clone()).wait().unwrap_err().kind(), ErrorKind::Persistence);
    // Nor has the second attempt: it is there, and still nobody may be told.
    assert_eq!(bob.receive(wire.clone()).wait().unwrap_err().kind(), ErrorKind::Persistence);
    assert_eq!(drain(&mut events), []);
    store.lies.store(false, Ordering::SeqCst);
    clock.advance(RETRY_MS);
    bob.tick().wait().unwrap();
    let told = drain(&mut events);
    assert_eq!(delivered(&told), ["a1"], "once, and without anybody asking");
    assert!(told.iter().all(|item| item.committed));
    bob.receive(wire).wait().unwrap();
    assert_eq!(drain(&mut events), []);
    assert_eq!(state(&bob, "room"), state(&manager("bob", store, &clock), "room"));
}

#[test]
fn what_had_no_answer_and_is_not_stored_is_not_told() {
    let (clock, store) = (clock(), Faulty::new());
    let (alice, bob) = (manager("alice", Faulty::new(), &clock), manager("bob", store.clone(), &clock));
    let mut events = bob.events().unwrap();
    let wire = sent(&alice, "a1");
    store.fail(true);
    bob.receive(wire.clone()).wait().unwrap_err();
    store.fail(false);
    clock.advance(RETRY_MS);
    bob.tick().wait().unwrap();
    assert_eq!(delivered(&drain(&mut events)), [""; 0]);
    assert_eq!(bob.channels(), [], "and it has made no channel");
    bob.receive(wire).wait().unwrap();
    assert_eq!(delivered(&drain(&mut events)), ["a1"]);
}

#[test]
fn who_stands_in_line_when_the_manager_ends_or_the_channel_is_removed_is_told_so_and_writes_nothing() {
    for ends in [true, false] {
        let clock = clock();
        let alice = manager("alice", Faulty::new(), &clock);
        let store = Gated::new(MemoryStore::default());
        let bob = manager("bob", store.clone(), &clock);
        store.open_for(1);
        sent(&bob, "b1");
        let mut commits = bob.send("room", "b2", b"is committing");
        assert!(poll_once(&mut commits).is_pending());
        let mut ending = if ends { bob.cleanup() } else { bob.remove_channel("room") };
        assert!(poll_once(&mut ending).is_pending());
        let mut waits = [bob.send("room", "b3", b"stands in line"), bob.send("room", "b4", b"x")];
        let mut receives = bob.receive(sent(&alice, "a1"));
        let mut looks = bob.status("room");
        let expected = if ends { ErrorKind::Closed } else { ErrorKind::Removed };
        for waits in &mut waits {
            let polled = poll_once(waits);
            assert!(polled.is_pending() || ends, "{polled:?}");
        }
        let in_line = !ends;
        assert_eq!(poll_once(&mut receives).is_pending(), in_line);
        assert_eq!(poll_once(&mut looks).is_pending(), in_line);
        store.open_for(usize::MAX);
        assert!(commits.wait().unwrap().is_committed());
        ending.wait().unwrap();
        if in_line {
            for waits in waits {
                assert_eq!(waits.wait().unwrap_err().kind(), expected);
            }
            assert_eq!(receives.wait().unwrap_err().kind(), expected);
            assert_eq!(looks.wait().unwrap(), None);
        }
        let stored = pollster::block_on(store.list()).unwrap();
        assert_eq!(stored.len(), usize::from(ends), "cleanup keeps what is stored, removal nothing");
        assert_eq!(bob.channels(), []);
        let again = bob.send("room", "b5", b"x").wait();
        assert_eq!(again.is_ok(), !ends, "after its removal a channel begins anew");
    }
}

/// The same with operations that stood in line before the manager ended.
#[test]
fn who_stood_in_line_before_the_manager_ended_writes_nothing() {
    let clock = clock();
    let store = Gated::new(MemoryStore::default());
    let bob = manager("bob", store.clone(), &clock);
    let mut commits = bob.send("room", "b1", b"is committing");
    assert!(poll_once(&mut commits).is_pending());
    let mut waits = bob.send("room", "b2", b"stands in line");
    assert!(poll_once(&mut waits).is_pending());
    let mut ending = bob.cleanup();
    assert!(poll_once(&mut ending).is_pending());
    store.open_for(usize::MAX);
    assert!(commits.wait().unwrap().is_committed());
    assert_eq!(waits.wait().unwrap_err().kind(), ErrorKind::Closed);
    ending.wait().unwrap();
    let log = manager("bob", store, &clock).status("room").wait().unwrap().unwrap().log;
    assert_eq!(log, 1);
}

#[test]
fn an_ensured_channel_stays_one_when_a_commit_fails() {
    let (clock, store) = (clock(), Faulty::new());
    let alice = manager("alice", Faulty::new(), &clock);
    let builder = SdsManager::builder("bob").config(config()).store(store.clone()).clock(clock.clone());
    let bob = builder.unknown_channels(UnknownChannels::KnownOnly).build().unwrap();
    bob.ensure_channel("room").wait().unwrap();
    let wire = sent(&alice, "a1");
    store.fail(true);
    bob.receive(wire.clone()).wait().unwrap_err();
    store.fail(false);
    let receipt = bob.receive(wire).wait().unwrap().release();
    assert!(matches!(receipt, Receipt::Message(_)), "{receipt:?}");
}

#[test]
fn a_channel_that_a_failed_send_or_message_was_about_to_make_is_none_and_does_not_count() {
    let (clock, store) = (clock(), Faulty::new());
    let alice = manager("alice", Faulty::new(), &clock);
    let builder = SdsManager::builder("bob").config(config()).store(store.clone()).clock(clock.clone());
    let bob = builder.unknown_channels(UnknownChannels::Create { channels_max: 1 }).build().unwrap();
    let wire = sent(&alice, "a1");
    for _ in 0..3 {
        store.fail(true);
        bob.receive(wire.clone()).wait().unwrap_err();
        bob.send("mine", "b1", b"x").wait().unwrap_err();
        store.fail(false);
        clock.advance(RETRY_MS);
        bob.tick().wait().unwrap();
        assert_eq!(bob.channels(), []);
    }
    assert!(bob.receive(wire).wait().unwrap().message().is_some());
}

#[test]
fn under_best_effort_a_removal_that_failed_leaves_memory_as_it_is() {
    let (clock, store) = (clock(), Faulty::new());
    let alice = best_effort("alice", store.clone(), &clock);
    sent(&alice, "stored");
    store.fail(true);
    assert!(!alice.send("room", "not stored", b"x").wait().unwrap().is_committed());
    let before = state(&alice, "room");
    assert_eq!(alice.remove_channel("room").wait().unwrap_err().kind(), ErrorKind::Persistence);
    assert_eq!(state(&alice, "room"), before);
    store.fail(false);
    // The next operation writes all of it: nobody knows what the removal has left.
    assert!(alice.mark_dependencies_met("room", Vec::new()).wait().unwrap().is_committed());
    assert_eq!(state(&manager("alice", store, &clock), "room"), before);
}

#[test]
fn a_store_that_panics_has_failed_and_the_timer_goes_on() {
    use seabed_sds::contract::{ChannelBatch, StoreResult, async_trait};
    use seabed_sds::core::{ChannelId, Record};

    struct Panics(Arc<Faulty>);

    #[async_trait]
    impl ChannelStore for Panics {
        async fn commit(&self, channel: &ChannelId, batch: &ChannelBatch) -> StoreResult<()> {
            assert!(!self.0.failing.load(Ordering::SeqCst), "a bug of the store");
            self.0.commit(channel, batch).await
        }
        async fn load(&self, channel: &ChannelId) -> StoreResult<Vec<Record>> {
            assert!(!self.0.failing.load(Ordering::SeqCst), "a bug of the store");
            self.0.load(channel).await
        }
        async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
            self.0.drop_channel(channel).await
        }
        async fn list(&self) -> StoreResult<Vec<ChannelId>> {
            self.0.list().await
        }
    }

    let (clock, store) = (clock(), Faulty::new());
    let alice = manager("alice", Arc::new(Panics(store.clone())), &clock);
    sent(&alice, "m1");
    store.fail(true);
    let failed = alice.send("room", "m2", b"x").wait().unwrap_err();
    assert!(failed.to_string().contains("a bug of the store"), "{failed}");
    clock.advance(12_000);
    alice.tick().wait().unwrap();
    store.fail(false);
    clock.advance(RETRY_MS);
    let mut events = alice.events().unwrap();
    alice.tick().wait().unwrap();
    assert_eq!(broadcasts(&drain(&mut events)).len(), 1, "m1 is sent again");
}
