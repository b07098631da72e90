//! The typed stream: everything that happened, in order, after the commit that justifies it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use seabed_sds_core::{Broadcast, ChannelId, Event, MessageId, Outcome, Output};

use crate::contract::StoreError;
use crate::limits::{EVENTS_BYTES_MAX, EVENTS_MAX};
use crate::line::Line;
use crate::lock::lock;
use crate::{Error, Result};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// In which channel; empty for what concerns the whole manager.
    pub channel: ChannelId,
    /// Which item of the manager it is, from 0 without a gap: who finds one missing has lost it.
    pub sequence: u64,
    /// What brought it about.
    pub cause: Cause,
    /// Whether the store has what it rests on. False only under [`BestEffort`](crate::ReleasePolicy::BestEffort).
    pub committed: bool,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Bytes are to be sent to every other participant. Those of a send are also its answer: send them once.
    Broadcast(Broadcast),
    /// Something for the application.
    Event(Event),
    /// It is time for a sync message, where those are not sent automatically.
    SyncDue,
    /// What the operation changed is not stored; memory goes on ([`BestEffort`](crate::ReleasePolicy::BestEffort)).
    PersistenceFailed(StoreError),
    /// Everything is stored again.
    PersistenceRecovered,
    /// A message of a channel that nobody here knows was ignored: so many were made by messages already, or none may be.
    UnknownChannelIgnored {
        /// How many may be made by messages.
        channels_max: usize,
    },
}

impl From<Output> for What {
    fn from(output: Output) -> Self {
        match output {
            Output::Broadcast(broadcast) => Self::Broadcast(broadcast),
            Output::Event(event) => Self::Event(event),
        }
    }
}

/// What brought an event about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// This program sent that message, or a sync message.
    Sent(MessageId),
    /// That message was received.
    Received(MessageId),
    /// This program declared dependencies as met.
    MarkedMet,
    /// This program said where a message can be fetched again.
    HintSet,
    /// Something was due.
    Time,
}

impl Cause {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Sent { message_id }
            | Outcome::EphemeralSent { message_id }
            | Outcome::SyncSent { message_id } => Self::Sent(message_id.clone()),
            Outcome::NothingToSay => Self::Sent(MessageId::default()),
            Outcome::Received(received) => Self::Received(received.message.message_id.clone()),
            Outcome::Marked => Self::MarkedMet,
            Outcome::HintSet => Self::HintSet,
            Outcome::Ticked => Self::Time,
        }
    }
}

/// The reading end of the stream; there is one a manager. Dropping it lets operations go on without a reader.
///
/// When [`EVENTS_MAX`](crate::EVENTS_MAX) items wait, or [`EVENTS_BYTES_MAX`](crate::EVENTS_BYTES_MAX) bytes, operations wait for room: a program that has asked for the stream reads it, on another task or
/// thread than the one that waits for operations, or between two of them.
pub struct Events(Arc<EventQueue>);

#[derive(Default)]
pub(crate) struct EventQueue(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    items: Line,
    next_sequence: u64,
    has_reader: bool,
    closed: bool,
    reader: Option<Waker>,
    waiting_for_room: Vec<Waker>,
}

impl Queue {
    fn is_full(&self) -> bool {
        self.has_reader && !self.closed && self.items.is_full(EVENTS_MAX, EVENTS_BYTES_MAX)
    }

    /// Who can go on now; to be woken when the lock is free.
    fn with_room(&mut self) -> Vec<Waker> {
        if self.is_full() { Vec::new() } else { std::mem::take(&mut self.waiting_for_room) }
    }
}

impl EventQueue {
    /// The reading end, unless somebody has it.
    pub(crate) fn subscribe(self: &Arc<Self>) -> Result<Events> {
        let mut queue = lock(&self.0);
        if std::mem::replace(&mut queue.has_reader, true) {
            return Err(Error::InvalidArgument(
                "the stream of events has a reader already; drop that one first".into(),
            ));
        }
        Ok(Events(self.clone()))
    }

    /// Whether operations have to wait.
    pub(crate) fn is_full(&self) -> bool {
        lock(&self.0).is_full()
    }

    /// Done when the reader has left room for another operation.
    pub(crate) async fn room(&self) {
        std::future::poll_fn(|context| {
            let mut queue = lock(&self.0);
            if !queue.is_full() {
                return Poll::Ready(());
            }
            // A task that waits is polled for other reasons, too; it is woken once.
            if !queue.waiting_for_room.iter().any(|waker| waker.will_wake(context.waker())) {
                queue.waiting_for_room.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Numbers what one operation brought, and hands it to the reader, if there is one. Answers it when it `is_told` to callbacks, too. Nothing is
    /// copied for nobody.
    pub(crate) fn push(
        &self,
        channel: &ChannelId,
        cause: impl FnOnce() -> Cause,
        committed: bool,
        (count, all): (usize, impl Iterator<Item = What>),
        is_told: bool,
    ) -> Vec<Happened> {
        let mut queue = lock(&self.0);
        let first = queue.next_sequence;
        queue.next_sequence += count as u64;
        let is_read = queue.has_reader && !queue.closed;
        if count == 0 || !(is_read || is_told) {
            return Vec::new();
        }
        let cause = cause();
        let happened = (first..).zip(all).map(|(sequence, what)| Happened {
            channel: channel.clone(),
            sequence,
            cause: cause.clone(),
            committed,
            what,
        });
        if !is_read {
            return happened.collect();
        }
        let told = if is_told {
            let happened: Vec<_> = happened.collect();
            happened.iter().cloned().for_each(|item| queue.items.push(item));
            happened
        } else {
            happened.for_each(|item| queue.items.push(item));
            Vec::new()
        };
        let reader = queue.reader.take();
        drop(queue);
        if let Some(reader) = reader {
            reader.wake();
        }
        told
    }

    /// The stream ends after what is in it.
    pub(crate) fn close(&self) {
        let mut queue = lock(&self.0);
        queue.closed = true;
        let mut woken = queue.with_room();
        woken.extend(queue.reader.take());
        drop(queue);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Events {
    /// The next item; `None` when the manager has ended. May be dropped at any time.
    pub async fn next(&mut self) -> Option<Happened> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// The next item, if there is one now.
    pub fn try_next(&mut self) -> Option<Happened> {
        let mut queue = lock(&self.0.0);
        let item = queue.items.pop();
        let woken = queue.with_room();
        drop(queue);
        woken.into_iter().for_each(Waker::wake);
        item
    }

    /// Blocks this thread until there is an item; `None` when the manager has ended.
    pub fn wait_next(&mut self) -> Option<Happened> {
        pollster::block_on(self.next())
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Happened>> {
        let mut queue = lock(&self.0.0);
        let Some(item) = queue.items.pop() else {
            if queue.closed {
                return Poll::Ready(None);
            }
            queue.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        let woken = queue.with_room();
        drop(queue);
        woken.into_iter().for_each(Waker::wake);
        Poll::Ready(Some(item))
    }
}

impl futures_core::Stream for Events {
    type Item = Happened;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Happened>> {
        self.poll(context)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.0);
        queue.has_reader = false;
        queue.items.clear();
        let woken = queue.with_room();
        drop(queue);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("waiting", &lock(&self.0.0).items.len()).finish()
    }
}
