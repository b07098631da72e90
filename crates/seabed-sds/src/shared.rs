//! What the channels of a manager have in common. None of it is locked across an await.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use seabed_sds_core::{ChannelId, Config, MessageId, Output, ParticipantId};

use crate::alarm::Alarm;
use crate::contract::ChannelStore;
use crate::dispatcher::Dispatcher;
use crate::driver::{Given, Guard, Loaded, Maker};
use crate::events::{Cause, EventQueue, What};
use crate::limits::SYNC_DUE_MS;
use crate::registry::Registry;
use crate::request::{Performed, Request};
use crate::{Clock, Error, ReleasePolicy, Result, UnknownChannels};

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
    pub(crate) alarm: Alarm,
    /// How many channels were made, or are being made, by messages that came.
    pub(crate) made_by_messages: AtomicUsize,
    pub(crate) operations: AtomicU64,
    pub(crate) closed: AtomicBool,
    /// When sync messages are to be thought of next, where they are not sent automatically; at first at once.
    pub(crate) next_sync_due_ms: AtomicU64,
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
            alarm: Alarm::default(),
            made_by_messages: AtomicUsize::new(0),
            operations: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            next_sync_due_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn next_operation(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::Relaxed)
    }

    /// Tells whoever listens what happened, `before` first. To be called under the lock of the channel, so that the stream has its order.
    pub(crate) fn publish(
        &self,
        channel: &ChannelId,
        cause: impl FnOnce() -> Cause,
        committed: bool,
        before: Vec<What>,
        outputs: &[Output],
    ) {
        let count = before.len() + outputs.len();
        let all = before.into_iter().chain(outputs.iter().cloned().map(What::from));
        let told = self.events.push(channel, cause, committed, (count, all), self.dispatcher.hears());
        if !told.is_empty() {
            self.dispatcher.queue(told);
        }
    }
}

impl Shared {
    pub(crate) fn require_open(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Done when those who listen have left room for another operation.
    pub(crate) async fn room(&self) {
        self.events.room().await;
        self.dispatcher.room().await;
    }

    /// Whether those who listen have to listen first.
    pub(crate) fn is_full(&self) -> bool {
        self.events.is_full() || self.dispatcher.is_full()
    }

    /// A channel's lock. Who stood in line when the channel was removed looks again, and finds another channel of that name.
    pub(crate) async fn enter(self: &Arc<Self>, channel: &ChannelId) -> Result<Guard> {
        loop {
            let entered = self.registry.slot(channel).enter(self).await;
            self.require_open()?;
            if let Ok(guard) = entered {
                return Ok(guard);
            }
        }
    }

    /// The same for what changes the channel: who stood in line when it was removed meant that one, and no other.
    async fn enter_to_change(self: &Arc<Self>, channel: &ChannelId) -> Result<Guard> {
        loop {
            let entered = self.registry.slot(channel).enter(self).await;
            self.require_open()?;
            match entered {
                Ok(guard) => return Ok(guard),
                Err(Given::Up) => {}
                Err(Given::Removed) => return Err(Error::Removed { channel: channel.clone() }),
            }
        }
    }

    /// One operation on a channel: under its lock, through its commit.
    pub(crate) async fn perform(
        self: &Arc<Self>,
        channel: &ChannelId,
        request: &Request,
        hints: &[(MessageId, Arc<[u8]>)],
    ) -> Result<Performed> {
        let mut guard = self.enter_to_change(channel).await?;
        let may_make = || match request {
            Request::Receive { .. } => self.may_make_channel(channel).then_some(Maker::Message),
            _ => request.makes_channel().then_some(Maker::Program),
        };
        if guard.load(may_make).await? == Loaded::Absent {
            return Ok(Performed::UnknownChannel);
        }
        guard.operate(request.input(hints)).await.map(Performed::Done)
    }

    /// Whether one more channel may be made by a message; if so, it counts.
    fn may_make_channel(&self, channel: &ChannelId) -> bool {
        let channels_max = self.unknown.channels_max();
        let one_more = |made: usize| (made < channels_max).then(|| made + 1);
        let made = self.made_by_messages.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        if made.is_err() {
            let cause = || Cause::Received(MessageId::default());
            self.publish(channel, cause, true, vec![What::UnknownChannelIgnored { channels_max }], &[]);
        }
        made.is_ok()
    }

    /// Whether this manager says when sync messages are due, because its channels do not send them by themselves.
    fn tells_sync_due(&self) -> bool {
        self.config.sync_interval_ms.is_none()
    }

    /// Tells it when it is. Who has not heard what came before does without.
    pub(crate) fn tell_sync_due(&self, now_ms: u64) {
        let next = |due_ms: u64| (due_ms <= now_ms).then(|| now_ms.saturating_add(SYNC_DUE_MS));
        if self.tells_sync_due()
            && self.next_sync_due_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok()
            && !self.is_full()
        {
            self.publish(&ChannelId::default(), || Cause::Time, true, vec![What::SyncDue], &[]);
        }
    }

    /// When sync messages are to be thought of next, where this manager says so.
    pub(crate) fn sync_due_ms(&self) -> Option<u64> {
        self.tells_sync_due().then(|| self.next_sync_due_ms.load(Ordering::SeqCst))
    }

    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.registry.next_due_ms().into_iter().chain(self.sync_due_ms()).min()
    }
}

impl Drop for Shared {
    /// The last clone of the manager is gone: who reads the stream is told that nothing comes any more.
    fn drop(&mut self) {
        self.events.close();
    }
}
