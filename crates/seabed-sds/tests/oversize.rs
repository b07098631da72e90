//! More than a batch of the kernel holds: what waits for one message is delivered in order, whatever happens in between, and what has
//! piled up under `BestEffort` is stored.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Faulty, best_effort, clock, delivered, drain, manager, state};
use seabed_kv::limits::BATCH_BYTES_MAX;
use seabed_kv::{KeyRange, ScanSpec, Store};
use seabed_sds::contract::{ChannelBatch, ChannelStore, StoreError, StoreResult, async_trait};
use seabed_sds::core::{Change, ChannelId, Record};
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

/// The kernel, failing when told.
struct Failing {
    inner: KernelStore,
    fails: AtomicBool,
}

impl Failing {
    fn check(&self) -> StoreResult<()> {
        if self.fails.load(Ordering::SeqCst) { Err(StoreError::new("the disk is gone")) } else { Ok(()) }
    }
}

#[async_trait]
impl ChannelStore for Failing {
    async fn commit(&self, channel: &ChannelId, batch: &ChannelBatch) -> StoreResult<()> {
        self.check()?;
        self.inner.commit(channel, batch).await
    }
    async fn load(&self, channel: &ChannelId) -> StoreResult<Vec<Record>> {
        self.inner.load(channel).await
    }
    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        self.check()?;
        self.inner.drop_channel(channel).await
    }
    async fn list(&self) -> StoreResult<Vec<ChannelId>> {
        self.inner.list().await
    }
    fn forget(&self, channel: &ChannelId) {
        self.inner.forget(channel);
    }
}

#[test]
fn what_piled_up_under_best_effort_is_stored_in_pieces_when_it_is_more_than_a_batch() {
    let (clock, store) = (clock(), Store::memory());
    let open = || KernelStore::open(&store).wait().unwrap();
    let failing = Arc::new(Failing { inner: open(), fails: AtomicBool::new(false) });
    let bob = best_effort("bob", failing.clone(), &clock);
    let send = |id: &str| bob.send("room", id, vec![b'x'; CONTENT_BYTES]).wait().unwrap().is_committed();
    let restarted = || state(&manager("bob", Arc::new(open()), &clock), "room");
    bob.send("room", "first", b"stored").wait().unwrap();
    failing.fails.store(true, Ordering::SeqCst);
    for number in 0..10 {
        assert!(!send(&format!("b{number}")));
    }
    failing.fails.store(false, Ordering::SeqCst);
    assert!(send("committed with all before it"));
    assert_eq!(restarted(), state(&bob, "room"));

    // And the whole channel, because nobody knows what a removal has left.
    failing.fails.store(true, Ordering::SeqCst);
    bob.remove_channel("room").wait().unwrap_err();
    assert!(!send("another"));
    failing.fails.store(false, Ordering::SeqCst);
    let row = Record::Met { number: 77, message_id: "left behind".into(), lost: false };
    let stray = ChannelBatch { changes: vec![Change::Put(row)], ..ChannelBatch::default() };
    pollster::block_on(failing.commit(&"room".into(), &stray)).unwrap();
    assert!(bob.mark_dependencies_met("room", Vec::new()).wait().unwrap().is_committed());
    assert_eq!(restarted(), state(&bob, "room"));
}
