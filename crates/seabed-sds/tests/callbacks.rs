//! Callbacks: where they run, what they may wait for, and what one that panics or takes its time does to the others.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use common::{Faulty, Gated, clock, config, manager, poll_once};
use seabed_sds::contract::MemoryStore;
use seabed_sds::core::{Config, MessageId};
use seabed_sds::{CALLBACKS_BYTES_MAX, CALLBACKS_WAITING_MAX, Callbacks, Error, SdsManager};

fn sent(manager: &SdsManager, id: &str) -> Vec<u8> {
    manager.send("room", id, b"content").wait().unwrap().release().wire
}

fn on_ready(call: impl Fn(String) + Send + Sync + 'static) -> Callbacks {
    Callbacks { message_ready: Some(Box::new(move |id, _| call(id.to_string()))), ..Callbacks::default() }
}

/// The timer asks for a sync message while one of its sweeps waits for the store, and the callback waits for that sweep's channel.
#[test]
fn a_callback_on_behalf_of_the_timer_may_wait_for_a_channel_that_the_timer_is_at() {
    let store = Gated::new(MemoryStore::default());
    let config = Config { resend_interval_ms: 1, ..config() };
    let alice = SdsManager::builder("alice").config(config).store(store.clone()).build().unwrap();
    store.open_for(1);
    sent(&alice, "m1");
    let (tell, told) = mpsc::channel();
    let (gate, again) = (store.clone(), Mutex::new(Some(alice.clone())));
    let periodic_sync = Some(Box::new(move || {
        let Some(alice) = again.lock().unwrap().take() else { return };
        // Until the timer is at the channel: it sends m1 again.
        gate.wait_for_callers(2);
        gate.open_for(usize::MAX);
        tell.send(alice.status("room").wait().unwrap().unwrap().log).unwrap();
    }) as _);
    alice.set_callbacks(Callbacks { periodic_sync, ..Callbacks::default() });
    alice.start().unwrap();
    assert_eq!(told.recv().unwrap(), 1);
    alice.cleanup().wait().unwrap();
}

/// Two operations of one executor on one channel: the callback of the first waits for a channel whose next owner only this thread
/// carries on.
#[test]
fn the_callback_of_an_awaited_operation_does_not_hold_up_the_one_who_awaits() {
    let clock = clock();
    let alice = manager("alice", Faulty::new(), &clock);
    let store = Gated::new(MemoryStore::default());
    let bob = manager("bob", store.clone(), &clock);
    let (tell, told) = mpsc::channel();
    let again = bob.clone();
    bob.set_callbacks(on_ready(move |id| {
        let name = format!("re {id}");
        again.send("room", name.as_str(), b"reply").wait().unwrap();
        tell.send(name).unwrap();
    }));
    let mut first = bob.receive(sent(&alice, "a1"));
    assert!(poll_once(&mut first).is_pending());
    let mut second = bob.send("room", "b1", b"waits for its turn");
    assert!(poll_once(&mut second).is_pending());
    store.open_for(usize::MAX);
    assert!(poll_once(&mut first).is_ready());
    second.wait().unwrap();
    assert_eq!(told.recv().unwrap(), "re a1");
}

#[test]
fn a_callback_that_panics_is_counted_and_keeps_nobody_from_anything() {
    let clock = clock();
    let (alice, bob) = (manager("alice", Faulty::new(), &clock), manager("bob", Faulty::new(), &clock));
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let note = told.clone();
    bob.set_callbacks(on_ready(move |id| {
        assert_ne!(id, "a1", "this one panics");
        note.lock().unwrap().push(id);
    }));
    bob.receive(sent(&alice, "a1")).wait().unwrap();
    bob.receive(sent(&alice, "a2")).wait().unwrap();
    assert_eq!((bob.panicked_callbacks(), told.lock().unwrap().clone()), (1, vec!["a2".to_owned()]));

    let retrieval_hint = Some(Box::new(|id: &MessageId| {
        assert!(id.is_empty(), "so does the one that is asked for hints");
        Vec::new()
    }) as _);
    bob.set_callbacks(Callbacks { retrieval_hint, ..Callbacks::default() });
    sent(&bob, "b1");
    assert_eq!(bob.panicked_callbacks(), 3, "for each of two messages that b1 names");
}

#[test]
fn a_callback_that_panics_on_behalf_of_the_timer_does_not_end_it() {
    let config = Config { resend_interval_ms: 1, resend_attempts_max: 1_000, ..config() };
    let alice = SdsManager::builder("alice").config(config).build().unwrap();
    let mut events = alice.events().unwrap();
    let (tell, told) = mpsc::channel();
    let periodic_sync = Some(Box::new(move || {
        assert!(tell.send(()).is_err(), "this panics on a thread of the manager");
    }) as _);
    alice.set_callbacks(Callbacks { periodic_sync, ..Callbacks::default() });
    alice.start().unwrap();
    told.recv().unwrap();
    sent(&alice, "m1");
    let resent = std::iter::from_fn(|| events.wait_next())
        .filter(|happened| happened.cause == seabed_sds::Cause::Time)
        .take(3)
        .count();
    assert_eq!(resent, 3, "what is due still happens");
    alice.cleanup().wait().unwrap();
    told.recv().unwrap_err();
    assert_eq!(alice.panicked_callbacks(), 1);
}

#[test]
fn operations_wait_while_too_much_waits_for_a_slow_callback_but_those_that_it_calls_do_not() {
    let clock = clock();
    let (alice, bob) = (manager("alice", Faulty::new(), &clock), manager("bob", Faulty::new(), &clock));
    let (let_go, wait) = mpsc::channel::<()>();
    let (begun, begins) = mpsc::channel::<()>();
    let called = Arc::new(AtomicUsize::new(0));
    let (count, again, wait) = (called.clone(), bob.clone(), Mutex::new(wait));
    bob.set_callbacks(on_ready(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            begun.send(()).unwrap();
            wait.lock().unwrap().recv().unwrap();
            again.send("room", "from the callback", b"x").wait().unwrap();
        }
    }));
    let first = sent(&alice, "a");
    let slow = {
        let bob = bob.clone();
        thread::spawn(move || bob.receive(first).wait().unwrap())
    };
    begins.recv().unwrap();
    for number in 0..CALLBACKS_WAITING_MAX {
        bob.receive(sent(&alice, &format!("a{number}"))).wait().unwrap();
    }
    let mut one_more = bob.receive(sent(&alice, "one more"));
    assert!(poll_once(&mut one_more).is_pending());
    let_go.send(()).unwrap();
    slow.join().unwrap();
    one_more.wait().unwrap();
    assert_eq!(called.load(Ordering::SeqCst), CALLBACKS_WAITING_MAX + 2);
}

#[test]
fn operations_wait_while_too_many_bytes_wait_for_a_slow_callback() {
    let (alice, bob) = (manager("alice", Faulty::new(), &clock()), manager("bob", Faulty::new(), &clock()));
    let (let_go, wait) = mpsc::channel::<()>();
    let (begun, begins) = mpsc::channel::<()>();
    let (called, wait) = (Arc::new(AtomicUsize::new(0)), Mutex::new(wait));
    let count = called.clone();
    bob.set_callbacks(on_ready(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            begun.send(()).unwrap();
            wait.lock().unwrap().recv().unwrap();
        }
    }));
    let large = vec![7; 1_000_000];
    let said = |id: &str| alice.send("room", id, large.clone()).wait().unwrap().release().wire;
    let first = said("first");
    let slow = {
        let bob = bob.clone();
        thread::spawn(move || bob.receive(first).wait().unwrap())
    };
    begins.recv().unwrap();
    let enough = CALLBACKS_BYTES_MAX / large.len() + 1;
    for number in 0..enough {
        bob.receive(said(&format!("a{number}"))).wait().unwrap();
    }
    let mut one_more = bob.receive(said("one more"));
    assert!(poll_once(&mut one_more).is_pending());
    let_go.send(()).unwrap();
    slow.join().unwrap();
    one_more.wait().unwrap();
    assert_eq!(called.load(Ordering::SeqCst), enough + 2);
}

#[test]
fn cleanup_lets_the_callbacks_go_and_ends_the_stream_and_so_does_dropping_the_manager() {
    let clock = clock();
    let captured = Arc::new(());
    let (alice, weak) = (manager("alice", Faulty::new(), &clock), Arc::downgrade(&captured));
    // They hold the manager that holds them.
    let again = alice.clone();
    alice.set_callbacks(on_ready(move |_| drop((again.clone(), captured.clone()))));
    alice.cleanup().wait().unwrap();
    assert!(weak.upgrade().is_none());

    let bob = manager("bob", Faulty::new(), &clock);
    let mut events = bob.events().unwrap();
    drop(bob);
    assert_eq!(events.wait_next(), None);
}

#[test]
fn looking_at_a_channel_calls_what_it_has_ended_and_tells_the_timer_what_is_due() {
    let clock = clock();
    let alice = manager("alice", Faulty::new(), &clock);
    let store = Gated::new(MemoryStore::default());
    let bob = manager("bob", store.clone(), &clock);
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let note = told.clone();
    bob.set_callbacks(on_ready(move |id| note.lock().unwrap().push(id)));
    bob.tick().wait().unwrap();
    assert_ne!(bob.next_due_ms(), Some(0));
    let mut dropped = bob.receive(sent(&alice, "a1"));
    assert!(poll_once(&mut dropped).is_pending());
    drop(dropped);
    assert_eq!(bob.next_due_ms(), Some(0), "it is due at once");
    store.open_for(usize::MAX);
    bob.status("room").wait().unwrap();
    assert_eq!(*told.lock().unwrap(), ["a1"]);
    assert_ne!(bob.next_due_ms(), Some(0));
    bob.cleanup().wait().unwrap();
    assert!(matches!(bob.status("room").wait(), Err(Error::Closed)));
}
