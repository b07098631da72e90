//! The manager: its life, its channels, callbacks, the timer, and who may make a channel.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use common::{Faulty, clock, config, delivered, drain, manager};
use seabed_sds::core::{CONTENT_BYTES_MAX, Config, MessageId};
use seabed_sds::{Callbacks, Cause, ErrorKind, Receipt, SdsManager, UnknownChannels, What};

fn sent(manager: &SdsManager, channel: &str, id: &str) -> Vec<u8> {
    manager.send(channel, id, b"content").wait().unwrap().release().wire
}

#[test]
fn a_participant_without_an_id_is_asked_for_as_repair_off() {
    let refused = SdsManager::builder("").build().unwrap_err();
    assert!(refused.to_string().contains("repair: false"), "{refused}");
    let config = Config { repair: false, ..config() };
    assert!(SdsManager::builder("").config(config.clone()).build().is_ok());
    let impossible = Config { response_groups: 0, ..config };
    assert_eq!(
        SdsManager::builder("a").config(impossible).build().unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
}

#[test]
fn channels_do_not_see_each_other_and_each_item_names_its_channel_and_cause() {
    let clock = clock();
    let (alice, bob) = (manager("alice", Faulty::new(), &clock), manager("bob", Faulty::new(), &clock));
    let mut events = bob.events().unwrap();
    for channel in ["one", "two"] {
        bob.receive(sent(&alice, channel, "m1")).wait().unwrap();
    }
    let happened = drain(&mut events);
    let seen: Vec<_> =
        happened.iter().map(|item| (item.channel.to_string(), item.sequence, item.cause.clone())).collect();
    let received = Cause::Received("m1".into());
    assert_eq!(seen, [("one".to_owned(), 0, received.clone()), ("two".to_owned(), 1, received)]);
    assert_eq!(bob.channels(), ["one".into(), "two".into()]);
    assert_eq!(bob.peek_channel_id(&sent(&alice, "three", "m1")).unwrap(), "three".into());
    assert_eq!(bob.channels().len(), 2, "peeking makes no channel");
}

#[test]
fn removing_wipes_what_is_stored_also_of_channels_that_are_not_in_memory() {
    let (clock, store) = (clock(), Faulty::new());
    let alice = manager("alice", store.clone(), &clock);
    for channel in ["one", "two", "three"] {
        sent(&alice, channel, "m1");
    }
    let again = manager("alice", store.clone(), &clock);
    again.remove_channel("one").wait().unwrap();
    assert_eq!(again.status("one").wait().unwrap(), None);
    again.remove_channel("never was").wait().unwrap();
    again.ensure_channel("two").wait().unwrap();
    again.reset().wait().unwrap();
    assert_eq!(again.restore().wait().unwrap(), 0);
    assert_eq!(again.channels(), []);
    // A removed channel begins anew, and its ids can be used again.
    sent(&again, "one", "m1");
    assert_eq!(again.status("one").wait().unwrap().unwrap().log, 1);
}

#[test]
fn a_drop_that_fails_surfaces_and_the_channel_is_still_there() {
    let (clock, store) = (clock(), Faulty::new());
    let alice = manager("alice", store.clone(), &clock);
    sent(&alice, "room", "m1");
    store.fail(true);
    assert_eq!(alice.remove_channel("room").wait().unwrap_err().kind(), ErrorKind::Persistence);
    assert_eq!(alice.reset().wait().unwrap_err().kind(), ErrorKind::Persistence);
    store.fail(false);
    assert_eq!(alice.status("room").wait().unwrap().unwrap().log, 1);
}

#[test]
fn cleanup_ends_everything_keeps_what_is_stored_and_may_be_called_twice() {
    let (clock, store) = (clock(), Faulty::new());
    let alice = manager("alice", store.clone(), &clock);
    let mut events = alice.events().unwrap();
    alice.start().unwrap();
    alice.start().unwrap();
    sent(&alice, "room", "m1");
    alice.cleanup().wait().unwrap();
    alice.cleanup().wait().unwrap();
    alice.stop();
    assert_eq!(alice.channels(), []);
    for refused in [
        alice.send("room", "m2", b"x").wait().map(drop),
        alice.tick().wait().map(drop),
        alice.reset().wait(),
        alice.start(),
        alice.status("room").wait().map(drop),
        alice.remove_channel("room").wait(),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Closed);
    }
    let left = std::iter::from_fn(|| events.wait_next()).count();
    assert!(left >= 1, "the stream ends after what was in it");
    assert_eq!(manager("alice", store, &clock).restore().wait().unwrap(), 1);
}

#[test]
fn messages_make_at_most_so_many_channels_and_what_is_ignored_is_told_and_not_stored() {
    let (clock, store) = (clock(), Faulty::new());
    let alice = manager("alice", Faulty::new(), &clock);
    let open = |unknown| {
        let builder = SdsManager::builder("bob").config(config()).store(store.clone()).clock(clock.clone());
        builder.unknown_channels(unknown).build().unwrap()
    };
    let bob = open(UnknownChannels::Create { channels_max: 2 });
    let mut events = bob.events().unwrap();
    bob.ensure_channel("known").wait().unwrap();
    // What is no message makes no channel and does not count.
    let mut cut = sent(&alice, "cut", "m1");
    cut.truncate(cut.len() - 30);
    for channel in ["one", "two"] {
        drop(bob.receive(cut.clone()).wait());
        bob.receive(sent(&alice, channel, "m1")).wait().unwrap();
    }
    for channel in ["known", "one"] {
        let receipt = bob.receive(sent(&alice, channel, "m2")).wait().unwrap();
        assert!(receipt.message().is_some(), "{channel}");
    }
    drain(&mut events);
    let ignored = bob.receive(sent(&alice, "three", "m1")).wait().unwrap().release();
    assert_eq!(ignored, Receipt::UnknownChannel("three".into()));
    assert_eq!(drain(&mut events)[0].what, What::UnknownChannelIgnored { channels_max: 2 });
    assert!(!bob.channels().contains(&"three".into()));
    // Sending makes any; and who is known from the store is known.
    bob.send("three", "b1", b"x").wait().unwrap();
    let again = open(UnknownChannels::KnownOnly);
    for (channel, known) in [("one", true), ("three", true), ("four", false)] {
        let receipt = again.receive(sent(&alice, channel, "m3")).wait().unwrap();
        assert_eq!(receipt.message().is_some(), known, "{channel}");
    }
    assert_eq!(
        again.mark_dependencies_met("four", vec!["x".into()]).wait().unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    assert_eq!(again.restore().wait().unwrap(), 4);
}

#[test]
fn what_is_refused_makes_no_channel_and_asks_for_no_hints() {
    let alice = manager("alice", Faulty::new(), &clock());
    let asked = Arc::new(AtomicUsize::new(0));
    for with_provider in [false, true] {
        if with_provider {
            let asked = asked.clone();
            let retrieval_hint = Some(Box::new(move |_: &MessageId| {
                asked.fetch_add(1, Ordering::SeqCst);
                Vec::new()
            }) as _);
            alice.set_callbacks(Callbacks { retrieval_hint, ..Callbacks::default() });
        }
        alice.send("nowhere", "m1", b"").wait().unwrap_err();
        alice.send("nowhere", "", b"an id is not empty").wait().unwrap_err();
        alice.send("nowhere", "m1", vec![0; CONTENT_BYTES_MAX + 1]).wait().unwrap_err();
        assert_eq!(alice.channels(), []);
    }
    sent(&alice, "room", "m1");
    alice.send("room", "m2", b"").wait().unwrap_err();
    assert_eq!((alice.channels().len(), asked.load(Ordering::SeqCst)), (1, 0));
    sent(&alice, "room", "m2");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn by_default_messages_make_1024_channels() {
    assert_eq!(UnknownChannels::default(), UnknownChannels::Create { channels_max: 1_024 });
}

#[test]
fn callbacks_run_outside_locks_in_order_and_may_call_back_in() {
    let clock = clock();
    let (alice, bob) = (manager("alice", Faulty::new(), &clock), manager("bob", Faulty::new(), &clock));
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let (note, again) = (told.clone(), bob.clone());
    let missing = told.clone();
    bob.set_callbacks(Callbacks {
        message_ready: Some(Box::new(move |id, channel| {
            note.lock().unwrap().push(format!("ready {id}"));
            // Into the same channel, whose operation has just been done.
            let reply = again.send(channel.clone(), format!("re {id}").as_str(), b"reply").wait().unwrap();
            assert!(reply.is_committed());
            note.lock().unwrap().push(format!("replied {id}"));
        })),
        missing_dependencies: Some(Box::new(move |id, entries, _| {
            missing.lock().unwrap().push(format!("{id} misses {}", entries.len()));
        })),
        ..Callbacks::default()
    });
    let (first, second) = (sent(&alice, "room", "a1"), sent(&alice, "room", "a2"));
    bob.receive(second).wait().unwrap();
    bob.receive(first).wait().unwrap();
    let expected = ["a2 misses 1", "ready a1", "replied a1", "ready a2", "replied a2"];
    assert_eq!(*told.lock().unwrap(), expected);
    // Setting them again replaces all.
    bob.set_callbacks(Callbacks::default());
    bob.receive(sent(&alice, "room", "a3")).wait().unwrap();
    assert_eq!(told.lock().unwrap().len(), expected.len());
}

#[test]
fn acknowledged_is_told_as_sent_and_what_was_given_up_is_not() {
    let clock = clock();
    let (alice, bob) = (manager("alice", Faulty::new(), &clock), manager("bob", Faulty::new(), &clock));
    let acknowledged: Arc<Mutex<Vec<String>>> = Arc::default();
    let note = acknowledged.clone();
    alice.set_callbacks(Callbacks {
        message_sent: Some(Box::new(move |id, _| note.lock().unwrap().push(id.to_string()))),
        ..Callbacks::default()
    });
    bob.receive(sent(&alice, "room", "a1")).wait().unwrap();
    alice.receive(sent(&bob, "room", "b1")).wait().unwrap();
    sent(&alice, "room", "a2");
    for _ in 0..20 {
        clock.advance(10_000);
        alice.tick().wait().unwrap();
    }
    let status = alice.status("room").wait().unwrap().unwrap();
    assert_eq!((status.unacknowledged, status.counters.acknowledged, status.counters.unconfirmed), (0, 1, 1));
    assert_eq!(status.counters.resent, 2);
    assert_eq!(*acknowledged.lock().unwrap(), ["a1"]);
}

#[test]
fn sync_due_is_told_once_at_the_start_and_then_each_interval_where_syncs_are_not_automatic() {
    let clock = clock();
    let alice = manager("alice", Faulty::new(), &clock);
    let due = Arc::new(AtomicUsize::new(0));
    let count = due.clone();
    let periodic_sync = Some(Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }) as _);
    alice.set_callbacks(Callbacks { periodic_sync, ..Callbacks::default() });
    for channel in ["one", "two"] {
        sent(&alice, channel, "m1");
    }
    for expected in [1, 1, 2] {
        alice.tick().wait().unwrap();
        assert_eq!(due.load(Ordering::SeqCst), expected);
        clock.advance(seabed_sds::SYNC_DUE_MS / 2);
    }
    let config = Config::seabed(seabed_sds::core::wire::Dialect::Spec);
    let automatic = SdsManager::builder("bob").config(config).clock(clock).build().unwrap();
    assert_eq!(automatic.next_due_ms(), None);
}

#[test]
fn the_timer_does_what_is_due_and_stops() {
    // The system's clock, and a wait for the event: what is due after a millisecond comes.
    let config = Config { resend_interval_ms: 1, ..config() };
    let alice = SdsManager::builder("alice").config(config).build().unwrap();
    let (tell, told) = mpsc::channel();
    let mut events = alice.events().unwrap();
    let reader = std::thread::spawn(move || {
        while let Some(happened) = events.wait_next() {
            if matches!(happened.what, What::Broadcast(ref bytes) if bytes.reason == seabed_sds::core::Reason::Resend)
            {
                tell.send(happened.cause).unwrap();
            }
        }
    });
    alice.start().unwrap();
    sent(&alice, "room", "m1");
    assert_eq!(told.recv().unwrap(), Cause::Time);
    alice.stop();
    alice.stop();
    alice.start().unwrap();
    alice.cleanup().wait().unwrap();
    reader.join().unwrap();
}

#[test]
fn many_threads_on_many_channels_lose_nothing() {
    let (clock, store) = (clock(), Faulty::new());
    let bob = manager("bob", store.clone(), &clock);
    let alice = manager("alice", Faulty::new(), &clock);
    let channels = ["one", "two", "three"];
    let wires: Vec<Vec<u8>> =
        (0..30).map(|number| sent(&alice, channels[number % 3], &format!("m{number}"))).collect();
    std::thread::scope(|scope| {
        for part in wires.chunks(5) {
            let bob = &bob;
            scope.spawn(move || {
                for wire in part.iter().rev() {
                    bob.receive(wire.clone()).wait().unwrap();
                }
            });
        }
    });
    for channel in channels {
        let status = bob.status(channel).wait().unwrap().unwrap();
        assert_eq!((status.log, status.waiting, status.counters.delivered), (10, 0, 10));
    }
    assert_eq!(store.commits(), 30);
}

#[test]
fn two_first_messages_at_once_share_one_channel() {
    let clock = clock();
    let alice = manager("alice", Faulty::new(), &clock);
    let wires = ["m1", "m2"].map(|id| sent(&alice, "room", id));
    for _ in 0..50 {
        let bob = manager("bob", Faulty::new(), &clock);
        let mut events = bob.events().unwrap();
        std::thread::scope(|scope| {
            for wire in &wires {
                let bob = &bob;
                scope.spawn(move || bob.receive(wire.clone()).wait().unwrap());
            }
        });
        assert_eq!(delivered(&drain(&mut events)), ["m1", "m2"]);
    }
}
