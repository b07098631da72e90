//! A restart at any point: after each commit of a conversation the process ends, and what is loaded is what was there, to the row and
//! the millisecond.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{Faulty, broadcasts, clock, config, delivered, drain, manager, manager_with, state};
use seabed_kv::Store;
use seabed_sds::contract::ChannelStore;
use seabed_sds::core::wire::Dialect;
use seabed_sds::core::{Config, LamportUnit};
use seabed_sds::{KernelStore, ManualClock, SdsManager, What};

/// Dialect S with sync messages, and dependencies that are given up.
fn with_syncs() -> Config {
    Config {
        dialect: Dialect::Spec,
        lamport_unit: LamportUnit::Milliseconds,
        sync_interval_ms: Some(2_500),
        dependency_timeout_ms: Some(20_000),
        ..config()
    }
}

/// What happened to carol.
#[derive(Debug, Default)]
struct Story {
    told: Vec<String>,
    said: Vec<Vec<u8>>,
    /// Everything that happened, by its name.
    kinds: BTreeSet<String>,
}

/// A conversation in which everything happens: loss, gaps, repair, resends, acknowledgements, giving up, hints, marked dependencies.
fn conversation(config: &Config, carol: &SdsManager, clock: &Arc<ManualClock>) -> Story {
    let peer = |name: &str| manager_with(config.clone(), name, Faulty::new(), clock);
    let (alice, bob) = (peer("alice"), peer("bob"));
    let mut events = carol.events().unwrap();
    let mut story = Story::default();
    // A failed operation is where the process ends: what follows fails as well.
    let hear = |carol: &SdsManager, wire: &[u8]| drop(carol.receive(wire.to_vec()).wait());
    for round in 0..9 {
        clock.advance(1_500);
        let name = |who: &str| format!("{who}{round}");
        let from_alice = alice.send("room", name("a").as_str(), b"alice says").wait().unwrap().release().wire;
        bob.receive(from_alice.clone()).wait().unwrap();
        let from_bob = bob.send("room", name("b").as_str(), b"bob says").wait().unwrap().release().wire;
        alice.receive(from_bob.clone()).wait().unwrap();
        // Every other message of alice's is lost on its way to carol.
        if round % 2 == 1 {
            hear(carol, &from_alice);
        }
        hear(carol, &from_bob);
        drop(carol.set_retrieval_hint("room", name("b").as_str(), b"a hint".to_vec()).wait());
        if let Ok(sent) = carol.send("room", name("c").as_str(), b"carol says").wait()
            && round < 6
        {
            let wire = sent.release().wire;
            // Alice misses some of carol's, and asks her.
            if round != 2 {
                alice.receive(wire.clone()).wait().unwrap();
            }
            bob.receive(wire).wait().unwrap();
        }
        clock.advance(4_000);
        drop(carol.tick().wait());
        for (peer, mut events) in [&alice, &bob].map(|peer| (peer, peer.events().unwrap())) {
            peer.tick().wait().unwrap();
            for wire in broadcasts(&drain(&mut events)) {
                hear(carol, &wire);
            }
        }
        if round % 4 == 0 {
            drop(carol.mark_dependencies_met("room", vec![name("a").as_str().into()]).wait());
        }
        clock.advance(3_000);
        drop(carol.tick().wait());
        let happened = drain(&mut events);
        story.told.extend(delivered(&happened));
        story.said.extend(broadcasts(&happened));
        story.kinds.extend(happened.iter().map(|item| kind(&item.what)));
    }
    // Nobody answers any more.
    for _ in 0..8 {
        clock.advance(10_000);
        drop(carol.tick().wait());
        let happened = drain(&mut events);
        story.said.extend(broadcasts(&happened));
        story.kinds.extend(happened.iter().map(|item| kind(&item.what)));
    }
    story
}

fn kind(what: &What) -> String {
    let text = match what {
        What::Broadcast(broadcast) => format!("{:?}", broadcast.reason),
        What::Event(event) => format!("{event:?}"),
        other => format!("{other:?}"),
    };
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_kill_after_any_commit_leaves_exactly_the_state_of_that_commit() {
    let mut kinds = BTreeSet::new();
    for config in [config(), with_syncs()] {
        kinds.extend(kill_after_each_commit(&config));
    }
    let wanted = [
        "Acknowledged",
        "Buffered",
        "Delivered",
        "DeliveryUnconfirmed",
        "DependenciesLost",
        "MissingDependencies",
        "PossiblyAcknowledged",
        "Repair",
        "Resend",
        "Send",
        "Sync",
    ];
    for wanted in wanted {
        assert!(kinds.contains(wanted), "{wanted} is in no conversation: {kinds:?}");
    }
}

fn kill_after_each_commit(config: &Config) -> BTreeSet<String> {
    let whole = Faulty::new();
    let clock_of_all = clock();
    let open = |store: &Arc<Faulty>, clock: &Arc<ManualClock>| {
        manager_with(config.clone(), "carol", store.clone(), clock)
    };
    let carol = open(&whole, &clock_of_all);
    let Story { told, said, kinds } = conversation(config, &carol, &clock_of_all);
    let commits = whole.commits();
    assert!(commits > 30, "a conversation of {commits} commits");
    assert!(told.len() > 6 && said.len() > 8, "{told:?}");

    for dead_after in 1..=commits {
        let (clock, store) = (clock(), Faulty::new());
        store.dead_after.store(dead_after, Ordering::SeqCst);
        let carol = open(&store, &clock);
        let before = conversation(config, &carol, &clock);
        assert_eq!(store.commits(), dead_after);
        // Nothing was told that is not there: what was said and delivered before the end is a beginning of the whole.
        assert_eq!(before.told, told[..before.told.len()], "dead after {dead_after}");
        assert_eq!(before.said, said[..before.said.len()], "dead after {dead_after}");

        // What was in memory at the last commit, as the manager that died sees it when it loads again, and as another process does.
        let died = state(&carol, "room").unwrap();
        let restarted = open(&store, &clock);
        assert_eq!(state(&restarted, "room").unwrap(), died, "dead after {dead_after}");
        for id in &before.told {
            let id = id.as_str().into();
            let there = restarted
                .read("room", move |channel| channel.log().any(|entry| entry.message.message_id == id));
            assert_eq!(
                there.wait().unwrap(),
                Some(true),
                "dead after {dead_after}: a delivered message was forgotten"
            );
        }
    }
    kinds
}

#[test]
fn a_restart_between_any_two_operations_changes_nothing() {
    // One manager for the whole conversation, and one that is made anew before each operation: they end the same.
    let run = |restarts: bool| {
        let (clock, store) = (clock(), Faulty::new());
        let alice = manager("alice", Faulty::new(), &clock);
        let mut bob = manager("bob", store.clone(), &clock);
        let mut states = Vec::new();
        let mut wires = Vec::new();
        for number in 0..12 {
            wires
                .push(alice.send("room", format!("a{number}").as_str(), b"x").wait().unwrap().release().wire);
        }
        // Backwards, so that most of them wait; every fourth is lost at first.
        for (number, wire) in wires.iter().enumerate().rev() {
            if restarts {
                bob = manager("bob", store.clone(), &clock);
                bob.restore().wait().unwrap();
            }
            if number % 4 != 2 {
                bob.receive(wire.clone()).wait().unwrap();
            }
            clock.advance(700);
            bob.tick().wait().unwrap();
            bob.send("room", format!("b{number}").as_str(), b"y").wait().unwrap();
            states.push(state(&bob, "room").unwrap());
        }
        states
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn a_channel_on_the_kernel_is_the_same_after_it_was_closed() {
    let directory = tempfile::tempdir().unwrap();
    let clock = clock();
    let open = || {
        let store = Store::sqlite(directory.path()).unwrap();
        let kept: Arc<dyn ChannelStore> = Arc::new(KernelStore::open(&store).wait().unwrap());
        (store, manager("carol", kept, &clock))
    };
    let (store, carol) = open();
    conversation(&config(), &carol, &clock);
    let before = state(&carol, "room").unwrap();
    carol.cleanup().wait().unwrap();
    store.close().wait().unwrap();

    let (store, carol) = open();
    assert_eq!(carol.restore().wait().unwrap(), 1);
    assert_eq!(state(&carol, "room").unwrap(), before);
    let report = pollster::block_on(seabed_sds::verify(&store.tenant("sds").unwrap())).unwrap();
    assert_eq!((report.channels, report.findings), (1, Vec::new()));
}

#[test]
fn another_manager_of_the_same_channel_is_refused_and_reads_again() {
    let (store, clock) = (Store::memory(), clock());
    let open = |name: &str| manager(name, Arc::new(KernelStore::open(&store).wait().unwrap()), &clock);
    let (one, other) = (open("alice"), open("alice"));
    one.send("room", "m1", b"x").wait().unwrap();
    other.send("room", "m2", b"x").wait().unwrap();
    let refused = one.send("room", "m3", b"x").wait().unwrap_err();
    assert!(refused.to_string().contains("one manager at a time"), "{refused}");
    one.send("room", "m3", b"x").wait().unwrap();
    assert_eq!(one.status("room").wait().unwrap().unwrap().log, 3);
}

#[test]
fn a_channel_that_was_stored_for_another_configuration_still_loads() {
    let (store, clock) = (Faulty::new(), clock());
    manager("alice", store.clone(), &clock).send("room", "m1", b"x").wait().unwrap();
    let config = Config { resend_interval_ms: 500, ..config() };
    let alice = SdsManager::builder("alice").config(config).store(store).clock(clock).build().unwrap();
    assert_eq!(alice.status("room").wait().unwrap().unwrap().unacknowledged, 1);
}
