//! What the channels of a manager have in common. None of it is locked across an await.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use seabed_sds_core::{ChannelId, Config, MessageId, ParticipantId};

use crate::callbacks::Dispatcher;
use crate::config::SYNC_DUE_MS;
use crate::contract::ChannelStore;
use crate::driver::{Guard, Loaded, Slot};
use crate::events::{Cause, EventQueue, What};
use crate::lock::lock;
use crate::request::{Performed, Request};
use crate::{Clock, ReleasePolicy, Result, UnknownChannels};

pub(crate) struct Shared {
    pub(crate) participant: ParticipantId,
    pub(crate) config: Config,
    pub(crate) policy: ReleasePolicy,
    pub(crate) unknown: UnknownChannels,
    pub(crate) store: Arc<dyn ChannelStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) registry: Registry,
    pub(crate) events: Arc<EventQueue>,
    pub(crate) dispatcher: Dispatcher,
    /// How many channels were made by messages that came.
    pub(crate) made_by_messages: AtomicUsize,
    pub(crate) operations: AtomicU64,
    pub(crate) closed: AtomicBool,
    /// When sync messages are to be thought of next, where they are not sent automatically; at first at once.
    pub(crate) sync_due_ms: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        participant: ParticipantId,
        config: Config,
        policy: ReleasePolicy,
        unknown: UnknownChannels,
        store: Arc<dyn ChannelStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            participant,
            config,
            policy,
            unknown,
            store,
            clock,
            registry: Registry::default(),
            events: Arc::default(),
            dispatcher: Dispatcher::default(),
            made_by_messages: AtomicUsize::new(0),
            operations: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            sync_due_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn next_operation(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::Relaxed)
    }

    /// To be called under the lock of the channel, so that the stream has its order.
    pub(crate) fn publish(
        &self,
        channel: &ChannelId,
        cause: &Cause,
        committed: bool,
        all: impl IntoIterator<Item = What>,
    ) {
        let happened = self.events.push(channel, cause, committed, all);
        self.dispatcher.queue(happened);
    }
}

impl Shared {
    /// A channel's lock.
    pub(crate) async fn enter(&self, channel: &ChannelId) -> Guard {
        loop {
            if let Some(guard) = self.registry.slot(channel).enter(self).await {
                return guard;
            }
        }
    }

    /// One operation on a channel: under its lock, through its commit.
    pub(crate) async fn perform(
        &self,
        channel: &ChannelId,
        request: &Request,
        hints: &[(MessageId, Arc<[u8]>)],
    ) -> Result<Performed> {
        let mut guard = self.enter(channel).await;
        let received = matches!(request, Request::Receive { .. });
        let may_make = || if received { self.may_make_channel(channel) } else { request.makes_channel() };
        let loaded = guard.load(self, may_make).await?;
        if loaded == Loaded::Absent {
            guard.leave_empty(self);
            return Ok(Performed::UnknownChannel);
        }
        let done = guard.operate(self, request.input(hints)).await;
        if received && loaded == Loaded::Made && done.is_err() {
            // What was no message, or could not be stored, makes no channel.
            self.made_by_messages.fetch_sub(1, Ordering::SeqCst);
            guard.leave_empty(self);
        }
        done.map(Performed::Done)
    }

    /// Whether one more channel may be made by a message; if so, it counts.
    fn may_make_channel(&self, channel: &ChannelId) -> bool {
        let channels_max = self.unknown.channels_max();
        let one_more = |made: usize| (made < channels_max).then(|| made + 1);
        let made = self.made_by_messages.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        if made.is_err() {
            let cause = Cause::Received(MessageId::default());
            self.publish(channel, &cause, true, [What::UnknownChannelIgnored { channels_max }]);
        }
        made.is_ok()
    }

    /// Whether this manager says when sync messages are due, because its channels do not send them by themselves.
    fn tells_sync_due(&self) -> bool {
        self.config.sync_interval_ms.is_none()
    }

    pub(crate) fn tell_sync_due(&self, now_ms: u64) {
        if self.tells_sync_due() && self.sync_due_ms.load(Ordering::SeqCst) <= now_ms {
            self.sync_due_ms.store(now_ms.saturating_add(SYNC_DUE_MS), Ordering::SeqCst);
            self.publish(&ChannelId::default(), &Cause::Time, true, [What::SyncDue]);
        }
    }

    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        let sync = self.tells_sync_due().then(|| self.sync_due_ms.load(Ordering::SeqCst));
        self.registry.next_due_ms().into_iter().chain(sync).min()
    }
}

/// Which channels are in memory.
#[derive(Default)]
pub(crate) struct Registry(Mutex<BTreeMap<ChannelId, Arc<Slot>>>);

impl Registry {
    /// The place of a channel, made when there is none.
    pub(crate) fn slot(&self, id: &ChannelId) -> Arc<Slot> {
        let mut slots = lock(&self.0);
        slots.entry(id.clone()).or_insert_with(|| Arc::new(Slot::new(id.clone()))).clone()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Slot>> {
        lock(&self.0).values().cloned().collect()
    }

    /// Those that want to be looked at by then.
    pub(crate) fn due(&self, now_ms: u64) -> Vec<Arc<Slot>> {
        let due = |slot: &&Arc<Slot>| slot.due_ms().is_some_and(|due| due <= now_ms);
        lock(&self.0).values().filter(due).cloned().collect()
    }

    /// When the first of them wants to be looked at.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        lock(&self.0).values().filter_map(|slot| slot.due_ms()).min()
    }

    /// When the first of those that do not want it yet does.
    pub(crate) fn next_due_after_ms(&self, now_ms: u64) -> Option<u64> {
        lock(&self.0).values().filter_map(|slot| slot.due_ms()).filter(|due| *due > now_ms).min()
    }

    pub(crate) fn forget(&self, slot: &Arc<Slot>) {
        let mut slots = lock(&self.0);
        if slots.get(&slot.id).is_some_and(|there| Arc::ptr_eq(there, slot)) {
            slots.remove(&slot.id);
        }
    }
}
