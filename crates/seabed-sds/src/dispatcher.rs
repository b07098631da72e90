//! Calls the callbacks in the order of what they are told, one at a time: on the thread of whoever waits for an operation, or on one
//! of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread::{self, ThreadId};

use crate::Callbacks;
use seabed_sds_core::ChannelId;

use crate::caught;
use crate::events::Happened;
use crate::limits::{CALLBACKS_BYTES_MAX, CALLBACKS_WAITING_MAX};
use crate::line::Line;
use crate::lock::lock;

#[derive(Default)]
pub(crate) struct Dispatcher(Arc<Calls>);

/// What the dispatcher shares with its thread.
#[derive(Default)]
struct Calls {
    queue: Mutex<Queue>,
    changed: Condvar,
    panicked: AtomicU64,
}

#[derive(Default)]
struct Queue {
    callbacks: Option<Arc<Callbacks>>,
    waiting: Line,
    /// Who calls them now.
    caller: Option<ThreadId>,
    has_thread: bool,
    closed: bool,
    waiting_for_room: Vec<Waker>,
}

impl Queue {
    fn is_full(&self) -> bool {
        self.waiting.is_full(CALLBACKS_WAITING_MAX, CALLBACKS_BYTES_MAX)
            && !self.closed
            && self.caller != Some(thread::current().id())
    }

    /// Whether somebody else should call them.
    fn lies_idle(&self) -> bool {
        !self.waiting.is_empty() && self.caller.is_none()
    }
}

impl Dispatcher {
    /// Replaces all six.
    pub(crate) fn set(&self, callbacks: Callbacks) {
        // What they had captured may be a manager: it ends outside the lock.
        let before = lock(&self.0.queue).callbacks.replace(Arc::new(callbacks));
        drop(before);
    }

    pub(crate) fn callbacks(&self) -> Option<Arc<Callbacks>> {
        lock(&self.0.queue).callbacks.clone()
    }

    /// Whether a callback is told of anything.
    pub(crate) fn hears(&self) -> bool {
        lock(&self.0.queue).callbacks.as_ref().is_some_and(|callbacks| callbacks.hear())
    }

    /// How many callbacks have panicked.
    pub(crate) fn panicked(&self) -> u64 {
        self.0.panicked.load(Ordering::Relaxed)
    }

    /// To be called in the order of the events, which is that of the channel's lock.
    pub(crate) fn queue(&self, happened: Vec<Happened>) {
        let mut queue = lock(&self.0.queue);
        if let Some(callbacks) = queue.callbacks.clone() {
            let heard = happened.into_iter().filter(|item| callbacks.hears(&item.what));
            heard.for_each(|item| queue.waiting.push(item));
        }
    }

    /// Whether operations have to wait.
    pub(crate) fn is_full(&self) -> bool {
        lock(&self.0.queue).is_full()
    }

    /// Done when the callbacks have left room for another operation, and at once for what a callback calls.
    pub(crate) async fn room(&self) {
        std::future::poll_fn(|context| {
            let mut queue = lock(&self.0.queue);
            if !queue.is_full() {
                return Poll::Ready(());
            }
            if !queue.waiting_for_room.iter().any(|waker| waker.will_wake(context.waker())) {
                queue.waiting_for_room.push(context.waker().clone());
            }
            drop(queue);
            if self.hand_over() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Calls what waits, on this thread. To be called with no lock held. Returns at once when somebody is at it: whoever that is goes
    /// on. What others add all the while is handed over in the end.
    pub(crate) fn run(&self) {
        self.0.run(CALLBACKS_WAITING_MAX);
        self.hand_over();
    }

    /// Calls one function of the program; none when it panicked.
    pub(crate) fn contained<T>(&self, channel: &ChannelId, function: impl FnOnce() -> T) -> Option<T> {
        self.0.contained(channel, function)
    }

    /// Has what waits called on another thread. False when there is none to be had.
    pub(crate) fn hand_over(&self) -> bool {
        let mut queue = lock(&self.0.queue);
        if !queue.lies_idle() {
            return true;
        }
        if queue.has_thread {
            self.0.changed.notify_one();
            return true;
        }
        let calls = self.0.clone();
        let thread = thread::Builder::new().name("sds-callbacks".into()).spawn(move || calls.run_thread());
        match thread {
            Ok(_) => queue.has_thread = true,
            Err(error) => {
                tracing::error!(%error, "no thread for callbacks; they wait for the next operation");
            }
        }
        queue.has_thread
    }

    /// What waits is still called, by whoever is at it or comes next; then the callbacks are let go, and with them what they captured.
    pub(crate) fn close(&self) {
        let mut queue = lock(&self.0.queue);
        queue.closed = true;
        let callbacks = if queue.waiting.is_empty() { queue.callbacks.take() } else { None };
        let woken = std::mem::take(&mut queue.waiting_for_room);
        drop(queue);
        self.0.changed.notify_all();
        drop(callbacks);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.close();
    }
}

impl Calls {
    fn run_thread(&self) {
        loop {
            let mut queue = lock(&self.queue);
            while !queue.lies_idle() && !queue.closed {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if !queue.lies_idle() {
                queue.has_thread = false;
                return;
            }
            drop(queue);
            self.run(usize::MAX);
        }
    }

    fn contained<T>(&self, channel: &ChannelId, function: impl FnOnce() -> T) -> Option<T> {
        let panic = match caught::call(function) {
            Ok(answer) => return Some(answer),
            Err(panic) => panic,
        };
        self.panicked.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%channel, panic, "a callback panicked");
        None
    }

    fn run(&self, count_max: usize) {
        let mut queue = lock(&self.queue);
        if !queue.lies_idle() {
            return;
        }
        queue.caller = Some(thread::current().id());
        for _ in 0..count_max {
            let (Some(callbacks), Some(item)) = (queue.callbacks.clone(), queue.waiting.pop()) else {
                break;
            };
            let woken = if queue.waiting.is_full(CALLBACKS_WAITING_MAX, CALLBACKS_BYTES_MAX) {
                Vec::new()
            } else {
                std::mem::take(&mut queue.waiting_for_room)
            };
            drop(queue);
            woken.into_iter().for_each(Waker::wake);
            self.contained(&item.channel, || callbacks.call(&item));
            drop(callbacks);
            queue = lock(&self.queue);
        }
        // Under the same lock as the last look, so that nothing is left lying.
        queue.caller = None;
        let ends = queue.closed && queue.waiting.is_empty();
        let callbacks = if ends { queue.callbacks.take() } else { None };
        drop(queue);
        drop(callbacks);
    }
}
