//! One channel's loop: handle, commit, release. The channel's lock is held from the first to the last, and no other.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use seabed_sds_core::{Channel, ChannelId, Effects, Handled, Input, Released};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::contract::{ChannelBatch, StoreError, StoreResult};
use crate::events::{Cause, What};
use crate::limits::RETRY_MS;
use crate::shared::Shared;
use crate::status::Counters;
use crate::unsaved::Unsaved;
use crate::{Answer, Error, ReleasePolicy, Result, caught, doubt};

const NEVER: u64 = u64::MAX;

/// The place of one channel in a manager: there is one for each id, and whoever wants the channel waits in line for it.
pub(crate) struct Slot {
    pub(crate) id: ChannelId,
    state: Arc<Mutex<State>>,
    due_ms: AtomicU64,
}

/// What the lock guards.
#[derive(Default)]
pub(crate) struct State {
    /// None before it is loaded, and after a commit that failed: nothing is undone by hand.
    channel: Option<Channel>,
    standing: Standing,
    /// What was begun and not ended, because its caller went away. Whoever comes next carries it on.
    flight: Option<Flight>,
    /// What failed and may be stored all the same: the next load tells.
    doubt: Option<Doubt>,
    /// What memory has and the store has not.
    unsaved: Unsaved,
    pub(crate) counters: Counters,
}

/// What is known of the channel of a place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Standing {
    /// Nothing yet: who leaves it so gives the place up.
    #[default]
    Unsettled,
    /// It is new, and nothing of it is stored.
    Begun(Maker),
    /// It was loaded, ensured or stored: it stays one whatever becomes of a commit.
    Known,
    /// This place is nobody's any more.
    Given(Given),
}

/// Why a place is nobody's any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given {
    /// Nobody needs it; look again.
    Up,
    /// The channel was removed.
    Removed,
}

/// Who makes a channel that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    Program,
    /// A message that came; of these there is a bound.
    Message,
}

/// A call of the store that was made, and what follows from its answer.
struct Flight {
    call: Pin<Box<dyn Future<Output = StoreResult<()>> + Send>>,
    then: Then,
}

enum Then {
    Release(Doubt),
    Remove,
}

/// A batch, and what may be said when it is stored.
struct Doubt {
    batch: Arc<ChannelBatch>,
    effects: Effects,
}

/// Where a channel was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// In memory or in the store.
    There,
    /// Nowhere, so it is a new one.
    Made,
    /// Nowhere, and it may not be made.
    Absent,
}

impl Slot {
    pub(crate) fn new(id: ChannelId) -> Self {
        Self { id, state: Arc::default(), due_ms: AtomicU64::new(NEVER) }
    }

    /// When the channel wants to be looked at.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        Some(self.due_ms.load(Ordering::SeqCst)).filter(|due| *due != NEVER)
    }

    fn set_due(&self, shared: &Shared, due_ms: Option<u64>) {
        let due_ms = due_ms.unwrap_or(NEVER);
        self.due_ms.store(due_ms, Ordering::SeqCst);
        shared.alarm.ring(due_ms);
    }

    /// Lets the timer look again after a while.
    pub(crate) fn retry_later(&self, shared: &Shared) {
        self.set_due(shared, Some(shared.clock.now_ms().saturating_add(RETRY_MS)));
    }

    /// The lock, when what others began here has ended; or why the place is nobody's any more.
    pub(crate) async fn enter(self: Arc<Self>, shared: &Arc<Shared>) -> Result<Guard, Given> {
        let state = self.state.clone().lock_owned().await;
        let mut guard = Guard { shared: shared.clone(), slot: self, state };
        // Its owner went away, so nobody is told of a failure but the log.
        if guard.state.flight.is_some()
            && let Err(error) = guard.land().await
        {
            tracing::error!(%error, "an operation that nobody awaited failed");
        }
        match guard.state.standing {
            Standing::Given(given) => Err(given),
            _ => Ok(guard),
        }
    }
}

/// A channel that this caller has to itself.
pub(crate) struct Guard {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    pub(crate) state: OwnedMutexGuard<State>,
}

impl Guard {
    /// Loads the channel when it is not in memory, and asks `may_make` when it is not in the store either.
    pub(crate) async fn load(&mut self, may_make: impl FnOnce() -> Option<Maker>) -> Result<Loaded> {
        if self.state.channel.is_some() {
            return Ok(Loaded::There);
        }
        let (shared, id) = (self.shared.clone(), &self.slot.id);
        let mut records = shared.store.load(id).await.map_err(Error::persistence(id))?;
        if let Some(Doubt { batch, effects }) = self.state.doubt.take()
            && let Some(batch) = doubt::arrived(&batch, &records)
        {
            // It is there. Stored again it is there for good, whatever kept the answer back, and what rests on it may be said.
            self.commit(Doubt { batch, effects }).await?;
            // A backend that had a part of it has the rest now.
            records =
                self.shared.store.load(&self.slot.id).await.map_err(Error::persistence(&self.slot.id))?;
        }
        let loaded = if !records.is_empty() {
            self.state.standing = Standing::Known;
            Loaded::There
        } else if self.state.standing == Standing::Known {
            Loaded::There
        } else {
            self.unmake();
            let Some(maker) = may_make() else { return Ok(Loaded::Absent) };
            self.state.standing = Standing::Begun(maker);
            Loaded::Made
        };
        let (participant, config) = (shared.participant.clone(), shared.config.clone());
        let id = &self.slot.id;
        let channel = Channel::load(id.clone(), participant, config, records, shared.clock.now_ms())
            .map_err(|error| Error::persistence(id)(StoreError::from_source(error)))?;
        self.state.channel = Some(channel);
        self.set_due();
        Ok(loaded)
    }

    /// The channel, when it is in memory.
    pub(crate) fn channel(&self) -> Option<&Channel> {
        self.state.channel.as_ref()
    }

    /// The channel stays one, whatever becomes of its commits.
    pub(crate) fn settle(&mut self) {
        self.state.standing = Standing::Known;
    }

    /// Does one thing with a channel that is in memory: nothing leaves before the store has answered.
    pub(crate) async fn operate(&mut self, input: Input<'_>) -> Result<Answer<Released>> {
        let hints = match input {
            Input::Send { hints, .. } => hints.to_vec(),
            _ => Vec::new(),
        };
        let state = &mut *self.state;
        let Some(channel) = state.channel.as_mut() else { return Err(Error::Closed) };
        let handled = match channel.handle(input, self.shared.clock.now_ms()) {
            Ok(handled) => handled,
            Err(refusal) => {
                // What was refused makes no channel.
                if matches!(state.standing, Standing::Begun(_)) {
                    state.channel = None;
                }
                return Err(Error::refused(&self.slot.id)(refusal));
            }
        };
        let Handled { changes, effects } = handled;
        let Some(batch) = std::mem::take(&mut state.unsaved).with(changes, channel) else {
            return Ok(self.release(Ok(()), effects));
        };
        let operation = self.shared.next_operation();
        let batch = Arc::new(ChannelBatch { operation, hints, ..batch });
        self.commit(Doubt { batch, effects }).await
    }

    async fn commit(&mut self, doubt: Doubt) -> Result<Answer<Released>> {
        let (store, id, batch) = (self.shared.store.clone(), self.slot.id.clone(), doubt.batch.clone());
        let call = Box::pin(async move { store.commit(&id, &batch).await });
        self.state.flight = Some(Flight { call, then: Then::Release(doubt) });
        self.land().await?.ok_or(Error::Closed)
    }

    /// Wipes the channel from the store and from memory.
    pub(crate) async fn remove(&mut self) -> Result<()> {
        let (store, id) = (self.shared.store.clone(), self.slot.id.clone());
        let call = Box::pin(async move { store.drop_channel(&id).await });
        self.state.flight = Some(Flight { call, then: Then::Remove });
        self.land().await.map(drop)
    }

    /// Forgets the channel in memory. What is stored stays.
    pub(crate) fn leave(&mut self) {
        self.give(Given::Up);
    }

    pub(crate) fn retry_later(&self) {
        self.slot.retry_later(&self.shared);
    }

    fn give(&mut self, given: Given) {
        self.shared.registry.forget(&self.slot);
        self.unmake();
        *self.state = State { standing: Standing::Given(given), ..State::default() };
        self.slot.set_due(&self.shared, None);
        self.shared.store.forget(&self.slot.id);
    }

    /// What a message was about to make does not count when it came to nothing.
    fn unmake(&mut self) {
        if self.state.standing == Standing::Begun(Maker::Message) {
            self.shared.made_by_messages.fetch_sub(1, Ordering::SeqCst);
        }
        self.state.standing = Standing::Unsettled;
    }

    /// Waits for the store's answer and does what follows from it. May be dropped: the next one to have the lock goes on.
    async fn land(&mut self) -> Result<Option<Answer<Released>>> {
        let Some(flight) = self.state.flight.as_mut() else { return Ok(None) };
        let stored = flight.answer().await;
        let Some(Flight { then, .. }) = self.state.flight.take() else { return Ok(None) };
        let strict = self.shared.policy == ReleasePolicy::Strict;
        match (then, stored) {
            (Then::Remove, Ok(())) => {
                self.give(Given::Removed);
                Ok(None)
            }
            (Then::Remove, Err(error)) => {
                // Its rows may be there or not, in part with contract (A).
                if strict {
                    self.state.channel = None;
                    self.retry_later();
                } else if self.state.channel.is_some() {
                    self.state.unsaved = Unsaved::everything();
                }
                Err(Error::persistence(&self.slot.id)(error))
            }
            (Then::Release(doubt), Err(error)) if strict => {
                tracing::error!(channel = %self.slot.id, %error, "a commit failed; the channel is loaded again");
                self.state.counters.failed_commits += 1;
                self.state.channel = None;
                self.state.doubt = error.may_be_applied().then_some(doubt);
                self.retry_later();
                Err(Error::persistence(&self.slot.id)(error))
            }
            (Then::Release(Doubt { batch, effects }), stored) => {
                if stored.is_err() {
                    self.state.unsaved = Unsaved::of(&batch);
                }
                Ok(Some(self.release(stored, effects)))
            }
        }
    }

    /// Past the gate: what the operation brought goes to the stream and, when the lock is free, to the callbacks.
    fn release(&mut self, stored: StoreResult<()>, effects: Effects) -> Answer<Released> {
        let state = &mut *self.state;
        let mut before = Vec::new();
        let answer = match stored {
            Ok(()) => {
                if std::mem::take(&mut state.counters.failing) {
                    before.push(What::PersistenceRecovered);
                }
                Answer::Committed(effects.committed().release())
            }
            Err(error) => {
                tracing::error!(channel = %self.slot.id, %error, "a commit failed; memory goes on without it");
                state.counters.failed_commits += 1;
                state.counters.failing = true;
                before.push(What::PersistenceFailed(error));
                Answer::Uncommitted(effects.uncommitted().release())
            }
        };
        state.standing = Standing::Known;
        state.counters.count(&answer.outputs);
        let cause = || Cause::of(&answer.outcome);
        self.shared.publish(&self.slot.id, cause, answer.is_committed(), before, &answer.outputs);
        self.set_due();
        answer
    }

    fn set_due(&self) {
        // What is due in a channel that is not in memory shows when it is loaded.
        let Some(channel) = &self.state.channel else { return self.retry_later() };
        let due_ms = channel.next_due();
        self.slot.set_due(&self.shared, due_ms);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let state = &*self.state;
        if state.flight.is_some() {
            // Its caller goes away: whoever comes next carries it on, and if nobody does, the timer.
            self.slot.set_due(&self.shared, Some(0));
        } else if state.channel.is_none()
            && state.doubt.is_none()
            && matches!(state.standing, Standing::Unsettled | Standing::Begun(_))
        {
            self.give(Given::Up);
        }
    }
}

impl Flight {
    async fn answer(&mut self) -> StoreResult<()> {
        std::future::poll_fn(|context| match caught::poll(self.call.as_mut(), context) {
            Ok(polled) => polled,
            Err(panic) => Poll::Ready(Err(StoreError::new(format!("the store panicked: {panic}")))),
        })
        .await
    }
}
