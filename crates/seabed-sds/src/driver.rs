//! One channel's loop: handle, commit, release. The channel's lock is held from the first to the last, and no other.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seabed_sds_core::{Change, Changes, Channel, ChannelId, Effects, Handled, Input, Key, Released};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::contract::{ChannelBatch, StoreError, StoreResult};
use crate::events::{Cause, What};
use crate::shared::Shared;
use crate::status::Counters;
use crate::{Answer, Error, ReleasePolicy, Result};

/// How many rows of failed batches are kept for the next commit; beyond it the next commit writes the whole channel.
pub const UNSAVED_ROWS_MAX: usize = 4_096;

/// How long the timer waits before it tries a channel again whose store failed, in milliseconds.
pub const RETRY_MS: u64 = 5_000;

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
    /// What was begun and not ended, because its caller went away. Whoever comes next carries it on.
    flight: Option<Flight>,
    /// What memory has and the store has not.
    unsaved: Unsaved,
    pub(crate) counters: Counters,
    /// This place is nobody's any more; look again.
    pub(crate) removed: bool,
}

/// A call of the store that was made, and what follows from its answer.
struct Flight {
    call: Pin<Box<dyn Future<Output = StoreResult<()>> + Send>>,
    then: Then,
}

enum Then {
    Release(Effects),
    Remove,
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

    /// The lock, when what others began here has ended; `None` for a place that is nobody's any more.
    pub(crate) async fn enter(self: Arc<Self>, shared: &Shared) -> Option<Guard> {
        let state = self.state.clone().lock_owned().await;
        let mut guard = Guard { slot: self, state };
        // Its owner went away, so nobody is told of a failure but the log.
        if guard.state.flight.is_some()
            && let Err(error) = guard.land(shared).await
        {
            tracing::error!(%error, "an operation that nobody awaited failed");
        }
        if guard.state.removed { None } else { Some(guard) }
    }
}

/// A channel that this caller has to itself.
pub(crate) struct Guard {
    slot: Arc<Slot>,
    pub(crate) state: OwnedMutexGuard<State>,
}

impl Guard {
    /// Loads the channel when it is not in memory, and asks `may_make` when it is not in the store either.
    pub(crate) async fn load(&mut self, shared: &Shared, may_make: impl FnOnce() -> bool) -> Result<Loaded> {
        if self.state.channel.is_some() {
            return Ok(Loaded::There);
        }
        let id = &self.slot.id;
        let records = shared.store.load(id).await.map_err(Error::persistence(id))?;
        let loaded = match records.is_empty() {
            false => Loaded::There,
            true if may_make() => Loaded::Made,
            true => return Ok(Loaded::Absent),
        };
        let (participant, config) = (shared.participant.clone(), shared.config.clone());
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

    /// Does one thing with a channel that is in memory: nothing leaves before the store has answered.
    pub(crate) async fn operate(&mut self, shared: &Shared, input: Input<'_>) -> Result<Answer<Released>> {
        let hints = match input {
            Input::Send { hints, .. } => hints.to_vec(),
            _ => Vec::new(),
        };
        let state = &mut *self.state;
        let Some(channel) = state.channel.as_mut() else { return Err(Error::Closed) };
        let handled = channel.handle(input, shared.clock.now_ms()).map_err(Error::refused(&self.slot.id))?;
        let Handled { changes, effects } = handled;
        state.unsaved.add(changes);
        if state.unsaved.is_empty() {
            return Ok(self.release(shared, Ok(()), effects));
        }
        let batch = Arc::new(ChannelBatch {
            operation: shared.next_operation(),
            hints,
            ..state.unsaved.batch(channel)
        });
        let (store, id) = (shared.store.clone(), self.slot.id.clone());
        let call = Box::pin(async move { store.commit(&id, &batch).await });
        state.flight = Some(Flight { call, then: Then::Release(effects) });
        match self.land(shared).await? {
            Some(answer) => Ok(answer),
            None => Err(Error::Closed),
        }
    }

    /// Wipes the channel from the store and from memory.
    pub(crate) async fn remove(&mut self, shared: &Shared) -> Result<()> {
        let (store, id) = (shared.store.clone(), self.slot.id.clone());
        // Not in memory while its rows may be gone or not.
        self.state.channel = None;
        let call = Box::pin(async move { store.drop_channel(&id).await });
        self.state.flight = Some(Flight { call, then: Then::Remove });
        self.land(shared).await.map(drop)
    }

    /// Forgets the channel in memory. What is stored stays.
    pub(crate) fn leave(&mut self) {
        *self.state = State { removed: true, ..State::default() };
        self.slot.due_ms.store(NEVER, Ordering::SeqCst);
    }

    /// The same for a place that was made to look for a channel that is not there.
    pub(crate) fn leave_empty(&mut self, shared: &Shared) {
        shared.registry.forget(&self.slot);
        self.leave();
    }

    /// Lets the timer look again after a while.
    pub(crate) fn retry_later(&self, shared: &Shared) {
        self.slot.due_ms.store(shared.clock.now_ms().saturating_add(RETRY_MS), Ordering::SeqCst);
    }

    /// Waits for the store's answer and does what follows from it. May be dropped: the next one to have the lock goes on.
    async fn land(&mut self, shared: &Shared) -> Result<Option<Answer<Released>>> {
        let Some(flight) = self.state.flight.as_mut() else { return Ok(None) };
        let stored = flight.call.as_mut().await;
        let Some(Flight { then, .. }) = self.state.flight.take() else { return Ok(None) };
        match (then, stored) {
            (Then::Remove, Ok(())) => {
                shared.registry.forget(&self.slot);
                self.leave();
                Ok(None)
            }
            (Then::Remove, Err(error)) => Err(Error::persistence(&self.slot.id)(error)),
            (Then::Release(_), Err(error)) if shared.policy == ReleasePolicy::Strict => {
                tracing::error!(channel = %self.slot.id, %error, "a commit failed; the channel is loaded again");
                self.state.counters.failed_commits += 1;
                self.state.channel = None;
                self.state.unsaved = Unsaved::default();
                self.retry_later(shared);
                Err(Error::persistence(&self.slot.id)(error))
            }
            (Then::Release(effects), stored) => Ok(Some(self.release(shared, stored, effects))),
        }
    }

    /// Past the gate: what the operation brought goes to the stream and, when the lock is free, to the callbacks.
    fn release(&mut self, shared: &Shared, stored: StoreResult<()>, effects: Effects) -> Answer<Released> {
        let state = &mut *self.state;
        let mut before = Vec::new();
        let answer = match stored {
            Ok(()) => {
                state.unsaved.saved();
                if std::mem::take(&mut state.counters.failing) {
                    before.push(What::PersistenceRecovered);
                }
                Answer::Committed(effects.committed().release())
            }
            Err(error) => {
                tracing::error!(channel = %self.slot.id, %error, "a commit failed; memory goes on without it");
                state.counters.failed_commits += 1;
                state.counters.failing = true;
                state.unsaved.failed();
                before.push(What::PersistenceFailed(error));
                Answer::Uncommitted(effects.uncommitted().release())
            }
        };
        state.counters.count(&answer.outputs);
        let all = before.into_iter().chain(answer.outputs.iter().cloned().map(What::from));
        shared.publish(&self.slot.id, &Cause::of(&answer.outcome), answer.is_committed(), all);
        self.set_due();
        answer
    }

    fn set_due(&self) {
        let due = self.state.channel.as_ref().and_then(Channel::next_due);
        self.slot.due_ms.store(due.unwrap_or(NEVER), Ordering::SeqCst);
    }
}

/// What memory has and the store has not: under `BestEffort` what failed, merged with what came later, the latest word on a row winning.
#[derive(Debug, Default)]
struct Unsaved {
    changes: BTreeMap<Key, Change>,
    /// Too much to keep: only the whole channel will do.
    everything: bool,
}

impl Unsaved {
    fn add(&mut self, changes: Changes) {
        if self.everything {
            return;
        }
        for change in changes {
            let key = match &change {
                Change::Put(record) => record.key(),
                Change::Delete(key) => key.clone(),
            };
            self.changes.insert(key, change);
        }
    }

    fn is_empty(&self) -> bool {
        self.changes.is_empty() && !self.everything
    }

    /// What the next commit writes.
    fn batch(&self, channel: &Channel) -> ChannelBatch {
        let changes = if self.everything {
            channel.records().map(Change::Put).collect()
        } else {
            self.changes.values().cloned().collect()
        };
        ChannelBatch { replaces: self.everything, changes, ..ChannelBatch::default() }
    }

    fn saved(&mut self) {
        *self = Self::default();
    }

    fn failed(&mut self) {
        if self.changes.len() > UNSAVED_ROWS_MAX {
            *self = Self { changes: BTreeMap::new(), everything: true };
        }
    }
}
