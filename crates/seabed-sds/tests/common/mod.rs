//! What the tests of this crate share: stores that fail when told, and two participants.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of this")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a helper that fails is a test that fails")]

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};

use seabed_sds::contract::{ChannelBatch, ChannelStore, MemoryStore, StoreError, StoreResult, async_trait};
use seabed_sds::core::wire::Dialect;
use seabed_sds::core::{Change, Channel, ChannelId, Config, Event, Record};
use seabed_sds::{Events, Happened, ManualClock, ReleasePolicy, SdsManager, What};

pub const START_MS: u64 = 1_750_000_000_000;

/// A store in memory that counts and fails.
#[derive(Debug, Default)]
pub struct Faulty {
    pub inner: MemoryStore,
    pub commits: AtomicU64,
    pub rows: AtomicU64,
    /// Every call from this one on fails, and changes nothing: as when the process was killed after the one before.
    pub dead_after: AtomicU64,
    pub failing: AtomicBool,
    /// The change is made, and the answer is an error all the same.
    pub lies: AtomicBool,
}

impl Faulty {
    pub fn new() -> Arc<Self> {
        let store = Self::default();
        store.dead_after.store(u64::MAX, Ordering::SeqCst);
        Arc::new(store)
    }

    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    fn fails(&self) -> bool {
        self.failing.load(Ordering::SeqCst) || self.commits() >= self.dead_after.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl ChannelStore for Faulty {
    async fn commit(&self, channel: &ChannelId, batch: &ChannelBatch) -> StoreResult<()> {
        if self.fails() {
            return Err(StoreError::new("the disk is gone"));
        }
        self.inner.commit(channel, batch).await?;
        self.commits.fetch_add(1, Ordering::SeqCst);
        self.rows.fetch_add(batch.changes.len() as u64, Ordering::SeqCst);
        if self.lies.load(Ordering::SeqCst) {
            return Err(StoreError::new("the answer is lost"));
        }
        Ok(())
    }

    async fn load(&self, channel: &ChannelId) -> StoreResult<Vec<Record>> {
        if self.failing.load(Ordering::SeqCst) {
            return Err(StoreError::new("the disk is gone"));
        }
        self.inner.load(channel).await
    }

    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        if self.fails() {
            return Err(StoreError::new("the disk is gone"));
        }
        self.inner.drop_channel(channel).await
    }

    async fn list(&self) -> StoreResult<Vec<ChannelId>> {
        self.inner.list().await
    }
}

/// A store whose commits and drops wait at a gate, and begin to fail when told.
#[derive(Debug)]
pub struct Gated<S> {
    pub inner: S,
    gate: Mutex<Gate>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    /// How many more may pass.
    open_for: usize,
    callers: usize,
    waiting: Vec<Waker>,
}

impl<S> Gated<S> {
    pub fn new(inner: S) -> Arc<Self> {
        Arc::new(Self { inner, gate: Mutex::default(), called: Condvar::new() })
    }

    /// Lets so many pass, and no more.
    pub fn open_for(&self, calls: usize) {
        let mut gate = self.gate.lock().unwrap();
        gate.open_for = calls;
        let waiting = std::mem::take(&mut gate.waiting);
        drop(gate);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Blocks until so many have come to the gate since it was made.
    pub fn wait_for_callers(&self, callers: usize) {
        let gate = self.gate.lock().unwrap();
        drop(self.called.wait_while(gate, |gate| gate.callers < callers).unwrap());
    }

    async fn pass(&self) {
        self.gate.lock().unwrap().callers += 1;
        self.called.notify_all();
        std::future::poll_fn(|context| {
            let mut gate = self.gate.lock().unwrap();
            if let Some(left) = gate.open_for.checked_sub(1) {
                gate.open_for = left;
                return Poll::Ready(());
            }
            gate.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[async_trait]
impl<S: ChannelStore> ChannelStore for Gated<S> {
    async fn commit(&self, channel: &ChannelId, batch: &ChannelBatch) -> StoreResult<()> {
        self.pass().await;
        self.inner.commit(channel, batch).await
    }

    async fn load(&self, channel: &ChannelId) -> StoreResult<Vec<Record>> {
        self.inner.load(channel).await
    }

    async fn drop_channel(&self, channel: &ChannelId) -> StoreResult<()> {
        self.pass().await;
        self.inner.drop_channel(channel).await
    }

    async fn list(&self) -> StoreResult<Vec<ChannelId>> {
        self.inner.list().await
    }
}

pub fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Short times, so that little has to pass.
pub fn config() -> Config {
    Config {
        resend_interval_ms: 10_000,
        resend_interval_possible_ms: 20_000,
        resend_attempts_max: 2,
        repair_t_min_ms: 1_000,
        repair_t_max_ms: 5_000,
        ..Config::seabed(Dialect::Nim)
    }
}

pub fn manager(name: &str, store: Arc<dyn ChannelStore>, clock: &Arc<ManualClock>) -> SdsManager {
    manager_with(config(), name, store, clock)
}

pub fn manager_with(
    config: Config,
    name: &str,
    store: Arc<dyn ChannelStore>,
    clock: &Arc<ManualClock>,
) -> SdsManager {
    SdsManager::builder(name).config(config).store(store).clock(clock.clone()).build().unwrap()
}

pub fn best_effort(name: &str, store: Arc<dyn ChannelStore>, clock: &Arc<ManualClock>) -> SdsManager {
    let builder = SdsManager::builder(name).config(config()).store(store).clock(clock.clone());
    builder.release_policy(ReleasePolicy::BestEffort).build().unwrap()
}

pub fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(START_MS))
}

/// Everything that waits in a stream.
pub fn drain(events: &mut Events) -> Vec<Happened> {
    std::iter::from_fn(|| events.try_next()).collect()
}

/// The ids of the messages that were delivered.
pub fn delivered(happened: &[Happened]) -> Vec<String> {
    let ids = happened.iter().filter_map(|item| match &item.what {
        What::Event(Event::Delivered { message, .. }) => Some(message.message_id.to_string()),
        _ => None,
    });
    ids.collect()
}

/// The bytes that are to be broadcast.
pub fn broadcasts(happened: &[Happened]) -> Vec<Vec<u8>> {
    let wires = happened.iter().filter_map(|item| match &item.what {
        What::Broadcast(broadcast) => Some(broadcast.wire.clone()),
        _ => None,
    });
    wires.collect()
}

/// A channel's whole state: its rows, and when it wants to be looked at.
#[derive(Debug, PartialEq)]
pub struct State {
    pub records: Vec<Record>,
    pub due_ms: Option<u64>,
}

pub fn state(manager: &SdsManager, channel: &str) -> Option<State> {
    let read = |channel: &Channel| State { records: channel.records().collect(), due_ms: channel.next_due() };
    manager.read(channel, read).wait().unwrap()
}

/// The rows of a batch that replaces a channel.
pub fn puts(records: &[Record]) -> Vec<Change> {
    records.iter().cloned().map(Change::Put).collect()
}
