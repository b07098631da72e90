//! More waits for one message than a batch of the kernel holds: all of it is delivered, in order, whatever happens in between.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::sync::Arc;

use common::{Faulty, clock, delivered, drain, manager, state};
use seabed_kv::limits::BATCH_BYTES_MAX;
use seabed_kv::{KeyRange, ScanSpec, Store};
use seabed_sds::{KernelStore, SdsManager};

const MESSAGES: usize = 14;
const CONTENT_BYTES: usize = 1_000_000;

/// Messages of a megabyte, each resting on those before it, but for the first, which is small: the others wait for it.
fn wires(alice: &SdsManager) -> Vec<Vec<u8>> {
    let send = |number: usize| {
        let content = vec![b'x'; if number == 0 { 1 } else { CONTENT_BYTES }];
        let id = format!("a{number:02}");
        alice.send("room", id.as_str(), content).wait().unwrap().release().wire
    };
    (0..=MESSAGES).map(send).collect()
}

#[test]
fn what_one_message_frees_may_be_more_than_a_batch_and_a_restart_in_between_goes_on() {
    let expected: Vec<String> = (0..=MESSAGES).map(|number| format!("a{number:02}")).collect();
    let (clock, directory) = (clock(), tempfile::tempdir().unwrap());
    let open = |name: &str| {
        let store = Store::sqlite(directory.path().join(name)).unwrap();
        let kept = Arc::new(KernelStore::open(&store).wait().unwrap());
        (manager("bob", kept, &clock), store)
    };
    let wires = wires(&manager("alice", Faulty::new(), &clock));
    let mut states = Vec::new();
    for restarts in [false, true] {
        let name = if restarts { "restarts" } else { "goes on" };
        let (mut bob, mut store) = open(name);
        for wire in wires[1..].iter().rev() {
            bob.receive(wire.clone()).wait().unwrap();
        }
        let held = store.tenant(seabed_sds::TENANT).unwrap();
        let rows = held.scan(ScanSpec::new("sds.channel", KeyRange::all())).collect().wait().unwrap();
        assert!(rows.iter().map(|row| row.payload.len()).sum::<usize>() > BATCH_BYTES_MAX);
        let mut events = bob.events().unwrap();
        bob.receive(wires[0].clone()).wait().unwrap();
        let mut told = delivered(&drain(&mut events));
        assert!(told.len() < expected.len(), "not in one operation: {told:?}");
        let mut ticks = 0;
        while told.len() < expected.len() {
            if restarts {
                bob.cleanup().wait().unwrap();
                store.close().wait().unwrap();
                (bob, store) = open(name);
                events = bob.events().unwrap();
                bob.restore().wait().unwrap();
            }
            assert!(
                bob.next_due_ms().is_some_and(|due_ms| due_ms <= common::START_MS),
                "the rest is due at once"
            );
            bob.tick().wait().unwrap();
            told.extend(delivered(&drain(&mut events)));
            ticks += 1;
            assert!(ticks < MESSAGES, "{told:?}");
        }
        assert_eq!(told, expected);
        states.push(state(&bob, "room").unwrap());
    }
    assert_eq!(states[0], states[1]);
}
