//! Contracts (A) and (B): how often each operation calls, what a failure at any call leaves, the retry scenarios of nim-sds, and the crash
//! between the two writes of (B) that (C) does not have. Sections are those of the SDS specification.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::{Faulty, START_MS, broadcasts, clock, config, delivered, drain, manager, state};
use seabed_sds::contract::{
    FineGrainedPersistence, MemoryFineGrained, MemorySnapshots, SnapshotPersistence, StoreError, StoreResult,
    async_trait,
};
use seabed_sds::core::snapshot::{
    ChannelData, ChannelMeta, HistoryUpdate, IncomingMessage, IncomingRepairEntry, OutgoingRepairEntry,
    UnacknowledgedMessage,
};
use seabed_sds::core::{ChannelId, Message, MessageId};
use seabed_sds::{Callbacks, ErrorKind, ManualClock, RETRY_MS, ReleasePolicy, SdsManager};

/// A backend of (B) that counts calls, fails those that are named, and dies after so many writes.
#[derive(Default)]
struct Snapshots {
    inner: MemorySnapshots,
    calls: Mutex<BTreeMap<&'static str, u64>>,
    failing: Mutex<Vec<&'static str>>,
    updates: Mutex<Vec<HistoryUpdate>>,
    writes_left: Mutex<Option<u64>>,
    /// The history is updated, and the answer is an error all the same.
    lies: AtomicBool,
}

impl Snapshots {
    fn called(&self, call: &'static str) -> StoreResult<()> {
        *self.calls.lock().unwrap().entry(call).or_default() += 1;
        if self.failing.lock().unwrap().contains(&call) {
            return Err(StoreError::new(format!("{call} failed")));
        }
        if call != "load"
            && let Some(left) = &mut *self.writes_left.lock().unwrap()
        {
            *left = left.checked_sub(1).ok_or_else(|| StoreError::new("killed"))?;
        }
        Ok(())
    }

    fn fail(&self, calls: &[&'static str]) {
        *self.failing.lock().unwrap() = calls.to_vec();
    }

    /// The calls since the last time: meta, history, load, drop, hint.
    fn since(&self) -> [u64; 5] {
        let calls = std::mem::take(&mut *self.calls.lock().unwrap());
        ["meta", "history", "load", "drop", "hint"].map(|call| calls.get(call).copied().unwrap_or(0))
    }
}

#[async_trait]
impl SnapshotPersistence for Snapshots {
    async fn save_channel_meta(&self, channel: &ChannelId, meta: &ChannelMeta) -> StoreResult<()> {
        self.called("meta")?;
        self.inner.save_channel_meta(channel, meta).await
    }
    async fn update_history(&self, channel: &ChannelId, update: &HistoryUpdate) -> StoreResult<()> {
        self.called("history")?;
        self.updates.lock().unwrap().push(update.clone());
        self.inner.update_history(channel, update).await?;
        if self.lies.load(Ordering::SeqCst) {
            return Err(StoreError::new("the answer is lost"));
        }
        Ok(())
    }
    async fn load_channel(&self, channel: &ChannelId) -> StoreResult<ChannelData> {
        self.called("load")?;
        self.inner.load_channel(channel).await
    }
    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        self.called("drop")?;
        self.inner.drop_channel(channel).await
    }
    async fn set_retrieval_hint(&self, _: &MessageId, _: &[u8]) -> StoreResult<()> {
        self.called("hint")
    }
}

fn with_snapshots(name: &str, backend: &Arc<Snapshots>, clock: &Arc<ManualClock>) -> SdsManager {
    SdsManager::builder(name)
        .config(config())
        .snapshots(backend.clone())
        .clock(clock.clone())
        .build()
        .unwrap()
}

fn sent(manager: &SdsManager, id: &str) -> Vec<u8> {
    manager.send("room", id, b"content").wait().unwrap().release().wire
}

#[test]
fn contract_b_calls_as_often_as_section_22_2_says_and_no_more() {
    let (clock, backend) = (clock(), Arc::new(Snapshots::default()));
    let (alice, bob) = (manager("alice", Faulty::new(), &clock), with_snapshots("bob", &backend, &clock));
    // meta, history, load, drop, hint
    assert!(!bob.ensure_channel("room").wait().unwrap());
    assert_eq!(backend.since(), [0, 0, 1, 0, 0], "ensure channel");
    sent(&bob, "b1");
    assert_eq!(backend.since(), [1, 1, 0, 0, 0], "send");
    bob.send("room", "b2", b"").wait().unwrap_err();
    bob.send("room", "b2", vec![0; 2 << 20]).wait().unwrap_err();
    bob.receive(b"no message").wait().unwrap_err();
    assert_eq!(backend.since(), [0, 0, 0, 0, 0], "refused and undecodable");
    let [a1, a2, a3] = ["a1", "a2", "a3"].map(|id| sent(&alice, id));
    bob.receive(a3).wait().unwrap();
    assert_eq!(backend.since(), [1, 0, 0, 0, 0], "receive buffered");
    bob.receive(a2.clone()).wait().unwrap();
    backend.since();
    bob.receive(a1.clone()).wait().unwrap();
    assert_eq!(backend.since(), [1, 1, 0, 0, 0], "receive delivered, with a cascade of two");
    bob.receive(a1).wait().unwrap();
    let [meta, history, ..] = backend.since();
    assert!(meta <= 1 && history == 0, "receive duplicate: {meta}, {history}");
    bob.mark_dependencies_met("room", vec!["x".into()]).wait().unwrap();
    let [meta, history, ..] = backend.since();
    assert!(meta <= 1 && history == 0, "mark met: {meta}, {history}");
    clock.advance(12_000);
    bob.tick().wait().unwrap();
    assert_eq!(backend.since(), [1, 0, 0, 0, 0], "a sweep in which a message was sent again");
    bob.tick().wait().unwrap();
    assert_eq!(backend.since(), [0, 0, 0, 0, 0], "a sweep with nothing due");
    bob.set_callbacks(Callbacks {
        retrieval_hint: Some(Box::new(
            |id| if id.as_bytes() == b"a1" { Vec::new() } else { b"hint".to_vec() },
        )),
        ..Callbacks::default()
    });
    sent(&bob, "b3");
    assert_eq!(backend.since(), [1, 1, 0, 0, 3], "send, with hints for three of four");
    bob.remove_channel("room").wait().unwrap();
    assert_eq!(backend.since(), [0, 0, 0, 1, 0], "remove");
    bob.remove_channel("room").wait().unwrap();
    assert_eq!(backend.since(), [0, 0, 0, 1, 0], "remove of a channel that is not in memory");
    sent(&bob, "b1");
    backend.since();
    bob.reset().wait().unwrap();
    assert_eq!(backend.since(), [0, 0, 0, 1, 0], "reset");
    bob.cleanup().wait().unwrap();
    assert_eq!(backend.since(), [0, 0, 0, 0, 0], "cleanup");
}

#[test]
fn contract_b_failures_of_writes_are_retried_and_those_of_load_and_drop_surface() {
    let (clock, backend) = (clock(), Arc::new(Snapshots::default()));
    let bob = with_snapshots("bob", &backend, &clock);
    backend.fail(&["load"]);
    assert_eq!(bob.send("room", "b0", b"x").wait().unwrap_err().kind(), ErrorKind::Persistence);
    for failing in ["meta", "history", "hint"] {
        backend.fail(&[failing]);
        sent(&bob, failing);
    }
    backend.fail(&["drop"]);
    assert_eq!(bob.remove_channel("room").wait().unwrap_err().kind(), ErrorKind::Persistence);
    backend.fail(&[]);
    bob.mark_dependencies_met("room", Vec::new()).wait().unwrap();
    let again = with_snapshots("bob", &backend, &clock);
    assert_eq!(again.status("room").wait().unwrap().unwrap().log, 3);
}

#[test]
fn retry_1_two_sends_with_a_failing_backend_and_a_third_with_a_working_one_are_one_update() {
    let (clock, backend) = (clock(), Arc::new(Snapshots::default()));
    let bob = with_snapshots("bob", &backend, &clock);
    backend.fail(&["history"]);
    bob.ensure_channel("room").wait().unwrap();
    sent(&bob, "b1");
    sent(&bob, "b2");
    backend.fail(&[]);
    sent(&bob, "b3");
    let updates = backend.updates.lock().unwrap();
    let ids: Vec<_> = updates
        .iter()
        .map(|update| update.append.iter().map(|m| m.message_id.to_string()).collect::<Vec<_>>())
        .collect();
    assert_eq!(ids, [["b1", "b2", "b3"].map(String::from).to_vec()]);
}

#[test]
fn retry_2_a_failing_send_is_flushed_by_an_operation_that_changes_no_history() {
    let (clock, backend) = (clock(), Arc::new(Snapshots::default()));
    let bob = with_snapshots("bob", &backend, &clock);
    let own = sent(&bob, "b0");
    backend.fail(&["history", "meta"]);
    sent(&bob, "b1");
    backend.fail(&[]);
    // A duplicate.
    bob.receive(own).wait().unwrap();
    let updates = backend.updates.lock().unwrap();
    assert_eq!(updates.last().unwrap().append[0].message_id, "b1".into());
}

#[test]
fn retry_3_an_eviction_that_failed_does_not_win_over_the_same_message_delivered_again() {
    let (clock, backend) = (clock(), Arc::new(Snapshots::default()));
    // Profile nim, where an evicted message that returns is delivered again, and a log of two.
    let mut config = seabed_sds::core::Config::nim();
    config.limits.log_messages_max = 2;
    config.causal_history = 1;
    let builder = |name: &str| SdsManager::builder(name).config(config.clone()).clock(clock.clone());
    let alice = builder("alice").build().unwrap();
    let bob = builder("bob").snapshots(backend.clone()).build().unwrap();
    let wires = ["a1", "a2", "a3"].map(|id| sent(&alice, id));
    for wire in &wires[..2] {
        bob.receive(wire.clone()).wait().unwrap();
    }
    backend.fail(&["history"]);
    bob.receive(wires[2].clone()).wait().unwrap();
    bob.receive(wires[0].clone()).wait().unwrap();
    backend.fail(&[]);
    bob.mark_dependencies_met("room", Vec::new()).wait().unwrap();
    let data = pollster::block_on(backend.inner.load_channel(&"room".into())).unwrap();
    let mut ids: Vec<_> = data.history.iter().map(|message| message.message_id.to_string()).collect();
    ids.sort();
    assert_eq!(ids, ["a1", "a3"]);
}

#[test]
fn a_crash_between_the_two_writes_of_b_loses_a_message_and_c_has_no_such_place() {
    let clock = clock();
    let alice = manager("alice", Faulty::new(), &clock);
    let (first, second) = (sent(&alice, "a1"), sent(&alice, "a2"));

    // (B): the snapshot after the delivery is saved, the history is not.
    let backend = Arc::new(Snapshots::default());
    let bob = with_snapshots("bob", &backend, &clock);
    bob.receive(second.clone()).wait().unwrap();
    *backend.writes_left.lock().unwrap() = Some(1);
    assert!(!bob.receive(first.clone()).wait().unwrap().is_committed());
    *backend.writes_left.lock().unwrap() = None;
    let restarted = with_snapshots("bob", &backend, &clock);
    let status = restarted.status("room").wait().unwrap().unwrap();
    assert_eq!((status.log, status.waiting), (0, 0), "a2 neither waits nor is delivered: it is lost");

    // (C): before the commit it waits, after it is delivered.
    for dead_after in [1, 2] {
        let store = Faulty::new();
        store.dead_after.store(dead_after, Ordering::SeqCst);
        let bob = manager("bob", store.clone(), &clock);
        bob.receive(second.clone()).wait().unwrap();
        assert_eq!(bob.receive(first.clone()).wait().is_ok(), dead_after == 2);
        let restarted = manager("bob", store, &clock);
        let status = restarted.status("room").wait().unwrap().unwrap();
        let expected = if dead_after == 2 { (2, 0) } else { (0, 1) };
        assert_eq!((status.log, status.waiting), expected);
    }
}

/// A backend of (A) that counts calls and fails at one of them.
#[derive(Default)]
struct FineGrained {
    inner: MemoryFineGrained,
    calls: Mutex<Vec<&'static str>>,
    /// The call that fails, counted from now on; 0 for none.
    fails_at: AtomicU64,
}

impl FineGrained {
    fn called(&self, call: &'static str) -> StoreResult<()> {
        self.calls.lock().unwrap().push(call);
        match self.fails_at.load(Ordering::SeqCst) {
            0 => Ok(()),
            1 => Err(StoreError::new(format!("{call} failed"))),
            more => {
                self.fails_at.store(more - 1, Ordering::SeqCst);
                Ok(())
            }
        }
    }

    fn since(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

macro_rules! forwarded {
    ($($method:ident($($name:ident: $type:ty),*);)*) => {
        #[async_trait]
        impl FineGrainedPersistence for FineGrained {
            $(async fn $method(&self, $($name: $type),*) -> StoreResult<()> {
                self.called(stringify!($method))?;
                self.inner.$method($($name),*).await
            })*
            async fn load_all_for_channel(&self, channel: &ChannelId) -> StoreResult<ChannelData> {
                self.called("load")?;
                self.inner.load_all_for_channel(channel).await
            }
        }
    };
}

forwarded! {
    save_lamport(channel: &ChannelId, lamport: u64);
    append_log_entry(channel: &ChannelId, message: &Message);
    remove_log_entry(channel: &ChannelId, message: &MessageId);
    set_retrieval_hint(message: &MessageId, hint: &[u8]);
    save_outgoing(channel: &ChannelId, entry: &UnacknowledgedMessage);
    remove_outgoing(channel: &ChannelId, message: &MessageId);
    save_incoming(channel: &ChannelId, entry: &IncomingMessage);
    remove_incoming(channel: &ChannelId, message: &MessageId);
    save_outgoing_repair(channel: &ChannelId, message: &MessageId, entry: &OutgoingRepairEntry);
    remove_outgoing_repair(channel: &ChannelId, message: &MessageId);
    save_incoming_repair(channel: &ChannelId, message: &MessageId, entry: &IncomingRepairEntry);
    remove_incoming_repair(channel: &ChannelId, message: &MessageId);
    drop_channel(channel: &ChannelId);
}

fn with_fine_grained(name: &str, backend: &Arc<FineGrained>, clock: &Arc<ManualClock>) -> SdsManager {
    SdsManager::builder(name)
        .config(config())
        .fine_grained(backend.clone())
        .clock(clock.clone())
        .build()
        .unwrap()
}

#[test]
fn contract_a_calls_as_often_as_section_22_1_says_and_no_more() {
    let (clock, backend) = (clock(), Arc::new(FineGrained::default()));
    let (alice, bob) = (manager("alice", Faulty::new(), &clock), with_fine_grained("bob", &backend, &clock));
    bob.ensure_channel("room").wait().unwrap();
    assert_eq!(backend.since(), ["load"]);
    let own = sent(&bob, "b1");
    assert_eq!(backend.since(), ["save_lamport", "save_outgoing", "append_log_entry"], "3 + q + h + e");
    let [a1, a2, a3] = ["a1", "a2", "a3"].map(|id| sent(&alice, id));
    bob.receive(a3).wait().unwrap();
    // a3 names a1 and a2: d = 2, at most 4 + d.
    assert_eq!(backend.since(), ["save_incoming", "save_outgoing_repair", "save_outgoing_repair"]);
    bob.receive(a2).wait().unwrap();
    // a2 waits as well, and is asked for no more: u = 0, d = 1, at most 5.
    assert_eq!(backend.since(), ["save_incoming", "remove_outgoing_repair"]);
    bob.receive(a1).wait().unwrap();
    // Delivered, c = 2 cascaded, u = 0: at most 4 + 2c.
    let calls = backend.since();
    assert!(calls.len() <= 8, "{calls:?}");
    assert_eq!(calls.iter().filter(|call| **call == "append_log_entry").count(), 3);
    assert_eq!(calls.iter().filter(|call| **call == "remove_incoming").count(), 2);
    bob.receive(own).wait().unwrap();
    assert!(backend.since().len() <= 2, "a duplicate");
    bob.remove_channel("room").wait().unwrap();
    assert_eq!(backend.since(), ["drop_channel"]);
}

#[test]
fn contract_a_a_failure_at_any_call_ends_the_operation_there_and_what_it_tore_can_be_mended() {
    let scenario = |fails_at: u64| {
        let (clock, backend) = (clock(), Arc::new(FineGrained::default()));
        let alice = manager("alice", Faulty::new(), &clock);
        let bob = with_fine_grained("bob", &backend, &clock);
        backend.fails_at.store(fails_at, Ordering::SeqCst);
        let mut events = bob.events().unwrap();
        let wires = ["a1", "a2", "a3"].map(|id| sent(&alice, id));
        let mut failures = 0;
        for number in [2, 0, 1] {
            let attempt = || bob.receive(wires[number].clone()).wait();
            if let Err(error) = attempt() {
                assert_eq!(error.kind(), ErrorKind::Persistence);
                failures += 1;
                let calls = backend.since();
                assert!(
                    error.to_string().contains(calls.last().unwrap()),
                    "{error}: it ends at the call that fails"
                );
                backend.fails_at.store(0, Ordering::SeqCst);
                attempt().unwrap();
            }
            backend.since();
        }
        if failures > 0 {
            // The channel may be torn: a message waits for what was stored before the call that failed. Saying so frees it.
            bob.mark_dependencies_met("room", ["a1", "a2"].map(MessageId::from).to_vec()).wait().unwrap();
        }
        let log = bob.status("room").wait().unwrap().unwrap().log;
        (failures, log, delivered(&drain(&mut events)))
    };
    let mut failed = 0;
    for fails_at in 1.. {
        let (failures, log, delivered) = scenario(fails_at);
        assert_eq!(log, 3, "failed at call {fails_at}");
        // What was stored before the failing call may have been a delivery whose event nobody was told.
        assert!(delivered.len() <= 3);
        failed += failures;
        if failures == 0 {
            assert_eq!(delivered, ["a1", "a2", "a3"]);
            break;
        }
    }
    assert!(failed > 10, "{failed}");
}

#[test]
fn both_contracts_bring_a_channel_back_but_for_what_they_cannot_carry() {
    let clock = clock();
    let (b, a) = (Arc::new(Snapshots::default()), Arc::new(FineGrained::default()));
    let open: [&dyn Fn() -> SdsManager; 2] =
        [&|| with_snapshots("bob", &b, &clock), &|| with_fine_grained("bob", &a, &clock)];
    for open in open {
        let alice = manager("alice", Faulty::new(), &clock);
        let bob = open();
        let wires: Vec<_> = (0..5).map(|number| sent(&alice, &format!("a{number}"))).collect();
        for number in [0, 1, 4] {
            bob.receive(wires[number].clone()).wait().unwrap();
        }
        sent(&bob, "b1");
        let (before, restarted) = (bob.status("room").wait().unwrap().unwrap(), open());
        let after = restarted.status("room").wait().unwrap().unwrap();
        let kept = |status: &seabed_sds::ChannelStatus| {
            (
                status.lamport,
                status.log,
                status.unacknowledged,
                status.waiting,
                status.missing,
                status.repairs_out,
            )
        };
        assert_eq!(kept(&after), kept(&before));
        assert!(state(&restarted, "room").unwrap().due_ms.is_some());
        restarted.receive(wires[2].clone()).wait().unwrap();
        restarted.receive(wires[3].clone()).wait().unwrap();
        let healed = restarted.status("room").wait().unwrap().unwrap();
        assert_eq!((healed.log, healed.waiting, healed.missing), (6, 0, 0));
    }
}

/// What a message waits for and no row says when to ask for it: torn by a crash, or left so by nim-sds, which asks once.
#[test]
fn what_waits_without_a_word_of_when_to_ask_is_asked_for_and_given_up_from_the_start_on() {
    let clock = clock();
    let backend = Arc::new(Snapshots::default());
    let alice = manager("alice", Faulty::new(), &clock);
    let (first, second) = (sent(&alice, "a1"), sent(&alice, "a2"));
    let bob = with_snapshots("bob", &backend, &clock);
    bob.receive(second).wait().unwrap();
    let torn = || {
        let mut data = pollster::block_on(backend.inner.load_channel(&"room".into())).unwrap();
        assert_eq!(data.meta.incoming.len(), 1);
        data.meta.outgoing_repair.clear();
        pollster::block_on(backend.inner.save_channel_meta(&"room".into(), &data.meta)).unwrap();
    };
    torn();
    let config = seabed_sds::core::Config { dependency_timeout_ms: Some(60_000), ..config() };
    let builder = || SdsManager::builder("bob").config(config.clone()).clock(clock.clone());
    let restarted = builder().snapshots(backend.clone()).build().unwrap();
    let mut events = restarted.events().unwrap();
    restarted.ensure_channel("room").wait().unwrap();
    restarted.tick().wait().unwrap();
    let missing = restarted.read("room", |channel| channel.missing().cloned().collect::<Vec<_>>());
    let missing = missing.wait().unwrap().unwrap();
    let due_ms = missing[0].request_due_ms.unwrap();
    assert_eq!(missing[0].first_missed_ms, START_MS, "it is missed from now on, and not given up at once");
    assert!((START_MS + 1_000..START_MS + 5_000).contains(&due_ms), "{due_ms}");

    // And the request leaves with the next message, which alice answers.
    clock.set(due_ms);
    let request = sent(&restarted, "b1");
    alice.receive(request).wait().unwrap();
    assert_eq!(alice.status("room").wait().unwrap().unwrap().repairs_in, 1);
    restarted.receive(first).wait().unwrap();
    assert_eq!(delivered(&drain(&mut events)), ["a1", "a2"]);

    // A channel that logos-delivery left is no other when it is migrated.
    let store = seabed_kv::Store::memory();
    let kept = seabed_sds::KernelStore::open(&store).wait().unwrap();
    let rows = seabed_sds::LogosRows::new(kept.tenant().clone());
    let carol = builder().snapshots(Arc::new(rows.clone())).build().unwrap();
    carol.receive(sent(&alice, "a3")).wait().unwrap();
    let mut data = pollster::block_on(rows.load_channel(&"room".into())).unwrap();
    data.meta.outgoing_repair.clear();
    pollster::block_on(rows.save_channel_meta(&"room".into(), &data.meta)).unwrap();
    pollster::block_on(kept.migrate(&"room".into(), &"bob".into(), &config)).unwrap();
    let migrated = builder().store(Arc::new(kept)).build().unwrap();
    let status = migrated.status("room").wait().unwrap().unwrap();
    assert_eq!((status.waiting, status.repairs_out > 0), (1, true), "{status:?}");
    assert_eq!(status.missing, status.repairs_out);
}

/// A message that waits for what is in the log already: torn between the two. Nothing else would ever free it.
#[test]
fn what_waits_for_a_message_of_the_log_is_delivered_after_a_restart() {
    let clock = clock();
    let backend = Arc::new(Snapshots::default());
    let alice = manager("alice", Faulty::new(), &clock);
    let (first, second) = (sent(&alice, "a1"), sent(&alice, "a2"));
    let bob = with_snapshots("bob", &backend, &clock);
    bob.receive(second).wait().unwrap();
    let before = pollster::block_on(backend.inner.load_channel(&"room".into())).unwrap();
    bob.receive(first).wait().unwrap();
    // The snapshot is of before, the history of after, but for the second one.
    let evict = HistoryUpdate { append: Vec::new(), evict: vec!["a2".into()] };
    pollster::block_on(backend.inner.save_channel_meta(&"room".into(), &before.meta)).unwrap();
    pollster::block_on(backend.inner.update_history(&"room".into(), &evict)).unwrap();
    let restarted = with_snapshots("bob", &backend, &clock);
    let mut events = restarted.events().unwrap();
    restarted.ensure_channel("room").wait().unwrap();
    restarted.tick().wait().unwrap();
    assert_eq!(delivered(&drain(&mut events)), ["a2"]);
    let status = restarted.status("room").wait().unwrap().unwrap();
    assert_eq!((status.log, status.waiting, status.missing), (2, 0, 0));
}

fn strict(name: &str, backend: &Arc<Snapshots>, clock: &Arc<ManualClock>) -> SdsManager {
    let builder = SdsManager::builder(name).config(config()).snapshots(backend.clone()).clock(clock.clone());
    builder.release_policy(ReleasePolicy::Strict).build().unwrap()
}

/// The ids of the messages that a backend will have sent again.
fn unacknowledged(backend: &Snapshots) -> Vec<String> {
    let data = pollster::block_on(backend.inner.load_channel(&"room".into())).unwrap();
    data.meta.outgoing.iter().map(|entry| entry.message.message_id.to_string()).collect()
}

/// A backend keeps no positions, so they are others after a load.
#[test]
fn a_delivery_that_contract_a_has_stored_in_part_is_told_once() {
    let (clock, backend) = (clock(), Arc::new(FineGrained::default()));
    let mut config = seabed_sds::core::Config::nim();
    (config.limits.log_messages_max, config.causal_history) = (2, 1);
    let builder = |name: &str| SdsManager::builder(name).config(config.clone()).clock(clock.clone());
    let (alice, bob) =
        (builder("alice").build().unwrap(), builder("bob").fine_grained(backend.clone()).build().unwrap());
    let mut events = bob.events().unwrap();
    let wires = ["a1", "a2", "a3", "a4"].map(|id| sent(&alice, id));
    for wire in &wires[..3] {
        backend.since();
        bob.receive(wire.clone()).wait().unwrap();
    }
    assert_eq!(delivered(&drain(&mut events)), ["a1", "a2", "a3"]);
    let evicts = backend.since().iter().position(|call| *call == "remove_log_entry").unwrap() as u64;
    backend.fails_at.store(evicts + 1, Ordering::SeqCst);
    let error = bob.receive(wires[3].clone()).wait().unwrap_err();
    assert!(error.to_string().contains("remove_log_entry failed"), "{error}");
    backend.fails_at.store(0, Ordering::SeqCst);
    clock.advance(RETRY_MS);
    bob.tick().wait().unwrap();
    let told = drain(&mut events);
    assert_eq!(delivered(&told), ["a4"]);
    assert!(told.iter().all(|item| item.committed));
    bob.receive(wires[3].clone()).wait().unwrap();
    assert_eq!(drain(&mut events), []);
    bob.receive(sent(&alice, "a5")).wait().unwrap();
    assert_eq!(delivered(&drain(&mut events)), ["a5"]);
    assert_eq!(bob.status("room").wait().unwrap().unwrap().log, 2);
}

#[test]
fn a_send_that_contract_b_has_stored_without_its_snapshot_is_not_broadcast() {
    let (clock, backend) = (clock(), Arc::new(Snapshots::default()));
    let bob = strict("bob", &backend, &clock);
    let mut events = bob.events().unwrap();
    backend.fail(&["meta"]);
    assert_eq!(bob.send("room", "b1", b"x").wait().unwrap_err().kind(), ErrorKind::Persistence);
    backend.fail(&[]);
    clock.advance(RETRY_MS);
    bob.tick().wait().unwrap();
    assert_eq!(broadcasts(&drain(&mut events)), [b""; 0], "nobody would send it again");
    sent(&bob, "b2");
    assert_eq!(unacknowledged(&backend), ["b2"]);
}

/// Nor does it keep numbers: those of a batch whose answer was lost are others when it is stored again.
#[test]
fn what_contract_b_has_stored_without_an_answer_is_stored_again_in_its_place() {
    let (clock, backend) = (clock(), Arc::new(Snapshots::default()));
    let (alice, bob) = (manager("alice", Faulty::new(), &clock), strict("bob", &backend, &clock));
    let mut events = bob.events().unwrap();
    alice.receive(sent(&bob, "b0")).wait().unwrap();
    sent(&bob, "b1");
    bob.receive(sent(&alice, "a1")).wait().unwrap();
    for id in ["b2", "b3"] {
        sent(&bob, id);
    }
    assert_eq!(unacknowledged(&backend), ["b1", "b2", "b3"]);
    drain(&mut events);

    backend.lies.store(true, Ordering::SeqCst);
    bob.send("room", "b4", b"x").wait().unwrap_err();
    backend.lies.store(false, Ordering::SeqCst);
    clock.advance(RETRY_MS);
    bob.tick().wait().unwrap();
    assert_eq!(broadcasts(&drain(&mut events)).len(), 1, "b4 is said");
    assert_eq!(unacknowledged(&backend), ["b1", "b2", "b3", "b4"]);
    let state = state(&bob, "room");
    assert_eq!(state, common::state(&strict("bob", &backend, &clock), "room"));

    // And what acknowledges one does not take another one away.
    let acknowledges = |cause: &str| {
        let message = Message {
            sender_id: "carol".into(),
            message_id: "c1".into(),
            channel_id: "room".into(),
            lamport: Some(START_MS / 1_000),
            causal_history: vec![seabed_sds::core::HistoryEntry {
                message_id: cause.into(),
                ..seabed_sds::core::HistoryEntry::default()
            }],
            content: Some(b"x".as_slice().into()),
            ..Message::default()
        };
        seabed_sds::core::wire::encode(&message, seabed_sds::core::wire::Dialect::Nim)
    };
    backend.lies.store(true, Ordering::SeqCst);
    bob.receive(acknowledges("b2")).wait().unwrap_err();
    backend.lies.store(false, Ordering::SeqCst);
    clock.advance(RETRY_MS);
    bob.tick().wait().unwrap();
    assert_eq!(delivered(&drain(&mut events)), ["c1"]);
    assert_eq!(unacknowledged(&backend), ["b1", "b3", "b4"]);
}
