//! nim-sds' six callbacks, for programs that were written against them. New ones read [`Events`](crate::Events).

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use seabed_sds_core::{Broadcast, ChannelId, Event, HistoryEntry, MessageId, Reason};

use crate::events::{Happened, What};
use crate::lock::lock;

/// What is called when a message was delivered, or was acknowledged.
pub type OnMessage = Box<dyn Fn(&MessageId, &ChannelId) + Send + Sync>;
/// What is called when a message waits for others.
pub type OnMissing = Box<dyn Fn(&MessageId, &[HistoryEntry], &ChannelId) + Send + Sync>;
/// What is called when a sync message might be sent.
pub type OnSyncDue = Box<dyn Fn() + Send + Sync>;
/// What is asked for something that helps to fetch a message from elsewhere; none when empty.
pub type HintProvider = Box<dyn Fn(&MessageId) -> Vec<u8> + Send + Sync>;
/// What is called with bytes to broadcast again, because somebody misses them.
pub type OnRepair = Box<dyn Fn(&[u8], &ChannelId) + Send + Sync>;

/// The six callbacks. They run one after another, after the commit of what they tell, outside every lock, and may call back in:
/// what that brings about is told when the callback has returned.
///
/// `message_sent` is told what was acknowledged, and never, as in nim-sds, what was given up: that is
/// [`Event::DeliveryUnconfirmed`] on the stream.
///
/// ```
/// use seabed_sds::Callbacks;
///
/// let callbacks = Callbacks {
///     message_ready: Box::new(|message, channel| println!("{message} in {channel}")),
///     ..Callbacks::default()
/// };
/// ```
pub struct Callbacks {
    /// A message was delivered.
    pub message_ready: OnMessage,
    /// An own message was acknowledged.
    pub message_sent: OnMessage,
    /// A message waits for these.
    pub missing_dependencies: OnMissing,
    /// It is time for a sync message, where those are not sent automatically.
    pub periodic_sync: Option<OnSyncDue>,
    /// Asked at each send for each message of the causal history whose hint is not known.
    pub retrieval_hint: Option<HintProvider>,
    /// Bytes to broadcast, as they are.
    pub repair_ready: Option<OnRepair>,
}

impl Default for Callbacks {
    /// Callbacks that do nothing.
    fn default() -> Self {
        Self {
            message_ready: Box::new(|_, _| {}),
            message_sent: Box::new(|_, _| {}),
            missing_dependencies: Box::new(|_, _, _| {}),
            periodic_sync: None,
            retrieval_hint: None,
            repair_ready: None,
        }
    }
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callbacks")
    }
}

/// Runs callbacks in the order of what they tell, one at a time, on whichever thread comes first.
#[derive(Default)]
pub(crate) struct Dispatcher(Mutex<Dispatch>);

#[derive(Default)]
struct Dispatch {
    callbacks: Option<Arc<Callbacks>>,
    waiting: VecDeque<Happened>,
    running: bool,
}

impl Dispatcher {
    /// Replaces all six.
    pub(crate) fn set(&self, callbacks: Callbacks) {
        lock(&self.0).callbacks = Some(Arc::new(callbacks));
    }

    pub(crate) fn callbacks(&self) -> Option<Arc<Callbacks>> {
        lock(&self.0).callbacks.clone()
    }

    /// To be called in the order of the events, which is that of the channel's lock.
    pub(crate) fn queue(&self, happened: Vec<Happened>) {
        let mut dispatch = lock(&self.0);
        if dispatch.callbacks.is_some() {
            dispatch.waiting.extend(happened);
        }
    }

    /// To be called with no lock held. Returns at once when callbacks are running already: whoever runs them goes on.
    pub(crate) fn run(&self) {
        let mut dispatch = lock(&self.0);
        if std::mem::replace(&mut dispatch.running, true) {
            return;
        }
        let running = Running(self);
        while let (Some(item), Some(callbacks)) = (dispatch.waiting.pop_front(), dispatch.callbacks.clone()) {
            drop(dispatch);
            call(&callbacks, &item);
            dispatch = lock(&self.0);
        }
        // Under the same lock as the last look, so that nothing is left lying.
        dispatch.running = false;
        drop(dispatch);
        std::mem::forget(running);
    }
}

/// A callback that panics does not keep later ones from being called.
struct Running<'a>(&'a Dispatcher);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.0.0).running = false;
    }
}

fn call(callbacks: &Callbacks, item: &Happened) {
    match &item.what {
        What::Event(Event::Delivered { message, .. }) => {
            (callbacks.message_ready)(&message.message_id, &item.channel);
        }
        What::Event(Event::Acknowledged { message_id }) => {
            (callbacks.message_sent)(message_id, &item.channel);
        }
        What::Event(Event::MissingDependencies { message_id, entries }) => {
            (callbacks.missing_dependencies)(message_id, entries, &item.channel);
        }
        What::SyncDue => {
            if let Some(sync) = &callbacks.periodic_sync {
                sync();
            }
        }
        What::Broadcast(Broadcast { wire, reason: Reason::Repair, .. }) => {
            if let Some(repair) = &callbacks.repair_ready {
                repair(wire, &item.channel);
            }
        }
        _ => {}
    }
}
